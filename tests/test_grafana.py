"""README.md's dashboard for Grafana: its queries in a Prometheus that runs, its form with Grafana's types."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator

import pytest
from conftest import Running, eventually
from prometheus_client.parser import text_string_to_metric_families
from readme import block, get
from real_prometheus import Prometheus, prometheus, promtool
from registers import STATES
from simulated_charger import INPUT, free_port, simulated_charger

DASHBOARD = json.loads(block("Grafana", "json"))
TARGETS = [
    pytest.param(panel, target, id=f"{panel['type']} {panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
FIRST = datetime(2026, 11, 20, tzinfo=timezone.utc)  # midnight
# The meter (kWh) at half past each hour of two and a half days.
METER = [*[100.0] * 8, *[104.5] * 8, *[110.5] * 8, *[110.5] * 24, *[110.5] * 6, *[113.0] * 6]
ENERGY_PER_DAY = [10.5, 0.0, 2.5]
TIMES = [FIRST + timedelta(hours=hour, minutes=30) for hour in range(len(METER))]


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What --listen serves of a charger with a fault."""
    environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
    port = free_port()

    def answer() -> str:
        text = get(f"http://127.0.0.1:{port}/metrics")[1]
        return text if "\nvestel_up 1\n" in text else ""

    with simulated_charger() as charger:
        charger.set(INPUT, 1007, 1 << 4)
        running = Running(["--listen", str(port)], charger, env=environment)
        try:
            return str(eventually(answer))
        finally:
            running.end()


@pytest.fixture(scope="module")
def history(exposition: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped that for some days, while the meter went on."""
    directory = tmp_path_factory.mktemp("prometheus")
    lines = []
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = {**sample.labels, "instance": "localhost:9946", "job": "vestel"}
            pairs = ",".join(f'{label}="{value}"' for label, value in labels.items())
            for time, kwh in zip(TIMES, METER):
                value = kwh if sample.name == "vestel_meter_reading_kwh" else sample.value
                lines.append(f"{sample.name}{{{pairs}}} {value} {time.timestamp():.0f}\n")
    (directory / "history").write_text("".join(lines) + "# EOF\n")
    promtool(directory, "tsdb", "create-blocks-from", "openmetrics", "history", "data")
    with prometheus(directory, "{}") as running:
        yield running


def asked(history: Prometheus, expression: str, start: datetime, end: datetime, step: timedelta) -> Any:
    query = expression.replace("$charger", "localhost:9946")
    assert "$" not in query
    times = {"start": start.timestamp(), "end": end.timestamp(), "step": step.total_seconds()}
    return history.ask("query_range", query=query, **times)["result"]


@pytest.mark.parametrize(("panel", "target"), TARGETS)
def test_a_query_returns_series_that_its_legend_can_name(
    history: Prometheus, panel: dict[str, Any], target: dict[str, Any]
) -> None:
    start, step = (FIRST, timedelta(days=1)) if "interval" in panel else (TIMES[0], timedelta(hours=1))
    found = asked(history, target["expr"], start, TIMES[-1], step)
    assert found
    for label in re.findall(r"{{(.*?)}}", target["legendFormat"]):
        assert all(series["metric"][label] for series in found)
    if "{{" not in target["legendFormat"]:
        assert len(found) == 1


def test_the_energy_per_day_is_that_of_the_day_at_which_it_stands(history: Prometheus) -> None:
    (panel,) = (panel for panel in DASHBOARD["panels"] if panel["title"] == "Energy per day")
    assert panel["interval"] == "1d"
    (series,) = asked(history, panel["targets"][0]["expr"], FIRST, TIMES[-1], timedelta(days=1))
    assert [(time, float(kwh)) for time, kwh in series["values"]] == [
        ((FIRST + timedelta(days=day)).timestamp(), kwh) for day, kwh in enumerate(ENERGY_PER_DAY)
    ]


def test_the_variables_are_the_data_source_and_the_charger(history: Prometheus) -> None:
    source, charger = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    (metric, label) = re.fullmatch(r"label_values\((\w+),(\w+)\)", charger["query"]).groups()  # type: ignore[union-attr]
    assert history.ask(f"label/{label}/values", **{"match[]": metric}) == ["localhost:9946"]
    places = [charger, *DASHBOARD["panels"]]
    assert {json.dumps(place["datasource"]) for place in places} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }


def test_every_metric_of_the_dashboard_exists(exposition: str) -> None:
    text = json.dumps(DASHBOARD["panels"]) + DASHBOARD["templating"]["list"][1]["query"]
    assert set(re.findall(r"\bvestel_\w+", text)) <= set(
        re.findall(r"^# HELP (\w+)", exposition, re.MULTILINE)
    )


def test_the_dashboard_shows_what_the_readme_says() -> None:
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    for title in ("Charger", "State over time", "Power", "Current per phase", "Energy per day"):
        assert title in titles
    assert {"Session", "Limits", "Faults"} < {*titles}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(titles)


def test_the_states_have_their_names() -> None:
    for panel in DASHBOARD["panels"]:
        if panel["title"] in ("State", "State over time"):
            (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
            assert [mapping["options"][str(code)]["text"] for code in range(9)] == STATES[1000]


def test_the_panels_fill_the_width_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len({*cells}) == len(cells) == 24 * (1 + max(y for _, y in cells))


# --- Its form ---


def kept(given: Any, loaded: Any, path: str = "") -> list[str]:
    """What of the given is not in the loaded."""
    if isinstance(given, dict) and isinstance(loaded, dict):
        lost = [f"{path}.{key}" for key in given if key not in loaded]
        return lost + [
            one
            for key in given.keys() & loaded.keys()
            for one in kept(given[key], loaded[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(loaded, list) and len(given) == len(loaded):
        return [one for n, pair in enumerate(zip(given, loaded)) for one in kept(*pair, f"{path}.{n}")]
    return [] if given == loaded else [f"{path}: {given} became {loaded}"]


def with_overrides(panel: dict[str, Any]) -> dict[str, Any]:
    """The panel as if each override were for all its fields, so that their names are looked at."""
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
def test_the_types_of_grafana_know_every_key_of_the_dashboard() -> None:
    sdk = "grafana_foundation_sdk"
    importlib.import_module(f"{sdk}.cog.plugins").register_default_plugins()
    encoder = importlib.import_module(f"{sdk}.cog.encoder").JSONEncoder
    load = importlib.import_module(f"{sdk}.models.dashboard").Dashboard.from_json
    for given in (DASHBOARD, {**DASHBOARD, "panels": [*map(with_overrides, DASHBOARD["panels"])]}):
        assert kept(given, json.loads(json.dumps(load(given), cls=encoder))) == []
