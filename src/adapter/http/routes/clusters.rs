//! Clusters, their primaries, and topologies as text.

use axum::Json;
use axum::extract::{Path, State};

use crate::app::api::ApiError;
use crate::domain::case::Case;
use crate::domain::cluster_view::ClusterView;
use crate::domain::instance::InstanceFacts;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Reply, success};
use crate::adapter::http::shape::cluster::ClusterInfo;
use crate::adapter::http::shape::instance::InstanceShape;
use crate::adapter::http::topology_text::{self, Style};

type Host = Path<(String, String)>;

pub(crate) async fn names(State(shared): State<Shared>) -> Json<Vec<String>> {
    let api_view = ApiView::now(&shared.app);
    let mut names: Vec<String> = api_view.views.iter().map(|view| view.cluster.name.clone()).collect();
    names.sort();
    Json(names)
}

pub(crate) async fn infos(State(shared): State<Shared>) -> Json<Vec<ClusterInfo>> {
    let api_view = ApiView::now(&shared.app);
    let mut infos: Vec<ClusterInfo> = api_view.views.iter().map(|view| ClusterInfo::of(view)).collect();
    infos.sort_by(|left, right| left.cluster_name.cmp(&right.cluster_name));
    Json(infos)
}

pub(crate) async fn info(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<ClusterInfo> {
    Ok(Json(ClusterInfo::of(ApiView::now(&shared.app).find_cluster(&hint)?)))
}

pub(crate) async fn info_by_alias(State(shared): State<Shared>, Path(alias): Path<String>) -> Reply<ClusterInfo> {
    Ok(Json(ClusterInfo::of(ApiView::now(&shared.app).find_alias(&alias)?)))
}

fn members(api_view: &ApiView<'_>, view: &ClusterView) -> Vec<InstanceShape> {
    view.topology
        .instances
        .values()
        .map(|instance| InstanceShape::of(api_view, view, instance))
        .collect()
}

pub(crate) async fn instances(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<Vec<InstanceShape>> {
    let api_view = ApiView::now(&shared.app);
    Ok(Json(members(&api_view, api_view.find_cluster(&hint)?)))
}

pub(crate) async fn instances_by_alias(
    State(shared): State<Shared>,
    Path(alias): Path<String>,
) -> Reply<Vec<InstanceShape>> {
    let api_view = ApiView::now(&shared.app);
    Ok(Json(members(&api_view, api_view.find_alias(&alias)?)))
}

pub(crate) async fn instances_beside(
    State(shared): State<Shared>,
    Path((host, port)): Host,
) -> Reply<Vec<InstanceShape>> {
    let key = parameters::instance(&host, &port)?;
    let api_view = ApiView::now(&shared.app);
    let (view, _) = api_view.find_instance(&key)?;
    Ok(Json(members(&api_view, view)))
}

/// The primaries that are writable by their last known facts. A failed primary stays in the list until it is replaced.
pub(crate) async fn primaries(State(shared): State<Shared>) -> Json<Vec<InstanceShape>> {
    let api_view = ApiView::now(&shared.app);
    let shapes = api_view.views.iter().filter_map(|view| {
        let primary = ApiView::primary_of(view)?;
        let writable = primary.facts.as_ref().is_some_and(InstanceFacts::is_writable);
        writable.then(|| InstanceShape::of(&api_view, view, primary))
    });
    Json(shapes.collect())
}

pub(crate) async fn primary(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<InstanceShape> {
    let api_view = ApiView::now(&shared.app);
    let view = api_view.find_cluster(&hint)?;
    let primary = ApiView::primary_of(view)
        .ok_or_else(|| ApiError::NotFound(format!("Unable to find a primary in cluster {}", view.cluster.name)))?;
    Ok(Json(InstanceShape::of(&api_view, view, primary)))
}

fn text_by_hint(shared: &Shared, hint: &str, style: Style) -> Enveloped<String> {
    let api_view = ApiView::now(&shared.app);
    let view = api_view.find_cluster(hint)?;
    Ok(success(
        format!("Topology for cluster {}", view.cluster.name),
        topology_text::print(&api_view, view, style),
    ))
}

fn text_by_instance(shared: &Shared, host: &str, port: &str, style: Style) -> Enveloped<String> {
    let key = parameters::instance(host, port)?;
    let api_view = ApiView::now(&shared.app);
    let (view, _) = api_view.find_instance(&key)?;
    Ok(success(
        format!("Topology for cluster {}", view.cluster.name),
        topology_text::print(&api_view, view, style),
    ))
}

pub(crate) async fn topology(State(shared): State<Shared>, Path(hint): Path<String>) -> Enveloped<String> {
    text_by_hint(&shared, &hint, Style::Brackets)
}

pub(crate) async fn topology_of(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<String> {
    text_by_instance(&shared, &host, &port, Style::Brackets)
}

pub(crate) async fn tabulated(State(shared): State<Shared>, Path(hint): Path<String>) -> Enveloped<String> {
    text_by_hint(&shared, &hint, Style::Tabulated)
}

pub(crate) async fn tabulated_of(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<String> {
    text_by_instance(&shared, &host, &port, Style::Tabulated)
}

/// A topology for `ham4db simulate`. The route is specific to ham4db.
pub(crate) async fn case(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<Case> {
    let api_view = ApiView::now(&shared.app);
    let view = api_view.find_cluster(&hint)?;
    Ok(Json(shared.app.api.save_case(&view.cluster.id)?))
}

/// Makes a cluster of an instance and all that replicates from it. The route is specific to ham4db.
pub(crate) async fn split(State(shared): State<Shared>, Path((host, port)): Host) -> Enveloped<String> {
    let key = parameters::instance(&host, &port)?;
    let head = {
        let api_view = ApiView::now(&shared.app);
        let (_, instance) = api_view.find_instance(&key)?;
        instance.key.clone()
    };
    let id = shared.app.api.split_cluster(&head).await?;
    Ok(success(
        format!("Cluster split: {head} heads a cluster of its own"),
        id.to_string(),
    ))
}

/// Merges two clusters. The route is specific to ham4db.
pub(crate) async fn merge(State(shared): State<Shared>, Path((hint, other)): Host) -> Enveloped<String> {
    let (one, other) = {
        let api_view = ApiView::now(&shared.app);
        let id = |hint: &str| api_view.find_cluster(hint).map(|view| view.cluster.id.clone());
        (id(&hint)?, id(&other)?)
    };
    let id = shared.app.api.merge_clusters(&one, &other).await?;
    Ok(success("Clusters merged", id.to_string()))
}
