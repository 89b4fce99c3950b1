//! Which member probes which instance when members share the probes.
//!
//! An assignment gives every instance to exactly one member. It is a hint, and never a proof: a member that has no
//! current assignment, or hears nothing from the assigned member, probes the instance itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::key::InstanceKey;
use super::state::MemberId;

/// How members share the probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeSharing {
    /// Every member probes every instance.
    #[default]
    Off,
    /// Every instance is probed by one member, whichever has fewest.
    RoundRobin,
    /// Every instance is probed by one member of its data center. Where the data center of an instance is unknown or has
    /// no member, the member with fewest instances probes it.
    DataCenter,
}

impl ProbeSharing {
    /// Reads the value of the configuration key.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "round-robin" => Some(Self::RoundRobin),
            "data-center" => Some(Self::DataCenter),
            _ => None,
        }
    }

    /// Whether probes are shared.
    pub fn is_on(self) -> bool {
        self != Self::Off
    }
}

/// The version of an assignment: a later leader, or a later assignment of the same leader, replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignmentVersion {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its number in that term.
    pub number: u64,
}

/// The member that probes each instance.
pub type Assignment = BTreeMap<InstanceKey, MemberId>;

/// What an assignment is made from.
#[derive(Clone, Debug, Default)]
pub struct AssignmentInputs {
    /// The instances, each with its data center; empty: unknown.
    pub instances: BTreeMap<InstanceKey, String>,
    /// The live members, each with its data center; empty: unknown.
    pub members: BTreeMap<MemberId, String>,
    /// Instances that a member does not reach although another one does.
    pub unreached: BTreeSet<(InstanceKey, MemberId)>,
}

impl AssignmentInputs {
    /// The members that may probe an instance, at least one unless there are no members.
    fn candidates(&self, mode: ProbeSharing, key: &InstanceKey, data_center: &str) -> BTreeSet<MemberId> {
        let reaching: BTreeSet<MemberId> = if self.unreached.is_empty() {
            self.members.keys().copied().collect()
        } else {
            let reaches = |member: &&MemberId| !self.unreached.contains(&(key.clone(), **member));
            self.members.keys().filter(reaches).copied().collect()
        };
        let reaching = if reaching.is_empty() {
            self.members.keys().copied().collect()
        } else {
            reaching
        };
        if mode != ProbeSharing::DataCenter || data_center.is_empty() {
            return reaching;
        }
        let is_near = |member: &&MemberId| self.members.get(*member).is_some_and(|place| place == data_center);
        let near: BTreeSet<MemberId> = reaching.iter().filter(is_near).copied().collect();
        if near.is_empty() { reaching } else { near }
    }
}

/// The instances with the same candidates, by the member that has them.
type Class = BTreeMap<MemberId, BTreeSet<InstanceKey>>;

/// Assigns every instance to one member. Instances stay where they are as long as their member is a candidate and no other
/// candidate has fewer instances by more than one. Without members the result is empty.
pub fn assign(mode: ProbeSharing, inputs: &AssignmentInputs, previous: &Assignment) -> Assignment {
    let mut classes: BTreeMap<BTreeSet<MemberId>, Class> = BTreeMap::new();
    let mut loads: BTreeMap<MemberId, usize> = inputs.members.keys().map(|member| (*member, 0)).collect();
    let mut orphans: Vec<(InstanceKey, BTreeSet<MemberId>)> = Vec::new();
    for (key, data_center) in &inputs.instances {
        let candidates = inputs.candidates(mode, key, data_center);
        match previous.get(key).filter(|member| candidates.contains(member)) {
            Some(member) => {
                *loads.entry(*member).or_default() += 1;
                let class = classes.entry(candidates).or_default();
                class.entry(*member).or_default().insert(key.clone());
            }
            None => orphans.push((key.clone(), candidates)),
        }
    }
    // Those with the least choice first.
    orphans.sort_by_key(|(_, candidates)| candidates.len());
    for (key, candidates) in orphans {
        let Some(member) = least_loaded(&candidates, &loads) else {
            continue;
        };
        *loads.entry(member).or_default() += 1;
        let class = classes.entry(candidates).or_default();
        class.entry(member).or_default().insert(key);
    }
    while move_one(&mut classes, &mut loads) {}
    let members = classes.into_values().flatten();
    members
        .flat_map(|(member, keys)| keys.into_iter().map(move |key| (key, member)))
        .collect()
}

