#!/usr/bin/env python3
"""What alerts and dashboard rely on, held to where it comes from.

  alerts.py check           names of metrics, codes of findings, anchors, commands: each exists, and none is forgotten
  alerts.py queries         the queries of the dashboard as a rule file, for promtool to parse
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/ham4db"


def text(path):
    return (ROOT / path).read_text()


ALERTS = text("charts/ham4db/files/alerts.yaml")
RULES = ALERTS[ALERTS.index("groups:"):]
DASHBOARD = json.loads(text("charts/ham4db/files/dashboard.json"))


def metrics():
    """Names as a scrape has them, from the registrations in the source."""
    source = text("src/adapter/http/metrics.rs")
    prefix = re.search(r'with_prefix\("(\w+)"\)', source).group(1)
    kinds = dict(re.findall(r"let (\w+) = Family::<\w+, (\w+)", source)) | dict(re.findall(r"let (\w+) = (Gauge|Counter)::", source))
    aliases = dict(re.findall(r"type (\w+) = Family<\w+, (\w+)>", text("src/adapter/http/request_metrics.rs")))
    names = set()
    for name, what in re.findall(r'register\(\s*"(\w+)",\s*"[^"]*",\s*([^;]+?),?\s*\);', source):
        own = "Gauge" if what.startswith("flag(") else "Info" if what.startswith("Info::") else aliases["RequestCounters"]
        names.add(f"{prefix}_{name}" + {"Counter": "_total", "Info": "_info"}.get(kinds.get(what) or own, ""))
    return names


def queries():
    panels = [t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", [])]
    return panels + [v["definition"] for v in DASHBOARD["templating"]["list"] if "definition" in v]


def listed(expression):
    return [set(found.split("|")) for found in re.findall(r'code[=!]~"([^"$]+)"', expression)]


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def check():
    wrong = []

    def each(what, used, known):
        wrong.extend(f"{what} {name}: there is none" for name in sorted(set(used) - set(known)))

    known, shown = metrics(), "\n".join(queries())
    assert len(known) >= 10, known
    name = r"\bham4db_\w+"
    each("metric of an alert", re.findall(name, RULES), known)
    each("metric of the dashboard", re.findall(name, shown), known)
    wrong += [f"{missing}: not on the dashboard" for missing in sorted(known - set(re.findall(name, shown)))]

    source = text("src/domain/finding.rs")
    codes = set(re.findall(r'Self::(\w+) => \{?\s*"\1"', source))
    advice = set(re.findall(r"Self::(\w+)", source[source.index("pub fn is_advice"):].split("=> true")[0]))
    alerts = dict(re.findall(r"- alert: (\w+)\n(.*?)(?=\n      - alert:|\Z)", RULES, re.S))
    assert len(codes) >= 40 and len(advice) >= 5 and len(alerts) >= 10
    said = {alert: set().union(*listed(body)) for alert, body in alerts.items()}
    each("finding", set().union(*said.values()), codes)
    if said["Ham4dbAdvice"] != advice:
        wrong.append(f"Ham4dbAdvice and the program differ in what is advice: {sorted(said['Ham4dbAdvice'] ^ advice)}")
    others = set().union({"NoProblem"}, *(said[a] for a in ("Ham4dbPrimaryFailed", "Ham4dbSplitPrimary", "Ham4dbAdvice")))
    if said["Ham4dbReplicationProblem"] != others:
        wrong.append(f"Ham4dbReplicationProblem leaves out other findings than the other alerts have: "
                     f"{sorted(said['Ham4dbReplicationProblem'] ^ others)}")
    hidden = next(v["query"] for v in DASHBOARD["templating"]["list"] if v["name"] == "advice")
    if set(hidden.split("|")) != advice | {"NoProblem"}:
        wrong.append("the dashboard and the program differ in what is advice")

    operations = text("docs/operations.md")
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", operations, re.M)}
    commands = set(re.findall(r'Command \{ name: "([^"]+)"', text("src/client/commands.rs")))
    proven = set(re.findall(r'alertname="(\w+)"', text("tests/e2e/alerts.yaml")))
    for alert, body in alerts.items():
        runbook = re.search(r"runbook_url: docs/operations\.md#(\S+)", body)
        if not runbook or runbook.group(1) not in anchors:
            wrong.append(f"{alert}: its runbook_url is no heading of docs/operations.md")
        each(f"{alert}: command", re.findall(r"ham4db-client -c ([a-z-]+)", body), commands)
        wrong += [f"{alert}: no {part}" for part in ("summary:", "description:", "severity:") if part not in body]
        if alert not in proven:
            wrong.append(f"{alert}: tests/e2e/alerts.yaml has no series on which it fires")
        if f"`{alert}`" not in operations:
            wrong.append(f"{alert}: not in docs/operations.md")

    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    if len(identifiers) != len(set(identifiers)):
        wrong.append("two panels of the dashboard have one id")
    wrong += [f"panel {p['title']}: says nothing of itself" for p in DASHBOARD["panels"] if p["type"] != "row" and not p.get("description")]
    print("\n".join(wrong))
    return not wrong


def rule_file():
    values = {"$namespace": ".*", "$job": ".*", "$cluster": ".*", "$advice": "NoProblem", "$__rate_interval": "1m"}
    print("groups:\n- name: dashboard\n  rules:")
    for number, query in enumerate(queries()):
        query = re.sub(r"^label_values\((.*), \w+\)$", r"\1", query)
        for variable, value in values.items():
            query = query.replace(variable, value)
        print(f"  - record: panel:{number}\n    expr: {json.dumps(query)}")
    return True


sys.exit(0 if {"check": check, "queries": rule_file}[sys.argv[1]]() else 1)
