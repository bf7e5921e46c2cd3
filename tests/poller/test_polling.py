"""Polling: when readings are made, what they ask for, and what is kept of them."""

from __future__ import annotations

import json
import math
import threading
from datetime import datetime
from typing import Any

import pytest
from charger import BUSY, DAY, RESET, SILENCE, Outcome
from clock import gaps
from registers import CLOCK, DYNAMIC, FIRMWARE, HEARTBEAT, INPUT, PHASE_SWITCH, TIMEOUT, text
from world import MakeWorld, World

import vestel

BEAT = (HEARTBEAT, 1)
CORE = [(100, 25), (400, 5), (1000, 38), (1100, 7), (1502, 12), (2000, 3), (5004, 1)]
TEXTS = [(130, 50), (190, 10), (210, 5), (230, 50)]
DETAILS = [130, 190, 210, FIRMWARE, CLOCK, PHASE_SWITCH]


def stamp(world: World) -> float:
    return datetime.fromisoformat(world.reading["timestamp"]).timestamp()


@pytest.mark.parametrize(
    ("every", "seconds"), [(math.inf, 5), (86400, 5), (10, 5), (5, 5), (3, 3), (2.5, 2.5), (1, 1)]
)
@pytest.mark.parametrize("failsafe_timeout", [6, 300])
def test_reading_is_made_each_5_s_or_n_if_less(
    world: MakeWorld, failsafe_timeout: int, every: float, seconds: float
) -> None:
    polling = world(every=every, delay=0.0)
    polling.charger.set(TIMEOUT, failsafe_timeout)
    polling.play(100)
    assert gaps(polling.began) == (math.ceil(100 / seconds) - 1) * [seconds]
    assert polling.snapshot.readings == len(polling.began)
    assert polling.charger.connections == 1


def test_polls_do_not_drift(world: MakeWorld) -> None:
    polling = world(delay=0.11)
    polling.play(600)
    first, *_, last = polling.began
    assert len(polling.began) == 120
    assert last - first == pytest.approx(595, abs=0.2)  # a heartbeat may come before it


@pytest.mark.parametrize(("delay", "seconds"), [(0.6, 10), (1.45, 25)], ids=str)
def test_long_reading_waits_for_a_multiple(world: MakeWorld, delay: float, seconds: float) -> None:
    slow = world(delay=delay)
    start = slow.clock.now
    slow.play(290)
    assert len(slow.began) == math.ceil(290 / seconds)
    late = [(at - start) % seconds for at in slow.began]
    assert max(late) <= 2 * delay, "a heartbeat was under way"


@pytest.mark.parametrize("jump", [-DAY, -7.5, 7.5, DAY])
def test_clock_of_computer_that_jumps_changes_stamps_only(world: MakeWorld, jump: float) -> None:
    polling = world({DYNAMIC: 12}, delay=0.0)
    polling.play(12)
    before = stamp(polling)
    polling.clock.jump(jump)
    polling.play(10)
    assert gaps(polling.began) == 4 * [5.0]
    assert stamp(polling) - before == pytest.approx(10 + jump, abs=1)
    assert polling.lines == ["Dynamic current: 16 A -> 12 A"]


@pytest.mark.parametrize("details", [False, True], ids=["core", "details"])
def test_details_come_after_the_core_and_texts_once(world: MakeWorld, details: bool) -> None:
    polling = world(details=details, delay=0.0)
    polling.play(1)
    once, each_time = (TEXTS, [(290, 6), (405, 1)]) if details else ([], [(290, 6)])
    assert polling.asked() == [BEAT, *CORE, *once, *each_time]
    for _ in range(50):
        polling.play(5)
        assert [what for what in polling.asked() if what != BEAT] == [*CORE, *each_time]
    assert (polling.charger.connections, polling.lines) == (1, [])


def test_texts_are_read_again_after_a_loss_and_only_then(world: MakeWorld) -> None:
    polling = world(details=True)
    for version in ("v1", "v2", "v3"):
        polling.play(60)
        polling.charger.cut()  # no loss
        polling.play(60)
        words = text(version, 50)
        polling.charger.restart(20)
        polling.charger.set(FIRMWARE, *words, bank=INPUT)
    polling.play(60)
    assert polling.reading["details"]["firmware"] == "v3"
    assert polling.snapshot.failed > 3
    for address, _ in TEXTS:
        assert len(polling.charger.times_of(address)) == 4
    for address in (CLOCK, PHASE_SWITCH):
        assert len(polling.charger.times_of(address)) == polling.snapshot.readings


