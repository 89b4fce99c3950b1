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
mod clocks;
mod clusters;
mod co_primaries;
mod commits;
mod crawling;
mod delayed;
mod durability;
mod errant;
mod events;
mod feeding;
mod fencing;
mod findings;
mod floods;
mod group;
mod half_received;
mod haproxy;
mod hooks;
mod hostile;
mod intermediate;
mod kit_itself;
mod leader;
mod locks;
mod loss;
mod mysql_backends;
mod partition;
mod policy;
mod pseudo_gtid;
mod publishing;
mod returned;
mod saturated;
mod semi_sync;
mod shared_backend;
mod silence;
mod stage;
mod takeover;
mod two_groups;
