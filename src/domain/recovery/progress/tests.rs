use std::collections::{BTreeMap, BTreeSet};

use super::dead_primary::*;
use super::recovery_state::REPOINT_TRIES;
use super::*;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::fixture::{Adjust, NOW, key, mysql_set, primary, replica, topology, uuid};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Identity, Instance, InstanceFacts, ProbeFailure, ThreadState};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{LossPolicy, OldPrimary, Policy};
use crate::domain::recovery::next_action::{Finish, NextAction, Undo};
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::planner;
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::state::{Phase, Quarantine, QuarantineState};
use crate::domain::topology::{ClusterId, Topology};

mod by_position;
mod catch_up;
mod delays;
mod reconnect;

/// A small world: servers that do every step, unless a test changes that.
struct World {
    tree: Topology,
    policy: Policy,
    plan: Plan,
    phase: Phase,
    done: Vec<StepResult>,
    log: Vec<String>,
}

fn db1() -> Instance {
    primary(1, "1:1-100").dead()
}

fn cut(n: u32, executed: &str) -> Instance {
    replica(n, 1, executed).cut()
}

impl World {
    fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let tree = topology(instances);
        let finding = Finding {
            code: Code::DeadMaster,
            instance: key(1),
            cluster: ClusterId("c1".to_owned()),
            description: String::new(),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        let policy = Policy::default();
        let (plan, report) = planner::plan(&finding, &tree, &policy, NOW);
        let plan = plan.unwrap_or_else(|| panic!("{report:?}"));
        Self {
            tree,
            policy,
            plan,
            phase: Phase::Claimed,
            done: Vec::new(),
            log: Vec::new(),
        }
    }

    fn next(&self) -> NextAction {
        next(&self.plan, &self.phase, &self.done, &self.tree, &self.policy, NOW)
    }

    fn server(&mut self, key: &InstanceKey) -> &mut Instance {
        self.tree.instances.get_mut(key).unwrap()
    }

    fn facts(&mut self, key: &InstanceKey) -> &mut InstanceFacts {
        self.server(key).facts.as_mut().unwrap()
    }

    /// What a willing server does.
    fn obey(&mut self, step: &Step, key: &InstanceKey) -> Outcome {
        if !self.tree.get(key).is_some_and(Instance::is_valid) {
            return Outcome::NoAnswer("connection refused".to_owned());
        }
        let given = if let Step::CatchUp { from, .. } = step {
            self.tree.get(from).unwrap().facts.as_ref().unwrap().received()
        } else {
            GtidSet::empty(crate::domain::version::Flavour::MySql)
        };
        let facts = self.facts(key);
        match step {
            Step::ReconnectTest { .. } => facts.channels[0].io = ThreadState::Connecting,
            Step::Fence { .. } | Step::Demote { .. } => facts.read_only = true,
            Step::StopReceivers { .. } => facts.channels[0].io = ThreadState::Stopped,
            Step::Drain { .. } => {
                facts.executed = facts.received();
                facts.channels[0].delay_seconds = 0;
            }
            Step::Redial { .. }
            | Step::CallFencer { .. }
            | Step::Locate { .. }
            | Step::Match { .. }
            | Step::PersistReadOnly { .. }
            | Step::GoOn { .. }
            | Step::AcknowledgeReceived { .. }
            | Step::SetSemiSyncSource { .. }
            | Step::EnableEvents { .. }
            | Step::CheckBoot { .. } => {}
            Step::CatchUp { successor, from } => {
                facts.executed = facts.received().union(&given);
                if key == from {
                    facts.channels[0].delay_seconds = 0;
                }
                if key == successor {
                    facts.channels[0].source = from.clone();
                    facts.channels[0].io = ThreadState::Stopped;
                }
            }
            Step::Acknowledge { on, .. } => facts.semi_sync.replica_enabled = *on,
            Step::MakeWritable { .. } => facts.read_only = false,
            Step::Open { .. } => {
                facts.read_only = false;
                facts.channels.clear();
            }
            Step::InjectEmpty { set, .. } => facts.executed = facts.executed.union(set),
            Step::ResetGtids { keep, .. } => facts.executed = keep.clone(),
            Step::Repoint { successor, .. } | Step::RepointAt { successor, .. } => {
                facts.channels[0].source = successor.clone();
                facts.channels[0].io = ThreadState::Running;
            }
            Step::ApplyAll { .. } => facts.channels[0].exec = facts.channels[0].read.clone(),
        }
        Outcome::Done
    }

