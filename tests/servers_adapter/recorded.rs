//! Conversations of probes with real servers, for the fuzzer of the client (tests/fuzz/corpus). `HAM4DB_BLESS=1` writes them.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ham4db::app::ports::{ProbeConnection, Prober as _, Target};
use ham4db::domain::intent::Origin;
use ham4db::domain::key::InstanceKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Server, Software};
use crate::watched::{LONG, Poller};

/// A step of a conversation, as the server holds it.
#[derive(Clone)]
enum Step {
    Send(Vec<u8>),
    Receive,
    Tls,
}

type Recording = Arc<Mutex<Vec<Step>>>;

/// Passes one connection on to a server and records it.
async fn relay(server: &Server) -> (InstanceKey, Recording) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let key = InstanceKey::new("127.0.0.1", listener.local_addr().unwrap().port());
    let recording = Recording::default();
    let (to, into) = (server.key.clone(), Arc::clone(&recording));
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect((to.hostname.as_str(), to.port)).await.unwrap();
        let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
        let mut unfinished = Vec::new();
        loop {
            tokio::select! {
                read = client.read(&mut from_client) => {
                    let bytes = &from_client[..read.unwrap_or(0)];
                    if bytes.is_empty() || server.write_all(bytes).await.is_err() {
                        return;
                    }
                    unfinished.extend_from_slice(bytes);
                    while let [low, middle, high, _, ..] = unfinished[..] {
                        let length = 4 + u32::from_le_bytes([low, middle, high, 0]) as usize;
                        if unfinished.len() < length {
                            break;
                        }
                        unfinished.drain(..length);
                        into.lock().unwrap().push(Step::Receive);
                    }
                }
                read = server.read(&mut from_server) => {
                    let bytes = &from_server[..read.unwrap_or(0)];
                    if bytes.is_empty() {
                        return;
                    }
                    {
                        let mut steps = into.lock().unwrap();
                        match steps.last_mut() {
                            Some(Step::Send(sent)) => sent.extend_from_slice(bytes),
                            _ => steps.push(Step::Send(bytes.to_vec())),
                        }
                    }
                    if client.write_all(bytes).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    (key, recording)
}

/// Two probes and the end of the connection.
async fn record(server: &Server) -> Vec<Step> {
    let (instance, recording) = relay(server).await;
    let poller = Poller::new();
    let target = Target {
        instance: instance.clone(),
        origin: Origin::Api,
    };
    for _ in 0..2 {
        let observation = poller.prober.probe(&target, ProbeConnection::Kept, LONG).await;
        observation.outcome.unwrap_or_else(|failure| panic!("{failure}"));
    }
    poller.prober.release(&instance).await;
    let mut steps = recording.lock().unwrap().clone();
    if !matches!(steps.last(), Some(Step::Receive)) {
        // The request to end the connection may not have been passed on yet.
        steps.push(Step::Receive);
    }
    steps
}

/// The same conversation in TLS, in which the packets of the login have one number more.
fn in_tls(plain: &[Step]) -> Vec<Step> {
    let [greeting, response, verdict, rest @ ..] = plain else {
        panic!("a login has three steps at least");
    };
    let Step::Send(verdict) = verdict else {
        panic!("the server answers the login")
    };
    let mut verdict = verdict.clone();
    let mut at = 0;
    while at < verdict.len() {
        let length = u32::from_le_bytes([verdict[at], verdict[at + 1], verdict[at + 2], 0]) as usize;
        verdict[at + 3] += 1;
        at += 4 + length;
    }
    let mut steps = vec![
        greeting.clone(),
        Step::Receive,
        Step::Tls,
        response.clone(),
        Step::Send(verdict),
    ];
    steps.extend(rest.iter().cloned());
    steps
}

fn print(comment: &str, steps: &[Step]) -> String {
    let mut text = format!("# {comment}\n");
    for step in steps {
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

/// The kinds of the steps, which stay the same from one run to the next.
fn shape(text: &str) -> String {
    let words = text.lines().filter(|line| !line.starts_with('#'));
    words
        .filter_map(|line| line.split(' ').next())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Writes a recording, or compares its shape with the recorded one.
fn keep(name: &str, comment: &str, steps: &[Step]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/corpus/recorded-{name}.txt"));
    let text = print(comment, steps);
    if std::env::var_os("HAM4DB_BLESS").is_some() {
        std::fs::write(&file, text).unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        shape(&text),
        shape(&recorded),
        "{name}: the client talks in another way than it was recorded; HAM4DB_BLESS=1 records it again"
    );
}

#[tokio::test]
async fn the_recorded_conversations_are_those_of_real_servers() {
    let mysql = Server::start(Software::MySql, 1, &[]).await;
    mysql
        .run("CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'db2', SOURCE_USER = 'r', SOURCE_AUTO_POSITION = 1; FLUSH PRIVILEGES")
        .await;
    let full = record(&mysql).await;
    let known = record(&mysql).await;
    let comment = "two probes of MySQL 9.7";
    keep(
        "mysql-full-authentication",
        &format!("{comment}; the password is encrypted with a key"),
        &full,
    );
    keep(
        "mysql-known-password",
        &format!("{comment}; the server knows the password"),
        &known,
    );
    keep("mysql-tls", &format!("{comment} in TLS"), &in_tls(&known));
    let mariadb = Server::start(Software::MariaDb, 1, &[]).await;
    mariadb
        .run("CHANGE MASTER TO MASTER_HOST = 'db2', MASTER_USER = 'r', MASTER_USE_GTID = slave_pos")
        .await;
    keep("mariadb", "two probes of MariaDB 10.11", &record(&mariadb).await);
}
