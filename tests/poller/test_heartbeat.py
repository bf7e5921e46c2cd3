"""The heartbeat: when it is given, and what comes of one that fails."""

from __future__ import annotations

from typing import Callable

import pytest
from charger import ACKNOWLEDGE, BUSY, CLOSE, GARBAGE, RESET, SILENCE, late
from clock import gaps
from registers import CLOCK, DYNAMIC, FAILSAFE, FIRMWARE, HEARTBEAT, PHASE_SWITCH, TIMEOUT
from world import MakeWorld, World

BEAT = (HEARTBEAT, 1)
SERIAL = (100, 25)
RANGES = [100, 400, 1000, 1100, 1502, 2000, 5004, 130, 190, 210, FIRMWARE, CLOCK, PHASE_SWITCH]


def given(world: World) -> list[float]:
    """Return when heartbeats were sent."""
    return world.charger.times_of(HEARTBEAT)


# --- When it is given ---


@pytest.mark.parametrize("failsafe_timeout", [0, 6, 21, 300])
def test_idle_connection_has_heartbeat_each_1_5_s(world: MakeWorld, failsafe_timeout: int) -> None:
    idle = world(delay=0.0)
    idle.charger.set(TIMEOUT, failsafe_timeout)
    idle.play(60)
    assert gaps(given(idle)) == 39 * [1.5]
    assert idle.charger.connections == 1


def test_1_5_s_count_from_sending_not_from_the_reply(world: MakeWorld) -> None:
    slow = world(delay=0.0)
    slow.charger.fault(late(0.4), HEARTBEAT)
    slow.play(60)
    assert gaps(given(slow)) == 39 * [1.5]


def test_one_heartbeat_at_most_precedes_each_request(world: MakeWorld) -> None:
    slow = world(delay=1.6)
    slow.read()
    expected = []
    for first, count in [(100, 25), (400, 5), (1000, 38), (1100, 7), (1502, 12), (2000, 3)]:
        expected += [BEAT, (first, count)]
    assert slow.asked() == [*expected, BEAT, (5004, 1), BEAT, (CLOCK, 6)]


@pytest.mark.parametrize("delay", [0.3, 1.0, 1.3])
def test_slow_charger_with_shortest_look_is_never_lost(world: MakeWorld, delay: float) -> None:
    slow = world({DYNAMIC: 12, FAILSAFE: 9}, details=True, delay=delay)
    slow.charger.set(TIMEOUT, 6)
    slow.play(600)
    assert max(gaps(given(slow))) <= 1.5 + delay + 0.001
    assert (slow.charger.connections, slow.charger.thrown_out) == (1, 0)
    assert slow.lines == ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 9 A"]


def test_busy_charger_has_heartbeats_between_two_tries(world: MakeWorld) -> None:
    busy = world(delay=0.3)
    busy.charger.set(TIMEOUT, 6)
    busy.charger.fault(BUSY, write=False)
    busy.play(60)
    assert max(gaps(given(busy))) <= 1.5 + 0.3 + 0.25 + 0.001
    assert (busy.charger.connections, busy.charger.thrown_out) == (1, 0)


def test_heartbeats_go_on_while_a_late_write_is_read_back(world: MakeWorld) -> None:
    late = world({DYNAMIC: 12, FAILSAFE: 9}, lag={DYNAMIC: 2.9, FAILSAFE: 2.9})
    late.charger.set(TIMEOUT, 6)
    late.read()
    assert late.polls[-1][1] - late.polls[-1][0] > 5.8
    assert max(gaps(given(late))) < 2.0
    assert late.charger.connections == 1


# --- The first request on each connection ---


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("address", [HEARTBEAT, *RANGES])
def test_each_connection_begins_with_the_heartbeat(
    world: MakeWorld, address: int, times: int
) -> None:
    cut = world({DYNAMIC: 12, FAILSAFE: 9}, details=True)
    cut.charger.fault(RESET, address, times=times, write=address == HEARTBEAT)
    cut.play(20)
    assert cut.firsts() == (1 + times) * [BEAT]
    assert (cut.charger[DYNAMIC], cut.charger[FAILSAFE]) == (12, 9)


def test_connection_after_a_loss_begins_with_it(world: MakeWorld) -> None:
    lost = world()
    lost.play(10)
    lost.charger.restart(250)
    lost.play(330)
    assert lost.firsts() == [BEAT, BEAT]
    assert lost.reading is not None


# --- One that is refused ---


