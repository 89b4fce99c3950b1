//! Peer RPC, outgoing: HTTP/1.1 over plain TCP.
//!
//! A request that times out closes its connection, and every new connection resolves the name again. So the next request finds a member
//! that returned at another address.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::log_store::LogOwner;
use super::reachability::{Change, Reachability};
use super::resolver::Resolve;
use super::settings::{LinkFilter, MemberDependencies, RaftSettings, WantedMember};
use super::types::{MemberNode, Snapshot, TypeConfig, Vote};
use super::wire::{GROUP_HEADER, KEY_HEADER, SENDER_HEADER, SENDER_NAME_HEADER, SnapshotTransfer, TARGET_HEADER};
use crate::domain::state::MemberId;

/// Idle connections are closed after this: a peer that restarted must not get requests on a connection of its former process.
const POOL_IDLE: Duration = Duration::from_secs(2);

/// Why a peer did not answer a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// The peer could not be reached, or did not answer in time.
    #[error("{peer} cannot be reached: {why}")]
    Unreachable {
        /// Name of the peer.
        peer: String,
        /// Reason.
        why: String,
    },
    /// The peer refused the request.
    #[error("{peer} refuses ({status}): {why}")]
    Refused {
        /// Name of the peer.
        peer: String,
        /// HTTP status.
        status: u16,
        /// Its reason.
        why: String,
    },
}

/// Sends requests to peers.
#[derive(Clone)]
pub(super) struct Dialer {
    http: reqwest::Client,
    own_name: String,
    key: Option<SecretString>,
    links: Arc<dyn LinkFilter>,
    wanted: watch::Receiver<Vec<WantedMember>>,
}

struct Names(Arc<dyn Resolve>);

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = resolver.resolve(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// The recipient of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipient<'a> {
    /// Its name and last known address.
    pub(super) node: &'a MemberNode,
    /// Its id; `None` before ids are known.
    pub(super) member: Option<MemberId>,
}

