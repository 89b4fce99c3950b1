//! The question to the members about a suspect.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::app::ports::Question;
use crate::domain::analysis::{self, Agreement, SuspectedFailure};
use crate::domain::finding::{Code, Finding, Opinion, OpinionVerdict};
use crate::domain::policy::HeldBack;
use crate::domain::state::MemberId;

use super::RecoveryCoordinator;

impl RecoveryCoordinator {
    /// Asks all members for their opinions, this one included, and keeps the answers.
    ///
    /// # Errors
    /// [`HeldBack::NoAgreement`] when the quorum does not agree.
    pub(super) async fn ask_members(&self, finding: &Finding) -> Result<(Vec<Opinion>, Agreement), HeldBack> {
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
                .collect_opinions(&question, deadline + Duration::from_millis(100))
        );
        let mine = Opinion {
            member: me.id,
            name: me.name,
            ..mine
        };
        opinions.insert(0, mine);
        let verdicts = opinions.iter().map(|opinion| Opinion {
            observations: Vec::new(),
            ..opinion.clone()
        });
        let verdicts: Vec<Opinion> = verdicts.collect();
        self.in_flight().opinions.insert(finding.instance.clone(), verdicts);
        let voters = self.voters(&opinions);
        let suspicion = if finding.code == Code::StalledPrimary {
            SuspectedFailure::Stalled
        } else {
            SuspectedFailure::Gone
        };
        match analysis::agreement(&opinions, &voters, self.context.settings.quorum, suspicion) {
            Ok(agreement) => Ok((opinions, agreement)),
            Err(why) => Err(HeldBack::NoAgreement(why)),
        }
    }

    /// The voters and their data centers: as answered just now, or as recorded for a member that did not answer.
    fn voters(&self, opinions: &[Opinion]) -> BTreeMap<MemberId, String> {
        let peers = self.context.consensus.peers();
        let voters = peers.iter().filter(|peer| peer.voter).map(|peer| peer.id);
        let state = self.views.state();
        let data_center_of = |id: MemberId| {
            let answered =
                |opinion: &&Opinion| opinion.member == id && !matches!(opinion.verdict, OpinionVerdict::Missing(_));
            let answer = opinions.iter().find(answered).map(|opinion| &opinion.data_center);
            let recorded = || state.members.get(&id).map(|member| &member.data_center);
            answer.or_else(recorded).cloned().unwrap_or_default()
        };
        voters
            .chain([self.context.consensus.me().id])
            .map(|id| (id, data_center_of(id)))
            .collect()
    }
}
