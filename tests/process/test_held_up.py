"""What nobody reads, and clients that are many, slow or dead: they hold up the poller never."""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import struct
import subprocess
import time
from typing import Any, Callable, Iterator, NamedTuple

import pytest
from charger import SimulatedCharger
from door import free_port, listening
from program import (
    METRICS,
    Listening,
    Start,
    Terminal,
    command,
    eventually,
    full_pipe,
    full_terminal,
    listen,
    side_by_side,
    target,
    wait_for_heartbeats,
)
from registers import DYNAMIC, TIMEOUT

CTRL_S = b"\x13"


@contextlib.contextmanager
def strict_charger() -> Iterator[SimulatedCharger]:
    """A charger that looks at the heartbeat as often as any does: every 3 s."""
    with listening() as charger:
        charger.set(TIMEOUT, 6)
        charger.failsafe = True
        yield charger


# --- Terminals and pipes that nobody reads ------------------------------------------------------


class Case(NamedTuple):
    """Which streams are hung: in a full pipe or terminal. The others are read."""

    options: str
    stdout: str = "read"
    stderr: str = "read"


CASES = [
    Case("--watch=1", stdout="Ctrl-S", stderr="Ctrl-S"),
    Case("--watch=1", stdout="terminal", stderr="terminal"),
    Case("--watch=1 --format=json", stdout="pipe"),
    Case("--watch=1 --format=json -v", stderr="pipe"),
    Case("--watch=1 --format=json -v", stderr="terminal"),
    Case("--listen", stderr="terminal"),
    Case("--listen -v", stderr="pipe"),
    Case("--listen -v", stderr="terminal"),
]


@contextlib.contextmanager
def hung(
    case: Case, options: list[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[Any]]:
    """vestel.py as a process with streams that nobody reads (any more)."""
    with contextlib.ExitStack() as stack:
        if case.stdout == "Ctrl-S":
            window = stack.enter_context(Terminal(options, environment))
            eventually(lambda: "VEST" in window.sent)
            window.type(CTRL_S)
            yield window.process
            return
        makes = {"pipe": full_pipe, "terminal": full_terminal}
        lines = {kind: stack.enter_context(make()) for kind, make in makes.items() if kind in case}
        process = stack.enter_context(
            subprocess.Popen(
                command(options, None),
                stdin=subprocess.DEVNULL,
                stdout=lines.get(case.stdout, subprocess.DEVNULL),
                stderr=lines.get(case.stderr, subprocess.DEVNULL),
                env={**environment, "TERM": "xterm"},
            )
        )
        stack.callback(process.kill)
        yield process


def test_nobody_has_to_read_for_the_charger_to_be_kept(environment: dict[str, str]) -> None:
    def keep(case: Case) -> None:
        with strict_charger() as charger:
            options = case.options.replace("--listen", f"--listen={free_port()}").split()
            options += ["--set-dynamic-current=14", *target(charger)]
            with hung(case, options, environment) as process:
                eventually(lambda: charger[DYNAMIC] == 14)
                wait_for_heartbeats(charger, 3)
                assert charger.connections == 1
                attempts = len(charger.attempts)
                charger.away = "closes"
                charger.cut()
                charger.set(DYNAMIC, 10)
                eventually(lambda: len(charger.attempts) > attempts + 1)
                charger.away = ""
                eventually(lambda: charger[DYNAMIC] == 14)
                assert charger.thrown_out == 0
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0

    side_by_side(keep, CASES)


# --- Clients of --listen ------------------------------------------------------------------------

GET = b"GET /metrics HTTP/1.0\r\n\r\n"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open the other ends of many connections."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


def listen_as_a_service(charger: SimulatedCharger, start: Start) -> Listening:
    """Start vestel.py --listen, which may open as many files as is usual."""
    service = listen(start, charger=charger, ready=True)
    resource.prlimit(service.running.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    return service


def connect(service: Listening, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
    return [stack.enter_context(service.connect()) for _ in range(count)]


def is_open(client: socket.socket) -> bool:
    """Tell whether there is neither an answer nor an end."""
    poll = select.poll()  # select() takes no more than 1024 files
    poll.register(client, select.POLLIN)
    return not poll.poll(0)


def test_300_clients_at_a_time_get_their_answer(
    charger: SimulatedCharger, start: Start, many_files: None
) -> None:
    service = listen_as_a_service(charger, start)
    with contextlib.ExitStack() as stack:
        clients = connect(service, stack, 300)
        for part in (GET[:10], GET[10:]):
            for client in clients:
                client.sendall(part)
        for client in clients:
            with client.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.0 200 ")
            assert body.startswith(b"# HELP vestel_up ")
            assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert service.running.err == []


def sends_nothing(service: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    return connect(service, stack, 50)


def sends_half(service: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    clients = connect(service, stack, 50)
    for client in clients:
        client.sendall(GET[:10])
    return clients


def never_reads(service: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    for _ in range(50):
        client = stack.enter_context(socket.socket())
        # So small that the answer does not fit.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(("127.0.0.1", service.port))
        client.sendall(GET)
    return []


def leaves_at_once(service: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    for _ in range(50):
        with service.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(GET)
    return []


def slow_or_dead(charger: SimulatedCharger, start: Start) -> None:
    """All others are served at once, and the charger is asked no more than without them."""
    service = listen_as_a_service(charger, start)
    kinds: list[Callable[[Listening, contextlib.ExitStack], list[socket.socket]]]
    kinds = [never_reads, leaves_at_once, sends_nothing, sends_half]
    with contextlib.ExitStack() as stack:
        waiting = [client for kind in kinds for client in kind(service, stack)]
        heartbeats, asked = len(charger.heartbeats), 0
        while len(charger.heartbeats) < heartbeats + 2 and all(map(is_open, waiting)):
            assert service.ask(METRICS).status == 200
            asked += 1
        assert asked > 10
    assert charger.thrown_out == 0
    assert charger.connections == 1
    span = time.monotonic() - charger.requests[0].at
    assert len(charger.times_of(1000)) <= 1 + span / 5, "one every 5 s"
    assert service.running.err == []


def too_many(charger: SimulatedCharger, start: Start) -> None:
    """More than it may open files: the charger is reached all the same, and they have to leave."""
    service = listen_as_a_service(charger, start)
    with contextlib.ExitStack() as stack:
        clients = connect(service, stack, 1100)
        eventually(lambda: service.status("Threads") > 850)
        charger.cut()
        wait_for_heartbeats(charger, 2)
        assert charger.thrown_out == 0
        assert charger.connections == 2
        # Who sends nothing is not kept for long.
        eventually(lambda: not any(map(is_open, clients)))
    assert service.is_up()
    assert service.running.err == []


def test_slow_dead_or_too_many_clients_hold_up_nobody(start: Start, many_files: None) -> None:
    def hold_up(story: Callable[[SimulatedCharger, Start], None]) -> None:
        with strict_charger() as charger:
            story(charger, start)

    side_by_side(hold_up, [slow_or_dead, too_many])
