//! Repairs that fail back off: how often a repair failed in a row, and when its next attempt is due. A pure function of the records, so
//! that each leader computes the same.
//!
//! A repair is known by its cluster, its kind and its instance. These begin a new count: a success, an acknowledgement, a later
//! replacement of the cluster's primary, and a pause in which attempts were due and none was made, since then nothing called for one.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

use super::claims::gave_way;
use super::record::{Recovery, State};

/// The wait after the first failure, milliseconds; doubled with each further one.
const FIRST_WAIT_MILLIS: i64 = 5_000;
/// The longest wait, milliseconds.
const MAX_WAIT_MILLIS: i64 = 600_000;
/// How often the wait is doubled at most: more than the longest wait needs.
const MAX_DOUBLINGS: u32 = 7;
/// When an attempt follows so much later than it was due, milliseconds, the earlier failures belong to another occurrence.
const FORGET_MILLIS: i64 = MAX_WAIT_MILLIS;

/// A repair that failed at its last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRepair {
    /// Its kind.
    pub kind: RecoveryKind,
    /// The instance that it is about.
    pub instance: InstanceKey,
    /// The last attempt that failed.
    pub uid: String,
    /// How many attempts failed in a row, at least 1.
    pub failures: u32,
    /// When the next attempt is due.
    pub until: WallTime,
}

impl FailedRepair {
    /// Whether an attempt that begins at this time is one more of the same occurrence.
    pub fn is_continued_at(&self, begun: WallTime) -> bool {
        begun < self.until.plus_millis(FORGET_MILLIS)
    }
}

/// The repairs of a cluster that failed at their last attempt, in the order of kind and instance. The next attempt of some may be due.
pub fn failed_repairs(state: &State, cluster: &ClusterId) -> Vec<FailedRepair> {
    let mut ended: Vec<&Recovery> = state
        .recoveries
        .values()
        .filter(|recovery| recovery.plan.cluster == *cluster && recovery.ended().is_some())
        .collect();
    ended.sort_by_key(|recovery| recovery.id);
    let mut failed: BTreeMap<(RecoveryKind, &InstanceKey), FailedRepair> = BTreeMap::new();
    for recovery in ended {
        let plan = &recovery.plan;
        if plan.kind.replaces_primary() {
            if recovery.successor().is_some() {
                failed.clear();
            }
            continue;
        }
        let key = (plan.kind, &plan.old_primary);
        if recovery.is_successful() || recovery.acknowledged.is_some() {
            failed.remove(&key);
        } else if !gave_way(recovery)
            && let Some(at) = recovery.ended()
        {
            let before = failed
                .get(&key)
                .filter(|before| before.is_continued_at(recovery.started))
                .map_or(0, |before| before.failures)
                .max(recovery.failed_before);
            let repair = FailedRepair {
                kind: plan.kind,
                instance: plan.old_primary.clone(),
                uid: recovery.uid.clone(),
                failures: before.saturating_add(1),
                until: at.plus_millis(wait_millis(before)),
            };
            failed.insert(key, repair);
        }
    }
    failed.into_values().collect()
}

/// The clusters of which [`failed_repairs`] may have some.
pub fn with_failed_repairs(state: &State) -> BTreeSet<ClusterId> {
    let may_count = |recovery: &&Recovery| {
        recovery.plan.kind.gives_way() && recovery.ended().is_some() && !recovery.is_successful()
    };
    let failed = state.recoveries.values().filter(may_count);
    failed.map(|recovery| recovery.plan.cluster.clone()).collect()
}

/// The failed repair of this kind and instance, while its next attempt is not due yet.
pub fn backing_off(
    state: &State,
    cluster: &ClusterId,
    kind: RecoveryKind,
    instance: &InstanceKey,
    now: WallTime,
) -> Option<FailedRepair> {
    let is_it = |repair: &FailedRepair| repair.kind == kind && repair.instance == *instance && now < repair.until;
    failed_repairs(state, cluster).into_iter().find(is_it)
}

/// How many attempts of the same repair failed in a row before one that begins now.
pub(super) fn failures_before(state: &State, plan: &Plan) -> u32 {
    let is_it = |repair: &FailedRepair| repair.kind == plan.kind && repair.instance == plan.old_primary;
    let mut failed = failed_repairs(state, &plan.cluster).into_iter();
    failed
        .find(|repair| is_it(repair) && repair.is_continued_at(state.clock))
        .map_or(0, |repair| repair.failures)
}

