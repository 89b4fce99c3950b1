//! Routes together with their paths, which axum's `Router` does not reveal. A test requests each path, so that no new route is left out.

use axum::Router;
use axum::routing::MethodRouter;

use super::context::Shared;

/// The paths below `/api`, by the member that answers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePaths {
    /// Answered by every member itself: health, leadership, the group.
    pub local: Vec<String>,
    /// Answered by the leader, without an effect.
    pub reads: Vec<String>,
    /// Answered by the leader, with an effect.
    pub writes: Vec<String>,
}

/// A router that is being built, with its paths.
#[derive(Default)]
pub(super) struct RouteTable {
    pub(super) router: Router<Shared>,
    pub(super) paths: Vec<String>,
}

impl RouteTable {
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
