"""Ctrl-C and SIGTERM: no traceback at any moment, and no write that nothing is said of.

What Python does before the program's own lines (it starts, compiles the file, and imports `__future__`)
is Python's: it prints a traceback for a Ctrl-C then, and a program cannot change that. So the sweeps
here begin where the program imports its first module, right behind the lines in which it takes care of
the signals: a finder of modules that the tests put in front of the others tells them.
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
from conftest import READING, SCRIPT, Memory, Run, Start, eventually
from faults import side_by_side
from simulated_charger import READ_HOLDING, WRITE, SimulatedCharger, simulated_charger

import vestel

pytestmark = [
    pytest.mark.every_version,
    pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX"),
]

DYNAMIC, FAILSAFE = 5004, 2000  # 16 A and 10 A, before anything is written
DYNAMIC_LINE, FAILSAFE_LINE = "Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 12 A"
MAY_BE = {
    DYNAMIC: "ERROR: interrupted: dynamic current 12 A may have been written (it was 16 A)",
    FAILSAFE: "ERROR: interrupted: failsafe current 12 A may have been written (it was 10 A)",
}
LOOK = "; a reading shows what the charger is set to"
SIGNALS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)


# --- A charger that does not answer -----------------------------------------------------------------


def interrupt(
    start: Start, charger: SimulatedCharger, number: int, when: Callable[[], bool], option: str
) -> tuple[int, list[str]]:
    """Send the signal as soon as that is so: the exit code, and the lines of stderr; nothing on stdout."""
    running = start(option, "12", "--timeout=60", charger=charger)
    eventually(when)
    status = running.end(number)
    assert running.out == []
    return status, [line.rstrip("\n") for line in running.err]


@pytest.mark.parametrize("executed", [True, False], ids=["carried out", "not carried out"])
@SIGNALS
def test_while_a_write_is_unanswered_it_says_what_may_be_set(
    start: Start, charger: SimulatedCharger, number: int, status: int, executed: bool
) -> None:
    charger.fault("silence", function=WRITE, executed=executed)
    ended = interrupt(start, charger, number, lambda: bool(charger.writes), "--set-current")
    assert ended == (status, [MAY_BE[DYNAMIC] + LOOK])
    assert charger.writes == [(DYNAMIC, 12)]


@SIGNALS
def test_during_the_read_back_it_says_what_may_be_set(
    start: Start, charger: SimulatedCharger, number: int, status: int
) -> None:
    charger.fault("silence", address=DYNAMIC, function=READ_HOLDING, skip=1)

    def reads_back() -> bool:
        return [request.address for request in charger.requests].count(DYNAMIC) == 3

    ended = interrupt(start, charger, number, reads_back, "--set-dynamic-current")
    assert ended == (status, [MAY_BE[DYNAMIC] + LOOK])


@SIGNALS
def test_during_the_second_write_it_says_what_is_set_and_what_may_be(
    start: Start, charger: SimulatedCharger, number: int, status: int
) -> None:
    charger.fault("silence", address=FAILSAFE, function=WRITE)
    ended = interrupt(start, charger, number, lambda: (FAILSAFE, 12) in charger.writes, "--set-current")
    assert ended == (status, [DYNAMIC_LINE, MAY_BE[FAILSAFE] + LOOK])


@pytest.mark.parametrize("address", [1100, DYNAMIC, FAILSAFE], ids=["limits", "dynamic", "failsafe"])
@SIGNALS
def test_before_a_write_it_says_nothing(
    start: Start, charger: SimulatedCharger, number: int, status: int, address: int
) -> None:
    charger.fault("silence", address=address)

    def asks() -> bool:
        return any(request.address == address for request in charger.requests)

    assert interrupt(start, charger, number, asks, "--set-current") == (status, [])
    assert charger.writes == []


@SIGNALS
def test_after_the_confirmations_it_says_no_more_than_these(
    start: Start, charger: SimulatedCharger, number: int, status: int
) -> None:
    charger.fault("silence", address=100)

    def reads() -> bool:
        return any(request.address == 100 for request in charger.requests)

    ended = interrupt(start, charger, number, reads, "--set-current")
    assert ended == (status, [DYNAMIC_LINE, FAILSAFE_LINE])


@SIGNALS
def test_it_ends_though_nobody_takes_what_it_says(
    charger: SimulatedCharger, environment: dict[str, str], number: int, status: int
) -> None:
    charger.fault("silence", function=WRITE)
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb") as full:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        process = subprocess.Popen(
            [*command(charger), "--set-current", "12", "--timeout=60"],
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=environment,
        )
        eventually(lambda: charger.writes)
        process.send_signal(number)
        assert process.wait(timeout=60) == status


@SIGNALS
def test_two_in_a_row_say_it_once(start: Start, charger: SimulatedCharger, number: int, status: int) -> None:
    charger.fault("silence", function=WRITE)
    running = start("--set-current", "12", "--timeout=60", charger=charger)
    eventually(lambda: charger.writes)
    running.process.send_signal(number)
    assert running.end(number) == status
    assert (running.out, running.err) == ([], [f"{MAY_BE[DYNAMIC]}{LOOK}\n"])


def command(charger: SimulatedCharger) -> list[str]:
    return [sys.executable, str(SCRIPT), "--ip", charger.host, "--port", str(charger.port)]


# --- Signals that are not the program's -----------------------------------------------------------


def test_what_is_ignored_stays_ignored(charger: SimulatedCharger, environment: dict[str, str]) -> None:
    ids: list[int] = []

    def hang_up(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        os.kill(eventually(lambda: ids)[0], signal.SIGINT)
        os.kill(ids[0], signal.SIGTERM)
        return [(0, reply)]

    charger.fault(hang_up)
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT TERM; exec "$@"', "sh", *command(charger), "--format=json", "--timeout=60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    )
    ids.append(process.pid)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["electrical"] == READING["electrical"]


OWN_HANDLERS = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import vestel
signal.signal(signal.SIGINT, lambda number, frame: print("mine", flush=True))
signal.signal(signal.SIGTERM, lambda number, frame: print("mine, too", flush=True))
print(vestel.main(sys.argv[2:]))
"""


