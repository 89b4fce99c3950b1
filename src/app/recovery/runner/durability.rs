//! What the durability policy wants of a server that is about to be the primary.

use std::collections::BTreeSet;

use crate::domain::key::InstanceKey;
use crate::domain::recovery::durability::{self, SourceTerms};
use crate::domain::recovery::plan::{RecoveryKind, Step};
use crate::domain::state::Recovery;
use crate::domain::topology::Topology;

use super::RecoveryRunner;

impl RecoveryRunner<'_> {
    /// How commits on the new primary wait, and who acknowledges them; `None` where no policy says so, or nobody changes place.
    ///
    /// Where replicas are moved one by one each of them is set when it is moved, so all that can acknowledge count. In a takeover, and
    /// without GTIDs, they stay as they are set, and those that are missing are set right after it.
    pub(super) fn durable(
        &self,
        recovery: &Recovery,
        fresh: &Topology,
        successor: &InstanceKey,
    ) -> Option<(SourceTerms, BTreeSet<InstanceKey>)> {
        let kind = recovery.plan.kind;
        if !kind.replaces_primary() && kind != RecoveryKind::Rejoin {
            return None;
        }
        let policy = self.views.cluster(&self.token.cluster)?.policy;
        let old_primary = &recovery.plan.old_primary;
        let pointed = recovery.plan.steps.iter().filter_map(Step::points);
        let mut followers: BTreeSet<InstanceKey> = pointed.flat_map(|(_, replicas)| replicas).cloned().collect();
        if kind == RecoveryKind::Rejoin {
            followers.extend(fresh.replicas_of(successor).map(|replica| replica.key.clone()));
        } else {
            followers.remove(old_primary);
        }
        let only_set = matches!(kind, RecoveryKind::Takeover | RecoveryKind::DeadPrimaryByPosition);
        durability::wanted_of_successor(fresh, successor, &followers, &policy, only_set)
    }
}
