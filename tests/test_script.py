"""The file as a user has it: started by its name, from cron, and with what the repository ships."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPT, Run
from readings import WHOLE, flat, reading_of
from registers import HOLDING, READING
from simulated_charger import SimulatedCharger, simulated_charger


@pytest.mark.parametrize(
    ("command", "cwd"),
    [
        ("./vestel.py", "opt"),
        ("opt/vestel.py", "."),
        ("{home}/opt/vestel.py", "elsewhere"),
        ("./wallbox", "elsewhere"),
        ("wallbox", "."),
    ],
    ids=["in its directory", "from above", "from elsewhere", "a link", "a link on the PATH"],
)
def test_the_script_runs_by_its_own_name(
    charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path, command: str, cwd: str
) -> None:
    for directory in ("opt", "elsewhere", "bin"):
        (tmp_path / directory).mkdir()
    shutil.copy2(SCRIPT, tmp_path / "opt")
    (tmp_path / "elsewhere/wallbox").symlink_to("../opt/vestel.py")
    (tmp_path / "bin/wallbox").symlink_to(tmp_path / "opt/vestel.py")
    python = tmp_path / "bin/python3"  # no link: a virtual environment would not know itself
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    result = subprocess.run(
        [command.format(home=tmp_path), "--ip", charger.host, "--port", str(charger.port), "--format=json"],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path / cwd,
        env={**environment, "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}"},
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert flat(reading_of(result.stdout)) == flat({"timestamp": WHOLE["timestamp"], **READING})


def test_a_log_grows_by_a_line_a_run_and_by_none_where_a_run_fails(call: Run, tmp_path: Path) -> None:
    with (tmp_path / "log").open("a", encoding="utf-8") as log:

        def readings(charger: SimulatedCharger, *currents: int) -> list[int]:
            statuses = []
            for current in currents:
                charger.set(HOLDING, 5004, current)
                statuses.append(call("--format=json", charger=charger, stdout=log).returncode)
            return statuses

        with simulated_charger() as charger:
            statuses = readings(charger, 10, 11, 12)
        failed = call("--format=json", charger=charger, stdout=log)
        assert failed.stderr.startswith("ERROR: Cannot connect to ")
        with simulated_charger() as charger:
            statuses += [failed.returncode, *readings(charger, 13, 14)]
    assert statuses == [0, 0, 0, 1, 0, 0]
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    currents = [json.loads(line)["settings"]["dynamic_current_a"] for line in lines]
    assert currents == [10, 11, 12, 13, 14]


# --- What the repository ships ------------------------------------------------------------------


def test_script_metadata_and_requirements_agree() -> None:
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", SCRIPT.read_text("utf-8"), re.MULTILINE)
    pairs = (line[2:].split(" = ", 1) for line in block.splitlines())
    metadata = {name: ast.literal_eval(value) for name, value in pairs}
    requirements = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert metadata == {"requires-python": ">=3.8", "dependencies": ["pymodbus>=3.0,<4"]}
    assert requirements == metadata["dependencies"]


def test_the_top_level_holds_only_what_a_user_looks_for() -> None:
    made_by_use = {"__pycache__", "vestel_modbus.ini"}  # both are in .gitignore
    names = {name for name in os.listdir(ROOT) if not name.startswith(".")} - made_by_use
    assert names == {
        *("vestel.py", "vestel_modbus.ini.example", "tests"),
        *("README.md", "LICENSE", "requirements.txt"),
    }


def test_the_script_is_executable_and_finds_its_python() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_bytes().startswith(b"#!/usr/bin/env python3\n")
