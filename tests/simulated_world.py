"""A Vestel EVC04 in memory and the time that it lives in, so that a day plays in seconds.

`FakeTime` takes the place of the module `time` in vestel.py, and `Box.open` that of the
connection. Nothing here waits. The registers are those of the simulated charger, and what a
box does is typed here by hand: the failsafe logic, and the faults that owners have seen.
"""

from __future__ import annotations

import heapq
import itertools
import time as real_time
from collections import deque
from typing import Any, Callable, NamedTuple, Optional, Union

from simulated_charger import HOLDING, HOLES, INPUT, Image, image, text

import vestel

ALIVE, DYNAMIC, FAILSAFE, TIMEOUT = 6000, 5004, 2000, 2002
CABLE, MINIMUM, MAXIMUM = 1004, 1102, 1104
NO_CABLE, NO_VEHICLE, VEHICLE, LOCKED = range(4)
FIRMWARE, CLOCK = 230, 290
ACKNOWLEDGE, BUSY = 5, 6  # exceptions: it works on it; it does not
DEFAULT_TIMEOUT = 20  # s: the failsafe timeout of a box where none is set
SHORTEST_LOOK = 3.0  # s: no box looks at the alive register more often
SECONDS_OF_A_DAY = 86400


class FakeTime:
    """What vestel.py uses of the module `time`, and a list of what happens when.

    `now` is the monotonic time; the clock of the computer is `ahead` of it, and may jump.
    """

    def __init__(self) -> None:
        self.now = 10_000.0
        self.ahead = 1_795_000_000.0
        self._happenings: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.ahead

    def localtime(self, seconds: float | None = None) -> real_time.struct_time:
        return real_time.localtime(self.time() if seconds is None else seconds)

    def gmtime(self, seconds: float | None = None) -> real_time.struct_time:
        return real_time.gmtime(self.time() if seconds is None else seconds)

    def strftime(self, how: str, when: real_time.struct_time | None = None) -> str:
        return real_time.strftime(how, self.localtime() if when is None else when)

    def sleep(self, seconds: float) -> None:
        """Let time pass, and what happens meanwhile happen at its moment."""
        assert seconds >= 0
        until = self.now + seconds
        while self._happenings and self._happenings[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._happenings)
            happen()
        self.now = until

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Let something happen at a time (monotonic)."""
        heapq.heappush(self._happenings, (max(when, self.now), next(self._numbers), happen))

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        self.at(self.now + seconds, happen)


class Request(NamedTuple):
    """A request as it came; `value` is the count of a read, the value of a write."""

    at: float
    connection: int
    write: bool
    bank: str
    address: int
    value: int


# What comes of a request in place of its reply: a Modbus exception, or one of these two.
RESET, SILENCE = "reset", "silence"
Outcome = Union[int, str]
# Asked at each request: what comes of it, and whether a write is carried out before. None: nothing special.
Fault = Callable[[Request], Optional[Outcome]]


class Link:
    """A connection, as vestel.py uses it."""

    def __init__(self, box: Box, number: int) -> None:
        self.box, self.number = box, number
        self.since = box.time.now
        self.requests = 0
        self.cut = False  # by the box: the next request finds out
        self.finished = False  # a request has failed: a late reply would be taken for that to the next

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        words = self.box.answer(self, False, bank, address, count)
        assert words is not None
        return words

    def write_word(self, address: int, value: int) -> None:
        self.box.answer(self, True, HOLDING, address, value)

    def close(self) -> None:
        self.box.is_closed(self)


class Box:
    """The charger.

    What it measures tells the time: the energy meter counts tenths of a second, and so do the
    others, so that a test knows of each value when it was measured.

    `delay` is what each reply takes (s), `reply_timeout` what a silent request costs. `late`: a request
    is carried out when its reply goes out, and not when it comes in.
    """

    def __init__(self, time: FakeTime, failsafe_timeout: int = 20, reply_timeout: float = 2.0) -> None:
        self.time, self.reply_timeout = time, reply_timeout
        self.image: Image = {**dict.fromkeys(HOLES, 0), **image()}
        self.delay, self.late = 0.002, False
        self.opening = 0.0  # s to connect
        # What it is like. Without a vehicle it "ignores" or "refuses" a dynamic current, or "makes 6 of 0".
        self.without_vehicle = ""
        self.refuses_holes = False
        self.resets_after_exception = False
        self.failsafe = True  # whether it looks at the alive register
        self.lock_out = False  # no new connection until the failsafe timeout after the last one
        self.clock_runs = True
        self.missing: set[tuple[str, int]] = set()  # answer exception 2
        # What happens to it.
        self.faults: list[Fault] = []
        self.executes = True  # whether a write with a fault is carried out
        # Takes no connection: "refused", "dead" (no answer), "closes" (accepts first), "resets" (as soon
        # as it has accepted, so that there is none).
        self.away = ""
        self.frozen: Image | None = None  # the old values that it repeats, until the connection is closed
        self.locked_until = 0.0
        self.in_failsafe = False
        # What has happened.
        self.link: Link | None = None  # that of the program
        self.served: Link | None = None  # that which the box holds
        self.connections = 0
        self.attempts: deque[float] = deque(maxlen=1000)
        self.requests: deque[Request] = deque(maxlen=100_000)
        self.signs: deque[float] = deque(maxlen=100_000)  # those that it took
        self.thrown_out = 0  # masters that missed the alive sign
        self.changes: list[tuple[float, int, int]] = []  # of settings and states: when, address, old value
        self._ranges: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
        self.set(TIMEOUT, failsafe_timeout)
        self._look_at = time.now
        time.after(self.period, self._look)

    @property
    def period(self) -> float:
        """How often (s) the box looks at the alive register."""
        return max(SHORTEST_LOOK, (self.image[HOLDING, TIMEOUT] or DEFAULT_TIMEOUT) / 2)

    # --- Seen from the program ---

    def open(self) -> Link:
        """Connect; what vestel.Charger is given."""
        assert self.link is None, "a second connection while one is open"
        self.attempts.append(self.time.now)
        self.attempted()
        away = self.away or ("refused" if self.time.now < self.locked_until else "")
        if away == "dead":
            self.time.sleep(self.reply_timeout)
        if away in ("dead", "refused"):
            self.connected(None)
            raise vestel.ChargerError(f"Cannot connect to the box: {away}", lost=True)
        self.time.sleep(self.opening)
        if away == "resets":
            self.connected(None)
            raise vestel.ChargerError("the charger closed the connection")
        self.connections += 1
        self.link = Link(self, self.connections)
        if away or self.away:
            self.link.cut = True
        else:
            self.served = self.link
        self.connected(self.link)
        return self.link

    def is_closed(self, link: Link) -> None:
        """End the connection, as the program wants it."""
        if link is self.link:
            self.link = None
            self._hang_up(link)

    def answer(self, link: Link, write: bool, bank: str, address: int, value: int) -> list[int] | None:
        """Carry out a request, or play a fault."""
        assert link is self.link, "a request on a connection that is closed"
        assert not link.finished, "a request on a connection on which one has failed"
        request = Request(self.time.now, link.number, write, bank, address, value)
        link.requests += 1
        self.requests.append(request)
        self.asked(link, request)
        if link.cut:
            raise self._broken(link, request, RESET)
        outcome: Outcome | None = None
        for fault in self.faults:
            outcome = fault(request)
            if outcome is not None:
                break
        words: list[int] | None = None
        if outcome is None and not self.late:
            outcome, words = self._carry_out(request)
        elif write and (outcome == ACKNOWLEDGE or (self.executes and outcome in (RESET, SILENCE))):
            self._carry_out(request)
        self.time.sleep(self.reply_timeout if outcome == SILENCE else self.delay)
        if link.cut and outcome != SILENCE:
            outcome = RESET  # thrown out while it waited
        if outcome is None and self.late:
            outcome, words = self._carry_out(request)
        if outcome is None:
            self.answered(request)
            return words
        if isinstance(outcome, str):
            raise self._broken(link, request, outcome)
        self.failed(request, outcome)
        if self.resets_after_exception:
            self._cut(link)
        raise vestel.ChargerError(f"exception {outcome}", code=outcome)

    def _broken(self, link: Link, request: Request, outcome: str) -> vestel.ChargerError:
        link.finished = True
        self._cut(link)
        self.failed(request, outcome)
        silent = f"no reply within {self.reply_timeout:g} s"
        return vestel.ChargerError(silent if outcome == SILENCE else "the charger closed the connection")

    def _carry_out(self, request: Request) -> tuple[int | None, list[int] | None]:
        _, _, write, bank, address, value = request
        if write:
            return self._write(address, value), None
        registers = self._ranges.get((bank, address, value))
        if registers is None:
            registers = [(bank, n) for n in range(address, address + value)]
            unknown = [register for register in registers if register not in self.image]
            assert not unknown, f"asked for {unknown}, which no document knows"
            self._ranges[bank, address, value] = registers
        if self.refuses_holes and value > 1 and not HOLES.isdisjoint(set(registers) - set(image())):
            return 2, None
        if self.missing and not self.missing.isdisjoint(registers):
            return 2, None
        held = self.frozen
        if held is None:
            held = self.image
            self._measure(address, address + value - 1)
        return None, [held[register] for register in registers]

    def _write(self, address: int, value: int) -> int | None:
        if address == ALIVE:
            self.signs.append(self.time.now)
            self.image[HOLDING, ALIVE] = value
            self.signed()
            return None
        if address == DYNAMIC and self.image[INPUT, CABLE] < VEHICLE:
            if self.without_vehicle == "ignores":
                return None
            if self.without_vehicle == "refuses":
                return 4
            if self.without_vehicle == "makes 6 of 0":
                value = value or 6
        self.set(address, value)
        return None

    def _measure(self, first: int = 0, last: int = 65535) -> None:
        """Give what is measured, and the clock, the values of now."""
        tenths, held = int(self.time.now * 10), self.image
        if first < 1038 and last >= 1008:
            held[INPUT, 1008] = tenths % 60_000
            held[INPUT, 1010] = tenths % 59_000
            held[INPUT, 1014] = 200 + tenths % 50
            self._put(1020, tenths % 90_000)
            self._put(1024, tenths % 89_000)
            self._put(1036, tenths)
        if first < 1510 and last >= 1502:
            self._put(1502, tenths)
            self._put(1508, tenths)
        if self.clock_runs and first < 296 and last >= 294:
            seconds = int(self.time.now) % SECONDS_OF_A_DAY
            self._put(294, seconds // 3600 * 10_000 + seconds // 60 % 60 * 100 + seconds % 60)

    def _put(self, address: int, number: int) -> None:
        self.image[INPUT, address] = number >> 16
        self.image[INPUT, address + 1] = number & 0xFFFF

    # --- What happens to it ---

    def set(self, address: int, *words: int, bank: str = HOLDING) -> None:
        """Give registers another value."""
        for register, word in zip(itertools.count(address), words):
            if self.image.get((bank, register)) != word:
                self.changes.append((self.time.now, register, self.image.get((bank, register), 0)))
                self.image[bank, register] = word
                self.changed(register)

    def cut(self) -> None:
        """Reset the connection."""
        if self.served is not None:
            self._cut(self.served)

    def _cut(self, link: Link) -> None:
        link.cut = True
        self._hang_up(link)

    def _hang_up(self, link: Link) -> None:
        if link is self.served:
            self.served = None
            self.frozen = None
            if self.lock_out:
                self.locked_until = self.time.now + (self.image[HOLDING, TIMEOUT] or DEFAULT_TIMEOUT)

    def _look(self) -> None:
        """Look at the alive register, and go to the failsafe state where nobody wrote it."""
        since, self._look_at = self._look_at, self.time.now
        self.time.after(self.period, self._look)
        if not self.failsafe:
            return
        if self.image[HOLDING, ALIVE]:
            self.image[HOLDING, ALIVE] = 0
            self.in_failsafe = False
        else:
            if not self.in_failsafe:
                self.in_failsafe = True
                self.set(DYNAMIC, self.image[HOLDING, FAILSAFE])
            if self.served is not None and self.served.since <= since:
                self.thrown_out += 1
                self.throws_out()
                self.cut()

    def freeze(self) -> None:
        """Repeat the values of now until the connection is closed (nymea)."""
        if self.served is not None:
            self._measure()
            self.frozen = dict(self.image)

    def plug_in(self, state: int = LOCKED) -> None:
        """A vehicle comes: the box puts its own minimum into the dynamic current."""
        self.set(CABLE, state, bank=INPUT)
        self.set(DYNAMIC, self.image[INPUT, MINIMUM])

    def unplug(self, state: int = NO_CABLE) -> None:
        self.set(CABLE, state, bank=INPUT)

    def restart(self, seconds: float, how: str = "refused", then: Callable[[], None] | None = None) -> None:
        """Be away so long, and come back with the failsafe current, or what `then` makes of it."""
        self.cut()
        self.away, self.locked_until = how, 0.0

        def back() -> None:
            self.away = ""
            self.image[HOLDING, ALIVE] = 0
            self.in_failsafe = False
            self.set(DYNAMIC, self.image[HOLDING, FAILSAFE])
            if then:
                then()

        self.time.after(seconds, back)

    def set_firmware(self, version: str) -> None:
        for register, word in enumerate(text(version, 50), FIRMWARE):
            self.image[INPUT, register] = word

    def fault(
        self,
        outcome: Outcome | Callable[[Request], Outcome | None],
        *addresses: int,
        write: bool | None = None,
        times: int = 1_000_000_000,
        skip: int = 0,
    ) -> Callable[[], None]:
        """Play a fault for requests that begin at these addresses (any, where none is given).

        The first `skip` are answered as usual, the next `times` with the fault. Returns what ends it.
        """
        left = [skip, times]

        def play(request: Request) -> Outcome | None:
            if addresses and request.address not in addresses:
                return None
            if write not in (None, request.write) or not left[1]:
                return None
            if left[0]:
                left[0] -= 1
                return None
            left[1] -= 1
            return outcome(request) if callable(outcome) else outcome

        self.faults.append(play)
        return lambda: self.faults.remove(play)

    # --- What a test may want to know at once ---

    def attempted(self) -> None:
        """The program has begun to connect."""

    def connected(self, link: Link | None) -> None:
        """The program has connected, or (None) failed to."""

    def asked(self, link: Link, request: Request) -> None:
        """A request has come."""

    def answered(self, request: Request) -> None:
        """A reply has gone out."""

    def failed(self, request: Request, outcome: Outcome) -> None:
        """No reply, or an exception, has gone out."""

    def signed(self) -> None:
        """The alive sign has been taken."""

    def changed(self, address: int) -> None:
        """A setting or state has another value now."""

    def throws_out(self) -> None:
        """The master has missed the alive sign and is about to be thrown out."""


class World:
    """A box, the keeper of vestel.py, and the time of both.

    `lines` is all that the keeper said, each with its time.
    """

    def __init__(
        self,
        time: FakeTime,
        box: Box,
        currents: dict[int, int] | None = None,
        details: bool = False,
        every: float = float("inf"),
    ) -> None:
        self.time, self.box = time, box
        self.said: list[tuple[float, str]] = []
        registers = {DYNAMIC: vestel.DYNAMIC_CURRENT, FAILSAFE: vestel.FAILSAFE_CURRENT}
        wanted = [(registers[address], amps) for address, amps in (currents or {}).items()]
        self.charger = vestel.Charger(box.open, "the box", box.reply_timeout)
        self.keeper = vestel.Keeper(self.charger, wanted, details, every, self.say)
        self.due = self._ended = time.now
        self._hasty = 0
        self.beats: deque[tuple[float, float]] = deque(maxlen=100_000)  # begin and end

    def say(self, line: str) -> None:
        self.said.append((self.time.now, line))

    @property
    def lines(self) -> list[str]:
        return [line for _, line in self.said]

    @property
    def snapshot(self) -> Any:
        return self.keeper.snapshot

    @property
    def reading(self) -> Any:
        return self.keeper.snapshot.reading

    def beat(self, times: int = 1) -> None:
        """Let so many beats be, each when it is due."""
        for _ in range(times):
            self.time.sleep(max(0.0, self.due - self.time.now))
            begun = self.time.now
            self.due = self.keeper.beat()
            self.beats.append((begun, self.time.now))
            self._hasty = self._hasty + 1 if self.time.now == begun == self._ended else 0
            self._ended = self.time.now
            assert self._hasty < 10, "beat after beat, and no time passes"

    def read(self, times: int = 1) -> None:
        """Let so many beats be that make a reading, or fail to: others give but an alive sign."""
        for _ in range(times):
            before, until = self.snapshot, self.time.now + 100
            while self.snapshot.readings + self.snapshot.failed == before.readings + before.failed:
                self.beat()
                if self.snapshot.fatal:
                    return
                assert self.time.now < until, "no reading is tried"

    def play(self, seconds: float) -> None:
        """Let the program do what it does until so many seconds have passed."""
        until = self.time.now + seconds
        while max(self.due, self.time.now) < until:
            self.beat()
        self.time.sleep(max(0.0, until - self.time.now))
