//! Saved topologies and what is found and planned for each: `NAME.json` is what `ham4db simulate` reads, `NAME.txt` what it prints.
//!
//! A difference fails with the whole new text. `HAM4DB_BLESS=1` writes the texts anew; read the difference before keeping it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ham4db::domain::analysis::findings;
use ham4db::domain::case::Case;
use ham4db::domain::explain::explain;
use ham4db::domain::recovery::planner::held_back;
use ham4db::domain::simulate::report;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn names(extension: &str) -> BTreeSet<String> {
    fs::read_dir(folder())
        .expect("the folder of the cases can be read")
        .map(|entry| entry.expect("an entry of the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| {
            path.file_stem()
                .expect("a file has a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

fn read(name: &str) -> Case {
    let path = folder().join(name).with_extension("json");
    let text = fs::read_to_string(path).expect("a case can be read");
    Case::from_json(&text).expect(name)
}

#[test]
fn every_case_gives_its_text() {
    let bless = std::env::var_os("HAM4DB_BLESS").is_some();
    let cases = names("json");
    assert!(cases.len() >= 76, "only {} cases were found", cases.len());
    let mut different = Vec::new();
    for name in &cases {
        let found = report(&read(name));
        let path = folder().join(name).with_extension("txt");
        if bless {
            fs::write(&path, &found).expect("a text can be written");
        } else if fs::read_to_string(&path).unwrap_or_default() != found {
            different.push(format!("=== {name}\n{found}"));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} cases differ:\n{}",
        different.len(),
        cases.len(),
        different.join("\n")
    );
}

/// Cases of which it is also told what `ham4db-client -c explain` says.
const EXPLAINED: [&str; 8] = [
    "below-an-intermediate",
    "delayed-alone",
    "downtimed-primary",
    "errant-replica",
    "healthy",
    "mariadb",
    "must-not",
    "paused",
];

#[test]
fn a_cluster_is_explained_as_it_is_written_down() {
    let bless = std::env::var_os("HAM4DB_BLESS").is_some();
    let mut different = Vec::new();
    for name in EXPLAINED {
        let Case {
            topology,
            policy,
            quarantines,
            now,
            ..
        } = read(name);
        let found = findings(&topology, &policy, &quarantines, now);
        let held: Vec<_> = found
            .iter()
            .map(|finding| held_back(finding, &topology, &policy))
            .collect();
        let judged = found.iter().zip(held.iter().map(Option::as_ref));
        let text = explain(&topology, &policy, judged, now).to_string();
        let path = folder().join(name).with_extension("explain");
        if bless {
            fs::write(&path, &text).expect("a text can be written");
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            different.push(format!("=== {name}\n{text}"));
        }
    }
    assert!(different.is_empty(), "these differ:\n{}", different.join("\n"));
}

#[test]
fn every_text_has_its_case() {
    assert_eq!(names("txt"), names("json"));
}

#[test]
fn no_plan_is_unsound() {
    for name in names("json") {
        let text = report(&read(&name));
        assert!(!text.contains("UNSOUND"), "{name}:\n{text}");
    }
}

#[test]
fn a_case_that_is_saved_and_read_again_decides_alike() {
    for name in names("json") {
        let case = read(&name);
        let again = Case::from_json(&case.to_json()).expect(&name);
        assert_eq!(case, again, "{name}");
        assert_eq!(report(&case), report(&again), "{name}");
    }
}

#[test]
fn a_misspelt_key_is_an_error_that_names_it() {
    let text = read("equal-replicas")
        .to_json()
        .replacen("\"topology\"", "\"topologie\"", 1);
    let error = Case::from_json(&text).expect_err("the key is unknown");
    assert!(error.to_string().contains("unknown field `topologie`"), "{error}");
}
