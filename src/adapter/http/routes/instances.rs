//! Instances: reading, discovering, forgetting.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};

use crate::app::api::ApiError;
use crate::domain::cluster_view::ClusterView;
use crate::domain::key::InstanceKey;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Reply, off_workers, success};
use crate::adapter::http::shape::Key;
use crate::adapter::http::shape::instance::InstanceShape;
use crate::adapter::http::shape::undiscovered::UndiscoveredShape;

type Host = Path<(String, String)>;

pub(crate) async fn one(State(shared): State<Shared>, Path((host, port)): Host) -> Reply<InstanceShape> {
    let key = parameters::instance(&host, &port)?;
    let api_view = ApiView::now(&shared.app);
    let (view, instance) = api_view.find_instance(&key)?;
    Ok(Json(InstanceShape::of(&api_view, view, instance)))
}

pub(crate) async fn replicas(State(shared): State<Shared>, Path((host, port)): Host) -> Reply<Vec<InstanceShape>> {
    let key = parameters::instance(&host, &port)?;
    let api_view = ApiView::now(&shared.app);
    let (view, instance) = api_view.find_instance(&key)?;
    Ok(Json(
        view.topology
            .replicas_of(&instance.key)
            .map(|replica| InstanceShape::of(&api_view, view, replica))
            .collect(),
    ))
}

pub(crate) async fn all(State(shared): State<Shared>) -> Response {
    off_workers(shared, |shared| {
        Json(InstanceShape::all_where(&ApiView::now(&shared.app), |_, _, _| true)).into_response()
    })
    .await
}

pub(crate) async fn keys(State(shared): State<Shared>) -> Json<Vec<Key>> {
    Json(
        ApiView::now(&shared.app)
            .instances()
            .map(|(_, instance)| Key::from(&instance.key))
            .collect(),
    )
}

pub(crate) async fn search_path(State(shared): State<Shared>, Path(text): Path<String>) -> Json<Vec<InstanceShape>> {
    search(&shared, &text)
}

