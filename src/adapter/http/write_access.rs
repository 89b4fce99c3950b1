//! Authorisation of changes: a route with effects requires a token of `APIWriteTokenFile`, other routes do not.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::CancellationToken;

use crate::app::api::write_tokens::WriteTokens;

use super::proxy::HOP_HEADER;
use super::reply::Failure;

/// Maximum number of addresses for which refusals are logged within [`LOG_INTERVAL`].
const MAX_LOGGED_ADDRESSES: usize = 256;

/// Minimum time between two log lines about one address.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The tokens of a file, reloaded when it changes.
#[derive(Debug)]
pub struct WriteAccess {
    file: PathBuf,
    tokens: ArcSwap<WriteTokens>,
}

impl WriteAccess {
    /// Starts with the tokens that the file had at startup.
    pub fn new(file: PathBuf, tokens: WriteTokens) -> Arc<Self> {
        Arc::new(Self {
            file,
            tokens: ArcSwap::from_pointee(tokens),
        })
    }

    /// Reads the file again every `every` until `stop` is cancelled. While it cannot be read or has no token, the previous tokens stay
    /// valid, and one warning is logged.
    pub async fn follow(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut last_error = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let found = self.take(tokio::fs::read_to_string(&self.file).await).err();
            if found == last_error {
                continue;
            }
            let file = self.file.display();
            if let Some(why) = &found {
                tracing::warn!("APIWriteTokenFile {file}: {why}; the previous tokens stay valid");
            } else {
                tracing::info!("APIWriteTokenFile {file} is valid again");
            }
            last_error = found;
        }
    }

    fn take(&self, read: io::Result<String>) -> Result<(), String> {
        let text = read.map_err(|error| format!("cannot be read: {error}"))?;
        let tokens = WriteTokens::parse(&text)?;
        if **self.tokens.load() != tokens {
            let (file, count) = (self.file.display(), tokens.count());
            tracing::info!("APIWriteTokenFile {file} changed: {count} tokens are valid");
            self.tokens.store(Arc::new(tokens));
        }
        Ok(())
    }

    fn judge(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let credentials = headers.get(header::AUTHORIZATION).map(Credentials::read);
        let is_good = credentials
            .as_ref()
            .is_some_and(|credentials| self.tokens.load().admit(&credentials.token));
        let what = match &credentials {
            Some(_) if is_good => return Ok(()),
            Some(_) => "the token sent is not valid",
            None => "no token was sent",
        };
        let message = format!(
            "Unauthorized: this needs a token of APIWriteTokenFile ({}), and {what}; send one as `Authorization: Bearer TOKEN`, or as the \
             password of basic authentication (curl -u any:TOKEN; ham4db-client: HAM4DB_API_TOKEN or HAM4DB_API_TOKEN_FILE)",
            self.file.display()
        );
        Err(Failure::new(StatusCode::UNAUTHORIZED, message))
    }
}

/// The token of a request.
struct Credentials {
    token: Vec<u8>,
}

impl Credentials {
    /// Parses the header. A header that cannot be parsed gives an empty token, which is never valid.
    fn read(value: &HeaderValue) -> Self {
        let (scheme, rest) = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().split_once(' '))
            .unwrap_or_default();
        let rest = rest.trim();
        let token = if scheme.eq_ignore_ascii_case("bearer") {
            rest.as_bytes().to_vec()
        } else if scheme.eq_ignore_ascii_case("basic") {
            let both = STANDARD.decode(rest).unwrap_or_default();
            let colon = both.iter().position(|byte| *byte == b':');
            colon.and_then(|at| both.get(at + 1..)).unwrap_or_default().to_vec()
        } else {
            Vec::new()
        };
        Self { token }
    }
}

/// A header that a page of another site cannot make a browser send: `X-Ham4db-Request`, with any value.
const REQUEST_HEADER: HeaderName = HeaderName::from_static("x-ham4db-request");

/// Whether a browser sent the request. Over plain HTTP browsers omit `Sec-Fetch-Site`, so their other marks count, too.
fn is_from_browser(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName| headers.contains_key(name);
    let has_mark = has(header::ORIGIN)
        || has(header::REFERER)
        || headers
            .keys()
            .any(|name| name.as_str().starts_with("sec-fetch-") || name.as_str().starts_with("sec-ch-ua"));
    let agent = headers
        .get(header::USER_AGENT)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    has_mark
        || agent
            .get(..8)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"mozilla/"))
}

