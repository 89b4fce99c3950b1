//! Where the replicas of a dead intermediate primary, or of a dead member of a replication group, can go.
//!
//! By GTID a replica can continue below any server that holds everything that it received and has kept everything
//! that it lacks, and nothing is lost by moving. A replica without GTIDs continues by Pseudo-GTID
//! ([`super::positioning`]). The question is which source suits. In order of preference, as in orchestrator:
//! - **A** a sibling of the failed server in its data centre;
//! - **B** the replicas are regrouped: one of them takes the failed server's place, the others go below it;
//! - **C** a sibling in another data centre;
//! - **D** up, to the failed server's own source.
//!
//! Where leaving the data centre (or region) is forbidden, C and D are for the one that takes the failed server's
//! place only: the failed server replicated across already, and a link that was there is not a new one. Replicas of a
//! group member go to another member, near ones first.

use std::collections::BTreeSet;

use crate::domain::analysis::current_primary;
use crate::domain::analysis::evidence::{is_downtimed, is_receiving, is_replicating};
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::binlog_readers::received_up_to;
use crate::domain::recovery::eligibility::{check_facts_complete, why_unreachable};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::recovery::positioning::{PositioningMethod, positioning};
use crate::domain::recovery::refusal::{Refusal, RefusalReason, excerpt};
use crate::domain::recovery::relay_log_match::is_after;
use crate::domain::topology::Topology;

/// Where a new source is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SourcePreference {
    /// Strategy A, or another member of the group in the same data centre.
    Nearby,
    /// Strategy C, or another member of the group.
    Elsewhere,
    /// Strategy D.
    Above,
}

/// A server that replicas could follow, in the order in which it is tried.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    preference: SourcePreference,
    rule: PromotionRule,
    /// Not in the failed server's environment.
    other_environment: bool,
    key: &'a InstanceKey,
}

/// One server that replicas of the old primary could follow.
pub(super) struct Source<'a> {
    rank: Rank<'a>,
    pub(super) instance: &'a Instance,
}

/// The new source of each replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// New sources with their replicas; one that is itself moved stands before those that follow it.
    pub(super) groups: Vec<(InstanceKey, BTreeSet<InstanceKey>)>,
    /// The replicas that are left behind.
    pub(super) lost: Vec<Refusal>,
    /// Remarks for the record.
    pub(super) remarks: Vec<String>,
}

impl Moves {
    fn add(&mut self, source: &InstanceKey, replica: &InstanceKey) {
        match self.groups.iter_mut().find(|(present, _)| present == source) {
            Some((_, replicas)) => {
                replicas.insert(replica.clone());
            }
            None => self.groups.push((source.clone(), BTreeSet::from([replica.clone()]))),
        }
    }
}

/// A location that a server reports: its data centre, region or environment.
type FactField = fn(&InstanceFacts) -> &str;

/// What is known of the failed server, for which other sources are sought.
struct FailedSource<'a> {
    topology: &'a Topology,
    old_primary: &'a InstanceKey,
    facts: Option<&'a InstanceFacts>,
    policy: &'a Policy,
    /// What each server below the primary holds.
    received_transactions: ReceivedTransactions,
}

/// The replicas that lost their source: direct ones that do not receive, answering or not.
pub(super) fn orphans<'a>(topology: &'a Topology, old_primary: &'a InstanceKey) -> Vec<&'a Instance> {
    let group = topology.get(old_primary).and_then(|instance| instance.facts.as_ref());
    let group = group.map_or("", |facts| facts.group_name.as_str());
    topology
        .replicas_of(old_primary)
        .filter(|replica| !is_receiving(replica))
        .filter(|replica| {
            let facts = replica.facts.as_ref();
            group.is_empty() || facts.is_none_or(|facts| facts.group_name != group)
        })
        .collect()
}

