"""Reports of owners, played back: each recorded request gets its recorded reply.

A recording is what `vestel.py --details -v > report.txt 2>&1` has written, as recordings/NAME.txt;
recordings/NAME.json beside it is the reading that it must give, without its time.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import deque
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import ROOT, Run
from faults import null_keys
from readings import flat
from registers import range_of
from simulated_charger import CLOSE, INPUT, SimulatedCharger, exception, packed, simulated_charger, text

pytestmark = pytest.mark.every_version

RECORDINGS = Path(__file__).with_name("recordings")
HEX = r"((?: [0-9a-f]{2})+)"


class Recording:
    """The requests of a report, and the replies that the charger gave to each, in this order."""

    def __init__(self, report: str) -> None:
        self._replies: dict[bytes, deque[bytes]] = {}  # by what is behind the first 6 bytes of a request
        self._words: dict[tuple[bytes, int], bytes] = {}  # (unit and function, address) -> the last answer
        for sent, came in re.findall(rf": request{HEX}\n(?:.*: reply{HEX})?", report):  # else there was none
            request, reply = bytes.fromhex(sent)[6:], bytes.fromhex(came)[6:]
            self._replies.setdefault(request, deque()).append(reply)
            if reply[:2] == request[:2]:
                first, data = int.from_bytes(request[2:4], "big"), reply[3:]
                words = [data[n : n + 2] for n in range(0, len(data), 2)]
                self._words.update(((request[:2], first + n), word) for n, word in enumerate(words))
        assert self._replies, "no request with a reply is in this report"
        self.unit = next(iter(self._replies))[0]
        self.base = int(any(request[1:4] == b"\4\0\x63" for request in self._replies))  # 100 is 99 there

    def play(self, request: bytes, _: bytes) -> list[tuple[float, bytes]]:
        """The recorded reply, with the head of this request; where there was none, an end."""
        recorded = self._replies.get(request[6:])
        if not recorded:
            return self._of_words(request)
        reply = recorded.popleft() if len(recorded) > 1 else recorded[0]
        return [(0, _frame(request, reply))] if reply else [(0, CLOSE)]

    def _of_words(self, request: bytes) -> list[tuple[float, bytes]]:
        """A reply to what was never asked like this: the words that are known, else exception 2.

        So a recording stays good where the program asks for another range, or for a register
        that it did not know when the recording was made.
        """
        first, count = (int.from_bytes(request[n : n + 2], "big") for n in (8, 10))
        words = [self._words.get((request[6:8], first + n), b"") for n in range(count)]
        if b"" in words:
            return exception(2)(request, b"")
        return [(0, _frame(request, request[6:8] + bytes([2 * count]) + b"".join(words)))]


def _frame(request: bytes, reply: bytes) -> bytes:
    return request[:4] + len(reply).to_bytes(2, "big") + reply


def played_back(call: Run, report: str) -> dict[str, Any]:
    """The reading that a report gives, flat and without its time."""
    recording = Recording(report)
    with simulated_charger() as charger:
        charger.fault(recording.play)
        options = f"--unit={recording.unit}", f"--base={recording.base}", "--timeout=20"
        result = call("--details", "--format=json", *options, charger=charger)
    assert result.returncode == 0, result.stderr
    reading = json.loads(result.stdout)
    del reading["timestamp"]
    return flat(reading)


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_recording_gives_the_reading_beside_it(call: Run, path: Path) -> None:
    reading = played_back(call, path.read_text(encoding="utf-8"))
    must = flat(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    # What has become part of a reading since was not asked for then, and is null.
    since = dict.fromkeys(reading.keys() - must.keys())
    assert reading == {**must, **since}


def test_each_recording_has_a_reading_and_each_reading_a_recording() -> None:
    names = [{path.stem for path in RECORDINGS.glob(f"*.{suffix}")} for suffix in ("txt", "json")]
    assert names[0] == names[1] != set()


# --- A report that is made here -------------------------------------------------------------------


def report_of(run: Run, charger: SimulatedCharger, *options: str) -> str:
    """What the README asks owners for."""
    result = run("--details", "-v", *options, charger=charger, stderr=subprocess.STDOUT)
    return str(result.stdout)


def of_a_box(run: Run, call: Run, *options: str, **box: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reading of a box, and that of its report."""
    with simulated_charger(**box) as charger:
        charger.set(INPUT, 100, *packed("VEST1234567890", 25))
        read = call("--details", "--format=json", *options, charger=charger)
        reading = json.loads(read.stdout)
        report = report_of(run, charger, *options)
    del reading["timestamp"]
    return flat(reading), played_back(call, report)


