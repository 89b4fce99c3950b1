//! Manual recoveries, acknowledgements, and the global switch.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Serialize;

use crate::app::api::RecoveryOutcome;
use crate::domain::key::InstanceKey;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, success};
use crate::adapter::http::shape::Key;

use super::records;

type QueryParameters = Query<BTreeMap<String, String>>;

// === manual recoveries ===

type Pair = Path<(String, String)>;
type TwoPairs = Path<(String, String, String, String)>;

pub(crate) async fn recover(
    State(shared): State<Shared>,
    Path((host, port)): Pair,
    Query(query): QueryParameters,
) -> Enveloped<Key> {
    run(&shared, parameters::instance(&host, &port)?, None, skips_hooks(&query)).await
}

pub(crate) async fn recover_to(
    State(shared): State<Shared>,
    Path((host, port, candidate_host, candidate_port)): TwoPairs,
    Query(query): QueryParameters,
) -> Enveloped<Key> {
    let candidate = parameters::instance(&candidate_host, &candidate_port)?;
    let instance = parameters::instance(&host, &port)?;
    run(&shared, instance, Some(candidate), skips_hooks(&query)).await
}

pub(crate) async fn recover_lite(State(shared): State<Shared>, Path((host, port)): Pair) -> Enveloped<Key> {
    run(&shared, parameters::instance(&host, &port)?, None, true).await
}

pub(crate) async fn recover_lite_to(
    State(shared): State<Shared>,
    Path((host, port, candidate_host, candidate_port)): TwoPairs,
) -> Enveloped<Key> {
    let candidate = parameters::instance(&candidate_host, &candidate_port)?;
    run(&shared, parameters::instance(&host, &port)?, Some(candidate), true).await
}

fn skips_hooks(query: &BTreeMap<String, String>) -> bool {
    query.get("skipProcesses").is_some_and(|value| value == "true")
}

async fn run(
    shared: &Shared,
    requested: InstanceKey,
    candidate: Option<InstanceKey>,
    skips_hooks: bool,
) -> Enveloped<Key> {
    let (instance, candidate) = {
        let api_view = ApiView::now(&shared.app);
        let instance = api_view.find_instance(&requested)?.1.key.clone();
        let candidate = candidate
            .map(|key| api_view.find_instance(&key).map(|(_, found)| found.key.clone()))
            .transpose()?;
        (instance, candidate)
    };
    match shared
        .app
        .api
        .recover(&instance, candidate.as_ref(), skips_hooks)
        .await?
    {
        RecoveryOutcome::Promoted { uid: _, successor } => Ok(success(
            format!("Recovery executed on {instance}"),
            Key::from(&successor),
        )),
        RecoveryOutcome::NotAttempted { why } => Err(Failure::new(
            StatusCode::CONFLICT,
            format!("Recovery not attempted: {why}"),
        )
        .with_details(Key::from(&instance))),
        RecoveryOutcome::NothingPromoted { uid, why } => {
            let message = format!("Recovery attempted but no instance promoted (recovery {uid}): {why}");
            Err(Failure::new(StatusCode::CONFLICT, message).with_details(Key::from(&instance)))
        }
    }
}

// === acknowledgements ===

fn comment(query: &BTreeMap<String, String>) -> Result<String, Failure> {
    let comment = query.get("comment").map_or("", String::as_str).trim();
    if comment.is_empty() {
        Err(Failure::bad_request("No acknowledge comment given"))
    } else {
        Ok(comment.to_owned())
    }
}

async fn acknowledge(shared: &Shared, uids: Vec<String>, comment: &str) -> Result<u64, Failure> {
    if uids.is_empty() {
        return Ok(0);
    }
    // Write tokens do not identify a user, so no name is recorded.
    Ok(shared.app.api.acknowledge(uids, "", comment).await?)
}

pub(crate) async fn ack_cluster(
    State(shared): State<Shared>,
    Path(hint): Path<String>,
    Query(query): QueryParameters,
) -> Enveloped<String> {
    let comment = comment(&query)?;
    let (id, name) = {
        let api_view = ApiView::now(&shared.app);
        let view = api_view.find_cluster(&hint)?;
        (view.cluster.id.clone(), view.cluster.name.clone())
    };
    let uids = records::open_uids(&shared.app.api.state(), |recovery| recovery.plan.cluster == id);
    acknowledge(&shared, uids, &comment).await?;
    Ok(success("Acknowledged cluster recoveries", name))
}

