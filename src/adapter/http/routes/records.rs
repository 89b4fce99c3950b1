//! The records of detections and recoveries.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};

use crate::domain::state::record::Detection;
use crate::domain::state::{Recovery, State as Replicated};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters::{self, paged};
use crate::adapter::http::reply::{Failure, Reply};
use crate::adapter::http::shape::cluster::alias_or_name;
use crate::adapter::http::shape::recovery::{BlockedShape, RecoveryShape, StepShape};
use crate::app::api::ApiError;

type Filters = Query<BTreeMap<String, String>>;
type Page = Path<String>;
type NameAndPage = Path<(String, String)>;

/// The recoveries for which `wanted` holds, the latest first.
fn recoveries<'s>(
    state: &'s Replicated,
    wanted: impl Fn(&Recovery) -> bool + 's,
) -> impl Iterator<Item = &'s Recovery> {
    let mut all: Vec<&Recovery> = state.recoveries.values().collect();
    all.sort_by_key(|recovery| std::cmp::Reverse(recovery.id));
    all.into_iter().filter(move |recovery| wanted(recovery))
}

fn shapes(shared: &Shared, wanted: impl Fn(&Recovery) -> bool, page: usize) -> Json<Vec<RecoveryShape>> {
    let state = shared.app.api.state();
    Json(
        paged(recoveries(&state, wanted), page)
            .into_iter()
            .map(|recovery| RecoveryShape::of(&state, recovery))
            .collect(),
    )
}

fn only_unacknowledged(filters: &BTreeMap<String, String>) -> impl Fn(&Recovery) -> bool + use<> {
    let only = filters.get("unacknowledged").is_some_and(|value| value == "true");
    move |recovery| !only || recovery.acknowledged.is_none()
}

// === recoveries ===

pub(crate) async fn all(State(shared): State<Shared>, Query(filters): Filters) -> Json<Vec<RecoveryShape>> {
    shapes(&shared, only_unacknowledged(&filters), 0)
}

pub(crate) async fn page(
    State(shared): State<Shared>,
    Path(page): Page,
    Query(filters): Filters,
) -> Reply<Vec<RecoveryShape>> {
    Ok(shapes(&shared, only_unacknowledged(&filters), parameters::page(&page)?))
}

pub(crate) async fn by_id(State(shared): State<Shared>, Path(id): Path<String>) -> Reply<Vec<RecoveryShape>> {
    let id = number(&id)?;
    Ok(shapes(&shared, |recovery| recovery.id == id, 0))
}

pub(crate) async fn by_uid(State(shared): State<Shared>, Path(uid): Path<String>) -> Json<Vec<RecoveryShape>> {
    shapes(&shared, |recovery| recovery.uid == uid, 0)
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse()
        .map_err(|_| Failure::bad_request(format!("Invalid id: {text}")))
}

/// Selects the recoveries of a cluster, by the name it had then or by its id.
fn of_cluster(shared: &Shared, name: &str) -> impl Fn(&Recovery) -> bool + use<> {
    let id = ApiView::now(&shared.app)
        .find_cluster(name)
        .ok()
        .map(|view| view.cluster.id.clone());
    let name = name.to_owned();
    move |recovery| recovery.cluster_name == name || id.as_ref().is_some_and(|id| recovery.plan.cluster == *id)
}

fn of_alias(shared: &Shared, alias: &str) -> impl Fn(&Recovery) -> bool + use<> {
    let id = ApiView::now(&shared.app)
        .find_alias(alias)
        .ok()
        .map(|view| view.cluster.id.clone());
    let alias = alias.to_owned();
    move |recovery| {
        alias_or_name(&recovery.cluster_alias, &recovery.cluster_name) == alias
            || id.as_ref().is_some_and(|id| recovery.plan.cluster == *id)
    }
}

pub(crate) async fn by_cluster(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(filters): Filters,
) -> Json<Vec<RecoveryShape>> {
    let (is_of_cluster, open) = (of_cluster(&shared, &name), only_unacknowledged(&filters));
    shapes(&shared, |recovery| is_of_cluster(recovery) && open(recovery), 0)
}

pub(crate) async fn by_cluster_page(
    State(shared): State<Shared>,
    Path((name, page)): NameAndPage,
    Query(filters): Filters,
) -> Reply<Vec<RecoveryShape>> {
    let (is_of_cluster, open) = (of_cluster(&shared, &name), only_unacknowledged(&filters));
    Ok(shapes(
        &shared,
        |recovery| is_of_cluster(recovery) && open(recovery),
        parameters::page(&page)?,
    ))
}

pub(crate) async fn by_alias(
    State(shared): State<Shared>,
    Path(alias): Path<String>,
    Query(filters): Filters,
) -> Json<Vec<RecoveryShape>> {
    let (is_of_cluster, open) = (of_alias(&shared, &alias), only_unacknowledged(&filters));
    shapes(&shared, |recovery| is_of_cluster(recovery) && open(recovery), 0)
}

pub(crate) async fn by_alias_page(
    State(shared): State<Shared>,
    Path((alias, page)): NameAndPage,
    Query(filters): Filters,
) -> Reply<Vec<RecoveryShape>> {
    let (is_of_cluster, open) = (of_alias(&shared, &alias), only_unacknowledged(&filters));
    Ok(shapes(
        &shared,
        |recovery| is_of_cluster(recovery) && open(recovery),
        parameters::page(&page)?,
    ))
}

