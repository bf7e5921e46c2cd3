"""The web page of --listen in a real browser. What it says is tested as text, in tests/unit."""

from __future__ import annotations

import contextlib
import copy
import html
import http.server
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from charger import SimulatedCharger
from clock import START, Clock
from program import Start, listen, needs
from readings import WHOLE

import vestel

NAME = "192.168.1.100:502"
PROBLEM = f"no reading since 2026-11-20T08:10:30+00:00: Cannot connect to {NAME}: <no answer>"
UNREAD = "Cannot read input registers 1502-1513: exception 4 (device failure)"
POWERS = tuple((START - age, 6900 if age > 600 else None) for age in range(1800, 0, -5))
WIDTHS = [320, 360, 500, 800, 1600]


def snapshot(warnings: tuple[str, ...] = (), **changes: Any) -> vestel.Snapshot:
    """Return a snapshot of the usual reading, with other values: states__fault_code=16."""
    reading: dict[str, Any] = copy.deepcopy(WHOLE)
    for keys, value in changes.items():
        *above, last = keys.split("__")
        place = reading
        for key in above:
            place = place[key]
        place[last] = value
    return vestel.Snapshot(reading, "", warnings, made_at=START - 3, readings=1, powers=POWERS)


CONNECTING = vestel.Snapshot()
LOST = vestel.Snapshot(None, PROBLEM, (PROBLEM, UNREAD), failed=3, powers=POWERS)
AVAILABLE = snapshot(
    states__chargepoint={"code": 0, "name": "Available"}, electrical__power__total_kw=0.0
)
FAULTED = snapshot(
    states__chargepoint={"code": 8, "name": "Faulted"},
    states__fault_code=2**28 - 1,
    states__faults=[f"Overvoltage Phase {n}" for n in range(28)],
)
ALL = {
    "charging": snapshot(),
    "available": AVAILABLE,
    "faulted": FAULTED,
    "warned": snapshot((UNREAD, "the charger refuses the heartbeat: exception 4")),
    "lost": LOST,
    "connecting": CONNECTING,
}


def page(of: vestel.Snapshot) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vestel, "time", Clock())
        return vestel.format_page(NAME, of)


def held(text: str, place: str) -> tuple[str, str]:
    """Return the class and the content of the element with this id."""
    element = rf'<(\w+) id="{place}"(?: class="(\w*)")?[^>]*>(.*?)</\1>'
    ((_, style, content),) = re.findall(element, text, re.DOTALL)
    return style, content


# --- The browser, and what serves it ------------------------------------------------------------

GONE = ""


class Service:
    """What serves pages in place of vestel.py: for each path one answer after the other.

    The last one is given again. Around them, there is a page that looks at them in frames.
    """

    def __init__(self, around: str, answers: dict[str, list[str]]) -> None:
        self.asked = asked = dict.fromkeys(answers, 0)
        policy = vestel.content_security_policy()

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

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"


@contextlib.contextmanager
def serving(around: str, answers: dict[str, list[str]]) -> Iterator[Service]:
    service = Service(around, answers)
    how = {"poll_interval": 0.05}
    thread = threading.Thread(target=service.server.serve_forever, kwargs=how)
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        thread.join()
        service.server.server_close()


@pytest.fixture
def chromium() -> str:
    """Give the path of the browser. Nothing is started where there is none."""
    return needs("chromium", "chromium")


def browse(chromium: str, address: str, seconds: int, profile: Path) -> tuple[str, str]:
    """Open a page in the browser for so many of its seconds; return the document, and its log."""
    flags = [
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("hide-scrollbars", "disable-background-networking", "disable-component-update"),
        *("disable-sync", "enable-logging=stderr", "dump-dom", "window-size=1700,1000"),
        *(f"user-data-dir={profile}", f"virtual-time-budget={seconds * 1000}"),
        "blink-settings=preferredColorScheme=1",  # light
    ]
    result = subprocess.run(
        [chromium, *(f"--{flag}" for flag in flags), address],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "HOME": str(profile)},
        timeout=100,
        check=True,
    )
    return result.stdout, result.stderr


