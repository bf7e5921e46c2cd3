"""Clients of --listen that are many, slow or dead: they hold up neither one another nor the keeper."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
from typing import Callable, Iterator

import pytest
from conftest import Start, eventually, gaps
from long_modes import METRICS, TIMEOUT, Listening, listen, wait_for_signs
from simulated_charger import HOLDING, SimulatedCharger

GET = b"GET /metrics HTTP/1.0\r\n\r\n"


@pytest.fixture
def charger(charger: SimulatedCharger) -> SimulatedCharger:
    """One that is given a sign each second, and looks every two."""
    charger.set(HOLDING, TIMEOUT, 4)
    return charger


@pytest.fixture(autouse=True)
def _files() -> Iterator[None]:
    """Room for the other ends of all these connections; the program has as much as a service usually has."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


def usual_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))


def connect(listening: Listening, stack: contextlib.ExitStack, count: int) -> list[socket.socket]:
    return [stack.enter_context(listening.connect()) for _ in range(count)]


def is_open(client: socket.socket) -> bool:
    return not select.select([client], [], [], 0)[0]  # else there is an answer or an end


def test_300_clients_at_a_time_get_their_answer(charger: SimulatedCharger, start: Start) -> None:
    listening = listen(start, charger=charger, ready=True, preexec_fn=usual_files)
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


def test_1000_clients_that_say_nothing_do_no_harm_and_have_to_leave(
    charger: SimulatedCharger, start: Start
) -> None:
    listening = listen(start, charger=charger, ready=True, preexec_fn=usual_files)
    with contextlib.ExitStack() as stack:
        clients = connect(listening, stack, 1000)
        eventually(lambda: listening.status("Threads") > 850)
        charger.drop()  # there has to be room for another connection to the charger
        wait_for_signs(charger, 2)
        assert max(gaps(charger.signs)) < 2
        assert charger.connections == 2
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b"", "who sends nothing is not kept for long"
    assert listening.is_up()
    assert listening.running.err == []


# --- Slow and dead ------------------------------------------------------------------------------


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


def test_clients_that_are_slow_or_dead_hold_up_nobody(charger: SimulatedCharger, start: Start) -> None:
    listening = listen(start, charger=charger, ready=True)
    kinds: list[Callable[[Listening, contextlib.ExitStack], list[socket.socket]]]
    kinds = [never_reads, leaves_at_once, sends_nothing, sends_half]
    with contextlib.ExitStack() as stack:
        waiting = [client for kind in kinds for client in kind(listening, stack)]
        signs = len(charger.signs)
        asked = 0
        while len(charger.signs) < signs + 2:
            assert listening.ask(METRICS).status == 200
            asked += 1
        assert asked > 10
        assert all(map(is_open, waiting)), "they were there all the time"
    assert max(gaps(charger.signs)) < 2
    assert charger.connections == 1
    assert listening.running.err == []
