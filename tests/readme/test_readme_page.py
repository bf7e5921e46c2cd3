"""README.md as a page: its length, its words, its links, and that each block of it is tried."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from manual import BLOCKS, FENCE, README, SECTIONS, anchor, block, blocks, prose, spans, table
from program import ROOT

MAX_LINES = 650  # without the dashboard
# How many blocks of each language stand under each heading. All are tried: who adds one here
# has written its test.
TRIED = {
    "vestel.py": {"text": 1, "sh": 2},
    "Install": {"sh": 3},
    "Prepare the charger": {"sh": 1},
    "Configure": {"sh": 1},
    "Read": {"sh": 3},
    "Set a current": {"sh": 3},
    "Run it as a service": {"ini": 1, "sh": 2},
    "Keep a log": {"crontab": 2, "sh": 3},
    "List the charging sessions": {"sh": 1},
    "A lower current at night": {"crontab": 2},
    "Stop at so many kWh": {"sh": 1},
    "Use the solar surplus": {"sh": 1, "ini": 1},
    "Prometheus": {"text": 1, "yaml": 1},
    "Alerts": {"yaml": 1},
    "Grafana": {"json": 1},
    "node_exporter": {"crontab": 1},
    "Home Assistant": {"yaml": 1},
    "MQTT": {"sh": 1, "ini": 1, "yaml": 1},
    "Limits and safety": {"sh": 1},
    "Change the program": {"text": 1, "sh": 1},
}


def test_each_block_of_the_page_is_tried() -> None:
    found: dict[str, Counter[str]] = {}
    for one in BLOCKS:
        found.setdefault(one.heading, Counter())[one.language] += 1
    assert found == TRIED
    assert README.count("```") == 2 * len(BLOCKS)


def test_page_is_no_longer_than_its_budget() -> None:
    (dashboard,) = [block[0] for block in FENCE.finditer(README) if block[2] == "json"]
    assert len(README.replace(dashboard, "").splitlines()) <= MAX_LINES


# --- Words --------------------------------------------------------------------------------------

NEVER = [  # words that nobody else has for it, and phrases that stop a reader
    *[r"alive sign", r"alive register", r"\bbeats?\b", r"\bkeeper\b", r"\bboxe?s?\b", r"\btold\b"],
    *[r"\bis no (whole|number|time|Modbus|IP)", r"make a reading", r"\bso ask\b", r"stands? apart"],
    *[r"any number of programs", r"the first that exists", r"\btried on\b", r"renews itself"],
    *[r"what else there is", r"in place of `", r"\bmatter of\b", r"should of\b", r"\bunderstands\b"],
    *[r"\bTODO\b", r"\bFIXME\b", r"\bthe the\b", r"\ba an?\b", r"\bis is\b", r"\bto to\b"],
]


@pytest.mark.parametrize("never", NEVER)
def test_page_has_plain_words_only(never: str) -> None:
    text = README.replace(SECTIONS["Changes since 1.1.0"], "")  # which names the old words
    assert re.findall(f".*{never}.*", text, re.IGNORECASE) == []


def test_page_has_plain_characters_only() -> None:
    assert re.findall(r"[^\x20-\x7e\n]", README) == []
    assert re.findall(r"[ ]+$", README, re.MULTILINE) == []


def test_german_words_are_marked_as_such() -> None:
    """The words of the charger's own menu and of German manuals help, and are given apart."""
    head, *_ = [line for line in prose("Set a current").splitlines() if line.startswith("|")]
    assert head == "| word | German | meaning |"
    german = [row[1] for row in table("Set a current")] + ["Lokales Lastmanagement"]
    rest = README.replace("(German: *Lokales Lastmanagement*)", "")
    for word in german:
        rest = rest.replace(f"| {word} |", "")
    found = re.findall(r"\b(?:und|oder|der|das|nicht|Strom|Wallbox(?!\s)|Lade\w+)\b", rest)
    assert found == []


# --- Links --------------------------------------------------------------------------------------


def test_each_link_into_the_page_meets_a_heading() -> None:
    links = {*re.findall(r"\]\(#(.*?)\)", README)}
    assert links <= {anchor(heading) for heading in SECTIONS}


def test_contents_name_each_section_once_and_in_order() -> None:
    contents = SECTIONS["vestel.py"].split("\n- First steps:")[1]
    title, *sections = [anchor(heading) for heading in SECTIONS]
    links = re.findall(r"\]\(#(.*?)\)", contents)
    assert links == sections
    assert title == "vestelpy"


def test_files_that_the_page_names_exist() -> None:
    development = SECTIONS["Change the program"]
    named = {*re.findall(r"(?<![\w/-])(?:tests|\.ci)/[\w./]*\w", development)}
    named -= {"tests/recordings/NAME.txt"}
    assert {"tests/unit", "tests/wire", "tests/poller", "tests/process", "tests/readme"} <= named
    named |= {"vestel.py", "requirements.txt", "vestel_modbus.ini.example", "LICENSE"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_commands_for_developers_name_what_exists() -> None:
    for row in table("Change the program"):
        (command,) = spans(row[0])
        words = command.split()
        files = [word for word in words if "/" in word and not word.startswith(".venv-tests/")]
        assert files
        assert [name for name in files if not (ROOT / name).exists()] == []


# --- The first two commands ---------------------------------------------------------------------


def test_first_two_commands_set_up_program_and_tests() -> None:
    program, tests = blocks("vestel.py", "sh")
    assert [one.text for one in BLOCKS if one.language == "sh"][:2] == [program, tests]
    assert program.endswith(" .venv/bin/python vestel.py --demo\n".lstrip())
    assert tests.endswith(" -m pytest -rs -n 4 tests\n")
    assert README.index("```text") < README.index("```sh")
    assert "--ip ADDRESS" in prose("vestel.py")


def test_page_says_how_far_it_was_tested() -> None:
    assert "**tested on simulated chargers only**" in prose("vestel.py")
    assert "The Webasto NEXT is another charger" in prose("Limits and safety")
    assert block("Limits and safety", "sh").startswith("./vestel.py --ip 192.168.1.100 --details -v")
