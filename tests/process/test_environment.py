"""What surrounds the file: languages, its name, Python, pymodbus, and what the repository ships."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

import pytest
from charger import SimulatedCharger
from door import free_port
from program import ROOT, SCRIPT, Result, Run, target
from readings import WHOLE, reading_of
from registers import INPUT, READING, text


def finish(arguments: Sequence[Any], **more: Any) -> Result[str]:
    """Run a process to its end."""
    how: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "timeout": 120}
    return subprocess.run([*map(str, arguments)], check=False, **{**how, **more})


NAME = "Käse-1 ✓"
NO_UTF_8 = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "LC_ALL=C": {"LC_ALL": "C"},
    "no UTF-8 whatever": NO_UTF_8,
    "ascii:strict": {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
    "env -i": {},
}


@pytest.fixture
def foreign_box(charger: SimulatedCharger, tmp_path: Path) -> SimulatedCharger:
    """Give a charger whose serial number and brand are not ASCII."""
    charger.set(100, *text(NAME, 25), bank=INPUT)
    charger.set(190, *text(NAME, 10), bank=INPUT)
    # Without HOME, a real configuration might be found.
    (tmp_path / "empty.ini").write_text("[vestel]\n", encoding="utf-8")
    return charger


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_text_outlives_every_environment(
    foreign_box: SimulatedCharger, run: Run, environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    env = {} if name == "env -i" else {**environment, **ENVIRONMENTS[name]}
    style = "prometheus" if name == "no UTF-8 whatever" else "human"
    options = "--details", f"--format={style}", f"--config={tmp_path / 'empty.ini'}"
    result = run(*options, charger=foreign_box, env=env)
    assert (result.returncode, result.stderr) == (0, "")
    shown = {"human": f"^Serial: +{NAME}$", "prometheus": f'^vestel_info.*brand="{NAME}"'}
    assert re.search(shown[style], result.stdout, re.MULTILINE)
    error = run(f"--config=/missing/{NAME}", env=env)
    assert (error.returncode, error.stdout) == (2, "")
    assert re.fullmatch("ERROR: /missing/K.*se-1 .*\n", error.stderr)


def test_terminal_without_these_characters_shows_all_others(
    foreign_box: SimulatedCharger, run_on_terminal: Run
) -> None:
    variables = {"PYTHONIOENCODING": "ascii:strict", **NO_UTF_8}
    result = run_on_terminal("--details", charger=foreign_box, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    assert len(re.findall(r"K\S+se-1 ", result.stdout)) >= 2


def test_script_runs_by_its_own_name(
    charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path
) -> None:
    for directory in ("opt", "bin"):
        (tmp_path / directory).mkdir()
    shutil.copy2(SCRIPT, tmp_path / "opt")
    (tmp_path / "bin/wallbox").symlink_to("../opt/vestel.py")
    python = tmp_path / "bin/python3"  # not a link: a virtual environment would not know itself
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    variables = {**environment, "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}"}
    for path, directory in (("opt/vestel.py", "."), ("./wallbox", "bin"), ("wallbox", ".")):
        arguments = [path, *target(charger), "--format=json"]
        result = finish(arguments, cwd=tmp_path / directory, env=variables)
        assert (result.returncode, result.stderr) == (0, "")
        assert reading_of(result.stdout) == {"timestamp": WHOLE["timestamp"], **READING}


def test_script_metadata_and_requirements_agree() -> None:
    source = SCRIPT.read_text("utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", source, re.MULTILINE)
    pairs = (line[2:].split(" = ", 1) for line in block.splitlines())
    metadata = {name: ast.literal_eval(value) for name, value in pairs}
    assert metadata == {"requires-python": ">=3.8", "dependencies": ["pymodbus>=3.0,<4"]}
    assert os.access(SCRIPT, os.X_OK)
    assert source.startswith("#!/usr/bin/env python3\n")
    requirements = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert requirements == metadata["dependencies"]


def test_top_level_holds_only_what_a_user_looks_for() -> None:
    made_by_use = {"__pycache__", "vestel_modbus.ini"}  # both are in .gitignore
    names = {name for name in os.listdir(ROOT) if not name.startswith(".")} - made_by_use
    assert names == {
        *("vestel.py", "vestel_modbus.ini.example", "tests"),
        *("README.md", "LICENSE", "requirements.txt"),
    }


def without_pymodbus(code: str, home: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process where importing pymodbus does that."""
    (home / "pymodbus.py").write_text(code + "\n", encoding="utf-8")
    return {**environment, "PYTHONPATH": str(home)}


@pytest.mark.parametrize(("option", "code"), [("--demo", 0), ("--help", 0), ("--port=0", 2)])
def test_pymodbus_is_loaded_only_where_it_is_needed(
    run: Run, tmp_path: Path, environment: dict[str, str], option: str, code: int
) -> None:
    imported = "raise SystemExit('pymodbus was imported')"
    result = run("--ip=::1", option, env=without_pymodbus(imported, tmp_path, environment))
    assert result.returncode == code
    assert "pymodbus was imported" not in result.stderr
    assert bool(result.stdout) == (code == 0)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("raise ModuleNotFoundError('No module named pymodbus')", id="missing"),
        pytest.param("", id="another module"),
        pytest.param("raise AttributeError('no coroutine')", id="too old for this Python"),
    ],
)
def test_one_line_says_which_python_lacks_pymodbus(
    run: Run, tmp_path: Path, environment: dict[str, str], code: str
) -> None:
    env = without_pymodbus(code, tmp_path, environment)
    result = run("--ip=127.0.0.1", f"--port={free_port()}", env=env)
    assert (result.returncode, result.stdout) == (1, "")
    python = re.escape(sys.executable)
    assert re.fullmatch(rf"ERROR: pymodbus .*{python}.*pip install.*\n", result.stderr)
    assert "apt install python3-pymodbus python3-serial-asyncio" in result.stderr


PRETEND = """
import collections, runpy, sys
version = collections.namedtuple("version", "major minor micro releaselevel serial")
sys.version, sys.version_info = "3.7.16 (default)", version(3, 7, 16, "final", 0)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_python_3_7_is_told_in_one_line(environment: dict[str, str]) -> None:
    """A real one where there is one, and one that calls itself so; the file compiles on it."""
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    pythons: list[list[Any]] = [[sys.executable, "-c", PRETEND]]
    pythons += [[path] for path in sorted(versions.glob("3.7.*/bin/python3.7"))[:1]]
    for python in pythons:
        result = finish([*python, SCRIPT, "--demo"], env=environment)
        assert (result.returncode, result.stdout) == (1, "")
        wanted_and_found = r"\bPython 3\.8\b.*\bPython 3\.7\.\d+\b"
        assert re.fullmatch(rf"ERROR: .*{wanted_and_found}.*\n", result.stderr)
