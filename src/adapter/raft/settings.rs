//! What a member is told at construction, and the admin endpoints through which its surroundings reach it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;

use super::names::{Resolve, SystemResolver};
use super::types::MemberNode;
use crate::app::ports::{BootstrapMarker, Clock, OpinionSource, StateStore};
use crate::domain::state::MemberId;
use crate::domain::state::command::COMMAND_VERSION;

/// Settings of one member.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// What the peers call this member: its entry of `RaftNodes`, or the pod's name.
    pub name: String,
    /// `host:port` at which the peers reach its peer RPC.
    pub raft_address: String,
    /// Base URI at which the peers reach its API, as `http://host:port`.
    pub http_uri: String,
    /// `RaftDataDir`: holds `raft.db` and `identity.json`; made when missing.
    pub data_dir: PathBuf,
    /// Who founds the group: all of `RaftNodes`, or the ordinals below the replicas at install. Fixed at install: a list that follows
    /// the current size could found a second group. Empty: this member alone.
    pub founders: Vec<Wanted>,
    /// Data centre of this member; empty: not known.
    pub data_center: String,
    /// Shared secret of the group, sent with every peer RPC.
    pub group_key: Option<SecretString>,
    /// How long things take.
    pub timings: Timings,
}

/// A member that should exist, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// `host:port` of its peer RPC.
    pub raft_address: String,
    /// Base URI of its API; empty when unknown.
    pub http_uri: String,
}

impl From<Wanted> for MemberNode {
    fn from(wanted: Wanted) -> Self {
        Self {
            name: wanted.name,
            raft_address: wanted.raft_address,
            http_uri: wanted.http_uri,
        }
    }
}

/// Timings. The defaults are for members in one region on local disks; slower networks and disks raise them together.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower campaigns, on top of the leader's lease.
    pub election_min: Duration,
    /// Longest such silence; also the leader's lease, and the time for which a restarted member gives no vote.
    pub election_max: Duration,
    /// For sending and installing a snapshot.
    pub snapshot_transfer: Duration,
    /// For a proposal to be committed and applied.
    pub propose: Duration,
    /// For the proof that a claim is current.
    pub confirm: Duration,
    /// Proof of a live quorum that is older than this is none.
    pub quorum_proof: Duration,
    /// How long a member keeps trying to write to its backend before it stops.
    pub backend_patience: Duration,
    /// Between two looks at peers while founding, joining, or leading.
    pub look_around: Duration,
    /// Entries after which a snapshot is made.
    pub entries_per_snapshot: u64,
    /// Entries kept behind a snapshot, for members that lag a little.
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
            backend_patience: Duration::from_secs(10),
            look_around: Duration::from_millis(500),
            entries_per_snapshot: 5000,
            entries_kept: 1000,
        }
    }
}

/// Which members can reach which; for tests that cut links.
pub trait LinkFilter: Send + Sync {
    /// Whether what `from` sends reaches `to`.
    fn passes(&self, from: &str, to: &str) -> bool;
}

/// All links are up.
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
    /// The founder's `identity.json` has the group's uuid and everybody's id.
    IdentityWritten,
    /// The marker outside of the members is there.
    MarkerWritten,
    /// A peer has stored its id.
    PeerAssigned(MemberId),
    /// On a peer: the id is stored, and not yet acknowledged.
    AssignmentStored,
    /// `raft.db` carries the id.
    LogStamped,
    /// The first membership is in the founder's log.
    Initialised,
    /// The founder's `identity.json` says that the founding is over.
    Settled,
}

/// Sees each step of the bootstrap; tests stop a member there.
pub trait BootstrapObserver: Send + Sync {
    /// The step is durable. `false`: this member goes no further, as if it was killed.
    fn passed(&self, step: &BootstrapStep) -> bool;
}

/// Lets every step pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopBootstrapObserver;

impl BootstrapObserver for NoopBootstrapObserver {
    fn passed(&self, _step: &BootstrapStep) -> bool {
        true
    }
}

/// Everything a member works with.
#[derive(Clone)]
pub struct MemberDependencies {
    /// Its backend.
    pub store: Arc<dyn StateStore>,
    /// Answers the questions of other members.
    pub opinions: Arc<dyn OpinionSource>,
    /// WallTime time for proposals.
    pub clock: Arc<dyn Clock>,
    /// Who should be a member now. Empty: unknown, and the membership stays as it is.
    pub wanted: watch::Receiver<Vec<Wanted>>,
    /// In Kubernetes: the marker object.
    pub marker: Option<Arc<dyn BootstrapMarker>>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Cut links, in tests.
    pub links: Arc<dyn LinkFilter>,
    /// Sees the bootstrap's steps, in tests.
    pub witness: Arc<dyn BootstrapObserver>,
    /// Highest command version that the member says it understands: the program's own, lower in tests.
    pub understands: u32,
}

impl MemberDependencies {
    /// Production's surroundings without a marker.
    pub fn new(
        store: Arc<dyn StateStore>,
        opinions: Arc<dyn OpinionSource>,
        clock: Arc<dyn Clock>,
        wanted: watch::Receiver<Vec<Wanted>>,
    ) -> Self {
        Self {
            store,
            opinions,
            clock,
            wanted,
            marker: None,
            resolver: Arc::new(SystemResolver),
            links: Arc::new(AllLinks),
            witness: Arc::new(NoopBootstrapObserver),
            understands: COMMAND_VERSION,
        }
    }
}
