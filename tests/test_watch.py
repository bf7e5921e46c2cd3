"""--watch as a process: readings on a pipe, and the screen it keeps on a terminal.

What is drawn on a terminal of a given size is the subject of test_screen.py.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import READING, SCRIPT, Start, eventually, gaps, needs
from long_modes import (
    ENTER,
    LEAVE,
    STAMP,
    TIMEOUT,
    Terminal,
    readings,
    side_by_side,
    target,
)
from registers import HUMAN
from simulated_charger import HOLDING, INPUT, SimulatedCharger, exception, simulated_charger, u32

POWER = 1020


# --- On a pipe ----------------------------------------------------------------------------------


@pytest.mark.every_version
def test_json_is_a_line_for_the_first_reading_at_or_after_each_interval(start: Start) -> None:
    def watch(case: tuple[float, list[int]]) -> None:
        interval, seconds = case
        with simulated_charger() as charger:
            charger.set(HOLDING, TIMEOUT, 4)  # a reading each second, whatever the interval
            running = start(f"--watch={interval}", "--format=json", charger=charger)
            eventually(lambda: len(running.out) > len(seconds))
            assert readings(running.out) == len(running.out) * [{**READING, "settings": settings(4)}]
            assert [round(gap) for gap in gaps(running.out_at)][: len(seconds)] == seconds
            assert running.err == []

    side_by_side(watch, [(1, [1, 1]), (1.5, [2])])


def settings(timeout_s: int) -> dict[str, int]:
    return {**READING["settings"], "failsafe_timeout_s": timeout_s}


def test_jq_gets_each_reading_as_it_is_made(charger: SimulatedCharger, environment: dict[str, str]) -> None:
    needs("jq", "jq")
    command = [sys.executable, str(SCRIPT), *target(charger), "--watch", "1", "--format=json"]
    with subprocess.Popen(
        ["sh", "-c", f"{shlex.join(command)} | jq --unbuffered -r .electrical.power.total_w"],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        start_new_session=True,
    ) as pipeline:
        try:
            assert pipeline.stdout
            for watts in (70501, 7360):
                charger.set(INPUT, POWER, *u32(watts))
                assert select.select([pipeline.stdout], [], [], 30)[0]
                assert pipeline.stdout.readline() == f"{watts}\n"
        finally:
            os.killpg(pipeline.pid, signal.SIGTERM)


def test_human_is_a_block_each_interval_that_starts_with_the_time(
    charger: SimulatedCharger, start: Start
) -> None:
    running = start("--watch=1", charger=charger)
    eventually(lambda: running.out.count("== Identity ==\n") == 2)
    assert running.end() == 0
    before, *stamps_and_blocks = re.split(rf"^({STAMP})\n", "".join(running.out), flags=re.MULTILINE)
    assert before == ""
    assert set(stamps_and_blocks[1::2]) == {HUMAN + "\n"}, (
        "a blank line after each, and none while it is lost"
    )
    assert len(set(stamps_and_blocks[::2])) == len(stamps_and_blocks) // 2 >= 2


# --- On a terminal: what is sent ----------------------------------------------------------------

COLOUR = r"\x1b\[[\d;]*m"
Open = Callable[..., Terminal]


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Open]:
    """Start vestel.py --watch=1 on a terminal."""
    opened: list[Terminal] = []

    def open_(*options: str, charger: SimulatedCharger | None = None, **more: Any) -> Terminal:
        chosen = [*(target(charger) if charger else []), "--watch=1", *options]
        opened.append(Terminal(chosen, {**environment, **more.pop("variables", {})}, **more))
        return opened[-1]

    yield open_
    for each in opened:
        each.process.kill()
        each.wait()


def test_the_terminal_is_left_as_it_was_found(terminal: Open) -> None:
    def leave(case: tuple[int, int, bool]) -> None:
        how, status, up = case
        with simulated_charger() as charger:
            if not up:
                charger.stop()
            window = terminal(charger=charger)
            eventually(lambda: ("VEST" if up else "no reading since") in window.sent)
            assert window.end(how) == status
        assert window.sent.startswith(ENTER)
        drawn, said = window.sent.split(LEAVE)
        assert said == "" if up else said.startswith("WARNING: no reading since"), "on the screen that stays"
        assert len(re.findall(r"\x1b\[\?", drawn)) == 2

    ways = [(signal.SIGINT, 130), (signal.SIGTERM, 0)]
    side_by_side(leave, [(how, status, up) for how, status in ways for up in (True, False)])


def test_an_error_is_told_on_the_screen_that_stays(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal("--set-current=99", charger=charger)
    assert window.wait() == 3
    assert re.fullmatch(r"ERROR: failed writing current: .*\n", window.sent.split(LEAVE)[-1])


def test_it_is_drawn_in_place_and_as_large_as_the_terminal_is_now(
    charger: SimulatedCharger, terminal: Open
) -> None:
    window = terminal("--details", charger=charger, columns=100, rows=40)
    eventually(lambda: "Total Power" in window.sent)
    before = len(window.drawings())
    window.resize(60, 12)

    def smaller() -> list[str] | None:
        drawn = [re.sub(rf"{COLOUR}|\x1b\[K", "", each).split("\r\n") for each in window.drawings()[before:]]
        return next((lines for lines in drawn if len(lines) <= 12), None)

    lines = eventually(smaller)
    assert 48 < max(map(len, lines)) <= 60, "else it wraps, and the next drawing scrolls"
    assert "70.50 kW" in lines[0]
    assert "\x1b[2J" not in window.sent
    assert "\x1b[H\x1b[" not in window.sent.replace("\x1b[H\x1b[1m", ""), (
        "nothing is wiped before it is written"
    )


def test_the_terminal_has_colours_unless_no_color_is_set(charger: SimulatedCharger, terminal: Open) -> None:
    coloured, plain = terminal(charger=charger), terminal(charger=charger, variables={"NO_COLOR": "1"})
    for window in (coloured, plain):
        eventually(lambda: "State" in window.sent)  # noqa: B023
    assert re.search(r"\x1b\[32m *Charging\x1b\[0m", coloured.sent)
    assert not re.search(COLOUR, plain.sent)


def test_a_terminal_that_can_do_nothing_gets_blocks(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal(charger=charger, variables={"TERM": "dumb"})
    eventually(lambda: "Serial: " in window.sent)
    assert "\x1b" not in window.sent
    assert re.match(STAMP, window.sent)


def test_json_is_a_line_each_on_a_terminal_too(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal("--format=json", charger=charger)
    eventually(lambda: "\n" in window.sent)
    assert window.end(signal.SIGTERM) == 0
    assert readings(window.sent.splitlines())[0] == READING


def test_warnings_go_to_the_screen_and_to_a_stderr_that_is_another_place(
    charger: SimulatedCharger, terminal: Open, tmp_path: Path
) -> None:
    charger.fault(exception(4), 1502)
    with open(tmp_path / "log", "wb") as log:
        window = terminal(charger=charger, stderr=log)
    eventually(lambda: "VEST" in window.sent)
    said = "Cannot read input registers 1502-1513: exception 4 (device failure)"
    eventually(lambda: said in window.sent.replace("\x1b[K\r\n", " "))
    assert window.end(signal.SIGTERM) == 0
    assert (tmp_path / "log").read_text() == f"WARNING: {said}\n"
    assert window.sent.endswith(LEAVE), "it is told already"


# --- On a terminal: what is seen ----------------------------------------------------------------


class Tmux:
    """A shell in a real terminal of 80 columns and 24 lines."""

    def __init__(self, tmux: str, home: Path, environment: dict[str, str]) -> None:
        self._command = [tmux, "-u", "-S", str(home / "tmux"), "-f", "/dev/null"]
        self._home = home
        self._environment = {**environment, "PS1": "$ ", "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"}
        self("new-session", "-d", "-x", "80", "-y", "24", "-c", str(home), "sh")
        self.shows(r"^\$")

    def __call__(self, *command: str) -> str:
        return subprocess.run(
            [*self._command, *command],
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
        command = shlex.join([sys.executable, str(SCRIPT), "--watch=1", *options])
        script = self._home / "w"
        script.write_text(f"#!/bin/sh\necho $$ > {self._home}/pid\nexec {command}\n")
        script.chmod(0o755)
        self.type("./w; echo ended $?")

    def terminate(self) -> None:
        os.kill(int((self._home / "pid").read_text()), signal.SIGTERM)

    def screen(self, *options: str) -> str:
        return self("capture-pane", "-p", *options).rstrip("\n")

    def shows(self, pattern: str) -> str:
        """The screen, as soon as it shows that."""
        screen: str = eventually(lambda: (s := self.screen()) and re.search(pattern, s) and s)
        return screen

    def flags(self) -> str:
        """Whether it is the alternate screen, and whether the cursor shows."""
        return self("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip()


@pytest.fixture
def tmux(tmp_path: Path, environment: dict[str, str]) -> Iterator[Tmux]:
    running = Tmux(needs("tmux", "tmux"), tmp_path, environment)
    yield running
    running("kill-server")


def test_the_screen_shows_reading_and_loss_and_that_of_the_shell_comes_back(
    charger: SimulatedCharger, tmux: Tmux
) -> None:
    tmux.type("echo before")
    before = tmux.shows(r"(?m)^before\n\$")
    tmux.watch(*target(charger), "--details")
    screen = tmux.shows("VEST1234567890")
    assert tmux.flags() == "1 0"
    first = rf"\d\d:\d\d:\d\d  70\.50 kW  Charging  Ctrl-C ends  {charger.host}:{charger.port}\n"
    assert re.match(first, screen), "the first line is not scrolled away"
    assert len(screen.splitlines()) <= 24
    assert tmux.screen("-J").count("\n") >= screen.count("\n"), "no line goes on in the next"
    charger.stop()
    screen = tmux.shows("Cannot connect to")
    assert not re.search("VEST1234567890|70501|== ", screen)
    charger.start()
    screen = tmux.shows("VEST1234567890")
    assert len(re.findall(rf"{charger.host}:{charger.port}\s+answers\s+again", screen)) == 1
    tmux("send-keys", "C-c")
    after = tmux.shows(r"(?m)^ended \d+\n\$")
    assert after.startswith(f"{before} ./w; echo ended $?\nWARNING: no reading since ")
    assert after.endswith("\nended 130\n$")
    assert tmux.flags() == "0 1"
