//! The handlers, one module per resource. They read an [`ApiView`](super::api_view::ApiView), call the application, and build the response.

pub(super) mod analysis;
pub(super) mod audit;
pub(super) mod clusters;
pub(super) mod errant_transactions;
pub(super) mod explain;
pub(super) mod group;
pub(super) mod instances;
pub(super) mod intents;
pub(super) mod pseudo_gtid;
pub(super) mod publications;
pub(super) mod records;
pub(super) mod recoveries;
pub(super) mod takeovers;
