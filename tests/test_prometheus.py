"""README.md's Prometheus: the configuration, the alert rules, and node_exporter.

When an alert comes is tried with promtool, whose time is simulated. Whether it comes is tried
with a Prometheus that runs, on what --listen serves.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from conftest import Start, eventually, needs
from readme import README, Desk, block, blocks, cron_commands
from real_prometheus import prometheus, promtool
from simulated_charger import HOLDING, INPUT, SimulatedCharger, free_port, simulated_charger, text

# The series that the alert rules are tried on, and when which alert stands. The first alert is
# there 5 minutes after the last good sample, the second after 1, the third after 15.
ALERTS = """
rule_files: [vestel-rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'up{instance="a", job="vestel"}', values: "1x50 0x20"}
      - {series: 'vestel_up{instance="a", job="vestel"}', values: "1x20 0x4 1x5 0x10 1x5 stale _x20"}
      - {series: 'up{instance="b", job="vestel"}', values: "1x70"}
      - {series: 'vestel_up{instance="b", job="vestel"}', values: "1x70"}
      - {series: 'up{instance="c", job="other"}', values: "0x70"}
    alert_rule_test:
      - {eval_time: 20m, alertname: VestelDown, exp_alerts: []}
      - {eval_time: 25m, alertname: VestelDown, exp_alerts: []}
      - {eval_time: 35m, alertname: VestelDown, exp_alerts: []}
      - eval_time: 37m
        alertname: VestelDown
        exp_alerts:
          - exp_labels: {instance: a, job: vestel}
            exp_annotations: {summary: The charger at a has not been read for 5 minutes.}
      - {eval_time: 43m, alertname: VestelDown, exp_alerts: []}
      - {eval_time: 55m, alertname: VestelDown, exp_alerts: []}
      - eval_time: 57m
        alertname: VestelDown
        exp_alerts:
          - exp_labels: {instance: a, job: vestel}
            exp_annotations: {summary: The charger at a has not been read for 5 minutes.}
  - interval: 1m
    input_series:
      - {series: 'vestel_fault_code{serial="S"}', values: "0x10 268435472x5 268435456x5 0x20"}
      - {series: 'vestel_fault{serial="S", bit="3", fault="Interlock Unlock Error"}', values: "0x40"}
      - {series: 'vestel_fault{serial="S", bit="4", fault="PP Error"}', values: "0x10 1x5 0x20"}
      - {series: 'vestel_chargepoint_state{serial="S"}', values: "2x30 8x10"}
      - {series: 'vestel_fault_code{serial="T"}', values: "0x40"}
      - {series: 'vestel_fault{serial="T", bit="4", fault="PP Error"}', values: "0x40"}
      - {series: 'vestel_chargepoint_state{serial="T"}', values: "7x40"}
    alert_rule_test:
      - {eval_time: 11m, alertname: VestelFault, exp_alerts: []}
      - eval_time: 13m
        alertname: VestelFault
        exp_alerts:
          - exp_labels: {serial: S}
            exp_annotations: {summary: "The charger S reports a fault: PP Error."}
      - eval_time: 20m
        alertname: VestelFault
        exp_alerts:
          - exp_labels: {serial: S}
            exp_annotations: {summary: "The charger S reports a fault: one without a name."}
      - {eval_time: 30m, alertname: VestelFault, exp_alerts: []}
      - eval_time: 33m
        alertname: VestelFault
        exp_alerts:
          - exp_labels: {serial: S}
            exp_annotations: {summary: "The charger S reports a fault: one without a name."}
  - interval: 1m
    input_series:
      - {series: 'vestel_chargepoint_state{serial="S"}', values: "2x40 4x40"}
      - {series: 'vestel_charging_state{serial="S"}', values: "0x80"}
      - {series: 'vestel_dynamic_current_amperes{serial="S"}', values: "16x80"}
      - {series: 'vestel_current_amperes{serial="S", phase="1"}', values: "12.9x9 12.512x70"}
      - {series: 'vestel_current_amperes{serial="S", phase="2"}', values: "0.018x80"}
      - {series: 'vestel_chargepoint_state{serial="T"}', values: "2x80"}
      - {series: 'vestel_dynamic_current_amperes{serial="T"}', values: "16x80"}
      - {series: 'vestel_current_amperes{serial="T", phase="1"}', values: "15.2x80"}
    alert_rule_test:
      - {eval_time: 24m, alertname: VestelChargesSlowly, exp_alerts: []}
      - eval_time: 26m
        alertname: VestelChargesSlowly
        exp_alerts:
          - exp_labels: {serial: S}
            exp_annotations: {summary: "The vehicle takes 12.5 A, less than 80 % of the dynamic current."}
      - {eval_time: 60m, alertname: VestelChargesSlowly, exp_alerts: []}
