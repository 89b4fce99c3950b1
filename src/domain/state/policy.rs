//! The policy of one cluster at one moment: replicated state + configuration + time → [`Policy`].

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::domain::instance::{Identity, is_same_process};
use crate::domain::intent::{Intent, IntentDetails, Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{
    BootReadOnly, Durability, EventsPolicy, HeldBack, LossPolicy, OldPrimary, Policy, RecoveryMode, RepairBlock,
    StalledPrimary, TakeoverTerms, UnappliedPolicy,
};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::step::Step;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::failed_repairs::failed_repairs;
use super::record::{Cluster, Document, Recovery, State};

/// How long a recovery that promoted no server blocks the next one, milliseconds. The block after a failover prevents
/// flapping and gives an operator time. Here nothing changed, and the next failure of the primary may be real. The time
/// is long enough that a plan that cannot succeed does not stop and start the replicas all the time.
const RETRY_MILLIS: u64 = 30_000;

/// An entry of `RecoverMasterClusterFilters`: the clusters without a document that are recovered.
#[derive(Clone, Debug)]
pub enum ClusterFilter {
    /// `*`.
    All,
    /// `alias=NAME`: exactly this alias.
    Alias(String),
    /// `alias~=PATTERN`: an alias that matches, anywhere in it.
    AliasPattern(Regex),
    /// Any other entry: this cluster name or alias exactly, or a pattern that matches anywhere in the name.
    Name(String, Regex),
}

/// A filter with an invalid pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster filter `{filter}` is not a valid pattern: {why}")]
pub struct ClusterFilterError {
    filter: String,
    why: String,
}

impl ClusterFilter {
    /// Parses an entry. An empty one matches nothing and is `None`, as in orchestrator.
    ///
    /// # Errors
    /// When the pattern is not a regular expression; `*` alone is not a pattern.
    pub fn parse(filter: &str) -> Result<Option<Self>, ClusterFilterError> {
        let pattern = |text: &str| {
            Regex::new(text).map_err(|error| ClusterFilterError {
                filter: filter.to_owned(),
                why: error.to_string(),
            })
        };
        Ok(Some(if filter.is_empty() {
            return Ok(None);
        } else if filter == "*" {
            Self::All
        } else if let Some(text) = filter.strip_prefix("alias~=") {
            Self::AliasPattern(pattern(text)?)
        } else if let Some(alias) = filter.strip_prefix("alias=") {
            Self::Alias(alias.to_owned())
        } else {
            Self::Name(filter.to_owned(), pattern(filter)?)
        }))
    }

    /// Whether the filter matches a cluster. The alias of a cluster without one is its name.
    pub fn matches(&self, name: &str, alias: &str) -> bool {
        let alias = if alias.is_empty() { name } else { alias };
        match self {
            Self::All => true,
            Self::Alias(wanted) => wanted == alias,
            Self::AliasPattern(pattern) => pattern.is_match(alias),
            Self::Name(wanted, pattern) => wanted == name || wanted == alias || pattern.is_match(name),
        }
    }
}

/// The part of the configuration that determines policies.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the configuration's own switches, one field each"
)]
pub struct PolicySettings {
    /// `RecoverMasterClusterFilters`.
    pub recover_primary_filters: Vec<ClusterFilter>,
    /// `RecoverIntermediateMasterClusterFilters`: the same for intermediate primaries and members of replication groups.
    pub recover_intermediate_filters: Vec<ClusterFilter>,
    /// `RecoverLockedSemiSyncMaster`.
    pub recover_locked_semi_sync: bool,
    /// `PromotionIgnoreHostnameFilters`: patterns, anywhere in `host:port`.
    pub promotion_ignore: Vec<Regex>,
    /// `RecoveryPeriodBlockSeconds`, milliseconds, for clusters without a document.
    pub block_millis: u64,
    /// What to do when a promotion loses transactions, for clusters without a document.
    pub loss: LossPolicy,
    /// With [`LossPolicy::AllowAfterTimeout`]: how long to wait, milliseconds, for clusters without a document.
    pub loss_timeout_millis: u64,
    /// What to do with an old primary that answers again, for clusters without a document.
    pub old_primary: OldPrimary,
    /// `RecoverNonWriteableMaster`.
    pub recover_non_writable_primary: bool,
    /// `CoMasterRecoveryMustPromoteOtherCoMaster`.
    pub must_promote_other_co_primary: bool,
    /// `EnforceExactSemiSyncReplicas`.
    pub enforce_exact_semi_sync: bool,
    /// `ReasonableLockedSemiSyncMasterSeconds`, milliseconds.
    pub locked_semi_sync_millis: u64,
    /// `StalledPrimary`.
    pub stalled: StalledPrimary,
    /// `StalledPrimarySeconds`, milliseconds.
    pub stalled_timeout_millis: u64,
    /// What to do about servers that start writable, for clusters without a document.
    pub boot_read_only: BootReadOnly,
    /// `Durability` and its keys.
    pub durability: Durability,
    /// `ReasonableReplicationLagSeconds`.
    pub reasonable_lag_seconds: u64,
    /// How long a successor may take to apply what it received, milliseconds.
    pub catch_up_millis: u64,
    /// `FailMasterPromotionOnLagMinutes`, seconds; 0 is no limit.
    pub max_promotion_lag_seconds: u64,
    /// `FailMasterPromotionIfSQLThreadNotUpToDate`, `DelayMasterPromotionIfSQLThreadNotUpToDate`.
    pub unapplied: UnappliedPolicy,
    /// `PreventCrossDataCenterMasterFailover`.
    pub prevent_cross_data_center: bool,
    /// `PreventCrossRegionMasterFailover`.
    pub prevent_cross_region: bool,
    /// The terms of a takeover.
    pub takeover: TakeoverTerms,
    /// Whether Pseudo-GTID entries are written by ham4db or by another program.
    pub pseudo_gtid: bool,
    /// Whether `FencingProcesses` has commands.
    pub fences_outside: bool,
    /// What to do about events on a new primary, for clusters without a document.
    pub events: EventsPolicy,
}

