"""What real boxes do to their masters: no number is ever wrong, and no fault goes unsaid.

The faults, and what has to come of each, are the table of faults.py.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import struct
from typing import Any, Callable, Iterator, Tuple

import pytest
from charger import ALWAYS, CLOSE, RESET, SILENCE, Frames, Outcome, Piece, Request, SimulatedCharger
from clock import Clock, gaps
from conftest import Memory
from door import held_back, listening
from faults import (
    EXCEPTION,
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import EXAMPLES, Result, Run, fuzzed
from registers import (
    CORE_RANGES,
    DETAIL_RANGES,
    DYNAMIC,
    KEYS,
    RANGES,
    Row,
    image,
    lost_with,
    range_of,
    span,
)

import vestel

pytestmark = pytest.mark.every_version

FIRST = [at[0].address for at in RANGES]


@pytest.fixture(scope="module")
def listener() -> Iterator[SimulatedCharger]:
    """Give a charger for many readings: to start one takes longer than a reading."""
    with listening() as charger:
        yield charger


@pytest.fixture
def box(listener: SimulatedCharger) -> SimulatedCharger:
    listener.forget()
    return listener


def null(*ranges: list[Row]) -> dict[str, Any]:
    """Return the usual reading with None for all of these ranges."""
    return with_null(key for rows in ranges for key in null_keys("it", rows))


def json_of(result: Result[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return flat_of(json.loads(result.stdout))


def assert_error(result: Result[str], line: str) -> None:
    """Exit 1, nothing on stdout, and one line."""
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(f"ERROR: {line}\n", result.stderr)


# One register and several; the first range, the last one of the core, and a detail.
PLACES = [range_of(address) for address in (100, 1000, 5004, 290)]


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_costs_no_more_than_its_range(
    call: Run, box: SimulatedCharger, clock: Clock, name: str
) -> None:
    for at, times in itertools.product(PLACES, (1, ALWAYS)):
        what, null, why = case_of(name, at, times)
        box.forget()
        with playing(box, name, at[0].address, times=times, clock=clock):
            result = call(*READ_ALL, charger=box)
        assert json_of(result) == with_null(null_keys(null, at))
        assert result.stderr.splitlines() == warnings(null, at, why)
        assert asked_of(box, what) == asked(what, at)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_fault_at_every_request_costs_nothing(
    call: Run, box: SimulatedCharger, name: str
) -> None:
    box.fault(outcome_of(name))
    result = call(*READ_ALL, charger=box)
    assert (json_of(result), result.stderr) == (with_null([]), "")


@pytest.mark.parametrize("odd", [0, 1])
def test_a_process_prints_nothing_but_its_own_lines(
    run: Run, box: SimulatedCharger, odd: int
) -> None:
    """Pymodbus would log what it makes of a fault; no two ranges in a row are without a reply."""
    names = [name for name in NO_REPLY if name in PROMPT][odd::2]
    played = [*zip(names, RANGES[1::2])]
    for name, at in played:
        box.fault(outcome_of(name), at[0].address)
    result = run(*READ_ALL, charger=box)
    assert json_of(result) == null(*[at for _, at in played])
    assert result.stderr.splitlines() == [
        line for name, at in played for line in warnings("it", at, case_of(name, at)[2])
    ]


def test_each_sending_has_a_new_transaction_id(
    call: Run, box: SimulatedCharger, clock: Clock
) -> None:
    with playing(box, SILENCE, 400, times=1, clock=clock):
        result = call("-v", charger=box)
    sent = re.findall("request (.. ..) 00 00 00 06 (.*)", result.stderr)
    assert len({transaction for transaction, _ in sent}) == len(sent) == 8
    assert sent[1][1] == sent[2][1] == "01 04 01 90 00 05"


@pytest.mark.parametrize(
    ("addresses", "count", "lost"), [([100], 1, []), ([1000], 1, []), ([1000, 1100], 2, [1000])]
)
def test_replies_that_come_late_cost_no_connection(
    call: Run,
    box: SimulatedCharger,
    clock: Clock,
    addresses: list[int],
    count: int,
    lost: list[int],
) -> None:
    box.fault(held_back(count), *addresses, times=count + 1)
    with hurrying(box, clock):
        result = call(*READ_ALL, charger=box)
    assert json_of(result) == null(*map(range_of, lost))
    assert (len(box.requests), box.connections) == (len(RANGES) + 1, 1)


def test_a_connection_that_is_closed_at_once_is_made_again(
    call: Run, box: SimulatedCharger
) -> None:
    for _ in range(30):  # now and then the reset comes before connect() is through
        box.forget()
        box.resets_next = 1
        result = call(*READ_ALL, charger=box)
        assert (json_of(result), result.stderr, box.connections) == (with_null([]), "", 2)


@pytest.mark.parametrize("name", NO_REPLY)
def test_two_ranges_without_usable_reply_are_an_error(
    call: Run, box: SimulatedCharger, clock: Clock, name: str
) -> None:
    with playing(box, name, clock=clock):
        result = call(*READ_ALL, charger=box)
    why = case_of(name, RANGES[0])[2]
    assert_error(result, f"Cannot read 127.0.0.1:{box.port}: {why}(; .*)?")
    connections = [1, 1, 1, 1] if why.startswith("no reply") else [1, 2, 3, 4]
    assert asked_of(box) == [*zip(connections, (100, 100, 400, 400))]


@pytest.mark.parametrize("here", range(len(CORE_RANGES)))
def test_two_ranges_in_a_row_end_the_reading_anywhere(
    call: Run, box: SimulatedCharger, here: int
) -> None:
    box.fault(RESET, *FIRST[here : here + 2])
    result = call("--details", "--format=json", charger=box)
    is_end = FIRST[here] != 5004  # details come behind it, which end nothing
    assert (result.returncode, not result.stdout) == (is_end, is_end)
    seen = {request.address for request in box.requests}
    assert seen == {*(FIRST[: here + 2] if is_end else FIRST)}


@pytest.mark.parametrize("reply", [None, 4, 2], ids=["right", "refused", "unsupported"])
def test_ranges_without_reply_that_are_apart_end_nothing(
    call: Run, box: SimulatedCharger, reply: int | None
) -> None:
    box.fault(RESET, 100, 1000, 1502)
    box.fault(lambda _: reply, 400, 1100)
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
    memory: Memory, clock: Clock, call: Run, name: str
) -> None:
    happens, timeouts = COSTS[name]
    happens(memory)
    assert_error(call("--ip=box", "--timeout=3", "--details"), "Cannot (connect to|read) .*")
    assert clock.passed == 3 * timeouts


@pytest.mark.parametrize("first", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("how", ["vanishes", "is silent"])
def test_details_never_end_a_reading(
    memory: Memory, clock: Clock, call: Run, first: int, how: str
) -> None:
    lost = DETAIL_RANGES[first:]
    memory.fault(memory.vanish if how == "vanishes" else SILENCE, skip=len(RANGES) - len(lost))
    result = call("--ip=box", "--details", "--format=json")
    assert json_of(result) == null(*lost)
    begins = [": ".join(line.split(": ")[:2]) for line in result.stderr.splitlines()]
    assert begins == [f"WARNING: Cannot read {registers(rows)}" for rows in lost]


@pytest.mark.parametrize("code", [2, 4, 6])
def test_where_all_of_the_core_is_refused_there_is_an_error(
    memory: Memory, clock: Clock, call: Run, code: int
) -> None:
    memory.fault(code)
    assert_error(call("--ip=box", *READ_ALL), f"Cannot read box:502: exception {code}.*")
    asked_for = {request.address for request in memory.requests}
    assert asked_for >= {at[0].address for at in CORE_RANGES}
    assert asked_for.isdisjoint(at[0].address for at in DETAIL_RANGES)


@pytest.mark.parametrize("code", [5, 6])
@pytest.mark.parametrize("timeout", [0.4, 2.0, 10.0])
def test_a_busy_charger_is_asked_again_for_a_timeout(
    memory: Memory, clock: Clock, call: Run, code: int, timeout: float
) -> None:
    memory.fault(code, 1502)
    result = call("--ip=box", f"--timeout={timeout}")
    assert f"1502-1513: exception {code} " in result.stderr
    times = memory.times_of(1502)
    waits = gaps(times)
    assert len(waits) >= 4
    assert 0 < min(waits) <= max(waits) <= timeout / 4
    assert timeout / 2 < sum(waits) < timeout * 1.2
    assert (memory.connections, clock.passed) == (1, times[-1] - times[0])


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
        line = f"WARNING: Cannot read {part}{registers(at)}: {EXCEPTION[2]}\n"
        assert result.stderr == (line if held else "")
    assert memory.connections == at[-1].last - at[0].address + 1


@pytest.mark.parametrize("resets", [False, True], ids=["stays", "resets after every exception"])
def test_old_firmware_with_gaps_is_read_value_by_value(call: Run, resets: bool) -> None:
    with listening(refuses_gaps=True, old_firmware=True, resets_after_exception=resets) as charger:
        result = call(*READ_ALL, charger=charger)
    assert json_of(result) == null(*DETAIL_RANGES)
    assert result.stderr.replace("290-291, 294-295 of ", "").splitlines() == [
        line for at in DETAIL_RANGES for line in warnings("it", at, EXCEPTION[2])
    ]
    assert (charger.connections > 1) == resets


# A reply whose bytes from .. to are replaced: cut, longer, of another header, or all noise.
SPLICES = st.tuples(
    st.integers(0, 12) | st.integers(0, 90), st.integers(0, 90), st.binary(max_size=100)
)
Splice = Tuple[int, int, bytes]


def splice(reply: bytes, how: Splice) -> bytes:
    start, length, inserted = how
    return reply[:start] + inserted + reply[start + length :]


@fuzzed
@given(how=SPLICES, at=st.sampled_from([*map(range_of, (100, 1000, 5004))]), ends=st.booleans())
def test_fuzz_a_read_gives_right_words_or_none(
    listener: SimulatedCharger, how: Splice, at: list[Row], ends: bool
) -> None:
    sent = []

    def noise(request: bytes, reply: bytes) -> list[Piece]:
        sent.append((splice(reply, how), reply))
        return [(0, sent[0][0]), (0, CLOSE if ends else RESET)]

    listener.forget()
    listener.fault(Frames(noise), times=1)
    bank, first = at[0].bank, at[0].address
    held = image()
    words = [held.get((bank, address), 0) for address in range(first, at[-1].last + 1)]
    target = vestel.Target(listener.host, listener.port, timeout=20)
    connection = vestel.modbus(target, lambda line: None)()
    try:
        got: list[int] | int | None = connection.read_words(bank, first, len(words))
    except vestel.Refused as error:
        got = error.code
    except vestel.NoReply:
        got = None
    connection.close()
    data, reply = sent[0]
    refusal = reply[:4] + b"\0\3" + reply[6:7] + bytes([reply[7] | 0x80])
    if data[:9] == reply[:9] and len(data) >= len(reply):  # at most its values are other ones
        assert got == [*struct.unpack_from(f">{len(words)}H", data, 9)]
    elif data[:8] == refusal and len(data) > 8 and data[8]:
        assert got == data[8]
    else:  # what follows noise may be a whole reply
        assert got in (None, words)


# These two run the program, which takes longer.
called = settings(
    fuzzed,
    max_examples=max(1, EXAMPLES // 3),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@called
@given(how=SPLICES, executed=st.booleans())
def test_fuzz_a_write_is_confirmed_only_where_it_was_done(
    call: Run, clock: Clock, listener: SimulatedCharger, how: Splice, executed: bool
) -> None:
    listener.forget()
    listener.set(DYNAMIC, 16)
    noise = Frames(lambda request, reply: [(0, splice(reply, how)), (0, CLOSE)])
    listener.fault(noise, write=True, times=1, executed=executed)
    result = call("--set-dynamic-current=20", "--timeout=20", charger=listener)
    is_set = result.returncode == 0
    error = r"ERROR: failed writing current: dynamic current: 20 A\b.*"
    line = "Dynamic current: 16 A -> 20 A" if is_set else error
    assert re.fullmatch(f"{line}\n", result.stderr)
    assert (result.returncode, listener[DYNAMIC]) == ((0, 20) if is_set else (3, 16))
    assert {*listener.writes} == {(DYNAMIC, 20)}
    listener.set(DYNAMIC, 16)


@called
@given(stream=st.lists(st.binary(max_size=60), min_size=1, max_size=20))
def test_fuzz_a_run_of_noise_ends_in_an_error(
    call: Run, listener: SimulatedCharger, stream: list[bytes]
) -> None:
    noise = itertools.cycle(stream)
    listener.forget()
    listener.fault(Frames(lambda request, reply: [(0, next(noise)), (0, CLOSE)]))
    assert_error(call("--timeout=20", charger=listener), "Cannot read .*")


def test_soak_a_log_of_json_is_whole_whatever_the_box_does(
    call: Run, charger: SimulatedCharger
) -> None:
    dice = random.Random(20261120)

    def play(_: Request) -> Outcome | None:
        return outcome_of(dice.choice([SILENCE, *PROMPT])) if dice.random() < 0.1 else None

    charger.fault(play)
    log, ends = io.StringIO(), set()
    for _ in range(40):
        charger.resets_next = dice.choice([0, 0, 0, 0, 1, 1000])
        before = log.getvalue()
        options = "--details", "--format=json", "--timeout=0.05"
        result = call(*options, charger=charger, stdout=log)
        printed = log.getvalue()[len(before) :]
        if result.returncode:
            assert printed == ""
            assert_error(result, "Cannot (connect to|read) .*")
            ends.add("error")
            continue
        assert re.fullmatch(r"\{.*\}\n", printed)
        flat = flat_of(json.loads(printed))
        nulls = [key for key, value in flat.items() if value is None and KEYS[key] is not None]
        assert flat == with_null(nulls)
        warnings = result.stderr.splitlines()
        assert bool(nulls) == bool(warnings)
        assert all(line.startswith("WARNING: Cannot read ") for line in warnings)
        ends.add("gaps" if nulls else "whole")
    assert ends == {"error", "gaps", "whole"}
