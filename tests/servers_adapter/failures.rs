//! What goes wrong, and what it is called.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ham4db::adapter::mysql::ProbeSettings;
use ham4db::app::ports::{
    Account, Credentials, Executor as _, ProbeConnection, Prober as _, Pulse, StepError, Target, TlsMode,
};
use ham4db::domain::instance::ProbeFailure;
use ham4db::domain::intent::Origin;
use ham4db::domain::key::InstanceKey;
use secrecy::SecretString;
use sqlx::Connection as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::server::{POOR, POORER, Server, Software};
use crate::watched::{LONG, Poller, account, credentials, target};

/// Enough for a server on this machine to answer, and short to wait for.
const SHORT: Duration = Duration::from_millis(600);

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_not_answering_has_its_own_name() {
    let poller = Poller::new();
    let mut server = Server::start(Software::MariaDb, 1, &[]).await;
    let asked = target(&server);
    assert!(
        matches!(poller.prober.pulse(&asked, LONG).await, Pulse::Alive(_)),
        "the first pulse connects by itself"
    );
    poller.facts(&server).await;

    // Stopped: the kernel still accepts, on the kept connection as on a fresh one.
    server.signal("STOP");
    let begun = Instant::now();
    assert_eq!(
        poller
            .try_facts(&server, ProbeConnection::Fresh, SHORT)
            .await
            .unwrap_err(),
        ProbeFailure::Stalled
    );
    assert_eq!(
        poller
            .try_facts(&server, ProbeConnection::Kept, SHORT)
            .await
            .unwrap_err(),
        ProbeFailure::Stalled
    );
    assert!(matches!(poller.prober.pulse(&asked, SHORT).await, Pulse::Doubt(_)));
    assert!(begun.elapsed() < 5 * SHORT, "deadlines are kept");
    assert_eq!(
        poller.prober.pulse(&asked, LONG).await,
        Pulse::Doubt("no open connection".to_owned()),
        "it does not dial by itself"
    );
    server.signal("CONT");
    poller.try_facts(&server, ProbeConnection::Fresh, LONG).await.unwrap();
    assert!(
        matches!(poller.prober.pulse(&asked, LONG).await, Pulse::Alive(_)),
        "a probe has succeeded since"
    );

    // Killed while a probe is under way, then not there.
    server.signal("STOP");
    let (outcome, ()) = tokio::join!(poller.try_facts(&server, ProbeConnection::Kept, LONG), async {
        // The probe is polled first: it has been sent and waits.
        server.signal("KILL");
    });
    assert!(matches!(outcome, Err(ProbeFailure::Lost(_))), "{outcome:?}");
    server.kill();
    assert_eq!(
        poller
            .try_facts(&server, ProbeConnection::Fresh, LONG)
            .await
            .unwrap_err(),
        ProbeFailure::Refused
    );
    assert_eq!(
        poller
            .try_facts(&server, ProbeConnection::Kept, LONG)
            .await
            .unwrap_err(),
        ProbeFailure::Refused
    );
    assert!(matches!(poller.prober.pulse(&asked, LONG).await, Pulse::Doubt(_)));
    server.start_again().await;
    poller.facts(&server).await;
    poller.prober.release(&server.key).await;
}

