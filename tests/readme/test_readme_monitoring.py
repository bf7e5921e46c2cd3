"""README.md's monitoring: promtool, with simulated time, tries the alerts and the queries."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from charger import SimulatedCharger
from desk import Desk
from manual import block, cron_commands, span
from program import METRICS, eventually, needs
from prometheus_client.parser import text_string_to_metric_families
from registers import INPUT, STATES
from world import MakeWorld

import vestel

RULES = block("Alerts", "yaml")
DOWN = "The charger at a has not been read for 10 minutes."
WARNED = "vestel.py at a has had a warning for 10 minutes. Its page and its log say why."
FAULT = "The charger S reports a fault: {}."
SLOWLY = "The vehicle takes 12.5 A, less than 80 % of the dynamic current."
SERVICE = {"instance": "a", "job": "vestel"}
S, T, A = '{serial="S"}', '{serial="T"}', '{instance="a", job="vestel"}'
# Series with a sample for each minute, the alert, its labels, and its summary at some minutes.
# fmt: off
ALERTS: list[tuple[dict[str, str], str, dict[str, str], dict[int, str]]] = [
    ({  # a restart of 6 minutes, a loss of 15, and then the service is gone
        f"up{A}": "1x60 0x20", 'up{instance="c", job="other"}': "0x90",
        f"vestel_up{A}": "1x20 0x6 1x5 0x15 1x5 stale _x30",
    }, "VestelDown", SERVICE, {27: "", 42: "", 44: DOWN, 52: "", 69: "", 73: DOWN}),
    ({  # a warning of 9 minutes, one of 12, and a loss, which is an alert of its own
        f"vestel_up{A}": "1x50 0x20", 'vestel_up{instance="old", job="vestel"}': "1x60",
        f"vestel_warnings{A}": "0x10 2x9 0x5 1x12 0x10 1x20",
    }, "VestelWarning", SERVICE, {20: "", 35: "", 37: WARNED, 41: "", 65: ""}),
    ({
        f"vestel_fault_code{S}": "0x10 268435472x5 268435456x5 0x20",
        'vestel_fault{serial="S", bit="4", fault="PP Error"}': "0x10 1x5 0x20",
        'vestel_fault{serial="S", bit="3", fault="Lock Error"}': "0x40",
        'vestel_fault{serial="S", bit="18", fault="RFID Error"}': "0x10 1x5 0x20",
        f"vestel_chargepoint_state{S}": "2x30 8x10",
        f"vestel_fault_code{T}": "0x40", f"vestel_chargepoint_state{T}": "7x40",
    }, "VestelFault", {"serial": "S"}, {
        11: "", 13: FAULT.format("PP Error. RFID Error"), 20: FAULT.format("one without a name"),
        30: "", 33: FAULT.format("one without a name"),
    }),
    ({
        f"vestel_chargepoint_state{S}": "2x40 4x40", f"vestel_chargepoint_state{T}": "2x80",
        f"vestel_dynamic_current_amperes{S}": "16x80",
        f"vestel_dynamic_current_amperes{T}": "16x80",
        'vestel_current_amperes{serial="S", phase="1"}': "12.9x9 12.512x70",
        'vestel_current_amperes{serial="S", phase="2"}': "0.018x80",
        'vestel_current_amperes{serial="T", phase="1"}': "15.2x80",
    }, "VestelChargesSlowly", {"serial": "S"}, {24: "", 26: SLOWLY, 60: ""}),
]
# fmt: on


def check(directory: Path, kind: str, *tests: Any, rules: str = RULES, every: str = "1m") -> None:
    """Let promtool check the configuration with these rules, and try them on series."""
    (directory / "vestel-rules.yml").write_text(rules)
    (directory / "prometheus.yml").write_text(block("Prometheus", "yaml"))
    cases = []
    for series, expected in tests:
        given = [{"series": name, "values": values} for name, values in series.items()]
        cases.append({"interval": every, "input_series": given, kind: expected})
    whole = {"rule_files": ["vestel-rules.yml"], "tests": cases, "evaluation_interval": every}
    (directory / "tests.yml").write_text(json.dumps(whole))
    for command in ("check config prometheus.yml", "test rules tests.yml"):
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        tool = [needs("promtool", "prometheus"), *command.split()]
        result = subprocess.run(tool, check=False, cwd=str(directory), **streams)
        assert result.returncode == 0, result.stdout.decode()


def sample(query: str, when: str, *found: tuple[str, float]) -> dict[str, Any]:
    """Return what promtool is to find: labels and their values."""
    samples = [{"labels": labels, "value": value} for labels, value in found]
    return {"expr": query, "eval_time": when, "exp_samples": samples}


def test_alerts_come_when_they_should(tmp_path: Path) -> None:
    tests = []
    for series, name, labels, summaries in ALERTS:
        expected = []
        for minute, summary in summaries.items():
            alert = {"exp_labels": labels, "exp_annotations": {"summary": summary}}
            alerts = [alert] if summary else []
            expected.append({"eval_time": f"{minute}m", "alertname": name, "exp_alerts": alerts})
        tests.append((series, expected))
    check(tmp_path, "alert_rule_test", *tests)


def test_rule_for_node_exporter_tells_what_is_down(tmp_path: Path) -> None:
    """The file says that the charger is down, is old, and is gone."""
    file = '{file="/var/lib/prometheus/node-exporter/vestel.prom"}'
    series = {
        'vestel_up{job="node"}': "1x5 0x5 1x30 stale _x30",
        f"node_textfile_mtime_seconds{file}": "0+60x20 1200x20 stale _x30",
        'node_textfile_mtime_seconds{file="other.prom"}': "0x70",
    }
    rule, usual = span("node_exporter", "absent("), 'vestel_up == 0 or up{job="vestel"} == 0'
    expected = [
        *[sample(rule, "4m"), sample(rule, "8m", ('vestel_up{job="node"}', 0))],
        *[sample(rule, "20m"), sample(rule, "30m", (file, 600)), sample(rule, "60m", ("{}", 1))],
    ]
    assert usual in RULES
    rules = RULES.replace(usual, rule)
    check(tmp_path, "promql_expr_test", (series, expected), rules=rules)


def test_node_exporter_gets_whole_files_only(tmp_path: Path, charger: SimulatedCharger) -> None:
    exporter = needs("prometheus-node-exporter", "prometheus-node-exporter")
    desk = Desk(tmp_path, charger)
    (command,) = cron_commands("node_exporter")
    target = desk.textfiles / "vestel.prom"
    target.touch()

    options = "--collector.disable-defaults --collector.textfile --log.level=error"
    place = f"--collector.textfile.directory={desk.textfiles}"
    where = f"--web.listen-address=127.0.0.1:{desk.service.port}"
    with desk.running(f"exec {exporter} {options} {place} {where}"):
        eventually(lambda: desk.get(METRICS).status == 200)
        found = []
        for _ in ("it is read", "it is off"):
            before = target.stat().st_ino
            assert desk.cron(command) == (0, "", "")
            assert target.stat().st_ino != before  # another file has taken its place
            assert {file.name for file in desk.textfiles.iterdir()} == {target.name, "vestel.err"}
            found.append((target.read_text(), desk.get(METRICS).body))
            desk.charger.stop()
    (_, seen), (file_of_off, seen_of_off) = found
    assert 'vestel_current_amperes{phase="1",serial="VEST1234567890"} 15.234\n' in seen
    assert re.search(r'\nnode_textfile_mtime_seconds{file=".*vestel\.prom"}', seen)
    assert file_of_off == "vestel_up 0\n"
    assert "\nvestel_up 0\n" in seen_of_off
    assert (desk.textfiles / "vestel.err").read_text().startswith("ERROR: Cannot connect to ")


PANELS = json.loads(block("Grafana", "json"))["panels"]
ENERGY = '{instance="localhost:9946",job="vestel",serial="VEST1234567890"}'


def test_queries_of_the_dashboard_find_what_they_name(tmp_path: Path, world: MakeWorld) -> None:
    for panel in [panel for panel in PANELS if panel["title"].startswith("State")]:
        (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
        assert [mapping["options"][str(code)]["text"] for code in range(9)] == STATES[1000]
    used = {json.dumps(panel["datasource"]) for panel in PANELS}
    assert used == {'{"type": "prometheus", "uid": "${datasource}"}'}
    it = world(measuring=False)
    it.charger.set(1007, 1 << 4, bank=INPUT)  # a fault
    it.read()
    metrics: dict[str, dict[str, float]] = {}  # the series of each
    for family in text_string_to_metric_families(vestel.respond(METRICS, it.poller)[2]):
        for name, labels, value, *_ in family.samples:
            labels = {**labels, "instance": "localhost:9946", "job": "vestel"}
            pairs = ",".join(f'{label}="{held}"' for label, held in labels.items())
            metrics.setdefault(name, {})[f"{name}{{{pairs}}}"] = value
    assert {*re.findall(r"\bvestel_[a-z_]+\b", RULES)} <= {*metrics}
    series = {name: f"{n}x71" for found in metrics.values() for name, n in found.items()}
    # The meter (kWh) at each hour of three days, and what is to be seen of it at their midnights.
    series[next(iter(metrics["vestel_meter_reading_kwh"]))] = "100x7 104.5x7 110.5x36 113x20"
    expected = []
    for target in [target for panel in PANELS for target in panel["targets"]]:
        query, legend = target["expr"].replace("$charger", "localhost:9946"), target["legendFormat"]
        if "over_time" in query:
            days = (("0h", 10.5), ("24h", 0.0), ("48h", 2.5))
            expected += [sample(query, when, (ENERGY, kwh)) for when, kwh in days]
            continue
        ((metric, is_one),) = re.findall(r'^(\w+){instance="localhost:9946"}( == 1)?$', query)
        found = {name: n for name, n in metrics[metric].items() if n == 1 or not is_one}
        expected.append(sample(query, "70h", *found.items()))
        named = re.findall(r"{{(.*?)}}", legend)
        assert len(found) == 1 or named
        assert all(f'{label}="' in name for label in named for name in found)
    check(tmp_path, "promql_expr_test", (series, expected), every="1h")
