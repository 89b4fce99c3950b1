//! Forwards requests from a follower to the leader, unchanged, and streams the response back.
//!
//! A forward is never retried: a request with a lost response may have taken effect. Loops are impossible: a forwarded request
//! carries a header and is not forwarded again. A response is waited for as long as the leader may take for it, unless the leader is
//! replaced, and is passed on in pieces: this member never holds the whole of it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::observation::dns_cache;
use crate::app::ports::{Consensus, Leadership, Peer};

use super::reply::{Failure, UNKNOWN_LEADER};

/// Header with the name of the member that forwarded a request.
pub(super) const HOP_HEADER: HeaderName = HeaderName::from_static("x-ham4db-forwarded-by");

/// Deadline for a connection to the leader. It is short, so that the client gets an error early.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Longest wait for the next bytes of a response that has begun. How long it may take to begin is bounded by the deadline of all
/// requests: a manual recovery takes long.
const SILENCE_DEADLINE: Duration = Duration::from_mins(2);

/// How long the response of a member that no longer leads is waited for: to a change, as it may still report the outcome, and to a read.
/// A member that is cut off never responds.
const REPLACED_DEADLINES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(200));

/// Shortest time between two warnings about failed forwards; the others are logged at debug level.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

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

/// When a failed forward was last logged as a warning. While there is no leader, each request fails.
#[derive(Default)]
struct RareWarning(Mutex<Option<Instant>>);

impl RareWarning {
    /// Whether the warning is due; if so, the next one is due after [`WARNING_INTERVAL`].
    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// Forwards requests of this member to the leader.
#[derive(Clone)]
pub(super) struct Forwarder {
    consensus: Arc<dyn Consensus>,
    client: reqwest::Client,
    is_for_changes: bool,
    warning: Arc<RareWarning>,
}

impl Forwarder {
    /// A forwarder with connections of its own.
    pub(super) fn new(consensus: Arc<dyn Consensus>) -> Self {
        Self {
            consensus,
            client: client(),
            is_for_changes: true,
            warning: Arc::default(),
        }
    }

    /// The same for requests without an effect.
    pub(super) fn for_reads(&self) -> Self {
        Self {
            is_for_changes: false,
            ..self.clone()
        }
    }
}

fn client() -> reqwest::Client {
    // A second installation is refused and means that there is one already.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
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
    let leadership = consensus.leadership().borrow().clone();
    if leadership.is_leader {
        return next.run(request).await;
    }
    let me = consensus.me();
    if let Some(hop) = request.headers().get(&HOP_HEADER) {
        let from = hop.to_str().unwrap_or("another member");
        let message = format!("{from} forwarded the request to {}, which no longer leads", me.name);
        return without_leader(message);
    }
    let Some(leader) = leadership.leader.filter(|leader| leader.id != me.id) else {
        return without_leader(format!("{} knows no leader", me.name));
    };
    forward(forwarder, &me, &leader, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// Nothing was done, and another try may find a leader. Clients recognise it by the header.
fn without_leader(message: String) -> Response {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
        .retry_later()
        .naming_leader(UNKNOWN_LEADER)
        .into_response()
}

async fn forward(forwarder: Forwarder, me: &Peer, leader: &Peer, request: Request) -> Result<Response, Failure> {
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
    let sent = forwarder
        .client
        .request(head.method, &url)
        .headers(headers)
        .body(body)
        .send();
    let (deadline, effect) = if forwarder.is_for_changes {
        (REPLACED_DEADLINES.0, "; the request may have taken effect")
    } else {
        (REPLACED_DEADLINES.1, "")
    };
    let answer = tokio::select! {
        answer = sent => answer.map_err(|error| broken(&forwarder.warning, leader, &url, &error))?,
        () = replaced(forwarder.consensus.leadership(), leader.id, deadline) => {
            let message = format!("{} stopped leading and did not answer{effect}", leader.name);
            return Err(Failure::new(StatusCode::BAD_GATEWAY, message)
                .retry_later()
                .naming_leader(&leader.name));
        }
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = without_per_connection(answer.headers());
    *response.body_mut() = in_pieces(answer.bytes_stream());
    Ok(response)
}

fn broken(warning: &RareWarning, leader: &Peer, url: &str, error: &reqwest::Error) -> Failure {
    if warning.is_due() {
        tracing::warn!(leader = %leader.name, %url, error = %error_chain(error), "failed to forward a request to the leader");
    } else {
        tracing::debug!(leader = %leader.name, %url, error = %error_chain(error), "failed to forward a request to the leader");
    }
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
}

/// Returns when this member has known for as long as `deadline` that `leader` does not lead.
async fn replaced(mut leadership: watch::Receiver<Leadership>, leader: u64, deadline: Duration) {
    let leads = |now: &Leadership| now.leader.as_ref().is_some_and(|peer| peer.id == leader);
    loop {
        // An error means that the group is shut down, and this request with it.
        if leadership.wait_for(|now| !leads(now)).await.is_err() {
            return std::future::pending().await;
        }
        let again = tokio::time::timeout(deadline, leadership.wait_for(leads))
            .await
            .map(|again| again.is_ok());
        match again {
            Ok(true) => {}
            Ok(false) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// The body of a response. It fails when nothing of it arrives for [`SILENCE_DEADLINE`].
fn in_pieces(body: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static) -> Body {
    Body::from_stream(stream::try_unfold(Box::pin(body), |mut body| async move {
        match tokio::time::timeout(SILENCE_DEADLINE, body.next()).await {
            Ok(Some(Ok(piece))) => Ok(Some((piece, body))),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(None) => Ok(None),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the leader stopped sending its answer",
            )),
        }
    }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_failed_forwards_one_in_ten_seconds_is_a_warning() {
        let warning = RareWarning::default();
        let mut due = 0;
        for _ in 0..250 {
            due += u32::from(warning.is_due());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(due, 3);
    }
}