pub(crate) async fn ack_alias(
    State(shared): State<Shared>,
    Path(alias): Path<String>,
    Query(query): QueryParameters,
) -> Enveloped<String> {
    let comment = comment(&query)?;
    let id = ApiView::now(&shared.app).find_alias(&alias)?.cluster.id.clone();
    let uids = records::open_uids(&shared.app.api.state(), |recovery| recovery.plan.cluster == id);
    acknowledge(&shared, uids, &comment).await?;
    Ok(success("Acknowledged cluster recoveries", alias))
}

pub(crate) async fn ack_instance(
    State(shared): State<Shared>,
    Path((host, port)): Path<(String, String)>,
    Query(query): QueryParameters,
) -> Enveloped<Key> {
    let key = parameters::instance(&host, &port)?;
    let comment = comment(&query)?;
    let uids = records::open_uids(&shared.app.api.state(), |recovery| recovery.plan.old_primary == key);
    acknowledge(&shared, uids, &comment).await?;
    Ok(success("Acknowledged instance recoveries", Key::from(&key)))
}

pub(crate) async fn ack_id(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(query): QueryParameters,
) -> Enveloped<String> {
    let number: u64 = id
        .parse()
        .map_err(|_| Failure::bad_request(format!("Invalid id: {id}")))?;
    let comment = comment(&query)?;
    let uid = records::find(&shared.app.api.state(), |recovery| recovery.id == number, &id)?;
    acknowledge(&shared, vec![uid], &comment).await?;
    Ok(success("Acknowledged recovery", id))
}

pub(crate) async fn ack_uid(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
    Query(query): QueryParameters,
) -> Enveloped<String> {
    let comment = comment(&query)?;
    let found = records::find(&shared.app.api.state(), |recovery| recovery.uid == uid, &uid)?;
    acknowledge(&shared, vec![found], &comment).await?;
    Ok(success("Acknowledged recovery", uid))
}

pub(crate) async fn ack_all(State(shared): State<Shared>, Query(query): QueryParameters) -> Enveloped<String> {
    let comment = comment(&query)?;
    let uids = records::open_uids(&shared.app.api.state(), |_| true);
    acknowledge(&shared, uids, &comment).await?;
    Ok(success("Acknowledged all recoveries", comment))
}

// === the global switch ===

pub(crate) async fn disable(State(shared): State<Shared>) -> Enveloped<&'static str> {
    shared.app.api.set_global_recoveries(false).await?;
    Ok(success("Globally disabled recoveries", "disabled"))
}

pub(crate) async fn enable(State(shared): State<Shared>) -> Enveloped<&'static str> {
    shared.app.api.set_global_recoveries(true).await?;
    Ok(success("Globally enabled recoveries", "enabled"))
}

pub(crate) async fn check(State(shared): State<Shared>) -> Enveloped<&'static str> {
    let state = if shared.app.api.state().recoveries_disabled {
        "disabled"
    } else {
        "enabled"
    };
    Ok(success(format!("Global recoveries {state}"), state))
}

/// The configured filters. A cluster with a document is enabled by its document, whatever the filters are.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_field_names, reason = "the names are the contract")]
pub(crate) struct RecoveryFilters {
    recover_intermediate_master_cluster_filters: Vec<String>,
    recover_master_cluster_filters: Vec<String>,
    recovery_ignore_hostname_filters: Vec<String>,
}

pub(crate) async fn filters(
    State(shared): State<Shared>,
) -> Json<crate::adapter::http::reply::Envelope<RecoveryFilters>> {
    let options = &shared.app.options;
    let filters = RecoveryFilters {
        recover_intermediate_master_cluster_filters: options.intermediate_filters.clone(),
        recover_master_cluster_filters: options.primary_filters.clone(),
        recovery_ignore_hostname_filters: options.recovery_ignore.clone(),
    };
    success("Automated recovery configuration details", filters)
}
