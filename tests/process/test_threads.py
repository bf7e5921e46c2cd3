"""The two halves of the modes that stay connected, and the files that HTTP clients leave."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest
from door import free_port
from program import eventually

import vestel


def poller_that(does: Callable[[Any], float]) -> Any:
    """Stand in for the poller: a snapshot, and a charger that notes its end."""
    closed = threading.Event()
    poller = SimpleNamespace(
        snapshot=vestel.Snapshot(),
        charger=SimpleNamespace(close=closed.set, name="a charger"),
        closed=closed,
        polls=0,
    )

    def run() -> Iterator[float]:
        while True:
            poller.polls += 1
            yield does(poller)

    poller.run = run
    return poller


def test_fault_of_the_program_ends_it_and_serves_no_reading() -> None:
    def breaks(poller: Any) -> float:
        raise ZeroDivisionError("by zero")

    poller = poller_that(breaks)
    poller.snapshot = poller.snapshot._replace(reading={"timestamp": "long ago"}, problem="")
    vestel.poll_forever(poller, threading.Event())
    assert poller.closed.is_set()
    assert poller.snapshot.reading is None
    assert "by zero" in poller.snapshot.problem
    assert str(poller.snapshot.fatal) == poller.snapshot.problem
    assert poller.snapshot.fatal.exit_code == 1


def test_poller_that_is_stopped_leaves_the_charger() -> None:
    stop = threading.Event()

    def last(poller: Any) -> float:
        stop.set()
        return 0.0

    poller = poller_that(last)
    vestel.poll_forever(poller, stop)
    assert (poller.polls, poller.closed.is_set()) == (1, True)


def test_threads_start_where_signals_cannot_be_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    for name in ("pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK"):
        monkeypatch.delattr(signal, name)
    worked = threading.Event()
    vestel.start_thread(worked.set)
    assert worked.wait(20)


def test_clients_leave_files_to_the_charger_where_few_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (120, 120))
    port = free_port()
    poller = poller_that(lambda _: 0.0)
    server = vestel.http_server(("127.0.0.1", port), poller, lambda line: None)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(40):
                client = socket.create_connection(("127.0.0.1", port), 20)
                clients.append(stack.enter_context(client))
                client.setblocking(False)
            # Sooner than those that are idle, which have 5 s.
            eventually(lambda: sum(map(was_refused, clients)) >= 20, seconds=4)
        handlers = [thread for thread in threading.enumerate() if "process_request" in thread.name]
        eventually(lambda: not any(thread.is_alive() for thread in handlers))
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def was_refused(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
