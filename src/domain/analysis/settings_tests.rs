use crate::domain::analysis::findings;
use crate::domain::finding::Code;
use crate::domain::fixture::{Adjust, NOW, key, mariadb_primary, mariadb_replica, primary, replica, topology};
use crate::domain::instance::Instance;
use crate::domain::policy::{BootReadOnly, Policy};
use crate::domain::settings::{Accounts, Boot, Privileges, ServerSettings};
use crate::domain::topology::Topology;

/// Nothing to complain about.
fn sound() -> ServerSettings {
    ServerSettings {
        sync_binlog: Some(1),
        flush_log_at_commit: Some(1),
        relay_log_recovery: Some(true),
        replica_net_timeout_seconds: Some(4),
        heartbeat_millis: Some(2000),
        boot: Boot::ReadOnly,
        read_only_since_boot: Some(false),
        account: "ham4db@%".to_owned(),
        privileges: Some(Privileges {
            all: true,
            ..Privileges::default()
        }),
        past_read_only: Some(Accounts::default()),
        ..ServerSettings::default()
    }
}

fn set(instance: Instance, change: impl FnOnce(&mut ServerSettings)) -> Instance {
    let mut settings = sound();
    change(&mut settings);
    instance.facts(|facts| facts.settings = Some(settings))
}

fn app() -> Accounts {
    Accounts::of_grantees(["'app'@'%'"], "", "")
}

/// The findings with this code, as text.
fn text(topology: &Topology, policy: &Policy, code: Code) -> Vec<String> {
    findings(topology, policy, &[], NOW)
        .into_iter()
        .filter(|finding| finding.code == code)
        .map(|finding| finding.description)
        .collect()
}

#[test]
fn servers_that_are_set_well_get_no_advice_and_unknown_is_none() {
    let well = topology([set(primary(1, "1:1-9"), |_| {}), set(replica(2, 1, "1:1-9"), |_| {})]);
    let unread = topology([primary(1, "1:1-9"), replica(2, 1, "1:1-9")]);
    for view in [well, unread] {
        assert_eq!(findings(&view, &Policy::default(), &[], NOW), []);
    }
}

#[test]
fn each_unsafe_setting_is_named_with_its_value_the_wanted_one_and_why() {
    type Change = fn(&mut ServerSettings);
    let table: [(Change, &str); 6] = [
        (|set| set.sync_binlog = Some(0), "sync_binlog = 0, recommended 1: "),
        (
            |set| set.flush_log_at_commit = Some(2),
            "innodb_flush_log_at_trx_commit = 2, recommended 1: ",
        ),
        (
            |set| set.relay_log_recovery = Some(false),
            "relay_log_recovery = OFF, recommended ON: ",
        ),
        (
            |set| set.replica_net_timeout_seconds = Some(60),
            "replica_net_timeout = 60, recommended 10 or less: ",
        ),
        (
            |set| set.heartbeat_millis = Some(0),
            "heartbeat period = 0, recommended half of ",
        ),
        (
            |set| set.heartbeat_millis = Some(4000),
            "heartbeat period = 4000 ms, recommended half of ",
        ),
    ];
    for (change, wanted) in table {
        let view = topology([set(primary(1, "1:1-9"), |_| {}), set(replica(2, 1, "1:1-9"), change)]);
        let text = text(&view, &Policy::default(), Code::UnsafeSettings);
        assert!(text.len() == 1 && text[0].contains(wanted), "{wanted}: {text:?}");
    }
}

#[test]
fn a_semi_sync_replica_must_keep_its_relay_log_over_a_restart() {
    let semi_sync = |recovery| {
        set(replica(2, 1, "1:1-9"), |set| set.relay_log_recovery = Some(recovery))
            .facts(|facts| facts.semi_sync.replica_enabled = true)
    };
    let text = |recovery| {
        let view = topology([set(primary(1, "1:1-9"), |_| {}), semi_sync(recovery)]);
        text(&view, &Policy::default(), Code::UnsafeSettings)
    };
    assert!(text(true)[0].contains("relay_log_recovery = ON, recommended OFF"));
    assert_eq!(text(false), [] as [String; 0]);
}

