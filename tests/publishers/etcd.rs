//! A real etcd.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ham4db::adapter::publishers::{EtcdOptions, EtcdPublisher, PairOptions, TlsFiles};
use ham4db::app::ports::publisher::{PrimaryPublisher, PublicationChange};
use ham4db::domain::declared::PublishError;
use serde_json::json;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::contract::{self, Store, publication};
use super::kit::etcd::{Etcd, EtcdTls, encoded};

async fn start(tls: Option<&Certificates>) -> (Etcd, TempDir) {
    let folder = tempfile::Builder::new().prefix("etcd").tempdir().unwrap();
    let tls = tls.map(|certificates| EtcdTls {
        authority: certificates.authority(),
        certificate: certificates.file("certificate.pem"),
        key: certificates.file("key.pem"),
    });
    (Etcd::start(folder.path(), tls.as_ref()).await.unwrap(), folder)
}

fn options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions {
        endpoints: vec![etcd.endpoint().parse().unwrap()],
        account: None,
        tls: TlsFiles::default(),
        pairs: PairOptions::default(),
    }
}

fn publisher(options: EtcdOptions) -> Arc<dyn PrimaryPublisher> {
    Arc::new(EtcdPublisher::new(options).unwrap())
}

#[async_trait]
impl Store for Etcd {
    async fn all(&self) -> BTreeMap<String, String> {
        Self::all(self).await.unwrap()
    }

    async fn put(&self, key: &str, value: &str) {
        Self::put(self, key, value).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        Self::delete(self, key).await.unwrap();
    }
}

#[tokio::test]
async fn the_contract_holds() {
    let (etcd, _folder) = start(None).await;
    contract::holds(&publisher(options(&etcd)), &etcd).await;
}

#[tokio::test]
async fn the_next_member_is_asked_when_one_does_not_answer() {
    let (etcd, _folder) = start(None).await;
    let mut two = options(&etcd);
    two.endpoints.insert(0, "http://127.0.0.1:1".parse().unwrap());
    let first = publisher(two.clone()).publish(&publication("db1", 1)).await;
    assert_eq!(first, Ok(PublicationChange::Written));
    two.endpoints.truncate(1);
    let nowhere = publisher(two).publish(&publication("db1", 1)).await;
    assert!(matches!(nowhere, Err(PublishError::Unanswered(_))), "{nowhere:?}");
}

#[tokio::test]
async fn a_user_logs_in_and_again_when_its_token_is_refused() {
    let (etcd, _folder) = start(None).await;
    let below_prefix = json!({
        "permType": "READWRITE", "key": encoded("mysql/master/"), "range_end": encoded("mysql/master0"),
    });
    for (path, body) in [
        ("/v3/auth/user/add", json!({"name": "root", "password": "top"})),
        ("/v3/auth/role/add", json!({"name": "root"})),
        ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ("/v3/auth/user/add", json!({"name": "ham4db", "password": "secret"})),
        ("/v3/auth/role/add", json!({"name": "primaries"})),
        (
            "/v3/auth/role/grant",
            json!({"name": "primaries", "perm": below_prefix}),
        ),
        ("/v3/auth/user/grant", json!({"user": "ham4db", "role": "primaries"})),
        ("/v3/auth/enable", json!({})),
    ] {
        etcd.call(path, &body, None).await.unwrap();
    }
    let without = publisher(options(&etcd)).publish(&publication("db1", 1)).await;
    assert!(without.is_err(), "{without:?}");
    let account = |password: &str| EtcdOptions {
        account: Some(("ham4db".to_owned(), password.to_owned().into())),
        ..options(&etcd)
    };
    let wrong = publisher(account("wrong")).publish(&publication("db1", 1)).await;
    assert!(matches!(wrong, Err(PublishError::Forbidden(_))), "{wrong:?}");
    let right = publisher(account("secret"));
    assert_eq!(
        right.publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
    // A changed password makes the token invalid.
    let login = json!({"name": "root", "password": "top"});
    let token = etcd.call("/v3/auth/authenticate", &login, None).await.unwrap();
    let again = json!({"name": "ham4db", "password": "secret"});
    etcd.call("/v3/auth/user/changepw", &again, token["token"].as_str())
        .await
        .unwrap();
    assert_eq!(
        right.publish(&publication("db2", 2)).await,
        Ok(PublicationChange::Written)
    );
}

#[tokio::test]
async fn a_certificate_is_verified() {
    let certificates = Certificates::make();
    let (etcd, _folder) = start(Some(&certificates)).await;
    let unknown = publisher(options(&etcd)).publish(&publication("db1", 1)).await;
    assert!(matches!(unknown, Err(PublishError::Unanswered(_))), "{unknown:?}");
    assert!(Store::all(&etcd).await.is_empty());
    let trusted = EtcdOptions {
        tls: TlsFiles {
            ca: Some(certificates.authority()),
            client: None,
        },
        ..options(&etcd)
    };
    assert_eq!(
        publisher(trusted).publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
}
