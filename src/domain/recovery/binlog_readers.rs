//! The replicas that read one server's binary log, where their channels use file and position.
//!
//! Positions in one and the same log are all that can be compared without GTIDs. A binlog server passes its source's
//! log on unchanged, so its replicas read that log as well.

use std::collections::BTreeSet;

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

/// The replicas that read this server's binary log, from it or through binlog servers. Binlog servers themselves are
/// not among them: they execute nothing.
pub(super) fn readers<'a>(topology: &'a Topology, of: &'a InstanceKey) -> Vec<&'a Instance> {
    let (servers, mut found): (Vec<&Instance>, Vec<&Instance>) =
        topology.replicas_of(of).partition(|replica| is_binlog_server(replica));
    let mut seen: BTreeSet<&InstanceKey> = servers.iter().map(|server| &server.key).collect();
    let mut waiting = servers;
    while let Some(server) = waiting.pop() {
        for replica in topology.replicas_of(&server.key) {
            if !is_binlog_server(replica) {
                found.push(replica);
            } else if seen.insert(&replica.key) {
                waiting.push(replica);
            }
        }
    }
    found
}

/// Whether it is a binlog server by its last facts: a server that is gone still shows what is below it.
pub(super) fn is_binlog_server(instance: &Instance) -> bool {
    instance.facts.as_ref().is_some_and(InstanceFacts::is_binlog_server)
}

/// The binlog servers that serve a server's log, directly or through others.
pub(super) fn binlog_servers<'a>(topology: &'a Topology, of: &'a InstanceKey) -> Vec<&'a Instance> {
    let is_served = |instance: &&Instance| {
        let mut above = topology.source_of(instance);
        for _ in 0..topology.instances.len() {
            match above {
                Some(key) if key == of => return true,
                Some(key) => {
                    let next = topology.get(key).filter(|next| is_binlog_server(next));
                    above = next.and_then(|next| topology.source_of(next));
                }
                None => return false,
            }
        }
        false
    };
    topology
        .instances
        .values()
        .filter(|instance| is_binlog_server(instance))
        .filter(is_served)
        .collect()
}

/// Up to where a replica received its source's log.
pub(super) fn received_up_to(facts: &InstanceFacts) -> &BinlogCoordinates {
    static NOTHING: BinlogCoordinates = BinlogCoordinates {
        file: String::new(),
        position: 0,
    };
    facts.managed_channel().map_or(&NOTHING, |channel| &channel.read)
}

/// Whether a replica can follow by GTID although its channel does not use it.
pub(super) fn follows_by_gtid(replica: &InstanceFacts, source: &InstanceFacts) -> bool {
    let has_gtid = |facts: &InstanceFacts| match facts.executed {
        GtidSet::MariaDb(_) => true,
        GtidSet::MySql(_) => facts.gtid_mode == "ON",
    };
    has_gtid(replica) && has_gtid(source)
}
