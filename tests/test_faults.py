"""What real boxes do to their masters: no number is ever wrong, and no fault goes unsaid.

The faults, and what has to come of each, are the table of faults.py.
"""

from __future__ import annotations

import json
import re
import time
from typing import Iterator

import pytest
from conftest import Clock, Memory, Run, eventually
from faults import (
    ALWAYS,
    EXCEPTIONS,
    HARMLESS,
    NAMES,
    NO_ANSWER,
    WAITING,
    asked,
    asked_of,
    connected,
    flat_of,
    forget,
    hurrying,
    null_keys,
    play_of,
    read,
    row_of,
    side_by_side,
    warnings,
    with_null,
)
from registers import CORE_RANGES, DETAIL_RANGES, RANGES, Row, lost_with, range_of, reads, span
from simulated_charger import (
    HOLDING,
    READ_HOLDING,
    READ_INPUT,
    RESET,
    SimulatedCharger,
    simulated_charger,
)

import vestel

pytestmark = pytest.mark.every_version


@pytest.fixture(scope="module")
def box() -> Iterator[SimulatedCharger]:
    """A charger for many readings: to start one takes longer than a reading."""
    with simulated_charger() as charger:
        yield charger


def cause(charger: SimulatedCharger, name: str, at: list[Row], times: int) -> None:
    forget(charger)
    function = READ_HOLDING if at[0].bank == HOLDING else READ_INPUT
    charger.fault(play_of(name), at[0].address, function, times)


# --- One fault in a reading ---------------------------------------------------------------------

CASES = [(at, times) for at in RANGES for times in (1, ALWAYS)]


def assert_outcome(
    charger: SimulatedCharger, reached: vestel.Charger, name: str, at: list[Row], times: int
) -> None:
    fault = row_of(name, at)
    what, null = fault.once if times == 1 else fault.always
    reading, told = read(reached)
    assert reading == with_null(null_keys(null, at))
    assert asked_of(charger) == asked(what, RANGES, at)
    assert told == warnings(null, at, fault.why)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WAITING])
def test_a_fault_at_any_range_costs_no_more_than_that_range(
    box: SimulatedCharger, clock: Clock, name: str
) -> None:
    for at, times in CASES:
        cause(box, name, at, times)
        with connected(box) as reached:
            assert_outcome(box, reached, name, at, times)


@pytest.mark.parametrize("name", WAITING)
def test_silence_at_any_range_costs_no_more_than_that_range(name: str) -> None:
    def check(case: tuple[list[Row], int]) -> None:
        at, times = case
        with simulated_charger() as charger:
            cause(charger, name, at, times)
            with connected(charger, modbus=hurrying(at[0].address, times=times)) as reached:
                assert_outcome(charger, reached, name, at, times)

    side_by_side(check, CASES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WAITING])
@pytest.mark.parametrize("first", [100, 1100, 5004, 290])
def test_what_is_null_has_a_line_on_stderr(
    call: Run, box: SimulatedCharger, clock: Clock, name: str, first: int
) -> None:
    at = range_of(first)
    fault = row_of(name, at)
    for times, (what, null) in ((1, fault.once), (ALWAYS, fault.always)):
        cause(box, name, at, times)
        result = call("--details", "--format=json", "--timeout=20", charger=box)
        assert result.stderr.splitlines() == [f"WARNING: {line}" for line in warnings(null, at, fault.why)]
        assert flat_of(json.loads(result.stdout)) == with_null(null_keys(null, at))
        assert (result.returncode, asked_of(box)) == (0, asked(what, RANGES, at))


@pytest.mark.parametrize(
    ("what", "requests"),
    [
        ("before it behind", [(1, 100), (1, 2), (1, 400), (1, 500)]),
        ("before it / it / behind", [(1, 100), (1, 2), (2, 2), (3, 400), (3, 500)]),
        ("before it next / behind", [(1, 100), (1, 2), (1, 400), (2, 400), (2, 500)]),
        ("before it values behind", [(1, 100), (1, 2), (1, 2), (1, 3), (1, 5), (1, 400), (1, 500)]),
        ("before it / first / others behind", [(1, 100), (1, 2), (2, 2), (3, 3), (3, 5), (3, 400), (3, 500)]),
    ],
)
def test_the_words_of_the_table_of_faults_stand_for_these_requests(
    what: str, requests: list[tuple[int, int]]
) -> None:
    ranges = [
        [Row("input", address, [0], "", {}) for address in range_]
        for range_ in ([100, 101], [2, 3, 5], [400], [500])
    ]
    assert asked(what, ranges, ranges[1]) == requests


# Each fault at a range of its own, in three processes: the first range of each is read, since where
# there is no reply to the first two, there is no reading.
HARMFUL = [name for name in NAMES if name not in HARMLESS]
MIXED = [[harmless, *HARMFUL[n::3]] for n, harmless in enumerate(HARMLESS[:3])]


