//! What this member itself observes: one polling task for each instance, the latest observation of each instance, the last
//! known positions of primaries over restarts, and this member's opinion of a suspect.

pub mod dns_cache;
pub mod instance_cache;
pub mod poller;
pub mod position_history;
pub mod votes;
