"""The file of --hold: what number is in it, and what is wrong with it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Iterator

import pytest

import vestel

# fmt: off
GOOD = {
    "digits": (b"12", 12), "line end": (b"12\n", 12), "CRLF": (b"12\r\n", 12),
    "blanks": (b" \t\n 12 \n\n", 12), "many blanks": (b"12" + b" " * 900, 12),
    "zero": (b"0\n", 0), "leading zeros": (b"006\n", 6), "the highest": (b"65535", 65535),
    "empty": (b"", None), "a blank": (b" ", None), "line ends": (b"\r\n\n", None),
}
BAD = {
    "a word": b"off\n", "with a unit": b"12 A\n", "two numbers": b"12 13", "two lines": b"12\n13\n",
    "negative": b"-6", "signed": b"+6", "a fraction": b"12.0", "a comma": b"12,0",
    "hexadecimal": b"0x10", "an underscore": b"1_2", "Arabic digits": "١٢".encode(),
    "a superscript": "²".encode(), "six digits": b"100000", "a BOM": b"\xef\xbb\xbf12",
    "UTF-16": "12".encode("utf-16"), "zeros": bytes(10), "binary": bytes(range(256)),
    "10 MB of digits": b"1" * 10_000_000, "10 MB of blanks": b"12" + b" " * 10_000_000,
}
# fmt: on


@pytest.mark.parametrize(("content", "number"), GOOD.values(), ids=[*GOOD])
def test_the_file_holds_a_number_or_is_blank(tmp_path: Path, content: bytes, number: int) -> None:
    file = tmp_path / "amps"
    file.write_bytes(content)
    assert vestel.read_hold_file(str(file)) == number


@pytest.mark.parametrize("content", BAD.values(), ids=[*BAD])
def test_what_is_not_a_whole_number_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "amps"
    file.write_bytes(content)
    with pytest.raises(vestel.CommandError, match=r"is not a whole number of amperes$") as caught:
        vestel.read_hold_file(str(file))
    assert len(str(caught.value)) < 200 + len(str(file))
    assert str(caught.value).isprintable()


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "amps").write_text("10")
    (tmp_path / "link").symlink_to("amps")
    assert vestel.read_hold_file(str(tmp_path / "link")) == 10


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "No such file or directory"),
        ("amps/missing", "Not a directory"),
    ],
    ids=["missing", "behind a file"],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "amps").write_text("10")
    with pytest.raises(vestel.CommandError, match=why):
        vestel.read_hold_file(str(tmp_path / name))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """Give a pipe that nobody writes into. Who waits for it all the same is let go after 5 s."""
    file = tmp_path / "pipe"
    os.mkfifo(file)
    rescue = threading.Timer(5, lambda: os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK)))
    rescue.start()
    yield file
    assert rescue.is_alive(), "somebody has waited for the pipe"
    rescue.cancel()
    rescue.join()


@pytest.mark.needs_os
def test_what_is_no_regular_file_is_an_error_at_once(pipe: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (pipe, pipe.parent, Path("/dev/null")):
        with pytest.raises(vestel.CommandError, match=r"(?i)regular file|is a directory"):
            vestel.read_hold_file(str(path))
    assert len(os.listdir("/proc/self/fd")) == before
