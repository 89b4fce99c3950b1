//! Recoveries: from a finding, a topology and a policy to a plan with its report, and then step by step.
//!
//! Planning:
//! - [`kind`], [`step`], [`plan`], [`refusal`]: what a plan consists of.
//! - [`planner`]: the plans of all kinds, and the second choice after the receivers were stopped.
//! - [`lint`]: the check of a plan against the rules of recovery, independent of the planner.
//! - [`manual_request`]: what a person or a document requested.
//!
//! The choice of a successor:
//! - [`position`]: what each replica received, and which part of it is errant.
//! - [`choice`], [`choice_inputs`]: which replicas may be promoted, and which one is.
//! - `eligibility`, `catch_up`, `promotion_option`, `rank`, `compatibility`, [`loss`]: the parts of that choice.
//! - `acknowledgers`, [`loss_evidence`]: what proves how much is lost.
//! - `binlog_readers`: the replicas that can be compared by file and position, where there are no GTIDs.
//!
//! New sources for replicas:
//! - `positioning`: the method by which a replica continues below another server.
//! - `new_sources`: where the replicas of a dead intermediate primary can go.
//! - [`relay_log_match`]: positions in the successor's binary log, found by comparison with a relay log.
//! - [`pseudo_gtid`], [`pseudo_gtid_match`]: the same by Pseudo-GTID, between servers that share nothing else.
//! - [`left_behind`]: servers that recoveries left behind.
//!
//! Execution:
//! - [`progress`]: what comes next, given what was done.
//! - [`step_result`], [`next_action`]: what passes between the executor and [`progress`].
//! - [`fencing_proof`]: which proof allowed a successor to be opened.
//! - [`replica_state`]: what an undo restores.
//!
//! Settings: [`semi_sync`].

mod acknowledgers;
mod binlog_readers;
mod catch_up;
pub mod choice;
pub mod choice_inputs;
mod compatibility;
mod eligibility;
pub mod fencing_proof;
pub mod kind;
pub mod left_behind;
pub mod lint;
pub mod loss;
pub mod loss_evidence;
pub mod manual_request;
mod new_sources;
pub mod next_action;
pub mod plan;
pub mod planner;
pub mod position;
mod positioning;
pub mod progress;
mod promotion_option;
pub mod pseudo_gtid;
pub mod pseudo_gtid_match;
mod rank;
pub mod refusal;
pub mod relay_log_match;
pub mod replica_state;
pub mod semi_sync;
pub mod step;
pub mod step_result;

#[cfg(test)]
mod tests;