impl Default for PolicySettings {
    /// Orchestrator's defaults: a cluster is recovered only when a filter names it.
    fn default() -> Self {
        Self {
            recover_primary_filters: Vec::new(),
            recover_intermediate_filters: Vec::new(),
            recover_locked_semi_sync: false,
            promotion_ignore: Vec::new(),
            block_millis: 3_600_000,
            loss: LossPolicy::Auto,
            loss_timeout_millis: 0,
            old_primary: OldPrimary::Hold,
            recover_non_writable_primary: false,
            must_promote_other_co_primary: true,
            enforce_exact_semi_sync: false,
            locked_semi_sync_millis: 10_000,
            stalled: StalledPrimary::Observe,
            stalled_timeout_millis: 30_000,
            boot_read_only: BootReadOnly::Advise,
            durability: Durability::default(),
            reasonable_lag_seconds: 10,
            catch_up_millis: 60_000,
            max_promotion_lag_seconds: 0,
            unapplied: UnappliedPolicy::CatchUp,
            prevent_cross_data_center: false,
            prevent_cross_region: false,
            takeover: TakeoverTerms::default(),
            pseudo_gtid: false,
            fences_outside: false,
            events: EventsPolicy::Enable,
        }
    }
}

/// The policy of a cluster.
///
/// A recovery is held back by the first of: the global switch, the document (paused, mode) or without a document the
/// filters, a running recovery, a recent unacknowledged recovery (counted from its end).
pub fn policy_of(
    state: &State,
    cluster: &Cluster,
    settings: &PolicySettings,
    topology: &Topology,
    now: WallTime,
) -> Policy {
    let document = cluster.document.as_ref().and_then(|origin| state.documents.get(origin));
    let block_millis = document.map_or(settings.block_millis, |document| document.block_millis);
    let ignored = |key: &&InstanceKey| {
        settings
            .promotion_ignore
            .iter()
            .any(|pattern| pattern.is_match(&key.to_string()))
    };
    Policy {
        held_back: held_back(state, cluster, document, settings, block_millis, now),
        held_back_intermediates: switched_off(state, cluster, document, &settings.recover_intermediate_filters)
            .or_else(|| runs(state, cluster, false)),
        held_back_living: switched_off(state, cluster, document, &settings.recover_primary_filters)
            .or_else(|| runs(state, cluster, false)),
        recover_locked_semi_sync: settings.recover_locked_semi_sync,
        repair_blocks: repair_blocks(state, cluster, topology, block_millis, now),
        recent_test: recent_test(state, cluster, block_millis, now),
        downtimes: downtimes(state, cluster, topology, now),
        promotion_rules: promotion_rules(state, cluster, topology, now),
        terminating: BTreeMap::new(),
        promotion_ignored: topology.instances.keys().filter(ignored).cloned().collect(),
        loss: document.map_or(settings.loss, |document| document.loss),
        accepts_unknown_loss: false,
        loss_timeout_millis: document.map_or(settings.loss_timeout_millis, |document| document.loss_timeout_millis),
        old_primary: document.map_or(settings.old_primary, |document| document.old_primary),
        stalled: document
            .and_then(|document| document.stalled)
            .unwrap_or(settings.stalled),
        stalled_timeout_millis: settings.stalled_timeout_millis,
        boot_read_only: document.map_or(settings.boot_read_only, |document| document.boot_read_only),
        durability: document
            .and_then(|document| document.durability)
            .unwrap_or(settings.durability),
        replication_account: None,
        block_millis,
        in_recovery: in_recovery(state, cluster),
        quarantined: quarantined(state, cluster, topology),
        booted_read_only: booted_read_only(cluster, topology),
        recover_non_writable_primary: settings.recover_non_writable_primary,
        must_promote_other_co_primary: settings.must_promote_other_co_primary,
        enforce_exact_semi_sync: settings.enforce_exact_semi_sync,
        locked_semi_sync_millis: settings.locked_semi_sync_millis,
        reasonable_lag_seconds: settings.reasonable_lag_seconds,
        catch_up_millis: settings.catch_up_millis,
        max_promotion_lag_seconds: settings.max_promotion_lag_seconds,
        unapplied: settings.unapplied,
        prevent_cross_data_center: settings.prevent_cross_data_center,
        prevent_cross_region: settings.prevent_cross_region,
        takeover: settings.takeover,
        pseudo_gtid: settings.pseudo_gtid,
        fences_outside: settings.fences_outside,
        events: document.and_then(|document| document.events).unwrap_or(settings.events),
        acks_changed_at: acks_changed_at(state, cluster, now),
        voters: BTreeMap::new(),
        voter_problems: BTreeMap::new(),
    }
}

