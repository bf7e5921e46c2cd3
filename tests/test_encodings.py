"""Languages and encodings: no environment costs a reading, or an error line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Run
from readings import FORMATS
from registers import INPUT, text
from simulated_charger import SimulatedCharger

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
    """The environment of a process that has, or seems to have, no UTF-8."""
    return {} if name == "env -i" else {**environment, **ENVIRONMENTS[name]}


@pytest.fixture
def foreign_box(charger: SimulatedCharger, tmp_path: Path) -> SimulatedCharger:
    """A charger whose serial number and brand are not ASCII."""
    charger.set(INPUT, 100, *text(NAME, 25))
    charger.set(INPUT, 190, *text(NAME, 10))
    (tmp_path / "empty.ini").write_text("[vestel]\n", encoding="utf-8")  # no HOME: not the real one
    return charger


@pytest.mark.parametrize(
    ("name", "style"),
    [(name, "human") for name in ENVIRONMENTS]
    + [(name, style) for name in ("no UTF-8 whatever", "env -i") for style in ("json", "prometheus")],
)
def test_text_outlives_every_environment(
    foreign_box: SimulatedCharger,
    run: Run,
    environment: dict[str, str],
    tmp_path: Path,
    name: str,
    style: str,
) -> None:
    options = ["--details", f"--format={style}", f"--config={tmp_path / 'empty.ini'}"]
    result = run(*options, charger=foreign_box, env=foreign(name, environment))
    assert (result.returncode, result.stderr) == (0, "")
    if style == "json":
        reading = json.loads(result.stdout)
        assert (reading["identity"]["serial"], reading["details"]["brand"]) == (NAME, NAME)
    elif style == "human":
        assert re.search(f"^Serial: +{NAME}$", result.stdout, re.MULTILINE)
        assert re.search(f"^Brand: +{NAME}$", result.stdout, re.MULTILINE)
    else:
        assert re.search(f'^vestel_info{{serial="{NAME}",.*brand="{NAME}"', result.stdout, re.MULTILINE)


@pytest.mark.parametrize("style", FORMATS)
def test_a_terminal_without_these_characters_shows_all_others(
    foreign_box: SimulatedCharger, run_on_terminal: Run, style: str
) -> None:
    variables = {"PYTHONIOENCODING": "ascii:strict", **NO_UTF_8}
    result = run_on_terminal("--details", f"--format={style}", charger=foreign_box, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    assert len(re.findall(r"K\S+se-1 ", result.stdout)) >= 2


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_error_about_a_name_that_stderr_cannot_show_is_a_line_all_the_same(
    run: Run, environment: dict[str, str], name: str
) -> None:
    result = run(f"--config=/missing/{NAME}", env=foreign(name, environment))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch("ERROR: /missing/K.*se-1 .*\n", result.stderr)
