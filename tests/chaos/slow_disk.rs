//! A disk on which every write of a member takes long, without a device of its own: its two databases are locked by somebody else for
//! most of the time, so each of its transactions waits as it would for a slow fsync. Reads go on, as they do from the page cache.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a write waits at most: below the shortest election timeout of a member (400 ms), so the group lives, and slowly.
const WAIT: Duration = Duration::from_millis(250);
/// How long the member is let in between.
const GAP: Duration = Duration::from_millis(20);
/// SQLite's wait for the member's own transactions.
const PATIENCE: Duration = Duration::from_secs(5);

/// The slow disk of one member, until it is mended.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    mended: watch::Sender<bool>,
    locks: Vec<JoinHandle<Result<()>>>,
}

impl SlowDisk {
    /// Slows down the raft log and the backend that lie in this folder.
    pub(crate) async fn of(data: &Path) -> Result<Self> {
        let (mended, _) = watch::channel(false);
        let mut locks = Vec::new();
        for file in ["raft.db", "ham4db.sqlite"] {
            let path = data.join(file);
            let options = SqliteConnectOptions::new().filename(&path).busy_timeout(PATIENCE);
            let connection = options
                .connect()
                .await
                .with_context(|| format!("open {}", path.display()))?;
            locks.push(tokio::spawn(hold(connection, mended.subscribe())));
        }
        Ok(Self { mended, locks })
    }

    /// The disk is as fast as before.
    pub(crate) async fn mend(self) -> Result<()> {
        self.mended.send_replace(true);
        for lock in self.locks {
            lock.await.context("a lock ended")??;
        }
        Ok(())
    }
}

/// Takes the write lock again and again. What is held for `WAIT` is the delay itself, not a wait for something.
async fn hold(mut connection: SqliteConnection, mut mended: watch::Receiver<bool>) -> Result<()> {
    loop {
        sqlx::raw_sql("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await
            .context("lock")?;
        let is_mended = timeout(WAIT, mended.changed()).await.is_ok();
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut connection)
            .await
            .context("unlock")?;
        if is_mended || timeout(GAP, mended.changed()).await.is_ok() {
            break;
        }
    }
    connection.close().await.context("close")
}
