#!/usr/bin/env python3
"""Checks the prose of the documentation and of the messages and doc comments in src.

  prose.py               checks itself, then the repository; prints `file:line: word: text` for each finding
  prose.py --self-test   checks itself only

- Words for persons (who, nobody, ...) are not used: servers, members and replicas are things.
- Nothing refers to a section of a document that is not in the repository ("design", the section sign).
- No table of a Markdown file is broken by a blank line.
- Paragraphs of Markdown files wrap at 100 columns, or are one line each.

Checked are Markdown files, the chart's notes and values, manifests, and in Rust sources outside of tests the string literals and the
doc comments. References to sections are looked for in other comments too. Code blocks, tables and headings may be wider.
"""
import re
import sys
from bisect import bisect_right
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/**/*.md",
    "charts/**/README.md", "charts/**/NOTES.txt", "charts/**/values.yaml", "deploy/**/*.md", "deploy/**/*.yaml",
]
SOURCES = "src/**/*.rs"
COLUMNS = 100

# (file, the whole line without its indentation, the reason). An entry that matches nothing is reported.
ALLOWED = []

WORD = re.compile(r"\b(who|whom|whose|whoever|whomever|somebody|nobody|everybody)\b", re.IGNORECASE)
SECTION = re.compile(r"\bdesign\s*§|§+\s*\d", re.IGNORECASE)
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
ROW = re.compile(r"^\s*\|.*\|\s*$")
SEPARATOR = re.compile(r"^\s*\|[\s:|-]*-[\s:|-]*\|\s*$")
ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s")
HEADING = re.compile(r"^ {0,3}#{1,6}\s")
RUST = re.compile(
    r"""(?P<raw>\b(?:br|cr|r)(?P<hashes>\#*)".*?"(?P=hashes))
      | (?P<string>"(?:\\.|[^"\\])*")
      | (?P<character>'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\\n])')
      | (?P<doc>//(?:/(?!/)|!)[^\n]*|/\*[*!](?!/).*?\*/)
      | (?P<comment>//[^\n]*|/\*.*?\*/)""",
    re.VERBOSE | re.DOTALL,
)
TEST_MODULE = re.compile(r"^( *)#\[cfg\(test\)\]\n(?: *#\[[^\n]*\n)* *(?:pub(?:\([a-z]+\))? )?mod (\w+)( \{|;)", re.MULTILINE)


def words_of(line):
    """The (word, line) findings that any line of prose can have."""
    found = [match[0] for match in WORD.finditer(line)]
    return found + [match[0] for match in SECTION.finditer(line)]


def plain(text):
    """Findings of a file that is prose or has comments throughout."""
    return [(number, word, line) for number, line in enumerate(text.splitlines(), 1) for word in words_of(line)]


