//! What a simulated server answers to a statement: as MySQL 9.7 does with GTIDs and without plugins.

use std::borrow::Cow;
use std::net::SocketAddrV4;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::cluster::{Channel, Cluster, ServerState, Thread, gtid_set, is_executed, uuid};
use super::wire::{Answer, Value};

/// The version in the greeting and in `@@version`.
pub(crate) const VERSION: &str = "9.7.4";
/// When the servers were started, in seconds before now.
const UPTIME: u64 = 864_000;

#[expect(clippy::unnecessary_wraps, reason = "a value may be NULL")]
fn some(text: impl Into<Cow<'static, str>>) -> Value {
    Some(text.into())
}

fn flag(on: bool) -> Value {
    some(if on { "1" } else { "0" })
}

/// The answer of the server at `place` on the connection with this id. The cluster was brought up to now.
pub(crate) fn answer(cluster: &mut Cluster, place: usize, connection: u64, statement: &str) -> Answer {
    if let Some(rest) = statement.strip_prefix("SELECT @@") {
        return select_variables(cluster.server(place), rest);
    }
    let begins = |words: &str| statement.starts_with(words);
    if begins("SHOW REPLICA STATUS") {
        let server = cluster.server(place);
        server.probed = Some(Instant::now());
        server.probes += 1;
        return replica_status(server);
    }
    if begins("SHOW BINARY LOG STATUS") {
        let committed: u64 = cluster.server(place).executed.values().sum();
        let row = vec![some("binlog.000002"), some((157 + committed * 300).to_string())];
        return Answer::Rows(vec!["File".into(), "Position".into()], vec![row]);
    }
    if begins("SHOW REPLICAS") {
        return replicas(cluster, place);
    }
    if begins("SHOW GLOBAL VARIABLES") {
        return variables(cluster.server(place));
    }
    if begins("SHOW GLOBAL STATUS LIKE 'Uptime'") {
        return pairs(&[("Uptime", &UPTIME.to_string())]);
    }
    if begins("SELECT UNIX_TIMESTAMP()") {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return Answer::value("UNIX_TIMESTAMP()", some(now.as_secs().to_string()));
    }
    if begins("SELECT IS_USED_LOCK(") || begins("SELECT IF(GET_LOCK(") || begins("SELECT RELEASE_LOCK(") {
        return locks(cluster.server(place), connection, statement);
    }
    if let Some(set) = quoted_after(statement, "SELECT GTID_SUBSET(") {
        return Answer::value("subset", flag(is_executed(set, &cluster.server(place).executed)));
    }
    if let Some(set) = quoted_after(statement, "SELECT WAIT_FOR_EXECUTED_GTID_SET(") {
        return Answer::value("timeout", flag(!is_executed(set, &cluster.server(place).executed)));
    }
    if let Some(answer) = rarely_read(statement) {
        return answer;
    }
    if begins("SET SESSION ") {
        return Answer::Done;
    }
    change(cluster, place, statement)
}

/// What is read about once a minute, or only while a recovery runs.
fn rarely_read(statement: &str) -> Option<Answer> {
    let begins = |words: &str| statement.starts_with(words);
    Some(if begins("SELECT COUNT(*) FROM mysql.slave_master_info") {
        Answer::value("COUNT(*)", some("0"))
    } else if begins("SELECT CURRENT_USER()") {
        Answer::value("CURRENT_USER()", some("ham4db@%"))
    } else if begins("SHOW GRANTS") {
        let grants = "GRANT RELOAD, PROCESS, REPLICATION SLAVE, REPLICATION CLIENT, SUPER, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, \
                      REPLICATION_SLAVE_ADMIN ON *.* TO `ham4db`@`%`";
        Answer::value("Grants", some(grants))
    } else if statement.contains("performance_schema.persisted_variables") {
        pairs(&[("super_read_only", "ON")])
    } else if statement.contains("performance_schema.variables_info") {
        pairs(&[("read_only", "DYNAMIC"), ("super_read_only", "DYNAMIC")])
    } else if statement.contains("replication_connection_configuration") {
        pairs(&[("heartbeat", "1.000")])
    } else if statement.contains("information_schema.user_privileges") {
        Answer::nothing("GRANTEE")
    } else if statement.contains("performance_schema.processlist") {
        Answer::nothing("ID")
    } else if statement.contains("information_schema.EVENTS") {
        Answer::nothing("EVENT_SCHEMA")
    } else if statement.contains("performance_schema.metadata_locks") {
        Answer::nothing("ID")
    } else if statement.contains("information_schema.innodb_trx") {
        Answer::nothing("session")
    } else {
        return None;
    })
}

