"""The five settings: each as an option and in the file, its default, and which of the two wins."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
from charger import SimulatedCharger
from conftest import Memory
from program import ROOT, Run

DEFAULTS = {"port": 502, "unit": 1, "base": 0, "timeout": 2.0}
OTHERS = {"ip": "127.0.0.1", "port": 5020, "unit": 7, "base": 1, "timeout": 30.0}
EXAMPLE = ROOT / "vestel_modbus.ini.example"
NAME = "vestel_modbus.ini"


def write(path: Path, **settings: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    path.write_text("[vestel]\n" + "".join(lines), encoding="utf-8")
    return path


def reached(memory: Memory) -> dict[str, Any]:
    (target,) = memory.targets
    return target._asdict()


def given(way: str, beside: Path, **settings: Any) -> list[str]:
    """Give settings as options, in the file, or as options over other ones there."""
    if way == "file":
        write(beside, **settings)
        return []
    if way == "option over file":
        write(beside, ip="127.0.0.9", port=1, unit=9, base=0, timeout=0.001)
    return [f"--{key}={value}" for key, value in settings.items()]


# fmt: off
TAKEN: dict[str, dict[str, Any]] = {  # key -> text -> value
    "port": {"1": 1, "65535": 65535},
    "unit": {"0": 0, "1": 1, "255": 255},
    "base": {"0": 0, "1": 1},
    "timeout": {"0.001": 0.001, ".5": 0.5, "2": 2.0, "2.5": 2.5, "60": 60.0},
    "ip": {"127.0.0.1": "127.0.0.1", "localhost": "localhost", "LOCALHOST": "LOCALHOST",
           "wall-box.lan": "wall-box.lan", "wall_box": "wall_box", "fe80::1%eth0": "fe80::1%eth0",
           "::1": "::1", "[::1]": "::1", "0:0:0:0:0:0:0:1": "0:0:0:0:0:0:0:1"},
}
# fmt: on


@pytest.mark.parametrize("way", ["option", "file", "option over file"])
@pytest.mark.parametrize(("key", "text"), [(key, text) for key in TAKEN for text in TAKEN[key]])
def test_a_setting_reaches_the_charger(
    memory: Memory, call: Run, tmp_path: Path, way: str, key: str, text: str
) -> None:
    expected = {**OTHERS, key: TAKEN[key][text]}
    memory.base = expected["base"]
    result = call(*given(way, tmp_path / "opt" / NAME, **{**OTHERS, key: text}))
    assert (result.returncode, result.stderr) == (0, "")
    assert reached(memory) == expected


def test_what_is_not_given_has_its_default(memory: Memory, call: Run) -> None:
    assert call("--ip=charger").returncode == 0
    assert reached(memory) == {"ip": "charger", **DEFAULTS}


def test_options_add_to_the_settings_of_the_file(memory: Memory, call: Run, tmp_path: Path) -> None:
    write(tmp_path / "opt" / NAME, ip="charger", unit=9)
    assert call("--port=5020", "--timeout=30").returncode == 0
    assert reached(memory) == {"ip": "charger", "port": 5020, "unit": 9, "base": 0, "timeout": 30.0}


@pytest.mark.needs_os
def test_every_setting_reaches_the_wire(charger: SimulatedCharger, call: Run) -> None:
    charger.base = 1
    options = ["--ip", charger.host, "--port", str(charger.port), "--unit=17", "--base=1"]
    result = call(*options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Dynamic Current:     16 A\n" in result.stdout
    assert {request.unit for request in charger.requests} == {17}


def test_the_example_holds_every_key_with_its_default(memory: Memory, call: Run) -> None:
    result = call("--config", str(EXAMPLE))
    assert (result.returncode, result.stderr) == (0, "")
    assert reached(memory) == {"ip": "192.168.1.100", **DEFAULTS}
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    parser.read(EXAMPLE, encoding="utf-8")
    expected = {"ip": "192.168.1.100", "port": "502", "unit": "1", "base": "0", "timeout": "2.0"}
    assert {name: dict(parser[name]) for name in parser.sections()} == {"vestel": expected}