"""


def test_the_alerts_come_when_they_should(tmp_path: Path) -> None:
    rules, use_of_rules = blocks("Alerts", "yaml")
    (tmp_path / "vestel-rules.yml").write_text(rules)
    (tmp_path / "prometheus.yml").write_text(block("Prometheus", "yaml") + use_of_rules)
    (tmp_path / "alerts.yml").write_text(ALERTS)
    assert "3 rules found" in promtool(tmp_path, "check", "config", "prometheus.yml")
    promtool(tmp_path, "test", "rules", "alerts.yml")


# The rule that README.md has for node_exporter: the file has vestel_up, is gone, or is old.
ALERTS_OF_NODE_EXPORTER = """
rule_files: [vestel-rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'vestel_up{job="node"}', values: "1x5 0x5 1x30 stale _x30"}
      - {series: 'node_textfile_mtime_seconds{file="/var/lib/prometheus/node-exporter/vestel.prom"}',
         values: "0+60x20 1200x20 stale _x30"}
      - {series: 'node_textfile_mtime_seconds{file="/var/lib/prometheus/node-exporter/other.prom"}',
         values: "0x70"}
    promql_expr_test:
      - {expr: RULE, eval_time: 4m, exp_samples: []}
      - {expr: RULE, eval_time: 8m, exp_samples: [{labels: 'vestel_up{job="node"}', value: 0}]}
      - {expr: RULE, eval_time: 20m, exp_samples: []}
      - expr: RULE
        eval_time: 30m
        exp_samples:
          - {labels: '{file="/var/lib/prometheus/node-exporter/vestel.prom"}', value: 600}
      - {expr: RULE, eval_time: 60m, exp_samples: [{labels: '{}', value: 1}]}
