"""The web page of --listen: what it says, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import http.server
import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import needs
from readings import WHOLE

import vestel

NAME = "192.168.1.100:502"
NOW, CLOCK = 50_000.0, 1_795_162_533.0  # 2026-11-20 08:15:33 UTC
PROBLEM = "no reading since 2026-11-20T08:10:30+00:00: Cannot connect to 192.168.1.100:502: <no answer>"
CONNECTING = vestel.Snapshot()
HALF_AN_HOUR = tuple((NOW - age, 6900 if age > 600 else None) for age in range(1800, 0, -5))
LOST = vestel.Snapshot(problem=PROBLEM, failed=1, powers=HALF_AN_HOUR)


@pytest.fixture(autouse=True)
def _in_nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC+05:45: 08:15:30 UTC is 14:00:30."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()


def snapshot(**changes: Any) -> vestel.Snapshot:
    """A snapshot of the usual reading, with other values: states__fault_code=16."""
    reading: dict[str, Any] = copy.deepcopy(WHOLE)
    for keys, value in changes.items():
        *above, last = keys.split("__")
        place = reading
        for key in above:
            place = place[key]
        place[last] = value
    return vestel.Snapshot(reading=reading, problem="", made_at=NOW - 3, readings=1, powers=HALF_AN_HOUR)


def faulted(*faults: str) -> vestel.Snapshot:
    return snapshot(
        states__chargepoint={"code": 8, "name": "Faulted"},
        states__fault_code=2 ** len(faults) - 1,
        states__faults=[*faults],
    )


AVAILABLE = snapshot(states__chargepoint={"code": 0, "name": "Available"}, electrical__power__total_kw=0.0)
POWERLESS = snapshot(electrical__power__total_w=None, electrical__power__total_kw=None)
MANY = faulted(*(f"Overvoltage Phase {n}" for n in range(1, 29)))
ALL = {
    "charging": snapshot(),
    "available": AVAILABLE,
    "faulted": faulted("PP Error", "CP Diode Error"),
    "28 faults": MANY,
    "without power": POWERLESS,
    "lost": LOST,
    "connecting": CONNECTING,
}


def page(of: vestel.Snapshot) -> str:
    return vestel.format_page(NAME, of, NOW, CLOCK)


def held(text: str, place: str) -> tuple[str, str]:
    """The class and the content of the element with this id."""
    found = re.findall(rf'<(\w+) id="{place}"(?: class="(\w*)")?[^>]*>(.*?)</\1>', text, re.DOTALL)
    ((_, style, content),) = found
    return style, content


@pytest.mark.parametrize(
    ("of", "state", "power"),
    [
        (snapshot(), ("good", "Charging"), "70.50 kW"),
        (AVAILABLE, ("", "Available"), "0.00 kW"),
        (faulted("PP Error"), ("bad", "Faulted (PP Error)"), "70.50 kW"),
        (
            snapshot(states__fault_code=16, states__faults=["PP Error"]),
            ("bad", "Charging (PP Error)"),
            "70.50 kW",
        ),
        (faulted("A", "B", "C", "D"), ("bad", "Faulted (A, B, and 2 more)"), "70.50 kW"),
        (snapshot(states__chargepoint={"code": None, "name": None}), ("", "n/a"), "70.50 kW"),
        (POWERLESS, ("good", "Charging"), "n/a"),
        (LOST, ("bad", "No reading"), ""),
        (CONNECTING, ("", "Connecting"), ""),
    ],
)
def test_state_and_power_come_first(of: vestel.Snapshot, state: tuple[str, str], power: str) -> None:
    text = page(of)
    assert held(text, "state") == state
    assert held(text, "power")[1] == power
    assert text.count("<h1") == 1
    assert f"<title>{state[1]} {power} - Vestel EVC04</title>" in text
    assert text.index('id="state"') < text.index('id="power"') < text.index('id="glance"')


def test_session_and_dynamic_current_come_next_then_the_plot_then_the_cards() -> None:
    text = page(snapshot(session__duration_s=5025))
    assert re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", held(text, "glance")[1]) == [
        ("Session Energy", "1940.301 kWh"),
        ("Session Duration", "1:23:45"),
        ("Dynamic Current", "16 A"),
    ]
    assert text.index('id="glance"') < text.index("<svg") < text.index("<section")


def test_a_card_is_a_table_with_headers() -> None:
    text = page(snapshot())
    cards = dict(re.findall("<section[^>]*><h2>(.*?)</h2>(.*?)</section>", text))
    titles = ["States", "Electrical", "Session", "Current Limits", "Identity", "Details"]
    assert [*cards] == titles
    electrical = cards["Electrical"]
    assert re.findall('<th scope="col">(.*?)</th>', electrical) == ["L1", "L2", "L3"]
    rows = re.findall('<th scope="row">(.*?)</th>(.*?)</tr>', electrical)
    assert {label: re.findall("<td.*?>(.*?)</td>", cells) for label, cells in rows} == {
        "Current": ["15.234 A", "15.181 A", "15.257 A"],
        "Voltage": ["231 V", "230 V", "229 V"],
        "Power": ["66518 W", "3491 W", "3492 W"],
        "Total Power": ["70501 W (70.50 kW)"],
        "Meter Reading": ["121682.1 kWh"],
        "Active Phases": ["3"],
    }
    assert '<th scope="col"' not in cards["States"]
    assert '<td class="good" colspan="3">Charging</td>' in cards["States"]


def test_times_are_local() -> None:
    assert held(page(snapshot()), "about")[1] == "192.168.1.100:502, read at 14:00:30"
    assert "no reading since 2026-11-20 13:55:30: Cannot connect" in page(LOST)
    times = re.findall(r">(\d\d:\d\d)</text>", page(snapshot()))
    assert times == ["13:55", "13:45", "13:35", "13:25", "13:15", "13:05"]


def test_without_a_reading_there_is_the_problem_and_the_plot_and_no_value() -> None:
    text = page(LOST)
    style, problem = held(text, "problem")
    assert style == "bad"
    assert problem.endswith("192.168.1.100:502: &lt;no answer&gt;")
    assert "<svg" in text
    assert "<td" not in text
    assert "<dd" not in text
    assert "<svg" not in page(CONNECTING)


def test_the_text_of_the_charger_stays_text() -> None:
    text = page(
        snapshot(
            identity__serial="<script>alert(1)</script>",
            details__model="\"'><img src=x onerror=alert(1)>&amp;",
            states__chargepoint={"code": 99, "name": "<b>{cards}</b>"},
        )
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&quot;&#x27;&gt;&lt;img src=x onerror=alert(1)&gt;&amp;amp;" in text
    assert held(text, "state")[1] == "&lt;b&gt;{cards}&lt;/b&gt;"
    assert text.count("<script>") == 1
    assert "<img" not in text


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, ["0", "1"]),
        (999, ["0", "1"]),
        (3680, ["0", "1", "2", "3", "4"]),
        (10_501, ["0", "4", "8", "12"]),
        (22_080, ["0", "5", "10", "15", "20", "25"]),
        (100_000, ["0", "20", "40", "60", "80", "100"]),
    ],
)
def test_the_plot_has_round_values_on_its_axis(most: int, ticks: list[str]) -> None:
    text = page(snapshot()._replace(powers=((NOW - 20, 0), (NOW - 9, most))))
    assert re.findall(r">(\d+) kW</text>", text) == ticks
    assert f"<h2>Power, last 60 min, up to {most / 1000:.2f} kW</h2>" in text


@pytest.mark.parametrize(
    ("powers", "bars"),
    [
        ([(25, 1000), (15, 2000), (5, 3000)], [(357, 1000), (358, 2000), (359, 3000)]),
        ([(25, 3000), (15, None), (5, 0)], [(357, 3000), (359, 0)]),
        ([(45, 3000), (5, 2000)], [*((part, 3000) for part in range(355, 359)), (359, 2000)]),
        ([(5000, 3000), (5, 3000)], [(359, 3000)]),
        ([(9, 3000), (8, 0), (1, 2000)], [(359, 3000)]),
    ],
    ids=["steps", "gap", "a slow beat", "older than an hour", "the greatest of ten seconds"],
)
def test_the_plot_is_a_bar_every_ten_seconds(
    powers: list[tuple[int, int | None]], bars: list[tuple[int, int]]
) -> None:
    text = page(snapshot()._replace(powers=tuple((NOW - ago, power) for ago, power in powers)))
    (path,) = re.findall(' d="(.*?)"', text)
    (zero,) = re.findall(r' viewBox="0 0 360 (\d+)"', text)
    assert path == "".join(f"M{part} {zero}v-{watts}h1v{watts}" for part, watts in bars)


@pytest.mark.parametrize("of", ALL.values(), ids=[*ALL])
def test_the_page_is_whole_and_needs_nothing_else(of: vestel.Snapshot) -> None:
    text = page(of)
    assert re.findall(r'\b(?:src|href)\s*=\s*"(.*?)"', text) == ["data:,", "metrics", "vestel-data.json"]
    assert not re.search(r"\sstyle=|\son\w+=|@import|url\(|http-equiv", text)
    ids = re.findall(r'\bid="(.*?)"', text)
    assert sorted(ids) == sorted({*ids})
    assert ids == re.findall(r'\bid="(.*?)"', page(snapshot())), "what renews itself is always there"
    void = {"meta", "link", "wbr", "!DOCTYPE"}
    body = re.sub("(?s)<(style|script)>.*?</", r"<\1></", text)
    open_tags: list[str] = []
    for end, tag, alone in re.findall(r"<(/?)([!\w]+)[^>]*?(/?)>", body):
        if end:
            assert open_tags.pop() == tag
        elif not alone and tag not in void:
            open_tags.append(tag)
    assert open_tags == []


def test_the_policy_allows_what_is_in_the_page_and_nothing_else() -> None:
    (style,) = re.findall("(?s)<style>(.*?)</style>", page(snapshot()))
    (script,) = re.findall("(?s)<script>(.*?)</script>", page(snapshot()))
    hashed = [base64.b64encode(hashlib.sha256(it.encode()).digest()).decode() for it in (style, script)]
    assert vestel.csp().split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{hashed[0]}'",
        f"script-src 'sha256-{hashed[1]}'",
        *("connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'"),
        "frame-ancestors 'none'",
    ]


# --- In a browser -------------------------------------------------------------------------------


class Service:
    """What serves pages in place of vestel.py: for each path an answer after the other, then the last again.

    Around them, there is a page that looks at them in frames. The policy lets it: nothing else differs.
    """

    def __init__(self, around: str, answers: dict[str, list[str]]) -> None:
        asked = dict.fromkeys(answers, 0)
        policy = vestel.csp().replace("frame-ancestors 'none'", "frame-ancestors 'self'")

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, text = self.path[1:], around
                if name in answers:
                    text = answers[name][min(asked[name], len(answers[name]) - 1)]
                    asked[name] += 1
                if text == GONE:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(text.encode())))
                if name in answers:
                    self.send_header("Content-Security-Policy", policy)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.asked = asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}).start()


GONE = ""


def browse(service: Service, seconds: int, profile: Path, dark: bool = False) -> Any:
    """Open the page around in a real browser for so many of its seconds; return what it has noted then."""
    flags = [
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "hide-scrollbars"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "dump-dom"),
        *(f"user-data-dir={profile}", "window-size=1700,1000", f"virtual-time-budget={seconds * 1000}"),
        f"blink-settings=preferredColorScheme={int(not dark)}",
    ]
    command = [needs("chromium", "chromium"), *(f"--{flag}" for flag in flags), service.address]
    try:
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=60,
            check=True,
        )
    finally:
        service.server.shutdown()
        service.server.server_close()
    (noted,) = re.findall("(?s)<pre>(.*?)</pre>", result.stdout)
    return json.loads(html.unescape(noted))


# Frames that are watched for so many seconds each: what is in them then, what was changed, what of the
# text that was selected at the start still is, and how the state looks.
WATCHED = """<body><pre></pre><script>
const noted = {}
for (const [name, seconds] of Object.entries(FRAMES)) {
  const frame = document.createElement("iframe"), changed = new Set()
  frame.src = "/" + name
  frame.onload = () => {
    const page = frame.contentDocument, view = frame.contentWindow, all = page.createRange()
    const note = changes => changes.forEach(change => changed.add(change.target.id))
    new MutationObserver(note).observe(page.body, {attributes: true, childList: true, subtree: true})
    all.selectNodeContents(page.querySelector("#identity td") || page.body)
    view.getSelection().addRange(all)
    setTimeout(() => {
      const filter = view.getComputedStyle(page.getElementById("state")).filter
      const html = page.documentElement.outerHTML, selected = String(view.getSelection())
      noted[name] = {html, changed: [...changed], selected, filter}
      document.querySelector("pre").textContent = JSON.stringify(noted)
      frame.remove()
    }, seconds * 1000)
  }
  document.body.append(frame)
}
</script>"""
LATER = snapshot(electrical__power__total_kw=69.0, session__energy_kwh=1941.0)
FRAMES: dict[str, tuple[float, list[vestel.Snapshot | str]]] = {
    "renewed": (12, [AVAILABLE, CONNECTING, snapshot()]),
    "changed": (7, [snapshot(), LATER]),
    "unchanged": (7, [snapshot()]),
    "gone": (7, [snapshot(), GONE]),
    "another": (7, [snapshot(), "<h1>502 Bad Gateway</h1>"]),
    "back": (18, [snapshot(), GONE, "<p>", AVAILABLE]),
}


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a browser made of all of FRAMES, in one run, and how often each was asked for."""
    answers = {
        name: [one if isinstance(one, str) else page(one) for one in answers]
        for name, (_, answers) in FRAMES.items()
    }
    answers["renewed"][0] = answers["renewed"][0].replace("<body>", '<body data-loaded="first">')
    seconds = {name: seconds for name, (seconds, _) in FRAMES.items()}
    service = Service(WATCHED.replace("FRAMES", json.dumps(seconds)), answers)
    found = browse(service, 20, tmp_path_factory.mktemp("profile"))
    return {name: {**found[name], "asked": service.asked[name]} for name in FRAMES}


