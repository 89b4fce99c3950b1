//! A backend at its start: privileges that are missing, tables of another version, an interrupted migration, a server without writes.

use ham4db::adapter::store::{BackendAddress, BackendStore, Deployment, OpenError};
use ham4db::app::ports::StateStore as _;
use ham4db::domain::state::State;
use secrecy::SecretString;

use crate::backends::{Backend, address, shared};
use crate::server::Software;
use crate::suite::mark;

const SERVERS: [Software; 2] = [Software::MySql, Software::MariaDb];

#[tokio::test]
async fn a_missing_privilege_is_named_and_the_backend_opens_when_it_is_granted() {
    for software in SERVERS {
        let server = shared(software).await;
        server
            .run(
                "DROP DATABASE IF EXISTS later; DROP USER IF EXISTS 'late'@'%'; CREATE USER 'late'@'%' IDENTIFIED BY 'x1'",
            )
            .await;
        let mut backend = address(&server, "later");
        "late".clone_into(&mut backend.user);
        backend.password = SecretString::from("x1");
        let address = BackendAddress::MySql(backend);
        let refused = |outcome: Result<BackendStore, OpenError>| match outcome {
            Err(OpenError::NotYet(error)) => error.to_string(),
            other => panic!("{software:?}: {other:?}"),
        };
        let why = refused(BackendStore::open(&address, Deployment::default()).await);
        assert!(
            why.contains("GRANT ALL PRIVILEGES ON") && why.contains("/later"),
            "{why}"
        );
        server
            .run("CREATE DATABASE later; GRANT SELECT ON later.* TO 'late'@'%'")
            .await;
        let why = refused(BackendStore::open(&address, Deployment::default()).await);
        assert!(why.contains("GRANT ALL PRIVILEGES ON"), "{why}");
        server.run("GRANT ALL PRIVILEGES ON later.* TO 'late'@'%'").await;
        let store = BackendStore::open(&address, Deployment::default()).await.unwrap();
        assert!(store.load().await.unwrap().0 == State::default());
    }
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused() {
    for backend in Backend::all("newer").await {
        let values = match backend.address {
            BackendAddress::Sqlite(_) => "(999, 'x', 1, x'00', 1)",
            BackendAddress::MySql(_) => "(999, 'x', TRUE, '0', 1)",
        };
        let row = format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES {values}"
        );
        backend.run(&row).await;
        for deployment in [Deployment::Migrate, Deployment::Skip, Deployment::RefuseDifferent] {
            match backend.again(deployment).await {
                Err(OpenError::Unusable(error)) => {
                    assert!(error.to_string().contains("newer version (migration 999"), "{error}");
                }
                other => panic!("{}: {other:?}", backend.name),
            }
        }
    }
}

#[tokio::test]
async fn tables_of_an_older_version_are_used_only_when_they_may_be_changed() {
    for backend in Backend::all("older").await {
        backend.run("DELETE FROM _sqlx_migrations WHERE version = 5").await;
        for (deployment, key) in [
            (Deployment::Skip, "SkipHam4dbDatabaseUpdate"),
            (Deployment::RefuseDifferent, "PanicIfDifferentDatabaseDeploy"),
        ] {
            match backend.again(deployment).await {
                Err(OpenError::Unusable(error)) => assert!(error.to_string().contains(key), "{error}"),
                other => panic!("{}: {other:?}", backend.name),
            }
        }
        backend.again(Deployment::Migrate).await.unwrap();
        backend.again(Deployment::Skip).await.unwrap();
        backend.again(Deployment::RefuseDifferent).await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_was_interrupted_is_executed_again() {
    for software in SERVERS {
        let backend = Backend::on(software, "half").await;
        backend
            .run(
                "DELETE FROM _sqlx_migrations WHERE version > 2; UPDATE _sqlx_migrations SET success = FALSE WHERE version = 2; \
                 DROP TABLE topology_recovery_steps; DROP TABLE audit",
            )
            .await;
        let store = backend.again(Deployment::default()).await.unwrap();
        let mut state = State::default();
        for proposal in crate::suite::proposals() {
            ham4db::domain::state::apply(&mut state, &proposal);
        }
        store.replace(&state, &mark(1)).await.unwrap();
        assert!(store.load().await.unwrap() == (state, mark(1)));
    }
}

#[tokio::test]
async fn a_backend_that_became_read_only_says_so_and_takes_writes_again_afterwards() {
    for software in SERVERS {
        let backend = Backend::on(software, "read_only").await;
        let server = shared(software).await;
        server
            .run(
                "DROP USER IF EXISTS 'plain'@'%'; CREATE USER 'plain'@'%' IDENTIFIED BY 'x1'; GRANT ALL PRIVILEGES ON read_only.* TO 'plain'@'%'",
            )
            .await;
        let BackendAddress::MySql(mut plain) = backend.address.clone() else {
            panic!()
        };
        "plain".clone_into(&mut plain.user);
        plain.password = SecretString::from("x1");
        let store = BackendStore::open(&BackendAddress::MySql(plain), Deployment::default())
            .await
            .unwrap();
        store.replace(&State::default(), &mark(1)).await.unwrap();
        server.run("SET GLOBAL read_only = ON").await;
        let refused = store.replace(&State::default(), &mark(2)).await;
        server.run("SET GLOBAL read_only = OFF").await;
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("read-only"), "{software:?}: {why}");
        assert_eq!(store.load().await.unwrap().1, mark(1));
        store.replace(&State::default(), &mark(3)).await.unwrap();
        assert_eq!(store.load().await.unwrap().1, mark(3));
    }
}

#[tokio::test]
async fn a_backend_that_hangs_is_an_error_within_the_deadline_and_works_when_it_goes_on() {
    for software in SERVERS {
        let server = crate::server::Server::start(software, 3, &[]).await;
        server.run("CREATE DATABASE hanging").await;
        let mut backend = address(&server, "hanging");
        backend.deadline = std::time::Duration::from_secs(1);
        let store = BackendStore::open(&BackendAddress::MySql(backend), Deployment::default())
            .await
            .unwrap();
        store.replace(&State::default(), &mark(1)).await.unwrap();
        server.signal("STOP");
        let begun = std::time::Instant::now();
        let hung = store.replace(&State::default(), &mark(2)).await;
        let took = begun.elapsed();
        server.signal("CONT");
        let why = hung.unwrap_err().to_string();
        assert!(
            why.contains("no answer within 1 s") || why.contains("no connection within the deadline"),
            "{software:?}: {why}"
        );
        assert!(took < std::time::Duration::from_secs(10), "{software:?}: {took:?}");
        let again = async || store.replace(&State::default(), &mark(3)).await.is_ok();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !again().await {
            assert!(
                std::time::Instant::now() < deadline,
                "{software:?} takes no write again"
            );
        }
        assert_eq!(store.load().await.unwrap().1, mark(3));
    }
}

#[tokio::test]
async fn what_is_no_server_is_an_error_and_ends_nothing() {
    use tokio::io::AsyncWriteExt as _;
    // A handshake of two bytes, as a broken or hostile program may send it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            connection.write_all(&[2, 0, 0, 0, 10, 0]).await.ok();
        }
    });
    let server = shared(Software::MySql).await;
    let mut backend = address(&server, "x");
    backend.port = port;
    backend.deadline = std::time::Duration::from_secs(2);
    match BackendStore::open(&BackendAddress::MySql(backend), Deployment::default()).await {
        Err(OpenError::NotYet(error)) => assert!(error.to_string().contains("mysql 127.0.0.1"), "{error}"),
        other => panic!("{other:?}"),
    }
}
