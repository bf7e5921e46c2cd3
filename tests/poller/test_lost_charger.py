"""A charger that is lost: what counts as that, when it is tried again, and what is said."""

from __future__ import annotations

from typing import Callable

import pytest
from charger import BUSY, CLOSE, GARBAGE, RESET, SILENCE, Outcome, Request
from clock import gaps
from registers import DYNAMIC, FIRMWARE, HEARTBEAT
from world import MakeWorld, World

End = Callable[[], None]

# So long after a failed attempt comes the next one.
WAITS = [1, 2, 4, 8, 16, 32, 60, 60, 60]
REFUSED = "Cannot connect to the box: connection refused"
SILENT = "Cannot read the box: no reply within 2 s"


def goes(how: str) -> Callable[[World], End]:
    """Return what lets the charger be gone in this way, and returns what ends that."""

    def lose(world: World) -> End:
        if how in (RESET, SILENCE, GARBAGE):
            return world.charger.fault(how)
        world.charger.cut()
        world.charger.away = how
        return lambda: setattr(world.charger, "away", "")

    return lose


WAYS = [
    pytest.param(goes("refused"), REFUSED, id="refused"),
    pytest.param(goes("dead"), "Cannot connect to the box: no answer within 2 s", id="dead"),
    pytest.param(goes("closes"), "Cannot read the box: the charger closed", id="accepted, closed"),
    pytest.param(goes("resets"), "Cannot read the box: the charger closed", id="accepted, reset"),
    pytest.param(goes(RESET), "Cannot read the box: the charger closed", id="reset each time"),
    pytest.param(goes(SILENCE), SILENT, id="silent"),
    pytest.param(goes(GARBAGE), "Cannot read the box: a reply that is no Modbus", id="no Modbus"),
]
ways = pytest.mark.parametrize(("lose", "why"), WAYS)


def waits(world: World, count: int) -> list[float]:
    """Return how long was waited from the end of each attempt to the next one."""
    found = []
    for _ in range(count):
        world.poll()
        found.append(world.due - world.clock.now)
    return found


def lost(world: World) -> None:
    """Go on until the charger is lost."""
    world.until(lambda: world.reading is None)


# --- What is said of it ---


@ways
def test_loss_is_one_warning_and_its_end_another(
    world: MakeWorld, lose: Callable[[World], End], why: str
) -> None:
    gone = world()
    gone.play(12)  # the newest reading is of 10 s after 08:15:30
    end = lose(gone)
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
    assert (gone.reading, gone.snapshot.readings) == (None, 0)
    assert gone.snapshot.problem
    gone.play(200)
    assert gone.lines == [f"WARNING: no reading yet: {REFUSED}"]
    assert gone.snapshot.problem == f"no reading yet: {REFUSED}"
    gone.charger.away = ""
    gone.play(61)
    assert sorted(gone.lines[1:]) == [
        "Dynamic current: 10 A -> 12 A",
        "WARNING: over: the charger is back",
    ]
    assert gone.reading["settings"]["dynamic_current_a"] == 12


# --- What counts as lost ---


@pytest.mark.parametrize(
    ("write", "begin", "seconds"),
    [(None, 12, 4), (True, 12, 4), (False, 15, 8)],
    ids=["all", "heartbeat", "reads"],
)
def test_silence_is_a_loss_after_two_or_four_time_outs(
    world: MakeWorld, write: bool | None, begin: float, seconds: float
) -> None:
    """Two for the heartbeat, which is due at 12 s; two for each of two ranges, due at 15 s."""
    gone = world(delay=0.0, failsafe=False)
    gone.play(12)
    gone.charger.fault(SILENCE, write=write)
    lost(gone)
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


# --- Attempts ---


@ways
def test_attempts_follow_after_1_2_4_to_60_s(
    world: MakeWorld, lose: Callable[[World], End], why: str
) -> None:
    gone = world()
    for _ in range(2):
        gone.play(12)
        end = lose(gone)
        lost(gone)
        assert [gone.due - gone.clock.now, *waits(gone, 8)] == pytest.approx(WAITS, abs=0.001)
        assert gone.charger.links == []
        end()
        gone.poll()
        assert gone.reading is not None, "at the first attempt"
    assert min(gaps(gone.charger.attempts)) >= 1.0


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


# --- A charger that refuses all ---


@pytest.mark.parametrize("code", [1, 2, 4, BUSY, 11])
def test_charger_that_refuses_all_is_lost_and_kept(world: MakeWorld, code: int) -> None:
    booting = world({DYNAMIC: 12}, details=True)
    booting.play(12)
    end = booting.charger.fault(code, write=False)
    booting.charger.requests.clear()
    booting.play(120)
    assert booting.reading is None
    assert len(booting.lines) == 2
    assert booting.lines[1].startswith("WARNING: no reading since 2026-11-20T08:15:40+00:00: ")
    assert f"exception {code} (" in booting.lines[1]
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


# --- What stays ---


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


def test_lost_charger_has_no_reading_but_its_counters(world: MakeWorld) -> None:
    gone = world()
    gone.play(12)
    gone.charger.restart(1000)
    lost(gone)
    counted = gone.snapshot.readings, gone.snapshot.failed, gone.snapshot.connections
    assert (gone.reading, counted) == (None, (3, 1, 1))
    gone.poll(3)
    counted = gone.snapshot.readings, gone.snapshot.failed, gone.snapshot.connections
    assert (gone.reading, counted) == (None, (3, 4, 1))
