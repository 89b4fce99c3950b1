//! States and commands for tests: small records by number, and long sequences of commands that make some sense together.

use std::collections::BTreeSet;

use super::command::COMMAND_VERSION;
use super::record::{Acknowledgement, Blocked, ClaimToken, MemberRecord, StepRecord};
use super::{
    Applied, Change, Claim, Command, Document, Ending, Group, Phase, Proposal, QuarantineState, Request, RequestKind,
    RequestOutcome, Seed, State, apply,
};
use crate::domain::finding::{Code, Evidence, Finding, Opinion, OpinionVerdict};
use crate::domain::fixture::{mysql_set, uuid};
use crate::domain::hooks::{HookList, HookRun, HookSubject};
use crate::domain::instance::{Identity, Observation, ProbeFailure};
use crate::domain::intent::{Intent, IntentDetails, Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, LossPolicy, OldPrimary, RecoveryMode};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::recovery::step::Step;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

pub(crate) use crate::domain::fixture::key;

pub(crate) fn cluster_id(n: u32) -> ClusterId {
    ClusterId(format!("c{n}"))
}

pub(crate) fn identity(n: u32) -> Identity {
    Identity::ServerUuid(uuid(n))
}

pub(crate) fn finding(cluster: u32, instance: u32) -> Finding {
    Finding {
        code: Code::DeadMaster,
        instance: key(instance),
        cluster: cluster_id(cluster),
        description: format!("db{instance} is dead"),
        evidence: Evidence {
            failure: Some(ProbeFailure::Lost("it's \"gone\"".to_owned())),
            replicas: vec![key(2), key(3)],
            ..Evidence::default()
        },
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    }
}

/// A plan for a dead primary.
pub(crate) fn plan(cluster: u32, old_primary: u32, successor: u32, instances: &[u32]) -> Plan {
    Plan {
        kind: RecoveryKind::DeadPrimary,
        code: Code::DeadMaster,
        cluster: cluster_id(cluster),
        old_primary: key(old_primary),
        old_primary_identity: Some(identity(old_primary)),
        successor: key(successor),
        successor_identity: identity(successor),
        position: mysql_set("1:1-9"),
        instances: instances.iter().copied().map(key).collect(),
        lost_replicas: Vec::new(),
        lost: None,
        loss_evidence: None,
        manual_request: None,
        steps: vec![
            Step::StopReceivers {
                replicas: BTreeSet::from([key(successor)]),
            },
            Step::Open {
                successor: key(successor),
            },
        ],
        sources: std::collections::BTreeMap::new(),
        prior_states: std::collections::BTreeMap::new(),
        old_primary_state: None,
        events: None,
        commits_nothing: false,
        remembered: None,
    }
}

pub(crate) fn claim(uid: &str, plan: Plan) -> Claim {
    let observation = Observation {
        key: plan.old_primary.clone(),
        begun: WallTime(1),
        ended: WallTime(2),
        micros: 3,
        outcome: Err(ProbeFailure::Refused),
    };
    let opinion = Opinion {
        member: 1,
        name: "a".to_owned(),
        at: WallTime(2),
        millis: 1,
        data_center: String::new(),
        verdict: OpinionVerdict::Dead,
        observations: vec![observation],
        remembered: None,
    };
    Claim {
        uid: uid.to_owned(),
        holder: 1,
        holder_name: "a".to_owned(),
        finding: Finding {
            instance: plan.old_primary.clone(),
            cluster: plan.cluster.clone(),
            ..finding(1, 1)
        },
        opinions: vec![opinion],
        report: PlanReport {
            successor: Some(plan.successor.clone()),
            ..PlanReport::default()
        },
        plan,
        above: 0,
        hooks: vec![HookList::PreFailover],
    }
}

pub(crate) fn downtime(n: u32, origin: Origin, until: Option<i64>) -> Intent {
    let details = IntentDetails::Downtime {
        owner: origin.to_string(),
        reason: "disk".to_owned(),
        since: WallTime(500),
        until: until.map(WallTime),
    };
    Intent {
        instance: key(n),
        origin,
        details,
    }
}

pub(crate) fn candidate(n: u32, origin: Origin, rule: PromotionRule) -> Intent {
    Intent {
        instance: key(n),
        origin,
        details: IntentDetails::Candidate { rule, until: None },
    }
}

