//! `docs/messages.md` and the program hold the same messages: each `warn!` and `error!` of `src`, and each text of the
//! types in `TYPES`, has a row, and each row has its text in `src`. Placeholders are compared as `{}`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot read the sources fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

const PAGE: &str = "docs/messages.md";

/// Types whose texts an operator meets within other messages: each text has a row, of any level.
const TYPES: &[&str] = &[
    "Display for HeldBack",
    "Display for RefusalReason",
    "enum RefusedCommand",
    "enum StepError",
    "enum ProposeError",
    "enum Unconfirmed",
    "enum ApiError",
    "enum ProbeFailure",
    "enum FileError",
    "enum SingleError",
    "enum SharedError",
    "enum RegistrationError",
    "enum BackendError",
    "enum StartError",
    "enum ConnectError",
    "enum RelayLogMatchError",
    "enum PseudoGtidMatchError",
];

/// Calls without a fixed text, as `warn!("{warning}")`. The page has rows of the level `warn*` for what they print.
const WITHOUT_TEXT: usize = 9;

/// Stands for a string in `Source::code`.
const LITERAL: char = '\u{1}';

/// The code of a file without comments and characters, and its strings.
struct Source {
    code: String,
    literals: Vec<String>,
}

impl Source {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let at = |index: usize| chars.get(index).copied().unwrap_or('"');
        let until = |from: usize, end: &str| {
            let is_there = |index: &usize| end.chars().enumerate().all(|(ahead, c)| at(index + ahead) == c);
            (from..chars.len()).find(is_there).unwrap_or(chars.len())
        };
        let (mut code, mut literals) = (String::new(), Vec::new());
        let mut next = 0;
        while next < chars.len() {
            let is_word = code.ends_with(|before: char| before.is_alphanumeric() || before == '_');
            let hashes = (next + 1..text.len()).take_while(|index| at(*index) == '#').count();
            match (at(next), at(next + 1)) {
                ('/', '/') => next = until(next, "\n"),
                ('/', '*') => next = until(next, "*/") + 2,
                ('\'', '\\') => next = until(next + 3, "'") + 1,
                ('\'', _) if at(next + 2) == '\'' => next += 3,
                ('r', '"' | '#') if !is_word && at(next + 1 + hashes) == '"' => {
                    let from = next + 2 + hashes;
                    let end = until(from, &format!("\"{}", "#".repeat(hashes)));
                    literals.push(chars[from..end].iter().collect());
                    code.push(LITERAL);
                    next = end + 1 + hashes;
                }
                ('"', _) => {
                    let mut literal = String::new();
                    next += 1;
                    while at(next) != '"' {
                        // A backslash at the end of a line, and `\\n`, are blanks here: `normal` reduces them.
                        let is_escaped = at(next) == '\\';
                        next += usize::from(is_escaped);
                        literal.push(if is_escaped && at(next) == 'n' { ' ' } else { at(next) });
                        next += 1;
                    }
                    next += 1;
                    literals.push(literal);
                    code.push(LITERAL);
                }
                (other, _) => {
                    code.push(other);
                    next += 1;
                }
            }
        }
        Self { code, literals }
    }

    /// The texts of the calls that begin with `name`, which ends in a parenthesis: of each the first string that is an
    /// argument of its own.
    fn calls(&self, name: &str, part: Range<usize>) -> Vec<Option<&String>> {
        let is_whole = |at: &usize| !self.code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let found = self.code[part.clone()].match_indices(name);
        let begins = found.map(|(at, _)| part.start + at).filter(is_whole);
        begins.map(|at| self.argument(at + name.len())).collect()
    }

    fn argument(&self, open: usize) -> Option<&String> {
        let (mut depth, mut before) = (1, '(');
        for (at, found) in self.code[open..].char_indices() {
            match found {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 1 => return None,
                ')' | ']' | '}' => depth -= 1,
                LITERAL if depth == 1 && matches!(before, '(' | ',') => {
                    return self.literals.get(self.code[..open + at].matches(LITERAL).count());
                }
                _ => {}
            }
            if !found.is_whitespace() {
                before = found;
            }
        }
        None
    }

    /// Where an item stands that begins a line, from its name to the end of its block.
    fn item(&self, name: &str) -> Option<Range<usize>> {
        let start = self.code.find(&format!("{name} {{"))?;
        Some(start..start + self.code[start..].find("\n}")?)
    }
}

