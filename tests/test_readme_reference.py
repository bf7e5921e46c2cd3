"""README.md's tables, links and names are those of the program.

The tables of keys, metrics and registers are compared with it in test_register_rows.py.
"""

from __future__ import annotations

import configparser
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import ROOT, Memory, Run, Start, eventually
from readings import WHOLE
from readme import HEADINGS, README, block, blocks, table
from simulated_charger import SimulatedCharger, exception, free_port

import vestel

OPTIONS = {re.findall(r"--[\w-]+", row[0])[0]: row for row in table("Options")}


def helped(call: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "300")
    return str(call("--help").stdout)


def test_the_options_are_those_of_the_help_both_ways(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.findall(
        r"^  (-.*?)  +(.*)$", re.sub(r"\n {20,}", "  ", helped(call, monkeypatch)), re.MULTILINE
    )
    defaults = {option: re.findall(r"default: ([\w.]+)", text) for option, text in lines}
    assert {option: [default] if default else [] for option, _, default in table("Options")} == defaults


# --- The configuration ---


def configured() -> dict[str, str]:
    """What the configuration of README.md says."""
    ini = configparser.ConfigParser(inline_comment_prefixes=(";", "#"))
    ini.read_string(block("Configure", "ini"))
    return dict(ini["vestel"])


def write(tmp_path: Path, **settings: str) -> str:
    file = tmp_path / "vestel.ini"
    file.write_text("[vestel]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    return str(file)


def test_the_configuration_has_all_keys_that_there_are_and_their_defaults(
    call: Run, memory: Memory, tmp_path: Path
) -> None:
    told = call("--config", write(tmp_path, ip="192.0.2.1", surely_unknown="1")).stderr
    assert told.strip().partition("known are ")[2] == ", ".join(configured())
    named = {key: default for key, default in configured().items() if key != "ip"}
    assert {key: float(OPTIONS[f"--{key}"][2]) for key in named} == {
        key: float(default) for key, default in named.items()
    }


@pytest.mark.parametrize(
    ("key", "told", "taken", "refused"),
    [
        ("port", "1-65535", ["1", "65535"], ["0", "65536"]),
        ("unit", "0-255", ["0", "255"], ["-1", "256"]),
        ("base", "{0,1}", ["0", "1"], ["2"]),
        ("timeout", "SECONDS", ["0.01", "60"], ["0"]),
    ],
)
def test_an_option_and_its_key_take_the_values_that_the_readme_names(
    call: Run, memory: Memory, tmp_path: Path, key: str, told: str, taken: list[str], refused: list[str]
) -> None:
    assert told in "".join(OPTIONS[f"--{key}"])
    for value in taken:
        assert call("--ip=192.0.2.1", f"--{key}={value}").returncode == 0
        assert call("--config", write(tmp_path, ip="192.0.2.1", **{key: value})).returncode == 0
    for value in refused:
        assert call("--ip=192.0.2.1", f"--{key}={value}").returncode == 2
        result = call("--config", write(tmp_path, ip="192.0.2.1", **{key: value}))
        assert (result.returncode, f": {key}: '{value}' is no " in result.stderr) == (2, True)


# --- Tables ---


def test_the_metrics_of_the_service_are_those_of_the_program() -> None:
    own = vestel.format_prometheus(WHOLE, vestel.Snapshot(reading=WHOLE)).replace(
        vestel.format_prometheus(WHOLE), ""
    )
    helps = re.findall("^# HELP (.*?) (.*)$", own, re.MULTILINE)
    assert [[*pair] for pair in helps] == table("Metrics of the service")
    assert re.findall("^# TYPE .* (.*)$", own, re.MULTILINE) == ["gauge", "counter", "counter", "counter"]
    assert "{" not in own


def test_the_faults_are_those_of_the_metrics() -> None:
    rows = table("Faults")
    listed = [row[:2] for row in rows] + [row[2:] for row in rows]
    printed = re.findall(r'bit="(\d+)",fault="(.*?)"', vestel.format_prometheus(WHOLE))
    assert listed == [[*pair] for pair in printed]
    assert len(listed) == 28


def test_the_exit_codes_are_those_of_the_help(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = re.findall(r"(\d+) [a-z CS]", helped(call, monkeypatch).split("exit codes: ")[1])
    assert [code for code, *_ in table("Exit codes")] == told == ["0", "1", "2", "3", "130", "143"]


def vanish_after_the_writes(charger: SimulatedCharger) -> None:
    def last_answer(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        charger.faults.clear()
        charger.fault("reset")
        return [(0, reply)]

    charger.fault(last_answer, address=2000, function=3, skip=1)


def refuse_the_first(charger: SimulatedCharger) -> None:
    charger.fault(exception(4), address=5004, function=6)


@pytest.mark.parametrize(
    ("status", "options", "happens"),
    [
        pytest.param(0, "", None, id="0 read"),
        pytest.param(0, "--set-current 12", None, id="0 confirmed"),
        pytest.param(1, "", SimulatedCharger.stop, id="1 not reached"),
        pytest.param(1, "", lambda charger: charger.fault("reset"), id="1 not read"),
        pytest.param(1, "--set-current 12", vanish_after_the_writes, id="1 confirmed, not read afterwards"),
        pytest.param(2, "--unit 256", None, id="2 command line"),
        pytest.param(2, "--config /nowhere.ini --set-current 12", None, id="2 configuration"),
        pytest.param(3, "--set-current 12", SimulatedCharger.stop, id="3 not reached"),
        pytest.param(3, "--set-current 40", None, id="3 out of range"),
        pytest.param(3, "--set-current 12", refuse_the_first, id="3 refused"),
        pytest.param(
            3, "--set-current 12", lambda charger: charger.frozen.update({5004: 16}), id="3 not confirmed"
        ),
    ],
)
def test_an_exit_code_comes_when_the_readme_says(
    call: Run, charger: SimulatedCharger, status: int, options: str, happens: Callable[[Any], object] | None
) -> None:
    if happens:
        happens(charger)
    result = call(*options.split(), charger=charger)
    assert result.returncode == status
    assert (result.stdout != "") == (status == 0)
    failed = [
        line for line in result.stderr.splitlines() if line.startswith("ERROR: failed writing current: ")
    ]
    assert bool(failed) == (status == 3)
    assert bool({(2000, 12), (5004, 12)} & {*charger.writes}) == (
        status != 2 and "12" in options and not (status == 3 and happens is SimulatedCharger.stop)
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_its_code_and_says_what_may_have_been_written(
    start: Start, charger: SimulatedCharger, number: int, status: int
) -> None:
    charger.fault("silence", address=5004, function=6)
    running = start("--set-current=12", charger=charger)
    eventually(lambda: charger.writes)
    assert running.end(number) == status
    assert "dynamic current 12 A may have been written" in "".join(running.err)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_what_stays_connected(start: Start, number: int, status: int) -> None:
    running = start("--demo", "--watch=1")
    eventually(lambda: running.out)
    assert running.end(number) == status


@pytest.mark.parametrize(
    ("option", "registers", "value"),
    [pytest.param(*row, id=row[0].split()[0]) for row in table("What it writes")],
)
def test_an_option_writes_the_registers_that_the_readme_names(
    call: Run, start: Start, charger: SimulatedCharger, option: str, registers: str, value: str
) -> None:
    command = option.replace(" A", " 12").replace("SECONDS", "1").replace("[HOST:]PORT", str(free_port()))
    expected = [(int(register), int(value.replace("A", "12"))) for register in registers.split(", ")]
    if expected == [(6000, 1)]:
        start(*command.split(), charger=charger)
        eventually(lambda: (3, 5004, 1) in charger.reads)  # the last of a reading
        assert {*charger.writes} == {*expected}
    else:
        assert call(*command.split(), charger=charger).returncode == 0
        assert charger.writes == expected


def test_what_stays_connected_reads_the_clock_too(start: Start, charger: SimulatedCharger) -> None:
    start("--watch=1", charger=charger)
    eventually(lambda: (4, 290, 6) in charger.reads)
    assert "`--watch` and `--listen` read 290-295 with each reading" in README


# --- The rest of the page ---


def test_every_link_into_the_page_meets_a_heading() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= anchors
    assert len({*HEADINGS}) == len(HEADINGS)
    assert set(re.findall(r"\]\[(.*?)\]", README)) == set(re.findall(r"^\[(.*?)\]: ", README, re.MULTILINE))


def test_the_contents_name_every_chapter_and_every_recipe() -> None:
    listed = re.findall(r"\]\(#(.*?)\)", README.split("\n- First steps:")[1].split("\n\n")[0])
    recipes = README.split("\n## Recipes\n")[1].split("\n## ")[0]
    for heading in re.findall("^## (.+)$", README, re.MULTILINE) + re.findall(
        "^### (.+)$", recipes, re.MULTILINE
    ):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        assert (anchor in listed) == (heading not in ("Recipes", "Reference", "A fixed place")), heading


def test_the_files_that_the_readme_names_exist() -> None:
    layout = [line.split()[0] for line in blocks("Change the program", "text")[0].splitlines()]
    assert len(layout) == 5
    named = [word for command, _ in table("Change the program") for word in command.split() if "/" in word]
    for name in {*layout, *named}:
        assert name.startswith(".venv-tests/bin/") or (ROOT / name).exists(), name


def test_the_tests_that_the_readme_names_exist() -> None:
    named = re.findall(r"(?<!-)\btests/[\w./]*\w", README.split("\n## Change the program\n")[1])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_register_is_added_as_the_readme_says(tmp_path: Path) -> None:
    """Its rows, put where the readme says, satisfy the test that compares all places."""
    _, in_program, in_demo, in_tests, *_ = blocks("Change the program", "text")
    shutil.copytree(
        str(ROOT / "tests"), str(tmp_path / "tests"), ignore=shutil.ignore_patterns("__pycache__")
    )

    def put(name: str, after: str, *rows: str) -> None:
        text = (ROOT / name).read_text(encoding="utf-8")
        (line,) = (line for line in text.splitlines(keepends=True) if re.search(after, line))
        (tmp_path / name).write_text(text.replace(line, line + "".join(rows)), encoding="utf-8")

    put("vestel.py", r"^session maximum current +\|", in_program)
    program = (tmp_path / "vestel.py").read_text(encoding="utf-8")
    opening = next(line for line in program.splitlines(keepends=True) if re.match(r" +VALUES\b.*{$", line))
    (tmp_path / "vestel.py").write_text(program.replace(opening, opening + in_demo), encoding="utf-8")
    put("tests/registers.py", r'"limits\.session_max_a"', in_tests)
    put(
        "README.md",
        r"^\| `limits\.session_max_a` ",
        "| `limits.station_max_a` | A | largest current of the station |\n",
    )
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(page.replace("| 1100-1106 |", "| 1100-1108 |"), encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_register_rows.py"],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
