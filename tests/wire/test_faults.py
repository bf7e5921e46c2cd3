"""What real boxes do to their masters: no number is ever wrong, and no fault goes unsaid.

The faults, and what has to come of each, are the table of faults.py.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Callable, Iterator

import pytest
from charger import ALWAYS, CLOSE, RESET, SILENCE, Frames, Piece, SimulatedCharger
from clock import Clock
from conftest import Memory
from door import held_back, listening
from faults import (
    HARMLESS,
    NAMES,
    NO_REPLY,
    PROMPT,
    READ_ALL,
    asked,
    asked_of,
    case_of,
    flat_of,
    hurrying,
    null_keys,
    outcome_of,
    playing,
    registers,
    warnings,
    with_null,
)
from program import Result, Run, eventually
from registers import CORE_RANGES, DETAIL_RANGES, RANGES, Row, lost_with, range_of, span

pytestmark = pytest.mark.every_version


@pytest.fixture(scope="module")
def box() -> Iterator[SimulatedCharger]:
    """Give a charger for many readings: to start one takes longer than a reading."""
    with listening() as charger:
        yield charger


@pytest.fixture
def slow_box(memory: Memory, clock: Clock) -> Memory:
    """Give a charger in memory, in simulated time: for what takes long."""
    memory.clock = clock
    return memory


def null(*ranges: list[Row]) -> dict[str, Any]:
    """Return the usual reading with None for all of these ranges."""
    return with_null(key for rows in ranges for key in null_keys("it", rows))


def json_of(result: Result[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return flat_of(json.loads(result.stdout))


# --- One fault in a reading ---------------------------------------------------------------------

# One register and several; the first range, the last one of the core, and a detail.
PLACES = [range_of(address) for address in (100, 1000, 5004, 290)]


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_costs_no_more_than_its_range(
    call: Run, box: SimulatedCharger, clock: Clock, name: str
) -> None:
    for at, times in itertools.product(PLACES, (1, ALWAYS)):
        case = case_of(name, at)
        what, null = case.once if times == 1 else case.always
        box.forget()
        with playing(box, name, at[0].address, times=times, clock=clock):
            result = call(*READ_ALL, charger=box)
        assert json_of(result) == with_null(null_keys(null, at))
        assert result.stderr.splitlines() == warnings(null, at, case.why)
        requests = asked(what, RANGES, at)
        # One that had no reply may be noted a moment later.
        assert eventually(lambda: len(asked_of(box, what)) >= len(requests))  # noqa: B023
        assert asked_of(box, what) == requests


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_fault_at_every_request_costs_nothing(
    call: Run, box: SimulatedCharger, name: str
) -> None:
    box.forget()
    box.fault(outcome_of(name))
    result = call(*READ_ALL, charger=box)
    assert (json_of(result), result.stderr) == (with_null([]), "")


@pytest.mark.parametrize("odd", [0, 1])
def test_a_process_prints_nothing_but_its_own_lines(
    run: Run, charger: SimulatedCharger, odd: int
) -> None:
    """Pymodbus would log what it makes of a fault; no two ranges in a row are without a reply."""
    names = [name for name in NO_REPLY if name in PROMPT][odd::2]
    played = [*zip(names, RANGES[1::2])]
    for name, at in played:
        charger.fault(outcome_of(name), at[0].address)
    result = run(*READ_ALL, charger=charger)
    assert json_of(result) == null(*[at for _, at in played])
    assert result.stderr.splitlines() == [
        line for name, at in played for line in warnings("it", at, case_of(name, at).why)
    ]


# --- Sent again ---------------------------------------------------------------------------------


def test_each_sending_has_a_new_transaction_id(call: Run, box: SimulatedCharger) -> None:
    box.forget()
    with playing(box, SILENCE, 400, times=1):
        result = call("-v", charger=box)
    sent = re.findall("request (.. ..) 00 00 00 06 (.*)", result.stderr)
    assert len({transaction for transaction, _ in sent}) == len(sent) == 8
    assert sent[1][1] == sent[2][1] == "01 04 01 90 00 05"
    assert box.connections == 1


@pytest.mark.parametrize(
    ("addresses", "count", "lost"), [([100], 1, []), ([1000], 1, []), ([1000, 1100], 2, [1000])]
)
def test_replies_that_come_late_cost_no_connection(
    call: Run, box: SimulatedCharger, addresses: list[int], count: int, lost: list[int]
) -> None:
    box.forget()
    box.fault(held_back(count), *addresses, times=count + 1)
    with hurrying(addresses[0], times=count):
        result = call(*READ_ALL, charger=box)
    assert json_of(result) == null(*map(range_of, lost))
    assert (len(box.requests), box.connections) == (len(RANGES) + 1, 1)


def test_a_late_reply_is_not_taken_for_that_to_the_next(call: Run, box: SimulatedCharger) -> None:
    box.forget()
    box.set(5004, 16)
    late: list[bytes] = []

    def play(request: bytes, reply: bytes) -> list[Piece]:
        late.append(reply)
        box.set(5004, 9)
        return [] if len(late) == 1 else [(0, late[0] + reply)]

    box.fault(Frames(play), 5004)
    with hurrying(5004, times=1):
        reading = json_of(call(*READ_ALL, charger=box))
    box.set(5004, 16)
    assert reading == {**with_null([]), "settings.dynamic_current_a": 9}
    assert box.connections == 1


# --- A charger that does not answer -------------------------------------------------------------


@pytest.mark.parametrize("name", NO_REPLY)
def test_two_ranges_without_usable_reply_are_an_error(
    call: Run, box: SimulatedCharger, clock: Clock, name: str
) -> None:
    box.forget()
    with playing(box, name, clock=clock):
        result = call(*READ_ALL, charger=box)
    assert (result.returncode, result.stdout) == (1, "")
    why = case_of(name, RANGES[0]).why
    where = f"127.0.0.1:{box.port}"
    assert re.fullmatch(f"ERROR: Cannot read {where}: {why}(; .*)?\n", result.stderr)
    assert eventually(lambda: len(box.requests) == 4)  # the last may be noted a moment later
    is_kept = why.startswith("no reply")
    connections = [1, 1, 1, 1] if is_kept else [1, 2, 3, 4]
    assert asked_of(box) == [*zip(connections, (100, 100, 400, 400))]


@pytest.mark.parametrize(
    ("first", "returncode"),
    [*[(rows[0].address, 1) for rows in CORE_RANGES[:-1]], (5004, 0)],
)
def test_two_ranges_in_a_row_end_the_reading_anywhere(
    call: Run, box: SimulatedCharger, first: int, returncode: int
) -> None:
    box.forget()
    addresses = [rows[0].address for rows in RANGES]
    here = addresses.index(first)
    box.fault(RESET, first)
    box.fault(RESET, addresses[here + 1])  # behind 5004 come details, which end nothing
    result = call("--details", "--format=json", charger=box)
    assert result.returncode == returncode
    assert bool(result.stdout) == (returncode == 0)
    assert {*addresses} - {request.address for request in box.requests} == {
        *(addresses[here + 2 :] if returncode else [])
    }


@pytest.mark.parametrize(
    "reply", [None, 4, 2], ids=["between", "refused between", "unsupported between"]
)
def test_ranges_without_reply_that_are_apart_end_nothing(
    call: Run, box: SimulatedCharger, reply: int | None
) -> None:
    box.forget()
    for address in (100, 1000, 1502):
        box.fault(RESET, address)
    if reply:
        box.fault(reply, 400, 1100)
    result = call(*READ_ALL, charger=box)
    reading = json_of(result)
    assert reading["settings.dynamic_current_a"] == 16
    assert reading["identity.serial"] is reading["session.energy_wh"] is None
    assert len(result.stderr.splitlines()) == (5 if reply else 3)


COSTS: dict[str, tuple[Callable[[SimulatedCharger], object], int]] = {
    # what the charger does; how many timeouts it costs until there is an error
    "dead host": (lambda box: setattr(box, "away", "dead"), 1),
    "refused": (lambda box: setattr(box, "away", "refused"), 0),
    "vanishes": (lambda box: box.fault(box.vanish, 5004), 0),
    "silent": (lambda box: box.fault(SILENCE), 4),
    "silent from the second range on": (lambda box: box.fault(SILENCE, skip=1), 4),
    "another master, and silence": (lambda box: (box.other_master(), box.fault(SILENCE)), 4),
    "closes each connection": (lambda box: box.fault(CLOSE), 0),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_charger_that_does_not_answer_costs_so_much(
    slow_box: Memory, clock: Clock, call: Run, name: str
) -> None:
    happens, timeouts = COSTS[name]
    happens(slow_box)
    result = call("--ip=box", "--timeout=3", "--details")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch("ERROR: Cannot (connect to|read) .*\n", result.stderr)
    assert clock.passed == 3 * timeouts


@pytest.mark.parametrize("at", [DETAIL_RANGES[0], DETAIL_RANGES[-1]], ids=span)
@pytest.mark.parametrize("how", ["vanishes", "is silent"])
def test_details_never_end_a_reading(slow_box: Memory, call: Run, at: list[Row], how: str) -> None:
    skip = CORE_RANGES + DETAIL_RANGES[: DETAIL_RANGES.index(at)]
    slow_box.fault(slow_box.vanish if how == "vanishes" else SILENCE, skip=len(skip))
    result = call("--ip=box", "--details", "--format=json")
    lost = DETAIL_RANGES[DETAIL_RANGES.index(at) :]
    assert json_of(result) == null(*lost)
    lines = result.stderr.splitlines()
    assert len(lines) == len(lost)
    for line, rows in zip(lines, lost):
        assert line.startswith(f"WARNING: Cannot read {registers(rows)}: ")


# --- A charger that refuses ---------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 4, 6])
def test_where_all_of_the_core_is_refused_there_is_an_error(
    slow_box: Memory, call: Run, code: int
) -> None:
    slow_box.fault(code)
    result = call("--ip=box", *READ_ALL)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"ERROR: Cannot read box:502: exception {code}.*\n", result.stderr)
    asked_for = {request.address for request in slow_box.requests}
    assert asked_for >= {at[0].address for at in CORE_RANGES}
    assert asked_for.isdisjoint(at[0].address for at in DETAIL_RANGES)


@pytest.mark.parametrize("code", [5, 6])
@pytest.mark.parametrize("timeout", [0.4, 2.0, 10.0])
def test_a_busy_charger_is_asked_again_for_a_timeout(
    slow_box: Memory, clock: Clock, call: Run, code: int, timeout: float
) -> None:
    slow_box.fault(code, 1502)
    result = call("--ip=box", f"--timeout={timeout}")
    assert re.search(f"1502-1513: exception {code} ", result.stderr)
    times = slow_box.times_of(1502)
    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    assert len(waits) >= 4
    assert 0 < min(waits) <= max(waits) <= timeout / 4
    assert timeout / 2 < times[-1] - times[0] < timeout * 1.2
    assert (slow_box.connections, clock.passed) == (1, times[-1] - times[0])


@pytest.mark.parametrize("at", RANGES, ids=span)
def test_a_register_that_is_missing_costs_no_other_value(
    call: Run, memory: Memory, at: list[Row]
) -> None:
    for address in range(at[0].address, at[-1].last + 1):
        memory.unsupported = {(at[0].bank, address)}
        result = call("--ip=box", *READ_ALL)
        held = [row for row in at if row.address <= address <= row.last]
        assert json_of(result) == with_null(key for row in held for key in lost_with(row)[0])
        part = f"{span(held)} of " if held and len(at) > 1 else ""
        line = f"Cannot read {part}{registers(at)}: exception 2 (illegal data address)"
        assert result.stderr == (f"WARNING: {line}\n" if held else "")
    assert memory.connections == at[-1].last - at[0].address + 1


@pytest.mark.parametrize("resets", [False, True], ids=["stays", "resets after every exception"])
def test_old_firmware_with_gaps_is_read_value_by_value(call: Run, resets: bool) -> None:
    with listening(refuses_gaps=True, old_firmware=True, resets_after_exception=resets) as charger:
        result = call(*READ_ALL, charger=charger)
        connections = charger.connections
    assert json_of(result) == null(*DETAIL_RANGES)
    why = "exception 2 (illegal data address)"
    assert result.stderr.replace("290-291, 294-295 of ", "").splitlines() == [
        f"WARNING: Cannot read {registers(at)}: {why}" for at in DETAIL_RANGES
    ]
    assert (connections > 1) == resets


# --- The connection goes ------------------------------------------------------------------------


def test_a_connection_that_is_closed_at_once_is_made_again(
    call: Run, box: SimulatedCharger
) -> None:
    for _ in range(30):  # now and then the reset comes before connect() is through
        box.forget()
        box.resets_next = 1
        result = call(*READ_ALL, charger=box)
        assert (json_of(result), result.stderr, box.connections) == (with_null([]), "", 2)
