"""The exit code, and what stands on stderr with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from charger import SILENCE, SimulatedCharger
from door import free_port
from program import Result, Run
from registers import INPUT

import vestel

FILES = {
    "box.ini": "[vestel]\nip = 127.0.0.1\nport = {port}\n",
    "odd.ini": "[vestel]\nip = 127.0.0.1\nport = {port}\ncolour = red\n",
    "empty.ini": "[vestel]\n",
    "bad.ini": "[vestel]\nport = 0\n",
    "odd and bad.ini": "[vestel]\ncolour = red\nunit = 256\n",
}
DYNAMIC, FAILSAFE = "--set-dynamic-current=12", "--set-failsafe-current=12"
DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
CANNOT_CONNECT = "Cannot connect to 127.0.0.1:{port}: "
CANNOT_READ = "ERROR: Cannot read 127.0.0.1:{port}: "
FAILED = "ERROR: failed writing current: "

Happens = Callable[[SimulatedCharger], Any]


def well(charger: SimulatedCharger) -> None:
    """All is well with the charger."""


def play(outcome: Any, *addresses: int, **where: Any) -> Happens:
    return lambda charger: charger.fault(outcome, *addresses, **where)


def gone(charger: SimulatedCharger) -> None:
    charger.stop()


# What the charger does, options, exit code, and how each line on stderr begins.
RUNS: dict[str, tuple[Happens, list[str], int, list[str]]] = {
    "all is well": (well, [], 0, []),
    "a range is refused": (
        play(4, 1502),
        [],
        0,
        ["WARNING: Cannot read input registers 1502-1513: "],
    ),
    "a value is impossible": (
        lambda charger: charger.set(1014, 5000, bank=INPUT),
        [],
        0,
        ["WARNING: Voltage L1 (input register 1014) is 5000 V: "],
    ),
    "an unknown key": (well, ["--config=odd.ini"], 0, ["WARNING: odd.ini: colour: "]),
    "both currents are set": (well, ["--set-current=12"], 0, [DYNAMIC_LINE, FAILSAFE_LINE]),
    "nobody listens": (gone, [], 1, ["ERROR: " + CANNOT_CONNECT]),
    "the charger is silent": (play(SILENCE), ["--timeout=0.05"], 1, [CANNOT_READ]),
    "every connection is reset": (play("reset"), ["--details"], 1, [CANNOT_READ]),
    "all is refused": (play(7), ["--details"], 1, [CANNOT_READ + "exception 7 "]),
    "it is no charger": (play("web server"), ["--format=prometheus"], 1, [CANNOT_READ]),
    "the reading after a write fails": (
        lambda charger: charger.fault(charger.vanish, 100),
        [DYNAMIC],
        1,
        [DYNAMIC_LINE, "ERROR: " + CANNOT_CONNECT],
    ),
    "no charger is named": (well, ["--config=empty.ini"], 2, ["ERROR: IP not set"]),
    "no such file": (well, ["--config=missing.ini"], 2, ["ERROR: missing.ini: "]),
    "a bad value in the file": (well, ["--config=bad.ini"], 2, ["ERROR: bad.ini: port: "]),
    "an unknown key and a bad value": (
        well,
        ["--config=odd and bad.ini"],
        2,
        ["WARNING: odd and bad.ini: colour: ", "ERROR: odd and bad.ini: unit: "],
    ),
    "out of range": (
        well,
        ["--set-dynamic-current=33"],
        3,
        [FAILED + "dynamic current 33 A "],
    ),
    "a write is refused": (play(3, write=True), [FAILSAFE], 3, [FAILED + "failsafe current: "]),
    "a timeout is refused": (
        play(3, write=True),
        ["--set-failsafe-timeout=30"],
        3,
        ["ERROR: failed writing timeout: failsafe timeout: "],
    ),
    "the second write is refused": (
        play(3, 2000, write=True),
        ["--set-current=12"],
        3,
        [DYNAMIC_LINE, FAILED],
    ),
    "nobody listens to a write": (gone, ["--set-current=12"], 3, [FAILED + CANNOT_CONNECT]),
}


@pytest.fixture
def desk(charger: SimulatedCharger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory in which the program is called, with these files."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content.format(port=charger.port), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_ends(result: Result[str], code: int, beginnings: list[str], port: int) -> None:
    assert result.returncode == code
    assert bool(result.stdout) == (code == 0)
    lines = result.stderr.splitlines(keepends=True)
    assert len(lines) == len(beginnings), result.stderr
    for line, beginning in zip(lines, beginnings):
        assert line.startswith(beginning.format(port=port))
        assert line.endswith("\n")


@pytest.mark.every_version
@pytest.mark.parametrize(("happens", "options", "code", "beginnings"), RUNS.values(), ids=RUNS)
def test_exit_code_and_lines_say_what_happened(
    charger: SimulatedCharger,
    call: Run,
    clock: object,
    desk: Path,
    happens: Happens,
    options: list[str],
    code: int,
    beginnings: list[str],
) -> None:
    happens(charger)
    assert_ends(call("--config=box.ini", *options), code, beginnings, charger.port)


@pytest.mark.parametrize(
    "name", ["an unknown key", "nobody listens", "no such file", "out of range"]
)
def test_a_process_ends_in_the_same_way(
    charger: SimulatedCharger, run: Run, desk: Path, name: str
) -> None:
    happens, options, code, beginnings = RUNS[name]
    happens(charger)
    result = run("--config=box.ini", *options, cwd=desk)
    assert_ends(result, code, beginnings, charger.port)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--demo"], 0),
        (["--demo", "--format=json"], 0),
        (["--demo", "--set-current=33"], 3),
        (["--nope"], 2),
        (["--port=0"], 2),
        (["--watch=1", "--format=prometheus"], 2),
        (["--set-current=6", "--set-dynamic-current=6"], 2),
        (["--config=/missing"], 2),
        (["--ip=127.0.0.1", f"--port={free_port()}"], 1),
    ],
    ids=lambda value: value[-1].split("=")[0] if isinstance(value, list) else str(value),
)
def test_main_returns_its_exit_code(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int
) -> None:
    returned = vestel.main(argv)
    captured = capsys.readouterr()
    assert type(returned) is int
    assert returned == code
    assert (bool(captured.out), bool(captured.err)) == (code == 0, code != 0)


def test_verbose_of_a_failing_run_ends_in_the_error(charger: SimulatedCharger, call: Run) -> None:
    charger.fault("reset")
    result = call("-v", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    *log, last = result.stderr.splitlines()
    assert last.startswith("ERROR: Cannot read ")
    assert log
    assert not [line for line in log if "ERROR" in line]
