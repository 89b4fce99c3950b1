//! Manual changes of a primary: takeovers and forced failovers.
//!
//! Each has up to four forms, which differ in the number of path segments: the cluster by hint or by one of its instances, each with or
//! without the designated successor.

use axum::extract::{Path, State};
use axum::http::StatusCode;

use crate::app::api::{PrimaryChange, PrimaryChangeOutcome};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::topology::ClusterId;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::context::Shared;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, success};
use crate::adapter::http::shape::recovery::RecoveryShape;

type Hint = Path<String>;
type Pair = Path<(String, String)>;
type HintAndPair = Path<(String, String, String)>;
type TwoPairs = Path<(String, String, String, String)>;

/// A kind of change, with orchestrator's messages for success and failure.
#[derive(Clone, Copy)]
struct ChangeKind {
    command: &'static str,
    forced: bool,
    starts_old_primary: bool,
    success: &'static str,
    failure: &'static str,
}

const TAKEOVER: ChangeKind = ChangeKind {
    command: "graceful-master-takeover",
    forced: false,
    starts_old_primary: false,
    success: "graceful-master-takeover: successor promoted",
    failure: "graceful-master-takeover: no successor promoted",
};

const TAKEOVER_AUTO: ChangeKind = ChangeKind {
    command: "graceful-master-takeover-auto",
    starts_old_primary: true,
    ..TAKEOVER
};

const FORCED_FAILOVER: ChangeKind = ChangeKind {
    command: "force-master-failover",
    forced: true,
    starts_old_primary: false,
    success: "Master failed over",
    failure: "Master not failed over",
};

const FORCED_TAKEOVER: ChangeKind = ChangeKind {
    command: "force-master-takeover",
    ..FORCED_FAILOVER
};

/// The forms of one change without a designated successor.
macro_rules! forms {
    ($kind:expr, $by_hint:ident, $by_instance:ident) => {
        pub(crate) async fn $by_hint(State(shared): State<Shared>, Path(hint): Hint) -> Enveloped<RecoveryShape> {
            let cluster = by_hint(&shared, &hint)?;
            change(&shared, $kind, cluster, None).await
        }

        pub(crate) async fn $by_instance(
            State(shared): State<Shared>,
            Path((host, port)): Pair,
        ) -> Enveloped<RecoveryShape> {
            let cluster = by_instance(&shared, &host, &port)?;
            change(&shared, $kind, cluster, None).await
        }
    };
}

/// The forms of one change with a designated successor.
macro_rules! designated_forms {
    ($kind:expr, $by_hint:ident, $by_instance:ident) => {
        pub(crate) async fn $by_hint(
            State(shared): State<Shared>,
            Path((hint, target_host, target_port)): HintAndPair,
        ) -> Enveloped<RecoveryShape> {
            let target = parameters::instance(&target_host, &target_port)?;
            let cluster = by_hint(&shared, &hint)?;
            change(&shared, $kind, cluster, Some(target)).await
        }

        pub(crate) async fn $by_instance(
            State(shared): State<Shared>,
            Path((host, port, target_host, target_port)): TwoPairs,
        ) -> Enveloped<RecoveryShape> {
            let target = parameters::instance(&target_host, &target_port)?;
            let cluster = by_instance(&shared, &host, &port)?;
            change(&shared, $kind, cluster, Some(target)).await
        }
    };
}

forms!(TAKEOVER, takeover, takeover_of);
designated_forms!(TAKEOVER, takeover_to, takeover_of_to);
forms!(TAKEOVER_AUTO, takeover_auto, takeover_auto_of);
designated_forms!(TAKEOVER_AUTO, takeover_auto_to, takeover_auto_of_to);
forms!(FORCED_FAILOVER, failover, failover_of);
designated_forms!(FORCED_TAKEOVER, forced_to, forced_of_to);

fn by_hint(shared: &Shared, hint: &str) -> Result<ClusterId, Failure> {
    Ok(ApiView::now(&shared.app).find_cluster(hint)?.cluster.id.clone())
}

fn by_instance(shared: &Shared, host: &str, port: &str) -> Result<ClusterId, Failure> {
    let instance = parameters::instance(host, port)?;
    let api_view = ApiView::now(&shared.app);
    Ok(api_view.find_instance(&instance)?.0.cluster.id.clone())
}

async fn change(
    shared: &Shared,
    kind: ChangeKind,
    cluster: ClusterId,
    target: Option<InstanceKey>,
) -> Enveloped<RecoveryShape> {
    let target = match target {
        Some(requested) => Some(ApiView::now(&shared.app).find_instance(&requested)?.1.key.clone()),
        None => None,
    };
    let order = ManualRequest {
        command: kind.command.to_owned(),
        forced: kind.forced,
        starts_old_primary: kind.starts_old_primary,
        ..ManualRequest::default()
    };
    let request = PrimaryChange { cluster, target, order };
    let uid = match shared.app.api.change_primary(request).await? {
        PrimaryChangeOutcome::Refused { why } => return Err(Failure::new(StatusCode::CONFLICT, why)),
        PrimaryChangeOutcome::Over { uid } => uid,
    };
    let state = shared.app.api.state();
    let recovery = state.recoveries.get(&uid).ok_or_else(|| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("recovery {uid} is not recorded"),
        )
    })?;
    let shape = RecoveryShape::of(&state, recovery);
    if recovery.is_successful() {
        return Ok(success(kind.success, shape));
    }
    let message = format!("{} (recovery {uid}): {}", kind.failure, recovery.errors.join("; "));
    Err(Failure::new(StatusCode::CONFLICT, message).with_details(shape))
}
