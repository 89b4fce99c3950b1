//! The shared context of a member, and its running raft log.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::force_request::ForceRequest;
use super::identity::MemberIdentity;
use super::liveness::{Liveness, Metrics};
use super::log_store::{LogOwner, LogStore};
use super::log_throttle::LogThrottle;
use super::network::Dialer;
use super::reachability::Reachability;
use super::settings::{BootstrapStep, MemberDependencies, RaftSettings, WantedMember};
use super::state_machine::{BackendWriteFailure, Raft};
use super::types::MemberNode;
use crate::app::ports::{Leadership, Peer};
use crate::domain::state::{MemberId, State};

/// A running raft log under one id.
pub(super) struct RaftIncarnation {
    pub(super) raft: Raft,
    pub(super) own: LogOwner,
    pub(super) log: LogStore,
    /// Writes to the backend fail.
    pub(super) write_failure: BackendWriteFailure,
    /// The backend does not answer.
    pub(super) backend_silence: BackendWriteFailure,
    pub(super) liveness: Liveness,
    pub(super) reachability: Reachability,
    /// Whether a proposal has waited for the clocks of the others.
    pub(super) has_asked_clocks: AtomicBool,
    /// Until then this member grants no vote: a leader that was elected before the restart may still have its lease.
    pub(super) no_votes_until: Instant,
}

impl RaftIncarnation {
    /// Since when the backend takes no writes or does not answer, and the error.
    pub(super) fn backend_failure(&self) -> Option<(Instant, String)> {
        self.write_failure.since().or_else(|| self.backend_silence.since())
    }

    /// The current metrics of the log.
    pub(super) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }
}

/// What the tasks and the request handlers of a member share.
pub(super) struct MemberContext {
    pub(super) settings: RaftSettings,
    pub(super) node: MemberNode,
    pub(super) dependencies: MemberDependencies,
    pub(super) dialer: Dialer,
    pub(super) incarnation: ArcSwapOption<RaftIncarnation>,
    pub(super) state: watch::Sender<Arc<State>>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) throttle: LogThrottle,
    /// Wakes the founding or joining member: its identity changed.
    pub(super) identity_changed: Notify,
    /// Wakes the leader's membership task.
    pub(super) membership_wanted: Notify,
    /// Members that stored their id and wait for admission.
    pub(super) waiting: Mutex<BTreeMap<MemberId, MemberNode>>,
    pub(super) stop: CancellationToken,
    /// The group of the backend at the start.
    pub(super) backend_group: Option<String>,
    identity: Mutex<Option<MemberIdentity>>,
    /// Held during a change of identity: an assignment by the founder must not cross with founding by this member.
    pub(super) identity_change: tokio::sync::Mutex<()>,
    status: Mutex<String>,
    failed: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How an incarnation, or an attempt to begin one, ended.
pub(super) enum IncarnationEnd {
    /// The member begins another incarnation.
    Restart,
    /// A leader confirmed that this id is no longer a member.
    Removed(MemberIdentity),
    /// An operator requested that the group continues with this member alone, and all checks passed.
    Forced(ForceRequest),
    /// The member shuts down, or a test halted it.
    Stopped,
    /// The member cannot continue.
    Failed(String),
}

impl MemberContext {
    /// The context of a member that starts.
    ///
    /// # Errors
    /// When the HTTP client for peers cannot be made.
    pub(super) fn new(
        settings: RaftSettings,
        dependencies: MemberDependencies,
        node: MemberNode,
        identity: Option<MemberIdentity>,
        backend_group: Option<String>,
    ) -> io::Result<Self> {
        Ok(Self {
            node,
            dialer: Dialer::new(&settings, &dependencies)?,
            incarnation: ArcSwapOption::empty(),
            state: watch::Sender::new(Arc::default()),
            leadership: watch::Sender::default(),
            throttle: LogThrottle::default(),
            identity_changed: Notify::new(),
            membership_wanted: Notify::new(),
            waiting: Mutex::default(),
            stop: CancellationToken::new(),
            backend_group,
            identity: Mutex::new(identity),
            identity_change: tokio::sync::Mutex::default(),
            status: Mutex::new("starting".to_owned()),
            failed: AtomicBool::new(false),
            settings,
            dependencies,
        })
    }

