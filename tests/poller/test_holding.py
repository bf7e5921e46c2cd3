"""Held values: what is read is not what is wanted, so it is set, at a pace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from charger import BUSY, RESET, SILENCE, Outcome
from clock import gaps
from registers import CABLE, DYNAMIC, EVSE_MAX, EVSE_MIN, FAILSAFE, HEARTBEAT, INPUT, TIMEOUT
from world import MakeWorld, World

ALL = {TIMEOUT: 60, DYNAMIC: 12, FAILSAFE: 9}
# From try to try with a reading each second: 3 s of reading back, and then 1, 2, 4 ... 60 s.
WAITS = [4, 5, 7, 11, 19, 35, 63, 63]


def all_held(world: World) -> list[int]:
    return [world.charger[address] for address in (TIMEOUT, DYNAMIC, FAILSAFE)]


def tries(world: World, address: int = DYNAMIC) -> list[float]:
    return world.charger.times_of(address, write=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "amps"
    file.write_text("12\n")
    return file


@pytest.fixture
def filed(world: MakeWorld, file: Path) -> World:
    filed = world(hold_file=str(file))
    filed.play(12)
    assert filed.lines == ["Dynamic current: 16 A -> 12 A"]
    filed.logged.clear()
    return filed


@pytest.fixture
def waiting(world: MakeWorld, file: Path) -> World:
    """Give a world with a reading each second, where 12 A was just refused for 60 s."""
    waiting = world(hold_file=str(file), every=1, delay=0.0)
    waiting.charger.fault(4, DYNAMIC, write=True)
    waiting.charger.set(DYNAMIC, 7)
    waiting.until(lambda: len(tries(waiting)) > 8, 300)
    waiting.charger.requests.clear()
    waiting.logged.clear()
    return waiting


def test_values_are_held_from_the_first_connection_on(world: MakeWorld) -> None:
    holding = world({FAILSAFE: 9, DYNAMIC: 12, TIMEOUT: 60})
    holding.read()
    asked = holding.asked()
    assert asked[0] == (HEARTBEAT, 1)
    assert asked[-6:] == [(2002, 60), (2002, 1), (5004, 12), (5004, 1), (2000, 9), (2000, 1)]
    assert all_held(holding) == [60, 12, 9]
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


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda world: world.charger.plug_in(), "Dynamic current: 6 A -> 12 A"),
        (lambda world: world.charger.set(DYNAMIC, 7), "Dynamic current: 7 A -> 12 A"),
        (lambda world: world.charger.set(DYNAMIC, 0xFFFF), "Dynamic current: n/a -> 12 A"),
        (lambda world: world.charger.set(FAILSAFE, 16), "Failsafe current: 16 A -> 9 A"),
        (lambda world: world.charger.set(TIMEOUT, 300), "Failsafe timeout: 300 s -> 60 s"),
    ],
    ids=["vehicle", "dynamic", "impossible", "failsafe", "timeout"],
)
def test_changed_value_is_set_at_the_next_reading(world: MakeWorld, change: Any, line: str) -> None:
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


def test_late_charger_is_waited_for(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12}, lag={DYNAMIC: 2.5})
    holding.read()
    assert holding.reading["settings"]["dynamic_current_a"] == 12
    holding.play(60)
    assert holding.lines == ["Dynamic current: 16 A -> 12 A"]
    assert len(tries(holding)) == 1


@pytest.mark.parametrize("executed", [False, True], ids=["lost", "carried out"])
@pytest.mark.parametrize("outcome", [SILENCE, RESET])
def test_unanswered_write_is_read_back(world: MakeWorld, outcome: str, executed: bool) -> None:
    holding = world(ALL)
    holding.charger.fault(outcome, DYNAMIC, write=True, times=2, executed=executed)
    holding.read()
    assert all_held(holding) == [60, 12 if executed else 16, 9]
    assert bool(holding.lines_with("WARNING: failed holding current: ")) == (not executed)
    holding.play(12)
    assert holding.charger[DYNAMIC] == 12
    assert holding.snapshot.failed == 0


def test_write_and_read_back_without_a_reply_are_a_loss(world: MakeWorld) -> None:
    holding = world(ALL)
    holding.charger.fault(SILENCE, DYNAMIC, skip=1, times=4)  # the reading before it is answered
    holding.read()
    assert holding.reading is None
    assert tries(holding, FAILSAFE) == [], "the attempt has ended"
    holding.play(30)
    assert all_held(holding) == [60, 12, 9]
    assert holding.snapshot.failed == 1


@pytest.mark.parametrize("outcome", [2, 4, BUSY, SILENCE, RESET])
@pytest.mark.parametrize("address", [DYNAMIC, FAILSAFE, TIMEOUT])
def test_unread_value_is_not_set(world: MakeWorld, address: int, outcome: Outcome) -> None:
    holding = world({address: 12}, failsafe=False)
    begin, noun = (FAILSAFE, "timeout") if address == TIMEOUT else (address, "current")
    end = holding.charger.fault(outcome, begin, address, write=False)
    holding.play(100)
    assert tries(holding, address) == []
    (line,) = holding.lines_with(f"failed holding {noun}: Cannot read holding register {address}:")
    end()
    holding.play(6)
    assert holding.charger[address] == 12
    assert line.replace("WARNING: ", "WARNING: over: ") in holding.lines


LIMITS = "12 A is out of range: this charger takes 0 (pauses charging) or 6 to 11 A"
REFUSED = "was refused: exception 4 (device failure), and the charger shows"
IGNORED = "12 A was acknowledged, and the charger shows 16 A (it was 16 A)"


@pytest.mark.parametrize(
    ("keep", "text", "waits"),
    [
        (lambda charger: charger.set(EVSE_MAX, 11, bank=INPUT), LIMITS, []),
        (lambda charger: charger.fault(4, DYNAMIC, write=True), REFUSED, WAITS),
        (lambda charger: charger.fault(2, DYNAMIC, write=True), "refused: exception 2 (", WAITS),
        (lambda charger: charger.keeps.update({DYNAMIC: 16}), IGNORED, WAITS),
    ],
    ids=["limits", "refused", "unsupported", "ignored"],
)
def test_value_kept_back_is_a_warning_and_tried_1_to_60_s_apart(
    world: MakeWorld, keep: Callable[[Any], object], text: str, waits: list[float]
) -> None:
    holding = world(ALL, every=1, delay=0.0)
    keep(holding.charger)
    holding.play(220)
    assert gaps(tries(holding)) == waits
    assert all_held(holding) == [60, 16, 9]
    (warning,) = holding.snapshot.warnings
    assert warning.startswith("failed holding current: ")
    assert text in warning
    assert holding.lines_with("WARNING: ") == [f"WARNING: {warning}"]
    assert holding.snapshot.fatal is None


def limits_are_unknown(world: World, outcome: Outcome | None) -> Callable[[], None]:
    """Begin it, and return what ends it. None: both read 0, as a wrong base makes them."""
    if outcome is not None:
        return world.charger.fault(outcome, 1100)
    world.charger.set(EVSE_MIN, 0, 0, 0, bank=INPUT)
    return lambda: world.charger.set(EVSE_MIN, 6, 0, 32, bank=INPUT)


unknown = pytest.mark.parametrize("outcome", [4, BUSY, 10, SILENCE, RESET, None])


@unknown
def test_nothing_is_set_while_limits_are_unknown(world: MakeWorld, outcome: Outcome | None) -> None:
    holding = world(ALL)
    end = limits_are_unknown(holding, outcome)
    holding.play(100)
    assert holding.charger.settings == []
    assert len(holding.lines_with("WARNING: failed holding ")) == 3
    end()
    holding.play(5.1)
    assert all_held(holding) == [60, 12, 9]
    assert len(holding.lines_with("WARNING: over: failed holding ")) == 3


def test_limits_are_checked_with_each_reading_which_is_no_try(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 20}, every=1, delay=0.0)
    holding.charger.set(EVSE_MAX, 18, bank=INPUT)
    holding.play(300)
    assert holding.charger.settings == []
    holding.charger.fault(4, DYNAMIC, write=True)
    holding.charger.set(EVSE_MAX, 20, bank=INPUT)
    changed_at = holding.clock.now
    holding.play(40)
    assert tries(holding)[0] <= changed_at + 1
    assert gaps(tries(holding)) == WAITS[:4], "from the shortest wait on"


@pytest.mark.parametrize(
    ("seconds", "loss", "wait"),
    [(58, 0, 63), (61, 0, 4), (20, 300, 63)],
    ids=["58 s", "61 s", "20 s and a loss"],
)
def test_right_for_a_minute_starts_over(waiting: World, seconds: int, loss: int, wait: int) -> None:
    charger = waiting.charger
    charger.faults.clear()
    waiting.until(lambda: charger[DYNAMIC] == 12)
    waiting.play(seconds)
    if loss:
        charger.restart(loss, then=lambda: charger.set(DYNAMIC, 12))
        waiting.play(loss + 30)
    charger.fault(4, DYNAMIC, write=True)
    charger.set(DYNAMIC, 7)
    charger.requests.clear()
    waiting.play(130)
    assert gaps(tries(waiting))[0] == wait


@pytest.mark.parametrize("address", [DYNAMIC, FAILSAFE])
@pytest.mark.parametrize("state", [0, 1, 2], ids=["no cable", "no vehicle", "vehicle"])
def test_change_of_the_cable_starts_tries_over(world: MakeWorld, state: int, address: int) -> None:
    holding = world({address: 12}, every=1, delay=0.0)
    holding.charger.fault(4, address, write=True)
    holding.play(220)
    holding.charger.requests.clear()
    holding.charger.set(CABLE, state, bank=INPUT)
    changed_at = holding.clock.now
    holding.play(40)
    assert tries(holding, address)[0] <= changed_at + 1
    assert gaps(tries(holding, address)) == WAITS[:4]


@pytest.mark.parametrize("outcome", [4, SILENCE])
def test_cable_that_is_not_read_starts_nothing_over(waiting: World, outcome: Outcome) -> None:
    waiting.charger.fault(outcome, 1000, times=2)
    waiting.play(50)
    assert tries(waiting) == []


def test_time_in_which_it_is_not_read_counts(waiting: World) -> None:
    end = waiting.charger.fault(4, DYNAMIC, write=False)
    waiting.play(70)
    assert tries(waiting) == []
    end()
    waiting.play(1.1)
    assert len(tries(waiting)) == 1


def test_loss_starts_nothing_over_and_its_time_does_not_count(waiting: World) -> None:
    begin = waiting.clock.now  # of a wait of 60 s
    waiting.play(10)
    waiting.charger.restart(300)
    waiting.until(lambda: tries(waiting), 500)
    lost_at, back_at = (at for at, line in waiting.logged if "no reading" in line or "is b" in line)
    assert back_at - lost_at > 300
    assert tries(waiting)[0] - begin - (back_at - lost_at) == pytest.approx(60, abs=1.1)


@pytest.mark.parametrize("how", ["ignores", "refuses"])
@pytest.mark.parametrize("state", [0, 1], ids=["no cable", "no vehicle"])
def test_service_starts_without_a_vehicle(world: MakeWorld, how: str, state: int) -> None:
    holding = world({DYNAMIC: 12, FAILSAFE: 9}, without_vehicle=how)
    holding.charger.unplug(state)
    holding.play(600)
    assert all_held(holding) == [21, 16, 9]
    (line,) = holding.lines_with("WARNING: failed holding current: dynamic current: ")
    assert len(holding.lines) == 2
    holding.charger.set(CABLE, 3, bank=INPUT)  # a vehicle is locked
    holding.read(2)
    over = line.replace("WARNING: ", "WARNING: over: ")
    assert holding.lines[2:] == ["Dynamic current: 16 A -> 12 A", over], "at once"


def test_pause_that_becomes_6_is_set_when_a_vehicle_comes(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 0}, without_vehicle="makes 6 of 0")
    holding.charger.unplug()
    holding.play(600)
    assert holding.reading["settings"]["dynamic_current_a"] == 6
    (line,) = holding.lines
    why = "0 A was acknowledged, and the charger shows 6 A (it was 16 A); 0 pauses charging, and"
    assert line.startswith(f"WARNING: failed holding current: dynamic current: {why}")
    assert 12 < len(tries(holding)) < 18, "about one a minute"
    holding.charger.plug_in()
    holding.read(2)
    assert holding.lines[1] == "Dynamic current: 6 A -> 0 A"
    assert holding.lines[2].startswith("WARNING: over: failed holding current: ")


@pytest.mark.parametrize(
    ("address", "name"),
    [(DYNAMIC, "dynamic current"), (FAILSAFE, "failsafe current"), (TIMEOUT, "failsafe timeout")],
)
def test_fight_is_a_warning_and_its_lines_stop(world: MakeWorld, address: int, name: str) -> None:
    unit = "s" if address == TIMEOUT else "A"
    holding = world({address: 12}, delay=0.0)
    end = holding.charger.fight(8, 2, address)
    holding.play(600)
    text = f"the {name} does not stay at 12 {unit}: another master may set it, too"
    line = f"{name.capitalize()}: 8 {unit} -> 12 {unit}"
    # 2 s are waited after the first line; 4 s after the second one, and then 8 s
    assert holding.lines[1:] == [line, line, f"WARNING: {text}"]
    assert 14 <= len(tries(holding, address)) <= 15, "about one a minute at last"
    assert holding.snapshot.warnings == (text,)
    end()
    holding.until(lambda: holding.charger[address] == 12)
    right_at = holding.clock.now
    holding.until(lambda: not holding.snapshot.warnings)
    assert holding.clock.now == right_at + 60, "until it has been right for a minute"
    assert holding.lines[4:] == [f"WARNING: over: {text}"]


def test_change_now_and_then_is_no_fight(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12})
    holding.charger.fight(6, 70)
    holding.play(720)
    assert holding.lines[1:] == 10 * ["Dynamic current: 6 A -> 12 A"]


def test_refusal_after_a_change_is_no_fight(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12})
    holding.play(60)
    holding.charger.set(DYNAMIC, 6)
    end = holding.charger.fault(4, DYNAMIC, write=True)
    holding.play(20)
    end()
    holding.play(30)
    refused = "failed holding current: dynamic current: 12 A was refused"
    assert [line.split(": exception")[0] for line in holding.lines[1:]] == [
        f"WARNING: {refused}",
        "Dynamic current: 6 A -> 12 A",
        f"WARNING: over: {refused}",
    ]


def test_number_is_held_from_the_next_reading_on(filed: World, file: Path) -> None:
    for amps in (7, 16, 0, 32, 8):
        file.write_text(f" {amps}\n")
        filed.read()
        assert filed.charger[DYNAMIC] == filed.reading["settings"]["dynamic_current_a"] == amps
    assert filed.charger.settings == [(DYNAMIC, amps) for amps in (12, 7, 16, 0, 32, 8)]
    assert filed.charger.connections == 1
    assert not filed.lines_with("WARNING")


def test_file_is_looked_at_before_the_charger_is_asked(filed: World, file: Path) -> None:
    filed.charger.fault(lambda _: file.write_text("7") and None, 100)
    filed.read()
    assert filed.charger[DYNAMIC] == 12
    filed.read()
    assert filed.charger[DYNAMIC] == 7


def test_number_that_changed_during_a_loss_is_held_after_it(filed: World, file: Path) -> None:
    filed.charger.restart(250)
    filed.play(100)
    file.write_text("7")
    filed.play(230)
    assert filed.lines_with("->") == ["Dynamic current: 10 A -> 7 A"]


def test_only_a_new_number_is_tried_at_once(waiting: World, file: Path) -> None:
    for _ in range(10):
        file.write_text(" 12\n")
        waiting.play(5)
    assert tries(waiting) == []
    file.write_text("13")
    changed_at = waiting.clock.now
    waiting.play(40)
    assert tries(waiting)[0] <= changed_at + 1
    assert gaps(tries(waiting)) == WAITS[:4]


@pytest.mark.parametrize("content", ["", " ", "\r\n\t\n"], ids=repr)
def test_blank_file_changes_nothing(world: MakeWorld, file: Path, content: str) -> None:
    file.write_text(content)
    holding = world(hold_file=str(file))
    holding.play(60)
    assert (holding.charger.settings, holding.lines) == ([], [])
    file.write_text("12")
    holding.play(5)
    file.write_text(content)
    holding.play(30)
    holding.charger.set(DYNAMIC, 6)
    holding.play(10)
    assert holding.lines == ["Dynamic current: 16 A -> 12 A", "Dynamic current: 6 A -> 12 A"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: None, "No such file or directory"),
        (Path.mkdir, "not a regular file"),
        (lambda file: file.write_text("12 A"), "'12 A' is not a whole number of amperes"),
        (lambda file: file.write_text("33"), "dynamic current 33 A is out of range: this"),
        (lambda file: file.write_text("5"), "dynamic current 5 A is out of range: this"),
    ],
    ids=["missing", "directory", "unit", "too high", "too low"],
)
def test_bad_file_warns_and_last_value_stays(
    filed: World, file: Path, spoil: Any, why: str
) -> None:
    file.unlink()
    spoil(file)
    filed.play(60)
    (text,) = filed.snapshot.warnings
    assert text.startswith(f"--hold: {file}: ")
    assert why in text
    assert filed.lines == [f"WARNING: {text}"]
    filed.charger.set(DYNAMIC, 6)
    filed.play(10)
    new = file.with_name("new")
    new.write_text("7")
    if file.is_dir():
        file.rmdir()
    new.replace(file)
    filed.play(5)
    changes = ["Dynamic current: 6 A -> 12 A", "Dynamic current: 12 A -> 7 A"]
    assert filed.lines[1:] == [*changes, f"WARNING: over: {text}"]
    assert filed.snapshot.warnings == ()
    assert filed.charger.connections == 1


@pytest.mark.parametrize("lacks", ["refused", "0"])
def test_maximum_once_told_counts_for_good(world: MakeWorld, lacks: str) -> None:
    holding = world({DYNAMIC: 30}, delay=0.0)
    holding.charger.set(EVSE_MAX, 16, bank=INPUT)
    holding.play(11)
    holding.charger.set(EVSE_MAX, 0, bank=INPUT)
    holding.charger.unsupported |= {(INPUT, EVSE_MAX)} if lacks == "refused" else set()
    holding.play(60)
    assert holding.charger.settings == []


def test_right_for_less_than_a_minute_does_not_add_up(world: MakeWorld) -> None:
    holding = world({DYNAMIC: 12}, delay=0.0)
    for _ in range(6):
        holding.play(40)
        holding.charger.set(DYNAMIC, 6)
    assert len(holding.lines_with("WARNING: the dynamic current does not stay at 12 A")) == 1


@unknown
def test_number_waits_for_known_limits(filed: World, file: Path, outcome: Outcome | None) -> None:
    end = limits_are_unknown(filed, outcome)
    filed.play(20)
    assert not filed.lines_with("--hold"), "12 A is no news"
    file.write_text("7")
    filed.play(60)
    assert filed.charger[DYNAMIC] == 12
    assert len(filed.lines_with(f"WARNING: --hold: {file}: ")) == 1
    end()
    filed.play(5)
    assert filed.charger[DYNAMIC] == 7
    assert len(filed.lines_with(f"WARNING: over: --hold: {file}: ")) == 1


@pytest.mark.parametrize("shows", [20, 16], ids=["still shown", "not shown"])
def test_number_is_checked_with_each_reading(filed: World, file: Path, shows: int) -> None:
    filed.charger.set(EVSE_MAX, 16, bank=INPUT)
    file.write_text("20")
    filed.play(300)
    assert (filed.charger[DYNAMIC], len(filed.lines)) == (12, 1)
    filed.charger.set(EVSE_MAX, 20, bank=INPUT)
    filed.play(5.1)
    assert filed.charger[DYNAMIC] == 20
    filed.logged.clear()
    filed.charger.set(EVSE_MAX, 16, bank=INPUT)
    filed.charger.set(DYNAMIC, shows)
    filed.play(60)
    assert len(filed.lines_with(f"WARNING: --hold: {file}: ", "20 A is out of range")) == 1
    assert filed.charger[DYNAMIC] == shows


def test_file_is_looked_at_while_the_charger_is_lost(world: MakeWorld, file: Path) -> None:
    file.unlink()
    holding = world(hold_file=str(file), away="refused")
    holding.play(60)
    text = f"--hold: {file}: No such file or directory"
    assert holding.lines_with("--hold") == [f"WARNING: {text}"]
    assert text in holding.snapshot.warnings
    file.write_text("12")
    holding.play(61)
    assert holding.lines_with("--hold")[1:] == [f"WARNING: over: {text}"]
    assert len(holding.snapshot.warnings) == 1, "the loss"


@pytest.mark.parametrize("outcome", [RESET, SILENCE])
def test_write_that_costs_the_connection_leaves_readings(world: MakeWorld, outcome: str) -> None:
    held = world({DYNAMIC: 12}, locks_out=True)
    held.charger.fault(outcome, DYNAMIC, write=True, executed=False)
    held.play(1200)
    assert held.snapshot.readings > 100


def test_boot_is_no_firmware_without_limits(world: MakeWorld) -> None:
    booting = world({DYNAMIC: 14})
    booting.charger.set(EVSE_MAX, 10, bank=INPUT)
    end = booting.charger.fault(2, *range(1000, 1107), write=False)
    booting.play(20)
    assert "Cannot read the charger's limits" in booting.snapshot.warnings[-1]
    end()
    booting.play(60)
    assert booting.charger.settings == []
