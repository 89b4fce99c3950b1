//! A stand-in for the admin interface of ProxySQL: MySQL's text protocol in front of SQLite, as in ProxySQL itself, with the tables of
//! memory, run time and disk.

use std::sync::{Arc, Mutex};

use sha1::{Digest as _, Sha1};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Column as _, Row as _, SqlitePool};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::certificates::Certificates;

const SCRAMBLE: &[u8; 20] = b"abcdefghijklmnopqrst";
const SERVERS: &str = "(hostgroup_id INT NOT NULL DEFAULT 0, hostname VARCHAR NOT NULL, port INT NOT NULL DEFAULT 3306, \
     gtid_port INT NOT NULL DEFAULT 0, status VARCHAR CHECK (UPPER(status) IN ('ONLINE','SHUNNED','OFFLINE_SOFT','OFFLINE_HARD')) \
     NOT NULL DEFAULT 'ONLINE', weight INT NOT NULL DEFAULT 1, compression INT NOT NULL DEFAULT 0, \
     max_connections INT NOT NULL DEFAULT 1000, max_replication_lag INT NOT NULL DEFAULT 0, use_ssl INT NOT NULL DEFAULT 0, \
     max_latency_ms INT NOT NULL DEFAULT 0, comment VARCHAR NOT NULL DEFAULT '', PRIMARY KEY (hostgroup_id, hostname, port))";

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// The names of the columns, and the rows.
type ResultSet = (Vec<String>, Vec<Vec<Option<String>>>);

/// A running stand-in.
#[derive(Clone)]
pub(crate) struct ProxySqlAdmin {
    tables: SqlitePool,
    statements: Arc<Mutex<Vec<String>>>,
    pub(crate) port: u16,
}

impl ProxySqlAdmin {
    pub(crate) async fn start(user: &'static str, password: &'static str, tls: Option<&Certificates>) -> Self {
        let tables = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect("sqlite::memory:")
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = Self {
            tables,
            statements: Arc::default(),
            port: listener.local_addr().unwrap().port(),
        };
        for table in ["mysql_servers", "runtime_mysql_servers", "disk_mysql_servers"] {
            admin.execute(&format!("CREATE TABLE {table} {SERVERS}")).await;
        }
        admin
            .execute(
                "CREATE TABLE mysql_replication_hostgroups (writer_hostgroup INT PRIMARY KEY, reader_hostgroup INT, \
                 check_type VARCHAR DEFAULT 'read_only', comment VARCHAR DEFAULT '')",
            )
            .await;
        let (serving, acceptor) = (admin.clone(), tls.map(Certificates::acceptor));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (admin, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move { admin.serve(socket, acceptor, user, password).await });
            }
        });
        admin
    }

    pub(crate) async fn execute(&self, statement: &str) {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&self.tables)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// The servers of a table as `HOSTGROUP HOST STATUS WEIGHT`, in order.
    pub(crate) async fn servers(&self, table: &str) -> Vec<String> {
        let query = format!("SELECT hostgroup_id, hostname, status, weight FROM {table} ORDER BY 1, 2");
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&self.tables).await.unwrap();
        let line = |row: &sqlx::sqlite::SqliteRow| {
            let (group, host, status): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
            format!("{group} {host} {status} {}", row.get::<i64, _>(3))
        };
        rows.iter().map(line).collect()
    }

    /// The statements since the start that changed something.
    pub(crate) fn changes(&self) -> Vec<String> {
        let statements = self.statements.lock().unwrap();
        statements
            .iter()
            .filter(|statement| !statement.starts_with("SELECT"))
            .cloned()
            .collect()
    }

    async fn copy(&self, from: &str, to: &str) {
        self.execute(&format!("DELETE FROM {to}; INSERT INTO {to} SELECT * FROM {from}"))
            .await;
    }

    /// Runs one statement. Returns names and rows of a result, and none for another statement.
    async fn run(&self, statement: &str) -> Result<Option<ResultSet>, String> {
        self.statements.lock().unwrap().push(statement.to_owned());
        match statement {
            "LOAD MYSQL SERVERS TO RUNTIME" => self.copy("mysql_servers", "runtime_mysql_servers").await,
            "SAVE MYSQL SERVERS FROM RUNTIME" => {
                self.copy("runtime_mysql_servers", "mysql_servers").await;
                self.execute("UPDATE mysql_servers SET status='ONLINE' WHERE status='SHUNNED'")
                    .await;
            }
            "SAVE MYSQL SERVERS TO DISK" => self.copy("mysql_servers", "disk_mysql_servers").await,
            _ if statement.starts_with("SELECT") => {
                let rows = sqlx::query(AssertSqlSafe(statement.to_owned()))
                    .fetch_all(&self.tables)
                    .await;
                let rows = rows.map_err(|error| error.to_string())?;
                let names = match rows.first() {
                    Some(row) => row.columns().iter().map(|column| column.name().to_owned()).collect(),
                    None => vec!["none".to_owned()],
                };
                let cell = |row: &sqlx::sqlite::SqliteRow, index: usize| {
                    let number: Result<i64, _> = row.try_get(index);
                    let text = |_| row.try_get::<String, _>(index).ok();
                    number.map_or_else(text, |number| Some(number.to_string()))
                };
                let rows = rows
                    .iter()
                    .map(|row| (0..names.len()).map(|index| cell(row, index)).collect())
                    .collect();
                return Ok(Some((names, rows)));
            }
            _ if ["UPDATE", "DELETE", "INSERT"]
                .iter()
                .any(|verb| statement.starts_with(verb)) =>
            {
                let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
                    .execute(&self.tables)
                    .await;
                done.map_err(|error| error.to_string())?;
            }
            _ => return Err(format!("near \"{statement}\": syntax error")),
        }
        Ok(None)
    }

    /// Serves one connection until it ends.
    async fn serve(&self, socket: TcpStream, acceptor: Option<TlsAcceptor>, user: &str, password: &str) -> Option<()> {
        let mut socket: Box<dyn Socket> = Box::new(socket);
        let mut greeting = vec![10];
        greeting.extend(b"8.0.11 (ProxySQL Admin Module)\0");
        greeting.extend([1, 0, 0, 0]);
        greeting.extend(&SCRAMBLE[..8]);
        greeting.push(0);
        // Long password, protocol 4.1, secure connection, plugin names; no end of EOF packets.
        let tls_too = if acceptor.is_some() { 0x800 } else { 0 };
        let capabilities: u32 = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000 | tls_too;
        let bytes = capabilities.to_le_bytes();
        greeting.extend([bytes[0], bytes[1], 33, 2, 0, bytes[2], bytes[3], 21]);
        greeting.extend([0; 10]);
        greeting.extend(&SCRAMBLE[8..]);
        greeting.extend(b"\0mysql_native_password\0");
        send(&mut socket, 0, &greeting).await?;
        if let Some(acceptor) = acceptor {
            let (_, request) = receive(&mut socket).await?;
            assert_eq!(request.len(), 32, "a request for TLS");
            socket = Box::new(acceptor.accept(socket).await.ok()?);
        }
        let (sequence, login) = receive(&mut socket).await?;
        let name_at = 32;
        let name_end = name_at + login[name_at..].iter().position(|byte| *byte == 0)?;
        let length = usize::from(login[name_end + 1]);
        let answer = &login[name_end + 2..name_end + 2 + length];
        if &login[name_at..name_end] != user.as_bytes() || answer != scrambled(password) {
            let refusal = error(1045, "28000", "ProxySQL Error: Access denied for user");
            return send(&mut socket, sequence + 1, &refusal).await;
        }
        send(&mut socket, sequence + 1, &OK).await?;
        loop {
            let (_, command) = receive(&mut socket).await?;
            match command.first() {
                Some(3) => {
                    let statement = String::from_utf8_lossy(&command[1..]).into_owned();
                    match self.run(&statement).await {
                        Ok(None) => send(&mut socket, 1, &OK).await?,
                        Ok(Some((names, rows))) => send_rows(&mut socket, &names, &rows).await?,
                        Err(why) => send(&mut socket, 1, &error(1045, "#2800", &why)).await?,
                    }
                }
                Some(14) => send(&mut socket, 1, &OK).await?,
                _ => return None,
            }
        }
    }
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];
const EOF: [u8; 5] = [0xfe, 0, 0, 2, 0];