/// Finds every replica of the old primary a new source.
pub(super) fn assign(topology: &Topology, old_primary: &InstanceKey, kind: RecoveryKind, policy: &Policy) -> Moves {
    let old_primary = topology.resolve(old_primary);
    let failed = FailedSource::of(topology, old_primary, policy);
    let sources = failed.sources(kind);
    let mut moves = Moves::default();
    let mut waiting: Vec<(&Instance, Option<RefusalReason>)> = Vec::new();
    for orphan in orphans(topology, old_primary) {
        if !orphan.is_valid() {
            moves.lost.push(Refusal {
                instance: orphan.key.clone(),
                reason: RefusalReason::Unreachable(why_unreachable(orphan)),
            });
            continue;
        }
        let near = |source: &&Source<'_>| {
            source.rank.preference == SourcePreference::Nearby
                || (kind == RecoveryKind::GroupMember && failed.may_cross(orphan, source.instance).is_ok())
        };
        match failed.first(orphan, sources.iter().filter(near)) {
            Ok(source) => moves.add(&source.instance.key, &orphan.key),
            Err(why) => waiting.push((orphan, why)),
        }
    }
    if kind == RecoveryKind::IntermediatePrimary && !waiting.is_empty() {
        failed.regroup(&mut waiting, &sources, &mut moves);
    }
    for (orphan, why) in waiting {
        let permitted = sources.iter().filter(|source| {
            source.rank.preference != SourcePreference::Nearby && failed.may_cross(orphan, source.instance).is_ok()
        });
        let reason = match failed.first(orphan, permitted) {
            Ok(source) => {
                moves.add(&source.instance.key, &orphan.key);
                continue;
            }
            Err(reason) => reason.or(why).or_else(|| failed.forbidden(orphan, &sources)),
        };
        let no_source = || {
            RefusalReason::Unknown(format!(
                "no source other than {old_primary} is known that it could follow"
            ))
        };
        moves.lost.push(Refusal {
            instance: orphan.key.clone(),
            reason: reason.unwrap_or_else(no_source),
        });
    }
    moves.lost.sort_by(|left, right| left.instance.cmp(&right.instance));
    moves
}

/// The best source for one replica among those not in `excluded`, geography respected; for when the planned one failed.
pub(super) fn another_source(
    topology: &Topology,
    old_primary: &InstanceKey,
    kind: RecoveryKind,
    policy: &Policy,
    replica: &Instance,
    excluded: &BTreeSet<InstanceKey>,
) -> Option<InstanceKey> {
    let old_primary = topology.resolve(old_primary);
    let failed = FailedSource::of(topology, old_primary, policy);
    let sources = failed.sources(kind);
    let possible = sources.iter().filter(|source| {
        let key = &source.instance.key;
        *key != replica.key && !excluded.contains(key) && failed.may_cross(replica, source.instance).is_ok()
    });
    failed
        .first(replica, possible)
        .ok()
        .map(|source| source.instance.key.clone())
}

impl<'a> FailedSource<'a> {
    fn of(topology: &'a Topology, old_primary: &'a InstanceKey, policy: &'a Policy) -> Self {
        Self {
            topology,
            old_primary,
            facts: topology.get(old_primary).and_then(|instance| instance.facts.as_ref()),
            policy,
            received_transactions: ReceivedTransactions::below(
                topology,
                current_primary(topology).as_ref().unwrap_or(old_primary),
            ),
        }
    }

