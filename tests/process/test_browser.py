"""The web page of --listen in a real browser. What it says is tested as text, in tests/unit."""

from __future__ import annotations

import contextlib
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
from readings import faulted, snapshot

import vestel

NAME = "192.168.1.100:502"
PROBLEM = f"no reading since 2026-11-20T08:10:30+00:00: Cannot connect to {NAME}: <no answer>"
UNREAD = "Cannot read input registers 1502-1513: exception 4 (device failure)"
POWERS = tuple((START - age, 6900 if age > 600 else None) for age in range(1800, 0, -5))
WIDTHS = [320, 500, 1600]


def page(of: vestel.Snapshot) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vestel, "time", Clock())
        return vestel.format_page(NAME, of._replace(powers=POWERS))


AVAILABLE = snapshot(
    states__chargepoint={"code": 0, "name": "Available"}, electrical__power__total_kw=0.0
)
ALL = {
    "charging": snapshot(),
    "faulted": faulted(*(f"Overvoltage Phase {n}" for n in range(28))),
    "warned": snapshot()._replace(warnings=(UNREAD, "the charger refuses the heartbeat")),
    "lost": vestel.Snapshot(None, PROBLEM, (PROBLEM, UNREAD), failed=3),
    "connecting": vestel.Snapshot(),
}


def held(text: str, place: str) -> tuple[str, str]:
    """Return the class and the content of the element with this id."""
    element = rf'<(\w+) id="{place}"(?: class="(\w*)")?[^>]*>(.*?)</\1>'
    ((_, style, content),) = re.findall(element, text, re.DOTALL)
    return style, content


GONE = ""


@contextlib.contextmanager
def serving(around: str, answers: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, int]]]:
    """Serve pages in place of vestel.py; give the address, and how often each was asked for.

    For each path one answer after the other, and the last one again and again. Around them, there
    is a page that looks at them in frames.
    """
    asked = dict.fromkeys(answers, 0)
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

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    how = {"poll_interval": 0.05}
    thread = threading.Thread(target=server.serve_forever, kwargs=how)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def browse(address: str, seconds: int, profile: Path) -> tuple[Any, str]:
    """Open a page for so many seconds of the browser; return what it noted, and its log."""
    flags = [
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("hide-scrollbars", "disable-background-networking", "disable-component-update"),
        *("disable-sync", "enable-logging=stderr", "dump-dom", "window-size=1700,1000"),
        *(f"user-data-dir={profile}", f"virtual-time-budget={seconds * 1000}"),
        "blink-settings=preferredColorScheme=1",  # light
    ]
    result = subprocess.run(
        [needs("chromium", "chromium"), *(f"--{flag}" for flag in flags), address],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "HOME": str(profile)},
        timeout=100,
        check=True,
    )
    (noted,) = re.findall("(?s)<pre>(.*?)</pre>", result.stdout)
    return json.loads(html.unescape(noted)), result.stderr


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
      const filter = view.getComputedStyle(page.querySelector("main")).filter
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
    "renewed": (12, [AVAILABLE, vestel.Snapshot(), snapshot()]),
    "changed": (7, [snapshot(), LATER]),
    "warned": (7, [snapshot(), ALL["warned"]]),
    "unchanged": (7, [snapshot()]),
    "gone": (7, [snapshot(), GONE]),
    "another": (7, [snapshot(), "<h1>502 Bad Gateway</h1>"]),
    "back": (18, [snapshot(), GONE, "<p>", AVAILABLE]),
}


