//! The one rule by which a program is found: in the cache's bin folder first, then in `PATH`.
//!
//! `find_tool` in tests/setup/tools.sh is the same rule for scripts, and set-up decides by it whether a program is missing.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::run::cache;

/// Returns the path of a program that the tests run.
pub(crate) fn find_tool(name: &str) -> Result<PathBuf> {
    let (cache, path) = (cache()?, std::env::var_os("PATH").unwrap_or_default());
    find_tool_in(&cache, &path, name).with_context(|| {
        format!(
            "find {name}: it is neither in {} nor in PATH; run tests/setup/ensure.sh, or `make test`, which does",
            cache.join("bin").display()
        )
    })
}

/// The rule itself, for a given cache folder and a given `PATH`.
pub(crate) fn find_tool_in(cache: &Path, path: &OsStr, name: &str) -> Option<PathBuf> {
    std::iter::once(cache.join("bin"))
        .chain(std::env::split_paths(path))
        .map(|folder| folder.join(name))
        .find(|program| is_executable(program))
}

fn is_executable(program: &Path) -> bool {
    std::fs::metadata(program).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
