"""Clients of --listen that are many, slow or dead: they hold up neither one another nor the keeper."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import time
from typing import Callable, Iterator

import pytest
from conftest import Start, eventually, gaps
from long_modes import METRICS, TIMEOUT, Listening, listen, side_by_side, wait_for_signs
from simulated_charger import HOLDING, SimulatedCharger, simulated_charger

GET = b"GET /metrics HTTP/1.0\r\n\r\n"


@pytest.fixture(autouse=True)
def _files() -> Iterator[None]:
    """Room for the other ends of all these connections."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


def listen_as_a_service(charger: SimulatedCharger, start: Start) -> Listening:
    """Start vestel.py --listen, which may open as many files as is usual."""
    listening = listen(start, charger=charger, ready=True)
    resource.prlimit(listening.running.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    return listening


def connect(listening: Listening, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
    clients: list[socket.socket] = []
    deadline = time.monotonic() + 30
    while len(clients) < count:
        assert time.monotonic() < deadline, f"{len(clients)} within 30 s"
        clients.append(stack.enter_context(listening.connect()))
    return clients


def is_open(client: socket.socket) -> bool:
    """Whether there is neither an answer nor an end."""
    poll = select.poll()  # select() takes no more than 1024 files
    poll.register(client, select.POLLIN)
    return not poll.poll(0)


def test_300_clients_at_a_time_get_their_answer(charger: SimulatedCharger, start: Start) -> None:
    listening = listen_as_a_service(charger, start)
    with contextlib.ExitStack() as stack:
        clients = connect(listening, stack, 300)
        for client in clients:
            client.sendall(GET[:10])
        for client in clients:
            client.sendall(GET[10:])
        for client in clients:
            with client.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.0 200 ")
            assert body.startswith(b"# HELP vestel_up ")
            assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert listening.running.err == []


def sends_nothing(listening: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    return connect(listening, stack, 50)


def sends_half(listening: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    clients = connect(listening, stack, 50)
    for client in clients:
        client.sendall(GET[:10])
    return clients


def never_reads(listening: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    for _ in range(50):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # so that the answer does not fit
        client.connect(("127.0.0.1", listening.port))
        client.sendall(GET)
    return []


def leaves_at_once(listening: Listening, stack: contextlib.ExitStack) -> list[socket.socket]:
    for _ in range(50):
        with listening.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(GET)
    return []


def slow_or_dead(charger: SimulatedCharger, start: Start) -> None:
    """All others are served at once, and the charger is asked no more often than without them."""
    listening = listen_as_a_service(charger, start)
    kinds: list[Callable[[Listening, contextlib.ExitStack], list[socket.socket]]]
    kinds = [never_reads, leaves_at_once, sends_nothing, sends_half]
    with contextlib.ExitStack() as stack:
        waiting = [client for kind in kinds for client in kind(listening, stack)]
        signs, asked = len(charger.signs), 0
        while len(charger.signs) < signs + 2 and all(map(is_open, waiting)):
            assert listening.ask(METRICS).status == 200
            asked += 1
        assert asked > 10
    assert max(gaps(charger.signs)) < 2
    readings = [request for request in charger.requests if request.address == 1000]
    assert len(readings) <= signs + 2
    assert charger.connections == 1
    assert listening.running.err == []


def too_many(charger: SimulatedCharger, start: Start) -> None:
    """More than it may open files: the charger can be reached again all the same, and they have to leave."""
    listening = listen_as_a_service(charger, start)
    with contextlib.ExitStack() as stack:
        clients = connect(listening, stack, 1100)
        eventually(lambda: listening.status("Threads") > 850)
        charger.drop()
        wait_for_signs(charger, 2)
        assert max(gaps(charger.signs)) < 2
        assert charger.connections == 2
        eventually(lambda: not any(map(is_open, clients)))  # who sends nothing is not kept for long
    assert listening.is_up()
    assert listening.running.err == []


def test_clients_that_are_slow_dead_or_too_many_hold_up_nobody(start: Start) -> None:
    def hold_up(story: Callable[[SimulatedCharger, Start], None]) -> None:
        with simulated_charger() as charger:
            charger.set(HOLDING, TIMEOUT, 4)  # a sign each second; it looks every two
            story(charger, start)

    side_by_side(hold_up, [slow_or_dead, too_many])
