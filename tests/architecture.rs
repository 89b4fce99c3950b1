//! The layers are a rule with a test: which module may import which, and what the domain may not do.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot read the sources fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::Imports;

#[path = "architecture/imports.rs"]
mod imports;

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

/// The subsystems of `app`, from top to bottom: one may import those below it and never one above.
const SUBSYSTEMS: &[&str] = &[
    "api",
    "leader",
    "declarative",
    "recovery",
    "cluster",
    "observation",
    "group_clock",
    "ports",
    "settings",
    "filter",
    "supervision",
];

/// Where no files may import each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &["app", "adapter::http", "adapter::raft", "domain::recovery"];

/// The circles that remain, with the reason.
const KNOWN_CIRCLES: &[(&[&str], &str)] = &[];

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

/// A name that fits no test would leave none out without a word.
#[test]
fn each_long_scenario_is_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let names = fs::read_to_string(folder.join("long.txt")).unwrap();
    for name in names.lines() {
        let (module, function) = name.split_once("::").unwrap();
        let text = fs::read_to_string(folder.join(format!("{module}.rs"))).unwrap();
        assert!(
            text.contains(&format!("async fn {function}()")),
            "long.txt names {name}, which is not there"
        );
    }
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

/// What several adapters may import: the bounds of connections are the same on every listener.
const SHARED_BY_ADAPTERS: &[&str] = &["connections"];

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
            if other != own && own != "mod" && !SHARED_BY_ADAPTERS.contains(&other.as_str()) {
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

#[test]
fn every_subsystem_of_app_has_its_place() {
    let known: BTreeSet<&str> = SUBSYSTEMS.iter().copied().chain(["mod"]).collect();
    for entry in fs::read_dir(src().join("app")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            known.contains(name.as_str()),
            "src/app/{name} is in no subsystem: move it into one, or add it to SUBSYSTEMS at its place"
        );
    }
}

#[test]
fn subsystems_of_app_import_downwards_only() {
    let imports = Imports::read(&src(), &sources(&src()));
    let place = |module: &str| {
        let name = module.strip_prefix("app::")?.split("::").next()?;
        SUBSYSTEMS.iter().position(|subsystem| *subsystem == name)
    };
    let upwards: Vec<String> = imports
        .below("app")
        .filter_map(|(from, to)| Some((from, to, place(from)?, place(to)?)))
        .filter(|(_, _, from, to)| to < from)
        .map(|(from, to, ..)| format!("{from} imports {to}"))
        .collect();
    assert!(
        upwards.is_empty(),
        "a subsystem imports one above it ({}):\n{}",
        SUBSYSTEMS.join(" > "),
        upwards.join("\n")
    );
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let imports = Imports::read(&src(), &sources(&src()));
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for module in WITHOUT_CIRCLES {
        for circle in imports.circles(module) {
            let known = KNOWN_CIRCLES.iter().position(|(known, reason)| {
                assert!(!reason.is_empty(), "a circle that remains has a reason");
                circle.iter().map(String::as_str).eq(known.iter().copied())
            });
            match known {
                Some(at) => {
                    met.insert(at);
                }
                None => wrong.push(circle.join(", ")),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "files import each other in a circle:\n{}",
        wrong.join("\n")
    );
    assert_eq!(
        met.len(),
        KNOWN_CIRCLES.len(),
        "a circle in KNOWN_CIRCLES is gone: take it out"
    );
}

#[test]
fn the_map_of_architecture_names_every_module_of_app() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let map = page
        .split("### Map of `app`")
        .nth(1)
        .unwrap()
        .split("\n### ")
        .next()
        .unwrap();
    let names: BTreeSet<&str> = map
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|path| path.rsplit('/').next().unwrap())
        .collect();
    let mut missing = Vec::new();
    for file in sources(&src().join("app")) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if name != "mod" && !name.ends_with("_tests") && !names.contains(name.as_str()) {
            missing.push(file.display().to_string());
        }
    }
    assert!(
        missing.is_empty(),
        "not in ARCHITECTURE.md's map of app:\n{}",
        missing.join("\n")
    );
}
