#!/usr/bin/env python3
"""The values of the chart, each of them: written down, bounded by the schema, and of effect.

  values.py documented      README.md has each with its default, and none that does not exist
  values.py schema          values.schema.json has the same keys, and refuses each with a wrong type, naming it
  values.py effects         each changes what tests/e2e/values.txt says that it changes

Helm does the rendering; nothing but Python's own library is needed.
"""
import base64
import concurrent.futures
import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/ham4db"
# Values that are one thing for whoever sets them, although they are maps.
WHOLE = {"probes.startup", "probes.liveness", "probes.readiness", "resources", "podSecurityContext", "securityContext",
         "metrics.dashboard.labels"}


def helm(*arguments, chart=CHART):
    return subprocess.run(["helm", "template", "ham4db", str(chart), "--namespace", "ham4db", "--kube-version", "1.33.0", *arguments],
                          capture_output=True, text=True, check=False)


def leaves():
    """Every value by its path, with its default: helm reads values.yaml, by a chart that prints what it was given."""
    with tempfile.TemporaryDirectory() as folder:
        printer = pathlib.Path(folder)
        (printer / "templates").mkdir()
        (printer / "Chart.yaml").write_text("apiVersion: v2\nname: printer\nversion: 0.0.0\n")
        (printer / "values.yaml").write_text((CHART / "values.yaml").read_text())
        (printer / "templates/values.yaml").write_text('values: {{ .Values | toJson | b64enc }}\n')
        done = helm(chart=printer)
    values = json.loads(base64.b64decode(re.search(r"values: (\S+)", done.stdout).group(1)))
    found = {}

    def walk(path, value):
        if isinstance(value, dict) and value and path not in WHOLE:
            for key, inner in value.items():
                walk(f"{path}.{key}" if path else key, inner)
        else:
            found[path] = value
    walk("", values)
    return found


def comments():
    """Paths that have a `# --` comment in values.yaml, which is written with two blanks for each depth."""
    found, at, commented = set(), [], False
    for line in (CHART / "values.yaml").read_text().splitlines():
        key = re.match(r"( *)(\w+):", line)
        if key:
            at = [*at[:len(key.group(1)) // 2], key.group(2)]
            if commented:
                found.add(".".join(at))
        commented = bool(re.match(r" *# -- ", line)) or (commented and bool(re.match(r" *#", line)))
    return found


def documented():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", (CHART / "README.md").read_text(), re.M))
    known = leaves()
    wrong = [f"{path}: no comment in values.yaml" for path in sorted(set(known) - comments())]
    for path, default in known.items():
        if path not in rows:
            wrong.append(f"{path}: not in README.md")
        elif json.loads(rows[path]) != default:
            wrong.append(f"{path}: {rows[path]} in README.md, {json.dumps(default)} in values.yaml")
    return wrong + [f"{path}: in README.md, and does not exist" for path in sorted(set(rows) - set(known))]


def schema():
    wrong, known = [], leaves()
    root = json.loads((CHART / "values.schema.json").read_text())

    def walk(node, path):
        if path in known or "properties" not in node:
            if path not in known:
                wrong.append(f"{path}: in the schema, and not in values.yaml")
            return
        if node.get("additionalProperties") is not False:
            wrong.append(f"{path or 'the top'}: lets unknown keys through")
        for key, inner in node["properties"].items():
            walk(inner, f"{path}.{key}" if path else key)
    walk(root, "")

    def refused(settings):
        """What helm says against all of these at once; it names each value that it does not take."""
        return helm(*(part for one in settings for part in ("--set-json", one))).stderr

    def is_named(path, refusal):
        return re.search(rf"'/?{re.escape(path.replace('.', '/'))}'|^- {re.escape(path)}:", refusal, re.M)

    def wrong_type(default):
        return '"many"' if isinstance(default, (int, float)) and not isinstance(default, bool) else "7"
    refusal = refused(f"{path}={wrong_type(default)}" for path, default in known.items())
    wrong += [f"{path}: a wrong type is taken" for path in known if not is_named(path, refusal)]
    parents = sorted({path.rsplit(".", 1)[0] for path in known if "." in path})
    refusal = refused(f"{path}.stranger=1" for path in parents)
    wrong += [f"{path}: an unknown key is taken" for path in parents if not is_named(path, refusal)]
    return wrong


def table():
    """(value, JSON, others that are set before, expectations) of values.txt."""
    rows = []
    for line in (ROOT / "tests/e2e/values.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("  "):
            rows[-1][3].append((line[2], line[4:].strip()))
            continue
        change, _, before = line.partition("  with ")
        path, _, value = change.partition(" = ")
        rows.append((path, value.strip(), [one.replace(" = ", "=", 1).strip() for one in before.split(";") if one.strip()], []))
    return rows


def effects():
    wrong, rows, known = [], table(), leaves()
    tested = [row[0] for row in rows]
    wrong += [f"{path}: not in tests/e2e/values.txt" for path in sorted(set(known) - set(tested))]
    wrong += [f"{path}: in tests/e2e/values.txt, and does not exist" for path in sorted(set(tested) - set(known))]

    @functools.lru_cache
    def rendered(*settings):
        done = helm(*(part for one in settings for part in ("--set-json", one)))
        return None if done.returncode else [line.strip() for line in done.stdout.splitlines()], done.stderr

    def differs(row):
        path, value, before, expected = row
        base, trouble = rendered(*before)
        changed, more = rendered(*before, f"{path}={value}")
        if base is None or changed is None:
            return [f"{path}: does not render: {trouble}{more}"]
        found = []
        for sign, line in expected:
            here, there = (changed, base) if sign == "+" else (base, changed)
            pattern = re.compile(re.escape(line).replace(r"\.\.\.", ".*") + r"\Z")
            count = [sum(1 for candidate in side if pattern.match(candidate)) for side in (here, there)]
            if line.endswith("..."):          # the value differs, the line does not
                count = [len(set(filter(pattern.match, here)) - set(filter(pattern.match, there))), 0]
            if count[0] <= count[1]:
                found.append(f"{path}={value}: no `{sign} {line}`")
        return found or ([] if expected else [f"{path}: nothing is expected of it"])

    rendered()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(differs, rows):
            wrong += found
    return wrong


problems = {"documented": documented, "schema": schema, "effects": effects}[sys.argv[1]]()
print("\n".join(problems))
sys.exit(1 if problems else 0)
