"""The five settings: each as an option and in the file, its default, and which of the two wins."""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Memory, Result, Run
from simulated_charger import SimulatedCharger, late

DEFAULTS = {"port": 502, "unit": 1, "base": 0, "timeout": 2.0}
EXAMPLE = ROOT / "vestel_modbus.ini.example"


def write(path: Path, **settings: Any) -> Path:
    """Write a configuration file."""
    path.parent.mkdir(exist_ok=True)
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    path.write_text("[vestel]\n" + "".join(lines), encoding="utf-8")
    return path


def reached(memory: Memory) -> dict[str, Any]:
    """Where the only charger was looked for, and how."""
    (target,) = memory.targets
    return {name: getattr(target, name) for name in ("ip", *DEFAULTS)}


WAYS = pytest.mark.parametrize("way", ["option", "file", "option over file"])


def given(way: str, beside: Path, **settings: Any) -> list[str]:
    """Give settings as options, in the file, or as options over other ones there."""
    if way == "file":
        write(beside, **settings)
        return []
    if way == "option over file":
        write(beside, ip="127.0.0.9", port=1, unit=9, base=0, timeout=0.001)
    return [f"--{key}={value}" for key, value in settings.items()]


@pytest.fixture
def apply(request: pytest.FixtureRequest, memory: Memory, call: Run, tmp_path: Path) -> Run:
    """Run with settings, in the way that the test asks for."""
    beside = tmp_path / "opt" / "vestel_modbus.ini"

    def run_with(**settings: Any) -> Result[str]:
        return call(*given(request.getfixturevalue("way"), beside, **settings))

    return run_with


@WAYS
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        *[("port", "1", 1), ("port", "65535", 65535)],
        *[("unit", "0", 0), ("unit", "1", 1), ("unit", "255", 255)],
        *[("base", "0", 0), ("base", "1", 1)],
        *[
            ("timeout", "0.001", 0.001),
            ("timeout", "2", 2.0),
            ("timeout", "2.5", 2.5),
            ("timeout", "60", 60.0),
        ],
        *[
            ("ip", "127.0.0.1", "127.0.0.1"),
            ("ip", "localhost", "localhost"),
            ("ip", "LOCALHOST", "LOCALHOST"),
        ],
        *[("ip", "wall-box.lan", "wall-box.lan"), ("ip", "fe80::1%eth0", "fe80::1%eth0")],
        *[("ip", "::1", "::1"), ("ip", "[::1]", "::1"), ("ip", "0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:1")],
    ],
)
def test_a_setting_reaches_the_charger(
    memory: Memory, apply: Run, way: str, key: str, text: str, value: Any
) -> None:
    others = {"ip": "127.0.0.1", "port": 5020, "unit": 7, "base": 1, "timeout": 30.0}
    result = apply(**{**others, key: text})
    assert (result.returncode, result.stderr) == (0, "")
    assert reached(memory) == {**others, key: value}


def test_the_defaults_are_those_of_the_manual(memory: Memory, call: Run) -> None:
    assert call("--ip=charger").returncode == 0
    assert reached(memory) == {"ip": "charger", **DEFAULTS}


@WAYS
@pytest.mark.parametrize("key", DEFAULTS)
def test_what_is_not_given_has_its_default(
    memory: Memory, call: Run, tmp_path: Path, way: str, key: str
) -> None:
    settings = {"ip": "charger", "port": 5020, "unit": 7, "base": 1, "timeout": 30.0}
    del settings[key]
    if way == "option over file":  # those of one place add to those of the other
        write(tmp_path / "opt" / "vestel_modbus.ini", ip="charger", unit=9)
        settings.pop("unit", None)
        options = given("option", tmp_path, **settings)
        expected = {"unit": 9, **settings}
    else:
        options = given(way, tmp_path / "opt" / "vestel_modbus.ini", **settings)
        expected = settings
    assert call(*options).returncode == 0
    assert reached(memory) == {**DEFAULTS, **expected}


@pytest.mark.parametrize("way", ["option", "file"])
def test_a_process_takes_every_setting_to_the_wire(
    charger: SimulatedCharger, run: Run, tmp_path: Path, way: str
) -> None:
    (tmp_path / "opt").mkdir()
    script = shutil.copy2(str(ROOT / "vestel.py"), str(tmp_path / "opt"))
    charger.base = 1
    charger.fault(late(0.3), address=5003)
    settings = {"ip": charger.host, "port": charger.port, "unit": 17, "base": 1, "timeout": 60}
    result = run(*given(way, tmp_path / "opt" / "vestel_modbus.ini", **settings), script=script)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Dynamic Current:     16 A\n" in result.stdout
    assert {request.unit for request in charger.requests} == {17}
    assert charger.requests[0].address == 99


# --- What the repository ships ------------------------------------------------------------------


def test_the_example_file_is_accepted_as_it_stands(memory: Memory, call: Run, tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    shutil.copy(str(EXAMPLE), str(tmp_path / "opt" / "vestel_modbus.ini"))
    result = call()
    assert (result.returncode, result.stderr) == (0, "")
    assert reached(memory) == {"ip": "192.168.1.100", **DEFAULTS}


def test_the_example_file_holds_every_key_with_its_default() -> None:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    parser.read(EXAMPLE, encoding="utf-8")
    keys = {"ip": "192.168.1.100", "port": "502", "unit": "1", "base": "0", "timeout": "2.0"}
    assert {name: dict(parser[name]) for name in parser.sections()} == {"vestel": keys}
