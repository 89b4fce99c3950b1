//! Reading binary and relay logs of servers event by event.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::recovery::equivalence::LogEvent;

use super::{StepError, Target};

/// Which log of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// What it writes for its replicas.
    Binary,
    /// What the managed channel received.
    Relay,
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Binary => "its binary log",
            Self::Relay => "its relay log",
        })
    }
}

/// Which events of a log.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Of this log.
    pub log: Log,
    /// Of this file.
    pub file: &'a str,
    /// From the event that begins here; `None` from the first one.
    pub from: Option<u64>,
    /// So many less.
    pub skip: usize,
    /// So many at most.
    pub limit: usize,
}

/// A connection on which logs can be read.
#[async_trait]
pub trait LogSource: Send {
    /// The files of a log, oldest first.
    async fn log_files(&mut self, log: Log, deadline: Duration) -> Result<Vec<String>, StepError>;

    /// Some events of one file, in their order.
    async fn log_events(&mut self, piece: &Piece<'_>, deadline: Duration) -> Result<Vec<LogEvent>, StepError>;
}

/// Opens connections on which logs are read, and nothing else.
#[async_trait]
pub trait LogReader: Send + Sync {
    /// A connection of its own, without the lock of those who change something.
    ///
    /// # Errors
    /// When the server cannot be reached.
    async fn open(&self, target: &Target, deadline: Duration) -> Result<Box<dyn LogSource>, StepError>;
}
