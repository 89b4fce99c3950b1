//! Where Services lead, and when they do not change.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::endpoints::{DeclaredServices, Publication, PublishError, PublishedAddresses, ServiceTarget};
use super::fixture::{A, B, NOW, document, key, origin, seen, state_with, view};
use super::tests::{condition_of, downtime, later};
use super::*;
use crate::domain::instance::{Identity, InstanceFacts, ProbeFailure};
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::sample::{claim, plan};
use crate::domain::state::{Ending, Phase, Proposal, apply};

const PRIMARY: &str = "192.0.2.1:3306";
const SECOND: &str = "192.0.2.2:3306";

/// A cluster of `a`, `b` and `c` at 192.0.2.1 to 3, its records, and a document that asks for both Services.
struct Scene {
    view: ClusterView,
    state: State,
    declared: DeclaredCluster,
}

impl Scene {
    fn new() -> Self {
        let mut view = view(Some(origin("db", "orders")));
        view.policy = Policy {
            reasonable_lag_seconds: 10,
            ..Policy::default()
        };
        for (instance, ip) in view.topology.instances.values_mut().zip(1_u8..) {
            instance.facts.as_mut().unwrap().peer = Some([192, 0, 2, ip].into());
        }
        let mut declared = document("db", "orders");
        declared.services = Some(DeclaredServices {
            primary: "orders-primary".to_owned(),
            port: 3306,
            replicas: Some("orders-replicas".to_owned()),
        });
        let state = state_with(&view);
        Self { view, state, declared }
    }

    fn facts(&mut self, host: &str) -> &mut InstanceFacts {
        let instance = self.view.topology.instances.get_mut(&key(host)).unwrap();
        instance.facts.as_mut().unwrap()
    }

    fn fails(&mut self, host: &str) {
        let instance = self.view.topology.instances.get_mut(&key(host)).unwrap();
        instance.failure = Some(ProbeFailure::Refused);
    }

    fn answer(&self) -> Reconciliation {
        let all = seen(vec![self.declared.clone()]);
        reconcile(
            &all,
            &self.state,
            std::slice::from_ref(&self.view),
            &BTreeMap::new(),
            later(9),
        )
    }

    fn publication(&self) -> Publication {
        self.answer().publications[&origin("db", "orders")].clone()
    }

    fn primary(&self) -> ServiceTarget {
        self.publication().services[0].target.clone()
    }

    fn replicas(&self) -> ServiceTarget {
        self.publication().services[1].target.clone()
    }

    /// A recovery of the primary `a` by `b` is claimed.
    fn claimed(&mut self, kind: RecoveryKind) {
        let mut claimed = plan(1, 1, 2, &[]);
        claimed.cluster = self.view.cluster.id.clone();
        claimed.old_primary = key("a");
        claimed.old_primary_identity = Some(Identity::ServerUuid(A.to_owned()));
        claimed.successor = key("b");
        claimed.successor_identity = Identity::ServerUuid(B.to_owned());
        claimed.instances = BTreeSet::from([key("a"), key("b")]);
        claimed.kind = kind;
        let command = Command::Claim {
            claim: Box::new(claim("r1", claimed)),
        };
        let applied = apply(&mut self.state, &Proposal::new(later(5), command)).0;
        assert!(applied.to_string().starts_with("claimed"), "{applied}");
    }

    fn token(&self) -> crate::domain::state::ClaimToken {
        let recovery = &self.state.recoveries["r1"];
        crate::domain::state::ClaimToken {
            uid: "r1".to_owned(),
            cluster: recovery.plan.cluster.clone(),
            holder: recovery.holder,
            epoch: recovery.epoch,
        }
    }

    /// The opening of `b` is committed.
    fn opened(&mut self) {
        let plan = self.state.recoveries["r1"].plan.clone();
        let command = Command::Open {
            token: self.token(),
            successor: key("b"),
            position: plan.position.clone(),
            plan: Box::new(plan),
            fencing_proof: None,
        };
        apply(&mut self.state, &Proposal::new(later(6), command));
        assert!(matches!(self.state.recoveries["r1"].phase, Phase::Opened { .. }));
    }