pub(crate) fn document(name: &str) -> Document {
    Document {
        origin: Origin::Document {
            namespace: "db".to_owned(),
            name: name.to_owned(),
        },
        uid: format!("uid-{name}"),
        created: WallTime(10),
        generation: 3,
        seeds: BTreeSet::from([key(1)]),
        credentials_secret: "secret".to_owned(),
        paused: false,
        mode: RecoveryMode::Auto,
        block_millis: 60_000,
        loss: LossPolicy::Allow,
        loss_timeout_millis: 0,
        old_primary: OldPrimary::Rejoin,
        boot_read_only: crate::domain::policy::BootReadOnly::Enforce,
        stalled: None,
        events: None,
        on_drain: crate::domain::policy::OnDrain::Observe,
        durability: Some(crate::domain::policy::Durability::default()),
        services: Some(crate::domain::declared::DeclaredServices {
            primary: String::from("orders-primary"),
            port: 3306,
            replicas: Some(String::from("orders-replicas")),
        }),
    }
}

/// A takeover that the document `shop` asks for.
pub(crate) fn takeover_request(number: u32, deadline: i64) -> Request {
    let what = RequestKind::Takeover {
        target: Some(key(2)),
        catch_up_seconds: Some(30),
        deadline: WallTime(deadline),
    };
    Request::new(document("shop").origin, format!("r{number}"), what)
}

/// A state, and what grew it.
#[derive(Default)]
pub(crate) struct Sample {
    pub(crate) state: State,
    /// Every right to act that was ever granted, stale ones too.
    tokens: Vec<ClaimToken>,
    claims: u32,
}

/// Numbers out of one number.
struct Dice(u64);

impl Dice {
    /// A number from 0 up to, not including, `sides`.
    fn roll(&mut self, sides: u32) -> u32 {
        // The step of splitmix64: well mixed, and the same everywhere.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(sides)).unwrap()
    }

    fn server(&mut self) -> u32 {
        1 + self.roll(9)
    }

    fn servers(&mut self) -> BTreeSet<InstanceKey> {
        (0..=self.roll(4)).map(|_| key(self.server())).collect()
    }

    fn list(&mut self) -> HookList {
        let lists = [
            HookList::OnFailureDetection,
            HookList::PreFailover,
            HookList::PostMasterFailover,
            HookList::PostFailover,
        ];
        lists[usize::try_from(self.roll(4)).unwrap()]
    }

    fn origin(&mut self) -> Origin {
        match self.roll(4) {
            0 => Origin::Recovery,
            1 | 2 => Origin::Api,
            _ => document("shop").origin,
        }
    }
}

impl Sample {
    /// Applies the command that this number stands for.
    pub(crate) fn step(&mut self, seed: u64) -> (Command, Applied, BTreeSet<Change>) {
        let mut dice = Dice(seed);
        let at = WallTime(1000 + i64::from(dice.roll(5000)));
        let command = self.command(&mut dice);
        let (applied, changes) = apply(
            &mut self.state,
            &Proposal {
                version: COMMAND_VERSION,
                at,
                command: command.clone(),
            },
        );
        if let Applied::Claimed { token } = &applied {
            self.tokens.push(token.clone());
        }
        (command, applied, changes)
    }

    /// A right to act: mostly the latest one, sometimes a stale one.
    fn token(&self, dice: &mut Dice) -> Option<ClaimToken> {
        let count = u32::try_from(self.tokens.len()).unwrap();
        let back = if count > 1 && dice.roll(4) == 0 {
            dice.roll(count)
        } else {
            0
        };
        self.tokens.iter().rev().nth(usize::try_from(back).unwrap()).cloned()
    }

