# ruff: noqa: D103 (the name of a test is its rule)
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
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import jinja2
import pytest
import yaml  # type: ignore[import-untyped]
from conftest import DETAILS, READING, ROOT, eventually, needs
from simulated_charger import HOLDING, INPUT, SimulatedCharger, dead_host, exception, free_port

README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block, and under which headings it stands."""

    chapter: str
    heading: str
    language: str
    text: str


def _blocks() -> list[Block]:
    found, chapter, heading = [], "", ""
    parts = re.findall(r"^(#+) (.+)$|^( *)```(\w+)\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
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
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows[2:]]


CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def cron_commands(heading: str) -> list[str]:
    """The commands of a crontab, whose times are checked on the way."""
    commands = []
    for line in block(heading, "crontab").splitlines():
        *fields, command = line.split(" ", 5)
        for field, (least, most) in zip(fields, CRON_FIELDS):
            time, _, step = field.partition("/")
            assert time == "*" or least <= int(time) <= most
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
    "Limits and safety": ["Serial: +VEST1234567890"],
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
    commands: Dict[str, List[str]] = {}
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
    if "/usr/bin/python3" in script and subprocess.run(["/usr/bin/python3", "-c", "import pymodbus.client"]).returncode:
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
    assert shlex.split(tests)[-5:] == ["-m", "pytest", "-n", "2", "tests"]


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
    desk.charger.masters = 0
    assert desk.cron(command) == (1, "", "")
    desk.charger.masters = 1
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


def fine(desk: Desk) -> None:
    pass


def unread_after_the_writes(desk: Desk) -> None:
    desk.charger.fault("reset", address=2000, function=6, skip=1)
    desk.charger.fault(lambda request, reply: desk.charger.faults.clear() or [(0, reply)], address=2000, function=6)


@pytest.mark.parametrize(
    ("status", "happens"),
    [
        (0, lambda desk: None),
        (1, lambda desk: desk.charger.fault("reset", address=100)),
        (2, lambda desk: (desk.checkout / "vestel_modbus.ini").unlink()),
        (3, lambda desk: desk.charger.fault(exception(4), function=6)),
        (3, lambda desk: setattr(desk.charger, "masters", 0)),
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
