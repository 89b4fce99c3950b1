//! The layers are a rule with a test: who may use whom, and what the domain may not do.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot read the sources fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Allowed edges between top-level modules. `main` and `cli` build everything; `resource` knows the domain only to convert into it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("app", &["domain"]),
    ("resource", &["domain"]),
    ("adapter", &["app", "domain", "resource"]),
    ("config", &["app", "domain"]),
    ("client", &["domain"]),
    // Tests only: a simulator of servers and members.
    ("testkit", &["app", "domain"]),
    ("cli", &["adapter", "app", "client", "config", "domain", "resource"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code of a file without line comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| line.find("//").map_or(line, |at| &line[..at]))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The top-level modules that a file names as `crate::NAME`.
fn used(code: &str) -> BTreeSet<String> {
    code.match_indices("crate::")
        .map(|(at, found)| {
            code[at + found.len()..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, may_use) in &allowed {
        let folder = src().join(module);
        assert!(folder.is_dir(), "the table names {module}, which is not there");
        for file in sources(&folder) {
            for other in used(&code(&file)) {
                // Tests of a module may stand on the simulator.
                let is_test = file
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().ends_with("tests.rs"));
                if is_test && other == "testkit" {
                    continue;
                }
                if other != *module && allowed.contains_key(other.as_str()) && !may_use.contains(&other.as_str()) {
                    wrong.push(format!("{} uses crate::{other}", file.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "edges that the table does not allow:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_top_level_module_is_in_the_table() {
    let allowed: BTreeSet<&str> = ALLOWED.iter().map(|(module, _)| *module).collect();
    for entry in fs::read_dir(src()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            !path.is_dir() || name == "bin" || allowed.contains(name.as_str()),
            "src/{name} is not in the table of layers"
        );
    }
}

#[test]
fn adapters_do_not_import_each_other() {
    let mut wrong = Vec::new();
    for file in sources(&src().join("adapter")) {
        let own = file
            .strip_prefix(src().join("adapter"))
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        let code = code(&file);
        for (at, found) in code.match_indices("crate::adapter::") {
            let other: String = code[at + found.len()..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if other != own && own != "mod" {
                wrong.push(format!("{} uses adapter::{other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_domain_has_no_async_no_clock_and_no_unordered_maps() {
    let forbidden = [
        "async ",
        ".await",
        "HashMap",
        "HashSet",
        "Instant::now",
        "SystemTime::now",
        "tokio::",
        "rand::",
        "new_v4",
        "std::fs",
        "std::net",
        "std::env",
    ];
    let mut wrong = Vec::new();
    for file in sources(&src().join("domain")) {
        let code = code(&file);
        for word in forbidden {
            if code.contains(word) {
                wrong.push(format!("{}: {word}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "the domain is pure:\n{}", wrong.join("\n"));
}

#[test]
fn no_module_is_named_after_nothing() {
    let mut wrong = Vec::new();
    for file in sources(&src()) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if ["util", "utils", "helper", "helpers", "manager", "common", "misc"].contains(&name.as_str()) {
            wrong.push(file.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
