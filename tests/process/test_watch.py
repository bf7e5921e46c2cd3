"""--watch as a process: readings on a pipe, and the live view that it keeps on a terminal.

What is drawn on a terminal of a given size is tested as text, in tests/unit.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import program
import pytest
from charger import SILENCE, SimulatedCharger
from door import listening
from program import LEAVE, STAMP, Start, Terminal, command, eventually, json_readings, target
from registers import HUMAN, READING


@pytest.mark.every_version
def test_json_is_a_line_for_each_interval(charger: SimulatedCharger, start: Start) -> None:
    running = start("--watch=1", "--format=json", charger=charger)
    eventually(lambda: len(running.out) == 3)
    times = charger.times_of(1000)
    assert times[2] - times[0] > 1, "it makes no more readings than it prints"
    assert json_readings(running.out)[:3] == 3 * [READING]
    stamps = [json.loads(line)["timestamp"] for line in running.out]
    assert stamps == sorted({*stamps}), "each once"
    assert running.err == []


def test_human_is_a_block_that_begins_with_the_time(
    charger: SimulatedCharger, start: Start
) -> None:
    running = start("--watch=1", charger=charger)
    eventually(lambda: running.out.count("== Identity ==\n") == 2)
    assert running.end() == 0
    before, *parts = re.split(rf"^({STAMP})\n", "".join(running.out), flags=re.MULTILINE)
    stamps, blocks = parts[::2], parts[1::2]
    assert before == ""
    assert {*blocks} == {HUMAN + "\n"}, "a blank line follows each"
    assert len({*stamps}) == len(stamps) >= 2


COLOUR = r"\x1b\[[\d;]*m"
Open = Callable[..., Terminal]


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Open]:
    """Start vestel.py --watch=1 on a terminal."""
    opened: list[Terminal] = []

    def open_(charger: SimulatedCharger, *options: str, **more: Any) -> Terminal:
        variables = {**environment, **more.pop("variables", {})}
        opened.append(Terminal([*target(charger), "--watch=1", *options], variables, **more))
        return opened[-1]

    yield open_
    for each in opened:
        each.__exit__()


def lines_of(drawing: str) -> list[str]:
    return re.sub(rf"{COLOUR}|\x1b\[K", "", drawing).split("\r\n")


def test_terminal_is_left_as_it_was_found(terminal: Open) -> None:
    def leave(case: tuple[int, int, bool]) -> None:
        how, code, is_up = case
        with listening() as charger:
            if not is_up:
                charger.stop()
            window = terminal(charger)
            eventually(lambda: ("VEST" if is_up else "no reading yet") in window.sent)
            assert window.end(how) == code
        assert window.sent.startswith(program.ENTER)
        drawn, said = window.sent.split(LEAVE)
        newest_line = r"\d\d:\d\d:\d\d WARNING: no reading yet: .*\n"
        assert re.fullmatch("" if is_up else newest_line, said), "on the screen that stays"
        assert len(re.findall(r"\x1b\[\?", drawn)) == 2

    program.side_by_side(leave, [(signal.SIGINT, 130, True), (signal.SIGTERM, 0, False)])


def test_live_view_is_drawn_in_place_in_the_size_of_now(
    charger: SimulatedCharger, terminal: Open
) -> None:
    window = terminal(charger, "--details", columns=100, rows=40)
    eventually(lambda: "Total Power" in window.sent)
    assert re.search(r"\x1b\[32m[^\x1b]*Charging *\x1b\[0m", window.sent)
    before = len(window.drawings())
    window.resize(60, 12)

    def smaller() -> list[str] | None:
        drawn = map(lines_of, window.drawings()[before:])
        return next((lines for lines in drawn if len(lines) <= 12), None)

    lines = eventually(smaller)
    assert 40 < max(map(len, lines)) <= 60, "else it wraps, and the next drawing scrolls"
    assert "70.50 kW" in lines[0]
    assert "\x1b[2J" not in window.sent
    sent = window.sent.replace("\x1b[H\x1b[1m", "")
    assert "\x1b[H\x1b[" not in sent, "nothing is wiped before it is written"


def test_live_view_without_news_is_redrawn_at_a_resize(
    charger: SimulatedCharger, terminal: Open
) -> None:
    charger.fault(SILENCE)
    window = terminal(charger, "--timeout=300", columns=100)
    eventually(lambda: charger.requests)
    window.drawings(1)
    window.resize(20, 24)
    eventually(lambda: len(lines_of(window.drawings()[-1])[0]) == 20)


def test_live_view_keeps_warnings_that_last_at_its_foot(
    charger: SimulatedCharger, terminal: Open, tmp_path: Path
) -> None:
    ends = [charger.fault(4, address) for address in (1502, 1100)]
    unread = [
        f"Cannot read input registers {addresses}: exception 4 (device failure)"
        for addresses in ("1502-1513", "1100-1106")
    ]
    with open(tmp_path / "log", "wb") as log:
        window = terminal(charger, columns=200, rows=50, stderr=log)

    def shows(lasting: list[str], newest: str) -> bool:
        *last, line = lines_of(window.drawings()[-1])[-3:]
        is_newest = re.fullmatch(rf"\d\d:\d\d:\d\d {re.escape(newest)}", line)
        is_over = not {*unread}.difference(lasting) & {*last}
        return last[2 - len(lasting) :] == lasting and bool(is_newest) and is_over

    said = [f"WARNING: {unread[0]}", *(f"WARNING: over: {each}" for each in unread[::-1])]
    eventually(lambda: shows(sorted(unread), said[0]))
    ends[1]()
    eventually(lambda: shows(unread[:1], said[1]))
    ends[0]()
    eventually(lambda: shows([], said[2]))
    assert window.end(signal.SIGTERM) == 0
    logged = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert logged == [f"WARNING: {unread[1]}", *said], "a stderr elsewhere has them, too"
    assert window.sent.endswith(LEAVE), "and the screen that stays does not"


@pytest.mark.parametrize(
    ("option", "variables", "beginning"),
    [
        ("--details", {"TERM": "dumb"}, rf"{STAMP}\n== Identity ==\nSerial: "),
        ("--format=json", {}, r'\{"timestamp": .*\}\n'),
        ("--details", {"NO_COLOR": "1"}, rf"{re.escape(program.ENTER)}(?s:.*)== States"),
    ],
    ids=["dumb", "json", "NO_COLOR"],
)
def test_terminal_gets_no_colour_where_that_is_right(
    charger: SimulatedCharger,
    terminal: Open,
    option: str,
    variables: dict[str, str],
    beginning: str,
) -> None:
    window = terminal(charger, option, variables=variables)
    eventually(lambda: re.match(beginning, window.sent))
    assert not re.search(COLOUR, window.sent)
    assert "NO_COLOR" in variables or "\x1b" not in window.sent


class Tmux:
    """A shell in a real terminal of 80 columns and 24 lines."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        tmux = program.needs("tmux", "tmux")
        self._command = [tmux, "-u", "-S", str(home / "tmux"), "-f", "/dev/null"]
        self._home = home
        self._environment = {**environment, "PS1": "$ ", "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"}
        self("new-session", "-d", "-x", "80", "-y", "24", "-c", str(home), "sh")

    def __call__(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._command, *arguments],
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=self._environment,
            timeout=60,
            check=True,
        ).stdout

    def type(self, line: str) -> None:
        self("send-keys", "-l", line)
        self("send-keys", "Enter")

    def watch(self, *options: str) -> None:
        """Type a command that watches, in few letters."""
        watch = shlex.join(command(["--watch=1", *options], None))
        (self._home / "w").write_text(f"exec {watch}\n", encoding="utf-8")
        self.type("sh w; echo ended $?")

    def screen(self, *options: str) -> str:
        return self("capture-pane", "-p", *options).rstrip("\n")

    def shows(self, pattern: str) -> str:
        """Return the screen, as soon as it shows that."""
        screen: str = eventually(lambda: (s := self.screen()) and re.search(pattern, s) and s)
        return screen

    def flags(self) -> str:
        """Return whether it is the alternate screen, and whether the cursor shows."""
        return self("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip()


@pytest.fixture
def tmux(tmp_path: Path, environment: dict[str, str]) -> Iterator[Tmux]:
    running = Tmux(tmp_path, environment)
    try:
        running.shows(r"^\$")
        yield running
    finally:
        running("kill-server")


def test_live_view_of_a_loss_and_the_screen_of_the_shell_again(
    charger: SimulatedCharger, tmux: Tmux
) -> None:
    tmux.type("echo before")
    before = tmux.shows(r"(?m)^before\n\$")
    tmux.watch(*target(charger), "--details")
    screen = tmux.shows("VEST1234567890")
    assert tmux.flags() == "1 0"
    where = re.escape(f"{charger.host}:{charger.port}")
    header = rf"\d\d:\d\d:\d\d  70\.50 kW  Charging  Ctrl-C ends  {where}\n"
    assert re.match(header, screen), "the first line is not scrolled away"
    assert len(screen.splitlines()) <= 24
    assert tmux.screen("-J").count("\n") >= screen.count("\n"), "no line goes on in the next"
    charger.stop()
    screen = tmux.shows("Cannot connect to")
    assert not re.search("VEST1234567890|70501|== ", screen)
    charger.start()
    screen = tmux.shows("VEST1234567890")
    assert re.search(r"\n\d\d:\d\d:\d\d WARNING: over: the charger is back$", screen)
    tmux("send-keys", "C-c")
    after = tmux.shows(r"(?m)^ended \d+\n\$")
    assert after.startswith(f"{before} sh w; echo ended $?\n")
    last_words = r"\n\d\d:\d\d:\d\d WARNING: over: the charger is back\nended 130\n\$$"
    assert re.search(last_words, after)
    assert tmux.flags() == "0 1"


def test_live_view_is_whole_again_after_ctrl_z_and_fg(
    charger: SimulatedCharger, tmux: Tmux
) -> None:
    charger.fault(SILENCE)
    tmux.watch(*target(charger), "--timeout=300")
    tmux.shows("there is no reading yet")
    tmux("send-keys", "C-z")
    tmux.shows(r"(?i)stopped|suspended")
    assert tmux.flags() == "0 1", "the shell has its screen"
    tmux.type("clear; echo another")
    eventually(lambda: tmux.screen().splitlines()[:1] == ["another"])
    started_at = time.monotonic()
    eventually(lambda: time.monotonic() > started_at + 1)
    tmux.type("fg")
    screen = tmux.shows("there is no reading yet")
    assert "another" not in screen
    assert tmux.flags() == "1 0"
