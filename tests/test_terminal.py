"""Where stdout goes decides about the shape of a reading, and nothing else does."""

from __future__ import annotations

import json
import os
import re
import threading
import tty
from pathlib import Path
from typing import Any

import pytest
from conftest import Memory, Result, Run, read_screen
from readings import FORMATS, WHOLE, flat, reading_of
from registers import DETAILS, HUMAN, HUMAN_DETAILS, INPUT, READING
from simulated_charger import SimulatedCharger

GREEN, RED, PLAIN = "\x1b[32m", "\x1b[1;31m", "\x1b[0m"


@pytest.fixture
def show(call: Run, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run vestel.py with a terminal as stdout, one that passes every byte on as it is."""

    def show(*options: str, **variables: str) -> Result[str]:
        screen, line = os.openpty()
        tty.setraw(line)
        shown: list[bytes] = []
        reader = threading.Thread(target=lambda: shown.extend(iter(lambda: read_screen(screen), b"")))
        with os.fdopen(screen, "rb", buffering=0), monkeypatch.context() as variable:
            for name, value in {"TERM": "xterm", **variables}.items():
                variable.setenv(name, value)
            reader.start()
            try:
                with os.fdopen(line, "w", encoding="utf-8") as stdout:
                    result = call("--ip=charger", *options, stdout=stdout)
            finally:
                reader.join()
        return Result(options, result.returncode, b"".join(shown).decode(), result.stderr)

    return show


@pytest.fixture
def pipe(call: Run, memory: Memory) -> Run:
    """Run vestel.py with no terminal as stdout."""
    return lambda *options: call("--ip=charger", *options)


# --- JSON ---------------------------------------------------------------------------------------


def test_json_is_one_line_in_a_pipe_and_in_a_file(pipe: Run, call: Run, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        assert call("--ip=charger", "--format=json", stdout=log).returncode == 0
    for printed in (pipe("--format=json").stdout, (tmp_path / "log").read_text(encoding="utf-8")):
        assert printed == json.dumps(json.loads(printed)) + "\n"
        assert flat(reading_of(printed)) == flat({"timestamp": WHOLE["timestamp"], **READING})


def test_json_is_indented_by_two_on_a_terminal(show: Run) -> None:
    result = show("--format=json", "--details")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == json.dumps(json.loads(result.stdout), indent=2) + "\n"
    assert flat(reading_of(result.stdout)) == flat(WHOLE)
    assert reading_of(result.stdout)["details"] == DETAILS


@pytest.mark.parametrize("style", FORMATS)
def test_a_reading_ends_in_one_newline_wherever_it_goes(
    show: Run, pipe: Run, call: Run, tmp_path: Path, style: str
) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        call("--ip=charger", f"--format={style}", stdout=log)
    printed = [
        pipe(f"--format={style}").stdout,
        show(f"--format={style}").stdout,
        (tmp_path / "log").read_bytes().decode(),
    ]
    for reading in printed:
        assert re.search(r"\S\n\Z", reading)
        assert "\r" not in reading


# --- Colour -------------------------------------------------------------------------------------


def leave_charging(memory: Memory) -> None:
    """As the simulated charger is."""


def break_down(memory: Memory) -> None:
    memory.set(INPUT, 1000, 8, 0, 2)
    memory.set(INPUT, 1006, 0, 16)


def end_charging(memory: Memory) -> None:
    memory.set(INPUT, 1000, 0, 0)


CHANGES = pytest.mark.parametrize("change", [leave_charging, break_down], ids=["charging", "faulted"])


@pytest.mark.parametrize(
    ("change", "coloured"),
    [
        (leave_charging, {("Chargepoint State", f"{GREEN}Charging"), ("Charging State", f"{GREEN}Charging")}),
        (
            break_down,
            {
                ("Chargepoint State", f"{RED}Faulted"),
                ("Equipment State", f"{RED}Fault"),
                ("Fault Code", f"{RED}16 (PP Error)"),
            },
        ),
        (end_charging, set()),
    ],
    ids=["charging", "faulted", "available"],
)
def test_a_state_that_matters_stands_out_on_a_terminal(
    memory: Memory, show: Run, pipe: Run, change: Any, coloured: set[tuple[str, str]]
) -> None:
    change(memory)
    shown, piped = show().stdout, pipe().stdout
    assert set(re.findall(r"(.+?): +(\x1b.*?)\x1b\[0m\n", shown)) == coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == piped
    assert "\x1b" not in piped


@CHANGES
@pytest.mark.parametrize(
    "variables",
    [{"NO_COLOR": "1"}, {"NO_COLOR": "0"}, {"NO_COLOR": "false"}, {"TERM": "dumb"}],
    ids=lambda variables: "=".join(*variables.items()),
)
def test_who_wants_no_colour_gets_the_bytes_of_a_pipe(
    memory: Memory, show: Run, pipe: Run, variables: dict[str, str], change: Any
) -> None:
    change(memory)
    shown, piped = show(**variables), pipe()
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, piped.stdout, "")


@CHANGES
@pytest.mark.parametrize("style", ["json", "prometheus"])
def test_what_programs_read_is_never_coloured(
    memory: Memory, show: Run, pipe: Run, style: str, change: Any
) -> None:
    change(memory)
    shown = show(f"--format={style}").stdout
    assert "\x1b" not in shown
    assert style == "json" or shown == pipe(f"--format={style}").stdout


# --- A process, too -----------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["", "NO_COLOR"])
def test_a_process_knows_its_terminal(
    charger: SimulatedCharger, run_on_terminal: Run, variables: dict[str, str]
) -> None:
    result = run_on_terminal("--details", charger=charger, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.sub(r"\x1b\[[0-9;]*m", "", result.stdout) == HUMAN + HUMAN_DETAILS
    assert result.stdout.count(f"{GREEN}Charging{PLAIN}") == (0 if variables else 2)
