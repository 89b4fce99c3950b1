//! Opens connections, bounds their operations by deadlines, and classifies failures by what they prove.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::app::observation::dns_cache;
use crate::app::ports::{Credentials, CredentialsByOrigin, Target, TlsMode};
use crate::domain::instance::ProbeFailure;
use crate::domain::key::InstanceKey;

use super::protocol::{Connection, Login, ProtocolError};

/// After this fraction of the deadline a second, bare TCP connection to a silent server is attempted. It distinguishes a stopped
/// process from dropped packets. The fraction is large enough that a healthy server never sees such a connection (each counts
/// against `max_connect_errors`, and stays in the accept queue of a stopped process), and small enough to leave most of the
/// deadline.
const SECOND_CONNECTION_AFTER: u32 = 3;

/// The shortest time after which an unanswered second connection means that the host does not answer; with long deadlines it is a
/// third of the deadline. A reachable host answers within one round trip, whatever the state of its server.
const SECOND_CONNECTION_GRACE: Duration = Duration::from_millis(200);

/// Deadline for closing a connection cleanly. Afterwards the socket is closed in any case.
const CLOSE_DEADLINE: Duration = Duration::from_millis(100);

/// Limit for the addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// The failure of a statement.
#[derive(Debug)]
pub(super) enum SqlFailure {
    /// The server answered with an error. The statement had no effect, and the connection remains usable.
    ServerError {
        /// Error number.
        number: u16,
        /// Error text.
        message: String,
    },
    /// No answer came, or an unreadable one. The connection must be dropped.
    Broken(ProbeFailure),
}

impl SqlFailure {
    /// The failure of a probe that this failure means.
    pub(super) fn into_probe_failure(self) -> ProbeFailure {
        match self {
            Self::ServerError { number, message } => classify_server_error(number, message),
            Self::Broken(failure) => failure,
        }
    }

    /// The failure that an error of the server means.
    pub(super) fn from_server_error(number: u16, message: String) -> Self {
        if closes_connection(number) {
            Self::Broken(ProbeFailure::Lost(format!("error {number}: {message}")))
        } else {
            Self::ServerError { number, message }
        }
    }
}

impl From<ProtocolError> for SqlFailure {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Server { number, message } => Self::from_server_error(number, message),
            ProtocolError::Io(error) => Self::Broken(classify_io_error(&error)),
            // The peer may have ended while it sent an answer.
            ProtocolError::Truncated(text) => Self::Broken(ProbeFailure::Lost(text)),
            ProtocolError::Unreadable(text) => Self::Broken(ProbeFailure::Unreadable(text)),
            ProtocolError::Tls(text) => Self::Broken(ProbeFailure::Unreadable(format!("TLS: {text}"))),
            ProtocolError::Denied(text) => Self::Broken(ProbeFailure::Denied(text)),
        }
    }
}

/// Whether the server closes the connection after this error: shutdown (1053), killed session (1927 on MariaDB, 3169), idle
/// timeout (4031), connection closed by force (1080, 1152, 1184), network errors on the side of the server (1158 to 1161).
fn closes_connection(number: u16) -> bool {
    matches!(number, 1053 | 1080 | 1152 | 1158..=1161 | 1184 | 1927 | 3169 | 4031)
}

/// Classifies an error of the server by its number.
fn classify_server_error(number: u16, message: String) -> ProbeFailure {
    match number {
        // Too many connections; of this account (1203), or by its resource limits (1226).
        1040 | 1203 | 1226 => ProbeFailure::Saturated,
        // Account, password, database, privilege, host, expired password, authentication method, locked account (4151 on
        // MariaDB).
        1044 | 1045 | 1129 | 1130 | 1142 | 1143 | 1227 | 1251 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => {
            ProbeFailure::Denied(format!("error {number}: {message}"))
        }
        _ => ProbeFailure::Server { number, message },
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds that prove something are few; any other end of a connection is a loss"
)]
fn classify_io_error(error: &io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::Refused,
        io::ErrorKind::TimedOut => ProbeFailure::NoAnswer,
        // PermissionDenied is a packet filter of this host, or one that answers "administratively prohibited".
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::PermissionDenied => ProbeFailure::Unreachable(error.to_string()),
        // rustls reports an invalid handshake so.
        io::ErrorKind::InvalidData => ProbeFailure::Unreadable(error.to_string()),
        _ => ProbeFailure::Lost(error.to_string()),
    }
}

