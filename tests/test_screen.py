"""What the live view of --watch draws, for terminals of many sizes."""

from __future__ import annotations

import copy
import re
import time
from typing import Any, Iterator

import pytest
from readings import WHOLE

import vestel

NAME = "192.168.1.100:502"
NOW = 50_000.0
RED, GREEN, BOLD = "\x1b[1;31m", "\x1b[32m", "\x1b[1m"
PROBLEM = "no reading since 2026-11-20T08:10:30+00:00: Cannot connect to 192.168.1.100:502: no answer"
LOST = vestel.Snapshot(problem=PROBLEM, failed=1)
CONNECTING = vestel.Snapshot()


@pytest.fixture(autouse=True)
def _in_nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC+05:45: 08:15:30 UTC is 14:00:30."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()


def reading(faults: int = 0, details: bool = True, **states: str) -> vestel.Snapshot:
    """A snapshot with that many faults, and with other names of states."""
    made: dict[str, Any] = copy.deepcopy(WHOLE)
    names = ["PP Error", "CP Diode Error", *(f"Overvoltage Phase {n}" for n in range(3, 29))][:faults]
    made["states"].update(fault_code=2**faults - 1, faults=names)
    for state, name in states.items():
        made["states"][state]["name"] = name
    if not details:
        del made["details"]
    return vestel.Snapshot(reading=made, problem="", made_at=NOW - 2, readings=1)


def draw(
    snapshot: vestel.Snapshot,
    columns: int = 80,
    rows: int = 24,
    colour: bool = False,
    blocks: bool = True,
    notes: tuple[str, ...] = (),
) -> list[str]:
    lines = vestel.format_screen(NAME, snapshot, NOW, columns, rows, colour, blocks, [*notes])
    lines = [line.rstrip() for line in lines]
    assert len(lines) <= rows
    assert max(len(re.sub("\x1b.*?m", "", line)) for line in lines) <= columns
    return lines


def an_hour(snapshot: vestel.Snapshot, *powers: int | None, every: float = 5.0) -> vestel.Snapshot:
    """The snapshot with these powers, the last one of a second ago."""
    at = [NOW - 1 - every * (len(powers) - 1 - n) for n in range(len(powers))]
    return snapshot._replace(powers=tuple(zip(at, powers)))


def test_the_whole_reading_fits_80_columns_and_24_rows() -> None:
    assert draw(an_hour(reading(), 70501)) == [
        "14:00:30  70.50 kW  Charging  Ctrl-C ends  192.168.1.100:502",
        "== States ==                                    == Current Limits ==",
        "Chargepoint State: Charging                     EVSE Minimum:     6 A",
        "Charging State:    Charging                     EVSE Maximum:     32 A",
        "Equipment State:   Running                      Cable Maximum:    20 A",
        "Cable State:       CableConnected_VehicleLocked Session Maximum:  28 A",
        "Fault Code:        0                            Dynamic Current:  16 A",
        "== Electrical ==                                Failsafe Current: 10 A",
        "Current L1 L2 L3: 15.234 A  15.181 A  15.257 A  Failsafe Timeout: 21 s",
        "Voltage L1 L2 L3: 231 V     230 V     229 V     == Identity ==",
        "Power L1 L2 L3:   66518 W   3491 W    3492 W    Serial:    VEST1234567890",
        "Total Power:      70501 W (70.50 kW)            Max Power: 22000 W (22.00 kW)",
        "Meter Reading:    121682.1 kWh                  Phases:    3-phase",
        "Active Phases:    3                             == Details ==",
        "== Session ==                                   Chargepoint ID: CP-GARAGE-01",
        "Energy:   1940301 Wh (1940.301 kWh)             Brand:          Vestel",
        "Duration: 95025 s (1 day, 2:23:45)              Model:          EVC04",
        "Started:  07:42:10                              Firmware:",
        "Ended:    n/a                                     v3.187.0-1.8.156.0",
        "                                                Clock:",
        "                                                  2026-11-20T09:15:30",
        "                                                Phase Switch:   3-phase",
        "Power, last 60 min, up to 70.50 kW",
        " " * 79 + "█",
    ]


