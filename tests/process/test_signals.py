"""Ctrl-C and SIGTERM in one reading: no traceback at any moment, and no write left unsaid.

What Python does before the program's own lines (it starts, compiles the file, and imports
`__future__`) is Python's: it prints a traceback for a Ctrl-C then, and a program cannot change
that. So the sweep begins where the program imports its first module, right behind the lines in
which it takes care of the signals: a finder of modules in front of the others tells when.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest
from charger import SILENCE, SimulatedCharger
from clock import Clock
from door import dead_host, listening
from program import (
    Run,
    Start,
    catches,
    command,
    eventually,
    fill,
    full_pipe,
    side_by_side,
    thread_count,
)
from registers import DYNAMIC, FAILSAFE, HOLDING, READING

import vestel

pytestmark = pytest.mark.every_version

DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
MAY_BE = {
    DYNAMIC: "ERROR: interrupted: dynamic current 12 A may have been written (it was 16 A)",
    FAILSAFE: "ERROR: interrupted: failsafe current 12 A may have been written (it was 10 A)",
}
LINES = {DYNAMIC: DYNAMIC_LINE, FAILSAFE: FAILSAFE_LINE}
each_signal = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)


def without_advice(lines: list[str]) -> list[str]:
    """Return the lines, those of an interrupted write only up to what is advised then."""
    return [line.rstrip("\n").partition("; a reading shows")[0] for line in lines]


# --- A charger that does not answer -------------------------------------------------------------


class Moment(NamedTuple):
    """A fault in the reply to a request: what it holds up, and what is said of the values then."""

    address: int
    write: bool
    skip: int  # so many of these requests are answered
    said: list[str]


MOMENTS = {
    "limits": Moment(1100, False, 0, []),
    "dynamic current": Moment(DYNAMIC, False, 0, []),
    "failsafe current": Moment(FAILSAFE, False, 0, []),
    "first write": Moment(DYNAMIC, True, 0, [MAY_BE[DYNAMIC]]),
    "first read-back": Moment(DYNAMIC, False, 1, [MAY_BE[DYNAMIC]]),
    "second write": Moment(FAILSAFE, True, 0, [DYNAMIC_LINE, MAY_BE[FAILSAFE]]),
    "second read-back": Moment(FAILSAFE, False, 1, [DYNAMIC_LINE, MAY_BE[FAILSAFE]]),
    "reading": Moment(100, False, 0, [DYNAMIC_LINE, FAILSAFE_LINE]),
}


@each_signal
def test_interrupted_setting_says_what_is_and_may_be_set(
    start: Start, number: int, code: int
) -> None:
    def interrupt(name: str) -> None:
        moment = MOMENTS[name]
        with listening() as charger:
            charger.fault(SILENCE, moment.address, write=moment.write, skip=moment.skip)
            running = start("--set-current=12", "--timeout=60", charger=charger)

            def is_held_up() -> bool:
                return len(charger.times_of(moment.address, write=moment.write)) > moment.skip

            eventually(is_held_up)
            assert running.end(number) == code
            assert running.out == []
            assert without_advice(running.err) == moment.said
            is_before = not moment.said
            assert is_before or charger.settings[0] == (DYNAMIC, 12)
            assert not is_before or charger.settings == []

    side_by_side(interrupt, [*MOMENTS])


@each_signal
def test_value_that_does_not_show_yet_may_be_set(
    start: Start, charger: SimulatedCharger, number: int, code: int
) -> None:
    charger.lag = {DYNAMIC: 300.0}
    running = start("--set-dynamic-current=12", charger=charger)
    eventually(lambda: charger.reads.count((HOLDING, DYNAMIC, 1)) > 2)
    assert running.end(number) == code
    assert without_advice(running.err) == [MAY_BE[DYNAMIC]]


def test_lines_of_v_wait_while_values_are_set(start: Start, charger: SimulatedCharger) -> None:
    charger.fault(SILENCE, FAILSAFE, write=True)
    running = start("-v", "--set-current=12", "--timeout=60", charger=charger)
    eventually(lambda: charger.times_of(FAILSAFE, write=True))
    before = [*running.err]
    assert running.end(signal.SIGINT) == 130
    is_of_write = re.compile(r"\d\d:\d\d:\d\d\.\d{3} .*: request( ..){6} 01 06 ").match
    traced = [line for line in running.err if re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line)]
    first, second = filter(is_of_write, traced)
    assert not {first, second} & {*before}
    said = [line for line in running.err if line not in traced or line in (first, second)]
    assert without_advice(said) == [
        *without_advice([first]),
        DYNAMIC_LINE,
        *without_advice([second]),
        MAY_BE[FAILSAFE],
    ]


Setting = Callable[[int], "contextlib.AbstractContextManager[Any]"]


@pytest.fixture
def setting(charger: SimulatedCharger, environment: dict[str, str]) -> Setting:
    """Run vestel.py --set-current=12 as a process that writes to this stderr."""

    @contextlib.contextmanager
    def run(stderr: int) -> Iterator[Any]:
        arguments = command(["--set-current=12", "--timeout=60"], charger)
        streams: Any = {"stdout": subprocess.DEVNULL, "stderr": stderr}
        with subprocess.Popen(arguments, env=environment, **streams) as process:
            try:
                yield process
            finally:
                process.kill()

    return run


def test_full_stderr_holds_up_no_write(charger: SimulatedCharger, setting: Setting) -> None:
    with full_pipe() as stderr, setting(stderr) as process:
        eventually(lambda: (charger[DYNAMIC], charger[FAILSAFE]) == (12, 12))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143


@each_signal
def test_signal_ends_it_though_nobody_takes_its_last_words(
    charger: SimulatedCharger, setting: Setting, number: int, code: int
) -> None:
    charger.fault(SILENCE, write=True)
    with full_pipe() as stderr, setting(stderr) as process:
        eventually(lambda: charger.writes)
        process.send_signal(number)
        assert process.wait(timeout=60) == code


@each_signal
def test_two_signals_in_a_row_are_answered_once(
    start: Start, charger: SimulatedCharger, number: int, code: int
) -> None:
    charger.fault(SILENCE, write=True)
    running = start("--set-current", "12", "--timeout=60", charger=charger)
    eventually(lambda: charger.writes)
    running.process.send_signal(number)
    assert running.end(number) == code
    assert (running.out, without_advice(running.err)) == ([], [MAY_BE[DYNAMIC]])


@each_signal
def test_second_signal_during_the_last_words_adds_none(
    charger: SimulatedCharger, setting: Setting, number: int, code: int
) -> None:
    charger.fault(SILENCE, write=True)
    reader, writer = os.pipe()
    fill(writer)
    with open(reader, "rb") as stderr, setting(writer) as process:
        os.close(writer)
        eventually(lambda: charger.writes)
        threads = thread_count(process)
        process.send_signal(number)
        eventually(lambda: process.poll() is not None or thread_count(process) > threads)
        process.send_signal(number)
        said = stderr.read().count(b"ERROR: interrupted")
        assert process.wait(timeout=60) == code
    assert said <= 1, "it waits for half a second, and no longer"


@each_signal
def test_signal_ends_the_wait_for_a_connection(start: Start, number: int, code: int) -> None:
    with dead_host() as port:
        running = start("--ip=127.0.0.1", f"--port={port}", "--timeout=300")
        eventually(lambda: catches(running.process, signal.SIGTERM))
        assert (running.end(number), running.out, running.err) == (code, [], [])


# --- Signals that are not the program's ---------------------------------------------------------


def sending(number: int, pids: list[int]) -> Callable[[object], None]:
    """Make a fault that sends a signal to the process whose id will be in the list."""
    return lambda _: os.kill(eventually(lambda: pids)[0], number)


def talk(arguments: list[str], pids: list[int], environment: dict[str, str]) -> tuple[str, str]:
    """Run a process to its end, with its id in the list; return stdout and stderr."""
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, encoding="utf-8", env=environment, **how) as process:
        try:
            pids.append(process.pid)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return out, f"{err}exit code {process.returncode}"


def test_ignored_signals_stay_ignored(
    charger: SimulatedCharger, environment: dict[str, str]
) -> None:
    pids: list[int] = []
    charger.fault(sending(signal.SIGINT, pids), 100)
    charger.fault(sending(signal.SIGTERM, pids), 1000)
    ignoring = ["sh", "-c", 'trap "" INT TERM; exec "$@"', "sh"]
    arguments = command(["--format=json", "--timeout=60"], charger)
    out, err = talk([*ignoring, *arguments], pids, environment)
    assert err == "exit code 0"
    assert json.loads(out)["electrical"] == READING["electrical"]


OWN_HANDLERS = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import vestel
signal.signal(signal.SIGINT, lambda number, frame: print("mine", flush=True))
signal.signal(signal.SIGTERM, lambda number, frame: print("mine, too", flush=True))
print(vestel.main(sys.argv[2:]))
"""


