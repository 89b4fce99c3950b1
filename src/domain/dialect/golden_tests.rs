//! The text of every statement for every supported version, against files that were read by a
//! person.

use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::domain::gtid::{GtidSet, MariaDbGtidSet};
use crate::domain::scheduled_events::{EventDefinition, ScheduledEvent};
use crate::domain::version::Flavour;

/// The statements of one version, a line each, under the names of the methods.
struct Listing(String);

impl Listing {
    fn line(&mut self, name: &str, statement: impl AsRef<str>) {
        writeln!(self.0, "{name}: {}", statement.as_ref()).unwrap();
    }

    fn maybe(&mut self, name: &str, statement: Option<impl AsRef<str>>) {
        match statement {
            Some(statement) => self.line(name, statement),
            None => self.line(name, "(none)"),
        }
    }
}

fn every_statement(version: &str, comment: &str) -> String {
    let version = ServerVersion::parse(version, comment).unwrap();
    let dialect = Dialect::new(&version);
    let mut listing = Listing(format!("-- {version}\n"));
    list_server_statements(&dialect, &mut listing);
    for channel in ["", "o'ne"] {
        list_thread_statements(&dialect, channel, &mut listing);
    }
    list_gtid_statements(&dialect, version.flavour, &mut listing);
    list_source_statements(&dialect, &mut listing);
    list_semi_sync_statements(&dialect, &mut listing);
    list_privileges(&dialect, &mut listing);
    list_event_and_lock_statements(&dialect, &mut listing);
    listing.0
}

fn list_server_statements(dialect: &Dialect, to: &mut Listing) {
    to.line("show_replica_status", dialect.show_replica_status());
    to.line("show_binary_log_status", dialect.show_binary_log_status());
    to.line("show_replicas", dialect.show_replicas());
    to.line(
        "select_binlog_dump_connections",
        dialect.select_binlog_dump_connections(),
    );
    to.line("select_client_connections", dialect.select_client_connections());
    to.line("select_waiting_commits", dialect.select_waiting_commits());
    to.line("select_open_transactions", dialect.select_open_transactions());
    to.line("kill", dialect.kill(42));
    to.line("get_lock", dialect.get_lock("ham4db.step", 2));
    to.line("release_lock", dialect.release_lock("ham4db.step"));
    to.line("is_used_lock", dialect.is_used_lock("ham4db.step"));
    to.line("set_read_only on", dialect.set_read_only(true).join("; "));
    to.line("set_read_only off", dialect.set_read_only(false).join("; "));
    to.maybe("set_boot_read_only on", dialect.set_boot_read_only(true));
    to.maybe("set_boot_read_only off", dialect.set_boot_read_only(false));
}

fn list_event_and_lock_statements(dialect: &Dialect, to: &mut Listing) {
    let definition = |name: &str, character_set: &str| EventDefinition {
        event: ScheduledEvent {
            schema: "app".to_owned(),
            name: name.to_owned(),
        },
        definer: "o'ne@%".to_owned(),
        character_set: character_set.to_owned(),
        collation: "utf8mb4_bin".to_owned(),
    };
    to.line("select_enabled_events", dialect.select_enabled_events());
    for status in [EventStatus::Enabled, EventStatus::DisabledOnReplica] {
        let name = format!("select_event_definitions {status:?}");
        to.line(&name, dialect.select_event_definitions(status));
        let usual = definition("e`1", "utf8mb4");
        to.line(&format!("alter_event {status:?}"), dialect.alter_event(&usual, status));
    }
    for (name, character_set) in [
        ("e", "utf8mb4"),
        ("e", "latin1"),
        ("é", "utf8mb4"),
        ("é", "latin1"),
        ("e", "x; y"),
    ] {
        let definition = definition(name, character_set);
        to.maybe(
            &format!("set_event_character_set {name} {character_set}"),
            dialect.set_event_character_set(&definition),
        );
    }
    to.line(
        "runs_events_while_read_only",
        dialect.runs_events_while_read_only().to_string(),
    );
    to.line("set_session_binlog off", dialect.set_session_binlog(false));
    to.line("set_lock_wait", dialect.set_lock_wait(0));
    to.line(
        "select_sessions_that_block_read_only",
        dialect.select_sessions_that_block_read_only(),
    );
    to.line(
        "select_sessions_that_may_block_read_only",
        dialect.select_sessions_that_may_block_read_only(3),
    );
    to.line(
        "count_appliers_waiting_for_backup",
        dialect.count_appliers_waiting_for_backup(),
    );
    to.maybe(
        "select_sessions_with_backup_lock",
        dialect.select_sessions_with_backup_lock(),
    );
}

