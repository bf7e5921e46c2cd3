"""Old values: a charger that repeats them is lost, until something changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from charger import SILENCE, Outcome
from clock import gaps
from registers import CLOCK, DYNAMIC, HOLDING, INPUT, PHASE_SWITCH
from world import MakeWorld, World

OLD = "it repeats old values"


def tick(world: World) -> None:
    """Let the charger's clock, which stands otherwise, go on by a second."""
    world.charger.set(CLOCK + 5, world.charger.image[INPUT, CLOCK + 5] + 1, bank=INPUT)


def standing(world: MakeWorld, **attributes: Any) -> World:
    """Return a world where nothing changes by itself."""
    return world(calendar="stands", measuring=False, delay=0.0, **attributes)


def ran(world: MakeWorld, **attributes: Any) -> World:
    """Return a world whose clock has run and stands from now on: the last change is at 10 s."""
    stopped = standing(world, **attributes)
    for _ in range(2):
        stopped.play(5)
        tick(stopped)
    stopped.play(0.1)
    return stopped


# --- How soon it is noticed ---


@pytest.mark.parametrize(
    ("every", "seconds"),
    [(1, 13), (4, 16), (12, 15), (2.5, 12.5)],
    ids=["after 12 s, not at 12 s", "16 s", "5 s each: 15 s", "12.5 s"],
)
def test_more_than_12_s_without_change_is_a_loss(
    world: MakeWorld, every: float, seconds: float
) -> None:
    frozen = world(every=every, delay=0.0)
    frozen.read(20)
    changed_at = frozen.clock.now
    frozen.charger.freeze(None)
    frozen.until(lambda: frozen.reading is None)
    assert frozen.began[-1] - changed_at == seconds
    assert f": {OLD}" in frozen.snapshot.problem


def test_old_values_are_said_once_and_end_with_a_new_connection(world: MakeWorld) -> None:
    frozen = world(delay=0.0)
    frozen.play(32)
    frozen.charger.freeze("closed")
    frozen.play(600)  # the readings of 35, 40 and 45 s are served
    first, second = frozen.lines
    assert first.startswith(f"WARNING: no reading since 2026-11-20T08:16:15+00:00: {OLD}")
    assert second == "WARNING: over: the charger is back"
    assert (frozen.charger.connections, frozen.snapshot.failed) == (2, 1)


# --- Until something changes ---


def test_loss_lasts_across_connections_until_a_change(world: MakeWorld) -> None:
    frozen = world(delay=0.0)
    frozen.play(32)
    frozen.charger.freeze(None)
    frozen.play(18.1)
    assert frozen.reading is None
    for _ in range(600):
        frozen.play(1)
        assert frozen.reading is None
    assert len(frozen.lines) == 1
    assert gaps(frozen.charger.attempts)[1:8] == [2, 4, 8, 16, 32, 60, 60]
    frozen.charger.thaw()
    frozen.play(61)
    assert frozen.reading is not None
    assert frozen.lines[1:] == ["WARNING: over: the charger is back"]


def test_loss_does_not_end_where_the_clock_is_not_read(world: MakeWorld) -> None:
    stopped = ran(world, failsafe=False)
    stopped.play(20)
    assert OLD in stopped.snapshot.problem
    readings = stopped.snapshot.readings
    stopped.charger.fault(4, CLOCK, times=1)  # it is asked for again after 60 s
    stopped.play(300)
    assert stopped.snapshot.readings == readings
    stopped.charger.fault(4, CLOCK)
    stopped.charger.set(1000, 3, bank=INPUT)
    stopped.play(61)
    assert stopped.reading is not None


def test_comparison_goes_on_across_another_loss(world: MakeWorld) -> None:
    frozen = world(delay=0.0)
    frozen.read(7)
    frozen.charger.freeze(300.0)
    frozen.charger.cut()
    frozen.charger.away = "refused"
    frozen.play(30)
    frozen.charger.away = ""
    frozen.play(200)
    assert frozen.snapshot.readings == 7, "none since the freeze"
    assert frozen.charger.connections > 3
    frozen.play(130)
    assert frozen.reading is not None


