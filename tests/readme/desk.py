"""A reader's computer, on which what README.md says is tried.

Only places are replaced: the addresses, /opt/vestel, the directory of node_exporter and the ports.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from charger import SimulatedCharger
from door import free_port
from manual import block
from program import ROOT, Answer, Http, eventually

VENV = 'mkdir -p "$3/bin" && cp {stubs}/python {stubs}/pip {stubs}/activate "$3/bin"'
# What would need root, install packages, or wait.
STUBS = {
    "python3": f'case "$1 $2" in "-m venv") {VENV} ;; *) exec {{python}} "$@" ;; esac',
    "python": 'exec {python} "$@"',
    "pip": """
        [ "$1" = install ] && shift && [ "$1" = -r ] || exit 9
        while [ "$1" = -r ]; do [ -r "$2" ] && shift 2 || exit 8; done
        exit $#""",
    "activate": 'PATH="$PWD/.venv/bin:$PATH"',
    "sudo": 'case $1 in apt|systemctl) echo "$@" >> {log} ;; *) exec "$@" ;; esac',
}
# What a crontab meets, too. Each `sleep` is noted, and waits for the test only if that steps.
TOOLS = {
    "sleep": """
        echo "$1" >> {log}.sleeps
        if [ -p {log}.steps ]; then read -r _ < {log}.steps; else exec /bin/sleep 0.02; fi""",
    "mosquitto_pub": 'exec /usr/bin/mosquitto_pub -p "$BROKER" "$@"',
    "mosquitto_sub": 'exec /usr/bin/mosquitto_sub -p "$BROKER" "$@"',
}


class Ended(NamedTuple):
    """What became of a command."""

    status: int
    out: str
    err: str


class Desk:
    """A checkout in /opt/vestel, a home, and a charger at the address of README.md.

    The program polls every 0.1 s there, so that nobody has to wait for the next poll.
    """

    def __init__(self, tmp: Path, charger: SimulatedCharger) -> None:
        self.charger, self.service = charger, Http(free_port())
        self.broker = self.meter = 0  # ports
        self.scripts = 0  # that were started
        self.home, self.opt, self.textfiles = tmp / "you", tmp / "vestel", tmp / "textfiles"
        self.charger_log = self.home / "charger.jsonl"
        self.log, stubs, tools = tmp / "log", tmp / "stubs", tmp / "tools"
        for directory in (self.home, self.opt, self.textfiles, stubs, tools):
            directory.mkdir()
        for place, programs in ((stubs, STUBS), (tools, TOOLS)):
            for name, text in programs.items():
                filled = text.format(stubs=stubs, python=sys.executable, log=self.log)
                (place / name).write_text(f"#!/bin/sh\n{textwrap.dedent(filled)}\n")
                (place / name).chmod(0o755)
        program = (ROOT / "vestel.py").read_text(encoding="utf-8")
        assert "POLLING_INTERVAL_S = 5.0" in program
        hasty = program.replace("POLLING_INTERVAL_S = 5.0", "POLLING_INTERVAL_S = 0.1")
        (self.opt / "vestel.py").write_text(hasty, encoding="utf-8")
        (self.opt / "vestel.py").chmod(0o755)
        shutil.copy(str(ROOT / "requirements.txt"), str(self.opt))
        example = (ROOT / "vestel_modbus.ini.example").read_text(encoding="utf-8")
        (self.opt / "vestel_modbus.ini.example").write_text(self.here(example), encoding="utf-8")
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{tools}:{stubs}:{os.environ['PATH']}",
            "TZ": "Europe/Berlin",
        }
        self.cron_path = f"{tools}:/usr/bin:/bin"
        self.shell("python3 -m venv .venv\n" + block("Configure", "sh"))

    def here(self, text: str) -> str:
        """Replace the places of README.md by those of this desk."""
        for there, here in [
            ("--ip 192.168.1.100", f"--ip 127.0.0.1 --port {self.charger.port}"),
            ("ip = 192.168.1.100", "ip = 127.0.0.1"),
            ("port = 502", f"port = {self.charger.port}"),
            ("192.168.1.50/", f"127.0.0.1:{self.meter}/"),
            ("/opt/vestel", str(self.opt)),
            ("/var/lib/prometheus/node-exporter", str(self.textfiles)),
            ("9946", str(self.service.port)),
        ]:
            text = text.replace(there, here)
        assert "192.168." not in text
        return text

    @property
    def slept(self) -> list[str]:
        """How long each `sleep` was to last that has begun."""
        path = Path(f"{self.log}.sleeps")
        return path.read_text().splitlines() if path.exists() else []

    def get(self, path: str) -> Answer:
        """Ask the service; the status is 0 while nothing listens."""
        with contextlib.suppress(OSError):
            return self.service.ask(path)
        return Answer(0, {}, "")

    # --- Commands -------------------------------------------------------------------------------

    def run(self, *command: str, **more: Any) -> Ended:
        streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8"}
        how = {"cwd": str(self.opt), "env": self.environment, "timeout": 120, **streams, **more}
        ended = subprocess.run(command, check=False, **how)
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def shell(self, script: str, **more: Any) -> Ended:
        """Run a block of README.md."""
        return self.run("sh", "-ec", self.here(script), **more)

    def cron(self, command: str, **more: Any) -> Ended:
        """Run a line of a crontab in the small environment that cron gives."""
        small = {"HOME": str(self.home), "PATH": self.cron_path, "SHELL": "/bin/sh"}
        command = self.here(command)
        return self.run("/bin/sh", "-c", command, env=small, cwd=str(self.home), **more)

    @contextlib.contextmanager
    def running(self, script: str, steps: bool = False) -> Iterator[Started]:
        """Run a script that stays, until the end of the block; `steps` is for Started.step."""
        if steps:
            os.mkfifo(f"{self.log}.steps")
        started = Started(self, self.here(script))
        try:
            yield started
        finally:
            started.end()

    @property
    def amps(self) -> str:
        """What is in the file of --hold."""
        return (self.opt / "amps").read_text()


class Started:
    """A script that stays."""

    def __init__(self, desk: Desk, script: str) -> None:
        self.desk = desk
        desk.scripts += 1
        self._paths = [desk.home / f"{stream} {desk.scripts}" for stream in ("out", "err")]
        with self._paths[0].open("w") as out, self._paths[1].open("w") as err:
            self.process = subprocess.Popen(
                ["sh", "-ec", script],
                cwd=str(desk.opt),
                env={**desk.environment, "BROKER": str(desk.broker)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._paths[0].read_text()

    @property
    def err(self) -> str:
        return self._paths[1].read_text()

    def wait_for(self, out: str, err: str) -> None:
        """Wait until that was printed, by a script that goes on."""
        eventually(lambda: re.search(out, self.out) and re.search(err, self.err))
        assert self.process.poll() is None

    def step(self) -> None:
        """Let the script's sleep end, and wait for the next one."""
        eventually(lambda: self.desk.slept)
        before = len(self.desk.slept)
        eventually(self._end_sleep)
        eventually(lambda: len(self.desk.slept) > before)

    def _end_sleep(self) -> bool:
        assert self.process.poll() is None, self.err
        with contextlib.suppress(OSError):  # it does not read yet
            steps = os.open(f"{self.desk.log}.steps", os.O_WRONLY | os.O_NONBLOCK)
            os.write(steps, b"\n")
            os.close(steps)
            return True
        return False

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=60)


@contextlib.contextmanager
def answering(answers: dict[str, str]) -> Iterator[int]:
    """Serve these texts by path, 503 for "", until the end of the block; give the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = answers[self.path]
            self.send_response(200 if text else 503)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
