use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;
use crate::domain::gtid::GtidSet;

fn set(text: &str) -> MariaDbGtidSet {
    MariaDbGtidSet::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn positions_states_and_remainders_are_read() {
    let table = [
        ("", ""),
        (" , ", ""),
        ("0-1-100", "0-1-100"),
        ("1-1-7, 0-2-105\n,0-1-100", "0-1-100,0-2-105,1-1-7"),
        ("0-1-100,0-1-90", "0-1-100"),
        ("0-2-151..200", "0-2-151..200"),
        ("0-2-151..200,0-2-150", "0-2-200"),
        ("0-2-5..7,0-2-2", "0-2-2,0-2-5..7"),
        ("0-2-0", ""),
        (
            "4294967295-4294967295-18446744073709551614",
            "4294967295-4294967295-18446744073709551614",
        ),
    ];
    for (text, wanted) in table {
        assert_eq!(set(text).to_string(), wanted, "{text:?}");
    }
}

#[test]
fn what_is_no_gtid_is_refused_by_name() {
    for text in [
        "0-1",
        "0-1-2-3",
        "a-1-2",
        "0-1-",
        "0--1",
        "4294967296-1-1",
        "0-1-18446744073709551615",
        "0-1-7..5",
        "0-1-0..5",
        "0-1-+5",
        "0-1-1...5",
    ] {
        let error = MariaDbGtidSet::parse(&format!("0-1-1,{text}"))
            .expect_err(text)
            .to_string();
        assert!(error.contains(&format!("`{text}`")), "{error}");
    }
}

#[test]
fn subtract_leaves_the_transactions_above() {
    assert_eq!(set("0-2-200").subtract(&set("0-2-150")).to_string(), "0-2-151..200");
    assert_eq!(set("0-2-200,1-1-5").subtract(&set("0-2-200,1-1-7")).to_string(), "");
    assert_eq!(
        set("0-2-200").subtract(&set("0-2-151..160")).to_string(),
        "0-2-150,0-2-161..200"
    );
    assert_eq!(set("0-2-151..200").transaction_count(), 50);
}

#[test]
fn a_position_is_the_last_transaction_of_each_domain() {
    let state = set("0-1-100,0-2-105,1-1-7");
    assert_eq!(state.position(), BTreeMap::from([(0, (2, 105)), (1, (1, 7))]));
    assert_eq!(state.position_text(), "0-2-105,1-1-7");
    assert_eq!(MariaDbGtidSet::from_position(&state.position()), set("0-2-105,1-1-7"));
    assert!(MariaDbGtidSet::from_position(&BTreeMap::from([(0, (1, 0))])).is_empty());
    assert_eq!(set("0-2-105,0-1-105").position(), BTreeMap::from([(0, (2, 105))]));
}

#[test]
fn received_is_what_was_written_applied_or_read() {
    let received = MariaDbGtidSet::received(&set("0-1-100,0-2-105"), &set("0-2-103"), &set("0-2-110"));
    assert_eq!(received, set("0-1-100,0-2-110"));
    assert_eq!(
        MariaDbGtidSet::received(&set("0-1-100"), &set("0-1-100"), &set("")),
        set("0-1-100")
    );
}

#[test]
fn covers_forgives_what_a_late_replica_never_saw() {
    let full = set("0-1-100,0-2-200");
    let late = set("0-2-200");
    assert!(late.covers(&full) && full.covers(&late));
    assert!(!late.contains(&full) && full.contains(&late));
    let table = [
        (
            "0-2-200",
            "0-1-200",
            false,
            "the same number from two servers is a fork",
        ),
        ("0-2-200", "0-1-201", false, "further than all we have"),
        ("0-1-50,0-2-200", "0-1-100", false, "a history that split off after 50"),
        ("0-2-200", "1-1-1", false, "a domain never seen"),
        ("", "0-1-1", false, "nothing covers nothing but nothing"),
        ("0-1-1", "", true, "nothing is covered by all"),
        ("0-2-200", "0-2-150", true, "plainly contained"),
    ];
    for (ours, theirs, wanted, why) in table {
        assert_eq!(set(ours).covers(&set(theirs)), wanted, "{why}");
    }
}

#[test]
fn an_errant_transaction_is_found_by_the_strict_question_only() {
    let primary = set("0-1-300");
    let replica_that_wrote_at_100 = set("0-1-250,0-7-101");
    assert_eq!(replica_that_wrote_at_100.missing_from(&primary).to_string(), "0-7-101");
    assert!(!primary.contains(&replica_that_wrote_at_100));
    assert!(
        primary.covers(&replica_that_wrote_at_100),
        "which is why covers must not look for errant ones"
    );
}

#[test]
fn a_loss_is_counted_from_where_the_writer_took_over() {
    let table = [
        ("0-1-100,0-2-105", "0-1-100", "0-2-101..105", 5),
        ("0-1-100,0-2-105", "0-1-103", "0-2-101..105", 5),
        ("0-1-100,0-2-105", "0-1-100,0-2-103", "0-2-104..105", 2),
        ("0-1-150,0-2-100", "0-1-50,0-2-100", "0-1-101..150", 50),
        ("0-1-150,0-2-100", "0-1-50,0-2-80", "0-1-101..150,0-2-81..100", 70),
        ("0-1-100,1-2-5", "0-1-100", "1-2-5", 5),
        ("0-1-100", "0-1-100", "", 0),
    ];
    for (lost, survivor, wanted, count) in table {
        let missing = set(lost).missing_from(&set(survivor));
        assert_eq!(missing.to_string(), wanted, "{lost} against {survivor}");
        assert_eq!(missing.transaction_count(), count);
    }
}

fn any_set() -> impl Strategy<Value = MariaDbGtidSet> {
    let entry = (0..2_u32, 1..4_u32, 1..40_u64, 0..12_u64, any::<bool>());
    proptest::collection::vec(entry, 0..8).prop_map(|entries| {
        let entries = entries.into_iter().map(|(domain, server, first, length, from_start)| {
            if from_start {
                format!("{domain}-{server}-{first}")
            } else {
                format!("{domain}-{server}-{first}..{}", first + length)
            }
        });
        set(&entries.collect::<Vec<_>>().join(","))
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(a in any_set()) {
        prop_assert_eq!(set(&a.to_string()), a);
    }

    #[test]
    fn the_difference_shares_nothing_with_what_was_taken_away(a in any_set(), b in any_set()) {
        let difference = a.subtract(&b);
        prop_assert_eq!(&difference.subtract(&b), &difference);
        prop_assert!(a.contains(&difference));
        prop_assert_eq!(difference.union(&b), a.union(&b));
        prop_assert_eq!(difference.transaction_count() + b.transaction_count(), a.union(&b).transaction_count());
    }

    #[test]
    fn union_is_commutative_associative_and_idempotent(a in any_set(), b in any_set(), c in any_set()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(&a.union(&a), &a);
    }

    #[test]
    fn contains_means_nothing_is_left_over_and_implies_covers(a in any_set(), b in any_set()) {
        prop_assert_eq!(a.contains(&b), b.subtract(&a).is_empty());
        prop_assert!(!a.contains(&b) || a.covers(&b));
        prop_assert!(a.subtract(&b).contains(&a.missing_from(&b)));
        prop_assert!(a.missing_from(&a).is_empty());
    }

    #[test]
    fn compare_is_antisymmetric(a in any_set(), b in any_set()) {
        let (left, right) = (GtidSet::MariaDb(a.clone()), GtidSet::MariaDb(b.clone()));
        prop_assert_eq!(left.compare(&right), right.compare(&left).map(Ordering::reverse));
        prop_assert_eq!(left.compare(&right) == Some(Ordering::Equal), a == b);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9., -]{0,40}|\\PC{0,30}") {
        if let Ok(set) = MariaDbGtidSet::parse(&text) {
            prop_assert_eq!(MariaDbGtidSet::parse(&set.to_string()), Ok(set));
        }
    }
}