"""


def test_the_rule_for_node_exporter_tells_a_charger_from_a_cron_that_is_down(tmp_path: Path) -> None:
    (rule,) = re.findall(r"let the first rule ask for `(.*?)`\.", README)
    rules = blocks("Alerts", "yaml")[0].replace('vestel_up == 0 or up{job="vestel"} == 0', rule)
    (tmp_path / "vestel-rules.yml").write_text(rules)
    quoted = "'" + rule.replace("'", "''") + "'"
    (tmp_path / "alerts.yml").write_text(ALERTS_OF_NODE_EXPORTER.replace("RULE", quoted))
    assert "3 rules found" in promtool(tmp_path, "check", "rules", "vestel-rules.yml")
    promtool(tmp_path, "test", "rules", "alerts.yml")


# --- A Prometheus that runs ---

FAULT = "VestelFault: The charger {} reports a fault: {}"
NO_VEHICLE = {1000: 0, 1008: 49, 1010: 18, 1012: 18}
# Chargers by serial number, what differs from the usual one, and the alert that this is to raise.
CHARGERS: dict[str, tuple[dict[int, int], str]] = {
    "CHARGES": ({}, ""),
    "IDLE": (NO_VEHICLE, ""),
    "SLOW": (
        {1001: 0, 1008: 6123, 1010: 18, 1012: 18},  # 1001 says that it does not charge
        "VestelChargesSlowly: The vehicle takes 6.1 A, less than 80 % of the dynamic current.",
    ),
    "BIT28": ({1006: 1 << 12}, FAULT.format("BIT28", "one without a name.")),  # of the high word
    "STATE8": ({1000: 8}, FAULT.format("STATE8", "one without a name.")),
    "TWO": ({1000: 8, 1006: 4, 1007: 16}, FAULT.format("TWO", "PP Error. RFID Error.")),
    "LOST": ({}, "VestelDown: The charger at {} has not been read for 5 minutes."),
    "NO SERVICE": ({}, "VestelDown: The charger at {} has not been read for 5 minutes."),
}


def test_a_prometheus_that_runs_has_the_values_and_raises_these_alerts_only(
    start: Start, tmp_path: Path
) -> None:
    """All chargers at once, each with its service; then most of them change."""
    configuration = yaml.safe_load(block("Prometheus", "yaml") + blocks("Alerts", "yaml")[1])
    (job,) = configuration["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["localhost:9946"]}]
    with contextlib.ExitStack() as stack:
        chargers = {serial: stack.enter_context(simulated_charger()) for serial in CHARGERS}
        targets = {serial: f"localhost:{free_port()}" for serial in CHARGERS}

        def serve(serial: str) -> None:
            start("--listen", targets[serial].partition(":")[2], charger=chargers[serial])

        for serial, (registers, _) in CHARGERS.items():
            chargers[serial].set(INPUT, 100, *text(serial, 25))
            chargers[serial].set(HOLDING, 2002, 4)  # s: a beat of 1 s
            for address, word in registers.items():
                chargers[serial].set(INPUT, address, word)
            if serial == "LOST":
                chargers[serial].stop()
            if serial != "NO SERVICE":
                serve(serial)
        job.update(scrape_interval="250ms", static_configs=[{"targets": [*targets.values()]}])
        configuration["global"] = {"evaluation_interval": "250ms"}
        at_once = re.sub("for: .*", "for: 0s", blocks("Alerts", "yaml")[0])
        (tmp_path / "vestel-rules.yml").write_text(at_once)
        running = stack.enter_context(prometheus(tmp_path, json.dumps(configuration)))

        def series(query: str) -> list[Any]:
            return [*(running.ask("query", query=query) or {"result": ()})["result"]]

        def alerts() -> set[str]:
            found = running.ask("alerts")["alerts"]
            return {f"{alert['labels']['alertname']}: {alert['annotations']['summary']}" for alert in found}

        def evaluated() -> str:
            (group,) = running.ask("rules")["groups"]
            return str(max(rule["lastEvaluation"] for rule in group["rules"]))

        eventually(lambda: len(series("up")) == 8 and len(series("vestel_current_amperes")) == 18)
        before = evaluated()
        eventually(lambda: evaluated() > before)
        before = evaluated()  # of a round that began after all was there
        eventually(lambda: evaluated() > before)
        assert alerts() == {alert.format(targets[serial]) for serial, (_, alert) in CHARGERS.items() if alert}
        labels = {"__name__": "vestel_current_amperes", "instance": targets["CHARGES"], "job": "vestel"}
        found = series("vestel_current_amperes{serial='CHARGES'}")
        assert [(one["metric"], float(one["value"][1])) for one in found] == [
            ({**labels, "serial": "CHARGES", "phase": phase}, amperes)
            for phase, amperes in [("1", 15.234), ("2", 15.181), ("3", 15.257)]
        ]

        chargers["CHARGES"].stop()
        chargers["IDLE"].set(INPUT, 1007, 16)
        for serial in ("SLOW", "BIT28", "STATE8", "TWO"):
            for address, word in {**NO_VEHICLE, 1006: 0, 1007: 0}.items():
                chargers[serial].set(INPUT, address, word)
        serve("NO SERVICE")
        down = "VestelDown: The charger at {} has not been read for 5 minutes."
        now = {FAULT.format("IDLE", "PP Error.")} | {down.format(targets[one]) for one in ("LOST", "CHARGES")}
        eventually(lambda: alerts() == now)


def test_node_exporter_never_sees_half_a_file(tmp_path: Path, charger: SimulatedCharger) -> None:
    exporter = needs("prometheus-node-exporter", "prometheus-node-exporter")
    desk = Desk(tmp_path, charger)
    desk.spread()
    (command,) = cron_commands(block("Prometheus through node_exporter", "crontab"))

    def file_after_a_run() -> str:
        assert desk.cron(command).status == 0
        assert [file.name for file in desk.textfiles.iterdir()] == ["vestel.prom"]
        return (desk.textfiles / "vestel.prom").read_text()

    own = ["--collector.disable-defaults", "--collector.textfile", "--log.level=error"]
    place = [
        f"--collector.textfile.directory={desk.textfiles}",
        f"--web.listen-address=127.0.0.1:{desk.port}",
    ]
    with desk.running(shlex.join(["exec", exporter, *own, *place])):
        assert 'vestel_max_power_watts{serial="VEST1234567890"} 22000\n' in file_after_a_run()
        seen = eventually(lambda: desk.get("/metrics")[1])
        assert "\nvestel_up 1\n" in seen
        assert 'vestel_current_amperes{phase="1",serial="VEST1234567890"} 15.234\n' in seen
        assert "\nnode_textfile_mtime_seconds{" in seen
        desk.charger.fault("reset")
        assert file_after_a_run() == "vestel_up 0\n"
        seen = desk.get("/metrics")[1]
        assert "\nvestel_up 0\n" in seen
        assert "\nnode_textfile_scrape_error 0\n" in seen
        assert "vestel_current_amperes" not in seen
