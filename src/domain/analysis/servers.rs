//! Findings about single servers, whatever their place in the topology: identity, privileges, settings, other
//! controllers.

use crate::domain::dialect::OWNER_LOCK;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::instance::Instance;
use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

use super::{current_primary, evidence, identity, quorum, settings};

/// All findings, at most one for each server and code.
pub(super) fn findings(topology: &Topology, policy: &Policy) -> Vec<Finding> {
    let current = current_primary(topology);
    let mut found = Vec::new();
    for instance in topology.instances.values() {
        let duplicate = identity::duplicate(topology, instance).map(|why| (Code::DuplicateIdentity, why));
        let controller = instance
            .another_controller
            .as_ref()
            .filter(|_| current.as_ref() == Some(&instance.key));
        let controller = controller.map(|holder| {
            let text = format!(
                "{} is owned by another controller ({holder} holds {OWNER_LOCK}): this group does not repair the cluster",
                instance.key
            );
            (Code::AnotherController, text)
        });
        let quorum = (current.as_ref() == Some(&instance.key)).then(|| quorum::in_one_data_center(topology, policy));
        let quorum = quorum.flatten().map(|text| (Code::QuorumInOneDataCenter, text));
        let undiscovered = undiscovered(instance).map(|text| (Code::UndiscoveredServers, text));
        let unverified = (current.as_ref() == Some(&instance.key)).then(|| settings::unverified_servers(topology));
        let unverified = unverified.flatten().map(|text| (Code::UnverifiedServers, text));
        for (code, description) in controller
            .into_iter()
            .chain(duplicate)
            .chain(settings::advice(topology, policy, instance))
            .chain(quorum)
            .chain(undiscovered)
            .chain(unverified)
        {
            found.push(finding(topology, policy, instance, code, description));
        }
    }
    found
}

/// The addresses that a server names and that are not dialled.
fn undiscovered(instance: &Instance) -> Option<String> {
    /// More would make the text unreadable; `/api/undiscovered` has all.
    const SHOWN: usize = 3;
    let all = &instance.not_followed;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(SHOWN);
    let more = if more == 0 {
        String::new()
    } else {
        format!("; and {more} more")
    };
    (!shown.is_empty()).then(|| {
        format!(
            "{} names servers that are not dialled: {}{more}",
            instance.key,
            shown.join("; ")
        )
    })
}

fn finding(topology: &Topology, policy: &Policy, instance: &Instance, code: Code, description: String) -> Finding {
    Finding {
        code,
        instance: instance.key.clone(),
        cluster: topology.cluster.clone(),
        description,
        evidence: Evidence {
            last_check_valid: instance.is_valid(),
            last_check_partial: instance.partial,
            is_primary: instance.source().is_none(),
            depth: topology.depth_of(instance),
            ..Evidence::default()
        },
        structure: Vec::new(),
        downtimed: evidence::is_downtimed(topology, policy, &instance.key),
        replicas_downtimed: false,
    }
}
