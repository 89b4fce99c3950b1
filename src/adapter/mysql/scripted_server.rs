//! A server for tests that plays a script, whatever the client sends.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::protocol::Socket;

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Sends these bytes, which are packets when the server means well.
    Send(Vec<u8>),
    /// Waits for a packet.
    Receive,
    /// Begins TLS.
    Tls,
}

/// A conversation as the server holds it.
pub(super) type Script = Vec<Step>;

/// Reads a script: a step on each line, the bytes in hexadecimal, comments with `#`.
pub(super) fn parse(text: &str) -> Script {
    let bytes = |hex: &str| -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once(' ') {
            Some(("send", hex)) => Step::Send(bytes(hex.trim())),
            None if line == "send" => Step::Send(Vec::new()),
            None if line == "receive" => Step::Receive,
            None if line == "tls" => Step::Tls,
            _ => panic!("no step of a script: {line}"),
        })
        .collect()
}

/// Writes a script.
pub(super) fn print(comment: &str, script: &[Step]) -> String {
    let mut text = format!("# {comment}\n");
    for step in script {
        match step {
            Step::Send(bytes) => {
                text.push_str("send ");
                for byte in bytes {
                    write!(text, "{byte:02x}").unwrap();
                }
                text.push('\n');
            }
            Step::Receive => text.push_str("receive\n"),
            Step::Tls => text.push_str("tls\n"),
        }
    }
    text
}

/// A packet with its header.
pub(super) fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [low, middle, high, _] = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&[low, middle, high, sequence], payload].concat()
}

/// What the client sent without TLS, and inside it.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) plain: Vec<u8>,
    pub(super) in_tls: Vec<u8>,
}

/// Plays a script on a socket and closes it.
pub(super) async fn play(socket: DuplexStream, script: Script) -> Received {
    let mut received = Received::default();
    let mut socket: Box<dyn Socket> = Box::new(socket);
    let mut is_tls = false;
    for step in script {
        match step {
            Step::Send(bytes) => {
                if socket.write_all(&bytes).await.is_err() || socket.flush().await.is_err() {
                    break;
                }
            }
            Step::Receive => {
                let heard = if is_tls {
                    &mut received.in_tls
                } else {
                    &mut received.plain
                };
                if !receive(&mut socket, heard).await {
                    break;
                }
            }
            Step::Tls => {
                let accepted = timeout(Duration::from_secs(5), acceptor().accept(socket)).await;
                let Ok(Ok(stream)) = accepted else { return received };
                socket = Box::new(stream);
                is_tls = true;
            }
        }
    }
    // A client that has an error may have closed its end already.
    drop(socket.shutdown().await);
    received
}

/// Reads a packet. `false` when there is none.
async fn receive(socket: &mut Box<dyn Socket>, received: &mut Vec<u8>) -> bool {
    let mut header = [0; 4];
    if socket.read_exact(&mut header).await.is_err() {
        return false;
    }
    let [low, middle, high, _] = header;
    let mut payload = vec![0; u32::from_le_bytes([low, middle, high, 0]) as usize];
    let read = socket.read_exact(&mut payload).await.is_ok();
    received.extend_from_slice(&payload);
    read
}

fn acceptor() -> TlsAcceptor {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/tls");
    let certificate = CertificateDer::from_pem_file(format!("{folder}/certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{folder}/key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
