//! What a failover would do if a primary failed now, and what would prevent it.

use axum::Json;
use axum::extract::{Path, State};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::reply::Reply;
use crate::domain::explain::Explanation;

pub(crate) async fn all(State(shared): State<Shared>) -> Json<Vec<Explanation>> {
    let api_view = ApiView::now(&shared.app);
    Json(api_view.views.iter().map(|view| api_view.explain(view)).collect())
}

pub(crate) async fn of_cluster(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<Explanation> {
    let api_view = ApiView::now(&shared.app);
    Ok(Json(api_view.explain(api_view.find_cluster(&hint)?)))
}
