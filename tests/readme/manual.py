"""README.md, taken apart: nothing of what the tests try is typed again."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

from program import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block, and the heading under which it stands."""

    heading: str
    language: str
    text: str


def _sections() -> dict[str, str]:
    """Return the text under each heading. A comment in a block is no heading."""
    hidden = FENCE.sub(lambda block: re.sub("(?m)^#", "\0", block[0]), README)
    parts = re.split(r"^#+ (.+)\n", hidden, flags=re.MULTILINE)[1:]
    assert len(set(parts[::2])) == len(parts[::2]), "two headings are the same"
    return {title: text.replace("\0", "#") for title, text in zip(parts[::2], parts[1::2])}


SECTIONS = _sections()
BLOCKS = [
    Block(heading, language, textwrap.dedent(text))
    for heading, section in SECTIONS.items()
    for _, language, text in FENCE.findall(section)
]


def blocks(heading: str, language: str) -> list[str]:
    return [b.text for b in BLOCKS if (b.heading, b.language) == (heading, language)]


def block(heading: str, language: str, number: int = 1) -> str:
    return blocks(heading, language)[number - 1]


def prose(heading: str) -> str:
    """Return what stands under a heading, without the blocks."""
    return FENCE.sub("", SECTIONS[heading])


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading, without its head."""
    lines = [line for line in prose(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def spans(cell: str) -> list[str]:
    """Return the parts of a text that stand in backticks."""
    return re.findall("`(.*?)`", cell)


def anchor(heading: str) -> str:
    """Return what a link to the heading ends with."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class CronLine(NamedTuple):
    """A line of a crontab: the minutes and hours at which it runs, each day, and its command."""

    minutes: list[int]
    hours: list[int]
    command: str


def _times(field: str, least: int, most: int) -> list[int]:
    found = re.fullmatch(r"(\*|(\d+)(-(\d+))?)(/(\d+))?", field)
    assert found, f"{field} is no field of a crontab"
    first = int(found[2] or least)
    last = int(found[4] or (found[2] if found[2] and not found[5] else most))
    assert least <= first <= last <= most
    return [*range(first, last + 1, int(found[6] or 1))]


def cron_lines(text: str) -> list[CronLine]:
    lines = []
    for line in text.splitlines():
        *fields, command = line.split(" ", 5)
        times = [_times(field, *bounds) for field, bounds in zip(fields, CRON_FIELDS)]
        assert fields[2:] == ["*"] * 3
        assert "%" not in command, "a line break to cron"
        lines.append(CronLine(times[0], times[1], command))
    return lines


def cron_commands(text: str) -> list[str]:
    return [line.command for line in cron_lines(text)]
