"""A simulated charger, the poller of vestel.py, and the simulated time of both."""

from __future__ import annotations

import math
from argparse import Namespace
from collections import deque
from typing import Any, Callable

from charger import SimulatedCharger
from clock import Clock
from registers import DYNAMIC, FAILSAFE, TIMEOUT

import vestel

HASTE = 10  # so many polls without any time passing are a loop that never ends
LONGEST = 3600.0  # s: no poll takes that long
PATIENCE = 100.0  # s, within which something happens, such as that a reading is tried
FIRST_READ = 100  # the register with which each reading begins

SETTABLE = vestel.DYNAMIC_CURRENT, vestel.FAILSAFE_CURRENT, vestel.FAILSAFE_TIMEOUT
VALUES = dict(zip((DYNAMIC, FAILSAFE, TIMEOUT), SETTABLE))

MakeWorld = Callable[..., "World"]  # the fixture `world`


class World:
    def __init__(
        self,
        clock: Clock,
        charger: SimulatedCharger,
        setpoints: dict[int, int] | None = None,
        details: bool = False,
        every: float | None = None,
        hold_file: str | None = None,
    ) -> None:
        self.clock, self.charger = clock, charger
        self.logged: list[tuple[float, str]] = []  # when, and what
        self.polls: deque[tuple[float, float]] = deque(maxlen=100_000)  # begin and end of each
        wanted = [(VALUES[address], number) for address, number in (setpoints or {}).items()]
        self.connected = vestel.ConnectedCharger(charger.connect, "the box", charger.reply_timeout)
        log = vestel.Log()
        log.write = lambda line: self.logged.append((self.clock.now, line))
        args = Namespace(wanted=wanted, details=details, watch=every, hold=hold_file)
        self.poller = vestel.Poller(self.connected, args, log)
        self._moments = self.poller.run()
        self.due = clock.now

    @property
    def lines(self) -> list[str]:
        return [line for _, line in self.logged]

    def lines_with(self, *texts: str) -> list[str]:
        return [line for line in self.lines if all(text in line for text in texts)]

    @property
    def began(self) -> list[float]:
        return self.charger.times_of(FIRST_READ)

    def asked(self) -> list[tuple[int, int]]:
        asked = [(request.address, request.value) for request in self.charger.requests]
        self.charger.requests.clear()
        return asked

    def firsts(self) -> list[tuple[int, int]]:
        firsts: dict[int, tuple[int, int]] = {}
        for request in self.charger.requests:
            firsts.setdefault(request.connection, (request.address, request.value))
        return [*firsts.values()]

    @property
    def snapshot(self) -> Any:
        return self.poller.snapshot

    @property
    def reading(self) -> Any:
        return self.snapshot.reading

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.sleep(max(0.0, self.due - self.clock.now))
            begun = self.clock.now
            self.clock.latest = begun + LONGEST
            self.due = next(self._moments)
            self.clock.latest = math.inf
            self.polls.append((begun, self.clock.now))
            is_hasty = len(self.polls) >= HASTE and self.polls[-HASTE][0] == self.clock.now
            assert not is_hasty, "the poller lets no time pass"

    def read(self, times: int = 1) -> None:
        """Go on until so many readings were made, or have failed."""
        before = self.snapshot
        goal = before.readings + before.failed + times
        self.until(lambda: self.snapshot.readings + self.snapshot.failed >= goal, times * PATIENCE)

    def until(self, happens: Callable[[], object], patience: float = PATIENCE) -> None:
        """Go on until something has happened, which must not take longer than the patience."""
        latest = self.clock.now + patience
        while not happens():
            assert self.clock.now < latest, f"it does not happen within {patience:g} s"
            self.poll()

    def play(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while max(self.due, self.clock.now) < until:
            self.poll()
        self.clock.sleep(max(0.0, until - self.clock.now))
