//! The audit: what was done, when, and on which server.

use axum::Json;
use axum::extract::{Path, State};

use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters::{self, paged};
use crate::adapter::http::reply::Reply;
use crate::adapter::http::shape::audit::AuditShape;
use crate::domain::state::record::AuditEntry;

/// The entries for which `wanted` holds and that are not older than `AuditPurgeDays`, the latest first.
fn shapes(shared: &Shared, wanted: impl Fn(&AuditEntry) -> bool, page: usize) -> Json<Vec<AuditShape>> {
    let (state, now) = (shared.app.api.state(), shared.app.clock.wall());
    let kept_millis = u64::try_from(shared.app.options.audit_for.as_millis()).unwrap_or(u64::MAX);
    let is_shown = |entry: &&AuditEntry| now.millis_since(entry.at) <= kept_millis && wanted(entry);
    let entries = state.audit.values().rev().filter(is_shown);
    Json(paged(entries, page).into_iter().map(AuditShape::from).collect())
}

pub(crate) async fn all(State(shared): State<Shared>) -> Json<Vec<AuditShape>> {
    shapes(&shared, |_| true, 0)
}

pub(crate) async fn page(State(shared): State<Shared>, Path(page): Path<String>) -> Reply<Vec<AuditShape>> {
    Ok(shapes(&shared, |_| true, parameters::page(&page)?))
}

pub(crate) async fn of_instance(
    State(shared): State<Shared>,
    Path((host, port)): Path<(String, String)>,
) -> Reply<Vec<AuditShape>> {
    let key = parameters::instance(&host, &port)?;
    Ok(shapes(&shared, |entry| entry.instance.as_ref() == Some(&key), 0))
}

pub(crate) async fn of_instance_page(
    State(shared): State<Shared>,
    Path((host, port, page)): Path<(String, String, String)>,
) -> Reply<Vec<AuditShape>> {
    let key = parameters::instance(&host, &port)?;
    let page = parameters::page(&page)?;
    Ok(shapes(&shared, |entry| entry.instance.as_ref() == Some(&key), page))
}
