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
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import SCRIPT, Start, connecting_to, eventually
from long_modes import ENTER, LEAVE, MODES, Staying, Terminal, full_terminal, side_by_side, warnings
from simulated_charger import dead_host, free_port, simulated_charger

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 0)]
State = Callable[[str, Start], "contextlib.AbstractContextManager[Staying]"]


@contextlib.contextmanager
def reading_made(mode: str, start: Start) -> Iterator[Staying]:
    with simulated_charger() as charger:
        staying = Staying(mode, start, every=3600, charger=charger)
        eventually(staying.newest)
        yield staying


@contextlib.contextmanager
def reply_awaited(mode: str, start: Start) -> Iterator[Staying]:
    with simulated_charger() as charger:
        charger.fault("silence")
        staying = Staying(mode, start, "--timeout=300", charger=charger)
        eventually(lambda: charger.requests)
        yield staying


@contextlib.contextmanager
def connection_awaited(mode: str, start: Start) -> Iterator[Staying]:
    with dead_host() as port:
        own = connecting_to(port)
        staying = Staying(mode, start, "--timeout=300", "--ip=127.0.0.1", f"--port={port}")
        # The system's table of connections is read while it changes, so it tells now and then too early.
        eventually(lambda: catches(staying.running.process, signal.SIGTERM))
        eventually(lambda: connecting_to(port) >= own)
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
        for client in (idle, asking, deaf):
            eventually(lambda: client.connect_ex(("127.0.0.1", staying.port)) in (0, errno.EISCONN))  # noqa: B023
        asking.sendall(b"GET /metrics HTT")
        deaf.sendall(b"GET / HTTP/1.0\r\n\r\n")
        yield staying


@pytest.mark.every_version
@pytest.mark.parametrize(
    "state",
    [reading_made, reply_awaited, connection_awaited, charger_lost, demo_read, clients_connected],
)
def test_a_signal_ends_it_at_once_and_cleanly(start: Start, state: State) -> None:
    modes = ["listen"] if state is clients_connected else MODES

    def end(case: tuple[str, tuple[int, int]]) -> None:
        mode, (how, status) = case
        with state(mode, start) as staying:
            said = [*staying.err]
            told = time.monotonic()
            assert staying.running.end(how) == status
            assert time.monotonic() - told < 4, "it would look for the charger again in 5 s, if ever"
        assert staying.err == said
        assert len(said) == (state is charger_lost)
        assert all(line.endswith("}\n") for line in staying.running.out)

    side_by_side(end, [*itertools.product(modes, SIGNALS)])


# --- Two in a row -------------------------------------------------------------------------------

PAIRS = [*itertools.product(SIGNALS, SIGNALS)]


def catches(process: Any, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) & 1 << number - 1)


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
    return {status for _, status in pair}


def test_two_signals_in_a_row_end_it_cleanly_at_any_moment(start: Start) -> None:
    def begin(mode: str) -> tuple[Staying, float]:
        staying = Staying(mode, start, "--demo")
        process = staying.running.process
        wait_for_first_line(process)
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


def test_the_last_words_are_said_once_however_many_signals_come(environment: dict[str, str]) -> None:
    def end(case: tuple[Any, bool]) -> None:
        pair, slowly = case
        window = Terminal(["--watch=1", "--ip=127.0.0.1", f"--port={free_port()}"], environment)
        eventually(lambda: "no reading since" in window.sent)
        if slowly:  # the second one comes while the words wait for the terminal
            window.stop()
            before = threads(window.process)
            window.process.send_signal(pair[0][0])
            eventually(lambda: threads(window.process) > before or window.process.poll() is not None)
        right = send(window.process, pair, 100)
        window.go_on()
        assert window.wait() in right
        assert window.sent.startswith(ENTER)
        _, *said = window.sent.split(LEAVE)
        assert [re.fullmatch("WARNING: no reading since .*\n", words) for words in said].count(None) == 0
        assert len(said) == 1 or (slowly and not said), "it waits half a second, and then no longer"

    side_by_side(end, [*itertools.product(PAIRS, (True, False))])


def threads(process: Any) -> int:
    return len(os.listdir(f"/proc/{process.pid}/task"))


def test_a_second_signal_while_the_last_words_hang_ends_it_too(environment: dict[str, str]) -> None:
    def end(pair: Any) -> None:
        with full_terminal() as line:
            command = [sys.executable, str(SCRIPT), "--demo", "--watch=1"]
            env = {**environment, "TERM": "xterm"}
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=line, stderr=line, env=env)
            try:
                eventually(lambda: catches(process, signal.SIGTERM))
                right = send(process, pair, 100_000)
                assert process.wait(timeout=30) in right
            finally:
                process.kill()
                process.wait()

    side_by_side(end, PAIRS)
