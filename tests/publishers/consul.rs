//! Consul.

use std::sync::Arc;

use ham4db::adapter::publishers::{ConsulOptions, ConsulPublisher, PairOptions, TlsFiles};
use ham4db::app::ports::publisher::{PrimaryPublisher, PublicationChange};
use ham4db::domain::declared::PublishError;
use ham4db::domain::published_primary::KeyPrefix;

use super::certificates::Certificates;
use super::consul_server::ConsulServer;
use super::contract::{self, pairs, publication};

fn options(server: &ConsulServer, scheme: &str) -> ConsulOptions {
    ConsulOptions {
        address: format!("{scheme}://localhost:{}", server.address.port())
            .parse()
            .unwrap(),
        token: None,
        all_data_centers: false,
        operations: 64,
        tls: TlsFiles::default(),
        pairs: PairOptions::default(),
    }
}

fn publisher(options: ConsulOptions) -> Arc<dyn PrimaryPublisher> {
    Arc::new(ConsulPublisher::new(options).unwrap())
}

#[tokio::test]
async fn the_contract_holds() {
    let server = ConsulServer::start(None, &["dc1"], None).await;
    contract::holds(&publisher(options(&server, "http")), &server).await;
}

#[tokio::test]
async fn the_contract_holds_with_the_smallest_transactions() {
    let server = ConsulServer::start(None, &["dc1"], None).await;
    let small = ConsulOptions {
        operations: 5,
        ..options(&server, "http")
    };
    contract::holds(&publisher(small), &server).await;
    let sizes = server.transactions();
    assert!(sizes.iter().all(|size| *size <= 5), "{sizes:?}");
    assert!(sizes.contains(&5), "{sizes:?}");
}

#[tokio::test]
async fn the_pairs_of_a_cluster_are_one_transaction() {
    let server = ConsulServer::start(None, &["dc1"], None).await;
    publisher(options(&server, "http"))
        .publish(&publication("db1", 1))
        .await
        .unwrap();
    assert_eq!(server.transactions(), [6], "five pairs and the epoch");
}

#[tokio::test]
async fn keys_of_consul_do_not_begin_with_a_slash() {
    let server = ConsulServer::start(None, &["dc1"], None).await;
    let mut slash = options(&server, "http");
    slash.pairs.prefix = KeyPrefix::new("/mysql/master");
    let slash = publisher(slash);
    assert_eq!(
        slash.publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
    assert_eq!(slash.publish(&publication("db1", 1)).await, Ok(PublicationChange::None));
    assert_eq!(server.keys_of("dc1")["mysql/master/shop"], "db1:3306");
}

#[tokio::test]
async fn a_token_is_sent_and_a_refusal_is_one_of_permission() {
    let server = ConsulServer::start(Some("secret-token"), &["dc1"], None).await;
    let without = publisher(options(&server, "http"))
        .publish(&publication("db1", 1))
        .await;
    assert!(matches!(without, Err(PublishError::Forbidden(_))), "{without:?}");
    let with = ConsulOptions {
        token: Some("secret-token".to_owned().into()),
        ..options(&server, "http")
    };
    assert_eq!(
        publisher(with).publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
}

#[tokio::test]
async fn all_data_centres_get_the_pairs_and_one_that_is_away_is_named() {
    let server = ConsulServer::start(None, &["dc1", "dc2", "dc3"], None).await;
    let all = ConsulOptions {
        all_data_centers: true,
        ..options(&server, "http")
    };
    let all = publisher(all);
    all.publish(&publication("db1", 1)).await.unwrap();
    for name in ["dc1", "dc2", "dc3"] {
        let mut keys = server.keys_of(name);
        keys.remove("mysql/master/shop/epoch");
        assert_eq!(keys, pairs("shop", "db1"), "{name}");
    }
    server.take_down("dc2");
    let part = all.publish(&publication("db2", 2)).await.unwrap_err();
    assert!(
        matches!(&part, PublishError::Unanswered(why) if why.contains("dc2")),
        "{part:?}"
    );
    assert_eq!(
        server.keys_of("dc3")["mysql/master/shop"],
        "db2:3306",
        "the others have it"
    );
}

#[tokio::test]
async fn a_certificate_is_verified() {
    let certificates = Certificates::make();
    let server = ConsulServer::start(None, &["dc1"], Some(&certificates)).await;
    let unknown = publisher(options(&server, "https"))
        .publish(&publication("db1", 1))
        .await;
    assert!(matches!(unknown, Err(PublishError::Unanswered(_))), "{unknown:?}");
    assert!(server.keys_of("dc1").is_empty());
    let tls = TlsFiles {
        ca: Some(certificates.authority()),
        client: None,
    };
    let trusted = ConsulOptions {
        tls,
        ..options(&server, "https")
    };
    assert_eq!(
        publisher(trusted).publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
}

#[tokio::test]
async fn an_address_without_a_server_is_an_error_within_the_deadline() {
    let server = ConsulServer::start(None, &["dc1"], None).await;
    let mut nowhere = options(&server, "http");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    nowhere.address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    // It accepts and never answers.
    let begun = std::time::Instant::now();
    let silent = publisher(nowhere).publish(&publication("db1", 1)).await;
    assert!(matches!(silent, Err(PublishError::Unanswered(_))), "{silent:?}");
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}
