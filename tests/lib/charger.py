"""A simulated Vestel EVC04: its registers, what it does of itself, and the faults of real boxes.

It has two doors. `connect` gives a connection in memory, as vestel.py uses one, for simulated time.
door.py lets it listen on a socket, in real time. What it does is the same behind both, and typed
here by hand, so that vestel.py is never tested against its own understanding of the charger.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, List, NamedTuple, Optional, Tuple, Union

from clock import Cancel, Clock, RealClock
from registers import (
    CABLE,
    CLOCK,
    DYNAMIC,
    EVSE_MIN,
    FAILSAFE,
    FIRMWARE,
    GAPS,
    HEARTBEAT,
    HOLDING,
    INPUT,
    LOCKED,
    NO_CABLE,
    PHASE_SWITCH,
    PHASES,
    TIMEOUT,
    VEHICLE,
    Image,
    image,
    packed,
    row,
    text,
)

import vestel

ALWAYS = 1_000_000_000  # times
ACKNOWLEDGE, BUSY = 5, 6  # exceptions: it works on it; it is busy
DEFAULT_TIMEOUT = 20  # s: the failsafe timeout of a box where none is set
DAY = 86_400  # s
TEXTS = (100, 130, 190, 210, 230)  # the registers where a text begins


class Request(NamedTuple):
    """A request as it came. `value` is the count of a read, and the value of a write.

    `address` is the number of the register: a box of base 1 adds 1 to what was asked for.
    """

    at: float
    connection: int
    write: bool
    bank: str
    address: int
    value: int
    unit: int = 1


class Late(NamedTuple):
    """The right reply, so many seconds later than usual."""

    seconds: float


late = Late

Piece = Tuple[float, Union[bytes, str]]  # a wait (s), and what is sent then: bytes, RESET or CLOSE
Play = Callable[[bytes, bytes], List[Piece]]


class Frames(NamedTuple):
    """What a socket sends in place of a reply: (request frame, right reply frame) -> pieces."""

    play: Play


# What comes of a request in place of its reply: an exception (its code), one of these, or frames.
SILENCE, RESET, CLOSE, GARBAGE = "silence", "reset", "close", "no Modbus"
Outcome = Union[int, str, Late, Frames]
Decide = Callable[[Request], Optional[Outcome]]


@dataclass(eq=False)
class Fault:
    """What is to come of which requests, and how often."""

    decide: Decide
    matches: Callable[[Request], bool]
    times: int
    skip: int
    executed: bool | None  # whether a write is carried out, too

    def outcome(self, request: Request) -> Outcome | None:
        if self.times <= 0 or not self.matches(request):
            return None
        if self.skip > 0:
            self.skip -= 1
            return None
        self.times -= 1
        return self.decide(request)


@functools.lru_cache(maxsize=None)
def _registers(bank: str, first: int, count: int) -> tuple[tuple[str, int], ...]:
    return tuple((bank, address) for address in range(first, first + count))


class Link:
    """A connection, as the charger has it."""

    def __init__(self, charger: SimulatedCharger, number: int) -> None:
        self.charger, self.number = charger, number
        self.since = charger.clock.now
        self.requests = 0
        self.is_ignored = False  # its requests are never answered
        self.is_cut = False  # the charger has ended it, and the next request finds out

    def cut(self) -> None:
        """End the connection from the side of the charger."""
        self.is_cut = True
        self.charger.hang_up(self)

    def close(self) -> None:
        """End the connection from the side of the master."""
        self.charger.hang_up(self)


class SimulatedCharger:
    """The charger. Each attribute of the first three groups may be given as an argument, too."""

    def __init__(self, clock: Clock | RealClock | None = None, **attributes: Any) -> None:
        self.clock = clock or RealClock()
        self.image: Image = image()
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
        self._away = ""
        self._failsafe = self._is_looking = False
        # What happens to it.
        self.faults: list[Fault] = []
        self.repeated: Image | None = None  # the old values that it repeats
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
        """Give registers other values."""
        for register, word in enumerate(words, address):
            old = self.image.get((bank, register))
            if old != word:
                self.changes.append((self.clock.now, register, old or 0))
                self.image[bank, register] = word
                self.changed(register)

    def lack(self, *addresses: int, bank: str = INPUT) -> None:
        """Answer exception 2 for these registers from now on."""
        self.unsupported.update((bank, address) for address in addresses)

    def set_text(self, address: int, value: str) -> None:
        self.set(address, *text(value, len(row(address).words)), bank=INPUT)

    def set_firmware(self, version: str) -> None:
        self.set_text(FIRMWARE, version)

    def pack_texts(self) -> None:
        """Hold two characters of each text in a register, as related firmware does."""
        for address in TEXTS:
            words = row(address).words
            held = "".join(map(chr, words)).rstrip("\0")
            self.set(address, *packed(held, len(words)), bank=INPUT)

    def _put(self, address: int, number: int) -> None:
        self.image[INPUT, address] = number >> 16
        self.image[INPUT, address + 1] = number & 0xFFFF

    def _measure(self, first: int = 0, end: int = 1 << 16) -> None:
        """Give the clock, and what is measured, the values of now, if they are in that range."""
        now = self.clock.now
        has_clock = first < CLOCK + 6 and end > CLOCK
        if has_clock and self.calendar == "zeros":
            self._put(CLOCK, 0)
            self._put(CLOCK + 4, 0)
        elif has_clock and self.calendar == "runs":
            days, seconds = divmod(int(now), DAY)
            hours, minutes = seconds // 3600, seconds // 60 % 60
            self._put(CLOCK, 261101 + (19 + days) % 28)
            self._put(CLOCK + 4, hours * 10_000 + minutes * 100 + seconds % 60)
        if self.measuring and first < 1510 and end > 1008:
            tenths = int(now * 10)
            self.image[INPUT, 1008] = tenths % 60_000
            self.image[INPUT, 1010] = tenths % 59_000
            self.image[INPUT, 1014] = 200 + tenths % 50
            self._put(1020, tenths % 90_000)
            self._put(1024, tenths % 89_000)
            self._put(1036, tenths)
            self._put(1502, tenths)
            self._put(1508, tenths)

    # --- What it makes of a request -------------------------------------------------------------

    def receive(
        self, link: Link, write: bool, bank: str, asked: int, value: int, unit: int = 1
    ) -> Request:
        """Log a request."""
        request = Request(self.clock.now, link.number, write, bank, asked + self.base, value, unit)
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
            outcome = fault.outcome(request)
            if outcome is None:
                continue
            is_done = not isinstance(outcome, int) or outcome == ACKNOWLEDGE
            return outcome, is_done if fault.executed is None else fault.executed
        return None, True

    def carry_out(self, request: Request) -> tuple[int | None, list[int]]:
        """Carry out a request; return an exception or None, and the words of a read."""
        with self._lock:
            if request.write:
                return self._write(request.address, request.value), []
            return self._read(request.bank, request.address, request.value)

    def _read(self, bank: str, first: int, count: int) -> tuple[int | None, list[int]]:
        registers = _registers(bank, first, count)
        if not all(map(self._has, registers)):
            return self.unsupported_code, []
        if self.repeated is None and bank == INPUT:
            self._measure(first, first + count)
        held = self.image if self.repeated is None else self.repeated
        return None, [held.get(register, 0) for register in registers]

    def _has(self, register: tuple[str, int]) -> bool:
        bank, address = register
        if register in self.unsupported:
            return False
        if self.old_firmware and (130 <= address < 296 or address == PHASE_SWITCH):
            return False
        if register in GAPS and not self.refuses_gaps:
            return True
        is_known = register in self.image or register in GAPS
        assert is_known or not self.strict, f"no document knows {bank} register {address}"
        return register in self.image or self.accepts_all

    def _write(self, address: int, value: int) -> int | None:
        if not self._has((HOLDING, address)):
            return self.unsupported_code
        if address == HEARTBEAT:
            self.heartbeats.append(self.clock.now)
            self.image[HOLDING, HEARTBEAT] = value
            self.heartbeat_given()
            return None
        if address == DYNAMIC and self.image[INPUT, CABLE] < VEHICLE:
            if self.without_vehicle == "ignores":
                return None
            if self.without_vehicle == "refuses":
                return 4
            if self.without_vehicle == "makes 6 of 0":
                value = value or 6
        value = self.keeps.get(address, value)
        lag = self.lag.get(address, 0.0)
        if lag == 0:
            self.set(address, value)
        elif lag < math.inf:
            self.clock.after(lag, lambda: self.set(address, value))
        return None

    def replied(self, link: Link, request: Request, outcome: Outcome | None) -> None:
        """Note what has come of a request; None is a reply."""
        if outcome is None or isinstance(outcome, (Late, Frames)):
            self.answered(request)
            return
        self.failed(request, outcome)
        if isinstance(outcome, int) and self.resets_after_exception:
            link.cut()

    # --- Its connections ------------------------------------------------------------------------

    def greeting(self) -> str:
        """Return how the charger meets an attempt to connect: "" is that it serves it."""
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
        """Tell whether nothing is to listen on the socket at this moment."""
        is_full = self.second_master == "refused" and len(self.links) >= self.masters
        return self.away == "refused" or self.clock.now < self.locked_until or is_full

    def take(self, link: Link) -> Link:
        """Serve a connection from now on."""
        with self._lock:
            self.links.append(link)
        self._tell_door()
        return link

    def hang_up(self, link: Link) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            if link not in self.links:
                return
            self.links.remove(link)
            if (HOLDING, PHASE_SWITCH) in self.image:
                self.image[HOLDING, PHASE_SWITCH] = self.image[INPUT, PHASES]
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
        """Let another master connect; its close() ends that."""
        self.connections += 1
        return self.take(Link(self, self.connections))

    def connect(self, timeout: float | None = None, base: int = 0) -> MemoryConnection:
        """Connect in memory; what vestel.Charger is given.

        `timeout` is what silence costs (s), `base` that of the program.
        """
        assert self._in_memory is None, "a second connection while one is open"
        timeout = self.reply_timeout if timeout is None else timeout
        self.attempts.append(self.clock.now)
        self.attempted()
        how = self.greeting()
        if how == "dead":
            self.clock.sleep(timeout)
        if how in ("dead", "refused"):
            self.connected(None)
            why = "connection refused" if how == "refused" else f"no answer within {timeout:g} s"
            raise vestel.Unreachable(f"Cannot connect to the box: {why}")
        self.clock.sleep(self.opening)
        if how == "resets":
            self.connected(None)
            raise vestel.NoReply("the charger closed the connection")
        self.connections += 1
        link = self._in_memory = MemoryConnection(self, self.connections, timeout, base)
        if how == "silent":
            link.is_ignored = True
        elif how or self.away:
            link.is_cut = True
        else:
            self.take(link)
        self.connected(link)
        return link

    def leave(self, connection: MemoryConnection) -> None:
        """End a connection in memory, as the program wants it."""
        if self._in_memory is connection:
            self._in_memory = None
        self.hang_up(connection)

    def start(self) -> None:
        """Listen on its socket again, on the same port."""
        self.clock.start()
        self.door.start()

    def stop(self) -> None:
        """Be gone from its socket: nothing listens, and every connection is reset."""
        self.door.stop()

    # --- What happens to it ---------------------------------------------------------------------

    def fault(
        self,
        outcome: Outcome | Decide,
        *addresses: int,
        write: bool | None = None,
        bank: str | None = None,
        times: int = ALWAYS,
        skip: int = 0,
        executed: bool | None = None,
    ) -> Cancel:
        """Play a fault for requests that begin at these addresses; return what ends it.

        The first `skip` of them are answered as usual, the next `times` with the fault. What is
        None or not given means any. A write is carried out, too, but for exceptions other than 5;
        `executed` says otherwise.
        """

        def matches(request: Request) -> bool:
            return (
                (not addresses or request.address in addresses)
                and write in (None, request.write)
                and bank in (None, request.bank)
            )

        if isinstance(outcome, str):
            outcome = self._frames_of(outcome)
        decide = outcome if callable(outcome) else lambda _: outcome
        fault = Fault(decide, matches, times, skip, executed)
        self.faults.append(fault)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self.faults.remove(fault)

        return end

    @staticmethod
    def _frames_of(name: str) -> Outcome:
        if name in (SILENCE, RESET, CLOSE, GARBAGE):
            return name
        from door import PLAYS

        return PLAYS[name]

    def vanish(self, request: Request) -> Outcome:
        """Be gone in place of a reply: a fault."""
        if self.door is None:
            self.away = "refused"
        else:
            self.stop()
        return RESET

    @property
    def away(self) -> str:
        """How it takes no connection: "refused", "dead" (no answer), "closes" or "resets".

        "closes" accepts, and closes before the first request. "resets" does so at once, so that
        there is no connection. "dead" is for memory; a socket has dead_host().
        """
        return self._away

    @away.setter
    def away(self, how: str) -> None:
        self._away = how
        self._tell_door()

    def cut(self) -> None:
        """Reset all connections."""
        for link in list(self.links):
            link.cut()

    def restart(
        self, seconds: float, how: str = "refused", then: Callable[[], object] | None = None
    ) -> None:
        """Be away so long, and come back with the failsafe current, or what `then` makes of it."""
        self.away = how
        self.cut()
        self.locked_until = -math.inf

        def back() -> None:
            self.away = ""
            self.image[HOLDING, HEARTBEAT] = 0
            self.in_failsafe = False
            self.set(DYNAMIC, self.image[HOLDING, FAILSAFE])
            if then:
                then()

        self.clock.after(seconds, back)

    def restart_daily(self, first: float, seconds: float) -> None:
        """Restart in so many seconds, and each day at this time."""

        def restart() -> None:
            self.restart(seconds)
            self.restart_daily(DAY, seconds)

        self.clock.after(first, restart)

    def boot(self, seconds: float, code: int = BUSY) -> None:
        """Answer each request with an exception for so long."""
        self.clock.after(seconds, self.fault(code))

    def freeze(self, until: float | str | None = "closed") -> None:
        """Repeat the values of now until the connection is closed, for so long (s), or for good."""
        self._measure()
        self.repeated = dict(self.image)
        self.thaws_with_connection = until == "closed"
        if isinstance(until, (int, float)):
            self.clock.after(until, self.thaw)

    def thaw(self) -> None:
        """Repeat old values no more."""
        self.repeated, self.thaws_with_connection = None, False

    def plug_in(self, state: int = LOCKED) -> None:
        """Let a vehicle come: the box puts its own minimum into the dynamic current."""
        self.set(CABLE, state, bank=INPUT)
        self.set(DYNAMIC, self.image[INPUT, EVSE_MIN])

    def unplug(self, state: int = NO_CABLE) -> None:
        self.set(CABLE, state, bank=INPUT)

    def fight(
        self,
        value: int,
        every: float,
        address: int = DYNAMIC,
        times: int = ALWAYS,
        costs_connection: bool = False,
    ) -> Cancel:
        """Let another master set a value again and again; return what ends that."""
        turns = [iter(range(times))]

        def set_it() -> None:
            if not turns or next(turns[0], None) is None:
                return
            if costs_connection:
                self.cut()
            self.set(address, value)
            self.clock.after(every, set_it)

        self.clock.after(every, set_it)
        return turns.clear

    # --- The failsafe ---------------------------------------------------------------------------

    @property
    def failsafe(self) -> bool:
        """Whether it looks at the heartbeat."""
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
        """How often (s) it looks at the heartbeat."""
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
        for link in list(self.links):
            if link.since <= since:
                self.thrown_out += 1
                self.throws_out()
                link.cut()

    # --- What has happened ----------------------------------------------------------------------

    @property
    def reads(self) -> list[tuple[str, int, int]]:
        """Every read that came: (bank, address, count)."""
        return [(r.bank, r.address, r.value) for r in list(self.requests) if not r.write]

    @property
    def writes(self) -> list[tuple[int, int]]:
        """Every write that came, carried out or not: (address, value)."""
        return [(r.address, r.value) for r in list(self.requests) if r.write]

    @property
    def settings(self) -> list[tuple[int, int]]:
        """Every write that came and was no heartbeat: (address, value)."""
        return [write for write in self.writes if write[0] != HEARTBEAT]

    def times_of(self, *addresses: int, write: bool | None = None) -> list[float]:
        """Return when these registers were asked for, or written."""
        return [
            r.at for r in list(self.requests) if r.address in addresses and write in (None, r.write)
        ]

    def forget(self) -> None:
        """Empty the log and the list of faults, for the next case."""
        self.faults.clear()
        self.requests.clear()
        self.attempts.clear()
        self.heartbeats.clear()
        self.changes.clear()
        self.connections = self.thrown_out = self.resets_next = 0

    # --- What a test may want to know at once: for a subclass to override -------------------------

    def attempted(self) -> None:
        """The program has begun to connect."""

    def connected(self, link: Link | None) -> None:
        """The program has connected, or (None) failed to."""

    def requested(self, link: Link, request: Request) -> None:
        """A request has come."""

    def answered(self, request: Request) -> None:
        """A reply has gone out."""

    def failed(self, request: Request, outcome: Outcome) -> None:
        """An exception has gone out, or no reply."""

    def heartbeat_given(self) -> None:
        """A heartbeat has been taken."""

    def changed(self, address: int) -> None:
        """A register has been given another value."""

    def throws_out(self) -> None:
        """A master has missed its heartbeat, and is about to be thrown out."""


class MemoryConnection(Link):
    """A connection in memory, as vestel.py uses it."""

    def __init__(self, charger: SimulatedCharger, number: int, timeout: float, base: int) -> None:
        super().__init__(charger, number)
        self.timeout, self.base = timeout, base
        self.is_closed = self.is_finished = False
        self.free_at = -math.inf  # when the charger has answered all that came before

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        return self._exchange(False, bank, address, count)

    def write_word(self, address: int, value: int) -> None:
        self._exchange(True, HOLDING, address, value)

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
        assert not isinstance(outcome, Frames), "frames need a socket"
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
        if outcome == GARBAGE:
            return vestel.NoReply("a reply that is no Modbus")
        return vestel.NoReply("the charger closed the connection")
