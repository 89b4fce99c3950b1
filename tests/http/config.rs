//! The configuration: what is read, what is refused and how, and the reference page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ham4db::app::ports::TlsMode;
use ham4db::config::settings::BackendDatabase;
use ham4db::config::{Environment, File, Settings, load, reference, search, settle};
use ham4db::domain::hooks::HookList;
use ham4db::domain::policy::RecoveryQuorum;
use ham4db::domain::probe_assignment::ProbeSharing;
use secrecy::ExposeSecret;

fn environment() -> Environment {
    Environment {
        variables: BTreeMap::from([("TOPOLOGY_PASSWORD".to_owned(), "s3cret-of-env".to_owned())]),
        hostname: "ham4db-1".to_owned(),
    }
}

fn parse(text: &str) -> Result<Settings, String> {
    let mut file = File::default();
    file.merge(Path::new("test.json"), text)
        .map_err(|error| error.to_string())?;
    settle(&file, &environment()).map_err(|error| error.to_string())
}

fn good(text: &str) -> Settings {
    parse(text).unwrap()
}

/// The warning that is logged at startup unless a token file is configured.
const OPEN: &str = "configuration: the API at :3000 accepts unauthenticated changes; set APIWriteTokenFile";

fn with(more: &str) -> String {
    format!(
        r#"{{"APIOpen": true, "SQLite3DataFile": "/tmp/x.db"{}{more}}}"#,
        if more.is_empty() { "" } else { ", " }
    )
}

#[test]
fn defaults_are_those_of_orchestrator_unless_documented() {
    let settings = good(&with(""));
    assert_eq!(settings.http.listen, ":3000");
    assert_eq!(settings.http.advertise, "http://127.0.0.1:3000");
    assert_eq!(settings.discovery.poll, Duration::from_secs(5));
    assert_eq!(settings.discovery.pulse, Duration::from_millis(100));
    assert_eq!(settings.recovery.block, Duration::from_hours(1));
    assert_eq!(settings.recovery.quorum, RecoveryQuorum::Leader);
    assert!(!settings.recovery.primaries.matches("db1:3306", "shop"));
    assert_eq!(settings.topology.tls, TlsMode::Preferred);
    assert!(settings.raft.is_none() && settings.topology.account.is_none());
    assert!(settings.http.write_tokens.is_none() && settings.http.health_listen.is_none());
    assert_eq!(settings.warnings, [OPEN]);
}

