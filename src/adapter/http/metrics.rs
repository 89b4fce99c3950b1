//! `/metrics` in Prometheus' text format: what a scrape finds out at that moment, and how requests were answered since the start.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::app::ports::Health;
use crate::domain::key::InstanceKey;

use super::api_view::ApiView;
use super::server::Shared;

/// How requests were answered.
pub(super) type Requests = Family<Answer, Counter>;

/// Labels of a request: the route as declared (never the path, whose parts are without bound) and the status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Answer {
    route: String,
    status: u16,
}

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

/// Counts an answer.
pub(super) async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let response = next.run(request).await;
    shared
        .requests
        .get_or_create(&Answer {
            route,
            status: response.status().as_u16(),
        })
        .inc();
    response
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
            tracing::error!(%error, "metrics cannot be written");
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
        let counts = |key: &InstanceKey| !api_view.is_set_aside(&view.topology, key);
        let missed = members.filter(|instance| !instance.is_valid() && counts(&instance.key));
        unreachable.get_or_create(&cluster).set(size(missed.count()));
        for judged in view.findings.iter().filter(|judged| counts(&judged.finding.instance)) {
            findings
                .get_or_create(&ByCode {
                    cluster: view.cluster.name.clone(),
                    code: judged.finding.code.to_string(),
                })
                .inc();
        }
    }
    tell_lag(&api_view, &mut registry);
    tell_durations(&api_view, &mut registry);
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
        "Instances of a cluster whose last probe failed, without those that somebody put into downtime",
        unreachable,
    );
    registry.register(
        "findings",
        "Findings of now, without those about servers that somebody put into downtime",
        findings,
    );
    registry.register(
        "failover_ready",
        "Whether another server would be promoted if the primary of a cluster died now",
        ready,
    );
    registry.register(
        "failover_obstacles",
        "How many reasons there are why not: /api/explain tells them",
        obstacles,
    );
    registry.register("recoveries", "Recoveries on record, by outcome", recoveries);
    registry.register(
        "recoveries_enabled",
        "Whether recoveries are switched on for all clusters",
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
    registry.register("http_requests", "Requests by route and status", shared.requests.clone());
    registry
}

fn tell_lag(api_view: &ApiView<'_>, registry: &mut Registry) {
    let lag = Family::<ByServer, Gauge>::default();
    for (view, instance) in api_view.instances() {
        let told = instance.valid_facts().and_then(|facts| {
            let channels = facts.channels.iter();
            channels.filter_map(|channel| channel.lag_seconds).max()
        });
        if let Some(seconds) = told {
            lag.get_or_create(&ByServer {
                cluster: view.cluster.name.clone(),
                server: instance.key.to_string(),
            })
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }
    registry.register(
        "replication_lag_seconds",
        "How far a replica is behind its source, as it says itself; absent when it does not answer or does not replicate",
        lag,
    );
}

fn tell_durations(api_view: &ApiView<'_>, registry: &mut Registry) {
    let took = Family::<ByCluster, Gauge<f64, AtomicU64>>::default();
    for view in api_view.views.iter() {
        let of_it = api_view.state.recoveries.values();
        let of_it = of_it.filter(|recovery| {
            recovery.plan.cluster == view.cluster.id
                && recovery.plan.kind.replaces_primary()
                && recovery.is_successful()
        });
        let latest = of_it.max_by_key(|recovery| recovery.id);
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
        "From the claim to the end of the latest failover or takeover of a cluster that succeeded",
        took,
    );
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