    fn ended(&mut self, successor: Option<&str>) {
        let ending = Ending {
            successful: successor.is_some(),
            successor: successor.map(|host| (key(host), Identity::ServerUuid(B.to_owned()))),
            quarantine: None,
            lost_replicas: Vec::new(),
            lost: None,
            errors: Vec::new(),
            lines: Vec::new(),
            hooks: Vec::new(),
            owes_opening: false,
        };
        let command = Command::End {
            token: self.token(),
            ending: Box::new(ending),
        };
        apply(&mut self.state, &Proposal::new(later(7), command));
        assert!(!self.state.recoveries["r1"].is_active());
    }
}

/// Makes something wrong with `b`.
type Fault = fn(&mut Scene);

fn to(addresses: &[&str]) -> ServiceTarget {
    ServiceTarget::Addresses(set(addresses))
}

fn set(addresses: &[&str]) -> BTreeSet<SocketAddr> {
    addresses.iter().map(|at| at.parse().unwrap()).collect()
}

#[test]
fn the_primary_and_the_replicas_are_published_where_they_were_reached() {
    let scene = Scene::new();
    let publication = scene.publication();
    assert_eq!(scene.primary(), to(&[PRIMARY]));
    assert_eq!(scene.replicas(), to(&[SECOND, "192.0.2.3:3306"]));
    assert_eq!((publication.epoch, publication.uid.as_str()), (3, "uid-orders"));
    let names: Vec<&str> = publication.services.iter().map(|wanted| wanted.name.as_str()).collect();
    assert_eq!(names, ["orders-primary", "orders-replicas"]);
}

#[test]
fn without_the_field_there_must_be_none_and_paused_changes_nothing() {
    let mut scene = Scene::new();
    scene.declared.document.paused = true;
    assert_eq!(scene.primary(), to(&[PRIMARY]));
    scene.declared.services = None;
    assert_eq!(scene.publication().services, []);
    let status = &scene.answer().statuses[&origin("db", "orders")];
    assert_eq!(
        condition_of(status, ConditionKind::PrimaryServicePublished),
        (ConditionStatus::False, "NotAskedFor")
    );
}

#[test]
fn a_document_that_another_group_acts_on_publishes_nothing() {
    let mut scene = Scene::new();
    scene.declared.observed_by = Some(ObservedBy {
        cluster_uuid: "theirs".to_owned(),
        renewed: NOW,
    });
    assert_eq!(scene.answer().publications, BTreeMap::new());
}

#[test]
fn a_view_of_the_documents_that_cannot_be_relied_on_removes_no_service() {
    let mut scene = Scene::new();
    let answer = |scene: &Scene, completeness| {
        let all = SourceContents {
            completeness,
            ..seen(vec![scene.declared.clone()])
        };
        let views = std::slice::from_ref(&scene.view);
        reconcile(&all, &scene.state, views, &BTreeMap::new(), later(9)).publications
    };
    assert_eq!(
        answer(&scene, Completeness::Stale).len(),
        1,
        "the primary still follows"
    );
    scene.declared.services = None;
    assert_eq!(answer(&scene, Completeness::Stale), BTreeMap::new());
    assert_eq!(answer(&scene, Completeness::Partial).len(), 1);
    let recorded = crate::domain::state::Document {
        generation: 2,
        ..scene.declared.document.clone()
    };
    scene.state.documents.insert(recorded.origin.clone(), recorded);
    assert_eq!(
        answer(&scene, Completeness::Complete),
        BTreeMap::new(),
        "a newer one is on record"
    );
}

