//! The statements about events of the event scheduler.
//!
//! Measured on MySQL 9.7 and MariaDB 10.11: `ALTER EVENT` without DEFINER makes the session's account the definer, and
//! always takes over `character_set_client` and `collation_connection` of the session; the SQL mode and the time zone
//! of the event stay. An event that is enabled on a primary arrives disabled on its replicas.

use super::Dialect;
use crate::domain::quote::quote_literal;
use crate::domain::scheduled_events::{EventDefinition, MAX_EVENTS};

/// The status of an event after a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// It runs.
    Enabled,
    /// It does not run, as on a replica.
    DisabledOnReplica,
}

impl Dialect {
    /// Selects the enabled events (`EVENT_SCHEMA`, `EVENT_NAME`), one more than are kept. Shows only events of schemas
    /// for which the account has the EVENT privilege.
    pub fn select_enabled_events(&self) -> String {
        format!(
            "SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE STATUS = 'ENABLED' \
             ORDER BY EVENT_SCHEMA, EVENT_NAME LIMIT {}",
            MAX_EVENTS + 1
        )
    }

    /// Selects the events with one of the two statuses, with the properties of an [`EventDefinition`].
    pub fn select_event_definitions(&self, status: EventStatus) -> String {
        let statuses = match status {
            EventStatus::Enabled => "'ENABLED'",
            EventStatus::DisabledOnReplica if self.has_new_event_words() => "'REPLICA_SIDE_DISABLED'",
            // A server of MySQL 8.2 or 8.3 has the new word already.
            EventStatus::DisabledOnReplica => "'SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED'",
        };
        format!(
            "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER, CHARACTER_SET_CLIENT, COLLATION_CONNECTION \
             FROM information_schema.EVENTS WHERE STATUS IN ({statuses}) ORDER BY EVENT_SCHEMA, EVENT_NAME LIMIT {}",
            4 * MAX_EVENTS
        )
    }

    /// Sets the session's character set and collation to those of an event. `None` where their names are unusual, or
    /// where the statement after it could not be written in that character set.
    pub fn set_event_character_set(&self, definition: &EventDefinition) -> Option<String> {
        let is_plain = |name: &str| {
            let mut characters = name.chars();
            !name.is_empty() && characters.all(|one| one.is_ascii_alphanumeric() || one == '_')
        };
        let is_ascii = definition.event.to_string().is_ascii() && definition.definer.is_ascii();
        let EventDefinition {
            character_set,
            collation,
            ..
        } = definition;
        (is_plain(character_set) && is_plain(collation) && (is_ascii || character_set.starts_with("utf8")))
            .then(|| format!("SET SESSION character_set_client = {character_set}, collation_connection = {collation}"))
    }

    /// Undoes [`set_event_character_set`](Self::set_event_character_set).
    pub fn reset_character_set(&self) -> &'static str {
        "SET NAMES utf8mb4"
    }

    /// Enables or disables an event, which keeps its definer. Needs EVENT and, for a definer that is another account,
    /// `SET_ANY_DEFINER` (before MySQL 8.2 `SET_USER_ID`, on `MariaDB` `SET USER`).
    pub fn alter_event(&self, definition: &EventDefinition, status: EventStatus) -> String {
        let (user, host) = definition
            .definer
            .rsplit_once('@')
            .unwrap_or((&definition.definer, "%"));
        let status = match status {
            EventStatus::Enabled => "ENABLE",
            EventStatus::DisabledOnReplica if self.has_new_event_words() => "DISABLE ON REPLICA",
            EventStatus::DisabledOnReplica => "DISABLE ON SLAVE",
        };
        format!(
            "ALTER DEFINER = {}@{} EVENT {} {status}",
            quote_literal(user),
            quote_literal(host),
            definition.event
        )
    }

    fn has_new_event_words(&self) -> bool {
        !self.is_mariadb() && self.version.at_least(8, 4, 0)
    }

    /// Whether events of accounts that bypass `read_only` run and write on a read-only server. MySQL stops its scheduler
    /// under `super_read_only`, starts it again afterwards, and refuses `ALTER EVENT` meanwhile.
    pub fn runs_events_while_read_only(&self) -> bool {
        !self.version.has_super_read_only()
    }

    /// Makes the session write nothing to the binary log, or write to it again.
    pub fn set_session_binlog(&self, on: bool) -> String {
        format!("SET SESSION sql_log_bin = {}", u8::from(on))
    }

    /// Selects whether the event scheduler is on.
    pub fn select_event_scheduler(&self) -> &'static str {
        "SELECT @@global.event_scheduler"
    }
}