impl Dialer {
    /// Makes the HTTP client of a member.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub(super) fn new(settings: &RaftSettings, dependencies: &MemberDependencies) -> io::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .pool_idle_timeout(POOL_IDLE)
            .connect_timeout(settings.timings.election_min)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Names(dependencies.resolver.clone())))
            .build()
            .map_err(|error| io::Error::other(format!("make the HTTP client for peers: {error}")))?;
        Ok(Self {
            http,
            own_name: settings.name.clone(),
            key: settings.group_key.clone(),
            links: dependencies.links.clone(),
            wanted: dependencies.wanted.clone(),
        })
    }

    /// The address of a member: that of the list of wanted members, otherwise the one with which it was admitted.
    fn address(&self, node: &MemberNode) -> String {
        let wanted = self.wanted.borrow();
        let listed = wanted.iter().find(|wanted| wanted.name == node.name);
        listed.map_or_else(|| node.raft_address.clone(), |wanted| wanted.raft_address.clone())
    }

    /// Sends a request as the member `own` (`None` before it has an id), and waits for the answer.
    ///
    /// # Errors
    /// When there is no answer within `deadline`, or a refusal.
    pub(super) async fn call<Q: Serialize + Sync, R: DeserializeOwned>(
        &self,
        to: Recipient<'_>,
        route: &str,
        request: &Q,
        own: Option<&LogOwner>,
        deadline: Duration,
    ) -> Result<R, CallError> {
        let peer = to.node.name.clone();
        let answer = self.send(to, route, request, own, deadline).await?;
        answer.json().await.map_err(|error| unreachable(&peer, &error))
    }

    /// The same for an answer of at most `limit` bytes, which is not parsed.
    ///
    /// # Errors
    /// When there is no answer within `deadline`, a longer answer, or a refusal.
    pub(super) async fn call_bytes<Q: Serialize + Sync>(
        &self,
        to: Recipient<'_>,
        route: &str,
        request: &Q,
        own: Option<&LogOwner>,
        deadline: Duration,
        limit: usize,
    ) -> Result<Vec<u8>, CallError> {
        let peer = to.node.name.clone();
        let mut answer = self.send(to, route, request, own, deadline).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(&peer, &error))? {
            if body.len().saturating_add(chunk.len()) > limit {
                return Err(CallError::Unreachable {
                    peer,
                    why: format!("its answer to {route} is longer than {limit} bytes"),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Sends a request and returns the answer, with a body that is not read yet.
    async fn send<Q: Serialize + Sync>(
        &self,
        to: Recipient<'_>,
        route: &str,
        request: &Q,
        own: Option<&LogOwner>,
        deadline: Duration,
    ) -> Result<reqwest::Response, CallError> {
        let peer = to.node.name.clone();
        if !self.links.passes(&self.own_name, &peer) {
            return Err(CallError::Unreachable {
                peer,
                why: "the link is cut".to_owned(),
            });
        }
        let mut call = self
            .http
            .post(format!("http://{}/raft/{route}", self.address(to.node)))
            .timeout(deadline)
            .header(SENDER_NAME_HEADER, &self.own_name)
            .json(request);
        if let Some(own) = own {
            call = call
                .header(GROUP_HEADER, &own.cluster_uuid)
                .header(SENDER_HEADER, own.member.to_string());
        }
        if let Some(member) = to.member {
            call = call.header(TARGET_HEADER, member.to_string());
        }
        if let Some(key) = &self.key {
            let mut value =
                reqwest::header::HeaderValue::from_str(key.expose_secret()).map_err(|_| CallError::Unreachable {
                    peer: peer.clone(),
                    why: "the group key cannot be sent as a header".to_owned(),
                })?;
            value.set_sensitive(true);
            call = call.header(KEY_HEADER, value);
        }
        let answer = call.send().await.map_err(|error| unreachable(&peer, &error))?;
        let status = answer.status();
        if !status.is_success() {
            let why = answer.text().await.map_err(|error| unreachable(&peer, &error))?;
            return Err(CallError::Refused {
                peer,
                status: status.as_u16(),
                why,
            });
        }
        Ok(answer)
    }

    /// Checks that the API at `http_uri` of a peer answers within `deadline`, whatever the status.
    ///
    /// # Errors
    /// When it does not; the text is the reason.
    pub(super) async fn reaches_api(
        &self,
        peer: &MemberNode,
        http_uri: &str,
        deadline: Duration,
    ) -> Result<(), String> {
        if !self.links.passes(&self.own_name, &peer.name) {
            return Err("the link is cut".to_owned());
        }
        let answer = self
            .http
            .get(format!("{}/api/live", http_uri.trim_end_matches('/')))
            .timeout(deadline)
            .send()
            .await;
        answer.map(drop).map_err(|error| root_cause(&error))
    }
}

fn unreachable(peer: &str, error: &reqwest::Error) -> CallError {
    CallError::Unreachable {
        peer: peer.to_owned(),
        why: root_cause(error),
    }
}

/// The innermost cause: the outer errors repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Makes a link to each member for openraft.
#[derive(Clone)]
pub(super) struct Links {
    /// The client of the requests.
    pub(super) dialer: Dialer,
    /// This member.
    pub(super) own: LogOwner,
    /// Deadline of a request with entries: it covers the disk of the peer, where a heartbeat covers only the network.
    pub(super) entries_deadline: Duration,
    /// Which members do not answer.
    pub(super) reachability: Reachability,
}

/// The link to one member.
pub(super) struct Link {
    links: Links,
    target: MemberId,
    node: MemberNode,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: MemberId, node: &MemberNode) -> Link {
        Link {
            links: self.clone(),
            target,
            node: node.clone(),
        }
    }
}

impl Link {
    fn log_reachability(&self, failure: Option<&CallError>) {
        let unreachable = failure.filter(|failure| matches!(failure, CallError::Unreachable { .. }));
        let peer = &self.node.name;
        match self
            .links
            .reachability
            .note(self.target, unreachable.is_none(), Instant::now())
        {
            Some(Change::Silent) => {
                let why = unreachable.map_or_else(String::new, ToString::to_string);
                tracing::warn!("raft member {peer} stopped answering: {why}");
            }
            Some(Change::Answers(after)) => {
                tracing::info!("raft member {peer} answers again after {:.1} s", after.as_secs_f64());
            }
            None => {}
        }
    }

    async fn call<Q: Serialize + Sync, R: DeserializeOwned>(
        &self,
        route: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<R, RPCError<TypeConfig>> {
        let to = Recipient {
            node: &self.node,
            member: Some(self.target),
        };
        // Always "unreachable", never "network": openraft retries the latter immediately and without end.
        let answer = self
            .links
            .dialer
            .call(to, route, request, Some(&self.links.own), deadline)
            .await;
        self.log_reachability(answer.as_ref().err());
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let deadline = if request.entries.is_empty() {
            option.soft_ttl()
        } else {
            option.soft_ttl().max(self.links.entries_deadline)
        };
        self.call("append", &request, deadline).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call("vote", &request, option.soft_ttl()).await
    }

    // Required: the default of openraft grants every pre-vote.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call("prevote", &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call("transfer", &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let document =
            String::from_utf8(snapshot.snapshot).map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let transfer = SnapshotTransfer { vote, document };
        tokio::select! {
            answer = self.call("snapshot", &transfer, option.soft_ttl()) => Ok(answer?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}
