"""Warnings that last: each is said once, stands while its cause lasts, and is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from charger import SILENCE
from registers import CLOCK, DYNAMIC, EVSE_MAX, FAILSAFE, HEARTBEAT, HOLDING, INPUT, PHASE_SWITCH
from world import MakeWorld, World

Cause = Callable[[World, Path], Callable[[], object]]  # begins it, and returns what ends it


def range_fails(world: World, _: Path) -> Callable[[], object]:
    return world.charger.fault(4, 1502)


def value_is_impossible(world: World, _: Path) -> Callable[[], object]:
    world.charger.set(1106, 40_000, bank=INPUT)
    return lambda: world.charger.set(1106, 20, bank=INPUT)


def heartbeat_is_refused(world: World, _: Path) -> Callable[[], object]:
    return world.charger.fault(4, HEARTBEAT)


def value_is_refused(world: World, _: Path) -> Callable[[], object]:
    end = world.charger.fault(4, FAILSAFE, write=True)
    world.charger.set(FAILSAFE, 16)
    return end


def file_is_missing(world: World, file: Path) -> Callable[[], object]:
    file.unlink()
    return lambda: file.write_text("12")


CAUSES = [
    pytest.param(
        range_fails,
        "Cannot read input registers 1502-1513: exception 4 (device failure)",
        id="range",
    ),
    pytest.param(
        value_is_impossible,
        "Cable Maximum (input register 1106) is 40000 A: no such charger can have that, left out",
        id="value",
    ),
    pytest.param(
        heartbeat_is_refused,
        "the charger refuses the heartbeat: exception 4 (device failure)",
        id="heartbeat",
    ),
    pytest.param(
        value_is_refused,
        "failed holding current: failsafe current: 9 A was refused: exception 4 (device failure)",
        id="setpoint",
    ),
    pytest.param(file_is_missing, "--hold: {file}: No such file or directory", id="file"),
]
causes = pytest.mark.parametrize(("begin", "text"), CAUSES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the file of --hold."""
    file = tmp_path / "amps"
    file.write_text("12")
    return file


@pytest.fixture
def settled(world: MakeWorld, file: Path) -> World:
    """Give a world that has held 12 A by a file, and 9 A, for more than a minute."""
    settled = world({FAILSAFE: 9}, hold_file=str(file), details=True, failsafe=False)
    settled.play(72)
    assert settled.lines == ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 9 A"]
    settled.logged.clear()
    return settled


def said(world: World) -> list[str]:
    """Return the warnings that were said since the last call."""
    lines = world.lines_with("WARNING: ")
    world.logged.clear()
    return lines


# --- Said once, and taken back ---


@causes
def test_cause_is_said_once_and_taken_back(
    settled: World, file: Path, begin: Cause, text: str
) -> None:
    text = text.format(file=file)
    for _ in range(2):
        end = begin(settled, file)
        settled.play(100)
        (warning,) = settled.snapshot.warnings
        assert warning.startswith(text)
        assert said(settled) == [f"WARNING: {warning}"]
        end()
        settled.play(140)
        assert said(settled) == [f"WARNING: over: {warning}"]
        assert settled.snapshot.warnings == ()


@causes
def test_cause_lasts_and_is_not_said_again_through_a_loss(
    settled: World, file: Path, begin: Cause, text: str
) -> None:
    begin(settled, file)
    settled.play(30)
    (warning,) = settled.snapshot.warnings
    said(settled)
    settled.charger.restart(30, then=lambda: settled.charger.set(FAILSAFE, 16))
    settled.play(29)
    assert settled.snapshot.warnings == (warning, settled.snapshot.problem)
    assert len(said(settled)) == 1, "the loss"
    settled.play(90)
    assert said(settled) == ["WARNING: over: the charger is back"]
    (lasting,) = settled.snapshot.warnings
    assert lasting.startswith(text.format(file=file))


@causes
def test_cause_that_ended_during_a_loss_is_taken_back_after_it(
    settled: World, file: Path, begin: Cause, text: str
) -> None:
    end = begin(settled, file)
    settled.play(30)
    (warning,) = settled.snapshot.warnings
    settled.charger.restart(30, then=lambda: settled.charger.set(FAILSAFE, 9))
    settled.play(15)
    end()
    said(settled)
    settled.play(100)
    assert {*said(settled)} == {
        f"WARNING: over: {warning}",
        "WARNING: over: the charger is back",
    }
    assert settled.snapshot.warnings == ()


def test_several_causes_are_said_and_counted_each(settled: World, file: Path) -> None:
    ends = [cause.values[0](settled, file) for cause in CAUSES]  # type: ignore[operator]
    settled.play(30)
    assert len(settled.snapshot.warnings) == len(said(settled)) == 5
    for end in ends:
        end()
    settled.play(70)
    assert len(said(settled)) == 5
    assert settled.snapshot.warnings == ()


