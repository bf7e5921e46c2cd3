"""The long modes against a charger whose faults are drawn from a seed, in simulated time.

Each seed is more than an hour. Whatever the box does, and whenever, some things are never to
be seen: they are checked at each request and after each beat. A failure prints its seed and the
story of it. A longer run:

    VESTEL_SIMULATION_SEEDS=20000 python -m pytest -n auto tests/test_simulation.py
"""

from __future__ import annotations

import functools
import math
import os
import random
import re
from collections import deque
from datetime import datetime, timezone
from typing import Any, Callable, NoReturn

import pytest
from simulated_charger import HOLDING, INPUT
from simulated_world import (
    ALIVE,
    BUSY,
    CABLE,
    CLOCK,
    DYNAMIC,
    FAILSAFE,
    FIRMWARE,
    NO_VEHICLE,
    RESET,
    SILENCE,
    TIMEOUT,
    VEHICLE,
    Box,
    FakeTime,
    Link,
    Outcome,
    Request,
    World,
)

import vestel

SEEDS = int(os.environ.get("VESTEL_SIMULATION_SEEDS", "48"))
PARTS = 8  # so that several processes may share them
STORY = 90  # of what happened, so much is printed
HOUR = 3600.0
CALM = 400.0  # s at the end of each seed, for all that is over to be seen as over

CORE = {100: 25, 400: 5, 1000: 38, 1100: 7, 1502: 12, 2000: 3, 5004: 1}  # first addresses: words

HOLEY = {290: 6, 400: 5, 1000: 38, 1100: 7, 1502: 12, 2000: 3}  # those of several values
DETAILS = (130, 190, 210, 230, 405)
SOON = 1e-6  # s: two floating point sums of the same moments


# What happens to the box, and how often.
HAPPENINGS = {
    "cuts": 2,
    "faults": 3,
    "silence": 1,
    "refuses": 1,
    "busy": 1,
    "away": 2,
    "restarts": 1,
    "plugs": 3,
    "freezes": 1,
    "slow": 1,
    "other_master": 2,
    "refuses_sign": 1,
    "jumps": 1,
    "details_fail": 1,
    "absurd": 1,
}


class Violation(AssertionError):
    """Something that is never to be seen was seen."""