fn list_thread_statements(dialect: &Dialect, channel: &str, to: &mut Listing) {
    to.line("start_replica", dialect.start_replica(channel));
    to.line("stop_replica", dialect.stop_replica(channel));
    to.line("start_io_thread", dialect.start_io_thread(channel));
    to.line("stop_io_thread", dialect.stop_io_thread(channel));
    to.line("start_sql_thread", dialect.start_sql_thread(channel));
    to.line("stop_sql_thread", dialect.stop_sql_thread(channel));
    to.line("reset_replica_all", dialect.reset_replica_all(channel));
    to.maybe(
        "select_replication_account",
        dialect.select_replication_account(channel),
    );
    let rescue = dialect.relay_log_rescue(channel, "relay-bin.000002", 4);
    to.maybe("relay_log_rescue", rescue.map(|both| both.join("; ")));
    let at_once = dialect.apply_without_delay(channel, "relay-bin.000002", 4);
    to.line("apply_without_delay", at_once.join("; "));
    to.line("delay_by", dialect.delay_by(channel, 3600));
}

fn list_gtid_statements(dialect: &Dialect, flavour: Flavour, to: &mut Listing) {
    let set = if flavour.is_mariadb() {
        "0-1-100,0-2-105,1-1-7"
    } else {
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5"
    };
    let set = GtidSet::parse(flavour, set).unwrap();
    to.line(
        "wait_for_executed_gtid_set",
        dialect.wait_for_executed_gtid_set(&set, 5),
    );
    let nothing = GtidSet::empty(flavour);
    to.line(
        "wait_for_executed_gtid_set 0",
        dialect.wait_for_executed_gtid_set(&nothing, 0),
    );
    let position = MariaDbGtidSet::parse("0-1-100,0-2-105").unwrap();
    to.maybe("set_gtid_slave_position", dialect.set_gtid_slave_position(&position));
}

fn list_source_statements(dialect: &Dialect, to: &mut Listing) {
    let full = ChangeSource {
        channel: "one",
        host: "db2.example",
        port: 3307,
        user: Some("repl"),
        password: Some("it's"),
        position: SourcePosition::Gtid,
        tls: SourceTls::Off,
        connect_retry: Some(1),
        retry_count: Some(0),
        heartbeat_period: Some(Duration::from_millis(500)),
    };
    let bare = ChangeSource {
        channel: "",
        user: None,
        password: None,
        position: SourcePosition::Keep,
        tls: SourceTls::Keep,
        connect_retry: None,
        retry_count: None,
        heartbeat_period: None,
        ..full.clone()
    };
    let current = ChangeSource {
        position: SourcePosition::GtidCurrent,
        tls: SourceTls::On,
        ..bare.clone()
    };
    let by_file = ChangeSource {
        position: SourcePosition::File {
            file: "binlog.000007".to_owned(),
            position: 157,
        },
        ..bare.clone()
    };
    to.line("change_source full", dialect.change_source(&full).expose());
    to.line("change_source full, shown", dialect.change_source(&full).to_string());
    to.line("change_source bare", dialect.change_source(&bare).expose());
    to.line("change_source current, tls", dialect.change_source(&current).expose());
    to.line("change_source by file", dialect.change_source(&by_file).expose());
}

