//! Downtimes and promotion rules.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::domain::intent::{Intent, IntentDetails, IntentId, IntentKind, Origin, PromotionRule};
use crate::domain::time::WallTime;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, Reply, success};
use crate::adapter::http::shape::instance::InstanceShape;
use crate::adapter::http::shape::{ENDLESS, Key, time_text};

use super::instances::known;

/// Length of a downtime without a duration. In orchestrator the call succeeded without an effect.
const DEFAULT_DOWNTIME: Duration = Duration::from_mins(10);

/// Maximum length of an owner or a reason, bytes: both are stored in the log of every member.
const MAX_TEXT: usize = 1024;

fn later(now: WallTime, duration: Duration) -> WallTime {
    now.plus_millis(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) async fn downtimed(State(shared): State<Shared>) -> Json<Vec<InstanceShape>> {
    Json(InstanceShape::all_where(&ApiView::now(&shared.app), |_, _, shape| {
        shape.is_downtimed
    }))
}

pub(crate) async fn downtimed_of(State(shared): State<Shared>, Path(hint): Path<String>) -> Reply<Vec<InstanceShape>> {
    let api_view = ApiView::now(&shared.app);
    let cluster = &api_view.find_cluster(&hint)?.cluster.id;
    Ok(Json(InstanceShape::all_where(&api_view, |view, _, shape| {
        view.cluster.id == *cluster && shape.is_downtimed
    })))
}

pub(crate) async fn begin_downtime(
    State(shared): State<Shared>,
    Path((host, port, owner, reason)): Path<(String, String, String, String)>,
) -> Enveloped<Key> {
    begin(&shared, &host, &port, owner, reason, DEFAULT_DOWNTIME).await
}

pub(crate) async fn begin_downtime_for(
    State(shared): State<Shared>,
    Path((host, port, owner, reason, duration)): Path<(String, String, String, String, String)>,
) -> Enveloped<Key> {
    let duration = parameters::duration(&duration)?;
    begin(&shared, &host, &port, owner, reason, duration).await
}

async fn begin(
    shared: &Shared,
    host: &str,
    port: &str,
    owner: String,
    reason: String,
    duration: Duration,
) -> Enveloped<Key> {
    let key = parameters::instance(host, port)?;
    if owner.len() > MAX_TEXT || reason.len() > MAX_TEXT {
        return Err(Failure::bad_request(format!(
            "owner and reason may have {MAX_TEXT} bytes each"
        )));
    }
    let (instance, now) = {
        let api_view = ApiView::now(&shared.app);
        (known(&api_view, &key)?, api_view.now)
    };
    let details = IntentDetails::Downtime {
        owner,
        reason,
        since: now,
        until: Some(later(now, duration)),
    };
    shared
        .app
        .api
        .set_intent(Intent {
            instance: instance.clone(),
            origin: Origin::Api,
            details,
        })
        .await?;
    Ok(success(format!("Downtime begun: {instance}"), Key::from(&instance)))
}

/// Ends the downtime of the API. A downtime that a document asks for stays, and the response names it.
pub(crate) async fn end_downtime(
    State(shared): State<Shared>,
    Path((host, port)): Path<(String, String)>,
) -> Enveloped<Key> {
    let key = parameters::instance(&host, &port)?;
    let (instance, own, others) = {
        let api_view = ApiView::now(&shared.app);
        let instance = known(&api_view, &key)?;
        let active = api_view.state.intents.values().filter(|intent| {
            intent.instance == instance
                && matches!(intent.details, IntentDetails::Downtime { .. })
                && intent.details.is_active(api_view.now)
        });
        // A downtime that a recovery set ends too: it has no other owner.
        let (own, others): (Vec<&Intent>, Vec<&Intent>) =
            active.partition(|intent| matches!(intent.origin, Origin::Api | Origin::Recovery));
        let others: Vec<String> = others.iter().map(|intent| intent.origin.to_string()).collect();
        (instance, !own.is_empty(), others)
    };
    let id = IntentId {
        kind: IntentKind::Downtime,
        instance: instance.clone(),
        origin: Origin::Api,
    };
    shared.app.api.end_intent(id).await?;
    let message = match (own, others.is_empty()) {
        (_, false) => format!("Downtime ended: {instance}; still in downtime by {}", others.join(", ")),
        (true, true) => format!("Downtime ended: {instance}"),
        (false, true) => format!("Not in downtime: {instance}"),
    };
    Ok(success(message, Key::from(&instance)))
}

pub(crate) async fn register_candidate(
    State(shared): State<Shared>,
    Path((host, port, rule)): Path<(String, String, String)>,
) -> Enveloped<Key> {
    let key = parameters::instance(&host, &port)?;
    let rule = PromotionRule::parse(&rule).ok_or_else(|| {
        Failure::bad_request(format!(
            "Invalid promotion rule: {rule}; one of must, prefer, neutral, prefer_not, must_not"
        ))
    })?;
    let (instance, now) = {
        let api_view = ApiView::now(&shared.app);
        (known(&api_view, &key)?, api_view.now)
    };
    let details = IntentDetails::Candidate {
        rule,
        until: shared.app.options.candidate_expiry.map(|expiry| later(now, expiry)),
    };
    shared
        .app
        .api
        .set_intent(Intent {
            instance: instance.clone(),
            origin: Origin::Api,
            details,
        })
        .await?;
    Ok(success("Registered candidate", Key::from(&instance)))
}

/// A promotion rule as `bulk-promotion-rules` lists it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PromotionRuleShape {
    hostname: String,
    port: u16,
    promotion_rule: &'static str,
    last_suggested_string: String,
    promotion_rule_expiry: String,
}

pub(crate) async fn promotion_rules(State(shared): State<Shared>) -> Json<Vec<PromotionRuleShape>> {
    let api_view = ApiView::now(&shared.app);
    let rules = api_view
        .state
        .intents
        .values()
        .filter(|intent| intent.details.is_active(api_view.now))
        .filter_map(|intent| match &intent.details {
            IntentDetails::Candidate { rule, until } => Some(PromotionRuleShape {
                hostname: intent.instance.hostname.clone(),
                port: intent.instance.port,
                promotion_rule: rule.as_str(),
                last_suggested_string: String::new(),
                promotion_rule_expiry: until.map_or_else(|| ENDLESS.to_owned(), time_text),
            }),
            IntentDetails::Downtime { .. } => None,
        });
    Json(rules.collect())
}
