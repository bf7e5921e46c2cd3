"""README.md as a page, and its tables (others of them: tests/unit/test_register_rows.py)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from manual import BLOCKS, README, SECTIONS, block, prose, spans, table
from program import ROOT, Run
from readings import samples
from registers import CLOCK, CORE_RANGES, FAULTS, HEARTBEAT, STATES, range_of
from registers import span as name_of
from world import MakeWorld

import vestel

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
    *[r"what else there is", r"in place of `", r"TODO|FIXME", r"\ba an\b", r"\b([a-z]{2,}) \2\b"],
]


def test_each_block_of_the_page_is_tried() -> None:
    found: dict[str, list[str]] = {}
    for heading, language, _ in BLOCKS:
        found.setdefault(heading, []).append(language)
    listed = [f"{heading}: {' '.join(those)}" for heading, those in found.items()]
    assert listed == re.split(r" \| |\n", TRIED.strip())
    assert README.count("```") == 2 * len(BLOCKS)
    assert README.count("\n") - block("Grafana", "json").count("\n") - 2 <= 650
    assert README.index("```text") < README.index("```sh")


def test_page_has_plain_words_and_characters_only() -> None:
    text = README.replace(SECTIONS["Changes in 1.2.0 (since 1.1.0)"], "")  # it has the old words
    never = re.compile("|".join(NEVER), re.IGNORECASE)
    assert [line for line in text.splitlines() if never.search(line)] == []
    assert re.findall(r"[^\x20-\x7e\n]| +$", README, re.MULTILINE) == []


def test_contents_link_to_each_section_once_and_in_order() -> None:
    title, *sections = [re.sub(r"[^\w-]", "", one.lower().replace(" ", "-")) for one in SECTIONS]
    assert "**tested on simulated chargers only**" in prose("vestel.py")
    contents = SECTIONS["vestel.py"].split("\n- First steps:")[1]
    assert re.findall(r"\]\(#(.*?)\)", contents) == sections
    assert {*re.findall(r"\]\(#(.*?)\)", README)} <= {title, *sections}


def test_files_that_the_page_names_exist() -> None:
    named = {*re.findall(r"(?<![\w/-])(?:tests|\.ci)/[\w./]*\w", SECTIONS["Change the program"])}
    assert {"tests/unit", "tests/wire", "tests/poller", "tests/process", "tests/readme"} < named
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing == {"tests/recordings/NAME.txt"}


def test_options_and_exit_codes_are_those_of_the_help(call: Run) -> None:
    text, _, codes = call("--help").stdout.split("\noptions:\n")[-1].partition("\nexit codes: ")
    parts = re.split(r"\n(?=  -)", "\n" + text)[1:]
    options = [re.split(r"\s{2,}", part.strip())[0] for part in parts]
    defaults = [re.findall(r"default:\s+([\w.]+)", part) for part in parts]
    rows = table("Options")
    assert [", ".join(spans(row[0])) for row in rows] == options
    assert [[row[2]] if row[2] else [] for row in rows] == defaults
    said = re.findall(r"(?<!\()\b(\d+) [a-zA-Z]", codes)
    assert [code for code, _ in table("Exit codes")] == said == ["0", "1", "2", "3", "130", "143"]


@pytest.mark.parametrize(
    ("heading", "kind"), [("vestel.py", "human"), ("Prometheus", "prometheus")]
)
def test_output_of_the_page_is_that_of_the_demo(call: Run, heading: str, kind: str) -> None:
    changes = r"(?m)((?:Meter Reading|Energy|Duration|Started): +|^vestel_\S+ ).*"
    texts = (block(heading, "text"), call("--demo", f"--format={kind}").stdout)
    shown, printed = (re.sub(changes, r"\1", text) for text in texts)
    assert shown == printed if kind == "human" else shown in printed


def test_keys_of_the_configuration_are_all_that_there_are(call: Run, tmp_path: Path) -> None:
    (tmp_path / "it.ini").write_text("[vestel]\nunknown = 1\n")
    known = re.findall("known are (.*)", call("--config", str(tmp_path / "it.ini")).stderr)
    named = re.findall(r"Its keys (.*?) work", prose("Configure"))
    assert [", ".join(spans(keys)) for keys in named] == known
    example = (ROOT / "vestel_modbus.ini.example").read_text(encoding="utf-8")
    assert ", ".join(re.findall(r"^(\w+) =", example, re.MULTILINE)) == known[0]


def test_metrics_of_the_last_rows_have_no_labels(world: MakeWorld) -> None:
    it = world(details=True)
    it.read()
    text = vestel.format_prometheus(it.reading, it.snapshot)
    last = [name for row in table("Readings and metrics")[-4:] for name in spans(row[2])]
    assert {name for name, labels, _ in samples(text) if "serial" not in labels} == {*last}
    assert re.findall(r"# TYPE (\w+) counter\n", text) == last[-3:]


def test_codes_of_states_and_bits_of_faults_have_their_names() -> None:
    keys = {"chargepoint": 1000, "charging": 1001, "equipment": 1002, "cable": 1004}
    for cell, _, _, meaning in table("Readings and metrics"):
        for key in re.findall(r"`states\.(\w+)\.code`", cell):
            codes = re.findall(r"(?<!say )(\d) (\w+)", meaning)
            assert codes == [(str(n), name) for n, name in enumerate(STATES[keys.pop(key)])]
    assert keys == {}
    bits = [(row[n], row[n + 1]) for n in (0, 2, 4) for row in table("Faults") if row[n]]
    assert bits == [(str(bit), name) for bit, name in enumerate(FAULTS[:28])]


def test_registers_are_read_when_the_page_says() -> None:
    rows = {row[0]: row[3] for row in table("Registers")}
    assert [*rows.items()][-1] == (str(HEARTBEAT), "never")
    always = [registers for registers in rows if rows[registers].startswith("always")]
    assert always == [name_of(rows) for rows in CORE_RANGES]
    assert rows[name_of(range_of(CLOCK))] == "`--details`, `--watch`, `--listen`"
    assert [*rows.values()].count("`--details`") == len(rows) - len(always) - 2


@pytest.mark.parametrize(
    ("forgotten", "said"),
    [
        ("nothing", "3 passed"),
        ("Demo", "Demo has no value for input register 1190 (limits.station_max_a)"),
        ("Registers", "asks for 1190 with function 4, which README.md does not have"),
    ],
    ids=["nothing", "Demo", "Registers"],
)
def test_a_register_that_one_place_lacks_fails_by_name(
    tmp_path: Path, forgotten: str, said: str
) -> None:
    """Its rows, put where the page says, satisfy the tests; without one of them, one fails."""
    for name in ("tests/lib", "tests/unit"):
        shutil.copytree(str(ROOT / name), str(tmp_path / name))
    for name in ("vestel.py", "README.md", "tests/conftest.py", "tests/tox.ini"):
        shutil.copy(str(ROOT / name), str(tmp_path / name))
    typed, rows = "tests/lib/registers.py", block("Change the program", "text").splitlines(True)
    for place, name, begin, row in [
        ("CORE", "vestel.py", 'Value("Session Maximum"', rows[0]),
        ("Demo", "vestel.py", '"EVSE Minimum": 6', rows[1]),
        ("registers.py", typed, "Row(INPUT, 1100", rows[2]),
        ("Readings and metrics", "README.md", "| `limits.session_max_a`", rows[3]),
        ("Registers", "README.md", "| 1100-1106 |", rows[4]),
        ("HUMAN", typed, "Session Maximum:", "Station Maximum:     24 A\n"),
    ]:
        text = (tmp_path / name).read_text(encoding="utf-8")
        (last,) = re.finditer(rf"^( *){re.escape(begin)}.*\n(?:\1 +.*\n)*", text, re.MULTILINE)
        if place != forgotten:
            text = text[: last.end()] + last[1] + row + text[last.end() :]
        text = text.replace(" 1100, 1502, ", " 1100, 1190, 1502, ")  # in CORE_FIRST
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    how: dict[str, Any] = {"cwd": str(tmp_path), "stdout": subprocess.PIPE, "encoding": "utf-8"}
    checked = subprocess.run([*command, "tests/unit/test_register_rows.py"], check=False, **how)
    assert said in checked.stdout
    assert ("1 failed" in checked.stdout) == (forgotten != "nothing")
