//! Waits for a watch channel that may have lost its sender.

use tokio::sync::watch;

/// Waits for the change of a watch channel; for ever when the sender is gone, so that the other branches of a `select!` continue.
pub(super) async fn changed_or_pending(changed: impl Future<Output = Result<(), watch::error::RecvError>>) {
    if changed.await.is_err() {
        std::future::pending::<()>().await;
    }
}