/// A killed process is noticed at once, an idle one is not disturbed, and neither is one that is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_noticed_without_a_pulse() {
    for software in [Software::MariaDb, Software::MySql] {
        let poller = Poller::new();
        let server = Server::start(software, 1, &[]).await;
        let asked = target(&server);
        let is_disconnected = async |wait: Duration| {
            tokio::time::timeout(wait, poller.prober.disconnected(&server.key))
                .await
                .is_ok()
        };
        assert!(!is_disconnected(SHORT).await, "there is no connection");
        assert!(matches!(poller.prober.pulse(&asked, LONG).await, Pulse::Alive(_)));
        assert!(!is_disconnected(SHORT).await, "{software:?}: nothing happened");
        assert!(
            matches!(poller.prober.pulse(&asked, LONG).await, Pulse::Alive(_)),
            "the wait left the connection usable"
        );
        server.signal("STOP");
        assert!(!is_disconnected(SHORT).await, "{software:?}: it is stopped");
        server.signal("KILL");
        assert!(is_disconnected(LONG).await, "{software:?}");
        assert_eq!(
            poller.prober.pulse(&asked, LONG).await,
            Pulse::Doubt("no open connection".to_owned())
        );
        assert!(!is_disconnected(SHORT).await, "it is noticed once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_nobody_answers_are_no_stall() {
    // A listener whose queue is full: the kernel drops further SYNs, as a packet filter would.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
    }
    let poller = Poller::new();
    let target = Target {
        instance: InstanceKey::new("127.0.0.1", address.port()),
        origin: Origin::Api,
    };
    let begun = Instant::now();
    for approach in [ProbeConnection::Fresh, ProbeConnection::Kept] {
        assert_eq!(
            poller.prober.probe(&target, approach, SHORT).await.outcome.unwrap_err(),
            ProbeFailure::NoAnswer
        );
    }
    let doubt = poller.prober.pulse(&target, SHORT).await;
    assert!(matches!(doubt, Pulse::Doubt(_)));
    let error = poller.executor.begin(&target, None, SHORT).await.err().unwrap();
    assert!(matches!(error, StepError::NotConnected { .. }), "{error}");
    assert!(begun.elapsed() < 6 * SHORT, "deadlines are kept");
    drop(queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_may_not_and_servers_that_are_full_prove_life() {
    for software in [Software::MariaDb, Software::MySql] {
        let settings = ProbeSettings {
            data_center_query: Some("SELECT 'dc1';".to_owned()),
            region_query: Some("SELECT nothing FROM mysql.nowhere".to_owned()),
            ..ProbeSettings::default()
        };
        let poller = Poller::with(settings);
        let server = Server::start(software, 1, &["--max-connections=10"]).await;
        let facts = poller.facts(&server).await;
        assert_eq!((facts.data_center.as_str(), facts.region.as_str()), ("dc1", ""));
        assert!(
            matches!(facts.problems.as_slice(), [only] if only.starts_with("region query: error 1146")),
            "{:?}",
            facts.problems
        );

        // The password is wrong; the account may not do enough; it may do just enough; there is none.
        let wrong = Account {
            user: POOR.to_owned(),
            password: SecretString::from("other"),
        };
        poller.credentials.send_replace(credentials(wrong));
        let denied = poller
            .try_facts(&server, ProbeConnection::Kept, LONG)
            .await
            .unwrap_err();
        assert!(
            matches!(&denied, ProbeFailure::Denied(why) if why.starts_with("error 1045")),
            "{denied:?}"
        );
        assert!(matches!(
            poller.prober.pulse(&target(&server), LONG).await,
            Pulse::Doubt(_)
        ));
        poller.credentials.send_replace(credentials(account(POORER)));
        let denied = poller
            .try_facts(&server, ProbeConnection::Fresh, LONG)
            .await
            .unwrap_err();
        assert!(
            matches!(&denied, ProbeFailure::Denied(why) if why.contains("replication status")),
            "{denied:?}"
        );
        poller.credentials.send_replace(credentials(account(POOR)));
        let facts = poller.facts(&server).await;
        assert!(
            facts
                .problems
                .iter()
                .any(|problem| problem.starts_with("replicas: error 1227")),
            "{:?}",
            facts.problems
        );
        assert!(
            facts.binlog.is_some(),
            "the parts behind the one that failed are there: {facts:?}"
        );
        poller.credentials.send_replace(Arc::default());
        let missing = poller
            .try_facts(&server, ProbeConnection::Kept, LONG)
            .await
            .unwrap_err();
        assert!(
            matches!(&missing, ProbeFailure::NoCredentials(why) if why.contains("api")),
            "{missing:?}"
        );

        // Full: a kept connection still sees it, a fresh one does not.
        poller.credentials.send_replace(credentials(account(POOR)));
        poller.facts(&server).await;
        let mut others = Vec::new();
        let full = loop {
            match server.connect(POORER).await {
                Ok(connection) => others.push(connection),
                Err(error) => break error,
            }
        };
        assert!(full.to_string().contains("1040"), "{full}");
        assert_eq!(
            poller
                .try_facts(&server, ProbeConnection::Fresh, LONG)
                .await
                .unwrap_err(),
            ProbeFailure::Saturated
        );
        poller.facts(&server).await;
        for connection in others {
            connection.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_actor_at_a_time_has_the_step_lock_and_the_newest_wins() {
    for software in [Software::MariaDb, Software::MySql] {
        let poller = Poller::new();
        let server = Server::start(software, 1, &[]).await;
        let mut first = poller.session(&server).await;
        first.facts(LONG).await.unwrap();
        let mut second = poller.session(&server).await;
        let broken = first.set_read_only(LONG).await.unwrap_err();
        assert!(matches!(broken, StepError::OutcomeUnknown { .. }), "{broken}");
        let broken = first.set_read_only(LONG).await.unwrap_err();
        assert!(
            matches!(broken, StepError::NotConnected { .. }),
            "it never connects again: {broken}"
        );
        first.end().await;

        // A fence: what was open is gone, and writing is refused to those who have no privilege to.
        second.set_read_only(LONG).await.unwrap();
        let mut client = server.connect(POOR).await.unwrap();
        assert!(second.kill_clients(LONG).await.unwrap() >= 1);
        assert!(client.ping().await.is_err());
        assert_eq!(
            second.kill_clients(LONG).await.unwrap(),
            0,
            "nobody is left, and it did not kill itself"
        );
        let facts = second.facts(LONG).await.unwrap();
        assert!(!facts.is_writable());
        second.set_writable(LONG).await.unwrap();
        assert!(second.facts(LONG).await.unwrap().is_writable());

        // A statement that hangs is given up, and what it wanted does not happen behind our back.
        let mut writer = server.connect(crate::server::ADMIN).await.unwrap();
        let locked = "CREATE DATABASE d; CREATE TABLE d.t (id INT); LOCK TABLES d.t WRITE";
        sqlx::raw_sql(locked).execute(&mut writer).await.unwrap();
        let begun = Instant::now();
        let hanging = second.set_read_only(Duration::from_millis(200)).await.unwrap_err();
        assert!(begun.elapsed() < LONG / 3);
        assert!(matches!(hanging, StepError::OutcomeUnknown { .. }), "{hanging}");
        second.end().await;
        let still_there = "SELECT COUNT(*) FROM information_schema.processlist WHERE INFO LIKE 'SET GLOBAL %'";
        while server.value(still_there).await != "0" {
            assert!(begun.elapsed() < LONG, "the server still tries");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sqlx::raw_sql("UNLOCK TABLES; INSERT INTO d.t VALUES (1)")
            .execute(&mut writer)
            .await
            .unwrap();
        writer.close().await.unwrap();
        assert!(poller.facts(&server).await.is_writable());

        // Given back at the end: nobody has to be killed for it.
        let third = poller.session(&server).await;
        third.end().await;
        assert_eq!(server.value("SELECT IS_FREE_LOCK('ham4db.step')").await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_used_as_it_is_asked_for() {
    let poller = Poller::new();
    let ask = |tls, ca_pem: Option<String>| {
        let known = credentials(account(crate::server::ADMIN));
        let asked = known.iter().map(|(origin, known)| {
            (
                origin.clone(),
                Credentials {
                    tls,
                    ca_pem: ca_pem.clone(),
                    ..known.clone()
                },
            )
        });
        poller.credentials.send_replace(Arc::new(asked.collect()));
    };
    let mysql = Server::start(Software::MySql, 1, &[]).await;
    let handshakes =
        "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Ssl_finished_accepts'";
    for (tls, is_encrypted) in [
        (TlsMode::Required, true),
        (TlsMode::Preferred, true),
        (TlsMode::Off, false),
    ] {
        ask(tls, None);
        let before: u64 = mysql.value(handshakes).await.parse().unwrap();
        poller.try_facts(&mysql, ProbeConnection::Fresh, LONG).await.unwrap();
        let after: u64 = mysql.value(handshakes).await.parse().unwrap();
        assert_eq!(after - before, u64::from(is_encrypted), "{tls:?}");
    }
    // The server's own authority signs it, for no name at all.
    ask(
        TlsMode::Verify,
        Some(mysql.value("SELECT LOAD_FILE(CONCAT(@@datadir, 'ca.pem'))").await),
    );
    let refused = poller
        .try_facts(&mysql, ProbeConnection::Fresh, LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ProbeFailure::Unreadable(why) if why.contains("certificate")),
        "{refused:?}"
    );
    let mariadb = Server::start(Software::MariaDb, 1, &[]).await;
    ask(TlsMode::Preferred, None);
    poller.facts(&mariadb).await;
    ask(TlsMode::Required, None);
    let refused = poller
        .try_facts(&mariadb, ProbeConnection::Fresh, LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ProbeFailure::Unreadable(why) if why.starts_with("TLS: ")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_costs_little_of_our_time() {
    let poller = Poller::new();
    for software in [Software::MariaDb, Software::MySql] {
        let server = Server::start(software, 1, &[]).await;
        poller.facts(&server).await;
        let (begun, before) = (Instant::now(), cpu_millis());
        for _ in 0..500 {
            poller.facts(&server).await;
        }
        let (elapsed, spent) = (begun.elapsed(), cpu_millis() - before);
        println!("{software:?}: 500 probes: {elapsed:?}, {spent} ms CPU of ours");
        assert!(
            spent < 500 * 5,
            "{spent} ms CPU for 500 probes; the budget of 0.5 ms each is for a release build"
        );
    }
}

/// CPU time of this process, by the kernel's clock ticks of 10 ms.
fn cpu_millis() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10
}
