//! Which file imports from which, read from the text of the sources: `use` declarations and paths that begin with
//! `crate::`, `super::` or `self::`. Tests are left out. A re-export leads to the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::code;

/// The sources of the crate by module path (`app::recovery::runner`), and what each imports.
pub(crate) struct Imports {
    edges: BTreeMap<String, BTreeSet<String>>,
}

struct Module {
    code: String,
    /// Items that this module re-exports, with the path that they come from.
    exports: BTreeMap<String, Vec<String>>,
}

impl Imports {
    /// Reads all files below `src`.
    pub(crate) fn read(src: &Path, files: &[PathBuf]) -> Self {
        let mut modules = BTreeMap::new();
        for file in files {
            let name = module_of(src, file);
            if name.ends_with("tests") || name.contains("tests::") {
                continue;
            }
            let code = without_tests(&code(file));
            modules.insert(
                name,
                Module {
                    code,
                    exports: BTreeMap::new(),
                },
            );
        }
        let names: BTreeSet<String> = modules.keys().cloned().collect();
        for (name, module) in &mut modules {
            for (public, path) in uses(&module.code) {
                if public && let Some(path) = absolute(name, &path, &names) {
                    let item = path.last().cloned().unwrap_or_default();
                    module.exports.insert(item, path);
                }
            }
        }
        let mut edges = BTreeMap::new();
        for (name, module) in &modules {
            let mut targets = BTreeSet::new();
            let declared = uses(&module.code).into_iter().map(|(_, path)| path);
            for path in declared.chain(paths(&module.code)) {
                if let Some(path) = absolute(name, &path, &names)
                    && let Some(target) = resolve(&modules, &path, 0)
                    && target != *name
                {
                    targets.insert(target);
                }
            }
            edges.insert(name.clone(), targets);
        }
        Self { edges }
    }

    /// All imports of the files below a module, as pairs.
    pub(crate) fn below<'a>(&'a self, module: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.edges
            .iter()
            .filter(move |(from, _)| is_in(from, module))
            .flat_map(|(from, targets)| targets.iter().map(move |to| (from.as_str(), to.as_str())))
    }

    /// The groups of files below a module that import each other in a circle, each sorted.
    pub(crate) fn circles(&self, module: &str) -> Vec<Vec<String>> {
        let inside: BTreeSet<&str> = self
            .edges
            .keys()
            .map(String::as_str)
            .filter(|name| is_in(name, module))
            .collect();
        let reach = |from: &str| {
            let mut seen = BTreeSet::new();
            let mut waiting: Vec<&str> = vec![from];
            while let Some(next) = waiting.pop() {
                for target in self.edges.get(next).into_iter().flatten() {
                    if let Some(target) = inside.get(target.as_str())
                        && seen.insert(*target)
                    {
                        waiting.push(target);
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> = inside.iter().map(|name| (*name, reach(name))).collect();
        let mut circles = BTreeSet::new();
        for (name, from_here) in &reached {
            let group: Vec<String> = from_here
                .iter()
                .filter(|other| reached[*other].contains(name))
                .map(|other| (*other).to_owned())
                .collect();
            if group.len() > 1 {
                circles.insert(group);
            }
        }
        circles.into_iter().collect()
    }
}

fn is_in(name: &str, module: &str) -> bool {
    name == module || name.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
}

fn module_of(src: &Path, file: &Path) -> String {
    let relative = file
        .strip_prefix(src)
        .expect("the file is below src")
        .with_extension("");
    let mut parts: Vec<String> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|part| part == "mod") {
        parts.pop();
    }
    parts.join("::")
}

/// The code before an inline `mod tests`.
fn without_tests(code: &str) -> String {
    let end = code.find("mod tests {").unwrap_or(code.len());
    code[..end].to_owned()
}

/// The paths of all `use` declarations, with whether they re-export.
fn uses(code: &str) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit(['\n', ';', '{']).next().unwrap_or_default().trim();
        if !(before.is_empty() || before.starts_with("pub")) {
            continue;
        }
        let Some(end) = code[at..].find(';') else { continue };
        let mut tree = Vec::new();
        expand(code[at + 4..at + end].trim(), &[], &mut tree);
        found.extend(tree.into_iter().map(|path| (!before.is_empty(), path)));
    }
    found
}

/// Opens the braces of a use tree.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let (head, inner) = match tree.find('{') {
        Some(open) => (&tree[..open], Some(tree[open + 1..].trim_end().trim_end_matches('}'))),
        None => (tree, None),
    };
    let head = head.split(" as ").next().unwrap_or_default();
    let mut path = prefix.to_vec();
    path.extend(
        head.split("::")
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned),
    );
    let Some(inner) = inner else {
        if path.last().is_some_and(|last| last == "self" && path.len() > 1) {
            path.pop();
        }
        found.push(path);
        return;
    };
    let (mut depth, mut begin) = (0_usize, 0);
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                if !inner[begin..at].trim().is_empty() {
                    expand(inner[begin..at].trim(), &path, found);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths in the code beside `use`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for begin in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(begin) {
            let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
            if code[..at].chars().next_back().is_some_and(is_path) {
                continue;
            }
            let text: String = code[at..].chars().take_while(|letter| is_path(*letter)).collect();
            found.push(
                text.split("::")
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect(),
            );
        }
    }
    found
}

/// The path from the crate's root; `None` outside the crate.
fn absolute(module: &str, path: &[String], names: &BTreeSet<String>) -> Option<Vec<String>> {
    let own = || module.split("::").map(str::to_owned).collect::<Vec<_>>();
    let mut rest = path;
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => own(),
        "super" => {
            let mut base = own();
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
            base.extend(rest.iter().cloned());
            return Some(base);
        }
        child if names.contains(&format!("{module}::{child}")) => {
            let mut base = own();
            base.extend(path.iter().cloned());
            return Some(base);
        }
        _ => return None,
    };
    rest = &rest[1..];
    base.extend(rest.iter().cloned());
    Some(base)
}

/// The file that defines what a path names.
fn resolve(modules: &BTreeMap<String, Module>, path: &[String], depth: usize) -> Option<String> {
    let at = (1..=path.len())
        .rev()
        .find(|at| modules.contains_key(&path[..*at].join("::")))?;
    let name = path[..at].join("::");
    if let Some(item) = path.get(at)
        && depth < 8
        && let Some(from) = modules.get(&name).and_then(|module| module.exports.get(item))
        && from != path
    {
        let mut onward = from.clone();
        onward.extend(path[at + 1..].iter().cloned());
        return resolve(modules, &onward, depth + 1).or(Some(name));
    }
    Some(name)
}