fn held_back(
    state: &State,
    cluster: &Cluster,
    document: Option<&Document>,
    settings: &PolicySettings,
    block_millis: u64,
    now: WallTime,
) -> Option<HeldBack> {
    if let Some(held_back) = switched_off(state, cluster, document, &settings.recover_primary_filters) {
        return Some(held_back);
    }
    if let Some(running) = runs(state, cluster, true) {
        return Some(running);
    }
    let (until, uid) = last_block(state, cluster, block_millis, false).filter(|(until, _)| now < *until)?;
    let veto = state.recoveries.get(uid).and_then(|recovery| recovery.hooks.veto());
    let uid = uid.to_owned();
    Some(match veto.and_then(|run| run.failure.clone()) {
        Some(why) => HeldBack::Vetoed { uid, until, why },
        None => HeldBack::RecentRecovery { uid, until },
    })
}

/// When the last recovery of the cluster ended, since each may have changed semi-sync settings. For a running recovery
/// of that kind the present moment.
fn acks_changed_at(state: &State, cluster: &Cluster, now: WallTime) -> Option<WallTime> {
    let changed = |recovery: &Recovery| {
        let at_it = (recovery.is_active() && only_changes_semi_sync(recovery.plan.kind)).then_some(now);
        at_it.or_else(|| recovery.ended())
    };
    recoveries_of(state, cluster).filter_map(changed).max()
}

