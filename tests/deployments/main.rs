//! Groups that are larger than those of the other tests: `make deployments`. On two cores they take too long for `make test`, and they
//! need the machine alone.

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the other tests, which use other parts of it"
)]
mod kit;

mod shared_probes;
#[path = "../scenarios/stage.rs"]
#[expect(
    dead_code,
    reason = "the stage is shared with the scenarios, which use other parts of it"
)]
mod stage;
