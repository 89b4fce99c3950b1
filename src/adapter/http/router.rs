//! The routes: path, handler, whether the leader answers, and whether there is an effect.

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get};

use super::answering_member;
use super::context::Shared;
use super::limits;
use super::metrics;
use super::proxy;
use super::reply::Failure;
use super::request_metrics;
use super::route_table::{RoutePaths, RouteTable};
use super::routes::{
    analysis, audit, clusters, errant_transactions, explain, group, instances, intents, pseudo_gtid, publications,
    records, recoveries, takeovers,
};
use super::write_access;

/// Everything below the prefix, and the additional status check when it is configured.
pub(super) fn build(shared: &Shared) -> Router {
    let options = &shared.app.options;
    let with_effects = writes()
        .router
        .layer(from_fn(limits::run_to_completion))
        .layer(from_fn_with_state(options.read_only, limits::refuse_if_read_only))
        .layer(from_fn_with_state(
            options.write_access.clone(),
            write_access::require_write_token,
        ))
        .layer(from_fn(write_access::refuse_forged_by_browser))
        .layer(from_fn_with_state(shared.forwarder.clone(), proxy::forward_to_leader));
    let without_effects = reads().router.layer(from_fn_with_state(
        shared.forwarder.for_reads(),
        proxy::forward_to_leader,
    ));
    let by_the_leader = without_effects
        .merge(with_effects)
        .layer(from_fn_with_state(shared.refusals.clone(), write_access::log_refusals))
        .layer(from_fn_with_state(shared.request_limit.clone(), limits::limit))
        .layer(from_fn(limits::receive_body));
    let routes = mount(shared, local().router.merge(by_the_leader)).fallback(no_such_route);
    with_request_counts(shared, routes)
}

/// The routes of `HealthListenAddress`: what every member answers itself.
pub(super) fn build_health(shared: &Shared) -> Router {
    let routes = mount(shared, local().router).fallback(no_such_health_route);
    with_request_counts(
        shared,
        routes.layer(from_fn_with_state(shared.probe_limit.clone(), limits::limit)),
    )
}

/// The paths below `/api`.
pub fn routes() -> RoutePaths {
    RoutePaths {
        local: local().paths,
        reads: reads().paths,
        writes: writes().paths,
    }
}

fn mount(shared: &Shared, api: Router<Shared>) -> Router<Shared> {
    let options = &shared.app.options;
    let below_prefix = Router::new().nest("/api", api).route("/metrics", get(metrics::scrape));
    let mut router = if options.url_prefix.is_empty() {
        below_prefix
    } else {
        Router::new().nest(&options.url_prefix, below_prefix)
    };
    if let Some(path) = &options.status_endpoint {
        router = router.route(path, get(group::health));
    }
    router
}

fn with_request_counts(shared: &Shared, router: Router<Shared>) -> Router {
    router
        .layer(from_fn(limits::catch_panics))
        .layer(from_fn_with_state(shared.app.consensus.clone(), answering_member::name))
        .layer(from_fn(proxy::remember_uri))
        .layer(from_fn_with_state(
            shared.request_counters.clone(),
            request_metrics::count,
        ))
        .with_state(shared.clone())
}

async fn no_such_route(uri: Uri) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("no such route: {}", uri.path()))
}

async fn no_such_health_route(uri: Uri) -> Failure {
    let message = format!(
        "no such route at HealthListenAddress, which serves health, leadership, status and metrics: {}",
        uri.path()
    );
    Failure::new(StatusCode::NOT_FOUND, message)
}

/// Routes that every member answers itself.
fn local() -> RouteTable {
    let router = RouteTable::new()
        .route("/lb-check", get(group::ok))
        .route("/_ping", get(group::ok))
        .route("/live", get(group::ok))
        .route("/leader-check", get(group::leader_check))
        .route("/leader-check/{code}", get(group::leader_check_with))
        .route("/health", get(group::health))
        .route("/raft-state", get(group::raft_state))
        .route("/raft-leader", get(group::raft_leader))
        .route("/raft-peers", get(group::raft_peers))
        .route("/raft-status", get(group::raft_status))
        .route("/raft-health", get(group::raft_health));
    router.route("/status", get(group::health))
}

