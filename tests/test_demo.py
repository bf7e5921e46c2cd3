"""--demo: a charger that lives in the program, and needs nothing."""

from __future__ import annotations

import json
import re

import pytest
from conftest import Clock, Memory, Run
from readings import FORMATS, WHOLE, flat, sample_values, without
from registers import HUMAN, HUMAN_DETAILS, KEYS, SAMPLES, read, row

import vestel

DETAILS = pytest.mark.parametrize("details", [False, True], ids=["core", "details"])


def labels(human: str) -> list[str]:
    return re.findall("^.*?:|^==.*", human, re.M)


def demo(call: Run, style: str, details: bool) -> str:
    """What the demo prints."""
    result = call("--demo", "--format", style, *(["--details"] if details else []))
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@DETAILS
def test_the_demo_shows_a_car_that_charges_with_three_phases(call: Run, details: bool) -> None:
    reading = json.loads(demo(call, "json", details))
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


@DETAILS
def test_the_demo_shows_people_all_rows(call: Run, details: bool) -> None:
    stdout = demo(call, "human", details)
    assert labels(stdout) == labels(HUMAN + HUMAN_DETAILS * details)
    assert re.findall(".*n/a", stdout) == ["Ended:               n/a"]


@DETAILS
def test_the_demo_has_all_metrics(call: Run, details: bool) -> None:
    expected = SAMPLES if details else without("vestel_info")
    assert sample_values(demo(call, "prometheus", details)).keys() == expected.keys()


@pytest.mark.parametrize("style", FORMATS)
def test_the_demo_needs_no_network(memory: Memory, call: Run, style: str) -> None:
    demo(call, style, details=True)
    assert memory.targets == []


def test_the_session_of_the_demo_grows(clock: Clock) -> None:
    charger = vestel.Demo()

    def held(address: int) -> int:
        _, first, count = read([row(address)])
        high, low = charger.read_words("input", first, count)
        return high * 65536 + low

    energy, duration, meter = (held(address) for address in (1502, 1508, 1036))
    clock.sleep(60)
    assert held(1508) - duration == 60
    assert held(1502) - energy in range(170, 180)  # a minute at 10.5 kW
    clock.sleep(3540)
    assert held(1508) - duration == 3600
    assert held(1502) - energy in range(10_400, 10_600)
    assert held(1036) - meter in (104, 105, 106)


def test_the_clock_of_the_demo_is_that_of_the_computer(clock: Clock, call: Run) -> None:
    reading = json.loads(demo(call, "json", details=True))
    assert reading["timestamp"] == "2026-11-20T08:15:30+00:00"
    assert reading["details"]["clock"] == clock.strftime("%Y-%m-%dT%H:%M:%S", clock.localtime(clock.time()))
