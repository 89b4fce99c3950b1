//! Routes with their paths, which axum's `Router` does not tell: so a test can ask each of them, and no new one can be forgotten.

use axum::Router;
use axum::routing::MethodRouter;

use super::server::Shared;

/// The paths below `/api` that exist, by who answers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// By every member itself: health, leadership, the group.
    pub local: Vec<String>,
    /// By the leader, without changing anything.
    pub reads: Vec<String>,
    /// By the leader, with an effect.
    pub writes: Vec<String>,
}

/// A router that is being put together.
#[derive(Default)]
pub(super) struct Table {
    pub(super) router: Router<Shared>,
    pub(super) paths: Vec<String>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn route(mut self, path: &str, answer: MethodRouter<Shared>) -> Self {
        self.paths.push(path.to_owned());
        self.router = self.router.route(path, answer);
        self
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        self.router = self.router.merge(other.router);
        self
    }
}
