"""Log: the lines for stderr, at once or later, never lost and never more than fit."""

from __future__ import annotations

import pytest

import vestel


def collecting(log: vestel.Log) -> list[str]:
    lines: list[str] = []
    log.write = lambda line: lines.append(line)
    return lines


@pytest.mark.parametrize("waits", [False, True])
def test_a_line_is_written_at_once_or_at_the_flush(waits: bool) -> None:
    log = vestel.Log(waits=waits)
    lines = collecting(log)
    log("one")
    assert (lines, log.has_news.is_set()) == ([] if waits else ["one"], True)
    log("two")
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
