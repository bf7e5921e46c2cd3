"""The check that nothing outlives its test, or the fixture of a wider scope that has made it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Generator

import pytest

MOMENT, GRACE = 0.05, 2.0  # s: what was told to end may take a moment
FILES = "/proc/self/fd"


class Leftovers:
    def __init__(self) -> None:
        self._known: set[str] = set()  # what was there before the test
        self._owners: dict[str, Any] = {}  # what the fixture (its definition) has made
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # for tmp_path
        self._directory = tempfile.mkdtemp(prefix="vestel-tests-")
        os.environ["TMPDIR"] = tempfile.tempdir = self._directory
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(36, 1)  # a subreaper: who loses a parent becomes our child

    def pytest_sessionstart(self) -> None:
        self._known = self._all()

    def pytest_sessionfinish(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = self._all()
        try:
            return (yield)
        finally:
            for thing in self._all() - before:
                self._owners.setdefault(thing, fixturedef)

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        for thing in [thing for thing, owner in self._owners.items() if owner is fixturedef]:
            del self._owners[thing]
            self._known.discard(thing)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        try:
            return (yield)
        finally:
            left = self._left()
            if left:
                self._known |= left
                lines = "".join(f"\n  {self._describe(thing)}" for thing in sorted(left))
                pytest.fail(f"{item.nodeid} leaves behind:{lines}", pytrace=False)

    def _left(self) -> set[str]:
        """Return what is there and was not before; wait a moment for what is about to end."""
        began, is_collected = time.monotonic(), False
        while True:
            now = self._all()
            left = now - self._known - self._owners.keys()
            passed = time.monotonic() - began
            if not left or passed > GRACE:
                self._known &= now
                return left
            if passed > MOMENT and not is_collected:  # which takes long
                gc.collect()
                is_collected = True
            for pid in [thing[8:] for thing in left if thing.startswith("process ")]:
                with contextlib.suppress(OSError):  # that has ended, and nobody waits for it
                    os.waitpid(int(pid), os.WNOHANG)
            time.sleep(0.005)

    def _all(self) -> set[str]:
        """Return the threads, processes, open files (sockets, pipes), and temporary files."""
        found = {f"thread {thread.ident} {thread.name}" for thread in threading.enumerate()}
        found |= {f"file {self._directory}/{name}" for name in os.listdir(self._directory)}
        for thread in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found |= {f"process {pid}" for pid in thread.read_text().split()}
        for number in os.listdir(FILES) if os.path.isdir(FILES) else []:
            with contextlib.suppress(OSError):  # that of listdir is closed by now
                found.add(f"open file {number} {os.readlink(f'{FILES}/{number}')}")
        return found

    def _describe(self, thing: str) -> str:
        kind, _, pid = thing.partition(" ")
        if kind == "process":
            with contextlib.suppress(OSError):
                command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ")
                thing += f" ({command.decode(errors='replace').strip()})"
        return thing
