"""Warnings that last: each is said once, stands while its cause lasts, and is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, NamedTuple

import pytest
from registers import CLOCK, DYNAMIC, EVSE_MAX, FAILSAFE, HEARTBEAT, HOLDING, INPUT, PHASE_SWITCH
from world import MakeWorld, World

End = Callable[[], object]


class Cause(NamedTuple):
    begin: Callable[[World, Path], End]
    text: str
    change: Callable[[World, Path], object]  # gives it a new reason
    new_text: str


def value_is_impossible(world: World, _: Path) -> End:
    world.charger.set(1106, 40_000, bank=INPUT)
    return lambda: world.charger.set(1106, 20, bank=INPUT)


def value_is_refused(world: World, _: Path) -> End:
    world.charger.set(FAILSAFE, 16)
    return world.charger.fault(4, FAILSAFE, write=True)


def file_is_missing(_: World, file: Path) -> End:
    file.unlink()
    return lambda: file.write_text("12")


CAUSES = {
    "range": Cause(
        lambda world, _: world.charger.fault(4, 1502),
        "Cannot read input registers 1502-1513: exception 4 (device failure)",
        lambda world, _: world.charger.fault(7, 1502),
        "exception 7 (negative acknowledge)",
    ),
    "value": Cause(
        value_is_impossible,
        "Cable Maximum (input register 1106) is 40000 A: no such charger can have that, left out",
        lambda world, _: world.charger.set(1106, 40_001, bank=INPUT),
        "is 40001 A",
    ),
    "heartbeat": Cause(
        lambda world, _: world.charger.fault(4, HEARTBEAT),
        "the charger refuses the heartbeat: exception 4 (device failure)",
        lambda world, _: world.charger.fault(11, HEARTBEAT),
        "exception 11 (gateway target does not respond)",
    ),
    "setpoint": Cause(
        value_is_refused,
        "failed holding current: failsafe current: 9 A was refused: exception 4 (device failure)",
        lambda world, _: world.charger.keeps.update({FAILSAFE: 16}),
        "9 A was acknowledged, and the charger shows 16 A",
    ),
    "file": Cause(
        file_is_missing,
        "--hold: {file}: No such file or directory",
        lambda _, file: file.write_text("lots"),
        "'lots' is not a whole number",
    ),
}
causes = pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "amps"
    file.write_text("12")
    return file


@pytest.fixture
def settled(world: MakeWorld, file: Path) -> World:
    settled = world({FAILSAFE: 9}, hold_file=str(file), details=True, failsafe=False)
    settled.play(72)
    assert settled.lines == ["Dynamic current: 16 A -> 12 A", "Failsafe current: 10 A -> 9 A"]
    settled.logged.clear()
    return settled


def said(world: World) -> list[str]:
    lines = world.lines_with("WARNING: ")
    world.logged.clear()
    return lines


@causes
def test_cause_is_said_once_and_taken_back(settled: World, file: Path, cause: Cause) -> None:
    for _ in range(2):
        end = cause.begin(settled, file)
        settled.play(100)
        (warning,) = settled.snapshot.warnings
        assert warning.startswith(cause.text.format(file=file))
        assert said(settled) == [f"WARNING: {warning}"]
        end()
        settled.play(140)
        assert said(settled) == [f"WARNING: over: {warning}"]
        assert settled.snapshot.warnings == ()


@causes
def test_cause_lasts_through_a_loss_silently(settled: World, file: Path, cause: Cause) -> None:
    cause.begin(settled, file)
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
    assert lasting.startswith(cause.text.format(file=file))


@causes
def test_cause_that_ended_in_a_loss_is_taken_back(settled: World, file: Path, cause: Cause) -> None:
    end = cause.begin(settled, file)
    settled.play(30)
    (warning,) = settled.snapshot.warnings
    settled.charger.restart(30, then=lambda: settled.charger.set(FAILSAFE, 9))
    settled.play(15)
    end()
    said(settled)
    settled.play(100)
    back = "WARNING: over: the charger is back"
    assert sorted(said(settled)) == sorted([f"WARNING: over: {warning}", back])
    assert settled.snapshot.warnings == ()


def test_several_causes_are_said_and_counted_each(settled: World, file: Path) -> None:
    ends = [cause.begin(settled, file) for cause in CAUSES.values()]
    settled.play(30)
    assert len(settled.snapshot.warnings) == len(said(settled)) == 5
    for end in ends:
        end()
    settled.play(70)
    assert len(said(settled)) == 5
    assert settled.snapshot.warnings == ()


@causes
def test_new_reason_changes_what_is_shown_only(settled: World, file: Path, cause: Cause) -> None:
    cause.begin(settled, file)
    settled.play(30)
    (old,) = said(settled)
    assert cause.new_text not in old
    settled.charger.faults.clear()
    cause.change(settled, file)
    settled.play(100)
    assert said(settled) == []
    (warning,) = settled.snapshot.warnings
    assert cause.new_text in warning


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
        (HOLDING, HEARTBEAT, "the charger refuses the heartbeat"),
    ],
    ids=["value", "text", "clock", "phase switch", "heartbeat"],
)
def test_unsupported_value_is_said_once_and_not_counted(
    world: MakeWorld, bank: str, address: int, text: str, code: int
) -> None:
    lacking = world(details=True, unsupported_code=code, failsafe=False)
    lacking.charger.lack(address, bank=bank)
    lacking.play(100)
    lacking.charger.restart(20)
    lacking.play(100)
    line, *loss = lacking.lines
    assert line.startswith(f"WARNING: {text}: exception {code} (")
    assert len(loss) == 2, "and its end"
    assert lacking.snapshot.warnings == ()


def test_range_that_fails_in_part_counts_with_all_its_reasons(settled: World) -> None:
    settled.charger.lack(1004)
    settled.charger.fault(4, 1006)
    settled.play(30)
    assert settled.snapshot.warnings == (
        "Cannot read 1004, 1006-1007 of input registers 1000-1037: "
        "exception 2 (illegal data address); exception 4 (device failure)",
    )
