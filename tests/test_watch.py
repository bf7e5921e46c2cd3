"""--watch: readings on a pipe, and the screen it keeps on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import READING, SCRIPT, Run, Start, eventually, needs
from simulated_charger import (
    INPUT,
    SimulatedCharger,
    exception,
    packed,
    text,
    u32,
)

import vestel

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
POWER = 1020


def target(charger: SimulatedCharger) -> list[str]:
    return ["--ip", charger.host, "--port", str(charger.port)]


def readings(lines: list[str]) -> list[Any]:
    """The readings on these lines of JSON, without their times."""
    found = [json.loads(line) for line in lines]
    for reading in found:
        assert re.fullmatch(STAMP, reading.pop("timestamp"))
    return found


# --- On a pipe ---


@pytest.mark.parametrize(
    ("interval", "count", "delay"),
    [
        pytest.param(1, 4, 0.1, id="a second, a charger that takes 0.7 s"),
        pytest.param(1.5, 3, 0, id="one and a half"),
    ],
)
def test_json_is_a_line_each_interval_without_drift(
    charger: SimulatedCharger, start: Start, interval: float, count: int, delay: float
) -> None:
    charger.delay = delay
    running = start(f"--watch={interval}", "--format=json", charger=charger)
    eventually(lambda: len(running.out) >= count)
    assert readings(running.out) == count * [READING]
    assert abs((running.out_at[-1] - running.out_at[0]) / (count - 1) - interval) < 0.1
    assert running.err == []


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
            for watts in (70501, 7360, 0):
                charger.set(INPUT, POWER, *u32(watts))
                assert line_within(pipeline.stdout, 5) == f"{watts}\n"
        finally:
            os.killpg(pipeline.pid, signal.SIGTERM)


def line_within(stream: Any, seconds: float) -> str:
    assert select.select([stream], [], [], seconds)[0], f"nothing within {seconds} s"
    line: str = stream.readline()
    return line


def test_human_is_a_block_each_interval_that_starts_with_the_time(
    charger: SimulatedCharger, start: Start, run: Run
) -> None:
    human = run(charger=charger).stdout
    running = start("--watch=1", charger=charger)
    eventually(lambda: len(running.out) >= 2 * (2 + human.count("\n")))
    charger.stop()
    eventually(lambda: running.err)
    made = len(running.out)
    lost = time.monotonic()
    eventually(lambda: time.monotonic() > lost + 1.2)
    assert len(running.out) == made, "nothing while the charger is lost"
    assert running.end() == 0
    before, *stamps_and_blocks = re.split(rf"^({STAMP})\n", "".join(running.out), flags=re.MULTILINE)
    assert before == ""
    assert set(stamps_and_blocks[1::2]) == {human + "\n"}, "a blank line after each"
    assert len(set(stamps_and_blocks[::2])) == len(stamps_and_blocks) // 2 >= 2


@pytest.mark.parametrize("style", ["human", "json"])
def test_whoever_closes_the_pipe_ends_it_quietly(
    charger: SimulatedCharger, environment: dict[str, str], style: str
) -> None:
    command = [sys.executable, str(SCRIPT), *target(charger), "--watch=1", f"--format={style}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("style", ["human", "json"])
def test_a_full_disk_ends_it_with_an_error(charger: SimulatedCharger, run: Run, style: str) -> None:
    with open("/dev/full", "w") as full:
        result = run("--watch=1", f"--format={style}", charger=charger, stdout=full)
    assert result.returncode == 1
    assert re.fullmatch("ERROR: cannot write to stdout: .+\n", result.stderr)


def test_the_demo_is_watched_as_a_charger_is(start: Start) -> None:
    human = start("--demo", "--watch=1")
    running = start("--demo", "--watch=1", "--format=json")
    eventually(lambda: len(running.out) >= 3)
    first, _, third = readings(running.out[:3])
    assert third["session"]["duration_s"] - first["session"]["duration_s"] in (1, 2, 3)
    assert eventually(lambda: [line for line in human.out if line.startswith("Serial: ")])
    assert (running.end(), human.end()) == (0, 0)
    assert running.err == human.err == []


# --- On a terminal: what is sent ---

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
DRAWING = re.compile(r"\x1b\[H(.*?)\x1b\[J", re.DOTALL)
COLOUR = r"\x1b\[[\d;]*m"


class Terminal:
    """vestel.py on a terminal of its own, and all that it sends there."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int, height: int) -> None:
        self.sent = ""
        self._end, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
        )
        os.close(terminal)
        self._collector = threading.Thread(target=self._collect)
        self._collector.start()

    def _collect(self) -> None:
        data = b""
        with contextlib.suppress(OSError):  # EIO: the last one who had it open has gone
            while chunk := os.read(self._end, 65536):
                data += chunk
                # What ends a line comes out of a terminal with one \r more.
                self.sent = data.decode("utf-8", "ignore").replace("\r\n", "\n")
        os.close(self._end)

    def wait(self) -> int:
        status = self.process.wait(timeout=60)
        self._collector.join()
        return status

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.wait()

    def drawings(self, count: int = 1) -> list[str]:
        """The whole drawings, as soon as there are so many."""
        found: list[str] = eventually(lambda: (f := DRAWING.findall(self.sent))[count - 1 :] and f)
        return found


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Open]:
    """Start vestel.py --watch=1 on a terminal."""
    opened: list[Terminal] = []

    def start(
        *options: str,
        charger: SimulatedCharger | None = None,
        columns: int = 80,
        height: int = 24,
        **variables: str,
    ) -> Terminal:
        command = [sys.executable, str(SCRIPT), *(target(charger) if charger else []), "--watch=1", *options]
        surroundings = {**environment, "TERM": "xterm", **variables}
        opened.append(Terminal(command, surroundings, columns, height))
        return opened[-1]

    yield start
    for each in opened:
        each.process.kill()
        each.wait()