def test_whatever_pymodbus_makes_of_a_fault_a_process_prints_nothing_but_its_own_lines(run: Run) -> None:
    def check(names: list[str]) -> None:
        with simulated_charger() as charger:
            played = [*zip(names, RANGES)]
            for name, at in played:
                charger.fault(play_of(name), address=at[0].address)
            result = run("--details", "--format=json", "--timeout=0.2", charger=charger)
        outcomes = [(row_of(name, at), at) for name, at in played]
        assert result.returncode == 0
        assert flat_of(json.loads(result.stdout)) == with_null(
            {key for fault, at in outcomes for key in null_keys(fault.always[1], at)}
        )
        assert result.stderr.splitlines() == [
            f"WARNING: {line}" for fault, at in outcomes for line in warnings(fault.always[1], at, fault.why)
        ]

    assert {name for names in MIXED for name in names} >= {*HARMFUL}
    assert all(len(names) <= len(RANGES) for names in MIXED)
    side_by_side(check, MIXED)


# --- A charger that is busy -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [5, 6])
def test_a_charger_that_is_busy_three_times_and_then_fine_is_read(
    box: SimulatedCharger, clock: Clock, code: int
) -> None:
    for at in RANGES:
        cause(box, f"exception {code}", at, 3)
        with connected(box) as reached:
            assert read(reached) == (with_null([]), [])
        assert [request.address for request in box.requests].count(at[0].address) == 4
        assert box.connections == 1


class Busy(Memory):
    """A charger that takes so long (s) to say that it is busy."""

    def __init__(self, clock: Clock, takes: float) -> None:
        super().__init__()
        self.clock, self.takes = clock, takes
        self.asked_at: list[float] = []

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        self.asked_at.append(self.clock.passed)
        self.clock.sleep(self.takes)
        raise vestel.ChargerError("exception 6 (device busy)", code=6)


