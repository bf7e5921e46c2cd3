"""What real boxes do to their masters, and what has to come of each fault."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
from typing import Any, Iterable, Iterator, List, Tuple
from unittest import mock

from charger import ALWAYS, CLOSE, GARBAGE, RESET, SILENCE, Outcome, SimulatedCharger
from clock import Clock
from door import PLAYS
from readings import flat
from registers import KEYS, RANGES, Row, lost_with, span

import vestel

TIMEOUT = 20  # s: a slow machine must not play a fault of its own
READ_ALL = "--details", "--format=json", f"--timeout={TIMEOUT}"

# A fault comes at a range ("it") of one register or of several, once or always. What is asked for
# then, in this order, with a / where a new connection begins: the ranges `before` it and `behind`
# it (the `next` is the first of these), and on their own the `values` of the range (the `first`,
# and the `others`); `it...` is asked for again and again. What is null then: the whole range (it),
# its first value (first), or nothing. And what the warning says of it.
TABLE = """
ranges  | asked, once               | null | asked, always                     | null  | why                               | faults
all     | before it behind          |      | before it behind                  |       |                                   | single bytes; split in the header; earlier reply, other length; earlier reply, same length
all     | before it / behind        |      | before it / behind                |       |                                   | reply and reset; reply and close
all     | before it next / behind   |      | before it next / behind           |       |                                   | bytes behind the reply
all     | before it it behind       |      | before it it behind               | it    | no reply within 20 s              | silence; other transaction
all     | before it / it behind     |      | before it / it / behind           | it    | a reply that is too short         | part of a header; short, header of the whole
all     | before it / it behind     |      | before it / it / behind           | it    | the charger closed the connection | reset; close; half a reply and reset
all     | before it / it behind     |      | before it / it / behind           | it    | a reply of the wrong length       | short; long; wrong byte count
all     | before it / it behind     |      | before it / it / behind           | it    | a reply to another request        | other function
all     | before it / it behind     |      | before it / it / behind           | it    | a reply of unit 0                 | other unit
all     | before it / it behind     |      | before it / it / behind           | it    | a reply that is not Modbus        | other protocol; 65535 bytes; no Modbus; web server
all     | before it / it behind     |      | before it / it / behind           | it    | a malformed reply                 | exception 0
all     | before it behind          | it   | before it behind                  | it    | exception                         | exception 4; exception 7; exception 8; exception 9; exception 10; exception 11; exception 255
all     | before it / behind        | it   | before it / behind                | it    | exception                         | exception 4 and reset
all     | before it it behind       |      | before it... behind               | it    | exception                         | exception 5; exception 6
one     | before it behind          | it   | before it behind                  | it    | exception                         | exception 1; exception 2; exception 3
several | before it values behind   |      | before it values behind           | first | exception                         | exception 1; exception 2; exception 3
one     | before it / behind        | it   | before it / behind                | it    | exception                         | exception 2 and reset
several | before it / values behind |      | before it / first / others behind | first | exception                         | exception 2 and reset
"""  # noqa: E501
MEANINGS = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure",
    5: "acknowledge: still working on it", 6: "device busy", 7: "negative acknowledge",
    8: "memory parity error", 9: "not in the Modbus specification", 10: "gateway path unavailable",
    11: "gateway target does not respond", 255: "not in the Modbus specification",
}  # fmt: skip
EXCEPTION = {code: f"exception {code} ({meaning})" for code, meaning in MEANINGS.items()}


def cells(table: str) -> list[list[str]]:
    """Return the rows of a table without its first one."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()[1:]]


CASES = {
    (name, ranges): case for ranges, *case, names in cells(TABLE) for name in names.split("; ")
}
NAMES = [*dict.fromkeys(name for name, _ in CASES)]
HARMLESS = [name for (name, _), case in CASES.items() if not case[-1]]
EXCEPTIONS = [name for name in NAMES if name.startswith("exception") and name != "exception 0"]
NO_REPLY = [name for name in NAMES if name not in (*HARMLESS, *EXCEPTIONS)]
# No reply comes, or a part of it, and then nothing until the timeout is over.
SILENT = [SILENCE, "other transaction", "part of a header", "short, header of the whole"]
PROMPT = [name for name in NAMES if name not in SILENT]

Asked = List[Tuple[int, int]]  # (connection, address) of each request


def outcome_of(name: str) -> Outcome:
    """Return what comes in place of a reply."""
    if name in (SILENCE, RESET, CLOSE, GARBAGE):
        return name
    return PLAYS[name] if name in PLAYS else int(name.split()[1])


def case_of(name: str, at: list[Row], times: int = ALWAYS) -> tuple[str, str, str]:
    """Return what is asked for, what is null and why, where that fault comes at that range."""
    case = CASES.get((name, "all")) or CASES[name, "several" if len(at) > 1 else "one"]
    what, null = case[:2] if times == 1 else case[2:4]
    return what, null, EXCEPTION[int(name.split()[1])] if case[-1] == "exception" else case[-1]


def asked(what: str, at: list[Row]) -> Asked:
    """Return the requests that these words of the table stand for."""
    here = RANGES.index(at)
    first = [rows[0].address for rows in RANGES]
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


@contextlib.contextmanager
def hurrying(charger: SimulatedCharger, clock: Clock) -> Iterator[None]:
    """Let a timeout of main() be over as soon as all that the charger sends has come."""
    exchange, note, received_before = vestel.Wire.exchange, charger.replied, len(charger.requests)
    sent: list[bytes] = []
    replied: list[object] = []

    def noting_request(self: vestel.Wire, request: bytes) -> bytes:
        sent.append(request)
        return exchange(self, request)

    def noting_reply(*arguments: Any) -> None:
        note(*arguments)
        replied.extend(arguments)

    def recv(self: socket.socket, *arguments: int) -> bytes:
        is_program = threading.current_thread() is threading.main_thread()
        for _ in range(20_000 if is_program else 0):
            is_received = len(charger.requests) == received_before + len(sent)
            is_all = is_received and charger.requests[-1] in replied
            if select.select([self], [], [], 0.001)[0]:
                break
            if is_all:
                clock.sleep(2 * TIMEOUT)
                raise socket.timeout
        return super(socket.socket, self).recv(*arguments)

    with mock.patch.object(charger, "replied", noting_reply):
        wire = mock.patch.object(vestel.Wire, "exchange", noting_request)
        with wire, mock.patch.object(socket.socket, "recv", recv):
            yield


@contextlib.contextmanager
def playing(
    charger: SimulatedCharger, name: str, *addresses: int, clock: Clock, **where: Any
) -> Iterator[None]:
    """Play a fault for what main() asks, without waiting long for what never comes."""
    charger.fault(outcome_of(name), *addresses, **where)
    with hurrying(charger, clock) if name in SILENT else contextlib.nullcontext():
        yield
