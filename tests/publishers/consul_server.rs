//! A server that keeps the HTTP contract of Consul, as far as pairs need it: keys with indexes, `cas`, transactions, several data
//! centres, an ACL token, TLS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::certificates::Certificates;
use super::contract::Store;

/// The keys of one data centre with value and index.
type Keys = BTreeMap<String, (String, u64)>;

#[derive(Default)]
struct Inner {
    /// By data centre; the first one is that of the agent.
    data_centers: BTreeMap<String, Keys>,
    index: u64,
    token: Option<String>,
    /// The number of operations of each transaction.
    transactions: Vec<usize>,
    /// A data centre that does not answer.
    down: Option<String>,
}

/// A running server.
#[derive(Clone)]
pub(crate) struct ConsulServer {
    inner: Arc<Mutex<Inner>>,
    pub(crate) address: SocketAddr,
}

impl ConsulServer {
    pub(crate) async fn start(token: Option<&str>, data_centers: &[&str], tls: Option<&Certificates>) -> Self {
        let inner = Inner {
            data_centers: data_centers
                .iter()
                .map(|name| ((*name).to_owned(), Keys::new()))
                .collect(),
            token: token.map(str::to_owned),
            ..Inner::default()
        };
        let inner = Arc::new(Mutex::new(inner));
        let router = Router::new()
            .route("/v1/kv/{*key}", get(read).put(write).delete(delete))
            .route("/v1/txn", axum::routing::put(transaction))
            .route("/v1/catalog/datacenters", get(data_center_names))
            .with_state(Arc::clone(&inner));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(Certificates::acceptor);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (router, acceptor) = (router.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that does not trust the certificate ends the connection.
                    if let Some(acceptor) = acceptor {
                        if let Ok(socket) = acceptor.accept(socket).await {
                            let io = hyper_util::rt::TokioIo::new(socket);
                            http.serve_connection(io, service).await.ok();
                        }
                    } else {
                        let io = hyper_util::rt::TokioIo::new(socket);
                        http.serve_connection(io, service).await.ok();
                    }
                });
            }
        });
        Self { inner, address }
    }

    pub(crate) fn transactions(&self) -> Vec<usize> {
        self.inner.lock().unwrap().transactions.clone()
    }

    pub(crate) fn take_down(&self, data_center: &str) {
        self.inner.lock().unwrap().down = Some(data_center.to_owned());
    }

    pub(crate) fn keys_of(&self, data_center: &str) -> BTreeMap<String, String> {
        let inner = self.inner.lock().unwrap();
        let keys = inner.data_centers[data_center].iter();
        keys.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    fn local(&self) -> String {
        self.inner.lock().unwrap().data_centers.keys().next().unwrap().clone()
    }
}

#[async_trait]
impl Store for ConsulServer {
    async fn all(&self) -> BTreeMap<String, String> {
        self.keys_of(&self.local())
    }

    async fn put(&self, key: &str, value: &str) {
        let local = self.local();
        let mut inner = self.inner.lock().unwrap();
        inner.index += 1;
        let index = inner.index;
        let keys = inner.data_centers.get_mut(&local).unwrap();
        keys.insert(key.to_owned(), (value.to_owned(), index));
    }

    async fn delete(&self, key: &str) {
        let local = self.local();
        self.inner
            .lock()
            .unwrap()
            .data_centers
            .get_mut(&local)
            .unwrap()
            .remove(key);
    }
}

type Shared = State<Arc<Mutex<Inner>>>;
type Parameters = Query<BTreeMap<String, String>>;

/// The data centre of a request, or the refusal.
fn admitted(inner: &Inner, headers: &HeaderMap, query: &BTreeMap<String, String>) -> Result<String, Box<Response>> {
    let sent = headers.get("X-Consul-Token").and_then(|token| token.to_str().ok());
    if inner.token.is_some() && inner.token.as_deref() != sent {
        return Err(Box::new(
            (
                StatusCode::FORBIDDEN,
                "Permission denied: token lacks permission 'key:write'",
            )
                .into_response(),
        ));
    }
    let local = inner.data_centers.keys().next().unwrap();
    let name = query.get("dc").unwrap_or(local);
    if inner.down.as_ref() == Some(name) || !inner.data_centers.contains_key(name) {
        return Err(Box::new(
            (StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter").into_response(),
        ));
    }
    Ok(name.clone())
}

fn entry(key: &str, (value, index): &(String, u64)) -> Value {
    let value = if value.is_empty() {
        Value::Null
    } else {
        json!(STANDARD.encode(value))
    };
    json!({"LockIndex": 0, "Key": key, "Flags": 0, "Value": value, "CreateIndex": index, "ModifyIndex": index})
}

fn answered(status: StatusCode, body: &Value) -> Response {
    (status, axum::Json(body.clone())).into_response()
}

async fn data_center_names(State(inner): Shared, headers: HeaderMap, Query(query): Parameters) -> Response {
    let inner = inner.lock().unwrap();
    match admitted(&inner, &headers, &query) {
        Ok(_) => answered(StatusCode::OK, &json!(inner.data_centers.keys().collect::<Vec<_>>())),
        Err(refusal) => *refusal,
    }
}

async fn read(State(inner): Shared, Path(key): Path<String>, headers: HeaderMap, Query(query): Parameters) -> Response {
    let inner = inner.lock().unwrap();
    let name = match admitted(&inner, &headers, &query) {
        Ok(name) => name,
        Err(refusal) => return *refusal,
    };
    let is_recursive = query.contains_key("recurse");
    let keys = inner.data_centers[&name].iter();
    let found: Vec<Value> = keys
        .filter(|(present, _)| {
            if is_recursive {
                present.starts_with(&key)
            } else {
                **present == key
            }
        })
        .map(|(present, value)| entry(present, value))
        .collect();
    let status = if found.is_empty() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::OK
    };
    if found.is_empty() {
        status.into_response()
    } else {
        answered(status, &json!(found))
    }
}

