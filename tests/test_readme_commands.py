"""README.md as its readers use it: every command of it does what it says."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import READING, ROOT, eventually, needs
from readme import BLOCKS, README, Desk, block, blocks, cron_commands
from simulated_charger import HOLDING, SimulatedCharger


@pytest.fixture
def desk(tmp_path: Path, charger: SimulatedCharger) -> Desk:
    return Desk(tmp_path, charger)


def pymodbus_of(python: str) -> bool:
    return not subprocess.run([python, "-c", "import pymodbus.client"], stderr=subprocess.DEVNULL).returncode


# What the commands under a heading print. Under the other headings they have tests of their own.
PRINTED = {
    "vestel.py": ["Serial: +VESTEL-DEMO", "1 passed"],
    "Install": ["Serial: +VESTEL-DEMO"] * 4,
    "Check that it answers": ["^the port is open$"],
    "Configure": ["^$"],
    "By hand": ["Current(.|\n)*Current(.|\n)*CP-GARAGE-01", "^15.234$", "Total Power: +70501 W", "^70501$"],
    "A log with cron": ["^7.25$", "^42.8$", "^15$", "^2026-11-30T23:55:00\\+00:00 PP Error, RFID Error$"],
    "Limits and safety": ["^$"],
}
ON_THEIR_OWN = {
    "A fixed place",
    "Hold a current",
    "Serve readings over HTTP",
    "A systemd service",
    "Beside the service",
    "Change the program",  # in test_recordings.py
}
TOOLS = {"uv": "pip install uv", "pipx": "pip install pipx", "jq": "jq"}

LOG = [  # timestamp, charge point state, meter (kWh), session energy (Wh), fault code, fault names
    ("2026-10-31T23:55:00+00:00", 2, 1200.0, 4000, 0, []),
    ("2026-11-01T00:00:00+00:00", 2, 1200.1, 4500, 64, ["CP Short Error"]),
    ("2026-11-01T00:05:00+00:00", 2, 1200.6, 5000, 0, []),
    ("2026-11-15T12:00:00+00:00", None, None, None, None, None),
    ("2026-11-30T23:50:00+00:00", 2, 1242.9, 7250, 0, []),
    ("2026-11-30T23:55:00+00:00", 8, 1242.9, 7250, 262160, ["PP Error", "RFID Error"]),
    ("2026-12-01T00:00:00+00:00", 4, 1243.5, 0, 0, []),
    ("2026-12-01T00:05:00+00:00", 2, None, None, None, None),
]


def log_line(
    timestamp: str, state: int | None, meter: float | None, wh: int | None, code: int | None, faults: Any
) -> str:
    """A line of the log, as the program would have written it at that time; 1001 does not tell."""
    reading = json.loads(json.dumps({"timestamp": timestamp, **READING}))
    reading["states"].update(fault_code=code, faults=faults)
    reading["states"]["chargepoint"]["code"] = state
    reading["states"]["charging"]["code"] = 0
    reading["electrical"]["meter_reading_kwh"] = meter
    reading["session"].update(energy_wh=wh, energy_kwh=wh and wh / 1000)
    return json.dumps(reading) + "\n"


def test_no_command_of_the_readme_is_left_untried() -> None:
    commands = [b.heading for b in BLOCKS if b.language == "sh"]
    assert {*commands} == {*PRINTED, *ON_THEIR_OWN}
    assert {heading: commands.count(heading) for heading in PRINTED} == {
        heading: len(printed) for heading, printed in PRINTED.items()
    }


@pytest.mark.parametrize(
    ("heading", "n"),
    [
        pytest.param(heading, n, id=f"{heading} {n + 1}")
        for heading, printed in PRINTED.items()
        for n in range(len(printed))
    ],
)
def test_a_command_does_what_the_readme_says(desk: Desk, heading: str, n: int) -> None:
    script, printed = blocks(heading, "sh")[n], PRINTED[heading][n]
    for tool in TOOLS.keys() & set(script.split()):
        needs(tool, TOOLS[tool])
    if "/usr/bin/python3" in script and not pymodbus_of("/usr/bin/python3"):
        needs("python3-pymodbus", "python3-pymodbus")
    if "pytest" in script:
        (desk.checkout / "tests").mkdir()
        (desk.checkout / "tests" / "test_one.py").write_text("def test_one(): pass\n")
        shutil.copy(str(ROOT / "tests" / "requirements.txt"), str(desk.checkout / "tests"))
    if ".venv/bin/activate" in script:
        desk.run("python3", "-m", "venv", ".venv")
    (desk.home / "charger.jsonl").write_text("".join(log_line(*line) for line in LOG))
    if "--watch" in script:
        with desk.running(script) as so_far:
            eventually(lambda: re.search(printed, so_far().out, re.MULTILINE))
        assert so_far().err == ""
        return
    more = {**os.environ, **desk.environment} if {"uv", "pipx"} & set(script.split()) else desk.environment
    result = desk.shell(script, env=more)
    assert result.status == 0, result.err
    assert re.search(printed, result.out, re.MULTILINE)
    if heading == "Install":  # and each way has pymodbus, which --demo does not need
        result = desk.shell(script.replace("--demo", "--ip 192.168.1.100"), env=more)
        assert re.search("Total Power: +70501 W", result.out), result.err


def test_a_log_without_an_answer_has_one_too(desk: Desk) -> None:
    needs("jq", "jq")
    (desk.home / "charger.jsonl").write_text(log_line(*LOG[3]))
    answers = [desk.shell(question) for question in blocks("A log with cron", "sh")]
    assert answers == [(0, f"{answer}\n", "") for answer in ("null", "0", "0", "none")]


def test_the_first_two_commands_set_up_the_program_and_its_tests() -> None:
    program, tests = blocks("vestel.py", "sh")
    assert [b.text for b in BLOCKS if b.language == "sh"][:2] == [program, tests]
    assert shlex.split(program)[-2:] == ["vestel.py", "--demo"]
    assert shlex.split(tests)[-6:] == ["-m", "pytest", "-rs", "-n", "4", "tests"]


def test_the_demo_reading_is_what_the_program_prints(desk: Desk) -> None:
    def steady(text: str) -> str:
        return re.sub(r"((Meter Reading|Energy|Duration|Started): +).*", r"\1", text)

    assert steady(block("vestel.py", "text")) == steady(desk.run("./vestel.py", "--demo").out)
    assert README.index("```text") < README.index("```sh")


def test_the_copied_example_is_the_configuration_of_the_readme(desk: Desk) -> None:
    def read(text: str) -> dict[str, dict[str, str]]:
        ini = configparser.ConfigParser(inline_comment_prefixes=(";", "#"))
        ini.read_string(text)
        return {name: dict(ini[name]) for name in ini.sections()}

    mine = desk.checkout / "vestel_modbus.ini"
    mine.unlink()
    desk.shell(block("Configure", "sh"))
    assert read(mine.read_text()) == read(desk.here(block("Configure", "ini")))
    assert "Total Power:         70501 W" in desk.run("./vestel.py").out
    mine.write_text("mine")
    desk.shell(block("Configure", "sh"))
    assert mine.read_text() == "mine"


def test_the_report_holds_what_was_sent_and_what_came_back(desk: Desk) -> None:
    desk.shell(block("Limits and safety", "sh"))
    report = (desk.checkout / "report.txt").read_text()
    assert "Firmware:            v3.187.0-1.8.156.0\n" in report
    requests = re.findall(r": request(?: [0-9a-f]{2}){8}((?: [0-9a-f]{2}){4})$", report, re.MULTILINE)
    assert [
        (int(sent[:6].replace(" ", ""), 16), int(sent[6:].replace(" ", ""), 16)) for sent in requests
    ] == [(address, count) for _, address, count in desk.charger.reads]
    assert " 00 56 00 45 00 53 00 54 00 31 00 32" in report  # VEST12


# --- A fixed place, and what runs there ---


def test_the_fixed_place_has_the_own_configuration_and_keeps_it_in_an_update(desk: Desk) -> None:
    desk.spread()
    command = (str(desk.opt / ".venv/bin/python"), str(desk.opt / "vestel.py"), "--format=json")
    assert json.loads(desk.run(*command).out)["identity"]["serial"] == "VEST1234567890"
    (desk.checkout / "vestel_modbus.ini").write_text("[vestel]\nip = 192.0.2.1\n")
    (desk.checkout / "vestel.py").write_text("print('newer')\n")
    desk.spread()
    assert desk.run(*command).out == "newer\n"
    assert (desk.opt / "vestel_modbus.ini").read_text() == desk.here(block("Configure", "ini"))


def test_the_log_of_cron_grows_by_whole_readings_only(desk: Desk) -> None:
    desk.spread()
    (command,) = cron_commands(block("A log with cron", "crontab"))
    log, errors = desk.home / "charger.jsonl", desk.home / "charger.err"
    assert desk.cron(command) == (0, "", "")
    desk.charger.fault("reset")
    assert desk.cron(command) == (1, "", "")
    desk.charger.faults.clear()
    assert desk.cron(command) == (0, "", "")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.pop("timestamp")[:2] for line in lines] == ["20", "20"]
    assert lines == [READING, READING]
    assert errors.read_text().startswith("ERROR: Cannot read ")
    assert len(errors.read_text().splitlines()) == 1
    assert 0.2e6 < 288 * log.stat().st_size / 2 < 0.35e6  # a day "is about 0.3 MB"


def test_the_night_lines_set_both_currents_and_print_what_is_set(desk: Desk) -> None:
    desk.spread()
    night, morning = cron_commands(block("A lower current at night", "crontab"))
    assert desk.cron(night) == (0, "", block("A lower current at night", "text"))
    assert desk.cron(morning).err == "Dynamic current: 6 A -> 16 A\nFailsafe current: 6 A -> 16 A\n"
    assert desk.charger.writes == [(5004, 6), (2000, 6), (5004, 16), (2000, 16)]


def test_a_night_line_tries_again_where_another_master_is_connected(desk: Desk) -> None:
    desk.spread()
    night = cron_commands(block("A lower current at night", "crontab"))[0]
    desk.charger.close_next = 2  # both connections of the first try
    failed, *printed = desk.cron(night).err.splitlines(keepends=True)
    assert failed.startswith("ERROR: failed writing current: ")
    assert "".join(printed) == block("A lower current at night", "text")


def test_a_night_line_sets_the_failsafe_current_where_the_other_is_ignored(desk: Desk) -> None:
    desk.spread()
    desk.charger.frozen[5004] = 16
    told = desk.cron(cron_commands(block("A lower current at night", "crontab"))[0]).err
    assert "Failsafe current: 10 A -> 6 A\n" in told
    assert desk.charger.image[HOLDING, 2000] == 6


def test_a_held_current_is_set_again_and_the_failsafe_current_is_not(desk: Desk) -> None:
    desk.charger.set(HOLDING, 2002, 4)  # s: a beat of 1 s
    told = ""
    with desk.running(block("Hold a current", "sh")) as so_far:
        for change in ("16 A -> 10 A", "6 A -> 10 A"):
            told += f"Dynamic current: {change}\n"
            eventually(lambda wanted=told: so_far().err == wanted)  # type: ignore[misc]
            desk.charger.set(HOLDING, 5004, 6)  # a vehicle was plugged in
    assert {address for address, _ in desk.charger.writes} == {5004, 6000}


def test_the_served_paths_answer_as_the_readme_says(desk: Desk) -> None:
    desk.charger.set(HOLDING, 2002, 4)
    with desk.running(block("Serve readings over HTTP", "sh")) as so_far:
        eventually(lambda: desk.get("/vestel-data.json")[0] == 200)
        assert "<h1" in desk.get("/")[1]
        assert "\nvestel_up 1\n" in desk.get("/metrics")[1]
        reading = json.loads(desk.get("/vestel-data.json")[1])
        assert reading["identity"]["serial"] == "VEST1234567890"
        assert so_far().err == ""
        desk.charger.stop()
        eventually(lambda: desk.get("/vestel-data.json")[0] == 503)
        lost = json.loads(desk.get("/vestel-data.json")[1])
        assert [*lost] == ["error", *reading]
        assert "\nvestel_up 0\n" in desk.get("/metrics")[1]


# --- The service ---


def service(desk: Desk) -> str:
    """What systemd starts, as a command of the shell, which splits $OPTIONS as systemd does."""
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_string(desk.here(block("A systemd service", "ini")))
    assert ini["Service"]["EnvironmentFile"] == f"-{desk.opt}/options"
    return f"[ ! -e {desk.opt}/options ] || . {desk.opt}/options; exec {ini['Service']['ExecStart']}"


def test_the_service_is_a_valid_unit_and_serves(desk: Desk) -> None:
    desk.spread()
    for command in block("A systemd service", "sh").splitlines():
        assert desk.run("sh", "-ec", command).status == 0
    assert len(desk.log.read_text().splitlines()) == 3
    analyze = needs("systemd-analyze", "systemd")
    (desk.home / "vestel.service").write_text(desk.here(block("A systemd service", "ini")))
    assert desk.run(analyze, "verify", str(desk.home / "vestel.service")) == (0, "", "")
    with desk.running(service(desk)):
        eventually(lambda: "\nvestel_up 1\n" in desk.get("/metrics")[1])


def test_beside_the_service_there_are_values_and_a_log(desk: Desk) -> None:
    needs("curl", "curl")
    needs("jq", "jq")
    desk.spread()
    desk.charger.set(HOLDING, 2002, 4)
    value, _ = blocks("Beside the service", "sh")
    log_command, _ = blocks("Beside the service", "crontab")
    (command,) = cron_commands(log_command)
    log, errors = desk.home / "charger.jsonl", desk.home / "charger.err"
    with desk.running(service(desk)):
        eventually(lambda: desk.get("/vestel-data.json")[0] == 200)
        assert desk.shell(value) == (0, "70501\n", "")
        assert [desk.cron(command), desk.cron(command)] == [(0, "", "")] * 2
        desk.charger.stop()
        eventually(lambda: desk.get("/vestel-data.json")[0] == 503)
        assert desk.cron(command) == (22, "", "")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [bool(line.pop("timestamp")) for line in lines] == [True, True]
    for line in lines:
        assert line == {**READING, "settings": {**READING["settings"], "failsafe_timeout_s": 4}}
    assert "503" in errors.read_text()
    (without_service,) = cron_commands(block("A log with cron", "crontab"))
    assert command.partition(" >> ")[2] == without_service.partition(" >> ")[2]


def test_the_service_holds_what_is_written_into_its_options(desk: Desk) -> None:
    desk.spread()
    _, hold = blocks("Beside the service", "sh")
    _, lines = blocks("Beside the service", "crontab")

    def held() -> tuple[int, int]:
        return desk.charger.image[HOLDING, 5004], desk.charger.image[HOLDING, 2000]

    night, morning = cron_commands(lines)
    for run, command, currents in (
        (desk.shell, hold, (10, 10)),
        (desk.cron, night, (6, 6)),
        (desk.cron, morning, (16, 16)),
    ):
        desk.log.write_text("")
        assert run(command).status == 0
        assert desk.log.read_text() == "systemctl restart vestel\n"
        with desk.running(service(desk)):
            eventually(lambda wanted=currents: held() == wanted)  # type: ignore[misc]
