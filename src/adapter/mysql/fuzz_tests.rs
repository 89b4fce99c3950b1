//! Fuzzes the client side of the MySQL protocol: recorded conversations of real servers and those that once failed
//! (tests/fuzz/corpus), changed at random in every phase, and read by the client that ham4db uses, up to the facts of a probe.
//!
//! A conversation may end in any failure. It must not panic, must end, must not put much text or the password into a failure, and
//! must not make the client send the password without TLS. `make fuzz SECONDS=n SEED=n` runs it for longer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::connection::SqlFailure;
use super::protocol::{Connection, Login, limits};
use super::scripted_server::{Received, Script, Step, packet, parse, play, print};
use super::server_connection::{ProbeSettings, ServerConnection};
use crate::app::ports::TlsMode;
use crate::app::supervision;
use crate::domain::instance::ProbeFailure;
use crate::domain::key::InstanceKey;

/// How long `make test` fuzzes.
const USUAL_SECONDS: u64 = 8;
/// The longest text of a failure.
const TEXT: usize = 2 * limits::ERROR_TEXT;
const PASSWORD: &str = "s3cret-s3cret";

fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus"))
}

/// The conversations of the corpus by file name.
fn seeds() -> BTreeMap<String, Script> {
    let files = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    texts
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, parse(&std::fs::read_to_string(path).unwrap()))
        })
        .collect()
}

/// Numbers that look random (splitmix64).
struct Random(Cell<u64>);

impl Random {
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut mixed = self.0.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    fn below(&self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    fn one_of<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn bytes(&self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1))
            .map(|_| self.next().to_le_bytes()[0])
            .collect()
    }
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Read,
    Silence,
    Unreadable,
    Lost,
    ServerError,
    Denied,
}

/// Runs the client against a script, and returns how it ended, or what it must not do.
fn run(script: &Script, tls: TlsMode) -> Result<End, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Whoever waits for the other side is silent at once, instead of after its deadline.
        .start_paused(true)
        .build()
        .unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let login = Login {
        user: "ham4db",
        password: PASSWORD,
        tls,
        ca_pem: None,
        server_name: "127.0.0.1",
    };
    let client = async move {
        let limit = Duration::from_mins(1);
        tokio::time::timeout(limit, converse(Connection::log_in(Box::new(ours), &login))).await
    };
    let script = script.clone();
    let server = async move { tokio::time::timeout(Duration::from_mins(2), play(theirs, script)).await };
    let ran = supervision::catch_sync(|| runtime.block_on(async { tokio::join!(client, server) }));
    let Some((outcome, received)) = ran else {
        return Err("it panicked".to_owned());
    };
    let Received { plain, .. } = received.unwrap_or_default();
    if plain
        .windows(PASSWORD.len())
        .any(|window| window == PASSWORD.as_bytes())
    {
        return Err("it sent the password".to_owned());
    }
    let failure = match outcome {
        Err(_) => return Ok(End::Silence),
        Ok(Ok(())) => return Ok(End::Read),
        Ok(Err(failure)) => failure,
    };
    let text = failure.to_string();
    if text.len() > TEXT || text.contains(PASSWORD) {
        return Err(format!("the text of its failure is unfit: {text}"));
    }
    Ok(match failure {
        ProbeFailure::Unreadable(_) => End::Unreadable,
        ProbeFailure::Denied(_) => End::Denied,
        ProbeFailure::Server { .. } | ProbeFailure::Saturated => End::ServerError,
        ProbeFailure::Refused
        | ProbeFailure::Lost(_)
        | ProbeFailure::NoAnswer
        | ProbeFailure::Unreachable(_)
        | ProbeFailure::Name(_)
        | ProbeFailure::Stalled
        | ProbeFailure::NoCredentials(_) => End::Lost,
    })
}

/// What a prober does with a server: two probes, the second with the settings, and a ping in a connection of its own.
async fn converse(
    log_in: impl Future<Output = Result<Connection, super::protocol::ProtocolError>>,
) -> Result<(), ProbeFailure> {
    let connection = log_in
        .await
        .map_err(|error| SqlFailure::from(error).into_probe_failure())?;
    let settings = Arc::new(ProbeSettings::default());
    let instance = InstanceKey::new("127.0.0.1", 3306);
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut server = ServerConnection::on(connection, peer, &instance, &settings).await?;
    for _ in 0..2 {
        server.facts().await.map_err(SqlFailure::into_probe_failure)?;
    }
    server.close().await;
    Ok(())
}

/// The packets in the bytes of a step, without their headers; `None` when they are no packets.
fn packets(bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let [low, middle, high, sequence, after @ ..] = rest {
        let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
        let (payload, after) = after.split_at_checked(length)?;
        found.push((*sequence, payload.to_vec()));
        rest = after;
    }
    rest.is_empty().then_some(found)
}

/// What servers and other programs send, and what hostile ones would.
const FOREIGN: [&[u8]; 16] = [
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x03\0\x02\x02\x28",
    b"\xff\x10\x04#08004Too many connections",
    b"\xfe\0\0\x02\0",
    b"\0\0\0\x0a\0\0\0",
    b"\xfb/etc/passwd",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xfd\xff\xff\xff",
    b"\xfemysql_clear_password\0",
    b"\xfecaching_sha2_password\0ABCDEFGHIJKLMNOPQRST\0",
    b"\xfesha256_password\0ABCDEFGHIJKLMNOPQRST\0",
    b"\xfe",
    b"\x01\x04",
    b"\x01\x03",
    b"\x0a\0",
];

