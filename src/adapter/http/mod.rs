//! The HTTP API: orchestrator's paths and JSON in front of [`crate::app::api`].
//!
//! `router` is the table of routes, `routes` has the handlers, `shape` the JSON, `proxy` sends what only the leader may answer on to it,
//! `write_access` asks for a token where a route has effects.

mod api_view;
mod ascii;
mod context;
mod leader_proof;
mod limits;
mod metrics;
mod parameters;
mod proxy;
mod reply;
mod router;
mod routes;
mod server;
mod shape;
mod table;
mod write_access;

pub use context::{AppContext, Options};
pub use router::routes;
pub use server::{bind, router, serve};
pub use table::Routes;
pub use write_access::WriteAccess;
