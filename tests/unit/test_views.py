"""What the live view of --watch draws, in any terminal, and what the page of --listen says."""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import zip_longest
from typing import Any, Optional

import pytest
from clock import START_UTC
from readings import WHOLE, decode, faulted, holding, snapshot
from registers import HUMAN, HUMAN_DETAILS

import vestel

pytestmark = pytest.mark.usefixtures("nepal", "clock")

NAME = "192.168.1.100:502"
RED, GREEN, BOLD, END = "\x1b[1;31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
BLOCKS = "▁▂▃▄▅▆▇█"
PROBLEM = "no reading since 2026-11-20T08:10:30+00:00: Cannot connect to 192.168.1.100:502: <down>"
POWERS = tuple((START_UTC - age, 6900 if age > 600 else None) for age in range(1800, 0, -5))
USUAL, CONNECTING = snapshot(), vestel.Snapshot()
LOST = vestel.Snapshot(problem=PROBLEM, warnings=(PROBLEM,), failed=1, powers=POWERS)
CHARGING = USUAL._replace(powers=POWERS)
WARNED = CHARGING._replace(warnings=("the charger refuses the heartbeat: <why>", "--hold: no file"))
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
    first = START_UTC - 1 - every * (len(powers) - 1)
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


# fmt: off
HEADERS = {
    "narrow": (USUAL, (40, 24), "70.50 kW  Charging  Ctrl-C end"),
    "one line": (USUAL, (80, 1), "70.50 kW  Charging  Ctrl-C ends  192.168.1.100:502"),
    "faults": (FOUR_FAULTS, (80, 3),
               "70.50 kW  Faulted (PP Error, CP Diode Error, RFID Error, RCD Device E"),
    "nothing read": (NOTHING, (200, 60), "n/a  n/a  Ctrl-C ends  192.168.1.100:502"),
}
SHOWN = {"usual": USUAL, "faults": MANY_FAULTS, "lost": LOST, "new": CONNECTING}
# fmt: on


