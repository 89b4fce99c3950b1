//! What the use cases offer to those who ask from outside: the API's handlers call this, [`crate::app`] implements it.

pub mod errant;
pub mod relocate;
pub mod service;
pub mod write_tokens;

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::case::Case;
use crate::domain::errant::{ErrantReport, Remedy};
use crate::domain::finding::{Finding, Opinion};
use crate::domain::instance::Instance;
use crate::domain::intent::{Intent, IntentId, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::plan::Order;
use crate::domain::state::{Cluster, State};
use crate::domain::topology::{ClusterId, Topology};

use crate::app::api::relocate::Relocate;
use crate::app::ports::AnalysisChange;

/// A finding with what keeps it from being acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFinding {
    /// It.
    pub finding: Finding,
    /// Why no recovery runs; `None` when one would, or does.
    pub held_back: Option<HeldBack>,
    /// What the members said when they were asked last: on the leader, and only where they were asked.
    pub opinions: Vec<Opinion>,
}

/// One cluster as this member sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiCluster {
    /// Its record.
    pub cluster: Cluster,
    /// Its latest view.
    pub topology: Topology,
    /// What is wrong with it, in the order of the codes.
    pub findings: Vec<ApiFinding>,
    /// What may be done to it.
    pub policy: Policy,
    /// Whether a dead primary would be replaced without being asked (document or filters; switches and blocks aside).
    pub automated_recovery: bool,
}

/// What became of a recovery that a person asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// Nothing was done.
    NotAttempted {
        /// Why.
        why: String,
    },
    /// It ran, and no instance was promoted.
    NothingPromoted {
        /// Its id.
        uid: String,
        /// What went wrong.
        why: String,
    },
    /// It ran.
    Promoted {
        /// Its id.
        uid: String,
        /// The new primary.
        successor: InstanceKey,
    },
}

/// A change of a primary that a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRequest {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Who takes over; `None`: whoever suits.
    pub target: Option<InstanceKey>,
    /// How.
    pub order: Order,
}

/// What became of such a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderOutcome {
    /// Nothing was touched.
    Refused {
        /// Why, with the instance that stands in the way.
        why: String,
    },
    /// It ran, and is over: its record tells how it ended.
    Over {
        /// Its id.
        uid: String,
    },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// What it names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// A document owns what the API was asked to end.
    #[error("{instance} is {what} by {owner}; end it there")]
    OwnedBy {
        /// Which instance.
        instance: InstanceKey,
        /// What it is: `in downtime`, `a candidate`.
        what: &'static str,
        /// Whose it is.
        owner: Origin,
    },
    /// This member does not lead; nothing was done.
    #[error("not the leader{}", .0.as_ref().map(|name| format!("; {name} leads")).unwrap_or_default())]
    NotLeader(Option<String>),
    /// No quorum, or no server, at the moment; nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// It may or may not have been done.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// A fault of the program or its storage.
    #[error("{0}")]
    Internal(String),
}

/// The use cases. Every method that changes something returns after this member has applied the change.
#[async_trait]
pub trait Api: Relocate {
    /// All clusters, ordered by name.
    fn clusters(&self) -> Arc<Vec<ApiCluster>>;

    /// How the analysis of each instance changed, as this member saw it.
    fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)>;

    /// The replicated state of this member.
    fn state(&self) -> Arc<State>;

    /// Probes an instance now and, when that succeeded, makes it a seed.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] with the probe's failure when the instance does not answer.
    async fn discover(&self, instance: &InstanceKey) -> Result<Instance, ApiError>;

    /// Makes an instance a seed without waiting for the probe.
    ///
    /// # Errors
    /// When that cannot be recorded.
    async fn discover_later(&self, instance: &InstanceKey) -> Result<(), ApiError>;

    /// Probes a known instance now.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is unknown, [`ApiError::Unavailable`] with the probe's failure.
    async fn refresh(&self, instance: &InstanceKey) -> Result<Instance, ApiError>;

    /// Forgets an instance, and does not discover it again for a while.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is unknown.
    async fn forget(&self, instance: &InstanceKey) -> Result<(), ApiError>;

    /// Lets a quarantined server go: it is no longer kept read-only, and counts as any other server from now on.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is not in quarantine.
    async fn release_quarantine(&self, instance: &InstanceKey) -> Result<(), ApiError>;

    /// The transactions that only this server of its cluster has, with what is in them.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is unknown, [`ApiError::Unavailable`] when it or the primary does not answer.
    async fn errant(&self, instance: &InstanceKey) -> Result<ErrantReport, ApiError>;

    /// Deals with them. Returns the uid of the recovery that did it.
    ///
    /// # Errors
    /// As [`Api::errant`]; [`ApiError::Conflict`] with the reason when it must not be done, or failed.
    async fn resolve_errant(&self, instance: &InstanceKey, remedy: Remedy) -> Result<String, ApiError>;

    /// Forgets all instances of a cluster.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is unknown.
    async fn forget_cluster(&self, cluster: &ClusterId) -> Result<(), ApiError>;

    /// Asks for something for an instance.
    ///
    /// # Errors
    /// When that cannot be recorded.
    async fn set_intent(&self, intent: Intent) -> Result<(), ApiError>;

    /// Ends what this origin asked for. Ending what is not there is no error.
    ///
    /// # Errors
    /// [`ApiError::OwnedBy`] when only another origin asked for it.
    async fn end_intent(&self, id: IntentId) -> Result<(), ApiError>;

    /// Switches recoveries on or off everywhere.
    ///
    /// # Errors
    /// When that cannot be recorded.
    async fn set_global_recoveries(&self, enabled: bool) -> Result<(), ApiError>;

    /// Records that a person has looked at recoveries. Returns how many were not acknowledged before.
    ///
    /// # Errors
    /// When that cannot be recorded.
    async fn acknowledge(&self, uids: Vec<String>, by: &str, comment: &str) -> Result<u64, ApiError>;

    /// Runs a recovery of an instance now, whatever filters, blocks and the global switch say; with `candidate` that one is promoted, or
    /// nobody is. `skips_hooks`: as `recover-lite` asks. Without a finding that has a recovery nothing is attempted.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is unknown.
    async fn recover(
        &self,
        instance: &InstanceKey,
        candidate: Option<&InstanceKey>,
        skips_hooks: bool,
    ) -> Result<RecoveryOutcome, ApiError>;

    /// Changes the primary of a cluster, and waits until that is over.
    ///
    /// # Errors
    /// [`ApiError::OutcomeUnknown`] when it is not over in time: it goes on.
    async fn change_primary(&self, request: OrderRequest) -> Result<OrderOutcome, ApiError>;

    /// The view of a cluster with its policy, for `ham4db simulate`.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is unknown.
    fn save_case(&self, cluster: &ClusterId) -> Result<Case, ApiError>;
}