def test_a_narrow_terminal_has_one_section_below_the_other() -> None:
    lines = draw(reading(details=False), columns=79, rows=60)
    assert [line for line in lines if line.startswith("==")] == [
        *("== States ==", "== Electrical ==", "== Session ==", "== Current Limits ==", "== Identity =="),
    ]
    assert "Cable State:       CableConnected_VehicleLocked" in lines


def test_what_finds_no_room_on_its_line_stands_below_its_label() -> None:
    lines = draw(reading(), columns=40, rows=60)
    assert lines[lines.index("Current L1 L2 L3:") + 1] == "  15.234 A  15.181 A  15.257 A"
    assert lines[lines.index("Cable State:") + 1] == "  CableConnected_VehicleLocked"


@pytest.mark.parametrize(
    ("columns", "rows", "left_out"),
    [
        (80, 24, ""),
        (80, 21, "Details"),
        (80, 20, "Session, Details"),
        (60, 30, "Identity, Details"),
        (60, 24, "Current Limits, Identity, Details"),
        (60, 20, "Session, Current Limits, Identity, Details"),
        (40, 8, "States, Electrical, Session, Current Limits, Identity, Details"),
    ],
)
def test_what_matters_least_is_left_out_and_named(columns: int, rows: int, left_out: str) -> None:
    lines = draw(an_hour(reading(), 70501), columns, rows)
    halves = [[line[:48] for line in lines], [line[48:] for line in lines]] if columns >= 80 else [lines]
    text = " ".join(line.strip() for half in halves for line in half)
    said = re.findall("not shown: (.*?): the terminal is too small", text)
    assert ", ".join(said) == left_out
    for section in ("States", "Electrical", "Session", "Identity", "Current Limits", "Details"):
        assert (f"== {section} ==" in text) is (section not in left_out.split(", "))


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (80, 3), (80, 1), (40, 24)])
def test_power_and_state_come_first_in_every_terminal(columns: int, rows: int) -> None:
    assert draw(reading(), columns, rows)[0].startswith("14:00:30  70.50 kW  Charging  Ctrl-C end")
    assert "Faulted (PP Error, and 1 more)" in draw(reading(2, chargepoint="Faulted"), 80, rows)[0]


def test_a_terminal_too_narrow_for_all_else_still_tells_power_and_state() -> None:
    assert draw(reading(), 34, 24) == [
        "14:00:30  70.50 kW  Charging",
        "  Ctrl-C ends  192.168.1.100:502",
        "  (a wider terminal shows more)",
    ]
    assert "no reading since 2026-11-20 13:55:30" in " ".join(" ".join(draw(LOST, 34, 24)).split())


def test_28_faults_leave_room_for_power_and_session() -> None:
    text = "\n".join(draw(an_hour(reading(faults=28), 70501)))
    assert "  268435455 (PP Error, CP Diode Error" in text
    assert re.search(r"and \d+ more\)", text)
    assert "Total Power:      70501 W (70.50 kW)" in text
    assert "Duration: 95025 s (1 day, 2:23:45)" in text
    assert "Phase Switch:   3-phase" in text
    assert "not shown" not in text


def test_faults_are_cut_to_the_room_there_is() -> None:
    shown = [draw(an_hour(reading(faults=28), 70501), rows=rows)[1:] for rows in (23, 24, 26, 30)]
    cut = [re.findall(r"and (\d+) more", "\n".join(lines)) for lines in shown]
    assert cut == [["25"], ["23"], ["19"], ["11"]]


def test_all_faults_are_shown_where_there_is_room() -> None:
    lines = draw(reading(faults=28), rows=50)
    assert "more" not in "\n".join(lines[1:])
    assert sum("Overvoltage" in line for line in lines) > 10


def test_a_fault_is_red_on_each_line_that_it_takes() -> None:
    lines = draw(reading(faults=9, chargepoint="Faulted", equipment="Fault"), colour=True)
    first = next(n for n, line in enumerate(lines) if line.startswith("Fault Code:"))
    end = next(n for n, line in enumerate(lines) if "Electrical" in line)
    assert end - first > 3
    assert all(RED in line[:20] for line in lines[first + 1 : end])
    red = re.findall(re.escape(RED) + r" *(\w+)\x1b\[0m", "\n".join(lines))
    assert red == ["Faulted", "Fault"]


