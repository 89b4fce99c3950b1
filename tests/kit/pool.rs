//! A pool of running servers that the tests of one program share in turn.
//!
//! A server is pooled when it listens on 127.0.0.1, has no additional options, and its test succeeded without stopping, killing or
//! reconfiguring its process. It is reset, and the next test that needs a server of this flavour and number gets it. The reset
//! restores the state of a new server: empty binary logs and GTID sets, no channel, and no database, account, session or changed
//! global variable of an earlier test. All of this is read back afterwards. A server that fails this check is ended, and the next
//! test starts a new one.
//!
//! The `server_uuid`, the port and the uptime stay the same. Tests compare these between servers of one topology only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;

use super::process::{Launch, Process};
use super::replication::Flavour;
use super::run::{Run, cache, hand_over};
use super::server::{Server, ServerOptions};
use super::sql::{Row, Session};
use super::wait::until;

/// How long a reset may take. It usually takes 0.2 to 1 s, a start 2 s of both processors for three servers of MySQL.
const RESET: Duration = Duration::from_secs(10);
/// How many idle servers of one flavour and number the pool has at most.
const MAX_IDLE: usize = 2;

/// The state of a server before a test.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Baseline {
    variables: BTreeMap<String, String>,
    databases: Vec<String>,
    accounts: Vec<String>,
    plugins: Vec<String>,
}

/// The idle servers.
struct Pool {
    folder: PathBuf,
    idle: Vec<Server>,
    made: u32,
    _remover: Child,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// A folder for a new server, outside the folder of the run that starts it.
pub(super) fn new_folder(name: &str) -> Result<PathBuf> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if pool.is_none() {
        // NAME-PID, as all runs are called: one whose process is gone is removed by the next.
        let folder = cache()?.join(format!("run/pool-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        hand_over(&folder)?;
        *pool = Some(Pool {
            idle: Vec::new(),
            made: 0,
            _remover: remover(&folder)?,
            folder,
        });
    }
    let pool = pool.as_mut().context("the pool was made")?;
    pool.made += 1;
    let folder = pool.folder.join(format!("{name}-{}", pool.made));
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    hand_over(&folder)?;
    Ok(folder)
}

/// A process that waits for the end of this one, whatever ends it, and then removes the folder.
fn remover(folder: &Path) -> Result<Child> {
    let script = r#"read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$0" && exit; sleep 0.5; done"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(folder).current_dir("/").process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell
        .spawn()
        .context("start the process that removes the pool's folder")
}

/// Starts a process that may outlive the test. The kernel kills a child when the thread that started it ends, so a thread that lives as
/// long as this program starts it.
pub(super) fn spawn(launch: &Launch) -> Result<Process> {
    type Order = (Launch, SyncSender<Result<Process>>);
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (starter, orders) = channel::<Order>();
        std::thread::spawn(move || {
            for (launch, started) in orders {
                // The test that ordered it may have been cancelled: then the process is dropped, and ends.
                started.send(Process::spawn(&launch)).ok();
            }
        });
        starter
    });
    let (started, process) = sync_channel(1);
    starter.send((launch.clone(), started)).context("order a process")?;
    process.recv().context("the thread that starts processes ended")?
}

/// An idle server of this flavour and number, set up with these options, if the pool has one.
pub(super) async fn take(run: &Arc<Run>, options: &ServerOptions) -> Option<Server> {
    loop {
        let mut server = {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = &mut pool.as_mut()?.idle;
            // Semi-sync takes a second to switch: one that is set up for it as wanted comes first.
            let same = |server: &Server| server.matches(options) && server.options().semi_sync == options.semi_sync;
            let place = idle.iter().position(same);
            let place = place.or_else(|| idle.iter().position(|server| server.matches(options)))?;
            idle.swap_remove(place)
        };
        // A server that fails is dropped, and ends.
        if server.reuse(run, options).await.is_ok() {
            return Some(server);
        }
    }
}

