//! A complete, immutable list of what to do, with a report of what was considered and refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::loss_evidence::LossEvidence;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::refusal::Refusal;
use crate::domain::recovery::replica_state::{PriorPrimaryState, PriorReplicaState};
use crate::domain::recovery::step::Step;
use crate::domain::scheduled_events::EnabledEvents;
use crate::domain::topology::ClusterId;

/// What to do, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What kind of recovery.
    pub kind: RecoveryKind,
    /// The finding that called for it.
    pub code: Code,
    /// In which cluster.
    pub cluster: ClusterId,
    /// The failed instance.
    #[serde(rename = "victim")]
    pub old_primary: InstanceKey,
    /// Its identity.
    #[serde(rename = "victimIdentity")]
    pub old_primary_identity: Option<Identity>,
    /// The server that is promoted; where none is, the source that most of the moved replicas get.
    pub successor: InstanceKey,
    /// Its identity.
    pub successor_identity: Identity,
    /// What the successor has received: it opens with at least this. Where no server is promoted, what it holds.
    pub position: GtidSet,
    /// Every instance that the plan may touch.
    pub instances: BTreeSet<InstanceKey>,
    /// Replicas that will not follow the successor, with the reason.
    pub lost_replicas: Vec<Refusal>,
    /// What the old primary is known to have had and the successor lacks; a lower bound.
    pub lost: Option<GtidSet>,
    /// What proves that nothing else is lost; `None` where the primary is not replaced, and in plans of versions before
    /// it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_evidence: Option<LossEvidence>,
    /// In order.
    pub steps: Vec<Step>,
    /// The source, when the plan was made, of each instance that a step may point elsewhere: an undo restores it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<InstanceKey, InstanceKey>,
    /// The state of those replicas that were stopped or delayed then: an undo restores it as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(rename = "manners")]
    pub prior_states: BTreeMap<InstanceKey, PriorReplicaState>,
    /// Whether the old primary took writes when the plan was made, for an undo; `None` when nothing was known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_primary_state: Option<PriorPrimaryState>,
    /// The events that were enabled on the old primary when it was last seen: the new primary enables them. `None` where
    /// that is unknown, where the policy leaves events alone, and where no primary is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EnabledEvents>,
    /// What the members remember of the old primary's transactions beyond the view
    /// ([`Opinion::remembered`](crate::domain::finding::Opinion)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembered: Option<GtidSet>,
    /// The old primary answered when the plan was made and committed nothing: it is replaced only with a proof that it takes
    /// no writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commits_nothing: bool,
    /// What a person or a document requested, if the plan follows a request.
    #[serde(default, rename = "order")]
    pub manual_request: Option<ManualRequest>,
}

impl Plan {
    /// Its servers that delayed on purpose when it was made, with the delay in seconds.
    pub(super) fn delays(&self) -> impl Iterator<Item = (&InstanceKey, u64)> {
        self.prior_states
            .iter()
            .map(|(key, prior_state)| (key, prior_state.delay_seconds))
            .filter(|(_, seconds)| *seconds > 0)
    }

    /// A plan without steps that claims the old primary only. What only some kinds record is empty.
    pub(super) fn new(
        kind: RecoveryKind,
        code: Code,
        cluster: &ClusterId,
        old_primary: (&InstanceKey, Option<Identity>),
        successor: (&InstanceKey, &InstanceFacts),
    ) -> Self {
        let (old_primary, old_primary_identity) = old_primary;
        let (successor, facts) = successor;
        Self {
            kind,
            code,
            cluster: cluster.clone(),
            old_primary: old_primary.clone(),
            old_primary_identity,
            successor: successor.clone(),
            successor_identity: facts.identity.clone(),
            position: facts.executed.clone(),
            instances: BTreeSet::from([old_primary.clone()]),
            lost_replicas: Vec::new(),
            lost: None,
            loss_evidence: None,
            remembered: None,
            manual_request: None,
            commits_nothing: false,
            sources: BTreeMap::new(),
            prior_states: BTreeMap::new(),
            old_primary_state: None,
            events: None,
            steps: Vec::new(),
        }
    }

    /// A plan about one server that keeps its role: it is its own successor, alone in the claim, and there are no steps yet.
    pub(super) fn of_one(
        kind: RecoveryKind,
        code: Code,
        cluster: &ClusterId,
        key: &InstanceKey,
        facts: &InstanceFacts,
    ) -> Self {
        Self::new(kind, code, cluster, (key, Some(facts.identity.clone())), (key, facts))
    }

    /// The only server that may be promoted, if one was named.
    pub fn designated(&self) -> Option<&InstanceKey> {
        let is_named = self.manual_request.as_ref().is_some_and(|request| request.designated);
        is_named.then_some(&self.successor)
    }

    /// Whether an undo may make the old primary writable: never when it was read-only before.
    pub(super) fn may_reopen(&self) -> bool {
        self.old_primary_state.is_none_or(|state| state.writable)
    }

    /// Whether no hook is run for it.
    pub fn skips_hooks(&self) -> bool {
        self.manual_request.as_ref().is_some_and(|request| request.skips_hooks)
    }

    /// The policy under which it is carried out: that of the cluster, on the terms of the request.
    pub fn terms(&self, policy: Policy) -> Policy {
        match &self.manual_request {
            Some(request) => request.terms(policy),
            None => policy,
        }
    }

    /// Whether the old primary counts as dead although it may answer: an operator says so, or it commits nothing.
    pub fn is_forced(&self) -> bool {
        self.commits_nothing || self.manual_request.as_ref().is_some_and(|request| request.forced)
    }
}

/// What the planner considered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[must_use = "a report has the reasons"]
pub struct PlanReport {
    /// The server that would be promoted.
    pub successor: Option<InstanceKey>,
    /// Why each other one would not.
    pub refused: Vec<Refusal>,
    /// Why there is no plan, when there is none.
    pub no_plan: Option<String>,
    /// Remarks for the record (loss accepted by policy, ...).
    pub remarks: Vec<String>,
}

impl PlanReport {
    /// No plan, for this reason.
    pub(super) fn without_plan(why: String) -> (Option<Plan>, Self) {
        let report = Self {
            no_plan: Some(why),
            ..Self::default()
        };
        (None, report)
    }
}