def test_headings_and_total_power_are_bold_and_charging_is_green() -> None:
    lines = draw(reading(), colour=True)
    text = "\n".join(lines)
    assert lines[0] == f"{BOLD}14:00:30  70.50 kW  Charging  Ctrl-C ends  {NAME}\x1b[0m"
    assert f"{BOLD}== Electrical ==\x1b[0m" in text
    assert len(re.findall(re.escape(GREEN) + r" *Charging\x1b\[0m", text)) == 2
    assert RED not in text


def test_without_colour_nothing_steers_the_terminal() -> None:
    for snapshot in (reading(faults=28), LOST, CONNECTING):
        assert "\x1b" not in "".join(draw(snapshot))


@pytest.mark.parametrize(
    ("powers", "plot"),
    [
        ([0, 1000, 2000, 4000, 8000], "▁▁▂▄█"),
        ([8000, None, None, 8000], "█  █"),
        ([0, 0], "▁▁"),
        ([None, 0, 100_000], " ▁█"),
    ],
)
def test_the_plot_has_the_newest_power_at_the_right_and_gaps(powers: list[int | None], plot: str) -> None:
    drawn = draw(an_hour(reading(), *powers, every=45))[-1]  # 80 columns of 45 s
    assert drawn == plot.rjust(80)


def test_the_plot_is_an_hour_wide_and_shows_what_held_between_two_beats() -> None:
    beats = an_hour(reading(), *[6900] * 120, *[None] * 120, *[6900] * 120, every=10)
    assert draw(beats, columns=60)[-1] == "█" * 20 + " " * 20 + "█" * 20
    assert draw(beats, columns=400)[-1].strip() == "█" * 133 + " " * 133 + "█" * 133


def test_the_plot_is_plain_where_the_terminal_knows_no_blocks() -> None:
    lines = draw(an_hour(reading(), 0, 1000, 2000, 4000, 8000, every=45), blocks=False)
    assert lines[-1] == "__.-#".rjust(80)
    assert "".join(lines).isascii()


def test_there_is_no_plot_before_the_first_power() -> None:
    assert "Power, last" not in "\n".join(draw(an_hour(reading(), None, None)))
    assert draw(CONNECTING) == [f"Ctrl-C ends  {NAME}", "there is no reading yet"]


def test_a_lost_charger_is_told_once_in_red_and_local_time() -> None:
    notes = ("WARNING: over: the clock stands still", f"WARNING: {PROBLEM}; trying again")
    lines = draw(an_hour(LOST, 6900, None), colour=True, notes=notes)
    assert lines[1:3] == [
        f"{RED}no reading since 2026-11-20 13:55:30: Cannot connect to 192.168.1.100:502: no\x1b[0m",
        f"{RED}  answer\x1b[0m",
    ]
    assert lines[3] == "Power, last 60 min, up to 6.90 kW"
    assert lines[5:] == ["WARNING: over: the clock stands still"]


def test_the_newest_notes_are_the_last_lines() -> None:
    notes = ("WARNING: one", "WARNING: two", "WARNING: three")
    assert draw(reading(), rows=50, notes=notes)[-2:] == ["WARNING: two", "WARNING: three"]
    assert draw(reading(), rows=24, notes=notes)[-1] == "WARNING: three"


def test_a_long_note_is_wrapped_and_leaves_room_for_the_session() -> None:
    note = "WARNING: " + "the charger does what it wants " * 20
    lines = draw(an_hour(reading(), 70501), notes=(note,))
    assert lines[-2].startswith("WARNING: the charger does")
    assert lines[-1].startswith("  ")
    assert lines[-1].endswith(" ...")
    assert "== Session ==" in "\n".join(lines)


@pytest.mark.parametrize(
    "snapshot", [reading(), reading(28), LOST, CONNECTING], ids=["", "28", "lost", "new"]
)
def test_no_size_is_too_small_or_too_large(snapshot: vestel.Snapshot) -> None:
    notes = ("WARNING: one two three", "WARNING: four")
    for columns in (1, 2, 5, 13, 30, 79, 80, 200):
        for rows in (1, 2, 3, 5, 10, 24, 100):
            draw(an_hour(snapshot, 0, None, 6900), columns, rows, notes=notes)
