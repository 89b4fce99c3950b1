//! What a person or a pipeline asks for. The descriptions of these fields are what `kubectl explain` shows.

#![expect(
    clippy::doc_markdown,
    reason = "these comments are descriptions in the schema, which is no Markdown"
)]
#![expect(
    unreachable_pub,
    reason = "the derive of the schema makes copies of the types in function bodies"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::MySQLClusterStatus;

/// Names of Services (RFC 1035).
const LABEL_PATTERN: &str = "^[a-z]([a-z0-9-]*[a-z0-9])?$";

/// The format of durations: `90s`, `30m`, `1h30m`.
pub(super) const DURATION_PATTERN: &str = "^([0-9]{1,6}(ms|s|m|h)){1,4}$";

/// Names of requests.
const ID_PATTERN: &str = "^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$";

/// Host names and addresses, without brackets around an IPv6 address.
const HOST_PATTERN: &str = "^[A-Za-z0-9:]([A-Za-z0-9_.:-]*[A-Za-z0-9:])?$";

/// The desired management of one MySQL or MariaDB replication topology.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "ham4db.io",
    version = "v1alpha1",
    kind = "MySQLCluster",
    plural = "mysqlclusters",
    singular = "mysqlcluster",
    shortname = "h4c",
    category = "ham4db",
    namespaced,
    status = "MySQLClusterStatus",
    doc = "A MySQL or MariaDB replication topology that ham4db watches and keeps writable. Deleting it withdraws its settings and never touches the servers.",
    derive = "PartialEq",
    validation = Rule::new("size(self.metadata.name) <= 52").message("the name of a MySQLCluster must be at most 52 characters long"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "PRIMARY", type_ = "string", json_path = ".status.summary.primary"),
    printcolumn(name = "INSTANCES", type_ = "string", json_path = ".status.summary.instances", description = "Instances that answer, of all known"),
    printcolumn(name = "LAG", type_ = "string", json_path = ".status.summary.lag", description = "Highest lag of a replica"),
    printcolumn(name = "PROBLEM", type_ = "string", json_path = ".status.summary.problem"),
    printcolumn(name = "SEEN", type_ = "date", json_path = ".status.observer.renewedAt", description = "Last renewal by the observer"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct MySQLClusterSpec {
    /// Watch the cluster and repair nothing.
    #[serde(default)]
    pub paused: bool,
    /// Addresses at which discovery starts; it finds the other servers from there.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into(), "port".into()]))]
    #[schemars(length(min = 1, max = 64))]
    pub seeds: Vec<Seed>,
    /// The Secret of the same namespace with the account on the servers: keys user and password, optionally replicationUser,
    /// replicationPassword and ca.crt. No other account is ever used for this cluster.
    pub credentials_secret_ref: SecretReference,
    /// TLS of the connections to the servers.
    #[serde(default)]
    pub tls: Tls,
    /// What to do when the primary fails.
    #[serde(default)]
    pub recovery: Recovery,
    /// Which transactions survive the loss of the primary; ham4db keeps semi-sync set accordingly. Unset: the configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Instances that are shown and not acted on. An entry ends at its time, also without the API server.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into(), "port".into()]))]
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub downtime: Vec<Downtime>,
    /// Promotion rules of instances. Unlisted instances are Neutral.
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["host".into(), "port".into()]),
        validation = Rule::new("self.filter(c, c.promotionRule == 'Must').size() <= 1").message("at most one candidate may have the promotion rule Must")
    )]
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub candidates: Vec<Candidate>,
    /// A planned change of the primary, once for each requestID. Removing it cancels it as long as nothing is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
    /// A Service that routes applications to the primary, wherever it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_service: Option<PrimaryService>,
}

/// Services that route applications to the servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.name) || !has(self.replicasName) || self.name != self.replicasName").message("two Services need two names"))]
#[serde(rename_all = "camelCase")]
pub struct PrimaryService {
    /// Its name. Unset: the name of this resource with -primary.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its port; the ports of the servers do not change.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(default = "default_port")]
    pub port: i32,
    /// Name of a second Service that routes to healthy replicas. Unset: none.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_name: Option<String>,
}

/// A planned change of the primary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.requestID != oldSelf.requestID || self == oldSelf").message("change requestID to ask for another takeover"))]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// Each id is handled once.
    #[serde(rename = "requestID")]
    #[schemars(length(min = 1, max = 64), regex(pattern = ID_PATTERN))]
    pub request_id: String,
    /// The new primary. Unset: the best replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Seed>,
    /// Maximum lag of the target, and time for it to catch up; at most 1h.
    #[schemars(length(max = 32), regex(pattern = DURATION_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up_timeout: Option<String>,
    /// It does not start later; at most 24 h ahead when first seen.
    pub deadline: Time,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Seed {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST_PATTERN))]
    pub host: String,
    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(default = "default_port")]
    pub port: i32,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// TLS of the connections to the servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tls {
    /// Off; Preferred: where the server offers it; Required: always, unverified; Verify: always, certificate and host name verified
    /// with ca.crt of the Secret.
    #[serde(default)]
    pub mode: TlsMode,
}

/// TLS to the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum TlsMode {
    Off,
    #[default]
    Preferred,
    Required,
    Verify,
}

