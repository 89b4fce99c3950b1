//! The use cases of the HTTP API: what its handlers can read and request.
//!
//! [`Api`] is a trait because it has two implementations: [`service::ApiService`] for a running member, and the fake application of
//! the tests of the HTTP adapter, which checks routes, shapes and status codes without servers. `service` delegates to the use cases
//! that need more than a command: [`errant`] and [`relocate`].

pub mod dialed_reads;
pub mod errant;
pub mod primaries;
pub mod relocate;
pub mod service;
pub mod write_tokens;

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::case::Case;
use crate::domain::cluster_view::ClusterView;
use crate::domain::errant::{ErrantReport, Remedy};
use crate::domain::instance::Instance;
use crate::domain::intent::{Intent, IntentId, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::pseudo_gtid::Entry;
use crate::domain::state::State;
use crate::domain::topology::ClusterId;

use crate::app::observation::probe_sharing::ProbeShares;
use crate::app::observation::scheduling_delay::Lateness;
use crate::app::ports::AnalysisChange;
use crate::app::recovery::publication_gate::PublicationStatuses;

/// The result of a recovery that was requested through the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// Nothing was changed.
    NotAttempted {
        /// The reason.
        why: String,
    },
    /// The recovery ran and promoted no instance.
    NothingPromoted {
        /// Id of the recovery.
        uid: String,
        /// What failed.
        why: String,
    },
    /// The recovery promoted an instance.
    Promoted {
        /// Id of the recovery.
        uid: String,
        /// The new primary.
        successor: InstanceKey,
    },
}

/// A request to make another instance the primary of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryChange {
    /// The cluster.
    pub cluster: ClusterId,
    /// The instance to promote; `None`: the best one.
    pub target: Option<InstanceKey>,
    /// The command and its terms.
    pub order: ManualRequest,
}

/// The result of a [`PrimaryChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryChangeOutcome {
    /// Nothing was changed.
    Refused {
        /// The reason, with the instance that prevents the change.
        why: String,
    },
    /// The recovery ran and ended; its record has the result.
    Over {
        /// Id of the recovery.
        uid: String,
    },
}

/// The result of moving several replicas below another instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelocationOutcome {
    /// The instance that the moved replicas replicate from now.
    pub target: Option<InstanceKey>,
    /// The replicas that were moved.
    pub moved: Vec<InstanceKey>,
    /// For each replica that was not moved, its address and the reason.
    pub errors: Vec<String>,
}

/// One pair of a key-value store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Why a request was not fulfilled. The HTTP adapter maps each variant to a status code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The request names something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// The request contradicts the present state, or a rule refused it.
    #[error("{0}")]
    Conflict(String),
    /// A document owns what the request would end.
    #[error("{instance} is {what} by {owner}; end it there")]
    OwnedBy {
        /// The instance.
        instance: InstanceKey,
        /// What the instance is: `in downtime`, `a candidate`.
        what: &'static str,
        /// The origin that owns it.
        owner: Origin,
    },
    /// This member does not lead; nothing was done. The name of the leader, when known.
    #[error("not the leader{}", .0.as_ref().map(|name| format!("; {name} leads")).unwrap_or_default())]
    NotLeader(Option<String>),
    /// There is no quorum, or a server does not answer; nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// Another request does the same at the server, or too many do it elsewhere; nothing was done.
    #[error("{0}")]
    Busy(String),
    /// The request may or may not have been fulfilled.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// A fault of the program or of its storage.
    #[error("{0}")]
    Internal(String),
}

/// The use cases. Every method that changes something returns after this member has applied the change.
#[async_trait]
pub trait Api: Send + Sync {
    /// All clusters, ordered by name.
    fn clusters(&self) -> Vec<Arc<ClusterView>>;

    /// How late this member observes.
    fn lateness(&self) -> Lateness;

    /// How many instances each member probes.
    fn probe_shares(&self) -> ProbeShares;

