"""A charger that is lost: what counts as that, when it is tried again, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from charger import BUSY, CLOSE, GARBAGE, RESET, SILENCE, Outcome, Request
from clock import gaps
from registers import CLOCK, DYNAMIC, FIRMWARE, HEARTBEAT, HOLDING, INPUT, PHASE_SWITCH
from world import MakeWorld, World

# So long after a failed attempt comes the next one.
WAITS = [1, 2, 4, 8, 16, 32, 60, 60, 60]
REFUSED = "Cannot connect to the box: connection refused"
CLOSED = "Cannot read the box: the charger closed"
OLD = "it repeats old values"

WAYS = {
    "refused": REFUSED,
    "dead": "Cannot connect to the box: no answer",
    "closes": CLOSED,
    "resets": CLOSED,
    RESET: CLOSED,
    SILENCE: "Cannot read the box: no reply",
    GARBAGE: "Cannot read the box: a reply that is no Modbus",
}
ways = pytest.mark.parametrize(("how", "why"), WAYS.items(), ids=WAYS)


def go(world: World, how: str) -> Callable[[], None]:
    """Let the charger be gone in this way: at each request, or when a connection is opened."""
    if how in (RESET, SILENCE, GARBAGE):
        return world.charger.fault(how)
    world.charger.cut()
    world.charger.away = how
    return lambda: setattr(world.charger, "away", "")


@ways
def test_loss_is_one_warning_and_its_end_another(world: MakeWorld, how: str, why: str) -> None:
    gone = world()
    gone.play(12)  # the newest reading is of 10 s after 08:15:30
    end = go(gone, how)
    gone.play(500)
    text = f"no reading since 2026-11-20T08:15:40+00:00: {why}"
    (line,) = gone.lines
    assert line.startswith(f"WARNING: {text}")
    assert (gone.reading, gone.snapshot.warnings) == (None, (gone.snapshot.problem,))
    assert gone.snapshot.problem.startswith(text)
    end()
    gone.play(61)
    assert gone.lines[1:] == ["WARNING: over: the charger is back"]
    assert gone.reading is not None
    assert (gone.snapshot.problem, gone.snapshot.warnings) == ("", ())


def test_charger_that_was_never_there_is_said_to_be_lost(world: MakeWorld) -> None:
    gone = world({DYNAMIC: 12}, away="refused")
    assert (gone.reading, bool(gone.snapshot.problem)) == (None, True)
    gone.play(100)
    assert gone.snapshot.problem == f"no reading yet: {REFUSED}"
    gone.charger.away = ""
    end = gone.charger.fault(SILENCE)
    gone.play(100)
    assert gone.lines == [f"WARNING: no reading yet: {REFUSED}"], "a new reason is shown only"
    assert gone.snapshot.warnings == (gone.snapshot.problem,)
    assert gone.snapshot.problem.startswith("no reading yet: Cannot read the box: no reply")
    end()
    gone.play(61)
    assert "WARNING: over: the charger is back" in gone.lines
    assert gone.reading["settings"]["dynamic_current_a"] == 12


@pytest.mark.parametrize(
    ("write", "begin", "seconds"),
    [(None, 12, 4), (True, 12, 4), (False, 15, 8)],
    ids=["all", "heartbeat", "reads"],  # due at 12 s, and at 15 s: two ranges
)
def test_silence_is_a_loss_after_two_or_four_time_outs(
    world: MakeWorld, write: bool | None, begin: float, seconds: float
) -> None:
    gone = world(delay=0.0, failsafe=False)
    gone.play(12)
    gone.charger.fault(SILENCE, write=write)
    gone.until(lambda: gone.reading is None)
    assert gone.clock.passed == begin + seconds


@pytest.mark.parametrize("outcome", [SILENCE, RESET, CLOSE, GARBAGE])
def test_two_ranges_in_a_row_without_a_reply_are_a_loss(world: MakeWorld, outcome: str) -> None:
    gone = world(failsafe=False)
    gone.play(12)
    gone.charger.fault(outcome, 1000, 1100)
    gone.read()
    assert gone.reading is None
    assert gone.charger.links == []


@pytest.mark.parametrize("outcome", [SILENCE, RESET, CLOSE, GARBAGE])
def test_ranges_that_fail_apart_are_no_loss(world: MakeWorld, outcome: str) -> None:
    failing = world(failsafe=False)
    failing.charger.fault(outcome, 400, 1100, 5004)
    failing.play(300)
    assert failing.snapshot.failed == 0
    assert failing.reading["states"]["chargepoint"]["name"] == "Charging"
    assert failing.reading["limits"]["evse_max_a"] is None
    assert (failing.charger.connections == 1) == (outcome == SILENCE), "silence costs none"


@ways
def test_attempts_follow_after_1_2_4_to_60_s(world: MakeWorld, how: str, why: str) -> None:
    gone = world()
    for _ in range(2):
        gone.play(12)
        end = go(gone, how)
        gone.until(lambda: gone.reading is None)
        for wait in WAITS:
            assert gone.due - gone.clock.now == pytest.approx(wait, abs=0.001)
            gone.poll()
        assert gone.charger.links == []
        end()
        gone.poll()
        assert gone.reading is not None, "at the first attempt"
    assert min(gaps(gone.charger.attempts)) >= 1.0
    assert {*gone.firsts()} == {(HEARTBEAT, 1)}


def test_contact_without_a_served_reading_leaves_the_waits(world: MakeWorld) -> None:
    gone = world(failsafe=False, delay=0.0)
    beats: dict[int, int] = {}

    def third_heartbeat(request: Request) -> Outcome | None:
        """Refuse all; then end the connection and the next one."""
        if not request.write:
            return 4
        beats[request.connection] = beats.get(request.connection, 0) + 1
        is_over = request.connection % 2 == 0 or beats[request.connection] == 3
        return RESET if is_over else None

    gone.charger.fault(third_heartbeat)
    gone.play(140)
    assert gaps(gone.charger.attempts) == [3, 1, 3, 2, 3, 4, 3, 8, 3, 16, 3, 32, 3]
    assert gone.snapshot.readings == 0


@pytest.mark.parametrize("outcome", [RESET, CLOSE, BUSY, 4])
def test_connections_are_opened_1_s_apart_at_least(world: MakeWorld, outcome: Outcome) -> None:
    bad = world({DYNAMIC: 12}, details=True, resets_after_exception=True)
    number = iter(range(1_000_000))
    bad.charger.fault(lambda _: outcome if next(number) % 2 else None)
    bad.play(300)
    assert bad.charger.connections > 20
    assert min(gaps(bad.charger.attempts)) >= 1.0


@pytest.mark.parametrize("code", [1, 2, 4, BUSY, 11])
def test_charger_that_refuses_all_is_lost_and_kept(world: MakeWorld, code: int) -> None:
    booting = world({DYNAMIC: 12}, details=True)
    booting.play(12)
    end = booting.charger.fault(code, write=False)
    booting.charger.requests.clear()
    booting.play(120)
    assert booting.reading is None
    (line,) = booting.lines[1:]
    assert line.startswith("WARNING: no reading since 2026-11-20T08:15:40+00:00: ")
    assert f"exception {code} (" in line
    assert booting.snapshot.failed == (8 if code == BUSY else 24)
    assert max(gaps(booting.charger.times_of(HEARTBEAT))) < 1.8
    assert booting.charger.settings == []
    end()
    booting.play(20 if code == BUSY else 5.1)
    assert booting.reading is not None
    assert (booting.charger.connections, booting.charger.thrown_out) == (1, 0)
    assert booting.lines[2] == "WARNING: over: the charger is back"


def test_one_range_that_is_answered_is_no_loss(world: MakeWorld) -> None:
    refusing = world()
    refusing.charger.fault(lambda request: None if request.address == 2000 else 4, write=False)
    refusing.play(60)
    assert (refusing.snapshot.failed, refusing.reading["identity"]["serial"]) == (0, None)
    assert refusing.reading["settings"]["failsafe_current_a"] == 10


@pytest.mark.parametrize("outcome", [2, 4, BUSY, SILENCE, RESET])
def test_serial_and_texts_stay_as_last_read(world: MakeWorld, outcome: Outcome) -> None:
    labelled = world(details=True, failsafe=False)
    labelled.play(20)
    labelled.charger.restart(20)
    labelled.charger.fault(outcome, 100, 130, 190, 210, FIRMWARE)
    labelled.play(300)
    assert labelled.snapshot.failed > 0
    assert labelled.reading["identity"]["serial"] == "VEST1234567890"
    details = labelled.reading["details"]
    texts = [details[key] for key in ("chargepoint_id", "brand", "model", "firmware")]
    assert texts == ["CP-GARAGE-01", "Vestel", "EVC04", "v3.187.0-1.8.156.0"]


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


@pytest.mark.parametrize(
    ("every", "seconds"),
    [(1, 13), (4, 16), (12, 15), (2.5, 12.5)],
    ids=["after 12 s, not at 12 s", "16 s", "5 s each: 15 s", "12.5 s"],
)
def test_over_12_s_without_change_is_a_loss(world: MakeWorld, every: float, seconds: float) -> None:
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


def test_loss_lasts_across_connections_until_a_change(world: MakeWorld) -> None:
    frozen = world(delay=0.0)
    frozen.play(32)
    frozen.charger.freeze(None)
    frozen.play(18.1)
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


def test_ticks_apart_are_no_clock_that_runs(world: MakeWorld) -> None:
    moved = standing(world)
    for _ in range(5):
        moved.play(10)  # every other reading
        tick(moved)
    moved.play(60)
    assert (moved.snapshot.failed, moved.lines) == (0, [])


@pytest.mark.parametrize("calendar", ["stands", "zeros", "missing", "fails"])
def test_clock_that_tells_nothing_is_no_loss_and_no_word(world: MakeWorld, calendar: str) -> None:
    quiet = standing(world)
    quiet.charger.calendar = calendar
    if calendar == "missing":
        quiet.charger.lack(*range(CLOCK, CLOCK + 6))
    if calendar == "fails":
        quiet.charger.fault(4, CLOCK)
    quiet.play(600)
    quiet.charger.restart(30)
    quiet.play(600)
    first, second = quiet.lines
    assert "connection refused" in first
    assert second == "WARNING: over: the charger is back"


@pytest.mark.parametrize(("outcome", "times"), [(2, 3), (4, 1), (SILENCE, 2), ("zeros", 0)])
def test_clock_that_fails_tells_nothing(world: MakeWorld, outcome: Any, times: int) -> None:
    stopped = ran(world, failsafe=False)
    words = dict(stopped.charger.image)
    stopped.charger.calendar = "zeros" if outcome == "zeros" else "stands"
    if times:
        stopped.charger.fault(outcome, CLOCK, CLOCK + 4, times=times)
    stopped.play(65)  # it is asked for again after 60 s
    assert (stopped.snapshot.failed, stopped.reading is None) == (0, False)
    stopped.charger.calendar = "stands"
    stopped.charger.image.update(words)
    stopped.play(25)
    assert OLD in stopped.snapshot.problem, "12 s after it was back"


def test_clock_that_fails_after_a_loss_tells_nothing(world: MakeWorld) -> None:
    idle = ran(world, failsafe=False)
    idle.charger.away = "refused"
    idle.charger.cut()
    idle.play(30)
    idle.charger.away = ""
    idle.charger.fault(4, CLOCK, times=1)
    idle.until(lambda: idle.reading is not None)
    idle.play(45)
    assert (idle.reading is None, len(idle.lines_with(OLD))) == (False, 0)
