"""What real boxes do to their masters, and what has to come of each: a row for each fault."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, ContextManager, Iterable, Iterator, List, NamedTuple, Tuple
from unittest import mock

from readings import flat
from registers import KEYS, Row, lost_with, span
from simulated_charger import (
    CLOSE,
    INPUT,
    PLAYS,
    READ_HOLDING,
    READ_INPUT,
    RESET,
    WRITE,
    Play,
    SimulatedCharger,
    exception,
    late,
)

import vestel

TIMEOUT = 0.2  # s, where a fault is to run into it
AMPLE = 20.0  # s, where a fault is not to run into it: a slow machine must not play a fault of its own


def and_then(play: Play, end: bytes) -> Play:
    return lambda request, reply: [*play(request, reply), (0, end)]


def right(request: bytes, reply: bytes) -> list[tuple[float, bytes]]:
    return [(0, reply)]


MORE_PLAYS: dict[str, Play] = {
    **{f"exception {code}": exception(code) for code in range(256)},
    "exception 2 and reset": and_then(exception(2), RESET),
    "exception 4 and reset": and_then(exception(4), RESET),
    "reply and close": and_then(right, CLOSE),
    "half a reply and reset": lambda request, reply: [(0, reply[: len(reply) // 2]), (0, RESET)],
    "late": late(2 * TIMEOUT),
    "dripping": lambda request, reply: [(TIMEOUT / 4, reply[n : n + 1]) for n in range(len(reply))],
}

# A fault is played at a range ("it"), once or always. What is asked for then, in this order, with
# a / where a new connection begins: the ranges `before` it and `behind` it (the `next` is the first
# of these), and on their own the `values` of the range (the `first`, and the `others`). What is null
# then: the whole range (it), its first value (first), or nothing. And what the warning says of it.
TABLE = """
fault                       | ranges  | asked, once            | null | asked, always            | null  | why
single bytes                | all     | before it behind       |      | before it behind         |       |
split in the header         | all     | before it behind       |      | before it behind         |       |
reply and reset             | all     | before it / behind     |      | before it / behind       |       |
reply and close             | all     | before it / behind     |      | before it / behind       |       |
bytes behind the reply      | all     | before it next / behind|      | before it next / behind  |       |
silence                     | all     | before it / it behind  |      | before it / it / behind  | it    | no reply within 0.2 s
late                        | all     | before it / it behind  |      | before it / it / behind  | it    | no reply within 0.2 s
dripping                    | all     | before it / it behind  |      | before it / it / behind  | it    | no reply within 0.2 s
part of a header            | all     | before it / it behind  |      | before it / it / behind  | it    | no reply within 0.2 s
short, header of the whole  | all     | before it / it behind  |      | before it / it / behind  | it    | no reply within 0.2 s
reset                       | all     | before it / it behind  |      | before it / it / behind  | it    | the charger closed the connection
close                       | all     | before it / it behind  |      | before it / it / behind  | it    | the charger closed the connection
half a reply and reset      | all     | before it / it behind  |      | before it / it / behind  | it    | the charger closed the connection
short                       | all     | before it / it behind  |      | before it / it / behind  | it    | a reply of the wrong length
long                        | all     | before it / it behind  |      | before it / it / behind  | it    | a reply of the wrong length
65535 bytes                 | all     | before it / it behind  |      | before it / it / behind  | it    | a reply of the wrong length
wrong byte count            | all     | before it / it behind  |      | before it / it / behind  | it    | a reply of the wrong length
other function              | all     | before it / it behind  |      | before it / it / behind  | it    | a reply to another request
other transaction           | all     | before it / it behind  |      | before it / it / behind  | it    | a reply to another request
earlier reply, other length | all     | before it / it behind  |      | before it / it / behind  | it    | a reply to another request
earlier reply, same length  | all     | before it / it behind  |      | before it / it / behind  | it    | a reply to another request
other unit                  | all     | before it / it behind  |      | before it / it / behind  | it    | a reply of unit 0
other protocol              | all     | before it / it behind  |      | before it / it / behind  | it    | a reply that is no Modbus
no Modbus                   | all     | before it / it behind  |      | before it / it / behind  | it    | a reply that is no Modbus
web server                  | all     | before it / it behind  |      | before it / it / behind  | it    | a reply that is no Modbus
exception 0                 | all     | before it / it behind  |      | before it / it / behind  | it    | a malformed reply
exception 4                 | all     | before it behind       | it   | before it behind         | it    | exception 4 (device failure)
exception 4 and reset       | all     | before it / behind     | it   | before it / behind       | it    | exception 4 (device failure)
exception 7                 | all     | before it behind       | it   | before it behind         | it    | exception 7 (negative acknowledge)
exception 8                 | all     | before it behind       | it   | before it behind         | it    | exception 8 (memory parity error)
exception 9                 | all     | before it behind       | it   | before it behind         | it    | exception 9 (not in the Modbus specification)
exception 10                | all     | before it behind       | it   | before it behind         | it    | exception 10 (gateway path unavailable)
exception 11                | all     | before it behind       | it   | before it behind         | it    | exception 11 (gateway target does not respond)
exception 255               | all     | before it behind       | it   | before it behind         | it    | exception 255 (not in the Modbus specification)
exception 5                 | all     | before it it behind    |      | before it it it it it it behind | it | exception 5 (acknowledge: still working on it)
exception 6                 | all     | before it it behind    |      | before it it it it it it behind | it | exception 6 (device busy)
exception 1                 | one     | before it behind       | it   | before it behind         | it    | exception 1 (illegal function)
exception 1                 | several | before it values behind|      | before it values behind  | first | exception 1 (illegal function)
exception 2                 | one     | before it behind       | it   | before it behind         | it    | exception 2 (illegal data address)
exception 2                 | several | before it values behind|      | before it values behind  | first | exception 2 (illegal data address)
exception 2 and reset       | one     | before it / behind     | it   | before it / behind       | it    | exception 2 (illegal data address)
exception 2 and reset       | several | before it / values behind |   | before it / first / others behind | first | exception 2 (illegal data address)
exception 3                 | one     | before it behind       | it   | before it behind         | it    | exception 3 (illegal data value)
exception 3                 | several | before it values behind|      | before it values behind  | first | exception 3 (illegal data value)
"""  # noqa: E501

Ranges = List[List[Row]]
Asked = List[Tuple[int, int]]  # (connection, address) of each request


class Fault(NamedTuple):
    """What is asked for and what is null where a fault is played once or always; and what is said."""

    once: tuple[str, str]
    always: tuple[str, str]
    why: str


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()[1:]]


FAULTS = {
    (name, ranges): Fault((once, once_null), (always, always_null), why)
    for name, ranges, once, once_null, always, always_null, why in _cells(TABLE)
}
NAMES = [*dict.fromkeys(name for name, _ in FAULTS)]
# What runs into the time-out, and what does no harm at all.
WAITING = [name for (name, _), fault in FAULTS.items() if fault.why == "no reply within 0.2 s"]
HARMLESS = [name for (name, _), fault in FAULTS.items() if fault.always[1] == ""]
EXCEPTIONS = [name for name in NAMES if name.startswith("exception") and name != "exception 0"]
NO_ANSWER = [name for name in NAMES if name not in (*HARMLESS, *EXCEPTIONS)]


def play_of(name: str) -> Play:
    return PLAYS.get(name) or MORE_PLAYS[name]


def row_of(name: str, at: list[Row]) -> Fault:
    """What has to come of a fault at that range."""
    return FAULTS.get((name, "all")) or FAULTS[name, "several" if len(at) > 1 else "one"]


def asked(what: str, ranges: Ranges, at: list[Row]) -> Asked:
    """The requests that these words of the table stand for."""
    here = ranges.index(at)
    first = [rows[0].address for rows in ranges]
    values = [row.address for row in at]
    means = {
        "before": first[:here],
        "it": [first[here]],
        "values": values,
        "first": values[:1],
        "others": values[1:],
        "next": first[here + 1 : here + 2],
        "behind": first[here + 1 :],
    }
    return [
        (connection, address)
        for connection, words in enumerate(what.split("/"), 1)
        for word in words.split()
        for address in means[word]
    ]


def null_keys(null: str, at: list[Row]) -> set[str]:
    """The keys of the reading that this word of the table stands for."""
    rows = {"": [], "it": at, "first": at[:1]}[null]
    return {key for row in rows for key in lost_with(row)[0]}


def warnings(null: str, at: list[Row], why: str) -> list[str]:
    """What is said where that is null."""
    where = f"{at[0].bank} register{'s' * ('-' in span(at))} {span(at)}"
    part = {"": "", "it": "", "first": f"{span(at[:1])} of "}[null]
    return [f"Cannot read {part}{where}: {why}"] if null else []


def with_null(keys: Iterable[str]) -> dict[str, Any]:
    """The reading of the simulated charger, flat and without its time, with None for these keys."""
    null = dict.fromkeys(keys)
    assert null.keys() <= KEYS.keys()
    return {**KEYS, **null}


# --- Against a charger, without a process for each ------------------------------------------------


ALWAYS = 1_000_000
_one_at_a_time = threading.Lock()


class _Hasty(vestel.Target):
    """A target whose time-out is TIMEOUT while a fault is to run into it, and AMPLE otherwise."""

    in_a_hurry = False

    @property
    def timeout(self) -> float:
        return TIMEOUT if self.in_a_hurry else AMPLE


class _Connection:
    """A connection that is in a hurry where a fault is played, and takes its time elsewhere.

    Elsewhere it also takes turns with the others, so that many at a time do not keep a charger
    from noting within TIMEOUT what it is asked for.
    """

    def __init__(
        self, inner: vestel.Connection, target: _Hasty, is_faulty: Callable[[int, int], bool]
    ) -> None:
        self.inner, self.target, self.is_faulty = inner, target, is_faulty
        self.close = inner.close

    def _turn(self, function: int, address: int) -> ContextManager[object]:
        self.target.in_a_hurry = self.is_faulty(function, address)
        return contextlib.nullcontext() if self.target.in_a_hurry else _one_at_a_time

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        with self._turn(READ_INPUT if bank == INPUT else READ_HOLDING, address):
            return self.inner.read_words(bank, address, count)

    def write_word(self, address: int, value: int) -> None:
        with self._turn(WRITE, address):
            self.inner.write_word(address, value)


Modbus = Callable[[vestel.Target, Callable[[str], None]], Callable[[], "vestel.Connection"]]
MODBUS: Modbus = vestel.modbus


def hurrying(
    address: int | None = None,
    function: int | None = None,
    times: int = ALWAYS,
    skip: int = 0,
    executed: bool = True,
) -> Modbus:
    """A vestel.modbus with TIMEOUT where a charger plays such a fault (see its fault()), else AMPLE."""
    seen = itertools.count()

    def is_faulty(asked_with: int, asked_for: int) -> bool:
        meant = address in (None, asked_for) and function in (None, asked_with)
        return meant and skip <= next(seen) < skip + times

    def modbus(target: vestel.Target, trace: Callable[[str], None]) -> Callable[[], vestel.Connection]:
        hasty = _Hasty(*target)
        connect = MODBUS(hasty, trace)
        return lambda: _Connection(connect(), hasty, is_faulty)

    return modbus


@contextlib.contextmanager
def played(charger: SimulatedCharger, name: str, **where: Any) -> Iterator[None]:
    """Play a fault; where it is to run into the time-out, main() has TIMEOUT there, and there only."""
    charger.fault(play_of(name), **where)
    with mock.patch.object(vestel, "modbus", hurrying(**where) if name in WAITING else MODBUS):
        yield


@contextlib.contextmanager
def connected(
    charger: SimulatedCharger, timeout: float = AMPLE, modbus: Modbus = MODBUS
) -> Iterator[vestel.Charger]:
    """The charger as the program has it."""
    target = vestel.Target(charger.host, charger.port, 1, 0, timeout)
    reached = vestel.Charger(modbus(target, lambda line: None), str(target), timeout)
    try:
        yield reached
    finally:
        reached.close()


def read(reached: vestel.Charger) -> tuple[dict[str, Any], list[str]]:
    """A reading with details, flat and without its time; and the warnings. Raises ChargerError."""
    answers = [vestel.read_core(reached), *vestel.read_details(reached, vestel.DETAIL_RANGES)]
    words, failures = {}, {}
    for answer in answers:
        words.update(answer.words)
        failures.update(answer.failures)
    reading, impossible = vestel.decode(words, None, True)
    assert not impossible
    return flat_of(reading), [*vestel.warnings_of(failures).values()]


@contextlib.contextmanager
def attempts_to(port: int) -> Iterator[list[float | None]]:
    """The time-out (s) of each attempt to connect to that port, as it is made."""
    timeouts: list[float | None] = []

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        if address[1] == port:
            timeouts.append(self.gettimeout())
        super(socket.socket, self).connect(address)

    with mock.patch.object(socket.socket, "connect", connect):
        yield timeouts


def flat_of(reading: dict[str, Any]) -> dict[str, Any]:
    """The reading with keys like `session.energy_wh`, without its time."""
    return flat({key: value for key, value in reading.items() if key != "timestamp"})


def asked_of(charger: SimulatedCharger) -> Asked:
    """Connection by connection: the last request to one may be noted after the first to the next."""
    asked = [(request.connection, request.address) for request in charger.requests]
    return sorted(asked, key=lambda request: request[0])


def forget(charger: SimulatedCharger) -> None:
    """Make the charger as good as new, for the next case."""
    charger.faults.clear()
    charger.requests.clear()
    charger.connections = charger.close_next = 0


def side_by_side(check: Callable[[Any], None], cases: Iterable[Any]) -> None:
    """All cases at the same time: most of theirs is waiting."""
    with ThreadPoolExecutor(26) as pool:
        list(pool.map(check, cases))
