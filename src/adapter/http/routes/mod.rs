//! The handlers, a module for each resource. They read a [`ApiView`](super::api_view::ApiView), call the application, and shape the answer.

pub(super) mod analysis;
pub(super) mod audit;
pub(super) mod clusters;
pub(super) mod errants;
pub(super) mod explain;
pub(super) mod group;
pub(super) mod instances;
pub(super) mod intents;
pub(super) mod matching;
pub(super) mod records;
pub(super) mod recoveries;
pub(super) mod takeovers;
