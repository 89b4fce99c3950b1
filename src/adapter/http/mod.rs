//! The HTTP API: orchestrator's paths and JSON in front of [`crate::app::api`].
//!
//! `router` is the table of routes, `routes` has the handlers, `shape` the JSON, `proxy` sends what only the leader may answer on to it.

mod ascii;
mod context;
mod guard;
mod leader_proof;
mod metrics;
mod parameters;
mod proxy;
mod reply;
mod router;
mod routes;
mod scene;
mod server;
mod shape;

pub use context::{AppContext, Options};
pub use server::{bind, router, serve};