pub(crate) async fn steps(State(shared): State<Shared>, Path(uid): Path<String>) -> Json<Vec<StepShape>> {
    let state = shared.app.api.state();
    let steps = state
        .recoveries
        .get(&uid)
        .map(|recovery| recovery.steps.iter().map(|step| StepShape::of(&uid, step)).collect());
    Json(steps.unwrap_or_default())
}

/// The running recoveries of a cluster.
pub(crate) async fn active(State(shared): State<Shared>, Path(name): Path<String>) -> Json<Vec<RecoveryShape>> {
    let is_of_cluster = of_cluster(&shared, &name);
    shapes(&shared, |recovery| is_of_cluster(recovery) && recovery.is_active(), 0)
}

/// Whether a recovery runs, or ended recently enough to block the next one.
fn is_recent(shared: &Shared, recovery: &Recovery) -> bool {
    let api_view = ApiView::now(&shared.app);
    let block = api_view
        .views
        .iter()
        .find(|view| view.cluster.id == recovery.plan.cluster)
        .map_or(0, |view| view.policy.block_millis);
    recovery
        .ended()
        .is_none_or(|ended| api_view.now.millis_since(ended) < block)
}

pub(crate) async fn recently_active(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Json<Vec<RecoveryShape>> {
    let is_of_cluster = of_cluster(&shared, &name);
    shapes(
        &shared,
        |recovery| is_of_cluster(recovery) && is_recent(&shared, recovery),
        0,
    )
}

pub(crate) async fn recently_active_instance(
    State(shared): State<Shared>,
    Path((host, port)): Path<(String, String)>,
) -> Reply<Vec<RecoveryShape>> {
    let key = parameters::instance(&host, &port)?;
    Ok(shapes(
        &shared,
        |recovery| recovery.plan.old_primary == key && is_recent(&shared, recovery),
        0,
    ))
}

pub(crate) async fn blocked(State(shared): State<Shared>) -> Json<Vec<BlockedShape>> {
    Json(
        shared
            .app
            .api
            .state()
            .blocked
            .values()
            .map(BlockedShape::from)
            .collect(),
    )
}

pub(crate) async fn blocked_of(State(shared): State<Shared>, Path(name): Path<String>) -> Json<Vec<BlockedShape>> {
    let name = ApiView::now(&shared.app)
        .find_cluster(&name)
        .map_or(name.clone(), |view| view.cluster.name.clone());
    Json(
        shared
            .app
            .api
            .state()
            .blocked
            .values()
            .filter(|blocked| blocked.cluster_name == name)
            .map(BlockedShape::from)
            .collect(),
    )
}

// === detections ===

fn detections(shared: &Shared, wanted: impl Fn(&Detection) -> bool, page: usize) -> Json<Vec<RecoveryShape>> {
    let state = shared.app.api.state();
    let found = state.detections.values().rev().filter(|detection| wanted(detection));
    Json(
        paged(found, page)
            .into_iter()
            .map(|detection| RecoveryShape::of_detection(&state, detection))
            .collect(),
    )
}

pub(crate) async fn detected(State(shared): State<Shared>) -> Json<Vec<RecoveryShape>> {
    detections(&shared, |_| true, 0)
}

pub(crate) async fn detected_page(State(shared): State<Shared>, Path(page): Page) -> Reply<Vec<RecoveryShape>> {
    Ok(detections(&shared, |_| true, parameters::page(&page)?))
}

pub(crate) async fn detected_by_id(State(shared): State<Shared>, Path(id): Path<String>) -> Reply<Vec<RecoveryShape>> {
    let id = number(&id)?;
    Ok(detections(&shared, |detection| detection.id == id, 0))
}

fn detected_in(alias: &str) -> impl Fn(&Detection) -> bool + use<> {
    let alias = alias.to_owned();
    move |detection| alias_or_name(&detection.cluster_alias, &detection.cluster_name) == alias
}

pub(crate) async fn detected_by_alias(
    State(shared): State<Shared>,
    Path(alias): Path<String>,
) -> Json<Vec<RecoveryShape>> {
    detections(&shared, detected_in(&alias), 0)
}

pub(crate) async fn detected_by_alias_page(
    State(shared): State<Shared>,
    Path((alias, page)): NameAndPage,
) -> Reply<Vec<RecoveryShape>> {
    Ok(detections(&shared, detected_in(&alias), parameters::page(&page)?))
}

/// The uids of the unacknowledged recoveries for which `wanted` holds.
pub(super) fn open_uids(state: &Replicated, wanted: impl Fn(&Recovery) -> bool) -> Vec<String> {
    recoveries(state, |recovery| {
        recovery.acknowledged.is_none() && !recovery.is_active() && wanted(recovery)
    })
    .map(|recovery| recovery.uid.clone())
    .collect()
}

/// The uid of the recovery for which `wanted` holds; `name` is for the error.
pub(super) fn find(state: &Replicated, wanted: impl Fn(&Recovery) -> bool, name: &str) -> Result<String, ApiError> {
    let found = state.recoveries.values().find(|recovery| wanted(recovery));
    found
        .map(|recovery| recovery.uid.clone())
        .ok_or_else(|| ApiError::NotFound(format!("No recovery {name}")))
}
