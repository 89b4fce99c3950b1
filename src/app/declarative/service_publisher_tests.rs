use super::*;

fn origin(name: &str) -> Origin {
    Origin::Document {
        namespace: "db".to_owned(),
        name: name.to_owned(),
    }
}

fn publication(epoch: u64) -> Publication {
    Publication {
        uid: "u".to_owned(),
        cluster: None,
        epoch,
        services: vec![crate::domain::declared::WantedService {
            name: "orders-primary".to_owned(),
            port: 3306,
            role: crate::domain::declared::Role::Primary,
            target: crate::domain::declared::ServiceTarget::Unchanged,
        }],
        unusable: None,
    }
}

fn nothing_asked() -> Publication {
    Publication {
        services: Vec::new(),
        ..publication(1)
    }
}

fn unanswered() -> PublishError {
    PublishError::Unanswered("refused".to_owned())
}

/// A schedule that knows one document.
struct One {
    schedule: PublishSchedule,
    wanted: BTreeMap<Origin, Publication>,
    begun: Instant,
}

impl One {
    fn new(publication: Publication) -> Self {
        let wanted = BTreeMap::from([(origin("orders"), publication)]);
        let mut schedule = PublishSchedule::default();
        schedule.follow(1, &wanted);
        Self {
            schedule,
            wanted,
            begun: Instant::now(),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.begun + Duration::from_millis(millis)
    }

    fn is_due(&self, millis: u64) -> bool {
        !self.schedule.due(&self.wanted, self.at(millis), WRITERS).is_empty()
    }

    fn ended(&mut self, millis: u64, why: Option<&PublishError>) -> bool {
        let publication = self.wanted[&origin("orders")].clone();
        let at = self.at(millis);
        self.schedule.begun(&origin("orders"));
        self.schedule.ended(&origin("orders"), publication, why, at)
    }
}

#[test]
fn what_is_as_it_must_be_is_looked_at_again_and_a_change_is_written_at_once() {
    let mut one = One::new(publication(1));
    assert!(one.is_due(0));
    assert!(!one.ended(0, None));
    assert!(!one.is_due(29_000) && one.is_due(30_000));
    one.wanted.insert(origin("orders"), publication(2));
    assert!(one.is_due(1));
}

#[test]
fn one_document_has_one_attempt_at_a_time() {
    let mut one = One::new(publication(1));
    one.schedule.begun(&origin("orders"));
    one.wanted.insert(origin("orders"), publication(2));
    assert!(!one.is_due(60_000));
    one.ended(100, None);
    let other = publication(3);
    one.wanted.insert(origin("orders"), other);
    assert!(one.is_due(100), "what came meanwhile is next");
}

#[test]
fn without_an_answer_it_is_tried_again_soon_and_after_a_refusal_later() {
    let mut one = One::new(publication(1));
    assert!(one.ended(0, Some(&unanswered())), "news");
    assert!(!one.is_due(499) && one.is_due(500));
    assert_eq!(one.schedule.next(&one.wanted, one.at(1)), one.at(500));
    assert!(!one.ended(500, Some(&unanswered())), "no news");
    assert!(one.is_due(1000), "the pause does not grow");
    one.ended(1000, Some(&PublishError::NameTaken("x".to_owned())));
    assert!(!one.is_due(5999) && one.is_due(6000));
    assert!(one.ended(6000, None), "it is over");
}

#[test]
fn where_nothing_is_asked_for_it_is_looked_once_whatever_may_be_read() {
    for why in [None, Some(PublishError::Forbidden("x".to_owned()))] {
        let mut one = One::new(nothing_asked());
        assert!(one.is_due(0));
        assert!(!one.ended(0, why.as_ref()), "nobody waits for it");
        assert!(!one.is_due(3_600_000));
    }
    let mut one = One::new(nothing_asked());
    one.ended(0, Some(&unanswered()));
    assert!(one.is_due(500), "there may be something left");
}

#[test]
fn a_new_term_and_a_document_that_is_gone_forget() {
    let mut one = One::new(publication(1));
    one.ended(0, None);
    assert!(one.schedule.follow(2, &one.wanted));
    assert!(one.is_due(1));
    one.ended(1, None);
    assert!(one.schedule.follow(2, &BTreeMap::new()));
    assert!(one.schedule.documents.is_empty());
}

#[test]
fn while_leadership_is_not_proved_nothing_begins() {
    let mut one = One::new(publication(1));
    one.schedule.wait_until(one.at(500));
    assert!(!one.is_due(499) && one.is_due(500));
    assert_eq!(one.schedule.next(&one.wanted, one.at(0)), one.at(500));
}
