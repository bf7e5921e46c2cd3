"""README.md as its readers use it: every command, configuration, table and message in it holds.

All of them are taken out of README.md. Only its places are replaced: the address of the
charger, /opt/vestel, the directory of node_exporter and the port of --listen.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import jinja2
import pytest
import yaml  # type: ignore[import-untyped]
from conftest import DETAILS, READING, ROOT, eventually, needs
from simulated_charger import HOLDING, INPUT, SimulatedCharger, dead_host, exception, free_port

import vestel

README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block, and under which headings it stands."""

    chapter: str
    heading: str
    language: str
    text: str


def _blocks() -> list[Block]:
    found, chapter, heading = [], "", ""
    parts = re.findall(r"^(#+) ([^\n]+)$|^( *)```(\w+)\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    for level, title, _, language, text in parts:
        heading = title or heading
        chapter = title if level and len(level) < 3 else chapter
        if language:
            found.append(Block(chapter, heading, language, textwrap.dedent(text)))
    return found


BLOCKS = _blocks()
HEADINGS = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), re.MULTILINE)


def blocks(heading: str, language: str) -> list[str]:
    return [b.text for b in BLOCKS if (b.heading, b.language) == (heading, language)]


def block(heading: str, language: str) -> str:
    (text,) = blocks(heading, language)
    return text


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head and without backticks."""
    section = README.split(f"# {heading}\n")[1].split("\n#")[0]
    rows = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows[2:]]


CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def cron_commands(heading: str) -> list[str]:
    """The commands of a crontab, whose times are checked on the way."""
    commands = []
    for line in block(heading, "crontab").splitlines():
        *fields, command = line.split(" ", 5)
        for field, (least, most) in zip(fields, CRON_FIELDS):
            times, _, step = field.partition("/")
            assert times == "*" or all(least <= int(time) <= most for time in times.split("-"))
            assert not step or least < int(step) <= most
        assert len(fields) == 5
        assert "%" not in command  # a line break to cron
        commands.append(command)
    return commands


class Result(NamedTuple):
    """What became of a command."""

    status: int
    out: str
    err: str


STUBS = {
    "python3": """
        case "$1 $2" in
            "-m venv") mkdir -p "$3/bin" && cp "{stubs}/python" "{stubs}/pip" "{stubs}/activate" "$3/bin" ;;
            *) exec "{python}" "$@" ;;
        esac""",
    "python": 'exec "{python}" "$@"',
    "pip": """
        [ "$1" = install ] && shift && [ "$1" = -r ] || exit 9
        while [ "$1" = -r ]; do [ -r "$2" ] && shift 2 || exit 8; done
        exit $#""",
    "activate": 'PATH="$PWD/.venv/bin:$PATH"',
    "sudo": 'case $1 in apt|systemctl) echo "$@" >> "{log}" ;; *) exec "$@" ;; esac',
    "systemctl": 'echo "$@" >> "{log}"',
}


