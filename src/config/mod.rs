//! The configuration: JSON files with orchestrator's keys in, [`Settings`] out.
//!
//! [`keys`] declares the keys that are used, [`accepted`] those without effect. [`mod@file`] reads files, [`check`] converts values and
//! reports all errors together, [`reference`](fn@reference) prints `docs/config.md`.

pub mod accepted;
pub mod check;
pub mod file;
pub mod keys;
mod my_cnf;
mod page;
mod policy;
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
    /// Values are invalid or contradict each other.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Reads files in this order, where later ones override earlier ones, and checks all values.
///
/// # Errors
/// The first file that cannot be read; otherwise all errors together.
pub fn load(paths: &[std::path::PathBuf], environment: &Environment) -> Result<Settings, ConfigError> {
    Ok(settle(&File::read(paths)?, environment)?)
}
