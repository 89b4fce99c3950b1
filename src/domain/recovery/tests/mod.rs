//! Choices and plans over small topologies. [`super::progress`] has its own tests beside it.

use std::collections::BTreeSet;

use super::lint::lint;
use super::plan::{Plan, PlanReport};
use super::planner::{choose_again, held_back, plan, plan_rejoin, preview_failover};
use super::position::ReceivedTransactions;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::fixture::{
    Adjust, NOW, key, mariadb_primary, mariadb_replica, mariadb_set, mysql_set, primary, replica, topology, uuid,
};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, Instance, Positioning, ProbeFailure, ThreadError, ThreadState};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, LossPolicy, OldPrimary, Policy};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::step::Step;
use crate::domain::state::{Quarantine, QuarantineState};
use crate::domain::topology::{ClusterId, Topology};
use crate::domain::version::ServerVersion;

mod boot_read_only;
mod by_position;
mod catch_up;
mod choice;
mod co_primaries;
mod dead_intermediates;
mod durability;
mod fencing_proofs;
mod loss;
mod match_below;
mod plans;
mod primary_repairs;
mod properties;
mod soundness;
mod takeovers;

pub(super) fn dead_primary() -> Finding {
    Finding {
        code: Code::DeadMaster,
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        description: String::new(),
        evidence: Evidence::default(),
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    }
}

pub(super) fn db1() -> Instance {
    primary(1, "1:1-100").dead()
}

pub(super) fn cut(n: u32, executed: &str) -> Instance {
    replica(n, 1, executed).cut()
}

/// The plan for a dead db1; every plan is checked.
#[track_caller]
pub(super) fn planned(topology: &Topology, policy: &Policy) -> (Option<Plan>, PlanReport) {
    let (made, report) = plan(&dead_primary(), topology, policy, NOW);
    if let Some(made) = &made {
        assert_eq!(lint(made, topology), Vec::<String>::new());
        assert_eq!(report.successor.as_ref(), Some(&made.successor));
        assert_eq!(report.no_plan, None);
    }
    (made, report)
}

#[track_caller]
pub(super) fn chosen_with(policy: &Policy, instances: impl IntoIterator<Item = Instance>) -> Plan {
    let (made, report) = planned(&topology(instances), policy);
    made.unwrap_or_else(|| panic!("no plan: {report:?}"))
}

#[track_caller]
pub(super) fn chosen(instances: impl IntoIterator<Item = Instance>) -> Plan {
    chosen_with(&Policy::default(), instances)
}

#[track_caller]
pub(super) fn not_planned(policy: &Policy, instances: impl IntoIterator<Item = Instance>) -> PlanReport {
    let (made, report) = planned(&topology(instances), policy);
    assert_eq!(made, None);
    assert!(report.no_plan.is_some());
    report
}

pub(super) fn reason(refused: &[Refusal], n: u32) -> &RefusalReason {
    &refused
        .iter()
        .find(|refusal| refusal.instance == key(n))
        .unwrap_or_else(|| panic!("db{n} is not in {refused:?}"))
        .reason
}