#[test]
fn losing_sight_withdraws_no_primary() {
    let mut scene = Scene::new();
    scene.fails("a");
    assert_eq!(scene.primary(), to(&[PRIMARY]), "the last proof stands");
    scene.facts("a").peer = None;
    assert_eq!(scene.primary(), ServiceTarget::Unchanged, "nothing better is known");
    scene.view.topology.instances.remove(&key("a"));
    scene.declared.document.seeds = BTreeSet::from([key("b")]);
    assert_eq!(scene.primary(), ServiceTarget::Unchanged);
    scene.state.clusters.clear();
    assert_eq!(scene.primary(), ServiceTarget::Unchanged);
    assert_eq!(scene.replicas(), ServiceTarget::Unchanged);
}

#[test]
fn a_primary_that_is_read_only_or_somebody_else_proves_nothing_new() {
    let mut scene = Scene::new();
    scene.facts("a").read_only = true;
    assert_eq!(scene.primary(), ServiceTarget::Unchanged);
    scene.facts("a").read_only = false;
    scene.facts("a").identity = Identity::ServerUuid("another".to_owned());
    assert_eq!(scene.primary(), ServiceTarget::Unchanged);
}

#[test]
fn a_failover_withdraws_at_the_opening_and_leads_to_the_successor_once_it_takes_writes() {
    let mut scene = Scene::new();
    scene.fails("a");
    scene.claimed(RecoveryKind::DeadPrimary);
    assert_eq!(scene.primary(), ServiceTarget::Unchanged, "it may still be put back");
    let epoch = scene.publication().epoch;
    assert!(epoch > 3, "{epoch}");
    scene.opened();
    assert_eq!(scene.primary(), to(&[]));
    scene.facts("b").read_only = false;
    assert_eq!(scene.primary(), to(&[SECOND]));
    assert_eq!(scene.publication().epoch, epoch);
    scene.facts("b").identity = Identity::ServerUuid("another".to_owned());
    assert_eq!(scene.primary(), to(&[]), "another server stands there");
    scene.facts("b").identity = Identity::ServerUuid(B.to_owned());
    // The view still has the old record: the state is newer.
    scene.ended(Some("b"));
    assert_eq!(
        scene.view.cluster.primary.as_ref().unwrap().instance,
        key("a"),
        "the view is older"
    );
    assert_eq!(scene.primary(), to(&[SECOND]));
}

#[test]
fn an_old_primary_that_says_it_is_read_only_is_withdrawn_and_comes_back_with_the_undo() {
    for kind in [RecoveryKind::DeadPrimary, RecoveryKind::Takeover] {
        let mut scene = Scene::new();
        scene.claimed(kind);
        assert_eq!(scene.primary(), ServiceTarget::Unchanged);
        scene.facts("a").read_only = true;
        assert_eq!(scene.primary(), to(&[]));
        scene.facts("a").read_only = false;
        scene.ended(None);
        assert_eq!(scene.primary(), to(&[PRIMARY]));
    }
}

#[test]
fn a_primary_that_is_held_read_only_is_nobodys_primary() {
    let mut scene = Scene::new();
    scene.claimed(RecoveryKind::DeadPrimary);
    scene.opened();
    scene.facts("b").read_only = false;
    scene.ended(Some("b"));
    let held = scene.state.quarantines.values().next().unwrap().identity.clone();
    assert_eq!(held, Identity::ServerUuid(A.to_owned()));
    let cluster = scene.state.clusters.values_mut().next().unwrap();
    cluster.primary.as_mut().unwrap().identity = held;
    cluster.primary.as_mut().unwrap().instance = key("a");
    assert_eq!(scene.primary(), to(&[]));
}

#[test]
fn only_replicas_that_are_healthy_are_published() {
    let wrong: [(&str, Fault); 5] = [
        ("it does not answer", |scene| scene.fails("b")),
        ("it lags", |scene| scene.facts("b").channels[0].lag_seconds = Some(11)),
        ("its lag is unknown", |scene| {
            scene.facts("b").channels[0].lag_seconds = None;
        }),
        ("it does not apply", |scene| {
            scene.facts("b").channels[0].sql = crate::domain::instance::ThreadState::Stopped;
        }),
        ("it has transactions of its own", |scene| {
            let more = format!("{A}:1-100,{B}:1-3");
            scene.facts("b").executed =
                crate::domain::gtid::GtidSet::parse(crate::domain::version::Flavour::MySql, &more).unwrap();
        }),
    ];
    for (what, make) in wrong {
        let mut scene = Scene::new();
        make(&mut scene);
        assert_eq!(scene.replicas(), to(&["192.0.2.3:3306"]), "{what}");
    }
    let mut scene = Scene::new();
    scene.declared.downtime = vec![downtime("b", None)];
    let all = seen(vec![scene.declared.clone()]);
    super::tests::settle(&all, &mut scene.state, std::slice::from_ref(&scene.view), NOW);
    assert_eq!(scene.replicas(), to(&["192.0.2.3:3306"]), "it is in downtime");
}