def test_the_page_renews_itself_under_its_policy_and_is_not_loaded_anew(noted: Any) -> None:
    document = noted["renewed"]["html"]
    assert noted["renewed"]["asked"] == 3
    assert held(document, "state") == ("good", "Charging")
    assert held(document, "power")[1] == "70.50 kW"
    assert "<title>Charging 70.50 kW - Vestel EVC04</title>" in document
    assert document.count("<section id=") == 6
    assert "<h2>Details</h2>" in document
    assert 'data-loaded="first"' in document
    assert held(document, "connection")[1] == ""


def test_only_what_changed_is_replaced(noted: Any) -> None:
    assert noted["changed"]["changed"] == ["power", "glance", "electrical", "session"]
    assert noted["changed"]["selected"] == "VEST1234567890"


def test_nothing_is_touched_where_nothing_changed(noted: Any) -> None:
    assert noted["unchanged"]["changed"] == []
    assert noted["unchanged"]["asked"] == 2


@pytest.mark.parametrize("answer", ["gone", "another"])
def test_a_service_that_is_gone_is_told(noted: Any, answer: str) -> None:
    document = noted[answer]["html"]
    told = held(document, "connection")
    assert told[0] == "bad"
    assert re.fullmatch(r"no connection to vestel\.py since \d\d:\d\d:\d\d", told[1])
    assert f"<title>{told[1]}</title>" in document
    assert re.search('<p id="connection"[^>]* role="alert"', document)
    assert noted[answer]["filter"] == "grayscale(1)"
    assert held(document, "state")[1] == "Charging"
    assert noted[answer]["changed"] == ["connection"]


