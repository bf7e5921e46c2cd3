"""The two threads of the long modes, and the room that HTTP clients leave: without a charger."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import eventually
from simulated_charger import free_port

import vestel


def keeper_that(beat: Any) -> Any:
    """What stands in for the keeper: a beat, a snapshot, and a charger that notes its end."""
    ended = threading.Event()
    charger = SimpleNamespace(close=ended.set)
    keeper = SimpleNamespace(snapshot=vestel.Snapshot(), charger=charger, ended=ended, beats=0)

    def counted() -> float:
        keeper.beats += 1
        due: float = beat(keeper)
        return due

    keeper.beat = counted
    return keeper


def test_there_is_no_beat_after_what_ends_the_program() -> None:
    def fails(keeper: Any) -> float:
        keeper.snapshot = keeper.snapshot._replace(fatal=vestel.Problem("out of range", 3))
        return 0.0

    keeper = keeper_that(fails)
    vestel.keep(keeper, threading.Event())
    assert (keeper.beats, keeper.ended.is_set()) == (1, True)


def test_a_fault_of_the_program_ends_it_and_serves_no_old_value() -> None:
    def breaks(keeper: Any) -> float:
        raise ZeroDivisionError("by zero")

    keeper = keeper_that(breaks)
    keeper.snapshot = keeper.snapshot._replace(reading={"timestamp": "long ago"}, problem="")
    vestel.keep(keeper, threading.Event())
    assert keeper.snapshot.reading is None
    assert "by zero" in keeper.snapshot.problem
    assert str(keeper.snapshot.fatal) == keeper.snapshot.problem


def test_a_keeper_that_is_stopped_leaves_the_charger() -> None:
    stop = threading.Event()

    def last(keeper: Any) -> float:
        stop.set()
        return 0.0

    keeper = keeper_that(last)
    vestel.keep(keeper, stop)
    assert (keeper.beats, keeper.ended.is_set()) == (1, True)


def test_threads_start_where_signals_cannot_be_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    for name in ("pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK"):
        monkeypatch.delattr(signal, name)
    worked = threading.Event()
    vestel.in_background(worked.set)
    assert worked.wait(20)


def test_clients_leave_files_to_the_charger_where_few_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (120, 120))
    keeper: Any = SimpleNamespace(snapshot=vestel.Snapshot())
    port = free_port()
    server = vestel.http_server(("127.0.0.1", port), keeper, "a charger", False, print)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(40):
            clients.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)))
            clients[-1].setblocking(False)
        eventually(lambda: sum(map(refused, clients)) >= 20, seconds=4)  # idle ones have 5 s
    server.shutdown()
    server.server_close()


def refused(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
