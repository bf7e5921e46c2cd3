"""What the live view of --watch draws, for terminals of many sizes."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any, Optional

import pytest
from clock import START
from readings import WHOLE, decode, faulted, holding, snapshot
from registers import HUMAN, HUMAN_DETAILS

import vestel

pytestmark = pytest.mark.usefixtures("nepal", "clock")

NAME = "192.168.1.100:502"
RED, GREEN, BOLD, END = "\x1b[1;31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"
PROBLEM = "no reading since 2026-11-20T08:10:30+00:00: Cannot connect to 192.168.1.100:502: refused"
LOST = vestel.Snapshot(problem=PROBLEM, warnings=(PROBLEM,), failed=1)
USUAL, CONNECTING = snapshot(), vestel.Snapshot()
MANY_FAULTS = faulted(*(f"Overvoltage Phase {n}" for n in range(1, 29)))
NEWEST = "14:00:29 Dynamic current: 16 A -> 12 A"
TITLES = ["States", "Electrical", "Session", "Current Limits", "Identity", "Details"]
Power = Optional[int]


def coloured(
    shown: vestel.Snapshot, width: int = 80, height: int = 24, levels: str = BLOCKS, line: str = ""
) -> list[str]:
    """Return what is drawn, with its colours. It fits the terminal."""
    lines = vestel.format_screen(NAME, shown, width, height, levels, line)
    assert len(lines) <= height
    assert max(map(len, plain(lines))) <= width
    return lines


def plain(lines: list[str]) -> list[str]:
    return [re.sub("\x1b.*?m", "", line) for line in lines]


def draw(shown: vestel.Snapshot, width: int = 80, height: int = 24, **more: Any) -> list[str]:
    return [line.rstrip() for line in plain(coloured(shown, width, height, **more))]


def hour(
    *powers: Power, every: float = 5.0, of: vestel.Snapshot = USUAL, **more: Any
) -> vestel.Snapshot:
    first = START - 1 - every * (len(powers) - 1)
    points = tuple((first + every * n, power) for n, power in enumerate(powers))
    return of._replace(powers=points, **more)


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
    first, *body, title, plot, newest = draw(hour(70501), line=NEWEST)
    assert first == "14:00:30  70.50 kW  Charging  Ctrl-C ends  192.168.1.100:502"
    rows = zip_longest(column(*TITLES[:3]), column(*TITLES[3:]), fillvalue="")
    assert body == [f"{left:48}{right}"[:80].rstrip() for left, right in rows]
    assert body[4] == "Cable State:       CableConnected_VehicleLocked Session Maximum:  28 A"
    assert title == "Power, last 60 min, up to 70.50 kW"
    assert (plot, newest) == (" " * 79 + "█", NEWEST)


@pytest.mark.parametrize("width", [200, 80, 79, 30])
def test_two_columns_begin_at_80_characters(width: int) -> None:
    drawn = [line for line in draw(USUAL, width, 60) if line.startswith("==")]
    if width >= 80:
        assert re.findall("== (.*?) ==", drawn[0]) == ["States", "Current Limits"]
    else:
        assert drawn == [f"== {title} ==" for title in TITLES]


def test_a_reading_without_details_has_no_such_section() -> None:
    core = {key: held for key, held in WHOLE.items() if key != "details"}
    drawn = "\n".join(draw(vestel.Snapshot(reading=core, problem=""), 79, 60))
    assert re.findall("== (.*?) ==", drawn) == TITLES[:5]


FOUR_FAULTS = faulted("PP Error", "CP Diode Error", "RFID Error", "RCD Device Error")
NOTHING = vestel.Snapshot(reading=decode({})[0], problem="")


@pytest.mark.parametrize(
    ("shown", "size", "first"),
    [
        (USUAL, (40, 24), "70.50 kW  Charging  Ctrl-C end"),
        (USUAL, (80, 1), "70.50 kW  Charging  Ctrl-C ends  192.168.1.100:502"),
        (FOUR_FAULTS, (80, 3), "70.50 kW  Faulted (PP Error, CP Diode Error, and 2 more)  Ctrl-C"),
        (NOTHING, (200, 60), "n/a  n/a  Ctrl-C ends  192.168.1.100:502"),
    ],
    ids=["narrow", "one line", "faults", "nothing read"],
)
def test_state_and_power_come_first(
    shown: vestel.Snapshot, size: tuple[int, int], first: str
) -> None:
    assert draw(shown, *size)[0].startswith(f"14:00:30  {first}")


@pytest.mark.parametrize("width", [1, 10, 40])
def test_lines_are_cut_where_the_terminal_ends(width: int) -> None:
    whole = draw(MANY_FAULTS, 79, 60, line=NEWEST)
    drawn = draw(MANY_FAULTS, width, 60, line=NEWEST)
    *above, newest = whole
    assert drawn == [*(line[:width].rstrip() for line in above), newest[: width - 1].rstrip()]


def test_what_is_above_the_foot_is_cut_at_the_bottom() -> None:
    full = hour(70501, warnings=("the heartbeat is refused",))
    drawn = draw(full, 80, 10, line=NEWEST)
    assert drawn[:6] == draw(full)[:6]
    foot = [
        "Power, last 60 min, up to 70.50 kW",
        " " * 79 + "█",
        "the heartbeat is refused",
        NEWEST,
    ]
    assert drawn[6:] == foot


@pytest.mark.parametrize(
    "shown", [USUAL, MANY_FAULTS, LOST, CONNECTING], ids=["usual", "faults", "lost", "new"]
)
def test_no_size_is_too_small_or_too_large(shown: vestel.Snapshot) -> None:
    for width in (1, 2, 5, 13, 30, 79, 80, 81, 200):
        for height in (1, 2, 3, 5, 10, 24, 100):
            coloured(hour(0, None, 6900, of=shown), width, height, line=NEWEST)


# --- The plot -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("powers", "plot", "up_to"),
    [
        ([0, 1000, 2000, 4000, 8000], "▁▁▂▄█", "8.00"),
        ([8000, None, None, 8000], "█  █", "8.00"),
        ([None, 0, 100_000], " ▁█", "100.00"),
        ([4, 6, 130], "▁▁▂", "0.13"),
        ([0, 500, 999], "▁▄█", "1.00"),
    ],
    ids=["steps", "a loss", "the largest", "idle is not high", "a kilowatt is the top"],
)
def test_the_plot_has_the_newest_power_at_the_right(
    powers: list[Power], plot: str, up_to: str
) -> None:
    drawn = draw(hour(*powers, every=45))  # 80 columns of 45 s
    assert drawn[-3:] == [f"Power, last 60 min, up to {up_to} kW", plot.rjust(80), ""]


@pytest.mark.parametrize(("width", "third"), [(60, 20), (400, 133)])
def test_the_plot_is_an_hour_wide_with_a_gap_for_a_loss(width: int, third: int) -> None:
    shown = hour(*[6900] * 120, *[None] * 120, *[6900] * 120, every=10)
    drawn = draw(shown, width)  # 400: what held between two readings
    assert drawn[-2].strip() == "█" * third + " " * third + "█" * third


def test_the_plot_is_plain_where_there_are_no_blocks() -> None:
    drawn = draw(hour(0, 1000, 2000, 4000, 8000, every=45), levels=ASCII)
    assert drawn[-2] == "__.-#".rjust(80)
    assert "".join(drawn).isascii()


def test_there_is_no_plot_before_the_first_power() -> None:
    assert "Power, last" not in "\n".join(draw(hour(None, None)))


def test_before_the_first_reading_there_is_the_problem_alone() -> None:
    header = f"{BOLD}Ctrl-C ends  {NAME}{END}"
    assert coloured(CONNECTING) == [header, "there is no reading yet", ""]


def test_a_lost_charger_has_its_problem_once_and_the_plot() -> None:
    header, *foot = coloured(hour(6900, None, every=60, of=LOST), 60)
    assert header == f"{BOLD}Ctrl-C ends  {NAME}{END}"
    assert foot == [
        "Power, last 60 min, up to 6.90 kW",
        "█ ".rjust(60),
        f"{RED}no reading since 2026-11-20T08:10:30+00:00: Cannot connect{END}",
        f"{RED}to 192.168.1.100:502: refused{END}",
        "",
    ]


def test_warnings_that_last_stand_red_above_the_newest_line() -> None:
    drawn = coloured(hour(70501, warnings=("one " * 25 + "end", "two\x1b[2J")), line=NEWEST)
    texts = ("one " * 20).rstrip(), "one " * 5 + "end", r"two\x1b[2J"
    assert drawn[-4:] == [*(f"{RED}{text}{END}" for text in texts), NEWEST]


def styled(colour: str, lines: list[str]) -> list[str]:
    """Return all that has this colour, without what stands in front of a value."""
    found = re.findall(f"{re.escape(colour)}(.*?){re.escape(END)}", "\n".join(lines))
    return [text.split(": ")[-1].strip() for text in found]


def test_headings_are_bold_and_charging_is_green() -> None:
    header, *lines = coloured(USUAL)
    assert header == f"{BOLD}14:00:30  70.50 kW  Charging  Ctrl-C ends  {NAME}{END}"
    assert sorted(styled(BOLD, lines)) == sorted(f"== {title} ==" for title in TITLES)
    assert (styled(GREEN, lines), styled(RED, lines)) == (["Charging", "Charging"], [])


def test_faulted_states_and_faults_are_red() -> None:
    reading, _ = decode(holding({1000: 8, 1001: 0, 1002: 2, 1006: 17}))
    lines = coloured(vestel.Snapshot(reading=reading, problem=""), 79, 60)
    faults = "17 (Contactors Welded Error, PP Error)"
    assert (styled(RED, lines), styled(GREEN, lines)) == (["Faulted", "Fault", faults], [])
