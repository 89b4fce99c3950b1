//! What the members are asked about a suspect, and what their answers allow.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::app::cluster::view::ClusterView;
use crate::app::ports::Question;
use crate::domain::analysis::{self, Agreement, Suspicion};
use crate::domain::finding::{Code, Finding, Opinion, Verdict};
use crate::domain::gtid::GtidSet;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::{self, PlanRequest};
use crate::domain::state::MemberId;
use crate::domain::time::WallTime;

use super::RecoveryCoordinator;

/// After members did not agree, or a plan was refused, the same finding is taken up again after this.
const TRY_AGAIN_MILLIS: u64 = 100;
/// The same where replicas say that they receive: most often they do, it lasts, and every answer costs each member a dial.
const ASK_AGAIN_MILLIS: u64 = 500;

/// How soon a finding that was given up is taken up again, milliseconds.
pub(super) fn try_again_millis(finding: &Finding) -> u64 {
    if needs_test(finding) {
        ASK_AGAIN_MILLIS
    } else {
        TRY_AGAIN_MILLIS
    }
}

/// Whether a finding may lead to a recovery at all, when the members agree to it.
pub(super) fn has_recovery(finding: &Finding) -> bool {
    finding.code.is_actionable() || needs_test(finding)
}

/// Whether a finding is one for what the members agreed to.
pub(super) fn calls_for(finding: &Finding, consent: Agreement) -> bool {
    match consent {
        Agreement::Failover => finding.code.is_actionable(),
        Agreement::Test => needs_test(finding),
    }
}

/// Whether a finding may lead to a failover when no replica can reach the primary anew, and to nothing else.
fn needs_test(finding: &Finding) -> bool {
    finding.code == Code::StalledPrimary || analysis::is_silent(finding)
}

/// The plan for a finding on a view.
pub(super) fn plan_of(
    finding: &Finding,
    view: &ClusterView,
    asked: PlanRequest<'_>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    if needs_test(finding) && asked.designated.is_none() {
        planner::plan_silent(finding, &view.topology, &view.policy, asked.remembered, now)
    } else {
        planner::plan_as_asked(finding, &view.topology, &view.policy, asked, now)
    }
}

/// All that any member saw the suspect hold.
pub(super) fn remembered(opinions: &[Opinion]) -> Option<GtidSet> {
    opinions
        .iter()
        .filter_map(|opinion| opinion.remembered.clone())
        .reduce(|all, more| all.union(&more))
}

impl RecoveryCoordinator {
    /// Asks the members, this one included, and keeps what they said.
    pub(super) async fn agree(&self, finding: &Finding) -> Result<(Vec<Opinion>, Agreement), HeldBack> {
        let deadline = self.context.settings.opinion_deadline;
        let question = Question {
            cluster: finding.cluster.clone(),
            suspect: finding.instance.clone(),
            replicas: finding.evidence.replicas.iter().cloned().collect(),
            millis: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        let me = self.context.consensus.me();
        let (mine, mut opinions) = futures::join!(
            self.opinion_responder.opinion(question.clone()),
            self.context
                .consensus
                .ask_opinions(&question, deadline + Duration::from_millis(100))
        );
        let mine = Opinion {
            member: me.id,
            name: me.name,
            ..mine
        };
        opinions.insert(0, mine);
        let told = opinions.iter().map(|opinion| Opinion {
            observations: Vec::new(),
            ..opinion.clone()
        });
        let told: Vec<Opinion> = told.collect();
        self.in_flight().opinions.insert(finding.instance.clone(), told);
        let voters = self.voters(&opinions);
        let suspicion = if finding.code == Code::StalledPrimary {
            Suspicion::Stalled
        } else {
            Suspicion::Gone
        };
        match analysis::agreement(&opinions, &voters, self.context.settings.quorum, suspicion) {
            Ok(consent) => Ok((opinions, consent)),
            Err(why) => Err(HeldBack::NoAgreement(why)),
        }
    }

    /// The voters, and where each of them is: as it said just now, or as it is on record when it did not answer.
    fn voters(&self, opinions: &[Opinion]) -> BTreeMap<MemberId, String> {
        let peers = self.context.consensus.peers();
        let voters = peers.iter().filter(|peer| peer.voter).map(|peer| peer.id);
        let state = self.views.state();
        let place = |id: MemberId| {
            let answered = |opinion: &&Opinion| opinion.member == id && !matches!(opinion.verdict, Verdict::Missing(_));
            let told = opinions.iter().find(answered).map(|opinion| &opinion.data_center);
            let recorded = || state.members.get(&id).map(|member| &member.data_center);
            told.or_else(recorded).cloned().unwrap_or_default()
        };
        voters
            .chain([self.context.consensus.me().id])
            .map(|id| (id, place(id)))
            .collect()
    }
}
