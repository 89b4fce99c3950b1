//! The data centers of the members that must agree before a repair.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

/// Advice: the loss of one data center takes the majority of the group with it, and so every repair of this cluster.
///
/// That is the case when more than half of the voters are in one data center, while the members and the servers of the
/// cluster are in two or more. Where everything is in one data center, everything fails together, and a single member
/// decides alone. A voter with an unknown data center counts as a voter in no data center.
pub(super) fn in_one_data_center(topology: &Topology, policy: &Policy) -> Option<String> {
    let voters = policy.voters.len();
    if voters < 2 {
        return None;
    }
    let mut members: BTreeMap<&str, usize> = BTreeMap::new();
    for place in policy.voters.values().filter(|place| !place.is_empty()) {
        *members.entry(place).or_default() += 1;
    }
    let (place, count) = members.iter().find(|(_, count)| **count * 2 > voters)?;
    let servers = topology.instances.values().filter_map(|instance| {
        let facts = instance.facts.as_ref()?;
        Some(facts.data_center.as_str()).filter(|place| !place.is_empty())
    });
    let places: BTreeSet<&str> = members.keys().copied().chain(servers).collect();
    (places.len() > 1).then(|| {
        format!(
            "{count} of {voters} members are in data center {place}: when it is lost, nothing is repaired elsewhere; place at most \
             half of them in one data center"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::analysis::findings;
    use crate::domain::finding::Code;
    use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology};

    /// Members m0, m1, ... in these places, one server in each of those.
    fn text(members: &[&str], servers: [&str; 2]) -> Option<String> {
        let [first, second] = servers;
        let topology = topology([
            primary(1, "1:1-100").facts(|facts| first.clone_into(&mut facts.data_center)),
            replica(2, 1, "1:1-100").facts(|facts| second.clone_into(&mut facts.data_center)),
        ]);
        let voters = members.iter().enumerate();
        let policy = Policy {
            voters: voters
                .map(|(n, place)| (format!("m{n}"), (*place).to_owned()))
                .collect(),
            ..Policy::default()
        };
        let found = findings(&topology, &policy, &[], NOW);
        let mut about_members = found
            .iter()
            .filter(|finding| finding.code == Code::QuorumInOneDataCenter);
        let finding = about_members.next()?;
        assert_eq!(finding.instance, key(1), "one finding, about the primary");
        assert!(about_members.next().is_none());
        Some(finding.description.clone())
    }

    #[test]
    fn a_majority_in_one_of_several_data_centres_is_told() {
        assert_eq!(
            text(&["a", "a", "b"], ["a", "a"]).unwrap(),
            "2 of 3 members are in data center a: when it is lost, nothing is repaired elsewhere; place at most half of them \
             in one data center"
        );
        assert!(text(&["a", "a", "a"], ["a", "b"]).is_some(), "a server elsewhere");
        assert!(text(&["a", "a", "a"], ["b", ""]).is_some());
        assert!(
            text(&["a", "a", ""], ["b", ""]).is_some(),
            "two are a majority of three"
        );
    }

    #[test]
    fn what_is_spread_or_all_in_one_place_or_not_known_is_not() {
        for (members, servers) in [
            (&["a", "b", "c"][..], ["a", "a"]),
            (&["a", "a", "b", "b"], ["a", "b"]),
            (&["a", "a", "a"], ["a", ""]),
            (&["a", "a", "a"], ["", ""]),
            (&["a", "", ""], ["a", "b"]),
            (&["", "", ""], ["a", "b"]),
            (&["a"], ["a", "b"]),
            (&[], ["a", "b"]),
        ] {
            assert_eq!(text(members, servers), None, "{members:?} {servers:?}");
        }
    }
}
