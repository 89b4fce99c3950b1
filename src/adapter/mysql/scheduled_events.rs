//! The statements of a session that enable and disable events of the event scheduler.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::app::ports::StepError;
use crate::domain::dialect::EventStatus;
use crate::domain::scheduled_events::{EventDefinition, EventsEnabled, ScheduledEvent};

use super::session::MySqlSession;
use super::text_row::TextRow;

impl MySqlSession {
    /// Enables those of these events that are disabled as on a replica.
    pub(super) async fn enable_replicated_events(
        &mut self,
        events: &BTreeSet<ScheduledEvent>,
        logged: bool,
        end: Instant,
    ) -> Result<EventsEnabled, StepError> {
        let mut definitions = self.event_definitions(EventStatus::DisabledOnReplica, end).await?;
        definitions.retain(|definition| events.contains(&definition.event));
        let (changed, failed) = self
            .alter_events(&definitions, EventStatus::Enabled, logged, end)
            .await?;
        let statement = self.dialect().select_event_scheduler();
        let rows = self.send(statement, end).await?;
        let scheduler = rows.first().and_then(TextRow::first).unwrap_or_default();
        Ok(EventsEnabled {
            enabled: changed.len(),
            failed,
            is_scheduler_off: !scheduler.eq_ignore_ascii_case("ON"),
        })
    }

    /// Disables the enabled events as on a replica, where a read-only server would run them.
    ///
    /// # Errors
    /// When one of them could not be disabled; the others are.
    pub(super) async fn disable_enabled_events(&mut self, end: Instant) -> Result<BTreeSet<ScheduledEvent>, StepError> {
        if !self.dialect().runs_events_while_read_only() {
            return Ok(BTreeSet::new());
        }
        let definitions = self.event_definitions(EventStatus::Enabled, end).await?;
        let (changed, failed) = self
            .alter_events(&definitions, EventStatus::DisabledOnReplica, false, end)
            .await?;
        match failed.into_iter().next() {
            Some((event, why)) => Err(self.refused(&format!("disabling event {event}"), 0, why)),
            None => Ok(changed),
        }
    }

    async fn event_definitions(
        &mut self,
        status: EventStatus,
        end: Instant,
    ) -> Result<Vec<EventDefinition>, StepError> {
        let what = "listing events";
        let statement = self.dialect().select_event_definitions(status);
        let rows = self.send_as(what, &statement, end).await?;
        Ok(rows
            .iter()
            .map(|row| EventDefinition {
                event: event(row),
                definer: row.text_or_empty(&["DEFINER"]),
                character_set: row.text_or_empty(&["CHARACTER_SET_CLIENT"]),
                collation: row.text_or_empty(&["COLLATION_CONNECTION"]),
            })
            .collect())
    }

    /// Alters events one by one. Returns those that were altered, and those that the server refused, with the reason.
    async fn alter_events(
        &mut self,
        definitions: &[EventDefinition],
        status: EventStatus,
        logged: bool,
        end: Instant,
    ) -> Result<(BTreeSet<ScheduledEvent>, Vec<(ScheduledEvent, String)>), StepError> {
        let (mut changed, mut failed) = (BTreeSet::new(), Vec::new());
        if definitions.is_empty() {
            return Ok((changed, failed));
        }
        if !logged {
            let statement = self.dialect().set_session_binlog(false);
            self.send(&statement, end).await?;
        }
        for definition in definitions {
            let Some(prepare) = self.dialect().set_event_character_set(definition) else {
                let why = format!("its character set {} cannot be used", definition.character_set);
                failed.push((definition.event.clone(), why));
                continue;
            };
            let statement = self.dialect().alter_event(definition, status);
            // One text: the server does not run the second statement when the first one fails.
            let what = format!("altering event {}", definition.event);
            match self.send_as(&what, &format!("{prepare}; {statement}"), end).await {
                Ok(_) => {
                    changed.insert(definition.event.clone());
                }
                Err(StepError::Refused { number, message, .. }) => {
                    failed.push((definition.event.clone(), format!("error {number}: {message}")));
                }
                Err(error) => return Err(error),
            }
        }
        let statement = self.dialect().reset_character_set();
        self.send(statement, end).await?;
        if !logged {
            let statement = self.dialect().set_session_binlog(true);
            self.send(&statement, end).await?;
        }
        Ok((changed, failed))
    }
}

/// The event of a row.
pub(super) fn event(row: &TextRow) -> ScheduledEvent {
    ScheduledEvent {
        schema: row.text_or_empty(&["EVENT_SCHEMA"]),
        name: row.text_or_empty(&["EVENT_NAME"]),
    }
}
