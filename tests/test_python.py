"""What Python has to offer: its version, pymodbus, and that nothing is loaded before it is needed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
from conftest import SCRIPT, Run
from simulated_charger import free_port

Trap = Callable[[str], "dict[str, str]"]


@pytest.fixture
def trap(tmp_path: Path, environment: dict[str, str]) -> Trap:
    """Return the environment of a process where importing pymodbus does that."""

    def set_trap(code: str) -> dict[str, str]:
        library = tmp_path / "library"
        library.mkdir()
        (library / "pymodbus.py").write_text(code + "\n", encoding="utf-8")
        return {**environment, "PYTHONPATH": str(library)}

    return set_trap


# --- pymodbus -----------------------------------------------------------------------------------

END = "raise SystemExit('pymodbus was imported')"


def test_the_demo_needs_no_pymodbus(run: Run, trap: Trap) -> None:
    result = run("--demo", "--details", env=trap(END))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("== Identity ==\n")


@pytest.mark.parametrize(
    ("option", "status"),
    [("--help", 0), ("--version", 0), ("--port=0", 2), ("--unit=256", 2), ("--format=xml", 2), ("--no", 2)],
)
def test_help_and_usage_errors_need_no_pymodbus(run: Run, trap: Trap, option: str, status: int) -> None:
    result = run("--ip=127.0.0.1", option, env=trap(END))
    assert result.returncode == status
    assert "pymodbus was imported" not in result.stderr
    assert bool(result.stdout) == (status == 0)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("raise ModuleNotFoundError('No module named pymodbus')", id="missing"),
        pytest.param("", id="another module"),
        pytest.param("raise AttributeError('module asyncio has no coroutine')", id="too old for this Python"),
    ],
)
def test_without_pymodbus_one_line_names_the_python_and_what_to_do(run: Run, trap: Trap, code: str) -> None:
    result = run("--ip=127.0.0.1", f"--port={free_port()}", env=trap(code))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"ERROR: .*{re.escape(sys.executable)}.*pip install.*\n", result.stderr)


# --- A Python that is too old -------------------------------------------------------------------

OPTIONS = pytest.mark.parametrize("options", [[], ["--help"], ["--demo"], ["--ip=127.0.0.1"]], ids=" ".join)
TOO_OLD = r"ERROR: .*\bPython 3\.7\.\d+\b.*\b3\.8\b.*: \w.*\n"  # what it is, what is needed, what to do


def python37() -> str:
    """The path of a Python 3.7 that runs, or nothing."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [*sorted(root.glob("versions/3.7.*/bin")), *map(Path, os.get_exec_path())]
    found = [str(place / "python3.7") for place in places if (place / "python3.7").exists()]
    runs = (
        python
        for python in found
        if subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0
    )
    return next(runs, "")


PYTHON_37 = python37()


@pytest.mark.skipif(not PYTHON_37, reason="needs Python 3.7; the two tests below hold the same rule")
@OPTIONS
def test_python_3_7_is_told_in_one_line(environment: dict[str, str], options: list[str]) -> None:
    told = subprocess.run(
        [PYTHON_37, str(SCRIPT), *options],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert re.fullmatch(TOO_OLD, told.stderr)


def test_the_file_compiles_on_python_3_7() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))


PRETEND = """
import collections, runpy, sys
version = collections.namedtuple("version", "major minor micro releaselevel serial")
sys.version, sys.version_info = "3.7.16 (default)", version(3, 7, 16, "final", 0)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@OPTIONS
def test_a_python_that_calls_itself_3_7_is_told_in_one_line(
    environment: dict[str, str], options: list[str]
) -> None:
    told = subprocess.run(
        [sys.executable, "-c", PRETEND, str(SCRIPT), *options],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert re.fullmatch(TOO_OLD, told.stderr)
