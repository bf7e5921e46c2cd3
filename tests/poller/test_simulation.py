"""The long modes against a charger whose faults are drawn from a seed, in simulated time.

Each seed is an hour: faults, and some calm minutes at the end. judge.py knows what is never to
happen. A failure prints its seed and the story of it. A longer run:

    VESTEL_SIMULATION_SEEDS=20000 python -m pytest -n auto tests/poller/test_simulation.py
"""

from __future__ import annotations

import functools
import math
import os
import random
from pathlib import Path
from typing import Any, Callable

import pytest
from charger import CLOSE, GARBAGE, RESET, SILENCE, Outcome, Request, late
from clock import Clock
from judge import SETTLED, Judge, JudgedCharger, Violation, fits
from registers import (
    CABLE,
    CLOCK,
    DYNAMIC,
    EVSE_MAX,
    EVSE_MIN,
    FAILSAFE,
    FIRMWARE,
    HEARTBEAT,
    HOLDING,
    INPUT,
    NO_VEHICLE,
    PHASE_SWITCH,
    TIMEOUT,
    VEHICLE,
)
from world import World

import vestel

SEEDS = int(os.environ.get("VESTEL_SIMULATION_SEEDS", "32"))
PARTS = 8  # so that several processes may share them
HOUR = 3000.0  # s in which faults begin
LONGEST = 300.0  # s that a fault goes on

CORE = (100, 400, 1000, 1100, 1502, 2000, 5004)  # where the ranges begin
DETAILS = (130, 190, 210, 230, 290, 405)
SINGLE: list[tuple[int, ...]] = [
    (address,) for address in (*CORE, *CORE, EVSE_MIN, EVSE_MAX, CLOCK)
]
FAULTS: list[tuple[list[Any], list[float], list[tuple[int, ...]]]] = [
    # One of these comes, of so many requests, to one of these groups of addresses (none: all).
    ([RESET, CLOSE, GARBAGE, SILENCE, 4, 6], [0.02, 0.2, 0.6], [()]),
    ([RESET, RESET, SILENCE], [0.02, 0.2, 0.6], [()]),
    ([late(0.7), late(2.5), late(5.0)], [0.05, 0.5, 1], [()]),
    ([SILENCE], [1], [(), (2000, 5004), (1000,), (1100,), (FIRMWARE,)]),
    ([1, 2, 3, 4, 10, 11], [1], SINGLE),
    ([5, 6, 6], [0.2, 0.5, 1], [()]),
    ([4, 2, 6, RESET, SILENCE], [1], [(HEARTBEAT,)]),
    ([2, 4, 6, RESET, SILENCE], [0.5, 1], [DETAILS, (FIRMWARE,), (100,), (100, *DETAILS)]),
]


