//! Changing a primary at a person's word: takeovers, and primaries that are declared dead.
//!
//! Each has up to four forms, told apart by the number of their parts: a cluster by hint, or by one of its instances, and the same
//! with the server that is to take over.

use axum::extract::{Path, State};
use axum::http::StatusCode;

use crate::app::api::{OrderOutcome, OrderRequest};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::Order;
use crate::domain::topology::ClusterId;

use crate::adapter::http::api_view::ApiView;
use crate::adapter::http::parameters;
use crate::adapter::http::reply::{Enveloped, Failure, done};
use crate::adapter::http::server::Shared;
use crate::adapter::http::shape::recovery::RecoveryShape;

type Hint = Path<String>;
type Pair = Path<(String, String)>;
type HintAndPair = Path<(String, String, String)>;
type TwoPairs = Path<(String, String, String, String)>;

/// Which change, with what orchestrator says when it worked and when it did not.
#[derive(Clone, Copy)]
struct Kind {
    command: &'static str,
    forced: bool,
    starts_old_primary: bool,
    worked: &'static str,
    failed: &'static str,
}

const TAKEOVER: Kind = Kind {
    command: "graceful-master-takeover",
    forced: false,
    starts_old_primary: false,
    worked: "graceful-master-takeover: successor promoted",
    failed: "graceful-master-takeover: no successor promoted",
};

const TAKEOVER_AUTO: Kind = Kind {
    command: "graceful-master-takeover-auto",
    starts_old_primary: true,
    ..TAKEOVER
};

const FORCED_FAILOVER: Kind = Kind {
    command: "force-master-failover",
    forced: true,
    starts_old_primary: false,
    worked: "Master failed over",
    failed: "Master not failed over",
};

const FORCED_TAKEOVER: Kind = Kind {
    command: "force-master-takeover",
    ..FORCED_FAILOVER
};

/// The four forms of one change.
macro_rules! forms {
    ($kind:expr, $by_hint:ident, $by_instance:ident) => {
        pub(in crate::adapter::http) async fn $by_hint(
            State(shared): State<Shared>,
            Path(hint): Hint,
        ) -> Enveloped<RecoveryShape> {
            let cluster = by_hint(&shared, &hint)?;
            change(&shared, $kind, cluster, None).await
        }

        pub(in crate::adapter::http) async fn $by_instance(
            State(shared): State<Shared>,
            Path((host, port)): Pair,
        ) -> Enveloped<RecoveryShape> {
            let cluster = by_instance(&shared, &host, &port)?;
            change(&shared, $kind, cluster, None).await
        }
    };
}

/// The same with the server that is to take over.
macro_rules! designated_forms {
    ($kind:expr, $by_hint:ident, $by_instance:ident) => {
        pub(in crate::adapter::http) async fn $by_hint(
            State(shared): State<Shared>,
            Path((hint, target_host, target_port)): HintAndPair,
        ) -> Enveloped<RecoveryShape> {
            let target = parameters::instance(&target_host, &target_port)?;
            let cluster = by_hint(&shared, &hint)?;
            change(&shared, $kind, cluster, Some(target)).await
        }

        pub(in crate::adapter::http) async fn $by_instance(
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
    kind: Kind,
    cluster: ClusterId,
    target: Option<InstanceKey>,
) -> Enveloped<RecoveryShape> {
    let target = match target {
        Some(asked) => Some(ApiView::now(&shared.app).find_instance(&asked)?.1.key.clone()),
        None => None,
    };
    let order = Order {
        command: kind.command.to_owned(),
        forced: kind.forced,
        starts_old_primary: kind.starts_old_primary,
        ..Order::default()
    };
    let request = OrderRequest { cluster, target, order };
    let uid = match shared.app.api.change_primary(request).await? {
        OrderOutcome::Refused { why } => return Err(Failure::new(StatusCode::CONFLICT, why)),
        OrderOutcome::Over { uid } => uid,
    };
    let state = shared.app.api.state();
    let recovery = state.recoveries.get(&uid).ok_or_else(|| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("recovery {uid} is not in the records"),
        )
    })?;
    let shape = RecoveryShape::of(&state, recovery);
    if recovery.is_successful() {
        return Ok(done(kind.worked, shape));
    }
    let message = format!("{} (recovery {uid}): {}", kind.failed, recovery.errors.join("; "));
    Err(Failure::new(StatusCode::CONFLICT, message).with_details(shape))
}
