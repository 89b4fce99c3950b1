//! Topologies for tests, in a few words. Server `n` is `dbN:3306`; transactions are written `1:1-100` for those of server 1.

use std::collections::BTreeMap;

use super::gtid::GtidSet;
use super::instance::{
    Channel, Identity, Instance, InstanceFacts, Positioning, ProbeFailure, SemiSync, ThreadError, ThreadState,
};
use super::key::InstanceKey;
use super::time::WallTime;
use super::topology::{ClusterId, Topology};
use super::version::{Flavour, ServerVersion};

pub(crate) const NOW: WallTime = WallTime(1_800_000_000_000);

pub(crate) fn key(n: u32) -> InstanceKey {
    InstanceKey::new(format!("db{n}"), 3306)
}

pub(crate) fn uuid(n: u32) -> String {
    format!("{n:08}-0000-0000-0000-000000000000")
}

/// `1:1-100,2:1-3` as a MySQL set.
pub(crate) fn mysql_set(text: &str) -> GtidSet {
    let entries: Vec<String> = text
        .split(',')
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (server, intervals) = entry.split_once(':').expect("SERVER:INTERVALS");
            format!("{}:{intervals}", uuid(server.parse().expect("a number")))
        })
        .collect();
    GtidSet::parse(Flavour::MySql, &entries.join(",")).expect("a readable set")
}

pub(crate) fn mariadb_set(text: &str) -> GtidSet {
    GtidSet::parse(Flavour::MariaDb, text).expect("a readable set")
}

fn facts(n: u32, flavour: Flavour, executed: GtidSet) -> InstanceFacts {
    let is_mariadb = flavour.is_mariadb();
    let version = if is_mariadb {
        ServerVersion::parse("10.11.19-MariaDB-log", "")
    } else {
        ServerVersion::parse("9.7.4", "MySQL")
    };
    InstanceFacts {
        identity: if is_mariadb {
            Identity::ServerId(n)
        } else {
            Identity::ServerUuid(uuid(n))
        },
        hostname: format!("db{n}"),
        reported: None,
        version: version.expect("a readable version"),
        version_comment: String::new(),
        server_id: n,
        uptime_seconds: 1000,
        started: None,
        read_only: true,
        super_read_only: None,
        log_bin: true,
        log_replica_updates: true,
        binlog_format: "ROW".to_owned(),
        binlog_row_image: "FULL".to_owned(),
        binlog: None,
        gtid_mode: if is_mariadb { String::new() } else { "ON".to_owned() },
        executed,
        purged: GtidSet::empty(flavour),
        channels: Vec::new(),
        semi_sync: SemiSync::default(),
        replicas: Vec::new(),
        replication_credentials_available: true,
        uses_pseudo_gtid: false,
        data_center: String::new(),
        region: String::new(),
        environment: String::new(),
        data_directory: format!("/data/{n}/"),
        settings: None,
        group_name: String::new(),
        group: None,
        peer: None,
        is_unverified: false,
        by_admin_endpoint: false,
        other_channels: Vec::new(),
        problems: Vec::new(),
    }
}

fn seen(n: u32, facts: InstanceFacts) -> Instance {
    Instance {
        facts: Some(facts),
        last_seen: Some(NOW),
        last_checked: Some(NOW),
        ..Instance::unseen(key(n))
    }
}

/// A writable MySQL primary.
pub(crate) fn primary(n: u32, executed: &str) -> Instance {
    seen(
        n,
        InstanceFacts {
            read_only: false,
            ..facts(n, Flavour::MySql, mysql_set(executed))
        },
    )
}

/// A healthy MySQL replica.
pub(crate) fn replica(n: u32, source: u32, executed: &str) -> Instance {
    let facts = facts(n, Flavour::MySql, mysql_set(executed));
    seen(
        n,
        InstanceFacts {
            channels: vec![channel(source, Positioning::AutoPosition)],
            ..facts
        },
    )
}

pub(crate) fn mariadb_primary(n: u32, executed: &str) -> Instance {
    seen(
        n,
        InstanceFacts {
            read_only: false,
            ..facts(n, Flavour::MariaDb, mariadb_set(executed))
        },
    )
}

pub(crate) fn mariadb_replica(n: u32, source: u32, executed: &str) -> Instance {
    let facts = facts(n, Flavour::MariaDb, mariadb_set(executed));
    seen(
        n,
        InstanceFacts {
            channels: vec![channel(source, Positioning::SlavePos)],
            ..facts
        },
    )
}

fn channel(source: u32, positioning: Positioning) -> Channel {
    Channel {
        name: String::new(),
        source: key(source),
        source_uuid: (positioning == Positioning::AutoPosition).then(|| uuid(source)),
        source_server_id: source,
        user: "repl".to_owned(),
        io: ThreadState::Running,
        sql: ThreadState::Running,
        io_error: ThreadError::default(),
        sql_error: ThreadError::default(),
        read: super::instance::BinlogCoordinates::default(),
        exec: super::instance::BinlogCoordinates::default(),
        relay: super::instance::BinlogCoordinates::default(),
        retrieved: None,
        heartbeats: None,
        positioning,
        lag_seconds: Some(0),
        delay_seconds: 0,
        filtered: false,
        tls: false,
        get_source_public_key: false,
    }
}

/// Small changes to an instance, in the order of a sentence.
pub(crate) trait Adjust: Sized {
    fn facts(self, change: impl FnOnce(&mut InstanceFacts)) -> Self;
    fn failing(self, failure: ProbeFailure) -> Self;

    /// Its process was killed.
    fn dead(self) -> Self {
        self.failing(ProbeFailure::Refused)
    }

    fn channel(self, change: impl FnOnce(&mut Channel)) -> Self {
        self.facts(|facts| change(facts.channels.first_mut().expect("a replica")))
    }

    /// It cannot reach its source.
    fn cut(self) -> Self {
        self.channel(|channel| {
            channel.io = ThreadState::Connecting;
            channel.io_error = ThreadError {
                number: 2003,
                message: "cannot connect".to_owned(),
            };
            channel.lag_seconds = None;
        })
    }

    /// It received these and has not applied them.
    fn received(self, set: &str) -> Self {
        self.channel(|channel| channel.retrieved = Some(mysql_set(set)))
    }
}

impl Adjust for Instance {
    fn facts(mut self, change: impl FnOnce(&mut InstanceFacts)) -> Self {
        change(self.facts.as_mut().expect("a seen instance"));
        self
    }

    fn failing(mut self, failure: ProbeFailure) -> Self {
        self.failure = Some(failure);
        self
    }
}

/// A cluster whose recorded primary is server 1.
pub(crate) fn topology(instances: impl IntoIterator<Item = Instance>) -> Topology {
    let instances: BTreeMap<InstanceKey, Instance> = instances
        .into_iter()
        .map(|instance| (instance.key.clone(), instance))
        .collect();
    Topology {
        cluster: ClusterId("c1".to_owned()),
        cluster_name: key(1).to_string(),
        cluster_alias: "shop".to_owned(),
        recorded_primary: Some(key(1)),
        taken: NOW,
        instances,
        aliases: BTreeMap::new(),
    }
}
