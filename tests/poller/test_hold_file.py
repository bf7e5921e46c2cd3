"""The file of --hold: its number is held, and whatever else is in it is a warning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import pytest
from charger import BUSY, SILENCE, Outcome
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


def warning(file: Path, why: str) -> str:
    return f"--hold: {file}: {why}"


# --- Its number ---


@pytest.mark.parametrize(
    ("content", "amps"),
    [
        (b"14", 14),
        (b"14\n", 14),
        (b"14\r\n", 14),
        (b"\n\t 14 \r\n\n", 14),
        (b"0\n", 0),
        (b"014", 14),
        (b"6", 6),
        (b"32", 32),
    ],
    ids=repr,
)
def test_number_is_held_as_dynamic_current(
    world: MakeWorld, file: Path, content: bytes, amps: int
) -> None:
    file.write_bytes(content)
    holding = world(hold_file=str(file))
    holding.read()
    assert held(holding) == amps
    assert holding.reading["settings"]["dynamic_current_a"] == amps
    assert holding.lines == [f"Dynamic current: 16 A -> {amps} A"]


def test_number_may_change_before_each_reading(holding: World, file: Path) -> None:
    for amps in (7, 16, 0, 32, 8):
        file.write_text(f"{amps}\n")
        holding.read()
        assert held(holding) == holding.reading["settings"]["dynamic_current_a"] == amps
    assert holding.charger.settings == [(DYNAMIC, amps) for amps in (12, 7, 16, 0, 32, 8)]
    assert holding.charger.connections == 1
    assert not holding.lines_with("WARNING")


def test_file_is_read_before_the_charger_is_asked(holding: World, file: Path) -> None:
    def write(_: Any) -> None:
        file.write_text("7")

    holding.charger.fault(write, 100)
    holding.read()
    assert held(holding) == 12
    holding.read()
    assert held(holding) == 7


def test_number_is_held_against_other_masters(holding: World) -> None:
    holding.charger.set(DYNAMIC, 6)
    holding.play(5)
    assert holding.lines == ["Dynamic current: 6 A -> 12 A"]
    holding.charger.plug_in()
    holding.play(5)
    assert held(holding) == 12


def test_other_values_are_held_beside_the_file(world: MakeWorld, file: Path) -> None:
    holding = world({FAILSAFE: 9}, hold_file=str(file))
    holding.read()
    assert holding.charger.settings == [(DYNAMIC, 12), (FAILSAFE, 9)]


def test_number_that_changed_during_a_loss_is_held_after_it(holding: World, file: Path) -> None:
    holding.charger.restart(250)
    holding.play(100)
    file.write_text("7")
    holding.play(230)
    assert held(holding) == 7
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


@pytest.mark.parametrize("content", [b"", b" ", b"\n", b" \t\r\n\n "], ids=repr)
def test_blank_file_changes_nothing(holding: World, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    holding.play(30)
    holding.charger.set(DYNAMIC, 6)
    holding.play(10)
    assert held(holding) == 12
    assert holding.lines == ["Dynamic current: 6 A -> 12 A"]


def test_blank_file_at_the_start_holds_nothing(world: MakeWorld, file: Path) -> None:
    file.write_text("\n")
    holding = world(hold_file=str(file))
    holding.play(60)
    assert (holding.charger.settings, holding.lines) == ([], [])
    file.write_text("12")
    holding.play(5)
    assert held(holding) == 12


def missing(file: Path) -> None:
    file.unlink()


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


def link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def link_to_directory(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent)


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def holds(content: bytes) -> Callable[[Path], None]:
    return lambda file: (file.write_bytes(content), None)[1]


NO_NUMBER = "is not a whole number of amperes"
BAD = {
    "missing": (missing, "No such file or directory"),
    "directory": (directory, "Is a directory"),
    "dangling link": (dangling_link, "No such file or directory"),
    "link to itself": (link_to_itself, "Too many levels of symbolic links"),
    "link to a directory": (link_to_directory, "Is a directory"),
    "words": (holds(b"twelve\n"), f"'twelve' {NO_NUMBER}"),
    "unit": (holds(b"12 A"), f"'12 A' {NO_NUMBER}"),
    "fraction": (holds(b"12.0"), f"'12.0' {NO_NUMBER}"),
    "negative": (holds(b"-12"), f"'-12' {NO_NUMBER}"),
    "plus": (holds(b"+12"), f"'+12' {NO_NUMBER}"),
    "exponent": (holds(b"1e1"), f"'1e1' {NO_NUMBER}"),
    "two numbers": (holds(b"12\n13\n"), NO_NUMBER),
    "underscore": (holds(b"1_2"), f"'1_2' {NO_NUMBER}"),
    "other digits": (holds("١٢".encode()), NO_NUMBER),
    "NUL": (holds(b"12\0\0\0"), NO_NUMBER),
    "byte order mark": (holds(b"\xef\xbb\xbf12"), NO_NUMBER),
    "no text": (holds(bytes(range(256))), NO_NUMBER),
    "10 MB of digits": (holds(b"1" * 10_000_000), f"'11111111111111111111' {NO_NUMBER}"),
    "10 MB after a number": (holds(b"12\n" + b"x" * 10_000_000), NO_NUMBER),
    "too high": (holds(b"33"), "dynamic current 33 A is out of range"),
    "too low": (holds(b"5"), "dynamic current 5 A is out of range"),
    "65536": (holds(b"65536"), "dynamic current 65536 A is out of range"),
    "many digits": (holds(b"123456789"), NO_NUMBER),
}
NEED_OS = {"FIFO": (fifo, "not a regular file"), "device": (device, "not a regular file")}
bad = pytest.mark.parametrize(
    ("spoil", "why"),
    [pytest.param(*case, id=name) for name, case in BAD.items()]
    + [pytest.param(*case, id=name, marks=pytest.mark.needs_os) for name, case in NEED_OS.items()],
)


def mend(file: Path, content: str) -> None:
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    elif file.is_symlink() or file.exists():
        file.unlink()
    file.write_text(content)


@bad
def test_bad_file_is_a_warning_and_the_last_good_value_stays(
    holding: World, file: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(file)
    holding.play(60)
    (text,) = holding.snapshot.warnings
    assert text.startswith(f"--hold: {file}: ")
    assert why in text
    assert len(text) < 300
    assert holding.lines == [f"WARNING: {text}"]
    holding.charger.set(DYNAMIC, 6)
    holding.play(10)
    assert held(holding) == 12
    mend(file, "7")
    holding.play(5)
    assert held(holding) == 7
    assert holding.lines[1:] == [
        "Dynamic current: 6 A -> 12 A",
        "Dynamic current: 12 A -> 7 A",
        f"WARNING: over: {text}",
    ]
    assert holding.snapshot.warnings == ()
    assert holding.charger.connections == 1


@bad
def test_bad_file_at_the_start_holds_nothing(
    world: MakeWorld, file: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(file)
    holding = world(hold_file=str(file))
    holding.play(60)
    assert holding.charger.settings == []
    assert len(holding.lines_with("WARNING: --hold: ", why)) == len(holding.lines) == 1
    mend(file, "12")
    holding.play(5)
    assert held(holding) == 12


@bad
def test_bad_file_leaves_no_file_open(
    holding: World, file: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(file)
    before = os.dup(0)
    os.close(before)
    holding.play(60)
    after = os.dup(0)
    os.close(after)
    assert after == before


def test_file_without_permission_is_a_warning(
    holding: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may read all, so the system's answer is played."""
    opened = os.open

    def refuse(path: Any, *more: Any, **others: Any) -> int:
        if path == str(file):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *more, **others)

    with monkeypatch.context() as system:
        system.setattr(os, "open", refuse)
        holding.play(60)
        assert holding.lines == [f"WARNING: {warning(file, 'Permission denied')}"]
    holding.play(5)
    assert holding.lines[1:] == [f"WARNING: over: {warning(file, 'Permission denied')}"]


