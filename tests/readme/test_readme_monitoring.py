"""README.md's Prometheus: configuration, alerts, node_exporter, and the dashboard for Grafana.

When an alert comes, and what the dashboard's queries find, is tried with promtool, which has the
engine of Prometheus and simulated time.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from charger import SimulatedCharger
from desk import Desk
from manual import block, cron_commands, prose, spans
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
S, T = '{serial="S"}', '{serial="T"}'
# Series with a sample for each minute, the alert, its labels, and its summary at some minutes.
# fmt: off
ALERTS: list[tuple[dict[str, str], str, dict[str, str], dict[int, str]]] = [
    ({  # a restart of 6 minutes, a loss of 15, and then the service is gone
        'up{instance="a", job="vestel"}': "1x60 0x20", 'up{instance="c", job="other"}': "0x90",
        'vestel_up{instance="a", job="vestel"}': "1x20 0x6 1x5 0x15 1x5 stale _x30",
    }, "VestelDown", SERVICE, {27: "", 42: "", 44: DOWN, 52: "", 69: "", 73: DOWN}),
    ({  # a warning of 9 minutes, one of 12, and a loss, which is an alert of its own
        'vestel_up{instance="a", job="vestel"}': "1x50 0x20",
        'vestel_warnings{instance="a", job="vestel"}': "0x10 2x9 0x5 1x12 0x10 1x20",
        'vestel_up{instance="old", job="vestel"}': "1x60",
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
# With node_exporter: the file says that the charger is down, is old, and is gone.
FILE = '{file="/var/lib/prometheus/node-exporter/vestel.prom"}'
OF_NODE_EXPORTER = {
    'vestel_up{job="node"}': "1x5 0x5 1x30 stale _x30",
    f"node_textfile_mtime_seconds{FILE}": "0+60x20 1200x20 stale _x30",
    'node_textfile_mtime_seconds{file="other.prom"}': "0x70",
}
VALUES = {4: (), 8: ('vestel_up{job="node"}', 0), 20: (), 30: (FILE, 600), 60: ("{}", 1)}


def promtool(directory: Path, *command: str) -> str:
    """Return what promtool prints, which has to be content."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    tool = needs("promtool", "prometheus")
    result = subprocess.run([tool, *command], check=False, cwd=str(directory), **streams)
    assert result.returncode == 0, result.stdout.decode()
    return str(result.stdout.decode())


Test = Tuple[Dict[str, str], List[Any]]  # series, and what is expected


def check(directory: Path, rules: str, kind: str, *tests: Test, interval: str = "1m") -> None:
    """Let promtool check the configuration with these rules, and try them on series."""
    (directory / "vestel-rules.yml").write_text(rules)
    (directory / "prometheus.yml").write_text(block("Prometheus", "yaml"))
    assert "4 rules found" in promtool(directory, "check", "config", "prometheus.yml")
    cases = [
        {
            "interval": interval,
            "input_series": [{"series": name, "values": those} for name, those in series.items()],
            kind: expected,
        }
        for series, expected in tests
    ]
    whole = {"rule_files": ["vestel-rules.yml"], "tests": cases, "evaluation_interval": interval}
    (directory / "tests.yml").write_text(json.dumps(whole))
    promtool(directory, "test", "rules", "tests.yml")


def test_alerts_come_when_they_should(tmp_path: Path) -> None:
    tests = []
    for series, name, labels, summaries in ALERTS:
        expected = []
        for minute, summary in summaries.items():
            alert = {"exp_labels": labels, "exp_annotations": {"summary": summary}}
            alerts = [alert] if summary else []
            expected.append({"eval_time": f"{minute}m", "alertname": name, "exp_alerts": alerts})
        tests.append((series, expected))
    check(tmp_path, RULES, "alert_rule_test", *tests)


def test_rule_for_node_exporter_tells_what_is_down(tmp_path: Path) -> None:
    (rule,) = [span for span in spans(prose("node_exporter")) if "absent(" in span]
    expected = []
    for minute, found in VALUES.items():
        values = [{"labels": found[0], "value": found[1]}] if found else []
        expected.append({"expr": rule, "eval_time": f"{minute}m", "exp_samples": values})
    usual = 'vestel_up == 0 or up{job="vestel"} == 0'
    assert usual in RULES
    rules = RULES.replace(usual, rule)
    check(tmp_path, rules, "promql_expr_test", (OF_NODE_EXPORTER, expected))


def test_metrics_of_the_page_are_those_of_the_demo(call: Any) -> None:
    printed = re.sub(r" [\d.]+$", "", call("--demo", "--format=prometheus").stdout, flags=re.M)
    shown = re.sub(r" [\d.]+$", "", block("Prometheus", "text"), flags=re.MULTILINE)
    assert shown in printed


def test_node_exporter_gets_whole_files_only(tmp_path: Path, charger: SimulatedCharger) -> None:
    exporter = needs("prometheus-node-exporter", "prometheus-node-exporter")
    desk = Desk(tmp_path, charger)
    (command,) = cron_commands(block("node_exporter", "crontab"))

    target = desk.textfiles / "vestel.prom"
    target.touch()

    def seen_after_a_run() -> tuple[str, str]:
        before = target.stat().st_ino
        assert desk.cron(command) == (0, "", "")
        assert target.stat().st_ino != before  # another file has taken its place
        assert {file.name for file in desk.textfiles.iterdir()} == {"vestel.prom", "vestel.err"}
        return target.read_text(), desk.get(METRICS).body

    options = ["--collector.disable-defaults", "--collector.textfile", "--log.level=error"]
    place = f"--collector.textfile.directory={desk.textfiles}"
    where = f"--web.listen-address=127.0.0.1:{desk.service.port}"
    with desk.running(f"exec {exporter} {' '.join(options)} {place} {where}"):
        eventually(lambda: desk.get(METRICS).status == 200)
        file, seen = seen_after_a_run()
        assert 'vestel_max_power_watts{serial="VEST1234567890"} 22000\n' in file
        assert 'vestel_current_amperes{phase="1",serial="VEST1234567890"} 15.234\n' in seen
        assert re.search(r'^node_textfile_mtime_seconds{file=".*vestel\.prom"}', seen, re.MULTILINE)
        desk.charger.stop()
        file, seen = seen_after_a_run()
        assert file == "vestel_up 0\n"
        assert "\nvestel_up 0\n" in seen
        assert "vestel_max_power_watts" not in seen
        assert (desk.textfiles / "vestel.err").read_text().startswith("ERROR: Cannot connect to ")


