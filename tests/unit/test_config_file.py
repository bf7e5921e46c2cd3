"""The configuration file: where it is looked for, what it may hold, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Memory
from program import Result, Run
from test_options import REFUSED, cases
from test_settings import DEFAULTS, NAME, reached, write

import vestel

pytestmark = pytest.mark.every_version

BESIDE, IN_HOME = f"opt/{NAME}", f".config/{NAME}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give the home directory of the program, which stands in opt/."""
    (tmp_path / "opt").mkdir()
    (tmp_path / ".config").mkdir()
    return tmp_path.resolve()


def assert_well(result: Result[str]) -> None:
    """The run has logged nothing."""
    assert (result.returncode, result.stderr) == (0, "")


def assert_error(result: Result[str], beginning: str, *words: str) -> None:
    """The run has ended in one ERROR line about the configuration."""
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"ERROR: {beginning}")
    assert result.stderr.endswith("\n")
    assert result.stderr[:-1].isprintable(), "more than a line, or a control character"
    for word in words:
        assert word in result.stderr[len(f"ERROR: {beginning}") :]


# --- Where it is looked for ---------------------------------------------------------------------


def test_the_file_beside_the_script_is_used_alone(memory: Memory, call: Run, home: Path) -> None:
    write(home / BESIDE, ip="charger")
    write(home / IN_HOME, ip="127.0.0.9", unit=9, base=1, nonsense=1)
    assert_well(call())
    assert reached(memory) == {"ip": "charger", **DEFAULTS}


def test_what_the_first_file_lacks_is_not_in_the_second(
    memory: Memory, call: Run, home: Path
) -> None:
    write(home / BESIDE, unit=3)
    write(home / IN_HOME, ip="charger")
    assert_error(call(), "IP not set", str(home / BESIDE))
    assert memory.targets == []


@pytest.mark.parametrize("spoil", [Path.mkdir, Path.touch], ids=["directory", "empty"])
def test_a_bad_first_file_hides_a_good_second_one(
    memory: Memory, call: Run, home: Path, spoil: Any
) -> None:
    spoil(home / BESIDE)
    write(home / IN_HOME, ip="charger")
    assert_error(call(), f"{home / BESIDE}: ")
    assert memory.targets == []


def test_without_a_file_beside_the_script_home_is_used(
    memory: Memory, call: Run, home: Path
) -> None:
    write(home / IN_HOME, ip="charger", unit=4)
    assert_well(call())
    assert reached(memory) == {"ip": "charger", **DEFAULTS, "unit": 4}


