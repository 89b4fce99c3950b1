//! Repairing: finding + topology + policy → plan and report → (claim) → step by step.
//!
//! - [`position`]: what each replica received, and what of it is errant.
//! - [`candidate`]: who may be promoted, and who is.
//! - [`equivalence`]: positions in one log told from another, where there are no GTIDs.
//! - [`pseudo_gtid`], [`matching`]: the same between servers that share nothing but entries with a text of their own.
//! - `rank`, `catch_up_from`, `loss`, `eligibility`: the parts of that choice.
//! - [`planner`]: the plan with its report, and the second choice after the freeze.
//! - `acknowledging`: which replicas should acknowledge a semi-sync primary's commits.
//! - `positioning`: by what a replica finds its place below another server.
//! - `relocation`: where the replicas of a dead intermediate server can go.
//! - [`lost`]: servers that recoveries left behind.
//! - [`lint`]: what must hold of any plan.
//! - `order`: what a person asked for.
//! - [`outcome`]: what became of a step, and what comes next, as values.
//! - [`fencing_proof`]: which proof allowed the opening.
//! - [`progress`]: what comes next, given what was done.

pub(crate) mod acknowledging;
pub mod candidate;
mod catch_up;
pub mod durability;
mod eligibility;
pub mod equivalence;
pub mod fencing_proof;
pub mod lint;
pub mod loss;
pub mod lost;
pub mod matching;
mod order;
pub mod outcome;
pub mod plan;
pub mod planner;
pub mod position;
mod positioning;
pub mod progress;
pub mod pseudo_gtid;
mod rank;
mod relocation;

#[cfg(test)]
mod tests;
