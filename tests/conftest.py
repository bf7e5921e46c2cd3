"""The fixtures of all tests, and the check that nothing outlives its test."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import door
import program
import pytest
import rows
from charger import MemoryConnection, SimulatedCharger
from clock import Clock
from leftovers import Leftovers
from program import Run, Start
from world import World

import vestel

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # inherited from the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Leftovers(), "leftovers")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """While vestel.py and registers.py have other rows, run only the test that says so by name."""
    naming = [item for item in items if item.name == "test_rows_of_program_and_tests_are_the_same"]
    with contextlib.suppress(Exception):  # the tests themselves will tell
        if naming and rows.first_that_differs():
            config.hook.pytest_deselected(items=[item for item in items if item not in naming])
            items[:] = naming


@pytest.fixture
def charger() -> Iterator[SimulatedCharger]:
    with door.listening() as running:
        yield running


class Memory(SimulatedCharger):
    """A charger in memory that `call` reaches; `targets` is where it was looked for."""

    def __init__(self, clock: Clock | None) -> None:
        super().__init__(clock)
        self.targets: list[vestel.Target] = []


@pytest.fixture
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """Give a charger in memory that `call` reaches; with the fixture `clock`, in that time."""
    is_simulated = "clock" in request.fixturenames
    charger = Memory(request.getfixturevalue("clock") if is_simulated else None)

    def modbus(target: vestel.Target, _: object) -> Callable[[], MemoryConnection]:
        charger.targets.append(target)
        return lambda: charger.connect(target.timeout, target.base)

    monkeypatch.setattr(vestel, "modbus", modbus)
    yield charger
    charger.clock.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vestel, "time", clock)
    return clock


@pytest.fixture
def nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make local time UTC+05:45: 08:15:30 UTC is 14:00:30."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def world(clock: Clock) -> Callable[..., World]:
    """Make a World: the poller against a charger, which may be given, or its attributes."""

    def world(setpoints: Any = None, charger: Any = None, **more: Any) -> World:
        how = {name: more.pop(name) for name in ("details", "every", "hold_file") if name in more}
        usual: dict[str, Any] = {"measuring": True, "calendar": "runs", "strict": True}
        usual.update({"delay": 0.002, "failsafe": True, **more})
        return World(clock, charger or SimulatedCharger(clock, **usual), setpoints, **how)

    return world


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return program.environment_of(tmp_path)


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Run vestel.py as a process; with `charger=`, against that charger."""
    return lambda *options, **more: program.run_process(*options, **{"env": environment, **more})


@pytest.fixture
def run_on_terminal(environment: dict[str, str]) -> Run:
    return lambda *options, **more: program.run_with_terminal(*options, env=environment, **more)


@pytest.fixture
def call(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run vestel.py in this process, in opt/ of a home of its own, without a configuration."""
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(vestel, "__file__", str(tmp_path / "opt" / "vestel.py"))
    return program.call_main


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start vestel.py as a process that stays; with `charger=`, against that charger."""
    with program.starting(tmp_path) as start:
        yield start
