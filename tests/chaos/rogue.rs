//! Something at an address that servers name, which is no server and means harm.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::kit::sql::Address;

/// How much of what it hears is kept.
const KEPT: usize = 1 << 20;

/// What it greets with, and how a person would call that.
const GREETINGS: [(&str, &[u8]); 5] = [
    ("two bytes", b"\x02\0\0\0\x0a\0"),
    ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    (
        "mysql_clear_password",
        b"\x48\0\0\0\x0a9.7.4\0\x07\0\0\0abcdefgh\0\0\x82\x2d\x02\0\x2b\0\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_clear_password\0",
    ),
    ("a packet of 16 MB that never comes", b"\xff\xff\xff\0\x0a9.7.4\0"),
    ("silence", b""),
];

/// It answers each connection with the same bytes and keeps what it hears, until it is dropped.
#[derive(Debug)]
pub(crate) struct Rogue {
    pub(crate) address: Address,
    pub(crate) says: &'static str,
    heard: Arc<Mutex<Vec<u8>>>,
    dialled: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Rogue {
    /// At an address of this machine, with one of the greetings.
    pub(crate) async fn start(host: &str, number: usize) -> Result<Self> {
        let place = number.checked_rem(GREETINGS.len()).unwrap_or_default();
        let (says, greeting) = *GREETINGS.get(place).context("there are greetings")?;
        let listener = TcpListener::bind((host, 0)).await.context("listen as a rogue server")?;
        let address = Address::new(host, listener.local_addr()?.port());
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let dialled = Arc::<AtomicUsize>::default();
        let listening = tokio::spawn(listen(listener, greeting, Arc::clone(&heard), Arc::clone(&dialled)));
        Ok(Self {
            address,
            says,
            heard,
            dialled,
            listening,
        })
    }

    /// How many connections it got.
    pub(crate) fn dialled(&self) -> usize {
        self.dialled.load(Ordering::Relaxed)
    }

    /// That it did not hear a password.
    pub(crate) fn assert_not_told(&self, password: &str) -> Result<()> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let password = password.as_bytes();
        ensure!(
            !heard.windows(password.len()).any(|window| window == password),
            "the rogue server at {} ({}) was sent the topology password in clear",
            self.address,
            self.says
        );
        Ok(())
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, greeting: &'static [u8], heard: Arc<Mutex<Vec<u8>>>, dialled: Arc<AtomicUsize>) {
    let mut talks = tokio::task::JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        dialled.fetch_add(1, Ordering::Relaxed);
        while talks.try_join_next().is_some() {}
        let heard = Arc::clone(&heard);
        talks.spawn(async move {
            let mut buffer = [0; 4096];
            if client.write_all(greeting).await.is_err() {
                return;
            }
            while let Ok(read @ 1..) = client.read(&mut buffer).await {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.len() < KEPT {
                    heard.extend_from_slice(buffer.get(..read).unwrap_or_default());
                }
            }
        });
    }
}