@pytest.mark.parametrize("up", [True, False], ids=["read", "lost"])
@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_terminal_is_left_as_it_was_found(
    charger: SimulatedCharger, terminal: Open, how: int, status: int, up: bool
) -> None:
    if not up:
        charger.stop()
    window = terminal(charger=charger)
    assert ("VEST" if up else "no reading since") in window.drawings()[0]
    assert window.end(how) == status
    assert window.sent.startswith(ENTER)
    drawn, said = window.sent.split(LEAVE)
    assert said == "" if up else said.startswith("WARNING: no reading since"), "on the screen that stays"
    assert len(re.findall(r"\x1b\[\?", drawn)) == 2


def test_an_error_is_told_on_the_screen_that_stays(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal("--set-current=99", charger=charger)
    assert window.wait() == 3
    assert re.fullmatch(r"ERROR: failed writing current: .*\n", window.sent)


def test_a_redraw_never_clears_the_screen(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal(charger=charger)
    first, second = window.drawings(2)[:2]
    assert "\x1b[2J" not in window.sent
    assert "Total Power" in second
    assert not second.startswith("\x1b["), "nothing is wiped before it is written again"
    assert second.count("\n") == first.count("\n")


@pytest.mark.parametrize(
    ("columns", "height"), [(200, 50), (80, 24), (60, 30), (48, 24), (40, 24), (30, 10), (80, 5)]
)
def test_a_drawing_stays_within_the_terminal(
    charger: SimulatedCharger, terminal: Open, columns: int, height: int
) -> None:
    charger.set(INPUT, 1006, *u32(0x0FFFFFFF))
    window = terminal("--details", charger=charger, columns=columns, height=height)
    drawing = re.sub(rf"{COLOUR}|\x1b\[K", "", window.drawings()[0])
    lines = drawing.split("\r\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= columns, "else it wraps, and the next drawing scrolls"


UNRULY = "A\x1b[31mB\x1b]0;x\x07C\r\n\x9bD"


@pytest.mark.parametrize("layout", [text, packed])
def test_the_text_of_the_charger_cannot_steer_the_terminal(
    charger: SimulatedCharger, terminal: Open, layout: Callable[[str, int], list[int]]
) -> None:
    charger.set(INPUT, 100, *layout(UNRULY, 25))
    charger.set(INPUT, 130, *layout(UNRULY, 50))
    window = terminal("--details", charger=charger, NO_COLOR="1")
    plain = re.sub(r"\x1b\[K|\r\n", "", window.drawings()[0])
    assert plain.isprintable(), repr(plain)
    assert len(re.findall(r": +A\[31mB\]0;xCD", plain)) == 2


CHARGING, FAULTED = "\x1b[32mCharging\x1b[0m", "\x1b[1;31mFaulted\x1b[0m"


@pytest.mark.parametrize(
    ("code", "variables", "shown"),
    [
        pytest.param(2, {}, CHARGING, id="charging"),
        pytest.param(8, {}, FAULTED, id="faulted"),
        pytest.param(2, {"NO_COLOR": "1"}, None, id="charging, NO_COLOR"),
        pytest.param(8, {"NO_COLOR": "1"}, None, id="faulted, NO_COLOR"),
    ],
)
def test_colours_are_shown_unless_no_color_is_set(
    charger: SimulatedCharger, terminal: Open, code: int, variables: dict[str, str], shown: str | None
) -> None:
    charger.set(INPUT, 1000, code)
    (drawing, *_) = terminal(charger=charger, **variables).drawings()
    assert ("State" in drawing, "\x1b[3" in drawing) == (True, shown is not None)
    assert shown is None or shown in drawing
    assert shown is not None or not re.search(COLOUR, drawing)


def test_a_terminal_that_can_do_nothing_gets_blocks(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal(charger=charger, TERM="dumb")
    eventually(lambda: "Serial: " in window.sent)
    assert "\x1b" not in window.sent
    assert re.match(STAMP, window.sent)


def test_json_is_a_line_each_on_a_terminal_too(charger: SimulatedCharger, terminal: Open) -> None:
    window = terminal("--format=json", charger=charger)
    eventually(lambda: window.sent.count("\n") >= 2)
    assert window.end() == 0
    assert set(map(json.dumps, readings(window.sent.splitlines()))) == {json.dumps(READING)}


# --- On a terminal: what is seen ---


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


def ctrl_c(tmux: Tmux) -> None:
    tmux("send-keys", "C-c")


@pytest.mark.parametrize(("end", "status"), [(ctrl_c, 130), (Tmux.terminate, 0)])
def test_the_screen_of_the_shell_comes_back(tmux: Tmux, end: Callable[[Tmux], None], status: int) -> None:
    tmux.type("echo before")
    before = tmux.shows(r"(?m)^before\n\$")
    tmux.watch("--demo")
    tmux.shows("VESTEL-DEMO")
    assert tmux.flags() == "1 0"
    end(tmux)
    after = tmux.shows(r"(?m)^ended \d+\n\$")
    assert after == f"{before} ./w; echo ended $?\nended {status}\n$"
    assert tmux.flags() == "0 1"


SHOWN = {
    "Serial": "VEST1234567890",
    "Max Power": "22000 W (22.00 kW)",
    "Phases": "3-phase",
    "Chargepoint State": "Charging",
    "Charging State": "Charging",
    "Equipment State": "Running",
    "Cable State": "CableConnected_VehicleLocked",
    "Fault Code": "0",
    "Current L1 L2 L3": "15.234 A 15.181 A 15.257 A",
    "Voltage L1 L2 L3": "231 V 230 V 229 V",
    "Power L1 L2 L3": "66518 W 3491 W 3492 W",
    "Total Power": "70501 W (70.50 kW)",
    "Meter Reading": "121682.1 kWh",
    "Energy": "1940301 Wh (1940.301 kWh)",
    "Duration": "95025 s (1 day, 2:23:45)",
    "Started": "07:42:10",
    "Ended": "n/a",
    "EVSE Minimum": "6 A",
    "EVSE Maximum": "32 A",
    "Cable Maximum": "20 A",
    "Session Maximum": "28 A",
    "Dynamic Current": "16 A",
    "Failsafe Current": "10 A",
    "Failsafe Timeout": "21 s",
}
DETAILS_SHOWN = {
    "Chargepoint ID": "CP-GARAGE-01",
    "Brand": "Vestel",
    "Model": "EVC04",
    "Firmware": "v3.187.0-1.8.156.0",
    "Clock": "2026-11-20T09:15:30",
    "Phase Switch": "3-phase",
}
HEADS = ["Identity", "States", "Electrical", "Session", "Current Limits"]


def halves(screen: str) -> str:
    """The text of the left half of the screen, then that of the right half."""
    lines = screen.splitlines()
    column = next(found.start(1) for found in (re.search("==  +(==)", line) for line in lines) if found)
    return " ".join(
        " ".join([*(line[:column] for line in lines), *(line[column:] for line in lines)]).split()
    )


@pytest.mark.parametrize(
    ("options", "shown", "heads"),
    [
        pytest.param([], SHOWN, HEADS, id="core"),
        pytest.param(["--details"], {**SHOWN, **DETAILS_SHOWN}, [*HEADS, "Details"], id="details"),
    ],
)
def test_80_columns_and_24_lines_show_everything(
    charger: SimulatedCharger, tmux: Tmux, options: list[str], shown: dict[str, str], heads: list[str]
) -> None:
    tmux.watch(*target(charger), *options)
    screen = tmux.shows("(?m)^Power, .*[▁-█]")
    assert len(screen.splitlines()) <= 24
    assert tmux.screen("-J").count("\n") >= screen.count("\n"), "no line goes on in the next"
    assert "~" not in screen
    assert re.match(rf"{charger.host}:{charger.port}  {STAMP}\n", screen), (
        "the first line is not scrolled away"
    )
    assert sorted(re.findall("== (.*?) ==", screen)) == sorted(heads)
    told = halves(screen)
    assert [row for row in map(": ".join, shown.items()) if f"{row} " not in told] == []


@pytest.mark.parametrize("bits", [[25], [4, 18], [10, 11, 12]])
def test_the_names_of_faults_are_not_cut(charger: SimulatedCharger, tmux: Tmux, bits: list[int]) -> None:
    names = {
        4: "PP Error",
        10: "Undervoltage Phase 1",
        11: "Undervoltage Phase 2",
        12: "Undervoltage Phase 3",
        18: "RFID Error",
        25: "HMI External MID Communication Error",
    }
    charger.set(INPUT, 1006, *u32(sum(1 << bit for bit in bits)))
    tmux.watch(*target(charger))
    told = halves(tmux.shows("Fault Code"))
    assert [names[bit] for bit in bits if names[bit] not in told] == []


def test_a_warning_is_not_cut(charger: SimulatedCharger, tmux: Tmux) -> None:
    charger.set(INPUT, 1014, 5000)
    charger.fault(exception(4), 1502)
    tmux.watch(*target(charger))
    screen = " ".join(tmux.shows("1014").split())
    assert "is 5000 V: no such charger can have that, left out" in screen
    assert "WARNING: Cannot read input registers 1502-1513: exception 4 (device failure)" in screen


def test_a_lost_charger_is_told_in_place_of_the_reading_until_it_is_back(
    charger: SimulatedCharger, tmux: Tmux
) -> None:
    tmux.watch(*target(charger))
    tmux.shows("VEST1234567890")
    charger.stop()
    screen = tmux.shows("no reading since")
    assert re.search(rf"no reading since {STAMP}: Cannot connect to", " ".join(screen.split()))
    assert not re.search("VEST1234567890|70501|== ", screen)
    charger.start()
    screen = tmux.shows("VEST1234567890")
    assert len(re.findall(rf"{charger.host}:{charger.port} answers again", screen)) == 1
    assert len(screen.splitlines()) <= 24


@pytest.mark.parametrize(
    ("powers", "line"),
    [
        pytest.param([], "", id="none"),
        pytest.param([None, None], "  ", id="no readings"),
        pytest.param([0, 0], "▁▁", id="nothing flows"),
        pytest.param([0, 22000], "▁█", id="all or nothing"),
        pytest.param([7360], "█", id="the greatest is full"),
        pytest.param([0, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 7999], "▁▂▃▄▅▆▇██", id="in between"),
        pytest.param([11000, None, 5500, None], "█ ▄ ", id="gaps"),
    ],
)
def test_powers_become_blocks_from_0_to_the_greatest(powers: list[int | None], line: str) -> None:
    assert vestel.sparkline(powers) == line


def test_a_warning_draws_no_old_power_as_a_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    words, _ = vestel.read_core(vestel.Charger(vestel.Demo, "a charger", 1))
    reading, _ = vestel.decode(words, datetime.now(timezone.utc), False)
    screen = vestel.Screen("a charger", 1)
    screen.show(reading, "")
    assert vestel.BLOCKS[-1] in capsys.readouterr().out
    screen._powers.clear()  # as after five minutes without a reading
    screen.say("WARNING: lost")
    drawn = capsys.readouterr().out
    assert "WARNING: lost" in drawn
    assert not set(drawn) & set(vestel.BLOCKS)
