//! One server identity, live at two addresses: which of the two a statement or a GTID means cannot be told, so neither is touched.

use crate::domain::instance::Instance;
use crate::domain::topology::Topology;

/// Start times that lie so close together, milliseconds, may be one: uptimes are whole seconds, and the two were asked at different
/// moments.
const SAME_START_MILLIS: u64 = 3000;

/// The other server of the topology that answers and has the identity of this one, with what proves that it is not the same server
/// under another address: host name, data directory or start time differ.
pub fn twin_of<'a>(topology: &'a Topology, instance: &Instance) -> Option<(&'a Instance, String)> {
    let own = instance.valid_facts()?;
    topology
        .instances
        .values()
        .filter(|other| other.key != instance.key)
        .find_map(|other| {
            let facts = other.valid_facts().filter(|facts| facts.identity == own.identity)?;
            let differ = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
            let why = if differ(&own.hostname, &facts.hostname) {
                format!("host names {} and {}", own.hostname, facts.hostname)
            } else if differ(&own.data_directory, &facts.data_directory) {
                format!("data directories {} and {}", own.data_directory, facts.data_directory)
            } else {
                let (mine, theirs) = (instance.started()?, other.started()?);
                let apart = mine.millis_since(theirs).max(theirs.millis_since(mine));
                if apart <= SAME_START_MILLIS {
                    return None;
                }
                format!("started {} s apart", apart / 1000)
            };
            Some((other, why))
        })
}

/// What is said of a server that has a twin.
pub(super) fn duplicate(topology: &Topology, instance: &Instance) -> Option<String> {
    let (twin, why) = twin_of(topology, instance)?;
    let identity = &instance.valid_facts()?.identity;
    Some(format!(
        "{} and {} both are {identity}, and are two servers ({why}): neither is promoted, repointed or rejoined",
        instance.key, twin.key
    ))
}
