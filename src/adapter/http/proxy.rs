//! From a follower to the leader: a request is sent on once, as it came, and the answer is given back as it comes.
//!
//! Never retried: a forward that broke may have had its effect. Loops are impossible: a request that was sent on once carries a header
//! and is not sent on again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::observation::dns_cache;
use crate::app::ports::Peer;

use super::reply::Failure;
use super::server::Shared;

/// Who sent a request on.
pub(super) const HOP_HEADER: HeaderName = HeaderName::from_static("x-ham4db-forwarded-by");

/// For a connection to the leader: it is a neighbour, and whoever waits is better told at once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Longest silence while an answer is awaited: a manual recovery takes its time.
const SILENCE_DEADLINE: Duration = Duration::from_mins(2);

/// Kept connections are dropped soon: one to a member that restarted would break the next forward.
const IDLE: Duration = Duration::from_secs(5);

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and those that the client sets itself.
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

/// Where the leader is, also while DNS does not answer.
struct Names;

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found = dns_cache::addresses(name.as_str()).await?;
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}

/// The client for forwards.
pub(super) fn client() -> reqwest::Client {
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
        .dns_resolver(Arc::new(Names))
        .build()
        .expect("because a TLS provider was installed just above")
}

/// The URI as it was asked for: nested routers see the path without their prefix, and the leader needs all of it.
#[derive(Clone)]
struct WholeUri(Uri);

/// Remembers the URI before routers cut it.
pub(super) async fn remember_uri(mut request: Request, next: Next) -> Response {
    let uri = WholeUri(request.uri().clone());
    request.extensions_mut().insert(uri);
    next.run(request).await
}

/// Lets a request through on the leader, and sends it on from everybody else.
pub(super) async fn to_leader(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let consensus = &shared.app.consensus;
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
        let message = format!(
            "{from} sent the request on to {}, which does not lead any more",
            me.name
        );
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .retry_later()
            .into_response();
    }
    let Some(leader) = leadership.leader.filter(|leader| leader.id != me.id) else {
        let message = format!("{} knows no leader at the moment", me.name);
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .retry_later()
            .into_response();
    };
    forward(&shared.forwarder, &me, &leader, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn forward(client: &reqwest::Client, me: &Peer, leader: &Peer, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let uri = head.extensions.get::<WholeUri>().map_or(&head.uri, |whole| &whole.0);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", leader.http_uri.trim_end_matches('/'));
    let mut headers = without_per_connection(&head.headers);
    // The answer is passed on as it is, so it must not be packed for us.
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
            tracing::warn!(leader = %leader.name, %url, error = %error_chain(&error), "forward to the leader broke");
            let (status, what) = if error.is_connect() {
                (StatusCode::SERVICE_UNAVAILABLE, "cannot be reached; nothing was done")
            } else {
                (
                    StatusCode::BAD_GATEWAY,
                    "did not answer; the request may have had its effect",
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

/// All but the headers of this connection, among them those that `Connection` itself names.
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
