"""The five settings: as options and in the configuration file, and what is wrong with that."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
from conftest import Memory
from program import ROOT, Result, Run
from test_options import REFUSED, cases

import vestel

pytestmark = pytest.mark.every_version

NAME = "vestel_modbus.ini"
EXAMPLE = ROOT / f"{NAME}.example"
BESIDE, IN_HOME = f"opt/{NAME}", f".config/{NAME}"
DEFAULTS = {"port": 502, "unit": 1, "base": 0, "timeout": 2.0}
SETTINGS: dict[str, Any]
SETTINGS = {"ip": "127.0.0.1", "port": 5020, "unit": 7, "base": 1, "timeout": 30.0}
OTHER_SETTINGS = {"ip": "127.0.0.9", "port": 1, "unit": 9, "base": 0, "timeout": 0.001}
OTHER = {"ip": "127.0.0.9", "unit": 9, "base": 1, "nonsense": 1}  # of a file that is not read


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the home directory of the program, which stands in opt/. It is the working directory."""
    monkeypatch.chdir(tmp_path)
    for directory in ("opt", ".config", "work"):
        (tmp_path / directory).mkdir()
    return tmp_path.resolve()


def write(path: Path, **settings: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    path.write_text("[vestel]\n" + "".join(lines), encoding="utf-8")
    return path


def assert_well(result: Result[str], memory: Memory, stderr: str = "", **settings: Any) -> None:
    assert (result.returncode, result.stderr) == (0, stderr)
    (target,) = memory.targets
    assert target._asdict() == {**DEFAULTS, **settings}


def assert_error(result: Result[str], memory: Memory, beginning: str, *words: str) -> None:
    assert (result.returncode, result.stdout, memory.targets) == (2, "", [])
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"ERROR: {beginning}")
    assert line.isprintable()
    assert [word for word in words if word not in line[len(f"ERROR: {beginning}") :]] == []


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
    memory: Memory, call: Run, home: Path, way: str, key: str, text: str
) -> None:
    expected, given = {**SETTINGS, key: TAKEN[key][text]}, {**SETTINGS, key: text}
    memory.base = expected["base"]
    if way != "option":
        write(home / BESIDE, **(given if way == "file" else OTHER_SETTINGS))
    options = () if way == "file" else [f"--{key}={held}" for key, held in given.items()]
    assert_well(call(*options), memory, **expected)


def test_the_example_holds_every_key_with_its_default(memory: Memory, call: Run) -> None:
    assert_well(call("--config", str(EXAMPLE)), memory, ip="192.168.1.100")
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    parser.read(EXAMPLE, encoding="utf-8")
    expected = {"ip": "192.168.1.100", "port": "502", "unit": "1", "base": "0", "timeout": "2.0"}
    assert {name: dict(parser[name]) for name in parser.sections()} == {"vestel": expected}


BOX: dict[str, Any] = {"ip": "charger", "unit": 4}
PLACES: dict[str, tuple[dict[str, Any], str, str]] = {  # files, options, and what an ERROR names
    "beside the script": ({BESIDE: BOX, IN_HOME: OTHER}, "", ""),
    "in home": ({IN_HOME: BOX}, "", ""),
    "--config": ({BESIDE: OTHER, IN_HOME: OTHER, "box.cfg": BOX}, "--config=box.cfg", ""),
    "none at all": ({}, "--ip=charger --unit=4", ""),
    "options add to it": ({BESIDE: {"ip": "charger", "unit": 9}}, "--unit=4", ""),
    "no ip in the first file": ({BESIDE: {"unit": 3}, IN_HOME: BOX}, "", BESIDE),
    "no ip in that of --config": ({"a.ini": {"unit": 3}, BESIDE: BOX}, "--config=a.ini", "a.ini"),
    "not beside": ({}, "", BESIDE),
    "not in home": ({}, "", IN_HOME),
    "a file in the working directory": ({NAME: OTHER}, "", BESIDE),
    "another directory": ({f"work/{NAME}": OTHER}, "", BESIDE),
    "another name": ({".vestel_modbus.ini": OTHER}, "", BESIDE),
    ".config beside the script": ({f"opt/{IN_HOME}": OTHER}, "", BESIDE),
}


@pytest.mark.parametrize(("files", "options", "named"), PLACES.values(), ids=[*PLACES])
def test_the_first_file_is_used_alone(
    memory: Memory, call: Run, home: Path, files: dict[str, Any], options: str, named: str
) -> None:
    for name, settings in files.items():
        write(home / name, **settings)
    result = call(*options.split())
    if named:
        assert_error(result, memory, "IP not set", "--ip", named)
    else:
        assert_well(result, memory, **BOX)


def test_beside_the_script_means_where_its_links_lead(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / BESIDE, **BOX)
    write(home / "bin" / NAME, **OTHER)
    (home / "bin/vestel.py").symlink_to("../opt/vestel.py")
    (home / "wallbox").symlink_to(home / "bin/vestel.py")
    monkeypatch.setattr(vestel, "__file__", str(home / "wallbox"))
    assert_well(call(), memory, **BOX)


@pytest.mark.parametrize("options", ["", "--config=missing.ini"])
def test_demo_reads_no_file(memory: Memory, call: Run, home: Path, options: str) -> None:
    for name in (BESIDE, IN_HOME):
        (home / name).write_bytes(b"\xff")
    result = call("--demo", *options.split())
    assert (result.returncode, result.stderr) == (0, "")


