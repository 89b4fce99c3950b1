//! `HealthStatus` and `raft-status`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::app::observation::probe_sharing::ProbeShares;
use crate::app::observation::scheduling_delay::Lateness;
use crate::app::ports::{Consensus, Health, Leadership, Peer};
use crate::domain::clock_skew::ClockComparison;
use crate::domain::time::WallTime;

use super::{NEVER, time_text};

/// A member as the health check shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    hostname: String,
    token: String,
    app_version: &'static str,
    first_seen_active: String,
    last_seen_active: String,
    extra_info: String,
    command: String,
    #[serde(rename = "DBBackend")]
    db_backend: String,
    last_reported: &'static str,
}

/// The health of this member and what it knows of the others.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthStatus {
    healthy: bool,
    hostname: String,
    token: String,
    is_active_node: bool,
    active_node: Node,
    error: Option<String>,
    available_nodes: Vec<Node>,
    raft_leader: String,
    is_raft_leader: bool,
    #[serde(rename = "RaftLeaderURI")]
    raft_leader_uri: String,
    raft_advertise: String,
    raft_healthy_members: Option<Vec<String>>,
    /// Voters that do not answer this leader; not in orchestrator.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    silent_members: BTreeSet<String>,
    /// How the clocks of the members differ from the majority's; not in orchestrator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clocks: Vec<MemberClock>,
    /// Why this member observes late; not in orchestrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    overload: Option<String>,
    /// How many instances each member probes while they share the probes; not in orchestrator.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    probed_instances: BTreeMap<String, usize>,
}

/// The clock of a member.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MemberClock {
    member: String,
    /// Seconds ahead of the time of the majority; negative: behind.
    offset_seconds: f64,
    /// `ClockSkew` with details when the offset is beyond the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl MemberClock {
    fn all(clocks: &ClockComparison) -> Vec<Self> {
        let offsets = clocks.offsets.iter();
        offsets
            .map(|offset| Self {
                member: offset.name.clone(),
                offset_seconds: offset.seconds(),
                problem: offset.is_beyond(clocks.limit_millis).then(|| offset.to_string()),
            })
            .collect()
    }
}

/// This process: its start, and its backend.
pub(crate) struct Process<'a> {
    /// When the API began to serve.
    pub(crate) started: WallTime,
    /// Now.
    pub(crate) now: WallTime,
    /// Description of the backend.
    pub(crate) backend: &'a str,
    /// The clocks of the members.
    pub(crate) clocks: ClockComparison,
    /// How late it observes.
    pub(crate) lateness: Lateness,
    /// How many instances each member probes.
    pub(crate) probe_shares: ProbeShares,
}

/// What an overloaded member reports about itself.
fn overload(lateness: &Lateness) -> Option<String> {
    lateness.is_overloaded.then(|| {
        format!(
            "this member is overloaded: its tasks wait for {} % of the time, up to {} ms; {} failed probes were discarded because it read \
             them late; give it more processor time, or raise InstancePollSeconds",
            lateness.percent, lateness.worst_millis, lateness.discarded_probes
        )
    })
}

impl HealthStatus {
    /// The health now. The token of a member is its id, which is never reused.
    pub(crate) fn of(
        consensus: &dyn Consensus,
        leadership: &Leadership,
        health: &Health,
        process: &Process<'_>,
    ) -> Self {
        let me = consensus.me();
        let raft = consensus.is_raft();
        let describe = |peer: &Peer| {
            let own = peer.id == me.id;
            Node {
                hostname: peer.name.clone(),
                token: peer.id.to_string(),
                app_version: if own { env!("CARGO_PKG_VERSION") } else { "" },
                first_seen_active: if own {
                    time_text(process.started)
                } else {
                    NEVER.to_owned()
                },
                last_seen_active: if own { time_text(process.now) } else { NEVER.to_owned() },
                extra_info: String::new(),
                command: String::new(),
                db_backend: if own { process.backend.to_owned() } else { String::new() },
                last_reported: NEVER,
            }
        };
        let healthy = *health == Health::Healthy;
        let active = leadership.leader.clone();
        let peers = consensus.peers();
        let nodes = if peers.is_empty() {
            vec![describe(&me)]
        } else {
            peers.iter().map(describe).collect()
        };
        // Of the other members only the health of the leader is known: a healthy follower has just heard from it.
        let healthy_members = || {
            let mut members: Vec<String> = healthy.then(|| me.raft_address.clone()).into_iter().collect();
            members.extend(
                active
                    .iter()
                    .filter(|leader| healthy && leader.id != me.id)
                    .map(|leader| leader.raft_address.clone()),
            );
            members
        };
        Self {
            healthy,
            hostname: me.name.clone(),
            token: me.id.to_string(),
            is_active_node: active.as_ref().is_some_and(|active| active.id == me.id),
            active_node: describe(active.as_ref().unwrap_or(&Peer {
                id: 0,
                name: String::new(),
                raft_address: String::new(),
                http_uri: String::new(),
                voter: false,
            })),
            error: match health {
                Health::Healthy => None,
                Health::Unhealthy(why) => Some(why.clone()),
            },
            overload: overload(&process.lateness),
            probed_instances: process.probe_shares.by_member.clone(),
            available_nodes: nodes,
            raft_leader: active
                .as_ref()
                .filter(|_| raft)
                .map(|leader| leader.raft_address.clone())
                .unwrap_or_default(),
            is_raft_leader: raft && leadership.is_leader,
            raft_leader_uri: active
                .as_ref()
                .filter(|_| raft)
                .map(|leader| leader.http_uri.clone())
                .unwrap_or_default(),
            raft_advertise: if raft { me.raft_address.clone() } else { String::new() },
            raft_healthy_members: raft.then(healthy_members),
            silent_members: consensus.silent_voters(),
            clocks: MemberClock::all(&process.clocks),
        }
    }
}

/// The group as this member knows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RaftStatus {
    pub(crate) raft_bind: String,
    pub(crate) raft_advertise: String,
    pub(crate) state: &'static str,
    pub(crate) healthy: bool,
    pub(crate) is_part_of_quorum: bool,
    pub(crate) leader: String,
    #[serde(rename = "LeaderURI")]
    pub(crate) leader_uri: String,
    pub(crate) peers: Vec<String>,
}
