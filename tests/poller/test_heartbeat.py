"""The heartbeat: when it is given, and what comes of one that fails."""

from __future__ import annotations

import pytest
from charger import ACKNOWLEDGE, BUSY, CLOSE, GARBAGE, RESET, SILENCE, Outcome, late
from clock import gaps
from registers import CLOCK, DYNAMIC, FAILSAFE, FIRMWARE, HEARTBEAT, PHASE_SWITCH, TIMEOUT
from world import MakeWorld, World

BEAT = (HEARTBEAT, 1)
RANGES = [100, 400, 1000, 1100, 1502, 2000, 5004, 130, 190, 210, FIRMWARE, CLOCK, PHASE_SWITCH]


def given(world: World) -> list[float]:
    return world.charger.times_of(HEARTBEAT)


@pytest.mark.parametrize("outcome", [late(0.0), late(0.4), ACKNOWLEDGE], ids=["0 s", "0.4 s", "5"])
@pytest.mark.parametrize("timeout", [0, 6, 21, 300])
def test_heartbeat_comes_each_1_5_s(world: MakeWorld, timeout: int, outcome: Outcome) -> None:
    idle = world(failsafe=False, delay=0.0)
    idle.charger.set(TIMEOUT, timeout)
    idle.charger.fault(outcome, HEARTBEAT)
    idle.play(60)
    assert gaps(given(idle)) == 39 * [1.5]
    assert (idle.charger.connections, idle.lines) == (1, [])


def test_one_heartbeat_at_most_precedes_each_request(world: MakeWorld) -> None:
    slow = world(delay=1.6)
    slow.read()
    expected = []
    for first, count in [(100, 25), (400, 5), (1000, 38), (1100, 7), (1502, 12), (2000, 3)]:
        expected += [BEAT, (first, count)]
    assert slow.asked() == [*expected, BEAT, (5004, 1), BEAT, (CLOCK, 6)]


@pytest.mark.parametrize(
    ("delay", "lag", "is_busy", "longest"),
    [
        (0.3, 0, False, 1.8),
        (1.0, 0, False, 2.5),
        (1.3, 0, False, 2.8),
        (0.3, 0, True, 2.05),  # 0.25 s before it is asked again
        (0.0, 2.9, False, 2.0),  # for which the setpoint is read back
    ],
)
def test_heartbeats_are_in_time_for_the_shortest_look(
    world: MakeWorld, delay: float, lag: float, is_busy: bool, longest: float
) -> None:
    setpoints, lags = {DYNAMIC: 12, FAILSAFE: 9}, {DYNAMIC: lag, FAILSAFE: lag}
    slow = world(setpoints, details=True, delay=delay, lag=lags)
    slow.charger.set(TIMEOUT, 6)
    if is_busy:
        slow.charger.fault(BUSY, write=False)
    slow.play(600)
    assert max(gaps(given(slow))) <= longest + 0.001
    assert (slow.charger.connections, slow.charger.thrown_out) == (1, 0)
    assert (len(slow.charger.settings), slow.reading is None) == (0 if is_busy else 2, is_busy)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("address", [HEARTBEAT, *RANGES])
def test_each_connection_begins_with_heartbeat(world: MakeWorld, address: int, times: int) -> None:
    cut = world({DYNAMIC: 12, FAILSAFE: 9}, details=True)
    cut.charger.fault(RESET, address, times=times, write=address == HEARTBEAT)
    cut.play(20)
    assert cut.firsts() == (1 + times) * [BEAT]
    assert (cut.charger[DYNAMIC], cut.charger[FAILSAFE]) == (12, 9)


@pytest.mark.parametrize(
    ("code", "skip"), [(1, 1), (2, 1), (3, 1), (4, 0), (BUSY, 0), (7, 0), (11, 0)]
)
def test_refusal_is_a_warning_and_readings_go_on(world: MakeWorld, code: int, skip: int) -> None:
    refusing = world(failsafe=False, delay=0.0)
    end = refusing.charger.fault(code, HEARTBEAT, skip=skip)
    refusing.play(60)
    (text,) = refusing.snapshot.warnings
    assert text.startswith(f"the charger refuses the heartbeat: exception {code} (")
    assert gaps(given(refusing)) == 39 * [1.5]
    assert refusing.lines == [f"WARNING: {text}"]
    refusing.charger.cut()
    refusing.play(60)
    assert refusing.firsts() == [BEAT, BEAT]
    assert (refusing.snapshot.readings, refusing.snapshot.failed) == (24, 0)
    end()
    refusing.play(6)
    assert refusing.lines[1:] == [f"WARNING: over: {text}"]