    /// Runs until the recovery is over; `answer` may speak for a server, otherwise it obeys.
    fn run(&mut self, mut answer: impl FnMut(&mut Self, &Step, &InstanceKey) -> Option<Outcome>) -> NextAction {
        for _ in 0..100 {
            let step = match self.next() {
                NextAction::Run(step) => step,
                NextAction::CommitOpen {
                    plan,
                    successor,
                    position,
                    ..
                } => {
                    self.log.push(format!("commit {successor} {position}"));
                    self.plan = *plan;
                    self.phase = Phase::Opened {
                        successor,
                        position,
                        at: NOW,
                    };
                    continue;
                }
                over @ (NextAction::Finish(_) | NextAction::Abort { .. } | NextAction::AlreadyEnded) => return over,
            };
            let keys: BTreeSet<InstanceKey> = match &step {
                Step::ReconnectTest { old_primary, replicas } => {
                    replicas.iter().chain([old_primary]).cloned().collect()
                }
                Step::Fence { old_primary }
                | Step::Demote { old_primary }
                | Step::Redial { old_primary }
                | Step::CallFencer { old_primary } => [old_primary.clone()].into(),
                Step::CatchUp { successor, from } => [successor.clone(), from.clone()].into(),
                Step::Drain { successor } | Step::Open { successor } | Step::EnableEvents { successor, .. } => {
                    [successor.clone()].into()
                }
                Step::MakeWritable { primary: one }
                | Step::InjectEmpty { primary: one, .. }
                | Step::ResetGtids { instance: one, .. } => [one.clone()].into(),
                Step::StopReceivers { replicas }
                | Step::Repoint { replicas, .. }
                | Step::Acknowledge { replicas, .. }
                | Step::GoOn { replicas }
                | Step::AcknowledgeReceived { replicas }
                | Step::ApplyAll { replicas } => replicas.clone(),
                Step::Locate { replicas, .. } | Step::Match { replicas, .. } => replicas.keys().cloned().collect(),
                Step::RepointAt { replicas, .. } => replicas.keys().cloned().collect(),
                Step::PersistReadOnly { servers } | Step::SetSemiSyncSource { servers, .. } => servers.clone(),
                Step::CheckBoot { primary } => [primary.clone()].into(),
            };
            self.log
                .push(step.describe().split([':', ' ']).next().unwrap().to_owned());
            let outcomes = keys
                .into_iter()
                .map(|key| {
                    let outcome = answer(self, &step, &key).unwrap_or_else(|| self.obey(&step, &key));
                    (key, outcome)
                })
                .collect();
            self.done.push(StepResult { step, outcomes });
        }
        panic!("goes in circles: {:?}", self.log);
    }

    fn writable(&self) -> Vec<&str> {
        let is_writable = |instance: &&Instance| instance.valid_facts().is_some_and(InstanceFacts::is_writable);
        self.tree
            .instances
            .values()
            .filter(is_writable)
            .map(|instance| instance.key.hostname.as_str())
            .collect()
    }
}

fn three() -> World {
    World::new([db1(), cut(2, "1:1-90").received("1:91-100"), cut(3, "1:1-99")])
}

#[track_caller]
fn finished(next: NextAction) -> Finish {
    let NextAction::Finish(finish) = next else {
        panic!("not finished: {next:?}")
    };
    finish
}

#[track_caller]
fn aborted(next: NextAction) -> (String, Vec<Undo>) {
    let NextAction::Abort { reason, undo } = next else {
        panic!("not aborted: {next:?}")
    };
    (reason, undo)
}

fn start_all() -> Undo {
    Undo::StartReceivers {
        replicas: [key(2), key(3)].into(),
    }
}

fn reopen() -> Undo {
    Undo::Reopen { old_primary: key(1) }
}

