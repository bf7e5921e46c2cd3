"""Held values: what is read is not what is wanted, so it is set, at a pace."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from charger import BUSY, RESET, SILENCE, Outcome
from clock import gaps
from registers import (
    CABLE,
    DYNAMIC,
    EVSE_MAX,
    EVSE_MIN,
    FAILSAFE,
    HEARTBEAT,
    INPUT,
    LOCKED,
    NO_CABLE,
    NO_VEHICLE,
    TIMEOUT,
    VEHICLE,
)
from world import MakeWorld, World

ALL = {TIMEOUT: 60, DYNAMIC: 12, FAILSAFE: 9}
# So long after a try begins the next one, where a reading comes each second. One that fails takes
# 3 s, for which the value is read back.
WAITS = [1, 2, 4, 8, 16, 32, 60, 60]
FAILED_WAITS = [4, 5, 7, 11, 19, 35, 63, 63]


def held(world: World, *addresses: int) -> list[int]:
    return [world.charger[address] for address in addresses or (DYNAMIC,)]


def tries(world: World, address: int = DYNAMIC) -> list[float]:
    """Return when the value was written."""
    return world.charger.times_of(address, write=True)


def waited_long(world: World) -> Callable[[], object]:
    """Refuse the dynamic current until the next try is 60 s away; return what ends that."""
    end = world.charger.fault(4, DYNAMIC, write=True)
    world.charger.set(DYNAMIC, 7)
    world.until(lambda: len(tries(world)) > 8, 300)
    world.charger.requests.clear()
    world.logged.clear()
    return end


# --- What is set, and in which order ---


def test_values_are_held_from_the_first_connection_on(world: MakeWorld) -> None:
    holding = world({FAILSAFE: 9, DYNAMIC: 12, TIMEOUT: 60})
    holding.read()
    asked = holding.asked()
    assert asked[0] == (HEARTBEAT, 1)
    assert asked[-6:] == [(2002, 60), (2002, 1), (5004, 12), (5004, 1), (2000, 9), (2000, 1)]
    assert held(holding, TIMEOUT, DYNAMIC, FAILSAFE) == [60, 12, 9]
    assert holding.lines == [
        "Failsafe timeout: 21 s -> 60 s",
        "Dynamic current: 16 A -> 12 A",
        "Failsafe current: 10 A -> 9 A",
    ]
    holding.play(600)
    assert holding.charger.settings == []


def test_value_that_the_charger_shows_is_never_written(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 10, FAILSAFE: 10, TIMEOUT: 21})
    holding.charger.set(DYNAMIC, 10)
    for _ in range(4):
        holding.play(30)
        holding.charger.cut()
        holding.play(30)
        holding.charger.restart(20)  # comes back at the failsafe current
    assert holding.charger.settings == []
    assert not holding.lines_with("->")


def plug_in(world: World) -> None:
    world.charger.unplug()
    world.play(10)
    world.charger.plug_in()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (plug_in, "Dynamic current: 6 A -> 12 A"),
        (lambda world: world.charger.set(DYNAMIC, 7), "Dynamic current: 7 A -> 12 A"),
        (lambda world: world.charger.set(DYNAMIC, 0xFFFF), "Dynamic current: n/a -> 12 A"),
        (lambda world: world.charger.set(FAILSAFE, 16), "Failsafe current: 16 A -> 9 A"),
        (lambda world: world.charger.set(TIMEOUT, 300), "Failsafe timeout: 300 s -> 60 s"),
    ],
    ids=["vehicle", "dynamic", "impossible", "failsafe", "timeout"],
)
def test_changed_value_is_set_with_the_next_reading(
    world: MakeWorld, change: Callable[[World], None], line: str
) -> None:
    holding = world(ALL)
    holding.play(12)
    change(holding)
    holding.charger.requests.clear()
    holding.play(5)
    assert len(holding.charger.settings) == 1
    settings = {"dynamic_current_a": 12, "failsafe_current_a": 9, "failsafe_timeout_s": 60}
    assert holding.reading["settings"] == settings
    assert holding.lines[3:] == [line]
    assert holding.charger.connections == 1


def test_values_are_set_again_after_a_restart(world: MakeWorld) -> None:
    holding = world(ALL)
    holding.play(12)
    holding.charger.restart(250)  # comes back at the failsafe current
    holding.play(330)
    assert held(holding, TIMEOUT, DYNAMIC, FAILSAFE) == [60, 12, 9]
    assert holding.lines_with("->")[3:] == ["Dynamic current: 9 A -> 12 A"]


def test_late_charger_is_waited_for(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12}, lag={DYNAMIC: 2.5})
    holding.read()
    assert holding.reading["settings"]["dynamic_current_a"] == 12
    holding.play(60)
    assert holding.lines == ["Dynamic current: 16 A -> 12 A"]
    assert len(tries(holding)) == 1


# --- What keeps a value from being set ---


@pytest.mark.parametrize("outcome", [2, 4, BUSY, SILENCE, RESET])
@pytest.mark.parametrize(
    ("address", "begin", "noun"),
    [(DYNAMIC, DYNAMIC, "current"), (FAILSAFE, FAILSAFE, "current"), (TIMEOUT, 2000, "timeout")],
    ids=["dynamic", "failsafe", "timeout"],
)
def test_value_that_cannot_be_read_is_not_set(
    world: MakeWorld, address: int, begin: int, noun: str, outcome: Outcome
) -> None:
    holding = world({address: 12}, failsafe=False)
    end = holding.charger.fault(outcome, begin, address, write=False)
    holding.play(100)
    assert tries(holding, address) == []
    (line,) = holding.lines_with(f"failed holding {noun}: Cannot read holding register {address}:")
    end()
    holding.play(6)
    assert held(holding, address) == [12]
    assert line.replace("WARNING: ", "WARNING: over: ") in holding.lines


def maximum_is_11(world: World) -> None:
    world.charger.set(EVSE_MAX, 11, bank=INPUT)


def write_refused(world: World) -> None:
    world.charger.fault(4, DYNAMIC, write=True)


def write_unsupported(world: World) -> None:
    world.charger.fault(2, DYNAMIC, write=True)


def write_ignored(world: World) -> None:
    world.charger.keeps[DYNAMIC] = 16


def no_vehicle(world: World) -> None:
    world.charger.without_vehicle = "ignores"
    world.charger.unplug()


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        (
            maximum_is_11,
            "12 A is out of range: this charger takes 0 (pauses charging) or 6 to 11 A",
        ),
        (write_refused, "12 A was refused: exception 4 (device failure), and the charger shows 16"),
        (write_unsupported, "12 A was refused: exception 2 (illegal data address)"),
        (write_ignored, "12 A was acknowledged, and the charger shows 16 A (it was 16 A)"),
        (no_vehicle, "12 A was acknowledged, and the charger shows 16 A (it was 16 A)"),
    ],
    ids=["limits", "refused", "unsupported", "ignored", "no vehicle"],
)
def test_whatever_keeps_a_value_back_is_a_warning(
    world: MakeWorld, keep: Callable[[World], None], text: str
) -> None:
    """It never ends the program, and does not keep others from being set."""
    holding = world(ALL)
    keep(holding)
    holding.play(600)
    assert held(holding) == [16]
    assert len(holding.lines_with("WARNING: failed holding current: ", text)) == 1
    assert not holding.lines_with("over: ")
    assert holding.snapshot.fatal is None
    assert held(holding, TIMEOUT, FAILSAFE) == [60, 9]
    (warning,) = holding.snapshot.warnings
    assert warning.startswith("failed holding current: ")
    assert text in warning


@pytest.mark.parametrize("outcome", [4, BUSY, 10, SILENCE, RESET, None])
def test_nothing_is_written_while_limits_are_unknown(
    world: MakeWorld, outcome: Outcome | None
) -> None:
    """None: both read 0, as a wrong base makes them."""
    holding = world(ALL)
    end = holding.charger.fault(outcome, 1100) if outcome else lambda: None
    if outcome is None:
        holding.charger.set(EVSE_MIN, 0, bank=INPUT)
        holding.charger.set(EVSE_MAX, 0, bank=INPUT)
    holding.play(100)
    assert holding.charger.settings == []
    assert len(holding.lines_with("WARNING: failed holding ")) == 3
    end()
    holding.charger.set(EVSE_MIN, 6, bank=INPUT)
    holding.charger.set(EVSE_MAX, 32, bank=INPUT)
    holding.play(5.1)
    assert held(holding, TIMEOUT, DYNAMIC, FAILSAFE) == [60, 12, 9]
    assert len(holding.lines_with("WARNING: over: failed holding ")) == 3


def test_value_kept_back_by_limits_is_checked_each_reading(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 20}, delay=0.0)
    holding.charger.set(EVSE_MAX, 18, bank=INPUT)
    holding.play(600)
    assert holding.charger.settings == []
    holding.charger.set(EVSE_MAX, 20, bank=INPUT)
    holding.play(5.1)
    assert held(holding) == [20]
    assert holding.lines[1] == "Dynamic current: 16 A -> 20 A"
    assert holding.lines[2].startswith("WARNING: over: failed holding current: ")


def test_check_of_limits_is_no_try(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 20}, every=1, delay=0.0)
    holding.charger.set(EVSE_MAX, 18, bank=INPUT)
    holding.play(300)
    holding.charger.fault(4, DYNAMIC, write=True)
    holding.charger.set(EVSE_MAX, 20, bank=INPUT)
    holding.play(40)
    assert gaps(tries(holding)) == FAILED_WAITS[:4], "from the shortest wait on"


def test_warning_ends_where_the_value_shows_by_itself(world: MakeWorld) -> None:
    holding = world({FAILSAFE: 9})
    holding.charger.fault(4, FAILSAFE, write=True)
    holding.play(20)
    holding.charger.set(FAILSAFE, 9)
    holding.play(6)
    (line,) = holding.lines_with("WARNING: failed holding current: failsafe current: 9 A was ref")
    assert holding.lines[1:] == [line.replace("WARNING: ", "WARNING: over: ")]


# --- The pace of tries ---


def fight(world: World) -> None:
    world.charger.set(DYNAMIC, 12)
    world.charger.fight(6, 0.5)


@pytest.mark.parametrize(
    ("keep", "waits"),
    [
        (write_refused, FAILED_WAITS),
        (write_unsupported, FAILED_WAITS),
        (write_ignored, FAILED_WAITS),
        (fight, WAITS),
    ],
    ids=["refused", "unsupported", "ignored", "does not stay"],
)
def test_tries_follow_after_1_2_4_to_60_s(
    world: MakeWorld, keep: Callable[[World], None], waits: list[float]
) -> None:
    holding = world({DYNAMIC: 12}, every=1, delay=0.0)
    keep(holding)
    holding.play(220)
    assert gaps(tries(holding)) == waits


def test_next_try_comes_with_the_first_reading_after_it_is_due(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12}, delay=0.0)
    write_refused(holding)
    holding.play(300)
    assert gaps(tries(holding)) == [5, 5, 10, 15, 20, 35, 65, 65, 65]


@pytest.mark.parametrize(("seconds", "following"), [(58, [63]), (61, [4])], ids=["58 s", "61 s"])
def test_right_for_less_than_a_minute_does_not_start_over(
    world: MakeWorld, seconds: float, following: list[float]
) -> None:
    holding = world({DYNAMIC: 12}, every=1, delay=0.0)
    waited_long(holding)()
    holding.until(lambda: held(holding) == [12])
    holding.play(seconds)
    holding.charger.fault(4, DYNAMIC, write=True)
    holding.charger.set(DYNAMIC, 7)
    holding.charger.requests.clear()
    holding.play(130)
    assert gaps(tries(holding))[:1] == following


@pytest.mark.parametrize("address", [DYNAMIC, FAILSAFE])
@pytest.mark.parametrize("state", [NO_CABLE, NO_VEHICLE, VEHICLE])
def test_change_of_the_cable_starts_tries_over(world: MakeWorld, state: int, address: int) -> None:
    holding = world({address: 12}, every=1, delay=0.0)
    holding.charger.fault(4, address, write=True)
    holding.play(220)
    holding.charger.requests.clear()
    holding.charger.set(CABLE, state, bank=INPUT)
    begin = holding.clock.now
    holding.play(40)
    assert tries(holding, address)[0] <= begin + 1
    assert gaps(tries(holding, address)) == FAILED_WAITS[:4]


@pytest.mark.parametrize("outcome", [4, SILENCE])
def test_cable_that_is_not_read_for_a_while_starts_nothing_over(
    world: MakeWorld, outcome: Outcome
) -> None:
    holding = world({DYNAMIC: 12}, every=1, delay=0.0)
    waited_long(holding)
    holding.charger.fault(outcome, 1000, times=2)
    holding.play(50)
    assert tries(holding) == []


def test_new_wanted_value_is_tried_at_once(world: MakeWorld, tmp_path: Path) -> None:
    file = tmp_path / "amps"
    file.write_text("12")
    holding = world(every=1, hold_file=str(file), delay=0.0)
    waited_long(holding)
    file.write_text("13")
    begin = holding.clock.now
    holding.play(40)
    assert tries(holding)[0] <= begin + 1
    assert gaps(tries(holding)) == FAILED_WAITS[:4]


# --- Losses and tries ---


def test_loss_starts_nothing_over_and_its_time_does_not_count(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12}, every=1, delay=0.0)
    waited_long(holding)
    begin = holding.clock.now  # of a wait of 60 s
    holding.play(10)
    holding.charger.restart(300)
    holding.until(lambda: tries(holding), 500)
    lost_at, back_at = (at for at, line in holding.logged if "no reading" in line or "is b" in line)
    assert back_at - lost_at > 300
    assert tries(holding)[0] - begin - (back_at - lost_at) == pytest.approx(60, abs=1.1)


def test_time_of_a_loss_is_no_time_of_being_right(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12}, every=1, delay=0.0)
    waited_long(holding)()
    holding.until(lambda: held(holding) == [12])
    holding.play(20)
    holding.charger.restart(300, then=lambda: holding.charger.set(DYNAMIC, 12))
    holding.play(330)
    assert holding.reading is not None
    holding.charger.fault(4, DYNAMIC, write=True)
    holding.charger.set(DYNAMIC, 7)
    holding.charger.requests.clear()
    holding.play(130)
    assert gaps(tries(holding))[:1] == [63], "it was right for some 20 s"


# --- A value that does not stay ---


@pytest.mark.parametrize(
    ("address", "name", "unit"),
    [
        (DYNAMIC, "dynamic current", "A"),
        (FAILSAFE, "failsafe current", "A"),
        (TIMEOUT, "failsafe timeout", "s"),
    ],
    ids=["dynamic", "failsafe", "timeout"],
)
def test_fight_is_a_warning_above_5_s_and_its_lines_stop(
    world: MakeWorld, address: int, name: str, unit: str
) -> None:
    holding = world({address: 12}, delay=0.0)
    end = holding.charger.fight(8, 2, address)
    holding.play(600)
    text = f"the {name} does not stay at 12 {unit}: another master may set it, too"
    assert holding.lines[1:] == [
        f"{name.capitalize()}: 8 {unit} -> 12 {unit}",  # 2 s are waited after it
        f"{name.capitalize()}: 8 {unit} -> 12 {unit}",  # 4 s, and 8 s after the next one
        f"WARNING: {text}",
    ]
    assert 14 <= len(tries(holding, address)) <= 15, "about one a minute at last"
    assert holding.snapshot.warnings == (text,)
    end()
    holding.until(lambda: held(holding, address) == [12])
    right_at = holding.clock.now
    holding.until(lambda: not holding.snapshot.warnings)
    assert holding.clock.now == right_at + 60, "until it has been right for a minute"
    assert holding.lines[4:] == [f"WARNING: over: {text}"]


def test_change_now_and_then_is_no_fight(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12})
    holding.charger.fight(6, 70)
    holding.play(720)
    assert holding.lines == ["Dynamic current: 16 A -> 12 A"] + 10 * [
        "Dynamic current: 6 A -> 12 A"
    ]


def test_refusal_after_a_change_is_no_fight(world: MakeWorld) -> None:
    """A charger that has restarted, and takes no write for a while."""
    holding = world({DYNAMIC: 12})
    holding.play(70)
    holding.charger.set(DYNAMIC, 6)
    end = holding.charger.fault(4, DYNAMIC, write=True)
    holding.play(20)
    end()
    holding.play(30)
    refused = "failed holding current: dynamic current: 12 A was refused"
    assert [line.split(": exception")[0] for line in holding.lines] == [
        "Dynamic current: 16 A -> 12 A",
        f"WARNING: {refused}",
        "Dynamic current: 6 A -> 12 A",
        f"WARNING: over: {refused}",
    ]


# --- Vehicles ---


@pytest.mark.parametrize("how", ["ignores", "refuses"])
@pytest.mark.parametrize("state", [NO_CABLE, NO_VEHICLE])
def test_service_starts_without_a_vehicle(world: MakeWorld, how: str, state: int) -> None:
    holding = world({DYNAMIC: 12, FAILSAFE: 9}, without_vehicle=how)
    holding.charger.unplug(state)
    holding.play(600)
    assert held(holding, DYNAMIC, FAILSAFE) == [16, 9]
    (line,) = holding.lines_with("WARNING: failed holding current: dynamic current: ")
    assert len(holding.lines) == 2
    holding.charger.set(CABLE, LOCKED, bank=INPUT)
    holding.read(2)
    assert held(holding) == [12], "at once when the state of the cable changes"
    assert holding.lines[2:] == [
        "Dynamic current: 16 A -> 12 A",
        line.replace("WARNING: ", "WARNING: over: "),
    ]


def test_pause_that_becomes_6_is_set_when_a_vehicle_comes(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 0}, without_vehicle="makes 6 of 0")
    holding.charger.unplug()
    holding.play(600)
    assert held(holding) == [6]
    (line,) = holding.lines
    why = "0 A was acknowledged, and the charger shows 6 A (it was 16 A); 0 pauses charging, and"
    assert line.startswith(f"WARNING: failed holding current: dynamic current: {why}")
    assert 12 < len(tries(holding)) < 18, "about one a minute"
    holding.charger.plug_in()
    holding.read(2)
    assert held(holding) == [0]
    assert holding.lines[1] == "Dynamic current: 6 A -> 0 A"
    assert holding.lines[2].startswith("WARNING: over: failed holding current: ")


# --- Writes without a reply ---


@pytest.mark.parametrize("executed", [False, True], ids=["lost", "carried out"])
@pytest.mark.parametrize("outcome", [SILENCE, RESET])
def test_write_twice_without_a_reply_is_settled_by_reading(
    world: MakeWorld, outcome: str, executed: bool
) -> None:
    holding = world(ALL)
    holding.charger.fault(outcome, DYNAMIC, write=True, times=2, executed=executed)
    holding.read()
    assert held(holding, TIMEOUT, DYNAMIC, FAILSAFE) == [60, 12 if executed else 16, 9]
    assert bool(holding.lines_with("WARNING: failed holding current: ")) == (not executed)
    holding.play(12)
    assert held(holding) == [12]
    assert holding.snapshot.failed == 0


def test_write_and_read_back_without_a_reply_are_a_loss(world: MakeWorld) -> None:
    holding = world(ALL)
    holding.charger.fault(SILENCE, DYNAMIC, skip=1, times=4)  # the reading before it is answered
    holding.read()
    assert holding.reading is None
    assert tries(holding, FAILSAFE) == [], "the attempt has ended"
    holding.play(30)
    assert held(holding, TIMEOUT, DYNAMIC, FAILSAFE) == [60, 12, 9]
    assert holding.snapshot.failed == 1
