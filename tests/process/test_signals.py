"""Ctrl-C and SIGTERM in one reading: no traceback at any moment, and no write left unsaid.

What Python does before the program's own lines (it starts, compiles the file, and imports
`__future__`) is Python's: it prints a traceback for a Ctrl-C then, and a program cannot change
that. So the sweep begins where the program imports its first module, right behind the lines in
which it takes care of the signals: a finder of modules in front of the others tells when.
"""

from __future__ import annotations

import contextlib
import itertools
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

import program
import pytest
from charger import SILENCE, SimulatedCharger
from door import dead_host, listening
from program import (
    Run,
    Start,
    catches,
    command,
    eventually,
    full_pipe,
    side_by_side,
    thread_count,
    waits_for_network,
)
from registers import DYNAMIC, FAILSAFE, HOLDING, READING

pytestmark = pytest.mark.every_version

LINES = {DYNAMIC: "Dynamic current: 16 A -> 12 A", FAILSAFE: "Failsafe current: 10 A -> 12 A"}
MAY_BE = {
    DYNAMIC: "ERROR: interrupted: dynamic current 12 A may have been written (it was 16 A)",
    FAILSAFE: "ERROR: interrupted: failsafe current 12 A may have been written (it was 10 A)",
}
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
each_signal = pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["Ctrl-C", "SIGTERM"])


def without_advice(lines: list[str]) -> list[str]:
    """Return the lines, those of an interrupted write only up to what is advised then."""
    return [line.rstrip("\n").partition("; a reading shows")[0] for line in lines]


class Moment(NamedTuple):
    """A fault in the reply to a request: what it holds up, and what is said of the values then."""

    address: int
    write: bool
    skip: int  # so many of these requests are answered
    said: list[str]


MOMENTS = {
    "limits": Moment(1100, False, 0, []),
    "failsafe current": Moment(FAILSAFE, False, 0, []),
    "first write": Moment(DYNAMIC, True, 0, [MAY_BE[DYNAMIC]]),
    "first read-back": Moment(DYNAMIC, False, 1, [MAY_BE[DYNAMIC]]),
    "second read-back": Moment(FAILSAFE, False, 1, [LINES[DYNAMIC], MAY_BE[FAILSAFE]]),
    "second write": Moment(FAILSAFE, True, 0, [LINES[DYNAMIC], MAY_BE[FAILSAFE]]),
    "reading": Moment(100, False, 0, [*LINES.values()]),
}


def test_interrupted_setting_says_what_is_and_may_be_set(start: Start) -> None:
    def interrupt(case: tuple[str, tuple[int, int]]) -> None:
        name, (number, code) = case
        moment = MOMENTS[name]
        with listening() as charger:
            charger.fault(SILENCE, moment.address, write=moment.write, skip=moment.skip)
            running = start("--set-current=12", "--timeout=60", charger=charger)

            def is_held_up() -> bool:
                return len(charger.times_of(moment.address, write=moment.write)) > moment.skip

            eventually(lambda: is_held_up() and waits_for_network(running.process))
            assert running.end(number) == code
            assert running.out == []
            assert without_advice(running.err) == moment.said
            assert charger.settings[:1] == ([(DYNAMIC, 12)] if moment.said else [])

    side_by_side(interrupt, [*zip(MOMENTS, itertools.cycle(SIGNALS))])


def test_value_that_does_not_show_yet_may_be_set(start: Start, charger: SimulatedCharger) -> None:
    charger.lag = {DYNAMIC: 300.0}
    running = start("--set-dynamic-current=12", charger=charger)
    eventually(lambda: charger.reads.count((HOLDING, DYNAMIC, 1)) > 2)
    assert running.end(signal.SIGINT) == 130
    assert without_advice(running.err) == [MAY_BE[DYNAMIC]]


Writing = Callable[[int], "contextlib.AbstractContextManager[Any]"]


@pytest.fixture
def writing(charger: SimulatedCharger, environment: dict[str, str]) -> Writing:
    """Run a process that writes to this stderr, and whose write is not answered."""
    charger.fault(SILENCE, write=True)

    @contextlib.contextmanager
    def run(stderr: int) -> Iterator[Any]:
        arguments = command(["--set-current=12", "--timeout=60"], charger)
        streams: Any = {"stdout": subprocess.DEVNULL, "stderr": stderr}
        with subprocess.Popen(arguments, env=environment, **streams) as process:
            try:
                eventually(lambda: charger.writes and waits_for_network(process))
                yield process
            finally:
                process.kill()

    return run


@each_signal
def test_signal_ends_it_though_nobody_takes_its_last_words(
    writing: Writing, number: int, code: int
) -> None:
    with full_pipe() as stderr, writing(stderr) as process:
        process.send_signal(number)
        assert process.wait(timeout=60) == code


@each_signal
def test_two_signals_in_a_row_are_answered_once(
    start: Start, charger: SimulatedCharger, number: int, code: int
) -> None:
    charger.fault(SILENCE, write=True)
    running = start("--set-current", "12", "--timeout=60", charger=charger)
    eventually(lambda: charger.writes and waits_for_network(running.process))
    running.process.send_signal(number)
    assert running.end(number) == code
    assert (running.out, without_advice(running.err)) == ([], [MAY_BE[DYNAMIC]])