/// The current credentials for a server.
///
/// # Errors
/// [`ProbeFailure::NoCredentials`] when none are known for the origin of the target.
pub(super) fn credentials_of(
    known: &watch::Receiver<CredentialsByOrigin>,
    target: &Target,
) -> Result<Credentials, ProbeFailure> {
    let missing = || ProbeFailure::NoCredentials(format!("none for the servers of {}", target.origin));
    known.borrow().get(&target.origin).cloned().ok_or_else(missing)
}

/// The addresses of an instance, at least one. The name is resolved for each connection, because its address may have changed.
async fn resolve(instance: &InstanceKey) -> Result<Vec<SocketAddr>, ProbeFailure> {
    let addresses = dns_cache::addresses(&instance.hostname).await;
    let addresses = addresses.map_err(|error| ProbeFailure::Name(error.to_string()))?;
    let sockets = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, instance.port));
    Ok(sockets.take(MAX_ADDRESSES).collect())
}

/// Opens a connection to an instance. Returns it with the address of the peer. It has no deadline of its own: call it inside
/// [`with_deadline`].
pub(super) async fn open(
    instance: &InstanceKey,
    credentials: &Credentials,
) -> Result<(Connection, IpAddr), ProbeFailure> {
    let mut outcome = Err(ProbeFailure::Name("the name has no address".to_owned()));
    for address in resolve(instance).await? {
        let connected = connect(instance, address, credentials).await;
        outcome = connected.map(|connection| (connection, address.ip()));
        // A name may have an IPv6 and an IPv4 address, and the server may listen on one of them only.
        if !matches!(outcome, Err(ProbeFailure::Refused | ProbeFailure::Unreachable(_))) {
            break;
        }
    }
    outcome
}

/// Connects to one address of an instance. With [`TlsMode::Preferred`], a connection without TLS follows when TLS fails.
async fn connect(
    instance: &InstanceKey,
    address: SocketAddr,
    credentials: &Credentials,
) -> Result<Connection, ProbeFailure> {
    match log_in(instance, address, credentials, credentials.tls).await {
        Err(ProtocolError::Tls(error)) if credentials.tls == TlsMode::Preferred => {
            tracing::debug!(%instance, "TLS with {instance} failed, connecting without it: {error}");
            log_in(instance, address, credentials, TlsMode::Off).await
        }
        outcome => outcome,
    }
    .map_err(|error| without_password(SqlFailure::from(error).into_probe_failure(), credentials))
}

async fn log_in(
    instance: &InstanceKey,
    address: SocketAddr,
    credentials: &Credentials,
    tls: TlsMode,
) -> Result<Connection, ProtocolError> {
    let socket = TcpStream::connect(address).await?;
    // Each packet is a request that is waited for.
    socket.set_nodelay(true)?;
    let ip = address.ip().to_string();
    let login = Login {
        user: &credentials.topology.user,
        password: credentials.topology.password.expose_secret(),
        tls,
        ca_pem: credentials.ca_pem.as_deref(),
        // The certificate is verified against the name, not against one of its addresses.
        server_name: if tls == TlsMode::Verify {
            &instance.hostname
        } else {
            &ip
        },
    };
    Connection::log_in(Box::new(socket), &login).await
}

/// Removes the password from the text of a failure: a server that received it, in clear or decrypted, may send it back.
fn without_password(failure: ProbeFailure, credentials: &Credentials) -> ProbeFailure {
    let password = credentials.topology.password.expose_secret();
    let clean = |text: String| match password {
        "" => text,
        password => text.replace(password, "***"),
    };
    match failure {
        ProbeFailure::Lost(text) => ProbeFailure::Lost(clean(text)),
        ProbeFailure::Unreachable(text) => ProbeFailure::Unreachable(clean(text)),
        ProbeFailure::Name(text) => ProbeFailure::Name(clean(text)),
        ProbeFailure::Denied(text) => ProbeFailure::Denied(clean(text)),
        ProbeFailure::NoCredentials(text) => ProbeFailure::NoCredentials(clean(text)),
        ProbeFailure::Unreadable(text) => ProbeFailure::Unreadable(clean(text)),
        ProbeFailure::Server { number, message } => ProbeFailure::Server {
            number,
            message: clean(message),
        },
        ProbeFailure::Refused | ProbeFailure::NoAnswer | ProbeFailure::Stalled | ProbeFailure::Saturated => failure,
    }
}

