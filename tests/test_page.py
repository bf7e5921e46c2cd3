"""The web page of --listen: what it says, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import copy
import hashlib
import http.server
import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

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
        (faulted("PP Error"), ("bad", "Faulted: PP Error"), "70.50 kW"),
        (
            snapshot(states__fault_code=16, states__faults=["PP Error"]),
            ("bad", "Charging: PP Error"),
            "70.50 kW",
        ),
        (faulted("A", "B", "C", "D"), ("bad", "Faulted: A, B, and 2 more"), "70.50 kW"),
        (snapshot(states__chargepoint={"code": None, "name": None}), ("", "State unknown"), "70.50 kW"),
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
    assert f"<title>{f'{state[1]} {power}'.strip()} - Vestel EVC04</title>" in text
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
    assert '<td class="good">Charging</td>' in cards["States"]


def test_times_are_local() -> None:
    assert held(page(snapshot()), "about")[1] == "192.168.1.100:502, read at 14:00:30"
    assert "no reading since 2026-11-20 13:55:30: Cannot connect" in page(LOST)
    times = re.findall(r">(\d\d:\d\d)</text>", page(snapshot()))
    assert times == ["14:00", "13:50", "13:40", "13:30", "13:20", "13:10"]


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
    said = f"Power in the last 60 minutes: 0.00 to {most / 1000:.2f} kW"
    assert f'<svg role="img" height="205" aria-label="{said}">' in text


@pytest.mark.parametrize(
    ("powers", "path"),
    [
        ([(25, 1000), (15, 2000), (5, 3000)], "M357 3000V2000H358V1000H359V0H360V3000"),
        ([(25, 3000), (15, None), (5, 3000)], "M357 3000V0H358V3000M359 3000V0H360V3000"),
        ([(45, 3000), (5, 3000)], "M355 3000V0H356V0H357V0H358V0H359V0H360V3000"),
        ([(5000, 3000), (5, 3000)], "M359 3000V0H360V3000"),
        ([(9, 3000), (8, 0), (1, 2000)], "M359 3000V0H360V3000"),
    ],
    ids=["steps", "gap", "a slow beat", "older than an hour", "the greatest of ten seconds"],
)
def test_the_plot_is_a_step_every_ten_seconds(powers: list[tuple[int, int | None]], path: str) -> None:
    text = page(snapshot()._replace(powers=tuple((NOW - ago, power) for ago, power in powers)))
    assert re.findall(' d="(.*?)"', text) == [path]


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
    """What serves the page in place of vestel.py: an answer after the other, then the last again."""

    def __init__(self, *answers: str | None, policy: str = "", around: str = "") -> None:
        outer, self.answers, self.asked = self, [*answers], 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = around
                if self.path == "/":
                    text = outer.answers[min(outer.asked, len(outer.answers) - 1)] or ""
                    outer.asked += 1
                if not text:  # it is gone
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(text.encode())))
                if policy:
                    self.send_header("Content-Security-Policy", policy)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}).start()


Serve = Callable[..., Service]
Browse = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    services: list[Service] = []

    def serve(*answers: str | None, **more: str) -> Service:
        services.append(Service(*answers, **more))
        return services[-1]

    yield serve
    for service in services:
        service.server.shutdown()
        service.server.server_close()


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open an address in a real browser for so many of its seconds, and return the document then."""
    chromium = needs("chromium", "chromium")

    def browse(address: str, seconds: int, dark: bool = False) -> str:
        flags = [
            *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "hide-scrollbars"),
            *("disable-background-networking", "disable-component-update", "disable-sync", "dump-dom"),
            *(f"user-data-dir={tmp_path / 'profile'}", "window-size=1700,1000"),
            *(
                f"virtual-time-budget={seconds * 1000}",
                f"blink-settings=preferredColorScheme={int(not dark)}",
            ),
        ]
        command = [chromium, *(f"--{flag}" for flag in flags), address]
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=60,
            check=True,
        )
        return result.stdout

    return browse


def test_the_page_renews_itself_under_its_policy_and_is_not_loaded_anew(serve: Serve, browse: Browse) -> None:
    first = page(AVAILABLE).replace("<body>", '<body data-loaded="first">')
    service = serve(first, page(CONNECTING), page(snapshot()), policy=vestel.csp())
    document = browse(service.address, 12)
    assert service.asked == 3
    assert held(document, "state") == ("good", "Charging")
    assert held(document, "power")[1] == "70.50 kW"
    assert "<title>Charging 70.50 kW - Vestel EVC04</title>" in document
    assert document.count("<section id=") == 6
    assert "<h2>Details</h2>" in document
    assert 'data-loaded="first"' in document
    assert held(document, "connection")[1] == ""