def test_second_signal_during_the_last_words_adds_none(writing: Writing) -> None:
    reader, writer = os.pipe()
    program.fill(writer)
    with open(reader, "rb") as stderr, writing(writer) as process:
        os.close(writer)
        threads = thread_count(process)
        process.send_signal(signal.SIGINT)
        eventually(lambda: process.poll() is not None or thread_count(process) > threads)
        process.send_signal(signal.SIGINT)
        said = stderr.read().count(b"ERROR: interrupted")
        assert process.wait(timeout=60) == 130
    assert said <= 1, "it waits for half a second, and no longer"


@each_signal
def test_signal_ends_the_wait_for_a_connection(start: Start, number: int, code: int) -> None:
    with dead_host() as port:
        running = start("--ip=127.0.0.1", f"--port={port}", "--timeout=300")
        eventually(lambda: catches(running.process, signal.SIGTERM))
        eventually(lambda: waits_for_network(running.process))
        assert (running.end(number), running.out, running.err) == (code, [], [])


def signalled(
    charger: SimulatedCharger, arguments: list[str], environment: dict[str, str]
) -> tuple[str, str]:
    """Run a process that gets a Ctrl-C with its first request, and a SIGTERM before it is read."""
    pids: list[int] = []

    def sending(number: int) -> Callable[[object], None]:
        return lambda _: os.kill(eventually(lambda: pids)[0], number)

    charger.fault(sending(signal.SIGINT), times=1)
    charger.fault(sending(signal.SIGTERM), 1000)
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
    ignoring = ["sh", "-c", 'trap "" INT TERM; exec "$@"', "sh"]
    arguments = command(["--format=json", "--timeout=60"], charger)
    out, err = signalled(charger, [*ignoring, *arguments], environment)
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
    arguments = command(["--set-current=12"], charger)
    caller = [sys.executable, "-c", OWN_HANDLERS, *arguments[1:]]
    out, err = signalled(charger, caller, environment)
    assert err.splitlines() == [*LINES.values(), "exit code 0"]
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


def test_signal_during_an_import_ends_it_before_any_request(
    run: Run, charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path
) -> None:
    for number, module, option in (
        (signal.SIGINT, "argparse", "--set-current=12"),
        (signal.SIGINT, "pymodbus", "--set-current=12"),
        (signal.SIGINT, "pymodbus", "--watch=1"),
        (signal.SIGTERM, "pymodbus", "--listen=1"),
    ):
        library = tmp_path / f"{module}{option}"
        library.mkdir()
        code = DROPPED.format(number=int(number))
        (library / f"{module}.py").write_text(code, encoding="utf-8")
        variables = {"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
        result = run(option, charger=charger, env={**environment, **variables})
        assert (result.returncode, result.stdout, result.stderr) == (-number, "", "")
    assert charger.connections == 0


# Moments for each command, spread over its run. The whole sweep, a moment at least each ms:
#     VESTEL_SIGNAL_STEPS=800 python -m pytest -k moment tests
STEPS = int(os.environ.get("VESTEL_SIGNAL_STEPS", "10"))

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


Sweep = Callable[..., Ended]


@pytest.fixture
def sweep(environment: dict[str, str], tmp_path: Path) -> Sweep:
    """Run the program, and send the signal so many seconds after its first moment."""
    (tmp_path / "sitecustomize.py").write_text(MARKER, encoding="utf-8")

    def end(charger: SimulatedCharger, options: list[str], number: int = 0, at: float = 0) -> Ended:
        ready, told = os.pipe()
        with open(ready, "rb") as marker, subprocess.Popen(
            command([*options, "--format=json", "--timeout=20"], charger),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**environment, "PYTHONPATH": str(tmp_path), "READY": str(told)},
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

    return end


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
    if number and ended.code == -number:  # before there was anything to end cleanly
        assert (ended.out, ended.err, [*charger.requests]) == ("", [], [])
        return
    said = without_advice(ended.err)
    lines = [line for line in said if not line.startswith("ERROR: ")]
    assert lines == [*LINES.values()][: len(lines)]
    if ended.code == 0:
        assert said == ([*LINES.values()] if options else [])
    else:
        assert ended.code == 128 + number
        assert said[len(lines) :] in ([], [MAY_BE[DYNAMIC]], [MAY_BE[FAILSAFE]])
    if ended.out or ended.code == 0:
        assert_whole(ended.out)
    for address, value in charger.writes:
        assert {LINES[address], MAY_BE[address]} & {*said}
        assert value == 12


@pytest.mark.parametrize("options", [[], ["--set-current=12"]], ids=["reading", "setting"])
def test_signal_at_any_moment_leaves_nothing_half_or_unsaid(
    sweep: Sweep, options: list[str]
) -> None:
    def check(number: int = 0, moment: float = 0) -> Ended:
        with listening(delay=0.002) as charger:  # what is short on loopback would be seldom hit
            ended = sweep(charger, options, number, moment)
            try:
                assert_all_is_said(charger, options, number, ended)
            except AssertionError as error:
                where = f"signal {number} {moment * 1000:.1f} ms after the first moment"
                raise AssertionError(f"{where}: {ended}") from error
        return ended

    def check_all(moments: list[tuple[int, float]]) -> None:
        for number, moment in moments:
            check(number, moment)

    whole = check()
    assert whole.code == 0
    moments = [
        (int(SIGNALS[step % 4 // 2][0]), (step + random.random()) / STEPS * whole.seconds)
        for step in range(STEPS)
    ]
    side_by_side(check_all, [moments[n::2] for n in range(2)])
