//! Things at addresses of servers that are no servers, or that mean harm: each is one failed probe.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::DEADLINE;

/// Answers each connection with the same bytes, then waits for the other side. Keeps everything that it hears.
struct Impostor {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Impostor {
    async fn start(greeting: &'static [u8]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    if client.write_all(greeting).await.is_err() {
                        return;
                    }
                    while let Ok(read @ 1..) = client.read(&mut buffer).await {
                        kept.lock()
                            .expect("because no test panics with it")
                            .extend_from_slice(buffer.get(..read).unwrap_or_default());
                    }
                });
            }
        });
        Ok(Self { port, heard })
    }
}

/// Why the last probe of an address failed, as the leader reports it.
async fn failure(members: &Members, port: u16) -> Result<Option<String>> {
    let leader = members.member(members.leader().await?)?;
    let (_, body) = leader.api().get(&format!("discover/127.0.0.1/{port}")).await?;
    let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    Ok(Some(text(&answer, "/Message").to_owned()).filter(|message| !message.is_empty()))
}

/// A greeting that names `mysql_clear_password` and offers no TLS.
const ASKS_FOR_CLEAR_PASSWORD: &[u8] = b"\x48\0\0\0\x0a9.7.4\0\x07\0\0\0abcdefgh\0\0\x82\x2d\x02\0\x2b\0\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_clear_password\0";

async fn impostors_are_failed_probes(flavour: Flavour) -> Result<()> {
    scenario("hostile", |run| async move {
        let topology = Topology::start(&run, &Shape::star(flavour, 1)).await?;
        let mut members = Members::start(&run, &topology, &Intent::Configuration(json!({})), None).await?;
        members.knows(&topology).await?;
        for (greeting, expected) in [
            (
                &b"\x02\0\0\0\x0a\0"[..],
                "not a greeting of a server: received 2 bytes, `\\x0a\\x00`",
            ),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "`SSH-2.0-OpenSSH_9.2p1"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "`HTTP/1.1 400 Bad Request"),
            (ASKS_FOR_CLEAR_PASSWORD, "mysql_clear_password"),
        ] {
            let impostor = Impostor::start(greeting).await?;
            let what = format!("the probe of {}", greeting.escape_ascii());
            until(DEADLINE, &what, async || {
                let failure = failure(&members, impostor.port).await?;
                Ok(failure.filter(|text| text.contains(expected)))
            })
            .await?;
            let password = topology.accounts.topology.password.as_bytes();
            let heard = impostor.heard.lock().expect("because no test panics with it").clone();
            ensure!(
                !heard.windows(password.len()).any(|window| window == password),
                "the password was sent in clear"
            );
        }
        for member in &mut members.list {
            ensure!(member.is_running()?, "{} ended", member.name());
            let (status, metrics) = member.api().get("../metrics").await?;
            ensure!(
                status == 200 && metrics.contains("ham4db_panics_total 0"),
                "{} panicked: {status}",
                member.name()
            );
        }
        members.knows(&topology).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_of_two_bytes_is_one_failed_probe() -> Result<()> {
    impostors_are_failed_probes(Flavour::MySql).await
}