#[test]
fn a_dead_primary_is_replaced_step_by_step() {
    let mut world = three();
    let finish = finished(world.run(|_, _, _| None));
    let commit = format!("commit db2:3306 {}", mysql_set("1:1-100"));
    assert_eq!(
        world.log,
        ["fence", "stop", "drain", "reconnect", &commit, "open", "repoint"]
    );
    assert!(finish.successful && finish.errors.is_empty() && finish.lost_replicas.is_empty());
    assert_eq!(finish.successor, Some((key(2), Identity::ServerUuid(uuid(2)))));
    assert_eq!(world.writable(), ["db2"]);
    assert_eq!(world.tree.get(&key(3)).unwrap().source(), Some(&key(2)));
    world.phase = Phase::Ended {
        at: NOW,
        successor: Some(key(2)),
        successful: true,
    };
    assert_eq!(world.next(), NextAction::AlreadyEnded);
}

#[test]
fn what_arrives_before_the_stop_receivers_changes_the_choice() {
    let mut world = three();
    let finish = finished(world.run(|world, step, key| {
        if matches!(step, Step::StopReceivers { .. }) && *key == self::key(3) {
            world.facts(key).executed = mysql_set("1:1-105");
        }
        None
    }));
    assert_eq!(finish.successor.unwrap().0, key(3));
    assert_eq!(world.tree.get(&key(2)).unwrap().source(), Some(&key(3)));
}

#[test]
fn a_primary_that_is_back_with_everything_stays_primary() {
    let mut world = three();
    let (reason, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
        }
        None
    }));
    assert!(reason.starts_with("came back"), "{reason}");
    assert_eq!(undo, [start_all()]);
}

#[test]
fn a_primary_that_was_back_at_the_fence_is_opened_again() {
    let mut world = three();
    let (_, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Fence { .. }) {
            world.server(key).failure = None;
        }
        None
    }));
    assert_eq!(undo, [reopen(), start_all()]);
}

#[test]
fn a_primary_that_is_back_without_everything_is_fenced_before_the_opening() {
    let mut world = three();
    let returns_behind = |world: &mut World, step: &Step, key: &InstanceKey| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
            world.facts(key).executed = mysql_set("1:1-99");
        }
        None
    };
    let finish = finished(world.run(returns_behind));
    assert!(finish.successful);
    assert_eq!(world.log[3..5], ["reconnect", "fence"]);
    assert_eq!(world.writable(), ["db2"]);
    let mut world = three();
    let (reason, _) = aborted(world.run(|world, step, key| {
        returns_behind(world, step, key);
        (matches!(step, Step::Fence { .. }) && world.done.len() > 1).then(|| Outcome::Unknown("timed out".to_owned()))
    }));
    assert!(reason.contains("could not be made read-only: timed out"), "{reason}");
    assert_eq!(world.writable(), ["db1"]);
}

#[test]
fn another_server_at_the_old_address_does_not_stop_the_recovery() {
    let mut world = three();
    let finish = finished(world.run(|world, step, key| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
            world.facts(key).identity = Identity::ServerUuid(uuid(77));
        }
        None
    }));
    assert!(finish.successful);
}

#[test]
fn a_living_primary_that_cannot_be_fenced_or_looked_at_aborts() {
    let mut world = three();
    let refused = || Outcome::Failed("access denied".to_owned());
    let (reason, undo) = aborted(world.run(|_, step, _| matches!(step, Step::Fence { .. }).then(refused)));
    assert!(
        reason.contains("could not be made read-only: access denied"),
        "{reason}"
    );
    // An actor before this one may have stopped their receivers.
    assert_eq!(undo, [start_all()]);
    let mut world = three();
    let (reason, undo) = aborted(world.run(|_, step, _| matches!(step, Step::Redial { .. }).then(refused)));
    assert!(reason.contains("its state could not be read"), "{reason}");
    assert_eq!(undo, [start_all()]);
}

#[test]
fn who_cannot_be_receivers_stopped_is_not_promoted() {
    let mut world = World::new([db1(), cut(2, "1:1-100"), cut(3, "1:1-100")]);
    let finish = finished(world.run(|_, step, key| {
        (matches!(step, Step::StopReceivers { .. }) && *key == self::key(2))
            .then(|| Outcome::Unknown("broke".to_owned()))
    }));
    assert_eq!(finish.successor.unwrap().0, key(3));
    let mut world = World::new([db1(), cut(2, "1:1-100"), cut(3, "1:1-100")]);
    let broke = || Outcome::Unknown("broke".to_owned());
    let (reason, undo) = aborted(world.run(|_, step, _| matches!(step, Step::StopReceivers { .. }).then(broke)));
    assert_eq!(
        (reason.as_str(), undo),
        ("no replica can be promoted", vec![start_all()])
    );
}

