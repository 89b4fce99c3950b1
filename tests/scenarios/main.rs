//! What ham4db does with real servers when things break, one test for each scenario. They start servers and members. `kit::schedule`
//! limits how many run at a time, whatever the number of test threads, and `kit::pool` keeps servers running from one test to the next.

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the demo and the bench, which use other parts of it"
)]
mod kit;

mod booting;
mod by_position;
mod choice;
mod co_primaries;
mod commits;
mod delayed;
mod durability;
mod errant;
mod feeding;
mod fencing;
mod findings;
mod group;
mod hooks;
mod intermediate;
mod kit_itself;
mod leader;
mod loss;
mod partition;
mod policy;
mod pseudo_gtid;
mod returned;
mod saturated;
mod semi_sync;
mod silence;
mod stage;
mod takeover;
mod two_groups;