#[test]
fn a_replica_whose_source_side_waits_for_nobody_is_named() {
    let waiting = |clients| {
        replica(2, 1, "1:1-9").facts(|facts| {
            facts.semi_sync.source_enabled = true;
            facts.semi_sync.wait_no_replica = true;
            facts.semi_sync.wait_for_count = 1;
            facts.semi_sync.clients = clients;
        })
    };
    let text = |replica| {
        text(
            &topology([primary(1, "1:1-9"), replica]),
            &Policy::default(),
            Code::UnsafeSettings,
        )
    };
    assert!(text(waiting(0))[0].contains("semi-sync source = enabled"));
    assert_eq!(text(waiting(1)), [] as [String; 0]);
}

#[test]
fn two_servers_with_one_server_id_are_both_named() {
    let twin = replica(3, 1, "1:1-9").facts(|facts| facts.server_id = 2);
    let view = topology([primary(1, "1:1-9"), replica(2, 1, "1:1-9"), twin]);
    let text = text(&view, &Policy::default(), Code::UnsafeSettings);
    assert_eq!(text.len(), 2);
    assert!(
        text[0].contains("server_id = 2, recommended a unique value: db3:3306 has the same"),
        "{text:?}"
    );
}

#[test]
fn a_missing_grant_is_a_statement_to_be_sent() {
    let poor = |set: &mut ServerSettings| {
        set.privileges = Some(Privileges::of_grants([
            "GRANT RELOAD, PROCESS, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `ham4db`@`%`",
            "GRANT REPLICATION_SLAVE_ADMIN ON *.* TO `ham4db`@`%`",
        ]));
    };
    let view = topology([set(primary(1, "1:1-9"), poor), set(replica(2, 1, "1:1-9"), |_| {})]);
    let text = text(&view, &Policy::default(), Code::MissingPrivileges);
    assert_eq!(text.len(), 1);
    assert!(
        text[0].ends_with("GRANT SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'ham4db'@'%'"),
        "{text:?}"
    );
    let by_super = |set: &mut ServerSettings| {
        set.privileges = Some(Privileges::of_grants([
            "GRANT RELOAD, PROCESS, REPLICATION SLAVE, SUPER ON *.* TO `ham4db`@`%`",
        ]));
    };
    let view = topology([set(primary(1, "1:1-9"), by_super)]);
    assert_eq!(findings(&view, &Policy::default(), &[], NOW).len(), 0);
}

#[test]
fn super_stands_for_less_from_one_mariadb_to_the_next() {
    let missing = |version: &str| {
        let poor = set(mariadb_primary(1, "0-1-9"), |set| {
            set.privileges = Some(Privileges::of_grants([
                "GRANT RELOAD, PROCESS, BINLOG MONITOR, SUPER ON *.* TO `ham4db`@`%`",
            ]));
        });
        let poor = poor.facts(|facts| {
            facts.version = crate::domain::version::ServerVersion::parse(version, "").unwrap();
        });
        text(&topology([poor]), &Policy::default(), Code::MissingPrivileges)
    };
    assert_eq!(missing("10.6.5-MariaDB"), [] as [String; 0]);
    assert!(missing("10.11.5-MariaDB")[0].ends_with("GRANT READ_ONLY ADMIN ON *.* TO 'ham4db'@'%'"));
    assert!(missing("11.4.2-MariaDB")[0].contains("CONNECTION ADMIN"));
}

#[test]
fn a_fence_that_accounts_pass_is_said_before_it_is_needed() {
    let text = |instances: Vec<Instance>| text(&topology(instances), &Policy::default(), Code::FenceIneffective);
    let apps = |set: &mut ServerSettings| set.past_read_only = Some(app());
    let mariadb = text(vec![
        set(mariadb_primary(1, "0-1-9"), apps),
        set(mariadb_replica(2, 1, "0-1-9"), |_| {}),
    ]);
    assert_eq!(mariadb.len(), 1);
    assert!(mariadb[0].contains("(app@%)"), "{mariadb:?}");
    // super_read_only stops them on MySQL; read_only alone does not.
    let with_super = |on| {
        text(vec![
            set(primary(1, "1:1-9"), apps),
            set(replica(2, 1, "1:1-9"), apps).facts(|facts| facts.super_read_only = Some(on)),
        ])
    };
    assert_eq!(with_super(true), [] as [String; 0]);
    assert!(with_super(false)[0].starts_with("db2:3306 is read_only and not super_read_only"));
}

