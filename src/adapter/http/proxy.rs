//! Forwards requests from a follower to the leader, unchanged, and streams the response back.
//!
//! A forward is never retried: a request with a lost response may have taken effect. Loops are impossible: a forwarded request
//! carries a header and is not forwarded again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::observation::dns_cache;
use crate::app::ports::{Consensus, Peer};

use super::reply::Failure;

/// Header with the name of the member that forwarded a request.
pub(super) const HOP_HEADER: HeaderName = HeaderName::from_static("x-ham4db-forwarded-by");

/// Deadline for a connection to the leader. It is short, so that the client gets an error early.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Longest wait for the next bytes of a response. A manual recovery takes long.
const SILENCE_DEADLINE: Duration = Duration::from_mins(2);

/// How long an idle connection is kept. It is short: a connection to a member that restarted would break the next forward.
const IDLE: Duration = Duration::from_secs(5);

/// Headers of one connection (RFC 9110, section 7.6.1), and those that the HTTP client sets itself.
const PER_CONNECTION: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];

/// Resolves names through the DNS cache, so that the leader is found while DNS does not answer.
struct CachedResolver;

impl reqwest::dns::Resolve for CachedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found = dns_cache::addresses(name.as_str()).await?;
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}

/// Forwards requests of this member to the leader.
#[derive(Clone)]
pub(super) struct Forwarder {
    consensus: Arc<dyn Consensus>,
    client: reqwest::Client,
}

impl Forwarder {
    /// A forwarder with connections of its own.
    pub(super) fn new(consensus: Arc<dyn Consensus>) -> Self {
        Self {
            consensus,
            client: client(),
        }
    }
}

fn client() -> reqwest::Client {
    // A second installation is refused and means that there is one already.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .read_timeout(SILENCE_DEADLINE)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .dns_resolver(Arc::new(CachedResolver))
        .build()
        .expect("because a TLS provider was installed just above")
}

/// The requested URI. Nested routers see the path without their prefix, and the leader needs the full path.
#[derive(Clone)]
struct FullUri(Uri);

/// Stores the URI before nested routers shorten it.
pub(super) async fn remember_uri(mut request: Request, next: Next) -> Response {
    let uri = FullUri(request.uri().clone());
    request.extensions_mut().insert(uri);
    next.run(request).await
}

/// Handles a request on the leader, and forwards it from any other member.
pub(super) async fn forward_to_leader(State(forwarder): State<Forwarder>, request: Request, next: Next) -> Response {
    let consensus = &forwarder.consensus;
    if !consensus.is_raft() {
        return next.run(request).await;
    }
    let leadership = consensus.leadership().borrow().clone();
    if leadership.is_leader {
        return next.run(request).await;
    }
    let me = consensus.me();
    if let Some(hop) = request.headers().get(&HOP_HEADER) {
        let from = hop.to_str().unwrap_or("another member");
        let message = format!("{from} forwarded the request to {}, which no longer leads", me.name);
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .retry_later()
            .into_response();
    }
    let Some(leader) = leadership.leader.filter(|leader| leader.id != me.id) else {
        let message = format!("{} knows no leader", me.name);
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .retry_later()
            .into_response();
    };
    forward(&forwarder.client, &me, &leader, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn forward(client: &reqwest::Client, me: &Peer, leader: &Peer, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let uri = head.extensions.get::<FullUri>().map_or(&head.uri, |full| &full.0);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", leader.http_uri.trim_end_matches('/'));
    let mut headers = without_per_connection(&head.headers);
    // The response is passed on unchanged, so it must not be compressed for this client.
    headers.remove(header::ACCEPT_ENCODING);
    headers.insert(
        HOP_HEADER,
        HeaderValue::from_str(&me.name).unwrap_or(HeaderValue::from_static("member")),
    );
    let body = reqwest::Body::wrap_stream(body.into_data_stream());
    let answer = client
        .request(head.method, &url)
        .headers(headers)
        .body(body)
        .send()
        .await
        .map_err(|error| {
            tracing::warn!(leader = %leader.name, %url, error = %error_chain(&error), "failed to forward a request to the leader");
            let (status, what) = if error.is_connect() {
                (StatusCode::SERVICE_UNAVAILABLE, "cannot be reached; nothing was done")
            } else {
                (
                    StatusCode::BAD_GATEWAY,
                    "did not answer; the request may have taken effect",
                )
            };
            Failure::new(status, format!("the leader {} {what}", leader.name))
                .retry_later()
                .naming_leader(&leader.name)
        })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = without_per_connection(answer.headers());
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    Ok(response)
}

/// The headers without those of this connection. These include the ones that `Connection` names.
fn without_per_connection(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    headers
        .iter()
        .filter(|(name, _)| !PER_CONNECTION.contains(name) && !named.iter().any(|named| named == name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