@pytest.mark.parametrize(
    ("code", "name", "skip"),
    [
        (1, "illegal function", 1),
        (2, "illegal data address", 1),
        (3, "illegal data value", 1),
        (4, "device failure", 0),
        (BUSY, "device busy", 0),
        (7, "negative acknowledge", 0),
        (11, "gateway target does not respond", 0),
    ],
)
def test_refusal_is_a_warning_and_readings_go_on(
    world: MakeWorld, code: int, name: str, skip: int
) -> None:
    """Exception 1, 2 or 3, too, where one was accepted before."""
    refusing = world(failsafe=False, delay=0.0)
    end = refusing.charger.fault(code, HEARTBEAT, skip=skip)
    text = f"the charger refuses the heartbeat: exception {code} ({name})"
    refusing.play(60)
    assert gaps(given(refusing)) == 39 * [1.5]
    assert (refusing.lines, refusing.snapshot.warnings) == ([f"WARNING: {text}"], (text,))
    refusing.charger.cut()
    refusing.play(60)
    assert refusing.firsts() == [BEAT, BEAT]
    assert (refusing.snapshot.readings, refusing.snapshot.failed) == (24, 0)
    end()
    refusing.play(6)
    assert refusing.lines[1:] == [f"WARNING: over: {text}"]


def test_acknowledge_is_no_refusal_and_not_repeated(world: MakeWorld) -> None:
    taking = world(failsafe=False, delay=0.0)
    taking.charger.fault(ACKNOWLEDGE, HEARTBEAT)
    taking.play(60)
    assert gaps(given(taking)) == 39 * [1.5]
    assert taking.lines == []


# --- One that the firmware lacks ---


@pytest.mark.parametrize("code", [1, 2, 3])
def test_never_accepted_heartbeat_is_tried_each_60_s(world: MakeWorld, code: int) -> None:
    lacking = world(failsafe=False, delay=0.0)
    lacking.charger.fault(code, HEARTBEAT)
    lacking.play(301)
    assert gaps(given(lacking)) == 5 * [60.0]
    assert (lacking.charger.connections, lacking.snapshot.failed) == (1, 0)


def cut_often(world: World) -> None:
    for _ in range(5):
        world.play(7)
        world.charger.cut()


def restart(world: World) -> None:
    world.play(10)
    world.charger.restart(20)


@pytest.mark.parametrize("happen", [cut_often, restart], ids=["cut", "loss"])
def test_lacked_heartbeat_waits_60_s_on_any_connection(
    world: MakeWorld, happen: Callable[[World], None]
) -> None:
    lacking = world(failsafe=False, delay=0.0)
    lacking.charger.fault(2, HEARTBEAT)
    happen(lacking)
    lacking.play(59.9 - lacking.clock.passed)
    first, *others = lacking.firsts()
    assert (first, {*others}) == (BEAT, {SERIAL})
    lacking.play(30)
    assert gaps(given(lacking)) == [60.0]
    assert lacking.reading is not None


def test_exception_that_costs_the_connection_costs_one_a_minute(world: MakeWorld) -> None:
    lacking = world(failsafe=False, resets_after_exception=True)
    lacking.charger.fault(2, HEARTBEAT)
    lacking.play(600)
    assert (lacking.snapshot.readings, lacking.snapshot.failed) == (120, 0)
    assert lacking.charger.connections == 11


def test_heartbeat_taken_after_all_is_given_each_1_5_s(world: MakeWorld) -> None:
    booting = world(failsafe=False, delay=0.0)
    booting.charger.fault(2, HEARTBEAT, times=1)
    booting.play(61)
    booting.charger.requests.clear()
    booting.play(60)
    assert gaps(given(booting)) == 39 * [1.5]
    booting.charger.cut()
    booting.asked()
    booting.play(5)
    assert BEAT in booting.firsts()[1:]


# --- One without a usable reply ---


@pytest.mark.parametrize("outcome", [SILENCE, RESET, CLOSE, GARBAGE])
def test_heartbeat_without_reply_is_sent_again_at_once(world: MakeWorld, outcome: str) -> None:
    cut = world()
    cut.play(10.4)
    cut.charger.requests.clear()
    cut.charger.fault(outcome, HEARTBEAT, times=1)
    cut.poll(2)
    first, second = list(cut.charger.requests)[:2]
    assert (first.address, second.address) == (HEARTBEAT, HEARTBEAT)
    assert second.at - first.at < 2.1
    assert second.connection == (1 if outcome == SILENCE else 2)
    cut.play(20)
    assert (cut.lines, cut.snapshot.failed) == ([], 0)


@pytest.mark.parametrize("outcome", [SILENCE, RESET])
@pytest.mark.parametrize("skip", range(16))
def test_heartbeat_twice_without_reply_is_a_lost_charger(
    world: MakeWorld, skip: int, outcome: str
) -> None:
    """Wherever it falls: first, between two core ranges, among the details, or while idle."""
    silent = world(details=True, delay=0.9)
    silent.charger.fault(outcome, HEARTBEAT, skip=skip)
    silent.until(lambda: len(given(silent)) >= skip + 2)
    silent.poll(2)
    assert silent.reading is None
    assert silent.lines_with("WARNING: no reading ")
    assert silent.charger.links == []
