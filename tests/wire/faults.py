"""What real boxes do to their masters, and what has to come of each fault: a row for each."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Tuple
from unittest import mock

from charger import (
    ALWAYS,
    CLOSE,
    GARBAGE,
    RESET,
    SILENCE,
    Outcome,
    SimulatedCharger,
)
from clock import Clock
from door import PLAYS, dripping
from readings import flat
from registers import KEYS, Row, lost_with, span

import vestel

TIMEOUT = 0.05  # s, for a reply that never comes
AMPLE = 20  # s, elsewhere: a slow machine must not play a fault of its own
READ_ALL = "--details", "--format=json", f"--timeout={AMPLE}"

# A fault comes at a range ("it"), once or always. What is asked for then, in this order, with a /
# where a new connection begins: the ranges `before` it and `behind` it (the `next` is the first of
# these), and on their own the `values` of the range (the `first`, and the `others`); `it...` is
# asked for again and again. What is null then: the whole range (it), its first value (first), or
# nothing. And what the warning says of it.
TABLE = """
fault                       | ranges  | asked, once                  | null | asked, always                       | null  | why
single bytes                | all     | before it behind             |      | before it behind                    |       |
split in the header         | all     | before it behind             |      | before it behind                    |       |
earlier reply, other length | all     | before it behind             |      | before it behind                    |       |
earlier reply, same length  | all     | before it behind             |      | before it behind                    |       |
reply and reset             | all     | before it / behind           |      | before it / behind                  |       |
reply and close             | all     | before it / behind           |      | before it / behind                  |       |
bytes behind the reply      | all     | before it next / behind      |      | before it next / behind             |       |
silence                     | all     | before it it behind          |      | before it it behind                 | it    | no reply within {timeout} s
other transaction           | all     | before it it behind          |      | before it it behind                 | it    | no reply within {timeout} s
dripping                    | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is too short
part of a header            | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is too short
short, header of the whole  | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is too short
reset                       | all     | before it / it behind        |      | before it / it / behind             | it    | the charger closed the connection
close                       | all     | before it / it behind        |      | before it / it / behind             | it    | the charger closed the connection
half a reply and reset      | all     | before it / it behind        |      | before it / it / behind             | it    | the charger closed the connection
short                       | all     | before it / it behind        |      | before it / it / behind             | it    | a reply of the wrong length
long                        | all     | before it / it behind        |      | before it / it / behind             | it    | a reply of the wrong length
wrong byte count            | all     | before it / it behind        |      | before it / it / behind             | it    | a reply of the wrong length
other function              | all     | before it / it behind        |      | before it / it / behind             | it    | a reply to another request
other unit                  | all     | before it / it behind        |      | before it / it / behind             | it    | a reply of unit 0
other protocol              | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is not Modbus
65535 bytes                 | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is not Modbus
no Modbus                   | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is not Modbus
web server                  | all     | before it / it behind        |      | before it / it / behind             | it    | a reply that is not Modbus
exception 0                 | all     | before it / it behind        |      | before it / it / behind             | it    | a malformed reply
exception 4                 | all     | before it behind             | it   | before it behind                    | it    | exception 4 (device failure)
exception 4 and reset       | all     | before it / behind           | it   | before it / behind                  | it    | exception 4 (device failure)
exception 7                 | all     | before it behind             | it   | before it behind                    | it    | exception 7 (negative acknowledge)
exception 8                 | all     | before it behind             | it   | before it behind                    | it    | exception 8 (memory parity error)
exception 9                 | all     | before it behind             | it   | before it behind                    | it    | exception 9 (not in the Modbus specification)
exception 10                | all     | before it behind             | it   | before it behind                    | it    | exception 10 (gateway path unavailable)
exception 11                | all     | before it behind             | it   | before it behind                    | it    | exception 11 (gateway target does not respond)
exception 255               | all     | before it behind             | it   | before it behind                    | it    | exception 255 (not in the Modbus specification)
exception 5                 | all     | before it it behind          |      | before it... behind                 | it    | exception 5 (acknowledge: still working on it)
exception 6                 | all     | before it it behind          |      | before it... behind                 | it    | exception 6 (device busy)
exception 1                 | one     | before it behind             | it   | before it behind                    | it    | exception 1 (illegal function)
exception 1                 | several | before it values behind      |      | before it values behind             | first | exception 1 (illegal function)
exception 2                 | one     | before it behind             | it   | before it behind                    | it    | exception 2 (illegal data address)
exception 2                 | several | before it values behind      |      | before it values behind             | first | exception 2 (illegal data address)
exception 2 and reset       | one     | before it / behind           | it   | before it / behind                  | it    | exception 2 (illegal data address)
exception 2 and reset       | several | before it / values behind    |      | before it / first / others behind   | first | exception 2 (illegal data address)
exception 3                 | one     | before it behind             | it   | before it behind                    | it    | exception 3 (illegal data value)
exception 3                 | several | before it values behind      |      | before it values behind             | first | exception 3 (illegal data value)
"""  # noqa: E501

Ranges = List[List[Row]]
Asked = List[Tuple[int, int]]  # (connection, address) of each request


class Case(NamedTuple):
    """What is asked for and what is null where a fault comes once, or always; and why."""

    once: tuple[str, str]
    always: tuple[str, str]
    why: str


def cells(table: str) -> list[list[str]]:
    """Return the rows of a table without its first one."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()[1:]]