def test_caller_of_main_keeps_its_own_handlers(
    charger: SimulatedCharger, environment: dict[str, str]
) -> None:
    pids: list[int] = []
    charger.fault(sending(signal.SIGINT, pids), DYNAMIC, write=True)
    charger.fault(sending(signal.SIGTERM, pids), 1000)
    arguments = command(["--set-current=12"], charger)
    out, err = talk([sys.executable, "-c", OWN_HANDLERS, *arguments[1:]], pids, environment)
    assert err.splitlines() == [DYNAMIC_LINE, FAILSAFE_LINE, "exit code 0"]
    assert re.fullmatch(r"mine\nmine, too\n== Identity ==\n(.*\n)+0\n", out)


@pytest.mark.parametrize("write", [True, False], ids=["write", "read-back"])
def test_caller_of_main_is_told_of_an_interrupted_write(
    call: Run, memory: SimulatedCharger, write: bool
) -> None:
    def press(_: object) -> None:
        raise KeyboardInterrupt

    memory.fault(press, DYNAMIC, write=write, skip=0 if write else 1)
    result = call("--ip=charger", "--set-current=12")
    assert (result.returncode, result.stdout) == (130, "")
    assert without_advice(result.stderr.splitlines()) == [MAY_BE[DYNAMIC]]


