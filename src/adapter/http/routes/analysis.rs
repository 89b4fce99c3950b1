//! The current findings.

use crate::domain::cluster_view::{ClusterView, JudgedFinding};
use axum::Json;
use axum::extract::{Path, State};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, success};
use crate::adapter::http::shape::analysis::{AnalysisShape, ChangesShape, is_shown};

fn analysis(
    shared: &Shared,
    api_view: &ApiView<'_>,
    wanted: impl Fn(&ClusterView, &JudgedFinding) -> bool,
) -> Vec<AnalysisShape> {
    let me = shared.app.consensus.me();
    let mut shapes = Vec::new();
    for view in &api_view.views {
        for judged in view
            .findings
            .iter()
            .filter(|judged| is_shown(&judged.finding) && wanted(view, judged))
        {
            shapes.push(AnalysisShape::of(api_view, view, judged, &me));
        }
    }
    shapes
}

pub(crate) async fn all(State(shared): State<Shared>) -> Enveloped<Vec<AnalysisShape>> {
    let api_view = ApiView::now(&shared.app);
    Ok(success("Analysis", analysis(&shared, &api_view, |_, _| true)))
}

pub(crate) async fn of_cluster(
    State(shared): State<Shared>,
    Path(hint): Path<String>,
) -> Enveloped<Vec<AnalysisShape>> {
    let api_view = ApiView::now(&shared.app);
    let cluster = &api_view.find_cluster(&hint)?.cluster.id;
    Ok(success(
        "Analysis",
        analysis(&shared, &api_view, |view, _| view.cluster.id == *cluster),
    ))
}

pub(crate) async fn of_instance(
    State(shared): State<Shared>,
    Path((host, port)): Path<(String, String)>,
) -> Enveloped<Vec<AnalysisShape>> {
    let key = parameters::instance(&host, &port)?;
    let api_view = ApiView::now(&shared.app);
    let key = api_view.find_instance(&key)?.1.key.clone();
    Ok(success(
        "Analysis",
        analysis(&shared, &api_view, |_, judged| judged.finding.instance == key),
    ))
}

/// `[{"AnalyzedInstanceKey", "Changelog": ["TIME;CODE"]}]`, the oldest change first.
pub(crate) async fn changes(State(shared): State<Shared>) -> Json<Vec<ChangesShape>> {
    Json(shared.app.api.analysis_changes().iter().map(ChangesShape::of).collect())
}
