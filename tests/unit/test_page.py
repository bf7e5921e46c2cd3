"""What the web page of --listen says. How it behaves in a browser is tested with processes."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from clock import START
from readings import faulted, snapshot

import vestel

pytestmark = pytest.mark.usefixtures("nepal", "clock")

NAME = "192.168.1.100:502"
PROBLEM = "no reading since 2026-11-20T08:10:30+00:00: Cannot connect to 192.168.1.100:502: <down>"
POWERS = tuple((START - age, 6900 if age > 600 else None) for age in range(1800, 0, -5))
CONNECTING = vestel.Snapshot()
LOST = vestel.Snapshot(problem=PROBLEM, warnings=(PROBLEM,), failed=1, powers=POWERS)
CHARGING = snapshot()._replace(powers=POWERS)
WARNED = CHARGING._replace(warnings=("the charger refuses the heartbeat: <why>", "--hold: no file"))


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
                    ("bad", "Faulted (A, B, and 2 more)"), "70.50 kW"),
    "no state": (snapshot(states__chargepoint={"code": None, "name": None}),
                 ("", "n/a"), "70.50 kW"),
    "no power": (snapshot(electrical__power__total_w=None, electrical__power__total_kw=None),
                 ("good", "Charging"), "n/a"),
    "lost": (LOST, ("bad", "No reading"), ""),
    "connecting": (CONNECTING, ("", "Connecting"), ""),
}
# fmt: on
ALL = {name: shown for name, (shown, *_) in FIRST.items()}
ALL["28 faults"] = faulted(*(f"Overvoltage Phase {n}" for n in range(1, 29)))
ALL["with warnings"] = WARNED


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
    shown = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", glance)
    assert [*map("=".join, shown)] == [
        *("Session Energy=1940.301 kWh", "Session Duration=1:23:45", "Dynamic Current=16 A"),
    ]


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


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        *[(0, "0 1"), (999, "0 1"), (3680, "0 1 2 3 4"), (10_501, "0 4 8 12")],
        *[(22_080, "0 5 10 15 20 25"), (100_000, "0 20 40 60 80 100")],
    ],
)
def test_the_plot_has_round_values_on_its_axis(highest: int, ticks: str) -> None:
    text = page(snapshot()._replace(powers=((START - 20, 0), (START - 9, highest))))
    assert re.findall(r">(\d+) kW</text>", text) == ticks.split()
    assert f"<h2>Power, last 60 min, up to {highest / 1000:.2f} kW</h2>" in text


@pytest.mark.parametrize(
    ("powers", "bars"),
    [
        ([(25, 1000), (15, 2000), (5, 3000)], [(357, 1000), (358, 2000), (359, 3000)]),
        ([(25, 3000), (15, None), (5, 0)], [(357, 3000), (359, 0)]),
        ([(45, 3000), (5, 2000)], [*((part, 3000) for part in range(355, 359)), (359, 2000)]),
        ([(3605, 3000), (3595, None), (5, 3000)], [(359, 3000)]),
        ([(3615, 3000), (3605, None)], []),
        ([(9, 3000), (8, 0), (1, 2000)], [(359, 3000)]),
    ],
    ids=["steps", "a loss", "slow readings", "an hour ago", "all too old", "the highest"],
)
def test_the_plot_is_a_bar_every_ten_seconds(
    powers: list[tuple[int, int | None]], bars: list[tuple[int, int]]
) -> None:
    at = tuple((START - ago, power) for ago, power in powers)
    text = page(snapshot()._replace(powers=at))
    path = "".join(re.findall(' d="(.*?)"', text))
    zero = "".join(re.findall(r' viewBox="0 0 360 (\d+)"', text))
    assert path == "".join(f"M{part} {zero}v-{watts}h1v{watts}" for part, watts in bars)


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

    assert vestel.content_security_policy().split("; ") == [  # frame-ancestors is not among them
        *(
            "default-src 'none'",
            f"style-src '{source('style')}'",
            f"script-src '{source('script')}'",
        ),
        *("connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'"),
    ]
