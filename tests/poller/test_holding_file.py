"""The file of --hold: what it says is held, and what is wrong with it is a warning."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from charger import BUSY, SILENCE, Outcome, Request
from clock import gaps
from registers import DYNAMIC, EVSE_MAX, EVSE_MIN, FAILSAFE, INPUT
from world import MakeWorld, World


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the file of --hold: 12 A."""
    file = tmp_path / "amps"
    file.write_text("12\n")
    return file


@pytest.fixture
def holding(world: MakeWorld, file: Path) -> World:
    """Give a world that holds 12 A by the file."""
    holding = world(hold_file=str(file))
    holding.play(12)
    assert holding.lines == ["Dynamic current: 16 A -> 12 A"]
    holding.logged.clear()
    return holding


def held(world: World) -> int:
    return world.charger[DYNAMIC]


# --- Its number ---


def test_number_is_held_from_the_next_reading_on(holding: World, file: Path) -> None:
    for amps in (7, 16, 0, 32, 8):
        file.write_text(f" {amps}\n")
        holding.read()
        assert held(holding) == holding.reading["settings"]["dynamic_current_a"] == amps
    assert holding.charger.settings == [(DYNAMIC, amps) for amps in (12, 7, 16, 0, 32, 8)]
    assert holding.charger.connections == 1
    assert not holding.lines_with("WARNING")


def test_file_is_looked_at_before_the_charger_is_asked(holding: World, file: Path) -> None:
    def write(_: Request) -> None:
        file.write_text("7")

    holding.charger.fault(write, 100)
    holding.read()
    assert held(holding) == 12
    holding.read()
    assert held(holding) == 7


def test_number_is_held_against_others(holding: World) -> None:
    holding.charger.set(DYNAMIC, 7)
    holding.play(5)
    holding.charger.plug_in()
    holding.play(5)
    assert holding.lines == ["Dynamic current: 7 A -> 12 A", "Dynamic current: 6 A -> 12 A"]


def test_other_values_are_held_beside_the_file(world: MakeWorld, file: Path) -> None:
    holding = world({FAILSAFE: 9}, hold_file=str(file))
    holding.read()
    assert holding.charger.settings == [(DYNAMIC, 12), (FAILSAFE, 9)]


def test_number_that_changed_during_a_loss_is_held_after_it(holding: World, file: Path) -> None:
    holding.charger.restart(250)
    holding.play(100)
    file.write_text("7")
    holding.play(230)
    assert holding.lines_with("->") == ["Dynamic current: 10 A -> 7 A"]


def test_same_number_written_again_is_nothing_new(world: MakeWorld, file: Path) -> None:
    holding = world(hold_file=str(file), delay=0.0)
    holding.play(12)
    holding.charger.fault(4, DYNAMIC, write=True)
    holding.charger.set(DYNAMIC, 7)
    for _ in range(30):
        file.write_text(" 12\n")
        holding.play(5)
    assert gaps(holding.charger.times_of(DYNAMIC, write=True)) == [15, 5, 10, 15, 20, 35]


# --- A file that says nothing, or nothing good ---


@pytest.mark.parametrize("content", ["", " ", "\r\n\t\n"], ids=repr)
def test_blank_file_changes_nothing(holding: World, file: Path, content: str) -> None:
    file.write_text(content)
    holding.play(30)
    holding.charger.set(DYNAMIC, 6)
    holding.play(10)
    assert holding.lines == ["Dynamic current: 6 A -> 12 A"]


def test_blank_file_at_the_start_holds_nothing(world: MakeWorld, file: Path) -> None:
    file.write_text("\n")
    holding = world(hold_file=str(file))
    holding.play(60)
    assert (holding.charger.settings, holding.lines) == ([], [])
    file.write_text("12")
    holding.play(5)
    assert held(holding) == 12


def is_missing(file: Path) -> None:
    """Leave nothing there."""


def links_nowhere(file: Path) -> None:
    file.symlink_to(file.with_name("nowhere"))