# fmt: off
WRITTEN = {
    "plain": "[vestel]\nip = charger\nport = 5020\nunit = 7\n",
    "BOM, CRLF": "\ufeff[vestel]\r\nip = charger ; mine\r\nport = 5020\r\n\r\nunit = 7",
    ";": "[vestel]\nip = charger ; Garage\nport = 5020\t; TCP\nunit = 7 ;; ; one",
    "#": "[vestel]\nip = charger # Garage\nport = 5020\t# TCP ; port\nunit = 7 ; 100 % # sure\n",
    "comments": "; Wallbox\n# Höhe: 1 m, 50 %\n\n[vestel] ; mine\n ; more\nip=charger\n\n"
                "port=5020\n#unit=8\nunit=7",
    "colon": "[vestel]\nip: charger\nport : 5020\nunit:7\n",
    "case": "[vestel]\nIP = charger\nPort = 5020\nUNIT =    7   \n",
    "other sections": "[other]\nip = other\n[vestel]\nip = charger\nport = 5020\nunit = 7\n"
                      "[more]\nunit = 8\nx = 50%\n",
}
# fmt: on


@pytest.mark.parametrize("text", WRITTEN.values(), ids=[*WRITTEN])
def test_a_file_may_be_written_so(memory: Memory, call: Run, home: Path, text: str) -> None:
    (home / BESIDE).write_bytes(text.encode())
    assert_well(call(), memory, ip="charger", port=5020, unit=7)


@pytest.mark.parametrize("value", ["1", "50%", "%(ip)s", "${ip}", ""])
def test_an_unknown_key_is_a_warning_that_names_the_known(
    memory: Memory, call: Run, home: Path, value: str
) -> None:
    path = write(home / BESIDE, ip="charger", unti=value, details="yes")
    about = "unknown key, ignored; known are ip, port, unit, base, timeout"
    lines = [f"WARNING: {path}: {key}: {about}\n" for key in ("unti", "details")]
    assert_well(call(), memory, "".join(lines), ip="charger")


SPECIAL = ["50%", "%(port)s", "%(nothing)s", "%%", "%", "${ip}", "5;2", "5#2", "'1'"]


@pytest.mark.parametrize(("key", "value"), cases({**REFUSED, "unit": REFUSED["unit"] + SPECIAL}))
def test_a_bad_value_names_the_file_and_the_key(
    memory: Memory, call: Run, home: Path, key: str, value: str
) -> None:
    path = write(home / "box.ini", **{"ip": "charger", key: value})
    assert_error(call("--config", str(path)), memory, f"{path}: {key}: ")


IP = b"[vestel]\nip = 127.0.0.9\n"
# fmt: off
MALFORMED: dict[str, tuple[bytes, str]] = {  # and a word of the ERROR
    "empty": (b"", "vestel"), "comment only": (b"; [vestel]\n", "vestel"),
    "no section header": (b"ip = 127.0.0.9\n", ""),
    "another section only": (b"[charger]\nip = 127.0.0.9\n", "vestel"),
    "section in another case": (b"[Vestel]\nip = 127.0.0.9\n", "vestel"),
    "open section header": (b"[vestel\nip = 127.0.0.9\n", ""),
    "empty section header": (b"[]\nip = 127.0.0.9\n", ""),
    "section twice": (IP + b"[vestel]\nunit = 1\n", "vestel"),
    "key twice": (IP + b"port = 1\nport = 1\n", "port"),
    "key twice, another case": (IP + b"Port = 1\nport = 2\n", "port"),
    "key without value": (IP + b"port\n", "port"), "value without key": (IP + b"= 502\n", ""),
    "known keys without value": (b"[vestel]\nip\nport\nunit\n", "ip"),
    "continued value": (IP + b"  port = 502\n", "ip: "),
    "continued after a blank line": (IP + b"port = 502\n\n  503\n", "port: "),
    "key without value, continued": (b"[vestel]\nip\n  127.0.0.9\n", ""),
    "indented all": (b"  [vestel]\n    ip = 127.0.0.9\n      port = 502\n", "ip: "),
    "broken and escaping": (IP + b"\x1b[31mport\n", ""),
    "Latin-1": (IP + b"port = 502 ; H\xf6he\n", ""),
    "UTF-16": ("[vestel]\nip = 127.0.0.9\n".encode("utf-16"), ""),
    "binary": (bytes(range(256)) * 20, ""), "zeros": (bytes(5000), ""),
    "NUL in a value": (b"[vestel]\nip = 127.0.0.9\0\n", "ip: "),
    "JSON": (b'{"ip": "127.0.0.9"}\n', ""), "YAML": (b"vestel:\n  ip: 127.0.0.9\n", ""),
    "only carriage returns": (b"[vestel]\rport\r", "port"),
    "many bad lines": (b"[vestel]\n" + b"port\n" * 2000, ""),
}
# fmt: on


@pytest.mark.parametrize(("content", "word"), MALFORMED.values(), ids=[*MALFORMED])
def test_a_malformed_file_is_one_error_that_names_it(
    memory: Memory, call: Run, home: Path, content: bytes, word: str
) -> None:
    (home / BESIDE).write_bytes(content)
    write(home / IN_HOME, **BOX)
    for options in ([], ["--ip=charger"]):
        assert_error(call(*options), memory, f"{home / BESIDE}: ", word)


@pytest.mark.parametrize(
    "name", ["missing.ini", "opt", "missing/box.ini", "opt/vestel.py/x", "a" * 300, ""]
)
def test_a_file_that_cannot_be_read_is_an_error(
    memory: Memory, call: Run, home: Path, name: str
) -> None:
    (home / "opt/vestel.py").touch()
    write(home / BESIDE, **BOX)
    beginning = f"{name}: " if name else "--config is empty"
    for options in ([], ["--ip=charger"]):
        assert_error(call(f"--config={name}", *options), memory, beginning)
