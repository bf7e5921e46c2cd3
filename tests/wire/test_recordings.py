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
from charger import CLOSE, SILENCE, Frames, Piece, SimulatedCharger
from door import exception, held_back, listening
from faults import flat_of, null_keys, with_null
from program import ROOT, Run
from registers import INPUT, packed, range_of, text

pytestmark = pytest.mark.every_version

RECORDINGS = ROOT / "tests" / "recordings"
PATHS = sorted(RECORDINGS.glob("*.txt"))
HEX = r"((?: [0-9a-f]{2})+)"
TIME = r"(?m)^\d\d:\d\d:\d\d\.\d{3} "  # at the beginning of a line, since 1.2.0


class Recording:
    """The requests of a report, and the replies that the charger gave to each, in this order."""

    def __init__(self, report: str) -> None:
        # By what is behind the first 6 bytes of a request: a copy of it may have got no reply.
        self._replies: dict[bytes, deque[bytes]] = {}
        for sent, rest in re.findall(rf": request{HEX}\n((?:.*: reply .*\n)*)", report):
            frame = bytes.fromhex(sent)
            replies = [bytes.fromhex(came) for came in re.findall(rf": reply{HEX}", rest)]
            # One of another transaction came late, and was dropped.
            replies = [reply[6:] for reply in replies if reply[:2] == frame[:2]]
            self._replies.setdefault(frame[6:], deque()).append(replies[0] if replies else b"")
        assert self._replies, "no request is in this report"
        self.unit = next(iter(self._replies))[0]
        # Where register numbers count from 1, 100 is asked for as 99.
        self.base = int(any(request[1:4] == b"\4\0\x63" for request in self._replies))

    def play(self, request: bytes, _: bytes) -> list[Piece]:
        """Return the recorded reply, with the head of this request, or an end if there was none."""
        recorded = self._replies.get(request[6:])
        if not recorded:  # the program did not know of it when the recording was made
            return [(0, exception(request, 2))]
        reply = recorded.popleft() if len(recorded) > 1 else recorded[0]
        head = request[:4] + len(reply).to_bytes(2, "big")
        return [(0, head + reply)] if reply else [(0, CLOSE)]


def played_back(call: Run, report: str) -> dict[str, Any]:
    """Return the reading that a report gives, flat and without its time."""
    recording = Recording(report)
    with listening() as charger:
        charger.fault(Frames(recording.play))
        options = f"--unit={recording.unit}", f"--base={recording.base}", "--timeout=20"
        result = call("--details", "--format=json", *options, charger=charger)
    assert result.returncode == 0, result.stderr
    return flat_of(json.loads(result.stdout))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recording_gives_the_reading_beside_it(call: Run, path: Path) -> None:
    report = path.read_text(encoding="utf-8")
    without_times = re.sub(TIME, "", report)
    with_times = re.sub("(?m)^(?=.*: (connected|request|reply))", "08:15:30.123 ", without_times)
    must = flat_of(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    for each in (report, without_times, with_times):
        reading = played_back(call, each)
        # What has become part of a reading since was not asked for then, and is null.
        since = dict.fromkeys(reading.keys() - must.keys())
        assert reading == {**must, **since}


def test_there_are_recordings_with_and_without_times() -> None:
    assert sorted(RECORDINGS.glob("*.json")) == [path.with_suffix(".json") for path in PATHS]
    has_times = {bool(re.search(TIME, path.read_text(encoding="utf-8"))) for path in PATHS}
    assert has_times == {True, False}


def report_of(run: Run, charger: SimulatedCharger, *options: str) -> str:
    """Return what the README asks owners for."""
    result = run("--details", "-v", *options, charger=charger, stderr=subprocess.STDOUT)
    return str(result.stdout)


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ([], {}),
        (["--unit=255"], {"old_firmware": True, "refuses_gaps": True}),
        (["--base=1", "--unit=0"], {"base": 1, "refuses_gaps": True}),
    ],
)
def test_a_report_gives_the_reading_that_was_made(
    run: Run, call: Run, options: list[str], attributes: dict[str, Any]
) -> None:
    with listening(**attributes) as charger:
        charger.set(100, *packed("VEST1234567890", 25), bank=INPUT)
        reading = json.loads(call("--details", "--format=json", *options, charger=charger).stdout)
        report = report_of(run, charger, *options)
    assert played_back(call, report) == flat_of(reading)


def test_a_report_with_faults_gives_the_reading_that_was_made(
    run: Run, call: Run, charger: SimulatedCharger
) -> None:
    charger.fault(held_back(1), 1000, times=2)
    charger.fault("close", 1100)
    charger.fault("short", 190)
    charger.fault("reset", 100, times=1)
    charger.fault(6, 1502, times=1)
    charger.fault(SILENCE, 130, times=1)
    again = played_back(call, report_of(run, charger, "--timeout=0.5"))
    assert again == with_null(null_keys("it", range_of(1100)) | null_keys("it", range_of(190)))


@pytest.mark.parametrize(
    ("base", "hold"), [(0, text), (1, packed)], ids=["a character a register", "two, and base 1"]
)
def test_the_line_of_the_readme_blanks_what_names_the_box(
    run: Run, call: Run, tmp_path: Path, base: int, hold: Callable[[str, int], list[int]]
) -> None:
    with listening(base=base) as charger:
        charger.set(100, *hold("VEST1234567890", 25), bank=INPUT)
        charger.set(130, *hold("CP-GARAGE-01", 50), bank=INPUT)
        charger.fault("close", 130, times=1)
        report = report_of(run, charger, f"--base={base}")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"(?m)^ *(python3 -c .*report\.txt.*)$", readme)
    path = tmp_path / "report.txt"
    path.write_text(report, encoding="utf-8")
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    without = path.read_text(encoding="utf-8")
    lines = zip(report.splitlines(), without.splitlines())
    changed = [(old, new) for old, new in lines if old != new]
    assert len(changed) == 4  # two replies, and two lines of the reading
    assert all(len(old) == len(new) for old, new in changed)
    assert len(without) == len(report)
    assert not re.search("VEST1|GARAGE", without)
    replies = b"".join(map(bytes.fromhex, re.findall(rf"reply{HEX}", without)))
    assert not re.search(rb"V\0?E\0?S\0?T\0?1|G\0?A\0?R\0?A\0?G\0?E", replies)
    named = {"identity.serial": "X" * 14, "details.chargepoint_id": "X" * 12}
    assert played_back(call, without) == {**played_back(call, report), **named}
