"""What surrounds the file: languages, its name, Python, pymodbus, and what the repository ships."""

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
from typing import Any, Callable, Sequence

import pytest
from charger import SimulatedCharger
from door import free_port
from program import ROOT, SCRIPT, Result, Run, needs, side_by_side, target
from readings import FORMATS, WHOLE, reading_of
from registers import CORE_RANGES, INPUT, READING, reads, text

USUAL = {"timestamp": WHOLE["timestamp"], **READING}


def finish(arguments: Sequence[Any], **more: Any) -> Result[str]:
    """Run a process to its end."""
    how: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "timeout": 120}
    return subprocess.run([*map(str, arguments)], check=False, **{**how, **more})


# --- Languages and encodings --------------------------------------------------------------------

NAME = "Käse-1 ✓"
NO_UTF_8 = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "LANG=C": {"LANG": "C"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "no UTF-8 whatever": NO_UTF_8,
    "PYTHONUTF8=0": {"PYTHONUTF8": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "ascii:strict": {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
    "env -i": {},
}


def foreign(name: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that has, or seems to have, no UTF-8."""
    return {} if name == "env -i" else {**environment, **ENVIRONMENTS[name]}


@pytest.fixture
def foreign_box(charger: SimulatedCharger, tmp_path: Path) -> SimulatedCharger:
    """Give a charger whose serial number and brand are not ASCII."""
    charger.set(100, *text(NAME, 25), bank=INPUT)
    charger.set(190, *text(NAME, 10), bank=INPUT)
    # Without HOME, a real configuration might be found.
    (tmp_path / "empty.ini").write_text("[vestel]\n", encoding="utf-8")
    return charger


SHOWN = {
    "human": [f"^Serial: +{NAME}$", f"^Brand: +{NAME}$"],
    "json": [re.escape(json.dumps(NAME)[1:-1])],
    "prometheus": [f'^vestel_info{{serial="{NAME}",.*brand="{NAME}"'],
}


@pytest.mark.parametrize(
    ("name", "style"),
    [
        *((name, "human") for name in ENVIRONMENTS),
        ("no UTF-8 whatever", "json"),
        ("no UTF-8 whatever", "prometheus"),
    ],
)
def test_text_outlives_every_environment(
    foreign_box: SimulatedCharger,
    run: Run,
    environment: dict[str, str],
    tmp_path: Path,
    name: str,
    style: str,
) -> None:
    options = "--details", f"--format={style}", f"--config={tmp_path / 'empty.ini'}"
    result = run(*options, charger=foreign_box, env=foreign(name, environment))
    assert (result.returncode, result.stderr) == (0, "")
    for pattern in SHOWN[style]:
        assert re.search(pattern, result.stdout, re.MULTILINE)


@pytest.mark.parametrize("style", FORMATS)
def test_terminal_without_these_characters_shows_all_others(
    foreign_box: SimulatedCharger, run_on_terminal: Run, style: str
) -> None:
    variables = {"PYTHONIOENCODING": "ascii:strict", **NO_UTF_8}
    result = run_on_terminal("--details", f"--format={style}", charger=foreign_box, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    assert len(re.findall(r"K\S+se-1 ", result.stdout)) >= 2


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_error_that_stderr_cannot_show_is_a_line_all_the_same(
    run: Run, environment: dict[str, str], name: str
) -> None:
    result = run(f"--config=/missing/{NAME}", env=foreign(name, environment))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch("ERROR: /missing/K.*se-1 .*\n", result.stderr)


# --- The file as a user has it ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "cwd"),
    [
        pytest.param("./vestel.py", "opt", id="in its directory"),
        pytest.param("opt/vestel.py", ".", id="from above"),
        pytest.param("{home}/opt/vestel.py", "elsewhere", id="from elsewhere"),
        pytest.param("./wallbox", "elsewhere", id="a link"),
        pytest.param("wallbox", ".", id="a link on the PATH"),
    ],
)
def test_script_runs_by_its_own_name(
    charger: SimulatedCharger, environment: dict[str, str], tmp_path: Path, path: str, cwd: str
) -> None:
    for directory in ("opt", "elsewhere", "bin"):
        (tmp_path / directory).mkdir()
    shutil.copy2(SCRIPT, tmp_path / "opt")
    (tmp_path / "elsewhere/wallbox").symlink_to("../opt/vestel.py")
    (tmp_path / "bin/wallbox").symlink_to(tmp_path / "opt/vestel.py")
    python = tmp_path / "bin/python3"  # not a link: a virtual environment would not know itself
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    arguments = [path.format(home=tmp_path), *target(charger), "--format=json"]
    variables = {**environment, "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}"}
    result = finish(arguments, cwd=tmp_path / cwd, env=variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert reading_of(result.stdout) == USUAL


def test_script_metadata_and_requirements_agree() -> None:
    source = SCRIPT.read_text("utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", source, re.MULTILINE)
    pairs = (line[2:].split(" = ", 1) for line in block.splitlines())
    metadata = {name: ast.literal_eval(value) for name, value in pairs}
    assert metadata == {"requires-python": ">=3.8", "dependencies": ["pymodbus>=3.0,<4"]}
    requirements = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert requirements == metadata["dependencies"]


def test_top_level_holds_only_what_a_user_looks_for() -> None:
    made_by_use = {"__pycache__", "vestel_modbus.ini"}  # both are in .gitignore
    names = {name for name in os.listdir(ROOT) if not name.startswith(".")} - made_by_use
    assert names == {
        *("vestel.py", "vestel_modbus.ini.example", "tests"),
        *("README.md", "LICENSE", "requirements.txt"),
    }


def test_script_is_executable_and_finds_its_python() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_bytes().startswith(b"#!/usr/bin/env python3\n")


# --- pymodbus -----------------------------------------------------------------------------------

Trap = Callable[[str], "dict[str, str]"]
END = "raise SystemExit('pymodbus was imported')"


@pytest.fixture
def trap(tmp_path: Path, environment: dict[str, str]) -> Trap:
    """Return the environment of a process where importing pymodbus does that."""

    def set_trap(code: str) -> dict[str, str]:
        library = tmp_path / "library"
        library.mkdir()
        (library / "pymodbus.py").write_text(code + "\n", encoding="utf-8")
        return {**environment, "PYTHONPATH": str(library)}

    return set_trap


@pytest.mark.parametrize(
    ("option", "code"),
    [("--demo", 0), ("--help", 0), ("--version", 0), ("--port=0", 2), ("--no", 2)],
)
def test_pymodbus_is_loaded_only_where_it_is_needed(
    run: Run, trap: Trap, option: str, code: int
) -> None:
    result = run("--ip=127.0.0.1", option, env=trap(END))
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
def test_one_line_says_which_python_lacks_pymodbus(run: Run, trap: Trap, code: str) -> None:
    result = run("--ip=127.0.0.1", f"--port={free_port()}", env=trap(code))
    assert (result.returncode, result.stdout) == (1, "")
    python = re.escape(sys.executable)
    assert re.fullmatch(rf"ERROR: pymodbus .*{python}.*pip install.*\n", result.stderr)
    assert "apt install python3-pymodbus python3-serial-asyncio" in result.stderr


def test_package_of_the_distribution_reads_a_charger(
    charger: SimulatedCharger, tmp_path: Path
) -> None:
    """Debian and Raspberry Pi OS ship pymodbus 3.0.0 for their own Python."""
    needs("dpkg", "dpkg")
    python = "/usr/bin/python3"
    where = "import pymodbus.client; print(pymodbus.__file__)"
    probe = finish([python, "-c", where], cwd=str(tmp_path))
    if probe.returncode:
        needs("python3-pymodbus", "python3-pymodbus")
    assert probe.stdout.startswith("/usr/lib/python3/dist-packages/")
    arguments = [python, SCRIPT, *target(charger), "--format=json"]
    result = finish(arguments, env={"HOME": str(tmp_path)})
    assert (result.returncode, result.stderr) == (0, "")
    assert reading_of(result.stdout) == USUAL
    assert (charger.connections, charger.reads) == (1, reads(CORE_RANGES))


# --- A Python that is too old -------------------------------------------------------------------

TOO_OLD = r"ERROR: .*\bPython 3\.8\b.*\bPython 3\.7\.\d+\b.*\n"  # what is needed, and what it is
COMMANDS: list[list[str]] = [[], ["--help"], ["--demo"], ["--ip=127.0.0.1"]]


def python37() -> str:
    """Return the path of a Python 3.7 that runs, or nothing."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [*sorted(root.glob("versions/3.7.*/bin")), *map(Path, os.get_exec_path())]
    found = [place / "python3.7" for place in places if (place / "python3.7").exists()]
    runs = (python for python in found if finish([python, "-c", ""]).returncode == 0)
    return str(next(runs, ""))


def test_python_3_7_is_told_in_one_line(environment: dict[str, str]) -> None:
    python = python37()
    if not python:
        pytest.skip("needs Python 3.7; the two tests below hold the same rule")

    def check(options: list[str]) -> None:
        result = finish([python, SCRIPT, *options], env=environment)
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(TOO_OLD, result.stderr)

    side_by_side(check, COMMANDS)


def test_file_compiles_on_python_3_7() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))


PRETEND = """
import collections, runpy, sys
version = collections.namedtuple("version", "major minor micro releaselevel serial")
sys.version, sys.version_info = "3.7.16 (default)", version(3, 7, 16, "final", 0)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_python_that_calls_itself_3_7_is_told_in_one_line(environment: dict[str, str]) -> None:
    result = finish([sys.executable, "-c", PRETEND, SCRIPT, "--demo"], env=environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(TOO_OLD, result.stderr)
