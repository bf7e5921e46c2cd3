"""What real boxes do to their masters: no number is ever wrong, and no fault goes unsaid."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import random
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Tuple

import pytest
from conftest import DETAILS, READING, Result, Run, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from simulated_charger import (
    CLOSE,
    HOLDING,
    INPUT,
    PLAYS,
    READ_HOLDING,
    READ_INPUT,
    RESET,
    WRITE,
    Play,
    SimulatedCharger,
    dead_host,
    exception,
    free_port,
    image,
    late,
    simulated_charger,
)

import vestel

NOW = datetime(2026, 11, 20, 8, 15, 30, tzinfo=timezone.utc)
IMAGE = image()
TIMEOUT = 1.0  # s, where a fault is to run into it
AMPLE = 20.0  # s, where it is not: a slow machine must not play a fault of its own

# --- The register map: what is asked for with one request, and what each value is for ------------


class Value(NamedTuple):
    """The registers of one value, and the keys of the reading that stand for it."""

    first: int
    last: int
    keys: str


class Range(NamedTuple):
    """The registers that are asked for with one request."""

    bank: str
    first: int
    last: int
    values: list[Value]

    @property
    def keys(self) -> list[str]:
        return [key for value in self.values for key in value.keys.split()]


def numbers(registers: Value | Range) -> str:
    first, last = registers.first, registers.last
    return f"{first}" if first == last else f"{first}-{last}"


CORE = [
    Range(INPUT, 100, 124, [Value(100, 124, "identity.serial")]),
    Range(
        INPUT,
        400,
        404,
        [
            Value(400, 401, "identity.max_power_w identity.max_power_kw"),
            Value(404, 404, "identity.phases identity.phases_raw"),
        ],
    ),
    Range(
        INPUT,
        1000,
        1037,
        [
            Value(1000, 1000, "states.chargepoint.code states.chargepoint.name"),
            Value(1001, 1001, "states.charging.code states.charging.name"),
            Value(1002, 1002, "states.equipment.code states.equipment.name"),
            Value(1004, 1004, "states.cable.code states.cable.name"),
            Value(1006, 1007, "states.fault_code states.faults"),
            Value(1008, 1008, "electrical.current.l1_a"),
            Value(1010, 1010, "electrical.current.l2_a"),
            Value(1012, 1012, "electrical.current.l3_a"),
            Value(1014, 1014, "electrical.voltage.l1_v"),
            Value(1016, 1016, "electrical.voltage.l2_v"),
            Value(1018, 1018, "electrical.voltage.l3_v"),
            Value(1020, 1021, "electrical.power.total_w electrical.power.total_kw"),
            Value(1024, 1025, "electrical.power.l1_w"),
            Value(1028, 1029, "electrical.power.l2_w"),
            Value(1032, 1033, "electrical.power.l3_w"),
            Value(1036, 1037, "electrical.meter_reading_kwh"),
        ],
    ),
    Range(
        INPUT,
        1100,
        1106,
        [
            Value(1100, 1100, "limits.session_max_a"),
            Value(1102, 1102, "limits.evse_min_a"),
            Value(1104, 1104, "limits.evse_max_a"),
            Value(1106, 1106, "limits.cable_max_a"),
        ],
    ),
    Range(
        INPUT,
        1502,
        1513,
        [
            Value(1502, 1503, "session.energy_wh session.energy_kwh"),
            Value(1504, 1505, "session.start_time"),
            Value(1508, 1509, "session.duration_s"),
            Value(1512, 1513, "session.end_time"),
        ],
    ),
    Range(
        HOLDING,
        2000,
        2002,
        [
            Value(2000, 2000, "settings.failsafe_current_a"),
            Value(2002, 2002, "settings.failsafe_timeout_s"),
        ],
    ),
    Range(HOLDING, 5004, 5004, [Value(5004, 5004, "settings.dynamic_current_a")]),
]
MORE = [
    Range(INPUT, 130, 179, [Value(130, 179, "details.chargepoint_id")]),
    Range(INPUT, 190, 199, [Value(190, 199, "details.brand")]),
    Range(INPUT, 210, 214, [Value(210, 214, "details.model")]),
    Range(INPUT, 230, 279, [Value(230, 279, "details.firmware")]),
    Range(INPUT, 290, 295, [Value(290, 291, "details.clock"), Value(294, 295, "details.clock")]),
    Range(HOLDING, 405, 405, [Value(405, 405, "details.phase_switch")]),
]
RANGES = CORE + MORE
FIRST, MIDDLE = CORE[0], CORE[2]


def expected(missing: Iterable[str], details: bool) -> dict[str, Any]:
    """The reading of the simulated charger, with None for the keys that could not be read."""
    reading: dict[str, Any] = copy.deepcopy({**READING, "details": DETAILS} if details else READING)
    for key in missing:
        *parents, last = key.split(".")
        place = reading
        for parent in parents:
            place = place[parent]
        place[last] = None
    return reading


# --- The faults, and what has to come of each ---------------------------------------------------

Attempts = List[Tuple[int, int]]  # (connection, address) of every request in a reading


def plainly(ranges: list[Range], connection: int = 1) -> Attempts:
    return [(connection, each.first) for each in ranges]


class Outcome(NamedTuple):
    """What a reading makes of a fault at one range."""

    requests: Attempts
    missing: list[str]  # keys
    part: str = ""  # the registers that the warning names beside the range


Rule = Callable[[List[Range], int, bool], Outcome]  # (ranges, at, always) -> Outcome


def harmless(ranges: list[Range], at: int, always: bool) -> Outcome:
    return Outcome(plainly(ranges), [])


def broken(ranges: list[Range], at: int, always: bool) -> Outcome:
    """Asked for once more on a new connection; then null, and on with another new one."""
    tried = [*plainly(ranges[: at + 1]), (2, ranges[at].first)]
    rest = plainly(ranges[at + 1 :], 3 if always else 2)
    return Outcome(tried + rest, ranges[at].keys if always else [])


def ends_after(ranges: list[Range], at: int, always: bool) -> Outcome:
    """The reply is right, and the connection is gone behind it."""
    return Outcome(plainly(ranges[: at + 1]) + plainly(ranges[at + 1 :], 2), [])


def spoils_next(ranges: list[Range], at: int, always: bool) -> Outcome:
    """The reply is right, and what comes behind it is not taken for the next."""
    return Outcome(plainly(ranges[: at + 2]) + plainly(ranges[at + 1 :], 2), [])


def refused(ranges: list[Range], at: int, always: bool) -> Outcome:
    """Null at once, and the connection is as good as before."""
    return Outcome(plainly(ranges), ranges[at].keys)


def refused_and_reset(ranges: list[Range], at: int, always: bool) -> Outcome:
    return Outcome(ends_after(ranges, at, always).requests, ranges[at].keys)


def one_by_one(ranges: list[Range], at: int, always: bool) -> Outcome:
    """The values of the range on their own; the first of them shares the address of the range."""
    values = ranges[at].values
    if len(values) == 1:
        return refused(ranges, at, always)
    singles = [(1, value.first) for value in values]
    requests = plainly(ranges[: at + 1]) + singles + plainly(ranges[at + 1 :])
    return Outcome(requests, values[0].keys.split() if always else [], numbers(values[0]) if always else "")


def one_by_one_and_reset(ranges: list[Range], at: int, always: bool) -> Outcome:
    """As above, with a new connection after each exception."""
    values = ranges[at].values
    behind = 2
    singles: Attempts = []
    if len(values) > 1:
        behind = 3 if always else 2
        singles = [(2, values[0].first), *((behind, value.first) for value in values[1:])]
    requests = plainly(ranges[: at + 1]) + singles + plainly(ranges[at + 1 :], behind)
    if len(values) == 1:
        return Outcome(requests, ranges[at].keys)
    return Outcome(requests, values[0].keys.split() if always else [], numbers(values[0]) if always else "")


def patient(ranges: list[Range], at: int, always: bool) -> Outcome:
    """Asked for again on the same connection, a few times."""
    times = 6 if always else 2
    requests = plainly(ranges[:at]) + [(1, ranges[at].first)] * times + plainly(ranges[at + 1 :])
    return Outcome(requests, ranges[at].keys if always else [])


def and_reset(play: Play) -> Play:
    return lambda request, reply: [*play(request, reply), (0, RESET)]


class Fault(NamedTuple):
    """A fault, what has to come of it, and the reason that the user is told."""

    play: Play
    rule: Rule
    reason: str = ""
    timeout: float = AMPLE


NO_REPLY, CLOSED = "no reply within 1 s", "closed the connection"
FAULTS = {
    "single bytes": Fault(PLAYS["single bytes"], harmless),
    "split in the header": Fault(PLAYS["split in the header"], harmless),
    "reply and reset": Fault(PLAYS["reply and reset"], ends_after),
    "reply and close": Fault(lambda request, reply: [(0, reply), (0, CLOSE)], ends_after),
    "bytes behind the reply": Fault(PLAYS["bytes behind the reply"], spoils_next),
    "silence": Fault(PLAYS["silence"], broken, NO_REPLY, TIMEOUT),
    "late": Fault(late(2 * TIMEOUT), broken, NO_REPLY, TIMEOUT),
    "dripping": Fault(
        lambda request, reply: [(0.2, reply[n : n + 1]) for n in range(len(reply))],
        broken,
        NO_REPLY,
        TIMEOUT,
    ),
    "part of a header": Fault(PLAYS["part of a header"], broken, NO_REPLY, TIMEOUT),
    "short, header of the whole": Fault(PLAYS["short, header of the whole"], broken, NO_REPLY, TIMEOUT),
    "reset": Fault(PLAYS["reset"], broken, CLOSED),
    "close": Fault(PLAYS["close"], broken, CLOSED),
    "half a reply and reset": Fault(
        lambda request, reply: [(0, reply[: len(reply) // 2]), (0, RESET)], broken, CLOSED
    ),
    "short": Fault(PLAYS["short"], broken, "wrong length"),
    "long": Fault(PLAYS["long"], broken, "wrong length"),
    "65535 bytes": Fault(PLAYS["65535 bytes"], broken, "wrong length"),
    "wrong byte count": Fault(PLAYS["wrong byte count"], broken),
    "other function": Fault(PLAYS["other function"], broken, "another request"),
    "other unit": Fault(PLAYS["other unit"], broken, "unit 0"),
    "other transaction": Fault(PLAYS["other transaction"], broken, "another request"),
    "earlier reply, other length": Fault(PLAYS["earlier reply, other length"], broken, "another request"),
    "earlier reply, same length": Fault(PLAYS["earlier reply, same length"], broken, "another request"),
    "other protocol": Fault(PLAYS["other protocol"], broken, "no Modbus"),
    "no Modbus": Fault(PLAYS["no Modbus"], broken, "no Modbus"),
    "web server": Fault(PLAYS["web server"], broken, "no Modbus"),
    "exception 1": Fault(exception(1), one_by_one, r"exception 1 \(illegal function\)"),
    "exception 2": Fault(exception(2), one_by_one, r"exception 2 \(illegal data address\)"),
    "exception 3": Fault(exception(3), one_by_one, r"exception 3 \(illegal data value\)"),
    "exception 4": Fault(exception(4), refused, r"exception 4 \(device failure\)"),
    "exception 5": Fault(exception(5), patient, r"exception 5 \(acknowledge", 2.0),
    "exception 6": Fault(exception(6), patient, r"exception 6 \(device busy\)", 2.0),
    "exception 9": Fault(exception(9), refused, "exception 9"),
    "exception 10": Fault(exception(10), refused, r"exception 10 \(gateway path unavailable\)"),
    "exception 11": Fault(exception(11), refused, r"exception 11 \(gateway target"),
    "exception 255": Fault(exception(255), refused, "exception 255"),
    "exception 2 and reset": Fault(and_reset(exception(2)), one_by_one_and_reset, r"exception 2 \("),
    "exception 4 and reset": Fault(
        and_reset(exception(4)),
        refused_and_reset,
        r"exception 4 \(",
    ),
}
EXCEPTIONS = [name for name in FAULTS if name.startswith("exception")]


@contextlib.contextmanager
def connected(charger: SimulatedCharger, timeout: float = AMPLE) -> Iterator[vestel.Charger]:
    """The charger as the program has it, in this process: a process costs twenty times as much."""
    target = vestel.Target(charger.host, charger.port, 1, 0, timeout)
    reached = vestel.Charger(vestel.modbus(target, lambda line: None), str(target), timeout)
    try:
        yield reached
    finally:
        reached.close()


def read(charger: SimulatedCharger, timeout: float = AMPLE) -> tuple[dict[str, Any], list[str]]:
    """A reading with details, without its time; and the warnings."""
    with connected(charger, timeout) as reached:
        words, warnings = vestel.read_core(reached)
        more_words, more_warnings = vestel.read_details(reached)
    reading, impossible = vestel.decode({**words, **more_words}, NOW, True)
    assert not impossible
    reading.pop("timestamp")
    return reading, [*warnings.values(), *more_warnings.values()]


def at_once(check: Callable[[Any], None], cases: Iterable[Any]) -> None:
    """All cases side by side: most of their time is waiting."""
    with ThreadPoolExecutor(13) as pool:
        list(pool.map(check, cases))


def log(charger: SimulatedCharger) -> Attempts:
    return [(r.connection, r.address) for r in charger.requests]


def assert_warned(warnings: list[str], at: Range, outcome: Outcome, reason: str) -> None:
    if not outcome.missing:
        assert warnings == []
        return
    (warning,) = warnings
    span, _, why = warning.partition(": ")
    assert re.search(rf"^Cannot read .*\b{at.bank} registers? {numbers(at)}(?![\d-])", span)
    assert re.search(rf"(?<![\d-]){outcome.part or numbers(at)}(?![\d-])", span)
    assert re.search(reason or ".", why)


# --- One fault in a reading ---------------------------------------------------------------------


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_range_costs_no_more_than_that_range(name: str, always: bool) -> None:
    fault = FAULTS[name]
    times = 1_000_000 if always else 1

    def check(at: int) -> None:
        with simulated_charger() as charger:
            bank, address = RANGES[at].bank, RANGES[at].first
            function = READ_INPUT if bank == INPUT else READ_HOLDING
            charger.fault(fault.play, address=address, function=function, times=times)
            reading, warnings = read(charger, fault.timeout)
            outcome = fault.rule(RANGES, at, always)
            assert reading == expected(outcome.missing, details=True)
            assert log(charger) == outcome.requests
            assert_warned(warnings, RANGES[at], outcome, fault.reason)

    at_once(check, range(len(RANGES)))


@pytest.mark.parametrize(
    ("at", "always"),
    [(FIRST, False), (MIDDLE, True)],
    ids=["first, once", "middle, always"],
)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_numbers_right_or_null_with_one_warning(
    run: Run, charger: SimulatedCharger, name: str, at: Range, always: bool
) -> None:
    fault = FAULTS[name]
    charger.fault(fault.play, address=at.first, times=1_000_000 if always else 1)
    result = run("--format=json", f"--timeout={fault.timeout}", charger=charger)
    outcome = fault.rule(CORE, CORE.index(at), always)
    reading = json.loads(result.stdout)
    reading.pop("timestamp")
    assert (result.returncode, reading) == (0, expected(outcome.missing, details=False))
    assert log(charger) == outcome.requests
    lines = result.stderr.splitlines()
    assert all(line.startswith("WARNING: ") for line in lines)
    assert_warned([line[9:] for line in lines], at, outcome, fault.reason)


@pytest.mark.parametrize("code", [5, 6])
def test_a_charger_that_is_busy_three_times_and_then_fine_is_read(code: int) -> None:
    def check(at: Range) -> None:
        with simulated_charger() as charger:
            charger.fault(exception(code), address=at.first, times=3)
            assert read(charger, 1.0) == (expected([], details=True), [])
            assert [r.address for r in charger.requests].count(at.first) == 4
            assert charger.connections == 1

    at_once(check, RANGES)


def test_a_charger_that_is_busy_slowly_costs_no_more_than_two_timeouts(charger: SimulatedCharger) -> None:
    charger.fault(lambda request, reply: [(0.9, exception(6)(request, reply)[0][1])], address=1000)
    begun = time.monotonic()
    with connected(charger, 1.0) as reached, pytest.raises(vestel.ChargerError, match="exception 6"):
        reached.read("input", 1000, 38)
    assert time.monotonic() - begun < 2.6
    assert len(charger.requests) == 2


def test_a_busy_charger_is_asked_again_after_a_short_wait(charger: SimulatedCharger) -> None:
    times: list[float] = []

    def busy(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        times.append(time.monotonic())
        return exception(6)(request, reply)

    charger.fault(busy, address=1000, times=3)
    assert read(charger, 1.0) == (expected([], details=True), [])
    assert all(0.05 < later - earlier < 0.9 for earlier, later in zip(times, times[1:]))


# --- A fault at every request --------------------------------------------------------------------


def assert_one_error(result: Result[str], *patterns: str) -> None:
    assert (result.returncode, result.stdout) == (1, "")
    (error,) = result.stderr.splitlines()
    for pattern in ("^ERROR: Cannot (connect to|read) 127.0.0.1:", *patterns):
        assert re.search(pattern, error), f"{pattern!r} is not in {error!r}"


RIGHT = [
    "single bytes",
    "split in the header",
    "reply and reset",
    "reply and close",
    "bytes behind the reply",
]
WAITING = [name for name, fault in FAULTS.items() if fault.timeout == TIMEOUT]


@pytest.mark.parametrize("name", RIGHT)
def test_what_does_no_harm_does_none_at_every_request(charger: SimulatedCharger, name: str) -> None:
    charger.fault(FAULTS[name].play)
    assert read(charger) == (expected([], details=True), [])


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in [*RIGHT, *WAITING]])
def test_where_nothing_can_be_read_there_is_one_error_line_and_no_reading(
    run: Run, charger: SimulatedCharger, name: str
) -> None:
    fault = FAULTS[name]
    charger.fault(fault.play)
    timeout = 0.5 if fault.rule is patient else AMPLE
    result = run("--details", "--format=prometheus", f"--timeout={timeout}", charger=charger)
    assert_one_error(result, "^ERROR: Cannot read ", fault.reason)
    assert charger.connections == (14 if fault.rule is broken else charger.connections)


def test_a_charger_that_never_answers_costs_two_timeouts_for_each_range(run: Run) -> None:
    def check(name: str) -> None:
        with simulated_charger() as charger:
            charger.fault(FAULTS[name].play)
            begin = time.monotonic()
            result = run("--format=json", "--timeout=0.4", charger=charger)
            took = time.monotonic() - begin
        assert_one_error(result, "no reply within 0.4 s", "--unit 255", "--timeout", "another master")
        assert took < 7 * 2 * 0.4 + 4
        assert len(charger.requests) == 14
        assert {r.connection for r in charger.requests} == set(range(1, 15))

    at_once(check, WAITING)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (exception(1), ["illegal function", "--unit 255"]),
        (exception(2), ["illegal data address", "--unit 255"]),
        (exception(4), ["device failure", "try again later"]),
        (exception(10), ["gateway path unavailable", "--unit 255"]),
        (exception(11), ["gateway target", "--unit 255"]),
        (PLAYS["other unit"], ["unit 0", "--unit"]),
        (PLAYS["reset"], ["closed the connection", "another master", "evcc", "failsafe timeout"]),
        (PLAYS["close"], ["closed the connection", "another master", "Home Assistant", "failsafe timeout"]),
        (PLAYS["no Modbus"], ["no Modbus", "address", "--port"]),
        (PLAYS["web server"], ["no Modbus", "address", "--port"]),
    ],
    ids=["1", "2", "4", "10", "11", "other unit", "reset", "close", "no Modbus", "web server"],
)  # fmt: skip
def test_the_message_says_what_may_be_done(
    run: Run, charger: SimulatedCharger, fault: Play, words: list[str]
) -> None:
    charger.fault(fault)
    assert_one_error(run("--timeout=20", charger=charger), *words)


# --- No connection --------------------------------------------------------------------------------


def test_a_refused_port_is_one_error_line_that_says_what_may_be_done(run: Run) -> None:
    port = free_port()
    result = run("--ip=127.0.0.1", f"--port={port}")
    assert_one_error(result, f"^ERROR: Cannot connect to 127.0.0.1:{port}: ", "refused")
    for hint in ("another master", "evcc", "Home Assistant", "failsafe timeout", "Modbus TCP", "web page"):
        assert hint in result.stderr


def test_a_dead_host_costs_one_timeout_and_is_one_error_line(run: Run) -> None:
    with dead_host() as port:
        begin = time.monotonic()
        result = run("--ip=127.0.0.1", f"--port={port}", "--timeout=2", "--details")
        took = time.monotonic() - begin
    assert_one_error(result, f"^ERROR: Cannot connect to 127.0.0.1:{port}: ", "address", "firewall")
    assert 2 <= took < 2.5 + 1.4  # the start of a process on a slow machine; a second try makes it 4


def test_a_connection_that_is_closed_at_once_every_time_is_one_error_line(
    run: Run, charger: SimulatedCharger
) -> None:
    charger.close_next = 1000
    assert_one_error(run(charger=charger), "another master", "failsafe timeout")


def test_a_connection_that_is_closed_at_once_is_made_a_second_time() -> None:
    with simulated_charger() as charger:
        for _ in range(100):  # now and then the reset comes before connect() is through
            charger.close_next, charger.connections = 1, 0
            with connected(charger) as reached:
                words, warnings = vestel.read_core(reached)
            assert (len(words), warnings, charger.connections) == (91, {}, 2)


def test_the_first_connection_may_be_reset(run: Run, charger: SimulatedCharger) -> None:
    charger.fault("reset", times=1)
    result = run("--format=json", "--details", charger=charger)
    reading = json.loads(result.stdout)
    reading.pop("timestamp")
    assert (result.returncode, result.stderr) == (0, "")
    assert reading == expected([], details=True)
    assert charger.connections == 2


@pytest.mark.parametrize("at", range(7), ids=lambda at: numbers(CORE[at]))
def test_a_charger_that_vanishes_before_the_core_is_through_is_an_error(
    run: Run, charger: SimulatedCharger, at: int
) -> None:
    charger.fault(charger.vanish(), address=CORE[at].first)
    result = run("--details", "--format=json", charger=charger)
    assert_one_error(result, "^ERROR: Cannot connect to ", "refused")


@pytest.mark.parametrize("at", range(6), ids=lambda at: numbers(MORE[at]))
def test_a_charger_that_vanishes_during_the_details_leaves_the_core(
    run: Run, charger: SimulatedCharger, at: int
) -> None:
    charger.fault(charger.vanish(), address=MORE[at].first)
    result = run("--details", "--format=json", charger=charger)
    reading = json.loads(result.stdout)
    reading.pop("timestamp")
    lost = MORE[at:]
    assert result.returncode == 0
    assert reading == expected([key for each in lost for key in each.keys], details=True)
    lines = result.stderr.splitlines()
    assert len(lines) == len(lost)
    for line, each in zip(lines, lost):
        assert re.search(rf"^WARNING: Cannot read {each.bank} registers? {numbers(each)}: .*refused", line)


# --- Firmware that lacks registers ----------------------------------------------------------------


@pytest.mark.parametrize("at", RANGES, ids=numbers)
def test_a_register_that_is_missing_costs_no_other_value(charger: SimulatedCharger, at: Range) -> None:
    for address in range(at.first, at.last + 1):
        charger.missing = {(at.bank, address)}
        held = [value for value in at.values if value.first <= address <= value.last]
        reading, warnings = read(charger)
        assert reading == expected([key for value in held for key in value.keys.split()], details=True)
        outcome = Outcome([], ["some"] * len(held), numbers(held[0]) if held else "")
        assert_warned(warnings, at, outcome, "exception 2")
    assert charger.connections == at.last - at.first + 1


@pytest.mark.parametrize("resets", [False, True], ids=["stays", "resets after every exception"])
def test_old_firmware_with_holes_is_read_value_by_value(resets: bool) -> None:
    def reset_after_exceptions(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        return [(0, reply), (0, RESET)] if reply[7] & 0x80 else [(0, reply)]

    with simulated_charger(holes=2, old=True) as charger:
        if resets:
            charger.fault(reset_after_exceptions)
        reading, warnings = read(charger)
    assert reading == expected([key for each in MORE for key in each.keys], details=True)
    assert len(warnings) == 6
    for warning, each in zip(warnings, MORE):
        assert re.search(rf"^Cannot read .*{each.bank} registers? {numbers(each)}", warning)
    assert (charger.connections > 1) == resets


# --- A fault while a current is set ---------------------------------------------------------------

SET, IGNORED, REFUSED, UNCERTAIN, NOTHING = (
    r"^Dynamic current: 16 A -> 20 A$",
    r"\b20 A\b.*\b16 A\b",
    r"\b20 A was refused: ",
    r"\b16 A\b.*\bmay be 20 A\b",
    r"nothing was written",
)
PLACES: dict[str, dict[str, Any]] = {
    "limits, always": {"address": 1100},
    "write, carried out": {"function": WRITE, "times": 1, "executed": True},
    "write, not carried out": {"function": WRITE, "times": 1, "executed": False},
    "read-back, once": {"address": 5004, "function": READ_HOLDING, "skip": 1, "times": 1},
    "read-back, always": {"address": 5004, "function": READ_HOLDING, "skip": 1},
}
ANSWERS: dict[Any, tuple[str, ...]] = {  # what is said of a fault at each of these places
    harmless: (SET, SET, IGNORED, SET, SET),
    ends_after: (SET, SET, IGNORED, SET, SET),
    spoils_next: (SET, SET, IGNORED, SET, SET),
    broken: (NOTHING, SET, IGNORED, SET, UNCERTAIN),
    refused: (SET, REFUSED, REFUSED, UNCERTAIN, UNCERTAIN),
    refused_and_reset: (SET, REFUSED, REFUSED, UNCERTAIN, UNCERTAIN),
    one_by_one: (SET, REFUSED, REFUSED, UNCERTAIN, UNCERTAIN),
    one_by_one_and_reset: (SET, REFUSED, REFUSED, UNCERTAIN, UNCERTAIN),
    "exception 5": (SET, SET, IGNORED, SET, UNCERTAIN),
    "exception 6": (SET, SET, SET, SET, UNCERTAIN),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_while_a_current_is_set_never_passes_for_a_confirmation(name: str) -> None:
    fault = FAULTS[name]

    def check(case: tuple[str, str]) -> None:
        place, said = case
        with simulated_charger() as charger:
            charger.fault(fault.play, **PLACES[place])
            lines: list[str] = []
            with connected(charger, fault.timeout) as reached:
                try:
                    vestel.set_currents(reached, [(vestel.DYNAMIC_CURRENT, 20)], lines.append)
                except vestel.ChargerError as error:
                    lines.append(f"{error}")
            (line,) = lines
            assert re.search(said, line), f"{place}: {line}"
            times = 0 if said == NOTHING else 2 if (name, place[:5]) == ("exception 6", "write") else 1
            assert charger.writes == [(5004, 20)] * times
            assert said != SET or charger.image[HOLDING, 5004] == 20

    at_once(check, zip(PLACES, ANSWERS.get(name) or ANSWERS[fault.rule]))


# --- Fuzz ---------------------------------------------------------------------------------------

# A reply whose bytes from .. to are replaced: cut, longer, of another header, or all noise.
SPLICES = st.tuples(st.integers(0, 12) | st.integers(0, 90), st.integers(0, 90), st.binary(max_size=100))
Splice = Tuple[int, int, bytes]


@pytest.fixture(scope="module")
def noisy() -> Iterator[SimulatedCharger]:
    with simulated_charger() as charger:
        yield charger


def splice(reply: bytes, how: Splice) -> bytes:
    start, length, inserted = how
    return reply[:start] + inserted + reply[start + length :]


@fuzzed
@given(how=SPLICES, at=st.sampled_from([CORE[0], CORE[2], CORE[6]]), closes=st.booleans())
def test_fuzz_a_read_gives_right_words_or_none(
    noisy: SimulatedCharger, how: Splice, at: Range, closes: bool
) -> None:
    sent = []

    def noise(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        sent.append((splice(reply, how), reply))
        return [(0, sent[0][0]), (0, CLOSE if closes else RESET)]

    noisy.faults.clear()
    noisy.fault(noise, times=1)
    words = [IMAGE.get((at.bank, address), 0) for address in range(at.first, at.last + 1)]
    code = None
    with connected(noisy) as reached:
        try:
            got = reached.read(at.bank, at.first, len(words))
        except vestel.ChargerError as error:
            code, got = error.code, []
    data, reply = sent[0]
    if data[:9] == reply[:9] and len(data) >= len(reply):  # only its values are other ones
        words = list(struct.unpack_from(f">{len(words)}H", data, 9))
    head = reply[:4] + b"\0\3" + reply[6:7] + bytes([reply[7] | 0x80])
    if data[:8] == head and len(data) > 8 and data[8] not in (0, 5, 6):
        assert code == data[8]
    else:
        assert (code, got) == (None, words)


@fuzzed
@given(how=SPLICES, executed=st.booleans())
def test_fuzz_a_write_is_confirmed_only_where_it_was_carried_out(
    noisy: SimulatedCharger, how: Splice, executed: bool
) -> None:
    noisy.faults.clear()
    noisy.requests.clear()
    noisy.set(HOLDING, 5004, 16)
    noisy.fault(
        lambda request, reply: [(0, splice(reply, how)), (0, CLOSE)],
        function=WRITE,
        times=1,
        executed=executed,
    )
    lines: list[str] = []
    with connected(noisy) as reached:
        try:
            vestel.set_currents(reached, [(vestel.DYNAMIC_CURRENT, 20)], lines.append)
        except vestel.ChargerError as error:
            message = str(error)
        else:
            message = "20 A"
    assert re.search(r"\b20 A\b", message)
    confirmed = lines == ["Dynamic current: 16 A -> 20 A"]
    assert confirmed or lines == []
    assert set(noisy.writes) == {(5004, 20)}
    assert not confirmed or noisy.image[HOLDING, 5004] == 20


@fuzzed
@given(stream=st.lists(st.binary(max_size=60), min_size=1, max_size=20))
def test_fuzz_a_run_of_noise_ends_in_an_error(noisy: SimulatedCharger, stream: list[bytes]) -> None:
    noise = itertools.cycle(stream)
    noisy.faults.clear()
    noisy.fault(lambda request, reply: [(0, next(noise)), (0, CLOSE)])
    with connected(noisy) as reached, pytest.raises(vestel.ChargerError, match=r"^Cannot read "):
        vestel.read_core(reached)


# --- Soak ---------------------------------------------------------------------------------------


def count_null_unless_right(part: Any, whole: Any) -> int:
    """How many values are None that are not None in the whole; the others are the same."""
    if isinstance(whole, dict):
        if part.keys() != whole.keys():
            raise AssertionError(f"{part} has other keys than {whole}")
        return sum(count_null_unless_right(part[key], whole[key]) for key in whole)
    if part is None and whole is not None:
        return 1
    assert part == whole
    return 0


def test_soak_a_log_of_json_lines_is_whole_and_right_whatever_the_box_does(
    run: Run, charger: SimulatedCharger, tmp_path: Path
) -> None:
    dice = random.Random(20261120)
    plays = [
        fault.play
        for name, fault in FAULTS.items()
        if name in ("silence", *EXCEPTIONS) or name not in WAITING
    ]

    def play(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        return dice.choice(plays)(request, reply) if dice.random() < 0.15 else [(0, reply)]

    charger.fault(play)
    path = tmp_path / "log.json"
    whole = expected([], details=True)
    outcomes = set()
    good = 0
    for _ in range(40):
        charger.close_next = dice.choice([0, 0, 0, 1, 1000])
        with path.open("ab") as file:
            result = run("--details", "--format=json", "--timeout=0.3", charger=charger, stdout=file)
        good += result.returncode == 0
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == good
        if result.returncode:
            assert result.returncode == 1
            assert re.fullmatch(r"ERROR: Cannot (connect to|read) .*\n", result.stderr)
            outcomes.add("error")
            continue
        assert lines[-1].endswith(b"\n")
        reading = json.loads(lines[-1])
        datetime.fromisoformat(reading.pop("timestamp"))
        nulls = count_null_unless_right(reading, whole)
        assert bool(nulls) == bool(result.stderr)
        assert all(line.startswith("WARNING: Cannot read ") for line in result.stderr.splitlines())
        outcomes.add("gaps" if nulls else "whole")
    assert outcomes == {"error", "gaps", "whole"}
