"""README.md, taken apart, and a reader's computer to try it on.

Nothing of what is tried is typed again: it is taken out of README.md. Only its places are
replaced: the address of the charger, /opt/vestel, the directory of node_exporter and the port
of --listen.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

from conftest import ROOT
from simulated_charger import SimulatedCharger, free_port

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


def cron_commands(text: str) -> list[str]:
    """The commands of a crontab, whose times are checked on the way."""
    commands = []
    for line in text.splitlines():
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
    "systemctl": 'echo systemctl "$@" >> "{log}"',
    "sleep": "",
}


class Desk:
    """A reader's computer: a checkout, a home, and a charger at the address in README.md.

    Stand-ins are what would need root, install packages or wait: venv, pip, apt, systemctl, sleep.
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
        (self.checkout / "vestel_modbus.ini").write_text(self.here(block("Configure", "ini")))
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

    def spread(self) -> None:
        """Do what README.md says, so that /opt/vestel is ready."""
        assert self.shell(block("A fixed place", "sh")) == (0, "", "")

    def run(self, *command: str, **more: Any) -> Result:
        options = {"cwd": str(self.checkout), "env": self.environment, **more}
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            **options,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def shell(self, script: str, **more: Any) -> Result:
        """Run a block of README.md."""
        return self.run("sh", "-ec", self.here(script), **more)

    def cron(self, command: str) -> Result:
        """Run a line of a crontab in the small environment that cron gives."""
        small = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "LOGNAME": "you"}
        for name in ("sleep", "systemctl"):
            command = re.sub(rf"\b{name} ", f"{self.stubs}/{name} ", command)
        return self.run("/bin/sh", "-c", self.here(command), env=small, cwd=str(self.home))

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
        return get(f"http://127.0.0.1:{self.port}{path}")


def get(url: str) -> tuple[int, str]:
    """The status and the text that a server answers; 0 where nothing listens."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