#[test]
fn who_cannot_apply_what_it_received_gives_way_to_its_equal() {
    let mut world = World::new([db1(), cut(2, "1:1-100"), cut(3, "1:1-100")]);
    let finish = finished(world.run(|_, step, key| {
        (matches!(step, Step::Drain { .. }) && *key == self::key(2))
            .then(|| Outcome::Failed("not within 5000 ms".to_owned()))
    }));
    assert_eq!(finish.successor.unwrap().0, key(3));
    assert_eq!(world.log[..4], ["fence", "stop", "drain", "drain"]);
    let mut world = three();
    world.policy.loss = LossPolicy::Refuse;
    let (reason, undo) =
        aborted(world.run(|_, step, _| matches!(step, Step::Drain { .. }).then(|| Outcome::Failed("slow".to_owned()))));
    assert!(!reason.is_empty() && world.writable().is_empty());
    assert_eq!(undo, [start_all()]);
}

#[test]
fn a_candidate_below_another_replica_is_receiver_stopped_before_it_is_opened() {
    let mut world = World::new([db1(), cut(2, "1:1-100"), replica(3, 2, "1:1-100")]);
    world.policy.promotion_rules.insert(key(2), PromotionRule::PreferNot);
    let finish = finished(world.run(|_, _, _| None));
    assert_eq!(finish.successor.unwrap().0, key(3));
    assert_eq!(world.log[..3], ["fence", "stop", "stop"]);
    assert_eq!(world.tree.get(&key(2)).unwrap().source(), Some(&key(3)));
}

#[test]
fn the_next_actor_goes_on_from_the_claim_whatever_was_receivers_stopped() {
    let mut world = three();
    for n in [2, 3] {
        world.facts(&key(n)).channels[0].io = ThreadState::Stopped;
    }
    let finish = finished(world.run(|_, _, _| None));
    assert!(finish.successful);
    assert_eq!(world.log[..3], ["fence", "stop", "drain"]);
}

#[test]
fn the_next_actor_only_goes_forward_after_the_opening() {
    let mut world = three();
    let plan = world.plan.clone();
    world.phase = Phase::Opened {
        successor: key(2),
        position: plan.position.clone(),
        at: NOW,
    };
    // The old primary is back with everything, too late.
    world.server(&key(1)).failure = None;
    world.facts(&key(1)).read_only = true;
    let finish = finished(world.run(|_, _, _| None));
    assert!(finish.successful);
    assert_eq!(world.log, ["open", "repoint"]);
}

#[test]
fn an_old_primary_that_is_back_and_writable_is_fenced_before_the_next_actor_opens() {
    let returned = || {
        let mut world = three();
        let position = world.plan.position.clone();
        world.phase = Phase::Opened {
            successor: key(2),
            position,
            at: NOW,
        };
        world.server(&key(1)).failure = None;
        world
    };
    let mut world = returned();
    assert!(finished(world.run(|_, _, _| None)).successful);
    assert_eq!(world.log, ["fence", "open", "repoint"]);
    assert_eq!(world.writable(), ["db2"]);
    // It cannot be fenced: there is no way back after the Open entry; the quarantine goes on trying.
    let mut world = returned();
    let refuse = |_: &mut World, step: &Step, _: &InstanceKey| {
        matches!(step, Step::Fence { .. }).then(|| Outcome::Failed("access denied".to_owned()))
    };
    assert!(finished(world.run(refuse)).successful);
    assert_eq!(world.log, ["fence", "open", "repoint"]);
}

#[test]
fn a_successor_that_cannot_be_opened_is_lost_and_nobody_else_is_opened() {
    let mut world = three();
    let finish = finished(world.run(|world, step, _| {
        matches!(step, Step::Open { .. }).then(|| {
            world.server(&key(2)).failure = Some(ProbeFailure::Refused);
            Outcome::NoAnswer("gone".to_owned())
        })
    }));
    assert!(!finish.successful);
    assert!(
        finish.errors[0].starts_with("SuccessorLost: db2:3306"),
        "{:?}",
        finish.errors
    );
    assert_eq!(finish.successor.unwrap().0, key(2));
    assert_eq!(world.log.iter().filter(|line| *line == "open").count(), OPEN_TRIES);
    assert!(world.writable().is_empty());
    let mut world = three();
    let mut tries = 0;
    let finish = finished(world.run(|_, step, _| {
        tries += u32::from(matches!(step, Step::Open { .. }));
        (matches!(step, Step::Open { .. }) && tries == 1).then(|| Outcome::Unknown("broke".to_owned()))
    }));
    assert!(finish.successful);
}