/// Refuses what a page of another site can make a browser send: it adds a stored password to such a request, and without tokens none is
/// needed. A browser changes something only by POST with [`REQUEST_HEADER`].
pub(super) async fn refuse_forged_by_browser(request: Request, next: Next) -> Response {
    let (method, headers) = (request.method(), request.headers());
    let is_deliberate = method == Method::OPTIONS || (method == Method::POST && headers.contains_key(REQUEST_HEADER));
    if is_from_browser(headers) && !is_deliberate {
        let message = "Unauthorized: a browser may change something only by POST with the header X-Ham4db-Request, which no page of another \
                       site can add; use curl or ham4db-client";
        return Failure::new(StatusCode::FORBIDDEN, message).into_response();
    }
    next.run(request).await
}

/// Passes a request with a valid token on, and answers 401 otherwise. Without `APIWriteTokenFile` every request passes.
pub(super) async fn require_write_token(
    State(access): State<Option<Arc<WriteAccess>>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(access) = access else {
        return next.run(request).await;
    };
    // OPTIONS has no effect, and browsers send it without credentials.
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    match access.judge(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(failure) => challenged(failure.into_response()),
    }
}

fn challenged(mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        // No Basic: a browser would ask for the password, store it, and add it to requests of any page.
        let challenge = HeaderValue::from_static("Bearer realm=\"ham4db\"");
        response.headers_mut().append(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Logs refused requests, on the member that received the request and on the leader that refused it: one line per address and minute.
pub(super) async fn log_refusals(State(refusals): State<Arc<Refusals>>, request: Request, next: Next) -> Response {
    let from = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip().to_canonical());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let through = request.headers().get(HOP_HEADER).cloned();
    let response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED && refusals.should_log(from, Instant::now()) {
        let from = from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string());
        let route = route.as_ref().map_or("a change", MatchedPath::as_str);
        let through = through.as_ref().and_then(|name| name.to_str().ok());
        let through = through
            .map(|name| format!(", forwarded by {name:?}"))
            .unwrap_or_default();
        tracing::warn!(
            "refused {route} from {from}{through}: no valid token of APIWriteTokenFile; further refusals of this address are not logged for 60 s"
        );
    }
    response
}

/// The addresses that were logged within the last minute.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    named: Mutex<BTreeMap<Option<IpAddr>, Instant>>,
}

impl Refusals {
    fn should_log(&self, from: Option<IpAddr>, now: Instant) -> bool {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, at| now.duration_since(*at) < LOG_INTERVAL);
        if named.contains_key(&from) || named.len() >= MAX_LOGGED_ADDRESSES {
            return false;
        }
        named.insert(from, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(value: &str) -> Vec<u8> {
        Credentials::read(&HeaderValue::from_str(value).unwrap()).token
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_a_password() {
        for (value, token) in [
            ("Bearer abc", "abc"),
            ("bearer  abc ", "abc"),
            // me:abc, :abc, me:a:b
            ("Basic bWU6YWJj", "abc"),
            ("basic OmFiYw==", "abc"),
            ("Basic bWU6YTpi", "a:b"),
            ("Basic abc", ""),
            ("Basic bWU=", ""),
            ("Bearer", ""),
            ("Digest abc", ""),
            ("abc", ""),
        ] {
            assert_eq!(credentials(value), token.as_bytes(), "{value}");
        }
    }

    #[test]
    fn refusals_are_logged_once_a_minute_per_address_and_for_a_bounded_number_of_addresses() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let address = |last: u16| Some(IpAddr::from([10, 0, last.to_be_bytes()[0], last.to_be_bytes()[1]]));
        assert!(refusals.should_log(address(1), now));
        assert!(!refusals.should_log(address(1), now + LOG_INTERVAL / 2));
        assert!(refusals.should_log(None, now));
        let logged = (2..1000)
            .filter(|last| refusals.should_log(address(*last), now))
            .count();
        assert_eq!(logged, MAX_LOGGED_ADDRESSES - 2);
        assert!(refusals.should_log(address(1), now + LOG_INTERVAL));
        assert_eq!(refusals.named.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let access = WriteAccess::new(PathBuf::from("/etc/token"), WriteTokens::parse("old-token").unwrap());
        let gone = io::Error::from(io::ErrorKind::NotFound);
        assert!(access.take(Err(gone)).unwrap_err().starts_with("cannot be read"));
        assert_eq!(access.take(Ok("\n".to_owned())).unwrap_err(), "contains no token");
        assert!(access.tokens.load().admit(b"old-token"));
        access.take(Ok("new-token\nold-token".to_owned())).unwrap();
        assert!(access.tokens.load().admit(b"new-token") && access.tokens.load().admit(b"old-token"));
        access.take(Ok("new-token".to_owned())).unwrap();
        assert!(!access.tokens.load().admit(b"old-token"));
    }
}
