//! What a hostile, broken or foreign server can do in each phase of a connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Connection, Login, ProtocolError, Transport, limits};
use crate::adapter::mysql::scripted_server::{Received, Step, packet, play};
use crate::app::ports::TlsMode;

const PASSWORD: &str = "s3cret-s3cret";

const PUBLIC_KEY: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/tls/rsa-public.pem"));
const CERTIFICATE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/tls/certificate.pem"));

const TLS: u32 = 1 << 11;
const DEPRECATE_EOF: u32 = 1 << 24;
const USUAL: u32 = (1 << 9) | (1 << 15) | (1 << 16) | (1 << 17) | (1 << 19) | (1 << 21);

fn login(tls: TlsMode) -> Login<'static> {
    Login {
        user: "ham4db",
        password: PASSWORD,
        tls,
        ca_pem: Some(CERTIFICATE),
        server_name: "db1.example",
    }
}

/// A greeting as servers send it.
fn greeting(capabilities: u32, plugin: &str) -> Vec<u8> {
    let [c0, c1, c2, c3] = capabilities.to_le_bytes();
    let mut greeting = b"\x0a9.7.4\0\x07\0\0\0abcdefgh\0".to_vec();
    greeting.extend([c0, c1, 45, 2, 0, c2, c3, 21]);
    greeting.extend([0; 10]);
    greeting.extend(b"ijklmnopqrst\0");
    greeting.extend(plugin.as_bytes());
    greeting.push(0);
    greeting
}

fn switch(plugin: &str) -> Vec<u8> {
    [b"\xfe", plugin.as_bytes(), b"\0ABCDEFGHIJKLMNOPQRST\0"].concat()
}

const OK: &[u8] = b"\0\0\0\x02\0\0\0";

fn send(sequence: u8, payload: &[u8]) -> Step {
    Step::Send(packet(sequence, payload))
}

/// A login without TLS, then these steps.
fn logged_in(capabilities: u32, then: Vec<Step>) -> Vec<Step> {
    let mut script = vec![
        send(0, &greeting(capabilities, "mysql_native_password")),
        Step::Receive,
        send(2, OK),
    ];
    script.extend(then);
    script
}

/// Runs `client` against a script. It has to end, and quickly.
async fn against<T>(
    script: Vec<Step>,
    login: Login<'static>,
    client: impl AsyncFnOnce(Connection) -> Result<T, ProtocolError>,
) -> (Result<T, ProtocolError>, Received) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let client = async {
        let connection = Connection::log_in(Box::new(ours), &login).await?;
        client(connection).await
    };
    let (outcome, received) = tokio::join!(timeout(Duration::from_secs(20), client), play(theirs, script));
    (outcome.expect("the client has to end"), received)
}

async fn handshake(script: Vec<Step>, login: Login<'static>) -> (Result<Transport, ProtocolError>, Received) {
    against(script, login, async |connection| Ok(connection.transport())).await
}