class Simulation:
    """A charger and what happens to it, drawn from a seed."""

    def __init__(self, seed: int, clock: Clock, folder: Path) -> None:
        self.seed, self.clock = seed, clock
        self.random = random.Random(seed)
        self.file = folder / f"hold-{seed}"
        self.quirks: list[str] = []
        self.begin = clock.now
        draw = self.random
        self.charger = charger = JudgedCharger(clock, measuring=True, calendar="runs", strict=True)
        charger.set(TIMEOUT, draw.choice([0, 6, 20, 20, 20, 60, 60, 300]))
        charger.reply_timeout = draw.choice([1.0, 2.0, 2.0, 2.0, 4.0])
        charger.delay = draw.choice([0.0021, 0.0021, 0.0503, 0.3007, 1.3009])
        charger.delay = min(charger.delay, charger.reply_timeout * 0.8)
        charger.opening = draw.choice([0.001, 0.001, 0.1, 0.5])
        charger.applies_late = draw.random() < 0.5
        charger.failsafe = True
        if draw.random() < 0.5:
            charger.image[INPUT, CABLE] = draw.choice([0, 1])
        self.draw_quirks()
        self.world = self.start()

    def draw_quirks(self) -> None:
        """Draw what the charger is like all the time."""
        charger = self.charger
        is_worst = self.seed % 7 == 6  # so that a short run has some, too
        if self.quirk("special without a vehicle", 0.3):
            charger.without_vehicle = self.one_of("ignores", "refuses", "makes 6 of 0")
        charger.refuses_gaps = charger.delay < 1 and self.quirk("refuses gaps", 0.05)
        charger.unsupported_code = self.one_of(1, 2, 2, 2, 3)
        if self.quirk("no clock", 0.5 if is_worst else 0.1):
            charger.lack(*range(CLOCK, CLOCK + 6))
        elif self.quirk("its clock is special", 0.1):
            charger.calendar = self.one_of("stands", "zeros")
        if self.quirk("old firmware", 0.1):
            charger.lack(*range(130, 296))
            charger.lack(PHASE_SWITCH, bank=HOLDING)
        if self.quirk("no heartbeat", 0.5 if is_worst else 0.1):
            charger.failsafe = False
            charger.lack(HEARTBEAT, bank=HOLDING)
        if charger.failsafe and self.quirk("refuses the heartbeat", 0.04):
            charger.failsafe = False
            charger.fault(4, HEARTBEAT)
        else:  # one that refuses and resets for ever would never be read
            chance = 1 if is_worst else 0.1
            charger.resets_after_exception = self.quirk("resets after exceptions", chance)
        charger.locks_out = self.quirk("locks out", 0.5 if is_worst else 0.1)
        self.is_spared = charger.locks_out and charger.resets_after_exception
        if self.is_spared:  # slower, or with longer lock-outs, it would hardly ever be read
            charger.set(TIMEOUT, 20)
            charger.refuses_gaps = False
            charger.delay = min(charger.delay, 0.3007)
        if self.quirk("other limits", 0.2):
            limits = self.one_of((6, 0), (8, 16), (0, 32), (6, 10), (16, 10))
            charger.image[INPUT, EVSE_MIN], charger.image[INPUT, EVSE_MAX] = limits
        if self.quirk("applies a write late", 0.1):
            charger.lag = {self.one_of(DYNAMIC, FAILSAFE): self.one_of(0.05, 0.5, 2.0)}
        if self.quirk("keeps its failsafe current", 0.04):
            charger.keeps = {FAILSAFE: 8}

    def quirk(self, name: str, chance: float) -> bool:
        is_so = self.random.random() < chance
        if is_so:
            self.quirks.append(name)
        return is_so

    def one_of(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def start(self) -> World:
        """Draw the options, and start the poller."""
        draw, charger = self.random, self.charger
        every = draw.choice([2, 3, 10, *[math.inf] * 9])
        details = draw.random() < 0.4
        wanted: dict[int, int] = self.one_of(
            {},
            {DYNAMIC: 12},
            {DYNAMIC: 12},
            {FAILSAFE: 9},
            {DYNAMIC: 14, FAILSAFE: 14},
            {DYNAMIC: 0},
            {TIMEOUT: 20, DYNAMIC: 10},
        )
        self.follows_file = DYNAMIC not in wanted and draw.random() < 0.7
        for address, number in wanted.items():
            charger.want(address, number)
        hold_file = str(self.file) if self.follows_file else None
        world = World(self.clock, charger, wanted, details, every, hold_file)
        self.judge = Judge(world, charger, every)
        self.file_changes()
        self.options = (
            f"--timeout {charger.reply_timeout:g}, every {every:g}, details {details}, "
            f"held {wanted}, file {self.follows_file}; a reply takes {charger.delay:g} s, "
            f"failsafe timeout {charger.failsafe_timeout} s; {', '.join(self.quirks)}"
        )
        return world

    # --- What happens ---------------------------------------------------------------------------

    def plan(self) -> None:
        """Draw what happens in the hour."""
        draw = self.random
        busy = draw.choice([60, 150, 150, 400])
        at = 0.0 if draw.random() < 0.2 else draw.expovariate(1 / busy)
        while at < HOUR:
            (happen,) = draw.choices([*HAPPENINGS], [*HAPPENINGS.values()])
            self.clock.at(self.begin + at, functools.partial(happen, self))
            at += draw.expovariate(1 / busy) if draw.random() < 0.8 else draw.random() * 3
        self.clock.at(self.begin + HOUR + LONGEST, self.calm_down)

    def calm_down(self) -> None:
        """Let the charger be well, and the file have a number that it takes."""
        self.charger.thaw()
        if self.follows_file:
            self.hold(6 if fits(DYNAMIC, 6, *self.limits) else 10)

    @property
    def limits(self) -> tuple[int, int]:
        return self.charger.image[INPUT, EVSE_MIN], self.charger.image[INPUT, EVSE_MAX]

    def for_a_while(self, name: str, over: Callable[[], object]) -> None:
        seconds = self.random.choice([0.5, 3, 10, 30, 100, 240]) * (0.5 + self.random.random())
        seconds = min(seconds, LONGEST, self.begin + HOUR + LONGEST - self.clock.now)
        trouble = f"{name}, for {seconds:.1f} s"
        self.charger.begin(trouble)
        self.clock.after(seconds, lambda: self.charger.end(trouble))
        self.clock.after(seconds, over)

    def cuts(self) -> None:
        self.charger.cut()

    def faults(self) -> None:
        """Play a fault for some of the requests."""
        draw = self.random
        kind = self.one_of(*FAULTS)
        outcome, chance, addresses = map(draw.choice, kind)
        if (HOLDING, HEARTBEAT) in self.charger.unsupported and outcome == 5:
            outcome = 6  # it does not acknowledge a heartbeat that it lacks
        executed = self.one_of(None, True, False) if isinstance(outcome, (int, str)) else None

        def decide(_: Request) -> Outcome | None:
            return outcome if draw.random() < chance else None

        over = self.charger.fault(decide, *addresses, executed=executed)
        what = f"{chance} of {outcome}, executed {executed}, to {addresses or 'all'}"
        self.for_a_while(what, over)

    def goes_away(self) -> None:
        charger = self.charger
        if charger.away:
            return

        def is_back() -> None:
            charger.away, charger.away_since = "", math.inf

        charger.cut()
        charger.away = self.one_of("refused", "refused", "dead", "closes", "resets")
        charger.away_since = self.clock.now
        self.for_a_while(f"away: {charger.away}", is_back)

    def restarts(self) -> None:
        charger = self.charger
        if charger.away:
            return
        seconds = self.one_of(1, 3, 8, 20, 250, 290)
        boots = self.one_of(0, 5, 20, 60)
        timeout = self.one_of(*[charger[TIMEOUT]] * 3, 20, 20 if self.is_spared else 60)
        code = self.one_of(2, 4, 6)
        trouble = f"restarts for {seconds} s, and boots for {boots} s with exception {code}"
        charger.begin(trouble)
        charger.away_since = self.clock.now

        def is_back() -> None:
            charger.away_since = math.inf
            charger.set(TIMEOUT, timeout)
            if self.random.random() < 0.3:
                charger.set(FAILSAFE, self.one_of(6, 8, 10))
            if boots:
                charger.boot(boots, code)
            self.clock.after(boots, lambda: charger.end(trouble))

        charger.restart(seconds, self.one_of("refused", "refused", "dead"), is_back)

    def plugs(self) -> None:
        charger = self.charger
        if charger[CABLE] >= VEHICLE:
            charger.unplug(self.one_of(0, NO_VEHICLE))
        else:
            charger.plug_in(self.one_of(2, 3))

    def freezes(self) -> None:
        charger = self.charger
        has_clock = charger.calendar == "runs" and not charger.unsupported
        if has_clock and charger.repeated is None and not charger.away:
            until = self.one_of("closed", "closed", 5, 30, 200, None)
            charger.freeze(until)
            if until is None:
                self.clock.after(400, charger.thaw)

    def is_slow(self) -> None:
        charger, usual = self.charger, self.charger.delay
        if usual >= 1:
            return

        def is_over() -> None:
            charger.delay = usual

        charger.delay = min(self.one_of(0.1003, 0.3007, 1.0009), charger.reply_timeout * 0.8)
        self.for_a_while(f"a reply takes {charger.delay:g} s", is_over)

    def other_master_sets(self) -> None:
        self.charger.set(self.one_of(DYNAMIC, DYNAMIC, FAILSAFE), self.one_of(6, 7, 16))

    def other_master_fights(self) -> None:
        every, costs = self.one_of(1, 4, 20, 45, 70), self.random.random() < 0.3
        address = self.one_of(DYNAMIC, FAILSAFE, TIMEOUT)
        number = 300 if address == TIMEOUT else 7
        over = self.charger.fight(number, every, address, costs_connection=costs)
        self.for_a_while(f"a fight each {every} s, costs the connection {costs}", over)

    def ignores_writes(self) -> None:
        charger = self.charger
        if not charger.keeps:
            charger.keeps = {DYNAMIC: 7, FAILSAFE: 7}
            self.for_a_while("keeps 7 A, whatever is written", charger.keeps.clear)

    def other_master_comes(self) -> None:
        charger = self.charger
        if charger.masters == 1:
            return
        charger.cut()
        charger.masters = 1
        charger.second_master = self.one_of("silent", "silent", "refused", "reset")
        other = charger.other_master()

        def is_over() -> None:
            charger.masters = 1000
            other.close()

        self.for_a_while(f"another master; a second one: {charger.second_master}", is_over)

    def clock_jumps(self) -> None:
        self.clock.jump(self.one_of(-86400.0, -3600, -7.5, 7.5, 3600, 86400))
        self.judge.aheads.append(self.clock.ahead)

    def shows_others(self) -> None:
        """Let input registers show something else for a while: absurd, or other limits."""
        charger = self.charger
        words = {1106: 40_000}
        if not self.follows_file:  # where it would be hard to say which number is held
            limits = {EVSE_MIN: self.one_of(0, 6), EVSE_MAX: self.one_of(0, 0, 10, 16, 32)}
            words = self.one_of(words, limits)
        usual = {address: charger.image[INPUT, address] for address in words}
        name = f"it shows {words}"

        def is_over() -> None:
            for address, word in usual.items():
                charger.set(address, word, bank=INPUT)

        if not any(trouble.startswith("it shows") for trouble in charger.troubles):
            for address, word in words.items():
                charger.set(address, word, bank=INPUT)
            self.for_a_while(name, is_over)

    def file_changes(self) -> None:
        """Let the file of --hold name a number, or none."""
        if not self.follows_file:
            return
        content = self.one_of("", " \n", "many", "1000", "7.5", None)
        if self.random.random() < 0.7:
            self.hold(self.one_of(0, 6, 8, 10, 12, 16, 20, 40))
            return
        self.charger.note(f"the file of --hold has {content!r}")
        self.judge.file_is_good = False
        if content is None:
            self.file.unlink(missing_ok=True)
        else:
            self.file.write_text(content)

    def hold(self, number: int) -> None:
        self.charger.note(f"the file of --hold says {number}")
        self.file.write_text(f"{number}\n")
        self.judge.file_changed_at = self.clock.now
        self.judge.file_is_good = fits(DYNAMIC, number, *self.limits)
        if self.judge.file_is_good:
            self.judge.is_sure = False
            self.charger.want(DYNAMIC, number)

    # --- The play -------------------------------------------------------------------------------

    def play(self) -> None:
        """Play the seed. Raises Violation with the story."""
        self.plan()
        lock_outs = 2 * self.charger.failsafe_timeout if self.charger.locks_out else 0
        end = self.begin + HOUR + LONGEST + SETTLED + 30 + lock_outs
        try:
            while self.world.due < end:
                self.judge.poll()
        except Exception as error:
            story = f"seed {self.seed}: {error!r}\n{self.options}\n{self.judge.tell()}"
            raise Violation(story) from error


HAPPENINGS: dict[Callable[[Simulation], None], int] = {
    Simulation.cuts: 2,
    Simulation.faults: 11,
    Simulation.goes_away: 2,
    Simulation.restarts: 2,
    Simulation.plugs: 3,
    Simulation.freezes: 1,
    Simulation.is_slow: 1,
    Simulation.other_master_sets: 2,
    Simulation.other_master_fights: 2,
    Simulation.ignores_writes: 2,
    Simulation.other_master_comes: 1,
    Simulation.clock_jumps: 1,
    Simulation.shows_others: 2,
    Simulation.file_changes: 4,
}


@pytest.mark.parametrize("part", range(PARTS))
def test_charger_with_faults_nothing_that_users_must_not_feel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: int
) -> None:
    for seed in range(part, SEEDS, PARTS):
        clock = Clock()
        monkeypatch.setattr(vestel, "time", clock)
        Simulation(seed, clock, tmp_path).play()
