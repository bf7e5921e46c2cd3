"""main() without a process: streams of any kind, the log behind them, and the charger of --demo."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import sys
from typing import Any, Callable
from unittest import mock

import pytest
from clock import Clock
from conftest import Memory
from program import Run
from readings import WHOLE, flat
from registers import HUMAN, HUMAN_DETAILS, INPUT, KEYS, read, row, text

import vestel

SERIAL = "Käse-1 ✓"
Streams = Callable[..., int]
CLOSED = io.StringIO()
CLOSED.close()


class Plain:
    """A stream that can do no more than write."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


@pytest.fixture
def streams(call: Run, monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Call main() with these streams, and return its exit code. They are still the same then."""

    def call_with(out: Any, err: Any, *options: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = vestel.main([*options])
            assert (sys.stdout, sys.stderr) == (out, err)
        return code

    return call_with


@pytest.mark.parametrize(
    ("option", "code", "printed", "logged"),
    [
        *[("--details", 0, HUMAN + HUMAN_DETAILS, ""), ("--nope", 2, "", "usage: vestel.py ")],
        ("--config=/missing", 2, "", "ERROR: /missing: "),
        ("--set-current=3", 3, "", "ERROR: failed writing current: "),
    ],
)
def test_a_stream_that_can_only_write_is_enough(
    memory: Memory, streams: Streams, option: str, code: int, printed: str, logged: str
) -> None:
    out, err = Plain(), Plain()
    assert streams(out, err, "--ip=charger", option) == code
    assert out.text == printed
    assert err.text.startswith(logged)
    assert ("Traceback" in err.text, bool(err.text)) == (False, bool(logged))


@pytest.mark.parametrize("options", ["--demo", "--help"])
def test_a_closed_stdout_is_one_error(streams: Streams, options: str) -> None:
    for out in (CLOSED, None):
        err = Plain()
        assert streams(out, err, *options.split()) == 1
        assert err.text.startswith("ERROR: cannot write to stdout: ")
        assert err.text.count("\n") == 1


def strict_ascii() -> Any:
    return io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)


@pytest.mark.parametrize("option", ["--nope", f"--config=/missing/{SERIAL}"])
def test_a_stderr_that_takes_nothing_costs_no_exit_code(streams: Streams, option: str) -> None:
    for err in (CLOSED, None, strict_ascii()):
        assert streams(Plain(), err, option) == 2


def test_a_reading_in_a_file_is_utf_8_whatever_its_encoding(
    memory: Memory, streams: Streams
) -> None:
    memory.set(100, *text(SERIAL, 25), bank=INPUT)
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    out.write("before\n")
    assert streams(out, Plain(), "--ip=charger") == 0
    shown = out.buffer.getvalue().decode("utf-8")
    assert shown == "before\n" + HUMAN.replace("VEST1234567890", SERIAL)


@pytest.mark.parametrize("options", ["--ip=charger", "--ip=charger --nope", "--demo"])
def test_streams_and_signals_are_what_they_were(
    memory: Memory, streams: Streams, options: str
) -> None:
    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        ways = [(each.encoding, each.errors, each.line_buffering) for each in (out, err)]
        return [handlers, ways]

    out, err = strict_ascii(), io.TextIOWrapper(io.BytesIO(), "latin-1", "strict")
    before = state()
    streams(out, err, *options.split())
    assert state() == before


def test_pymodbus_still_logs_for_who_calls_main(caplog: pytest.LogCaptureFixture) -> None:
    vestel.modbus(vestel.Target("charger"), lambda line: None)
    logging.getLogger("pymodbus.logging").warning("what pymodbus says")
    assert "what pymodbus says" in caplog.text


def test_an_error_cannot_steer_a_terminal(streams: Streams) -> None:
    err = Plain()
    assert streams(Plain(), err, "--config=/missing/\x1b[31m\n\x07\x9b\u202e") == 2
    assert err.text.startswith(r"ERROR: /missing/\x1b[31m\n\x07\x9b\u202e: ")
    assert err.text[:-1].isprintable()


@pytest.mark.parametrize("waits", [False, True])
def test_a_line_is_written_at_once_or_at_the_flush(waits: bool) -> None:
    log = vestel.Log(waits=waits)
    lines: list[str] = []
    log.write = lambda line: lines.append(line)
    log("one")
    assert (lines, log.has_news.is_set()) == ([] if waits else ["one"], True)
    log("two")
    log.flush()
    log.flush()
    assert lines == ["one", "two"]


def test_the_oldest_lines_go_where_nobody_takes_any() -> None:
    log = vestel.Log(waits=True)
    lines: list[str] = []
    log.write = lambda line: lines.append(line)
    for number in range(3000):
        log(f"{number}")
    log.flush()
    assert (len(lines), lines[0], lines[-1]) == (1000, "2000", "2999")


def test_a_stream_of_bytes_or_without_a_device_is_no_traceback(streams: Streams) -> None:
    class Gone(Plain):
        def isatty(self) -> bool:
            raise OSError

    err = Plain()
    assert streams(io.BytesIO(), err, "--version") == 1
    assert err.text.startswith("ERROR: cannot write to stdout: ")
    assert streams(Gone(), err, "--demo") == 0
    assert err.text.count("\n") == 1


def test_a_line_that_is_interrupted_is_not_lost() -> None:
    log = vestel.Log(waits=True)
    log("Dynamic current: 16 A -> 12 A")
    log.write = mock.Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        log.flush()
    lines: list[str] = []
    log.write = lambda line: lines.append(line)
    log.flush()
    assert lines == ["Dynamic current: 16 A -> 12 A"]


def test_the_demo_charges_a_vehicle_and_needs_no_network(memory: Memory, call: Run) -> None:
    result = call("--demo", "--format=json", "--details")
    assert (result.returncode, result.stderr, memory.targets) == (0, "", [])
    reading = json.loads(result.stdout)
    found = flat(reading)
    assert [*found][1:] == [*KEYS]
    assert [key for key, value in found.items() if value is None] == ["session.end_time"]
    assert (reading["states"], found["identity.phases"]) == (WHOLE["states"], "3-phase")
    electrical = reading["electrical"]
    assert electrical["active_phases"] == 3
    assert all(amperes > 6 for amperes in electrical["current"].values())
    assert all(220 < volts < 240 for volts in electrical["voltage"].values())
    assert all(watts > 1000 for watts in electrical["power"].values() if isinstance(watts, int))


def test_the_demo_session_grows_unless_the_clock_is_set_back(clock: Clock) -> None:
    def held() -> list[int]:
        pairs = [charger.read_words(*read([row(address)])) for address in (1508, 1502, 1036)]
        return [high * 65536 + low for high, low in pairs]

    charger = vestel.Demo()
    before = held()
    clock.jump(-3600)
    assert held() == before
    clock.jump(3600)
    duration, energy, meter = held()
    clock.sleep(3600)
    later = held()
    assert later[0] - duration == 3600
    assert later[1] - energy in range(10_400, 10_600)  # an hour at 10.5 kW
    assert later[2] - meter in (104, 105, 106)


def test_the_clock_of_the_demo_is_that_of_the_computer(
    clock: Clock, nepal: None, call: Run
) -> None:
    reading = json.loads(call("--demo", "--details", "--format=json").stdout)
    assert reading["timestamp"] == "2026-11-20T08:15:30+00:00"
    assert reading["details"]["clock"] == "2026-11-20T14:00:30"
    assert reading["session"]["start_time"] == "12:36:45"


def test_the_demo_pauses_at_0(call: Run) -> None:
    reading = json.loads(call("--demo", "--set-current=0", "--format=json").stdout)
    assert reading["states"]["chargepoint"] == {"code": 3, "name": "SuspendedEVSE"}
    assert reading["states"]["charging"]["name"] == "NotCharging"
    assert reading["electrical"]["power"]["total_w"] == 0


def test_values_of_the_demo_are_set_and_confirmed(call: Run) -> None:
    result = call("--demo", "--set-current=12", "--set-failsafe-timeout=300")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "Failsafe timeout: 20 s -> 300 s",
        "Dynamic current: 16 A -> 12 A",
        "Failsafe current: 10 A -> 12 A",
    ]
    assert "\nCurrent L1 L2 L3:    11.230 A  11.180 A  11.250 A\n" in result.stdout


def test_the_demo_has_limits_too(call: Run) -> None:
    result = call("--demo", "--set-current=40")
    assert (result.returncode, result.stdout) == (3, "")
    assert re.search(r"\b6 to 32 A\b.*nothing was written", result.stderr)