def test_clock_and_phase_switch_are_those_of_the_reading(world: MakeWorld) -> None:
    polling = world(details=True, delay=0.0)  # it begins at 02:46:40 of the charger's time
    polling.play(20)
    polling.charger.set(PHASE_SWITCH, 0)
    polling.read()
    assert polling.reading["details"]["phase_switch"] == "1-phase"
    assert polling.reading["details"]["clock"] == "2026-11-20T02:47:00"


WAITS = [60, 120, 240, 480, 960, 1920, 3600]


def tries(world: World, address: int) -> list[float]:
    """Leave out each second sending."""
    times = world.charger.times_of(address)
    return [at for at, gap in zip(times, [math.inf, *gaps(times)]) if gap > 10]


@pytest.mark.parametrize("outcome", [1, 2, 3, 4, BUSY, SILENCE, RESET])
def test_failing_detail_is_tried_after_60_s_then_120_s(world: MakeWorld, outcome: Outcome) -> None:
    failing = world(details=True)
    failing.charger.fault(outcome, FIRMWARE)
    failing.play(950)
    assert gaps(tries(failing, FIRMWARE)) == pytest.approx(WAITS[:4], abs=5.1)
    assert failing.snapshot.failed == 0
    assert failing.snapshot.readings > 185


def test_each_detail_that_fails_is_asked_for_each_hour_at_last(world: MakeWorld) -> None:
    failing = world(details=True)
    failing.charger.fault(4, *DETAILS)
    failing.play(7500)
    for address in DETAILS:
        assert gaps(tries(failing, address)) == pytest.approx(WAITS, abs=5.1)
    assert failing.snapshot.readings == 1500


@pytest.mark.parametrize("outcome", [2, 4, SILENCE])
def test_back_off_of_a_detail_goes_on_across_losses(world: MakeWorld, outcome: Outcome) -> None:
    failing = world(details=True)
    failing.charger.fault(outcome, FIRMWARE)
    for _ in range(25):
        failing.play(40)
        failing.charger.restart(20)
    assert len(tries(failing, FIRMWARE)) == 5
    assert failing.snapshot.connections == 25


def test_back_off_of_a_detail_starts_over_once_it_was_read(world: MakeWorld) -> None:
    failing = world(details=True, delay=0.0)
    for _ in range(2):
        end = failing.charger.fault(4, PHASE_SWITCH)
        failing.charger.requests.clear()
        failing.play(190)
        assert gaps(failing.charger.times_of(PHASE_SWITCH)) == [60.0, 120.0]
        end()
        failing.play(300)


@pytest.mark.parametrize("outcome", [4, SILENCE, RESET])
@pytest.mark.parametrize("skip", range(6))
def test_failing_details_cost_no_reading(world: MakeWorld, skip: int, outcome: Outcome) -> None:
    failing = world(details=True)
    failing.charger.fault(outcome, *DETAILS[skip:])
    failing.play(600)
    assert failing.snapshot.failed == 0
    assert failing.reading["electrical"]["meter_reading_kwh"] is not None
    assert failing.reading["details"]["clock" if skip < 5 else "phase_switch"] is None
    assert failing.charger.thrown_out == 0


def test_details_over_which_it_was_lost_are_read_after_it(world: MakeWorld) -> None:
    gone = world(details=True)
    gone.charger.fault(gone.charger.vanish, 190, times=1)
    gone.clock.after(5, lambda: setattr(gone.charger, "away", ""))
    gone.play(120)
    assert None not in gone.reading["details"].values()
    assert len(gone.lines_with("over: Cannot read")) == len(gone.lines_with("WARNING: Cannot read"))


@pytest.mark.parametrize("applies_late", [False, True])
def test_nothing_in_a_reading_is_older_than_its_stamp(world: MakeWorld, applies_late: bool) -> None:
    slow = world(delay=1.3, applies_late=applies_late)
    for _ in range(20):
        slow.read()
        begin, seconds = slow.snapshot.made_at, slow.snapshot.seconds
        end = slow.polls[-1][1]
        assert slow.began[-1] - begin in (0, pytest.approx(1.3)), "after a heartbeat"
        assert seconds == pytest.approx(end - begin)
        assert stamp(slow) == int(begin + slow.clock.ahead)
        assert begin <= slow.reading["electrical"]["meter_reading_kwh"] + 0.1 <= end
        assert begin <= slow.reading["session"]["duration_s"] / 10 + 0.1 <= end