#[test]
fn who_sees_none_of_the_servers_withdraws_none() {
    let mut scene = Scene::new();
    for host in ["a", "b", "c"] {
        scene.fails(host);
    }
    assert_eq!(scene.replicas(), ServiceTarget::Unchanged);
    assert_eq!(scene.primary(), to(&[PRIMARY]));
}

#[test]
fn addresses_to_which_no_service_can_lead_are_shown_and_not_written() {
    for ip in ["127.0.0.1", "169.254.3.4", "::1", "fe80::1", "::ffff:127.0.0.1"] {
        let mut scene = Scene::new();
        scene.facts("a").peer = Some(ip.parse().unwrap());
        let publication = scene.publication();
        assert_eq!(publication.services[0].target, ServiceTarget::Unchanged, "{ip}");
        let mut model = scene.answer().statuses[&origin("db", "orders")].clone();
        publication.add_to_status(&Ok(None), &mut model);
        assert_eq!(
            condition_of(&model, ConditionKind::PrimaryServicePublished),
            (ConditionStatus::False, "AddressNotUsable"),
            "{ip}"
        );
        scene.facts("b").peer = Some(ip.parse().unwrap());
        assert_eq!(scene.replicas(), to(&["192.0.2.3:3306"]), "{ip}");
    }
    let mut scene = Scene::new();
    scene.facts("a").peer = Some("::ffff:192.0.2.1".parse().unwrap());
    assert_eq!(scene.primary(), to(&[PRIMARY]));
    scene.facts("a").peer = Some("2001:db8::1".parse().unwrap());
    assert_eq!(scene.primary(), to(&["[2001:db8::1]:3306"]));
}

#[test]
fn the_condition_says_what_stands_there_or_why_not() {
    let scene = Scene::new();
    let publication = scene.publication();
    let before = scene.answer().statuses[&origin("db", "orders")].clone();
    let told = |outcome: Result<PublishedAddresses, PublishError>| {
        let mut model = before.clone();
        publication.add_to_status(&outcome, &mut model);
        condition_of(&model, ConditionKind::PrimaryServicePublished)
    };
    let why = || "so".to_owned();
    assert_eq!(told(Ok(None)), (ConditionStatus::Unknown, "NotPublishedYet"));
    assert_eq!(told(Ok(Some(set(&[PRIMARY])))), (ConditionStatus::True, "Published"));
    assert_eq!(told(Ok(Some(BTreeSet::new()))), (ConditionStatus::False, "Withdrawn"));
    assert_eq!(
        told(Err(PublishError::NameTaken(why()))),
        (ConditionStatus::False, "NameTaken")
    );
    assert_eq!(
        told(Err(PublishError::Forbidden(why()))),
        (ConditionStatus::False, "ServicesForbidden")
    );
    assert_eq!(
        told(Err(PublishError::Refused(why()))),
        (ConditionStatus::False, "NotWritten")
    );
    assert_eq!(
        told(Err(PublishError::Superseded(why()))),
        (ConditionStatus::Unknown, "NotWritten")
    );
    assert_eq!(
        told(Err(PublishError::Unsupported)),
        (ConditionStatus::False, "NoServicesHere")
    );
    assert_eq!(
        told(Err(PublishError::Unanswered(why()))),
        (ConditionStatus::Unknown, "NotPublishedYet")
    );
}