fn least_loaded(candidates: &BTreeSet<MemberId>, loads: &BTreeMap<MemberId, usize>) -> Option<MemberId> {
    let load = |member: &MemberId| loads.get(member).copied().unwrap_or_default();
    candidates.iter().min_by_key(|member| (load(member), **member)).copied()
}

/// Moves one instance from the member that has most to the candidate that has fewest, when the two differ by more than
/// one. Returns whether it did.
fn move_one(classes: &mut BTreeMap<BTreeSet<MemberId>, Class>, loads: &mut BTreeMap<MemberId, usize>) -> bool {
    let load = |member: &MemberId| loads.get(member).copied().unwrap_or_default();
    let mut best: Option<(usize, BTreeSet<MemberId>, MemberId, MemberId)> = None;
    for (candidates, class) in &*classes {
        let Some(to) = least_loaded(candidates, loads) else {
            continue;
        };
        let filled = class.iter().filter(|(_, keys)| !keys.is_empty());
        let Some((from, _)) = filled.max_by_key(|(member, _)| (load(member), **member)) else {
            continue;
        };
        let difference = load(from).saturating_sub(load(&to));
        if difference > 1 && best.as_ref().is_none_or(|(most, ..)| difference > *most) {
            best = Some((difference, candidates.clone(), *from, to));
        }
    }
    let Some((_, candidates, from, to)) = best else {
        return false;
    };
    let moved = classes
        .get_mut(&candidates)
        .and_then(|class| class.get_mut(&from))
        .and_then(BTreeSet::pop_last);
    let (Some(key), Some(class)) = (moved, classes.get_mut(&candidates)) else {
        return false;
    };
    class.entry(to).or_default().insert(key);
    loads.entry(from).and_modify(|load| *load = load.saturating_sub(1));
    *loads.entry(to).or_default() += 1;
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::fixture::key;

    fn inputs(instances: &[(u32, &str)], members: &[(MemberId, &str)]) -> AssignmentInputs {
        AssignmentInputs {
            instances: instances
                .iter()
                .map(|(n, place)| (key(*n), (*place).to_owned()))
                .collect(),
            members: members.iter().map(|(id, place)| (*id, (*place).to_owned())).collect(),
            unreached: BTreeSet::new(),
        }
    }

    fn loads(assignment: &Assignment) -> BTreeMap<MemberId, usize> {
        let mut loads = BTreeMap::new();
        for member in assignment.values() {
            *loads.entry(*member).or_default() += 1;
        }
        loads
    }

    fn moved(before: &Assignment, after: &Assignment) -> Vec<InstanceKey> {
        let is_other = |(key, member): &(&InstanceKey, &MemberId)| after.get(*key) != Some(*member);
        before.iter().filter(is_other).map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn every_instance_has_one_member_and_the_shares_are_equal() {
        let inputs = inputs(
            &[(1, ""), (2, ""), (3, ""), (4, ""), (5, ""), (6, "")],
            &[(1, ""), (2, ""), (3, "")],
        );
        let assignment = assign(ProbeSharing::RoundRobin, &inputs, &Assignment::new());
        assert_eq!(loads(&assignment), BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
    }

    #[test]
    fn nothing_is_assigned_without_members() {
        let inputs = inputs(&[(1, "")], &[]);
        assert_eq!(
            assign(ProbeSharing::RoundRobin, &inputs, &Assignment::new()),
            Assignment::new()
        );
    }

    #[test]
    fn members_of_the_same_data_center_come_first() {
        let servers = [(1, "east"), (2, "east"), (3, "west"), (4, "north"), (5, "")];
        let inputs = inputs(&servers, &[(1, "east"), (2, "west"), (3, "west")]);
        let assignment = assign(ProbeSharing::DataCenter, &inputs, &Assignment::new());
        assert_eq!((assignment[&key(1)], assignment[&key(2)]), (1, 1));
        assert!([2, 3].contains(&assignment[&key(3)]));
        // No member is in the north, and nothing is known of the last one: they even the shares out.
        assert_eq!(loads(&assignment), BTreeMap::from([(1, 2), (2, 2), (3, 1)]));
    }

    #[test]
    fn only_the_share_of_a_member_that_leaves_moves() {
        let servers: Vec<(u32, &str)> = (1..=9).map(|n| (n, "")).collect();
        let three = inputs(&servers, &[(1, ""), (2, ""), (3, "")]);
        let before = assign(ProbeSharing::RoundRobin, &three, &Assignment::new());
        let after = assign(
            ProbeSharing::RoundRobin,
            &inputs(&servers, &[(1, ""), (3, "")]),
            &before,
        );
        assert!(moved(&before, &after).iter().all(|key| before[key] == 2));
        assert_eq!(moved(&before, &after).len(), 3);
        let again = assign(ProbeSharing::RoundRobin, &three, &after);
        assert!(moved(&after, &again).iter().all(|key| again[key] == 2));
        assert_eq!(loads(&again), BTreeMap::from([(1, 3), (2, 3), (3, 3)]));
    }

    #[test]
    fn an_instance_goes_to_a_member_that_reaches_it() {
        let mut inputs = inputs(&[(1, "east")], &[(1, "east"), (2, "west")]);
        let before = assign(ProbeSharing::DataCenter, &inputs, &Assignment::new());
        assert_eq!(before[&key(1)], 1);
        inputs.unreached = BTreeSet::from([(key(1), 1)]);
        let after = assign(ProbeSharing::DataCenter, &inputs, &before);
        assert_eq!(after[&key(1)], 2);
        // Where no member reaches it, one of them goes on trying.
        inputs.unreached = BTreeSet::from([(key(1), 1), (key(1), 2)]);
        assert_eq!(assign(ProbeSharing::DataCenter, &inputs, &after)[&key(1)], 1);
    }

    fn places() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just("c".to_owned())
        ]
    }

    fn arbitrary_inputs() -> impl Strategy<Value = AssignmentInputs> {
        let instances = prop::collection::btree_map((1_u32..60).prop_map(key), places(), 0..50);
        let members = prop::collection::btree_map(1_u64..8, places(), 1..6);
        let unreached = prop::collection::btree_set(((1_u32..60).prop_map(key), 1_u64..8), 0..6);
        (instances, members, unreached).prop_map(|(instances, members, unreached)| AssignmentInputs {
            instances,
            members,
            unreached,
        })
    }

    fn modes() -> impl Strategy<Value = ProbeSharing> {
        prop_oneof![Just(ProbeSharing::RoundRobin), Just(ProbeSharing::DataCenter)]
    }

    proptest! {
        #[test]
        fn assignments_are_complete_allowed_balanced_and_stable(
            mode in modes(),
            first in arbitrary_inputs(),
            second in arbitrary_inputs(),
        ) {
            let before = assign(mode, &first, &Assignment::new());
            let after = assign(mode, &second, &before);
            prop_assert!(after.keys().eq(second.instances.keys()));
            let loads = loads(&after);
            let load = |member: &MemberId| loads.get(member).copied().unwrap_or_default();
            for (key, member) in &after {
                let candidates = second.candidates(mode, key, &second.instances[key]);
                prop_assert!(candidates.contains(member));
                for other in &candidates {
                    prop_assert!(load(member) <= load(other) + 1, "{key} could move from {member} to {other}");
                }
            }
            prop_assert_eq!(&assign(mode, &second, &after), &after);
        }

        #[test]
        fn who_comes_or_goes_moves_only_what_must_move(servers in 1_u32..60, members in 2_u64..6, gone in 1_u64..6) {
            let servers: Vec<(u32, &str)> = (1..=servers).map(|n| (n, "")).collect();
            let all: Vec<(MemberId, &str)> = (1..=members).map(|id| (id, "")).collect();
            let gone = gone.min(members);
            let rest: Vec<(MemberId, &str)> = all.iter().filter(|(id, _)| *id != gone).copied().collect();
            let before = assign(ProbeSharing::RoundRobin, &inputs(&servers, &all), &Assignment::new());
            let without = assign(ProbeSharing::RoundRobin, &inputs(&servers, &rest), &before);
            prop_assert!(moved(&before, &without).iter().all(|key| before[key] == gone));
            let again = assign(ProbeSharing::RoundRobin, &inputs(&servers, &all), &without);
            prop_assert!(moved(&without, &again).iter().all(|key| again[key] == gone));
        }
    }
}
