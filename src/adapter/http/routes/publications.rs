//! Where primaries are published: orchestrator's pairs, and the last result of each publisher.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::reply::{Enveloped, success};
use crate::adapter::http::shape::Key;
use crate::app::api::KeyValue;
use crate::domain::topology::ClusterId;

/// One pair, as orchestrator names its parts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Pair {
    key: String,
    value: String,
}

pub(crate) async fn submit_all(State(shared): State<Shared>) -> Enveloped<Vec<Pair>> {
    submit(&shared, None).await
}

pub(crate) async fn submit_one(State(shared): State<Shared>, Path(hint): Path<String>) -> Enveloped<Vec<Pair>> {
    let cluster = ApiView::now(&shared.app).find_cluster(&hint)?.cluster.id.clone();
    submit(&shared, Some(&cluster)).await
}

async fn submit(shared: &Shared, only: Option<&ClusterId>) -> Enveloped<Vec<Pair>> {
    let pairs = shared.app.api.submit_primaries(only).await?;
    let pairs: Vec<Pair> = pairs
        .into_iter()
        .map(|KeyValue { key, value }| Pair { key, value })
        .collect();
    Ok(success(
        format!("Submitted {} masters key-value store", pairs.len()),
        pairs,
    ))
}

/// The last result of one publisher for one cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Published {
    publisher: String,
    cluster_id: String,
    name: String,
    /// Where clients are led, as far as is known; `null` after a withdrawal.
    primary: Option<Key>,
    /// Why the last attempt failed; empty after a success.
    error: String,
}

pub(crate) async fn all(State(shared): State<Shared>) -> Json<Vec<Published>> {
    let statuses = shared.app.api.publications().into_iter();
    let shape = statuses.map(|((publisher, cluster), status)| Published {
        publisher,
        cluster_id: cluster.to_string(),
        name: status.name,
        primary: status.leads_to.as_ref().map(Key::from),
        error: status.failure.map(|failure| failure.why).unwrap_or_default(),
    });
    Json(shape.collect())
}
