//! The signals that stop a member.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at the first SIGTERM or SIGINT. The second signal ends the process immediately, with exit code 130.
pub(super) async fn wait_for_end() {
    let mut received = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("failed to install signal handlers: {error}");
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
