"""The exit code, and what stands on stderr with it."""

from __future__ import annotations

import contextlib
import io
import re
import signal
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import Run, Start, connecting_to, eventually
from readings import FORMATS
from registers import INPUT, RANGES
from simulated_charger import SimulatedCharger, dead_host, exception, free_port

import vestel

FILES = {
    "box.ini": "[vestel]\nip = 127.0.0.1\nport = {port}\n",
    "odd.ini": "[vestel]\nip = 127.0.0.1\nport = {port}\ncolour = red\n",
    "empty.ini": "[vestel]\n",
    "bad.ini": "[vestel]\nport = 0\n",
    "odd and bad.ini": "[vestel]\ncolour = red\nunit = 256\n",
}


def well(charger: SimulatedCharger) -> None:
    """All is well with the charger."""


RUNS: dict[str, tuple[Callable[[SimulatedCharger], Any], list[str], int, list[str]]] = {
    # what the charger does, options, exit code, how each line on stderr begins
    "all is well": (well, [], 0, []),
    "a range is refused": (
        lambda charger: charger.fault(exception(4), address=1502),
        [],
        0,
        ["WARNING: Cannot read input registers 1502-1513: "],
    ),
    "a value is impossible": (
        lambda charger: charger.set(INPUT, 1014, 5000),
        [],
        0,
        ["WARNING: voltage L1 "],
    ),
    "an unknown key": (well, ["--config=odd.ini"], 0, ["WARNING: odd.ini: colour: "]),
    "both currents are set": (
        well,
        ["--set-current=12"],
        0,
        ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"],
    ),
    "nobody listens": (
        lambda charger: charger.stop(),
        [],
        1,
        ["ERROR: Cannot connect to 127.0.0.1:{port}: "],
    ),
    "the charger is silent": (
        lambda charger: charger.fault("silence"),
        ["--timeout=0.05"],
        1,
        ["ERROR: Cannot read 127.0.0.1:{port}: "],
    ),
    "every connection is reset": (
        lambda charger: charger.fault("reset"),
        ["--details"],
        1,
        ["ERROR: Cannot read 127.0.0.1:{port}: "],
    ),
    "it is no charger": (
        lambda charger: charger.fault("web server"),
        ["--format=prometheus"],
        1,
        ["ERROR: Cannot read 127.0.0.1:{port}: "],
    ),
    "the charger fails after the currents are set": (
        lambda charger: charger.fault(charger.vanish(), address=100),
        ["--set-dynamic-current=12"],
        1,
        ["Dynamic current: 16 A -> 12 A", "ERROR: Cannot connect to 127.0.0.1:{port}: "],
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
        ["ERROR: failed writing current: dynamic current 33 A "],
    ),
    "a write is refused": (
        lambda charger: charger.fault(exception(3), function=6, executed=False),
        ["--set-dynamic-current=12"],
        3,
        ["ERROR: failed writing current: "],
    ),
    "the second write is refused": (
        lambda charger: charger.fault(exception(3), 2000, function=6, executed=False),
        ["--set-current=12"],
        3,
        ["Dynamic current: 16 A -> 12 A", "ERROR: failed writing current: "],
    ),
    "nobody listens to a write": (
        lambda charger: charger.stop(),
        ["--set-current=12"],
        3,
        ["ERROR: failed writing current: Cannot connect to 127.0.0.1:{port}: "],
    ),
}


