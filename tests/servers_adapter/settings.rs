//! The slow part of the facts: settings, the boot, our own rights, and those of others.

use ham4db::app::ports::ProbeConnection;
use ham4db::domain::dialect::Dialect;
use ham4db::domain::instance::InstanceFacts;
use ham4db::domain::settings::{Boot, ServerSettings};

use crate::server::{ADMIN, PASSWORD, POOR, REPLICATION, Server, Software};
use crate::watched::{LONG, Poller, account, credentials};

/// What a watcher that has not seen the server before reads: not with the first look, with the second.
async fn read_anew(server: &Server, user: &str) -> (InstanceFacts, ServerSettings) {
    let poller = Poller::new();
    poller.credentials.send_replace(credentials(account(user)));
    let first = poller.facts(server).await;
    assert_eq!(first.settings, None, "a first look is in a hurry");
    let second = poller.facts(server).await;
    let settings = second.settings.clone().expect("the second look reads them");
    let third = poller.facts(server).await;
    assert_eq!(third.settings.as_ref(), Some(&settings), "and they are kept");
    let fresh = poller.try_facts(server, ProbeConnection::Fresh, LONG).await.unwrap();
    assert_eq!(fresh.settings, None, "nor does a fresh connection wait for them");
    (second, settings)
}

fn lacks(facts: &InstanceFacts, settings: &ServerSettings) -> Vec<&'static str> {
    let privileges = settings.privileges.as_ref().expect("everybody may see one's own");
    Dialect::new(&facts.version)
        .required_privileges()
        .iter()
        .filter(|need| !privileges.has(need.privilege) && !need.or.iter().any(|other| privileges.has(other)))
        .map(|need| need.privilege)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_tells_what_its_next_start_brings_and_who_passes_read_only() {
    let mut server = Server::start(
        Software::MySql,
        111,
        &["--replica-net-timeout=7", "--relay-log-recovery=ON"],
    )
    .await;
    let (facts, settings) = read_anew(&server, ADMIN).await;
    assert!(facts.data_directory.ends_with("/data/"), "{}", facts.data_directory);
    assert_eq!(
        (
            settings.sync_binlog,
            settings.flush_log_at_commit,
            settings.relay_log_recovery
        ),
        (Some(1), Some(1), Some(true))
    );
    assert_eq!(
        (settings.replica_net_timeout_seconds, settings.heartbeat_millis),
        (Some(7), None)
    );
    assert_eq!(
        (&settings.boot, settings.read_only_since_boot),
        (&Boot::Writable, Some(false))
    );
    assert_eq!(settings.account, format!("{ADMIN}@%"));
    assert_eq!(lacks(&facts, &settings), [] as [&str; 0]);
    assert_eq!(
        settings.past_read_only.as_ref().map(|accounts| accounts.count),
        Some(0),
        "{settings:?}"
    );

    server
        .run(&format!(
            "CREATE USER app IDENTIFIED BY 'p'; GRANT CONNECTION_ADMIN ON *.* TO app; \
             CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = '{}', \
             SOURCE_HEARTBEAT_PERIOD = 1.5, SOURCE_AUTO_POSITION = 1",
            REPLICATION.replace('\'', "''")
        ))
        .await;
    let mut session = Poller::new().session(&server).await;
    session.set_boot_read_only(LONG).await.unwrap();
    let told = session.settings(LONG).await.unwrap();
    assert_eq!((told.boot, told.read_only_since_boot), (Boot::ReadOnly, Some(false)));
    session.end().await;
    let (facts, settings) = read_anew(&server, ADMIN).await;
    assert!(
        facts.is_writable(),
        "what is persisted for the next start changes nothing now"
    );
    assert_eq!(settings.boot, Boot::ReadOnly);
    assert_eq!(settings.heartbeat_millis, Some(1500));
    assert_eq!(
        settings.past_read_only.map(|accounts| accounts.names),
        Some(vec!["app@%".to_owned()])
    );

    server.start_again().await;
    let (facts, settings) = read_anew(&server, ADMIN).await;
    assert!(!facts.is_writable(), "it has started read-only");
    assert_eq!(settings.read_only_since_boot, Some(true), "{settings:?}");
    server.run("SET GLOBAL read_only = 0").await;
    server.run("SET GLOBAL super_read_only = 1").await;
    let (facts, settings) = read_anew(&server, ADMIN).await;
    assert!(!facts.is_writable(), "a person's statement");
    assert_eq!(
        (settings.boot, settings.read_only_since_boot),
        (Boot::ReadOnly, Some(false))
    );

    let (facts, settings) = read_anew(&server, POOR).await;
    assert!(lacks(&facts, &settings).contains(&"SYSTEM_VARIABLES_ADMIN"));
    assert!(!lacks(&facts, &settings).contains(&"REPLICATION CLIENT"));
    assert_eq!(settings.past_read_only, None, "it may not see the others");
    assert_eq!(settings.boot, Boot::ReadOnly, "which everybody may see");
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_tells_rights_and_nothing_of_its_next_start() {
    let server = Server::start(Software::MariaDb, 112, &["--slave-net-timeout=9"]).await;
    server
        .run("CREATE USER app IDENTIFIED BY 'p'; GRANT READ_ONLY ADMIN ON *.* TO app")
        .await;
    let (facts, settings) = read_anew(&server, ADMIN).await;
    assert_eq!(
        (settings.sync_binlog, settings.replica_net_timeout_seconds),
        (Some(1), Some(9))
    );
    assert!(matches!(settings.boot, Boot::Unknown(_)));
    assert_eq!(settings.read_only_since_boot, None);
    assert_eq!(settings.heartbeat_millis, None);
    assert_eq!(lacks(&facts, &settings), [] as [&str; 0]);
    let past = settings.past_read_only.clone().expect("the account may see the others");
    assert_eq!(past.names, ["app@%"]);
    let shown = format!("{settings:?}");
    assert!(
        !shown.contains(PASSWORD) && !shown.contains('*'),
        "no hash of a password: {shown}"
    );

    let mut session = Poller::new().session(&server).await;
    let refused = session.set_boot_read_only(LONG).await.unwrap_err();
    assert!(refused.to_string().contains("cannot persist variables"), "{refused}");
    session.end().await;
    let (facts, settings) = read_anew(&server, POOR).await;
    assert!(lacks(&facts, &settings).contains(&"READ_ONLY ADMIN"));
    assert_eq!(settings.past_read_only, None);
}