def test_page_renews_itself_in_place(
    charger: SimulatedCharger, start: Start, tmp_path: Path
) -> None:
    """All of it in one test: a browser takes seconds."""
    answers = {
        name: [one if isinstance(one, str) else page(one) for one in given]
        for name, (_, given) in FRAMES.items()
    }
    first = answers["renewed"][0].replace("<body>", '<body data-loaded="first">')
    answers["renewed"][0] = first
    seconds = {name: seconds for name, (seconds, _) in FRAMES.items()}
    process = listen(start, "-v", charger=charger, ready=True)
    around = WATCHED.replace("FRAMES", json.dumps(seconds))
    around += f'<iframe src="http://127.0.0.1:{process.port}/"></iframe>'
    with serving(around, answers) as (address, asked):
        noted, log = browse(address, 20, tmp_path)

    assert "Content Security Policy" not in log
    assert process.running.end() == 0
    scraped = [line for line in process.running.err if '"GET / HTTP/1.1" 200' in line]
    assert len(scraped) > 1, "the script of a process runs in a frame, too"

    renewed = noted["renewed"]["html"]
    assert asked["renewed"] == 3
    assert held(renewed, "state") == ("good", "Charging")
    assert held(renewed, "power")[1] == "70.50 kW"
    assert "<title>Charging 70.50 kW - Vestel EVC04</title>" in renewed
    assert renewed.count("<section id=") == 6
    assert "<h2>Details</h2>" in renewed
    assert 'data-loaded="first"' in renewed, "it is not loaded anew"
    assert held(renewed, "connection")[1] == ""

    assert noted["changed"]["changed"] == ["power", "glance", "electrical", "session"]
    assert noted["changed"]["selected"] == "VEST1234567890"
    assert noted["unchanged"]["changed"] == []
    assert asked["unchanged"] == 2

    style, warnings = held(noted["warned"]["html"], "warnings")
    assert style == "bad"
    assert UNREAD in warnings
    assert noted["warned"]["changed"] == ["warnings"]

    for answer in ("gone", "another"):
        lost = noted[answer]["html"]
        style, text = held(lost, "connection")
        assert style == "bad"
        assert re.fullmatch(r"no connection to vestel\.py since \d\d:\d\d:\d\d", text)
        assert f"<title>{text}</title>" in lost
        assert re.search('<p id="connection"[^>]* role="alert"', lost)
        assert noted[answer]["filter"] == "grayscale(1)"
        assert held(lost, "state")[1] == "Charging"
        assert noted[answer]["changed"] == ["connection"]

    back = noted["back"]["html"]
    assert held(back, "state")[1] == "Available"
    assert held(back, "connection")[1] == ""
    assert noted["back"]["filter"] == "none"
    assert "<title>Available 0.00 kW - Vestel EVC04</title>" in back


# The pages in frames of these widths: how wide each becomes, where its parts begin and end, and the
# colours of its texts on what.
MEASURED = """<body><pre></pre><script>
const noted = {}
for (const scheme of ["light", "dark"]) for (const name of NAMES) for (const width of WIDTHS) {
  if (scheme === "dark" && width !== WIDTHS[0]) continue
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


def test_page_fits_phone_and_desk_and_can_be_read(tmp_path: Path) -> None:
    around = MEASURED.replace("NAMES", json.dumps([*ALL])).replace("WIDTHS", json.dumps(WIDTHS))
    with serving(around, {name: [page(of)] for name, of in ALL.items()}) as (address, _):
        found, _ = browse(address, 2, tmp_path)
    assert {*found} == {f"{scheme} {name}" for scheme in ("light", "dark") for name in ALL}
    for name, of in found.items():
        is_dark = name.startswith("dark")
        widths = WIDTHS[:1] if is_dark else WIDTHS
        assert of["widths"] == {str(width): width for width in widths}, name
        assert len(of["colours"]) > 4, name
        for ink, ground, opacity in of["colours"]:
            assert contrast(ink, ground, opacity) >= 4.5, (name, ink, ground, opacity)
            assert (contrast(ground, "rgb(0, 0, 0)", 1) < 3) is is_dark, (name, ground)
    for state, warnings, glance in found["light warned"]["places"].values():
        assert state[1] <= warnings[0] < warnings[1] <= glance[0], "warnings are under the state"
