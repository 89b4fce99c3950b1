#!/usr/bin/env python3
"""Renders the picture of a failover in README.md: docs/failover.svg, from what `make demo` prints.

  record-demo.py             runs `make demo` and renders its output
  record-demo.py LOG         renders a log that was saved before: `make demo </dev/null | tee LOG`
  options: --output FILE     (default: docs/failover.svg)

Every line of the picture is a line of the demo. Long lines are wrapped at words, and folders of this machine are shortened:
the cache folder becomes ~/.cache/ham4db. Set-up and build output before the demo is left out.
"""
import argparse
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 112
# Sizes in units of the picture. The advance of a character is set by textLength, so that every font gives the same grid.
FONT, ADVANCE, LINE, MARGIN, BAR = 13, 7.8, 18, 18, 34
LIMIT = 60_000

# What the demo prints: seconds since its start, seconds since the kill below that, and the result.
STAMP = re.compile(r"^( *\d+\.\d+ s)  +(?=\S)")
RESULT = re.compile(r"^failover: (\S+) -> (\S+), (.*)$")
ADDRESS = re.compile(r"\d+(?:\.\d+){3}:\d+")
# Folders that exist on one machine only.
FOREIGN = re.compile(r"(?<![\w.~/])/(?:root|home|work|tmp|Users|var|mnt|opt|srv)\b\S*")

STYLE = """
    .paper { fill: #ffffff; stroke: #d0d7de; } .bar { fill: #f6f8fa; } .rule { stroke: #d0d7de; }
    text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328; }
    .dim { fill: #59636e; } .bold { font-weight: 600; } .old { fill: #c4222e; } .new { fill: #1a7f37; } .finding { fill: #9a6700; }
    .dot { fill: #d0d7de; }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0d1117; stroke: #3d444d; } .bar { fill: #161b22; } .rule { stroke: #3d444d; }
      text { fill: #e6edf3; }
      .dim { fill: #9198a1; } .old { fill: #ff7b72; } .new { fill: #56d364; } .finding { fill: #e3b341; }
      .dot { fill: #3d444d; }
    }
"""


def run_demo():
    """Runs `make demo`, shows its output on stderr, and returns it."""
    environment = {name: value for name, value in os.environ.items() if name != "KEEP"}
    demo = subprocess.Popen(
        ["make", "--no-print-directory", "demo"],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )
    lines = []
    for line in demo.stdout:
        sys.stderr.write(line)
        lines.append(line.rstrip("\n"))
    if demo.wait() != 0:
        sys.exit(f"record-demo.py: `make demo` failed with exit code {demo.returncode}; the picture was not changed")
    return lines


def session(lines):
    """The demo's own lines, from its first one to its result, with no folder of this machine in them."""
    first = next((index for index, line in enumerate(lines) if STAMP.match(line)), None)
    last = next((index for index, line in enumerate(lines) if RESULT.match(line)), None)
    if first is None or last is None:
        sys.exit("record-demo.py: the output has no line with seconds or no `failover:` line; it is no output of a demo that succeeded")
    home = os.environ.get("HOME", "/nonexistent")
    cache = os.environ.get("CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache", "ham4db")
    shown = []
    for line in lines[first:last + 1]:
        line = line.rstrip().replace(cache, "~/.cache/ham4db")
        line = re.sub(r"(?<![\w~])/\S*/\.cache/ham4db", "~/.cache/ham4db", line)
        if foreign := FOREIGN.search(line):
            sys.exit(f"record-demo.py: {foreign[0]} is a folder of this machine and must not be in the picture: {line}")
        shown.append(line)
    return shown


def wrapped(line):
    """The rows of one line, the later ones below the text of the first."""
    stamp = STAMP.match(line)
    indent = stamp.end() if stamp else len(line) - len(line.lstrip())
    return textwrap.wrap(
        line, COLUMNS, initial_indent="", subsequent_indent=" " * indent,
        drop_whitespace=True, replace_whitespace=False, break_on_hyphens=False, break_long_words=True,
    ) or [""]


def segments(row, style, old, new):
    """The (column, text, class) parts of a row: words that stand together and look alike."""
    stamp = STAMP.match(row)
    styles = [style] * len(row)
    if stamp:
        styles[:stamp.end()] = ["dim"] * stamp.end()
    for bracket in re.finditer(r"\[[^\]]*\]$", row):
        styles[bracket.start():bracket.end()] = ["dim"] * (bracket.end() - bracket.start())
    for address in ADDRESS.finditer(row):
        colour = {old: "old", new: "new"}.get(address[0])
        if colour:
            styles[address.start():address.end()] = [f"{colour} bold" if "bold" in style else colour] * len(address[0])
    # Runs of two or more spaces would be drawn as one: the parts around them are placed on their own.
    for words in re.finditer(r"\S+(?: \S+)*", row):
        start = words.start()
        for index in range(words.start() + 1, words.end() + 1):
            if index == words.end() or styles[index] != styles[start]:
                text = row[start:index]
                column = start + len(text) - len(text.lstrip())
                if text.strip():
                    yield column, text.strip(), styles[start]
                start = index


def svg(lines):
    """The picture of a session."""
    old, new, figures = RESULT.match(lines[-1]).groups()
    rows = [("$ make demo", "bold")]
    after_record = False
    for line in lines:
        style = ""
        if RESULT.match(line):
            style = "bold"
        elif after_record and line.strip():
            style = "finding"            # the first line of the leader's record is what was found
        after_record = after_record and not line.strip() or "record of the recovery" in line
        rows += [(row, style) for row in wrapped(line)]
    width = round(COLUMNS * ADVANCE + 2 * MARGIN)
    height = BAR + len(rows) * LINE + 2 * MARGIN - 6
    title = "make demo: the primary is killed and a replica is promoted"
    description = (
        f"Recorded output of make demo. Three members watch one primary and two replicas. The primary {old} is killed under writers. "
        f"{new} becomes the new primary: {figures}."
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-labelledby="title desc">',
        "  <!-- Made by tests/setup/record-demo.py from the output of `make demo`. -->",
        f'  <title id="title">{escape(title)}</title>',
        f'  <desc id="desc">{escape(description)}</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="paper" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        f'  <path class="bar" d="M1 {BAR}V8.5a7.5 7.5 0 0 1 7.5-7.5H{width - 8.5}a7.5 7.5 0 0 1 7.5 7.5V{BAR}z"/>',
        f'  <path class="rule" d="M1 {BAR}.5H{width - 1}"/>',
    ]
    out += [f'  <circle class="dot" cx="{22 + 20 * index}" cy="{BAR / 2}" r="6"/>' for index in range(3)]
    for index, (row, style) in enumerate(rows):
        y = BAR + MARGIN + FONT - 2 + index * LINE
        for column, text, kind in segments(row, style, old, new):
            name = f' class="{kind}"' if kind else ""
            length = f' textLength="{len(text) * ADVANCE:.1f}"' if len(text) > 1 else ""
            out.append(f'  <text x="{MARGIN + column * ADVANCE:.1f}" y="{y}"{length}{name}>{escape(text)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="?", type=Path, help="saved output of `make demo`; without it the demo is run")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/failover.svg")
    arguments = parser.parse_args()
    lines = arguments.log.read_text().splitlines() if arguments.log else run_demo()
    picture = svg(session(lines))
    if len(picture.encode()) > LIMIT:
        sys.exit(f"record-demo.py: the picture has {len(picture.encode())} bytes (limit {LIMIT})")
    arguments.output.write_text(picture)
    print(f"{arguments.output}: {len(picture.encode())} bytes")


if __name__ == "__main__":
    main()
