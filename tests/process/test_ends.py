"""Ctrl-C and SIGTERM end --watch and --listen at once and cleanly, whatever they are at."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import time
from typing import Any, Iterator

import program
import pytest
from charger import SILENCE
from door import dead_host, free_port, listening
from program import Start, Staying, Terminal, catches, eventually, open_sockets, side_by_side

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 0)]


def connect_clients(port: int, stack: contextlib.ExitStack) -> None:
    """Connect one that says nothing, one amid its request, and one that reads no answer."""
    idle, asking, deaf = (stack.enter_context(socket.socket()) for _ in range(3))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    address, connected = ("127.0.0.1", port), (0, errno.EISCONN)
    for client in (idle, asking, deaf):
        eventually(lambda: client.connect_ex(address) in connected)  # noqa: B023
    asking.sendall(b"GET /metrics HTT")
    deaf.sendall(b"GET / HTTP/1.0\r\n\r\n")


@contextlib.contextmanager
def staying_where(state: str, mode: str, start: Start) -> Iterator[Staying]:
    """Start --watch or --listen, as soon as this is its state."""
    with contextlib.ExitStack() as stack:
        at = ["--ip=127.0.0.1", "--port={}"]
        if state == "a reading is made":
            staying = Staying(mode, start, every=3600, charger=stack.enter_context(listening()))
            eventually(staying.newest)
        elif state == "the charger is lost":
            staying = Staying(mode, start, at[0], at[1].format(free_port()))
            eventually(lambda: program.warnings(staying.running))
        elif state == "a connection is awaited":
            port = stack.enter_context(dead_host())
            staying = Staying(mode, start, "--timeout=300", at[0], at[1].format(port))
            process = staying.running.process
            eventually(lambda: catches(process, signal.SIGTERM))
            eventually(lambda: open_sockets(process) == 1 + (mode == "listen"))
        else:
            charger = stack.enter_context(listening())
            charger.fault(SILENCE)
            staying = Staying(mode, start, "--timeout=300", charger=charger)
            eventually(lambda: charger.requests)
            if state == "clients are connected":
                connect_clients(staying.port, stack)
        yield staying


STATES = {
    "a reading is made": "watch listen",
    "a reply is awaited": "watch listen",
    "a connection is awaited": "listen watch",
    "the charger is lost": "listen watch",
    "clients are connected": "listen listen",
}


@pytest.mark.every_version
@pytest.mark.parametrize("state", STATES)
def test_signal_ends_it_at_once_and_cleanly(start: Start, state: str) -> None:
    def end(case: tuple[str, tuple[int, int]]) -> None:
        mode, (how, code) = case
        with staying_where(state, mode, start) as staying:
            said = [*staying.err]
            sent_at = time.monotonic()
            assert staying.running.end(how) == code
            assert time.monotonic() - sent_at < 10, "it waits for nothing"
        assert staying.err[: len(said)] == said
        assert len(staying.err) == (state == "the charger is lost")
        assert all(line.endswith("}\n") for line in staying.running.out)

    side_by_side(end, [*zip(STATES[state].split(), SIGNALS)])


PAIRS = [*itertools.product(SIGNALS, SIGNALS)][:3]


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
    for n, pair in enumerate(3 * PAIRS):
        staying, begun = begin(("listen", "watch")[n % 2])
        moment = begun + 1.2 * whole * n / 9
        eventually(lambda: time.monotonic() > moment)  # noqa: B023
        right = send(staying.running.process, pair, n * 35)
        killed = {-number for number, _ in pair}  # as long as there is nothing to end cleanly
        assert staying.running.wait() in right | killed, pair
        assert staying.err == []
        assert all(line.endswith("}\n") for line in staying.running.out)


def ended_or_speaks(process: Any, threads: int) -> bool:
    return process.poll() is not None or program.thread_count(process) > threads


def test_last_words_are_said_once_however_many_signals(environment: dict[str, str]) -> None:
    def end(case: tuple[Any, bool]) -> None:
        pair, slowly = case
        options = ["--watch=1", "--ip=127.0.0.1", f"--port={free_port()}"]
        with Terminal(options, environment) as window:
            eventually(lambda: "no reading yet" in window.sent)
            if slowly:  # the second one comes while the words wait for the terminal
                window.stop()
                before = program.thread_count(window.process)
                window.process.send_signal(pair[0][0])
                eventually(lambda: ended_or_speaks(window.process, before))
            right = send(window.process, pair, 100)
            window.go_on()
            assert window.wait() in right
            assert window.sent.startswith(program.ENTER)
            said = window.sent.split(program.LEAVE)[1:]
        assert len(said) == 1 or (slowly and not said), "it waits for half a second, and no longer"
        for words in said:
            assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING: no reading yet: .*\n", words)

    side_by_side(end, [*itertools.product(PAIRS, (True, False))])
