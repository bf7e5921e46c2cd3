"""README.md's commands and recipes, run as its readers run them, do what it says."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]
from charger import SimulatedCharger
from desk import Desk
from manual import block, cron_commands, prose, span, spans, unit
from program import JSON, METRICS, PAGE, ROOT, accepts, eventually, json_readings, needs
from registers import DYNAMIC, FAILSAFE, READING, TIMEOUT
from world import MakeWorld

import vestel


@pytest.fixture
def desk(tmp_path: Path, charger: SimulatedCharger) -> Desk:
    needs("jq", "jq")
    needs("curl", "curl")
    return Desk(tmp_path, charger)


# Where it stands, and what each of its lines prints to stdout and to stderr.
TEN = "^Dynamic current: 16 A -> 10 A\n"
PRINTS: dict[tuple[str, int], list[tuple[str, str]]] = {
    ("vestel.py", 1): [(r"Serial: +VESTEL-DEMO\n", "^$")],
    ("vestel.py", 2): [("1 passed", "^$")],
    ("Prepare the charger", 1): [(r"Timeout: +20 s\n$", "^Failsafe timeout: 300 s -> 20 s\n$")],
    ("Read", 1): [("Power: +70501 W", "^$"), ("ID: +CP-GARAGE-01\n", "^$"), ("^70501\n$", "^$")],
    ("Read", 2): [(r"^\d{4}-.*\n== Identity ==\n", "^$"), ("^70501\n", "^$")],
    ("Set a current", 1): [(r"Current: +10 A\nF", f"{TEN}Failsafe current: stays 10 A\n$")],
    ("Set a current", 2): [(r"Dynamic Current: +10 A\n", f"{TEN}$")],
    ("Set a current", 3): [("^$", "^$"), (r"Dynamic Current: +10 A\n", f"{TEN}$")],
}


@pytest.mark.parametrize(("heading", "number"), PRINTS)
def test_command_prints_what_the_page_says(desk: Desk, heading: str, number: int) -> None:
    desk.charger.set(TIMEOUT, 300)
    (desk.opt / "tests").mkdir()
    (desk.opt / "tests" / "test_one.py").write_text("def test_one(): pass\n")
    shutil.copy(str(ROOT / "tests" / "requirements.txt"), str(desk.opt / "tests"))
    lines = block(heading, "sh", number).splitlines()
    assert len(lines) == len(PRINTS[heading, number])
    for line, (out, err) in zip(lines, PRINTS[heading, number]):
        if "--watch" in line:
            with desk.running(line) as files:
                for path, what in zip(files, (out, err)):
                    eventually(lambda p=path, w=what: re.search(w, p.read_text()))  # type: ignore[misc]
        else:
            ended = desk.shell(line.replace(" -n 8 ", " -n 0 "))  # eight processes for one test
            assert ended.status == 0, ended.err
            assert re.search(out, ended.out), ended.out
            assert re.search(err, ended.err), ended.err


def test_install_fetches_and_checks_the_library(desk: Desk, tmp_path: Path) -> None:
    needs("git", "git")
    first, get, check = (block("Install", "sh", number) for number in (1, 2, 3))
    assert desk.shell(first).status == 0
    assert desk.log.read_text() == "apt install git python3-venv curl jq\n"
    origin = tmp_path / "origin"
    shutil.move(str(desk.opt), str(origin))
    commit = "git -c user.name=me -c user.email=me@example.com commit -q -m all"
    assert desk.shell(f"git init -q && git add . && {commit}", cwd=str(origin)).status == 0
    got = desk.shell(get.replace("URL", str(origin)) + "ls", cwd=str(origin))
    assert "vestel.py\n" in got.out, got.err
    assert desk.shell("python3 -m venv .venv").status == 0
    assert desk.shell(check) == (0, "pymodbus is installed\n", "")
    without = desk.shell(check.replace("python -c", "python -S -c"))
    assert without.status == 1
    assert without.err.splitlines()[-1] in spans(prose("Install"))


@pytest.mark.parametrize(
    "way", ["/usr/bin/python3 vestel.py", "uv run vestel.py", "pipx run ./vestel.py"]
)
def test_other_ways_to_install_read_a_charger(desk: Desk, way: str) -> None:
    assert way in spans(prose("Install"))
    program = way.split()[0]
    if program == "/usr/bin/python3" and desk.run(program, "-c", "import pymodbus").status:
        program = "python3-pymodbus"
    needs(program, program)
    environment = {**os.environ, **desk.environment, "TMPDIR": str(desk.home)}
    read = desk.shell(f"{way} --format=json", env=environment)
    assert json_readings([read.out]) == [READING], read.err


def test_report_has_all_that_was_sent_and_the_reading(desk: Desk) -> None:
    assert desk.shell(block("Limits and safety", "sh")) == (0, "", "")
    report = (desk.opt / "report.txt").read_text()
    assert "Firmware:            v3.187.0-1.8.156.0\n" in report
    timed = re.findall(r"^\d\d:\d\d:\d\d\.\d{3} .*: (?:request|reply) ", report, re.MULTILINE)
    assert len(timed) == 2 * len(desk.charger.requests) == 26


def log_line(time: str, **parts: dict[str, Any]) -> str:
    """Return a line of the log as the program writes it, with these values in its parts."""
    assert all(READING[part].keys() >= values.keys() for part, values in parts.items())
    changed = {part: {**READING[part], **values} for part, values in parts.items()}
    return json.dumps({"timestamp": f"{time}:00+00:00", **READING, **changed}) + "\n"


def broken(log: str) -> str:
    """Return the log with all that power cuts and full disks leave, between whole lines."""
    first = log.splitlines(keepends=True)[0]
    garbage = [
        *[first[:500] + "\n", "\0" * 300 + "\n", first[:200] + first, "[1, 2]\n", "3\n"],
        *["null\n", '"x"\n', "\n", "}\n", '{"error": "gone"}\n'],
    ]
    lines = zip(itertools.cycle(garbage), log.splitlines(keepends=True))
    return "".join(bad + line for bad, line in lines) + first[:100]


DAMAGES = pytest.mark.parametrize("damage", [str, broken], ids=["whole", "broken"])

# Midnight of November is 23:00 UTC of the day before. The meter goes on through both its ends.
MONTHS = "".join(
    log_line(
        time,
        states={"chargepoint": {"code": state}, "fault_code": fault, "faults": names},
        electrical={"meter_reading_kwh": meter},
        session={"energy_kwh": kwh},
    )
    for time, state, meter, kwh, fault, names in [
        ("2026-10-31T22:50", 2, 1199.8, 3.8, 0, []),
        ("2026-10-31T22:55", 2, 1200.0, 4.0, 0, []),
        ("2026-10-31T23:00", 2, 1200.6, 4.5, 64, ["CP Short Error"]),
        ("2026-11-15T12:00", None, None, None, None, []),
        ("2026-11-30T22:50", 2, 2240.9, 7.25, 0, []),
        ("2026-11-30T22:55", 8, 2241.2, 7.25, 262160, ["PP Error", "RFID Error"]),
        ("2026-11-30T23:00", 2, 2243.5, 0, 0, []),
        ("2026-12-01T00:05", 2, None, None, 0, []),
    ]
)
ANSWERS = {  # number of the block: what it prints for that log, and for an empty one
    1: ("7.25\n", "null\n"),
    2: ("1041.2\n10\n", "0\n0\n"),
    3: ("2026-11-30T22:55:00+00:00 PP Error, RFID Error\n", "none\n"),
}


@DAMAGES
@pytest.mark.parametrize("number", ANSWERS)
def test_question_to_the_log_is_answered(desk: Desk, number: int, damage: Any) -> None:
    for log, answer in zip((damage(MONTHS), ""), ANSWERS[number]):
        (desk.home / "charger.jsonl").write_text(log)
        assert desk.shell(block("Keep a log", "sh", number)) == (0, answer, "")


def test_rotated_logs_are_asked_together(desk: Desk) -> None:
    first, *lines = MONTHS.splitlines(keepends=True)
    (desk.home / "charger.jsonl.2.gz").write_bytes(gzip.compress(first.encode()))
    (desk.home / "charger.jsonl.1").write_text("".join(lines[:4]))
    (desk.home / "charger.jsonl").write_text("".join(lines[4:]))
    before, question = block("Keep a log", "sh", 2).split("jq", 1)
    asked = span("Keep a log", "zcat ").replace("jq ...", f"jq {question.split('$HOME')[0]}")
    assert desk.shell(before + asked, cwd=str(desk.home)) == (0, "1041.2\n", "")


SESSIONS = "".join(
    log_line(
        time,
        session={"energy_kwh": kwh, "duration_s": lasts, "start_time": start},
        electrical={"meter_reading_kwh": meter},
    )
    for time, meter, kwh, lasts, start in [
        ("2026-07-10T16:59", 999.0, 7.5, 9000, "10:00:00"),  # of before
        ("2026-07-11T17:04", 999.5, 0.5, 240, "19:00:00"),  # in summer
        ("2026-07-11T17:09", 1000.0, 0.9, 540, "19:00:00"),
        ("2026-11-10T17:04", 1000.0, 0.0, 240, "18:00:00"),  # the vehicle waits
        ("2026-11-10T17:09", 1000.0, 0.0, 540, None),
        ("2026-11-10T17:14", 1000.9, 0.9, 840, "18:00:00"),
        ("2026-11-10T17:19", 1001.8, 1.8, 1140, "18:00:00"),
        ("2026-11-10T17:24", 1001.8, 1.8, 1440, "18:00:00"),  # full
        ("2026-11-11T17:04", 1002.1, 0.3, 240, "18:00:00"),  # at the same time
        ("2026-11-11T17:09", 1003.0, 1.2, 540, "18:00:00"),
        ("2026-11-11T17:14", 1003.6, 0.2, 30, "18:13:30"),  # its counter restarts
        ("2026-11-11T17:19", 1004.5, 1.1, 330, "18:13:30"),
        ("2026-11-12T17:18", 1005.9, 1.4, 240, "18:13:30"),  # in a gap of the log
    ]
)
ROWS = """\
begin,end,kWh by session counter,kWh by meter
2026-07-11 19:04,2026-07-11 19:09,0.9,1
2026-11-10 18:09,2026-11-10 18:19,1.8,1.8
2026-11-11 18:04,2026-11-11 18:09,1.2,1.2
2026-11-11 18:14,2026-11-11 18:19,1.1,1.5
2026-11-12 18:18,2026-11-12 18:18,1.4,1.4
"""


@DAMAGES
def test_sessions_are_listed_with_times_and_energy(desk: Desk, damage: Any) -> None:
    for log, rows in ((damage(SESSIONS), ROWS), ("", ROWS.split("2026")[0])):
        (desk.home / "charger.jsonl").write_text(log)
        assert desk.shell(block("List the charging sessions", "sh")) == (0, "", "")
        assert (desk.opt / "sessions.csv").read_text() == rows
        german = desk.shell(span("List the charging sessions", "sed "))
        assert german.out == rows.replace(",", ";").replace(".", ",")


@pytest.mark.parametrize("number", [1, 2], ids=["without service", "with service"])
def test_log_grows_by_whole_readings_only(desk: Desk, number: int) -> None:
    (command,) = cron_commands("Keep a log", number)
    log, errors = desk.home / "charger.jsonl", desk.home / "charger.err"
    answers = [log_line("2026-11-20T08:15")]
    with desk.answering(lambda path: answers[-1]):
        assert desk.cron(command) == (0, "", "")
        whole = log.read_text()
        assert [json.loads(line)["limits"] for line in whole.splitlines()] == [READING["limits"]]
        assert len(whole) < 1536 < 2 * len(whole)  # 3 * 512: as a full disk has it
        full = desk.cron(f"trap '' XFSZ; ulimit -f 3; {command}")
        assert (full.out, full.err, log.read_text()) == ("", "", whole)
        assert re.search("cannot write to stdout|Fail.* writing", errors.read_text())
        errors.unlink()
        answers.append("")
        desk.charger.stop()
        lost = desk.cron(command)
        assert (lost.out, lost.err, log.read_text()) == ("", "", whole)
        assert re.search("^ERROR: Cannot connect to |503", errors.read_text())
        answers.pop()
        desk.charger.start()
        assert desk.cron(command) == (0, "", "")
    assert len(log.read_text().splitlines()) == 2
    assert 0.25e6 < 288 * len(whole) < 0.35e6  # a day takes 0.3 MB


def test_lines_of_cron_do_not_meet() -> None:
    """A charger is closed for its failsafe timeout after each run, usually for 20 s.

    After 300 s, a reading of the log at 21:59 leaves 22:08 to the night; one at 21:54 leaves 22:03.
    """
    for heading, number, line in [
        ("Keep a log", 1, r"4-59/5 \* \* \* \* [^;]*"),
        ("A lower current at night", 2, r"3 .* \* \* \* for n in 1 2 3; do [^;]*; sleep 300; done"),
        ("node_exporter", 1, r"\* \* \* \* \* sleep 30; .*"),
    ]:
        lines = block(heading, "crontab", number).splitlines()
        assert [one for one in lines if not re.fullmatch(line, one)] == []


SERVICE = unit("Run it as a service")


def test_service_has_the_three_paths_that_the_page_names(desk: Desk) -> None:
    assert re.findall(r"<http://127.0.0.1:9946(/.*?)>", prose("Read")) == [PAGE, METRICS, JSON]
    with desk.running(block("Read", "sh", 3)):
        eventually(lambda: desk.get(JSON).status == 200)
        assert "<h1" in desk.get(PAGE).body
        assert "vestel_up 1\n" in desk.get(METRICS).body
        desk.charger.stop()
        eventually(lambda: desk.get(JSON).status == 503)
        assert '"error": "no reading since ' in desk.get(JSON).body


def test_service_holds_what_the_lines_of_cron_write(desk: Desk) -> None:
    assert SERVICE["ExecStart"].endswith(" --listen 9946 --hold /opt/vestel/amps")
    assert desk.shell(block("Run it as a service", "sh", 1)) == (0, "", "")
    assert desk.amps == ""
    assert "systemctl enable --now vestel.service\n" in desk.log.read_text()
    with desk.running(f"exec {SERVICE['ExecStart']}"):
        eventually(lambda: desk.get(JSON).status == 200)
        assert desk.shell(block("Run it as a service", "sh", 2)) == (0, "70501\n", "")
        assert desk.charger.settings == []
        write = span("Run it as a service", "echo ")
        night, morning = cron_commands("A lower current at night")
        for command, amperes in ((write, 10), (night, 6), (morning, 16)):
            assert desk.cron(command) == (0, "", "")
            eventually(lambda wanted=amperes: desk.charger[DYNAMIC] == wanted)  # type: ignore[misc]
    assert {address for address, _ in desk.charger.settings} == {DYNAMIC}
    assert desk.charger.connections == 1


@pytest.mark.parametrize("heading", ["Run it as a service", "Use the solar surplus", "MQTT"])
def test_unit_of_systemd_is_valid_and_has_few_rights(desk: Desk, heading: str) -> None:
    analyze = needs("systemd-analyze", "systemd")
    (desk.opt / "surplus.sh").touch()
    path = desk.home / "it.service"
    path.write_text(desk.here(block(heading, "ini")).replace("YOU", "root"))
    assert desk.run(analyze, "verify", str(path)) == (0, "", "")
    restart, exposed = ("on-failure", 25) if "Run" in heading else ("always", 100)
    more = ("--offline=true", f"--threshold={exposed}")  # in tenths
    rated = desk.run(analyze, "security", *more, str(path))
    assert rated.status == 0 or "unrecognized option" in rated.err  # systemd before 250
    assert (unit(heading)["Restart"], unit(heading)["WantedBy"]) == (restart, "multi-user.target")
    assert SERVICE["RestartPreventExitStatus"] == "2"


def test_night_is_tried_three_times_and_sets_both_currents(desk: Desk) -> None:
    night, morning = cron_commands("A lower current at night", 2)
    desk.charger.resets_next = 8
    failed, again, *printed = desk.cron(night).err.splitlines()
    for line in (failed, again):
        assert line.startswith("ERROR: failed writing current: ")
    assert printed == ["Dynamic current: 16 A -> 6 A", "Failsafe current: 10 A -> 6 A"]
    assert Path(f"{desk.log}.sleeps").read_text() == "300\n300\n"
    higher = "Dynamic current: 6 A -> 16 A\nFailsafe current: 6 A -> 16 A\n"
    assert desk.cron(morning) == (0, "", higher)
    assert desk.charger.settings == [(DYNAMIC, 6), (FAILSAFE, 6), (DYNAMIC, 16), (FAILSAFE, 16)]


def reading(kwh: Any = None, cable: Any = None, state: Any = None, used: Any = None) -> str:
    """Return a reading as the service serves it, of what these recipes look at."""
    states = {"cable": {"code": cable}, "chargepoint": {"code": state}}
    whole = {"states": states, "electrical": {"power": {"total_w": used}}}
    return json.dumps({"session": {"energy_kwh": kwh}, **whole}) + "\n"


# Energy of the session (kWh), cable, chargepoint (None: no answer); the current after that.
LIMIT = [
    *[(9.99, 3, 2, 16), (10.0, 3, 2, 0), (10.0, 3, 3, 0), (None, None, None, 0)],
    *[(10.0, 0, 0, 16), (10.0, 2, 1, 16), (0.1, 3, 2, 16), (12.5, 3, 2, 0)],
]


def test_session_pauses_at_so_many_kwh(desk: Desk) -> None:
    """Each is the last of a run: only then is sure that all parts of the pipe have had it."""
    rounds = [{JSON: reading(*values)} for *values, _ in LIMIT]
    recipe = block("Stop at so many kWh", "sh")
    found = [desk.play(recipe, rounds[: n + 1])[-1] for n in range(len(rounds))]
    assert found == [f"{amperes}\n" for *_, amperes in LIMIT]


# The power at the meter (W; None: it does not answer) and of the vehicle, and the current after
# each of the rounds with that.
SURPLUS: list[tuple[Any, Any, list[int]]] = [
    *[(-3900.2, 0, [0]), (-4200.4, 0, [*[0] * 9, 6]), (-100, 4830, [7]), (-4000, 4830, [12])],
    *[(-20000, 8280, [16]), (3000, 11040, [11]), (5000, 7590, [6] * 5), (0, 4830, [7])],  # a cloud
    *[(None, 4830, [*[6] * 9, 0]), (-5000, None, [0]), (-5000, 0, [0])],
]


def test_surplus_goes_to_the_vehicle_and_ends_with_a_pause(desk: Desk) -> None:
    rounds, currents = [], []
    for grid, used, after in SURPLUS:
        meter = "" if grid is None else json.dumps({"total_power": grid})
        service = "" if used is None else reading(used=used)
        rounds += [{"/status": meter, JSON: service}] * len(after)
        currents += [f"{amperes}\n" for amperes in after]
    assert desk.play(block("Use the solar surplus", "sh"), rounds) == currents
    lines = unit("Use the solar surplus")
    assert lines["ExecStart"] == "/bin/sh /opt/vestel/surplus.sh"
    (desk.opt / "amps").write_text("16\n")
    assert desk.shell(lines["ExecStopPost"]) == (0, "", "")
    assert desk.amps == "0\n"


@pytest.mark.parametrize("heading", ["Use the solar surplus", "Stop at so many kWh"])
def test_shellcheck_has_nothing_to_say(desk: Desk, heading: str) -> None:
    shellcheck = needs("shellcheck", "shellcheck")
    (desk.home / "it.sh").write_text(block(heading, "sh"))
    assert desk.run(shellcheck, "--shell=sh", str(desk.home / "it.sh")) == (0, "", "")


SENSORS = {"Wallbox state": "Charging", "Wallbox power": "70501", "Wallbox meter": "121682.1"}
ENERGY = {  # what the energy dashboard of Home Assistant needs
    "Wallbox state": (None, None, None),
    "Wallbox power": ("power", "measurement", "W"),
    "Wallbox meter": ("energy", "total_increasing", "kWh"),
}


def rendered(template: str, **names: Any) -> str:
    """Return what Home Assistant makes of a template; raises where it names what is not there."""
    strict = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return strict.from_string(template).render(**names)


def about(sensors: Any) -> dict[str, Any]:
    keys = ("device_class", "state_class", "unit_of_measurement")
    assert len({sensor["unique_id"] for sensor in sensors}) == len(sensors)
    return {sensor["name"]: tuple(sensor.get(key) for key in keys) for sensor in sensors}


@pytest.mark.parametrize("with_service", [False, True], ids=["without service", "with service"])
def test_readings_come_and_currents_go_by_mqtt(desk: Desk, with_service: bool) -> None:
    needs("mosquitto", "mosquitto")
    needs("mosquitto_pub", "mosquitto-clients")
    script = unit("MQTT")["ExecStart"] if with_service else block("MQTT", "sh")
    assert " -r" not in script  # an old reading would look like a new one
    with contextlib.ExitStack() as stack:
        stack.enter_context(desk.running('exec mosquitto -p "$BROKER"'))
        eventually(lambda: accepts("127.0.0.1", int(desk.environment["BROKER"])))
        if with_service:
            stack.enter_context(desk.running(f"exec {SERVICE['ExecStart']}"))
            stack.enter_context(desk.running(span("MQTT", "mosquitto_sub -t vestel/set ")))
            eventually(lambda: desk.get(JSON).status == 200)
            publish = "mosquitto_pub -q 1 -t vestel/set -m 9"
            eventually(lambda: desk.shell(publish).status == 0 and desk.charger[DYNAMIC] == 9)
        heard, _ = stack.enter_context(desk.running("exec mosquitto_sub -v -t vestel"))
        stack.enter_context(desk.running(script.replace("--watch 10", "--watch 1")))
        eventually(lambda: "}\n" in heard.read_text())
    message = json.loads(heard.read_text().splitlines()[0].partition(" ")[2])
    sensors = yaml.safe_load(block("MQTT", "yaml"))["mqtt"]["sensor"]
    assert {(one["state_topic"], one["expire_after"]) for one in sensors} == {("vestel", 60)}
    shown = {one["name"]: rendered(one["value_template"], value_json=message) for one in sensors}
    assert (shown, about(sensors)) == (SENSORS, ENERGY)


def test_sensors_show_the_reading_or_are_unavailable(world: MakeWorld) -> None:
    """Home Assistant renders both templates, also while the service is gone or has no reading."""
    (rest,) = yaml.safe_load(block("Home Assistant", "yaml"))["rest"]
    assert rest["resource"] == f"http://127.0.0.1:9946{JSON}"
    it = world(measuring=False)

    def shown() -> dict[str, Any]:
        body = json.loads(vestel.respond(JSON, it.poller)[2])
        return {
            sensor["name"]: rendered(sensor["availability"], value_json=body) == "True"
            and rendered(sensor["value_template"], value_json=body)
            for sensor in rest["sensor"]
        }

    assert shown() == dict.fromkeys(SENSORS, False)
    it.read()
    assert (shown(), about(rest["sensor"])) == (SENSORS, ENERGY)
    for name, address in (("state", 1000), ("power", 1020), ("meter", 1036)):
        it.charger.unsupported = {("input", address)}
        it.play(6)
        assert shown() == {**SENSORS, f"Wallbox {name}": False}
    it.charger.away = "refused"
    it.charger.cut()
    it.play(6)
    assert shown() == dict.fromkeys(SENSORS, False)
    assert {rendered(sensor["availability"]) for sensor in rest["sensor"]} == {"False"}