/// A text with `{}` for each placeholder, however it is written.
fn normal(text: &str) -> String {
    let (marked, mut out) = (text.replace("{{", "\u{2}").replace("}}", "\u{3}"), String::new());
    for (number, part) in marked.split(['{', '}']).enumerate() {
        out.push_str(if number % 2 == 0 { part } else { "{}" });
    }
    let plain = out.replace('\u{2}', "{").replace('\u{3}', "}");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The files of the program, without its tests.
fn read(folder: &Path, into: &mut BTreeMap<String, Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_test = name == "tests" || name.ends_with("_tests") || name == "testkit";
        if path.is_dir() && !is_test {
            read(&path, into);
        } else if !is_test && path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            into.insert(path.display().to_string(), Source::of(&text));
        }
    }
}

/// The rows of the page: message and level, and whether meaning and action are there.
fn rows(page: &str) -> Vec<((String, String), bool)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        let level = cells.get(1).copied().unwrap_or_default();
        let is_complete = cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty());
        ((normal(cells[0].trim_matches('`')), level.to_owned()), is_complete)
    };
    page.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

#[test]
fn the_page_and_the_program_hold_the_same_messages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    read(&root.join("src"), &mut files);
    let rows = rows(&fs::read_to_string(root.join(PAGE)).unwrap());
    let texts: BTreeSet<&String> = rows.iter().map(|((text, _), _)| text).collect();
    let (mut wrong, mut logged, mut without_text) = (String::new(), BTreeMap::new(), 0);
    for (path, source) in &files {
        for level in ["warn", "error"] {
            for found in source.calls(&format!("{level}!("), 0..source.code.len()) {
                let text = found.unwrap_or_else(|| panic!("{path}: a {level}! without a text"));
                without_text += usize::from(!normal(text).contains(char::is_alphabetic));
                let paste = format!("| `{text}` | {level} |  |  | {path}");
                logged.insert((normal(text), level.to_owned()), paste);
            }
        }
    }
    for name in TYPES {
        let place = |(_, source)| Some((source, Source::item(source, name)?));
        let Some((source, part)) = files.iter().find_map(place) else {
            writeln!(wrong, "src has no `{name}`: what is its name now?").unwrap();
            continue;
        };
        let calls = ["write_str(", "write!(", "#[error("].map(|call| source.calls(call, part.clone()));
        for text in calls.into_iter().flatten().flatten() {
            if normal(text).contains(char::is_alphabetic) && !texts.contains(&normal(text)) {
                writeln!(wrong, "| `{text}` | refusal |  |  | {name}").unwrap();
            }
        }
    }
    let strings = files.values().flat_map(|source| &source.literals);
    let all: BTreeSet<String> = strings.map(|text| normal(text)).collect();
    let mut seen = BTreeSet::new();
    for (row, is_complete) in rows {
        let is_there = match row.1.as_str() {
            "warn" | "error" => logged.contains_key(&row),
            _ => all.contains(&row.0),
        };
        if !is_there || !is_complete || seen.contains(&row) {
            let fault = if is_there {
                "is there twice, or has an empty cell"
            } else {
                "is not in src"
            };
            writeln!(wrong, "{PAGE}: `{}` ({}) {fault}", row.0, row.1).unwrap();
        }
        seen.insert(row);
    }
    for (_, paste) in logged.iter().filter(|(row, _)| !seen.contains(*row)) {
        writeln!(wrong, "{paste}").unwrap();
    }
    assert!(
        wrong.is_empty(),
        "rows that {PAGE} lacks, and faults of its rows:\n{wrong}"
    );
    assert_eq!(without_text, WITHOUT_TEXT, "calls without a text of their own");
}

#[test]
fn calls_and_rows_are_read_in_each_form() {
    let source = Source::of(
        "// warn!(\"no\")\nfn f<'a>(c: &'a str) { let q = '\"'; warn!(%why, kind = \"x\", at = f(\"y\"), \"one {why:?}\");\n\
         error!(\n    \"two {} \\\"and\\\" \\\n     more\", a\n); my_warn!(\"no\"); #[error(r#\"three \"{0}\"\"#)] } \nenum A {\n  X {}\n}",
    );
    for (call, text) in [
        ("warn!(", "one {}"),
        ("error!(", "two {} \"and\" more"),
        ("#[error(", "three \"{}\""),
    ] {
        let found = source.calls(call, 0..source.code.len());
        assert_eq!(
            found.iter().map(|text| normal(text.unwrap())).collect::<Vec<_>>(),
            [text]
        );
    }
    assert!(source.code[source.item("enum A").unwrap()].ends_with("X {}"));
    let read = rows("| message | level |\n|---|---|\n| `a {x} {{b}}` | warn | c | d |\n| `e` | exit | f | |\n");
    let row = |text: &str, level: &str, is_complete| ((text.to_owned(), level.to_owned()), is_complete);
    assert_eq!(read, [row("a {} {b}", "warn", true), row("e", "exit", false)]);
}