pub(crate) async fn search_query(
    State(shared): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Json<Vec<InstanceShape>> {
    search(&shared, query.get("s").map_or("", String::as_str))
}

/// Searches for a part of address, cluster, version or version comment, or for the whole server id or port.
fn search(shared: &Shared, text: &str) -> Json<Vec<InstanceShape>> {
    Json(InstanceShape::all_where(
        &ApiView::now(&shared.app),
        |view, instance, _| {
            let facts = instance.facts.as_ref();
            instance.key.to_string().contains(text)
                || view.cluster.name.contains(text)
                || view.cluster.alias.contains(text)
                || facts.is_some_and(|facts| facts.version.text.contains(text) || facts.version_comment.contains(text))
                || facts.is_some_and(|facts| facts.server_id.to_string() == text)
                || instance.key.port.to_string() == text
        },
    ))
}

pub(crate) async fn problems(State(shared): State<Shared>) -> Json<Vec<InstanceShape>> {
    Json(InstanceShape::all_where(
        &ApiView::now(&shared.app),
        |_, instance, shape| is_problem(&shared, &instance.key, shape),
    ))
}

pub(crate) async fn problems_of(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<Vec<InstanceShape>> {
    let api_view = ApiView::now(&shared.app);
    let view = api_view.find_cluster(&hint)?;
    let shapes = view.topology.instances.values().filter_map(|instance| {
        let shape = InstanceShape::of(&api_view, view, instance);
        is_problem(&shared, &instance.key, &shape).then_some(shape)
    });
    Ok(Json(shapes.collect()))
}

/// Addresses that servers name and that are not dialled. The route is specific to ham4db.
pub(crate) async fn undiscovered(State(shared): State<Shared>) -> Json<Vec<UndiscoveredShape>> {
    Json(
        ApiView::now(&shared.app)
            .instances()
            .flat_map(|(view, instance)| {
                let named_by = instance.not_followed.iter();
                named_by.map(move |entry| UndiscoveredShape::of(view, &instance.key, entry))
            })
            .collect(),
    )
}

fn is_problem(shared: &Shared, key: &InstanceKey, shape: &InstanceShape) -> bool {
    !shape.problems.is_empty() && !shape.is_downtimed && !shared.app.options.problem_ignore.matches(key)
}

// === changes ===

pub(crate) async fn discover(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<InstanceShape> {
    let key = parameters::instance(&host, &port)?;
    let probed = shared.app.api.discover(&key).await?;
    let api_view = ApiView::now(&shared.app);
    // A server that was just discovered may not be in a topology yet: this response shows it as a cluster of one.
    let shape = match api_view.find_instance(&key) {
        Ok((view, instance)) => InstanceShape::of(&api_view, view, instance),
        Err(_) => InstanceShape::of(&api_view, &alone(&api_view, probed.clone()), &probed),
    };
    Ok(success(format!("Instance discovered: {key}"), shape))
}

fn alone(api_view: &ApiView<'_>, instance: crate::domain::instance::Instance) -> ClusterView {
    use crate::domain::state::Cluster;
    use crate::domain::topology::{ClusterId, Topology};
    let id = ClusterId(String::new());
    let cluster = Cluster {
        id: id.clone(),
        created_at: api_view.now,
        name: instance.key.to_string(),
        alias: String::new(),
        epoch: 0,
        instances: [instance.key.clone()].into(),
        primary: None,
        document: None,
        split_from: None,
    };
    let topology = Topology {
        cluster: id,
        cluster_name: cluster.name.clone(),
        cluster_alias: String::new(),
        recorded_primary: None,
        taken: api_view.now,
        instances: BTreeMap::from([(instance.key.clone(), instance)]),
        aliases: BTreeMap::new(),
    };
    ClusterView {
        cluster,
        topology,
        findings: Vec::new(),
        policy: crate::domain::policy::Policy::default(),
        automated_recovery: false,
    }
}

pub(crate) async fn discover_later(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<()> {
    let key = parameters::instance(&host, &port)?;
    shared.app.api.discover_later(&key).await?;
    Ok(success(
        format!("Asynchronous discovery initiated for Instance: {key}"),
        (),
    ))
}

pub(crate) async fn refresh(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<Key> {
    let key = parameters::instance(&host, &port)?;
    shared.app.api.refresh(&key).await?;
    Ok(success(format!("Instance refreshed: {key}"), Key::from(&key)))
}

pub(crate) async fn forget(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<Key> {
    let key = parameters::instance(&host, &port)?;
    shared.app.api.forget(&key).await?;
    Ok(success(format!("Instance forgotten: {key}"), Key::from(&key)))
}

/// Ends the quarantine of a failed primary. The route is specific to ham4db.
pub(crate) async fn release_quarantine(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<Key> {
    let key = parameters::instance(&host, &port)?;
    shared.app.api.release_quarantine(&key).await?;
    Ok(success(format!("Quarantine released: {key}"), Key::from(&key)))
}

pub(crate) async fn forget_cluster(State(shared): State<Shared>, Path(hint): Path<String>) -> Enveloped<String> {
    let (id, name) = {
        let api_view = ApiView::now(&shared.app);
        let view = api_view.find_cluster(&hint)?;
        (view.cluster.id.clone(), view.cluster.name.clone())
    };
    shared.app.api.forget_cluster(&id).await?;
    Ok(success(format!("Cluster forgotten: {name}"), name))
}

/// The address under which an instance is known, for records about it. An instance that only the recorded clusters or the seeds name
/// is known too: after a restart these exist before the first probe ends.
pub(crate) fn known(api_view: &ApiView<'_>, key: &InstanceKey) -> Result<InstanceKey, ApiError> {
    if let Ok((_, instance)) = api_view.find_instance(key) {
        return Ok(instance.key.clone());
    }
    let recorded = api_view
        .state
        .clusters
        .values()
        .any(|cluster| cluster.instances.contains(key));
    let seed = api_view.state.seeds.iter().any(|seed| seed.instance == *key);
    if recorded || seed {
        Ok(key.clone())
    } else {
        Err(ApiError::NotFound(format!("Cannot read instance: {key}")))
    }
}