    /// The identity of this member; `None`: it never was a member of a group.
    pub(super) fn identity(&self) -> Option<MemberIdentity> {
        locked(&self.identity).clone()
    }

    /// Writes an identity to disk, then uses it. The caller holds `identity_change`.
    pub(super) fn put_identity(&self, identity: MemberIdentity) -> io::Result<()> {
        identity.save(&self.settings.data_dir)?;
        *locked(&self.identity) = Some(identity);
        Ok(())
    }

    /// Uses an identity that is on disk.
    pub(super) fn set_identity(&self, identity: Option<MemberIdentity>) {
        *locked(&self.identity) = identity;
    }

    /// Why this member is not healthy while no log runs.
    pub(super) fn status(&self) -> String {
        locked(&self.status).clone()
    }

    /// Sets what the member waits for. It is shown by `raft-health`, and logged when it is new or was logged long ago.
    pub(super) fn set_status(&self, text: &str) {
        text.clone_into(&mut locked(&self.status));
        if let Some(times) = self.throttle.admit(text) {
            tracing::info!("raft member {}: {text}{times}", self.settings.name);
        }
    }

    /// Stops the member for good: it applies, votes and proposes nothing any more.
    pub(super) fn fail(&self, why: &str) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            tracing::error!("raft member {} stopped: {why}", self.settings.name);
            why.clone_into(&mut locked(&self.status));
        }
    }

    /// Why the member cannot continue, if it cannot.
    pub(super) fn failure(&self) -> Option<String> {
        self.failed.load(Ordering::SeqCst).then(|| self.status())
    }

    /// Reports a step of the bootstrap. `false`: the member stops there (in tests).
    pub(super) fn passed(&self, step: &BootstrapStep) -> bool {
        self.dependencies.observer.passed(step)
    }

    /// The list of wanted members; the founders while the list is unknown.
    pub(super) fn wanted(&self) -> Vec<WantedMember> {
        let wanted = self.dependencies.wanted.borrow().clone();
        if wanted.is_empty() {
            self.settings.founders.clone()
        } else {
            wanted
        }
    }

    /// All wanted members and founders except this member.
    pub(super) fn wanted_peers(&self) -> Vec<MemberNode> {
        let mut peers = self.wanted();
        for founder in &self.settings.founders {
            if peers.iter().all(|peer| peer.name != founder.name) {
                peers.push(founder.clone());
            }
        }
        peers.retain(|peer| peer.name != self.settings.name);
        peers.into_iter().map(MemberNode::from).collect()
    }

    /// Where a member is now: the wanted list is newer than the log entry that admitted the member.
    pub(super) fn current_address(&self, node: &MemberNode) -> MemberNode {
        let wanted = self.dependencies.wanted.borrow();
        let listed = wanted.iter().find(|wanted| wanted.name == node.name);
        MemberNode {
            name: node.name.clone(),
            raft_address: listed.map_or_else(|| node.raft_address.clone(), |wanted| wanted.raft_address.clone()),
            http_uri: listed
                .filter(|wanted| !wanted.http_uri.is_empty())
                .map_or_else(|| node.http_uri.clone(), |wanted| wanted.http_uri.clone()),
        }
    }

    /// A member of the current membership.
    pub(super) fn peer(&self, metrics: &Metrics, id: MemberId) -> Option<Peer> {
        let membership = &metrics.membership_config;
        let node = membership.get_node(&id)?;
        let voter = membership.voter_ids().any(|voter| voter == id);
        Some(self.current_address(node).to_peer(id, voter))
    }

    /// The leader as this member knows it.
    pub(super) fn known_leader(&self) -> Option<MemberNode> {
        let leader = self.leadership.borrow().leader.clone()?;
        Some(MemberNode {
            name: leader.name,
            raft_address: leader.raft_address,
            http_uri: leader.http_uri,
        })
    }
}
