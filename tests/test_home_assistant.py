"""README.md's configuration for Home Assistant: its templates name nothing that is not there.

Home Assistant renders `value_template` whatever `availability` says, and writes an ERROR to its
log for each name that is undefined.
"""

from __future__ import annotations

import json
import os
from typing import Any

import jinja2
import pytest
import yaml  # type: ignore[import-untyped]
from conftest import Running, eventually
from readme import block, get
from simulated_charger import HOLDING, free_port, simulated_charger

(REST,) = yaml.safe_load(block("Home Assistant", "yaml"))["rest"]
VALUES = {
    "Wallbox state": "Charging",
    "Wallbox power": "70501",
    "Wallbox session energy": "1940.301",
    "Wallbox meter": "121682.1",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What --listen answers: a reading, and what it answers while the charger is lost."""
    environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
    port = free_port()
    place = REST["resource"].replace("9946", str(port))

    def answer(wanted: int) -> str:
        status, text = get(place)
        return text if status == wanted else ""

    with simulated_charger() as charger:
        charger.set(HOLDING, 2002, 4)  # s: a beat of 1 s
        running = Running(["--listen", str(port)], charger, env=environment)
        try:
            reading = eventually(lambda: answer(200))
            charger.stop()
            return [reading, eventually(lambda: answer(503))]
        finally:
            running.end()


def render(template: str, **names: Any) -> str:
    """Raises where the template names what is not there."""
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(**names)


def shown(document: str) -> dict[str, str]:
    """What each sensor shows."""
    values = {}
    for sensor in REST["sensor"]:
        value, available = (
            render(sensor[key], value_json=json.loads(document)) for key in ("value_template", "availability")
        )
        assert available in ("True", "False")
        values[sensor["name"]] = value if available == "True" else "unavailable"
    return values


def test_the_sensors_show_the_reading(answers: list[str]) -> None:
    assert shown(answers[0]) == VALUES


@pytest.mark.parametrize("name", VALUES)
def test_a_sensor_without_a_value_is_unavailable(answers: list[str], name: str) -> None:
    value = {"Wallbox state": '"name": "Charging"}, "charging"'}.get(name, f": {VALUES[name]}")
    null = value.replace('"Charging"', "null").replace(VALUES[name], "null")
    assert answers[0].count(value) == 1
    assert shown(answers[0].replace(value, null)) == {**VALUES, name: "unavailable"}


def test_all_sensors_are_unavailable_while_the_charger_is_lost(answers: list[str]) -> None:
    assert "error" in json.loads(answers[1])
    assert shown(answers[1]) == dict.fromkeys(VALUES, "unavailable")


def test_all_sensors_are_unavailable_while_the_service_is_gone() -> None:
    """Home Assistant then has no `value_json`, and renders `availability` only."""
    assert {render(sensor["availability"]) for sensor in REST["sensor"]} == {"False"}


def test_the_sensors_have_what_the_energy_dashboard_needs() -> None:
    def about(sensor: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(sensor.get(key) for key in ("device_class", "state_class", "unit_of_measurement"))

    assert {sensor["name"]: about(sensor) for sensor in REST["sensor"]} == {
        "Wallbox state": (None, None, None),
        "Wallbox power": ("power", "measurement", "W"),
        "Wallbox session energy": ("energy", "total_increasing", "kWh"),
        "Wallbox meter": ("energy", "total_increasing", "kWh"),
    }
    assert len({sensor["unique_id"] for sensor in REST["sensor"]}) == 4