/// Routes that the leader answers, without an effect.
fn reads() -> RouteTable {
    RouteTable::new()
        .route("/routed-leader-check", get(group::leader_check))
        .route("/clusters", get(clusters::names))
        .route("/clusters-info", get(clusters::infos))
        .route("/cluster/{hint}", get(clusters::instances))
        .route("/cluster/alias/{alias}", get(clusters::instances_by_alias))
        .route("/cluster/instance/{host}/{port}", get(clusters::instances_beside))
        .route("/cluster-info/{hint}", get(clusters::info))
        .route("/cluster-info/alias/{alias}", get(clusters::info_by_alias))
        .route("/masters", get(clusters::primaries))
        .route("/master/{hint}", get(clusters::primary))
        .route("/topology/{hint}", get(clusters::topology))
        .route("/topology/{host}/{port}", get(clusters::topology_of))
        .route("/topology-tabulated/{hint}", get(clusters::tabulated))
        .route("/topology-tabulated/{host}/{port}", get(clusters::tabulated_of))
        .route("/case/{hint}", get(clusters::case))
        .route(
            "/errant/{host}/{port}",
            get(errant_transactions::show).post(errant_transactions::show),
        )
        .route("/locate-gtid-errant/{host}/{port}", get(errant_transactions::locate))
        .route("/last-pseudo-gtid/{host}/{port}", get(pseudo_gtid::last_entry))
        .route("/explain", get(explain::all))
        .route("/explain/{hint}", get(explain::of_cluster))
        .route("/instance/{host}/{port}", get(instances::one))
        .route("/instance-replicas/{host}/{port}", get(instances::replicas))
        .route("/all-instances", get(instances::all))
        .route("/search", get(instances::search_query))
        .route("/search/{text}", get(instances::search_path))
        .route("/problems", get(instances::problems))
        .route("/problems/{hint}", get(instances::problems_of))
        .route("/undiscovered", get(instances::undiscovered))
        .route("/bulk-instances", get(instances::keys))
        .route("/bulk-promotion-rules", get(intents::promotion_rules))
        .route("/downtimed", get(intents::downtimed))
        .route("/downtimed/{hint}", get(intents::downtimed_of))
        .route("/replication-analysis", get(analysis::all))
        .route("/replication-analysis/{hint}", get(analysis::of_cluster))
        .route(
            "/replication-analysis/instance/{host}/{port}",
            get(analysis::of_instance),
        )
        .route("/replication-analysis-changelog", get(analysis::changes))
        .route("/primary-publications", get(publications::all))
        .route("/automated-recovery-filters", get(recoveries::filters))
        .route("/check-global-recoveries", get(recoveries::check))
        .merge(record_reads())
}

fn record_reads() -> RouteTable {
    RouteTable::new()
        .route("/audit", get(audit::all))
        .route("/audit/{page}", get(audit::page))
        .route("/audit/instance/{host}/{port}", get(audit::of_instance))
        .route("/audit/instance/{host}/{port}/{page}", get(audit::of_instance_page))
        .route("/audit-recovery", get(records::all))
        .route("/audit-recovery/{page}", get(records::page))
        .route("/audit-recovery/id/{id}", get(records::by_id))
        .route("/audit-recovery/uid/{uid}", get(records::by_uid))
        .route("/audit-recovery/cluster/{name}", get(records::by_cluster))
        .route("/audit-recovery/cluster/{name}/{page}", get(records::by_cluster_page))
        .route("/audit-recovery/alias/{alias}", get(records::by_alias))
        .route("/audit-recovery/alias/{alias}/{page}", get(records::by_alias_page))
        .route("/audit-recovery-steps/{uid}", get(records::steps))
        .route("/active-cluster-recovery/{name}", get(records::active))
        .route(
            "/recently-active-cluster-recovery/{name}",
            get(records::recently_active),
        )
        .route(
            "/recently-active-instance-recovery/{host}/{port}",
            get(records::recently_active_instance),
        )
        .route("/blocked-recoveries", get(records::blocked))
        .route("/blocked-recoveries/cluster/{name}", get(records::blocked_of))
        .route("/audit-failure-detection", get(records::detected))
        .route("/audit-failure-detection/{page}", get(records::detected_page))
        .route("/audit-failure-detection/id/{id}", get(records::detected_by_id))
        .route(
            "/audit-failure-detection/alias/{alias}",
            get(records::detected_by_alias),
        )
        .route(
            "/audit-failure-detection/alias/{alias}/{page}",
            get(records::detected_by_alias_page),
        )
}

