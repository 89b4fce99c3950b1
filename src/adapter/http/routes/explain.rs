//! What would be done if a primary died now, and what stands in the way.

use axum::Json;
use axum::extract::{Path, State};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::reply::Reply;
use crate::adapter::http::server::Shared;
use crate::domain::explain::Explanation;

pub(in crate::adapter::http) async fn all(State(shared): State<Shared>) -> Json<Vec<Explanation>> {
    let api_view = ApiView::now(&shared.app);
    Json(api_view.views.iter().map(|view| api_view.explain(view)).collect())
}

pub(in crate::adapter::http) async fn of_cluster(
    State(shared): State<Shared>,
    Path(hint): Path<String>,
) -> Reply<Explanation> {
    let api_view = ApiView::now(&shared.app);
    Ok(Json(api_view.explain(api_view.find_cluster(&hint)?)))
}