@pytest.mark.needs_os
def test_fifo_with_a_writer_is_not_read_and_not_waited_for(holding: World, file: Path) -> None:
    fifo(file)
    descriptor = os.open(file, os.O_RDWR)
    os.write(descriptor, b"7\n")
    holding.play(30)
    assert os.read(descriptor, 10) == b"7\n"
    os.close(descriptor)
    assert held(holding) == 12
    assert holding.lines == [f"WARNING: {warning(file, 'not a regular file')}"]


def test_links_are_followed(world: MakeWorld, file: Path, tmp_path: Path) -> None:
    link, other = tmp_path / "link", tmp_path / "other"
    other.write_text("7")
    link.symlink_to(file)
    holding = world(hold_file=str(link))
    holding.read()
    assert held(holding) == 12
    link.unlink()
    link.symlink_to(other)
    holding.read()
    assert held(holding) == 7
    assert not holding.lines_with("WARNING")


def test_changes_of_a_whole_day_in_the_order_of_the_manual(holding: World, file: Path) -> None:
    """12, empty, 7, nonsense, out of range, 0, deleted: one connection all the time."""
    amps = []
    for content in ("", "7", "many", "99", "0"):
        file.write_text(content)
        holding.play(10)
        amps.append(held(holding))
    file.unlink()
    holding.play(10)
    assert [*amps, held(holding)] == [12, 7, 7, 7, 0, 0]
    assert len(holding.lines_with("WARNING: --hold: ")) == 2
    assert len(holding.lines_with("WARNING: over: --hold: ")) == 1
    assert holding.charger.connections == 1
    assert "No such file" in holding.snapshot.warnings[0]


# --- Limits ---


@pytest.mark.parametrize("outcome", [4, BUSY, SILENCE, None])
def test_nothing_new_is_held_while_limits_are_unknown(
    holding: World, file: Path, outcome: Outcome | None
) -> None:
    """None: both read 0."""
    end = holding.charger.fault(outcome, 1100) if outcome else lambda: None
    if outcome is None:
        holding.charger.set(EVSE_MIN, 0, bank=INPUT)
        holding.charger.set(EVSE_MAX, 0, bank=INPUT)
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


# --- Lost ---


def test_file_is_looked_at_while_the_charger_is_lost(world: MakeWorld, file: Path) -> None:
    file.unlink()
    holding = world(hold_file=str(file), away="refused")
    holding.play(60)
    text = warning(file, "No such file or directory")
    assert holding.lines_with("--hold") == [f"WARNING: {text}"]
    assert text in holding.snapshot.warnings
    file.write_text("12")
    holding.play(61)
    assert holding.lines_with("--hold")[1:] == [f"WARNING: over: {text}"]
    assert len(holding.snapshot.warnings) == 1, "the loss"
