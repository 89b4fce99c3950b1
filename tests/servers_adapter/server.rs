//! Real servers for the tests of this target: out of the cache that `tests/setup/ensure.sh` fills, each with a data directory of its
//! own that goes with it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ham4db::domain::key::InstanceKey;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

/// Account that may do everything.
pub(crate) const ADMIN: &str = "ham4db";
/// Account for replication.
pub(crate) const REPLICATION: &str = "repl'ica";
/// Account that may read the replication status and little else.
pub(crate) const POOR: &str = "poor";
/// Account that may log in.
pub(crate) const POORER: &str = "poorer";
/// Password of all of them; with a quote, as people have it.
pub(crate) const PASSWORD: &str = "pass'word";

/// What waits gives up after so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Server software in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Software {
    MySql,
    MariaDb,
}

/// A running server, killed and removed when dropped.
pub(crate) struct Server {
    pub(crate) software: Software,
    pub(crate) key: InstanceKey,
    pub(crate) id: u32,
    folder: tempfile::TempDir,
    home: PathBuf,
    options: Vec<String>,
    process: Option<Child>,
}

fn setup() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup")
}

/// The folder of the software, set up when it was not.
fn home(software: Software) -> PathBuf {
    static HOMES: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let (slot, name) = match software {
        Software::MySql => (&HOMES[0], "mysql"),
        Software::MariaDb => (&HOMES[1], "mariadb"),
    };
    slot.get_or_init(|| {
        let ensured = Command::new(setup().join("ensure.sh"))
            .arg(name)
            .status()
            .expect("because bash is there");
        assert!(ensured.success(), "ensure.sh {name} failed; see what it said");
        let found = Command::new(setup().join("ensure.sh"))
            .args(["--where", name])
            .output()
            .unwrap();
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    })
    .clone()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Gives a folder to the user that the server will run as, when we are root.
fn give_away(path: &Path) {
    // Fails for those who are not root, whose server runs as themselves.
    if chown(path, Some(65534), Some(65534)).is_ok() && path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Server {
    /// Starts a server and waits until it answers. `id` is its `server_id`.
    pub(crate) async fn start(software: Software, id: u32, options: &[&str]) -> Self {
        let home = home(software);
        let runs = home.parent().and_then(Path::parent).unwrap().join("run");
        fs::create_dir_all(&runs).unwrap();
        let folder = tempfile::Builder::new().prefix("adapter-").tempdir_in(runs).unwrap();
        copy(&home.join("template"), &folder.path().join("data"));
        fs::write(folder.path().join("init.sql"), init_sql(software)).unwrap();
        give_away(folder.path());
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let key = InstanceKey::new("127.0.0.1", free_port());
        let mut server = Self {
            software,
            key,
            id,
            folder,
            home,
            options,
            process: None,
        };
        server.start_again().await;
        server
    }

    /// Starts it once more on its data, on the same port.
    pub(crate) async fn start_again(&mut self) {
        self.kill();
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = Command::new(setup().join("unprivileged.sh"));
        command.arg(self.home.join("run")).arg(match self.software {
            Software::MySql => "mysqld",
            Software::MariaDb => "mariadbd",
        });
        if self.software == Software::MySql {
            // Comes first. With --no-defaults, which it takes the place of, persisted variables are not read either.
            command.arg("--defaults-file=/dev/null");
        }
        command.args([
            format!("--datadir={}", path("data")),
            format!("--socket={}", path("s")),
            format!("--pid-file={}", path("pid")),
            format!("--log-error={}", path("error.log")),
            format!("--tmpdir={}", path("")),
            format!("--init-file={}", path("init.sql")),
            format!("--port={}", self.key.port),
            format!("--server-id={}", self.id),
            format!("--report-port={}", self.key.port),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--log-bin=binlog",
            "--binlog-format=ROW",
            "--sync-binlog=1",
            "--skip-name-resolve",
            "--performance-schema=OFF",
        ]);
        command.args(match self.software {
            Software::MySql => &[
                "--innodb-buffer-pool-size=32M",
                "--innodb-redo-log-capacity=8M",
                "--mysqlx=OFF",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--log-error-verbosity=2",
                "--plugin-load-add=semisync_source.so",
                "--plugin-load-add=semisync_replica.so",
            ][..],
            Software::MariaDb => &[
                "--innodb-buffer-pool-size=8M",
                "--innodb-log-file-size=8M",
                "--table-open-cache=64",
                "--aria-pagecache-buffer-size=128K",
                "--log-slave-updates=ON",
                "--gtid-strict-mode=ON",
            ][..],
        });
        command.args(&self.options);
        self.process = Some(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let begun = Instant::now();
        loop {
            match self.connect(ADMIN).await {
                Ok(connection) => break connection.close().await.unwrap(),
                Err(error) => {
                    let ended = self.process.as_mut().unwrap().try_wait().unwrap();
                    assert!(
                        ended.is_none() && begun.elapsed() < PATIENCE,
                        "{:?} does not start: {error}; {}",
                        self.software,
                        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends a signal by name: STOP, CONT.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id();
        assert!(
            Command::new("kill")
                .arg(format!("-{name}"))
                .arg(id.to_string())
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) async fn connect(&self, user: &str) -> Result<MySqlConnection, sqlx::Error> {
        let options = MySqlConnectOptions::new()
            .host(&self.key.hostname)
            .port(self.key.port)
            .username(user)
            .password(PASSWORD)
            .ssl_mode(sqlx::mysql::MySqlSslMode::Disabled)
            .disable_statement_logging();
        options.connect().await
    }

    /// Runs statements on a connection of their own.
    pub(crate) async fn run(&self, statements: &str) {
        let mut connection = self.connect(ADMIN).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
        connection.close().await.unwrap();
    }

    /// The first value of a query.
    pub(crate) async fn value(&self, query: &str) -> String {
        let mut connection = self.connect(ADMIN).await.unwrap();
        let row = sqlx::raw_sql(AssertSqlSafe(query)).fetch_one(&mut connection).await;
        let row = row.unwrap_or_else(|error| panic!("{query}: {error}"));
        connection.close().await.unwrap();
        row.try_get_unchecked::<Option<String>, _>(0)
            .unwrap()
            .unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Accounts, outside the binary log: each server makes its own.
fn init_sql(software: Software) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut statements = vec!["SET SESSION sql_log_bin = 0".to_owned()];
    for user in [ADMIN, REPLICATION, POOR, POORER] {
        statements.push(format!(
            "CREATE USER IF NOT EXISTS {}@'%' IDENTIFIED BY {}",
            quoted(user),
            quoted(PASSWORD)
        ));
    }
    statements.push(format!("GRANT ALL ON *.* TO {}@'%' WITH GRANT OPTION", quoted(ADMIN)));
    statements.push(format!("GRANT REPLICATION SLAVE ON *.* TO {}@'%'", quoted(REPLICATION)));
    statements.push(match software {
        Software::MySql => format!("GRANT REPLICATION CLIENT ON *.* TO {}@'%'", quoted(POOR)),
        Software::MariaDb => format!("GRANT SLAVE MONITOR, BINLOG MONITOR ON *.* TO {}@'%'", quoted(POOR)),
    });
    statements.join(";\n") + ";\n"
}