@pytest.mark.parametrize("link", ["absolute", "relative", "link to a link"])
def test_beside_the_script_means_where_its_links_lead(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    write(home / BESIDE, ip="charger", unit=5)
    (home / "opt/vestel.py").touch()
    script = home / "bin/vestel.py"
    write(home / "bin" / NAME, ip="charger", unit=9)
    script.symlink_to(home / "opt/vestel.py" if link == "absolute" else Path("../opt/vestel.py"))
    if link == "link to a link":
        script = home / "wallbox"
        script.symlink_to("bin/vestel.py")
    monkeypatch.setattr(vestel, "__file__", str(script))
    monkeypatch.chdir(home / "bin")
    assert_well(call())
    assert reached(memory)["unit"] == 5


@pytest.mark.parametrize(
    "where", [NAME, f"work/{NAME}", ".vestel_modbus.ini", f"opt/.config/{NAME}"]
)
def test_a_file_anywhere_else_is_not_read(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (home / "work").mkdir()
    write(home / where, ip="charger", nonsense=1)
    monkeypatch.chdir(home / "work")
    assert_error(call(), "IP not set")
    assert memory.targets == []


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_config_is_read_instead_of_both(
    memory: Memory, call: Run, home: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    write(home / BESIDE, ip="127.0.0.9", unit=9, nonsense=1)
    write(home / IN_HOME, ip="127.0.0.9", base=1, nonsense=1)
    path = write(home / "my box.cfg", ip="charger", unit=6)
    monkeypatch.chdir(home)
    assert_well(call("--config", path.name if relative else str(path)))
    assert reached(memory) == {"ip": "charger", **DEFAULTS, "unit": 6}


def test_what_config_lacks_is_not_in_the_other_files(memory: Memory, call: Run, home: Path) -> None:
    write(home / BESIDE, ip="charger")
    write(home / IN_HOME, ip="charger")
    path = write(home / "other.ini", unit=1)
    assert_error(call("--config", str(path)), "IP not set", str(path))
    assert memory.targets == []


def test_without_any_file_ip_is_enough(memory: Memory, call: Run) -> None:
    assert_well(call("--ip=charger"))
    assert reached(memory) == {"ip": "charger", **DEFAULTS}


def test_without_file_and_ip_both_places_are_named(memory: Memory, call: Run, home: Path) -> None:
    assert_error(call(), "IP not set", "--ip", str(home / BESIDE), str(home / IN_HOME))
    assert memory.targets == []


@pytest.mark.parametrize("name", [BESIDE, IN_HOME])
def test_demo_reads_no_file(call: Run, home: Path, name: str) -> None:
    (home / name).write_bytes(b"\xff")
    assert_well(call("--demo"))


def test_demo_does_not_look_at_config(call: Run, home: Path) -> None:
    assert_well(call("--demo", "--config", str(home / "missing.ini")))


# --- What it may hold ---------------------------------------------------------------------------

WRITTEN = {
    "plain": "[vestel]\nip = charger\nport = 5020\nunit = 7\n",
    "BOM": "\ufeff[vestel]\nip = charger\nport = 5020\nunit = 7\n",
    "CRLF": "[vestel]\r\nip = charger\r\nport = 5020\r\nunit = 7\r\n",
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


@pytest.mark.parametrize("text", WRITTEN.values(), ids=[*WRITTEN])
def test_a_file_may_be_written_so(memory: Memory, call: Run, home: Path, text: str) -> None:
    (home / BESIDE).write_bytes(text.encode())
    assert_well(call())
    assert reached(memory) == {"ip": "charger", **DEFAULTS, "port": 5020, "unit": 7}


@pytest.mark.parametrize("value", ["1", "50%", "%(ip)s", "%", "${ip}", ""])
def test_an_unknown_key_is_a_warning_that_names_the_known(
    memory: Memory, call: Run, home: Path, value: str
) -> None:
    path = write(home / BESIDE, ip="charger", unti=value, details="yes")
    result = call()
    assert result.returncode == 0
    assert reached(memory) == {"ip": "charger", **DEFAULTS}
    about = "unknown key, ignored; known are ip, port, unit, base, timeout"
    assert result.stderr.splitlines() == [
        f"WARNING: {path}: unti: {about}",
        f"WARNING: {path}: details: {about}",
    ]


# --- What is wrong with it ----------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), cases(REFUSED))
def test_a_bad_value_names_the_file_and_the_key(
    memory: Memory, call: Run, home: Path, key: str, value: str
) -> None:
    path = write(home / "box.ini", **{"ip": "charger", key: value})
    assert_error(call("--config", str(path)), f"{path}: {key}: ")
    assert memory.targets == []


@pytest.mark.parametrize(
    "value", ["50%", "%(port)s", "%(nothing)s", "%%", "%", "${ip}", "5;2", "5#2", "'1'"]
)
def test_special_characters_are_no_more_than_a_bad_value(call: Run, home: Path, value: str) -> None:
    for key in ("port", "unit", "base", "timeout"):
        path = write(home / "box.ini", **{"ip": "charger", key: value})
        assert_error(call("--config", str(path)), f"{path}: {key}: ")


def test_a_bad_value_follows_the_warning_of_an_unknown_key(call: Run, home: Path) -> None:
    path = write(home / BESIDE, ip="charger", unti=1, unit="x")
    result = call()
    warning, error = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert warning.startswith("WARNING: ")
    assert error.startswith(f"ERROR: {path}: unit: ")


IP = b"[vestel]\nip = 127.0.0.9\n"
MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "vestel"),
    "comment only": (b"; [vestel]\n", "vestel"),
    "no section header": (b"ip = 127.0.0.9\n", ""),
    "another section only": (b"[charger]\nip = 127.0.0.9\n", "vestel"),
    "section in another case": (b"[Vestel]\nip = 127.0.0.9\n", "vestel"),
    "open section header": (b"[vestel\nip = 127.0.0.9\n", ""),
    "empty section header": (b"[]\nip = 127.0.0.9\n", ""),
    "section twice": (IP + b"[vestel]\nunit = 1\n", "vestel"),
    "key twice": (IP + b"port = 1\nport = 1\n", "port"),
    "key twice, another case": (IP + b"Port = 1\nport = 2\n", "port"),
    "key without value": (IP + b"port\n", "port"),
    "known keys without value": (b"[vestel]\nip\nport\nunit\n", "ip"),
    "value without key": (IP + b"= 502\n", ""),
    "continued value": (IP + b"  port = 502\n", "ip: "),
    "continued after a blank line": (IP + b"port = 502\n\n  503\n", "port: "),
    "key without value, continued": (b"[vestel]\nip\n  127.0.0.9\n", ""),
    "indented all": (b"  [vestel]\n    ip = 127.0.0.9\n      port = 502\n", "ip: "),
    "broken and escaping": (IP + b"\x1b[31mport\n", ""),
    "Latin-1": (IP + b"port = 502 ; H\xf6he\n", ""),
    "UTF-16": ("[vestel]\nip = 127.0.0.9\n".encode("utf-16"), ""),
    "binary": (bytes(range(256)) * 20, ""),
    "zeros": (bytes(5000), ""),
    "NUL in a value": (b"[vestel]\nip = 127.0.0.9\0\n", "ip: "),
    "JSON": (b'{"ip": "127.0.0.9"}\n', ""),
    "YAML": (b"vestel:\n  ip: 127.0.0.9\n", ""),
    "only carriage returns": (b"[vestel]\rport\r", "port"),
    "many bad lines": (b"[vestel]\n" + b"port\n" * 2000, ""),
}


@pytest.mark.parametrize(("content", "word"), MALFORMED.values(), ids=[*MALFORMED])
def test_a_malformed_file_is_one_error_that_names_it(
    memory: Memory, call: Run, home: Path, content: bytes, word: str
) -> None:
    path = home / "box.ini"
    path.write_bytes(content)
    assert_error(call("--config", str(path)), f"{path}: ", word)
    assert memory.targets == []


IP_OR_NOT = pytest.mark.parametrize("options", [[], ["--ip=charger"]], ids=["no ip", "with ip"])


@IP_OR_NOT
@pytest.mark.parametrize(
    "name", ["missing.ini", "opt", "missing/box.ini", "opt/vestel.py/x", "a" * 300]
)
def test_a_file_that_cannot_be_read_is_an_error(
    memory: Memory, call: Run, home: Path, options: list[str], name: str
) -> None:
    (home / "opt/vestel.py").touch()
    assert_error(call("--config", str(home / name), *options), f"{home / name}: ")
    assert memory.targets == []


@IP_OR_NOT
def test_an_empty_config_says_that_it_is_empty(
    memory: Memory, call: Run, home: Path, options: list[str]
) -> None:
    write(home / BESIDE, ip="charger")
    assert_error(call("--config=", *options), "--config is empty")
    assert memory.targets == []


@pytest.mark.parametrize(
    "content", [b"\xff", b"", b"[vestel]\nunit = x\n"], ids=["bytes", "empty", "value"]
)
def test_a_bad_file_is_an_error_though_ip_is_given(
    memory: Memory, call: Run, home: Path, content: bytes
) -> None:
    (home / BESIDE).write_bytes(content)
    assert_error(call("--ip=charger"), f"{home / BESIDE}: ")
    assert memory.targets == []
