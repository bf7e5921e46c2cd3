"""README.md's Prometheus: configuration, alerts, node_exporter, and the dashboard for Grafana.

When an alert comes is tried with promtool, whose time is simulated. The dashboard's queries are
asked of a Prometheus that runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import subprocess
import sys
import urllib.parse
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Iterator

import pytest
from charger import SimulatedCharger
from desk import Desk
from door import free_port
from manual import block, cron_commands, prose, spans
from program import METRICS, Http, eventually, needs
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


def check(directory: Path, rules: str, kind: str, *tests: tuple[dict[str, str], Any]) -> None:
    """Let promtool check the configuration with these rules, and try them on series."""
    (directory / "vestel-rules.yml").write_text(rules)
    (directory / "prometheus.yml").write_text(block("Prometheus", "yaml"))
    assert "4 rules found" in promtool(directory, "check", "config", "prometheus.yml")
    cases = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": those} for name, those in series.items()],
            kind: expected,
        }
        for series, expected in tests
    ]
    whole = {"rule_files": ["vestel-rules.yml"], "tests": cases}
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

    def seen_after_a_run() -> tuple[str, str]:
        assert desk.cron(command) == (0, "", "")
        names = {file.name for file in desk.textfiles.iterdir()}
        assert names == {"vestel.prom", "vestel.err"}
        return (desk.textfiles / "vestel.prom").read_text(), desk.get(METRICS).body

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
FIRST = datetime(2026, 11, 20, tzinfo=timezone.utc)  # midnight
# The meter (kWh) at half past each hour of two and a half days.
METER = [*[100.0] * 8, *[104.5] * 8, *[110.5] * 8, *[110.5] * 24, *[110.5] * 6, *[113.0] * 6]
ENERGY_PER_DAY = [10.5, 0.0, 2.5]
TIMES = [FIRST + timedelta(hours=hour, minutes=30) for hour in range(len(METER))]


class Prometheus(Http):
    """A Prometheus that runs."""

    def query(self, path: str, **parameters: Any) -> Any:
        """Return what its API answers."""
        answer = self.ask(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        return json.loads(answer.body)["data"]

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("/-/ready").status == 200
        return False


@contextlib.contextmanager
def prometheus(directory: Path) -> Iterator[Prometheus]:
    """Run it on the data in this directory."""
    (directory / "prometheus.yml").write_text("{}")
    port = free_port()
    options = [
        *["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"],
        *["--storage.tsdb.retention.time=10y", f"--web.listen-address=127.0.0.1:{port}"],
    ]
    program = needs("prometheus", "prometheus")
    with subprocess.Popen([program, *options], cwd=str(directory)) as process:
        try:
            running = Prometheus(port)
            eventually(running.is_ready)
            yield running
        finally:
            process.terminate()


def history(exposition: str) -> str:
    """Return the samples of some days, in which the meter goes on, in OpenMetrics."""
    lines = []
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = {**sample.labels, "instance": "localhost:9946", "job": "vestel"}
            pairs = ",".join(f'{label}="{value}"' for label, value in labels.items())
            for time, kwh in zip(TIMES, METER):
                value = kwh if sample.name == "vestel_meter_reading_kwh" else sample.value
                lines.append(f"{sample.name}{{{pairs}}} {value} {time.timestamp():.0f}\n")
    return "".join(lines) + "# EOF\n"


def exposition(world: MakeWorld) -> str:
    """Return what the service serves of a charger with a fault."""
    it = world(measuring=False)
    it.charger.set(1007, 1 << 4, bank=INPUT)
    it.read()
    return vestel.respond(METRICS, it.poller)[2]


def test_queries_of_the_dashboard_find_what_they_name(tmp_path: Path, world: MakeWorld) -> None:
    (tmp_path / "history").write_text(history(exposition(world)))
    promtool(tmp_path, "tsdb", "create-blocks-from", "openmetrics", "history", "data")
    with prometheus(tmp_path) as running:

        def ask(query: str, start: datetime, step: timedelta) -> Any:
            query = query.replace("$charger", "localhost:9946")
            assert "$" not in query
            times = {"start": start.timestamp(), "end": TIMES[-1].timestamp()}
            more = {"query": query, "step": step.total_seconds(), **times}
            return running.query("query_range", **more)["result"]

        for panel in PANELS:
            is_daily = "interval" in panel
            start, step = (FIRST, 24) if is_daily else (TIMES[0], 1)
            for target in panel["targets"]:
                found = ask(target["expr"], start, timedelta(hours=step))
                assert found, target["expr"]
                labels = re.findall(r"{{(.*?)}}", target["legendFormat"])
                assert all(series["metric"][label] for label in labels for series in found)
                assert labels or len(found) == 1
            if is_daily:
                assert panel["title"] == "Energy per day"
                days = [(time, float(kwh)) for time, kwh in found[0]["values"]]
                wanted = enumerate(ENERGY_PER_DAY)
                midnight = FIRST.timestamp()
                assert days == [(midnight + 86_400 * day, kwh) for day, kwh in wanted]
        source, charger = DASHBOARD["templating"]["list"]
        assert (source["name"], source["query"]) == ("datasource", "prometheus")
        metric, label = re.findall(r"label_values\((\w+),(\w+)\)", charger["query"])[0]
        chargers = running.query(f"label/{label}/values", **{"match[]": metric})
        assert chargers == ["localhost:9946"]
    used = {json.dumps(place["datasource"]) for place in (charger, *PANELS)}
    assert used == {'{"type": "prometheus", "uid": "${datasource}"}'}


def test_metrics_of_rules_and_dashboard_exist(world: MakeWorld) -> None:
    used = RULES + json.dumps(PANELS) + json.dumps(DASHBOARD["templating"])
    names = {*re.findall(r"\bvestel_[a-z_]+\b", used)}
    assert names <= {*re.findall(r"^# HELP (\w+)", exposition(world), re.MULTILINE)}


def test_panels_name_the_states_and_fill_the_width() -> None:
    for panel in PANELS:
        if panel["title"] in ("State", "State over time"):
            (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
            assert [mapping["options"][str(code)]["text"] for code in range(9)] == STATES[1000]
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len({*cells}) == len(cells) == 24 * (1 + max(y for _, y in cells))
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


def with_overrides(panel: dict[str, Any]) -> dict[str, Any]:
    """Return the panel as if each override were for all its fields: so their names are seen."""
    panel = json.loads(json.dumps(panel))
    for override in panel["fieldConfig"]["overrides"]:
        for one in override["properties"]:
            *parents, last = one["id"].split(".")
            place = panel["fieldConfig"]["defaults"]
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = one["value"]
    return panel


@pytest.mark.skipif(sys.version_info < (3, 11), reason="grafana-foundation-sdk needs Python 3.11")
def test_types_of_grafana_know_each_key_of_the_dashboard() -> None:
    sdk = "grafana_foundation_sdk"
    importlib.import_module(f"{sdk}.cog.plugins").register_default_plugins()
    encoder = importlib.import_module(f"{sdk}.cog.encoder").JSONEncoder
    load = importlib.import_module(f"{sdk}.models.dashboard").Dashboard.from_json
    for given in (DASHBOARD, {**DASHBOARD, "panels": [*map(with_overrides, PANELS)]}):
        assert lost(given, json.loads(json.dumps(load(given), cls=encoder))) == []
