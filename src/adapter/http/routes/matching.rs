//! Places by Pseudo-GTID: the last entry of a server, and replicas that are put below another server.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, done};
use crate::adapter::http::server::Shared;
use crate::adapter::http::shape::Key;
use crate::adapter::http::shape::instance::InstanceShape;
use crate::app::api::ApiError;
use crate::domain::key::InstanceKey;

use super::instances::known;

type Pair = Path<(String, String)>;
type TwoPairs = Path<(String, String, String, String)>;
type Words = Query<BTreeMap<String, String>>;

/// `Details` is the entry's text, as orchestrator answers.
pub(in crate::adapter::http) async fn last_entry(
    State(shared): State<Shared>,
    Path((host, port)): Pair,
) -> Enveloped<String> {
    let instance = find(&shared, &host, &port)?;
    let entry = shared.app.api.last_entry(&instance).await?;
    Ok(done(entry.at.to_string(), entry.text))
}

pub(in crate::adapter::http) async fn below(
    State(shared): State<Shared>,
    Path((host, port, below_host, below_port)): TwoPairs,
) -> Enveloped<InstanceShape> {
    let target = find(&shared, &below_host, &below_port)?;
    one(&shared, &find(&shared, &host, &port)?, Some(&target)).await
}

pub(in crate::adapter::http) async fn up(
    State(shared): State<Shared>,
    Path((host, port)): Pair,
) -> Enveloped<InstanceShape> {
    one(&shared, &find(&shared, &host, &port)?, None).await
}

pub(in crate::adapter::http) async fn replicas_below(
    State(shared): State<Shared>,
    Path((host, port, below_host, below_port)): TwoPairs,
    Query(words): Words,
) -> Enveloped<Key> {
    let target = find(&shared, &below_host, &below_port)?;
    several(&shared, &find(&shared, &host, &port)?, Some(&target), &words).await
}

pub(in crate::adapter::http) async fn replicas_up(
    State(shared): State<Shared>,
    Path((host, port)): Pair,
    Query(words): Words,
) -> Enveloped<Key> {
    several(&shared, &find(&shared, &host, &port)?, None, &words).await
}

fn find(shared: &Shared, host: &str, port: &str) -> Result<InstanceKey, Failure> {
    let key = parameters::instance(host, port)?;
    Ok(known(&ApiView::now(&shared.app), &key)?)
}

/// `Details` is the instance as it is now; the message has the place.
async fn one(shared: &Shared, instance: &InstanceKey, target: Option<&InstanceKey>) -> Enveloped<InstanceShape> {
    let (target, told) = shared.app.api.match_below(instance, target).await?;
    let api_view = ApiView::now(&shared.app);
    let (view, found) = api_view.find_instance(instance)?;
    Ok(done(
        format!("Instance {instance} matched below {target}: {told}"),
        InstanceShape::of(&api_view, view, found),
    ))
}

/// `Details` is the target. When none could be moved that is a conflict, with all the reasons.
async fn several(
    shared: &Shared,
    source: &InstanceKey,
    target: Option<&InstanceKey>,
    words: &BTreeMap<String, String>,
) -> Enveloped<Key> {
    let pattern = words.get("pattern").map(String::as_str);
    let placed = shared.app.api.match_replicas(source, target, pattern).await?;
    if placed.moved.is_empty() && !placed.errors.is_empty() {
        return Err(ApiError::Conflict(placed.errors.join("; ")).into());
    }
    let errors = if placed.errors.is_empty() {
        String::new()
    } else {
        format!(", {} errors: {}", placed.errors.len(), placed.errors.join("; "))
    };
    let target = placed.target.unwrap_or_else(|| source.clone());
    Ok(done(
        format!("Matched {} replicas below {target}{errors}", placed.moved.len()),
        Key::from(&target),
    ))
}