    /// How the analysis of each instance changed, as observed by this member.
    fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)>;

    /// The replicated state of this member.
    fn state(&self) -> Arc<State>;

    /// The last result of each publisher of primaries for each cluster; empty on a member that does not lead.
    fn publications(&self) -> PublicationStatuses;

    /// Publishes the primary of one cluster, or of all, again, and returns the pairs of the key-value stores.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] when the cluster is not published, [`ApiError::Unavailable`] with the publishers that failed.
    async fn submit_primaries(&self, only: Option<&ClusterId>) -> Result<Vec<KeyValue>, ApiError>;

    /// Probes an instance now and, when the probe succeeds, makes the instance a seed.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] with the probe's failure when the instance does not answer.
    async fn discover(&self, instance: &InstanceKey) -> Result<Instance, ApiError>;

    /// Makes an instance a seed without waiting for a probe.
    ///
    /// # Errors
    /// When the seed cannot be recorded.
    async fn discover_later(&self, instance: &InstanceKey) -> Result<(), ApiError>;

    /// Probes a known instance now.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown, [`ApiError::Unavailable`] with the probe's failure.
    async fn refresh(&self, instance: &InstanceKey) -> Result<Instance, ApiError>;

    /// Forgets an instance, and does not discover it again for a while.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown.
    async fn forget(&self, instance: &InstanceKey) -> Result<(), ApiError>;

    /// Releases an instance from quarantine: it is no longer kept read-only.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is not in quarantine.
    async fn release_quarantine(&self, instance: &InstanceKey) -> Result<(), ApiError>;

    /// The transactions that only this instance of its cluster has, with their content.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown, [`ApiError::Unavailable`] when it or the primary does not answer.
    async fn errant(&self, instance: &InstanceKey) -> Result<ErrantReport, ApiError>;

    /// Applies a remedy to the errant transactions of an instance. Returns the uid of the recovery that did it.
    ///
    /// # Errors
    /// As [`Api::errant`]; [`ApiError::Conflict`] with the reason when the remedy is refused or failed.
    async fn resolve_errant(&self, instance: &InstanceKey, remedy: Remedy) -> Result<String, ApiError>;

    /// Forgets all instances of a cluster.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the cluster is unknown.
    async fn forget_cluster(&self, cluster: &ClusterId) -> Result<(), ApiError>;

    /// Makes a cluster of an instance and all that replicates from it. Returns the id of the new cluster.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown, [`ApiError::Conflict`] with the rule that forbids it.
    async fn split_cluster(&self, head: &InstanceKey) -> Result<ClusterId, ApiError>;

    /// Merges two clusters; the older one remains. Returns its id.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when a cluster is unknown, [`ApiError::Conflict`] with the rule that forbids it.
    async fn merge_clusters(&self, one: &ClusterId, other: &ClusterId) -> Result<ClusterId, ApiError>;

    /// Records an intent for an instance.
    ///
    /// # Errors
    /// When the intent cannot be recorded.
    async fn set_intent(&self, intent: Intent) -> Result<(), ApiError>;

    /// Ends the intent of this origin. Ending an intent that does not exist is no error.
    ///
    /// # Errors
    /// [`ApiError::OwnedBy`] when only another origin has such an intent.
    async fn end_intent(&self, id: IntentId) -> Result<(), ApiError>;

    /// Enables or disables recoveries for all clusters.
    ///
    /// # Errors
    /// When the change cannot be recorded.
    async fn set_global_recoveries(&self, enabled: bool) -> Result<(), ApiError>;

    /// Records that an operator acknowledges recoveries. Returns how many were not acknowledged before.
    ///
    /// # Errors
    /// When the acknowledgement cannot be recorded.
    async fn acknowledge(&self, uids: Vec<String>, by: &str, comment: &str) -> Result<u64, ApiError>;

    /// Runs a recovery of an instance now, regardless of filters, blocks and the global switch. With `candidate`, only that instance is
    /// promoted. `skips_hooks`: hooks are not run, as for `recover-lite`. Without a finding that has a recovery nothing is attempted.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown.
    async fn recover(
        &self,
        instance: &InstanceKey,
        candidate: Option<&InstanceKey>,
        skips_hooks: bool,
    ) -> Result<RecoveryOutcome, ApiError>;

    /// Changes the primary of a cluster, and waits until the recovery is over.
    ///
    /// # Errors
    /// [`ApiError::OutcomeUnknown`] when the recovery is not over in time; it continues.
    async fn change_primary(&self, request: PrimaryChange) -> Result<PrimaryChangeOutcome, ApiError>;

    /// The view of a cluster with its policy, for `ham4db simulate`.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the cluster is unknown.
    fn save_case(&self, cluster: &ClusterId) -> Result<Case, ApiError>;

    /// The last Pseudo-GTID entry in the logs of an instance.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown or has no entry, [`ApiError::Unavailable`] when it does not answer.
    async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError>;

    /// Moves a replica below `target` by Pseudo-GTID; without a target, below the source of its source. Returns the target, and the
    /// message with the coordinates at which the replica continues.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] with the reason when the move is impossible, refused or failed. The replica keeps its source then.
    async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError>;

    /// The same, one after the other, for all replicas of `source` with an address that matches the regular expression `pattern`.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when an instance is unknown. The failure for one replica is part of the outcome.
    async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<RelocationOutcome, ApiError>;
}
