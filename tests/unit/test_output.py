"""What goes to streams of any kind where a program calls main(), and the log behind them."""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Any, Callable
from unittest import mock

import pytest
from conftest import Memory
from program import Run
from registers import HUMAN, HUMAN_DETAILS, INPUT, text

import vestel

SERIAL = "Käse-1 ✓"
Streams = Callable[..., int]


class Plain:
    """A stream that can do no more than write."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


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
        ("--details", 0, HUMAN + HUMAN_DETAILS, ""),
        ("--nope", 2, "", "usage: vestel.py "),
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
    for out in (closed(), None):
        err = Plain()
        assert streams(out, err, *options.split()) == 1
        assert err.text.startswith("ERROR: cannot write to stdout: ")
        assert err.text.count("\n") == 1


def strict_ascii() -> Any:
    return io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)


@pytest.mark.parametrize("option", ["--nope", f"--config=/missing/{SERIAL}"])
def test_a_stderr_that_takes_nothing_costs_no_exit_code(streams: Streams, option: str) -> None:
    for err in (closed(), None, strict_ascii()):
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


# --- The log ---------------------------------------------------------------------------------------


def collecting(log: vestel.Log) -> list[str]:
    lines: list[str] = []
    log.write = lambda line: lines.append(line)
    return lines


@pytest.mark.parametrize("waits", [False, True])
def test_a_line_is_written_at_once_or_at_the_flush(waits: bool) -> None:
    log = vestel.Log(waits=waits)
    lines = collecting(log)
    log("one")
    assert (lines, log.has_news.is_set()) == ([] if waits else ["one"], True)
    log("two")
    log.flush()
    log.flush()
    assert lines == ["one", "two"]


def test_the_oldest_lines_go_where_nobody_takes_any() -> None:
    log = vestel.Log(waits=True)
    lines = collecting(log)
    for number in range(3000):
        log(f"{number}")
    log.flush()
    assert (len(lines), lines[0], lines[-1]) == (1000, "2000", "2999")


def test_a_line_that_is_interrupted_is_not_lost() -> None:
    log = vestel.Log(waits=True)
    log("Dynamic current: 16 A -> 12 A")
    log.write = mock.Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        log.flush()
    lines = collecting(log)
    log.flush()
    assert lines == ["Dynamic current: 16 A -> 12 A"]
