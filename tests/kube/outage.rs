//! The API server goes away, or refuses.

use std::time::Duration;

use ham4db::app::ports::cluster_source::ClusterSource as _;
use ham4db::domain::declared::Completeness;
use serde_json::json;

use super::documents::{reading, source};
use super::leader::{Alone, no_views};
use super::server::{Server, create, create_secret, namespace};

#[tokio::test]
async fn an_api_server_that_stops_withdraws_nothing() {
    let server = Server::bare();
    server.apply_definition();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    create_secret(&client, &namespace, "orders", "geheim").await;
    create(&client, &namespace, "orders", &json!({})).await;
    let leader = Alone::leading("ours");
    let (source, _watching) = source(client, &namespace);
    let _declaring = leader.declare(source.clone(), no_views());
    leader
        .until("the document is recorded", |state| state.documents.len() == 1)
        .await;
    let mut credentials = source.credentials();
    tokio::time::timeout(super::leader::DEADLINE, credentials.wait_for(|all| all.len() == 1))
        .await
        .unwrap()
        .unwrap();

    server.stop_api_server();
    reading(&source, Completeness::Stale).await;
    // A leader that begins now, with a source that never read anything, finds the document recorded and leaves it.
    let (blind, _blind) = super::documents::source(server.client().await, &namespace);
    let _also = leader.declare(blind.clone(), no_views());
    let mut changes = leader.proposed().len();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let state = leader.now();
        assert_eq!(state.documents.len(), 1);
        assert_eq!(source.documents().borrow().documents.len(), 1);
        assert_eq!(blind.documents().borrow().completeness, Completeness::Stale);
        changes = leader.proposed().len().max(changes);
    }
    assert_eq!(changes, 1, "{:?}", leader.proposed());
    assert_eq!(credentials.borrow().len(), 1);
}

#[tokio::test]
async fn a_member_that_may_read_nothing_withdraws_nothing() {
    let server = Server::shared();
    let client = server.client().await;
    let namespace = namespace(&client).await;
    create(&client, &namespace, "orders", &json!({})).await;
    let leader = Alone::leading("ours");
    {
        let (source, _watching) = source(client.clone(), &namespace);
        let _declaring = leader.declare(source, no_views());
        leader
            .until("the document is recorded", |state| state.documents.len() == 1)
            .await;
    }
    let said = server.kubectl(&["create", "serviceaccount", "powerless", "-n", &namespace], None);
    assert!(said.ok, "{}", said.text);
    let token = server.kubectl(&["create", "token", "powerless", "-n", &namespace], None);
    assert!(token.ok, "{}", token.text);
    let (blind, _watching) = source(server.client_of(token.text.trim()).await, &namespace);
    let _declaring = leader.declare(blind.clone(), no_views());
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(leader.now().documents.len(), 1);
        assert_eq!(blind.documents().borrow().completeness, Completeness::Stale);
    }
}