# The page in a frame, which notes what is changed in it, and what of it is selected after 7 s.
WATCHED = """<iframe src="/" width="800" height="800"></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), changed = new Set()
frame.onload = () => {
  const page = frame.contentDocument
  const note = changes => changes.forEach(change => changed.add(change.target.id))
  new MutationObserver(note).observe(page.body, {attributes: true, childList: true, subtree: true})
  const all = page.createRange()
  all.selectNodeContents(page.querySelector("#identity td"))
  frame.contentWindow.getSelection().addRange(all)
  setTimeout(() => {
    const selected = String(frame.contentWindow.getSelection())
    document.querySelector("pre").textContent = JSON.stringify({changed: [...changed], selected})
  }, 7000)
}
</script>"""


def watched(document: str) -> Any:
    (found,) = re.findall("<pre>(.*?)</pre>", document)
    return json.loads(found)


def test_only_what_changed_is_replaced(serve: Serve, browse: Browse) -> None:
    later = snapshot(electrical__power__total_kw=69.0, session__energy_kwh=1941.0)
    service = serve(page(snapshot()), page(later), around=WATCHED)
    assert watched(browse(f"{service.address}around", 8)) == {
        "changed": ["power", "glance", "electrical", "session"],
        "selected": "VEST1234567890",
    }


def test_nothing_is_touched_where_nothing_changed(serve: Serve, browse: Browse) -> None:
    service = serve(page(snapshot()), around=WATCHED)
    assert watched(browse(f"{service.address}around", 8))["changed"] == []
    assert service.asked == 2


@pytest.mark.parametrize("answer", [None, "<h1>502 Bad Gateway</h1>"], ids=["gone", "another page"])
def test_a_service_that_is_gone_is_told(serve: Serve, browse: Browse, answer: str | None) -> None:
    service = serve(page(snapshot()), answer, policy=vestel.csp())
    document = browse(service.address, 7)
    told = held(document, "connection")
    assert told[0] == "bad"
    assert re.fullmatch(r"no connection to vestel\.py since \d\d:\d\d:\d\d", told[1])
    assert re.search('<p id="connection"[^>]* role="alert"', document)
    assert '<body class="stale">' in document
    assert held(document, "state")[1] == "Charging"


def test_the_page_comes_back_by_itself(serve: Serve, browse: Browse) -> None:
    service = serve(page(snapshot()), None, "", page(AVAILABLE), policy=vestel.csp())
    document = browse(service.address, 18)
    assert held(document, "state")[1] == "Available"
    assert held(document, "connection")[1] == ""
    assert '<body class="stale">' not in document
    assert "<title>Available 0.00 kW - Vestel EVC04</title>" in document


# The page in frames of these widths: how wide it becomes, and the colours of its texts on what.
MEASURED = """<body></body><pre></pre><script>
const widths = [], colours = new Set()
for (const width of [360, 500, 800, 1600]) {
  const frame = document.createElement("iframe")
  frame.width = width
  frame.height = 800
  frame.src = "/"
  frame.onload = () => {
    const page = frame.contentDocument, view = frame.contentWindow
    widths.push([width, page.documentElement.scrollWidth])
    for (const element of page.querySelectorAll("body *")) {
      if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue
      const style = view.getComputedStyle(element), colour = element.closest("svg") ? style.fill : style.color
      let under = element, ground = ""
      do { ground = view.getComputedStyle(under).backgroundColor } while (ground.endsWith(", 0)") && (under = under.parentElement))
      if (style.display !== "none" && element.tagName !== "SCRIPT") colours.add(colour + " on " + ground)
    }
    document.querySelector("pre").textContent = JSON.stringify({widths: widths.sort((a, b) => a[0] - b[0]), colours: [...colours]})
  }
  document.body.append(frame)
}
</script>"""  # noqa: E501


def luminance(colour: str) -> float:
    """Of rgb(1, 2, 3), as WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("of", ALL.values(), ids=[*ALL])
def test_the_page_fits_phone_and_desk_and_can_be_read(
    serve: Serve, browse: Browse, of: vestel.Snapshot, dark: bool
) -> None:
    service = serve(page(of), around=MEASURED)
    found = watched(browse(f"{service.address}around", 2, dark))
    assert found["widths"] == [[width, width] for width in (360, 500, 800, 1600)]
    for pair in found["colours"]:
        ink, ground = map(luminance, pair.split(" on "))
        assert (ground < 0.1) is dark, pair
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, pair
