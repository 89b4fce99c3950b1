//! What comes next in a recovery: a pure function of the plan, the committed phase, what this actor has done, and a
//! fresh view.
//!
//! The executor loops: [`next`] → effect → [`StepResult`](crate::domain::recovery::step_result::StepResult) → [`next`]. It decides nothing, so a recovery reads here
//! from top to bottom.
//!
//! # Resuming
//! A new actor starts with no results. In [`Phase::Claimed`](crate::domain::state::Phase) nothing is promoted: it fences, stops receivers and
//! chooses again (each of these may be repeated), or undoes everything. In [`Phase::Opened`](crate::domain::state::Phase) the successor may be
//! writable: it only goes forward, and opens the same successor again.
//!
//! # Results
//! One `StepResult` per step that was run, in order, none left out; a step over several servers has one outcome for each.
//! The view must be taken after the last result, of all the plan's instances.

mod boot_read_only;
mod by_position;
mod dead_intermediate;
mod dead_primary;
mod delays;
mod errant;
mod events;
mod match_below;
mod next;
mod non_writable;
mod reconnect;
mod recovery_state;
mod rejoin;
mod semi_sync;
mod takeover;

pub use dead_intermediate::still_stopped;
pub use dead_primary::OPEN_TRIES;
pub use delays::lifted_delays;
pub use next::{is_back, next, next_of, owes_opening, undo_of_restart};
pub use recovery_state::Actor;
pub use takeover::{old_primary_follows, on_resume, on_withdrawn};

#[cfg(test)]
mod tests;