#[test]
fn a_fence_that_is_unknown_is_said_before_it_is_needed() {
    let unknown = |set: &mut ServerSettings| {
        set.account = "ham4db@%".to_owned();
        set.past_read_only = None;
    };
    let primary = set(mariadb_primary(1, "0-1-9"), unknown);
    let replica = set(mariadb_replica(2, 1, "0-1-9"), unknown);
    let told = text(
        &topology([primary, replica]),
        &Policy::default(),
        Code::FenceIneffective,
    );
    assert_eq!(
        told,
        [
            "which accounts read_only on db1:3306 would not stop is unknown: use GRANT SELECT ON mysql.global_priv for ham4db@%"
        ]
    );
}

#[test]
fn a_server_that_boots_writable_is_named_unless_nobody_wants_to_know() {
    let view = topology([set(primary(1, "1:1-9"), |set| set.boot = Boot::Writable)]);
    let with = |boot_read_only| {
        let policy = Policy {
            boot_read_only,
            ..Policy::default()
        };
        text(&view, &policy, Code::BootsWritable).len()
    };
    assert_eq!(
        (
            with(BootReadOnly::Advise),
            with(BootReadOnly::Enforce),
            with(BootReadOnly::Off)
        ),
        (1, 1, 0)
    );
}

#[test]
fn a_server_that_could_not_be_attached_for_want_of_an_account_is_named() {
    let view = topology([primary(1, "1:1-9"), replica(2, 1, "1:1-9")]);
    let with = |replication_account| {
        let policy = Policy {
            replication_account,
            ..Policy::default()
        };
        text(&view, &policy, Code::MissingReplicationCredentials)
    };
    assert_eq!(with(None), [] as [String; 0]);
    assert_eq!(with(Some(true)), [] as [String; 0]);
    let text = with(Some(false));
    assert!(
        text.len() == 1 && text[0].starts_with("db1:3306 has no replication channel"),
        "{text:?}"
    );
}

#[test]
fn one_identity_at_two_addresses_is_a_duplicate_only_when_they_are_two_servers() {
    let copy = |change: &dyn Fn(&mut crate::domain::instance::InstanceFacts)| {
        let identity = replica(2, 1, "").facts.unwrap();
        let copy = replica(3, 1, "1:1-9").facts(|facts| {
            facts.identity = identity.identity.clone();
            facts.hostname.clone_from(&identity.hostname);
            facts.data_directory.clone_from(&identity.data_directory);
            change(facts);
        });
        let view = topology([primary(1, "1:1-9"), replica(2, 1, "1:1-9"), copy]);
        let found = findings(&view, &Policy::default(), &[], NOW);
        let about = found.iter().filter(|finding| finding.code == Code::DuplicateIdentity);
        about.map(|finding| finding.instance.clone()).collect::<Vec<_>>()
    };
    assert_eq!(copy(&|_| {}), []);
    assert_eq!(copy(&|facts| facts.uptime_seconds -= 2), []);
    let both = [key(2), key(3)];
    assert_eq!(copy(&|facts| facts.uptime_seconds -= 100), both);
    assert_eq!(copy(&|facts| facts.hostname = "other".to_owned()), both);
    assert_eq!(copy(&|facts| facts.data_directory = "/other/".to_owned()), both);
}

#[test]
fn addresses_that_are_not_dialled_are_told_with_the_first_reasons() {
    use crate::domain::discovery::{NotFollowed, NotFollowedReason};
    use crate::domain::key::InstanceKey;

    let mut named = set(primary(1, "1:1-9"), |_| {});
    named.not_followed = (1..=5)
        .map(|n| NotFollowed::new(&InstanceKey::new(format!("x{n}"), 1), NotFollowedReason::TooMany))
        .collect();
    let view = topology([named, set(replica(2, 1, "1:1-9"), |_| {})]);
    let why = "DiscoveryMaxInstances is reached";
    assert_eq!(
        text(&view, &Policy::default(), Code::UndiscoveredServers),
        [format!(
            "db1:3306 names servers that are not dialled: x1:1: {why}; x2:1: {why}; x3:1: {why}; and 2 more"
        )]
    );
}

#[test]
fn servers_without_verified_tls_are_one_finding_about_the_primary() {
    let text = |unverified: [bool; 2]| {
        let [first, second] = unverified;
        let view = topology([
            primary(1, "1:1-9").facts(|facts| facts.is_unverified = first),
            replica(2, 1, "1:1-9").facts(|facts| facts.is_unverified = second),
        ]);
        text(&view, &Policy::default(), Code::UnverifiedServers)
    };
    assert_eq!(text([false, false]), [] as [String; 0]);
    assert!(text([false, true])[0].starts_with("1 of 2 servers are connected without verified TLS"));
    assert_eq!(text([true, true]).len(), 1);
}