/// Whether a recovery of this kind does nothing but change semi-sync settings.
fn only_changes_semi_sync(kind: RecoveryKind) -> bool {
    match kind {
        RecoveryKind::SemiSync | RecoveryKind::Durability => true,
        RecoveryKind::DeadPrimary
        | RecoveryKind::DeadPrimaryByPosition
        | RecoveryKind::CoPrimary
        | RecoveryKind::Rejoin
        | RecoveryKind::IntermediatePrimary
        | RecoveryKind::GroupMember
        | RecoveryKind::ResolveErrant
        | RecoveryKind::Takeover
        | RecoveryKind::NonWritablePrimary
        | RecoveryKind::MatchBelow
        | RecoveryKind::BootReadOnly
        | RecoveryKind::ReopenPrimary => false,
    }
}

/// The reconnect test that holds back the next one.
fn recent_test(state: &State, cluster: &Cluster, block_millis: u64, now: WallTime) -> Option<HeldBack> {
    let (until, uid) = last_block(state, cluster, block_millis, true).filter(|(until, _)| now < *until)?;
    Some(HeldBack::RecentRecovery {
        uid: uid.to_owned(),
        until,
    })
}

/// The block that ends last, and its recovery: of failed tests, or of all other recoveries.
fn last_block<'a>(
    state: &'a State,
    cluster: &'a Cluster,
    block_millis: u64,
    of_tests: bool,
) -> Option<(WallTime, &'a str)> {
    recoveries_of(state, cluster)
        .filter(|recovery| is_failed_test(recovery) == of_tests)
        .filter_map(|recovery| Some((blocked_until(recovery, block_millis)?, recovery.uid.as_str())))
        .max()
}

/// Whether a recovery began with a reconnect test and promoted no server: a silent primary that was reached again
/// proves nothing about a dead one. A vetoed recovery stays vetoed.
fn is_failed_test(recovery: &Recovery) -> bool {
    let is_test = |step: &Step| matches!(step, Step::ReconnectTest { .. });
    recovery.successor().is_none() && recovery.hooks.veto().is_none() && recovery.plan.steps.iter().any(is_test)
}

/// Checks the global switch, then the document, or without one the filters.
fn switched_off(
    state: &State,
    cluster: &Cluster,
    document: Option<&Document>,
    filters: &[ClusterFilter],
) -> Option<HeldBack> {
    if state.recoveries_disabled {
        return Some(HeldBack::GloballyDisabled);
    }
    match document {
        Some(document) if document.paused => Some(HeldBack::Paused),
        Some(document) if document.mode != RecoveryMode::Auto => Some(HeldBack::Mode(document.mode)),
        Some(_) => None,
        None => {
            let matches = |filter: &ClusterFilter| filter.matches(&cluster.name, &cluster.alias);
            (!filters.iter().any(matches)).then_some(HeldBack::NoFilterMatches)
        }
    }
}

fn recoveries_of<'a>(state: &'a State, cluster: &'a Cluster) -> impl Iterator<Item = &'a Recovery> {
    state
        .recoveries
        .values()
        .filter(|recovery| recovery.plan.cluster == cluster.id)
}

/// A running recovery of the cluster. A replacement of the primary does not wait for other repairs: its claim ends
/// them.
fn runs(state: &State, cluster: &Cluster, replaces_primary: bool) -> Option<HeldBack> {
    let waits_for =
        |recovery: &&Recovery| recovery.is_active() && !(replaces_primary && recovery.plan.kind.gives_way());
    recoveries_of(state, cluster)
        .find(waits_for)
        .map(|running| HeldBack::RecoveryRuns {
            uid: running.uid.clone(),
        })
}