class Desk:
    """A reader's computer: a checkout, a home, and a charger at the address in README.md.

    Stand-ins are what would need root or install packages: venv, pip, apt and systemctl.
    """

    def __init__(self, tmp: Path, charger: SimulatedCharger) -> None:
        self.charger = charger
        self.port = free_port()  # where --listen listens
        self.home, self.checkout, self.opt = tmp / "you", tmp / "checkout", tmp / "vestel"
        self.textfiles, self.stubs, self.log = tmp / "textfiles", tmp / "stubs", tmp / "log"
        for directory in (self.home, self.checkout, self.textfiles, self.stubs):
            directory.mkdir()
        for name in ("vestel.py", "requirements.txt"):
            shutil.copy(str(ROOT / name), str(self.checkout))
        for name, text in STUBS.items():
            filled = textwrap.dedent(text).format(stubs=self.stubs, python=sys.executable, log=self.log)
            (self.stubs / name).write_text(f"#!/bin/sh\n{filled}\n")
            (self.stubs / name).chmod(0o755)
        example = (ROOT / "vestel_modbus.ini.example").read_text()
        (self.checkout / "vestel_modbus.ini.example").write_text(self.here(example))
        self.configure(block("Configure", "ini"))
        self.environment = {"HOME": str(self.home), "PATH": f"{self.stubs}:{os.environ['PATH']}"}

    def here(self, text: str) -> str:
        """Replace the places of README.md by those of this desk."""
        for there, here in [
            ("--ip 192.168.1.100", f"--ip 127.0.0.1 --port {self.charger.port}"),
            ('"192.168.1.100", 502', f'"127.0.0.1", {self.charger.port}'),
            ("ip = 192.168.1.100", "ip = 127.0.0.1"),
            ("port = 502", f"port = {self.charger.port}"),
            ("/opt/vestel", str(self.opt)),
            ("/var/lib/prometheus/node-exporter", str(self.textfiles)),
            ("9946", str(self.port)),
        ]:
            text = text.replace(there, here)
        assert "192.168." not in text
        return text

    def configure(self, text: str) -> None:
        (self.checkout / "vestel_modbus.ini").write_text(self.here(text))

    def spread(self) -> None:
        """Do what README.md says, so that /opt/vestel is ready."""
        assert self.run("sh", "-ec", self.here(block("A place for the other recipes", "sh"))).status == 0

    def run(self, *command: str, **more: Any) -> Result:
        options = {"cwd": str(self.checkout), "env": self.environment, "stdout": subprocess.PIPE, **more}
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=120,
            check=False,
            **options,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def cron(self, command: str) -> Result:
        """Run a line of a crontab in the small environment that cron gives."""
        small = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LOGNAME": "you"}
        return self.run("/bin/sh", "-c", self.here(command), env=small, cwd=str(self.home))

    def vestel(self, *options: str, **more: Any) -> Result:
        return self.run("./vestel.py", *options, **more)

    @contextlib.contextmanager
    def running(self, script: str) -> Iterator[Callable[[], Result]]:
        """Run a script that stays, until the end of the block; give what shows its output so far."""
        paths = [self.home / "out", self.home / "err"]
        with paths[0].open("w") as out, paths[1].open("w") as err:
            process = subprocess.Popen(
                ["sh", "-ec", self.here(script)],
                cwd=str(self.checkout),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        try:
            yield lambda: Result(process.poll() or 0, paths[0].read_text(), paths[1].read_text())
            assert process.poll() is None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=60)

    def get(self, path: str) -> tuple[int, str]:
        """Ask --listen; 0 where nothing listens yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


@pytest.fixture
def desk(tmp_path: Path, charger: SimulatedCharger) -> Desk:
    return Desk(tmp_path, charger)


# --- Commands ---

# What the commands under a heading print. Under the other headings they have tests of their own.
PRINTED = {
    "vestel.py": ["Serial: +VESTEL-DEMO", "1 passed"],
    "Install": ["Total Power: +70501 W"] * 4,
    "Check that it answers": ["^the port is open$"],
    "Configure": [""],
    "By hand": ["Current(.|\n)*Current(.|\n)*CP-GARAGE-01", "^15.234$", "Total Power: +70501 W", "^70501$"],
    "A log with cron": ["^7.25$", "^15$", "^2026-11-30T23:55:00\\+00:00 PP Error, RFID Error$"],
    "Limits and safety": [""],
}
ON_THEIR_OWN = {
    "A place for the other recipes",
    "A lower current at night",
    "Hold a current",
    "Serve readings over HTTP",
    "A systemd service",
}
TOOLS = {"uv": "pip install uv", "pipx": "pip install pipx", "jq": "jq"}

LOG = [  # timestamp, charging, session energy (Wh), fault code, fault names
    ("2026-10-31T23:55:00+00:00", 1, 4000, 0, []),
    ("2026-11-01T00:00:00+00:00", 1, 4500, 64, ["CP Short Error"]),
    ("2026-11-01T00:05:00+00:00", 1, 5000, 0, []),
    ("2026-11-15T12:00:00+00:00", None, None, None, None),
    ("2026-11-30T23:50:00+00:00", 1, 7250, 0, []),
    ("2026-11-30T23:55:00+00:00", 0, 7250, 262160, ["PP Error", "RFID Error"]),
    ("2026-12-01T00:00:00+00:00", 0, 0, 0, []),
    ("2026-12-01T00:05:00+00:00", 1, None, None, None),
]


def log_line(timestamp: str, charging: int | None, wh: int | None, code: int | None, faults: Any) -> str:
    """Return a line of the log, as the program would have written it at that time."""
    reading = json.loads(json.dumps({"timestamp": timestamp, **READING}))
    reading["states"]["charging"]["code"] = charging
    reading["states"].update(fault_code=code, faults=faults)
    reading["session"].update(energy_wh=wh, energy_kwh=wh and wh / 1000)
    return json.dumps(reading) + "\n"


def test_no_command_of_the_readme_is_left_untried() -> None:
    commands: dict[str, list[str]] = {}
    for b in BLOCKS:
        if b.language == "sh" and b.heading not in ON_THEIR_OWN:
            commands.setdefault(b.heading, []).append(b.text)
    assert {heading: len(texts) for heading, texts in commands.items()} == {
        heading: len(printed) for heading, printed in PRINTED.items()
    }
    assert {b.heading for b in BLOCKS if b.language == "sh"} == {*PRINTED, *ON_THEIR_OWN}


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
    if (
        "/usr/bin/python3" in script
        and subprocess.run(["/usr/bin/python3", "-c", "import pymodbus.client"]).returncode
    ):
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
    result = desk.run("sh", "-ec", desk.here(script), env=more)
    assert result.status == 0, result.err
    assert re.search(printed, result.out, re.MULTILINE)


def test_the_copied_example_is_the_configuration_of_the_readme(desk: Desk) -> None:
    read = []
    (desk.checkout / "vestel_modbus.ini").unlink()
    desk.run("sh", "-ec", block("Configure", "sh"))
    for text in ((desk.checkout / "vestel_modbus.ini").read_text(), desk.here(block("Configure", "ini"))):
        ini = configparser.ConfigParser(inline_comment_prefixes=(";", "#"))
        ini.read_string(text)
        read.append({name: dict(ini[name]) for name in ini.sections()})
    assert read[0] == read[1]
    assert "Total Power:         70501 W" in desk.vestel().out


def test_the_report_holds_what_was_sent_and_what_came_back(desk: Desk) -> None:
    desk.run("sh", "-ec", desk.here(block("Limits and safety", "sh")))
    report = (desk.checkout / "report.txt").read_text()
    assert "Firmware:            v3.187.0-1.8.156.0\n" in report
    assert len(re.findall(": request( [0-9a-f]{2}){12}$", report, re.MULTILINE)) == 13
    assert " 00 56 00 45 00 53 00 54 00 31 00 32" in report  # VEST12


def test_the_demo_reading_is_what_the_program_prints(desk: Desk) -> None:
    def steady(text: str) -> str:
        return re.sub(r"((Meter Reading|Energy|Duration|Started): +).*", r"\1", text)

    shown = desk.vestel("--demo").out
    assert steady(block("vestel.py", "text")) == steady(shown)
    assert README.index("```text") < README.index("```sh")


def test_the_first_two_commands_set_up_the_program_and_its_tests() -> None:
    program, tests = blocks("vestel.py", "sh")
    assert shlex.split(program)[-2:] == ["vestel.py", "--demo"]
    assert shlex.split(tests)[-6:] == ["-m", "pytest", "-rs", "-n", "2", "tests"]


# --- Recipes ---


def test_the_place_for_the_recipes_is_ready_after_its_commands(desk: Desk) -> None:
    desk.spread()
    result = desk.run(str(desk.opt / ".venv/bin/python"), str(desk.opt / "vestel.py"), "--format=json")
    assert json.loads(result.out)["identity"]["serial"] == "VEST1234567890"


def test_the_log_of_cron_grows_by_whole_readings_only(desk: Desk) -> None:
    desk.spread()
    (command,) = cron_commands("A log with cron")
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
    night, morning = cron_commands("A lower current at night")
    printed = block("A lower current at night", "text")
    desk.charger.set(HOLDING, 2000, 10)
    assert desk.cron(night) == (0, "", printed)
    assert desk.cron(morning).err == "Dynamic current: 6 A -> 16 A\nFailsafe current: 6 A -> 16 A\n"
    assert desk.charger.writes == [(5004, 6), (2000, 6), (5004, 16), (2000, 16)]


def test_a_night_line_tries_again_where_another_master_is_connected(desk: Desk) -> None:
    desk.spread()
    (desk.stubs / "sleep").symlink_to("/bin/true")
    night = cron_commands("A lower current at night")[0].replace("sleep ", f"{desk.stubs}/sleep ")
    desk.charger.close_next = 2  # both connections of the first try
    *failed, dynamic, failsafe = desk.cron(night).err.splitlines(keepends=True)
    assert len(failed) == 1
    assert failed[0].startswith("ERROR: failed writing current: ")
    assert dynamic + failsafe == block("A lower current at night", "text")


def vanish_after_the_writes(desk: Desk) -> None:
    def last_answer(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
        desk.charger.faults.clear()
        desk.charger.fault("reset")
        return [(0, reply)]

    desk.charger.fault(last_answer, address=2000, function=3, skip=1)


@pytest.mark.parametrize(
    ("status", "happens"),
    [
        (0, lambda desk: None),
        (1, vanish_after_the_writes),
        (2, lambda desk: (desk.checkout / "vestel_modbus.ini").unlink()),
        (3, lambda desk: desk.charger.fault(exception(4), function=6)),
        (3, lambda desk: desk.charger.stop()),
    ],
    ids=["confirmed", "not read afterwards", "no configuration", "refused", "not reached"],
)
def test_a_script_can_tell_the_exit_codes_apart(
    desk: Desk, status: int, happens: Callable[[Desk], object]
) -> None:
    script = block("A lower current at night", "sh")
    said = re.findall(rf'^ +{status}\) echo "(.*)" ;;$', script, re.MULTILINE)
    happens(desk)
    assert desk.run("sh", "-c", script).out.splitlines() == said


def test_a_held_current_outlives_the_failsafe_timeout(desk: Desk) -> None:
    desk.charger.set(HOLDING, 2002, 2)
    desk.charger.watch_signs()
    with desk.running(block("Hold a current", "sh")) as so_far:
        eventually(lambda: len(desk.charger.signs) > 4)
        assert so_far().err.splitlines()[0] == "Dynamic current: 16 A -> 10 A"
        eventually(lambda: desk.charger.image[HOLDING, 5004] == 10, seconds=5)
    assert (2000, 10) not in desk.charger.writes


def test_the_served_paths_answer_as_the_readme_says(desk: Desk) -> None:
    with desk.running(block("Serve readings over HTTP", "sh")):
        eventually(lambda: desk.get("/")[0] == 200)
        assert "<h1" in desk.get("/")[1]
        assert "vestel_up 1\n" in desk.get("/metrics")[1]
        assert json.loads(desk.get("/vestel-data.json")[1])["identity"]["serial"] == "VEST1234567890"
        desk.charger.stop()
        eventually(lambda: desk.get("/vestel-data.json")[0] == 503)
        assert desk.get("/metrics")[1].splitlines()[-1] == "vestel_up 0"


def test_the_service_is_a_valid_unit_and_serves(desk: Desk) -> None:
    desk.spread()
    unit = desk.here(block("A systemd service", "ini"))
    for command in block("A systemd service", "sh").splitlines():
        assert desk.run("sh", "-ec", command).status == 0
    assert desk.log.read_text().count("systemctl") + desk.log.read_text().count("status") == 3
    analyze = needs("systemd-analyze", "systemd")
    (desk.home / "vestel.service").write_text(unit)
    assert desk.run(analyze, "verify", str(desk.home / "vestel.service")) == (0, "", "")
    ini = configparser.ConfigParser(interpolation=None)
    ini.read_string(unit)
    with desk.running(f"exec {ini['Service']['ExecStart']}"):
        eventually(lambda: "vestel_up 1" in desk.get("/metrics")[1])


# The series that the alert rules are tried on, and when which alert stands.
ALERTS = """
rule_files: [vestel-rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'vestel_up{instance="i", job="vestel"}', values: "1x20 0x4 1x5 0x10 _x10"}
    alert_rule_test:
      - {eval_time: 20m, alertname: VestelDown, exp_alerts: []}
      - {eval_time: 27m, alertname: VestelDown, exp_alerts: []}
      - eval_time: 37m
        alertname: VestelDown
        exp_alerts:
          - exp_labels: {instance: i, job: vestel}
            exp_annotations: {summary: The charger has not been read for 5 minutes.}
      - eval_time: 55m
        alertname: VestelDown
        exp_alerts:
          - exp_annotations: {summary: The charger has not been read for 5 minutes.}
  - interval: 1m
    input_series:
      - {series: 'vestel_up', values: "1x20"}
      - {series: 'vestel_fault{serial="S", bit="3", fault="Interlock Unlock Error"}', values: "0x20"}
      - {series: 'vestel_fault{serial="S", bit="4", fault="PP Error"}', values: "0x10 1x10"}
    alert_rule_test:
      - {eval_time: 10m, alertname: VestelFault, exp_alerts: []}
      - eval_time: 15m
        alertname: VestelFault
        exp_alerts:
          - exp_labels: {serial: S, bit: 4, fault: PP Error}
            exp_annotations: {summary: "The charger reports a fault: PP Error."}
  - interval: 1m
    input_series:
      - {series: 'vestel_charging_state{serial="S"}', values: "1x40 0x40"}
      - {series: 'vestel_dynamic_current_amperes{serial="S"}', values: "16x80"}
      - {series: 'vestel_current_amperes{serial="S", phase="1"}', values: "12.9x9 12.5x70"}
      - {series: 'vestel_current_amperes{serial="S", phase="2"}', values: "0.018x80"}
      - {series: 'vestel_charging_state{serial="T"}', values: "1x80"}
      - {series: 'vestel_dynamic_current_amperes{serial="T"}', values: "16x80"}
      - {series: 'vestel_current_amperes{serial="T", phase="1"}', values: "15.2x80"}
    alert_rule_test:
      - {eval_time: 20m, alertname: VestelChargesSlowly, exp_alerts: []}
      - eval_time: 30m
        alertname: VestelChargesSlowly
        exp_alerts:
          - exp_labels: {serial: S}
            exp_annotations: {summary: "The vehicle takes 12.5 A, less than 80 % of the dynamic current."}
      - {eval_time: 60m, alertname: VestelChargesSlowly, exp_alerts: []}