    fn command(&mut self, dice: &mut Dice) -> Command {
        match dice.roll(32) {
            0 => Command::FoundGroup {
                group: Group {
                    uuid: format!("g{}", dice.roll(2)),
                    history: "h".to_owned(),
                },
            },
            1 => Command::AllocateMember {
                name: "m".to_owned(),
                above: u64::from(dice.roll(9)),
            },
            2 => Command::AnnounceMember {
                member: MemberRecord {
                    id: u64::from(dice.roll(4)),
                    name: "m".to_owned(),
                    understands: 1,
                    data_center: "west".to_owned(),
                },
            },
            3 => Command::Discover {
                seed: Seed {
                    instance: key(dice.server()),
                    origin: dice.origin(),
                },
            },
            4 => Command::Forget {
                instance: key(dice.server()),
                until: WallTime(1000 + i64::from(dice.roll(9000))),
            },
            5 if dice.roll(3) == 0 => Command::ForgetGone {
                instance: key(dice.server()),
                until: WallTime(1000 + i64::from(dice.roll(9000))),
                reason: "not seen for 240 h".to_owned(),
            },
            5 if dice.roll(2) == 0 => Command::RecordUnseen {
                unseen: [key(dice.server())].into(),
                seen: [key(dice.server())].into(),
            },
            5..=9 => self.describe(dice),
            10..=14 => self.ask(dice),
            15 => match dice.roll(5) {
                4 => Command::CorrectClock { ahead_millis: 1 },
                0 => Command::ForceQuorum {
                    survivor: 1,
                    survivor_name: "a".to_owned(),
                    lost: vec!["b".to_owned(), "c".to_owned()],
                },
                switch => Command::SetGlobalRecoveries { enabled: switch == 1 },
            },
            16 => Command::RecordDetection {
                finding: Box::new(finding(1 + dice.roll(3), dice.server())),
                member_name: "m".to_owned(),
                held_back: (dice.roll(2) == 0).then_some(HeldBack::NoFilterMatches),
                hooks: vec![HookList::OnFailureDetection],
            },
            17 => Command::Block {
                blocked: Blocked {
                    instance: key(dice.server()),
                    cluster_name: "x".to_owned(),
                    analysis: "DeadMaster".to_owned(),
                    at: WallTime(1),
                    blocking_recovery: 1,
                    reason: String::new(),
                },
            },
            18 => Command::Acknowledge {
                uids: self.state.recoveries.keys().take(2).cloned().collect(),
                acknowledgement: Acknowledgement {
                    at: WallTime(2),
                    by: "ann".to_owned(),
                    comment: "it's fine".to_owned(),
                },
            },
            19 => match self.state.quarantines.iter().next() {
                Some((name, held)) => Command::SetQuarantineStanding {
                    quarantine: name.clone(),
                    instance: held.instance.clone(),
                    standing: QuarantineState::Errant { set: mysql_set("1:10") },
                },
                None => Command::Release {
                    quarantine: "none".to_owned(),
                    reason: String::new(),
                },
            },
            20 => Command::Release {
                quarantine: self.state.quarantines.keys().next().cloned().unwrap_or_default(),
                reason: "by hand".to_owned(),
            },
            21..=23 => self.claim(dice),
            24 | 25 => self.request(dice),
            26 | 27 => Self::change_of_clusters(dice),
            _ => self.act(dice),
        }
    }

    fn change_of_clusters(dice: &mut Dice) -> Command {
        let (one, other, head) = (1 + dice.roll(3), 1 + dice.roll(4), dice.server());
        let primary = (dice.roll(2) == 0).then(|| identity(head));
        if dice.roll(2) == 0 {
            return Command::MergeClusters {
                into: cluster_id(one),
                from: cluster_id(other),
                primary: primary.map(|primary| (key(head), primary)),
                reason: "why".to_owned(),
            };
        }
        Command::SplitCluster {
            from: cluster_id(one),
            id: cluster_id(other),
            head: key(head),
            primary,
            process: None,
            instances: dice.servers(),
            alias: String::new(),
            document: None,
            reason: "why".to_owned(),
        }
    }

    /// Something that is asked for once, taken back, or refused.
    fn request(&self, dice: &mut Dice) -> Command {
        let key = self.state.requests.keys().next_back().cloned();
        let key = key.unwrap_or_else(|| "none".to_owned());
        match dice.roll(6) {
            0 => Command::CancelRequest {
                key,
                why: "cleared".to_owned(),
            },
            1 => Command::SettleRequest {
                key,
                outcome: RequestOutcome::Refused,
                why: "it's behind".to_owned(),
            },
            _ => Command::Request {
                request: Box::new(takeover_request(dice.roll(40), 1000 + i64::from(dice.roll(9000)))),
            },
        }
    }

    /// Something that people and documents ask for.
    fn ask(&self, dice: &mut Dice) -> Command {
        match dice.roll(5) {
            0 => Command::SetIntent {
                intent: downtime(dice.server(), dice.origin(), Some(1000 + i64::from(dice.roll(9000)))),
            },
            1 => {
                let rule = [PromotionRule::Prefer, PromotionRule::MustNot, PromotionRule::Neutral];
                Command::SetIntent {
                    intent: candidate(
                        dice.server(),
                        dice.origin(),
                        rule[usize::try_from(dice.roll(3)).unwrap()],
                    ),
                }
            }
            2 => {
                let id = self.state.intents.keys().next().cloned();
                Command::EndIntent {
                    id: id.unwrap_or_else(|| downtime(1, Origin::Api, None).id()),
                }
            }
            3 => {
                let document = document(["shop", "other"][usize::try_from(dice.roll(2)).unwrap()]);
                Command::PutDocument {
                    document: Box::new(Document {
                        paused: dice.roll(2) == 0,
                        ..document
                    }),
                }
            }
            _ => Command::WithdrawDocument {
                origin: document("shop").origin,
            },
        }
    }