@pytest.mark.parametrize(
    ("timeout", "takes", "times"),
    [
        (1.0, 0.0, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (20.0, 0.0, [0, 0.25, 0.5, 0.75, 1.0, 1.25]),
        (1.0, 0.3, [0, 0.4, 0.8]),
        (1.0, 0.9, [0, 1.0]),
    ],
    ids=["after a tenth of the time-out", "after a quarter of a second", "slow", "as slow as can be"],
)
def test_a_busy_charger_is_asked_again_a_few_times_after_a_short_wait_for_two_timeouts_at_most(
    clock: Clock, timeout: float, takes: float, times: list[float]
) -> None:
    busy = Busy(clock, takes)
    with pytest.raises(vestel.ChargerError, match="exception 6"):
        vestel.Charger(lambda: busy, "busy", timeout).read("input", 1000, 38)
    assert busy.asked_at == pytest.approx(times)
    assert clock.passed <= 2 * timeout


# --- A fault at every request ---------------------------------------------------------------------


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_does_none_at_every_request(box: SimulatedCharger, name: str) -> None:
    forget(box)
    box.fault(play_of(name))
    with connected(box) as reached:
        assert read(reached) == (with_null([]), [])


TWICE_EACH_OF_TWO = [(1, 100), (2, 100), (3, 400), (4, 400)]


def assert_gives_up(charger: SimulatedCharger, name: str, timeout: float) -> None:
    charger.fault(play_of(name))
    with connected(charger, timeout) as reached, pytest.raises(vestel.ChargerError) as error:
        vestel.read_core(reached)
    why = row_of(name, RANGES[0]).why
    assert re.match(f"Cannot read 127.0.0.1:{charger.port}: {re.escape(why)}(;|$)", str(error.value))
    eventually(lambda: len(charger.requests) == 4)  # that it was not answered does not mean that it is noted
    assert asked_of(charger) == TWICE_EACH_OF_TWO


@pytest.mark.parametrize("name", [name for name in NO_ANSWER if name not in WAITING])
def test_where_two_ranges_have_no_reply_that_can_be_used_there_is_an_error_at_once(
    box: SimulatedCharger, name: str
) -> None:
    forget(box)
    assert_gives_up(box, name, timeout=20)


def test_a_charger_that_never_answers_costs_four_timeouts() -> None:
    def check(name: str) -> None:
        with simulated_charger() as charger:
            begin = time.monotonic()
            assert_gives_up(charger, name, timeout=0.2)
            assert time.monotonic() - begin >= 4 * 0.2

    side_by_side(check, WAITING)


@pytest.mark.parametrize(
    ("skip", "times", "asked_for"),
    [
        (0, 2, [(1, 100), (2, 100), (3, 400), (3, 1000)]),
        (0, 3, [(1, 100), (2, 100), (3, 400), (4, 400), (4, 1000)]),
        (1, 4, [(1, 100), (1, 400), (2, 400), (3, 1000), (4, 1000)]),
    ],
    ids=["the first range", "all but one request", "not the first range"],
)
def test_a_charger_that_answers_one_of_the_first_two_ranges_is_asked_for_all(
    charger: SimulatedCharger, skip: int, times: int, asked_for: list[tuple[int, int]]
) -> None:
    charger.fault("reset", skip=skip, times=times)
    with connected(charger) as reached:
        assert vestel.read_core(reached).words
    assert asked_of(charger)[: len(asked_for)] == asked_for
    assert {address for _, address in asked_of(charger)} == {at[0].address for at in CORE_RANGES}


@pytest.mark.parametrize("first", ["exception 4", "exception 2", "exception 255"])
def test_an_exception_is_a_reply_so_that_silence_after_it_is_no_wrong_unit(
    charger: SimulatedCharger, first: str
) -> None:
    charger.fault(play_of(first), address=100)
    charger.fault("reset", address=400)
    with connected(charger) as reached:
        assert {*vestel.read_core(reached).failures} == {"serial number", "maximum power", "phases"}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_where_every_range_is_refused_there_is_one_error_line_and_no_reading(
    call: Run, charger: SimulatedCharger, clock: Clock, name: str
) -> None:
    charger.fault(play_of(name))
    result = call("--details", "--format=prometheus", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    why = re.escape(row_of(name, RANGES[0]).why)
    assert re.fullmatch(rf"ERROR: Cannot read 127.0.0.1:{charger.port}: {why}(; .*)?\n", result.stderr)
    assert {request.address for request in charger.requests} >= {at[0].address for at in CORE_RANGES}
    assert {request.address for request in charger.requests}.isdisjoint(at[0].address for at in DETAIL_RANGES)


# --- The connection goes --------------------------------------------------------------------------


def test_a_connection_that_is_closed_at_once_is_made_a_second_time(box: SimulatedCharger) -> None:
    words = sum(count for _, _, count in reads(CORE_RANGES))
    for _ in range(100):  # now and then the reset comes before connect() is through
        forget(box)
        box.close_next = 1
        with connected(box) as reached:
            answers = vestel.read_core(reached)
        assert (len(answers.words), answers.failures, box.connections) == (words, {}, 2)


@pytest.mark.parametrize("at", CORE_RANGES, ids=span)
def test_a_charger_that_vanishes_before_the_core_is_through_is_an_error(
    call: Run, charger: SimulatedCharger, at: list[Row]
) -> None:
    charger.fault(charger.vanish(), address=at[0].address)
    result = call("--details", "--format=json", charger=charger)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(
        f"ERROR: Cannot connect to 127.0.0.1:{charger.port}: connection refused; .*\n", result.stderr
    )


@pytest.mark.parametrize("at", DETAIL_RANGES, ids=span)
def test_a_charger_that_vanishes_during_the_details_leaves_the_core(
    call: Run, charger: SimulatedCharger, at: list[Row]
) -> None:
    charger.fault(charger.vanish(), address=at[0].address)
    result = call("--details", "--format=json", charger=charger)
    lost = DETAIL_RANGES[DETAIL_RANGES.index(at) :]
    assert result.returncode == 0
    assert flat_of(json.loads(result.stdout)) == with_null(
        {key for rows in lost for key in null_keys("it", rows)}
    )
    lines = result.stderr.splitlines()
    assert len(lines) == len(lost)
    for line, rows in zip(lines, lost):
        assert re.match(rf"WARNING: Cannot read {rows[0].bank} registers? {span(rows)}: .*refused", line)


# --- Firmware that lacks registers ----------------------------------------------------------------


@pytest.mark.parametrize("at", RANGES, ids=span)
def test_a_register_that_is_missing_costs_no_other_value(box: SimulatedCharger, at: list[Row]) -> None:
    for address in range(at[0].address, at[-1].last + 1):
        forget(box)
        box.missing = {(at[0].bank, address)}
        with connected(box) as reached:
            reading, told = read(reached)
        box.missing = set()
        held = [row for row in at if row.address <= address <= row.last]
        assert reading == with_null(key for row in held for key in lost_with(row)[0])
        where = f"{span(held)} of " if held and len(at) > 1 else ""
        registers = f"{at[0].bank} register{'s' * ('-' in span(at))} {span(at)}"
        line = f"Cannot read {where}{registers}: exception 2 (illegal data address)"
        assert told == ([line] if held else [])
        assert box.connections == 1


@pytest.mark.parametrize("resets", [False, True], ids=["stays", "resets after every exception"])
def test_old_firmware_with_holes_is_read_value_by_value(resets: bool) -> None:
    def reset_after_exceptions(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        return [(0, reply), (0, RESET)] if reply[7] & 0x80 else [(0, reply)]

    with simulated_charger(holes=2, old=True) as charger:
        if resets:
            charger.fault(reset_after_exceptions)
        with connected(charger) as reached:
            reading, told = read(reached)
    assert reading == with_null({key for rows in DETAIL_RANGES for key in null_keys("it", rows)})
    why = "exception 2 (illegal data address)"
    assert [line.replace("290-291, 294-295 of ", "") for line in told] == [
        line for rows in DETAIL_RANGES for line in warnings("it", rows, why)
    ]
    assert (charger.connections > 1) == resets
