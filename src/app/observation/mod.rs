//! What this member sees by itself: one polling task for each instance, the latest observation of each, the last known
//! positions of primaries over restarts, and this member's opinion about a suspect.

pub mod dns_cache;
pub mod instance_cache;
pub mod poller;
pub mod position_history;
pub mod votes;
