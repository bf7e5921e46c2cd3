"""A simulated Vestel EVC04 with two doors: `connect`, in memory, and that of door.py, a socket."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections import deque
from typing import Any, Callable, List, NamedTuple, Tuple, Union

import registers
from clock import Cancel, Clock, RealClock
from registers import CABLE, CLOCK, DYNAMIC, FAILSAFE, HEARTBEAT, HOLDING, INPUT, TIMEOUT, VEHICLE

import vestel

ALWAYS = 1_000_000_000  # times
ACKNOWLEDGE, BUSY = 5, 6  # exceptions: it works on it; it is busy
DEFAULT_TIMEOUT = 20  # s: the failsafe timeout of a box where none is set
DAY = 86_400  # s


class Request(NamedTuple):
    """A request. `value` is the count of a read; a box of base 1 has added 1 to `address`."""

    at: float
    connection: int
    write: bool
    bank: str
    address: int
    value: int
    unit: int = 1


Piece = Tuple[float, Union[bytes, str]]  # a wait (s), and what is sent then: bytes, RESET or CLOSE
Play = Callable[[bytes, bytes], List[Piece]]


class Late(NamedTuple):
    seconds: float


class Frames(NamedTuple):
    play: Play  # (request frame, right reply frame) -> what a socket sends in place of the reply


# What comes of a request: an exception (its code), one of these, frames, or a name in door.PLAYS.
SILENCE, RESET, CLOSE, GARBAGE = BROKEN = "silence", "reset", "close", "no Modbus"
Outcome = Union[int, str, Late, Frames]
late = Late


@functools.lru_cache(maxsize=None)
def _registers(bank: str, first: int, count: int) -> tuple[tuple[str, int], ...]:
    return tuple((bank, address) for address in range(first, first + count))


class Link:
    def __init__(self, charger: SimulatedCharger, number: int) -> None:
        self.charger, self.number = charger, number
        self.since = charger.clock.now
        self.requests = 0
        self.is_ignored = False  # its requests are never answered
        self.is_cut = False  # the charger has ended it, and the next request finds out

    def cut(self) -> None:
        self.is_cut = True
        self.charger.hang_up(self)

    def close(self) -> None:
        self.charger.hang_up(self)


class SimulatedCharger:
    """The charger. Each attribute of the first three groups may be given as an argument, too."""

    def __init__(self, clock: Clock | RealClock | None = None, **attributes: Any) -> None:
        self.clock = clock or RealClock()
        self.image = registers.image()
        self._lock = threading.RLock()
        # How fast it is (s).
        self.delay = 0.0  # of each reply
        self.opening = 0.0  # of each connection
        self.applies_late = False  # carries out a request when its reply goes out, not before
        self.reply_timeout = 2.0  # what silence costs in memory
        # What its firmware is like.
        self.base = 0
        self.old_firmware = False  # without details
        self.refuses_gaps = False  # registers between those that mean something: else they are 0
        self.accepts_all = False  # unknown registers answer 0, and keep what is written
        self.unsupported: set[tuple[str, int]] = set()
        self.unsupported_code = 2
        self.measuring = False  # what it measures tells the time
        self.calendar = "stands"  # or "runs", or "zeros"
        self.without_vehicle = ""  # it "ignores" or "refuses" a dynamic current, or "makes 6 of 0"
        self.keeps: dict[int, int] = {}  # a write is acknowledged, and the register shows this
        self.lag: dict[int, float] = {}  # s until a written value shows; infinity: never
        # What its connections are like.
        self.masters = 1000  # so many at a time
        self.second_master = "reset"  # or "refused", or "silent": accepted and never answered
        self.resets_next = 0  # so many connections are reset as soon as they are accepted
        self.resets_first_request = 0  # on so many connections
        self.resets_after_exception = False
        self.locks_out = False  # no new connection until a failsafe timeout after a master has gone
        self.shortest_look = 3.0  # s: it looks at the heartbeat no more often
        self.strict = False  # a read of a register that no document knows fails the test
        self._away, self._failsafe, self._is_looking = "", False, False
        # What happens to it.
        self.faults: list[Callable[[Request], tuple[Outcome | None, bool] | None]] = []
        self.repeated: registers.Image | None = None  # the old values that it repeats
        self.thaws_with_connection = False
        self.locked_until = -math.inf
        self.in_failsafe = False
        # What has happened.
        self.links: list[Link] = []  # that are open
        self.connections = 0
        self.attempts: list[float] = []
        self.requests: deque[Request] = deque(maxlen=100_000)
        self.heartbeats: list[float] = []  # that it took
        self.thrown_out = 0  # masters without a heartbeat
        self.changes: list[tuple[float, int, int]] = []  # when, address, old value
        # Its doors.
        self.door: Any = None  # that on a socket; see door.py
        self.host, self.port = "", 0
        self._in_memory: MemoryConnection | None = None
        for name, value in attributes.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    # --- Its registers --------------------------------------------------------------------------

    def __getitem__(self, address: int) -> int:
        """Return what a register holds; where both banks have it, the holding register."""
        bank = HOLDING if (HOLDING, address) in self.image else INPUT
        return self.image[bank, address]

    def set(self, address: int, *words: int, bank: str = HOLDING) -> None:
        for register, word in enumerate(words, address):
            old = self.image.get((bank, register))
            if old != word:
                self.changes.append((self.clock.now, register, old or 0))
                self.image[bank, register] = word
                self.changed(register)

    def lack(self, *addresses: int, bank: str = INPUT) -> None:
        self.unsupported.update((bank, address) for address in addresses)

    def _put(self, address: int, number: int) -> None:
        self.image[INPUT, address] = number >> 16
        self.image[INPUT, address + 1] = number & 0xFFFF

    def _measure(self, first: int = 0, end: int = 1 << 16) -> None:
        """Give the clock, and what is measured, the values of now, if they are in that range."""
        now = self.clock.now
        if first < CLOCK + 6 and end > CLOCK and self.calendar != "stands":
            days, seconds = divmod(int(now), DAY)
            clock = seconds // 3600 * 10_000 + seconds // 60 % 60 * 100 + seconds % 60
            runs = self.calendar == "runs"
            self._put(CLOCK, runs * (261101 + (19 + days) % 28))
            self._put(CLOCK + 4, runs * clock)
        if self.measuring and first < 1510 and end > 1008:
            tenths = int(now * 10)
            self.image[INPUT, 1008] = tenths % 60_000
            self.image[INPUT, 1010] = tenths % 59_000
            self.image[INPUT, 1014] = 200 + tenths % 50
            self._put(1020, tenths % 90_000)
            self._put(1024, tenths % 89_000)
            for address in (1036, 1502, 1508):
                self._put(address, tenths)

    # --- What it makes of a request -------------------------------------------------------------

    def receive(self, link: Link, write: bool, bank: str, asked: int, *more: int) -> Request:
        request = Request(self.clock.now, link.number, write, bank, asked + self.base, *more)
        link.requests += 1
        self.requests.append(request)
        self.requested(link, request)
        return request

    def decide(self, link: Link, request: Request) -> tuple[Outcome | None, bool]:
        """Return what comes of a request in place of its reply, and whether it is carried out."""
        if link.is_ignored:
            return SILENCE, False
        if link.requests == 1 and self.resets_first_request > 0:
            self.resets_first_request -= 1
            return RESET, False
        for fault in list(self.faults):
            found = fault(request)
            if found is not None:
                return found
        return None, True

    def carry_out(self, request: Request) -> tuple[int | None, list[int]]:
        with self._lock:
            if request.write:
                return self._write(request.address, request.value), []
            return self._read(request.bank, request.address, request.value)

    def _read(self, bank: str, first: int, count: int) -> tuple[int | None, list[int]]:
        asked = _registers(bank, first, count)
        if not all(map(self._has, asked)):
            return self.unsupported_code, []
        if self.repeated is None and bank == INPUT:
            self._measure(first, first + count)
        held = self.image if self.repeated is None else self.repeated
        return None, [held.get(register, 0) for register in asked]

    def _has(self, register: tuple[str, int]) -> bool:
        bank, address = register
        is_new = 130 <= address < 296 or address == registers.PHASE_SWITCH
        if register in self.unsupported or (self.old_firmware and is_new):
            return False
        if register in registers.GAPS and not self.refuses_gaps:
            return True
        is_known = register in self.image or register in registers.GAPS
        assert is_known or not self.strict, f"no document knows {bank} register {address}"
        return register in self.image or self.accepts_all

    def _write(self, address: int, value: int) -> int | None:
        if not self._has((HOLDING, address)):
            return self.unsupported_code
        if address == HEARTBEAT:
            self.heartbeats.append(self.clock.now)
            self.image[HOLDING, HEARTBEAT] = value
            return None
        is_without = address == DYNAMIC and self.image[INPUT, CABLE] < VEHICLE
        how = self.without_vehicle if is_without else ""
        if how in ("ignores", "refuses"):
            return {"refuses": 4}.get(how)
        if how == "makes 6 of 0" and value == 0:
            value = 6
        value = self.keeps.get(address, value)
        lag = self.lag.get(address, 0.0)
        if lag == 0:
            self.set(address, value)
        elif lag < math.inf:
            self.clock.after(lag, lambda: self.set(address, value))
        return None

    def replied(self, link: Link, request: Request, outcome: Outcome | None) -> None:
        if outcome is None or isinstance(outcome, (Late, Frames)):
            self.answered(request)
            return
        self.failed(request, outcome)
        if isinstance(outcome, int) and self.resets_after_exception:
            link.cut()

    # --- Its connections ------------------------------------------------------------------------

    def greeting(self) -> str:
        if self.away:
            return self.away
        if self.clock.now < self.locked_until:
            return "refused"
        if self.resets_next > 0:
            self.resets_next -= 1
            return "resets"
        if len(self.links) >= self.masters:
            return {"reset": "resets"}.get(self.second_master, self.second_master)
        return ""

    def refuses_now(self) -> bool:
        is_full = self.second_master == "refused" and len(self.links) >= self.masters
        return self.away == "refused" or self.clock.now < self.locked_until or is_full

    def take(self, link: Link) -> Link:
        with self._lock:
            self.links.append(link)
        self._tell_door()
        return link

    def hang_up(self, link: Link) -> None:
        with self._lock:
            if link not in self.links:
                return
            self.links.remove(link)
            if (HOLDING, registers.PHASE_SWITCH) in self.image:
                self.image[HOLDING, registers.PHASE_SWITCH] = self.image[INPUT, registers.PHASES]
            if self.thaws_with_connection:
                self.thaw()
            if self.locks_out:
                self.locked_until = self.clock.now + self.failsafe_timeout
                self.clock.at(self.locked_until, self._tell_door)
        self._tell_door()

    def _tell_door(self) -> None:
        if self.door is not None:
            self.door.update()

    def other_master(self) -> Link:
        self.connections += 1
        return self.take(Link(self, self.connections))

    def connect(self, timeout: float | None = None, base: int = 0) -> MemoryConnection:
        """Connect in memory. `timeout` is what silence costs (s), `base` that of the program."""
        assert self._in_memory is None, "a second connection while one is open"
        timeout = self.reply_timeout if timeout is None else timeout
        self.attempts.append(self.clock.now)
        self.attempted()
        how = self.greeting()
        cannot = "Cannot connect to the box:"
        errors: dict[str, Exception] = {
            "dead": vestel.Unreachable(f"{cannot} no answer within {timeout:g} s"),
            "refused": vestel.Unreachable(f"{cannot} connection refused"),
            "resets": vestel.NoReply("the charger closed the connection"),
        }
        self.clock.sleep({"dead": timeout, "refused": 0.0}.get(how, self.opening))
        if how in errors:
            self.connected(None)
            raise errors[how]
        self.connections += 1
        link = self._in_memory = MemoryConnection(self, self.connections, timeout, base)
        link.is_ignored = how == "silent"
        link.is_cut = not link.is_ignored and bool(how or self.away)
        if not (link.is_ignored or link.is_cut):
            self.take(link)
        self.connected(link)
        return link

    def leave(self, connection: MemoryConnection) -> None:
        if self._in_memory is connection:
            self._in_memory = None
        self.hang_up(connection)

    def start(self) -> None:
        self.clock.start()
        self.door.start()

    def stop(self) -> None:
        self.door.stop()

    # --- What happens to it ---------------------------------------------------------------------

    def fault(
        self,
        outcome: Outcome | Callable[[Request], Outcome | None],
        *addresses: int,
        write: bool | None = None,
        bank: str | None = None,
        times: int = ALWAYS,
        skip: int = 0,
        executed: bool | None = None,
    ) -> Cancel:
        """Play a fault for requests that begin at these addresses (any); return what ends it.

        The first `skip` of them are answered as usual, the next `times` with the fault. A write is
        carried out, too, but for exceptions other than 5; `executed` says otherwise.
        """
        turns = iter(range(skip + times))

        def play(request: Request) -> tuple[Outcome | None, bool] | None:
            is_there = not addresses or request.address in addresses
            is_meant = write in (None, request.write) and bank in (None, request.bank)
            if not (is_there and is_meant) or next(turns, -1) < skip:
                return None
            found = outcome(request) if callable(outcome) else outcome
            is_done = not isinstance(found, int) or found == ACKNOWLEDGE
            is_done = is_done if executed is None else executed
            return None if found is None else (found, is_done)

        self.faults.append(play)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self.faults.remove(play)

        return end

    def vanish(self, request: Request) -> Outcome:
        if self.door is None:
            self.away = "refused"
        else:
            self.stop()
        return RESET

    @property
    def away(self) -> str:
        """How it takes no connection: "refused", "dead" (memory only), "closes" or "resets"."""
        return self._away

    @away.setter
    def away(self, how: str) -> None:
        self._away = how
        self._tell_door()

    def cut(self) -> None:
        for link in list(self.links):
            link.cut()

    def restart(self, seconds: float, how: str = "refused", then: Any = int) -> None:
        """Be away so long, and come back with the failsafe current, or what `then` makes of it."""
        self.away = how
        self.cut()
        self.locked_until = -math.inf

        def back() -> None:
            self.away = ""
            self.image[HOLDING, HEARTBEAT] = 0
            self.in_failsafe = False
            self.set(DYNAMIC, self.image[HOLDING, FAILSAFE])
            then()

        self.clock.after(seconds, back)

    def boot(self, seconds: float, code: int = BUSY) -> None:
        self.clock.after(seconds, self.fault(code))

    def freeze(self, until: float | str | None = "closed") -> None:
        """Repeat the values of now until the connection is closed, for so long (s), or for good."""
        self._measure()
        self.repeated = dict(self.image)
        self.thaws_with_connection = until == "closed"
        if isinstance(until, (int, float)):
            self.clock.after(until, self.thaw)

    def thaw(self) -> None:
        self.repeated, self.thaws_with_connection = None, False

    def plug_in(self, state: int = registers.LOCKED) -> None:
        """Let a vehicle come: the box puts its own minimum into the dynamic current."""
        self.set(CABLE, state, bank=INPUT)
        self.set(DYNAMIC, self.image[INPUT, registers.EVSE_MIN])

    def unplug(self, state: int = registers.NO_CABLE) -> None:
        self.set(CABLE, state, bank=INPUT)

    def fight(
        self, value: int, every: float, address: int = DYNAMIC, costs_connection: bool = False
    ) -> Cancel:
        wanted = [True]

        def set_it() -> None:
            if wanted:
                if costs_connection:
                    self.cut()
                self.set(address, value)
                self.clock.after(every, set_it)

        self.clock.after(every, set_it)
        return wanted.clear

    # --- The failsafe ---------------------------------------------------------------------------

    @property
    def failsafe(self) -> bool:
        return self._failsafe

    @failsafe.setter
    def failsafe(self, looks: bool) -> None:
        self._failsafe = looks
        if looks and not self._is_looking:
            self._is_looking = True
            self._looked_at = self.clock.now
            self.clock.after(self.period, self._look)

    @property
    def failsafe_timeout(self) -> int:
        return self.image[HOLDING, TIMEOUT] or DEFAULT_TIMEOUT

    @property
    def period(self) -> float:
        return max(self.shortest_look, self.failsafe_timeout / 2)

    def _look(self) -> None:
        """Look at the heartbeat, and go to the failsafe state where nobody gave one."""
        if not self._failsafe:
            self._is_looking = False
            return
        since, self._looked_at = self._looked_at, self.clock.now
        self.clock.after(self.period, self._look)
        with self._lock:
            if self.image[HOLDING, HEARTBEAT]:
                self.image[HOLDING, HEARTBEAT] = 0
                self.in_failsafe = False
                return
            if not self.in_failsafe:
                self.in_failsafe = True
                self.set(DYNAMIC, self.image[HOLDING, FAILSAFE])
        for link in [link for link in self.links if link.since <= since]:
            self.thrown_out += 1
            self.throws_out()
            link.cut()

    # --- What has happened ----------------------------------------------------------------------

    @property
    def reads(self) -> list[tuple[str, int, int]]:
        return [(r.bank, r.address, r.value) for r in list(self.requests) if not r.write]

    @property
    def writes(self) -> list[tuple[int, int]]:
        return [(r.address, r.value) for r in list(self.requests) if r.write]

    @property
    def settings(self) -> list[tuple[int, int]]:
        return [write for write in self.writes if write[0] != HEARTBEAT]

    def times_of(self, *addresses: int, write: bool | None = None) -> list[float]:
        asked = [r for r in list(self.requests) if r.address in addresses]
        return [r.at for r in asked if write in (None, r.write)]

    def forget(self) -> None:
        logs: tuple[Any, ...] = self.requests, self.attempts, self.heartbeats, self.changes
        for one in (self.faults, *logs):
            one.clear()
        self.connections = self.thrown_out = self.resets_next = 0

    def nothing(self, *about: Any) -> None:
        """Do nothing: what happens is for a subclass to look at."""

    # (), (link) or (None) in vain, (link, request), (request), (request, outcome), (address), ()
    attempted = connected = requested = answered = failed = changed = throws_out = nothing


class MemoryConnection(Link):
    def __init__(self, charger: SimulatedCharger, number: int, timeout: float, base: int) -> None:
        super().__init__(charger, number)
        self.timeout, self.base = timeout, base
        self.is_closed = self.is_finished = False
        self.free_at = -math.inf  # when the charger has answered all that came before

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        return self._exchange(False, bank, address, count)

    def write_word(self, address: int, value: int) -> None:
        try:
            self._exchange(True, HOLDING, address, value)
        except vestel.Refused as error:
            if error.code != 5:  # the charger works on it
                raise

    def close(self) -> None:
        self.is_closed = True
        self.charger.leave(self)

    def _exchange(self, write: bool, bank: str, address: int, value: int) -> list[int]:
        assert not self.is_closed, "a request on a connection that is closed"
        assert not self.is_finished, "a request on a connection that gave no usable reply"
        charger, clock = self.charger, self.charger.clock
        request = charger.receive(self, write, bank, address - self.base, value)
        if self.is_cut:
            raise self._broken(request, RESET)
        outcome, is_executed = charger.decide(self, request)
        assert outcome in BROKEN or not isinstance(outcome, (str, Frames)), "needs a socket"
        begin = max(clock.now, self.free_at)
        reply_at = begin + charger.delay
        if isinstance(outcome, Late):
            reply_at += outcome.seconds
            outcome = None
        result: list[tuple[int | None, list[int]]] = []
        if is_executed and (write or outcome is None):
            at = reply_at if charger.applies_late else begin
            if at > clock.now:
                clock.at(at, lambda: result.append(charger.carry_out(request)))
            else:
                result.append(charger.carry_out(request))
        wait = reply_at - clock.now
        if outcome == SILENCE or wait > self.timeout:
            self.free_at = begin if outcome == SILENCE else reply_at
            clock.sleep(self.timeout)
            charger.replied(self, request, SILENCE)
            raise vestel.Silence(f"no reply within {self.timeout:g} s")
        clock.sleep(wait)
        self.free_at = reply_at
        if outcome is None:
            outcome = result[0][0]
        if self.is_cut:
            outcome = RESET  # while it waited
        if isinstance(outcome, str):
            raise self._broken(request, outcome)
        charger.replied(self, request, outcome)
        if outcome is not None:
            raise vestel.Refused(outcome)
        return result[0][1]

    def _broken(self, request: Request, outcome: str) -> vestel.NoReply:
        self.is_finished = True
        if outcome != GARBAGE:
            self.cut()
        self.charger.replied(self, request, outcome)
        why = {GARBAGE: "a reply that is no Modbus"}
        return vestel.NoReply(why.get(outcome, "the charger closed the connection"))
