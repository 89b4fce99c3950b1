//! Who may change something: a token of `APIWriteTokenFile` is asked for where a route has effects, and nowhere else.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::CancellationToken;

use crate::app::api::write_tokens::WriteTokens;

use super::proxy::HOP_HEADER;
use super::reply::Failure;
use super::server::Shared;

/// Addresses that are remembered as named in the log: more at a time are not named.
const MOST_NAMED: usize = 256;

/// How long after a line about an address the next one may come.
const SILENCE: Duration = Duration::from_mins(1);

/// The tokens of a file, followed while it changes.
#[derive(Debug)]
pub struct WriteAccess {
    file: PathBuf,
    tokens: ArcSwap<WriteTokens>,
}

impl WriteAccess {
    /// With what the file held at the start.
    pub fn new(file: PathBuf, tokens: WriteTokens) -> Arc<Self> {
        Arc::new(Self {
            file,
            tokens: ArcSwap::from_pointee(tokens),
        })
    }

    /// Reads the file again each `every`, until the end. While it cannot be read or holds no token, the last good ones count, and one line
    /// says so.
    pub async fn follow(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut trouble = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let found = self.take(tokio::fs::read_to_string(&self.file).await).err();
            if found == trouble {
                continue;
            }
            let file = self.file.display();
            if let Some(why) = &found {
                tracing::warn!("APIWriteTokenFile {file}: {why}; the tokens from before still count");
            } else {
                tracing::info!("APIWriteTokenFile {file} can be used again");
            }
            trouble = found;
        }
    }

    fn take(&self, read: io::Result<String>) -> Result<(), String> {
        let text = read.map_err(|error| format!("cannot be read: {error}"))?;
        let tokens = WriteTokens::parse(&text)?;
        if **self.tokens.load() != tokens {
            let (file, count) = (self.file.display(), tokens.count());
            tracing::info!("APIWriteTokenFile {file} has changed: {count} tokens count now");
            self.tokens.store(Arc::new(tokens));
        }
        Ok(())
    }

    fn judge(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let offered = headers.get(header::AUTHORIZATION).map(Offered::read);
        let is_good = offered
            .as_ref()
            .is_some_and(|offered| self.tokens.load().admit(&offered.token));
        let what = match &offered {
            // A browser sends a remembered password along with whatever another site's page makes it ask for.
            Some(offered) if is_good && offered.is_remembered && is_from_another_site(headers) => {
                return Err(Failure::new(
                    StatusCode::FORBIDDEN,
                    "Unauthorized: a page of another site made the browser ask for this",
                ));
            }
            Some(_) if is_good => return Ok(()),
            Some(_) => "the token sent is none of them",
            None => "none was sent",
        };
        let message = format!(
            "Unauthorized: this needs a token of APIWriteTokenFile ({}), and {what}; send one as `Authorization: Bearer TOKEN`, or as the \
             password of basic authentication (curl -u any:TOKEN; ham4db-client: HAM4DB_API_TOKEN or HAM4DB_API_TOKEN_FILE)",
            self.file.display()
        );
        Err(Failure::new(StatusCode::UNAUTHORIZED, message))
    }
}

/// What a caller offers.
struct Offered {
    token: Vec<u8>,
    /// By basic authentication, whose passwords browsers keep.
    is_remembered: bool,
}

impl Offered {
    /// What cannot be understood is an empty token, which is none.
    fn read(value: &HeaderValue) -> Self {
        let (scheme, rest) = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().split_once(' '))
            .unwrap_or_default();
        let rest = rest.trim();
        let is_remembered = scheme.eq_ignore_ascii_case("basic");
        let token = if scheme.eq_ignore_ascii_case("bearer") {
            rest.as_bytes().to_vec()
        } else if is_remembered {
            let both = STANDARD.decode(rest).unwrap_or_default();
            let colon = both.iter().position(|byte| *byte == b':');
            colon.and_then(|at| both.get(at + 1..)).unwrap_or_default().to_vec()
        } else {
            Vec::new()
        };
        Self { token, is_remembered }
    }
}

fn is_from_another_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none")
}

/// Lets those through who may change something.
pub(super) async fn authorised(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let Some(access) = &shared.app.options.write_access else {
        return next.run(request).await;
    };
    // What may be asked has no effect, and browsers ask it without credentials.
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
        for scheme in ["Bearer realm=\"ham4db\"", "Basic realm=\"ham4db\", charset=\"UTF-8\""] {
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
    }
    response
}

/// Says in the log who was refused, on the member that was asked and on the leader that refused it: a line for each address and minute.
pub(super) async fn noted(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let from = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip().to_canonical());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let through = request.headers().get(HOP_HEADER).cloned();
    let response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED && shared.refusals.is_news(from, Instant::now()) {
        let from = from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string());
        let route = route.as_ref().map_or("a change", MatchedPath::as_str);
        let through = through.as_ref().and_then(|name| name.to_str().ok());
        let through = through.map(|name| format!(", sent on by {name:?}")).unwrap_or_default();
        tracing::warn!(
            "refused without a token of APIWriteTokenFile: {route} from {from}{through}; of this address no more is said for a minute"
        );
    }
    response
}

/// Of whom the log told within the last minute.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    named: Mutex<BTreeMap<Option<IpAddr>, Instant>>,
}

impl Refusals {
    fn is_news(&self, from: Option<IpAddr>, now: Instant) -> bool {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, at| now.duration_since(*at) < SILENCE);
        if named.contains_key(&from) || named.len() >= MOST_NAMED {
            return false;
        }
        named.insert(from, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(value: &str) -> Vec<u8> {
        Offered::read(&HeaderValue::from_str(value).unwrap()).token
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
            assert_eq!(offered(value), token.as_bytes(), "{value}");
        }
    }

    #[test]
    fn of_an_address_the_log_tells_once_a_minute_and_of_so_many_only() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let address = |last: u16| Some(IpAddr::from([10, 0, last.to_be_bytes()[0], last.to_be_bytes()[1]]));
        assert!(refusals.is_news(address(1), now));
        assert!(!refusals.is_news(address(1), now + SILENCE / 2));
        assert!(refusals.is_news(None, now));
        let told = (2..1000).filter(|last| refusals.is_news(address(*last), now)).count();
        assert_eq!(told, MOST_NAMED - 2);
        assert!(refusals.is_news(address(1), now + SILENCE));
        assert_eq!(refusals.named.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let access = WriteAccess::new(PathBuf::from("/etc/token"), WriteTokens::parse("old-token").unwrap());
        let gone = io::Error::from(io::ErrorKind::NotFound);
        assert!(access.take(Err(gone)).unwrap_err().starts_with("cannot be read"));
        assert_eq!(access.take(Ok("\n".to_owned())).unwrap_err(), "holds no token");
        assert!(access.tokens.load().admit(b"old-token"));
        access.take(Ok("new-token\nold-token".to_owned())).unwrap();
        assert!(access.tokens.load().admit(b"new-token") && access.tokens.load().admit(b"old-token"));
        access.take(Ok("new-token".to_owned())).unwrap();
        assert!(!access.tokens.load().admit(b"old-token"));
    }
}