def test_a_program_that_calls_main_keeps_its_own_handlers(
    charger: SimulatedCharger, environment: dict[str, str]
) -> None:
    ids: list[int] = []

    def interrupt_it(number: int) -> Callable[[bytes, bytes], list[tuple[float, bytes]]]:
        def play(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
            os.kill(eventually(lambda: ids)[0], number)
            return [(0, reply)]

        return play

    charger.fault(interrupt_it(signal.SIGINT), address=DYNAMIC, function=WRITE)
    charger.fault(interrupt_it(signal.SIGTERM), address=1000)
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_HANDLERS, str(SCRIPT.parent), *command(charger)[2:], "--set-current=12"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    )
    ids.append(process.pid)
    out, err = process.communicate(timeout=60)
    assert err.splitlines() == [DYNAMIC_LINE, FAILSAFE_LINE]
    assert re.fullmatch(r"mine\nmine, too\n== Identity ==\n(.*\n)+0\n", out)


def test_main_leaves_the_handlers_of_this_process_alone(call: Run, charger: SimulatedCharger) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert call("--set-current=12", charger=charger).returncode == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("which", ["read_words", "write_word"])
def test_a_program_that_calls_main_is_told_of_a_write_that_its_ctrl_c_interrupts(
    call: Run, memory: Memory, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    act = getattr(memory, which)

    def pressed(*registers: Any) -> Any:
        done = act(*registers)
        if memory.writes:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(memory, which, pressed)
    result = call("--ip=charger", "--set-current=12")
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.splitlines() == [MAY_BE[DYNAMIC] + LOOK]


class PressedAtTheFirstLine(io.StringIO):
    """A stderr at whose first line somebody presses Ctrl-C, before it is written."""

    pressed = False

    def write(self, text: str) -> int:
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().write(text)


@pytest.mark.parametrize("frozen", [False, True], ids=["confirmed", "ignored"])
def test_what_was_written_is_said_though_ctrl_c_comes_before_the_line_that_says_what_came_of_it(
    memory: Memory, frozen: bool
) -> None:
    if frozen:
        memory.frozen[DYNAMIC] = 6
    stderr = PressedAtTheFirstLine()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()) as stdout:
        assert vestel.main(["--ip=charger", "--set-current=12"]) == 130
    assert memory.writes == [(DYNAMIC, 12)]
    assert stdout.getvalue() == ""
    assert re.search(r"\bdynamic current 12 A\b", stderr.getvalue())


# --- From the first moment ------------------------------------------------------------------------

# An exception that comes up in here is printed as ignored, and dropped: so was a Ctrl-C, and both
# currents were written after it.
DROPPED = """
import os, sys

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), {number})

Dropped()
print("went on after the signal", file=sys.stderr)
raise SystemExit(99)
"""
COMMANDS = [[], ["--set-current=12"], ["--watch=1"], ["--listen=1"]]