def test_the_page_comes_back_by_itself(noted: Any) -> None:
    document = noted["back"]["html"]
    assert held(document, "state")[1] == "Available"
    assert held(document, "connection")[1] == ""
    assert noted["back"]["filter"] == "none"
    assert "<title>Available 0.00 kW - Vestel EVC04</title>" in document


# The pages in frames of these widths: how wide each becomes, and the colours of its texts on what.
MEASURED = """<body><pre></pre><script>
const noted = {}
for (const name of NAMES) for (const width of [360, 500, 800, 1600]) {
  const frame = document.createElement("iframe")
  const {widths, colours} = noted[name] ||= {widths: {}, colours: []}
  frame.width = width
  frame.height = 800
  frame.src = "/" + name
  frame.onload = () => {
    const page = frame.contentDocument, view = frame.contentWindow
    widths[width] = page.documentElement.scrollWidth
    for (const element of page.querySelectorAll("body *:not(script)")) {
      if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue
      const style = view.getComputedStyle(element), ink = element.closest("svg") ? style.fill : style.color
      let ground = "", opacity = 1
      for (let under = element; under; under = under.parentElement) {
        const style = view.getComputedStyle(under)
        if (!ground && !style.backgroundColor.endsWith(", 0)")) ground = style.backgroundColor
        if (!ground) opacity *= style.opacity
      }
      if (style.display !== "none") colours.push([ink, ground, opacity])
    }
    document.querySelector("pre").textContent = JSON.stringify(noted)
  }
  document.body.append(frame)
}
</script>"""


