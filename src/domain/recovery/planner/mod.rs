//! Finding, topology and policy to a plan and its report. Nothing is changed here, and the executor has nothing left
//! to decide.

mod boot_read_only;
mod by_position;
mod co_primary;
mod dead_intermediate;
mod dead_primary;
mod designated_successor;
mod errant;
mod failover_plan;
mod for_finding;
mod forced_failover;
mod held_back;
mod lost_successor;
mod match_below;
mod non_writable;
mod rejoin;
mod second_choice;
mod semi_sync;
mod silent_primary;
mod stalled_commits;
mod takeover;

pub(super) use boot_read_only::{check_reopen_primary, check_replica_read_only};
pub use boot_read_only::{plan_boot_read_only, plan_reopen_primary, plan_replica_read_only};
pub(super) use by_position::{is_of_two, plan_by_position};
pub use dead_primary::PlanRequest;
pub use errant::{MAX_INJECTED, plan_errant};
pub use for_finding::{plan, plan_as_requested, plan_remembering, preview_failover};
pub use forced_failover::plan_forced_failover;
pub use held_back::{another_controller, held_back};
pub use lost_successor::{lost_successor, topology_for};
pub use match_below::plan_match;
pub use non_writable::check_non_writable;
pub(super) use rejoin::{check_reattach, check_rejoin};
pub use rejoin::{plan_reattach, plan_rejoin};
pub use second_choice::choose_again;
pub(super) use second_choice::{choose_again_with, keep_within, moved, not_claimed};
pub use semi_sync::plan_durability;
pub use silent_primary::plan_silent_primary;
pub(super) use takeover::check_target;
pub use takeover::plan_takeover;