/// The wait after a failure that so many others preceded, milliseconds.
fn wait_millis(before: u32) -> i64 {
    (FIRST_WAIT_MILLIS << before.min(MAX_DOUBLINGS)).min(MAX_WAIT_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::super::record::Acknowledgement;
    use super::super::sample::{claim, cluster_id, key, plan};
    use super::super::{Applied, Command, Ending, Proposal, apply};
    use super::*;

    const SECOND: i64 = 1000;

    fn run(state: &mut State, at: i64, command: Command) -> Applied {
        let proposal = Proposal::new(WallTime(at), command);
        apply(state, &proposal).0
    }

    fn with_cluster() -> State {
        let mut state = State::default();
        let described = Command::DescribeCluster {
            id: cluster_id(1),
            instances: (1..4).map(key).collect(),
            primary: None,
            process: None,
            alias: String::new(),
            absorbs: Vec::new(),
            document: None,
            chosen: None,
        };
        run(&mut state, 1, described);
        state
    }

    /// An attempt that begins and ends at this time.
    fn attempt(state: &mut State, at: i64, kind: RecoveryKind, n: u32, successful: bool) -> String {
        let uid = format!("{kind:?}-{n}-{at}");
        let mut plan = plan(1, n, 3, &[n, 3]);
        plan.kind = kind;
        let claim = Box::new(claim(&uid, plan));
        let Applied::Claimed { token } = run(state, at, Command::Claim { claim }) else {
            panic!("not claimed at {at}")
        };
        let ending = Box::new(Ending {
            successful,
            successor: None,
            quarantine: None,
            lost_replicas: Vec::new(),
            lost: None,
            errors: Vec::new(),
            lines: Vec::new(),
            hooks: Vec::new(),
            owes_opening: false,
        });
        assert_eq!(run(state, at, Command::End { token, ending }), Applied::Done);
        uid
    }

    fn moves(state: &mut State, at: i64, successful: bool) -> String {
        attempt(state, at, RecoveryKind::IntermediatePrimary, 2, successful)
    }

    fn only(state: &State) -> (u32, i64) {
        let failed = failed_repairs(state, &cluster_id(1));
        assert_eq!(failed.len(), 1, "{failed:?}");
        (failed[0].failures, failed[0].until.0)
    }

    #[test]
    fn the_wait_doubles_from_five_seconds_to_ten_minutes() {
        let mut state = with_cluster();
        let mut at = SECOND;
        let mut waits = Vec::new();
        for failures in 1..=10 {
            moves(&mut state, at, false);
            let (counted, until) = only(&state);
            assert_eq!(counted, failures);
            waits.push((until - at) / SECOND);
            at = until;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
    }

    #[test]
    fn a_success_an_acknowledgement_and_a_long_pause_begin_a_new_count() {
        let mut state = with_cluster();
        moves(&mut state, SECOND, false);
        let second = moves(&mut state, 6 * SECOND, false);
        assert_eq!(only(&state), (2, 16 * SECOND));
        let acknowledgement = Acknowledgement {
            at: WallTime(0),
            by: "ann".to_owned(),
            comment: "mended".to_owned(),
        };
        let uids = vec![second];
        run(&mut state, 7 * SECOND, Command::Acknowledge { uids, acknowledgement });
        assert!(failed_repairs(&state, &cluster_id(1)).is_empty());
        moves(&mut state, 8 * SECOND, false);
        assert_eq!(only(&state), (1, 13 * SECOND));
        moves(&mut state, 14 * SECOND, true);
        assert!(failed_repairs(&state, &cluster_id(1)).is_empty());
        moves(&mut state, 20 * SECOND, false);
        moves(&mut state, 30 * SECOND, false);
        assert_eq!(only(&state), (2, 40 * SECOND));
        let much_later = 40 * SECOND + FORGET_MILLIS;
        moves(&mut state, much_later, false);
        assert_eq!(only(&state), (1, much_later + 5 * SECOND));
    }

    #[test]
    fn each_kind_and_instance_has_its_own_count_and_replacements_have_none() {
        let mut state = with_cluster();
        moves(&mut state, SECOND, false);
        attempt(&mut state, 2 * SECOND, RecoveryKind::IntermediatePrimary, 1, false);
        attempt(&mut state, 3 * SECOND, RecoveryKind::Durability, 2, false);
        attempt(&mut state, 4 * SECOND, RecoveryKind::DeadPrimary, 2, false);
        let failed = failed_repairs(&state, &cluster_id(1));
        assert_eq!(failed.len(), 3, "{failed:?}");
        assert!(failed.iter().all(|repair| repair.failures == 1), "{failed:?}");
        assert!(failed_repairs(&state, &cluster_id(2)).is_empty());
        let waits = |kind, n, at| backing_off(&state, &cluster_id(1), kind, &key(n), WallTime(at)).is_some();
        assert!(waits(RecoveryKind::Durability, 2, 7 * SECOND));
        assert!(!waits(RecoveryKind::Durability, 2, 8 * SECOND));
        assert!(!waits(RecoveryKind::Durability, 1, 7 * SECOND));
        assert!(!waits(RecoveryKind::SemiSync, 2, 7 * SECOND));
    }

    #[test]
    fn a_repair_that_gave_way_to_a_replacement_has_not_failed() {
        let mut state = with_cluster();
        let mut moves = plan(1, 2, 3, &[2, 3]);
        moves.kind = RecoveryKind::IntermediatePrimary;
        let claim_of = |uid: &str, plan| Command::Claim {
            claim: Box::new(claim(uid, plan)),
        };
        run(&mut state, SECOND, claim_of("lesser", moves));
        let replaces = run(&mut state, SECOND, claim_of("failover", plan(1, 1, 3, &[1, 2, 3])));
        assert!(matches!(replaces, Applied::Claimed { .. }), "{replaces}");
        assert!(!state.recoveries["lesser"].is_active());
        assert!(failed_repairs(&state, &cluster_id(1)).is_empty());
    }
}
