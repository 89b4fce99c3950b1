//! A document in the domain's terms, parsed once at the edge.

use std::collections::BTreeSet;

use crate::domain::intent::{PromotionRule, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Mode;
use crate::domain::state::{Document, State};
use crate::domain::time::WallTime;

use super::FOREIGN_MILLIS;
use super::endpoints::DeclaredServices;

/// A `MySQLCluster` document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredCluster {
    /// Its policy. `created` counts for nothing here, see [`Self::created`].
    pub document: Document,
    /// When the resource was created; `None` where the source does not know: then the moment when it was recorded first.
    pub created: Option<WallTime>,
    /// Instances to leave alone.
    pub downtime: Vec<DeclaredDowntime>,
    /// Promotion rules.
    pub candidates: Vec<DeclaredCandidate>,
    /// A takeover that is asked for once.
    pub takeover: Option<DeclaredTakeover>,
    /// The recovery that a person has looked at, by its id.
    pub acknowledged: Option<String>,
    /// The annotation that asks for a promotion whatever is lost, as it stands there.
    pub force: Option<String>,
    /// Services that lead applications to its servers.
    pub services: Option<DeclaredServices>,
    /// TLS to the servers.
    pub tls: Tls,
    /// What is known of its Secret.
    pub secret: SecretStanding,
    /// Paths of [`super::optional_fields`] where it says nothing.
    pub absent: BTreeSet<&'static str>,
    /// Who wrote its status last.
    pub observed_by: Option<ObservedBy>,
}

/// TLS to the servers of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    Off,
    /// When the server offers it, unverified.
    #[default]
    Preferred,
    /// Always, unverified.
    Required,
    /// Always, certificate and host name verified.
    Verify,
}

/// An instance to leave alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredDowntime {
    /// Which, as the document spells it.
    pub instance: InstanceKey,
    /// Who asks.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Until when; `None` is until the entry is removed.
    pub until: Option<WallTime>,
}

impl DeclaredDowntime {
    /// Its time has passed.
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A takeover that is asked for once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTakeover {
    /// Its name: it is acted on once.
    pub id: String,
    /// Who takes over, as the document spells it; `None`: whoever suits.
    pub target: Option<InstanceKey>,
    /// How far behind the target may be, and how long it may take to catch up, seconds; `None`: as the configuration says.
    pub catch_up_seconds: Option<u64>,
    /// Not begun after this.
    pub deadline: WallTime,
}

/// A promotion rule for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredCandidate {
    /// Which, as the document spells it.
    pub instance: InstanceKey,
    /// The rule.
    pub rule: PromotionRule,
}

/// What is known of the Secret of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecretStanding {
    /// Not asked for yet.
    #[default]
    Unread,
    /// Read, and complete.
    Read,
    /// Cannot be read now; the account that it held last is used.
    LastKnown(String),
    /// There is none of this name, or it lacks a key.
    Missing(String),
    /// It may not be read.
    Forbidden(String),
}

/// Who wrote a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBy {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// Its last sign of life.
    pub renewed: WallTime,
}

impl DeclaredCluster {
    /// The uuid of another group that writes this document's status: then it is only observed.
    pub fn foreign_owner(&self, state: &State, now: WallTime) -> Option<&str> {
        let ours = state.group.as_ref().map_or("", |group| group.uuid.as_str());
        self.observed_by
            .as_ref()
            .filter(|observer| !observer.cluster_uuid.is_empty() && observer.cluster_uuid != ours)
            .filter(|observer| now.millis_since(observer.renewed) < FOREIGN_MILLIS)
            .map(|observer| observer.cluster_uuid.as_str())
    }

    /// The record of it.
    pub(super) fn recorded<'a>(&self, state: &'a State) -> Option<&'a Document> {
        let present = state.documents.get(&self.document.origin);
        present.filter(|present| present.uid == self.document.uid)
    }

    /// The record that the state should have of it.
    pub(super) fn wanted_record(&self, state: &State, now: WallTime) -> Document {
        let mut wanted = self.document.clone();
        wanted.services.clone_from(&self.services);
        let present = self.recorded(state);
        wanted.created = self
            .created
            .or_else(|| present.map(|present| present.created))
            .unwrap_or(now);
        // Another group repairs this cluster: two that repair are worse than one.
        if wanted.mode == Mode::Auto && self.foreign_owner(state, now).is_some() {
            wanted.mode = Mode::DetectOnly;
        }
        wanted
    }

    /// What is recorded is newer than what was read: this member's view of the API server lags behind.
    pub(super) fn is_outdated(&self, state: &State) -> bool {
        state.documents.get(&self.document.origin).is_some_and(|present| {
            !present.uid.is_empty() && present.uid == self.document.uid && present.generation > self.document.generation
        })
    }

    /// What it wishes for single instances now; expired wishes are left out.
    pub(super) fn wishes(&self, now: WallTime) -> Vec<(InstanceKey, Wish)> {
        let downtimes = self
            .downtime
            .iter()
            .filter(|entry| !entry.is_expired(now))
            .map(|entry| {
                let wish = Wish::Downtime {
                    owner: entry.owner.clone(),
                    reason: entry.reason.clone(),
                    since: now,
                    until: entry.until,
                };
                (entry.instance.clone(), wish)
            });
        let candidates = self.candidates.iter().map(|entry| {
            (
                entry.instance.clone(),
                Wish::Candidate {
                    rule: entry.rule,
                    until: None,
                },
            )
        });
        downtimes.chain(candidates).collect()
    }
}
