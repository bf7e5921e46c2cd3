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
from typing import Any, Iterator

import program
from charger import SimulatedCharger
from door import free_port, listening
from program import METRICS, Listening, Start, Terminal, eventually, listen, side_by_side
from registers import DYNAMIC, TIMEOUT

CTRL_S = b"\x13"


@contextlib.contextmanager
def strict_charger() -> Iterator[SimulatedCharger]:
    """A charger that looks at the heartbeat as often as any does: every 3 s."""
    with listening() as charger:
        charger.set(TIMEOUT, 6)
        charger.failsafe = True
        yield charger


CASES = [  # what stdout and stderr are; the null device is read
    ("--watch=1", "Ctrl-S", ""),
    ("--watch=1", "terminal", "terminal"),
    ("--watch=1 --format=json", "pipe", ""),
    ("--watch=1 --format=json -v", "", "terminal"),
    ("--listen={port} -v", "", "pipe"),
]


@contextlib.contextmanager
def hung(
    options: list[str], stdout: str, stderr: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen[Any]]:
    """vestel.py as a process with streams that nobody reads (any more)."""
    with contextlib.ExitStack() as stack:
        if stdout == "Ctrl-S":
            window = stack.enter_context(Terminal(options, environment))
            eventually(lambda: "VEST" in window.sent)
            window.type(CTRL_S)
            yield window.process
            return
        makes = {"pipe": program.full_pipe, "terminal": program.full_terminal}
        kinds = {*makes} & {stdout, stderr}
        lines = {kind: stack.enter_context(makes[kind]()) for kind in kinds}
        process = stack.enter_context(
            subprocess.Popen(
                program.command(options, None),
                stdin=subprocess.DEVNULL,
                stdout=lines.get(stdout, subprocess.DEVNULL),
                stderr=lines.get(stderr, subprocess.DEVNULL),
                env={**environment, "TERM": "xterm"},
            )
        )
        stack.callback(process.kill)
        yield process


def test_nobody_has_to_read_for_the_charger_to_be_kept(environment: dict[str, str]) -> None:
    def keep(case: tuple[str, str, str]) -> None:
        given, stdout, stderr = case
        with strict_charger() as charger:
            options = given.format(port=free_port()).split()
            options += ["--set-dynamic-current=14", *program.target(charger)]
            with hung(options, stdout, stderr, environment) as process:
                eventually(lambda: charger[DYNAMIC] == 14)
                program.wait_for_heartbeats(charger, 3)
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


GET = b"GET /metrics HTTP/1.0\r\n\r\n"


def connect(service: Listening, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
    return [stack.enter_context(service.connect()) for _ in range(count)]


def is_open(client: socket.socket) -> bool:
    """Tell whether there is neither an answer nor an end."""
    poll = select.poll()  # select() takes no more than 1024 files
    poll.register(client, select.POLLIN)
    return not poll.poll(0)


def test_140_clients_at_a_time_get_their_answer(charger: SimulatedCharger, start: Start) -> None:
    service = listen(start, charger=charger, ready=True)
    with contextlib.ExitStack() as stack:
        clients = connect(service, stack, 140)
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


def slow_or_dead_clients(service: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Connect many of four kinds; return those that stay open until they are too slow."""
    for _ in range(50):
        reads_nothing = stack.enter_context(socket.socket())
        # So small that the answer does not fit.
        reads_nothing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        reads_nothing.connect(("127.0.0.1", service.port))
        reads_nothing.sendall(GET)
        with service.connect() as leaves_at_once:
            reset = struct.pack("ii", 1, 0)
            leaves_at_once.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            leaves_at_once.sendall(GET)
    send_nothing, send_half = (connect(service, stack, 50) for _ in range(2))
    for client in send_half:
        client.sendall(GET[:10])
    return send_nothing + send_half


def test_slow_or_dead_clients_hold_up_nobody(start: Start) -> None:
    """All others are served at once, and the charger is asked no more than without them."""
    with strict_charger() as charger, contextlib.ExitStack() as stack:
        service = listen(start, charger=charger, ready=True)
        waiting = slow_or_dead_clients(service, stack)
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


def test_too_many_clients_leave_files_to_the_charger(start: Start) -> None:
    """The charger is reached all the same, and they have to leave."""
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))  # noqa: E731
    with strict_charger() as charger, contextlib.ExitStack() as stack:
        service = listen(start, charger=charger, ready=True, preexec_fn=few)
        clients = connect(service, stack, 300)
        eventually(lambda: service.status("Threads") > 80)
        # Sooner than those that are idle, which have 5 s.
        eventually(lambda: len([*filter(is_open, clients)]) < 160, seconds=4)
        charger.cut()
        program.wait_for_heartbeats(charger, 2)
        assert charger.thrown_out == 0
        assert charger.connections == 2
        # Who sends nothing is not kept for long.
        eventually(lambda: not any(map(is_open, clients)))
        assert service.is_up()
        assert service.running.err == []