/// Routes with an effect, answered by the leader. GET works because the clients of orchestrator use it, POST because caches and
/// prefetching never repeat it. HEAD is refused: it must not have an effect.
fn writes() -> RouteTable {
    RouteTable::new()
        .route("/discover/{host}/{port}", write(instances::discover))
        .route("/async-discover/{host}/{port}", write(instances::discover_later))
        .route("/refresh/{host}/{port}", write(instances::refresh))
        .route("/forget/{host}/{port}", write(instances::forget))
        .route("/forget-cluster/{hint}", write(instances::forget_cluster))
        .route("/split-cluster/{host}/{port}", write(clusters::split))
        .route("/merge-clusters/{hint}/{other}", write(clusters::merge))
        .route(
            "/release-quarantine/{host}/{port}",
            write(instances::release_quarantine),
        )
        .route("/errant-forget/{host}/{port}", write(instances::release_quarantine))
        .route(
            "/errant-inject-empty/{host}/{port}",
            write(errant_transactions::inject_empty),
        )
        .route("/errant-reset/{host}/{port}", write(errant_transactions::reset))
        .route(
            "/gtid-errant-inject-empty/{host}/{port}",
            write(errant_transactions::inject_empty),
        )
        .route(
            "/gtid-errant-reset-master/{host}/{port}",
            write(errant_transactions::reset_master),
        )
        .route(
            "/begin-downtime/{host}/{port}/{owner}/{reason}",
            write(intents::begin_downtime),
        )
        .route(
            "/begin-downtime/{host}/{port}/{owner}/{reason}/{duration}",
            write(intents::begin_downtime_for),
        )
        .route("/end-downtime/{host}/{port}", write(intents::end_downtime))
        .route(
            "/register-candidate/{host}/{port}/{rule}",
            write(intents::register_candidate),
        )
        .route("/recover/{host}/{port}", write(recoveries::recover))
        .route(
            "/recover/{host}/{port}/{candidate_host}/{candidate_port}",
            write(recoveries::recover_to),
        )
        .route("/recover-lite/{host}/{port}", write(recoveries::recover_lite))
        .route(
            "/recover-lite/{host}/{port}/{candidate_host}/{candidate_port}",
            write(recoveries::recover_lite_to),
        )
        .merge(moves_by_pseudo_gtid())
        .merge(changes_of_primary())
        .route("/ack-recovery/cluster/{hint}", write(recoveries::ack_cluster))
        .route("/ack-recovery/cluster/alias/{alias}", write(recoveries::ack_alias))
        .route("/ack-recovery/instance/{host}/{port}", write(recoveries::ack_instance))
        .route("/ack-recovery/{id}", write(recoveries::ack_id))
        .route("/ack-recovery/uid/{uid}", write(recoveries::ack_uid))
        .route("/ack-all-recoveries", write(recoveries::ack_all))
        .route("/submit-masters-to-kv-stores", write(publications::submit_all))
        .route("/submit-masters-to-kv-stores/{hint}", write(publications::submit_one))
        .route("/disable-global-recoveries", write(recoveries::disable))
        .route("/enable-global-recoveries", write(recoveries::enable))
        .route("/reelect", write(group::reelect))
}

/// Old and new names of orchestrator's routes.
fn moves_by_pseudo_gtid() -> RouteTable {
    let mut router = RouteTable::new().route("/match-up/{host}/{port}", write(pseudo_gtid::up));
    for name in ["match", "match-below"] {
        router = router.route(
            &format!("/{name}/{{host}}/{{port}}/{{below_host}}/{{below_port}}"),
            write(pseudo_gtid::below),
        );
    }
    for name in ["match-slaves", "match-replicas"] {
        router = router.route(
            &format!("/{name}/{{host}}/{{port}}/{{below_host}}/{{below_port}}"),
            write(pseudo_gtid::replicas_below),
        );
    }
    for name in ["match-up-slaves", "match-up-replicas"] {
        router = router.route(&format!("/{name}/{{host}}/{{port}}"), write(pseudo_gtid::replicas_up));
    }
    router
}

/// The forms of a change differ in the number of their path segments.
fn changes_of_primary() -> RouteTable {
    RouteTable::new()
        .route("/graceful-master-takeover/{hint}", write(takeovers::takeover))
        .route("/graceful-master-takeover/{host}/{port}", write(takeovers::takeover_of))
        .route(
            "/graceful-master-takeover/{hint}/{target_host}/{target_port}",
            write(takeovers::takeover_to),
        )
        .route(
            "/graceful-master-takeover/{host}/{port}/{target_host}/{target_port}",
            write(takeovers::takeover_of_to),
        )
        .route("/graceful-master-takeover-auto/{hint}", write(takeovers::takeover_auto))
        .route(
            "/graceful-master-takeover-auto/{host}/{port}",
            write(takeovers::takeover_auto_of),
        )
        .route(
            "/graceful-master-takeover-auto/{hint}/{target_host}/{target_port}",
            write(takeovers::takeover_auto_to),
        )
        .route(
            "/graceful-master-takeover-auto/{host}/{port}/{target_host}/{target_port}",
            write(takeovers::takeover_auto_of_to),
        )
        .route("/force-master-failover/{hint}", write(takeovers::failover))
        .route("/force-master-failover/{host}/{port}", write(takeovers::failover_of))
        .route(
            "/force-master-takeover/{hint}/{target_host}/{target_port}",
            write(takeovers::forced_to),
        )
        .route(
            "/force-master-takeover/{host}/{port}/{target_host}/{target_port}",
            write(takeovers::forced_of_to),
        )
}

fn write<H, T>(handler: H) -> MethodRouter<Shared>
where
    H: Handler<T, Shared>,
    T: 'static,
{
    get(handler.clone())
        .post(handler)
        .head(refuse_head)
        .options(answer_options)
}

/// The methods of a route with an effect.
const ALLOWED: [(HeaderName, &str); 1] = [(header::ALLOW, "GET, POST, OPTIONS")];

async fn refuse_head() -> (StatusCode, [(HeaderName, &'static str); 1]) {
    (StatusCode::METHOD_NOT_ALLOWED, ALLOWED)
}

async fn answer_options() -> (StatusCode, [(HeaderName, &'static str); 1]) {
    (StatusCode::NO_CONTENT, ALLOWED)
}