fn list_semi_sync_statements(dialect: &Dialect, to: &mut Listing) {
    to.line("show_semi_sync_variables", dialect.show_semi_sync_variables());
    to.line("show_semi_sync_status", dialect.show_semi_sync_status());
    for names in dialect.semi_sync_source_candidates() {
        to.line("set_semi_sync_source on", dialect.set_semi_sync_source(names, true));
        to.line("set_semi_sync_source off", dialect.set_semi_sync_source(names, false));
        to.line("set_semi_sync_timeout", dialect.set_semi_sync_timeout(names, 10_000));
        let count = dialect.set_semi_sync_wait_for_replica_count(names, 2);
        to.maybe("set_semi_sync_wait_for_replica_count", count);
        let others = [names.wait_no_replica, names.wait_point, names.status, names.clients];
        to.line("semi-sync source names", others.join(" "));
    }
    for names in dialect.semi_sync_replica_candidates() {
        to.line("set_semi_sync_replica on", dialect.set_semi_sync_replica(names, true));
        to.line("set_semi_sync_replica off", dialect.set_semi_sync_replica(names, false));
        to.line("semi-sync replica names", names.status);
    }
}

fn list_privileges(dialect: &Dialect, to: &mut Listing) {
    for PrivilegeRequirement { privilege, or, purpose } in dialect.required_privileges() {
        let either = [&[privilege], or].concat().join(" or ");
        to.line("needs", format!("{either}: {purpose}"));
    }
    to.line("show_grants", dialect.show_grants());
    to.line("select_own_account", dialect.select_own_account());
    to.line(
        "select_accounts_past_read_only",
        dialect.select_accounts_past_read_only(),
    );
    to.maybe("select_persisted_read_only", dialect.select_persisted_read_only());
    to.maybe("select_read_only_sources", dialect.select_read_only_sources());
    to.line("select_heartbeat_period", dialect.select_heartbeat_period());
    to.line("look_at_owner", dialect.select_owner("c0ffee"));
    to.line("take_ownership", dialect.acquire_ownership("c0ffee"));
    to.line("select_connection", dialect.select_connection(42));
    to.line("grant", dialect.grant(&["RELOAD", "PROCESS"], "ham'4db@10.%"));
}

fn compare(version: &str, comment: &str, golden: &str) {
    let actual = every_statement(version, comment);
    let first_difference = actual
        .lines()
        .zip(golden.lines())
        .find(|(actual, golden)| actual != golden);
    assert_eq!(
        actual, golden,
        "{version}: the first line that differs: {first_difference:#?}"
    );
}

#[test]
fn every_statement_is_the_one_its_version_understands() {
    let table = [
        ("5.7.44-log", "MySQL", include_str!("golden/mysql-5.7.44.txt")),
        ("8.0.20", "MySQL", include_str!("golden/mysql-8.0.20.txt")),
        ("8.0.36-28", "Percona Server", include_str!("golden/percona-8.0.36.txt")),
        ("8.4.8", "MySQL", include_str!("golden/mysql-8.4.8.txt")),
        ("9.7.4", "MySQL", include_str!("golden/mysql-9.7.4.txt")),
        ("10.5.29-MariaDB", "", include_str!("golden/mariadb-10.5.29.txt")),
        ("10.11.19-MariaDB", "", include_str!("golden/mariadb-10.11.19.txt")),
        ("11.8.2-MariaDB", "", include_str!("golden/mariadb-11.8.2.txt")),
    ];
    for (version, comment, golden) in table {
        compare(version, comment, golden);
    }
}

#[test]
fn percona_server_speaks_as_the_mysql_of_its_number() {
    let of = |comment: &str| every_statement("8.0.36", comment).replacen(&Flavour::Percona.to_string(), "MySQL", 1);
    assert_eq!(of("Percona Server"), of("MySQL Community Server"));
}

#[test]
fn servers_without_the_old_words_never_hear_them() {
    for version in ["8.4.8", "9.7.4", "26.10.0"] {
        let old_plugins_apart = every_statement(version, "");
        // Privileges have kept their names.
        let statements = old_plugins_apart
            .lines()
            .filter(|line| !line.contains("semi") && !line.starts_with("needs: "));
        for line in statements {
            assert!(!line.contains("SLAVE") && !line.contains("MASTER"), "{version}: {line}");
        }
    }
}
