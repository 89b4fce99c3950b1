//! The settings of a member, and the dependencies with which it is constructed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;

use super::resolver::{Resolve, SystemResolver};
use super::types::MemberNode;
use crate::adapter::connections::{ConnectionLimits, ListenerLimits};
use crate::app::group_clock::GroupClock;
use crate::app::ports::{BootstrapMarker, ObservationSource, OpinionSource, StateStore};
use crate::domain::state::MemberId;
use crate::domain::state::command::COMMAND_VERSION;

/// Settings of one member.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// Name of this member: its entry of `RaftNodes`, or the name of its pod.
    pub name: String,
    /// `host:port` at which the peers reach its peer RPC.
    pub raft_address: String,
    /// Base URI at which the peers reach its API, as `http://host:port`.
    pub http_uri: String,
    /// `RaftDataDir`: contains `raft.db` and `identity.json`; created when missing.
    pub data_dir: PathBuf,
    /// The founders of the group: all of `RaftNodes`, or the ordinals below the number of replicas at install. The list is fixed at
    /// install: a list that follows the current size could found a second group. Empty: this member alone.
    pub founders: Vec<WantedMember>,
    /// Data center of this member; empty: not known.
    pub data_center: String,
    /// Shared secret of the group, sent with every peer RPC.
    pub group_key: Option<SecretString>,
    /// Intervals, timeouts and limits.
    pub timings: Timings,
}

/// A member that should exist, with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedMember {
    /// Name of the member.
    pub name: String,
    /// `host:port` of its peer RPC.
    pub raft_address: String,
    /// Base URI of its API; empty when unknown.
    pub http_uri: String,
}

impl From<WantedMember> for MemberNode {
    fn from(wanted: WantedMember) -> Self {
        Self {
            name: wanted.name,
            raft_address: wanted.raft_address,
            http_uri: wanted.http_uri,
        }
    }
}

/// Intervals, timeouts and limits. The defaults are for members in one region with local disks; for slower networks and disks, raise them
/// together.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Interval between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower campaigns, on top of the leader's lease.
    pub election_min: Duration,
    /// Longest such silence; also the lease of a leader, and the time for which a restarted member grants no vote.
    pub election_max: Duration,
    /// Deadline for sending and installing a snapshot.
    pub snapshot_transfer: Duration,
    /// Deadline for committing and applying a proposal.
    pub propose: Duration,
    /// Deadline for the proof that a claim is current.
    pub confirm: Duration,
    /// Maximum age of a proof of a live quorum.
    pub quorum_proof: Duration,
    /// How long a member retries a write to its backend before it stops.
    pub backend_write_deadline: Duration,
    /// Interval between two requests to peers while founding, joining, or leading.
    pub peer_check_interval: Duration,
    /// Interval between two comparisons of the clocks of the members.
    pub clock_interval: Duration,
    /// Number of entries after which a snapshot is made.
    pub entries_per_snapshot: u64,
    /// Number of entries that are kept behind a snapshot, for members that lag a little.
    pub entries_kept: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(700),
            snapshot_transfer: Duration::from_secs(10),
            propose: Duration::from_secs(5),
            confirm: Duration::from_secs(1),
            quorum_proof: Duration::from_millis(1500),
            backend_write_deadline: Duration::from_secs(10),
            peer_check_interval: Duration::from_millis(500),
            clock_interval: Duration::from_secs(1),
            entries_per_snapshot: 5000,
            entries_kept: 1000,
        }
    }
}

/// Decides which members can reach which, for tests that cut links.
pub trait LinkFilter: Send + Sync {
    /// Whether what `from` sends reaches `to`.
    fn passes(&self, from: &str, to: &str) -> bool;
}

/// Passes everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllLinks;

impl LinkFilter for AllLinks {
    fn passes(&self, _from: &str, _to: &str) -> bool {
        true
    }
}

/// A step of the bootstrap that was just made durable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BootstrapStep {
    /// The founder's `identity.json` has the uuid of the group and the ids of all founders.
    IdentityWritten,
    /// The marker outside of the members exists.
    MarkerWritten,
    /// A peer has stored its id.
    PeerAssigned(MemberId),
    /// On a peer: its id is stored, but not yet acknowledged.
    AssignmentStored,
    /// `raft.db` carries the id.
    LogStamped,
    /// The first membership is in the founder's log.
    Initialised,
    /// The founder's `identity.json` shows that the founding is complete.
    Settled,
}

/// Observes the steps of the bootstrap; tests stop a member at a step.
pub trait BootstrapObserver: Send + Sync {
    /// The step is durable. `false`: this member stops there, as if it were killed.
    fn passed(&self, step: &BootstrapStep) -> bool;
}

/// Continues after every step.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopBootstrapObserver;

impl BootstrapObserver for NoopBootstrapObserver {
    fn passed(&self, _step: &BootstrapStep) -> bool {
        true
    }
}

/// The dependencies of a member.
#[derive(Clone)]
pub struct MemberDependencies {
    /// The backend.
    pub store: Arc<dyn StateStore>,
    /// Answers the questions of other members about suspects.
    pub opinions: Arc<dyn OpinionSource>,
    /// Answers the requests of other members for observations; `None`: probes are not shared.
    pub observations: Option<Arc<dyn ObservationSource>>,
    /// The time for proposals: the clock of this machine, corrected by those of the other members.
    pub clock: Arc<GroupClock>,
    /// The list of wanted members. Empty: unknown, and the membership stays unchanged.
    pub wanted: watch::Receiver<Vec<WantedMember>>,
    /// In Kubernetes: the marker `ConfigMap`.
    pub marker: Option<Arc<dyn BootstrapMarker>>,
    /// Resolves host names.
    pub resolver: Arc<dyn Resolve>,
    /// The bounds of the peer listener.
    pub connections: ConnectionLimits,
    /// Cuts links, in tests.
    pub links: Arc<dyn LinkFilter>,
    /// Observes the steps of the bootstrap, in tests.
    pub observer: Arc<dyn BootstrapObserver>,
    /// Highest command version that the member reports to understand: that of the program, lower in tests.
    pub understands: u32,
}

impl MemberDependencies {
    /// The dependencies for production, without a marker.
    pub fn new(
        store: Arc<dyn StateStore>,
        opinions: Arc<dyn OpinionSource>,
        clock: Arc<GroupClock>,
        wanted: watch::Receiver<Vec<WantedMember>>,
    ) -> Self {
        Self {
            store,
            opinions,
            observations: None,
            clock,
            wanted,
            marker: None,
            resolver: Arc::new(SystemResolver),
            connections: ListenerLimits::default().peers,
            links: Arc::new(AllLinks),
            observer: Arc::new(NoopBootstrapObserver),
            understands: COMMAND_VERSION,
        }
    }
}