fn pairs(values: &[(&'static str, &str)]) -> Answer {
    let rows = values
        .iter()
        .map(|(name, value)| vec![some(*name), some((*value).to_owned())]);
    Answer::Rows(vec!["Variable_name".into(), "Value".into()], rows.collect())
}

fn variable(server: &ServerState, name: &str) -> Option<Cow<'static, str>> {
    Some(match name {
        "version" => VERSION.into(),
        "version_comment" => "MySQL Community Server - GPL (simulated)".into(),
        "hostname" => format!("server{}", server.number).into(),
        "port" | "report_port" => server.address.port().to_string().into(),
        "report_host" => server.address.ip().to_string().into(),
        "server_uuid" => uuid(server.number).into(),
        "server_id" => server.number.to_string().into(),
        "log_bin" | "log_replica_updates" | "performance_schema" | "gtid_mode" | "relay_log_recovery" => "ON".into(),
        "read_only" => flag(server.read_only)?,
        "super_read_only" => flag(server.super_read_only)?,
        "binlog_format" => "ROW".into(),
        "binlog_row_image" => "FULL".into(),
        "gtid_executed" => gtid_set(&server.executed).into(),
        "gtid_purged" => "".into(),
        "datadir" => format!("/var/lib/mysql/{}/", server.number).into(),
        "sync_binlog" | "innodb_flush_log_at_trx_commit" => "1".into(),
        "replica_net_timeout" => "60".into(),
        _ => return None,
    })
}

fn variables(server: &ServerState) -> Answer {
    const NAMES: [&str; 21] = [
        "version",
        "version_comment",
        "hostname",
        "port",
        "report_host",
        "report_port",
        "server_uuid",
        "log_bin",
        "log_replica_updates",
        "performance_schema",
        "server_id",
        "read_only",
        "super_read_only",
        "binlog_format",
        "binlog_row_image",
        "gtid_mode",
        "gtid_executed",
        "gtid_purged",
        "datadir",
        "sync_binlog",
        "relay_log_recovery",
    ];
    let rows = NAMES
        .into_iter()
        .chain(["innodb_flush_log_at_trx_commit", "replica_net_timeout"])
        .map(|name| vec![some(name), variable(server, name)]);
    Answer::Rows(vec!["Variable_name".into(), "Value".into()], rows.collect())
}

/// `SELECT @@global.a AS a, @@global.b AS b`, of which `rest` is what follows the first `@@`.
fn select_variables(server: &ServerState, rest: &str) -> Answer {
    let (mut columns, mut row) = (Vec::new(), Vec::new());
    for column in rest.split(',') {
        let column = column.trim().trim_start_matches("@@");
        let (name, alias) = column.split_once(" AS ").unwrap_or((column, column));
        let name = name
            .rsplit_once('.')
            .map_or(name, |(_, name)| name)
            .to_ascii_lowercase();
        let Some(value) = variable(server, &name) else {
            return Answer::Error(1193, format!("Unknown system variable '{name}'"));
        };
        columns.push(Cow::Owned(alias.to_owned()));
        row.push(Some(value));
    }
    Answer::Rows(columns, vec![row])
}

/// The names and values of `SHOW REPLICA STATUS`, in the order of MySQL 9.7.
fn replica_status(server: &ServerState) -> Answer {
    const COLUMNS: [&str; 34] = [
        "Replica_IO_State",
        "Source_Host",
        "Source_User",
        "Source_Port",
        "Connect_Retry",
        "Source_Log_File",
        "Read_Source_Log_Pos",
        "Relay_Log_File",
        "Relay_Log_Pos",
        "Relay_Source_Log_File",
        "Replica_IO_Running",
        "Replica_SQL_Running",
        "Replicate_Do_DB",
        "Replicate_Ignore_DB",
        "Replicate_Do_Table",
        "Replicate_Ignore_Table",
        "Replicate_Wild_Do_Table",
        "Replicate_Wild_Ignore_Table",
        "Exec_Source_Log_Pos",
        "Source_SSL_Allowed",
        "Seconds_Behind_Source",
        "Last_IO_Errno",
        "Last_IO_Error",
        "Last_SQL_Errno",
        "Last_SQL_Error",
        "Source_Server_Id",
        "Source_UUID",
        "SQL_Delay",
        "Retrieved_Gtid_Set",
        "Executed_Gtid_Set",
        "Auto_Position",
        "Channel_Name",
        "Get_Source_public_key",
        "Replicate_Rewrite_DB",
    ];
    let columns = COLUMNS.into_iter().map(Cow::Borrowed).collect();
    let Some(channel) = &server.channel else {
        return Answer::Rows(columns, Vec::new());
    };
    let is_running = channel.receiver == Thread::Running;
    let source = source_number(server, channel);
    let committed: u64 = server.executed.values().sum();
    let position = some((157 + committed * 300).to_string());
    let running = |on: bool| some(if on { "Yes" } else { "No" });
    let (errno, error) = match channel.receiver {
        Thread::Connecting => ("2003", format!("error connecting to source 'repl@{}'", channel.source)),
        Thread::Running | Thread::Stopped => ("0", String::new()),
    };
    let received: std::collections::BTreeMap<u32, u64> = server
        .executed
        .iter()
        .filter(|(number, _)| **number != server.number)
        .map(|(number, last)| (*number, *last))
        .collect();
    let row = vec![
        some("Waiting for source to send event"),
        some(channel.source.ip().to_string()),
        some("repl"),
        some(channel.source.port().to_string()),
        some("1"),
        some("binlog.000002"),
        position.clone(),
        some("relay.000002"),
        position.clone(),
        some("binlog.000002"),
        some(match channel.receiver {
            Thread::Running => "Yes",
            Thread::Connecting => "Connecting",
            Thread::Stopped => "No",
        }),
        running(channel.applies),
        some(""),
        some(""),
        some(""),
        some(""),
        some(""),
        some(""),
        position,
        some("No"),
        is_running.then(|| "0".into()),
        some(errno),
        some(error),
        some("0"),
        some(""),
        some(source.to_string()),
        some(uuid(source)),
        some("0"),
        some(gtid_set(&received)),
        some(gtid_set(&server.executed)),
        some("1"),
        some(""),
        some("1"),
        some(""),
    ];
    Answer::Rows(columns, vec![row])
}

/// The number of the source, which lies in the same block of addresses as the server itself.
fn source_number(server: &ServerState, channel: &Channel) -> u32 {
    let offset = u32::from(*channel.source.ip()).wrapping_sub(u32::from(*server.address.ip()));
    server.number.wrapping_add(offset)
}

fn replicas(cluster: &mut Cluster, place: usize) -> Answer {
    let (address, number) = {
        let server = cluster.server(place);
        (server.address, server.number)
    };
    let rows = cluster.receivers(address).map(|replica| {
        vec![
            some(replica.number.to_string()),
            some(replica.address.ip().to_string()),
            some(replica.address.port().to_string()),
            some(number.to_string()),
            some(uuid(replica.number)),
        ]
    });
    let columns = ["Server_Id", "Host", "Port", "Source_Id", "Replica_UUID"];
    Answer::Rows(columns.into_iter().map(Cow::Borrowed).collect(), rows.collect())
}

/// The text in the first quotes after `words`.
fn quoted_after<'a>(statement: &'a str, words: &str) -> Option<&'a str> {
    let rest = statement.strip_prefix(words)?;
    Some(rest.split('\'').nth(1).unwrap_or_default())
}

