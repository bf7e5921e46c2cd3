"""The rules of the long modes, one each, on a simulated clock.

The charger and the time are simulated_world.py: nothing here waits. Which faults meet by chance
is the matter of test_simulation.py.
"""

from __future__ import annotations

import gc
import math
import types
from collections import deque
from datetime import datetime, timezone
from typing import Any, Callable

import pytest
from conftest import gaps
from simulated_charger import HOLDING, INPUT
from simulated_world import (
    ALIVE,
    BUSY,
    CABLE,
    CLOCK,
    DYNAMIC,
    FAILSAFE,
    LOCKED,
    MAXIMUM,
    NO_CABLE,
    NO_VEHICLE,
    RESET,
    SILENCE,
    TIMEOUT,
    Box,
    FakeTime,
    Outcome,
    Request,
    World,
)

import vestel

Make = Callable[..., World]

SIGN = (ALIVE, 1)
CORE = [(100, 25), (400, 5), (1000, 38), (1100, 7), (1502, 12), (2000, 3), (5004, 1)]
CLOCK_RANGE = (290, 6)
DETAILS = [(130, 50), (190, 10), (210, 5), (230, 50)]
PHASE_SWITCH = (405, 1)
HOUR, DAY = 3600, 86400
# Every so often (s) what does not work is tried again: so long after the first failure, and so on.
WAITS = [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a world: a keeper that has not begun yet, its box, and their time."""

    def make(
        currents: dict[int, int] | None = None, details: bool = False, every: float = math.inf, **options: Any
    ) -> World:
        time = FakeTime()
        monkeypatch.setattr(vestel, "time", time)
        return World(time, Box(time, **options), currents, details, every)

    return make


def asked(world: World, *addresses: int, write: bool | None = None) -> list[float]:
    """When the requests came that begin at one of these addresses."""
    return [r.at for r in world.box.requests if r.address in addresses and write in (None, r.write)]


def requests(world: World) -> list[tuple[int, int]]:
    """What was asked for since the last call: address, and count or value."""
    found = [(request.address, request.value) for request in world.box.requests]
    world.box.requests.clear()
    return found


def written(world: World) -> list[tuple[int, int]]:
    """All settings that were written."""
    return [(r.address, r.value) for r in world.box.requests if r.write and r.address != ALIVE]


def firsts(world: World) -> list[tuple[int, int]]:
    """The first request on each connection."""
    first: dict[int, Request] = {}
    for request in world.box.requests:
        first.setdefault(request.connection, request)
    return [(request.address, request.value) for request in first.values()]


def said(world: World, *texts: str) -> list[str]:
    """The lines that hold all of these texts."""
    return [line for line in world.lines if all(text in line for text in texts)]


def held(world: World, *addresses: int) -> list[int]:
    return [world.box.image[HOLDING, address] for address in addresses]


def beats(world: World) -> list[float]:
    """When the readings began: the serial number is the first that is asked for."""
    return asked(world, 100)


def near(*expected: float) -> Any:
    return pytest.approx(list(expected), abs=0.001)


# --- The beat ---


@pytest.mark.parametrize(
    ("failsafe_timeout", "every", "seconds"),
    [
        (20, math.inf, 5),
        (300, math.inf, 5),
        (0, math.inf, 5),
        (12, math.inf, 3),
        (6, math.inf, 1.5),
        (4, math.inf, 1),
        (2, math.inf, 1),
        (20, 10, 5),
        (20, 86400, 5),
        (20, 3, 3),
        (20, 2.5, 2.5),
        (8, 3, 2),
        (300, 1, 1),
    ],
)
def test_a_beat_is_5_s_or_a_quarter_of_the_failsafe_timeout_or_n_and_never_below_1_s(
    world: Make, failsafe_timeout: int, every: float, seconds: float
) -> None:
    the = world(every=every, failsafe_timeout=failsafe_timeout)
    the.play(100)
    begun = beats(the)
    assert [at - begun[0] for at in begun] == near(*[n * seconds for n in range(len(begun))])
    assert len(begun) == math.ceil(100 / seconds)
    assert the.snapshot.readings == len(begun)


def test_beats_do_not_drift(world: Make) -> None:
    the = world()
    the.box.delay = 0.11
    the.play(HOUR)
    begun = beats(the)
    assert len(begun) == HOUR / 5
    assert begun[-1] - begun[0] == pytest.approx(HOUR - 5, abs=0.001)


def test_a_beat_that_takes_longer_is_followed_at_the_next_multiple(world: Make) -> None:
    the = world(failsafe_timeout=60)
    the.box.delay = 1.3  # eight requests and the sign: 11.7 s
    the.play(100)
    begun = [begun for begun, end in the.beats if end - begun > 5]
    assert gaps(begun)[1:] == near(*(len(begun) - 2) * [15])
    assert (begun[1] - begun[0]) % 5 == 0, "the first has more signs, since the timeout is unknown"


def test_each_beat_is_a_sign_and_a_reading_on_one_connection(world: Make) -> None:
    the = world(details=True)
    the.play(4.9)
    assert requests(the) == [SIGN, *CORE, *DETAILS, CLOCK_RANGE, PHASE_SWITCH, SIGN]
    for _ in range(50):
        the.play(5)
        assert requests(the) == [SIGN, *CORE, CLOCK_RANGE, PHASE_SWITCH]
    assert the.box.connections == 1
    assert the.lines == []


def test_a_beat_without_details_reads_the_clock_and_no_other_of_them(world: Make) -> None:
    the = world()
    the.play(4.9)
    assert requests(the) == [SIGN, *CORE, CLOCK_RANGE, SIGN]
    for _ in range(50):
        the.play(5)
        assert requests(the) == [SIGN, *CORE, CLOCK_RANGE]


@pytest.mark.parametrize("late", [False, True])
def test_the_timestamp_is_when_the_reading_began_and_nothing_in_it_is_older(world: Make, late: bool) -> None:
    the = world(failsafe_timeout=60)
    the.box.delay, the.box.late = 1.3, late
    for _ in range(20):
        the.read()
        begun, end = the.beats[-1]
        snapshot, stamp = the.snapshot, datetime.fromisoformat(the.reading["timestamp"])
        assert (snapshot.made_at, snapshot.seconds) == pytest.approx((begun, end - begun))
        assert stamp.timestamp() == int(begun + the.time.ahead)
        assert begun <= the.reading["electrical"]["meter_reading_kwh"] + 0.1 <= end
        assert begun <= the.reading["session"]["duration_s"] / 10 + 0.1 <= end


def test_a_reading_that_hung_in_its_middle_bears_the_time_of_its_beginning(world: Make) -> None:
    the = world(reply_timeout=22.0)
    the.read()
    the.box.fault(SILENCE, 1502, times=2)
    the.read()
    begun, end = the.beats[-1]
    assert end - begun > 44
    assert datetime.fromisoformat(the.reading["timestamp"]).timestamp() == int(begun + the.time.ahead)
    assert the.snapshot.made_at == begun
    assert the.reading["session"]["energy_wh"] is None


@pytest.mark.parametrize("jump", [-DAY, -7.5, 7.5, DAY])
def test_a_clock_of_the_computer_that_jumps_changes_nothing_but_the_timestamp(
    world: Make, jump: float
) -> None:
    the = world({DYNAMIC: 12})
    the.play(12)
    before = datetime.fromisoformat(the.reading["timestamp"]).timestamp()
    the.time.ahead += jump
    the.play(11)
    begun = beats(the)
    assert gaps(begun) == near(5, 5, 5, 5)
    assert datetime.fromisoformat(the.reading["timestamp"]).timestamp() - before == pytest.approx(
        10 + jump, abs=1
    )
    assert len(the.lines) == 1
    assert the.box.connections == 1


def test_a_box_of_which_one_range_fails_is_not_lost(world: Make) -> None:
    the = world()
    over = the.box.fault(4, 1000)
    the.beat()
    assert the.reading["states"]["chargepoint"] == {"code": None, "name": None}
    assert the.reading["limits"]["evse_max_a"] == 32
    assert the.lines == ["WARNING: Cannot read input registers 1000-1037: exception 4"]
    over()
    the.read()
    assert the.reading["states"]["chargepoint"]["name"] == "Charging"


# --- The alive sign ---


@pytest.mark.parametrize("outcome", [RESET, SILENCE])
@pytest.mark.parametrize(
    "address", [100, 400, 1000, 1100, 1502, 2000, 5004, 130, 190, 210, 230, CLOCK, 405, ALIVE]
)
@pytest.mark.parametrize("times", [1, 2])
def test_the_sign_comes_first_on_each_connection(
    world: Make, outcome: Outcome, address: int, times: int
) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9}, details=True)
    the.box.fault(outcome, address, times=times, write=address == ALIVE)
    the.play(20)
    assert the.box.connections == 1 + times
    # One whose sign has failed twice is read meanwhile.
    expected = 2 * [SIGN] + ([(100, 25)] if address == ALIVE else [SIGN])
    assert firsts(the) == expected[: 1 + times]
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]


def test_the_sign_comes_first_on_a_connection_that_a_write_needs(world: Make) -> None:
    the = world({DYNAMIC: 12})
    the.read()
    the.box.set(DYNAMIC, 7)
    the.box.fault(RESET, CLOCK, times=2)  # the last that is read before
    the.read()
    assert firsts(the) == 3 * [SIGN]
    assert held(the, DYNAMIC) == [12]


def test_the_sign_is_given_every_1_5_s_until_the_failsafe_timeout_is_known(world: Make) -> None:
    the = world(failsafe_timeout=300)
    the.box.delay = 0.4
    over = the.box.fault(4, 2000)
    the.play(40)
    assert max(gaps(asked(the, ALIVE))) < 1.5 + 0.4
    assert 40 / (1.5 + 0.4) < len(asked(the, ALIVE)) <= 40 / 1.5 + 8, "and at each beat"
    over()
    the.play(10)
    the.box.requests.clear()
    the.play(60)
    assert gaps(asked(the, ALIVE)) == near(*11 * [5])


def test_the_failsafe_timeout_may_be_another_one_on_a_new_connection(world: Make) -> None:
    the = world(failsafe_timeout=300)
    the.box.delay = 0.5
    the.play(12)
    the.box.set(TIMEOUT, 6)
    the.box.cut()
    the.box.requests.clear()
    the.play(60)
    assert the.box.connections == 2
    assert max(gaps(asked(the, ALIVE))) <= 1.5 + 0.5 + 0.001


@pytest.mark.parametrize("delay", [0.3, 1.0, 1.3])
def test_a_slow_reading_gives_the_sign_in_time_for_the_shortest_look_of_any_box(
    world: Make, delay: float
) -> None:
    the = world(failsafe_timeout=6)
    the.box.delay = delay
    the.play(300)
    assert max(gaps(asked(the, ALIVE))) <= 1.5 + delay + 0.001 < 3
    assert (the.box.connections, the.box.thrown_out) == (1, 0)


@pytest.mark.parametrize("failsafe_timeout", [20, 60, 0])
def test_a_slow_reading_gives_the_sign_when_a_quarter_of_the_timeout_has_passed(
    world: Make, failsafe_timeout: int
) -> None:
    the = world(failsafe_timeout=failsafe_timeout)
    the.box.delay = 1.3
    the.play(30)
    the.box.requests.clear()
    the.play(300)
    signs = asked(the, ALIVE)
    assert max(gaps(signs)) <= (failsafe_timeout or 20) / 4 + 1.3 + 0.001
    assert len(signs) == (1 if failsafe_timeout == 60 else 3) * 300 / 15
    assert (the.box.connections, the.box.thrown_out) == (1, 0)


def test_no_more_signs_are_given_than_needed(world: Make) -> None:
    the = world(failsafe_timeout=300)
    the.play(HOUR)
    assert len(beats(the)) == HOUR / 5
    assert len(asked(the, ALIVE)) == HOUR / 5 + 1, "and one before the failsafe timeout was known"


def test_a_slow_box_with_a_short_failsafe_timeout_is_never_lost(world: Make) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9}, details=True, failsafe_timeout=6)
    the.box.delay = 0.3
    the.play(HOUR)
    assert (the.box.connections, the.box.thrown_out) == (1, 0)
    assert the.lines == ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 9 A"]
    assert max(gaps(asked(the, ALIVE))) < 3


def test_a_busy_box_gets_its_sign_between_two_tries(world: Make) -> None:
    the = world(failsafe_timeout=6)
    the.box.delay = 0.3
    the.play(20)
    the.box.fault(lambda request: None if request.write else BUSY)
    the.play(40)
    assert the.box.thrown_out == 0
    assert max(gaps(asked(the, ALIVE))) < 3


@pytest.mark.parametrize("outcome", [RESET, SILENCE])
def test_a_sign_that_is_lost_is_given_again_at_once_on_a_new_connection(
    world: Make, outcome: Outcome
) -> None:
    the = world()
    the.play(12)
    the.box.requests.clear()
    the.box.fault(outcome, ALIVE, times=1)
    the.read()
    assert requests(the)[:3] == [SIGN, SIGN, CORE[0]]
    assert the.box.connections == 2
    assert the.snapshot.readings == 4
    assert the.lines == []
    assert the.beats[-1][1] - the.beats[-1][0] < (2.1 if outcome == SILENCE else 0.1)


@pytest.mark.parametrize("outcome", [1, 2, 4, BUSY, RESET, SILENCE])
def test_an_alive_sign_that_fails_is_told_and_tried_at_growing_intervals_and_readings_go_on(
    world: Make, outcome: Outcome
) -> None:
    the = world(failsafe_timeout=300)
    the.box.failsafe = False
    over = the.box.fault(outcome, ALIVE)
    the.play(600)
    tries = [at for n, at in enumerate(asked(the, ALIVE)) if isinstance(outcome, int) or n % 2]
    answered = {RESET: 0.002, SILENCE: 2.0}.get(str(outcome), 0.002)
    waits = [gap - answered - (answered + 0.001 if isinstance(outcome, str) else 0) for gap in gaps(tries)]
    expected = (
        [8, 16, 32, 60, 60, 60] if outcome == SILENCE else [2, 4, 8, 16, 32, 60]
    )  # or the time it costs
    assert [round(wait) for wait in waits[:6]] == expected
    assert len(said(the, "alive sign")) == len(the.lines) == 1
    assert the.lines[0].startswith("WARNING: ")
    assert gaps(beats(the)) == pytest.approx(len(gaps(beats(the))) * [5], abs=4.1)
    assert the.snapshot.readings == 120
    assert the.snapshot.failed == 0
    over()
    the.play(65)
    assert the.lines[1:] == [the.lines[0].replace("WARNING: ", "WARNING: over: ")]
    assert len(asked(the, ALIVE)) > len(tries)


def test_a_sign_that_fails_again_is_tried_at_short_intervals_again(world: Make) -> None:
    the = world(failsafe_timeout=300)
    the.box.failsafe = False
    for _ in range(2):
        over = the.box.fault(4, ALIVE)
        the.play(120)
        tries = asked(the, ALIVE)
        assert [round(gap) for gap in gaps(tries[-6:])] == [2, 4, 8, 16, 32]
        over()
        the.play(65)
        the.box.requests.clear()


def test_a_loss_makes_the_sign_come_first_again_though_it_failed(world: Make) -> None:
    the = world(failsafe_timeout=300)
    the.box.failsafe = False
    over = the.box.fault(4, ALIVE)
    the.play(130)
    the.box.restart(5)
    over()
    the.box.requests.clear()
    the.play(20)
    assert firsts(the)[1:] == [SIGN]
    assert said(the, "alive sign")[-1].startswith("WARNING: over: ")


def test_the_failsafe_timeout_stays_known_where_it_cannot_be_read(world: Make) -> None:
    for failsafe_timeout, seconds in ((6, 1.5), (300, 5)):
        the = world(failsafe_timeout=failsafe_timeout)
        the.play(30)
        the.box.fault(4, 2000)
        the.box.requests.clear()
        the.play(60)
        assert gaps(beats(the)) == gaps(asked(the, ALIVE)) == near(*(int(60 / seconds) - 1) * [seconds])


@pytest.mark.parametrize("outcome", [4, RESET, SILENCE])
def test_a_sign_that_fails_is_not_first_on_each_connection(world: Make, outcome: Outcome) -> None:
    the = world(failsafe_timeout=300)
    the.box.failsafe = False
    the.box.fault(outcome, ALIVE)
    tried = 0.0
    while the.time.now - tried > 30 or the.time.now < 10_300:
        the.beat()
        tried = asked(the, ALIVE)[-1]
    the.box.requests.clear()
    for _ in range(5):
        the.box.cut()
        the.read()
    assert set(firsts(the)) == {CORE[0]}
    assert the.snapshot.connections > 5
    assert asked(the, ALIVE) == []


def test_a_refused_sign_that_is_taken_again_is_given_as_before(world: Make) -> None:
    the = world()
    the.box.fault(4, ALIVE, times=3)
    the.play(40)
    the.box.requests.clear()
    the.play(100)
    assert gaps(asked(the, ALIVE)) == near(*19 * [5])
    the.box.cut()
    requests(the)
    the.beat()
    assert firsts(the)[1:] == [SIGN]


# --- A lost charger ---


def goes(how: str) -> Callable[[World], Callable[[], None]]:
    """Be gone in this way; what is returned ends it."""

    def lose(the: World) -> Callable[[], None]:
        if how in (RESET, SILENCE):
            return the.box.fault(how)
        the.box.cut()
        the.box.away = how

        def back() -> None:
            the.box.away = ""

        return back

    return lose


WAYS = [*map(goes, ("refused", "dead", "closes", "resets", RESET, SILENCE))]
WAY_NAMES = ["refused", "dead", "accepted, closed", "accepted, reset", "reset at each request", "silent"]


@pytest.mark.parametrize("loss", WAYS, ids=WAY_NAMES)
def test_a_lost_charger_is_one_warning_and_its_return_another(
    world: Make, loss: Callable[[World], Callable[[], None]]
) -> None:
    the = world()
    the.play(12)
    for n in (1, 2):
        assert the.reading is not None
        over = loss(the)
        before = the.time.time()
        the.play(500)
        assert the.reading is None
        assert len(the.lines) == 2 * n - 1, "one line"
        since = the.lines[-1].split(": ")[1].split("since ")[1]
        lost_at = datetime.fromisoformat(since)
        assert lost_at.tzinfo == timezone.utc
        assert before - 1 <= lost_at.timestamp() <= before + 30
        assert the.lines[-1].startswith(f"WARNING: no reading since {since}: ")
        assert the.lines[-1].endswith("; trying again")
        assert the.snapshot.problem.startswith(f"no reading since {since}: ")
        over()
        the.play(61)
        assert the.reading is not None
        assert the.snapshot.problem == ""
        assert the.lines[-1] == f"WARNING: the box answers again (lost at {since})"


@pytest.mark.parametrize("loss", WAYS, ids=WAY_NAMES)
def test_attempts_are_1_s_apart_at_first_and_at_most_60_s_and_closer_again_after_a_return(
    world: Make, loss: Callable[[World], Callable[[], None]]
) -> None:
    the = world()
    for _ in (1, 2):
        the.play(12)
        over = loss(the)
        the.beats.clear()
        the.play(500)
        lost = [*the.beats]
        waits = [begun - end for (_, end), (begun, _) in zip(lost, lost[1:])]
        assert waits[:9] == near(*WAITS[: len(waits[:9])])
        over()
        the.play(61)
        assert the.reading is not None
    assert min(gaps([*the.box.attempts])) > 0.999


def test_a_charger_that_falls_silent_is_lost_after_six_time_outs(world: Make) -> None:
    """Two for the alive sign, and two for each of two ranges."""
    the = world()
    the.play(12)
    newest = beats(the)[-1]
    the.box.fault(SILENCE)
    while the.reading is not None:
        the.beat()
    assert the.time.now - newest == pytest.approx(5 + 6 * 2, abs=0.1)


def test_a_charger_that_was_never_there_is_lost(world: Make) -> None:
    the = world({DYNAMIC: 12})
    the.box.away = "refused"
    assert (the.reading, bool(the.snapshot.problem)) == (None, True)
    the.play(200)
    assert len(the.lines) == 1
    assert said(the, "WARNING: no reading since ", "trying again")
    the.box.away = ""
    the.play(60)
    assert the.reading["settings"]["dynamic_current_a"] == 12
    assert said(the, "WARNING: the box answers again") == the.lines[1:2]
    assert the.lines[2:] == ["Dynamic current: 10 A -> 12 A"]


@pytest.mark.parametrize("outcome", [1, 4, BUSY])
def test_a_charger_that_refuses_all_is_lost_and_left_alone_meanwhile(world: Make, outcome: Outcome) -> None:
    the = world({DYNAMIC: 12})
    the.play(12)
    over = the.box.fault(outcome)
    the.play(100)
    assert the.reading is None
    assert (the.box.link, the.box.served) == (None, None)
    assert len(the.box.attempts) < 9
    over()
    the.play(61)
    assert held(the, DYNAMIC) == [12]


@pytest.mark.parametrize("outcome", [RESET, SILENCE, 6, 4])
def test_connections_are_opened_at_least_a_second_apart(world: Make, outcome: Outcome) -> None:
    the = world({DYNAMIC: 12}, details=True)
    the.box.resets_after_exception = True
    even = [0]

    def every_second(request: Request) -> Outcome | None:
        even[0] += 1
        return outcome if even[0] % 2 else None

    the.box.fault(every_second)
    the.play(300)
    assert the.box.connections > 20
    assert min(gaps([*the.box.attempts])) > 0.999


def test_while_it_is_lost_there_is_no_reading_and_each_beat_counts_as_failed(world: Make) -> None:
    the = world()
    the.play(12)
    the.box.cut()
    the.box.away = "refused"
    the.beat()
    snapshot = the.snapshot
    assert (snapshot.reading, snapshot.readings, snapshot.failed, snapshot.connections) == (None, 3, 1, 1)
    the.beat(3)
    assert (the.snapshot.readings, the.snapshot.failed) == (3, 4)
    the.box.away = ""
    the.play(10)
    assert (the.snapshot.readings > 3, the.snapshot.failed, the.snapshot.connections) == (True, 4, 2)


# --- Other warnings ---


def test_a_warning_is_said_once_while_its_cause_lasts_and_taken_back(world: Make) -> None:
    the = world()
    text = "Cannot read input registers 1502-1513: exception 4"
    for n in (1, 2):
        over = the.box.fault(4, 1502)
        the.play(100)
        assert the.lines[2 * n - 2 :] == [f"WARNING: {text}"]
        over()
        the.play(100)
        assert the.lines[2 * n - 1 :] == [f"WARNING: over: {text}"]


def test_a_warning_whose_number_changes_is_the_same(world: Make) -> None:
    the = world()
    for amps in (40_000, 40_001, 40_002):
        the.box.set(1106, amps, bank=INPUT)
        the.play(20)
        assert the.reading["limits"]["cable_max_a"] is None
    assert len(said(the, "WARNING: ", "40000 A")) == len(the.lines) == 1
    the.box.set(1106, 20, bank=INPUT)
    the.play(20)
    assert the.lines[1:] == [the.lines[0].replace("WARNING: ", "WARNING: over: ")]


def test_a_loss_does_not_say_again_what_lasts(world: Make) -> None:
    the = world(details=True)
    the.box.set(1106, 40_000, bank=INPUT)
    the.box.missing.add((HOLDING, 405))
    the.play(20)
    lines = the.lines
    assert len(lines) == 2
    the.box.restart(20)
    the.play(100)
    assert len(the.lines) == 4, "lost, and back"


# --- Held currents ---


def test_currents_are_held_from_the_first_connection_on(world: Make) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    the.beat()
    assert requests(the) == [
        SIGN,
        *CORE,
        CLOCK_RANGE,
        (DYNAMIC, 12),
        (DYNAMIC, 1),
        (FAILSAFE, 9),
        (FAILSAFE, 1),
    ]
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]
    assert the.lines == ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 9 A"]
    settings = the.reading["settings"]
    assert (settings["dynamic_current_a"], settings["failsafe_current_a"]) == (12, 9)
    the.play(HOUR)
    assert written(the) == []


def plugged_in(the: World) -> None:
    the.box.set(CABLE, NO_CABLE, bank=INPUT)
    the.play(10)
    the.box.plug_in()


def another_master(the: World) -> None:
    the.box.set(DYNAMIC, 6)


def restarted(the: World) -> None:
    the.box.restart(3, then=lambda: the.box.set(DYNAMIC, 6))


@pytest.mark.parametrize("change", [plugged_in, another_master])
@pytest.mark.parametrize("amps", [12, 0])
def test_a_current_that_the_box_has_changed_is_written_again_in_the_next_beat_and_said(
    world: Make, change: Callable[[World], None], amps: int
) -> None:
    the = world({DYNAMIC: amps})
    the.play(12)
    change(the)
    the.box.requests.clear()
    the.play(5)
    assert written(the) == [(DYNAMIC, amps)]
    assert the.reading["settings"]["dynamic_current_a"] == amps == held(the, DYNAMIC)[0]
    assert the.lines[1:] == [f"Dynamic current: 6 A -> {amps} A"]
    assert the.box.connections == 1


def test_a_failsafe_current_that_the_box_has_changed_is_written_again(world: Make) -> None:
    the = world({FAILSAFE: 9})
    the.play(12)
    the.box.set(FAILSAFE, 16)
    the.play(5)
    assert held(the, FAILSAFE) == [9]
    assert the.lines == ["Failsafe current: 10 A -> 9 A", "Failsafe current: 16 A -> 9 A"]


def test_a_current_is_held_again_after_a_restart(world: Make) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    the.play(12)
    the.box.restart(250, "dead", then=lambda: the.box.set(FAILSAFE, 16))
    the.play(300)
    the.play(20)
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]
    assert the.lines[-2:] == ["Dynamic current: 16 A -> 12 A", "Failsafe current: 16 A -> 9 A"]


def test_the_dynamic_current_is_written_on_each_connection_even_where_it_shows_it(world: Make) -> None:
    the = world({DYNAMIC: 16, FAILSAFE: 10})
    for _ in range(4):
        the.play(12)
        the.box.cut()
    assert written(the) == 4 * [(DYNAMIC, 16)]
    assert the.box.connections == 4
    assert the.lines == [], "nothing has changed"


def test_a_failsafe_current_that_it_shows_is_never_written(world: Make) -> None:
    the = world({FAILSAFE: 10})
    for _ in range(4):
        the.play(12)
        the.box.cut()
    the.box.restart(20)
    the.play(100)
    assert written(the) == []


def test_a_current_that_cannot_be_read_and_is_set_is_not_written_again(world: Make) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    the.play(12)
    the.box.fault(4, DYNAMIC, 2000, write=False)
    the.play(HOUR)
    assert written(the) == [(DYNAMIC, 12), (FAILSAFE, 9)]


@pytest.mark.parametrize(
    ("address", "amps", "name"),
    [
        (DYNAMIC, 33, "dynamic"),
        (DYNAMIC, 5, "dynamic"),
        (FAILSAFE, 33, "failsafe"),
        (FAILSAFE, 5, "failsafe"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_current_out_of_range_ends_the_program_when_the_limits_are_first_read(
    world: Make, address: int, amps: int, name: str, later: bool
) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 12, address: amps})
    over = the.box.fault(BUSY, 1100) if later else lambda: None
    if later:
        the.play(12)
        assert not the.snapshot.fatal
    over()
    the.read()
    fatal = the.snapshot.fatal
    assert fatal.status == 3
    assert f"failed writing current: {name} current {amps} A is out of range" in str(fatal)
    assert written(the) == []


def test_6_to_32_a_stand_in_for_limits_that_the_firmware_does_not_know(world: Make) -> None:
    for amps, fatal in ((33, True), (32, False)):
        the = world({DYNAMIC: amps})
        the.box.set(MAXIMUM, 16, bank=INPUT)
        the.box.missing.update((INPUT, address) for address in range(1100, 1107))
        the.beat()
        assert (the.snapshot.fatal is not None, written(the) == []) == (fatal, fatal)


def test_limits_that_become_smaller_than_what_is_set_are_a_warning_and_nothing_is_written(
    world: Make,
) -> None:
    the = world({DYNAMIC: 20})
    the.play(12)
    the.box.set(MAXIMUM, 16, bank=INPUT)
    the.play(60)
    assert said(the, "WARNING: failed holding current", "20 A is out of range", "6 to 16 A") == the.lines[1:]
    assert len(the.lines) == 2
    assert written(the) == [(DYNAMIC, 20)]


def test_limits_that_become_smaller_later_are_a_warning(world: Make) -> None:
    the = world({DYNAMIC: 20})
    the.play(12)
    the.box.set(MAXIMUM, 16, bank=INPUT)
    the.box.set(DYNAMIC, 16)
    the.box.requests.clear()
    the.play(100)
    assert the.snapshot.fatal is None
    assert written(the) == []
    assert len(said(the, "WARNING: failed holding current: dynamic current 20 A is out of range")) == 1
    the.box.set(MAXIMUM, 32, bank=INPUT)
    the.play(61)
    assert held(the, DYNAMIC) == [20]
    assert the.lines[-1].startswith("WARNING: over: failed holding current: ")


@pytest.mark.parametrize("outcome", [4, BUSY, 10, SILENCE, RESET])
def test_limits_that_cannot_be_read_are_one_warning_and_nothing_is_written_until_they_can(
    world: Make, outcome: Outcome
) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    over = the.box.fault(outcome, 1100)
    the.play(100)
    assert written(the) == []
    assert len(said(the, "WARNING: failed holding current: ")) == 1
    assert len(said(the, "WARNING: Cannot read input registers 1100-1106")) == 1
    assert len(the.lines) == 2
    over()
    the.play(10)
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]
    assert len(said(the, "WARNING: over: ")) == 2


def test_a_refusal_is_one_warning_and_tried_again_at_growing_intervals(world: Make) -> None:
    the = world({DYNAMIC: 12}, every=1, failsafe_timeout=300)
    over = the.box.fault(4, DYNAMIC, write=True)
    the.play(400)
    tries = asked(the, DYNAMIC, write=True)
    assert gaps(tries)[:8] == near(2, 3, 5, 9, 17, 33, 61, 61)  # the first beat at or after 1, 2, 4 ... 60 s
    assert len(the.lines) == 1
    assert the.lines[0].startswith("WARNING: failed holding current: dynamic current: 12 A was refused")
    over()
    the.play(65)
    assert the.lines[1:] == [
        "Dynamic current: 16 A -> 12 A",
        the.lines[0].replace("WARNING: ", "WARNING: over: "),
    ]


def test_a_current_that_was_set_is_tried_at_short_intervals_again(world: Make) -> None:
    the = world({DYNAMIC: 12}, every=1, failsafe_timeout=300)
    for _ in range(2):
        over = the.box.fault(4, DYNAMIC, write=True)
        the.box.set(DYNAMIC, 7)
        the.box.requests.clear()
        the.play(50)
        assert gaps(asked(the, DYNAMIC, write=True))[:3] == near(2, 3, 5)
        over()
        the.play(61)
        assert held(the, DYNAMIC) == [12]


@pytest.mark.parametrize("how", ["ignores", "refuses"])
def test_a_service_that_holds_a_current_starts_without_a_vehicle(world: Make, how: str) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    the.box.without_vehicle = how
    the.box.set(CABLE, NO_VEHICLE, bank=INPUT)
    the.play(HOUR)
    assert the.snapshot.fatal is None
    assert held(the, DYNAMIC, FAILSAFE) == [16, 9], "each stands for itself"
    assert len(said(the, "WARNING: failed holding current: dynamic current: ")) == 1
    assert len(the.lines) == 2
    the.box.set(CABLE, LOCKED, bank=INPUT)
    the.beat()
    assert held(the, DYNAMIC) == [12], "at once when the cable state changes"
    assert the.lines[2:] == [
        "Dynamic current: 16 A -> 12 A",
        said(the, "WARNING: failed")[0].replace("WARNING: ", "WARNING: over: "),
    ]


@pytest.mark.parametrize("address", [DYNAMIC, FAILSAFE])
def test_a_current_that_is_refused_does_not_keep_the_other_from_being_set(world: Make, address: int) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    the.box.fault(4, address, write=True)
    the.read()
    assert held(the, DYNAMIC, FAILSAFE) == ([16, 9] if address == DYNAMIC else [12, 10])


def test_a_box_that_takes_a_current_some_seconds_after_the_vehicle_has_it_soon(world: Make) -> None:
    the = world({DYNAMIC: 12}, every=1)
    the.box.set(CABLE, NO_CABLE, bank=INPUT)
    over = the.box.fault(4, DYNAMIC, write=True)
    the.play(HOUR)
    the.box.plug_in()
    the.play(5)
    over()
    the.play(9)
    assert held(the, DYNAMIC) == [12], "1, 2, 4 and 8 s after the vehicle, not a minute"


def test_a_failure_is_taken_back_where_the_box_shows_the_current_by_itself(world: Make) -> None:
    the = world({FAILSAFE: 9})
    the.box.fault(4, FAILSAFE, write=True)
    the.play(20)
    the.box.set(FAILSAFE, 9)
    the.play(6)
    assert len(said(the, "WARNING: failed holding current: failsafe current: 9 A was refused")) == 1
    assert the.lines[1:] == [the.lines[0].replace("WARNING: ", "WARNING: over: ")]


def test_a_pause_that_becomes_6_without_a_vehicle_is_written_when_one_comes(world: Make) -> None:
    the = world({DYNAMIC: 0})
    the.box.without_vehicle = "makes 6 of 0"
    the.box.set(CABLE, NO_CABLE, bank=INPUT)
    the.play(HOUR)
    assert held(the, DYNAMIC) == [6]
    assert len(said(the, "WARNING: failed holding current: dynamic current: 0 A was acknowledged")) == 1
    assert len(the.lines) == 1
    assert 50 < len(asked(the, DYNAMIC, write=True)) < 70, "about one a minute"
    the.box.plug_in()
    the.beat()
    assert held(the, DYNAMIC) == [0]
    assert the.lines[1] == "Dynamic current: 6 A -> 0 A"
    assert the.lines[2].startswith("WARNING: over: failed holding current: ")


@pytest.mark.parametrize("address", [DYNAMIC, FAILSAFE])
@pytest.mark.parametrize("outcome", [RESET, SILENCE])
@pytest.mark.parametrize("executes", [False, True])
def test_a_write_without_a_reply_is_settled_by_reading_back_and_not_repeated_in_the_beat(
    world: Make, address: int, outcome: Outcome, executes: bool
) -> None:
    the = world(wanted := {DYNAMIC: 12, FAILSAFE: 9})
    before = dict(the.box.image)
    the.box.executes = executes
    the.box.fault(outcome, address, write=True, times=1)
    the.beat()
    assert len(asked(the, address, write=True)) == 1
    assert held(the, address) == [wanted[address] if executes else before[HOLDING, address]]
    the.play(12)
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]
    failed = said(the, "WARNING: failed holding current: ")
    assert len(failed) == len(said(the, "WARNING: over: failed holding current: ")) == int(not executes)


@pytest.mark.parametrize("address", [DYNAMIC, 2000])
def test_a_core_range_that_always_times_out_has_each_register_written_seldom(
    world: Make, address: int
) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})
    the.box.fault(SILENCE, address, write=False)
    the.play(HOUR)
    for register in (DYNAMIC, FAILSAFE):
        times = asked(the, register, write=True)
        for begun, end in the.beats:
            assert len([at for at in times if begun <= at <= end]) <= 1
    # Each beat makes a new connection, and the dynamic current is set on each.
    assert len(asked(the, DYNAMIC, write=True)) <= len(beats(the))
    assert len(asked(the, FAILSAFE, write=True)) <= 65
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]


def test_failed_holding_is_never_the_last_word_when_it_is_held(world: Make) -> None:
    the = world({DYNAMIC: 12})
    over = the.box.fault(SILENCE, DYNAMIC)
    the.play(100)
    assert len(said(the, "WARNING: failed holding current: ")) == 1
    over()
    the.box.set(DYNAMIC, 12)
    the.play(61)
    assert said(the, "failed holding")[-1].startswith("WARNING: over: ")


def test_a_loss_makes_a_held_current_be_tried_at_once(world: Make) -> None:
    the = world({DYNAMIC: 12})
    over = the.box.fault(4, DYNAMIC, write=True)
    the.play(HOUR)
    the.box.restart(7)
    over()
    the.play(20)
    assert held(the, DYNAMIC) == [12]


def test_a_charger_that_goes_while_a_current_is_set_is_lost(world: Make) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9})

    def vanish(request: Request) -> Outcome:
        the.box.away = "refused"
        return RESET

    the.box.executes = False
    the.box.fault(vanish, DYNAMIC, write=True, times=1)
    the.play(100)
    assert the.reading is None
    assert len(said(the, "no reading since")) == 1
    assert len(asked(the, DYNAMIC, FAILSAFE, write=True)) == 1
    the.box.away = ""
    the.play(61)
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]
    assert [line for line in the.lines if "over" not in line][-1] == "Failsafe current: 10 A -> 9 A"


# --- Frozen values ---


@pytest.mark.parametrize("every", [1, 4, math.inf])
@pytest.mark.parametrize("details", [False, True])
def test_frozen_values_are_a_warning_and_a_new_connection_and_are_not_shown_as_new(
    world: Make, every: float, details: bool
) -> None:
    the = world(every=every, details=details)
    the.play(32.5)
    the.box.freeze()
    frozen_at = the.time.now
    while the.box.frozen is not None:
        the.beat()
        assert the.time.now - frozen_at < 21
        if the.box.frozen is not None:
            assert the.snapshot.made_at < frozen_at + 15, "shown as new"
    assert the.box.connections == 1
    old = the.snapshot
    assert old.made_at < the.beats[-1][0], "the last one of them was not shown"
    assert old.failed == 1
    the.read()
    assert the.box.connections == 2
    assert the.snapshot.made_at > old.made_at
    assert the.reading["electrical"]["meter_reading_kwh"] > the.time.now - 1.1
    the.play(HOUR)
    assert len(the.lines) == 2
    assert the.lines[0].startswith("WARNING: the charger repeats old values")
    assert the.lines[1] == the.lines[0].replace("WARNING: ", "WARNING: over: ")
    assert the.box.connections == 2


def test_a_clock_that_stands_is_said_once_and_not_looked_at_again(world: Make) -> None:
    the = world()
    the.box.clock_runs = False
    the.play(60)
    lines = the.lines
    old = "the charger repeats old values: its clock stands still; making a new connection"
    assert lines[:2] == [f"WARNING: {old}", f"WARNING: over: {old}"]
    assert len(lines) == 3
    assert lines[2].startswith("WARNING: the charger's clock stands still: ")
    assert the.box.connections == 2
    the.box.requests.clear()
    the.play(HOUR)
    assert asked(the, CLOCK) == []
    the.box.restart(20)
    the.play(HOUR)
    assert [line for line in the.lines[len(lines) :] if "stand" in line or "old values" in line] == []
    assert asked(the, CLOCK) == []
    assert the.box.connections == 3


def test_a_clock_that_stands_is_found_where_each_new_connection_comes_with_a_loss(world: Make) -> None:
    the = world(failsafe_timeout=60)
    the.box.clock_runs, the.box.lock_out = False, True
    the.play(HOUR)
    assert the.box.connections == 2
    assert len(said(the, "no reading since")) == 1


@pytest.mark.parametrize("outcome", [RESET, SILENCE])
def test_a_connection_lost_right_after_the_clock_was_read_makes_no_clock_stand(
    world: Make, outcome: Outcome
) -> None:
    the = world(details=True)
    the.play(31)
    the.box.freeze()
    the.box.fault(outcome, 405, times=1, skip=3)
    the.play(30)
    the.box.requests.clear()
    the.play(30)
    assert said(the, "stands still: old values") == []
    assert len(asked(the, CLOCK)) == 6


@pytest.mark.parametrize("resets", [False, True])
def test_a_clock_that_cannot_be_read_is_not_asked_for_again_until_the_charger_was_lost(
    world: Make, resets: bool
) -> None:
    the = world()
    the.box.missing.update((INPUT, address) for address in range(CLOCK, CLOCK + 6))
    the.box.resets_after_exception = resets
    for connections in (4, 8) if resets else (1, 2):
        the.play(60)
        the.box.requests.clear()
        the.play(HOUR)
        assert asked(the, CLOCK, CLOCK + 4) == []
        assert the.box.connections <= connections
        the.box.restart(20)
        the.play(60)
        assert len(asked(the, CLOCK)) >= 1
    assert said(the, "290") == [], "it is no part of a reading without details"


@pytest.mark.parametrize("outcome", [4, RESET, SILENCE])
def test_a_clock_or_phase_switch_that_failed_in_passing_is_asked_for_again_after_a_minute(
    world: Make, outcome: Outcome
) -> None:
    the = world(details=True)
    the.box.fault(outcome, CLOCK, times=2)
    the.box.fault(outcome, PHASE_SWITCH[0], times=2)
    the.read()
    assert (the.reading["details"]["clock"], the.reading["details"]["phase_switch"]) == (None, None)
    the.play(50)
    assert len(asked(the, CLOCK)) <= 2
    the.play(85 if outcome == 4 else 25)  # a refusal is not asked for again at once
    assert None not in the.reading["details"].values()


def test_a_busy_clock_is_asked_for_again(world: Make) -> None:
    the = world()
    over = the.box.fault(BUSY, CLOCK)
    the.play(60)
    over()
    the.box.requests.clear()
    the.play(60)
    assert len(asked(the, CLOCK)) == len(beats(the))


# --- Details ---


def test_details_are_read_at_the_start_and_after_each_loss(world: Make) -> None:
    the = world(details=True)
    for _ in range(3):
        the.play(60)
        the.box.cut()  # no loss
        the.play(60)
        the.box.restart(20)
    for address in (130, 190, 210, 230):
        assert len(asked(the, address)) == 3
    for address in (CLOCK, 405):
        assert len(asked(the, address)) == len(beats(the))


def test_the_clock_and_the_phase_switch_are_those_of_the_reading(world: Make) -> None:
    the = world(details=True)
    the.play(20)
    the.box.set(405, 0)
    the.beat()
    details = the.reading["details"]
    assert details["phase_switch"] == "1-phase"
    seconds = int(the.beats[-1][0]) % DAY
    assert details["clock"] == f"2026-11-20T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@pytest.mark.parametrize("outcome", [2, 4, BUSY, SILENCE, RESET])
def test_what_identifies_the_charger_stays_when_a_read_of_it_fails(world: Make, outcome: Outcome) -> None:
    the = world(details=True)
    the.play(20)
    before = the.reading
    over = the.box.fault(outcome, 100, 130, 190, 210, 230)
    the.box.restart(20)
    the.play(120)
    assert the.reading["identity"]["serial"] == "VEST1234567890"
    for key in ("chargepoint_id", "brand", "model", "firmware"):
        assert the.reading["details"][key] == before["details"][key] is not None
    assert len(said(the, "WARNING: Cannot read input registers")) == 5
    over()
    the.play(10)
    assert said(the, "WARNING: over: Cannot read input registers 100-124")


def test_what_was_measured_does_not_stay(world: Make) -> None:
    the = world(details=True)
    the.play(20)
    the.box.fault(4, 1000, 1502, 405, CLOCK)
    the.play(20)
    assert the.reading["states"]["cable"]["code"] is None
    assert the.reading["electrical"]["meter_reading_kwh"] is None
    assert the.reading["session"]["duration_s"] is None
    assert (the.reading["details"]["clock"], the.reading["details"]["phase_switch"]) == (None, None)


def test_details_are_read_again_where_the_connection_was_lost_over_them(world: Make) -> None:
    the = world(details=True)

    def vanish(request: Request) -> Outcome:
        the.box.away = "refused"
        the.time.after(5, lambda: setattr(the.box, "away", ""))
        return RESET

    the.box.fault(vanish, 190, times=1)
    the.play(120)
    assert None not in the.reading["details"].values()
    assert len(said(the, "over: Cannot read")) == len(said(the, "WARNING: Cannot read"))


def test_busy_details_are_asked_for_again(world: Make) -> None:
    the = world(details=True)
    over = the.box.fault(BUSY, 130, 230)
    the.play(20)
    assert the.reading["details"]["firmware"] is None
    over()
    the.play(20)
    assert None not in the.reading["details"].values()
    assert len(asked(the, 190)) == 1


@pytest.mark.parametrize("outcome", [None, 4, RESET, SILENCE])
def test_a_restart_with_other_firmware_shows_the_new_one_also_where_the_sign_fails(
    world: Make, outcome: Outcome | None
) -> None:
    the = world(details=True)
    if outcome:
        the.box.failsafe = False
        the.box.fault(outcome, ALIVE)
    the.play(100)
    assert the.reading["details"]["firmware"] == "v3.187.0-1.8.156.0"
    the.box.restart(250, then=lambda: the.box.set_firmware("v3.200.0"))
    the.play(330)
    assert the.reading["details"]["firmware"] == "v3.200.0"


def test_old_firmware_is_asked_for_its_details_once_and_said_so(world: Make) -> None:
    the = world(details=True)
    addresses = (130, 190, 210, 230, CLOCK)
    the.box.missing.update((INPUT, address) for address in (*addresses, CLOCK + 4))
    the.box.missing.add((HOLDING, 405))
    the.play(HOUR)
    for address in (130, 190, 210, 230, 405):
        assert len(asked(the, address)) == 1
    assert set(the.reading["details"].values()) == {None}
    assert len(the.lines) == len(said(the, "WARNING: Cannot read ")) == 6


# --- What it keeps ---


def test_the_history_is_a_point_a_beat_of_the_last_hour_and_none_for_a_loss(world: Make) -> None:
    the = world()
    the.play(600)
    the.box.fault(4, 1000, times=1)
    the.read()
    assert the.snapshot.powers[-1][1] is None, "the power was not read"
    the.box.cut()
    the.box.away = "refused"
    the.read()
    assert the.snapshot.powers[-1][1] is None
    assert len(the.snapshot.powers) == 122
    the.box.away = ""
    the.play(HOUR - 700)
    powers = the.snapshot.powers
    assert [power for _, power in powers].count(None) == 2
    assert all(power == int(at * 10) % 90_000 for at, power in powers[:100] if power is not None) or all(
        abs(int(at * 10) % 90_000 - power) < 3 for at, power in powers if power is not None
    )
    the.play(HOUR)
    powers = the.snapshot.powers
    assert None not in [power for _, power in powers]
    assert len(powers) == pytest.approx(HOUR / 5, abs=1)
    assert powers[0][0] >= the.time.now - HOUR - 5
    assert gaps([at for at, _ in powers]) == near(*(len(powers) - 1) * [5])


def test_a_snapshot_is_replaced_as_a_whole_and_never_changed(world: Make) -> None:
    the = world({DYNAMIC: 12})
    the.beat()
    first = the.snapshot
    copies = vestel.format_json(first.reading), first.powers, first.readings
    the.box.set(DYNAMIC, 7)
    the.play(60)
    assert (vestel.format_json(first.reading), first.powers, first.readings) == copies
    assert the.snapshot is not first


def test_counters_count_readings_failures_and_connections(world: Make) -> None:
    the = world()
    the.play(12)
    the.box.cut()
    the.play(10)
    snapshot = the.snapshot
    assert (snapshot.readings, snapshot.failed, snapshot.connections) == (5, 0, 2)
    the.box.freeze()
    the.play(60)
    snapshot = the.snapshot
    assert (snapshot.failed, snapshot.connections) == (1, 3)
    assert snapshot.readings == 5 + 12


def reachable(thing: object) -> int:
    """How many objects it holds, and those hold."""
    seen: set[int] = set()
    found: list[object] = [thing]
    count = 0
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, (type, types.ModuleType, types.FunctionType, World, Box)):
            continue
        seen.add(id(one))
        count += 1
        found += gc.get_referents(one)
    return count


def test_a_day_needs_no_more_memory_than_its_first_hours(world: Make) -> None:
    the = world({DYNAMIC: 12, FAILSAFE: 9}, details=True, failsafe_timeout=300)
    the.box.requests = deque(maxlen=10)
    needed = []
    for hour in range(24):
        over = the.box.fault(4, [1000, 1100, DYNAMIC, 230, ALIVE][hour % 5])
        the.play(HOUR / 4)
        over()
        the.box.set(1106, 40_000 + hour, bank=INPUT)
        the.play(HOUR / 4)
        the.box.set(1106, 20, bank=INPUT)
        the.box.restart(250)
        the.play(HOUR / 2)
        if hour in (1, 12, 23):
            needed.append(reachable(the.keeper))
    assert max(needed) == pytest.approx(needed[0], rel=0.02)
    assert the.time.now == 10_000 + DAY
    assert held(the, DYNAMIC, FAILSAFE) == [12, 9]
