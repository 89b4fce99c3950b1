//! The slow part of the facts, put together. Every part stands for itself: what was refused is unknown.

use std::collections::BTreeMap;

use crate::domain::settings::{Accounts, Boot, Privileges, ServerSettings};

use super::queries::SlowPart;
use super::server_connection::{ServerInfo, StatementResult};
use super::text_row::{TextRow, as_flag};

/// Puts together what the statements of [`super::queries::slow_parts`] answered.
pub(super) fn assemble(
    server_info: &ServerInfo,
    answers: impl Iterator<Item = (SlowPart, StatementResult)>,
) -> ServerSettings {
    let number = |name: &str| server_info.variable(name).parse().ok();
    let mut settings = ServerSettings {
        sync_binlog: number("sync_binlog"),
        flush_log_at_commit: number("innodb_flush_log_at_trx_commit"),
        relay_log_recovery: as_flag(server_info.variable("relay_log_recovery")),
        replica_net_timeout_seconds: number("replica_net_timeout").or_else(|| number("slave_net_timeout")),
        boot: Boot::Unknown(String::from("the server does not tell what its next start brings")),
        ..ServerSettings::default()
    };
    let mut persisted = BTreeMap::new();
    let mut sources = None;
    let mut refused = None;
    for (part, answer) in answers {
        match (part, answer) {
            (SlowPart::Account, Ok(rows)) => settings.account = firsts(&rows).into_iter().next().unwrap_or_default(),
            (SlowPart::Grants, Ok(rows)) => {
                settings.privileges = Some(Privileges::of_grants(firsts(&rows).iter().map(String::as_str)));
            }
            (SlowPart::Heartbeat, Ok(rows)) => {
                // MariaDB tells 0 where its default connection has no source.
                let is_told = |millis: &u64| *millis > 0 || !server_info.version.flavour.is_mariadb();
                let told = pairs(&rows).values().next().and_then(|text| millis(text));
                settings.heartbeat_millis = told.filter(is_told);
            }
            (SlowPart::Persisted, Ok(rows)) => persisted = pairs(&rows),
            (SlowPart::Sources, Ok(rows)) => sources = Some(pairs(&rows)),
            (SlowPart::PastReadOnly, Ok(rows)) => {
                let grantees = firsts(&rows);
                let grantees = grantees.iter().map(String::as_str);
                settings.unstopped = Some(Accounts::of_grantees(
                    grantees,
                    &settings.account,
                    server_info.variable("hostname"),
                ));
            }
            (SlowPart::Persisted | SlowPart::Sources, Err((number, message))) => {
                refused = Some(format!("error {number}: {message}"));
            }
            (SlowPart::Account | SlowPart::Grants | SlowPart::Heartbeat | SlowPart::PastReadOnly, Err(_)) => {}
        }
    }
    if let Some(why) = refused {
        settings.boot = Boot::Unknown(why);
    } else if let Some(sources) = sources {
        let present = ["read_only", "super_read_only"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), as_flag(server_info.variable(name))?)))
            .collect();
        settings.boot = Boot::told_by_mysql(&persisted, &sources, &present);
        settings.read_only_since_boot = Some(is_since_boot(&sources, &present));
    }
    settings
}

/// Whether one of the two is on, and no statement has touched either since the start.
fn is_since_boot(sources: &BTreeMap<String, String>, present: &BTreeMap<String, bool>) -> bool {
    let is_untouched = |name: &str| {
        sources
            .get(name)
            .is_some_and(|source| !source.eq_ignore_ascii_case("DYNAMIC"))
    };
    present.values().any(|on| *on) && present.keys().all(|name| is_untouched(name))
}

fn firsts(rows: &[TextRow]) -> Vec<String> {
    rows.iter()
        .filter_map(TextRow::first)
        .map(std::borrow::Cow::into_owned)
        .collect()
}

fn pairs(rows: &[TextRow]) -> BTreeMap<String, String> {
    rows.iter()
        .map(|row| (row.text_or_empty(&["Variable_name"]), row.text_or_empty(&["Value"])))
        .collect()
}

/// Seconds with a fraction, as milliseconds.
fn millis(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok()?;
    let period = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from(period.as_millis()).ok()
}
