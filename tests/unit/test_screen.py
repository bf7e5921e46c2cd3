"""What the live view of --watch draws, for terminals of many sizes."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Optional

import pytest
from clock import START
from readings import WHOLE, decode, faulted, snapshot
from registers import HUMAN, HUMAN_DETAILS, READING

import vestel

pytestmark = pytest.mark.usefixtures("nepal", "clock")

NAME = "192.168.1.100:502"
RED, GREEN, BOLD, END = "\x1b[1;31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"
PROBLEM = "no reading since 2026-11-20T08:10:30+00:00: Cannot connect to 192.168.1.100:502: refused"
LOST = vestel.Snapshot(problem=PROBLEM, warnings=(PROBLEM,), failed=1)
CONNECTING = vestel.Snapshot()
MANY_FAULTS = faulted(*(f"Overvoltage Phase {n}" for n in range(1, 29)))
CORE = vestel.Snapshot(reading={"timestamp": WHOLE["timestamp"], **READING}, problem="")
NEWEST = "14:00:29 Dynamic current: 16 A -> 12 A"
TITLES = ["States", "Electrical", "Session", "Current Limits", "Identity", "Details"]

Power = Optional[int]


def coloured(
    shown: vestel.Snapshot, width: int = 80, height: int = 24, levels: str = BLOCKS, line: str = ""
) -> list[str]:
    """Return what is drawn, with its colours. It fits the terminal."""
    lines = vestel.format_screen(NAME, shown, width, height, levels, line)
    assert len(lines) <= height
    assert max(len(re.sub("\x1b.*?m", "", line)) for line in lines) <= width
    return lines


def draw(
    shown: vestel.Snapshot, width: int = 80, height: int = 24, levels: str = BLOCKS, line: str = ""
) -> list[str]:
    """Return what is drawn, without colours and trailing blanks."""
    lines = coloured(shown, width, height, levels, line)
    return [re.sub("\x1b.*?m", "", line).rstrip() for line in lines]


def hour(*powers: Power, every: float = 5.0) -> tuple[tuple[float, Power], ...]:
    """Return these powers, the last one of a second ago."""
    first = START - 1 - every * (len(powers) - 1)
    return tuple((first + every * n, power) for n, power in enumerate(powers))


def column(*titles: str) -> list[str]:
    """Return these sections as typed in registers.py, each label as wide as the longest."""
    lines = []
    for title in titles:
        section = (HUMAN + HUMAN_DETAILS).split(f"== {title} ==\n")[1].split("\n\n")[0]
        rows = [line.split(":", 1) for line in section.splitlines()]
        width = 2 + max(len(label) for label, _ in rows)
        lines += [f"== {title} =="]
        lines += [f"{label + ':':{width}}{held.strip()}" for label, held in rows]
    return lines


def test_the_whole_reading_fits_80_columns_and_24_rows() -> None:
    first, *body, title, plot, newest = draw(snapshot()._replace(powers=hour(70501)), line=NEWEST)
    assert first == "14:00:30  70.50 kW  Charging  Ctrl-C ends  192.168.1.100:502"
    left, right = column(*TITLES[:3]), column(*TITLES[3:])
    rows = zip_longest(left, right, fillvalue="")
    assert body == [f"{one:48}{other}"[:80].rstrip() for one, other in rows]
    assert body[:5:4] == [
        "== States ==                                    == Current Limits ==",
        "Cable State:       CableConnected_VehicleLocked Session Maximum:  28 A",
    ]
    assert title == "Power, last 60 min, up to 70.50 kW"
    assert (plot, newest) == (" " * 79 + "█", NEWEST)


@pytest.mark.parametrize("width", [200, 80, 79, 30])
def test_two_columns_begin_at_80_characters(width: int) -> None:
    drawn = [line for line in draw(snapshot(), width, 60) if line.startswith("==")]
    if width >= 80:
        assert re.findall("== (.*?) ==", drawn[0]) == ["States", "Current Limits"]
    else:
        assert drawn == [f"== {title} ==" for title in TITLES]


def test_a_reading_without_details_has_no_such_section() -> None:
    assert re.findall("== (.*?) ==", "\n".join(draw(CORE, 79, 60))) == TITLES[:5]


@pytest.mark.parametrize("height", [1, 3, 24, 60])
@pytest.mark.parametrize("width", [40, 80])
def test_state_and_power_come_first(width: int, height: int) -> None:
    first = draw(snapshot()._replace(powers=hour(70501)), width, height)[0]
    assert first.startswith("14:00:30  70.50 kW  Charging  Ctrl-C end")


def test_the_first_line_names_two_faults_and_counts_the_rest() -> None:
    first = draw(faulted("PP Error", "CP Diode Error", "RFID Error", "RCD Device Error"), 120)[0]
    assert "70.50 kW  Faulted (PP Error, CP Diode Error, and 2 more)  Ctrl-C ends" in first


def test_without_values_the_first_line_says_so() -> None:
    nothing = vestel.Snapshot(reading=decode({})[0], problem="")
    assert draw(nothing)[0].startswith("14:00:30  n/a  n/a  Ctrl-C ends")


@pytest.mark.parametrize("width", [1, 10, 40])
def test_lines_are_cut_where_the_terminal_ends(width: int) -> None:
    whole = draw(MANY_FAULTS, 79, 60)
    assert draw(MANY_FAULTS, width, 60) == [line[:width].rstrip() for line in whole]


def test_what_is_above_the_foot_is_cut_at_the_bottom() -> None:
    full = snapshot()._replace(powers=hour(70501), warnings=("the heartbeat is refused",))
    drawn = draw(full, 80, 10, line=NEWEST)
    assert drawn[:6] == draw(full)[:6]
    assert drawn[6:] == [
        "Power, last 60 min, up to 70.50 kW",
        " " * 79 + "█",
        "the heartbeat is refused",
        NEWEST,
    ]


# --- The plot -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("powers", "plot", "up_to"),
    [
        ([0, 1000, 2000, 4000, 8000], "▁▁▂▄█", "8.00"),
        ([8000, None, None, 8000], "█  █", "8.00"),
        ([None, 0, 100_000], " ▁█", "100.00"),
        ([0, 0], "▁▁", "0.00"),
        ([4, 6, 130], "▁▁▂", "0.13"),
        ([0, 500, 999], "▁▄█", "1.00"),
    ],
    ids=["steps", "a loss", "the largest", "zeros", "idle is not high", "a kilowatt is the top"],
)
def test_the_plot_has_the_newest_power_at_the_right(
    powers: list[Power], plot: str, up_to: str
) -> None:
    drawn = draw(snapshot()._replace(powers=hour(*powers, every=45)))  # 80 columns of 45 s
    assert drawn[-3:] == [f"Power, last 60 min, up to {up_to} kW", plot.rjust(80).rstrip(), ""]


@pytest.mark.parametrize(("width", "third"), [(60, 20), (400, 133)])
def test_the_plot_is_an_hour_wide_with_a_gap_for_a_loss(width: int, third: int) -> None:
    powers = hour(*[6900] * 120, *[None] * 120, *[6900] * 120, every=10)
    drawn = draw(snapshot()._replace(powers=powers), width)  # 400: what held between two readings
    assert drawn[-2].strip() == "█" * third + " " * third + "█" * third


def test_the_plot_is_plain_where_there_are_no_blocks() -> None:
    shown = snapshot()._replace(powers=hour(0, 1000, 2000, 4000, 8000, every=45))
    drawn = draw(shown, levels=ASCII)
    assert drawn[-2] == "__.-#".rjust(80)
    assert "".join(drawn).isascii()


def test_there_is_no_plot_before_the_first_power() -> None:
    assert "Power, last" not in "\n".join(draw(snapshot()._replace(powers=hour(None, None))))


# --- The foot -----------------------------------------------------------------------------------


def test_before_the_first_reading_there_is_the_problem_alone() -> None:
    first, *rest = coloured(CONNECTING)
    assert first == f"{BOLD}Ctrl-C ends  {NAME}{END}"
    assert rest == ["there is no reading yet", ""]


def test_a_lost_charger_has_its_problem_once_and_the_plot() -> None:
    lost = LOST._replace(powers=hour(6900, None, every=60))
    assert draw(lost, 60) == [
        "Ctrl-C ends  192.168.1.100:502",
        "Power, last 60 min, up to 6.90 kW",
        "█".rjust(59),
        "no reading since 2026-11-20T08:10:30+00:00: Cannot connect",
        "to 192.168.1.100:502: refused",
        "",
    ]


def test_warnings_that_last_stand_red_above_the_newest_line() -> None:
    shown = snapshot()._replace(powers=hour(70501), warnings=("one " * 25 + "end", "two"))
    drawn = coloured(shown, line=NEWEST)
    assert drawn[-4:] == [
        f"{RED}{('one ' * 20).rstrip()}{END}",
        f"{RED}{'one ' * 5}end{END}",
        f"{RED}two{END}",
        NEWEST,
    ]


def test_the_newest_line_is_cut_to_one_line() -> None:
    line = "14:00:29 " + "the charger does what it wants " * 9
    assert draw(snapshot(), 60, line=line)[-1] == line[:60].rstrip()


# --- Colours ------------------------------------------------------------------------------------


def styled(colour: str, lines: list[str]) -> list[str]:
    """Return all that has this colour, without what stands in front of a value."""
    found = re.findall(f"{re.escape(colour)}(.*?){re.escape(END)}", "\n".join(lines))
    return [text.split(": ")[-1].strip() for text in found]


def test_headings_are_bold_and_charging_is_green() -> None:
    lines = coloured(snapshot())
    assert lines[0] == f"{BOLD}14:00:30  70.50 kW  Charging  Ctrl-C ends  {NAME}{END}"
    assert sorted(styled(BOLD, lines[1:])) == sorted(f"== {title} ==" for title in TITLES)
    assert styled(GREEN, lines) == ["Charging", "Charging"]
    assert styled(RED, lines) == []


def test_faulted_states_and_faults_are_red() -> None:
    reading, _ = decode({**LOCKED, ("input", 1000): 8, ("input", 1002): 2, ("input", 1007): 17})
    lines = coloured(vestel.Snapshot(reading=reading, problem=""), 79, 60)
    faults = "17 (Contactors Welded Error, PP Error)"
    assert styled(RED, lines) == ["Faulted", "Fault", faults]
    assert styled(GREEN, lines) == []


LOCKED = {("input", 1001): 0, ("input", 1004): 3, ("input", 1006): 0}


@pytest.mark.parametrize(
    "shown",
    [snapshot(), MANY_FAULTS, LOST, CONNECTING],
    ids=["usual", "28 faults", "lost", "connecting"],
)
def test_no_size_is_too_small_or_too_large(shown: vestel.Snapshot) -> None:
    shown = shown._replace(powers=hour(0, None, 6900))
    for width in (1, 2, 5, 13, 30, 79, 80, 81, 200):
        for height in (1, 2, 3, 5, 10, 24, 100):
            coloured(shown, width, height, line=NEWEST)
