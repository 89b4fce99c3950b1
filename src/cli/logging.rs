//! Log lines: text on a terminal, JSON otherwise. `RUST_LOG` filters them.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The filter for libraries. openraft warns of each request that a peer does not answer, dozens each second; ham4db logs that once.
const LIBRARIES: &str = "warn,openraft=error";

/// Starts logging to standard error. Without `RUST_LOG`: info lines of ham4db and warnings of libraries; with `debug` also debug lines of
/// ham4db.
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