def markdown(text):
    """Findings of a Markdown file."""
    lines = text.splitlines()
    found = plain(text)
    paragraph, fence, in_list, previous = [], None, False, ""

    def close():
        # A long line is fine when it is the whole paragraph, or when it has no space where it could have been broken.
        if len(paragraph) > 1:
            for number, line in paragraph:
                if len(line) > COLUMNS and " " in line.strip()[:COLUMNS - (len(line) - len(line.lstrip()))]:
                    found.append((number, f"{len(line)} columns", line))
        paragraph.clear()

    for number, line in enumerate(lines, 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
        elif mark:
            close()
            fence = mark[1]
        elif not line.strip():
            close()
            above = next((row for row in reversed(lines[:number - 1]) if row.strip()), "")
            below = [row for row in lines[number:] if row.strip()][:2]
            starts_table = len(below) == 2 and SEPARATOR.match(below[1])
            if ROW.match(above) and below and ROW.match(below[0]) and not starts_table and lines[number - 2].strip():
                found.append((number, "blank line in a table", below[0]))
        elif ROW.match(line) or HEADING.match(line):
            close()
            in_list = in_list and line[0] == " "
        elif line.startswith("    ") and not in_list and not paragraph:
            pass                                             # indented code
        else:
            if ITEM.match(line):
                close()
                in_list = True
            elif not previous.strip() and line[0] != " ":
                in_list = False
            paragraph.append((number, line))
        previous = line
    close()
    return sorted(found, key=lambda finding: finding[0])


def without_test_modules(text):
    """The source with the lines of its test modules emptied, and the names of test modules that are files of their own."""
    files = []
    for module in TEST_MODULE.finditer(text):
        if module[3] == ";":
            files.append(module[2])
        else:
            end = text.find(f"\n{module[1]}}}\n", module.end())
            end = len(text) if end < 0 else end
            body = text[module.end():end]
            text = text[:module.end()] + re.sub(r"[^\n]", " ", body) + text[end:]
    return text, files


def rust(text):
    """Findings of a Rust source: all of doc comments and string literals, references to sections in other comments."""
    text, _ = without_test_modules(text)
    starts = [0] + [match.end() for match in re.finditer("\n", text)]
    found = []
    for token in RUST.finditer(text):
        kind = token.lastgroup if token.lastgroup != "hashes" else "raw"
        if kind == "character":
            continue
        checks = (SECTION,) if kind == "comment" else (WORD, SECTION)
        for check in checks:
            for match in check.finditer(token[0]):
                number = bisect_right(starts, token.start() + match.start())
                end = text.find("\n", starts[number - 1])
                found.append((number, match[0], text[starts[number - 1]:end if end >= 0 else len(text)]))
    return sorted(found, key=lambda finding: finding[0])


def sources():
    """The Rust sources that are not tests."""
    every = sorted(ROOT.glob(SOURCES))
    tests = set()
    for path in every:
        folder = path.parent if path.name in ("mod.rs", "lib.rs", "main.rs") else path.with_suffix("")
        if "#[cfg(test)]" in (text := path.read_text()):
            for name in without_test_modules(text)[1]:
                tests |= {folder / f"{name}.rs", folder / name}
    named = re.compile(r"(^|_)tests\.rs$")
    return [path for path in every if not named.search(path.name) and not tests & {path, *path.parents}]


def check():
    """Prints the findings of the repository. Returns their number."""
    allowed = {(file, line): reason for file, line, reason in ALLOWED}
    used = set()
    count = files = 0

    def report(path, findings):
        nonlocal count, files
        files += 1
        name = path.relative_to(ROOT).as_posix()
        for number, word, line in findings:
            if (name, line.strip()) in allowed:
                used.add((name, line.strip()))
                continue
            count += 1
            print(f"{name}:{number}: {word}: {line.strip()}")

    for pattern in DOCUMENTS:
        paths = sorted(ROOT.glob(pattern))
        if not paths:
            count += 1
            print(f"{pattern}:0: no file: nothing was checked")
        for path in paths:
            report(path, (markdown if path.suffix == ".md" else plain)(path.read_text()))
    paths = sources()
    if not paths:
        count += 1
        print(f"{SOURCES}:0: no file: nothing was checked")
    for path in paths:
        report(path, rust(path.read_text()))
    for file, line in sorted(set(allowed) - used):
        count += 1
        print(f"{file}:0: allowed, and not there: {line}")
    print(f"prose: {files} files, {count} findings")
    return count


LONG = "word " * 25

# (checker, text, the (line, word) pairs that must be found)
CASES = [
    (plain, "a replica whose source is gone\nNobody answers\nwholesale, nobody_uid\n", [(1, "whose"), (2, "Nobody")]),
    (plain, "see design §4.15\nsee §4\nthe design of it\n", [(1, "design §"), (2, "§4")]),
    (markdown, "| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n", [(4, "blank line in a table")]),
    (markdown, "| a |\n|---|\n| 1 |\n\n| b |\n|---|\n| 2 |\n", []),
    (markdown, "```\n| a |\n\n| b |\n```\n", []),
    (markdown, f"{LONG}\n", []),
    (markdown, f"short\n{LONG}\n", [(2, "125 columns")]),
    (markdown, f"- {LONG}\n- {LONG}\n", []),
    (markdown, f"- short\n  {LONG}\n", [(2, "127 columns")]),
    (markdown, f"- item\n\n    {LONG}\n    more\n", [(3, "129 columns")]),
    (markdown, f"text:\n\n    {LONG}\n    more\n\n# {LONG}\n| {LONG} |\n\n~~~\n{LONG}\nmore\n~~~\n", []),
    (markdown, f"short\n{'x' * 120}\n", []),
    (rust, '/// whose\n//! who\n// nobody\n//// nobody\n', [(1, "whose"), (2, "who")]),
    (rust, 'let a = "who \\" whom";\nlet b = r#"a "who" b"#;\nlet who = \'"\'; let c = "nobody";\n',
     [(1, "who"), (1, "whom"), (2, "who"), (3, "nobody")]),
    (rust, "fn f<'a>(who: &'a str) { g('\\'', b'\"'); }\n// design §4\n/* whose */\n/** whose */\n", [(2, "design §"), (4, "whose")]),
    (rust, '#[cfg(test)]\nmod tests {\n    /// who\n    const A: &str = "who";\n}\n/// who\n', [(6, "who")]),
    (rust, 'let a = "first \\\n    nobody";\n', [(2, "nobody")]),
]


def self_test():
    """Exits when a checker finds something else than each case says."""
    for checker, text, wanted in CASES:
        found = [(number, word.rstrip("0123456789") if word.startswith("design") else word) for number, word, _ in checker(text)]
        if found != wanted:
            sys.exit(f"prose.py: self-test of {checker.__name__} failed: found {found} instead of {wanted} in:\n{text}")


def main():
    self_test()
    if sys.argv[1:] == ["--self-test"]:
        print(f"prose: self-test of {len(CASES)} cases passed")
    elif sys.argv[1:]:
        sys.exit(__doc__.strip())
    elif check():
        sys.exit(1)


if __name__ == "__main__":
    main()
