//! Faults of the simulated servers, at a chosen statement.

use crate::domain::key::InstanceKey;

use super::world::Inner;

/// A fault at a statement of a server, which occurs once.
pub(crate) struct Fault {
    pub(crate) server: InstanceKey,
    /// The name of the method of the session.
    pub(crate) statement: &'static str,
    /// The number of such statements that succeed before.
    pub(crate) after: u32,
    pub(crate) kind: FaultKind,
}

/// The kind of a fault.
pub(crate) enum FaultKind {
    /// The server refuses the statement.
    Refuse,
    /// Something that runs on the server blocks the statement until its lock wait times out.
    Block,
    /// Commits block the statement until its lock wait times out, each time, as clients that were killed connect and commit again. It
    /// succeeds only when clients are killed while it waits.
    BlockByCommits,
    /// The connection breaks before the server has read it.
    Break,
    /// The statement takes effect, and the connection breaks before the answer.
    DoAndBreak,
    /// The statement has no effect, and no answer comes until the deadline.
    Hang,
    /// What the call waits for does not happen within its deadline; the connection stays usable.
    Slow,
    /// A change of the world just before the statement.
    First(Box<dyn FnOnce(&mut Inner) + Send>),
    /// A change of the world after the statement took effect and before the answer.
    Then(Box<dyn FnOnce(&mut Inner) + Send>),
}

impl Fault {
    pub(crate) fn new(n: u32, statement: &'static str, kind: FaultKind) -> Self {
        Self {
            server: crate::domain::fixture::key(n),
            statement,
            after: 0,
            kind,
        }
    }

    pub(crate) fn refuse(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Refuse)
    }

    pub(crate) fn blocked(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Block)
    }

    pub(crate) fn blocked_by_commits(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::BlockByCommits)
    }

    pub(crate) fn broken(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Break)
    }

    pub(crate) fn done_and_broken(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::DoAndBreak)
    }

    pub(crate) fn hang(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Hang)
    }

    pub(crate) fn slow(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Slow)
    }

    pub(crate) fn first(n: u32, statement: &'static str, change: impl FnOnce(&mut Inner) + Send + 'static) -> Self {
        Self::new(n, statement, FaultKind::First(Box::new(change)))
    }

    pub(crate) fn then(n: u32, statement: &'static str, change: impl FnOnce(&mut Inner) + Send + 'static) -> Self {
        Self::new(n, statement, FaultKind::Then(Box::new(change)))
    }
}

impl Inner {
    /// Removes and returns the fault that is due at this statement.
    pub(super) fn due(&mut self, server: &InstanceKey, statement: &str) -> Option<FaultKind> {
        let at = self
            .faults
            .iter()
            .position(|fault| fault.server == *server && fault.statement == statement)?;
        if self.faults[at].after > 0 {
            self.faults[at].after -= 1;
            return None;
        }
        Some(self.faults.remove(at).kind)
    }
}
