//! The signals that end a member.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at the first SIGTERM or SIGINT. A second one ends the process at once, as it would have without us.
pub(super) async fn wait_for_end() {
    let mut received = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("signals cannot be handled: {error}");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = received.0.recv() => {}
        _ = received.1.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = received.0.recv() => {}
            _ = received.1.recv() => {}
        }
        std::process::exit(130);
    });
}