/// Runs `work` for at most `limit`. When it does not end in time, a bare TCP connection that was attempted meanwhile explains the
/// silence: an accepted one means [`ProbeFailure::Stalled`], an unanswered one [`ProbeFailure::NoAnswer`]; a refused connection
/// and an unknown name are reported as such. When the host does not answer the second connection, the call ends before `limit`.
///
/// Use it for open connections too: silence on an open connection does not distinguish a stopped process from a dead host.
pub(super) async fn with_deadline<T>(
    instance: &InstanceKey,
    limit: Duration,
    work: impl Future<Output = Result<T, ProbeFailure>>,
) -> Result<T, ProbeFailure> {
    let begun = Instant::now();
    let is_resolved = AtomicBool::new(false);
    let second_connection = async {
        sleep_until(begun + limit / SECOND_CONNECTION_AFTER).await;
        let addresses = resolve(instance).await?;
        is_resolved.store(true, Ordering::Relaxed);
        TcpStream::connect(addresses.as_slice())
            .await
            .map(drop)
            .map_err(|error| classify_io_error(&error))
    };
    tokio::pin!(work, second_connection);
    let second_connection_at = begun + limit / SECOND_CONNECTION_AFTER;
    let end = begun + limit;
    let given_up = end.min(second_connection_at + SECOND_CONNECTION_GRACE.max(limit / SECOND_CONNECTION_AFTER));
    let (mut seen, mut is_over) = (None, false);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            outcome = &mut second_connection, if seen.is_none() => seen = Some(outcome),
            () = sleep_until(given_up), if seen.is_none() && !is_over => {
                // A slow resolver proves nothing about the server.
                if is_resolved.load(Ordering::Relaxed) {
                    return Err(ProbeFailure::NoAnswer);
                }
                is_over = true;
            }
            () = sleep_until(end) => {
                return Err(match seen {
                    Some(Ok(())) => ProbeFailure::Stalled,
                    Some(Err(failure)) => failure,
                    None if is_resolved.load(Ordering::Relaxed) => ProbeFailure::NoAnswer,
                    None => ProbeFailure::Name("the resolver does not answer".to_owned()),
                });
            }
        }
    }
}

