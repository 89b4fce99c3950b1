//! The table `audit`: what others read, beside what the state keeps.

use std::path::Path;
use std::time::Duration;

use super::BackendStore;
use super::statement::statement;
use crate::app::ports::{AppliedMark, StateStore as _};
use crate::domain::fixture::NOW;
use crate::domain::intent::Origin;
use crate::domain::state::sample::{downtime, key};
use crate::domain::state::{Command, Proposal, Seed, State, apply};
use crate::domain::time::WallTime;

async fn run(store: &BackendStore, state: &mut State, at: WallTime, command: Command) {
    let (_, changes) = apply(state, &Proposal::new(at, command));
    store.write(state, &changes, &AppliedMark::default()).await.unwrap();
}

fn discover(n: u32) -> Command {
    let seed = Seed {
        instance: key(n),
        origin: Origin::Api,
    };
    Command::Discover { seed }
}

/// Number, time, type, host, port, message.
async fn rows(store: &BackendStore) -> Vec<(i64, String, String, String, i64, String)> {
    let query = "SELECT audit_id, audit_timestamp, audit_type, hostname, port, message FROM audit ORDER BY audit_id";
    let rows = store.database.rows(statement(query)).await.unwrap();
    let row = |row: &super::statement::Row| {
        (
            row.integer(0).unwrap(),
            row.text(1),
            row.text(2),
            row.text(3),
            row.integer(4).unwrap(),
            row.text(5),
        )
    };
    rows.iter().map(row).collect()
}

fn row(id: i64, at: &str, kind: &str, host: &str, port: i64) -> (i64, String, String, String, i64, String) {
    let [at, kind, host] = [at, kind, host].map(str::to_owned);
    (id, at, kind, host, port, String::new())
}

#[tokio::test]
async fn entries_are_rows_and_old_rows_are_dropped() {
    let store = BackendStore::open_file(Path::new(":memory:")).await.unwrap();
    let store = store.with_audit_retention(Duration::from_hours(1));
    let mut state = State::default();
    run(&store, &mut state, NOW, discover(1)).await;
    let disable = Command::SetGlobalRecoveries { enabled: false };
    run(&store, &mut state, NOW.plus_millis(60_000), disable).await;
    assert_eq!(
        rows(&store).await,
        [
            row(1, "2027-01-15 08:00:00", "discover", "db1", 3306),
            row(2, "2027-01-15 08:01:00", "disable-global-recoveries", "", 0),
        ]
    );
    run(&store, &mut state, NOW.plus_millis(3_630_000), discover(2)).await;
    assert_eq!(
        rows(&store).await.into_iter().map(|row| row.0).collect::<Vec<_>>(),
        [2, 3],
        "the first is over an hour old"
    );
    assert_eq!(store.load().await.unwrap().0, state, "the state has all three");
    assert_eq!(state.audit.len(), 3);
}

#[tokio::test]
async fn what_orchestrator_wrote_stays_and_goes_its_own_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let theirs = "CREATE TABLE audit (audit_id INTEGER PRIMARY KEY, audit_timestamp timestamp NOT NULL DEFAULT '', \
                  audit_type varchar(128) NOT NULL, hostname varchar(128) NOT NULL DEFAULT '', port smallint NOT NULL, message text NOT NULL, \
                  cluster_name varchar(128) NOT NULL DEFAULT ''); \
                  INSERT INTO audit VALUES (7, '2020-01-01 00:00:00', 'forget', 'db7', 3306, 'gone', '')";
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(theirs).execute(&pool).await.unwrap();
    pool.close().await;

    let store = BackendStore::open_file(&path).await.unwrap();
    let mut state = State::default();
    let intent = downtime(1, Origin::Api, None);
    run(&store, &mut state, NOW, Command::SetIntent { intent }).await;
    let numbers = |rows: Vec<(i64, String, String, String, i64, String)>| -> Vec<(i64, String)> {
        rows.into_iter().map(|row| (row.0, row.2)).collect()
    };
    let both = [(-7, "forget".to_owned()), (1, "begin-downtime".to_owned())];
    assert_eq!(numbers(rows(&store).await), both);
    // All of ours is written anew, theirs is not touched.
    store.replace(&state, &AppliedMark::default()).await.unwrap();
    assert_eq!(numbers(rows(&store).await), both);
    store.close().await;
}