/// Repairs block the next repair of their own kind and instance: one that succeeded where a repetition would be a sign that
/// something works against it, and one that failed for a time that grows with each failure. A primary that restarted since
/// then is blocked only briefly.
fn repair_blocks(
    state: &State,
    cluster: &Cluster,
    topology: &Topology,
    block_millis: u64,
    now: WallTime,
) -> Vec<RepairBlock> {
    let booted = booted_read_only(cluster, topology);
    let recent = |recovery: &Recovery| {
        let kind = recovery.plan.kind;
        if kind.replaces_primary()
            || !kind.blocks_its_repetition()
            || recovery.acknowledged.is_some()
            || !recovery.is_successful()
        {
            return None;
        }
        let has_booted =
            kind == RecoveryKind::NonWritablePrimary && booted.as_ref() == Some(&recovery.plan.old_primary);
        let millis = if has_booted {
            block_millis.min(RETRY_MILLIS)
        } else {
            block_millis
        };
        let until = recovery.ended()?.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX));
        Some(RepairBlock {
            kind,
            instance: recovery.plan.old_primary.clone(),
            uid: recovery.uid.clone(),
            until,
            failures: 0,
        })
    };
    let succeeded = recoveries_of(state, cluster).filter_map(recent);
    let failed = failed_repairs(state, &cluster.id)
        .into_iter()
        .map(|repair| RepairBlock {
            kind: repair.kind,
            instance: repair.instance,
            uid: repair.uid,
            until: repair.until,
            failures: repair.failures,
        });
    succeeded.chain(failed).filter(|block| now < block.until).collect()
}

/// The quarantined servers, by identity, as addresses of the topology.
fn quarantined(state: &State, cluster: &Cluster, topology: &Topology) -> BTreeSet<InstanceKey> {
    let identities: BTreeSet<&Identity> = state
        .quarantines
        .values()
        .filter(|quarantine| quarantine.cluster == cluster.id)
        .map(|quarantine| &quarantine.identity)
        .collect();
    topology
        .instances
        .values()
        .filter(|instance| {
            instance
                .facts
                .as_ref()
                .is_some_and(|facts| identities.contains(&facts.identity))
        })
        .map(|instance| instance.key.clone())
        .collect()
}

/// The recorded primary, when ham4db made it writable, it is read-only now, and its process started after the server
/// was last seen writable. An operator that makes a server read-only does not restart it. Once the new process was seen
/// writable, its read-only state is not the work of a configuration file.
fn booted_read_only(cluster: &Cluster, topology: &Topology) -> Option<InstanceKey> {
    let recorded = cluster.primary.as_ref().filter(|primary| primary.opened_by.is_some())?;
    let key = topology.resolve(&recorded.instance);
    let facts = topology.get(key)?.valid_facts()?;
    let is_it = facts.identity == recorded.identity && !facts.is_writable();
    let is_another_process = facts.started.is_some() && !is_same_process(facts.started, recorded.process);
    (is_it && is_another_process).then(|| key.clone())
}

/// The instances of running recoveries of the cluster.
fn in_recovery(state: &State, cluster: &Cluster) -> BTreeSet<InstanceKey> {
    recoveries_of(state, cluster)
        .filter(|recovery| recovery.is_active())
        .flat_map(|recovery| recovery.plan.instances.iter().cloned())
        .collect()
}

