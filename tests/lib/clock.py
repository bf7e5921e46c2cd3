"""Time for vestel.py and for the charger: simulated, so that a day plays in seconds, or real.

Both clocks have the functions of the module `time` that vestel.py uses, and a list of happenings:
what is to happen at which moment.
"""

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
    """Return how long after each moment the next one came."""
    return [later - earlier for earlier, later in zip(times, times[1:])]


class _Happenings:
    """What is to happen, in the order of its moments."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Happen]] = []
        self._numbers = itertools.count()
        self._cancelled: set[int] = set()

    def add(self, when: float, happen: Happen) -> Cancel:
        number = next(self._numbers)
        heapq.heappush(self._heap, (when, number, happen))
        return lambda: self._cancelled.add(number)

    def next_at(self) -> float:
        """Return the moment of the next one, or infinity."""
        return self._heap[0][0] if self._heap else math.inf

    def pop(self) -> tuple[float, Happen]:
        when, number, happen = heapq.heappop(self._heap)
        if number in self._cancelled:
            self._cancelled.remove(number)
            return when, lambda: None
        return when, happen


class Clock:
    """Simulated time, which passes when somebody sleeps and by nothing else.

    It takes the place of the module `time` in vestel.py. `now` is the monotonic time. The clock of
    the computer is `ahead` of it, and may jump.
    """

    def __init__(self) -> None:
        self.now = START
        self.ahead = START_UTC - START
        self._happenings = _Happenings()
        self.latest = math.inf  # a moment that must not be reached: something never ends then
        self._calls = 0  # since time has passed

    @property
    def passed(self) -> float:
        """How much time has passed (s)."""
        return self.now - START

    def monotonic(self) -> float:
        self._calls += 1
        assert self._calls < HASTE, "the program asks for the time again and again, and none passes"
        return self.now

    def time(self) -> float:
        return self.now + self.ahead

    def localtime(self, seconds: float | None = None) -> real_time.struct_time:
        return real_time.localtime(self.time() if seconds is None else seconds)

    def gmtime(self, seconds: float | None = None) -> real_time.struct_time:
        return real_time.gmtime(self.time() if seconds is None else seconds)

    def strftime(self, how: str, when: real_time.struct_time | None = None) -> str:
        return real_time.strftime(how, self.localtime() if when is None else when)

    def __getattr__(self, name: str) -> Any:  # what else the module has only converts times
        return getattr(real_time, name)

    def sleep(self, seconds: float) -> None:
        """Let time pass. What happens meanwhile happens at its moment."""
        assert seconds >= 0, f"sleep({seconds})"
        until = self.now + seconds
        assert until < self.latest, "the program goes on and on, and does not say when it is due"
        while self._happenings.next_at() <= until:
            when, happen = self._happenings.pop()
            self._go_on(when)
            happen()
        self._go_on(until)

    def _go_on(self, when: float) -> None:
        if when > self.now:
            self.now, self._calls = when, 0

    def at(self, when: float, happen: Happen) -> Cancel:
        """Let something happen at a moment (monotonic); return what cancels it."""
        return self._happenings.add(max(when, self.now), happen)

    def after(self, seconds: float, happen: Happen) -> Cancel:
        """Let something happen so many seconds from now; return what cancels it."""
        return self.at(self.now + seconds, happen)

    def jump(self, seconds: float) -> None:
        """Set the clock of the computer. The monotonic time does not notice."""
        self.ahead += seconds

    def start(self) -> None:
        """Do nothing: simulated time passes when somebody sleeps."""

    def stop(self) -> None:
        """Do nothing: simulated time needs no end."""


class RealClock:
    """Real time. What is to happen happens on a thread of its own, until `stop`."""

    def __init__(self) -> None:
        self._happenings = _Happenings()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def now(self) -> float:
        return real_time.monotonic()

    def monotonic(self) -> float:
        return real_time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until `stop`."""
        until = self.now + seconds
        with self._changed:
            while not self._stopped and self.now < until:
                self._changed.wait(until - self.now)

    def at(self, when: float, happen: Happen) -> Cancel:
        with self._changed:
            cancel = self._happenings.add(when, happen)
            self._changed.notify_all()
        if not self._stopped:
            self.start()
        return cancel

    def after(self, seconds: float, happen: Happen) -> Cancel:
        return self.at(self.now + seconds, happen)

    def start(self) -> None:
        """Let things happen, again after `stop`."""
        with self._changed:
            self._stopped = False
            if self._thread is None and self._happenings.next_at() < math.inf:
                self._thread = threading.Thread(target=self._run, name="happenings", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and self._happenings.next_at() > self.now:
                    left = self._happenings.next_at() - self.now
                    self._changed.wait(min(left, 3600))
                if self._stopped:
                    return
                happen = self._happenings.pop()[1]
            happen()

    def stop(self) -> None:
        """Let nothing more happen, and end every sleep."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