fn error(code: u16, state: &str, why: &str) -> Vec<u8> {
    let mut packet = vec![0xff];
    packet.extend(code.to_le_bytes());
    packet.push(b'#');
    packet.extend(format!("{state:.5}").bytes());
    packet.extend(why.bytes());
    packet
}

fn scrambled(password: &str) -> Vec<u8> {
    let once = Sha1::digest(password.as_bytes());
    let twice = Sha1::digest(once.as_slice());
    let mixed = Sha1::new()
        .chain_update(SCRAMBLE)
        .chain_update(twice.as_slice())
        .finalize();
    once.iter()
        .zip(mixed.iter())
        .map(|(left, right)| left ^ right)
        .collect()
}

async fn send(socket: &mut Box<dyn Socket>, sequence: u8, payload: &[u8]) -> Option<()> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let mut packet = vec![length[0], length[1], length[2], sequence];
    packet.extend(payload);
    socket.write_all(&packet).await.ok()
}

async fn receive(socket: &mut Box<dyn Socket>) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    socket.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16];
    socket.read_exact(&mut payload).await.ok()?;
    Some((header[3], payload))
}

fn text(packet: &mut Vec<u8>, text: &str) {
    packet.push(u8::try_from(text.len()).unwrap());
    packet.extend(text.bytes());
}

async fn send_rows(socket: &mut Box<dyn Socket>, names: &[String], rows: &[Vec<Option<String>>]) -> Option<()> {
    let mut sequence = 1;
    let mut next = || {
        sequence += 1;
        sequence - 1
    };
    send(socket, next(), &[u8::try_from(names.len()).unwrap()]).await?;
    for name in names {
        let mut column = Vec::new();
        for part in ["def", "", "", "", name, ""] {
            text(&mut column, part);
        }
        column.extend([12, 33, 0, 255, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
        send(socket, next(), &column).await?;
    }
    send(socket, next(), &EOF).await?;
    for row in rows {
        let mut packet = Vec::new();
        for cell in row {
            match cell {
                Some(cell) => text(&mut packet, cell),
                None => packet.push(0xfb),
            }
        }
        send(socket, next(), &packet).await?;
    }
    send(socket, next(), &EOF).await
}
