"""README.md, taken apart: nothing of what the tests try is typed again."""

from __future__ import annotations

import re
import textwrap

from program import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def _sections() -> dict[str, str]:
    """Return the text under each heading. A comment in a block is no heading."""
    hidden = FENCE.sub(lambda block: re.sub("(?m)^#", "\0", block[0]), README)
    parts = re.split(r"^#+ (.+)\n", hidden, flags=re.MULTILINE)[1:]
    assert len(set(parts[::2])) == len(parts[::2]), "two headings are the same"
    return {title: text.replace("\0", "#") for title, text in zip(parts[::2], parts[1::2])}


SECTIONS = _sections()
BLOCKS = [  # the heading under which it stands, its language, its text
    (heading, language, textwrap.dedent(text))
    for heading, section in SECTIONS.items()
    for _, language, text in FENCE.findall(section)
]


def block(heading: str, language: str, number: int = 1) -> str:
    return [text for *where, text in BLOCKS if where == [heading, language]][number - 1]


def prose(heading: str) -> str:
    """Return what stands under a heading, without the blocks."""
    return FENCE.sub("", SECTIONS[heading])


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading, without its head."""
    lines = [line for line in prose(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def spans(text: str) -> list[str]:
    """Return the parts of a text that stand in backticks."""
    return re.findall("`(.*?)`", text)


def span(heading: str, part: str) -> str:
    """Return the one part under a heading that stands in backticks and has this in it."""
    (found,) = [one for one in spans(prose(heading)) if part in one]
    return found


def unit(heading: str) -> dict[str, str]:
    """Return the lines of a unit of systemd."""
    return dict(re.findall(r"^(\w+)=(.*)$", block(heading, "ini"), re.MULTILINE))


def cron_commands(heading: str, number: int = 1) -> list[str]:
    lines = block(heading, "crontab", number).splitlines()
    assert not any("%" in line for line in lines), "a line break to cron"
    return [line.split(" ", 5)[5] for line in lines]