async fn write(
    State(inner): Shared,
    Path(key): Path<String>,
    headers: HeaderMap,
    Query(query): Parameters,
    body: String,
) -> Response {
    let mut inner = inner.lock().unwrap();
    let name = match admitted(&inner, &headers, &query) {
        Ok(name) => name,
        Err(refusal) => return *refusal,
    };
    inner.index += 1;
    let index = inner.index;
    let keys = inner.data_centers.get_mut(&name).unwrap();
    let present = keys.get(&key).map_or(0, |(_, index)| *index);
    if query.get("cas").is_some_and(|cas| cas.parse() != Ok(present)) {
        return answered(StatusCode::OK, &json!(false));
    }
    keys.insert(key, (body, index));
    answered(StatusCode::OK, &json!(true))
}

async fn delete(
    State(inner): Shared,
    Path(key): Path<String>,
    headers: HeaderMap,
    Query(query): Parameters,
) -> Response {
    let mut inner = inner.lock().unwrap();
    match admitted(&inner, &headers, &query) {
        Ok(name) => {
            inner.data_centers.get_mut(&name).unwrap().remove(&key);
            answered(StatusCode::OK, &json!(true))
        }
        Err(refusal) => *refusal,
    }
}

async fn transaction(State(inner): Shared, headers: HeaderMap, Query(query): Parameters, body: Bytes) -> Response {
    let mut inner = inner.lock().unwrap();
    let name = match admitted(&inner, &headers, &query) {
        Ok(name) => name,
        Err(refusal) => return *refusal,
    };
    let operations: Vec<Value> = serde_json::from_slice(&body).unwrap();
    if operations.len() > 64 {
        return (
            StatusCode::PAYLOAD_TOO_LARGE,
            "Transaction contains too many operations",
        )
            .into_response();
    }
    inner.transactions.push(operations.len());
    inner.index += 1;
    let index = inner.index;
    // Either everything or nothing happens.
    let mut keys = inner.data_centers[&name].clone();
    let mut results = Vec::new();
    for (number, operation) in operations.iter().enumerate() {
        let fields = &operation["KV"];
        let key = fields["Key"].as_str().unwrap().to_owned();
        assert!(
            !key.starts_with('/'),
            "Invalid key. Key must not begin with a '/': {key}"
        );
        let wanted = fields["Index"].as_u64();
        let present = keys.get(&key).map(|(_, index)| *index);
        let value = || {
            let bytes = STANDARD.decode(fields["Value"].as_str().unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let is_met = match fields["Verb"].as_str().unwrap() {
            "set" => {
                keys.insert(key.clone(), (value(), index));
                true
            }
            "cas" if present.unwrap_or(0) == wanted.unwrap() => {
                keys.insert(key.clone(), (value(), index));
                true
            }
            "delete" => {
                keys.remove(&key);
                true
            }
            "delete-cas" if present == wanted => {
                keys.remove(&key);
                true
            }
            "check-index" => present.is_some() && present == wanted,
            "cas" | "delete-cas" => false,
            other => panic!("verb {other}"),
        };
        if !is_met {
            let error = json!({"OpIndex": number, "What": format!("failed to set key {key:?}, index is stale")});
            return answered(StatusCode::CONFLICT, &json!({"Results": null, "Errors": [error]}));
        }
        if let Some(written) = keys.get(&key) {
            results.push(json!({"KV": entry(&key, &(String::new(), written.1))}));
        }
    }
    inner.data_centers.insert(name, keys);
    answered(StatusCode::OK, &json!({"Results": results, "Errors": null}))
}