def luminance(colour: list[float]) -> float:
    """Of red, green and blue up to 255, as WCAG 2 has it."""
    parts = [part / 255 for part in colour]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: str, ground: str, opacity: float) -> float:
    """Of rgb(1, 2, 3), with this opacity, on rgb(4, 5, 6)."""
    above, below = ([float(part) for part in re.findall(r"[\d.]+", colour)] for colour in (ink, ground))
    assert len(above) == len(below) == 3
    mixed = [opacity * a + (1 - opacity) * b for a, b in zip(above, below)]
    darker, lighter = sorted([luminance(mixed), luminance(below)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_phone_and_desk_and_can_be_read(tmp_path: Path, dark: bool) -> None:
    names = {name.replace(" ", "-"): of for name, of in ALL.items()}
    service = Service(
        MEASURED.replace("NAMES", json.dumps([*names])), {n: [page(of)] for n, of in names.items()}
    )
    found = browse(service, 2, tmp_path, dark)
    assert {name: of["widths"] for name, of in found.items()} == {
        name: {str(width): width for width in (360, 500, 800, 1600)} for name in names
    }
    for name, of in found.items():
        assert len(of["colours"]) > 4 * 3, name
        for ink, ground, opacity in of["colours"]:
            assert contrast(ink, ground, opacity) >= 4.5, (name, ink, ground, opacity)
            assert (contrast(ground, "rgb(0, 0, 0)", 1) < 3) is dark, (name, ground)