class JudgedBox(Box):
    """A box that watches the program at each request."""

    def __init__(self, time: FakeTime, wanted: dict[int, int], every: float, **options: Any) -> None:
        self.wanted, self.every = wanted, every
        self.story: deque[tuple[float, str, Any]] = deque(maxlen=400)
        self.ready = False
        # The alive sign: since when one is owed, what of that time was no fault of the program,
        # whether it is refused, and when it was refused last.
        self.owed: float | None = None
        self.excused = 0.0
        self.broken_at = 0.0
        self.misses = 0
        self.sign_fails = False
        self.sign_failed_at = 0.0
        # The beat.
        self.begun = time.now
        self.unanswered: set[tuple[int, int]] = set()  # address, and count or value
        self.failures = 0  # of requests, in this beat
        self.core_answers = 0
        self.failed_attempts = 0  # to connect, one after the other
        self.attempt_failed = False  # in this beat
        self.attempt_failed_at = -math.inf
        self.writes: dict[int, int] = {}  # in this beat
        self.accepted: set[int] = set()  # of these writes
        # The held currents: since when the box has another value, and how setting them went.
        self.wrong_since: dict[int, float] = {}
        self.right_since: dict[int, float] = {}
        self.tries: dict[int, int] = {}  # that failed, one after the other
        self.tried_at: dict[int, float] = {}
        self.set_on: dict[int, int] = {}  # the connection on which it was confirmed
        self.vehicle_at = 0.0  # when the state of the cable changed
        self.limits_failed_at = -math.inf
        self.frozen_at = -math.inf  # when it began
        self.thawed_at = -math.inf
        self.clock_since = math.inf  # since when its clock has been read at each beat
        self.firmware, self.firmware_known = "", True
        super().__init__(time, **options)
        for address, amps in wanted.items():
            right = self.image[HOLDING, address] == amps
            (self.right_since if right else self.wrong_since)[address] = time.now
        self.ready = True

    def note(self, what: str, more: Any = "") -> None:
        self.story.append((self.time.now, what, more))

    def violated(self, rule: str) -> NoReturn:
        self.note("VIOLATED", rule)
        raise Violation(rule)

    # --- What the box sees ---

    def attempted(self) -> None:
        now = self.time.now
        before = self.attempts[-2] if len(self.attempts) > 1 else -math.inf
        if now - before < 1 - SOON:
            self.violated(f"two attempts to connect within {now - before:.3f} s")
        if now - before < 1 + SOON:
            self.excused += now - self.broken_at
        if self.failed_attempts:  # the first few may be of one beat
            if now - before < min(60, 2 ** (self.failed_attempts - 4)) - SOON:
                self.violated(f"attempt {self.failed_attempts + 1} to connect after {now - before:.3f} s")
            if now - self.attempt_failed_at > 60 + SOON:
                self.violated(f"no attempt to connect for {now - self.attempt_failed_at:.1f} s")

    def connected(self, link: Link | None) -> None:
        if link is None and self.away == "resets":  # as a request that is reset: mostly the sign
            self.note("resets the connection")
            self.broken_at = self.time.now
            self.unanswered.add((1000, 0))  # nobody knows what it was for
            self.misses += 1
            if self.misses > 1:
                self.sign_fails, self.owed, self.sign_failed_at = True, None, self.time.now
            return
        if link is None:
            self.note("takes no connection")
            self.failed_attempts += 1
            self.attempt_failed = True
            self.attempt_failed_at = self.time.now
            self.owed = None
            return
        self.note("connection", link.number)
        self.failed_attempts = 0
        self.excused += self.opening
        if self.owed is None and not self.sign_fails:
            self.owed, self.excused = self.time.now, 0.0

    def asked(self, link: Link, request: Request) -> None:
        self.note("request", request)
        self.check_sign()
        first = link.requests == 1
        if first and not self.sign_fails and not (request.write and request.address == ALIVE):
            self.violated(f"the first request on a connection is {request}")
        if request.write:
            self.asked_to_write(link, request.address, request.value)

    def check_sign(self) -> None:
        if self.owed is not None:
            gap = self.time.now - self.owed - self.excused
            if gap >= self.period:
                self.violated(f"no alive sign for {gap:.3f} s; the box looks every {self.period:g} s")

    def signed(self) -> None:
        self.check_sign()
        self.owed, self.excused = self.time.now, 0.0

    def throws_out(self) -> None:
        self.note("throws the master out")
        self.owed = None

    def answered(self, request: Request) -> None:
        address = request.address
        self.unanswered.discard((address, request.value))
        if not request.write and address in CORE:
            self.core_answers += 1
            if address in self.accepted and self.image[HOLDING, address] == self.wanted[address]:
                self.set_on[address] = request.connection
        elif address == ALIVE:
            self.misses, self.sign_fails = 0, False
        elif address == FIRMWARE:
            self.firmware_known = True
        elif address == CLOCK:
            self.clock_since = min(self.clock_since, self.time.now)
        elif request.write and self.image[HOLDING, address] == self.wanted[address]:
            self.tries[address] = 0
            self.accepted.add(address)

    def failed(self, request: Request, outcome: Outcome) -> None:
        self.note("answers", outcome)
        now, address = self.time.now, request.address
        lacking = outcome in (1, 2, 3) and HOLEY.get(address, 1) == request.value > 1
        self.failures += not lacking
        if outcome == SILENCE:
            self.excused += self.reply_timeout
        if isinstance(outcome, str):
            self.broken_at = now
        if outcome == BUSY and address in self.writes:
            self.writes[address] -= 1  # it was none
            self.tries[address] = max(0, self.tries.get(address, 0) - 1)
        if address == ALIVE:
            self.misses += 1
            if isinstance(outcome, int) or self.misses > 1:
                self.sign_fails, self.owed = True, None
                self.sign_failed_at = now
            return
        if lacking:
            self.unanswered.discard((address, request.value))
        else:
            self.unanswered.add((address, request.value))
        if 1100 <= address <= 1106:
            self.limits_failed_at = now
        if CLOCK <= address < CLOCK + 6 and not lacking:
            self.clock_since = math.inf
        if address == FIRMWARE:
            self.firmware_known = True  # as far as it can be

    def asked_to_write(self, link: Link, address: int, value: int) -> None:
        if address == ALIVE and value == 1:
            return
        if self.wanted.get(address) != value:
            self.violated(f"{value} was written to {address}, for which nobody asked")
        self.writes[address] = self.writes.get(address, 0) + 1
        if self.writes[address] > 1:
            self.violated(f"{address} was written twice in a beat")
        self.tries[address] = self.tries.get(address, 0) + 1
        asked = {FAILSAFE: [(2000, 3), (2000, 1)], DYNAMIC: [(DYNAMIC, 1)]}[address]
        known = self.unanswered.isdisjoint(asked) and self.frozen is None and self.thawed_at < self.begun
        new = address == DYNAMIC and self.set_on.get(address) != link.number
        if known and not new and self.right_since.get(address, math.inf) < self.begun:
            self.violated(f"{address} was written though it has shown {value} for long")

    def changed(self, address: int) -> None:
        if not self.ready:
            return
        self.note("changes", (address, self.image.get((HOLDING, address), self.image.get((INPUT, address)))))
        now = self.time.now
        if address in self.wanted:
            right = self.image[HOLDING, address] == self.wanted[address]
            (self.right_since if right else self.wrong_since).setdefault(address, now)
            (self.wrong_since if right else self.right_since).pop(address, None)
        elif address == CABLE:
            self.vehicle_at = now
            self.tries.clear()

    def freeze(self) -> None:
        super().freeze()
        if self.frozen is not None:
            self.frozen_at = self.time.now
            self.note("freezes")

    def _hang_up(self, link: Link) -> None:
        if link is self.served:
            self.note("the connection ends", link.number)
            if self.frozen is not None:
                self.thawed_at = self.time.now
        super()._hang_up(link)

    def restart(self, seconds: float, how: str = "refused", then: Callable[[], None] | None = None) -> None:
        super().restart(seconds, how, then)
        self.owed = None

    def set_firmware(self, version: str) -> None:
        super().set_firmware(version)
        self.firmware, self.firmware_known = version, False
        self.note("firmware", version)

    # --- The beat ---

    def asks_first(self) -> bool:
        """Whether the request that is asked is the first on its connection."""
        return self.link is not None and self.link.requests == 1

    def begins(self) -> None:
        self.begun = self.time.now
        self.unanswered.clear()
        self.failures = self.core_answers = 0
        self.attempt_failed = False
        self.writes.clear()
        self.accepted.clear()

    def held_between(self, bank: str, address: int, since: float) -> set[int]:
        """All that the register has held since then."""
        held = {self.image[bank, address]}
        for at, changed, old in reversed(self.changes):
            if at < since:
                break
            if changed == address:
                held.add(old)
        return held