/// Bytes at which the protocol branches.
const BRANCHES: [u8; 12] = [0, 1, 2, 3, 4, 0x0A, 0x7F, 0xFA, 0xFB, 0xFC, 0xFE, 0xFF];

/// Changes a conversation.
fn mutate(script: &mut Script, random: &Random, others: &[&Script]) {
    for _ in 0..=random.below(4) {
        let sends: Vec<usize> = (0..script.len())
            .filter(|at| matches!(script[*at], Step::Send(_)))
            .collect();
        if sends.is_empty() {
            return;
        }
        // The first steps, of which each conversation has few, are as often changed as all others.
        let at = if random.below(2) == 0 {
            sends[random.below(sends.len().min(4))]
        } else {
            *random.one_of(&sends)
        };
        match random.below(16) {
            0 => {
                script.truncate(at + 1);
            }
            1 => {
                script.remove(at);
            }
            2 => {
                let other = random.one_of(others);
                let theirs = random.below(other.len());
                let end = (theirs + 1 + random.below(3)).min(other.len());
                script.splice(at..at, other[theirs..end].iter().cloned());
            }
            3 => script.insert(at, Step::Send(random.one_of(&FOREIGN).to_vec())),
            choice => {
                let Step::Send(bytes) = &mut script[at] else { continue };
                if choice < 8 {
                    mutate_bytes(bytes, random);
                } else if let Some(mut packets) = packets(bytes) {
                    mutate_packets(&mut packets, random);
                    *bytes = packets
                        .iter()
                        .flat_map(|(sequence, payload)| packet(*sequence, payload))
                        .collect();
                }
            }
        }
    }
}

/// Changes bytes wherever they are, also in headers.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &Random) {
    let at = random.below(bytes.len());
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, random.bytes(16))),
        2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        3 if !bytes.is_empty() => bytes[at] = *random.one_of(&BRANCHES),
        _ => {}
    }
}

/// Changes packets and keeps their headers right.
fn mutate_packets(packets: &mut Vec<(u8, Vec<u8>)>, random: &Random) {
    if packets.is_empty() {
        return;
    }
    let at = random.below(packets.len());
    match random.below(8) {
        0 => packets[at].1 = random.one_of(&FOREIGN).to_vec(),
        1 => packets[at].1 = random.bytes(64),
        2 => drop(packets.remove(at)),
        3 => {
            let twice = packets[at].clone();
            packets.insert(at, twice);
        }
        4 => {
            let length = random.below(packets[at].1.len() + 1);
            packets[at].1.truncate(length);
        }
        _ => {
            for _ in 0..=random.below(3) {
                mutate_bytes(&mut packets[at].1, random);
            }
        }
    }
    // Without this, most of these changes would only be packets out of sequence.
    let first = packets.first().map_or(0, |(sequence, _)| *sequence);
    for (number, (sequence, _)) in packets.iter_mut().enumerate() {
        *sequence = first.wrapping_add(u8::try_from(number % 256).unwrap());
    }
}

/// Which TLS mode a conversation is for.
fn mode_of(script: &Script) -> TlsMode {
    if script.contains(&Step::Tls) {
        TlsMode::Required
    } else {
        TlsMode::Off
    }
}

#[test]
fn the_conversations_of_the_corpus_are_read_or_refused() {
    let seeds = seeds();
    assert!(seeds.len() >= 8, "the corpus has {} files", seeds.len());
    for (name, script) in &seeds {
        let end = run(script, mode_of(script)).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(
            !name.starts_with("recorded-") || end == End::Read,
            "{name} is not read to its end: {end:?}"
        );
    }
}

#[test]
#[expect(
    clippy::print_stderr,
    reason = "the seed and the counts, which cargo shows with --nocapture or after a failure"
)]
fn no_conversation_makes_the_client_panic_or_give_its_password_away() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("HAM4DB_FUZZ_SECONDS").unwrap_or(USUAL_SECONDS);
    let seed = number("HAM4DB_FUZZ_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_nanos() % u128::from(u64::MAX)).unwrap()
    });
    eprintln!("fuzzing for {seconds} s with seed {seed}");
    let seeds = seeds();
    let scripts: Vec<&Script> = seeds.values().collect();
    let random = Random(Cell::new(seed));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut counts: BTreeMap<End, u64> = BTreeMap::new();
    while Instant::now() < end {
        let mut script: Script = (*random.one_of(&scripts)).clone();
        mutate(&mut script, &random, &scripts);
        let tls = match random.below(8) {
            0 => TlsMode::Preferred,
            _ => mode_of(&script),
        };
        match run(&script, tls) {
            Ok(end) => *counts.entry(end).or_default() += 1,
            Err(why) => {
                let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&script);
                let file = corpus().join(format!("found-{hash:016x}.txt"));
                std::fs::write(&file, print(&format!("{why} (seed {seed}, {tls:?})"), &script)).unwrap();
                panic!("{why}: seed {seed}, {tls:?}, {}", file.display());
            }
        }
    }
    let total: u64 = counts.values().sum();
    eprintln!("{total} conversations: {counts:?}");
    // Each of them reaches as far as it is meant to.
    for expected in [End::Read, End::Unreadable, End::Lost, End::ServerError, End::Denied] {
        assert!(
            total < 5000 || counts.contains_key(&expected),
            "no conversation ended as {expected:?}: {counts:?}"
        );
    }
}