/// Closes a connection cleanly, so that the server does not count an aborted client.
pub(super) async fn close(connection: Connection) {
    if let Ok(Err(error)) = timeout(CLOSE_DEADLINE, connection.close()).await {
        tracing::debug!(?error, "failed to close a connection cleanly");
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::adapter::mysql::protocol::Transport;
    use crate::app::ports::Account;

    fn credentials() -> Credentials {
        let topology = Account {
            user: "ham4db".to_owned(),
            password: SecretString::from("s3cret"),
        };
        Credentials {
            topology,
            replication: None,
            tls: TlsMode::Off,
            ca_pem: None,
        }
    }

    async fn failure_of(instance: &InstanceKey) -> ProbeFailure {
        let opened = with_deadline(instance, Duration::from_millis(300), open(instance, &credentials())).await;
        match opened {
            Ok(_) => panic!("nothing there speaks MySQL"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = InstanceKey::new("127.0.0.1", listener.local_addr().unwrap().port());
        drop(listener);
        assert_eq!(failure_of(&instance).await, ProbeFailure::Refused);
    }

    #[tokio::test]
    async fn a_listener_that_never_greets_is_stalled_and_one_that_hangs_up_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = InstanceKey::new("127.0.0.1", listener.local_addr().unwrap().port());
        assert_eq!(failure_of(&instance).await, ProbeFailure::Stalled);
        let hanging_up = tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        assert!(matches!(failure_of(&instance).await, ProbeFailure::Lost(_)));
        hanging_up.abort();
    }

    /// A greeting that offers TLS.
    const OFFERS_TLS: &[u8] =
        b"\x49\0\0\0\x0a9.7.4\0\x07\0\0\0abcdefgh\0\0\x8a\x2d\x02\0\x2b\0\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";

    #[tokio::test]
    async fn a_server_whose_tls_fails_is_connected_without_tls_unless_tls_is_required() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = InstanceKey::new("127.0.0.1", listener.local_addr().unwrap().port());
        let serving = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                client.write_all(OFFERS_TLS).await.unwrap();
                let mut request = [0; 4096];
                let length = client.read(&mut request).await.unwrap();
                // The request for TLS has no name of an account.
                let answer: &[u8] = if length == 36 {
                    b"no TLS here"
                } else {
                    b"\x07\0\0\x02\0\0\0\x02\0\0\0"
                };
                client.write_all(answer).await.unwrap();
                drop(client.read(&mut request).await);
            }
        });
        let open_with = async |tls| {
            let credentials = Credentials { tls, ..credentials() };
            with_deadline(&instance, Duration::from_secs(20), open(&instance, &credentials)).await
        };
        let (connection, peer) = open_with(TlsMode::Preferred).await.unwrap();
        assert_eq!(connection.transport(), Transport::Plain);
        assert_eq!(peer, IpAddr::from([127, 0, 0, 1]));
        drop(connection);
        for tls in [TlsMode::Required, TlsMode::Verify] {
            let failure = open_with(tls).await.unwrap_err();
            assert!(matches!(failure, ProbeFailure::Unreadable(_)), "{failure:?}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn a_password_that_a_server_sends_back_is_not_in_the_failure() {
        let failure = ProbeFailure::Server {
            number: 1064,
            message: "no: s3cret".to_owned(),
        };
        assert_eq!(
            without_password(failure, &credentials()).to_string(),
            "server error 1064: no: ***"
        );
    }

    #[tokio::test]
    async fn a_name_without_address_is_our_own_trouble() {
        let failure = failure_of(&InstanceKey::new("no-such-host.invalid", 3306)).await;
        assert!(matches!(failure, ProbeFailure::Name(_)), "{failure:?}");
        assert!(!failure.is_about_the_server());
    }

    #[tokio::test]
    async fn silence_after_a_refusal_is_no_stall() {
        let instance = InstanceKey::new("127.0.0.1", 1);
        let outcome = with_deadline(
            &instance,
            Duration::from_millis(50),
            std::future::pending::<Result<(), ProbeFailure>>(),
        )
        .await;
        assert_eq!(outcome, Err(ProbeFailure::Refused));
    }

    #[test]
    fn errors_are_sorted_by_number() {
        let sorted = |number| classify_server_error(number, "text".to_owned());
        for number in [1040, 1203, 1226] {
            assert_eq!(sorted(number), ProbeFailure::Saturated);
        }
        for number in [1044, 1045, 1130, 1227, 1698, 4151] {
            assert!(matches!(sorted(number), ProbeFailure::Denied(_)), "{number}");
        }
        assert_eq!(
            sorted(1064),
            ProbeFailure::Server {
                number: 1064,
                message: "text".to_owned()
            }
        );
        assert!(closes_connection(1053) && closes_connection(1927) && !closes_connection(1317));
    }

    #[test]
    fn what_the_kernel_says_is_sorted_by_what_it_proves() {
        let sorted = |kind| classify_io_error(&io::Error::from(kind));
        assert_eq!(sorted(io::ErrorKind::ConnectionRefused), ProbeFailure::Refused);
        assert_eq!(sorted(io::ErrorKind::TimedOut), ProbeFailure::NoAnswer);
        assert!(matches!(
            sorted(io::ErrorKind::HostUnreachable),
            ProbeFailure::Unreachable(_)
        ));
        assert!(matches!(sorted(io::ErrorKind::ConnectionReset), ProbeFailure::Lost(_)));
        assert!(matches!(sorted(io::ErrorKind::UnexpectedEof), ProbeFailure::Lost(_)));
    }
}
