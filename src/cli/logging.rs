//! Log lines: text on a terminal, JSON otherwise; `RUST_LOG` chooses what is shown.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is shown of libraries. openraft warns of each request that a peer does not answer, dozens a second; ham4db tells that once.
const LIBRARIES: &str = "warn,openraft=error";

/// Starts logging to standard error. Without `RUST_LOG`: information of ham4db, warnings of libraries; with `debug` more of ham4db.
pub(super) fn start(debug: bool) {
    let own = if debug { "debug" } else { "info" };
    let default = format!("{LIBRARIES},ham4db={own}");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
