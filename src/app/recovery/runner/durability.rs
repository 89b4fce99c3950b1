//! The semi-sync settings that the durability policy requires of a server that becomes the primary.

use std::collections::BTreeSet;

use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::semi_sync;
use crate::domain::recovery::semi_sync::SourceTerms;
use crate::domain::recovery::step::Step;
use crate::domain::state::Recovery;
use crate::domain::topology::Topology;

use super::RecoveryRunner;

impl RecoveryRunner<'_> {
    /// How commits on the new primary wait, and which replicas acknowledge them. `None` when no policy applies or no
    /// server changes its role.
    ///
    /// Where replicas are moved one by one, each of them is set when it is moved, so all that can acknowledge count.
    /// In a takeover, and without GTIDs, replicas keep their settings, and missing ones are set right after it.
    pub(super) fn durability_terms(
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
        let pointed = recovery.plan.steps.iter().filter_map(Step::new_source);
        let mut followers: BTreeSet<InstanceKey> = pointed.flat_map(|(_, replicas)| replicas).cloned().collect();
        if kind == RecoveryKind::Rejoin {
            followers.extend(fresh.replicas_of(successor).map(|replica| replica.key.clone()));
        } else {
            followers.remove(old_primary);
        }
        let only_set = matches!(kind, RecoveryKind::Takeover | RecoveryKind::DeadPrimaryByPosition);
        semi_sync::target_of_successor(fresh, successor, &followers, &policy, only_set)
    }
}
