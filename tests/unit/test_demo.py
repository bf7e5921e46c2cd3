"""--demo: a charger that lives in the program, and needs nothing."""

from __future__ import annotations

import json
import re

import pytest
from clock import Clock
from conftest import Memory
from program import Run
from readings import WHOLE, flat
from registers import KEYS, read, row

import vestel


@pytest.mark.parametrize("details", [[], ["--details"]], ids=["core", "details"])
def test_the_demo_charges_a_vehicle_and_needs_no_network(
    memory: Memory, call: Run, details: list[str]
) -> None:
    result = call("--demo", "--format=json", *details)
    assert (result.returncode, result.stderr, memory.targets) == (0, "", [])
    reading = json.loads(result.stdout)
    found = flat(reading)
    assert [*found][1:] == [key for key in KEYS if details or not key.startswith("details.")]
    assert [key for key, value in found.items() if value is None] == ["session.end_time"]
    assert reading["states"] == WHOLE["states"]
    assert reading["identity"]["phases"] == "3-phase"
    electrical = reading["electrical"]
    assert electrical["active_phases"] == 3
    assert all(amperes > 6 for amperes in electrical["current"].values())
    assert all(220 < volts < 240 for volts in electrical["voltage"].values())
    assert all(watts > 1000 for watts in electrical["power"].values() if isinstance(watts, int))


def held(charger: vestel.Demo, address: int) -> int:
    high, low = charger.read_words(*read([row(address)]))
    return high * 65536 + low


def test_the_session_of_the_demo_grows(clock: Clock) -> None:
    charger = vestel.Demo()
    energy, duration, meter = (held(charger, address) for address in (1502, 1508, 1036))
    clock.sleep(60)
    assert held(charger, 1508) - duration == 60
    assert held(charger, 1502) - energy in range(170, 180)  # a minute at 10.5 kW
    clock.sleep(3540)
    assert held(charger, 1508) - duration == 3600
    assert held(charger, 1502) - energy in range(10_400, 10_600)
    assert held(charger, 1036) - meter in (104, 105, 106)


def test_a_clock_set_back_takes_nothing_from_the_demo(clock: Clock) -> None:
    charger = vestel.Demo()
    before = [held(charger, address) for address in (1502, 1508, 1036)]
    clock.jump(-3600)
    assert [held(charger, address) for address in (1502, 1508, 1036)] == before


def test_the_clock_of_the_demo_is_that_of_the_computer(
    clock: Clock, nepal: None, call: Run
) -> None:
    reading = json.loads(call("--demo", "--details", "--format=json").stdout)
    assert reading["timestamp"] == "2026-11-20T08:15:30+00:00"
    assert reading["details"]["clock"] == "2026-11-20T14:00:30"
    assert reading["session"]["start_time"] == "12:36:45"


def test_the_demo_pauses_at_0(call: Run) -> None:
    result = call("--demo", "--set-current=0", "--format=json")
    reading = json.loads(result.stdout)
    assert result.returncode == 0
    assert reading["states"]["chargepoint"] == {"code": 3, "name": "SuspendedEVSE"}
    assert reading["states"]["charging"]["name"] == "NotCharging"
    assert reading["electrical"]["power"]["total_w"] == 0


def test_values_of_the_demo_are_set_and_confirmed(call: Run) -> None:
    result = call("--demo", "--set-current=12", "--set-failsafe-timeout=300")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "Failsafe timeout: 20 s -> 300 s",
        "Dynamic current: 16 A -> 12 A",
        "Failsafe current: 10 A -> 12 A",
    ]
    assert re.search("Current L1 L2 L3: +11.230 A +11.180 A +11.250 A", result.stdout)
    assert "Failsafe Timeout:    300 s\n" in result.stdout


def test_the_demo_has_limits_too(call: Run) -> None:
    result = call("--demo", "--set-current=40")
    assert (result.returncode, result.stdout) == (3, "")
    assert re.search(r"\b6 to 32 A\b.*nothing was written", result.stderr)
