//! What would be done if a primary died now, and what stands in the way.

use axum::Json;
use axum::extract::{Path, State};

use crate::adapter::http::reply::Reply;
use crate::adapter::http::scene::Scene;
use crate::adapter::http::server::Shared;
use crate::domain::explain::Explanation;

pub(in crate::adapter::http) async fn all(State(shared): State<Shared>) -> Json<Vec<Explanation>> {
    let scene = Scene::now(&shared.app);
    Json(scene.views.iter().map(|view| scene.explain(view)).collect())
}

pub(in crate::adapter::http) async fn of_cluster(
    State(shared): State<Shared>,
    Path(hint): Path<String>,
) -> Reply<Explanation> {
    let scene = Scene::now(&shared.app);
    Ok(Json(scene.explain(scene.find_cluster(&hint)?)))
}