class PressedAtTheFirstLine(io.StringIO):
    """A stderr at whose first line somebody presses Ctrl-C, before it is written."""

    is_pressed = False

    def write(self, text: str) -> int:
        if not self.is_pressed:
            self.is_pressed = True
            raise KeyboardInterrupt
        return super().write(text)


@pytest.mark.parametrize("keeps", [{}, {DYNAMIC: 6}], ids=["confirmed", "ignored"])
def test_ctrl_c_before_the_line_of_a_write_leaves_it_said(
    memory: SimulatedCharger, clock: Clock, keeps: dict[int, int]
) -> None:
    memory.keeps = keeps
    stderr, stdout = PressedAtTheFirstLine(), io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
        assert vestel.main(["--ip=charger", "--set-dynamic-current=12"]) == 130
    assert memory.settings == [(DYNAMIC, 12)]
    assert stdout.getvalue() == ""
    assert re.search(r"(?i)\bdynamic current\b.*\b12 A\b", stderr.getvalue())


# --- From the first moment ----------------------------------------------------------------------

# Python prints an exception that comes up in here as ignored, and goes on: so a Ctrl-C was dropped
# once, and both currents were written after it.
DROPPED = """
import os, sys

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), {number})

Dropped()
print("went on after the signal", file=sys.stderr)
raise SystemExit(99)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_signal_during_an_import_ends_it_before_any_request(
    run: Run, charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path, number: int
) -> None:
    def check(case: tuple[str, str]) -> None:
        module, option = case
        variables = {"PYTHONPATH": str(tmp_path / module), "PYTHONDONTWRITEBYTECODE": "1"}
        result = run(option, charger=charger, env={**environment, **variables})
        assert (result.returncode, result.stdout, result.stderr) == (-number, "", "")

    modules = "argparse", "pymodbus"
    for module in modules:
        (tmp_path / module).mkdir()
        code = DROPPED.format(number=int(number))
        (tmp_path / module / f"{module}.py").write_text(code, encoding="utf-8")
    options = "--details", "--set-current=12", "--watch=1", "--listen=1"
    side_by_side(check, [(module, option) for module in modules for option in options])
    assert charger.connections == 0


# --- Over the whole run -------------------------------------------------------------------------

# Moments for each signal and command, spread over its run. The whole sweep, a moment at least each
# millisecond:
#     VESTEL_SIGNAL_STEPS=400 python -m pytest -k moment tests
STEPS = int(os.environ.get("VESTEL_SIGNAL_STEPS", "8"))

MARKER = """
import os, sys

