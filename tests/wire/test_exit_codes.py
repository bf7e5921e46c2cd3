"""The exit code, and what stands on stderr with it."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from charger import SILENCE, SimulatedCharger
from program import Run
from registers import INPUT

Happens = Callable[[SimulatedCharger], Any]


def well(charger: SimulatedCharger) -> None:
    """All is well with the charger."""


def gone(charger: SimulatedCharger) -> None:
    charger.stop()


def play(outcome: Any, *addresses: int, **where: Any) -> Happens:
    return lambda charger: charger.fault(outcome, *addresses, **where)


DYNAMIC, BOTH = "--set-dynamic-current=12", "--set-current=12"
SET, SET_TOO = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
NOT_CONNECTED = "ERROR: Cannot connect to 127.0.0.1:{port}: "
NOT_READ = "ERROR: Cannot read 127.0.0.1:{port}: "
FAILED = "ERROR: failed writing current: "

# What the charger does, an option, the exit code, and how each line on stderr begins.
# fmt: off
RUNS: dict[str, tuple[Happens, str, int, list[str]]] = {
    "all is well": (well, "--details", 0, []),
    "a range is refused":
        (play(4, 1502), "", 0, ["WARNING: Cannot read input registers 1502-1513: "]),
    "a value is impossible":
        (lambda charger: charger.set(1014, 5000, bank=INPUT), "", 0,
         ["WARNING: Voltage L1 (input register 1014) is 5000 V: "]),
    "values are set": (well, BOTH, 0, [SET, SET_TOO]),
    "nobody listens": (gone, "", 1, [NOT_CONNECTED]),
    "the charger is silent": (play(SILENCE), "--timeout=0.05", 1, [NOT_READ]),
    "every connection is reset": (play("reset"), "--details", 1, [NOT_READ]),
    "all is refused": (play(7), "--details", 1, [NOT_READ + "exception 7 "]),
    "it is no charger": (play("web server"), "--format=prometheus", 1, [NOT_READ]),
    "the reading after a write fails":
        (lambda charger: charger.fault(charger.vanish, 100), DYNAMIC, 1, [SET, NOT_CONNECTED]),
    "an option is wrong": (well, "--unit=256", 2, ["usage: ", "vestel.py: error: "]),
    "there is no such file": (well, "--config=/missing", 2, ["ERROR: /missing: "]),
    "out of range": (well, "--set-dynamic-current=33", 3, [FAILED + "dynamic current 33 A "]),
    "a write is refused": (play(3, write=True), DYNAMIC, 3, [FAILED + "dynamic current: "]),
    "a timeout is refused":
        (play(3, write=True), "--set-failsafe-timeout=30", 3, ["ERROR: failed writing timeout: "]),
    "the second write is refused": (play(3, 2000, write=True), BOTH, 3, [SET, FAILED]),
    "nobody listens to a write": (gone, BOTH, 3, [FAILED + NOT_CONNECTED[len("ERROR: "):]]),
}
# fmt: on


def assert_ends(run: Run, charger: SimulatedCharger, name: str) -> None:
    happens, option, code, beginnings = RUNS[name]
    happens(charger)
    result = run(*filter(None, [option]), charger=charger)
    assert (result.returncode, type(result.returncode)) == (code, int)
    assert bool(result.stdout) == (code == 0)
    assert result.stderr == "" or result.stderr.endswith("\n")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) == len(beginnings), result.stderr
    for line, beginning in zip(lines, beginnings):
        assert line.startswith(beginning.format(port=charger.port))


@pytest.mark.every_version
@pytest.mark.parametrize("name", RUNS)
def test_exit_code_and_lines_say_what_happened(
    charger: SimulatedCharger, call: Run, clock: object, name: str
) -> None:
    assert_ends(call, charger, name)


@pytest.mark.parametrize("name", ["all is well", "nobody listens", "out of range"])
def test_a_process_ends_in_the_same_way(charger: SimulatedCharger, run: Run, name: str) -> None:
    assert_ends(run, charger, name)


def test_verbose_of_a_failing_run_ends_in_the_error(charger: SimulatedCharger, call: Run) -> None:
    charger.fault("reset")
    result = call("-v", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    *log, last = result.stderr.splitlines()
    assert last.startswith("ERROR: Cannot read ")
    assert log
    assert not [line for line in log if "ERROR" in line]
