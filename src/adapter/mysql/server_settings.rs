//! Assembles the settings of a server from the results of [`super::queries::settings_queries`]. A query that was refused makes
//! its value unknown and does not affect the others.

use std::collections::BTreeMap;

use crate::domain::scheduled_events::EnabledEvents;
use crate::domain::settings::{Accounts, Boot, Privileges, ServerSettings};

use super::queries::SettingsQuery;
use super::scheduled_events;
use super::server_info::ServerInfo;
use super::statements::StatementResult;
use super::text_row::{TextRow, as_flag};

/// Assembles the results of the settings queries.
pub(super) fn assemble(
    server_info: &ServerInfo,
    results: impl Iterator<Item = (SettingsQuery, StatementResult)>,
) -> ServerSettings {
    let number = |name: &str| server_info.variable(name).parse().ok();
    let mut settings = ServerSettings {
        sync_binlog: number("sync_binlog"),
        flush_log_at_commit: number("innodb_flush_log_at_trx_commit"),
        relay_log_recovery: as_flag(server_info.variable("relay_log_recovery")),
        replica_net_timeout_seconds: number("replica_net_timeout").or_else(|| number("slave_net_timeout")),
        boot: Boot::Unknown(String::from(
            "the server does not report the settings of its next start",
        )),
        ..ServerSettings::default()
    };
    let mut persisted = BTreeMap::new();
    let mut sources = None;
    let mut refused = None;
    for (query, result) in results {
        match (query, result) {
            (SettingsQuery::Account, Ok(rows)) => {
                settings.account = first_values(&rows).into_iter().next().unwrap_or_default();
            }
            (SettingsQuery::Grants, Ok(rows)) => {
                settings.privileges = Some(Privileges::of_grants(first_values(&rows).iter().map(String::as_str)));
            }
            (SettingsQuery::Heartbeat, Ok(rows)) => {
                // MariaDB reports 0 when its default connection has no source.
                let is_known = |millis: &u64| *millis > 0 || !server_info.version.flavour.is_mariadb();
                let period = pairs(&rows).values().next().and_then(|text| millis(text));
                settings.heartbeat_millis = period.filter(is_known);
            }
            (SettingsQuery::Persisted, Ok(rows)) => persisted = pairs(&rows),
            (SettingsQuery::Sources, Ok(rows)) => sources = Some(pairs(&rows)),
            (SettingsQuery::PastReadOnly, Ok(rows)) => {
                let grantees = first_values(&rows);
                let grantees = grantees.iter().map(String::as_str);
                settings.past_read_only = Some(Accounts::of_grantees(
                    grantees,
                    &settings.account,
                    server_info.variable("hostname"),
                ));
            }
            (SettingsQuery::Persisted | SettingsQuery::Sources, Err((number, message))) => {
                refused = Some(format!("error {number}: {message}"));
            }
            (SettingsQuery::Events, Ok(rows)) => {
                // Without the privilege on all schemas the list lacks events, and nothing shows that.
                let shows_all = settings.privileges.as_ref().is_some_and(|own| own.has("EVENT"));
                settings.events = shows_all.then(|| EnabledEvents::of(rows.iter().map(scheduled_events::event)));
            }
            (SettingsQuery::WaitingForBackup, Ok(rows)) => {
                let is_waiting = first_values(&rows).first().is_some_and(|count| count != "0");
                // An applier that does not wait proves nothing: it may have nothing to apply.
                settings.backup_lock = is_waiting.then_some(true);
            }
            (SettingsQuery::BackupLock, Ok(rows)) => {
                settings.backup_lock = Some(settings.backup_lock == Some(true) || !rows.is_empty());
            }
            (
                SettingsQuery::Account
                | SettingsQuery::Grants
                | SettingsQuery::Heartbeat
                | SettingsQuery::PastReadOnly
                | SettingsQuery::Events
                | SettingsQuery::WaitingForBackup
                | SettingsQuery::BackupLock,
                Err(_),
            ) => {}
        }
    }
    if let Some(why) = refused {
        settings.boot = Boot::Unknown(why);
    } else if let Some(sources) = sources {
        let present = ["read_only", "super_read_only"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), as_flag(server_info.variable(name))?)))
            .collect();
        settings.boot = Boot::of_mysql(&persisted, &sources, &present);
        settings.read_only_since_boot = Some(is_since_boot(&sources, &present));
    }
    settings
}

/// Whether `read_only` or `super_read_only` is on, and no statement has set either of them since the start.
fn is_since_boot(sources: &BTreeMap<String, String>, present: &BTreeMap<String, bool>) -> bool {
    let is_untouched = |name: &str| {
        sources
            .get(name)
            .is_some_and(|source| !source.eq_ignore_ascii_case("DYNAMIC"))
    };
    present.values().any(|on| *on) && present.keys().all(|name| is_untouched(name))
}

/// The first value of each row.
fn first_values(rows: &[TextRow]) -> Vec<String> {
    rows.iter()
        .filter_map(TextRow::first)
        .map(std::borrow::Cow::into_owned)
        .collect()
}

/// The rows of `Variable_name` and `Value`.
fn pairs(rows: &[TextRow]) -> BTreeMap<String, String> {
    rows.iter()
        .map(|row| (row.text_or_empty(&["Variable_name"]), row.text_or_empty(&["Value"])))
        .collect()
}

/// Parses seconds with a fraction into milliseconds.
fn millis(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok()?;
    let period = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from(period.as_millis()).ok()
}
