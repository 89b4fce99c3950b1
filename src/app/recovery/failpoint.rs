//! Points at which a test can abort the process, to check that the next actor continues correctly. Release builds
//! have none.

/// Ends the process when `HAM4DB_FAILPOINT` is `NAME=abort` with this name. Only in builds with debug assertions.
pub(super) fn reached(name: &str) {
    if cfg!(debug_assertions) && std::env::var("HAM4DB_FAILPOINT").is_ok_and(|point| point == format!("{name}=abort")) {
        tracing::error!("failpoint {name}: aborting");
        std::process::abort();
    }
}
