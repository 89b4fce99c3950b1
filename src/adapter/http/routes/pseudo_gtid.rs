//! Pseudo-GTID: the last entry of a server, and repointing replicas by matching entries.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, success};
use crate::adapter::http::shape::Key;
use crate::adapter::http::shape::instance::InstanceShape;
use crate::app::api::ApiError;
use crate::domain::key::InstanceKey;

use super::instances::known;

type Pair = Path<(String, String)>;
type TwoPairs = Path<(String, String, String, String)>;
type QueryParameters = Query<BTreeMap<String, String>>;

/// `Details` is the text of the entry, as in orchestrator.
pub(crate) async fn last_entry(State(shared): State<Shared>, Path((host, port)): Pair) -> Enveloped<String> {
    let instance = find(&shared, &host, &port)?;
    let entry = shared.app.api.last_entry(&instance).await?;
    Ok(success(entry.at.to_string(), entry.text))
}

pub(crate) async fn below(
    State(shared): State<Shared>,
    Path((host, port, below_host, below_port)): TwoPairs,
) -> Enveloped<InstanceShape> {
    let target = find(&shared, &below_host, &below_port)?;
    one(&shared, &find(&shared, &host, &port)?, Some(&target)).await
}

pub(crate) async fn up(State(shared): State<Shared>, Path((host, port)): Pair) -> Enveloped<InstanceShape> {
    one(&shared, &find(&shared, &host, &port)?, None).await
}

pub(crate) async fn replicas_below(
    State(shared): State<Shared>,
    Path((host, port, below_host, below_port)): TwoPairs,
    Query(query): QueryParameters,
) -> Enveloped<Key> {
    let target = find(&shared, &below_host, &below_port)?;
    several(&shared, &find(&shared, &host, &port)?, Some(&target), &query).await
}

pub(crate) async fn replicas_up(
    State(shared): State<Shared>,
    Path((host, port)): Pair,
    Query(query): QueryParameters,
) -> Enveloped<Key> {
    several(&shared, &find(&shared, &host, &port)?, None, &query).await
}

fn find(shared: &Shared, host: &str, port: &str) -> Result<InstanceKey, Failure> {
    let key = parameters::instance(host, port)?;
    Ok(known(&ApiView::now(&shared.app), &key)?)
}

/// `Details` is the instance after the change; the message has the position.
async fn one(shared: &Shared, instance: &InstanceKey, target: Option<&InstanceKey>) -> Enveloped<InstanceShape> {
    let (target, position) = shared.app.api.match_below(instance, target).await?;
    let api_view = ApiView::now(&shared.app);
    let (view, found) = api_view.find_instance(instance)?;
    Ok(success(
        format!("Instance {instance} matched below {target}: {position}"),
        InstanceShape::of(&api_view, view, found),
    ))
}

/// `Details` is the target. When no replica could be moved, the response is 409 with all reasons.
async fn several(
    shared: &Shared,
    source: &InstanceKey,
    target: Option<&InstanceKey>,
    query: &BTreeMap<String, String>,
) -> Enveloped<Key> {
    let pattern = query.get("pattern").map(String::as_str);
    let relocated = shared.app.api.match_replicas(source, target, pattern).await?;
    if relocated.moved.is_empty() && !relocated.errors.is_empty() {
        return Err(ApiError::Conflict(relocated.errors.join("; ")).into());
    }
    let errors = if relocated.errors.is_empty() {
        String::new()
    } else {
        format!(", {} errors: {}", relocated.errors.len(), relocated.errors.join("; "))
    };
    let target = relocated.target.unwrap_or_else(|| source.clone());
    Ok(success(
        format!("Matched {} replicas below {target}{errors}", relocated.moved.len()),
        Key::from(&target),
    ))
}