@pytest.fixture
def desk(charger: SimulatedCharger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the program is called, with these files."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content.format(port=charger.port), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_told(result: Any, status: int, beginnings: list[str], port: int) -> None:
    assert result.returncode == status
    assert bool(result.stdout) == (status == 0)
    lines = result.stderr.splitlines(keepends=True)
    assert len(lines) == len(beginnings), result.stderr
    for line, beginning in zip(lines, beginnings):
        assert line.startswith(beginning.format(port=port))
        assert line.endswith("\n")


@pytest.mark.parametrize(("happens", "options", "status", "beginnings"), RUNS.values(), ids=RUNS.keys())
def test_the_exit_code_and_every_line_on_stderr_say_what_happened(
    charger: SimulatedCharger,
    call: Run,
    desk: Path,
    happens: Callable[[SimulatedCharger], Any],
    options: list[str],
    status: int,
    beginnings: list[str],
) -> None:
    happens(charger)
    assert_told(call("--config=box.ini", *options), status, beginnings, charger.port)


@pytest.mark.parametrize("name", ["an unknown key", "nobody listens", "no such file", "out of range"])
def test_a_process_ends_in_the_same_way(charger: SimulatedCharger, run: Run, desk: Path, name: str) -> None:
    happens, options, status, beginnings = RUNS[name]
    happens(charger)
    assert_told(run("--config=box.ini", *options, cwd=desk), status, beginnings, charger.port)


@pytest.mark.parametrize(
    ("argv", "status"),
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
def test_main_returns_its_exit_code(capsys: pytest.CaptureFixture[str], argv: list[str], status: int) -> None:
    returned = vestel.main(argv)
    captured = capsys.readouterr()
    assert type(returned) is int
    assert returned == status
    assert (bool(captured.out), bool(captured.err)) == (status == 0, status != 0)


def test_main_writes_to_a_stdout_that_is_no_file() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert vestel.main(["--demo"]) == 0
    assert stdout.getvalue().startswith("== Identity ==\n")


@pytest.mark.parametrize("variables", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("option", ["--nope", "--port=0", "--format=xml", "--watch=0"])
def test_a_usage_error_is_told_in_full_without_a_terminal(
    run: Run, environment: dict[str, str], variables: dict[str, str], tmp_path: Path, option: str
) -> None:
    with (tmp_path / "stderr").open("w", encoding="utf-8") as stderr:
        result = run("--demo", option, stderr=stderr, env={**environment, **variables})
    assert (result.returncode, result.stdout) == (2, "")
    told = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert re.fullmatch(r"usage: vestel\.py (.+\n)+vestel\.py: error: .+\n", told)


# --- Signals ------------------------------------------------------------------------------------

SIGNALS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)


@SIGNALS
@pytest.mark.parametrize(
    ("options", "address"),
    [([], 100), (["--details", "-v"], 100), ([], 5004), (["--details"], 405)],
    ids=["at the first range", "-v", "at the last range", "in the details"],
)
def test_a_signal_ends_the_wait_for_a_reply(
    charger: SimulatedCharger, start: Start, options: list[str], address: int, number: int, status: int
) -> None:
    charger.fault("silence", address=address)
    running = start(*options, "--timeout=300", charger=charger)
    eventually(lambda: address in [request.address for request in charger.requests])
    assert (running.end(number), running.out) == (status, [])
    assert "Traceback" not in "".join(running.err)
    assert "-v" in options or running.err == []


@SIGNALS
def test_a_signal_ends_the_wait_for_a_connection(start: Start, number: int, status: int) -> None:
    with dead_host() as port:
        before = connecting_to(port)
        running = start("--ip=127.0.0.1", f"--port={port}", "--timeout=300")
        eventually(lambda: connecting_to(port) > before)
        assert (running.end(number), running.out, running.err) == (status, [], [])


# --- What -v adds -------------------------------------------------------------------------------


@pytest.mark.parametrize("style", FORMATS)
def test_what_v_adds_is_on_stderr(charger: SimulatedCharger, call: Run, clock: object, style: str) -> None:
    options = ["--details", f"--format={style}"]
    quiet, verbose = call(*options, charger=charger), call(*options, "-v", charger=charger)
    assert (quiet.returncode, quiet.stderr, verbose.returncode) == (0, "", 0)
    assert verbose.stdout == quiet.stdout
    assert len(verbose.stderr.splitlines()) == 1 + 2 * len(RANGES)  # the connection, requests and replies


def test_v_of_a_failing_run_leaves_stdout_empty_and_ends_in_the_error(
    charger: SimulatedCharger, call: Run
) -> None:
    charger.fault("reset")
    result = call("-v", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    *log, last = result.stderr.splitlines()
    assert last.startswith("ERROR: Cannot read ")
    assert log
    assert not [line for line in log if line.startswith("ERROR: ")]