class Judge:
    """Plays a seed, and watches what the program says and serves after each beat."""

    def __init__(self, seed: int, time: FakeTime) -> None:
        self.seed, self.time = seed, time
        self.random = draw = random.Random(seed)
        self.jumps: list[tuple[float, float]] = [(self.time.now, self.time.ahead)]
        timeout = draw.choice([0, 6, 20, 20, 20, 60, 60, 60, 300, 300])
        self.every = draw.choice([1, 3, 10, 10, *[math.inf] * 8])
        self.details = draw.random() < 0.4
        wanted = draw.choice(
            [{}, {DYNAMIC: 12}, {DYNAMIC: 12}, {FAILSAFE: 9}, {DYNAMIC: 14, FAILSAFE: 14}, {DYNAMIC: 0}]
        )
        reply = draw.choice([1.0, 2.0, 2.0, 4.0])
        self.box = box = JudgedBox(
            self.time, wanted, self.every, failsafe_timeout=timeout, reply_timeout=reply
        )
        fitting = [delay for delay in (0.002, 0.002, 0.05, 0.3, 1.3) if delay <= (timeout or 20) / 5]
        box.delay = min(draw.choice(fitting), reply * 0.8)
        box.opening = draw.choice([0.001, 0.001, 0.1, 0.5])
        box.late = draw.random() < 0.5
        self.likeness()
        self.options = (
            f"every {self.every:g}, details {self.details}, held {wanted}, failsafe timeout {timeout}, "
            f"--timeout {reply:g}, a reply takes {box.delay:g} s; {', '.join(self.quirks) or 'no quirks'}"
        )
        self.open: dict[str, str] = {}  # the warnings that last
        self.lost_at = ""
        self.losses = 0  # readings that failed, one after the other
        self.clean: deque[float] = deque(maxlen=3)  # when the last beats without a fault began
        # The last reading: when it was due, when it ended, and whether it was without a fault.
        self.last: tuple[float, float, bool] | None = None
        self.due = self.ended = time.now
        self.said = 0
        self.readings = 0
        self.firmware_seen = ""
        self.world = World(self.time, box, wanted, self.details, self.every)
        self.before = self.world.snapshot

    def likeness(self) -> None:
        """What the box is like all the time."""
        box, draw = self.box, self.random
        self.quirks: list[str] = []

        def quirk(chance: float, name: str) -> bool:
            if draw.random() < chance:
                self.quirks.append(name)
                return True
            return False

        if quirk(0.3, "special without a vehicle"):
            box.without_vehicle = draw.choice(["ignores", "refuses", "makes 6 of 0"])
        box.refuses_holes = quirk(0.05, "refuses holes") and box.delay < 1
        box.resets_after_exception = quirk(0.15, "resets after exceptions")
        box.clock_runs = not quirk(0.1, "its clock stands")
        if quirk(0.1, "no clock"):
            box.missing.update((INPUT, address) for address in range(CLOCK, CLOCK + 6))
        if quirk(0.1, "old firmware"):
            box.missing.update((INPUT, address) for address in (130, 190, 210, 230, 290))
            box.missing.add((HOLDING, 405))
        if quirk(0.08, "refuses the alive sign"):
            box.failsafe = False
            box.fault(self.one_of(1, 2, 3, 4, RESET, SILENCE), ALIVE)
        else:
            box.lock_out = not box.resets_after_exception and quirk(0.1, "locks out")
        if quirk(0.1, "resets first requests"):
            chance = 0.1 if box.refuses_holes or box.resets_after_exception else draw.choice([0.1, 0.4])
            box.fault(lambda _: RESET if box.asks_first() and draw.random() < chance else None)
        if draw.random() < 0.5:
            box.image[INPUT, CABLE] = draw.choice([0, 1])
        self.tells_time = box.clock_runs and not box.missing

    # --- What happens ---

    def plan(self) -> None:
        """Draw what happens in the hour."""
        draw, time = self.random, self.time
        begin = time.now
        busy = draw.choice([60, 150, 150, 400])
        at, frozen_until = draw.expovariate(1 / busy), 0.0
        time.at(begin + HOUR + 30, self.box.cut)  # and no old values any more
        while at < HOUR:
            (chosen,) = draw.choices([*HAPPENINGS], [*HAPPENINGS.values()])
            if chosen == "freezes":
                if at < frozen_until:
                    continue
                frozen_until = at + 120
            time.at(begin + at, functools.partial(getattr(self, "_" + chosen), min(300.0, HOUR - at + 30)))
            at += draw.expovariate(1 / busy) if draw.random() < 0.8 else draw.random() * 3

    def _for_a_while(self, name: str, most: float, *faults: Callable[[], None]) -> None:
        seconds = self.random.choice([0.5, 3, 10, 30, 100, 240])
        seconds = min(most, seconds * (0.5 + self.random.random()))
        self.box.note(f"begins: {name}", f"for {seconds:.1f} s")

        def over() -> None:
            self.box.note(f"over: {name}")
            for fault in faults:
                fault()

        self.time.after(seconds, over)

    def one_of(self, *outcomes: Outcome) -> Outcome:
        return self.random.choice(outcomes)

    def _chance(self, outcome: Outcome, chance: float, *addresses: int) -> Callable[[], None]:
        draw = self.random
        return self.box.fault(lambda _: outcome if draw.random() < chance else None, *addresses)

    def _cuts(self, most: float) -> None:
        self.box.note("cuts the connection")
        self.box.cut()

    def _faults(self, most: float) -> None:
        outcome = self.one_of(RESET, RESET, SILENCE, 4, 6)
        chance = self.random.choice([0.02, 0.2, 0.6])
        self.box.executes = self.random.random() < 0.5
        self._for_a_while(f"{chance} of {outcome}", most, self._chance(outcome, chance))

    def _silence(self, most: float) -> None:
        addresses = self.random.choice([(), (), (2000, 5004), (1000,), (1100,)])
        self._for_a_while(f"silence {addresses}", most, self._chance(SILENCE, 1, *addresses))

    def _refuses(self, most: float) -> None:
        code = self.random.choice([1, 2, 3, 4, 10, 11])
        address = self.random.choice([*CORE, *CORE, 1102, 1104, CLOCK])
        self._for_a_while(f"exception {code} to {address}", most, self._chance(code, 1, address))

    def _busy(self, most: float) -> None:
        code, chance = self.random.choice([5, 6, 6]), self.random.choice([0.2, 0.5, 1])
        self._for_a_while(f"{chance} of exception {code}", min(most, 30), self._chance(code, chance))

    def _away(self, most: float) -> None:
        box = self.box
        if box.away:
            return
        how = self.random.choice(["refused", "refused", "dead", "closes", "resets"])

        def back() -> None:
            box.away = ""

        box.cut()
        box.away = how
        self._for_a_while(f"away: {how}", most, back)

    def _restarts(self, most: float) -> None:
        box, draw = self.box, self.random
        if box.away:
            return
        seconds = draw.choice([1, 3, 8, 20, 250, 290])
        timeout = draw.choice([box.image[HOLDING, TIMEOUT]] * 3 + [20, 60])
        box.note("restarts", f"for {seconds} s, failsafe timeout {timeout} then")

        def then() -> None:
            if box.delay <= 0.3 or timeout >= 20:
                box.set(TIMEOUT, timeout)
            if draw.random() < 0.3:
                box.set(FAILSAFE, draw.choice([6, 8, 10]))
            if seconds >= 250:
                box.set_firmware(f"v3.{draw.randrange(1000)}.0")
            box.note("is back")

        box.restart(min(seconds, most), draw.choice(["refused", "refused", "dead"]), then)

    def _plugs(self, most: float) -> None:
        box = self.box
        if box.image[INPUT, CABLE] >= VEHICLE:
            box.note("is unplugged")
            box.unplug(self.random.choice([0, NO_VEHICLE]))
        else:
            box.note("a vehicle is plugged in")
            box.plug_in(self.random.choice([2, 3]))

    def _freezes(self, most: float) -> None:
        if self.tells_time:
            self.box.freeze()

    def _slow(self, most: float) -> None:
        box, usual = self.box, self.box.delay
        shortest = min((box.image[HOLDING, TIMEOUT] or 20), 20)

        def over() -> None:
            box.delay = usual

        box.delay = min(self.random.choice([0.1, 0.3, 1.0]), shortest / 5)
        self._for_a_while(f"a reply takes {box.delay:g} s", most, over)

    def _other_master(self, most: float) -> None:
        address = self.random.choice([DYNAMIC, DYNAMIC, FAILSAFE])
        self.box.note("another master writes", address)
        self.box.set(address, self.random.choice([6, 7, 16]))

    def _refuses_sign(self, most: float) -> None:
        outcome = self.one_of(4, 2, RESET, SILENCE)
        self._for_a_while(f"{outcome} to the alive sign", most, self._chance(outcome, 1, ALIVE))

    def _jumps(self, most: float) -> None:
        self.time.ahead += self.random.choice([-86400.0, -3600, -7.5, 7.5, 3600, 86400])
        self.jumps.append((self.time.now, self.time.ahead))
        self.box.note("the clock of the computer jumps")

    def _details_fail(self, most: float) -> None:
        outcome, chance = self.one_of(2, 4, 6, RESET, SILENCE), self.random.choice([0.5, 1])
        addresses = self.random.choice([DETAILS, (FIRMWARE,), (100,), (100, *DETAILS)])
        over = self._chance(outcome, chance, *addresses)
        self._for_a_while(f"{chance} of {outcome} to {addresses}", most, over)

    def _absurd(self, most: float) -> None:
        box = self.box
        usual = box.image[INPUT, 1106]

        def over() -> None:
            box.set(1106, usual, bank=INPUT)

        if usual < 1000:
            box.set(1106, 40_000 + self.random.randrange(1000), bank=INPUT)
            self._for_a_while("an absurd current", most, over)

    # --- What is judged ---

    def play(self) -> Judge:
        """Play the seed. Raises Violation with the story."""
        self.plan()
        end = self.time.now + HOUR + CALM
        world, box = self.world, self.box
        try:
            while world.due < end:
                self.due = world.due
                self.time.sleep(max(0.0, self.due - self.time.now))
                box.check_sign()
                box.begins()
                world.beat()
                self.judge()
                self.ended = self.time.now
            self.judge_end()
        except Exception as error:
            raise Violation(f"seed {self.seed}: {error!r}\n{self.options}\n{self.tell()}") from error
        return self

    def judge(self) -> None:
        """Look at what a beat has made."""
        box, now = self.box, self.time.now
        snapshot, before = self.world.snapshot, self.before
        self.before = snapshot
        self.hear()
        box.check_sign()
        if self.world.due - now > 60 + SOON:
            box.violated(f"the next beat is due in {self.world.due - now:.1f} s")
        if snapshot.fatal:
            box.violated(f"it ends: {snapshot.fatal}")
        if box.sign_fails and now - box.sign_failed_at > 60 + 65 and snapshot.reading is not None:
            box.violated("a refused alive sign is not tried again")
        made, failed = snapshot.readings - before.readings, snapshot.failed - before.failed
        if made + failed > 1 or min(made, failed) < 0:
            box.violated(f"{made} readings and {failed} failures in a beat")
        if (snapshot.reading is None) != bool(snapshot.problem):
            box.violated(f"a reading or a problem: {snapshot.problem!r}")
        if made + failed == 0:
            if snapshot.reading is not before.reading:
                box.violated("another reading, and it was not counted")
            return
        if snapshot.connections != box.connections:
            box.violated(f"{snapshot.connections} connections counted of {box.connections}")
        if snapshot.reading is None:
            self.judge_loss()
        elif made:
            self.losses = 0
            self.readings += 1
            self.judge_reading(snapshot)
        else:
            self.judge_old(snapshot, before)
        self.judge_pace(bool(made))
        self.judge_hold()
        if made:
            self.judge_told()

    def judge_loss(self) -> None:
        box = self.box
        self.losses += 1
        box.owed = None
        box.tries.clear()
        if box.core_answers and not box.attempt_failed:
            box.violated("lost, though the box answers")
        if not box.failures and not box.attempt_failed and box.attempts[-1] < box.begun:
            box.violated("lost, though nothing has failed")
        pause = self.world.due - self.time.now
        if abs(pause - min(60, 2 ** (self.losses - 1))) > SOON:
            box.violated(f"the next attempt is {pause:.3f} s after loss {self.losses}")

    def judge_reading(self, snapshot: Any) -> None:
        box, reading = self.box, snapshot.reading
        now, since = self.time.now, snapshot.made_at
        if since < box.begun or abs(now - since - snapshot.seconds) > SOON:
            box.violated(f"a reading of {snapshot.seconds:.3f} s, made {now - since:.3f} s ago")
        expected = {
            datetime.fromtimestamp(since + ahead, timezone.utc).isoformat(timespec="seconds")
            for (at, ahead), (until, _) in zip(self.jumps, [*self.jumps[1:], (math.inf, 0)])
            if at <= since <= until
        }
        if reading["timestamp"] not in expected:
            box.violated(f"the timestamp is {reading['timestamp']}; it was {expected}")
        oldest = since
        if box.frozen is not None or box.thawed_at > since:
            oldest = min(since, box.frozen_at)
            last = self.last[1] - self.last[0] if self.last else 0
            noticed = 15 + 2 * self.interval() + snapshot.seconds + last
            if now - max(oldest, box.clock_since) > noticed:
                box.violated(f"values of {now - oldest:.1f} s ago are served as new")
        self.judge_values(reading, oldest)
        if not any(a < 130 or 400 <= a <= 404 or a >= 1000 for a, _ in box.unanswered):
            self.judge_whole(reading, oldest)
        if self.details:
            self.judge_details(reading["details"], oldest)

    def judge_values(self, reading: Any, oldest: float) -> None:
        """Each value is one that the box had during the reading."""
        box = self.box
        low, high = int(oldest * 10), int(self.time.now * 10)
        electrical, session = reading["electrical"], reading["session"]
        meter, duration = electrical["meter_reading_kwh"], session["duration_s"]
        for tenths in (None if meter is None else round(meter * 10), duration, session["energy_wh"]):
            if tenths is not None and not low <= tenths <= high:
                box.violated(f"a value of {self.time.now - tenths / 10:.1f} s ago")
        for value, size in (
            (electrical["power"]["total_w"], 90_000),
            (electrical["power"]["l1_w"], 89_000),
            (electrical["current"]["l1_a"], 60_000),
        ):
            if value is not None:
                number = round(value * 1000) if size == 60_000 else value
                if (number - low) % size > high - low:
                    box.violated(f"{value} is no value of the reading's time")
        settings = reading["settings"]
        for value, bank, address in (
            (settings["dynamic_current_a"], HOLDING, DYNAMIC),
            (settings["failsafe_current_a"], HOLDING, FAILSAFE),
            (settings["failsafe_timeout_s"], HOLDING, TIMEOUT),
            (reading["states"]["cable"]["code"], INPUT, CABLE),
        ):
            if value is not None and value not in box.held_between(bank, address, oldest):
                box.violated(f"{address} is {value}, which the box did not have")
        if reading["identity"]["serial"] not in ("VEST1234567890", None):
            box.violated(f"the serial number is {reading['identity']['serial']}")

    def judge_whole(self, reading: Any, oldest: float) -> None:
        """Nothing is missing where nothing has failed."""
        for section in ("identity", "states", "electrical", "limits", "session", "settings"):
            for key, value in reading[section].items():
                absurd = key == "cable_max_a" and max(self.box.held_between(INPUT, 1106, oldest)) > 65
                if value is None and key not in ("start_time", "end_time") and not absurd:
                    self.box.violated(f"{section}.{key} is missing, and nothing has failed")

    def judge_details(self, details: Any, oldest: float) -> None:
        box = self.box
        if details["firmware"] != box.firmware and not (box.firmware_known or box.attempt_failed):
            box.violated(f"the firmware is {details['firmware']}, and it was not asked for another")
        if details["clock"] is not None and self.tells_time:
            _, _, clock = details["clock"].partition("T")
            hours, minutes, seconds = map(int, clock.split(":"))
            ago = (self.time.now - (hours * 3600 + minutes * 60 + seconds)) % 86400
            if ago > self.time.now - oldest + 1:
                box.violated(f"the clock {clock} is of {ago:.0f} s ago")

    def judge_old(self, snapshot: Any, before: Any) -> None:
        """A reading that is not shown as new: the box repeats old values."""
        box = self.box
        if snapshot.reading is not before.reading or snapshot.made_at != before.made_at:
            box.violated("another reading, and it was not counted")
        if box.clock_runs and box.thawed_at < box.begun:
            box.violated("no new reading, and no old values")
        if box.clock_runs and box.thawed_at - box.frozen_at < 15 - self.interval() - 1:
            box.violated("no new reading, and the clock has not stood still for long")
        if self.time.now - snapshot.made_at > 60 + 3 * (self.time.now - box.begun):
            box.violated(f"the reading is {self.time.now - snapshot.made_at:.1f} s old")

    def interval(self) -> float:
        timeout = self.box.image[HOLDING, TIMEOUT] or 20
        return max(1.0, min(5.0, timeout / 4, self.every))

    def judge_pace(self, made: bool) -> None:
        """A beat is a fixed multiple of the interval after the one before."""
        box, now = self.box, self.time.now
        clean = made and not box.failures and not box.attempt_failed and self.due >= self.ended
        interval = self.interval()
        if self.last is not None and self.last[2] and clean:
            steps = (self.due - self.last[0]) / interval
            taken = (self.last[1] - self.last[0]) / interval
            expected = max(1, math.ceil(taken))
            if abs(steps - expected) > SOON and abs(taken - round(taken)) > SOON:
                between = self.due - self.last[0]
                box.violated(f"{between:.3f} s between two beats, not {expected} x {interval:g} s")
        changed = any(address == TIMEOUT for at, address, _ in box.changes[-20:] if at >= box.begun - 10)
        self.last = self.due, now, clean and not changed
        if clean:
            self.clean.append(box.begun)
        else:
            self.clean.clear()

    def judge_hold(self) -> None:
        """A held current is in force within two beats of the moment when it could be."""
        box = self.box
        for address in box.writes:
            box.tried_at[address] = self.time.now  # with the reading back
        for address, since in box.wrong_since.items():
            if box.frozen is not None or (
                address == DYNAMIC
                and box.without_vehicle
                and box.image[INPUT, CABLE] < VEHICLE
                and not (box.without_vehicle == "makes 6 of 0" and box.wanted[DYNAMIC])
            ):
                continue
            since = max(since, box.thawed_at, box.vehicle_at)
            tries = box.tries.get(address, 0)
            if tries:
                since = max(since, box.tried_at.get(address, 0) + min(60, 2 ** (tries - 1)))
            if box.limits_failed_at > box.vehicle_at:
                since = max(since, box.limits_failed_at + 60)
            if len([begun for begun in self.clean if begun >= since]) >= 2:
                box.violated(f"{address} is {box.image[HOLDING, address]} since {since - 10_000:.1f}")

    def judge_told(self) -> None:
        """What is wrong is told."""
        box, told = self.box, [*self.open.values()]
        if box.sign_fails and not box.attempt_failed and not any("alive sign" in text for text in told):
            box.violated("nobody is told that the alive sign fails")
        reading = self.world.reading
        for value, span in (
            (reading["identity"]["max_power_w"], "400-404"),
            (reading["electrical"]["meter_reading_kwh"], "1000-1037"),
            (reading["limits"]["evse_min_a"], "1100-1106"),
            (reading["session"]["duration_s"], "1502-1513"),
            (reading["settings"]["failsafe_timeout_s"], "2000-2002"),
            (reading["settings"]["dynamic_current_a"], "5004"),
        ):
            if value is None and not any(span in text for text in told):
                box.violated(f"nobody is told that {span} cannot be read")
        for address in box.writes:
            wrong = box.wrong_since.get(address, math.inf) < box.begun and not box.attempt_failed
            if wrong and not any(text.startswith("failed holding current: ") for text in told):
                box.violated(f"nobody is told that {address} is not held")

    def hear(self) -> None:
        """Each cause is said once, and taken back."""
        box = self.box
        for _, line in self.world.said[self.said :]:
            box.note("SAYS", line)
            changed = re.fullmatch(r"(Dynamic|Failsafe) current: (\d+ A|unknown) -> (\d+) A", line)
            if changed:
                address, amps = DYNAMIC if changed[1] == "Dynamic" else FAILSAFE, int(changed[3])
                true = amps in box.held_between(HOLDING, address, box.begun)
                if not true or amps != box.wanted[address]:
                    box.violated("that is not true")
                if changed[2] == f"{changed[3]} A":
                    box.violated("that is no change")
                continue
            if not line.startswith("WARNING: "):
                box.violated("a line of another kind")
            text = line[len("WARNING: ") :]
            if text.startswith("no reading since "):
                since = text[len("no reading since ") :].split(": ")[0]
                if self.lost_at or not text.endswith("; trying again"):
                    box.violated("a loss is told once")
                self.lost_at = since
            elif text.startswith("the box answers again"):
                if text != f"the box answers again (lost at {self.lost_at})":
                    box.violated(f"it was lost at {self.lost_at or 'no time'}")
                self.lost_at = ""
            elif text.startswith("over: "):
                over = text[len("over: ") :]
                if over not in self.open.values():
                    box.violated("taken back, and never said")
                self.open = {cause: told for cause, told in self.open.items() if told != over}
            else:
                cause = self.cause(text)
                if cause in self.open:
                    box.violated("said twice")
                self.open[cause] = text
        self.said = len(self.world.said)
        if bool(self.lost_at) != (self.world.snapshot.reading is None):
            box.violated(f"lost: {self.lost_at!r}")

    @staticmethod
    def cause(text: str) -> str:
        """What a warning is about."""
        found = re.match(
            r"Cannot read (?:.* of )?((?:input|holding) registers? [\d-]+)"
            r"|(failed holding current: \w+ current)|(.*) is \d+ A: no such|(the charger [\w ]+ alive sign)",
            text,
        )
        return next(filter(None, found.groups())) if found else text

    def judge_end(self) -> None:
        """After some minutes of calm all is well, and told so."""
        box, reading = self.box, self.world.reading
        if reading is None:
            box.violated(f"still lost: {self.world.snapshot.problem}")
        for address, amps in box.wanted.items():
            possible = address != DYNAMIC or not box.without_vehicle or box.image[INPUT, CABLE] >= VEHICLE
            possible = possible and "resets first requests" not in self.quirks
            if possible and box.image[HOLDING, address] != amps:
                box.violated(f"{address} is not held")
        for text in self.open.values():
            lasting = {
                "Cannot": "resets first requests" in self.quirks,
                "does not take the alive sign": "resets first requests" in self.quirks,
                "alive sign": "refuses the alive sign" in self.quirks,
                "stands still": not box.clock_runs,
                "failed holding current: dynamic": box.without_vehicle and box.image[INPUT, CABLE] < VEHICLE,
                "Cannot read": any(str(address) in text for address in (130, 190, 210, 230, 290, 405)),
            }
            if not any(cause in text and lasts for cause, lasts in lasting.items()):
                box.violated(f"still told: {text}")

    def tell(self) -> str:
        """The last of what happened."""
        lines = []
        for at, what, more in [*self.box.story][-STORY:]:
            if isinstance(more, Request):
                more = f"{'write' if more.write else 'read'} {more.address} {more.value}"
            lines.append(f"{at - 10_000:10.3f} {what} {more}")
        return "\n".join(lines)


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_that_must_not_be_seen_is_seen(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        time = FakeTime()
        monkeypatch.setattr(vestel, "time", time)
        Judge(seed, time).play()