def holds(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


BAD = [
    pytest.param(is_missing, "No such file or directory", id="missing"),
    pytest.param(links_nowhere, "No such file or directory", id="dangling link"),
    pytest.param(Path.mkdir, "Is a directory", id="directory"),
    pytest.param(holds(b"off\n"), "'off' is not a whole number of amperes", id="nonsense"),
    pytest.param(holds(b"12 A"), "'12 A' is not a whole number of amperes", id="unit"),
    pytest.param(holds(b"1" * 10_000_000), "1' is not a whole number of amperes", id="10 MB"),
    pytest.param(holds(b"33"), "dynamic current 33 A is out of range: this", id="too high"),
    pytest.param(holds(b"5"), "dynamic current 5 A is out of range: this", id="too low"),
]
bad = pytest.mark.parametrize(("spoil", "why"), BAD)


@bad
def test_bad_file_is_a_warning_and_the_last_value_stays(
    holding: World, file: Path, spoil: Callable[[Path], object], why: str
) -> None:
    file.unlink()
    spoil(file)
    holding.play(60)
    (text,) = holding.snapshot.warnings
    assert text.startswith(f"--hold: {file}: ")
    assert why in text
    assert holding.lines == [f"WARNING: {text}"]
    holding.charger.set(DYNAMIC, 6)
    holding.play(10)
    new = file.with_name("new")
    new.write_text("7")
    if file.is_dir():
        file.rmdir()
    new.replace(file)
    holding.play(5)
    assert holding.lines[1:] == [
        "Dynamic current: 6 A -> 12 A",
        "Dynamic current: 12 A -> 7 A",
        f"WARNING: over: {text}",
    ]
    assert holding.snapshot.warnings == ()
    assert holding.charger.connections == 1


@bad
def test_bad_file_at_the_start_holds_nothing(
    world: MakeWorld, file: Path, spoil: Callable[[Path], object], why: str
) -> None:
    file.unlink()
    spoil(file)
    holding = world(hold_file=str(file))
    holding.play(60)
    assert holding.charger.settings == []
    assert len(holding.lines_with("WARNING: --hold: ", why)) == len(holding.lines) == 1


def test_file_without_permission_is_a_warning(
    holding: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may read all, so the system's answer is played."""

    def refuse(path: Any, *more: Any, **others: Any) -> None:
        raise PermissionError(13, "Permission denied", path)

    text = f"--hold: {file}: Permission denied"
    with monkeypatch.context() as system:
        system.setattr("builtins.open", refuse)
        holding.play(60)
        assert holding.lines == [f"WARNING: {text}"]
    holding.play(5)
    assert holding.lines[1:] == [f"WARNING: over: {text}"]


@pytest.mark.needs_os
def test_fifo_is_a_warning_and_not_waited_for(holding: World, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    writers: list[int] = []  # who waits for one all the same is let go after 5 s
    rescue = threading.Timer(5, lambda: writers.append(os.open(file, os.O_WRONLY)))
    rescue.start()
    holding.play(30)
    rescue.cancel()
    rescue.join()
    for writer in writers:
        os.close(writer)
    assert not writers
    assert held(holding) == 12
    assert holding.lines == [f"WARNING: --hold: {file}: not a regular file"]


def test_link_is_followed_where_it_leads_now(world: MakeWorld, file: Path) -> None:
    link, other = file.with_name("link"), file.with_name("other")
    other.write_text("7")
    link.symlink_to(file)
    holding = world(hold_file=str(link))
    holding.read()
    assert held(holding) == 12
    link.unlink()
    link.symlink_to(other)
    holding.read()
    assert held(holding) == 7


# --- Limits, and a loss ---


@pytest.mark.parametrize("outcome", [4, BUSY, SILENCE, None])
def test_nothing_new_is_held_while_limits_are_unknown(
    holding: World, file: Path, outcome: Outcome | None
) -> None:
    """None: both read 0."""
    end = holding.charger.fault(outcome, 1100) if outcome else lambda: None
    if outcome is None:
        holding.charger.set(EVSE_MIN, 0, bank=INPUT)
        holding.charger.set(EVSE_MAX, 0, bank=INPUT)
    holding.play(20)
    assert not holding.lines_with("--hold"), "12 A is no news"
    file.write_text("7")
    holding.play(60)
    assert held(holding) == 12
    assert len(holding.lines_with(f"WARNING: --hold: {file}: ")) == 1
    end()
    holding.charger.set(EVSE_MIN, 6, bank=INPUT)
    holding.charger.set(EVSE_MAX, 32, bank=INPUT)
    holding.play(5)
    assert held(holding) == 7
    assert len(holding.lines_with(f"WARNING: over: --hold: {file}: ")) == 1


def test_number_within_new_limits_is_held_at_the_next_reading(holding: World, file: Path) -> None:
    holding.charger.set(EVSE_MAX, 16, bank=INPUT)
    file.write_text("20")
    holding.play(300)
    assert (held(holding), len(holding.lines)) == (12, 1)
    holding.charger.set(EVSE_MAX, 20, bank=INPUT)
    holding.play(5.1)
    assert held(holding) == 20


@pytest.mark.parametrize("shows", [20, 16], ids=["still shown", "not shown"])
def test_limits_that_fall_below_the_number_are_a_warning(
    holding: World, file: Path, shows: int
) -> None:
    file.write_text("20")
    holding.play(10)
    holding.charger.set(EVSE_MAX, 16, bank=INPUT)
    holding.charger.set(DYNAMIC, shows)
    holding.play(60)
    assert len(holding.lines_with(f"WARNING: --hold: {file}: ", "20 A is out of range")) == 1
    assert held(holding) == shows


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
