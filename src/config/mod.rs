//! The configuration: JSON files with orchestrator's keys in, [`Settings`] out.
//!
//! [`keys`] declares what is used, [`accepted`] what is known and has no effect yet, [`mod@file`] reads, [`check`] turns values into types and
//! reports everything that is wrong at once, [`reference`](fn@reference) prints `docs/config.md`.

pub mod accepted;
pub mod check;
pub mod file;
pub mod keys;
mod my_cnf;
mod page;
pub mod secret;
pub mod settings;

pub use check::{Invalid, settle};
pub use file::{File, FileError, search};
pub use page::reference;
pub use settings::{Environment, Settings};

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Values are wrong or contradict each other.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Reads files in this order, later ones over earlier ones, and checks the whole.
///
/// # Errors
/// The first file that cannot be read; otherwise everything that is wrong, at once.
pub fn load(paths: &[std::path::PathBuf], environment: &Environment) -> Result<Settings, ConfigError> {
    Ok(settle(&File::read(paths)?, environment)?)
}
