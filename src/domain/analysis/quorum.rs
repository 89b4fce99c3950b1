//! Where the members are that have to agree before anything is repaired.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

/// Says that the loss of one data centre takes the group its majority, and with it every repair of this cluster.
///
/// It does when more than half of the voters are in one data centre, while the members and the servers of the cluster are in two at
/// least: what is in one place altogether fails altogether, and a lone member decides alone. Voters whose data centre is not known are
/// voters, and in no data centre.
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
            "{count} of {voters} members are in data centre {place}: when it is lost, nothing is repaired elsewhere; put no more than \
             half of them into one data centre"
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
    fn told(members: &[&str], servers: [&str; 2]) -> Option<String> {
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
            told(&["a", "a", "b"], ["a", "a"]).unwrap(),
            "2 of 3 members are in data centre a: when it is lost, nothing is repaired elsewhere; put no more than half of them into \
             one data centre"
        );
        assert!(told(&["a", "a", "a"], ["a", "b"]).is_some(), "a server elsewhere");
        assert!(told(&["a", "a", "a"], ["b", ""]).is_some());
        assert!(
            told(&["a", "a", ""], ["b", ""]).is_some(),
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
            assert_eq!(told(members, servers), None, "{members:?} {servers:?}");
        }
    }
}
