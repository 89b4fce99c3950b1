//! Places where a test may end the process, to see what the next actor makes of it. Nothing in a release build.

/// Ends the process when `HAM4DB_FAILPOINT` is `NAME=abort` with this name. Only in builds with debug assertions.
pub(super) fn reached(name: &str) {
    if cfg!(debug_assertions) && std::env::var("HAM4DB_FAILPOINT").is_ok_and(|point| point == format!("{name}=abort")) {
        tracing::error!("failpoint {name}: aborting");
        std::process::abort();
    }
}