"""


def test_prometheus_takes_the_configuration_and_the_alerts_come_when_they_should(tmp_path: Path) -> None:
    promtool = needs("promtool", "prometheus")
    rules, use_of_rules = blocks("Alerts", "yaml")
    (tmp_path / "vestel-rules.yml").write_text(rules)
    (tmp_path / "prometheus.yml").write_text(block("Prometheus", "yaml") + use_of_rules)
    (tmp_path / "alerts.yml").write_text(ALERTS)
    for check in ("check config prometheus.yml", "check rules vestel-rules.yml", "test rules alerts.yml"):
        result = subprocess.run(
            [promtool, *check.split()],
            cwd=str(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert result.returncode == 0, result.stdout
        assert "3 rules found" in result.stdout or check.startswith("test")


def test_prometheus_scrapes_the_service(desk: Desk, tmp_path: Path) -> None:
    prometheus = needs("prometheus", "prometheus")
    (tmp_path / "prometheus.yml").write_text(desk.here(block("Prometheus", "yaml")))
    own = ["--config.file", str(tmp_path / "prometheus.yml"), "--storage.tsdb.path", str(tmp_path / "data")]
    port = free_port()
    place = ["--log.level=error", f"--web.listen-address=127.0.0.1:{port}"]
    query = f"http://127.0.0.1:{port}/api/v1/query?query=vestel_current_amperes"

    def series() -> list[Any]:
        with contextlib.suppress(OSError), urllib.request.urlopen(query, timeout=20) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found
        return []

    with desk.running(block("Serve readings over HTTP", "sh")), subprocess.Popen(
        [prometheus, *own, *place]
    ) as process:
        try:
            found = eventually(series)
        finally:
            process.terminate()
    labels = {"__name__": "vestel_current_amperes", "instance": f"localhost:{desk.port}", "job": "vestel"}
    assert [(one["metric"], float(one["value"][1])) for one in found] == [
        ({**labels, "serial": "VEST1234567890", "phase": phase}, amperes)
        for phase, amperes in [("1", 15.234), ("2", 15.181), ("3", 15.257)]
    ]


def test_node_exporter_never_sees_half_a_file(desk: Desk) -> None:
    exporter = needs("prometheus-node-exporter", "prometheus-node-exporter")
    desk.spread()
    (command,) = cron_commands("Prometheus through node_exporter")

    def file_after_a_run() -> str:
        assert desk.cron(command).status == 0
        assert [file.name for file in desk.textfiles.iterdir()] == ["vestel.prom"]
        return (desk.textfiles / "vestel.prom").read_text()

    own = ["--collector.disable-defaults", "--collector.textfile", "--log.level=error"]
    place = [
        f"--collector.textfile.directory={desk.textfiles}",
        f"--web.listen-address=127.0.0.1:{desk.port}",
    ]
    with desk.running(shlex.join(["exec", exporter, *own, *place])):
        assert 'vestel_max_power_watts{serial="VEST1234567890"} 22000\n' in file_after_a_run()
        seen = eventually(lambda: desk.get("/metrics")[1])
        assert "\nvestel_up 1\n" in seen
        assert 'vestel_current_amperes{phase="1",serial="VEST1234567890"} 15.234\n' in seen
        assert "\nnode_textfile_mtime_seconds{" in seen
        desk.charger.fault("reset")
        assert file_after_a_run() == "vestel_up 0\n"
        seen = desk.get("/metrics")[1]
        assert "\nvestel_up 0\n" in seen
        assert "\nnode_textfile_scrape_error 0\n" in seen
        assert "vestel_current_amperes" not in seen


def test_home_assistant_shows_the_values_and_knows_when_there_are_none(desk: Desk) -> None:
    (rest,) = yaml.safe_load(desk.here(block("Home Assistant", "yaml")))["rest"]
    assert rest["resource"] == f"http://127.0.0.1:{desk.port}/vestel-data.json"

    def shown(document: str) -> dict[str, str]:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
        values = {}
        for sensor in rest["sensor"]:
            available, value = (
                environment.from_string(sensor[key]) for key in ("availability", "value_template")
            )
            data = json.loads(document)
            there = available.render(value_json=data) == "True"
            values[sensor["name"]] = value.render(value_json=data) if there else "unavailable"
        return values

    with desk.running(block("Serve readings over HTTP", "sh")):
        eventually(lambda: desk.get("/vestel-data.json")[0] == 200)
        document = desk.get("/vestel-data.json")[1]
        assert shown(document) == {
            "Wallbox state": "Charging",
            "Wallbox power": "70501",
            "Wallbox session energy": "1940.301",
            "Wallbox meter": "121682.1",
        }
        for value in ('"Charging"', "70501", "1940.301", "121682.1"):
            document = document.replace(f" {value}", " null")
        assert set(shown(document).values()) == {"unavailable"}
        desk.charger.stop()
        eventually(lambda: desk.get("/vestel-data.json")[0] == 503)
        assert set(shown(desk.get("/vestel-data.json")[1]).values()) == {"unavailable"}
    assert {sensor.get("unit_of_measurement") for sensor in rest["sensor"]} == {None, "W", "kWh"}


# --- Reference ---


def helped(desk: Desk) -> str:
    return desk.vestel("--help", env={**desk.environment, "COLUMNS": "300"}).out


def test_the_options_are_those_of_the_help_both_ways(desk: Desk) -> None:
    lines = re.findall(r"^  (-.*?)  +(.*)$", re.sub(r"\n {20,}", "  ", helped(desk)), re.MULTILINE)
    defaults = {option: re.findall(r"default: ([\w.]+)", text) for option, text in lines}
    listed = {option: [default] if default else [] for option, _, default in table("Options")}
    assert listed == defaults


def test_the_configuration_keys_are_those_that_the_program_knows(desk: Desk) -> None:
    keys = {key: default for key, _, default in table("Configuration keys")}
    desk.configure("[vestel]\nip = 192.168.1.100\nport = 502\nsurely_unknown = 1\n")
    known = desk.vestel().err.strip().partition("known are ")[2]
    assert ", ".join(keys) == known
    assert all(default == dict(option_defaults())[f"--{key}"] for key, default in keys.items())


def option_defaults() -> list[tuple[str, str]]:
    return [(option.split()[0], default) for option, _, default in table("Options")]


@pytest.mark.parametrize(
    ("key", "least", "most", "beyond"),
    [
        ("port", "1", "65535", ["0", "65536"]),
        ("unit", "0", "255", ["-1", "256"]),
        ("base", "0", "1", ["2"]),
        ("timeout", "0.01", "60", ["0"]),
    ],
)
def test_a_configuration_key_takes_the_values_that_the_readme_names(
    desk: Desk, key: str, least: str, most: str, beyond: list[str]
) -> None:
    (values,) = [values for name, values, _ in table("Configuration keys") if name == key]
    assert values in (f"{least}-{most}", f"{least} or {most}", "seconds, above 0")
    for value in [least, most, *beyond]:
        settings = {"ip": "127.0.0.1", "port": desk.charger.port, key: value}
        desk.configure("[vestel]\n" + "".join(f"{name} = {held}\n" for name, held in settings.items()))
        result = desk.vestel()
        assert (result.status == 2) == (value in beyond)
        assert (f": {key}: '{value}' is no " in result.err) == (value in beyond)


UNITS = {"a": "A", "v": "V", "w": "W", "kw": "kW", "wh": "Wh", "kwh": "kWh", "s": "s"}


def test_the_json_keys_are_those_of_a_reading_with_their_units(desk: Desk) -> None:
    def paths(value: Any, above: str = "") -> list[str]:
        if not isinstance(value, dict):
            return [above[1:]]
        return [path for key, held in value.items() for path in paths(held, f"{above}.{key}")]

    reading = json.loads(desk.vestel("--details", "--format=json").out)
    assert reading["details"] == DETAILS
    assert [path for path, _, _ in table("JSON")] == paths(reading)
    for path, unit, _ in table("JSON"):
        assert unit == UNITS.get(path.rpartition("_")[2], "")


def test_the_metrics_are_those_of_the_program_with_their_labels(desk: Desk) -> None:
    printed = []
    for metric in desk.vestel("--details", "--format=prometheus").out.split("\n\n"):
        about, _, *samples = metric.strip().splitlines()
        name, text = about[len("# HELP ") :].split(" ", 1)
        labels = {", ".join(re.findall(r'(\w+)="', sample)) or "none" for sample in samples}
        printed.append([name, *labels, text])
    assert table("Metrics") == printed


def test_the_faults_are_those_of_the_metrics() -> None:
    rows = table("Faults")
    listed = [row[:2] for row in rows] + [row[2:] for row in rows]
    reading = {"states": {"fault_code": 0}}
    printed = re.findall(r'bit="(\d+)",fault="(.*?)"', vestel.format_prometheus(reading))
    assert listed == [[*pair] for pair in printed]
    assert len(listed) == 28


def test_the_exit_codes_are_those_of_the_help(desk: Desk) -> None:
    told = re.findall(r"(\d+) [a-z C]", helped(desk).split("exit codes: ")[1])
    assert [code for code, _ in table("Exit codes")] == told == ["0", "1", "2", "3", "130"]


def test_each_exit_code_comes_when_the_readme_says(desk: Desk) -> None:
    assert desk.vestel().status == 0
    assert desk.vestel("--set-current", "40").status == 3
    assert desk.vestel("--unit", "256").status == 2
    desk.charger.fault("reset")
    assert desk.vestel().status == 1
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "vestel.py"), "--demo", "--watch=1"],
            stdout=subprocess.PIPE,
            env=desk.environment,
        )
        with process:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(timeout=60) == status


def test_the_register_ranges_are_those_that_are_asked_for(desk: Desk) -> None:
    def listed(*when: str) -> list[tuple[int, int, int]]:
        ranges = []
        for registers, function, _, condition in table("What it reads"):
            first, _, last = registers.partition("-")
            if condition in when:
                ranges.append((int(function), int(first), int(last or first) - int(first) + 1))
        return ranges

    desk.vestel()
    assert desk.charger.reads == listed("always")
    desk.charger.requests.clear()
    desk.vestel("--details")
    assert desk.charger.reads == listed("always", "--details")
    assert desk.charger.writes == []


@pytest.mark.parametrize(
    ("option", "registers", "value"),
    [pytest.param(*row, id=row[0].split()[0]) for row in table("What it writes")],
)
def test_an_option_writes_the_registers_that_the_readme_names(
    desk: Desk, option: str, registers: str, value: str
) -> None:
    desk.charger.set(HOLDING, 2002, 2)
    command = option.replace(" A", " 12").replace("SECONDS", "1").replace("[HOST:]PORT", str(desk.port))
    expected = [(int(register), int(value.replace("A", "12"))) for register in registers.split(", ")]
    if expected[0][0] == 6000:
        with desk.running(f"./vestel.py {command}"):
            eventually(lambda: desk.charger.writes)
        assert set(desk.charger.writes) == set(expected)
    else:
        assert desk.vestel(*command.split()).status == 0
        assert desk.charger.writes == expected


# --- Troubleshooting ---


def refused(desk: Desk) -> str:
    return desk.vestel("--port", str(free_port())).err


def dead(desk: Desk) -> str:
    with dead_host() as port:
        return desk.vestel("--port", str(port), "--timeout", "0.2").err


def played(
    play: Any, *options: str, address: int | None = None, timeout: float = 0.3
) -> Callable[[Desk], str]:
    def scenario(desk: Desk) -> str:
        desk.charger.fault(play, address)
        return desk.vestel(f"--timeout={timeout}", *options).err

    return scenario


def configured(text: str) -> Callable[[Desk], str]:
    def scenario(desk: Desk) -> str:
        desk.configure(f"[vestel]\n{text}\n")
        return desk.vestel().err

    return scenario


def not_configured(desk: Desk) -> str:
    (desk.checkout / "vestel_modbus.ini").unlink()
    return desk.vestel().err


def impossible_power(desk: Desk) -> str:
    desk.charger.set(INPUT, 1020, 3, 53393)
    return desk.vestel().err


def without_pymodbus(desk: Desk) -> str:
    return desk.run(sys.executable, "-S", "vestel.py", "--ip", "127.0.0.1").err


def port_in_use(desk: Desk) -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", desk.port))
        listener.listen(1)
        return desk.vestel("--listen", str(desk.port)).err


def full_disk(desk: Desk) -> str:
    with open("/dev/full", "w") as full:
        return desk.vestel(stdout=full).err


def set_current(amps: int, shown: int) -> Callable[[Desk], str]:
    def scenario(desk: Desk) -> str:
        desk.charger.frozen[5004] = shown
        return desk.vestel("--set-dynamic-current", str(amps)).err

    return scenario


def refused_current(desk: Desk) -> str:
    desk.charger.fault(exception(3), function=6, executed=False)
    return desk.vestel("--set-dynamic-current", "10").err


def comes_and_goes(desk: Desk) -> str:
    with desk.running("./vestel.py --watch 1 --format=json") as so_far:
        eventually(lambda: so_far().out)
        desk.charger.fault("reset")
        eventually(lambda: "WARNING" in so_far().err)
        desk.charger.faults.clear()
        eventually(lambda: "answers again" in so_far().err)
        return so_far().err


FORTY = "ERROR: failed writing current: dynamic current 40 A is out of range"
ACKNOWLEDGED = "ERROR: failed writing current: dynamic current: {} A was acknowledged"

# How a message begins, and what brings it about.
PROVOKED: dict[str, Callable[[Desk], str]] = {
    "ERROR: Cannot connect to 192.168.1.100:502: connection refused": refused,
    "ERROR: Cannot connect to 192.168.1.100:502: no answer within": dead,
    "ERROR: Cannot connect to wallbox.lan:502": lambda desk: desk.vestel("--ip", "wallbox..lan").err,
    "ERROR: Cannot read 192.168.1.100:502: the charger closed the connection": played("reset"),
    "ERROR: Cannot read 192.168.1.100:502: no reply": played("silence", timeout=0.1),
    "ERROR: Cannot read 192.168.1.100:502: exception 2": played(exception(2)),
    "ERROR: Cannot read 192.168.1.100:502: a reply that is no Modbus": played("web server"),
    "WARNING: Cannot read input registers 230-279": played("silence", "--details", address=230),
    "WARNING: active power (input registers 1020-1021) is 250001 W": impossible_power,
    "ERROR: IP not set": not_configured,
    "ERROR: /opt/vestel/vestel_modbus.ini: port: '5o2'": configured("ip = 192.168.1.100\nport = 5o2"),
    "WARNING: /opt/vestel/vestel_modbus.ini: adress": configured(
        "ip = 192.168.1.100\nport = 502\nadress = wallbox"
    ),
    "ERROR: pymodbus 3 is missing": without_pymodbus,
    "ERROR: Cannot listen on 127.0.0.1:9946": port_in_use,
    "ERROR: cannot write to stdout": full_disk,
    FORTY: lambda desk: desk.vestel("--set-current", "40").err,
    ACKNOWLEDGED.format(10): set_current(10, shown=16),
    ACKNOWLEDGED.format(0): set_current(0, shown=6),
    "ERROR: failed writing current: dynamic current: 10 A was refused": refused_current,
    "WARNING: no reading since": comes_and_goes,
    "WARNING: 192.168.1.100:502 answers again": comes_and_goes,
}
MESSAGES = [b.text for b in BLOCKS if b.chapter == "Troubleshooting"]


def in_the_words_of_the_readme(desk: Desk, told: str) -> str:
    """Put the places, versions and times of README.md into what the program told here."""
    for pattern, there in [
        (r"wallbox\.\.lan:\d+", "wallbox.lan:502"),
        (rf"127\.0\.0\.1:{desk.port}\b", "127.0.0.1:9946"),
        (r"127\.0\.0\.1:(?!9946)\d+", "192.168.1.100:502"),
        (re.escape(str(desk.checkout)), "/opt/vestel"),
        (re.escape(str(desk.home)), "/home/you"),
        (re.escape(sys.executable), "/usr/bin/python3"),
        (r"\(Python [\d.]+\w*\)", "(Python 3.11.2)"),
        (r"within 0\.\d s", "within 2 s"),
        (r"(since|at) \d{4}-\d\d-\d\dT[\d:]+\+00:00", r"\1 2026-11-20T08:15:30+00:00"),
    ]:
        told = re.sub(pattern, there, told, flags=re.MULTILINE)
    return told


@pytest.mark.parametrize("start", PROVOKED, ids=[re.sub(r"\W+", " ", start)[:60] for start in PROVOKED])
def test_a_quoted_message_is_one_that_the_program_prints(desk: Desk, start: str) -> None:
    (message,) = [message for message in MESSAGES if message.startswith(start)]
    told = in_the_words_of_the_readme(desk, PROVOKED[start](desk))
    assert message in [f"{line}\n" for line in told.splitlines()]


def test_every_quoted_message_is_provoked() -> None:
    assert [message for message in MESSAGES if not message.startswith(tuple(PROVOKED))] == []
    assert len(MESSAGES) == len(PROVOKED)


# --- The rest of the page ---


def test_every_link_into_the_page_meets_a_heading() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= anchors
    assert set(re.findall(r"\]\[(.*?)\]", README)) == set(re.findall(r"^\[(.*?)\]: ", README, re.MULTILINE))


def test_the_files_that_the_readme_names_exist() -> None:
    layout = [line.split()[0] for line in blocks("Change the program", "text")[0].splitlines()]
    assert len(layout) == 5
    named = [word for command, _ in table("Change the program") for word in command.split() if "/" in word]
    for name in {*layout, *named}:
        assert name.startswith(".venv-tests/bin/") or (ROOT / name).exists(), name


def test_what_the_readme_names_in_the_code_is_there() -> None:
    program = (ROOT / "vestel.py").read_text(encoding="utf-8")
    simulation = (ROOT / "tests" / "simulated_charger.py").read_text(encoding="utf-8")
    for name, text in [
        ("CORE_TABLE", program),
        ("DETAILS_TABLE", program),
        ("METRICS", program),
        ("HUMAN", program),
    ]:
        assert re.search(rf"^{name}\b.* = ", text, re.MULTILINE), name
    assert re.search(r"^BLOCKS\b.* = ", simulation, re.MULTILINE)
    assert [
        f"`{name}`" in README for name in ("CORE_TABLE", "DETAILS_TABLE", "METRICS", "HUMAN", "BLOCKS")
    ] == [True] * 5