@pytest.mark.parametrize(
    ("options", "box"),
    [
        ([], {}),
        (["--unit=255"], {}),
        (["--base=1"], {"base": 1}),
        ([], {"holes": 2, "old": True}),
        (["--base=1", "--unit=0"], {"base": 1, "holes": 2}),
    ],
    ids=["usual", "unit 255", "base 1", "holes, and no details", "base 1 with holes"],
)
def test_a_report_gives_the_reading_that_was_made(
    run: Run, call: Run, options: list[str], box: dict[str, Any]
) -> None:
    read, again = of_a_box(run, call, *options, **box)
    assert again == read


def test_a_report_with_faults_gives_the_reading_that_was_made(
    run: Run, call: Run, charger: SimulatedCharger
) -> None:
    charger.fault("reset", address=100, times=1)
    charger.fault("close", address=1100)
    charger.fault(exception(6), address=1502, times=1)
    charger.fault("short", address=190)
    report = report_of(run, charger, "--timeout=2")
    charger.faults.clear()
    again = played_back(call, report)
    missing = null_keys("it", range_of(1100)) | null_keys("it", range_of(190))
    assert {key for key, value in again.items() if value is None} == {*missing, "session.end_time"}


def test_a_recording_stays_good_where_other_ranges_are_asked_for() -> None:
    report = (RECORDINGS / "simulated.txt").read_text(encoding="utf-8")
    recording = Recording(report)
    head = b"\0\x09\0\0\0\6\1"
    ask = {
        "a part of a range": (b"\4\x04\x4e\0\3", b"\0\x09\0\0\0\x09\1\4\6\0\6\0\0\0\x20"),  # 1102-1104
        "more than was asked for": (b"\4\x04\x4c\0\x09", b"\0\x09\0\0\0\3\1\x84\2"),  # 1100-1108
        "a value never asked for": (b"\3\x04\x4c\0\1", b"\0\x09\0\0\0\3\1\x83\2"),  # holding 1100
    }
    for request, reply in ask.values():
        assert recording.play(head + request, b"") == [(0, reply)]


# --- Without what names the charger --------------------------------------------------------------


def blanking_line() -> str:
    """The README's line that blanks a report.txt."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if re.match("python3 -c .*report.txt", line.strip())]
    return line.strip()


def blanked(report: str, directory: Path) -> str:
    path = directory / "report.txt"
    path.write_text(report, encoding="utf-8")
    subprocess.run(["sh", "-c", blanking_line()], cwd=directory, check=True)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("put", [text, packed], ids=["one character to a register", "two characters"])
@pytest.mark.parametrize("base", [0, 1])
def test_the_line_of_the_readme_blanks_what_names_the_charger_and_nothing_else(
    run: Run, call: Run, tmp_path: Path, base: int, put: Callable[[str, int], list[int]]
) -> None:
    with simulated_charger(base=base) as charger:
        charger.set(INPUT, 100, *put("VEST1234567890", 25))
        charger.set(INPUT, 130, *put("CP-GARAGE-01", 50))
        charger.fault("close", address=130 - base, times=1)
        report = report_of(run, charger, f"--base={base}")
    without = blanked(report, tmp_path)
    changed = [(old, new) for old, new in zip(report.splitlines(), without.splitlines()) if old != new]
    assert len(changed) == 4  # two replies, and two lines of the reading
    assert all(len(old) == len(new) for old, new in changed)
    assert len(without) == len(report)
    assert not re.search("VEST1|GARAGE", without)
    replies = b"".join(map(bytes.fromhex, re.findall(rf"reply{HEX}", without)))
    assert not re.search(rb"V\0?E\0?S\0?T\0?1|G\0?A\0?R\0?A\0?G\0?E", replies)
    named = {"identity.serial": "X" * 14, "details.chargepoint_id": "X" * 12}
    assert played_back(call, without) == {**played_back(call, report), **named}