FAULTS = {
    (name, ranges): Case((once, once_null), (always, always_null), why)
    for name, ranges, once, once_null, always, always_null, why in cells(TABLE)
}
NAMES = [*dict.fromkeys(name for name, _ in FAULTS)]
HARMLESS = [name for (name, _), case in FAULTS.items() if not case.why]
EXCEPTIONS = [name for name in NAMES if name.startswith("exception") and name != "exception 0"]
NO_REPLY = [name for name in NAMES if name not in (*HARMLESS, *EXCEPTIONS)]
# A part of what is awaited comes, and then nothing until the timeout is over.
TOO_LATE = [
    "other transaction",
    "dripping",
    "part of a header",
    "short, header of the whole",
]
PROMPT = [name for name in NAMES if name not in ("silence", *TOO_LATE)]


def outcome_of(name: str) -> Outcome:
    """Return what comes in place of a reply."""
    if name in (SILENCE, RESET, CLOSE, GARBAGE):
        return name
    if name not in PLAYS and name.startswith("exception"):
        return int(name.split()[1])
    return dripping(0.001) if name == "dripping" else PLAYS[name]


def case_of(name: str, at: list[Row]) -> Case:
    """Return what has to come of a fault at that range."""
    case = FAULTS.get((name, "all")) or FAULTS[name, "several" if len(at) > 1 else "one"]
    timeout = TIMEOUT if name == SILENCE else AMPLE
    return case._replace(why=case.why.format(timeout=timeout))


