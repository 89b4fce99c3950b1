//! What goes wrong in the simulated world, at which statement.

use crate::domain::key::InstanceKey;

use super::world::Inner;

/// What goes wrong at a statement, and how often it goes well before.
pub(crate) struct Fault {
    pub(crate) server: InstanceKey,
    /// The name of the session's method.
    pub(crate) statement: &'static str,
    /// So many go well before.
    pub(crate) after: u32,
    pub(crate) kind: FaultKind,
}

pub(crate) enum FaultKind {
    /// The server says no.
    Refuse,
    /// The connection breaks before the server has read it.
    Break,
    /// It has its effect, and the connection breaks before the answer.
    DoAndBreak,
    /// No answer until the deadline, and no effect.
    Hang,
    /// Something happens in the world just before it.
    First(Box<dyn FnOnce(&mut Inner) + Send>),
    /// Something happens just after it had its effect, before the answer.
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

    pub(crate) fn broken(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Break)
    }

    pub(crate) fn done_and_broken(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::DoAndBreak)
    }

    pub(crate) fn hang(n: u32, statement: &'static str) -> Self {
        Self::new(n, statement, FaultKind::Hang)
    }

    pub(crate) fn first(n: u32, statement: &'static str, change: impl FnOnce(&mut Inner) + Send + 'static) -> Self {
        Self::new(n, statement, FaultKind::First(Box::new(change)))
    }

    pub(crate) fn then(n: u32, statement: &'static str, change: impl FnOnce(&mut Inner) + Send + 'static) -> Self {
        Self::new(n, statement, FaultKind::Then(Box::new(change)))
    }
}

impl Inner {
    /// The fault that is due at this statement.
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