/// The statements about user locks that do not wait.
fn locks(server: &mut ServerState, connection: u64, statement: &str) -> Answer {
    let names: Vec<&str> = statement.split('\'').skip(1).step_by(2).collect();
    let holder = |server: &ServerState, name: &str| server.locks.get(name).map(|id| Cow::Owned(id.to_string()));
    if statement.starts_with("SELECT RELEASE_LOCK(") {
        let is_own = |name: &&&str| server.locks.get(**name) == Some(&connection);
        let released = names.first().filter(is_own).map(|name| (*name).to_owned());
        if let Some(name) = &released {
            server.locks.remove(name);
        }
        return Answer::value("released", flag(released.is_some()));
    }
    if statement.starts_with("SELECT IF(GET_LOCK(") {
        let taken = names.iter().all(|name| take_lock(server, name, connection));
        return Answer::value("taken", flag(taken));
    }
    if let [owner, ours] = names.as_slice() {
        let row = vec![
            holder(server, owner),
            holder(server, ours),
            some(connection.to_string()),
        ];
        return Answer::Rows(vec!["owner".into(), "ours".into(), "me".into()], vec![row]);
    }
    Answer::value("holder", names.first().and_then(|name| holder(server, name)))
}

/// Takes a user lock. Returns whether the connection holds it now.
pub(crate) fn take_lock(server: &mut ServerState, name: &str, connection: u64) -> bool {
    *server.locks.entry(name.to_owned()).or_insert(connection) == connection
}