class Marker:
    def find_spec(self, name, path=None, target=None):
        if name == "argparse":
            sys.meta_path.remove(self)
            os.write(int(os.environ["READY"]), b"!")

sys.meta_path.insert(0, Marker())
"""


class Ended(NamedTuple):
    """How a run went, and how long it took (s) from the first moment on."""

    code: int
    out: str
    err: list[str]
    seconds: float


class Sweep:
    """Runs of the program, each with a signal at a moment."""

    def __init__(self, environment: dict[str, str], library: Path) -> None:
        library.mkdir()
        (library / "sitecustomize.py").write_text(MARKER, encoding="utf-8")
        self.environment = {**environment, "PYTHONPATH": str(library)}

    def end(
        self, charger: SimulatedCharger, options: list[str], number: int = 0, at: float = 0
    ) -> Ended:
        """Run the program, and send the signal so many seconds after its first moment."""
        ready, told = os.pipe()
        with open(ready, "rb") as marker, subprocess.Popen(
            command([*options, "--format=json", "--timeout=20"], charger),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**self.environment, "READY": str(told)},
            pass_fds=[told],
        ) as process:
            os.close(told)
            assert marker.read(1) == b"!"
            begin = time.monotonic()
            if number:
                time.sleep(at)
                process.send_signal(number)
            out, err = process.communicate(timeout=60)
        return Ended(process.returncode, out, err.splitlines(), time.monotonic() - begin)


@pytest.fixture
def sweep(environment: dict[str, str], tmp_path: Path) -> Sweep:
    return Sweep(environment, tmp_path / "library")


@contextlib.contextmanager
def slow_charger() -> Iterator[SimulatedCharger]:
    """A charger of its own for each run: what is short on loopback would be seldom hit."""
    with listening(delay=0.002) as charger:
        yield charger


def assert_whole(printed: str) -> None:
    assert printed.endswith("}\n")
    reading = json.loads(printed)
    del reading["timestamp"]
    set_ = {**READING["settings"], "dynamic_current_a": 12, "failsafe_current_a": 12}
    assert reading.pop("settings") in (READING["settings"], set_)
    assert reading == {key: value for key, value in READING.items() if key != "settings"}


def assert_all_is_said(
    charger: SimulatedCharger, options: list[str], number: int, ended: Ended
) -> None:
    eventually(lambda: not charger.links)
    if ended.code == -number:  # before there was anything to end cleanly
        assert (ended.out, ended.err, [*charger.requests]) == ("", [], [])
        return
    said = without_advice(ended.err)
    lines = [line for line in said if not line.startswith("ERROR: ")]
    assert lines == [DYNAMIC_LINE, FAILSAFE_LINE][: len(lines)]
    if ended.code == 0:
        assert said == ([DYNAMIC_LINE, FAILSAFE_LINE] if options else [])
    else:
        assert ended.code == 128 + number
        assert said[len(lines) :] in ([], [MAY_BE[DYNAMIC]], [MAY_BE[FAILSAFE]])
    if ended.out or ended.code == 0:
        assert_whole(ended.out)
    for address, value in charger.writes:
        assert {LINES[address], MAY_BE[address]} & {*said}
        assert value == 12


@pytest.mark.parametrize("options", [[], ["--set-current=12"]], ids=["reading", "setting"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_signal_at_any_moment_leaves_nothing_half_or_unsaid(
    sweep: Sweep, number: int, options: list[str]
) -> None:
    def check(moments: list[float]) -> None:
        for moment in moments:
            with slow_charger() as charger:
                ended = sweep.end(charger, options, number, moment)
                try:
                    assert_all_is_said(charger, options, number, ended)
                except AssertionError as error:
                    where = f"{moment * 1000:.1f} ms after the first moment"
                    raise AssertionError(f"{where}: {ended}") from error

    with slow_charger() as charger:
        whole = sweep.end(charger, options)
        assert_all_is_said(charger, options, number, whole)
        assert whole.code == 0
    moments = [(step + random.random()) / STEPS * whole.seconds for step in range(STEPS)]
    side_by_side(check, [moments[n::2] for n in range(2)])
