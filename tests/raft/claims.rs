//! A claim to confirm.

use ham4db::app::ports::Consensus;
use ham4db::domain::finding::{Code, Evidence, Finding};
use ham4db::domain::gtid::{GtidSet, MySqlGtidSet};
use ham4db::domain::instance::Identity;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::recovery::kind::RecoveryKind;
use ham4db::domain::recovery::plan::{Plan, PlanReport};
use ham4db::domain::state::{Applied, Claim, ClaimToken, Command};
use ham4db::domain::topology::ClusterId;

/// The token of a granted claim or resume.
pub fn granted(applied: Applied) -> ClaimToken {
    match applied {
        Applied::Claimed { token } => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Claims a recovery for the member itself.
pub async fn claim(member: &dyn Consensus, uid: &str) -> ClaimToken {
    let cluster = ClusterId("c1".to_owned());
    let (old_primary, successor) = (InstanceKey::new("db1", 3306), InstanceKey::new("db2", 3306));
    let instances: std::collections::BTreeSet<InstanceKey> = [old_primary.clone(), successor.clone()].into();
    let describe = Command::DescribeCluster {
        id: cluster.clone(),
        instances: instances.clone(),
        primary: None,
        process: None,
        alias: String::new(),
        absorbs: Vec::new(),
        document: None,
        chosen: None,
    };
    assert_eq!(member.propose(describe).await, Ok(Applied::Done));
    let finding = Finding {
        code: Code::DeadMaster,
        instance: old_primary.clone(),
        cluster: cluster.clone(),
        description: String::new(),
        evidence: Evidence::default(),
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    };
    let plan = Plan {
        kind: RecoveryKind::DeadPrimary,
        code: Code::DeadMaster,
        cluster,
        old_primary,
        old_primary_identity: None,
        successor,
        successor_identity: Identity::ServerId(2),
        position: GtidSet::MySql(MySqlGtidSet::default()),
        instances,
        lost_replicas: Vec::new(),
        lost: None,
        loss_evidence: None,
        steps: Vec::new(),
        sources: std::collections::BTreeMap::new(),
        prior_states: std::collections::BTreeMap::new(),
        old_primary_state: None,
        events: None,
        commits_nothing: false,
        remembered: None,
        manual_request: None,
    };
    let me = member.me();
    let claim = Claim {
        uid: uid.to_owned(),
        holder: me.id,
        holder_name: me.name,
        finding,
        opinions: Vec::new(),
        plan,
        report: PlanReport::default(),
        above: 0,
        hooks: Vec::new(),
    };
    granted(member.propose(Command::Claim { claim: Box::new(claim) }).await.unwrap())
}
