//! `/metrics` in Prometheus' text format: the state at the time of the scrape, and the counts of requests since the start.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::app::ports::Health;
use crate::app::supervision;
use crate::domain::key::InstanceKey;

use super::api_view::ApiView;
use super::context::Shared;
use super::reply::off_workers;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCluster {
    cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByServer {
    cluster: String,
    server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    cluster: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPublisher {
    publisher: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMember {
    member: String,
}

/// Answers a scrape.
pub(super) async fn scrape(State(shared): State<Shared>) -> Response {
    let encoded = off_workers(shared, |shared| {
        let mut registry = registry(&shared);
        register_clock_skew(&shared, &mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).map(|()| text)
    });
    match encoded.await {
        Ok(text) => {
            let content = [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )];
            (content, text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "failed to encode metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A gauge of 1 or 0.
fn flag(value: bool) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::from(value));
    gauge
}

/// How late this member observes.
fn register_lateness(shared: &Shared, registry: &mut Registry) {
    let lateness = shared.app.api.lateness();
    registry.register(
        "overloaded",
        "Whether this member is too busy to observe its servers in time",
        flag(lateness.is_overloaded),
    );
    let delay = Gauge::<f64, AtomicU64>::default();
    delay.set(Duration::from_millis(lateness.worst_millis).as_secs_f64());
    registry.register(
        "scheduling_delay_seconds",
        "The longest time for which a task of this member waited for a processor in the last ten seconds",
        delay,
    );
    let discarded = Counter::<u64>::default();
    discarded.inc_by(lateness.discarded_probes);
    registry.register(
        "probes_discarded",
        "Failed probes that do not count because this member was late",
        discarded,
    );
}

/// How the members share the probes.
fn register_probe_shares(shared: &Shared, registry: &mut Registry) {
    let shares = shared.app.api.probe_shares();
    registry.register(
        "probes_shared",
        "Whether the members share the probes now",
        flag(shares.is_active),
    );
    let probed = Family::<ByMember, Gauge>::default();
    for (member, count) in shares.by_member {
        probed.get_or_create(&ByMember { member }).set(size(count));
    }
    let (observations, bytes) = (Counter::<u64>::default(), Counter::<u64>::default());
    observations.inc_by(shares.received);
    bytes.inc_by(shares.received_bytes);
    registry.register(
        "observations_received",
        "Observations that this member received from the others",
        observations,
    );
    registry.register(
        "observation_bytes_received",
        "Size of the answers with observations that this member received from the others",
        bytes,
    );
    registry.register(
        "instances_probed",
        "Instances that a member probes for all while the members share the probes",
        probed,
    );
}

fn registry(shared: &Shared) -> Registry {
    let api_view = ApiView::now(&shared.app);
    let mut registry = Registry::with_prefix("ham4db");
    let instances = Family::<ByCluster, Gauge>::default();
    let unreachable = Family::<ByCluster, Gauge>::default();
    let findings = Family::<ByCode, Gauge>::default();
    let ready = Family::<ByCluster, Gauge>::default();
    let obstacles = Family::<ByCluster, Gauge>::default();
    for view in &api_view.views {
        let cluster = ByCluster {
            cluster: view.cluster.name.clone(),
        };
        let outlook = api_view.explain(view);
        ready.get_or_create(&cluster).set(i64::from(outlook.ready));
        obstacles.get_or_create(&cluster).set(size(outlook.obstacles.len()));
        let members = view.topology.instances.values();
        instances.get_or_create(&cluster).set(size(members.len()));
        let counts = |key: &InstanceKey| !api_view.is_in_requested_downtime(&view.topology, key);
        let failed = members.filter(|instance| !instance.is_valid() && counts(&instance.key));
        unreachable.get_or_create(&cluster).set(size(failed.count()));
        for judged in view.findings.iter().filter(|judged| counts(&judged.finding.instance)) {
            findings
                .get_or_create(&ByCode {
                    cluster: view.cluster.name.clone(),
                    code: judged.finding.code.to_string(),
                })
                .inc();
        }
    }
    register_lag(&api_view, &mut registry);
    register_unverified(&api_view, &mut registry);
    register_panics(&mut registry);
    register_publications(shared, &mut registry);
    register_promotion_durations(&api_view, &mut registry);
    registry.register(
        "build",
        "The version of this member",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register("instances", "Instances of a cluster", instances);
    registry.register(
        "instances_unreachable",
        "Instances of a cluster for which the last probe failed, without those in a requested downtime",
        unreachable,
    );
    registry.register(
        "findings",
        "Current findings, without those about servers in a requested downtime",
        findings,
    );
    registry.register(
        "failover_ready",
        "Whether a replica would be promoted if the primary of a cluster failed now",
        ready,
    );
    registry.register(
        "failover_obstacles",
        "Number of reasons that prevent a failover: see /api/explain",
        obstacles,
    );
    register_recoveries(&api_view, &mut registry);
    registry.register(
        "recoveries_enabled",
        "Whether recoveries are enabled for all clusters",
        flag(!api_view.state.recoveries_disabled),
    );
    registry.register(
        "leader",
        "Whether this member believes that it leads",
        flag(shared.app.consensus.leadership().borrow().is_leader),
    );
    registry.register(
        "healthy",
        "Whether this member is a healthy part of its group",
        flag(shared.app.consensus.health() == Health::Healthy),
    );
    register_lateness(shared, &mut registry);
    register_probe_shares(shared, &mut registry);
    registry.register(
        "http_requests",
        "Requests by route and status",
        shared.request_counters.clone(),
    );
    registry
}

fn register_recoveries(api_view: &ApiView<'_>, registry: &mut Registry) {
    let recoveries = Family::<ByOutcome, Gauge>::default();
    let mut outcomes: BTreeMap<&str, i64> = BTreeMap::from([("running", 0), ("successful", 0), ("failed", 0)]);
    for recovery in api_view.state.recoveries.values() {
        let outcome = match (recovery.is_active(), recovery.is_successful()) {
            (true, _) => "running",
            (false, true) => "successful",
            (false, false) => "failed",
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    for (outcome, count) in outcomes {
        recoveries
            .get_or_create(&ByOutcome {
                outcome: outcome.to_owned(),
            })
            .set(count);
    }
    registry.register("recoveries", "Recoveries on record, by outcome", recoveries);
}

fn register_unverified(api_view: &ApiView<'_>, registry: &mut Registry) {
    let unverified = Family::<ByCluster, Gauge>::default();
    for view in &api_view.views {
        let instances = view.topology.instances.values();
        let exposed = instances.filter(|instance| instance.valid_facts().is_some_and(|facts| facts.is_unverified));
        let cluster = ByCluster {
            cluster: view.cluster.name.clone(),
        };
        unverified.get_or_create(&cluster).set(size(exposed.count()));
    }
    registry.register(
        "unverified_servers",
        "Instances of a cluster to which this member is connected without TLS, or with TLS that is not verified",
        unverified,
    );
}

/// The clusters of each publisher for which the last attempt failed.
fn register_publications(shared: &Shared, registry: &mut Registry) {
    let failed = Family::<ByPublisher, Gauge>::default();
    for ((publisher, _), status) in shared.app.api.publications() {
        let count = failed.get_or_create(&ByPublisher { publisher });
        if status.failure.is_some() {
            count.inc();
        }
    }
    registry.register(
        "primaries_not_published",
        "Clusters for which the last attempt to publish the primary, or to withdraw it, failed",
        failed,
    );
}

fn register_panics(registry: &mut Registry) {
    let panics = Counter::<u64>::default();
    panics.inc_by(supervision::panics());
    registry.register(
        "panics",
        "Panics that were caught since the start: faults in ham4db, see the log",
        panics,
    );
}

fn register_clock_skew(shared: &Shared, registry: &mut Registry) {
    let skew = Family::<ByMember, Gauge<f64, AtomicU64>>::default();
    for offset in &shared.app.clock.comparison().offsets {
        let member = ByMember {
            member: offset.name.clone(),
        };
        skew.get_or_create(&member).set(offset.seconds());
    }
    registry.register(
        "clock_skew_seconds",
        "How far the clock of a member is ahead of the time of the majority; negative when it is behind",
        skew,
    );
}

fn register_lag(api_view: &ApiView<'_>, registry: &mut Registry) {
    let lag = Family::<ByServer, Gauge>::default();
    for (view, instance) in api_view.instances() {
        let lag_seconds = instance.valid_facts().and_then(|facts| {
            let channels = facts.channels.iter().chain(&facts.other_channels);
            channels.filter_map(|channel| channel.lag_seconds).max()
        });
        if let Some(seconds) = lag_seconds {
            lag.get_or_create(&ByServer {
                cluster: view.cluster.name.clone(),
                server: instance.key.to_string(),
            })
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }
    registry.register(
        "replication_lag_seconds",
        "Lag of a replica behind its source, as the replica reports it; absent when it does not answer or does not replicate",
        lag,
    );
}

fn register_promotion_durations(api_view: &ApiView<'_>, registry: &mut Registry) {
    let took = Family::<ByCluster, Gauge<f64, AtomicU64>>::default();
    for view in &api_view.views {
        let recoveries = api_view.state.recoveries.values();
        let successful = recoveries.filter(|recovery| {
            recovery.plan.cluster == view.cluster.id
                && recovery.plan.kind.replaces_primary()
                && recovery.is_successful()
        });
        let latest = successful.max_by_key(|recovery| recovery.id);
        if let Some((recovery, ended)) = latest.and_then(|recovery| Some((recovery, recovery.ended()?))) {
            let cluster = ByCluster {
                cluster: view.cluster.name.clone(),
            };
            let millis = u32::try_from(ended.0.saturating_sub(recovery.started.0)).unwrap_or(u32::MAX);
            took.get_or_create(&cluster).set(f64::from(millis) / 1000.0);
        }
    }
    registry.register(
        "last_promotion_seconds",
        "Time from the claim to the end of the latest successful failover or takeover of a cluster",
        took,
    );
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