def noted_in(document: str) -> Any:
    """Return what the page around has noted."""
    (noted,) = re.findall("(?s)<pre>(.*?)</pre>", document)
    return json.loads(html.unescape(noted))


# --- A real process -----------------------------------------------------------------------------


def test_page_of_a_process_renews_itself_also_in_a_frame(
    chromium: str, charger: SimulatedCharger, start: Start, tmp_path: Path
) -> None:
    listening = listen(start, "-v", charger=charger, ready=True)
    frame = f'<iframe src="http://127.0.0.1:{listening.port}/"></iframe>'
    with serving(frame, {}) as dashboard:
        _, log = browse(chromium, dashboard.address, 12, tmp_path)
    assert "Content Security Policy" not in log
    assert listening.running.end() == 0
    asked = [line for line in listening.running.err if '"GET / HTTP/1.1" 200' in line]
    assert len(asked) > 1, "its script runs"


# --- How it renews itself -----------------------------------------------------------------------

# Frames that are watched for so many seconds each: what is in them then, what was changed, what of
# the text that was selected at the start still is, and how the state looks.
WATCHED = """<body><pre></pre><script>
const noted = {}
for (const [name, seconds] of Object.entries(FRAMES)) {
  const frame = document.createElement("iframe"), changed = new Set()
  frame.src = "/" + name
  frame.onload = () => {
    const page = frame.contentDocument, view = frame.contentWindow, all = page.createRange()
    const note = changes => changes.forEach(change => changed.add(change.target.id))
    const what = {attributes: true, childList: true, subtree: true}
    new MutationObserver(note).observe(page.body, what)
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
    "warned": (7, [snapshot(), ALL["warned"]]),
    "unchanged": (7, [snapshot()]),
    "gone": (7, [snapshot(), GONE]),
    "another": (7, [snapshot(), "<h1>502 Bad Gateway</h1>"]),
    "back": (18, [snapshot(), GONE, "<p>", AVAILABLE]),
}


def watch(chromium: str, profile: Path) -> Any:
    """Return what a browser made of all of FRAMES, and how often each was asked for."""
    answers = {
        name: [one if isinstance(one, str) else page(one) for one in given]
        for name, (_, given) in FRAMES.items()
    }
    first = answers["renewed"][0].replace("<body>", '<body data-loaded="first">')
    answers["renewed"][0] = first
    seconds = {name: seconds for name, (seconds, _) in FRAMES.items()}
    with serving(WATCHED.replace("FRAMES", json.dumps(seconds)), answers) as service:
        document, _ = browse(chromium, service.address, 20, profile)
    found = noted_in(document)
    return {name: {**found[name], "asked": service.asked[name]} for name in FRAMES}


def is_renewed_and_not_loaded_anew(noted: Any) -> None:
    document = noted["renewed"]["html"]
    assert noted["renewed"]["asked"] == 3
    assert held(document, "state") == ("good", "Charging")
    assert held(document, "power")[1] == "70.50 kW"
    assert "<title>Charging 70.50 kW - Vestel EVC04</title>" in document
    assert document.count("<section id=") == 6
    assert "<h2>Details</h2>" in document
    assert 'data-loaded="first"' in document
    assert held(document, "connection")[1] == ""


def replaces_only_what_has_changed(noted: Any) -> None:
    assert noted["changed"]["changed"] == ["power", "glance", "electrical", "session"]
    assert noted["changed"]["selected"] == "VEST1234567890"
    assert noted["unchanged"]["changed"] == []
    assert noted["unchanged"]["asked"] == 2


def shows_a_warning_that_comes_up(noted: Any) -> None:
    style, warnings = held(noted["warned"]["html"], "warnings")
    assert style == "bad"
    assert UNREAD in warnings
    assert noted["warned"]["changed"] == ["warnings"]


def says_that_the_service_is_gone(noted: Any) -> None:
    for answer in ("gone", "another"):
        document = noted[answer]["html"]
        style, text = held(document, "connection")
        assert style == "bad"
        assert re.fullmatch(r"no connection to vestel\.py since \d\d:\d\d:\d\d", text)
        assert f"<title>{text}</title>" in document
        assert re.search('<p id="connection"[^>]* role="alert"', document)
        assert noted[answer]["filter"] == "grayscale(1)"
        assert held(document, "state")[1] == "Charging"
        assert noted[answer]["changed"] == ["connection"]


def comes_back_by_itself(noted: Any) -> None:
    document = noted["back"]["html"]
    assert held(document, "state")[1] == "Available"
    assert held(document, "connection")[1] == ""
    assert noted["back"]["filter"] == "none"
    assert "<title>Available 0.00 kW - Vestel EVC04</title>" in document


def test_page_renews_itself_in_place(chromium: str, tmp_path: Path) -> None:
    """All of it in one test: workers do not share a fixture, and a browser takes seconds."""
    noted = watch(chromium, tmp_path)
    is_renewed_and_not_loaded_anew(noted)
    replaces_only_what_has_changed(noted)
    shows_a_warning_that_comes_up(noted)
    says_that_the_service_is_gone(noted)
    comes_back_by_itself(noted)


# --- How it looks -------------------------------------------------------------------------------

# The pages in frames of these widths: how wide each becomes, where its parts begin and end, and the
# colours of its texts on what.
MEASURED = """<body><pre></pre><script>
const noted = {}
for (const scheme of ["light", "dark"]) for (const name of NAMES) for (const width of WIDTHS) {
  const frame = document.createElement("iframe"), of = noted[scheme + " " + name] ||= {}
  const {widths, places, colours} = Object.assign(of, {widths: {}, places: {}, colours: [], ...of})
  frame.style.colorScheme = scheme
  frame.width = width
  frame.height = 800
  frame.src = "/" + name
  frame.onload = () => {
    const page = frame.contentDocument, view = frame.contentWindow
    widths[width] = page.documentElement.scrollWidth
    places[width] = ["state", "warnings", "glance"].map(id => {
      const {top, bottom} = page.getElementById(id).getBoundingClientRect()
      return [top, bottom]
    })
    for (const element of page.querySelectorAll("body *:not(script)")) {
      const isText = node => node.nodeType === 3 && node.data.trim()
      if (![...element.childNodes].some(isText)) continue
      const style = view.getComputedStyle(element)
      const ink = element.closest("svg") ? style.fill : style.color
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
    """Return that of red, green and blue up to 255, as WCAG 2 has it."""
    parts = [part / 255 for part in colour]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: str, ground: str, opacity: float) -> float:
    """Return that of rgb(1, 2, 3), with this opacity, on rgb(4, 5, 6)."""
    above, below = ([float(part) for part in re.findall(r"[\d.]+", c)] for c in (ink, ground))
    assert len(above) == len(below) == 3
    mixed = [opacity * a + (1 - opacity) * b for a, b in zip(above, below)]
    darker, lighter = sorted([luminance(mixed), luminance(below)])
    return (lighter + 0.05) / (darker + 0.05)


def test_page_fits_phone_and_desk_and_can_be_read(chromium: str, tmp_path: Path) -> None:
    around = MEASURED.replace("NAMES", json.dumps([*ALL])).replace("WIDTHS", json.dumps(WIDTHS))
    with serving(around, {name: [page(of)] for name, of in ALL.items()}) as service:
        document, _ = browse(chromium, service.address, 2, tmp_path)
    found = noted_in(document)
    assert {*found} == {f"{scheme} {name}" for scheme in ("light", "dark") for name in ALL}
    for name, of in found.items():
        assert of["widths"] == {str(width): width for width in WIDTHS}, name
        is_dark = name.startswith("dark")
        assert len(of["colours"]) > 4 * 3, name
        for ink, ground, opacity in of["colours"]:
            assert contrast(ink, ground, opacity) >= 4.5, (name, ink, ground, opacity)
            assert (contrast(ground, "rgb(0, 0, 0)", 1) < 3) is is_dark, (name, ground)
    for state, warnings, glance in found["light warned"]["places"].values():
        assert state[1] <= warnings[0] < warnings[1] <= glance[0], "warnings are under the state"
