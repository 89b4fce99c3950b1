//! Ports of 127.0.0.1 that nobody else takes while they are leased.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};

use super::run::cache;

/// Where leases begin. Below the range that the kernel takes outgoing ports from, so that a server that was stopped finds its port free
/// when it is started again.
const FIRST: u16 = 20_000;
/// How many ports there are to lease.
const COUNT: u16 = 10_000;

/// Where this process goes on looking, so that a port just given back is not leased again at once.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1, held against every other run of this user by a locked file.
#[derive(Debug)]
pub(crate) struct PortLease {
    port: u16,
    file: PathBuf,
    _lock: File,
}

impl PortLease {
    /// A port that nobody has leased and nothing listens on.
    pub(crate) fn take() -> Result<Self> {
        let folder = cache()?.join("locks/ports");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("because it is below COUNT");
        for _ in 0..COUNT {
            let offset = NEXT.fetch_add(1, Ordering::Relaxed);
            let port = FIRST + (start.wrapping_add(offset)) % COUNT;
            let file = folder.join(port.to_string());
            let lock = File::create(&file).with_context(|| format!("create {}", file.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self {
                    port,
                    file,
                    _lock: lock,
                });
            }
        }
        bail!("none of the ports from {FIRST} to {} is free", FIRST + COUNT - 1)
    }

    /// Its number.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        // A lease file that stays behind is harmless: only its lock counts.
        fs::remove_file(&self.file).ok();
    }
}
