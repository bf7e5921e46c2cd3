"""main() called by a program: streams of any kind, and what they were is put back."""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Any, Callable

import pytest
from conftest import Memory
from program import Run
from readings import reading_of
from registers import HUMAN, INPUT, text

import vestel

SERIAL = "Käse-1 ✓"


class Plain:
    """A stream that can do no more than write."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


class Terminal(Plain):
    def isatty(self) -> bool:
        return True


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture
def streams(call: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call main() with these streams, and return its exit code. They are still the same then."""

    def call_with(out: Any, err: Any, *options: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = vestel.main([*options])
            assert (sys.stdout, sys.stderr) == (out, err)
        return code

    return call_with


def test_a_stream_that_can_only_write_gets_the_reading(
    memory: Memory, streams: Callable[..., int]
) -> None:
    out, err = Plain(), Plain()
    assert streams(out, err, "--ip=charger") == 0
    assert (out.text, err.text) == (HUMAN, "")


@pytest.mark.parametrize(
    ("option", "code", "beginning"),
    [
        ("--nope", 2, "usage: vestel.py "),
        ("--config=/missing", 2, "ERROR: /missing: "),
        ("--set-current=3", 3, "ERROR: failed writing current: "),
    ],
)
def test_a_stream_that_can_only_write_gets_errors(
    memory: Memory, streams: Callable[..., int], option: str, code: int, beginning: str
) -> None:
    out, err = Plain(), Plain()
    assert streams(out, err, "--ip=charger", option) == code
    assert out.text == ""
    assert err.text.startswith(beginning)
    assert "Traceback" not in err.text


def test_a_terminal_without_a_buffer_gets_indented_json(
    memory: Memory, streams: Callable[..., int]
) -> None:
    out, err = Terminal(), Terminal()
    assert streams(out, err, "--ip=charger", "--format=json") == 0
    assert reading_of(out.text)["identity"]["serial"] == "VEST1234567890"
    assert out.text.endswith("}\n")
    assert '\n  "identity": {\n' in out.text
    assert err.text == ""


def test_no_stdout_at_all_is_one_error(memory: Memory, streams: Callable[..., int]) -> None:
    err = Plain()
    assert streams(None, err, "--ip=charger") == 1
    assert err.text == "ERROR: cannot write to stdout: it is closed\n"


@pytest.mark.parametrize("options", ["--demo", "--demo --format=json", "--help", "--version"])
def test_a_closed_stdout_is_one_error(streams: Callable[..., int], options: str) -> None:
    err = Plain()
    assert streams(closed(), err, *options.split()) == 1
    assert err.text.startswith("ERROR: cannot write to stdout: ")
    assert err.text.count("\n") == 1


@pytest.mark.parametrize("make", [closed, lambda: None], ids=["closed", "none"])
@pytest.mark.parametrize(("option", "code"), [("--nope", 2), ("--config=/missing", 2)])
def test_without_stderr_the_exit_code_is_the_same(
    streams: Callable[..., int], make: Callable[[], Any], option: str, code: int
) -> None:
    assert streams(Plain(), make(), option) == code


def strict_ascii() -> Any:
    return io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)


def test_a_strict_ascii_stderr_costs_no_exit_code(streams: Callable[..., int]) -> None:
    assert streams(Plain(), strict_ascii(), f"--config=/missing/{SERIAL}") == 2


def test_a_reading_in_a_file_is_utf_8_whatever_its_encoding(
    memory: Memory, streams: Callable[..., int]
) -> None:
    memory.set(100, *text(SERIAL, 25), bank=INPUT)
    out = strict_ascii()
    assert streams(out, Plain(), "--ip=charger") == 0
    shown = out.buffer.getvalue().decode("utf-8")
    assert shown == HUMAN.replace("VEST1234567890", SERIAL)


def test_text_before_the_reading_comes_before_it(
    memory: Memory, streams: Callable[..., int]
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    out.write("before\n")
    assert streams(out, Plain(), "--ip=charger") == 0
    assert out.buffer.getvalue().decode() == "before\n" + HUMAN


@pytest.mark.parametrize("options", ["--ip=charger", "--ip=charger --nope", "--demo"])
def test_main_leaves_streams_signals_and_logging_alone(
    memory: Memory, streams: Callable[..., int], options: str
) -> None:
    def state(out: Any, err: Any) -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        modbus = logging.getLogger("pymodbus")
        ways = [(each.encoding, each.errors, each.line_buffering) for each in (out, err)]
        return [handlers, modbus.level, modbus.disabled, modbus.propagate, ways]

    out, err = strict_ascii(), io.TextIOWrapper(io.BytesIO(), "latin-1", "strict")
    before = state(out, err)
    streams(out, err, *options.split())
    assert state(out, err) == before


def test_an_error_cannot_steer_a_terminal(streams: Callable[..., int]) -> None:
    err = Plain()
    assert streams(Plain(), err, "--config=/missing/\x1b[31m\n\x07\x9b\u202e") == 2
    assert err.text.startswith(r"ERROR: /missing/\x1b[31m\n\x07\x9b\u202e: ")
    assert err.text[:-1].isprintable()
