//! `/metrics` in Prometheus' text format: the state at the time of the scrape, and the counts of requests since the start.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::app::ports::Health;
use crate::domain::key::InstanceKey;

use super::api_view::ApiView;
use super::context::Shared;

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

/// Answers a scrape.
pub(super) async fn scrape(State(shared): State<Shared>) -> Response {
    let registry = registry(&shared);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => {
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

fn registry(shared: &Shared) -> Registry {
    let api_view = ApiView::now(&shared.app);
    let mut registry = Registry::with_prefix("ham4db");
    let instances = Family::<ByCluster, Gauge>::default();
    let unreachable = Family::<ByCluster, Gauge>::default();
    let findings = Family::<ByCode, Gauge>::default();
    let ready = Family::<ByCluster, Gauge>::default();
    let obstacles = Family::<ByCluster, Gauge>::default();
    let recoveries = Family::<ByOutcome, Gauge>::default();
    for view in api_view.views.iter() {
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
    register_promotion_durations(&api_view, &mut registry);
    registry.register(
        "build",
        "The version of this member",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
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
    let flag = |value: bool| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::from(value));
        gauge
    };
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
    registry.register("recoveries", "Recoveries on record, by outcome", recoveries);
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
    registry.register(
        "http_requests",
        "Requests by route and status",
        shared.request_counters.clone(),
    );
    registry
}

fn register_lag(api_view: &ApiView<'_>, registry: &mut Registry) {
    let lag = Family::<ByServer, Gauge>::default();
    for (view, instance) in api_view.instances() {
        let lag_seconds = instance.valid_facts().and_then(|facts| {
            let channels = facts.channels.iter();
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
    for view in api_view.views.iter() {
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