def asked(what: str, ranges: Ranges, at: list[Row]) -> Asked:
    """Return the requests that these words of the table stand for."""
    here = ranges.index(at)
    first = [rows[0].address for rows in ranges]
    values = [row.address for row in at]
    means = {
        "before": first[:here],
        "it": [first[here]],
        "it...": [first[here]],
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


def asked_of(charger: SimulatedCharger, what: str = "") -> Asked:
    """Return what was asked for; where `what` says `it...`, a request that was repeated is one.

    Connection by connection: the last request to one may be noted after the first to the next.
    """
    requests = [(request.connection, request.address) for request in list(charger.requests)]
    requests.sort(key=lambda request: request[0])
    return [request for request, _ in itertools.groupby(requests)] if "..." in what else requests


def null_keys(null: str, at: list[Row]) -> set[str]:
    """Return the keys of the reading that this word of the table stands for."""
    rows = {"": [], "it": at, "first": at[:1]}[null]
    return {key for row in rows for key in lost_with(row)[0]}


def warnings(null: str, at: list[Row], why: str) -> list[str]:
    """Return the lines on stderr where that is null."""
    part = f"{span(at[:1])} of " if null == "first" else ""
    return [f"WARNING: Cannot read {part}{registers(at)}: {why}"] if null else []


def registers(at: list[Row]) -> str:
    """Return the registers of a range as messages name them."""
    return f"{at[0].bank} register{'s' * ('-' in span(at))} {span(at)}"


def with_null(keys: Iterable[str]) -> dict[str, Any]:
    """Return the usual reading, flat and without its time, with None for these keys."""
    null = dict.fromkeys(keys)
    assert null.keys() <= KEYS.keys()
    return {**KEYS, **null}


def flat_of(reading: dict[str, Any]) -> dict[str, Any]:
    """Return the reading with keys like `session.energy_wh`, without its time."""
    return flat({key: value for key, value in reading.items() if key != "timestamp"})


# --- In a hurry ---------------------------------------------------------------------------------


class _Hasty(vestel.Target):
    """A target whose timeout is TIMEOUT where no reply comes, and AMPLE otherwise."""

    in_a_hurry = False

    @property
    def timeout(self) -> float:
        return TIMEOUT if self.in_a_hurry else AMPLE


class _Connection:
    """A connection that says, at each request, whether its reply will not come."""

    def __init__(
        self,
        inner: vestel.Connection,
        is_missing: Callable[[bool, int], bool],
        say: Callable[[bool], None],
    ) -> None:
        self.inner, self.is_missing, self.say = inner, is_missing, say
        self.close = inner.close

    def read_words(self, bank: str, address: int, count: int) -> list[int]:
        self.say(self.is_missing(False, address))
        return self.inner.read_words(bank, address, count)

    def write_word(self, address: int, value: int) -> None:
        self.say(self.is_missing(True, address))
        self.inner.write_word(address, value)


MODBUS = vestel.modbus


@contextlib.contextmanager
def hurrying(
    *addresses: int,
    write: bool | None = None,
    times: int = ALWAYS,
    skip: int = 0,
    clock: Clock | None = None,
    **_: object,
) -> Iterator[None]:
    """Let main() not wait long where the charger plays such a fault (see there).

    The timeout is TIMEOUT then; with a clock it is over as soon as all that was sent is received,
    however slow this machine is.
    """
    seen = itertools.count()
    in_a_hurry = [False]

    def is_missing(writes: bool, address: int) -> bool:
        is_meant = (not addresses or address in addresses) and write in (None, writes)
        return is_meant and skip <= next(seen) < skip + times

    def modbus(
        target: vestel.Target, trace: Callable[[str], None]
    ) -> Callable[[], vestel.Connection]:
        hasty = _Hasty(*target)

        def say(missing: bool) -> None:
            in_a_hurry[0] = missing
            hasty.in_a_hurry = missing and clock is None

        connect = MODBUS(hasty, trace)
        return lambda: _Connection(connect(), is_missing, say)

    def recv(self: socket.socket, *arguments: int) -> bytes:
        data = super(socket.socket, self).recv(*arguments)
        is_mine = threading.current_thread() is threading.main_thread()
        if clock and is_mine and in_a_hurry[0] and not select.select([self], [], [], 0)[0]:
            clock.now += 2 * AMPLE
        return data

    hasty = mock.patch.object(vestel, "modbus", modbus)
    with hasty, mock.patch.object(socket.socket, "recv", recv):
        yield


@contextlib.contextmanager
def playing(
    charger: SimulatedCharger, name: str, *addresses: int, clock: Clock | None = None, **where: Any
) -> Iterator[None]:
    """Play a fault for what main() asks; what comes too late needs its clock."""
    charger.fault(outcome_of(name), *addresses, **where)
    if name in (SILENCE, *TOO_LATE):
        assert clock or name == SILENCE
        with hurrying(*addresses, **where, clock=None if name == SILENCE else clock):
            yield
    else:
        yield


@contextlib.contextmanager
def attempts_to(port: int) -> Iterator[list[float | None]]:
    """The timeout (s) of each attempt to connect to that port, as it is made."""
    timeouts: list[float | None] = []

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        if address[1] == port:
            timeouts.append(self.gettimeout())
        super(socket.socket, self).connect(address)

    with mock.patch.object(socket.socket, "connect", connect):
        yield timeouts