def test_measured_value_that_is_not_read_any_more_is_null(world: MakeWorld) -> None:
    failing = world(details=True)
    failing.play(20)
    failing.charger.fault(4, 1000, 1502, PHASE_SWITCH, CLOCK)
    failing.play(10)
    reading = failing.reading
    measured = reading["electrical"]["meter_reading_kwh"], reading["session"]["duration_s"]
    assert (reading["states"]["cable"]["code"], *measured) == (None, None, None)
    assert (reading["details"]["clock"], reading["details"]["phase_switch"]) == (None, None)


@pytest.mark.parametrize(
    ("every", "made_at", "printed"),
    [
        (7, [0, 5, 10, 15, 20, 25, 30], [0, 10, 15, 25, 30]),  # due at 7, 14, 21, 28
        (10, [3, 12.95, 22.85, 27.85, 33.0], [3, 12.95, 27.85, 33.0]),  # 0.05 s and 0.15 s early
        (10, [0, 104, 109, 111], [0, 104, 111]),  # after a loss, still counted from the first
    ],
    ids=["first after", "early", "after a loss"],
)
def test_watch_prints_the_first_reading_from_each_n_s_on(
    monkeypatch: pytest.MonkeyPatch, every: float, made_at: list[float], printed: list[float]
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(vestel, "write_stdout", lines.append)
    newest = []
    for at in made_at:
        snapshot = vestel.Snapshot(reading={"made": at}, problem="", made_at=at)
        newest += [snapshot._replace(reading=None), snapshot, snapshot]
    vestel.print_readings(iter(newest), "json", every)
    assert [json.loads(line)["made"] for line in lines] == printed


def test_counters_count_readings_failures_and_connections(world: MakeWorld) -> None:
    polling = world(delay=0.0)

    def counted(seconds: float, away: str = "") -> tuple[int, int, int]:
        polling.charger.away = away
        polling.play(seconds)
        polling.charger.cut()
        return polling.snapshot.readings, polling.snapshot.failed, polling.snapshot.connections

    assert counted(12) == (3, 0, 1)  # at 0, 5, 10 s
    assert counted(10) == (5, 0, 2)  # at 15, 20 s
    assert counted(10, "refused") == (5, 4, 2)  # heartbeat at 22.5 s; at 23.5, 25.5, 29.5 s
    assert counted(10) == (6, 4, 3)  # at 37.5 s


def test_history_has_the_power_of_each_reading_of_the_hour(world: MakeWorld) -> None:
    polling = world(delay=0.0)
    polling.play(3700)
    powers = polling.snapshot.powers
    made_at = [at - polling.clock.ahead for at, _ in powers]
    assert gaps(made_at) == 720 * [5.0]
    assert made_at[-1] == polling.snapshot.made_at
    assert [watts for _, watts in powers] == [int(at * 10) % 90_000 for at in made_at]


def test_history_has_none_for_an_unknown_power(world: MakeWorld) -> None:
    polling = world()
    polling.charger.fault(4, 1000, times=1)
    polling.read()
    assert polling.snapshot.powers[-1][1] is None
    polling.charger.restart(60)
    polling.play(100)
    powers = [watts for _, watts in polling.snapshot.powers]
    assert powers.count(None) == 1 + polling.snapshot.failed > 4


def test_snapshot_is_replaced_and_never_changed(world: MakeWorld) -> None:
    polling = world()
    polling.read()
    first = polling.snapshot
    kept = vestel.format_json(first.reading), first[1:]
    polling.charger.set(1106, 40_000, bank=INPUT)
    polling.play(60)
    polling.charger.restart(20)
    polling.play(60)
    assert (vestel.format_json(first.reading), first[1:]) == kept
    assert polling.snapshot is not first
    assert all(isinstance(one, tuple) for one in (first, first.warnings, first.powers))


def test_fault_of_the_program_ends_it_and_serves_nothing_old(world: MakeWorld) -> None:
    broken = world()
    broken.read()
    poller: Any = broken.poller
    poller.run = lambda: iter([None])
    vestel.poll_forever(poller, threading.Event())
    assert isinstance(broken.snapshot.fatal, vestel.CommandError)
    assert broken.reading is None
    assert broken.charger.links == []
