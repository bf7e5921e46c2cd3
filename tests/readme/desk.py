"""A reader's computer, on which what README.md says is tried.

Only places are replaced: the addresses, /opt/vestel, the directory of node_exporter and the ports.
"""

from __future__ import annotations

import collections
import contextlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

from charger import SimulatedCharger
from door import free_port
from manual import block
from program import ROOT, Answer, Http

VENV = 'mkdir -p "$3/bin" && cp {stubs}/python {stubs}/pip {stubs}/activate "$3/bin"'
# What would need root, install packages, or wait; and in "tools", what a crontab meets, too.
PROGRAMS = {
    "stubs/python3": f'case "$1 $2" in "-m venv") {VENV} ;; *) exec {{python}} "$@" ;; esac',
    "stubs/python": 'exec {python} "$@"',
    "stubs/pip": '[ "$1 $2" = "install -r" ] && cat "$3" ${{5:+"$5"}} > {log}.pip',
    "stubs/activate": 'PATH="$PWD/.venv/bin:$PATH"',
    "stubs/sudo": 'case $1 in apt|systemctl) echo "$@" >> {log} ;; *) exec "$@" ;; esac',
    "stubs/nano": ":",
    "tools/sleep": 'echo "$1" >> {log}.sleeps; [ ! -e {log}.over ] && exec /bin/sleep 0.02',
    "tools/mosquitto_pub": 'exec /usr/bin/mosquitto_pub -p "$BROKER" "$@"',
    "tools/mosquitto_sub": 'exec /usr/bin/mosquitto_sub -p "$BROKER" "$@"',
}


Ended = collections.namedtuple("Ended", "status out err")


class Desk:
    """A checkout in /opt/vestel, a home, and a charger at the address of README.md.

    The program polls every 0.1 s there, so that nobody has to wait for the next poll.
    """

    def __init__(self, tmp: Path, charger: SimulatedCharger) -> None:
        self.charger, self.service, self.scripts = charger, Http(free_port()), 0
        self.home, self.opt, self.textfiles = tmp / "you", tmp / "vestel", tmp / "textfiles"
        self.log, self.tools, stubs = tmp / "log", tmp / "tools", tmp / "stubs"
        for directory in (self.home, self.opt, self.textfiles, self.tools, stubs):
            directory.mkdir()
        for name, text in PROGRAMS.items():
            filled = text.format(stubs=stubs, python=sys.executable, log=self.log)
            (tmp / name).write_text(f"#!/bin/sh\n{filled}\n")
            (tmp / name).chmod(0o755)
        for name in ("vestel.py", "requirements.txt", "vestel_modbus.ini.example"):
            shutil.copy(str(ROOT / name), str(self.opt))
        self.replace("vestel.py", "POLLING_INTERVAL_S = 5.0", "POLLING_INTERVAL_S = 0.1")
        self.replace("vestel_modbus.ini.example", "ip = 192.168.1.100", "ip = 127.0.0.1")
        self.replace("vestel_modbus.ini.example", "port = 502", f"port = {charger.port}")
        path = f"{self.tools}:{stubs}:{os.environ['PATH']}"
        self.environment = {"HOME": str(self.home), "PATH": path, "TZ": "Europe/Berlin"}
        self.environment["BROKER"] = str(free_port())  # of mosquitto
        assert block("Configure", "sh").startswith("cp -n ")  # it keeps what is there
        assert self.shell("python3 -m venv .venv\n" + block("Configure", "sh")).status == 0

    def replace(self, name: str, there: str, here: str) -> None:
        text = (self.opt / name).read_text(encoding="utf-8")
        assert there in text
        (self.opt / name).write_text(text.replace(there, here), encoding="utf-8")

    def here(self, text: str) -> str:
        """Replace the places of README.md by those of this desk."""
        for there, here in [
            ("--ip 192.168.1.100", f"--ip 127.0.0.1 --port {self.charger.port}"),
            ("192.168.1.50/", f"127.0.0.1:{self.service.port}/"),
            ("/opt/vestel", str(self.opt)),
            ("/var/lib/prometheus/node-exporter", str(self.textfiles)),
            ("9946", str(self.service.port)),
        ]:
            text = text.replace(there, here)
        assert "192.168." not in text
        return text

    def run(self, *command: str, **more: Any) -> Ended:
        how = {"cwd": str(self.opt), "env": self.environment, "stdin": subprocess.DEVNULL, **more}
        streams: dict[str, Any] = {"capture_output": True, "encoding": "utf-8"}
        ended = subprocess.run(command, check=False, timeout=120, **streams, **how)
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def shell(self, script: str, **more: Any) -> Ended:
        """Run a block of README.md."""
        return self.run("sh", "-ec", self.here(script), **more)

    def cron(self, command: str, **more: Any) -> Ended:
        """Run a line of a crontab in the small environment that cron gives."""
        path = f"{self.tools}:/usr/bin:/bin"
        small = {"HOME": str(self.home), "PATH": path, "SHELL": "/bin/sh"}
        return self.run("sh", "-c", self.here(command), env=small, cwd=str(self.home), **more)

    @contextlib.contextmanager
    def running(self, script: str) -> Iterator[tuple[Path, Path]]:
        """Run a script that stays; give the files with what it prints to stdout and stderr."""
        self.scripts += 1
        out, err = (self.home / f"{stream} {self.scripts}" for stream in ("out", "err"))
        command = ["sh", "-ec", self.here(script)]
        how: dict[str, Any] = {"env": self.environment, "start_new_session": True}
        with out.open("w") as stdout, err.open("w") as stderr:
            how.update(stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            process = subprocess.Popen(command, cwd=str(self.opt), **how)
        try:
            yield out, err
            assert process.poll() is None, err.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)

    @property
    def amps(self) -> str:
        """What is in the file of --hold."""
        return (self.opt / "amps").read_text()

    def get(self, path: str) -> Answer:
        """Ask the service; the status is 0 while nothing listens."""
        with contextlib.suppress(OSError):
            return self.service.ask(path)
        return Answer(0, {}, "")

    @contextlib.contextmanager
    def answering(self, answer: Callable[[str], str]) -> Iterator[None]:
        """Be the service and the smart meter: answer by path, and 503 where that gives nothing."""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = answer(self.path)
                self.send_response(200 if text else 503)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        where = ("127.0.0.1", self.service.port)
        with http.server.ThreadingHTTPServer(where, Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def play(self, script: str, rounds: list[dict[str, str]]) -> list[str]:
        """Run a script that sleeps, and then asks for these paths, again and again.

        Return the file of --hold, with 16 A in the beginning, as it is after each round.
        """
        (self.opt / "amps").write_text("16\n")
        over, found = Path(f"{self.log}.over"), [""]

        def answer(path: str) -> str:
            if path == next(iter(rounds[0])):
                found.append(self.amps)
                if len(found) > len(rounds):
                    over.touch()
            return rounds[len(found) - 2][path]

        with self.answering(answer):
            ended = self.shell(script)
        over.unlink()
        assert (ended.status, ended.err) == (0, "")
        return [*found[2:], self.amps]