/// Until when an ended recovery blocks the next one; `None` for a recovery that blocks nothing. After a
/// recovery that lost its successor before opening it, the next one continues at once.
fn blocked_until(recovery: &Recovery, block_millis: u64) -> Option<WallTime> {
    let kind = recovery.plan.kind;
    if recovery.acknowledged.is_some() || !kind.replaces_primary() || kind == RecoveryKind::Takeover {
        return None;
    }
    let ended = recovery.ended()?;
    if recovery.successor().is_some() && !recovery.is_successful() {
        return None;
    }
    let millis = if recovery.successor().is_some() {
        block_millis
    } else if is_failed_test(recovery) {
        // Each test interrupts replicas that may be healthy, so it has its own interval whatever the block is.
        RETRY_MILLIS
    } else {
        block_millis.min(RETRY_MILLIS)
    };
    Some(ended.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
}

/// The address in the topology of the instance of an intent: the same address, a resolved alias, or the address that an
/// instance reports.
fn instance_of(topology: &Topology, wanted: &InstanceKey) -> InstanceKey {
    let resolved = topology.resolve(wanted);
    if topology.instances.contains_key(resolved) {
        return resolved.clone();
    }
    let reports = |facts: &crate::domain::instance::InstanceFacts| facts.reported.as_ref() == Some(wanted);
    let found = topology
        .instances
        .values()
        .find(|instance| instance.facts.as_ref().is_some_and(reports));
    found.map_or_else(|| resolved.clone(), |instance| instance.key.clone())
}

/// The intents that are in effect for a cluster. A document's intents are, when the document owns the cluster.
fn active<'a>(
    state: &'a State,
    cluster: &'a Cluster,
    topology: &'a Topology,
    now: WallTime,
) -> impl Iterator<Item = (InstanceKey, &'a Intent)> {
    state
        .intents
        .values()
        .filter(move |intent| intent.details.is_active(now))
        .filter(|intent| match &intent.origin {
            origin @ Origin::Document { .. } => cluster.document.as_ref() == Some(origin),
            Origin::Api | Origin::Recovery => true,
        })
        .map(|intent| (instance_of(topology, &intent.instance), intent))
        .filter(|(key, _)| topology.instances.contains_key(key))
}

/// Of several downtimes of an instance the one that lasts longest.
fn downtimes(state: &State, cluster: &Cluster, topology: &Topology, now: WallTime) -> BTreeMap<InstanceKey, HeldBack> {
    let mut longest: BTreeMap<InstanceKey, (bool, Option<WallTime>, HeldBack)> = BTreeMap::new();
    for (key, intent) in active(state, cluster, topology, now) {
        let IntentDetails::Downtime {
            owner, reason, until, ..
        } = &intent.details
        else {
            continue;
        };
        let held = HeldBack::Downtimed {
            owner: owner.clone(),
            reason: reason.clone(),
            until: *until,
        };
        let lasts = (until.is_none(), *until);
        let present = longest.get(&key).map(|(forever, until, _)| (*forever, *until));
        if present.is_none_or(|present| lasts > present) {
            longest.insert(key, (lasts.0, lasts.1, held));
        }
    }
    longest.into_iter().map(|(key, (_, _, held))| (key, held)).collect()
}

/// Of several promotion rules of an instance: `must_not` of any origin first, then the rule of a document, then of the
/// API.
fn promotion_rules(
    state: &State,
    cluster: &Cluster,
    topology: &Topology,
    now: WallTime,
) -> BTreeMap<InstanceKey, PromotionRule> {
    let mut strongest: BTreeMap<InstanceKey, ((bool, u8), PromotionRule)> = BTreeMap::new();
    for (key, intent) in active(state, cluster, topology, now) {
        let IntentDetails::Candidate { rule, .. } = &intent.details else {
            continue;
        };
        let voice = match intent.origin {
            Origin::Document { .. } => 2,
            Origin::Api => 1,
            Origin::Recovery => 0,
        };
        let weight = (*rule == PromotionRule::MustNot, voice);
        if strongest.get(&key).is_none_or(|(present, _)| weight > *present) {
            strongest.insert(key, (weight, *rule));
        }
    }
    strongest.into_iter().map(|(key, (_, rule))| (key, rule)).collect()
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
