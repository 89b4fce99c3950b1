//! Events of the event scheduler: which of them were enabled on a primary.
//!
//! A replica gets each event of its source disabled (`REPLICA_SIDE_DISABLED`, before MySQL 8.2 and on MariaDB
//! `SLAVESIDE_DISABLED`), also one that is disabled on the source. So only the old primary shows which ones ran.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::quote::quote_identifier;

/// Number of events of one server that are kept.
pub const MAX_EVENTS: usize = 500;

/// The name of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledEvent {
    /// Its schema.
    pub schema: String,
    /// Its name in that schema.
    pub name: String,
}

impl std::fmt::Display for ScheduledEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

/// The enabled events of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnabledEvents {
    /// The first [`MAX_EVENTS`] of them.
    pub names: BTreeSet<ScheduledEvent>,
    /// Whether there are more.
    pub more: bool,
}

impl EnabledEvents {
    /// The list from names in their order, of which more than [`MAX_EVENTS`] may be given.
    pub fn of(names: impl IntoIterator<Item = ScheduledEvent>) -> Self {
        let mut names = names.into_iter();
        let kept: BTreeSet<ScheduledEvent> = names.by_ref().take(MAX_EVENTS).collect();
        Self {
            names: kept,
            more: names.next().is_some(),
        }
    }
}

/// An event with the properties that an ALTER EVENT would replace by those of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventDefinition {
    /// Its name.
    pub event: ScheduledEvent,
    /// The account that gives it its privileges, as `user@host`.
    pub definer: String,
    /// The character set in which it was defined.
    pub character_set: String,
    /// The collation with which it was defined.
    pub collation: String,
}

/// What became of events that were to be enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsEnabled {
    /// How many were enabled.
    pub enabled: usize,
    /// Those that could not be, with the reason.
    pub failed: Vec<(ScheduledEvent, String)>,
    /// Whether the event scheduler of the server is off, so that no event runs.
    pub is_scheduler_off: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> ScheduledEvent {
        ScheduledEvent {
            schema: "app".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_list_of_events_is_bounded_and_says_so() {
        let many = |count: usize| EnabledEvents::of((0..count).map(|number| event(&format!("e{number:04}"))));
        assert_eq!(
            (many(MAX_EVENTS).names.len(), many(MAX_EVENTS).more),
            (MAX_EVENTS, false)
        );
        assert_eq!(
            (many(MAX_EVENTS + 1).names.len(), many(MAX_EVENTS + 1).more),
            (MAX_EVENTS, true)
        );
    }

    #[test]
    fn a_name_is_shown_as_it_is_quoted() {
        assert_eq!(event("a`b").to_string(), "`app`.`a``b`");
    }
}
