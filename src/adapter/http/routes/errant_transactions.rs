//! Errant transactions: what they are, and the two remedies.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, Query, State};

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, Reply, success};
use crate::adapter::http::shape::Key;
use crate::domain::errant::{ErrantReport, Remedy};
use crate::domain::key::InstanceKey;

type Address = Path<(String, String)>;

/// Value of `confirm` that a reset of the binary logs requires.
const CONFIRMED: &str = "data-differs";

fn known(shared: &Shared, host: &str, port: &str) -> Result<InstanceKey, Failure> {
    let key = parameters::instance(host, port)?;
    let api_view = ApiView::now(&shared.app);
    Ok(api_view.find_instance(&key)?.1.key.clone())
}

pub(crate) async fn show(State(shared): State<Shared>, Path((host, port)): Address) -> Reply<ErrantReport> {
    let instance = known(&shared, &host, &port)?;
    Ok(Json(shared.app.api.errant(&instance).await?))
}

/// The binary logs that contain errant transactions.
pub(crate) async fn locate(State(shared): State<Shared>, Path((host, port)): Address) -> Enveloped<BTreeSet<String>> {
    let instance = known(&shared, &host, &port)?;
    let report = shared.app.api.errant(&instance).await?;
    let files = report.decoded.shown.into_iter().map(|it| it.file).collect();
    Ok(success(format!("located errant GTID on {instance}"), files))
}

/// `Details` is the primary, as in orchestrator.
pub(crate) async fn inject_empty(State(shared): State<Shared>, Path((host, port)): Address) -> Enveloped<Key> {
    let instance = known(&shared, &host, &port)?;
    let uid = shared.app.api.resolve_errant(&instance, Remedy::InjectEmpty).await?;
    let api_view = ApiView::now(&shared.app);
    let (view, _) = api_view.find_instance(&instance)?;
    let primary = ApiView::primary_of(view).map_or_else(|| instance.clone(), |primary| primary.key.clone());
    Ok(success(
        format!("Have injected the errant transactions of {instance} on cluster master {primary} (recovery {uid})"),
        Key::from(&primary),
    ))
}

pub(crate) async fn reset(
    State(shared): State<Shared>,
    Path(address): Address,
    Query(query): Query<BTreeMap<String, String>>,
) -> Enveloped<Key> {
    if query.get("confirm").is_none_or(|value| value != CONFIRMED) {
        return Err(Failure::bad_request(format!(
            "the server keeps rows that no other server has, and replication continues: confirm this with confirm={CONFIRMED}"
        )));
    }
    reset_master(State(shared), Path(address)).await
}

/// Orchestrator's route. Its clients send no confirmation.
pub(crate) async fn reset_master(State(shared): State<Shared>, Path((host, port)): Address) -> Enveloped<Key> {
    let instance = known(&shared, &host, &port)?;
    let uid = shared.app.api.resolve_errant(&instance, Remedy::Reset).await?;
    Ok(success(
        format!("Removed errant GTID on {instance} and issued a RESET MASTER (recovery {uid})"),
        Key::from(&instance),
    ))
}