@pytest.mark.parametrize(("shown", "size", "first"), HEADERS.values(), ids=[*HEADERS])
def test_the_header_begins_with_state_and_power(
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
    plot = ["Power, last 60 min, up to 70.50 kW", " " * 79 + "█"]
    assert drawn[6:] == [*plot, "the heartbeat is refused", NEWEST]


@pytest.mark.parametrize("shown", SHOWN.values(), ids=[*SHOWN])
def test_no_size_is_too_small_or_too_large(shown: vestel.Snapshot) -> None:
    for width in (1, 2, 5, 13, 30, 79, 80, 81, 200):
        for height in (1, 2, 3, 5, 10, 24, 100):
            coloured(hour(0, None, 6900, of=shown), width, height, line=NEWEST)


# fmt: off
PLOTS: dict[str, tuple[list[Power], str, str, str]] = {  # W, levels, what is drawn, and up to
    "steps": ([0, 1000, 2000, 4000, 8000], BLOCKS, "▁▁▂▄█", "8.00"),
    "no blocks": ([0, 1000, 2000, 4000, 8000], "_.:-=+*#", "__.-#", "8.00"),
    "a loss": ([8000, None, None, 8000], BLOCKS, "█  █", "8.00"),
    "the largest": ([None, 0, 100_000], BLOCKS, " ▁█", "100.00"),
    "idle is not high": ([4, 6, 130], BLOCKS, "▁▁▂", "0.13"),
    "a kilowatt is the top": ([0, 500, 999], BLOCKS, "▁▄█", "1.00"),
}
# fmt: on


@pytest.mark.parametrize(("powers", "levels", "plot", "up_to"), PLOTS.values(), ids=[*PLOTS])
def test_the_plot_has_the_newest_power_at_the_right(
    powers: list[Power], levels: str, plot: str, up_to: str
) -> None:
    drawn = draw(hour(*powers, every=45), levels=levels)  # 80 columns of 45 s
    assert drawn[-3:] == [f"Power, last 60 min, up to {up_to} kW", plot.rjust(80), ""]
    assert "".join(drawn).isascii() == (levels != BLOCKS)


def test_before_the_first_reading_there_is_the_problem_alone() -> None:
    header = f"{BOLD}Ctrl-C ends  {NAME}{END}"
    assert coloured(hour(None, of=CONNECTING)) == [header, "there is no reading yet", ""]


def test_a_lost_charger_has_its_problem_once_and_the_plot() -> None:
    header, *foot = coloured(hour(6900, None, every=60, of=LOST), 60)
    assert header == f"{BOLD}Ctrl-C ends  {NAME}{END}"
    assert foot == [
        "Power, last 60 min, up to 6.90 kW",
        "█ ".rjust(60),
        f"{RED}no reading since 2026-11-20T08:10:30+00:00: Cannot connect{END}",
        f"{RED}to 192.168.1.100:502: <down>{END}",
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


FAULTED = {1000: 8, 1001: 0, 1002: 2, 1006: 17}
RED_ONES = ["Faulted", "Fault", "17 (Contactors Welded Error, PP Error)"]


@pytest.mark.parametrize(
    ("values", "green", "red"), [({}, ["Charging", "Charging"], []), (FAULTED, [], RED_ONES)]
)
def test_headings_are_bold_and_states_that_matter_coloured(
    values: dict[int, Any], green: list[str], red: list[str]
) -> None:
    reading, _ = decode(holding(values))
    header, *lines = coloured(vestel.Snapshot(reading=reading, problem=""), 79, 60)
    assert header.startswith(f"{BOLD}14:00:30  70.50 kW  ")
    assert styled(BOLD, lines) == [f"== {title} ==" for title in TITLES]
    assert (styled(GREEN, lines), styled(RED, lines)) == (green, red)


def page(shown: vestel.Snapshot) -> str:
    return vestel.format_page(NAME, shown)


def element(text: str, place: str) -> tuple[str, str]:
    pattern = rf'<(\w+) id="{place}"(?: class="(\w*)")?[^>]*>(.*?)</\1>'
    ((_, style, content),) = re.findall(pattern, text, re.DOTALL)
    return style, content


# fmt: off
FIRST: dict[str, tuple[vestel.Snapshot, tuple[str, str], str]] = {  # what, its state, its power
    "charging": (CHARGING, ("good", "Charging"), "70.50 kW"),
    "available": (snapshot(states__chargepoint={"code": 0, "name": "Available"}),
                  ("", "Available"), "70.50 kW"),
    "faulted": (faulted("PP Error"), ("bad", "Faulted (PP Error)"), "70.50 kW"),
    "a fault while charging": (snapshot(states__fault_code=16, states__faults=["PP Error"]),
                               ("bad", "Charging (PP Error)"), "70.50 kW"),
    "four faults": (faulted("A", "B", "C", "D"),
                    ("bad", "Faulted (A, B, C, D)"), "70.50 kW"),
    "no state": (snapshot(states__chargepoint={"code": None, "name": None}),
                 ("", "n/a"), "70.50 kW"),
    "no power": (snapshot(electrical__power__total_w=None, electrical__power__total_kw=None),
                 ("good", "Charging"), "n/a"),
    "lost": (LOST, ("bad", "No reading"), ""),
    "connecting": (CONNECTING, ("", "Connecting"), ""),
}
# fmt: on
ALL = {name: shown for name, (shown, *_) in FIRST.items()}
ALL.update({"28 faults": MANY_FAULTS, "with warnings": WARNED})


@pytest.mark.parametrize(("shown", "state", "power"), FIRST.values(), ids=[*FIRST])
def test_state_and_power_come_first(
    shown: vestel.Snapshot, state: tuple[str, str], power: str
) -> None:
    text = page(shown)
    assert element(text, "state") == state
    assert element(text, "power")[1] == power
    assert text.count("<h1") == 1
    assert f"<title>{state[1]} {power} - Vestel EVC04</title>" in text
    places = ["state", "power", "warnings", "glance", "plot", "states"]
    assert [place for place in re.findall('id="(.*?)"', text) if place in places] == places


def test_session_and_dynamic_current_stand_at_a_glance() -> None:
    glance = element(page(snapshot(session__duration_s=5025)), "glance")[1]
    shown = ", ".join(map(" ".join, re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", glance)))
    assert shown == "Session Energy 1940.301 kWh, Session Duration 1:23:45, Dynamic Current 16 A"


def test_warnings_that_last_stand_under_the_state() -> None:
    text = page(WARNED)
    style, content = element(text, "warnings")
    warnings = ["the charger refuses the heartbeat: &lt;why&gt;", "--hold: no file"]
    assert (style, re.findall("<p>(.*?)</p>", content)) == ("bad", warnings)
    assert element(page(CHARGING), "warnings") == ("", "")


def test_without_a_reading_there_is_the_problem_but_no_value() -> None:
    text = page(LOST)
    problem = PROBLEM.replace("<down>", "&lt;down&gt;")
    assert element(text, "warnings") == ("bad", f"<p>{problem}</p>")
    assert re.findall("<svg|<td|<dd", text) == ["<svg", "<svg"]
    text = page(CONNECTING)
    assert element(text, "warnings") == ("", "<p>there is no reading yet</p>")
    assert not re.search("<svg|<td|<dd", text)


def test_a_card_is_a_table_with_headers() -> None:
    cards = dict(re.findall("<section[^>]*><h2>(.*?)</h2>(.*?)</section>", page(CHARGING)))
    assert ", ".join(cards) == "States, Electrical, Session, Current Limits, Identity, Details"
    electrical = cards["Electrical"]
    assert re.findall('<th scope="col">(.*?)</th>', electrical) == ["L1", "L2", "L3"]
    rows = dict(re.findall('<th scope="row">(.*?)</th>(.*?)</tr>', electrical))
    shown = {label: re.findall("<td.*?>(.*?)</td>", cells) for label, cells in rows.items()}
    assert shown["Current"] == ["15.234 A", "15.181 A", "15.257 A"]
    assert shown["Total Power"] == ["70501 W (70.50 kW)"]
    assert '<th scope="col"' not in cards["States"]
    assert '<td class="good" colspan="3">Charging</td>' in cards["States"]


def test_times_are_local() -> None:
    text = page(CHARGING)
    assert element(text, "about")[1] == "192.168.1.100:502, read at 14:00:30"
    times = re.findall(r">(\d\d:\d\d)</text>", text)
    assert times == ["13:55", "13:45", "13:35", "13:25", "13:15", "13:05"]


def test_text_of_the_charger_stays_text() -> None:
    state, serial = {"code": 99, "name": "<b>{cards}</b>"}, "\"'><script>alert(1)</script>&amp;"
    text = page(snapshot(identity__serial=serial, states__chargepoint=state))
    assert "&quot;&#x27;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in text
    assert element(text, "state")[1] == "&lt;b&gt;{cards}&lt;/b&gt;"
    assert (text.count("<script>"), text.count("<b>")) == (1, 0)


# fmt: off
AXES = {0: "0 1", 999: "0 1", 3680: "0 1 2 3 4", 10_501: "0 4 8 12", 22_080: "0 5 10 15 20 25",
        100_000: "0 20 40 60 80 100"}
BARS: dict[str, tuple[list[tuple[int, int | None]], str]] = {  # s ago and W; x and W
    "steps": ([(50, 1000), (30, 2000), (10, 3000)], "177 1000, 178 2000, 179 3000"),
    "a loss": ([(50, 3000), (30, None), (10, 0)], "177 3000, 179 0"),
    "slow readings": ([(50, 3000), (10, 2000)], "177 3000, 179 2000"),
    "an hour ago": ([(3605, 3000), (3595, None), (5, 3000)], "179 3000"),
    "all too old": ([(3615, 3000), (3605, None)], ""),
    "in the future": ([(-30, 3000), (10, 2000)], "179 2000"),  # the clock was put back
    "the highest": ([(19, 3000), (8, 0), (1, 2000)], "179 3000"),
}
# fmt: on


@pytest.mark.parametrize(("highest", "ticks"), AXES.items())
def test_the_plot_has_round_values_on_its_axis(highest: int, ticks: str) -> None:
    text = page(snapshot()._replace(powers=((START_UTC - 20, 0), (START_UTC - 9, highest))))
    assert re.findall(r">(\d+) kW</text>", text) == ticks.split()
    assert f"<h2>Power, last 60 min, up to {highest / 1000:.2f} kW</h2>" in text


@pytest.mark.parametrize(("powers", "bars"), BARS.values(), ids=[*BARS])
def test_the_plot_is_a_bar_every_20_seconds(
    powers: list[tuple[int, int | None]], bars: str
) -> None:
    at = tuple((START_UTC - ago, power) for ago, power in powers)
    text = page(snapshot()._replace(powers=at))
    path = "".join(re.findall(' d="(.*?)"', text))
    zero = "".join(re.findall(r' viewBox="0 0 180 (\d+)"', text))
    assert path == re.sub(r"(\d+) (\d+)(, )?", rf"M\1 {zero}v-\2h1v\2", bars)


VOID = {"meta", "link", "wbr", "!DOCTYPE"}  # elements without an end


@pytest.mark.parametrize("shown", ALL.values(), ids=[*ALL])
def test_the_page_is_whole_and_needs_nothing_else(shown: vestel.Snapshot) -> None:
    text = page(shown)
    links = re.findall(r'\b(?:src|href)\s*=\s*"(.*?)"', text)
    assert links == ["data:,", "metrics", "vestel-data.json"]
    assert not re.search(r"\sstyle=|\son\w+=|@import|url\(|http-equiv", text)
    ids = re.findall(r'\bid="(.*?)"', text)
    assert sorted(ids) == sorted({*ids})
    assert ids == re.findall(r'\bid="(.*?)"', page(CHARGING)), "what is renewed is always there"
    body = re.sub("(?s)<(style|script)>.*?</", r"<\1></", text)
    open_tags: list[str] = []
    for end, tag, alone in re.findall(r"<(/?)([!\w]+)[^>]*?(/?)>", body):
        if end:
            assert open_tags.pop() == tag
        elif not alone and tag not in VOID:
            open_tags.append(tag)
    assert open_tags == []


def test_the_policy_allows_what_is_in_the_page_and_frames() -> None:
    def source(kind: str) -> str:
        (code,) = re.findall(f"(?s)<{kind}>(.*?)</{kind}>", page(CHARGING))
        return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()

    assert vestel.content_security_policy() == (  # frame-ancestors is not among them
        f"default-src 'none'; style-src '{source('style')}'; script-src '{source('script')}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )
