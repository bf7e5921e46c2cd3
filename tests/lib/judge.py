"""A judge of the long modes. It knows what users feel, and not how the program goes about it.

`JudgedCharger` watches each request. `Judge` looks at what is served and logged, after each poll.
Both raise Violation. Whoever plays a fault tells the charger when it begins and ends, so that the
judge knows how long all has been well.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from datetime import datetime, timezone
from typing import Any, NoReturn

from charger import Link, MemoryConnection, Outcome, Request, SimulatedCharger
from clock import START, Clock
from registers import (
    CABLE,
    CLOCK,
    DYNAMIC,
    EVSE_MAX,
    EVSE_MIN,
    FAILSAFE,
    HEARTBEAT,
    HOLDING,
    INPUT,
    TIMEOUT,
    VEHICLE,
)
from world import World

STORY = 90
SOON = 1e-6  # s: two floating point sums of the same moments

# What users may count on (s).
LOOK = 3.0  # no charger looks at the heartbeat more often
BACK_OFF = 60.0  # the longest wait between two attempts at anything
POLL = 5.0
MAX_AGE = 12.0  # of old values that are served as new
STABLE = 60.0  # a setpoint that was right for so long stays
TRIES = 20  # to set a value, in so many times a margin: more wear out a memory
MARGIN = 10.0
RECOVERY = BACK_OFF + MARGIN  # from the end of all faults to a reading
HELD = RECOVERY + BACK_OFF + MARGIN  # ... to setpoints in force
SETTLED = HELD + STABLE + MARGIN  # ... to the end of all warnings

# What is read in one request, and a value of it.
RANGES = {
    "400-404": ("identity", "max_power_w"),
    "1000-1037": ("electrical", "meter_reading_kwh"),
    "1100-1106": ("limits", "evse_min_a"),
    "1502-1513": ("session", "duration_s"),
    "2000-2002": ("settings", "failsafe_timeout_s"),
    "5004": ("settings", "dynamic_current_a"),
}
NAMES = {DYNAMIC: "Dynamic current", FAILSAFE: "Failsafe current", TIMEOUT: "Failsafe timeout"}
DETAILS = (130, 190, 210, 230, 290, 294, 405)


class Violation(AssertionError):
    """Something that users are never to meet has happened."""


class JudgedCharger(SimulatedCharger):
    """A charger that watches the program at each request."""

    clock: Clock

    def __init__(self, clock: Clock, **attributes: Any) -> None:
        self.story: deque[tuple[float, str]] = deque(maxlen=500)
        # How it is: what goes on that is no fault of the program, and since when nothing does.
        self.troubles: list[str] = []
        self.calm_since = clock.now
        self.away_since = math.inf
        self.frozen_at = self.thawed_at = -math.inf
        self.begun = clock.now  # the poll
        # What has come of the requests: when they went wrong last.
        self.failed_at = -math.inf  # in any way, but for what the firmware lacks
        self.unanswered_at = -math.inf  # or too slow
        self.others = 0  # connections of other masters
        # The heartbeat.
        self.heartbeat_at: float | None = None  # the last one, or the beginning of the connection
        self.waited = 0.0  # s of these in which the program could not send one
        self.is_refused = self.is_accepted = False  # refused, though none was ever accepted
        # Attempts to connect, since something was answered.
        self.attempts_in_vain = 0
        self.answered_at = clock.now
        # What may be held: the last number is the newest. When it was disturbed, and before that.
        self.wanted: dict[int, list[int]] = {}
        self.disturbed: dict[int, tuple[float, float]] = {}
        self.tries: dict[int, deque[float]] = {}  # the last polls in which a register was written
        self.new_at = clock.now  # a reason to try at once: a vehicle, another wanted value
        self.plugged_at = -math.inf
        # The clock: since when it was read in each reading, and since when it had old values, and
        # how often it had gone on.
        self.clock_since = math.inf
        self.clock_at = self.old_since = -math.inf
        self.clock_runs = self.told = 0  # the latter is the maximum (A) that was read last
        super().__init__(clock, **attributes)

    def note(self, what: str) -> None:
        self.story.append((self.clock.now, what))

    def violated(self, rule: str) -> NoReturn:
        self.note(f"VIOLATED: {rule}")
        raise Violation(rule)

    # --- What goes on ---------------------------------------------------------------------------

    def begin(self, trouble: str) -> None:
        self.note(f"begins: {trouble}")
        self.troubles.append(trouble)

    def end(self, trouble: str) -> None:
        if trouble in self.troubles:
            self.note(f"ends: {trouble}")
            self.troubles.remove(trouble)
            self.calm_since = max(self.calm_since, self.clock.now)

    @property
    def calm(self) -> float:
        """For how long (s) all has been well."""
        return 0.0 if self.troubles else self.clock.now - self.calm_since

    @property
    def recovery(self) -> float:
        """How long it may take until there is a reading again; lock-outs come on top."""
        requests = 40 * (self.delay + self.opening)
        lock_outs = self.failsafe_timeout if self.locks_out else 0.0
        if self.locks_out and self.resets_after_exception:  # for the heartbeat and for the clock
            lock_outs += self.failsafe_timeout + BACK_OFF
        return RECOVERY + requests + lock_outs

    def cut(self) -> None:
        self.note("cuts its connections")
        self.calm_since = max(self.calm_since, self.clock.now)
        super().cut()

    def freeze(self, until: float | str | None = "closed") -> None:
        self.frozen_at = self.clock.now
        self.begin("old values")
        super().freeze(until)

    def thaw(self) -> None:
        if self.repeated is not None:
            self.thawed_at = self.clock.now
            self.end("old values")
        super().thaw()

    def hang_up(self, link: Link) -> None:
        was_calm = self.calm
        super().hang_up(link)
        if self.locks_out and not (was_calm and isinstance(link, MemoryConnection)):
            self.calm_since = max(self.calm_since, self.locked_until)

    def want(self, address: int, number: int) -> None:
        """Say that a value is to be held from now on."""
        self.wanted.setdefault(address, []).append(number)
        self.disturb(address)
        self.new_at = self.clock.now

    def disturb(self, address: int) -> None:
        _, last = self.disturbed.get(address, (-math.inf, -math.inf))
        self.disturbed[address] = last, self.clock.now

    def changed(self, address: int) -> None:
        self.note(f"{address} is {self[address]} now")
        if address == CABLE:
            is_seen = self.clock.now - self.new_at > 3 * POLL  # not there and back in between
            self.plugged_at = self.clock.now if is_seen else -math.inf
            self.new_at = self.clock.now
        numbers = self.wanted.get(address)
        if numbers and self[address] != numbers[-1]:
            self.disturb(address)

    def held_since(self, bank: str, address: int, since: float) -> set[int]:
        """Return all that a register has held since then."""
        held = {self.image[bank, address]}
        for at, changed, old in reversed(self.changes):
            if at < since:
                break
            if changed == address:
                held.add(old)
        return held

    # --- Its connections ------------------------------------------------------------------------

    def other_master(self) -> Link:
        self.others += 1
        return super().other_master()

    def attempted(self) -> None:
        now = self.clock.now
        if len(self.attempts) > 1 and now - self.attempts[-2] < 1 - SOON:
            self.violated(f"two attempts to connect within {now - self.attempts[-2]:.3f} s")
        self.attempts_in_vain += 1
        if self.attempts_in_vain > 30 + (now - self.answered_at) / 14:
            self.violated(f"{self.attempts_in_vain} attempts to connect in vain")
        is_often = self.attempts[-36:-35] > [now - SETTLED]  # ten refusals, thrice, are none yet
        is_hard = self.locks_out or self.refuses_gaps
        if is_often and self.calm > SETTLED and not is_hard:
            self.violated("again and again a new connection, and all is well")

    def connected(self, link: Link | None) -> None:
        if link is None:
            self.note("takes no connection")
            self.failed_at = self.clock.now
            return
        self.note(f"connection {link.number}")
        self.heartbeat_at, self.waited = self.clock.now, 0.0

    def leave(self, connection: MemoryConnection) -> None:
        self.heartbeat_at = None
        is_well = self.calm > self.recovery and self.failed_at < self.clock.now - self.recovery
        if is_well and not connection.is_cut:
            self.violated("the program closes a connection on which all was answered")
        super().leave(connection)

    # --- Its requests ---------------------------------------------------------------------------

    def requested(self, link: Link, request: Request) -> None:
        self.check_heartbeat()
        if not request.write:
            return
        if request.address == HEARTBEAT and request.value == 1:
            self.heartbeat_at, self.waited = request.at, 0.0
        else:
            self.judge_write(request.address, request.value)

    def answered(self, request: Request) -> None:
        now = self.clock.now
        self.wait_for(request)
        if request.address == HEARTBEAT:
            self.is_refused, self.is_accepted = False, True
        elif (request.address, request.value) == (CLOCK, 6):  # the date alone tells nothing
            self.clock_at = now
            self.clock_since = min(self.clock_since, now)
            if self.repeated is None:
                self.clock_runs += 1
            elif self.failed_at < self.begun and not self.frozen_at <= self.old_since <= now:
                self.old_since = now

    def failed(self, request: Request, outcome: Outcome) -> None:
        now = self.clock.now
        what = "write" if request.write else "read"
        self.note(f"{what} {request.address}: {outcome}")
        if request.address in (CLOCK, CLOCK + 4):
            self.clock_since = math.inf
        if isinstance(outcome, str):
            self.waited += now - request.at
            self.failed_at = self.unanswered_at = now
            self.old_since = math.inf
            return
        self.wait_for(request)
        if request.address == HEARTBEAT:
            self.is_refused = outcome in (1, 2, 3) and not self.is_accepted
            self.unanswered_at = now
        if (request.bank, request.address) not in self.unsupported:
            self.failed_at = now
            self.old_since = math.inf  # an old value that comes later is new to the program

    def wait_for(self, request: Request) -> None:
        """Note that there was an answer. While the program waits it sends no heartbeat."""
        now = self.clock.now
        self.attempts_in_vain, self.answered_at = 0, now
        if now - request.at > 1:
            self.waited += now - request.at - 1
            self.unanswered_at = now

    def check_heartbeat(self) -> None:
        """A heartbeat is given before any charger looks for it, whatever is read meanwhile."""
        if self.heartbeat_at is None or self.is_refused:
            return
        gap = self.clock.now - self.heartbeat_at - self.waited
        if gap >= LOOK and self.failsafe:
            self.violated(f"no heartbeat for {gap:.3f} s")

    def throws_out(self) -> None:
        self.note("throws the master out")
        is_ours = any(isinstance(link, MemoryConnection) for link in self.links)
        is_waiting = self.clock.now - self.requests[-1].at > 1 if self.requests else False
        is_answered = self.unanswered_at < self.clock.now - 2 * self.period
        if is_ours and not is_waiting and not self.is_refused and is_answered:
            self.violated("a master is thrown out, though all was answered")

    def judge_write(self, address: int, value: int) -> None:
        """Nothing is written that nobody asked for, or that the charger forbids."""
        self.note(f"write {address}: {value}")
        if value not in self.wanted.get(address, ()):
            self.violated(f"{value} is written to {address}, for which nobody asked")
        tries = self.tries.setdefault(address, deque([-math.inf], maxlen=TRIES))
        if tries[-1] != self.begun:
            tries.append(self.begun)
        if len(tries) == TRIES and tries[0] > max(self.new_at, self.begun - TRIES * MARGIN):
            self.violated(f"{address} is written again and again")
        since = self.begun
        if self.repeated is not None or self.thawed_at >= since:
            since = min(since, self.frozen_at)
        lows = self.held_since(INPUT, EVSE_MIN, since)
        pairs = itertools.product(lows, self.held_since(INPUT, EVSE_MAX, since))
        if not any(fits(address, value, low, high or (low and self.told)) for low, high in pairs):
            self.violated(f"{value} is written to {address}, against the charger's limits")


def fits(address: int, number: int, low: int, high: int) -> bool:
    """Tell whether a charger that says these limits takes the number."""
    if low == high == 0:
        return False
    if address == TIMEOUT or number == 0:
        return True
    high = high if 1 <= high <= 65 else 32
    low = low if 1 <= low <= high else min(6, high)
    return low <= number <= high


class Judge:
    """Looks at what the program serves and logs."""

    def __init__(self, world: World, charger: JudgedCharger, every: float) -> None:
        self.world, self.charger, self.clock = world, charger, world.clock
        self.interval = min(POLL, every)
        self.before = world.snapshot
        self.seconds: deque[float] = deque(maxlen=5)  # of the newest readings with old values
        self.aheads = [self.clock.ahead]  # of the computer's clock, since the beginning of the poll
        self.heard = 0  # lines
        self.open: list[str] = []  # warnings that last, as they are shown
        self.said_once: set[str] = set()  # others
        self.newest = ""  # timestamp
        self.served_at = self.clock.now  # the last reading
        self.serial: str | None = None
        self.wrong_since: dict[int, float] = {}  # by address
        self.impossible_at: dict[int, float] = {}
        self.file_is_good = self.is_sure = True  # that of --hold; which number is taken from it
        self.file_changed_at = -math.inf

    def poll(self) -> None:
        """Let the program poll once, and look at what has come of it."""
        charger, world = self.charger, self.world
        self.clock.sleep(max(0.0, world.due - self.clock.now))
        charger.begun, self.aheads = self.clock.now, [self.clock.ahead]
        charger.check_heartbeat()
        world.poll()
        charger.check_heartbeat()
        now, snapshot = self.clock.now, world.snapshot
        if world.due - now > BACK_OFF + SOON:
            charger.violated(f"it wants to sleep for {world.due - now:.1f} s")
        if snapshot is not self.before:
            self.judge(snapshot)
        if min(charger.calm, now - self.served_at) > charger.recovery:
            charger.violated(f"no reading for {now - self.served_at:.1f} s, and all is well")
        if snapshot.reading is not None:
            longest = 3 * (self.interval + snapshot.seconds) + MARGIN
            if charger.calm > charger.recovery and now - snapshot.made_at > longest:
                charger.violated(f"the reading is {now - snapshot.made_at:.1f} s old")
            is_gone = now - charger.away_since > POLL + 5 * charger.reply_timeout + MARGIN
            if is_gone and snapshot.made_at < charger.away_since:
                charger.violated("it does not notice that the charger is gone")
        self.before = snapshot

    def judge(self, snapshot: Any) -> None:
        """Look at a new snapshot."""
        charger, before = self.charger, self.before
        made, failed = snapshot.readings - before.readings, snapshot.failed - before.failed
        if min(made, failed) < 0 or made + failed != 1:
            charger.violated(f"{made} readings and {failed} failures in a poll")
        if snapshot.connections != charger.connections - charger.others:
            charger.violated(f"{snapshot.connections} connections are counted")
        if snapshot.fatal or bool(snapshot.reading) == bool(snapshot.problem):
            charger.violated(f"a reading or a problem: {snapshot.problem!r}, {snapshot.fatal!r}")
        self.hear(snapshot)
        if made:
            self.judge_reading(snapshot)
        else:
            self.judge_loss(snapshot)
        self.judge_calm(snapshot)

    # --- Warnings -------------------------------------------------------------------------------

    def hear(self, snapshot: Any) -> None:
        """Each warning is said once, shown as long as it lasts, and taken back once."""
        charger, shown = self.charger, [*snapshot.warnings]
        lines = [line for _, line in self.world.logged[self.heard :]]
        self.heard += len(lines)
        for line in lines:
            charger.note(f"LOGS {line}")
            if line.startswith("WARNING: over: "):
                self.take_back(line[len("WARNING: over: ") :])
            elif line.startswith("WARNING: "):
                self.say(line[len("WARNING: ") :], shown)
            else:
                self.judge_change(line)
        if len(self.open) != len(shown):
            charger.violated(f"said, and not taken back: {self.open}; shown: {shown}")
        self.open = shown

    def say(self, text: str, shown: list[str]) -> None:
        if self.open.count(text) >= max(1, shown.count(text)):
            self.charger.violated("a warning is said twice")
        if text in shown:
            self.open.append(text)
        elif text in self.said_once:
            self.charger.violated("a warning is said again, and does not last")
        else:
            self.said_once.add(text)

    def take_back(self, text: str) -> None:
        loss = [t for t in self.open if t.startswith("no reading ")]
        told = loss if text == "the charger is back" else [t for t in self.open if t == text]
        if not told:
            self.charger.violated("a warning is taken back that was not shown")
        self.open.remove(told[0])

    def judge_change(self, line: str) -> None:
        """What is logged of a setting is true."""
        charger = self.charger
        for address, name in NAMES.items():
            found = re.fullmatch(rf"{name}: (n/a|\d+ [As]) -> (\d+) [As]", line)
            if found:
                number = int(found[2])
                is_true = number in charger.held_since(HOLDING, address, charger.begun)
                if not is_true or number not in charger.wanted[address]:
                    charger.violated("that is not true")
                return
        charger.violated("a line of another kind")

    # --- Readings -------------------------------------------------------------------------------

    def judge_loss(self, snapshot: Any) -> None:
        """The charger is lost with a reason only, and everybody is told since when."""
        charger, now = self.charger, self.clock.now
        since = f"no reading since {self.newest}: " if self.newest else "no reading yet: "
        if not snapshot.problem.startswith(since) or snapshot.problem not in snapshot.warnings:
            charger.violated(f"lost, and told {snapshot.problem!r}")
        is_old = charger.repeated is not None or charger.thawed_at >= charger.begun
        is_old = is_old and now - charger.frozen_at > MAX_AGE
        if charger.failed_at < charger.begun and not is_old:
            charger.violated("the charger is lost without a reason")

    def judge_reading(self, snapshot: Any) -> None:
        """What is served is of the reading's time."""
        charger, now, reading = self.charger, self.clock.now, snapshot.reading
        since = snapshot.made_at
        if since < charger.begun or abs(now - since - snapshot.seconds) > SOON:
            charger.violated(f"a reading of {snapshot.seconds} s, made {now - since} s ago")
        moments = {int(since + ahead) for ahead in self.aheads}
        times = [datetime.fromtimestamp(moment, timezone.utc).isoformat() for moment in moments]
        self.newest, self.served_at = reading["timestamp"], now
        charger.told = reading["limits"]["evse_max_a"] or charger.told
        if self.newest not in times:
            charger.violated(f"the timestamp is {self.newest} at {times}")
        if charger.repeated is not None:
            self.judge_old(snapshot)
        if charger.repeated is not None or charger.thawed_at > since:
            since = min(since, charger.frozen_at)
        self.judge_values(reading, since)
        self.judge_missing(snapshot)
        self.learn(snapshot)
        if charger.clock_at < snapshot.made_at:
            charger.clock_since = math.inf

    def judge_old(self, snapshot: Any) -> None:
        """Old values are not served as new for long, where the charger's clock tells."""
        charger = self.charger
        age = snapshot.made_at - max(charger.frozen_at, charger.old_since, charger.clock_since)
        # A slow one that began before them has values of both, and so differs from the next.
        self.seconds.append(snapshot.seconds)
        longest = MAX_AGE + 2 * self.interval + 2 * max(self.seconds) + 1
        tells = charger.clock_runs > 3 and charger.clock_at >= snapshot.made_at
        if tells and age > longest:
            charger.violated(f"old values are served for {age:.1f} s")

    def judge_values(self, reading: Any, since: float) -> None:
        """Each value is one that the charger had since then. What it measures tells the time."""
        charger = self.charger
        low, high = int(since * 10), int(self.clock.now * 10)
        electrical, session = reading["electrical"], reading["session"]
        settings = reading["settings"]
        meter, watts = electrical["meter_reading_kwh"], electrical["power"]["total_w"]
        tenths = [None if meter is None else round(meter * 10)]
        for number in [*tenths, session["energy_wh"], session["duration_s"]]:
            if number is not None and not low <= number <= high:
                charger.violated(f"a value of {self.clock.now - number / 10:.1f} s ago is served")
        if watts is not None and (watts - low) % 90_000 > high - low:
            charger.violated(f"{watts} W is no value of the reading's time")
        for number, bank, address in (
            (settings["dynamic_current_a"], HOLDING, DYNAMIC),
            (settings["failsafe_current_a"], HOLDING, FAILSAFE),
            (settings["failsafe_timeout_s"], HOLDING, TIMEOUT),
            (reading["states"]["cable"]["code"], INPUT, CABLE),
        ):
            if number is not None and number not in charger.held_since(bank, address, since):
                charger.violated(f"{address} is {number}, which the charger did not have")
        if self.serial and reading["identity"]["serial"] != self.serial:
            charger.violated(f"the serial number is {reading['identity']['serial']}")
        self.serial = reading["identity"]["serial"]

    def judge_missing(self, snapshot: Any) -> None:
        """A value is missing only where its read has failed, and that is told."""
        reading, charger = snapshot.reading, self.charger
        for span, (section, key) in RANGES.items():
            if reading[section][key] is not None:
                continue
            if charger.failed_at < charger.begun:
                charger.violated(f"{section}.{key} is missing, and nothing has failed")
            if not any(span in text for text in (*snapshot.warnings, *self.said_once)):
                charger.violated(f"nobody is told that {span} cannot be read")

    def learn(self, snapshot: Any) -> None:
        """Know which number in the file the program has taken."""
        numbers = self.charger.wanted.get(DYNAMIC, [])
        knows_limits = snapshot.reading["limits"]["evse_max_a"] is not None
        is_new = snapshot.made_at > self.file_changed_at
        if self.file_is_good and knows_limits and is_new:
            del numbers[:-1]
            self.is_sure = True

    # --- All is well ----------------------------------------------------------------------------

    def judge_calm(self, snapshot: Any) -> None:
        """Some time after the end of all faults, nothing is left of them."""
        charger, now, calm = self.charger, self.clock.now, self.charger.calm
        extra = charger.recovery - RECOVERY
        if calm <= charger.recovery:
            self.wrong_since.clear()
            return
        if snapshot.reading is None:
            return
        if calm > HELD and charger.failsafe and now - max(charger.heartbeats, default=0) > LOOK:
            charger.violated("no heartbeat is taken, and all is well")
        for address in charger.wanted:
            self.judge_held(address, snapshot)
        if calm > SETTLED + extra:
            self.judge_settled(snapshot)

    def judge_held(self, address: int, snapshot: Any) -> None:
        """A setpoint is in force, or everybody is told."""
        charger, now = self.charger, self.clock.now
        number = charger.wanted[address][-1]
        is_known = self.is_sure or address != DYNAMIC
        if not is_known:
            self.impossible_at[address] = now
        if not is_known or charger[address] == number:
            self.wrong_since.pop(address, None)
            return
        wrong = now - self.wrong_since.setdefault(address, now)
        if wrong > 30 and not snapshot.warnings:
            charger.violated(f"{address} is {charger[address]}, and nobody is told")
        if not self.is_possible(address):
            self.impossible_at[address] = now
            return
        wrong = min(wrong, now - self.impossible_at.get(address, -math.inf))
        disturbed_before, disturbed = charger.disturbed[address]
        bound = BACK_OFF + MARGIN
        if disturbed <= charger.plugged_at:
            wrong = min(wrong, now - charger.plugged_at)
            bound = 2 * self.interval + 1
        elif charger.calm > SETTLED and now - disturbed_before > SETTLED:
            bound = 2 * self.interval + 1
        if wrong > bound + 2 * snapshot.seconds + charger.recovery - RECOVERY:
            charger.violated(f"{address} is {charger[address]} since {wrong:.1f} s")

    def is_possible(self, address: int) -> bool:
        """Tell whether the charger would take what is wanted."""
        charger, number = self.charger, self.charger.wanted[address][-1]
        is_without = address == DYNAMIC and charger.without_vehicle and charger[CABLE] < VEHICLE
        if is_without and (charger.without_vehicle != "makes 6 of 0" or not number):
            return False
        is_there = (HOLDING, address) not in charger.unsupported and address not in charger.keeps
        low, high = charger.image[INPUT, EVSE_MIN], charger.image[INPUT, EVSE_MAX]
        return is_there and fits(address, number, low, high or (low and charger.told))

    def judge_settled(self, snapshot: Any) -> None:
        charger = self.charger
        is_disturbed = any(
            self.clock.now - last < BACK_OFF + STABLE + 2 * MARGIN
            for _, last in charger.disturbed.values()
        )
        excused = [f" {address}" for address in DETAILS]
        since = self.clock.now - 2 * MARGIN - 2 * snapshot.seconds
        impossible = [one for one in charger.wanted if self.impossible_at.get(one, 0) > since]
        is_seldom_there = charger.locks_out and charger.resets_after_exception
        if is_disturbed or impossible or is_seldom_there:
            excused += ["failed holding ", " does not stay at "]
        if charger.resets_after_exception:  # the charger ends the connection at each try
            excused += [f" {address}" for address in impossible]
        if self.file_changed_at > since or not self.file_is_good:
            excused.append("--hold: ")
        if not charger.failsafe:
            excused.append("heartbeat")
        for text in snapshot.warnings:
            if not any(part in text for part in excused):
                charger.violated(f"a warning lasts, and all is well: {text}")

    def tell(self) -> str:
        """Return the last of what has happened."""
        return "\n".join(
            f"{at - START:10.3f} {what}" for at, what in [*self.charger.story][-STORY:]
        )