#[test]
fn a_successor_that_answers_and_hangs_is_tried_until_it_opens() {
    let mut world = three();
    let mut tries = 0;
    let finish = finished(world.run(|_, step, _| {
        tries += usize::from(matches!(step, Step::Open { .. }));
        (matches!(step, Step::Open { .. }) && tries <= 3 * OPEN_TRIES)
            .then(|| Outcome::Unknown("STOP REPLICA: no answer in time".to_owned()))
    }));
    assert!(finish.successful, "{:?}", finish.errors);
    assert_eq!(world.writable(), ["db2"]);
    assert_eq!(tries, 3 * OPEN_TRIES + 1);
}

#[test]
fn replicas_that_do_not_follow_are_left_behind_with_the_reason() {
    let mut world = World::new([
        db1(),
        cut(2, "1:1-100"),
        cut(3, "1:1-100"),
        cut(4, "1:1-100"),
        cut(5, "1:1-100").dead(),
    ]);
    let finish = finished(world.run(|_, step, key| {
        (matches!(step, Step::Repoint { .. }) && *key == self::key(4)).then(|| Outcome::Failed("error 1236".to_owned()))
    }));
    assert!(finish.successful);
    let left: Vec<&InstanceKey> = finish.lost_replicas.iter().map(|refusal| &refusal.instance).collect();
    assert_eq!(left, [&key(5), &key(4)]);
    assert_eq!(finish.errors, ["db4:3306 could not be pointed at db2:3306: error 1236"]);
    assert_eq!(
        world.done.last().unwrap().outcomes.len(),
        1,
        "only the one that failed is tried again"
    );
}

// === rejoin ===

fn returned(executed: &str) -> World {
    let old = primary(1, executed);
    let mut tree = topology([old, primary(2, "1:1-100,2:1-9"), replica(3, 2, "1:1-100,2:1-9")]);
    tree.recorded_primary = Some(key(2));
    let policy = Policy {
        old_primary: OldPrimary::Rejoin,
        ..Policy::default()
    };
    let quarantine = Quarantine {
        identity: Identity::ServerUuid(uuid(1)),
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        recovery: "r1".to_owned(),
        epoch: 1,
        since: NOW,
        standing: QuarantineState::Contained,
    };
    let plan = planner::plan_rejoin(&quarantine, &tree, &policy).0.unwrap();
    World {
        tree,
        policy,
        plan,
        phase: Phase::Claimed,
        done: Vec::new(),
        log: Vec::new(),
    }
}

#[test]
fn a_returned_primary_is_fenced_and_then_follows() {
    let mut world = returned("1:1-100");
    world
        .facts(&key(1))
        .channels
        .push(replica(1, 9, "").facts.unwrap().channels.remove(0));
    let finish = finished(world.run(|_, _, _| None));
    assert!(finish.successful);
    assert_eq!(finish.successor, None);
    assert_eq!(world.log, ["fence", "repoint"]);
    assert_eq!(world.writable(), ["db2"]);
}

#[test]
fn a_returned_primary_that_got_transactions_meanwhile_does_not_follow() {
    let mut world = returned("1:1-100");
    let (reason, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Fence { .. }) {
            world.facts(key).executed = mysql_set("1:1-101");
        }
        None
    }));
    assert!(reason.contains("holds transactions that the primary lacks"), "{reason}");
    assert_eq!(undo, []);
    assert_eq!(world.log, ["fence"]);
}

#[test]
fn results_are_kept_as_json() {
    let mut world = three();
    finished(world.run(|_, _, _| None));
    let json = serde_json::to_string(&world.done).unwrap();
    assert_eq!(serde_json::from_str::<Vec<StepResult>>(&json).unwrap(), world.done);
    assert!(
        json.contains(r#""db1:3306":{"noAnswer":"connection refused"}"#),
        "{json}"
    );
}