/// Takes back the servers of a test that succeeded.
pub(super) async fn give_back(servers: Vec<Server>) {
    let reset = join_all(servers.into_iter().map(reset)).await;
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(pool) = pool.as_mut() else { return };
    for server in reset.into_iter().flatten() {
        if pool.idle.iter().filter(|idle| idle.matches(server.options())).count() < MAX_IDLE {
            pool.idle.push(server);
        }
    }
}

/// The server, if it could be reset.
async fn reset(server: Server) -> Option<Server> {
    let reset = tokio::time::timeout(RESET, server.reset()).await;
    matches!(reset, Ok(Ok(()))).then_some(server)
}

impl Baseline {
    /// Reads it.
    pub(super) async fn read(session: &mut Session) -> Result<Self> {
        let mut variables = BTreeMap::new();
        for row in session.rows("SHOW GLOBAL VARIABLES").await? {
            variables.insert(column(&row, "Variable_name"), column(&row, "Value"));
        }
        Ok(Self {
            variables,
            databases: column_of(session, "SHOW DATABASES", "Database").await?,
            accounts: column_of(
                session,
                "SELECT CONCAT(QUOTE(User), '@', QUOTE(Host)) AS account FROM mysql.user ORDER BY 1",
                "account",
            )
            .await?,
            plugins: column_of(session, "SHOW PLUGINS", "Name").await?,
        })
    }

    /// Brings a server back to this state, and checks that nothing of the test is left.
    pub(super) async fn restore(&self, flavour: Flavour, session: &mut Session) -> Result<()> {
        // One of them may hold a lock that the rest would wait for.
        kill_sessions(session).await?;
        // Unlogged, so that nothing waits for an acknowledgement either.
        session
            .run("SET SESSION sql_log_bin = OFF; SET GLOBAL read_only = OFF")
            .await?;
        self.remove_accounts(session).await?;
        kill_sessions(session).await?;
        for channel in flavour.channels(session).await? {
            session.run(&flavour.remove_channel(&channel)).await?;
        }
        for database in column_of(session, "SHOW DATABASES", "Database").await? {
            if !self.databases.contains(&database) {
                session.run(&format!("DROP DATABASE `{database}`")).await?;
            }
        }
        session.run(flavour.forget_transactions()).await?;
        let changed = Self::read(session).await?.variables;
        for (name, value) in &self.variables {
            if changed.get(name) != Some(value) {
                session.run(&format!("SET GLOBAL {name} = {}", literal(value))).await?;
            }
        }
        let now = Self::read(session).await?;
        ensure!(now == *self, "it differs from its baseline: {now:?}");
        let executed = flavour.executed(session).await?;
        ensure!(executed.is_empty(), "it has executed {executed}");
        ensure!(
            flavour.channels(session).await?.is_empty(),
            "a channel survived its removal"
        );
        until(RESET, "all sessions to be gone", async || {
            kill_sessions(session).await.map(|left| (left == 0).then_some(()))
        })
        .await
    }

    async fn remove_accounts(&self, session: &mut Session) -> Result<()> {
        for account in Self::read(session).await?.accounts {
            if !self.accounts.contains(&account) {
                session.run(&format!("DROP USER {account}")).await?;
            }
        }
        Ok(())
    }
}

/// Ends every session but the own one, and returns how many there were.
async fn kill_sessions(session: &mut Session) -> Result<usize> {
    let own = session.value("SELECT CONNECTION_ID()").await?;
    let mut count = 0;
    for row in session.rows("SHOW PROCESSLIST").await? {
        let (id, user) = (column(&row, "Id"), column(&row, "User"));
        if id != own && user != "system user" && user != "event_scheduler" {
            count += 1;
            // It may have ended by itself.
            session.run(&format!("KILL {id}")).await.ok();
        }
    }
    Ok(count)
}

async fn column_of(session: &mut Session, sql: &str, name: &str) -> Result<Vec<String>> {
    Ok(session.rows(sql).await?.iter().map(|row| column(row, name)).collect())
}

fn column(row: &Row, name: &str) -> String {
    row.get(name).cloned().flatten().unwrap_or_default()
}

/// A variable's value as it is written in a statement.
fn literal(value: &str) -> String {
    if value.parse::<f64>().is_ok() {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
    }
}
