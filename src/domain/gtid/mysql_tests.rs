use proptest::prelude::*;

use super::*;

const A: &str = "2174b383-5441-11e8-b90a-c80aa9429562";
const B: &str = "24da167-0c0c-11e8-8442-00059a3c7b00";
const C: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

fn set(text: &str) -> MySqlGtidSet {
    MySqlGtidSet::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn texts_are_normalised_as_the_server_does() {
    let table = [
        (String::new(), String::new()),
        (" ,\n, ".into(), String::new()),
        (format!("{C}:23"), format!("{C}:23")),
        (format!("{C}:1-5"), format!("{C}:1-5")),
        (format!("{C}:1-3:11:47-49"), format!("{C}:1-3:11:47-49")),
        // Manual, "GTID Sets": unsorted and overlapping intervals of an upper-case uuid.
        (
            format!("{}:3-5:1:2:47-49:48", C.to_uppercase()),
            format!("{C}:1-5:47-49"),
        ),
        (format!("{C}:1-3,{A}:1-3, {A}:24-40"), format!("{A}:1-3:24-40,{C}:1-3")),
        (format!("{A}:1-3,\n{C}:1\n"), format!("{A}:1-3,{C}:1")),
        (format!("  {A} : 1 - 3 : 5 "), format!("{A}:1-3:5")),
        (C.replace('-', "") + ":7", format!("{C}:7")),
        (format!("{{{C}}}:7"), format!("{C}:7")),
        // Tags: lower-cased, sorted, the untagged series of a uuid first.
        (format!("{C}:Domain_1:1-3:15-21"), format!("{C}:domain_1:1-3:15-21")),
        (
            format!("{C}:1-3:15-21:DOMAIN_1:8-52:tag2:1"),
            format!("{C}:1-3:15-21:domain_1:8-52:tag2:1"),
        ),
        (format!("{C}:zz:1:aa:2,{C}:5:zz:2"), format!("{C}:5:aa:2:zz:1-2")),
        (
            format!("{C}:_x:9223372036854775806"),
            format!("{C}:_x:9223372036854775806"),
        ),
    ];
    for (text, wanted) in table {
        assert_eq!(set(&text).to_string(), wanted, "{text:?}");
    }
}

#[test]
fn what_is_no_set_is_refused_with_the_part_that_is_wrong() {
    let table = [
        (format!("{B}:1"), B.to_owned()),
        ("abc:1".into(), "abc".into()),
        (C.to_owned(), C.into()),
        (format!("{C}:"), "``".into()),
        (format!("{C}:0"), "`0`".into()),
        (format!("{C}:5-3"), "`5-3`".into()),
        (format!("{C}:1-"), "`1-`".into()),
        (format!("{C}:+1"), "`+1`".into()),
        (format!("{C}:9223372036854775807"), "`9223372036854775807`".into()),
        (format!("{C}:99999999999999999999"), "`99999999999999999999`".into()),
        (format!("{C}:tag"), "without an interval".into()),
        (format!("{C}:1:tag"), "without an interval".into()),
        (format!("{C}:tag:other:1"), "without an interval".into()),
        (format!("{C}:1tag:1"), "`1tag`".into()),
        (format!("{C}:{}:1", "t".repeat(33)), "`ttt".into()),
        (format!("{C}:1;{A}:1"), "`1;".into()),
        (format!("{{{C}:1"), "{".into()),
        (format!("é{}:1", &C[2..]), "é".into()),
    ];
    for (text, part) in table {
        let error = MySqlGtidSet::parse(&text).expect_err(&text).to_string();
        assert!(error.contains(&part), "{text}: {error}");
    }
}

#[test]
fn the_manuals_examples_of_subset_and_subtract_hold() {
    assert!(set(&format!("{C}:21-57")).contains(&set(&format!("{C}:23"))));
    assert!(set(&format!("{C}:21-57")).contains(&set(&format!("{C}:23-25"))));
    assert!(!set(&format!("{C}:21-57")).contains(&set(&format!("{C}:20-25"))));
    let table = [("21", "22-57"), ("20-25", "26-57"), ("23-24", "21-22:25-57")];
    for (removed, left) in table {
        let remainder = set(&format!("{C}:21-57")).subtract(&set(&format!("{C}:{removed}")));
        assert_eq!(remainder, set(&format!("{C}:{left}")), "minus {removed}");
    }
}

#[test]
fn a_tag_is_a_series_of_its_own() {
    let tagged = set(&format!("{C}:1-5:tag:1-9"));
    assert!(tagged.contains(&set(&format!("{C}:TAG:9"))));
    assert!(!tagged.contains(&set(&format!("{C}:6"))));
    assert_eq!(tagged.subtract(&set(&format!("{C}:1-9"))), set(&format!("{C}:tag:1-9")));
    assert_eq!(tagged.transaction_count(), 14);
    assert!(tagged.has_tags() && !set(&format!("{C}:1")).has_tags());
}

#[test]
fn transactions_of_one_server_are_picked_with_all_their_tags() {
    let all = set(&format!("{A}:1-5,{C}:1-3:tag:7"));
    assert_eq!(all.originating_at(&C.to_uppercase()), set(&format!("{C}:1-3:tag:7")));
    assert_eq!(all.server_uuids(), [A, C]);
    assert!(all.originating_at("other").is_empty());
}

#[test]
fn a_whole_series_is_counted_without_overflow() {
    let all = set(&format!(
        "{A}:1-9223372036854775806:t:1-9223372036854775806,{C}:1-9223372036854775806"
    ));
    assert_eq!(all.transaction_count(), u64::MAX);
}

fn any_set() -> impl Strategy<Value = MySqlGtidSet> {
    let entry = (0..3_usize, 0..3_usize, 1..40_u64, 0..12_u64);
    proptest::collection::vec(entry, 0..12).prop_map(|entries| {
        let entries = entries.into_iter().map(|(uuid, tag, start, length)| {
            let (uuid, tag) = (
                [A, C, "ffffffff-0000-0000-0000-000000000000"][uuid],
                ["", "a:", "Zb:"][tag],
            );
            format!("{uuid}:{tag}{start}-{}", start + length)
        });
        set(&entries.collect::<Vec<_>>().join(","))
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(a in any_set()) {
        let text = a.to_string();
        prop_assert_eq!(&set(&text), &a);
        prop_assert_eq!(set(&text.to_uppercase().replace(',', ",\n")).to_string(), text);
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
        prop_assert!(a.union(&b).contains(&a));
    }

    #[test]
    fn contains_means_nothing_is_left_over(a in any_set(), b in any_set()) {
        prop_assert_eq!(a.contains(&b), b.subtract(&a).is_empty());
        prop_assert_eq!(a.contains(&b) && b.contains(&a), a == b);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9a-f{}:, \n-]{0,60}|\\PC{0,40}") {
        if let Ok(set) = MySqlGtidSet::parse(&text) {
            prop_assert_eq!(MySqlGtidSet::parse(&set.to_string()), Ok(set));
        }
    }
}
