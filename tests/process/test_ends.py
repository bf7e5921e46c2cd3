"""Ctrl-C and SIGTERM end --watch and --listen at once and cleanly, whatever they are at."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import subprocess
import time
from typing import Any, Callable, ContextManager, Iterator

import pytest
from charger import SILENCE
from door import dead_host, free_port, listening
from program import (
    ENTER,
    LEAVE,
    MODES,
    Start,
    Staying,
    Terminal,
    catches,
    command,
    eventually,
    full_terminal,
    side_by_side,
    thread_count,
    warnings,
)

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 0)]
State = Callable[[str, Start], ContextManager[Staying]]


def open_sockets(process: Any) -> int:
    """Return how many sockets the process has open."""
    count = 0
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            count += os.readlink(f"/proc/{process.pid}/fd/{name}").startswith("socket:")
    return count


@contextlib.contextmanager
def reading_made(mode: str, start: Start) -> Iterator[Staying]:
    with listening() as charger:
        staying = Staying(mode, start, every=3600, charger=charger)
        eventually(staying.newest)
        yield staying


@contextlib.contextmanager
def reply_awaited(mode: str, start: Start) -> Iterator[Staying]:
    with listening() as charger:
        charger.fault(SILENCE)
        staying = Staying(mode, start, "--timeout=300", charger=charger)
        eventually(lambda: charger.requests)
        yield staying


@contextlib.contextmanager
def connection_awaited(mode: str, start: Start) -> Iterator[Staying]:
    with dead_host() as port:
        staying = Staying(mode, start, "--timeout=300", "--ip=127.0.0.1", f"--port={port}")
        process = staying.running.process
        eventually(lambda: catches(process, signal.SIGTERM))
        eventually(lambda: open_sockets(process) == MODES.index(mode) + 1)
        yield staying


@contextlib.contextmanager
def charger_lost(mode: str, start: Start) -> Iterator[Staying]:
    staying = Staying(mode, start, "--ip=127.0.0.1", f"--port={free_port()}")
    eventually(lambda: warnings(staying.running))
    yield staying


@contextlib.contextmanager
def demo_read(mode: str, start: Start) -> Iterator[Staying]:
    staying = Staying(mode, start, "--demo")
    eventually(staying.newest)
    yield staying


@contextlib.contextmanager
def clients_connected(mode: str, start: Start) -> Iterator[Staying]:
    """One that says nothing, one in the middle of its request, and one that reads no answer."""
    with reply_awaited(mode, start) as staying, contextlib.ExitStack() as stack:
        idle, asking, deaf = (stack.enter_context(socket.socket()) for _ in range(3))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        address, connected = ("127.0.0.1", staying.port), (0, errno.EISCONN)
        for client in (idle, asking, deaf):
            eventually(lambda: client.connect_ex(address) in connected)  # noqa: B023
        asking.sendall(b"GET /metrics HTT")
        deaf.sendall(b"GET / HTTP/1.0\r\n\r\n")
        yield staying


STATES = {
    "a reading is made": reading_made,
    "a reply is awaited": reply_awaited,
    "a connection is awaited": connection_awaited,
    "the charger is lost": charger_lost,
    "the demo is read": demo_read,
    "clients are connected": clients_connected,
}


@pytest.mark.every_version
@pytest.mark.parametrize("state", STATES.values(), ids=[*STATES])
def test_signal_ends_it_at_once_and_cleanly(start: Start, state: State) -> None:
    def end(case: tuple[str, tuple[int, int]]) -> None:
        mode, (how, code) = case
        with state(mode, start) as staying:
            said = [*staying.err]
            sent_at = time.monotonic()
            assert staying.running.end(how) == code
            assert time.monotonic() - sent_at < 10, "it waits for nothing"
        assert staying.err[: len(said)] == said
        assert len(staying.err) == (state is charger_lost)
        assert all(line.endswith("}\n") for line in staying.running.out)

    modes = ["listen"] if state is clients_connected else MODES
    side_by_side(end, [*itertools.product(modes, SIGNALS)])


# --- Two in a row -------------------------------------------------------------------------------

PAIRS = [*itertools.product(SIGNALS, SIGNALS)]


def wait_for_first_line(process: Any) -> None:
    """Wait until vestel.py runs: its first line takes Python's handler of Ctrl-C away."""
    eventually(lambda: catches(process, signal.SIGINT))
    eventually(lambda: not catches(process, signal.SIGINT) or catches(process, signal.SIGTERM))


def send(process: Any, pair: Any, microseconds: int) -> set[int]:
    """Send both, so far apart; return the exit codes that are right then."""
    (first, _), (second, _) = pair
    process.send_signal(first)
    until = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < until:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, second)  # not send_signal(), which looks first whether it still runs
    return {code for _, code in pair}


def test_two_signals_in_a_row_end_it_at_any_moment(start: Start) -> None:
    def begin(mode: str) -> tuple[Staying, float]:
        staying = Staying(mode, start, "--demo")
        wait_for_first_line(staying.running.process)
        return staying, time.monotonic()

    watching, begun = begin("watch")
    eventually(watching.newest)
    whole = time.monotonic() - begun  # from its first line to its first reading
    for n, pair in enumerate(4 * PAIRS):
        staying, begun = begin(MODES[n // 4 % 2])
        moment = begun + 1.2 * whole * n / 16
        eventually(lambda: time.monotonic() > moment)  # noqa: B023
        right = send(staying.running.process, pair, n * 20)
        killed = {-number for number, _ in pair}  # as long as there is nothing to end cleanly
        assert staying.running.wait() in right | killed, pair
        assert staying.err == []
        assert all(line.endswith("}\n") for line in staying.running.out)


def test_last_words_are_said_once_however_many_signals(environment: dict[str, str]) -> None:
    def end(case: tuple[Any, bool]) -> None:
        pair, slowly = case
        options = ["--watch=1", "--ip=127.0.0.1", f"--port={free_port()}"]
        with Terminal(options, environment) as window:
            eventually(lambda: "no reading yet" in window.sent)
            if slowly:  # the second one comes while the words wait for the terminal
                window.stop()
                before = thread_count(window.process)
                window.process.send_signal(pair[0][0])
                eventually(
                    lambda: (
                        window.process.poll() is not None or thread_count(window.process) > before
                    )
                )
            right = send(window.process, pair, 100)
            window.go_on()
            assert window.wait() in right
            assert window.sent.startswith(ENTER)
            said = window.sent.split(LEAVE)[1:]
        assert len(said) == 1 or (slowly and not said), "it waits for half a second, and no longer"
        for words in said:
            assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING: no reading yet: .*\n", words)

    side_by_side(end, [*itertools.product(PAIRS, (True, False))])


def test_second_signal_while_the_last_words_hang_ends_it(environment: dict[str, str]) -> None:
    def end(pair: Any) -> None:
        env = {**environment, "TERM": "xterm"}
        arguments = command(["--demo", "--watch=1"], None)
        with full_terminal() as line, subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=line, stderr=line, env=env
        ) as process:
            try:
                eventually(lambda: catches(process, signal.SIGTERM))
                right = send(process, pair, 100_000)
                assert process.wait(timeout=30) in right
            finally:
                process.kill()

    side_by_side(end, PAIRS)
