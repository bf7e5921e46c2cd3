"""README.md as a page: its length, its words, its links, and that each block of it is tried."""

from __future__ import annotations

import re

from manual import BLOCKS, README, SECTIONS, anchor, blocks, prose, spans, table
from program import ROOT

# The blocks under each heading. All are tried: who adds one here has written its test.
TRIED = """
vestel.py: text sh sh | Install: sh sh sh | Prepare the charger: sh | Configure: sh
Read: sh sh sh | Set a current: sh sh sh | Run it as a service: ini sh sh
Keep a log: crontab crontab sh sh sh | List the charging sessions: sh
A lower current at night: crontab crontab | Stop at so many kWh: sh | Use the solar surplus: sh ini
Prometheus: text yaml | Alerts: yaml | Grafana: json | node_exporter: crontab | Home Assistant: yaml
MQTT: sh ini yaml | Limits and safety: sh | Change the program: text sh
"""
NEVER = [  # words of our own for what has a name, and what stops a reader
    *[r"alive (sign|register)", r"\bbeats?\b", r"\bkeeper\b", r"\bbox(es)?\b", r"\btold\b"],
    *[r"\bis no (whole|number|time|Modbus|IP)", r"make a reading", r"\bso ask\b", r"stands? apart"],
    *[r"any number of programs", r"the first that exists", r"\btried on\b", r"renews itself"],
    *[r"what else there is", r"in place of `", r"TODO|FIXME", r"\ba an\b"],
]


def test_each_block_of_the_page_is_tried() -> None:
    found: dict[str, list[str]] = {}
    for one in BLOCKS:
        found.setdefault(one.heading, []).append(one.language)
    listed = [f"{heading}: {' '.join(sorted(found[heading]))}" for heading in found]
    tried = [part.split(": ") for part in re.split(r" \| |\n", TRIED.strip())]
    assert listed == [f"{heading}: {' '.join(sorted(those.split()))}" for heading, those in tried]
    assert README.count("```") == 2 * len(BLOCKS)


def test_page_is_no_longer_than_its_budget() -> None:
    dashboard = blocks("Grafana", "json")[0].count("\n") + 2
    assert README.count("\n") - dashboard <= 650


def test_page_has_plain_words_only() -> None:
    text = README.replace(SECTIONS["Changes since 1.1.0"], "")  # which names the old words
    never = re.compile("|".join(NEVER), re.IGNORECASE)
    twice = re.compile(r"\b([a-z]{2,}) \1\b")
    lines = text.splitlines()
    assert [line for line in lines if never.search(line) or twice.search(line)] == []


def test_page_has_plain_characters_only() -> None:
    assert re.findall(r"[^\x20-\x7e\n]| +$", README, re.MULTILINE) == []


def test_contents_link_to_each_section_once_and_in_order() -> None:
    title, *sections = map(anchor, SECTIONS)
    assert title == "vestelpy"
    contents = SECTIONS["vestel.py"].split("\n- First steps:")[1]
    assert re.findall(r"\]\(#(.*?)\)", contents) == sections
    assert {*re.findall(r"\]\(#(.*?)\)", README)} <= {*sections}


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"(?<![\w/-])(?:tests|\.ci)/[\w./]*\w", SECTIONS["Change the program"])
    assert {"tests/unit", "tests/wire", "tests/poller", "tests/process", "tests/readme"} < {*named}
    examples = {"tests/recordings/NAME.txt"}
    assert [name for name in {*named} - examples if not (ROOT / name).exists()] == []
    assert all(spans(row[0]) for row in table("Change the program"))


def test_first_two_commands_set_up_program_and_tests() -> None:
    first, second = [one.text for one in BLOCKS if one.language == "sh"][:2]
    assert first.endswith("&& .venv/bin/python vestel.py --demo\n")
    assert second.endswith("&& .venv-tests/bin/python -m pytest -rs -n 4 tests\n")
    assert README.index("```text") < README.index("```sh")
    assert "**tested on simulated chargers only**" in prose("vestel.py")