@pytest.mark.parametrize("module", ["argparse", "pymodbus"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_while_a_module_is_imported_a_signal_ends_the_program_before_anything_is_sent(
    run: Run, charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path, module: str, number: int
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / f"{module}.py").write_text(DROPPED.format(number=int(number)), encoding="utf-8")

    def check(options: list[str]) -> None:
        more = {**environment, "PYTHONPATH": str(tmp_path / "library"), "PYTHONDONTWRITEBYTECODE": "1"}
        result = run(*options, charger=charger, env=more)
        assert (result.returncode, result.stdout, result.stderr) == (-number, "", "")

    side_by_side(check, COMMANDS)
    assert charger.connections == 0


# --- Over the whole run -----------------------------------------------------------------------------

# Moments for each signal and command, spread over its run. The whole sweep, a moment at least each
# millisecond:
#     VESTEL_SIGNAL_STEPS=400 python -m pytest -k moment tests
STEPS = int(os.environ.get("VESTEL_SIGNAL_STEPS", "20"))

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

    status: int
    out: str
    err: list[str]
    took: float


class Sweep:
    """Runs of the program, each with a signal at a moment."""

    def __init__(self, environment: dict[str, str], library: Path) -> None:
        library.mkdir()
        (library / "sitecustomize.py").write_text(MARKER, encoding="utf-8")
        self.environment = {**environment, "PYTHONPATH": str(library)}

    def end(self, charger: SimulatedCharger, options: list[str], number: int = 0, at: float = 0) -> Ended:
        """Run the program, and send the signal so many seconds after its first moment."""
        ready, told = os.pipe()
        with open(ready, "rb") as marker:
            process = subprocess.Popen(
                [*command(charger), *options, "--format=json", "--timeout=20"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                env={**self.environment, "READY": str(told)},
                pass_fds=[told],
            )
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
    """A charger of its own for each run; what is short on loopback would be seldom hit."""
    with simulated_charger() as charger:
        charger.delay = 0.002  # s
        yield charger


def assert_whole(printed: str) -> None:
    assert printed.endswith("\n")
    reading = json.loads(printed)
    del reading["timestamp"]
    settings = READING["settings"], {**READING["settings"], "dynamic_current_a": 12, "failsafe_current_a": 12}
    assert reading.pop("settings") in settings
    assert reading == {key: value for key, value in READING.items() if key != "settings"}


def assert_all_is_told(charger: SimulatedCharger, options: list[str], number: int, ended: Ended) -> None:
    eventually(lambda: not charger.sockets)
    if ended.status == -number:  # before there was anything to end cleanly
        assert (ended.out, ended.err, charger.requests) == ("", [], [])
        return
    confirmed = [DYNAMIC_LINE, FAILSAFE_LINE] if options else []
    said = [line for line in ended.err if line in confirmed]
    assert said == confirmed[: len(said)]
    if ended.status == 0:
        assert ended.err == confirmed
    else:
        interrupted = [line for line in ended.err if line not in confirmed]
        assert interrupted in ([], [MAY_BE[DYNAMIC] + LOOK], [MAY_BE[FAILSAFE] + LOOK])
        assert ended.status == 128 + number
    if ended.out or ended.status == 0:
        assert_whole(ended.out)
    for address, value in charger.writes:
        assert {dict(zip((DYNAMIC, FAILSAFE), confirmed))[address], MAY_BE[address] + LOOK} & {*ended.err}
        assert value == 12


@pytest.mark.parametrize("options", [[], ["--set-current=12"]], ids=["reading", "setting"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_at_any_moment_a_signal_leaves_no_traceback_no_half_reading_and_no_untold_write(
    sweep: Sweep, number: int, options: list[str]
) -> None:
    def check(moments: list[float]) -> None:
        for moment in moments:
            with slow_charger() as charger:
                ended = sweep.end(charger, options, number, moment)
                try:
                    assert_all_is_told(charger, options, number, ended)
                except AssertionError as error:
                    raise AssertionError(f"{moment * 1000:.1f} ms after the first moment: {ended}") from error

    with slow_charger() as charger:
        whole = sweep.end(charger, options)
        assert_all_is_told(charger, options, number, whole)
        assert whole.status == 0
    moments = [(step + random.random()) / STEPS * whole.took for step in range(STEPS)]
    side_by_side(check, [moments[n::2] for n in range(2)])
