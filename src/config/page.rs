//! The reference page of the configuration, from the declarations.

use std::fmt::Write as _;

use super::accepted::{ACCEPTED, OBSOLETE};
use super::keys::{
    DiscoveryKeys, GroupKeys, HookKeys, KeyDoc, ListenerKeys, PseudoGtidKeys, RecoveryKeys, TopologyKeys,
};

/// The text of `docs/config.md`; a test holds the file to it.
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         JSON files with orchestrator's keys; the case of keys does not matter. Read are, as far as they exist and each over the ones before it,\n\
         `/etc/ham4db.conf.json`, `conf/ham4db.conf.json` and `ham4db.conf.json`; when none of them exists, orchestrator's files of the same three\n\
         places (`orchestrator.conf.json`). `--config FILE` reads that one only. A value of a wrong type ends the start with key, line and what was\n\
         expected; unknown keys are listed as warnings. Generated from the program; do not edit.\n",
    );
    for (title, keys) in [
        ("The API", ListenerKeys::describe()),
        ("Managed servers", TopologyKeys::describe()),
        ("Backend, group, documents", GroupKeys::describe()),
        ("Discovery", DiscoveryKeys::describe()),
        ("Recovery", RecoveryKeys::describe()),
        ("Pseudo-GTID", PseudoGtidKeys::describe()),
        ("Hooks", HookKeys::describe()),
    ] {
        section(&mut page, title, &keys);
    }
    page.push_str(
        "\n## Accepted, not used yet\n\n\
         Known keys that this version does not act upon; one that is set is named in one line at the start. Those marked **refused** end the start\n\
         when set, since ignoring them would be dangerous.\n\n\
         | Key | Default | Meaning |\n|---|---|---|\n",
    );
    for key in ACCEPTED {
        let mark = key
            .refusal
            .map(|why| format!(" **refused**: {why}"))
            .unwrap_or_default();
        row(
            &mut page,
            &[
                &format!("`{}`", key.name),
                &format!("`{}`", key.default.as_json()),
                &format!("{}{mark}", key.about),
            ],
        );
    }
    page.push_str("\n## Obsolete\n\nDropped by orchestrator itself; named once at the start, otherwise ignored: ");
    page.push_str(&OBSOLETE.map(|name| format!("`{name}`")).join(", "));
    page.push_str(".\n");
    page
}

fn section(page: &mut String, title: &str, keys: &[KeyDoc]) {
    write!(
        page,
        "\n## {title}\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n"
    )
    .expect("because a String takes everything");
    for key in keys {
        row(
            page,
            &[
                &format!("`{}`", key.name),
                kind(key.kind),
                &format!("`{}`", key.default),
                &key.about,
            ],
        );
    }
}

fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(page, "| {} |", cells.join(" | ")).expect("because a String takes everything");
}

fn kind(rust: &str) -> &'static str {
    match rust.split_whitespace().collect::<String>().as_str() {
        "bool" => "boolean",
        "u32" | "u16" => "number",
        "Vec<String>" => "list of strings",
        "String" | "Secret" => "string",
        "BTreeMap<String,String>" => "object of strings",
        _ => "object",
    }
}