#[test]
fn a_wrong_type_names_file_line_key_and_what_was_expected() {
    for (text, expected) in [
        (
            "{\n \"InstancePollSeconds\": \"5\"\n}",
            "configuration file test.json, line 2: InstancePollSeconds: invalid type: string \"5\", expected u32",
        ),
        (
            "{\n\n \"RaftNodes\": [\"a\", 7]\n}",
            "configuration file test.json, line 3: RaftNodes[1]: invalid type: integer `7`, expected a string",
        ),
        (
            "{\"Kubernetes\": {\"Enabled\": 1}}",
            "configuration file test.json, line 1: Kubernetes.Enabled: invalid type: integer `1`, expected a boolean",
        ),
        (
            "{\n \"EnableSyslog\": \"yes\"}",
            "configuration file test.json, line 2: EnableSyslog: invalid type, expected a boolean",
        ),
        (
            "{\"ListenAddress\": \":3000\",}",
            "configuration file test.json, line 1: trailing comma",
        ),
        (
            "[]",
            "configuration file test.json, line 1: invalid type: sequence, expected an object of configuration keys",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn no_secret_is_in_an_error_or_in_debug() {
    let error = parse(r#"{"MySQLTopologyPassword": 8675309}"#).unwrap_err();
    assert!(
        error.contains("MySQLTopologyPassword") && !error.contains("8675309"),
        "{error}"
    );
    let error = parse(r#"{"HTTPAuthPassword": 8675309}"#).unwrap_err();
    assert!(
        error.contains("HTTPAuthPassword") && !error.contains("8675309"),
        "{error}"
    );
    let mut file = File::default();
    let text = with(
        r#""MySQLTopologyUser": "u", "MySQLTopologyPassword": "hunter-2", "ConsulAclToken": "hunter-3",
             "ConsulAddress": "consul:8500", "OAuthClientSecret": "hunter-4", "EtcdUser": "u", "EtcdPassword": "hunter-5",
             "EtcdEndpoints": ["http://etcd:2379"], "ZkDigest": "u:hunter-6", "ZkAddress": "zk", "ProxySQLAdminPassword": "hunter-7",
             "ProxySQLAdminAddress": "p", "ProxySQLWriterHostgroup": 1"#,
    );
    file.merge(Path::new("test.json"), &text).unwrap();
    let settings = settle(&file, &environment()).unwrap();
    let shown = format!("{file:?} {settings:?} {}", settings.warnings.join(" "));
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(settings.warnings[0].contains("OAuthClientSecret"));
}

#[test]
fn case_of_keys_does_not_matter_and_null_leaves_the_default() {
    let settings = good(
        r#"{"apiopen": true, "sqlite3datafile": "x.db", "instancepollseconds": 7, "URLPREFIX": "db/", "ListenAddress": null}"#,
    );
    assert_eq!(settings.discovery.poll, Duration::from_secs(7));
    assert_eq!(
        (settings.http.url_prefix.as_str(), settings.http.listen.as_str()),
        ("/db", ":3000")
    );
}

#[test]
fn unknown_unused_and_obsolete_keys_are_warnings_of_their_own() {
    let text = with(
        r#""RecoveryPollSeconds": 1, "Kubernetes": {"Enabled": false, "Namepsace": "x"}, "AuditToSyslog": true, "GraphiteAddr": "h:1", "GraphitePollSeconds": 60, "discoverypollseconds": 5, "MaintenanceOwner": "x""#,
    );
    assert_eq!(
        good(&text).warnings,
        [
            "configuration: unknown key ignored: test.json: Kubernetes.Namepsace",
            "configuration: unknown key ignored: test.json: RecoveryPollSeconds",
            "configuration: obsolete, orchestrator ignored them too: DiscoveryPollSeconds, MaintenanceOwner",
            "configuration: accepted, not used yet: AuditToSyslog, GraphiteAddr",
            OPEN,
        ]
    );
}

#[test]
fn later_files_override_and_may_take_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let first = path(
        "1.json",
        r#"{"SQLite3DataFile": "a.db", "InstancePollSeconds": 3, "AuditToSyslog": true, "APIOpen": true}"#,
    );
    let second = path("2.json", r#"{"InstancePollSeconds": 4, "AuditToSyslog": false}"#);
    let settings = load(&[first, second], &environment()).unwrap();
    assert_eq!(
        (settings.discovery.poll.as_secs(), settings.backend.database.name()),
        (4, "sqlite a.db".to_owned())
    );
    assert_eq!(settings.warnings, [OPEN]);
    let missing = load(&[folder.path().join("nosuch.json")], &environment())
        .unwrap_err()
        .to_string();
    assert!(missing.contains("nosuch.json: No such file"), "{missing}");
}

#[test]
fn own_files_are_searched_before_orchestrators() {
    let found = |present: &[&str]| search(|path| present.iter().any(|name| Path::new(name) == path));
    assert_eq!(
        found(&[
            "/etc/ham4db.conf.json",
            "ham4db.conf.json",
            "/etc/orchestrator.conf.json"
        ])
        .len(),
        2
    );
    assert_eq!(
        found(&["/etc/orchestrator.conf.json"]),
        [PathBuf::from("/etc/orchestrator.conf.json")]
    );
    assert!(found(&[]).is_empty());
}

#[test]
fn passwords_come_from_environment_and_credentials_files() {
    let settings = good(&with(
        r#""MySQLTopologyUser": "ham4db", "MySQLTopologyPassword": "${TOPOLOGY_PASSWORD}""#,
    ));
    assert_eq!(
        settings.topology.account.unwrap().password.expose_secret(),
        "s3cret-of-env"
    );
    let error = parse(&with(
        r#""MySQLTopologyUser": "x", "MySQLTopologyPassword": "${NOSUCH}""#,
    ))
    .unwrap_err();
    assert!(
        error.contains("MySQLTopologyPassword: environment variable NOSUCH is not set"),
        "{error}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[client]\nuser=from-file\npassword='p w'\n").unwrap();
    let text = with(&format!(
        r#""MySQLTopologyUser": "x", "MySQLTopologyCredentialsConfigFile": {:?}"#,
        file.path()
    ));
    let account = good(&text).topology.account.unwrap();
    assert_eq!(
        (account.user.as_str(), account.password.expose_secret()),
        ("from-file", "p w")
    );
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = r#"{
        "ListenAddress": "3000", "HTTPAdvertise": "http://h/x", "BackendDB": "oracle", "RaftEnabled": true, "InstancePollSeconds": 0,
        "DiscoveryIgnoreHostnameFilters": ["a["], "DiscoveryAllowedHosts": ["*.example.com", "^db"], "DiscoveryMaxInstances": 0, "ProbeSharing": "some", "RecoverMasterClusterFilters": ["alias~=("], "RecoveryQuorum": "All",
        "RaftElectionMinMilliseconds": 200, "UseSSL": true, "AuthenticationMethod": "basic", "ListenSocket": "/run/x",
        "FailMasterPromotionOnLagMinutes": 1, "ReplicationLagQuery": "", "DiscoverySeeds": ["db1:x"],
        "FailMasterPromotionIfSQLThreadNotUpToDate": true, "DelayMasterPromotionIfSQLThreadNotUpToDate": true,
        "PostponeReplicaRecoveryOnLagMinutes": 1, "PostponeSlaveRecoveryOnLagMinutes": 2
    }"#;
    let error = parse(text).unwrap_err();
    for part in [
        "ListenAddress: `3000` has no port",
        "HTTPAdvertise: `http://h/x` must be scheme, host and port",
        "BackendDB: `oracle` is no backend; use sqlite or mysql",
        "RaftDataDir: required with RaftEnabled",
        "InstancePollSeconds: must be at least 1",
        "DiscoveryIgnoreHostnameFilters: `a[` is not a regular expression",
        "DiscoveryAllowedHosts: `^db` is neither a host name",
        "DiscoveryMaxInstances: must be at least 1",
        "ProbeSharing: `some` is not one of off, round-robin, data-center",
        "RecoverMasterClusterFilters: `alias~=(` is not a regular expression",
        "RecoveryQuorum: `All` is not one of Leader, Majority, MajorityOfDataCenters",
        "RaftElectionMinMilliseconds: 200 is less than three heartbeats of 100 ms",
        "UseSSL: not supported yet",
        "AuthenticationMethod: not supported yet",
        "ListenSocket: not supported yet",
        "FailMasterPromotionOnLagMinutes: needs ReplicationLagQuery",
        "DiscoverySeeds: Invalid port: x",
        "contradicts DelayMasterPromotionIfSQLThreadNotUpToDate",
        "PostponeReplicaRecoveryOnLagMinutes: differs from PostponeSlaveRecoveryOnLagMinutes",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn probes_are_shared_in_a_group_only() {
    assert_eq!(good(&with("")).discovery.probe_sharing, ProbeSharing::Off);
    let error = parse(&with(r#""ProbeSharing": "round-robin""#)).unwrap_err();
    assert!(error.contains("ProbeSharing: needs RaftEnabled"), "{error}");
    for (text, sharing) in [
        ("round-robin", ProbeSharing::RoundRobin),
        ("data-center", ProbeSharing::DataCenter),
        ("off", ProbeSharing::Off),
    ] {
        let settings = good(&with(&format!(
            r#""RaftEnabled": true, "RaftDataDir": "/d", "ProbeSharing": "{text}""#
        )));
        assert_eq!(settings.discovery.probe_sharing, sharing);
    }
}

#[test]
fn an_api_that_is_open_to_the_network_is_reported_once() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "one-token\nanother\n").unwrap();
    let token = token.path().display();
    for (keys, open) in [
        (r#""ListenAddress": "0.0.0.0:3000""#.to_owned(), true),
        (r#""ListenAddress": "[::]:3000""#.to_owned(), true),
        (r#""ListenAddress": "db-admin:3000""#.to_owned(), true),
        (r#""ListenAddress": "127.0.0.1:3000""#.to_owned(), false),
        (r#""ListenAddress": "[::1]:3000""#.to_owned(), false),
        (r#""ListenAddress": "localhost:3000""#.to_owned(), false),
        (r#""ReadOnly": true"#.to_owned(), false),
        (format!(r#""APIWriteTokenFile": "{token}""#), false),
    ] {
        let warnings = good(&with(&keys)).warnings;
        assert_eq!(
            warnings
                .iter()
                .filter(|line| line.contains("APIWriteTokenFile"))
                .count(),
            usize::from(open),
            "{keys}: {warnings:?}"
        );
    }
    let settings = good(&with(&format!(
        r#""APIWriteTokenFile": "{token}", "HealthListenAddress": "127.0.0.1:3001""#
    )));
    assert_eq!(settings.http.write_tokens.as_ref().unwrap().tokens.count(), 2);
    assert_eq!(settings.http.health_listen.as_deref(), Some("127.0.0.1:3001"));
    assert!(!format!("{settings:?}").contains("one-token"));
}

#[test]
fn listeners_that_are_open_to_the_network_by_omission_do_not_start() {
    let base = r#""SQLite3DataFile": "/tmp/x.db""#;
    let raft = |bind: &str| {
        format!(r#"{base}, "RaftEnabled": true, "RaftDataDir": "/d", "RaftBind": "{bind}", "RaftAdvertise": "db-1""#)
    };
    let closed = r#""ListenAddress": "127.0.0.1:3000""#;
    let refused = |keys: &str| parse(&format!("{{{keys}}}")).err().unwrap_or_default();
    for listen in [
        "",
        r#", "ListenAddress": "0.0.0.0:3000""#,
        r#", "ListenAddress": "[::]:3000""#,
    ] {
        let error = refused(&format!("{base}{listen}"));
        assert!(
            error.contains("APIWriteTokenFile: required, because other machines reach the API at "),
            "{error}"
        );
        assert!(error.contains("\"APIOpen\": true"), "{error}");
    }
    for bind in ["0.0.0.0", "db-1:10008", ":10008", "[::]:10008"] {
        let error = refused(&format!("{}, {closed}", raft(bind)));
        assert!(
            error.contains("RaftGroupKeyFile: required, because other machines reach the peer listener at ")
                && error.contains("\"RaftInsecure\": true")
                || error.contains("RaftBind: "),
            "{bind}: {error}"
        );
    }
    for keys in [
        format!("{base}, {closed}"),
        format!(r#"{base}, "ReadOnly": true"#),
        format!(r#"{base}, "APIOpen": true"#),
        format!("{}, {closed}", raft("127.0.0.1:10008")),
        format!(r#"{}, {closed}, "RaftInsecure": true"#, raft("0.0.0.0")),
    ] {
        let settings = good(&format!("{{{keys}}}"));
        assert_eq!(settings.open_listeners, [""; 0], "{keys}");
        let is_permitted = keys.contains("APIOpen") || keys.contains("RaftInsecure");
        assert_eq!(
            settings.warnings.len(),
            usize::from(is_permitted),
            "{keys}: {:?}",
            settings.warnings
        );
    }
}

#[test]
fn file_of_orchestrator_starts_as_it_did_there_and_is_reported() {
    let open = r#"{"SQLite3DataFile": "/tmp/x.db", "RaftEnabled": true, "RaftDataDir": "/d", "RaftBind": "0.0.0.0", "RaftAdvertise": "db-1""#;
    let sample = format!(r#"{open}, "AuthenticationMethod": ""}}"#);
    let named = format!("{open}}}");
    for (name, text) in [("mine.json", &sample), ("orchestrator.conf.json", &named)] {
        let mut file = File::default();
        file.merge(&Path::new("/etc").join(name), text).unwrap();
        let settings = settle(&file, &environment()).unwrap();
        assert_eq!(
            settings.open_listeners,
            [
                OPEN,
                "configuration: the peer listener at 0.0.0.0 accepts members without authentication; set RaftGroupKeyFile on all members"
            ],
            "{name}"
        );
    }
    assert!(parse(&named).is_err(), "a file of ham4db is not orchestrator's");
}

#[test]
fn an_invalid_token_file_aborts_startup_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n  \n").unwrap();
    let words = folder.path().join("words");
    std::fs::write(&words, "my secret").unwrap();
    for (file, why) in [
        (folder.path().join("absent"), "cannot read"),
        (empty, "contains no token"),
        (words, "line 1 is no token"),
    ] {
        let error = parse(&with(&format!(r#""APIWriteTokenFile": {file:?}"#))).unwrap_err();
        let name = file.display().to_string();
        assert!(
            error.contains("APIWriteTokenFile: ") && error.contains(&name) && error.contains(why),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
    let error = parse(&with(r#""HealthListenAddress": "3001""#)).unwrap_err();
    assert!(error.contains("HealthListenAddress: `3001` has no port"), "{error}");
}

#[test]
fn a_group_by_list_knows_this_member_in_the_list() {
    let key_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key_file.path(), "group-secret\n").unwrap();
    let settings = good(&format!(
        r#"{{"RaftEnabled": true, "RaftDataDir": "/var/lib/ham4db", "RaftBind": "0.0.0.0", "RaftAdvertise": "db-2", "RaftNodes": ["db-3", "db-1:10009", "db-2"], "RaftGroupKeyFile": {:?}, "ListenAddress": ":3001", "APIOpen": true}}"#,
        key_file.path()
    ));
    let raft = settings.raft.unwrap();
    assert_eq!(
        (raft.bind.as_str(), raft.advertise.as_str()),
        ("0.0.0.0:10008", "db-2:10008")
    );
    assert_eq!(raft.nodes, ["db-1:10009", "db-2:10008", "db-3:10008"]);
    assert_eq!(raft.group_key.unwrap().expose_secret(), "group-secret");
    assert_eq!(settings.http.advertise, "http://db-2:3001");
    assert_eq!(settings.backend.database.name(), "sqlite /var/lib/ham4db/ham4db.db");
    assert_eq!(settings.recovery.quorum, RecoveryQuorum::Majority);
    let stranger = parse(r#"{"RaftEnabled": true, "RaftDataDir": "/d", "RaftNodes": ["db-1", "db-2"]}"#).unwrap_err();
    assert!(
        stranger.contains("RaftNodes: this member, 127.0.0.1:10008, is not in the list (db-1:10008, db-2:10008)"),
        "{stranger}"
    );
}

#[test]
fn a_pod_of_a_stateful_set_knows_its_name() {
    let set =
        r#""RaftStatefulSet": {"Name": "ham4db", "ServiceName": "ham4db-peers", "Namespace": "dba", "Replicas": 3}"#;
    let settings = good(&format!(
        r#"{{"RaftEnabled": true, "RaftDataDir": "/d", "RaftBind": "0.0.0.0:10008", "RaftInsecure": true, "APIOpen": true, {set}}}"#
    ));
    let raft = settings.raft.unwrap();
    assert_eq!(raft.advertise, "ham4db-1.ham4db-peers.dba.svc:10008");
    assert!(raft.nodes.is_empty());
    assert_eq!(settings.http.advertise, "http://ham4db-1.ham4db-peers.dba.svc:3000");
    let other = set.replace("\"ham4db\"", "\"other\"");
    let error = parse(&format!(r#"{{"RaftEnabled": true, "RaftDataDir": "/d", {other}}}"#)).unwrap_err();
    assert!(
        error.contains("the name of this host, `ham4db-1`, is not a pod of StatefulSet other"),
        "{error}"
    );
}

#[test]
fn hooks_have_lists_deadlines_and_no_variable_that_carries_a_password() {
    let none = good(&with("")).hooks;
    assert!(none.run.lists.is_empty() && none.hidden.is_empty());
    assert_eq!(none.shell, "bash");
    let hooks = good(&with(
        r#""PreFailoverProcesses": ["may {failedHost}", " "], "PostFailoverProcesses": [""],
           "PreFailoverProcessesTimeoutSeconds": 7, "ProcessesShellCommand": "sh",
           "MySQLTopologyUser": "u", "MySQLTopologyPassword": "${TOPOLOGY_PASSWORD}""#,
    ))
    .hooks;
    assert_eq!(
        hooks.run.lists,
        BTreeMap::from([(HookList::PreFailover, vec!["may {failedHost}".to_owned()])])
    );
    assert_eq!(hooks.run.deadlines[&HookList::PreFailover], Duration::from_secs(7));
    assert_eq!(hooks.run.deadlines[&HookList::PostFailover], Duration::from_mins(5));
    assert_eq!(hooks.shell, "sh");
    assert!(hooks.hidden.contains("TOPOLOGY_PASSWORD"));
    let error = parse(&with(r#""PostFailoverProcessesTimeoutSeconds": 0"#)).unwrap_err();
    assert!(
        error.contains("PostFailoverProcessesTimeoutSeconds: must be at least 1"),
        "{error}"
    );
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let page = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == page,
        "docs/config.md is stale; run this test with UPDATE_DOCS=1 and commit the file"
    );
}

#[test]
fn every_key_of_orchestrator_is_known() {
    // Its own sample configuration's names are among them; the count is that of the release that the reference was made from.
    let page = reference();
    for name in [
        "ListenAddress",
        "MySQLTopologyUser",
        "RecoverMasterClusterFilters",
        "ZkAddress",
        "SeedWaitSecondsBeforeSend",
        "OAuthScopes",
    ] {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    let own = page.matches("(own key)").count();
    let percona = page.matches("(Percona)").count();
    let proxysql = page.matches("(ProxySQL)").count();
    assert_eq!(rows - own - percona - proxysql, 190);
}

/// A group of one with a MySQL backend, and more keys.
fn with_mysql(more: &str) -> String {
    format!(r#"{{"RaftEnabled": true, "RaftDataDir": "/d", "APIOpen": true, {more}}}"#)
}

#[test]
fn a_mysql_backend_is_read_under_both_names_of_its_keys() {
    for name in ["Ham4db", "Orchestrator", "orchestrator"] {
        let keys = ["Host", "Port", "Database", "User", "Password"].map(|key| format!("MySQL{name}{key}"));
        let [host, port, database, user, password] = keys;
        let settings = good(&with_mysql(&format!(
            r#""{host}": "backend", "{port}": 3307, "{database}": "ham", "{user}": "me", "{password}": "pass""#
        )));
        assert_eq!(settings.backend.database.name(), "mysql backend:3307/ham");
        let BackendDatabase::MySql(mysql) = settings.backend.database else {
            panic!("{name}")
        };
        assert_eq!(
            (mysql.account.user.as_str(), mysql.account.password.expose_secret()),
            ("me", "pass")
        );
        assert_eq!(mysql.tls, TlsMode::Preferred);
        assert!(!format!("{mysql:?}").contains("pass\""), "{mysql:?}");
    }
}

#[test]
fn wrong_keys_of_a_mysql_backend_are_all_named() {
    let error = parse(&with_mysql(
        r#""BackendDB": "mysql", "MySQLHam4dbSSLCertFile": "/nosuch.pem", "MySQLHam4dbReadTimeoutSeconds": 0,
           "SkipOrchestratorDatabaseUpdate": true, "PanicIfDifferentDatabaseDeploy": true"#,
    ))
    .unwrap_err();
    for wanted in [
        "MySQLHam4dbHost: required with BackendDB mysql",
        "MySQLHam4dbDatabase: required with BackendDB mysql",
        "MySQLHam4dbUser: required with BackendDB mysql",
        "MySQLHam4dbSSLPrivateKeyFile: required with MySQLHam4dbSSLCertFile",
        "MySQLHam4dbReadTimeoutSeconds",
        "PanicIfDifferentDatabaseDeploy: has no meaning with SkipHam4dbDatabaseUpdate",
    ] {
        assert!(error.contains(wanted), "{wanted} is not in {error}");
    }
    let both = r#""MySQLHam4dbHost": "a", "MySQLOrchestratorHost": "b""#;
    let error = parse(&with_mysql(both)).unwrap_err();
    assert!(
        error.contains("MySQLHam4dbHost and MySQLOrchestratorHost are names of one key"),
        "{error}"
    );
    // Members without raft share the database, and find each other by the name of the host.
    let shared = r#"{"APIOpen": true, "MySQLHam4dbHost": "a", "MySQLHam4dbDatabase": "d", "MySQLHam4dbUser": "u"}"#;
    let settings = parse(shared).unwrap();
    assert!(
        settings
            .warnings
            .iter()
            .any(|warning| warning.contains("together with all members on the same database")),
        "{:?}",
        settings.warnings
    );
}
