"""README.md's commands, run as its readers run them, do what it says."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from charger import SimulatedCharger
from desk import Desk
from manual import block, prose, spans
from program import JSON, METRICS, PAGE, ROOT, eventually, json_readings, needs
from registers import READING, TIMEOUT


@pytest.fixture
def desk(tmp_path: Path, charger: SimulatedCharger) -> Desk:
    return Desk(tmp_path, charger)


# Where it stands, and what each of its lines prints to stdout and to stderr.
NOTHING, TEN = ("^$", "^$"), "^Dynamic current: 16 A -> 10 A\n"
PRINTS: dict[tuple[str, int], list[tuple[str, str]]] = {
    ("vestel.py", 1): [(r"Serial: +VESTEL-DEMO\n", "^$")],
    ("vestel.py", 2): [("1 passed", "^$")],
    ("Prepare the charger", 1): [(r"Timeout: +20 s\n$", "^Failsafe timeout: 300 s -> 20 s\n$")],
    ("Configure", 1): [NOTHING],
    ("Read", 1): [("Power: +70501 W", "^$"), ("ID: +CP-GARAGE-01\n", "^$"), ("^70501\n$", "^$")],
    ("Read", 2): [(r"^\d{4}-.*\n== Identity ==\n", "^$"), ("^70501\n", "^$")],
    ("Set a current", 1): [(r"Current: +10 A\nF", f"{TEN}Failsafe current: stays 10 A\n$")],
    ("Set a current", 2): [(r"Dynamic Current: +10 A\n", f"{TEN}$")],
    ("Set a current", 3): [NOTHING, (r"Dynamic Current: +10 A\n", f"{TEN}$")],
    ("Run it as a service", 1): [NOTHING] * 3,
    ("Limits and safety", 1): [NOTHING],
}
STAYS = ("--watch", "--listen")


@pytest.mark.parametrize(("heading", "number"), PRINTS)
def test_command_prints_what_the_page_says(desk: Desk, heading: str, number: int) -> None:
    lines = block(heading, "sh", number).splitlines()
    if "jq" in block(heading, "sh", number):
        needs("jq", "jq")
    if heading == "Prepare the charger":
        desk.charger.set(TIMEOUT, 300)
    (desk.opt / "tests").mkdir()
    (desk.opt / "tests" / "test_one.py").write_text("def test_one(): pass\n")
    shutil.copy(str(ROOT / "tests" / "requirements.txt"), str(desk.opt / "tests"))
    assert len(lines) == len(PRINTS[heading, number])
    for line, (out, err) in zip(lines, PRINTS[heading, number]):
        if any(option in line for option in STAYS):
            with desk.running(line) as started:
                started.wait_for(out, err)
        else:
            ended = desk.shell(line.replace(" -n 4 ", " -n 0 "))  # four processes for one test
            assert ended.status == 0, ended.err
            assert re.search(out, ended.out), ended.out
            assert re.search(err, ended.err), ended.err


def test_reading_of_the_page_is_that_of_the_demo(desk: Desk) -> None:
    def steady(text: str) -> str:
        return re.sub(r"((Meter Reading|Energy|Duration|Started): +).*", r"\1", text)

    assert steady(block("vestel.py", "text")) == steady(desk.run("./vestel.py", "--demo").out)


def test_install_fetches_and_checks_the_library(desk: Desk, tmp_path: Path) -> None:
    needs("git", "git")
    first, get, check = (block("Install", "sh", number) for number in (1, 2, 3))
    assert desk.shell(first).status == 0
    assert desk.log.read_text() == "apt install git python3-venv curl jq\n"
    shutil.move(str(desk.opt), str(tmp_path / "origin"))
    commit = "-c user.name=me -c user.email=me@example.com commit -q -m all"
    origin = {"cwd": str(tmp_path / "origin")}
    assert desk.shell(f"git init -q && git add . && git {commit}", **origin).status == 0
    got = desk.shell(get.replace("URL", str(tmp_path / "origin")) + "ls", **origin)
    assert "vestel.py\n" in got.out, got.err
    assert desk.shell("python3 -m venv .venv").status == 0
    assert desk.shell(check) == (0, "pymodbus is installed\n", "")
    without = desk.shell(check.replace("python -c", "python -S -c"))
    assert without.status == 1
    assert without.err.splitlines()[-1] in spans(prose("Install"))


WAYS = {"uv run vestel.py": "pip install uv", "pipx run ./vestel.py": "pip install pipx"}


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_install_read_a_charger(desk: Desk, way: str) -> None:
    assert f"`{way}`" in prose("Install")
    needs(way.split()[0], WAYS[way])
    (desk.opt / "vestel.py").write_text((ROOT / "vestel.py").read_text(encoding="utf-8"))
    environment = {**os.environ, **desk.environment, "TMPDIR": str(desk.home)}
    read = desk.shell(f"{way} --ip 192.168.1.100", env=environment)
    assert re.search("Total Power: +70501 W", read.out), read.err


def test_package_of_debian_reads_a_charger(desk: Desk) -> None:
    needs("dpkg", "dpkg")
    python = ["/usr/bin/python3", "vestel.py"]
    assert f"`{' '.join(python)}`" in prose("Install")
    small = {"HOME": str(desk.home)}
    probe = "import pymodbus.client; print(pymodbus.__file__)"
    found = desk.run(python[0], "-c", probe, env=small)
    if found.status:
        needs("python3-pymodbus", "python3-pymodbus")
    assert found.out.startswith("/usr/lib/python3/dist-packages/")
    read = desk.run(*python, "--format=json", env=small)
    assert (read.status, read.err) == (0, "")
    assert json_readings([read.out]) == [READING]
    assert (desk.charger.connections, len(desk.charger.requests)) == (1, 7)


def test_configuration_is_kept_when_it_is_copied_again(desk: Desk) -> None:
    (desk.opt / "vestel_modbus.ini").write_text("mine")
    assert desk.shell(block("Configure", "sh")).status in (0, 1)  # a newer cp says that it did not
    assert (desk.opt / "vestel_modbus.ini").read_text() == "mine"


def test_service_has_the_three_paths_that_the_page_names(desk: Desk) -> None:
    assert re.findall(r"<http://127.0.0.1:9946(/.*?)>", prose("Read")) == [PAGE, METRICS, JSON]
    with desk.running(block("Read", "sh", 3)):
        eventually(lambda: desk.get(JSON).status == 200)
        assert "<h1" in desk.get(PAGE).body
        assert "vestel_up 1\n" in desk.get(METRICS).body
        desk.charger.stop()
        eventually(lambda: desk.get(JSON).status == 503)
        assert '"error": "no reading since ' in desk.get(JSON).body


def test_report_has_all_that_was_sent_and_the_reading(desk: Desk) -> None:
    desk.shell(block("Limits and safety", "sh"))
    report = (desk.opt / "report.txt").read_text()
    assert "Firmware:            v3.187.0-1.8.156.0\n" in report
    timed = re.findall(r"^\d\d:\d\d:\d\d\.\d{3} .*: (?:request|reply) ", report, re.MULTILINE)
    assert len(timed) == 2 * len(desk.charger.requests) == 26
