//! One server identity that is live at two addresses. A statement or a GTID cannot be attributed to one of the two
//! servers, so neither is changed.

use crate::domain::instance::Instance;
use crate::domain::topology::Topology;

/// Start times within this many milliseconds may be the same: uptimes are whole seconds, and the two servers were
/// probed at different moments.
const SAME_START_MILLIS: u64 = 3000;

/// The other answering server with the identity of this one, and the evidence that it is another server and not another
/// address of the same one: host name, data directory or start time differ.
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

/// The description of a server that has a twin.
pub(super) fn duplicate(topology: &Topology, instance: &Instance) -> Option<String> {
    let (twin, why) = twin_of(topology, instance)?;
    let identity = &instance.valid_facts()?.identity;
    Some(format!(
        "{} and {} have the same identity {identity} and are two servers ({why}): neither is promoted, repointed or rejoined",
        instance.key, twin.key
    ))
}