@pytest.mark.parametrize(
    ("bank", "address"),
    [(INPUT, 1000), (INPUT, CLOCK + 5), (HOLDING, DYNAMIC), (HOLDING, PHASE_SWITCH)],
    ids=str,
)
def test_any_value_that_changes_is_a_change(world: MakeWorld, bank: str, address: int) -> None:
    stopped = ran(world, details=True)
    for number in range(30):
        stopped.play(10)
        stopped.charger.set(address, number % 2, bank=bank)
    assert (stopped.snapshot.failed, stopped.lines) == (0, [])
    stopped.play(20)
    assert OLD in stopped.snapshot.problem


def test_nothing_is_set_by_old_values(world: MakeWorld, tmp_path: Path) -> None:
    file = tmp_path / "amps"
    file.write_text("12")
    frozen = world(hold_file=str(file), delay=0.0)
    frozen.play(32)
    frozen.charger.freeze(None)
    frozen.until(lambda: frozen.reading is None)
    frozen.charger.requests.clear()
    file.write_text("7")
    frozen.play(300)
    assert frozen.charger.settings == []
    frozen.charger.thaw()
    frozen.play(61)
    assert frozen.charger[DYNAMIC] == 7


# --- A clock tells once it has been seen to run ---


def test_two_ticks_at_successive_readings_are_a_clock_that_runs(world: MakeWorld) -> None:
    stopped = ran(world)
    stopped.play(14.8)
    assert stopped.reading is not None
    stopped.play(0.2)
    assert OLD in stopped.snapshot.problem


def test_ticks_apart_are_no_clock_that_runs(world: MakeWorld) -> None:
    moved = standing(world)
    for _ in range(5):
        moved.play(10)  # every other reading
        tick(moved)
    moved.play(60)
    assert (moved.snapshot.failed, moved.lines) == (0, [])


@pytest.mark.parametrize("calendar", ["stands", "zeros", "missing"])
def test_clock_that_tells_nothing_is_no_loss_and_no_word(world: MakeWorld, calendar: str) -> None:
    quiet = standing(world)
    quiet.charger.calendar = calendar
    if calendar == "missing":
        quiet.charger.lack(*range(CLOCK, CLOCK + 6))
    quiet.play(600)
    quiet.charger.restart(30)
    quiet.play(600)
    first, second = quiet.lines
    assert "connection refused" in first
    assert second == "WARNING: over: the charger is back"


def test_clock_that_ran_before_a_loss_still_tells(world: MakeWorld) -> None:
    restarted = world(delay=0.0)
    restarted.play(60)
    restarted.charger.restart(30)
    restarted.play(60)
    restarted.charger.calendar, restarted.charger.measuring = "stands", False
    restarted.play(30)
    assert OLD in restarted.snapshot.problem


@pytest.mark.parametrize(("outcome", "times"), [(2, 3), (4, 1), (SILENCE, 2)], ids=str)
def test_clock_that_fails_tells_nothing_meanwhile(
    world: MakeWorld, outcome: Outcome, times: int
) -> None:
    stopped = ran(world, failsafe=False)
    stopped.charger.fault(outcome, CLOCK, CLOCK + 4, times=times)
    stopped.play(65)  # it is asked for again after 60 s
    assert (stopped.snapshot.failed, stopped.reading is None) == (0, False)
    stopped.play(25)
    assert OLD in stopped.snapshot.problem, "12 s after it was back"


def test_clock_that_reads_zeros_tells_nothing_meanwhile(world: MakeWorld) -> None:
    stopped = ran(world)
    words = {n: stopped.charger.image[INPUT, CLOCK + n] for n in (0, 1, 4, 5)}
    for place in words:
        stopped.charger.set(CLOCK + place, 0, bank=INPUT)
    stopped.play(600)
    assert (stopped.snapshot.failed, stopped.lines) == (0, [])
    for place, word in words.items():
        stopped.charger.set(CLOCK + place, word, bank=INPUT)
    stopped.play(25)
    assert OLD in stopped.snapshot.problem
