"""Time for vestel.py and for the charger: simulated, so that a day plays in seconds, or real."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time as real_time
from typing import Any, Callable, Sequence

Happen = Callable[[], object]
Cancel = Callable[[], None]

START = 10_000.0  # s (monotonic)
START_UTC = 1_795_162_530.0  # 2026-11-20 08:15:30 UTC
HASTE = 100_000  # so many calls without any time passing are a loop that never ends


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:])]


class _Happenings:
    now: float

    def __init__(self) -> None:
        self._heap: list[Any] = []  # [moment, number, what happens]
        self._numbers = itertools.count()

    def next_at(self) -> float:
        return self._heap[0][0] if self._heap else math.inf

    def at(self, when: float, happen: Happen) -> Cancel:
        """Let something happen at a moment (monotonic); return what cancels it."""
        entry: Any = [max(when, self.now), next(self._numbers), happen]
        heapq.heappush(self._heap, entry)

        def cancel() -> None:
            entry[-1] = lambda: None

        return cancel

    def after(self, seconds: float, happen: Happen) -> Cancel:
        return self.at(self.now + seconds, happen)

    def start(self) -> None:
        """Let things happen, again after `stop`."""

    def stop(self) -> None:
        """Let nothing more happen, and end every sleep."""


class Clock(_Happenings):
    """Simulated time in place of the module `time`: it passes when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START  # monotonic
        self.ahead = START_UTC - START  # the clock of the computer, which may jump
        self.latest = math.inf  # a moment that must not be reached: something never ends then
        self._calls = 0  # since time has passed

    @property
    def passed(self) -> float:
        return self.now - START

    def monotonic(self) -> float:
        self._calls += 1
        assert self._calls < HASTE, "the program asks for the time again and again, and none passes"
        return self.now

    def time(self) -> float:
        return self.now + self.ahead

    def sleep(self, seconds: float) -> None:
        """Let time pass. What happens meanwhile happens at its moment."""
        assert seconds >= 0, f"sleep({seconds})"
        until = self.now + seconds
        assert until < self.latest, "the program goes on and on, and does not say when it is due"
        while self.next_at() <= until:
            when, _, happen = heapq.heappop(self._heap)
            self._go_on(when)
            happen()
        self._go_on(until)

    def _go_on(self, when: float) -> None:
        if when > self.now:
            self.now, self._calls = when, 0

    def jump(self, seconds: float) -> None:
        self.ahead += seconds


class RealClock(_Happenings):
    """Real time. What is to happen happens on a thread of its own, until `stop`."""

    now = property(lambda _: real_time.monotonic())

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)

    def at(self, when: float, happen: Happen) -> Cancel:
        with self._changed:
            cancel = super().at(when, happen)
            self._changed.notify_all()
            if not self._stopped:
                self.start()
        return cancel

    def start(self) -> None:
        with self._changed:
            self._stopped = False
            if self._thread is None and self._heap:
                self._thread = threading.Thread(target=self._run, name="happenings", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and self.next_at() > self.now:
                    self._changed.wait(min(self.next_at() - self.now, 3600))
                if self._stopped:
                    return
                happen = heapq.heappop(self._heap)[-1]
            happen()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