/// The text of a handshake that is unreadable.
async fn unreadable(script: Vec<Step>) -> String {
    let (outcome, _) = handshake(script, login(TlsMode::Off)).await;
    match outcome {
        Err(ProtocolError::Unreadable(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// The failure of a statement on a connection of which these are the answers.
async fn query_failure(capabilities: u32, answers: Vec<Step>) -> String {
    let mut steps = vec![Step::Receive];
    steps.extend(answers);
    let script = logged_in(capabilities, steps);
    let (outcome, _) = against(script, login(TlsMode::Off), async |mut connection| {
        connection.query("SELECT 1").await
    })
    .await;
    match outcome {
        Err(ProtocolError::Unreadable(text) | ProtocolError::Truncated(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_greeting_of_two_bytes_is_unreadable() {
    assert_eq!(
        unreadable(vec![Step::Send(b"\x02\0\0\0\x0a\0".to_vec())]).await,
        "not a greeting of a server: received 2 bytes, `\\x0a\\x00`"
    );
}

#[tokio::test]
async fn every_part_of_a_greeting_is_unreadable() {
    let whole = greeting(USUAL, "mysql_native_password");
    // The name of the plugin may be cut: what is left of it is another name.
    let necessary = whole.len() - "mysql_native_password\0".len();
    for length in 1..necessary {
        let text = unreadable(vec![send(0, &whole[..length])]).await;
        assert!(text.contains(&format!("received {length} byte")), "{length}: {text}");
        // The same bytes, and then the end of the connection.
        let announced = packet(0, &whole);
        let text = unreadable(vec![Step::Send(announced[..length].to_vec())]).await;
        assert!(
            text.contains("closed the connection within a packet"),
            "{length}: {text}"
        );
    }
}

#[tokio::test]
async fn what_is_no_database_server_is_named_by_its_first_bytes() {
    for (sent, shown) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "`SSH-2.0-OpenSSH_9.2p1\\x0d\\x0a`"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "`HTTP/1.1 400 Bad Request"),
        (b"220 mail.example ESMTP\r\n", "`220 mail.example"),
        (b"\x15\x03\x01\0\x02\x02\x0a", "7 bytes, `\\x15\\x03\\x01"),
        (b"\0\0\0\0", "4 bytes, `\\x00\\x00\\x00\\x00`"),
        (b"\xff\xff\xff\0", "16777215 bytes is announced (limit 16384)"),
        (b"\x01\0\0\x05\x0a", "packet 5 instead of packet 0"),
    ] {
        let text = unreadable(vec![Step::Send(sent.to_vec())]).await;
        assert!(text.contains(shown), "{text}");
    }
}

#[tokio::test]
async fn what_is_received_is_quoted_in_part_only() {
    let text = unreadable(vec![send(0, &[b'x'; 10_000])]).await;
    assert!(
        text.contains("received 10000 bytes, `xxx") && text.len() < 200,
        "{text}"
    );
}

#[tokio::test]
async fn errors_before_the_handshake_are_those_of_the_server() {
    let script = vec![send(0, b"\xff\x10\x04Too many connections")];
    let (outcome, _) = handshake(script, login(TlsMode::Off)).await;
    let Err(ProtocolError::Server { number, message }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((number, message.as_str()), (1040, "Too many connections"));
    assert!(
        unreadable(vec![send(0, b"\xff\x10")])
            .await
            .contains("an error without a number")
    );
}

#[tokio::test]
async fn an_endless_error_text_is_cut() {
    let text = [&b"\xff\x10\x04#08004"[..], &[b'x'; 9000], b"\x1b[31m"].concat();
    let (outcome, _) = handshake(vec![send(0, &text)], login(TlsMode::Off)).await;
    let Err(ProtocolError::Server { message, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(message.len(), limits::ERROR_TEXT);
}

#[tokio::test]
async fn the_password_in_clear_is_sent_over_verified_tls_only() {
    let by_greeting = |capabilities| {
        vec![
            send(0, &greeting(USUAL | capabilities, "mysql_clear_password")),
            Step::Receive,
        ]
    };
    let by_switch = |capabilities| {
        let greeting = send(0, &greeting(USUAL | capabilities, "caching_sha2_password"));
        vec![
            greeting,
            Step::Receive,
            send(2, &switch("mysql_clear_password")),
            Step::Receive,
        ]
    };
    let in_tls = |mut script: Vec<Step>| {
        script.insert(2, Step::Tls);
        script.insert(3, Step::Receive);
        for step in &mut script[4..] {
            if let Step::Send(bytes) = step {
                bytes[3] += 1;
            }
        }
        script
    };
    for (script, mode) in [
        (by_greeting(0), TlsMode::Off),
        (by_greeting(0), TlsMode::Preferred),
        (by_switch(0), TlsMode::Off),
        (by_switch(0), TlsMode::Preferred),
        (in_tls(by_greeting(TLS)), TlsMode::Preferred),
        (in_tls(by_greeting(TLS)), TlsMode::Required),
        (in_tls(by_switch(TLS)), TlsMode::Required),
    ] {
        let (outcome, received) = handshake(script, login(mode)).await;
        let Err(ProtocolError::Denied(text)) = outcome else {
            panic!("{mode:?}: {outcome:?}");
        };
        assert!(text.contains("mysql_clear_password"), "{text}");
        let sent = [received.plain, received.in_tls].concat();
        assert!(!contains(&sent, PASSWORD), "{mode:?}");
    }
    // The certificate is verified, so it is sent.
    let mut script = in_tls(by_switch(TLS));
    script.push(send(5, OK));
    let (outcome, received) = handshake(script, login(TlsMode::Verify)).await;
    assert_eq!(outcome.unwrap(), Transport::Verified);
    assert!(contains(&received.in_tls, PASSWORD) && !contains(&received.plain, PASSWORD));
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused() {
    let script = vec![
        send(0, &greeting(USUAL | TLS, "caching_sha2_password")),
        Step::Receive,
        Step::Tls,
    ];
    let other = Login {
        server_name: "db2.example",
        ..login(TlsMode::Verify)
    };
    let (outcome, received) = handshake(script.clone(), other).await;
    assert!(matches!(outcome, Err(ProtocolError::Tls(_))), "{outcome:?}");
    assert!(received.in_tls.is_empty());
    let other = Login {
        ca_pem: None,
        ..login(TlsMode::Verify)
    };
    let (outcome, _) = handshake(script, other).await;
    assert!(matches!(outcome, Err(ProtocolError::Tls(_))), "{outcome:?}");
}

#[tokio::test]
async fn what_answers_a_request_for_tls_with_something_else_is_unreadable() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x15\x03\x03\0\x02\x02\x28",
        OK,
        b"\x16\x03\x03\xff\xff\x01",
    ] {
        let script = vec![
            send(0, &greeting(USUAL | TLS, "caching_sha2_password")),
            Step::Receive,
            Step::Send(answer.to_vec()),
        ];
        let (outcome, _) = handshake(script, login(TlsMode::Required)).await;
        let failed = matches!(outcome, Err(ProtocolError::Tls(_) | ProtocolError::Io(_)));
        assert!(failed, "{outcome:?}");
    }
    let (outcome, _) = handshake(
        vec![send(0, &greeting(USUAL, "caching_sha2_password"))],
        login(TlsMode::Required),
    )
    .await;
    assert!(matches!(outcome, Err(ProtocolError::Tls(_))), "{outcome:?}");
    // Something that is sent with the greeting would be read as if it were protected.
    let early = [
        packet(0, &greeting(USUAL | TLS, "caching_sha2_password")),
        packet(2, OK),
    ]
    .concat();
    let (outcome, _) = handshake(
        vec![Step::Send(early), Step::Receive, Step::Tls],
        login(TlsMode::Required),
    )
    .await;
    let Err(ProtocolError::Unreadable(text)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(text.starts_with("an answer before TLS"), "{text}");
}

#[tokio::test]
async fn answers_to_the_login_that_are_none_are_unreadable() {
    let long_key = [
        b"\x01-----BEGIN PUBLIC KEY-----\n",
        &[b'A'; 9000][..],
        b"\n-----END PUBLIC KEY-----\n",
    ]
    .concat();
    let to_login = |payload: &[u8]| {
        vec![
            send(0, &greeting(USUAL, "caching_sha2_password")),
            Step::Receive,
            send(2, payload),
            Step::Receive,
        ]
    };
    for payload in [
        &b"\x05"[..],
        b"\x01",
        b"\x01\x09",
        b"\x01\x03\x03",
        b"\xfecaching_sha2_password\0short\0",
        b"\xfbfile",
    ] {
        unreadable(to_login(payload)).await;
    }
    let after_request_for_key = |key: &[u8]| {
        let mut script = to_login(b"\x01\x04");
        script.push(send(4, key));
        script.push(Step::Receive);
        script
    };
    for key in [
        &b"\x01"[..],
        b"\x01\xff\xfe",
        b"\x01-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n",
        &long_key,
    ] {
        unreadable(after_request_for_key(key)).await;
    }
    let endless: Vec<Step> = (0..200).map(|n| send(2_u8.wrapping_add(n), b"\x01\x03")).collect();
    let mut script = vec![send(0, &greeting(USUAL, "caching_sha2_password")), Step::Receive];
    script.extend(endless);
    assert!(unreadable(script).await.contains("more than 16 answers"));
    for plugin in ["client_ed25519", "auth_socket", ""] {
        let (outcome, _) = handshake(to_login(&switch(plugin)), login(TlsMode::Off)).await;
        assert!(
            matches!(outcome, Err(ProtocolError::Denied(_))),
            "{plugin}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn without_tls_the_password_is_encrypted_with_the_key_of_the_server() {
    let key = [b"\x01", PUBLIC_KEY.as_bytes()].concat();
    for (plugin, first, sequence) in [
        ("caching_sha2_password", &b"\x01\x04"[..], 2),
        ("sha256_password", &b""[..], 0),
    ] {
        let mut script = vec![send(0, &greeting(USUAL, plugin)), Step::Receive];
        if sequence > 0 {
            script.extend([send(sequence, first), Step::Receive]);
        }
        script.extend([send(sequence + 2, &key), Step::Receive, send(sequence + 4, OK)]);
        let (outcome, received) = handshake(script, login(TlsMode::Off)).await;
        assert_eq!(outcome.unwrap(), Transport::Plain, "{plugin}");
        assert!(!contains(&received.plain, PASSWORD));
        assert!(received.plain.len() > 256, "2048 bits of it were sent");
    }
}

/// A result of one column and one row.
fn one_row(begin: u8, more: bool) -> Vec<u8> {
    let end: &[u8] = if more { b"\xfe\0\0\x0a\0" } else { b"\xfe\0\0\x02\0" };
    [
        packet(begin, b"\x01"),
        packet(begin + 1, COLUMN),
        packet(begin + 2, b"\xfe\0\0\x02\0"),
        packet(begin + 3, b"\x03abc"),
        packet(begin + 4, end),
    ]
    .concat()
}

const COLUMN: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x2d\0\x04\0\0\0\xfd\0\0\0\0\0";

#[tokio::test]
async fn results_are_read_by_name_up_to_the_first_error() {
    let answer = [
        one_row(1, true),
        packet(6, b"\0\0\0\x0a\0\0\0"),
        packet(7, b"\xff\x28\x04#42000no"),
    ]
    .concat();
    let script = logged_in(
        USUAL,
        vec![Step::Receive, Step::Send(answer), Step::Receive, send(1, OK)],
    );
    let (outcome, _) = against(script, login(TlsMode::Off), async |mut connection| {
        let results = connection.query("SELECT 'abc' a; SET @x = 1; no").await?;
        connection.ping().await?;
        Ok(results)
    })
    .await;
    let results = outcome.unwrap();
    let [Ok(rows), Ok(none), Err((1064, text))] = results.as_slice() else {
        panic!("{results:?}");
    };
    assert_eq!(rows[0].by_name("a"), Some(Some(&b"abc"[..])));
    assert_eq!((rows[0].by_name("b"), rows[0].at(1)), (None, None));
    assert!(none.is_empty() && text == "no");
}

#[tokio::test]
async fn results_that_are_none_are_unreadable() {
    let columns = |bytes: &[u8]| vec![Step::Send(bytes.to_vec())];
    let with_row = |row: &[u8]| {
        let end = packet(3, b"\xfe\0\0\x02\0");
        columns(&[packet(1, b"\x01"), packet(2, COLUMN), end, packet(4, row)].concat())
    };
    for (answers, shown) in [
        (
            columns(&packet(1, b"\xfbsecret.txt")),
            "requests a file of this machine",
        ),
        // 2^64 - 1 columns, 2^24 columns, none, and a number with something behind it.
        (
            columns(&packet(1, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff")),
            "not a number of columns",
        ),
        (columns(&packet(1, b"\xfd\xff\xff\xff")), "not a number of columns"),
        (columns(&packet(1, b"\xfd\xff")), "not a number of columns"),
        (columns(&packet(1, b"\x01\x01")), "not a number of columns"),
        (columns(&packet(1, b"\0\0")), "not the end of a result"),
        (columns(&packet(9, b"\x01")), "packet 9 instead of packet 1"),
        (
            columns(
                &[
                    packet(1, b"\x01"),
                    packet(2, b"\x03def\xfe\xff\xff\xff\xff\xff\xff\xff\xff"),
                ]
                .concat(),
            ),
            "not a column",
        ),
        (
            columns(&[packet(1, b"\x01"), packet(2, COLUMN), packet(3, b"\x01a")].concat()),
            "not the end of the columns",
        ),
        (with_row(b"\x05abc"), "not a row of 1 columns"),
        (with_row(b"\x03abcd"), "not a row of 1 columns"),
        (with_row(b"\xfd\xff\xff\xffabc"), "not a row of 1 columns"),
        (with_row(b"\xfe"), "not the end of a result"),
        (columns(b"\xff\xff\xff\x01abc"), "16777215 bytes is announced"),
        (columns(b"\x05\0\0\x01abc"), "within a packet, after 7 bytes"),
    ] {
        let text = query_failure(USUAL, answers).await;
        assert!(text.contains(shown), "{text}");
    }
    let answers = columns(&[packet(1, b"\x01"), packet(2, COLUMN), packet(3, b"\xfe\0")].concat());
    let text = query_failure(USUAL | DEPRECATE_EOF, answers).await;
    assert!(text.contains("not the end of a result"), "{text}");
}

#[tokio::test]
async fn results_without_end_are_refused_at_the_limits() {
    let many_results = |count: usize| {
        let each = (0..count).map(|n| packet(u8::try_from((n + 1) % 256).unwrap(), b"\0\0\0\x0a\0\0\0"));
        vec![Step::Send(each.flatten().collect())]
    };
    let text = query_failure(USUAL, many_results(limits::RESULTS + 1)).await;
    assert_eq!(text, "more than 1000 results");
    let many_rows = |row: &[u8], count: usize| {
        let begin = [packet(1, b"\x01"), packet(2, COLUMN), packet(3, b"\xfe\0\0\x02\0")].concat();
        let rows = (0..count).flat_map(|n| packet(u8::try_from((n + 4) % 256).unwrap(), row));
        vec![Step::Send(begin.into_iter().chain(rows).collect())]
    };
    let text = query_failure(USUAL, many_rows(b"\xfb", limits::ROWS + 1)).await;
    assert_eq!(text, "the result has more than 100000 rows");
    let large = [b"\xfd\0\0\x10", vec![b'x'; 1 << 20].as_slice()].concat();
    let text = query_failure(USUAL, many_rows(&large, 64)).await;
    assert!(
        text.contains("results are larger") || text.contains("is announced (limit"),
        "{text}"
    );
}

#[tokio::test]
async fn a_call_that_was_cancelled_leaves_the_connection_unusable() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let greeting = packet(0, &greeting(USUAL, "mysql_native_password"));
    let server = async move {
        theirs.write_all(&greeting).await.unwrap();
        let mut buffer = [0; 4096];
        let mut heard = theirs.read(&mut buffer).await.unwrap();
        theirs.write_all(&packet(2, OK)).await.unwrap();
        while heard > 0 {
            heard = theirs.read(&mut buffer).await.unwrap();
        }
    };
    let client = async {
        let mut connection = Connection::log_in(Box::new(ours), &login(TlsMode::Off)).await.unwrap();
        let cancelled = timeout(Duration::from_millis(50), connection.query("SELECT 1")).await;
        assert!(cancelled.is_err(), "the server does not answer");
        // The next answer on this connection is that of the cancelled statement.
        let text = match connection.query("SELECT 2").await {
            Err(ProtocolError::Io(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text, "an earlier call on this connection was interrupted");
        assert!(connection.ping().await.is_err());
    };
    tokio::join!(server, client);
}