# --- A new reason ---


@pytest.mark.parametrize(
    ("begin", "change", "text"),
    [
        (
            range_fails,
            lambda world, _: world.charger.fault(7, 1502),
            "exception 7 (negative acknowledge)",
        ),
        (
            value_is_impossible,
            lambda world, _: world.charger.set(1106, 40_001, bank=INPUT),
            "is 40001 A",
        ),
        (
            heartbeat_is_refused,
            lambda world, _: world.charger.fault(11, HEARTBEAT),
            "exception 11 (gateway target does not respond)",
        ),
        (
            value_is_refused,
            lambda world, _: world.charger.keeps.update({FAILSAFE: 16}),
            "9 A was acknowledged, and the charger shows 16 A",
        ),
        (
            file_is_missing,
            lambda _, file: file.write_text("lots"),
            "'lots' is not a whole number",
        ),
    ],
    ids=["range", "value", "heartbeat", "setpoint", "file"],
)
def test_new_reason_changes_what_is_shown_only(
    settled: World, file: Path, begin: Cause, change: Callable[[World, Path], object], text: str
) -> None:
    begin(settled, file)
    settled.play(30)
    (old,) = said(settled)
    assert text not in old
    settled.charger.faults.clear()
    change(settled, file)
    settled.play(100)
    assert said(settled) == []
    (warning,) = settled.snapshot.warnings
    assert text in warning


def test_new_reason_of_a_loss_changes_what_is_shown_only(world: MakeWorld) -> None:
    gone = world(away="refused")
    gone.play(100)
    gone.charger.away = ""
    gone.charger.fault(SILENCE)
    gone.play(100)
    assert gone.lines == ["WARNING: no reading yet: Cannot connect to the box: connection refused"]
    text = "no reading yet: Cannot read the box: no reply within 2 s"
    assert (gone.snapshot.problem, gone.snapshot.warnings) == (text, (text,))


# --- What the firmware lacks ---


def test_missing_maximum_is_said_once_and_not_counted(world: MakeWorld) -> None:
    lacking = world({DYNAMIC: 12})
    lacking.charger.set(EVSE_MAX, 0, bank=INPUT)
    lacking.play(100)
    assert lacking.lines_with("WARNING: ") == [
        "WARNING: the charger does not say its maximum current (input register 1104): "
        "32 A is taken for it"
    ]
    assert lacking.snapshot.warnings == ()
    lacking.charger.restart(20)
    lacking.play(100)
    assert len(lacking.lines_with("input register 1104")) == 1
    showing = world()
    showing.charger.set(EVSE_MAX, 0, bank=INPUT)
    showing.read()
    assert showing.lines == [], "nothing is held"


@pytest.mark.parametrize("code", [1, 2, 3])
@pytest.mark.parametrize(
    ("bank", "address", "text"),
    [
        (INPUT, 1502, "Cannot read 1502-1503 of input registers 1502-1513"),
        (INPUT, 230, "Cannot read input registers 230-279"),
        (INPUT, CLOCK, "Cannot read 290-291 of input registers 290-295"),
        (HOLDING, PHASE_SWITCH, "Cannot read holding register 405"),
    ],
    ids=["value", "text", "clock", "phase switch"],
)
def test_unsupported_value_is_said_once_and_not_counted(
    world: MakeWorld, bank: str, address: int, text: str, code: int
) -> None:
    lacking = world(details=True, unsupported_code=code)
    lacking.charger.lack(address, bank=bank)
    lacking.play(100)
    lacking.charger.restart(20)
    lacking.play(100)
    (line,) = lacking.lines_with("WARNING: Cannot read")
    assert line.startswith(f"WARNING: {text}: exception {code} (")
    assert lacking.snapshot.warnings == ()


def test_unsupported_heartbeat_is_said_once_and_not_counted(world: MakeWorld) -> None:
    lacking = world(failsafe=False)
    lacking.charger.fault(2, HEARTBEAT)
    lacking.play(100)
    lacking.charger.restart(20)
    lacking.play(100)
    assert len(lacking.lines_with("refuses the heartbeat: exception 2 (")) == 1
    assert len(lacking.lines) == 3, "and the loss, and its end"
    assert lacking.snapshot.warnings == ()


def test_range_that_fails_in_part_counts_with_all_its_reasons(settled: World) -> None:
    """What the firmware lacks is in the text, too: it is the same range."""
    settled.charger.lack(1004)
    settled.charger.fault(4, 1006)
    settled.play(30)
    assert settled.snapshot.warnings == (
        "Cannot read 1004, 1006-1007 of input registers 1000-1037: "
        "exception 2 (illegal data address); exception 4 (device failure)",
    )