@pytest.mark.parametrize("resets", [False, True], ids=["", "and resets"])
@pytest.mark.parametrize("code", [1, 2, 3])
def test_lacked_heartbeat_is_tried_each_60_s(world: MakeWorld, code: int, resets: bool) -> None:
    lacking = world(failsafe=False, delay=0.0, resets_after_exception=resets)
    lacking.charger.fault(code, HEARTBEAT)
    lacking.play(302)
    assert gaps(given(lacking)) == 5 * [60.0]
    assert (lacking.charger.connections, lacking.snapshot.failed) == (7 if resets else 1, 0)


@pytest.mark.parametrize("happen", ["cut", "loss"])
def test_lacked_heartbeat_waits_60_s_on_any_connection(world: MakeWorld, happen: str) -> None:
    lacking = world(failsafe=False, delay=0.0)
    lacking.charger.fault(2, HEARTBEAT)
    for _ in range(5):
        lacking.play(9)
        lacking.charger.cut() if happen == "cut" else lacking.charger.restart(4)
    lacking.play(59.9 - lacking.clock.passed)
    first, *others = lacking.firsts()
    assert (first, {*others}) == (BEAT, {(100, 25)})
    lacking.play(30)
    assert gaps(given(lacking)) == [60.0]
    assert lacking.reading is not None


def test_lacked_heartbeat_is_not_first_on_a_connection(world: MakeWorld) -> None:
    lacking = world(delay=0.0, resets_after_exception=True, locks_out=True)
    lacking.charger.set(TIMEOUT, 100)
    lacking.charger.fault(2, HEARTBEAT)
    lacking.play(600)
    first, *others = lacking.firsts()
    assert (first, {*others}) == (BEAT, {(100, 25)})
    assert lacking.snapshot.readings >= 4


def test_lacked_heartbeat_waits_where_a_detail_cut_it_off(world: MakeWorld) -> None:
    lacking = world(failsafe=False, delay=0.0)
    lacking.charger.fault(2, HEARTBEAT)
    lacking.charger.fault(GARBAGE, CLOCK)
    lacking.play(100)
    assert gaps(given(lacking)) == [60.0]


def test_heartbeat_taken_after_all_is_given_each_1_5_s(world: MakeWorld) -> None:
    booting = world(failsafe=False, delay=0.0)
    booting.charger.fault(2, HEARTBEAT, times=1)
    booting.play(61)
    booting.charger.requests.clear()
    booting.play(60)
    assert gaps(given(booting)) == 39 * [1.5]
    booting.charger.cut()
    booting.play(5)
    assert booting.firsts()[1] == BEAT


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
def test_heartbeat_twice_without_reply_is_a_loss(world: MakeWorld, skip: int, outcome: str) -> None:
    silent = world(details=True, delay=0.9)
    silent.charger.fault(outcome, HEARTBEAT, skip=skip)
    silent.until(lambda: len(given(silent)) >= skip + 2)
    silent.poll(2)
    assert silent.reading is None
    assert silent.lines_with("WARNING: no reading ")
    assert silent.charger.links == []


def test_boot_that_refuses_all_is_no_firmware_without_it(world: MakeWorld) -> None:
    started = world()
    started.charger.boot(8, 2)
    started.play(60)
    assert started.charger.heartbeats[0] <= 10_011
    assert started.snapshot.warnings == ()


def test_heartbeat_is_given_soon_where_a_boot_ends_in_a_reading(world: MakeWorld) -> None:
    started = world(delay=0.05)
    started.charger.boot(5.3, 2)
    started.play(60)
    assert started.charger.heartbeats[0] <= 10_011
