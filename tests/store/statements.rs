//! The statements are safe under STATEMENT replication: keys and times are explicit, and none fails on the other side of a pair.

use std::collections::{BTreeMap, BTreeSet};

use ham4db::adapter::store::{BackendAddress, BackendStore, Deployment};
use ham4db::app::ports::{AnalysisChange, ChangeStore as _, InstanceStore as _, StateStore as _};
use ham4db::domain::finding::Code;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::state::{State, apply};
use ham4db::domain::time::WallTime;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::backends::address;
use crate::instances::replica;
use crate::server::{ADMIN, Server, Software};
use crate::suite::{mark, proposals};

/// All rows of all tables of a database, in the order of their keys.
async fn content(server: &Server, database: &str) -> BTreeMap<String, Vec<String>> {
    let mut connection = server.connect(ADMIN).await.unwrap();
    let tables = format!(
        "SELECT table_name, GROUP_CONCAT(CONCAT('IFNULL(CAST(`', column_name, '` AS CHAR), \\'-\\')') ORDER BY ordinal_position) \
         FROM information_schema.columns WHERE table_schema = '{database}' AND table_name NOT LIKE '\\_sqlx%' GROUP BY table_name"
    );
    sqlx::raw_sql("SET SESSION group_concat_max_len = 100000")
        .execute(&mut connection)
        .await
        .unwrap();
    let tables = sqlx::raw_sql(AssertSqlSafe(tables))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        let name: String = table.try_get_unchecked(0).unwrap();
        let columns: String = table.try_get_unchecked(1).unwrap();
        let query = format!("SELECT CONCAT_WS('|', {columns}) AS line FROM {database}.{name} ORDER BY line");
        let rows = sqlx::raw_sql(AssertSqlSafe(query))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let rows = rows.iter().map(|row| row.try_get_unchecked(0).unwrap()).collect();
        all.insert(name, rows);
    }
    connection.close().await.unwrap();
    all
}

#[tokio::test]
async fn a_session_that_is_replayed_on_both_sides_of_a_pair_leaves_the_same_rows_and_no_error() {
    for software in [Software::MySql, Software::MariaDb] {
        let options = ["--binlog-format=STATEMENT", "--log-output=TABLE"];
        let (first, second) = (
            Server::start(software, 1, &options).await,
            Server::start(software, 2, &options).await,
        );
        for server in [&first, &second] {
            server.run("CREATE DATABASE pair").await;
        }
        let here = BackendAddress::MySql(address(&first, "pair"));
        let there = BackendAddress::MySql(address(&second, "pair"));
        let store = BackendStore::open(&here, Deployment::default()).await.unwrap();
        BackendStore::open(&there, Deployment::default())
            .await
            .unwrap()
            .close()
            .await;

        first.run("SET GLOBAL general_log = ON").await;
        let mut state = State::default();
        for proposal in proposals() {
            let (_, changes) = apply(&mut state, &proposal);
            store.write(&state, &changes, &mark(1)).await.unwrap();
        }
        store.replace(&state, &mark(2)).await.unwrap();
        let key = InstanceKey::new("db1".to_owned(), 3306);
        for seconds in 0..5 {
            let at = WallTime(1_800_000_000_000 + seconds * 1000);
            let change = AnalysisChange {
                at,
                code: Code::DeadMaster,
            };
            store.add_changes(&[(key.clone(), change)]).await.unwrap();
        }
        store.purge_changes(WallTime(1_800_000_002_000)).await.unwrap();
        store.save_instances(&[replica(2), replica(3)], 100).await.unwrap();
        store
            .retain_instances(&BTreeSet::from([replica(3).instance.key]))
            .await
            .unwrap();
        first.run("SET GLOBAL general_log = OFF").await;

        let mut log = first.connect(ADMIN).await.unwrap();
        let query = "SELECT CAST(argument AS CHAR) FROM mysql.general_log WHERE command_type IN ('Query', 'Execute') \
                     AND argument NOT LIKE '%general_log%' ORDER BY event_time, thread_id";
        let lines = sqlx::raw_sql(query).fetch_all(&mut log).await.unwrap();
        let statements: Vec<String> = lines.iter().map(|row| row.try_get_unchecked(0).unwrap()).collect();
        let changing = statements
            .iter()
            .filter(|text| text.starts_with("REPLACE") || text.starts_with("INSERT"));
        assert!(
            changing.count() > 300,
            "{software:?}: the log has {} statements",
            statements.len()
        );
        let wanted = content(&first, "pair").await;
        assert!(wanted["ham4db_object"].len() > 10);

        // On the other side, and on the same one once more: replication of a pair brings each statement to both.
        for server in [&second, &first] {
            let mut connection = server.connect(ADMIN).await.unwrap();
            sqlx::raw_sql("USE pair").execute(&mut connection).await.unwrap();
            let mode = "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION', time_zone = '+00:00'";
            sqlx::raw_sql(mode).execute(&mut connection).await.unwrap();
            for statement in &statements {
                let done = sqlx::raw_sql(AssertSqlSafe(statement.as_str()))
                    .execute(&mut connection)
                    .await;
                done.unwrap_or_else(|error| panic!("{software:?}: {error}: {statement}"));
                let warnings = sqlx::raw_sql("SHOW WARNINGS").fetch_all(&mut connection).await.unwrap();
                for warning in warnings {
                    let code: String = warning.try_get_unchecked(1).unwrap();
                    let text: String = warning.try_get_unchecked(2).unwrap();
                    assert!(
                        code != "1592",
                        "{software:?}: unsafe under STATEMENT: {text}: {statement}"
                    );
                }
            }
            connection.close().await.unwrap();
            let found = content(server, "pair").await;
            for (table, rows) in &wanted {
                assert_eq!(&found[table], rows, "{software:?}: {table}");
            }
        }
    }
}