/// What to do when the primary fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Auto: repair failures; DetectOnly: report them; Off: neither.
    #[serde(default)]
    pub mode: Mode,
    /// Id of a recovery that was reviewed: it no longer blocks the next one.
    #[schemars(length(max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// How long a recovery blocks the next one, unless it is acknowledged.
    #[schemars(length(max = 32), regex(pattern = DURATION_PATTERN))]
    #[serde(default = "default_block")]
    pub block_for: String,
    /// When transactions would be lost. Refuse: do not promote; AllowAfterTimeout: wait for the old primary,
    /// then promote; Allow: promote and report what was lost. Unset: Refuse where semi-sync promises that nothing can be lost, Allow
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_policy: Option<LossPolicy>,
    /// How long AllowAfterTimeout waits.
    #[schemars(length(max = 32), regex(pattern = DURATION_PATTERN))]
    #[serde(default = "default_loss_timeout")]
    pub loss_timeout: String,
    /// What to do with a failed primary that returns without errant transactions. Hold: keep it read-only; Rejoin: make it a replica.
    #[serde(default)]
    pub old_primary: OldPrimary,
    /// What to do about servers that boot writable. Advise: report them; Enforce: make their next start read-only, and open the
    /// primary again after its start; Off: nothing.
    #[serde(default)]
    pub boot_read_only: BootReadOnly,
    /// What to do about a primary that accepts connections and answers none, or answers and commits nothing. Observe: report it;
    /// Failover: replace it when no replica can reconnect, or when it is proved to take no more writes. Unset: the configuration decides (StalledPrimary).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_primary: Option<StalledPrimary>,
    /// What to do about scheduled events on a new primary, where they arrive disabled. Enable: enable those that were enabled on the
    /// old one; Leave: nothing. Unset: the configuration decides (PromotedEvents).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventsPolicy>,
    /// What to do when the primary's pod or node is being removed. Observe: report it; TakeOver: promote another server first.
    #[serde(default)]
    pub on_drain: OnDrain,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            acknowledged: None,
            block_for: default_block(),
            loss_policy: None,
            loss_timeout: default_loss_timeout(),
            old_primary: OldPrimary::default(),
            boot_read_only: BootReadOnly::default(),
            stalled_primary: None,
            events: None,
            on_drain: OnDrain::default(),
        }
    }
}

/// What to do when the primary's pod or node is being removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum OnDrain {
    #[default]
    Observe,
    TakeOver,
}

/// What to do about a stalled primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum StalledPrimary {
    Observe,
    Failover,
}

/// What to do about scheduled events on a new primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum EventsPolicy {
    Enable,
    Leave,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum Mode {
    #[default]
    Auto,
    DetectOnly,
    Off,
}

/// What to do when transactions would be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum LossPolicy {
    Refuse,
    AllowAfterTimeout,
    Allow,
}

/// What to do with a failed primary that returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum OldPrimary {
    #[default]
    Hold,
    Rejoin,
}

/// What to do about servers that boot writable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum BootReadOnly {
    Enforce,
    #[default]
    Advise,
    Off,
}

/// Which transactions survive the loss of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Durability {
    /// None: leave semi-sync alone; SemiSync: commits wait for replicas; CrossDataCenter: for replicas in other data centres.
    #[serde(default)]
    pub mode: DurabilityMode,
    /// Number of replicas that a commit waits for. MariaDB waits for one.
    #[schemars(range(min = 1, max = 64))]
    #[serde(default = "default_count")]
    pub count: i32,
    /// Commits keep waiting when fewer replicas can acknowledge. Otherwise they wait for those that can.
    #[serde(default)]
    pub strict: bool,
}

/// Which servers must have a transaction before its commit is acknowledged to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum DurabilityMode {
    #[default]
    None,
    SemiSync,
    CrossDataCenter,
}

/// An instance that is shown and not acted on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.until) != self.indefinite").message("a downtime needs either until or indefinite: true"))]
pub struct Downtime {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST_PATTERN))]
    pub host: String,
    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(default = "default_port")]
    pub port: i32,
    /// Person or program that requests it.
    #[schemars(length(min = 1, max = 128))]
    pub owner: String,
    /// Reason.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// Absolute end, such as 2026-11-21T18:00:00Z: applying the document again does not move it.
    #[schemars(with = "Time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// It lasts until the entry is removed.
    #[serde(default)]
    pub indefinite: bool,
}

/// The promotion rule of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST_PATTERN))]
    pub host: String,
    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(default = "default_port")]
    pub port: i32,
    /// Must: before all others; Prefer: before Neutral; Neutral; PreferNot: only when no better one exists; MustNot: never.
    pub promotion_rule: PromotionRule,
}

/// The promotion rule of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    missing_docs,
    reason = "a described variant becomes a oneOf in the schema; the field describes the values"
)]
pub enum PromotionRule {
    Must,
    Prefer,
    #[default]
    Neutral,
    PreferNot,
    MustNot,
}

fn default_count() -> i32 {
    1
}

fn default_port() -> i32 {
    i32::from(crate::domain::key::DEFAULT_PORT)
}

/// Half an hour: long enough for an operator to notice a flapping server before it causes a second failover.
fn default_block() -> String {
    "30m".to_owned()
}

/// A minute: a server that restarts after a crash is usually back within it.
fn default_loss_timeout() -> String {
    "60s".to_owned()
}