# --- Grafana ------------------------------------------------------------------------------------

DASHBOARD = json.loads(block("Grafana", "json"))
PANELS = DASHBOARD["panels"]
# The meter (kWh) at each hour of three days, and what is to be seen of it at their midnights.
METER = "100x7 104.5x7 110.5x36 113x20"
ENERGY_PER_DAY = [10.5, 0.0, 2.5]
HERE = {"instance": "localhost:9946", "job": "vestel"}


def service(world: MakeWorld) -> dict[str, dict[str, float]]:
    """Return what Prometheus has of a charger with a fault: the series of each metric."""
    it = world(measuring=False)
    it.charger.set(1007, 1 << 4, bank=INPUT)
    it.read()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(vestel.respond(METRICS, it.poller)[2]):
        for name, labels, value, *_ in family.samples:
            pairs = ",".join(f'{label}="{held}"' for label, held in {**labels, **HERE}.items())
            found.setdefault(name, {})[f"{name}{{{pairs}}}"] = value
    return found


def test_queries_of_the_dashboard_find_what_they_name(tmp_path: Path, world: MakeWorld) -> None:
    metrics = service(world)
    expected = []

    def expect(query: str, hour: int, found: dict[str, float]) -> None:
        samples = [{"labels": name, "value": value} for name, value in found.items()]
        query = query.replace("$charger", "localhost:9946")
        expected.append({"expr": query, "eval_time": f"{hour}h", "exp_samples": samples})

    for target in [target for panel in PANELS for target in panel["targets"]]:
        query, legend = target["expr"], target["legendFormat"]
        if "over_time" in query:
            labels = '{instance="localhost:9946",job="vestel",serial="VEST1234567890"}'
            for day, kwh in enumerate(ENERGY_PER_DAY):
                expect(query, 24 * day, {labels: kwh})
            continue
        ((metric, is_one),) = re.findall(r'^(\w+){instance="\$charger"}( == 1)?$', query)
        found = {name: n for name, n in metrics[metric].items() if n == 1 or not is_one}
        expect(query, 70, found)
        named = re.findall(r"{{(.*?)}}", legend)
        assert len(found) == 1 or named
        assert all(f'{label}="' in name for label in named for name in found)
    series = {name: f"{n}x71" for found in metrics.values() for name, n in found.items()}
    series[next(iter(metrics["vestel_meter_reading_kwh"]))] = METER
    check(tmp_path, RULES, "promql_expr_test", (series, expected), interval="1h")


def test_dashboard_asks_for_data_source_and_charger() -> None:
    source, charger = DASHBOARD["templating"]["list"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    assert charger["query"] == "label_values(vestel_up,instance)"
    used = {json.dumps(place["datasource"]) for place in (charger, *PANELS)}
    assert used == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_metrics_of_the_rules_exist(world: MakeWorld) -> None:
    assert {*re.findall(r"\bvestel_[a-z_]+\b", RULES)} <= {*service(world)}


def test_panels_name_the_states_and_fill_the_width() -> None:
    for panel in PANELS:
        if panel["title"] in ("State", "State over time"):
            (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
            assert [mapping["options"][str(code)]["text"] for code in range(9)] == STATES[1000]
    places = [panel["gridPos"] for panel in PANELS]
    height = max(place["y"] + place["h"] for place in places)
    assert sum(place["w"] * place["h"] for place in places) == 24 * height
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def lost(given: Any, loaded: Any, path: str = "") -> list[str]:
    """Return what of the given is not in the loaded."""
    if isinstance(given, dict) and isinstance(loaded, dict):
        pairs = {f"{path}.{key}": (given[key], loaded.get(key)) for key in given}
    elif isinstance(given, list) and isinstance(loaded, list) and len(given) == len(loaded):
        pairs = {f"{path}.{n}": pair for n, pair in enumerate(zip(given, loaded))}
    else:
        return [] if given == loaded else [f"{path}: {given} became {loaded}"]
    return [one for place, pair in pairs.items() for one in lost(*pair, place)]


KNOWN = {  # properties of a field that an override may change; Grafana's types do not look there
    *["unit", "mappings", "custom.lineStyle", "custom.lineInterpolation", "custom.axisPlacement"],
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="grafana-foundation-sdk needs Python 3.11")
def test_types_of_grafana_know_each_key_of_the_dashboard() -> None:
    sdk = "grafana_foundation_sdk"
    importlib.import_module(f"{sdk}.cog.plugins").register_default_plugins()
    encoder = importlib.import_module(f"{sdk}.cog.encoder").JSONEncoder
    load = importlib.import_module(f"{sdk}.models.dashboard").Dashboard.from_json
    assert lost(DASHBOARD, json.loads(json.dumps(load(DASHBOARD), cls=encoder))) == []
    overrides = [one for panel in PANELS for one in panel["fieldConfig"]["overrides"]]
    assert {one["id"] for override in overrides for one in override["properties"]} <= KNOWN
