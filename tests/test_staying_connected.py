"""What --watch and --listen have in common: the connection, the alive sign, held currents, the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Callable, Iterator

import pytest
from conftest import DETAILS, SCRIPT, Running, Start, clients, connecting_to, eventually, gaps, times_asked
from simulated_charger import (
    HOLDING,
    INPUT,
    RESET,
    SimulatedCharger,
    dead_host,
    exception,
    free_port,
    simulated_charger,
)

import vestel

ALIVE, DYNAMIC, FAILSAFE, TIMEOUT = 6000, 5004, 2000, 2002
MODES = ["watch", "listen"]
both = pytest.mark.parametrize("mode", MODES)


def options(mode: str, *more: str, every: int = 1) -> list[str]:
    chosen = [f"--watch={every}", "--format=json"] if mode == "watch" else [f"--listen={free_port()}"]
    return [*chosen, *more]


def port_of(running: Running) -> int:
    words: Any = running.process.args
    return next(int(word.partition("=")[2]) for word in words if word.startswith("--listen="))


def served(running: Running) -> Any:
    """What --listen serves as JSON, or None while it says that it has no reading."""
    with contextlib.suppress(OSError):
        url = f"http://127.0.0.1:{port_of(running)}/vestel-data.json"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)


def newest(mode: str, running: Running) -> Callable[[], Any]:
    """Return what gives the reading made last."""
    return lambda: served(running) if mode == "listen" else running.out and json.loads(running.out[-1])


def more_than(times: list[float], count: int, asking: Callable[[], Any] = bool) -> Callable[[], bool]:
    """Return what tells, having asked for a reading, whether there are more times than that."""
    return lambda: (asking(), len(times) > count)[1]


def currents_written(charger: SimulatedCharger) -> list[tuple[int, int]]:
    return [write for write in charger.writes if write[0] != ALIVE]


def warnings(running: Running, about: str = "") -> list[str]:
    return [line for line in list(running.err) if line.startswith("WARNING: ") and about in line]


# --- The alive sign ---


@pytest.mark.parametrize(
    ("chosen", "delay", "busy"),
    [
        pytest.param(["--watch=3600"], 0, False, id="watch, seldom"),
        pytest.param(["--watch=1"], 0.4, False, id="watch, of a charger that takes 2.8 s for a reading"),
        pytest.param(["listen"], 0, False, id="listen, nobody asks"),
        pytest.param(["listen"], 0, True, id="listen, many ask"),
    ],
)
def test_the_alive_sign_is_given_every_quarter_of_the_failsafe_timeout(
    charger: SimulatedCharger, start: Start, chosen: list[str], delay: float, busy: bool
) -> None:
    charger.set(HOLDING, TIMEOUT, 4)
    charger.delay = delay
    running = start(*(options("listen") if chosen == ["listen"] else chosen), charger=charger)
    with clients(4, lambda: served(running)) if busy else contextlib.nullcontext():
        signs = eventually(lambda: charger.signs[3:] and list(charger.signs))
    assert all(0.6 < gap < 1.9 for gap in gaps(signs)), "the box looks every 2 s"
    assert 0.9 < (signs[3] - signs[0]) / 3 < 1.25
    assert set(charger.writes) == {(ALIVE, 1)}
    assert charger.connections == 1


def test_the_alive_sign_is_given_every_5_s_where_the_charger_tells_no_timeout(start: Start) -> None:
    with simulated_charger() as zero, simulated_charger() as none:
        zero.set(HOLDING, TIMEOUT, 0)
        none.missing = {(HOLDING, TIMEOUT)}
        for charger, mode in ((zero, "watch"), (none, "listen")):
            start(*options(mode), charger=charger)
        begun = eventually(lambda: zero.requests and none.requests and time.monotonic())
        eventually(lambda: zero.signs and none.signs)
        assert all(4 < sign - begun < 7 for sign in (zero.signs[0], none.signs[0]))


@both
def test_a_held_current_outlasts_the_failsafe_timeout(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 3)
    charger.set(HOLDING, FAILSAFE, 8)
    start(*options(mode, "--set-dynamic-current=14", every=3600), charger=charger)
    eventually(lambda: charger.signs)
    charger.watch_signs()
    begun = time.monotonic()
    eventually(lambda: time.monotonic() > begun + 5)
    assert charger.image[HOLDING, DYNAMIC] == 14
    assert (charger.connections, currents_written(charger)) == (1, [(DYNAMIC, 14)])


def test_the_simulated_failsafe_bites_where_no_sign_is_given(charger: SimulatedCharger) -> None:
    charger.set(HOLDING, TIMEOUT, 1)
    charger.watch_signs()
    with socket.create_connection((charger.host, charger.port)) as master:
        master.settimeout(20)
        assert master.recv(1) == b""
    assert charger.image[HOLDING, DYNAMIC] == 10


def test_a_sign_that_is_refused_is_told_again_after_one_that_was_not(
    charger: SimulatedCharger, start: Start
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    charger.fault(exception(4), ALIVE, times=2)
    running = start(*options("watch"), charger=charger)
    eventually(lambda: len(charger.writes) > 4)
    assert len(warnings(running, "alive")) == 1
    charger.fault(exception(4), ALIVE)
    eventually(lambda: len(warnings(running, "alive")) == 2)


# --- Held currents ---


@both
@pytest.mark.parametrize(
    ("option", "writes"),
    [
        ("--set-current=14", [(DYNAMIC, 14), (FAILSAFE, 14)]),
        ("--set-dynamic-current=14", [(DYNAMIC, 14)]),
        ("--set-failsafe-current=14", [(FAILSAFE, 14)]),
    ],
)
def test_currents_are_set_before_the_first_reading_and_again_on_each_connection(
    charger: SimulatedCharger, start: Start, mode: str, option: str, writes: list[tuple[int, int]]
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)  # a lost connection shows soon
    running = start(*options(mode, option, every=3600), charger=charger)
    settings = eventually(newest(mode, running))["settings"]
    first = charger.requests.index(next(r for r in charger.requests if r.address == 1000))
    assert [(r.address, r.value) for r in charger.requests[:first] if r.function == 6] == writes
    assert {settings[key] for key in ("dynamic_current_a", "failsafe_current_a")} >= {14}
    for connection in (2, 3):
        charger.set(HOLDING, DYNAMIC, 10)
        charger.set(HOLDING, FAILSAFE, 6)
        charger.drop()
        eventually(lambda: len(currents_written(charger)) == connection * len(writes))  # noqa: B023
        assert (charger.connections, currents_written(charger)) == (connection, connection * writes)
        eventually(more_than(charger.signs, len(charger.signs)))
    assert all(charger.image[HOLDING, address] == 14 for address, _ in writes)
    running.end()
    assert currents_written(charger) == 3 * writes, "the end writes nothing"
    assert all(charger.image[HOLDING, address] == 14 for address, _ in writes)


@both
@pytest.mark.parametrize(
    ("spoil", "current", "why"),
    [
        pytest.param(lambda charger: None, 33, "out of range", id="out of range"),
        pytest.param(lambda charger: charger.fault(exception(4), 5004, 6), 14, "exception 4", id="refused"),
        pytest.param(lambda charger: charger.frozen.update({5004: 16}), 14, "shows 16 A", id="ignored"),
    ],
)
def test_a_current_that_is_not_set_at_the_start_ends_it(
    charger: SimulatedCharger,
    start: Start,
    mode: str,
    spoil: Callable[[SimulatedCharger], None],
    current: int,
    why: str,
) -> None:
    spoil(charger)
    running = start(*options(mode, f"--set-dynamic-current={current}"), charger=charger)
    assert running.wait() == 3
    assert running.out == []
    assert len(running.err) == 1
    assert running.err[0].startswith("ERROR: failed writing current: ")
    assert why in running.err[0]


@both
def test_a_current_that_cannot_be_held_is_told_once_and_held_as_soon_as_it_can_be(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    running = start(*options(mode, "--set-current=14"), charger=charger)
    eventually(newest(mode, running))
    readings = times_asked(charger)
    charger.set(HOLDING, DYNAMIC, 10)
    charger.set(HOLDING, FAILSAFE, 10)
    charger.frozen = {FAILSAFE: 10}
    before = len(running.err)
    charger.drop()
    eventually(lambda: (newest(mode, running)(), len(readings) > 3)[1])
    assert warnings(running, "failsafe current") == warnings(running)
    assert len(warnings(running)) == 1
    assert len(running.err) - before <= 2, "the WARNING, and what became of the dynamic current"
    charger.frozen = {}
    eventually(lambda: (newest(mode, running)(), charger.image[HOLDING, FAILSAFE] == 14)[1])
    eventually(lambda: newest(mode, running)()["settings"]["failsafe_current_a"] == 14)
    assert len(warnings(running)) == 1


@both
def test_a_current_is_set_again_where_the_connection_was_lost_while_it_was_set(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    def master_is_gone(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        charger.set(HOLDING, DYNAMIC, 8)
        return [(0, RESET)]

    charger.fault(master_is_gone, FAILSAFE, 6, times=1)
    start(*options(mode, "--set-current=14", every=3600), charger=charger)
    eventually(lambda: charger.image[HOLDING, DYNAMIC] == 14 and len(currents_written(charger)) == 4)
    assert currents_written(charger) == 2 * [(DYNAMIC, 14), (FAILSAFE, 14)]
    assert charger.connections == 2


@both
def test_a_current_that_is_not_held_is_tried_with_each_alive_sign(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 4)
    running = start(*options(mode, "--set-dynamic-current=14", every=3600), charger=charger)
    eventually(lambda: charger.signs)
    charger.frozen = {DYNAMIC: 10}
    charger.drop()
    eventually(lambda: warnings(running, "failed holding current"))
    charger.frozen = {}
    eventually(lambda: charger.image[HOLDING, DYNAMIC] == 14)
    assert len(times := charger.signs) > 1
    assert all(gap > 0.8 for gap in gaps(times))
    assert len(warnings(running)) == 1


# --- One connection, and what is asked for on it ---


@both
@pytest.mark.parametrize("code", ["reset", "silence"])
def test_details_that_cost_the_connection_are_not_asked_for_again_and_again(
    charger: SimulatedCharger, start: Start, mode: str, code: str
) -> None:
    """Seen: some boxes reset the connection after an exception reply; old firmware knows no details."""

    def refuse(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        return [*exception(2)(request, reply), (0, RESET)]

    charger.fault(refuse if code == "reset" else "silence", 405)
    charger.set(HOLDING, TIMEOUT, 2)
    firmware, readings = times_asked(charger, 230), times_asked(charger)
    running = start(*options(mode, "--details", "--timeout=0.2", "--set-dynamic-current=14"), charger=charger)
    eventually(more_than(readings, 3, asking=newest(mode, running)))
    eventually(lambda: len(charger.signs) > 5)
    assert (len(firmware), len(currents_written(charger))) == (1, 2)
    assert charger.connections <= 3


@both
def test_a_range_that_costs_the_connection_costs_no_more_readings(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    charger.fault("silence", DYNAMIC, 3)  # the last of the core
    readings = times_asked(charger)
    start(*options(mode, "--timeout=0.2", every=3600), charger=charger)
    eventually(lambda: len(charger.signs) > 4)
    assert len(readings) == 1
    assert charger.connections == 3, "two for the range, and the one that stays"


@both
def test_the_alive_sign_keeps_its_interval_where_the_timeout_was_not_read(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    running = start(*options(mode), charger=charger)
    eventually(lambda: charger.signs)
    charger.fault(exception(4), FAILSAFE)
    eventually(lambda: newest(mode, running)()["settings"]["failsafe_timeout_s"] is None)
    signs = len(charger.signs)
    eventually(lambda: len(charger.signs) > signs + 3)
    assert all(gap < 1 for gap in gaps(charger.signs[signs:])), "the box looks every second"


def test_a_reader_that_sleeps_does_not_cost_the_alive_sign(
    charger: SimulatedCharger, environment: dict[str, str]
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    reader, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(4096))
    os.set_blocking(full, True)
    command = [sys.executable, str(SCRIPT), "--ip", charger.host, "--port", str(charger.port)]
    with subprocess.Popen([*command, *options("watch")], stdout=full, env=environment) as process:
        os.close(full)
        eventually(lambda: len(charger.signs) > 5)
        assert all(gap < 1 for gap in gaps(charger.signs))
        with open(reader, encoding="ascii") as lines:
            assert json.loads(next(lines).lstrip("\0"))["identity"]["serial"] == "VEST1234567890"
            process.terminate()


@both
def test_details_are_read_once_for_each_connection(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    running = start(*options(mode, "--details"), charger=charger)
    readings, firmware = times_asked(charger), times_asked(charger, 230)
    for connection in (1, 2):
        more = len(readings) + 2
        eventually(more_than(readings, more, asking=newest(mode, running)))
        assert newest(mode, running)()["details"] == DETAILS
        assert (len(firmware), charger.connections) == (connection, connection)
        charger.drop()


@both
def test_the_charger_is_read_at_most_once_a_second_where_each_sign_ends_the_connection(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)  # a sign every 0.5 s
    charger.fault("reset", ALIVE)
    readings = times_asked(charger)
    start(*options(mode), charger=charger)
    eventually(lambda: len(readings) > 4)
    assert all(gap > 0.9 for gap in gaps(readings)), gaps(readings)


@both
def test_other_warnings_are_said_once_while_their_cause_lasts(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    charger.fault(exception(4), ALIVE)
    charger.old = True  # knows no details
    charger.set(INPUT, 1014, 5000)  # V
    readings = times_asked(charger)
    running = start(*options(mode, "--details"), charger=charger)

    def read_more(times: int) -> None:
        until = len(readings) + times
        eventually(lambda: (newest(mode, running)(), len(readings) >= until)[1])

    eventually(lambda: warnings(running, "alive"))
    for volts in (5001, 5002):  # the same cause
        charger.set(INPUT, 1014, volts)
        read_more(2)
    told = warnings(running)
    assert len(told) == len(set(told)) == 8, "six ranges of details, the voltage, the alive sign"
    assert running.err == told
    assert (len(warnings(running, "alive")), len(warnings(running, "5000 V"))) == (1, 1)
    charger.set(INPUT, 1014, 231)
    read_more(2)
    assert running.err == told
    charger.set(INPUT, 1014, 4000)
    eventually(lambda: (newest(mode, running)(), warnings(running, "4000 V"))[1])
    assert len(running.err) == 9
    assert charger.connections == 1


# --- A lost charger ---


def is_off(charger: SimulatedCharger) -> None:
    charger.stop()


def takes_no_connection(charger: SimulatedCharger) -> None:
    charger.masters = 0
    charger.drop()


def is_silent(charger: SimulatedCharger) -> None:
    charger.fault("silence")


def is_back(charger: SimulatedCharger) -> None:
    charger.masters = 1000
    charger.faults.clear()
    charger.start()


@both
@pytest.mark.parametrize("loss", [is_off, takes_no_connection, is_silent])
def test_a_lost_charger_is_told_once_and_so_is_its_return(
    charger: SimulatedCharger, start: Start, mode: str, loss: Callable[[SimulatedCharger], None]
) -> None:
    charger.set(HOLDING, TIMEOUT, 2)
    running = start(*options(mode, "--timeout=0.2"), charger=charger)
    eventually(newest(mode, running))
    loss(charger)
    lost = eventually(lambda: warnings(running))
    lost_at = time.monotonic()
    assert re.search(r"no reading since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", lost[0])
    printed = len(running.out)
    eventually(lambda: time.monotonic() > lost_at + 2.5)
    assert (running.err, len(running.out)) == (lost, printed), "nothing more, on either stream"
    is_back(charger)
    eventually(newest(mode, running))
    eventually(lambda: warnings(running, f"{charger.host}:{charger.port} answers again"))
    eventually(lambda: len(running.out) > printed + 1 if mode == "watch" else served(running))
    # A silence may end in the middle of a reading, whose first ranges are missing then.
    said = [line for line in running.err if loss is not is_silent or "WARNING: Cannot read " not in line]
    assert len(said) == 2
    loss(charger)
    eventually(lambda: len(warnings(running, "no reading since")) == 2), "another loss is told again"


@both
def test_an_unreachable_charger_is_tried_again_ever_more_seldom(
    charger: SimulatedCharger, start: Start, mode: str
) -> None:
    charger.masters = 0
    attempts: list[float] = []
    seen = [0]

    def attempted() -> int:
        if charger.connections > seen[0]:
            if not attempts or time.monotonic() - attempts[-1] > 0.5:
                attempts.append(time.monotonic())  # a few connections each
            seen[0] = charger.connections
        return len(attempts)

    running = start(*options(mode), charger=charger)
    eventually(lambda: attempted() == 4)
    first, second, third = gaps(attempts)
    assert (0.9 < first < 1.9, 1.9 < second < 3.4, 3.5 < third < 6) == (True, True, True)
    assert (len(running.err), running.out) == (1, [])
    assert warnings(running, f"{charger.host}:{charger.port}") == running.err
    if mode == "listen":
        (since,) = re.findall(r"since \S+", running.err[0])
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://127.0.0.1:{port_of(running)}/vestel-data.json", timeout=20)
        assert since in error.value.read().decode(), "the first loss counts, not the last attempt"
    is_back(charger)
    eventually(newest(mode, running))
    # It may come back in the middle of an attempt, whose first ranges are missing then.
    assert len(warnings(running)) - len(warnings(running, "WARNING: Cannot read ")) == 2


def test_the_attempts_are_at_most_a_minute_apart_and_close_again_after_a_return() -> None:
    reachable = [False]

    def connect() -> vestel.Demo:
        if not reachable[0]:
            raise vestel.ChargerError("it is off", lost=True)
        return vestel.Demo()

    lines: list[str] = []
    master = vestel.Master(vestel.Charger(connect, "a charger", 1), [], False, lines.append)

    def waits() -> list[int]:
        found = []
        for _ in range(9):
            begun = master._retry_at = time.monotonic()
            assert master.read() is None
            found.append(round(master._retry_at - begun))
        return found

    assert waits() == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    reachable[0], master._retry_at = True, 0
    assert master.read()
    master._charger.close()
    reachable[0] = False
    assert waits() == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [line.partition(" since")[0].partition(" (")[0] for line in lines] == [
        "WARNING: no reading",
        "WARNING: a charger answers again",
        "WARNING: no reading",
    ]


# --- The end ---


@contextlib.contextmanager
def reading_made(mode: str, start: Start) -> Iterator[Running]:
    with simulated_charger() as charger:
        running = start(*options(mode, every=3600), charger=charger)
        eventually(newest(mode, running))
        yield running


@contextlib.contextmanager
def reply_awaited(mode: str, start: Start) -> Iterator[Running]:
    with simulated_charger() as charger:
        charger.fault("silence")
        running = start(*options(mode, "--timeout=300"), charger=charger)
        eventually(lambda: charger.requests)
        yield running


@contextlib.contextmanager
def connection_awaited(mode: str, start: Start) -> Iterator[Running]:
    with dead_host() as port:
        own = connecting_to(port)
        chosen = options(mode, "--timeout=300", "--ip=127.0.0.1", f"--port={port}")
        running = start(*chosen)
        eventually(lambda: connecting_to(port) > own)
        yield running


@contextlib.contextmanager
def charger_lost(mode: str, start: Start) -> Iterator[Running]:
    running = start(*options(mode, "--ip=127.0.0.1", f"--port={free_port()}"))
    eventually(lambda: warnings(running))
    yield running


@contextlib.contextmanager
def simulation_read(mode: str, start: Start) -> Iterator[Running]:
    running = start(*options(mode, "--demo"))
    eventually(newest(mode, running))
    yield running


@contextlib.contextmanager
def clients_connected(mode: str, start: Start) -> Iterator[Running]:
    """One that says nothing, and one that waits for a reading."""
    with reply_awaited(mode, start) as running, socket.socket() as idle, socket.socket() as waiting:
        for client in (idle, waiting):
            eventually(lambda: reached(client, port_of(running)))  # noqa: B023
        waiting.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        yield running


def reached(client: socket.socket, port: int) -> bool:
    return client.connect_ex(("127.0.0.1", port)) in (0, errno.EISCONN)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.parametrize(
    ("mode", "state"),
    [
        *[
            (mode, state)
            for mode in MODES
            for state in (reading_made, reply_awaited, connection_awaited, charger_lost, simulation_read)
        ],
        ("listen", clients_connected),
    ],
)
def test_a_signal_ends_it_at_once_and_cleanly(
    start: Start, mode: str, state: Any, how: int, status: int
) -> None:
    with state(mode, start) as running:
        said = len(running.err)
        told = time.monotonic()
        assert running.end(how) == status
        assert time.monotonic() - told < 2
    assert len(running.err) == said <= 1
    assert all(line.endswith("}\n") for line in running.out)
