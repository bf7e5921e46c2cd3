"""Log: the lines for stderr, at once or later, never lost and never more than fit."""

from __future__ import annotations

import re

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


def test_a_log_that_waits_writes_each_line_once_at_its_flush() -> None:
    log = vestel.Log(waits=True)
    lines = collecting(log)
    log("one")
    log("two")
    assert (lines, log.has_news.is_set()) == ([], True)
    log.flush()
    log.flush()
    assert lines == ["one", "two"]


def test_the_oldest_lines_go_where_nobody_takes_any() -> None:
    log = vestel.Log(waits=True)
    lines = collecting(log)
    for number in range(3000):
        log(f"{number}")
    log.flush()
    assert (len(lines), lines[0], lines[-1]) == (1000, "2000", "2999")


def test_a_line_that_is_interrupted_is_not_lost() -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    log = vestel.Log(waits=True)
    log("Dynamic current: 16 A -> 12 A")
    log.write = interrupted
    with pytest.raises(KeyboardInterrupt):
        log.flush()
    lines = collecting(log)
    log.flush()
    assert lines == ["Dynamic current: 16 A -> 12 A"]


def test_traces_have_the_time_and_are_of_verbose_logs_alone() -> None:
    for is_verbose in (False, True):
        log = vestel.Log(is_verbose)
        lines = collecting(log)
        log.trace("connected")
        assert bool(lines) is is_verbose
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} connected", lines[0])