/// The statements that change a server.
fn change(cluster: &mut Cluster, place: usize, statement: &str) -> Answer {
    let begins = |words: &str| statement.starts_with(words);
    let server = cluster.server(place);
    let (receiver, applier) = (!statement.contains("SQL_THREAD"), !statement.contains("IO_THREAD"));
    let no_channel = || Answer::Error(1200, "The server is not configured as replica".to_owned());
    match statement {
        "SET GLOBAL super_read_only = 1" => (server.read_only, server.super_read_only) = (true, true),
        "SET GLOBAL read_only = 0" => {
            let was_read_only = std::mem::take(&mut server.read_only);
            server.super_read_only = false;
            let address = server.address;
            if was_read_only {
                cluster.opened = Some((address, Instant::now()));
            }
        }
        _ if begins("STOP REPLICA") => {
            let Some(channel) = &mut server.channel else {
                return no_channel();
            };
            channel.applies &= !applier;
            if receiver {
                channel.receiver = Thread::Stopped;
            }
        }
        _ if begins("START REPLICA") => {
            let Some(channel) = &mut server.channel else {
                return no_channel();
            };
            channel.applies |= applier;
            if receiver && channel.receiver == Thread::Stopped {
                channel.receiver = Thread::Connecting;
            }
        }
        _ if begins("RESET REPLICA ALL") => server.channel = None,
        _ if begins("CHANGE REPLICATION SOURCE TO") => {
            let Some(source) = new_source(statement) else {
                return Answer::Error(1064, format!("no source in: {statement}"));
            };
            let applies = server.channel.as_ref().is_some_and(|channel| channel.applies);
            server.channel = Some(Channel {
                source,
                receiver: Thread::Stopped,
                applies,
            });
        }
        _ => return Answer::Error(1064, format!("a simulated server does not know: {statement}")),
    }
    cluster.server(place).changes += 1;
    cluster.advance();
    Answer::Done
}

fn new_source(statement: &str) -> Option<SocketAddrV4> {
    let after = |word: &str| Some(statement.split_once(word)?.1.trim_start_matches([' ', '=', '\'']));
    let host = after("SOURCE_HOST")?.split('\'').next()?;
    let port = after("SOURCE_PORT")?.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(SocketAddrV4::new(host.parse().ok()?, port.parse().ok()?))
}
