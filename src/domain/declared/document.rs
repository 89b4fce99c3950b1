//! A document in the domain's terms, parsed once at the edge.

use std::collections::BTreeSet;

use crate::domain::intent::{IntentDetails, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::policy::RecoveryMode;
use crate::domain::state::{Document, State};
use crate::domain::time::WallTime;

use super::FOREIGN_MILLIS;
use super::endpoints::DeclaredServices;

/// A `MySQLCluster` document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredCluster {
    /// Its policy. The field `created` is not used here, see [`Self::created`].
    pub document: Document,
    /// When the resource was created; `None` when the source does not know, and then the time of the first record
    /// counts.
    pub created: Option<WallTime>,
    /// Instances in downtime.
    pub downtime: Vec<DeclaredDowntime>,
    /// Promotion rules.
    pub candidates: Vec<DeclaredCandidate>,
    /// The takeover that the document requests.
    pub takeover: Option<DeclaredTakeover>,
    /// The recovery that the document acknowledges, by its id.
    pub acknowledged: Option<String>,
    /// The value of the annotation that forces a promotion.
    pub force: Option<String>,
    /// Services through which applications connect to the servers.
    pub services: Option<DeclaredServices>,
    /// TLS to the servers.
    pub tls: Tls,
    /// State of its Secret.
    pub secret: SecretState,
    /// Paths of [`super::optional_fields`] that the document does not have.
    pub absent: BTreeSet<&'static str>,
    /// The group that wrote its status last.
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

/// An instance in downtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredDowntime {
    /// Address of the instance as the document spells it.
    pub instance: InstanceKey,
    /// Owner of the downtime.
    pub owner: String,
    /// Reason of the downtime.
    pub reason: String,
    /// End of the downtime; `None` when it lasts until the entry is removed.
    pub until: Option<WallTime>,
}

impl DeclaredDowntime {
    /// Whether the downtime has ended.
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A requested takeover. It is done at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTakeover {
    /// Id of the request (`requestID`).
    pub id: String,
    /// The successor as the document spells it; `None` when ham4db chooses.
    pub target: Option<InstanceKey>,
    /// Highest lag of the target and longest time for its catch-up, seconds; `None` when the configuration decides.
    pub catch_up_seconds: Option<u64>,
    /// The takeover is not started after this.
    pub deadline: WallTime,
}

/// A promotion rule for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredCandidate {
    /// Address of the instance as the document spells it.
    pub instance: InstanceKey,
    /// The rule.
    pub rule: PromotionRule,
}

/// State of the Secret of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecretState {
    /// Not read yet.
    #[default]
    Unread,
    /// Read and complete.
    Read,
    /// Not readable at present; the account that was read last is used.
    LastKnown(String),
    /// The Secret does not exist, or lacks a key.
    Missing(String),
    /// The permission to read it is missing.
    Forbidden(String),
}

/// The group that wrote a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBy {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// Time when that group renewed the status last.
    pub renewed: WallTime,
}

impl DeclaredCluster {
    /// Uuid of another group that writes this document's status. Such a document is only observed.
    pub fn foreign_owner(&self, state: &State, now: WallTime) -> Option<&str> {
        let ours = state.group.as_ref().map_or("", |group| group.uuid.as_str());
        self.observed_by
            .as_ref()
            .filter(|observer| !observer.cluster_uuid.is_empty() && observer.cluster_uuid != ours)
            .filter(|observer| now.millis_since(observer.renewed) < FOREIGN_MILLIS)
            .map(|observer| observer.cluster_uuid.as_str())
    }

    /// The record of this document in the state.
    pub(super) fn recorded<'a>(&self, state: &'a State) -> Option<&'a Document> {
        let present = state.documents.get(&self.document.origin);
        present.filter(|present| present.uid == self.document.uid)
    }

    /// The record that the state should have of this document.
    pub(super) fn wanted_record(&self, state: &State, now: WallTime) -> Document {
        let mut wanted = self.document.clone();
        wanted.services.clone_from(&self.services);
        let present = self.recorded(state);
        wanted.created = self
            .created
            .or_else(|| present.map(|present| present.created))
            .unwrap_or(now);
        // Another group repairs this cluster, and two groups must not repair it at once.
        if wanted.mode == RecoveryMode::Auto && self.foreign_owner(state, now).is_some() {
            wanted.mode = RecoveryMode::DetectOnly;
        }
        wanted
    }

    /// Whether the recorded generation is newer than this one: this member's view of the API server is delayed.
    pub(super) fn is_outdated(&self, state: &State) -> bool {
        state.documents.get(&self.document.origin).is_some_and(|present| {
            !present.uid.is_empty() && present.uid == self.document.uid && present.generation > self.document.generation
        })
    }

    /// The intents that it asks for now, without expired ones.
    pub(super) fn requested_intents(&self, now: WallTime) -> Vec<(InstanceKey, IntentDetails)> {
        let downtimes = self
            .downtime
            .iter()
            .filter(|entry| !entry.is_expired(now))
            .map(|entry| {
                let details = IntentDetails::Downtime {
                    owner: entry.owner.clone(),
                    reason: entry.reason.clone(),
                    since: now,
                    until: entry.until,
                };
                (entry.instance.clone(), details)
            });
        let candidates = self.candidates.iter().map(|entry| {
            (
                entry.instance.clone(),
                IntentDetails::Candidate {
                    rule: entry.rule,
                    until: None,
                },
            )
        });
        downtimes.chain(candidates).collect()
    }
}
