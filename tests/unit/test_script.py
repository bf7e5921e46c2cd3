"""The file vestel.py: what it says of itself to tools, and what lies beside it."""

from __future__ import annotations

import ast
import os
import re

import pytest
from program import ROOT, SCRIPT

SOURCE = SCRIPT.read_text(encoding="utf-8")


def test_script_metadata_and_requirements_agree() -> None:
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+)# ///$", SOURCE, re.MULTILINE)
    pairs = (line[2:].split(" = ", 1) for line in block.splitlines())
    metadata = {name: ast.literal_eval(value) for name, value in pairs}
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert metadata == {"requires-python": ">=3.8", "dependencies": ["pymodbus>=3.0,<4"]}
    assert requirements == metadata["dependencies"]


@pytest.mark.needs_os  # the checkout is there as a whole
def test_the_top_level_holds_what_a_user_looks_for() -> None:
    made_by_use = {"__pycache__", "vestel_modbus.ini"}  # both are in .gitignore
    names = {name for name in os.listdir(ROOT) if not name.startswith(".")} - made_by_use
    assert names == {
        *("vestel.py", "vestel_modbus.ini.example", "tests"),
        *("README.md", "LICENSE", "requirements.txt"),
    }


@pytest.mark.needs_os
def test_the_script_is_executable_and_finds_its_python() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SOURCE.startswith("#!/usr/bin/env python3\n")


def test_the_file_compiles_on_python_3_7() -> None:
    ast.parse(SOURCE, feature_version=(3, 7))


def imported_at_once() -> set[str]:
    """Return the modules that vestel.py imports before it does anything."""
    found = set()
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    slow = {"pymodbus", "logging", "json", "configparser", "socket", "http", "socketserver"}
    assert not slow & imported_at_once()