    /// The data centre to stay in: the old primary's, or the replica's own when nothing is known of the old primary.
    fn home<'b>(&self, replica: &'b Instance, of: FactField) -> &'b str
    where
        'a: 'b,
    {
        let own = replica.facts.as_ref().map_or("", of);
        self.facts.map(of).filter(|home| !home.is_empty()).unwrap_or(own)
    }

    /// The first source that a replica can follow, or why the best one does not do.
    fn first<'s>(
        &self,
        replica: &Instance,
        sources: impl Iterator<Item = &'s Source<'s>>,
    ) -> Result<&'s Source<'s>, Option<RefusalReason>> {
        let mut why = None;
        for source in sources.filter(|source| source.instance.key != replica.key) {
            match self.why_not_follow(replica, source.instance) {
                None => return Ok(source),
                // The reason of the last source is the most useful one: what the top lacks, no other source has.
                Some(reason) => why = Some(reason),
            }
        }
        Err(why)
    }

    /// Why a replica is not to follow a source.
    fn why_not_follow(&self, replica: &Instance, source: &Instance) -> Option<RefusalReason> {
        self.differs_in_filters(source)
            .or_else(|| positioning(replica, source, self.policy).err())
            .or_else(|| self.has_errant(replica))
    }

    /// A MariaDB replica with transactions of its own stops with error 1236 below another source, also where the
    /// source has later sequence numbers.
    fn has_errant(&self, replica: &Instance) -> Option<RefusalReason> {
        let is_mariadb = replica.facts.as_ref()?.version.flavour.is_mariadb();
        let errant = self.received_transactions.errant(&replica.key).filter(|_| is_mariadb)?;
        Some(RefusalReason::Errant(excerpt(errant)))
    }

    /// Below a server that filters where the failed one did not, or the other way round, a replica would receive other data.
    fn differs_in_filters(&self, source: &Instance) -> Option<RefusalReason> {
        let filters = |facts: &InstanceFacts| facts.managed_channel().is_some_and(|channel| channel.filtered);
        let were = self.facts.is_some_and(filters);
        let are = source.facts.as_ref().is_some_and(filters);
        (were != are).then_some(RefusalReason::Filtered)
    }

    /// Whether a replica may get a source there.
    fn may_cross(&self, replica: &Instance, source: &Instance) -> Result<(), RefusalReason> {
        let checks: [(bool, &str, FactField); 2] = [
            (self.policy.prevent_cross_data_center, "data centre", |facts| {
                &facts.data_center
            }),
            (self.policy.prevent_cross_region, "region", |facts| &facts.region),
        ];
        for (is_forbidden, what, of) in checks {
            let home = self.home(replica, of);
            let there = source.facts.as_ref().map_or("", of);
            if is_forbidden && (home.is_empty() || home != there) {
                let text = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
                return Err(RefusalReason::Geography(format!(
                    "{what} {}, and {} is in {}",
                    text(home),
                    source.key,
                    text(there)
                )));
            }
        }
        Ok(())
    }

    /// Why geography allows no source.
    fn forbidden(&self, replica: &Instance, sources: &[Source<'_>]) -> Option<RefusalReason> {
        sources
            .iter()
            .find_map(|source| self.may_cross(replica, source.instance).err())
    }

    /// All servers that could be a source, best first.
    fn sources(&self, kind: RecoveryKind) -> Vec<Source<'a>> {
        let topology = self.topology;
        let below: BTreeSet<&InstanceKey> = topology
            .descendants_of(self.old_primary)
            .into_iter()
            .map(|instance| &instance.key)
            .collect();
        let is_outside = |instance: &Instance| instance.key != *self.old_primary && !below.contains(&instance.key);
        let source = self.source();
        let mut found: Vec<Source<'a>> = topology
            .instances
            .values()
            .filter(|instance| is_outside(instance))
            .filter_map(|instance| {
                let is_sibling = source.is_some() && topology.source_of(instance) == source;
                let preference = if kind == RecoveryKind::GroupMember {
                    self.is_same_group(instance).then(|| self.way_to(instance))?
                } else if Some(&instance.key) == source {
                    SourcePreference::Above
                } else if is_sibling {
                    self.way_to(instance)
                } else {
                    return None;
                };
                self.is_fit(instance, preference).then(|| Source {
                    rank: self.rank(instance, preference),
                    instance,
                })
            })
            .collect();
        found.sort_by(|left, right| left.rank.cmp(&right.rank));
        found
    }

    /// The source of the old primary; where that is unknown or gone as well, the primary.
    fn source(&self) -> Option<&'a InstanceKey> {
        let own = self
            .topology
            .get(self.old_primary)
            .and_then(|old_primary| self.topology.source_of(old_primary))
            .filter(|key| self.topology.get(key).is_some_and(Instance::is_valid));
        own.or_else(|| {
            let primary = current_primary(self.topology)?;
            let (key, instance) = self.topology.instances.get_key_value(&primary)?;
            (instance.is_valid() && key != self.old_primary).then_some(key)
        })
    }

    /// A member of the old primary's group.
    fn is_same_group(&self, instance: &Instance) -> bool {
        let group = self.facts.map_or("", |facts| facts.group_name.as_str());
        !group.is_empty() && instance.facts.as_ref().is_some_and(|facts| facts.group_name == group)
    }

    fn way_to(&self, instance: &Instance) -> SourcePreference {
        let home = self.facts.map_or("", |facts| facts.data_center.as_str());
        let there = instance.facts.as_ref().map_or("", |facts| facts.data_center.as_str());
        if home == there {
            SourcePreference::Nearby
        } else {
            SourcePreference::Elsewhere
        }
    }

    fn rule(&self, key: &InstanceKey) -> PromotionRule {
        self.policy.promotion_rules.get(key).copied().unwrap_or_default()
    }

    fn rank(&self, instance: &'a Instance, preference: SourcePreference) -> Rank<'a> {
        let of = |facts: &InstanceFacts| facts.environment.clone();
        Rank {
            preference,
            rule: self.rule(&instance.key),
            other_environment: self.facts.map(of) != instance.facts.as_ref().map(of),
            key: &instance.key,
        }
    }

    /// Whether a server may get replicas: it logs what they need, is not banned, and where it is a replica, it
    /// replicates without delay.
    fn is_fit(&self, instance: &Instance, preference: SourcePreference) -> bool {
        let Some(facts) = instance.valid_facts() else {
            return false;
        };
        let is_replica = facts.managed_channel().is_some() && facts.group_name.is_empty();
        let is_banned = self.rule(&instance.key) == PromotionRule::MustNot
            || self.policy.promotion_ignored.contains(&instance.key)
            || is_downtimed(self.topology, self.policy, &instance.key);
        let delay = facts.managed_channel().map_or(0, |channel| channel.delay_seconds);
        check_facts_complete(self.topology, instance).is_ok()
            && facts.log_bin
            && (facts.log_replica_updates || !is_replica)
            // The failed server's own source had it as a replica: whatever its promotion rule, it may have replicas.
            && (preference == SourcePreference::Above || !is_banned)
            && (preference == SourcePreference::Above || !is_replica || (is_replicating(instance) && delay == 0))
    }

    /// Whether one orphan can follow another. Both read the failed server's log, so without GTIDs its positions show
    /// which has more.
    fn can_follow(&self, replica: &Instance, new_intermediate: &Instance) -> bool {
        let is_ahead = || {
            let facts = replica.valid_facts().zip(new_intermediate.valid_facts());
            facts.is_some_and(|(replica, new_intermediate)| {
                is_after(received_up_to(replica), received_up_to(new_intermediate))
            })
        };
        match positioning(replica, new_intermediate, self.policy) {
            Err(_) => false,
            Ok(PositioningMethod::PseudoGtid) => !is_ahead(),
            Ok(PositioningMethod::Gtid | PositioningMethod::GtidFromNowOn) => self.has_errant(replica).is_none(),
        }
    }

    /// Strategy B: one of the remaining replicas takes the failed server's place, the others follow it as far as they can.
    fn regroup(
        &self,
        waiting: &mut Vec<(&'a Instance, Option<RefusalReason>)>,
        sources: &[Source<'a>],
        moves: &mut Moves,
    ) {
        let mut best: Option<((usize, bool), Rank<'a>, &'a Instance, InstanceKey)> = None;
        let alone = waiting.len() == 1;
        for (orphan, _) in waiting.iter() {
            let Some(facts) = orphan.valid_facts() else { continue };
            let channel = facts.managed_channel();
            let leads = facts.log_bin
                && facts.log_replica_updates
                && channel.is_some_and(|channel| channel.delay_seconds == 0 && !channel.filtered)
                && channel.is_some_and(|channel| channel.sql_error.number == 0)
                && self.rule(&orphan.key) != PromotionRule::MustNot
                && !self.policy.promotion_ignored.contains(&orphan.key)
                && !is_downtimed(self.topology, self.policy, &orphan.key);
            if !leads && !alone {
                continue;
            }
            // Up to a source that is near, then to a sibling elsewhere, then to a source wherever it is: the failed
            // one went there too.
            let above = sources
                .iter()
                .filter(|source| source.rank.preference == SourcePreference::Above);
            let near = above
                .clone()
                .filter(|source| self.way_to(source.instance) == SourcePreference::Nearby);
            let elsewhere = sources.iter().filter(|source| {
                source.rank.preference == SourcePreference::Elsewhere && self.may_cross(orphan, source.instance).is_ok()
            });
            let Ok(source) = self.first(orphan, near.chain(elsewhere).chain(above)) else {
                continue;
            };
            let followers = waiting
                .iter()
                .filter(|(other, _)| other.key != orphan.key && self.can_follow(other, orphan))
                .count();
            let merit = (followers, leads);
            let rank = self.rank(orphan, self.way_to(orphan));
            let is_better = best.as_ref().is_none_or(|(present, present_rank, ..)| {
                merit > *present || (merit == *present && rank < *present_rank)
            });
            if is_better {
                best = Some((merit, rank, orphan, source.instance.key.clone()));
            }
        }
        let Some((_, _, new_intermediate, source)) = best else {
            return;
        };
        moves.add(&source, &new_intermediate.key);
        let mut followers = BTreeSet::new();
        waiting.retain(|(other, _)| {
            if other.key == new_intermediate.key {
                return false;
            }
            let follows = self.can_follow(other, new_intermediate);
            if follows {
                followers.insert(other.key.clone());
            }
            !follows
        });
        if !followers.is_empty() {
            moves.remarks.push(format!(
                "{} takes the place of {}: its other replicas follow it",
                new_intermediate.key, self.old_primary
            ));
        }
        for follower in &followers {
            moves.add(&new_intermediate.key, follower);
        }
    }
}