    fn describe(&self, dice: &mut Dice) -> Command {
        let id = cluster_id(1 + dice.roll(3));
        let instances = dice.servers();
        let first = instances.first().cloned();
        let absorbs = match dice.roll(6) {
            0 => self
                .state
                .clusters
                .keys()
                .filter(|other| **other != id)
                .take(1)
                .cloned()
                .collect(),
            _ => Vec::new(),
        };
        let primary = first
            .filter(|_| dice.roll(3) > 0)
            .map(|key| (key, identity(dice.server())));
        Command::DescribeCluster {
            id,
            instances,
            primary,
            process: None,
            alias: ["", "shop"][usize::try_from(dice.roll(2)).unwrap()].to_owned(),
            absorbs,
            document: (dice.roll(3) == 0).then(|| document("shop").origin),
            chosen: None,
        }
    }

    fn claim(&mut self, dice: &mut Dice) -> Command {
        self.claims += 1;
        let uid = if dice.roll(8) == 0 {
            "again".to_owned()
        } else {
            format!("r{}", self.claims)
        };
        let cluster = 1 + dice.roll(3);
        let recorded = self
            .state
            .clusters
            .get(&cluster_id(cluster))
            .and_then(|cluster| cluster.primary.as_ref());
        let mut plan = plan(cluster, dice.server(), dice.server(), &[]);
        if dice.roll(3) == 0 {
            plan.manual_request = Some(ManualRequest {
                request: self.state.requests.keys().next().cloned(),
                ..ManualRequest::default()
            });
        }
        if let Some(primary) = recorded.filter(|_| dice.roll(5) > 0) {
            plan.old_primary = primary.instance.clone();
            plan.old_primary_identity = Some(primary.identity.clone());
        }
        plan.instances = dice.servers();
        plan.instances
            .extend([plan.old_primary.clone(), plan.successor.clone()]);
        Command::Claim {
            claim: Box::new(Claim {
                above: u64::from(dice.roll(4)),
                ..claim(&uid, plan)
            }),
        }
    }

    /// What hooks are run for.
    fn subject(&self, dice: &mut Dice, token: &ClaimToken) -> HookSubject {
        match self.state.detections.keys().next_back() {
            Some(id) if dice.roll(3) == 0 => HookSubject::Detection { id: *id },
            _ => HookSubject::Recovery {
                uid: token.uid.clone(),
                epoch: token.epoch,
            },
        }
    }

    /// Something about a recovery that was claimed.
    fn act(&self, dice: &mut Dice) -> Command {
        let Some(token) = self.token(dice) else {
            return Command::SetGlobalRecoveries { enabled: true };
        };
        let line = StepRecord {
            id: 0,
            at: WallTime(9),
            message: "froze db2".to_owned(),
        };
        let planned = self
            .state
            .recoveries
            .get(&token.uid)
            .map(|recovery| recovery.plan.clone());
        let planned = planned.unwrap_or_else(|| plan(1, 1, 2, &[1, 2]));
        match dice.roll(7) {
            5 => Command::HooksBegin {
                subject: self.subject(dice, &token),
                list: dice.list(),
            },
            6 => Command::HooksRan {
                subject: self.subject(dice, &token),
                run: HookRun {
                    list: dice.list(),
                    attempt: 1,
                    at: WallTime(7),
                    failure: (dice.roll(2) == 0).then(|| "it's refused".to_owned()),
                },
                lines: vec![line],
            },
            0 => Command::Resume {
                uid: token.uid,
                holder: 1 + u64::from(dice.roll(3)),
                holder_name: "b".to_owned(),
                above: u64::from(dice.roll(9)),
            },
            1 => Command::Open {
                token,
                successor: planned.successor.clone(),
                position: planned.position.clone(),
                plan: Box::new(planned),
                fencing_proof: None,
            },
            2 => Command::Record {
                token,
                lines: vec![line],
            },
            _ => {
                let recovery = self.state.recoveries.get(&token.uid);
                let opened = recovery.is_some_and(|recovery| matches!(recovery.phase, Phase::Opened { .. }));
                let ending = Ending {
                    successful: opened,
                    successor: opened.then(|| (planned.successor.clone(), planned.successor_identity.clone())),
                    quarantine: planned
                        .old_primary_identity
                        .clone()
                        .filter(|_| opened)
                        .map(|who| (planned.old_primary.clone(), who)),
                    lost_replicas: vec![Refusal {
                        instance: key(7),
                        reason: RefusalReason::Unreachable("it's away".to_owned()),
                    }],
                    lost: Some(mysql_set("1:10-11")),
                    errors: vec!["db7 was left behind".to_owned()],
                    lines: vec![line],
                    hooks: vec![HookList::PostMasterFailover, HookList::PostFailover],
                    owes_opening: false,
                };
                Command::End {
                    token,
                    ending: Box::new(ending),
                }
            }
        }
    }
}
