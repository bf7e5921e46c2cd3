"""Log: the lines for stderr, at once or later, and never more than fit."""

from __future__ import annotations

import pytest

import vestel


def collecting(log: vestel.Log) -> list[str]:
    """Return the list that the log writes to from now on."""
    lines: list[str] = []
    log.write = lambda line: lines.append(line)
    return lines


def test_a_line_is_written_at_once() -> None:
    log = vestel.Log()
    lines = collecting(log)
    log("one")
    assert lines == ["one"]


def test_a_log_that_waits_writes_at_its_flush() -> None:
    log = vestel.Log(waits=True)
    lines = collecting(log)
    log("one")
    log("two")
    assert (lines, log.has_news.is_set()) == ([], True)
    log.flush()
    assert lines == ["one", "two"]
    log.flush()
    assert lines == ["one", "two"]


def test_lines_of_a_write_wait_for_its_end() -> None:
    log = vestel.Log()
    lines = collecting(log)
    with log.waiting():
        log("one")
        assert lines == []
    assert lines == ["one"]
    log("two")
    assert lines == ["one", "two"]


def test_what_is_raised_meanwhile_does_not_keep_lines_back() -> None:
    log = vestel.Log()
    lines = collecting(log)

    def fail() -> None:
        with log.waiting():
            log("one")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    log("two")
    assert lines == ["one", "two"]


def test_the_oldest_lines_go_where_nobody_takes_any() -> None:
    log = vestel.Log(waits=True)
    lines = collecting(log)
    for number in range(3000):
        log(f"{number}")
    log.flush()
    assert len(lines) == 1000
    assert (lines[0], lines[-1]) == ("2000", "2999")


def test_a_line_that_is_interrupted_is_not_lost() -> None:
    log = vestel.Log(waits=True)
    log("Dynamic current: 16 A -> 12 A")

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    log.write = interrupted
    with pytest.raises(KeyboardInterrupt):
        log.flush()
    lines = collecting(log)
    log.flush()
    assert lines == ["Dynamic current: 16 A -> 12 A"]
