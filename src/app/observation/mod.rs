//! What this member itself observes: one polling task for each instance, the latest observation of each instance, the last
//! known positions of primaries over restarts, and this member's opinion of a suspect.

mod account_trials;
pub(crate) mod alias_checks;
pub mod channel_separator;
pub(crate) mod crawl;
pub mod dial_slots;
pub mod dns_cache;
pub mod exchange;
pub mod instance_cache;
pub mod poller;
pub mod position_history;
pub mod probe_sharing;
pub mod scheduling_delay;
pub mod votes;
