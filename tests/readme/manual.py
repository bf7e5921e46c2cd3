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


class CronLine(NamedTuple):
    """A line of a crontab, which runs each day: at which minutes and hours, and what."""

    minutes: range
    hours: range
    command: str


def _times(field: str, size: int) -> range:
    found = re.fullmatch(r"(\*|(\d+)(?:-(\d+))?)(?:/(\d+))?", field)
    assert found, f"{field} is no field of a crontab"
    everything, first, last, step = found.groups()
    end = size if everything == "*" else int(last or first) + 1
    assert end <= size
    return range(int(first or 0), end, int(step or 1))


def cron_lines(text: str) -> list[CronLine]:
    lines = []
    for line in text.splitlines():
        minute, hour, *days, command = line.split(" ", 5)
        assert days == ["*"] * 3
        assert "%" not in command, "a line break to cron"
        lines.append(CronLine(_times(minute, 60), _times(hour, 24), command))
    return lines


def cron_commands(text: str) -> list[str]:
    return [line.command for line in cron_lines(text)]


def unit(heading: str) -> dict[str, str]:
    """Return the lines of a unit of systemd."""
    return dict(re.findall(r"^(\w+)=(.*)$", block(heading, "ini"), re.MULTILINE))
