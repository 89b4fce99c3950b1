//! The HTTP API: orchestrator's paths and JSON in front of [`crate::app::api`].
//!
//! `router` declares the routes, `routes` has the handlers and `shape` the JSON. `proxy` forwards to the leader what only the leader
//! may answer, and `answering_member` names the member that gave the answer. `write_access` requires a token for routes with effects. `context` holds what they share.

mod answering_member;
mod api_view;
mod context;
mod leader_proof;
mod limits;
mod metrics;
mod parameters;
mod proxy;
mod reply;
mod request_metrics;
mod route_table;
mod router;
mod routes;
mod server;
mod shape;
mod topology_text;
mod write_access;

pub use context::{AppContext, Options};
pub use route_table::RoutePaths;
pub use router::routes;
pub use server::{bind, router, serve};
pub use write_access::WriteAccess;
