"""Where stdout goes decides about the shape of a reading, and nothing else does."""

from __future__ import annotations

import json
import os
import re
import threading
import tty
from pathlib import Path

import pytest
from charger import SimulatedCharger
from program import Result, Run, read_screen
from readings import FORMATS, WHOLE, flat, reading_of
from registers import HUMAN, HUMAN_DETAILS, INPUT, READING

GREEN, RED, PLAIN = "\x1b[32m", "\x1b[1;31m", "\x1b[0m"


@pytest.fixture
def show(call: Run, memory: SimulatedCharger, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run vestel.py with a terminal as stdout, one that passes every byte on as it is."""

    def show(*options: str, **variables: str) -> Result[str]:
        screen, line = os.openpty()
        tty.setraw(line)
        shown: list[bytes] = []

        def read() -> None:
            shown.extend(iter(lambda: read_screen(screen), b""))

        reader = threading.Thread(target=read)
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
def pipe(call: Run, memory: SimulatedCharger) -> Run:
    """Run vestel.py with no terminal as stdout."""
    return lambda *options: call("--ip=charger", *options)


# --- JSON ---------------------------------------------------------------------------------------


def test_json_is_one_line_in_a_pipe_and_in_a_file(pipe: Run, call: Run, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        assert call("--ip=charger", "--format=json", stdout=log).returncode == 0
    logged = (tmp_path / "log").read_text(encoding="utf-8")
    for printed in (pipe("--format=json").stdout, logged):
        assert printed == json.dumps(json.loads(printed)) + "\n"
        assert flat(reading_of(printed)) == flat({"timestamp": WHOLE["timestamp"], **READING})


def test_json_is_indented_by_two_on_a_terminal(show: Run) -> None:
    result = show("--format=json", "--details")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == json.dumps(json.loads(result.stdout), indent=2) + "\n"
    assert reading_of(result.stdout) == WHOLE


@pytest.mark.parametrize("style", FORMATS)
def test_reading_ends_in_one_newline_wherever_it_goes(
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

CHARGING, FAULTED, AVAILABLE = (2, 1, 1), (8, 0, 2), (0, 0, 1)
COLOURED = {
    "charging": (
        CHARGING,
        {("Chargepoint State", f"{GREEN}Charging"), ("Charging State", f"{GREEN}Charging")},
    ),
    "faulted": (
        FAULTED,
        {
            ("Chargepoint State", f"{RED}Faulted"),
            ("Equipment State", f"{RED}Fault"),
            ("Fault Code", f"{RED}16 (PP Error)"),
        },
    ),
    "available": (AVAILABLE, set()),
}


def put(memory: SimulatedCharger, states: tuple[int, ...]) -> None:
    """Give the charger these states, and a fault that goes with them."""
    memory.set(1000, *states, bank=INPUT)
    memory.set(1006, 0, 16 if states == FAULTED else 0, bank=INPUT)


@pytest.mark.parametrize(("states", "coloured"), COLOURED.values(), ids=[*COLOURED])
def test_state_that_matters_has_a_colour_on_a_terminal(
    memory: SimulatedCharger,
    show: Run,
    pipe: Run,
    states: tuple[int, ...],
    coloured: set[tuple[str, str]],
) -> None:
    put(memory, states)
    shown, piped = show().stdout, pipe().stdout
    assert {*re.findall(r"(.+?): +(\x1b.*?)\x1b\[0m\n", shown)} == coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == piped
    assert "\x1b" not in piped


@pytest.mark.parametrize("states", [CHARGING, FAULTED], ids=["charging", "faulted"])
@pytest.mark.parametrize(
    ("name", "value"), [("NO_COLOR", "1"), ("NO_COLOR", "0"), ("TERM", "dumb")]
)
def test_who_wants_no_colour_gets_the_bytes_of_a_pipe(
    memory: SimulatedCharger, show: Run, pipe: Run, name: str, value: str, states: tuple[int, ...]
) -> None:
    put(memory, states)
    shown, piped = show(**{name: value}), pipe()
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, piped.stdout, "")


def test_empty_no_color_is_not_set(show: Run) -> None:
    assert GREEN in show(NO_COLOR="").stdout


@pytest.mark.parametrize("style", ["json", "prometheus"])
def test_what_programs_read_has_no_colour(
    memory: SimulatedCharger, show: Run, pipe: Run, style: str
) -> None:
    put(memory, FAULTED)
    shown = show(f"--format={style}").stdout
    assert "\x1b" not in shown
    assert style == "json" or shown == pipe(f"--format={style}").stdout


# --- A process, too -----------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["", "NO_COLOR"])
def test_process_knows_its_terminal(
    charger: SimulatedCharger, run_on_terminal: Run, variables: dict[str, str]
) -> None:
    result = run_on_terminal("--details", charger=charger, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.sub(r"\x1b\[[0-9;]*m", "", result.stdout) == HUMAN + HUMAN_DETAILS
    assert result.stdout.count(f"{GREEN}Charging{PLAIN}") == (0 if variables else 2)
