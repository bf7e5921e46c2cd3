"""A Vestel EVC04 on loopback: a real Modbus TCP server that plays the faults of real boxes.

It stands on pyModbusTCP, not on pymodbus, and its registers are typed by hand (registers.py), so
that vestel.py is never tested against its own understanding of the protocol or of the charger.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from pyModbusTCP.server import DataHandler, ModbusServer
from registers import BLOCKS as BLOCKS  # these are for whoever imports this module, too
from registers import HOLDING as HOLDING
from registers import HOLES as HOLES
from registers import INPUT as INPUT
from registers import READ_HOLDING as READ_HOLDING
from registers import READ_INPUT as READ_INPUT
from registers import packed as packed
from registers import text as text
from registers import u32 as u32

WRITE = 6
DETAILS = range(130, 296)  # the input registers that old firmware does not know

Image = Dict[Tuple[str, int], int]


def image() -> Image:
    """What the registers of a charging, healthy box hold."""
    return {(bank, first + n): word for bank, first, words in BLOCKS for n, word in enumerate(words)}


class Box:
    """The registers of a charger, and what it makes of a read and of a write.

    `holes`: 0, or 2 for the exception that some firmware answers. `old` firmware knows no
    details. `base` 1 counts registers from 1.
    """

    def __init__(self, holes: int = 0, old: bool = False, base: int = 0) -> None:
        self.image = image()
        self.holes, self.old, self.base = holes, old, base
        self.missing: set[tuple[str, int]] = set()  # answer exception 2
        self.frozen: dict[int, int] = {}  # a write of the register is ignored, or sets this value
        self.signs: list[float] = []  # when the alive register was written (monotonic)

    def word(self, bank: str, address: int) -> int | None:
        """What a register answers, or None for exception 2."""
        register = (bank, address + self.base)
        if register in self.missing or (self.old and (register[1] in DETAILS or register[1] == 405)):
            return None
        if register in HOLES and register not in self.image:
            return 0 if self.holes == 0 else None
        return self.image.get(register)

    def write(self, address: int, value: int) -> None:
        """Carry out a write, as far as this box does."""
        address += self.base
        if address == 6000:
            self.signs.append(time.monotonic())
        elif address in self.frozen:
            self.image[HOLDING, address] = self.frozen[address]
        else:
            self.image[HOLDING, address] = value

    def set(self, bank: str, address: int, *words: int) -> None:
        """Put words into the image."""
        self.image.update(((bank, address + n), word) for n, word in enumerate(words))


class Request(NamedTuple):
    """A request as it came over the wire; `value` is the count of a read, the value of a write."""

    connection: int
    unit: int
    function: int
    address: int
    value: int


# What comes instead of a reply: (request frame, right reply frame) -> pieces to send, each
# after a wait of so many seconds; then the connection stays, or is CLOSED or RESET.
Piece = Tuple[float, bytes]
CLOSE, RESET = b"close", b"reset"
Play = Callable[[bytes, bytes], List[Piece]]


class Fault(NamedTuple):
    """What to play, for which requests, and how often."""

    play: Play
    when: Callable[[Request], bool]
    executed: bool
    left: list[int]


def exception(code: int) -> Play:
    """Answer with a Modbus exception."""
    return lambda request, reply: [
        (0, request[:4] + b"\0\3" + request[6:7] + bytes([request[7] | 0x80, code]))
    ]


def _with(reply: bytes, at: int, *values: int) -> bytes:
    return reply[:at] + bytes(values) + reply[at + len(values) :]


def _short(reply: bytes) -> bytes:
    """One register less, and lengths that agree with it."""
    return _with(_with(reply, 4, *struct.pack(">H", len(reply) - 8)), 8, reply[8] - 2)[:-2]


def _long(reply: bytes) -> bytes:
    """One register more, and lengths that agree with it."""
    return _with(_with(reply, 4, *struct.pack(">H", len(reply) - 4)), 8, reply[8] + 2) + b"\x12\x34"


def _other(request: bytes, words: int) -> bytes:
    """A whole reply of an earlier request (the transaction before), with so many words."""
    transaction = struct.pack(">H", (struct.unpack(">H", request[:2])[0] - 1) & 0xFFFF)
    body = bytes([request[7], 2 * words]) + b"\x11\x22" * words
    return transaction + b"\0\0" + struct.pack(">H", len(body) + 1) + request[6:7] + body


PLAYS: dict[str, Play] = {
    "silence": lambda request, reply: [],
    "reset": lambda request, reply: [(0, RESET)],
    "close": lambda request, reply: [(0, CLOSE)],
    "reply and reset": lambda request, reply: [(0, reply), (0, RESET)],
    "short": lambda request, reply: [(0, _short(reply))],
    "short, header of the whole": lambda request, reply: [(0, reply[:-2])],
    "long": lambda request, reply: [(0, _long(reply))],
    "bytes behind the reply": lambda request, reply: [(0, reply + b"\xab\xcd\xef")],
    "other function": lambda request, reply: [(0, _with(reply, 7, 7 - reply[7]))],
    "other unit": lambda request, reply: [(0, _with(reply, 6, reply[6] ^ 1))],
    "other transaction": lambda request, reply: [(0, _with(reply, 0, reply[0] ^ 0x55))],
    "other protocol": lambda request, reply: [(0, _with(reply, 2, 1))],
    "wrong byte count": lambda request, reply: [(0, _with(reply, 8, reply[8] - 2))],
    "earlier reply, other length": lambda request, reply: [(0, _other(request, 3) + reply)],
    "earlier reply, same length": lambda request, reply: [
        (0, _other(request, (len(reply) - 9) // 2) + reply)
    ],
    "no Modbus": lambda request, reply: [(0, b"SSH-2.0-dropbear_2022.83\r\n")],
    "web server": lambda request, reply: [(0, b"HTTP/1.1 400 Bad Request\r\n\r\n"), (0, CLOSE)],
    "65535 bytes": lambda request, reply: [(0, _with(reply, 4, 0xFF, 0xFF) + bytes(2000))],
    "single bytes": lambda request, reply: [(0.001, reply[n : n + 1]) for n in range(len(reply))],
    "split in the header": lambda request, reply: [(0, reply[:5]), (0.05, reply[5:])],
    "part of a header": lambda request, reply: [(0, reply[:5])],
}


def late(seconds: float) -> Play:
    """The right reply, too late."""
    return lambda request, reply: [(seconds, reply)]


class _Handler(DataHandler):  # type: ignore[misc]
    """Reads and writes the image of its charger."""

    def __init__(self, charger: SimulatedCharger) -> None:
        super().__init__()
        self.charger = charger

    def _read(self, bank: str, address: int, count: int) -> Any:
        words = [self.charger.word(bank, n) for n in range(address, address + count)]
        if None in words:
            return self.Return(exp_code=2)
        return self.Return(exp_code=0, data=words)

    def read_h_regs(self, address: int, count: int, srv_info: Any) -> Any:
        return self._read(HOLDING, address, count)

    def read_i_regs(self, address: int, count: int, srv_info: Any) -> Any:
        return self._read(INPUT, address, count)

    def write_h_regs(self, address: int, words_l: list[int], srv_info: Any) -> Any:
        self.charger.write(address, words_l[0])
        return self.Return(exp_code=0)


class SimulatedCharger(Box, ModbusServer):  # type: ignore[misc]
    """The server. It logs every connection, request and write that reaches it.

    `delay` is what each reply takes (s). `masters` is how many connections it serves at a time;
    more are closed at once.
    """

    def __init__(self, holes: int = 0, old: bool = False, base: int = 0, ipv6: bool = False) -> None:
        Box.__init__(self, holes, old, base)
        ModbusServer.__init__(
            self,
            host="::1" if ipv6 else "127.0.0.1",
            port=free_port(),
            no_block=True,
            ipv6=ipv6,
            data_hdl=_Handler(self),
        )
        self.delay = 0.0
        self.masters = 1000
        self.requests: list[Request] = []
        self.connections = 0
        self.close_next = 0  # connections to close as soon as they are accepted
        self.faults: list[Fault] = []
        self.sockets: list[socket.socket] = []
        self.failsafe = False  # whether a missed alive sign ends the connection

    @property
    def writes(self) -> list[tuple[int, int]]:
        """Every write that was received, carried out or not: (address, value)."""
        return [(r.address + self.base, r.value) for r in self.requests if r.function == WRITE]

    @property
    def reads(self) -> list[tuple[int, int, int]]:
        """Every read that was received: (function, address, count)."""
        return [(r.function, r.address, r.value) for r in self.requests if r.function != WRITE]

    def fault(
        self,
        play: Play | str,
        address: int | None = None,
        function: int | None = None,
        times: int = 1_000_000,
        skip: int = 0,
        executed: bool = True,
    ) -> None:
        """Play a fault for requests of that address and function (any, where None).

        The first `skip` of them are answered as usual, the next `times` with the fault. A
        write is carried out unless `executed` is False.
        """
        seen = [skip]

        def when(request: Request) -> bool:
            if address not in (None, request.address) or function not in (None, request.function):
                return False
            seen[0] -= 1
            return seen[0] < 0

        self.faults.append(Fault(PLAYS[play] if isinstance(play, str) else play, when, executed, [times]))

    class ModbusService(ModbusServer.ModbusService):  # type: ignore[misc]
        """One connection."""

        def handle(self) -> None:
            charger: SimulatedCharger = self.server.charger
            charger.connections += 1
            connection = charger.connections
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if charger.close_next > 0 or len(charger.sockets) >= charger.masters:
                charger.close_next -= 1
                self._end(RESET)
                return
            charger.sockets.append(self.request)
            try:
                while self._exchange(charger, connection):
                    pass
            except (ModbusServer.Error, OSError):
                self.request.close()
            finally:
                charger.sockets.remove(self.request)

        def _exchange(self, charger: SimulatedCharger, connection: int) -> bool:
            session = ModbusServer.SessionData()
            session.request.mbap.raw = self._recv_all(7)
            session.request.pdu.raw = self._recv_all(session.request.mbap.length - 1)
            session.set_response_mbap()
            sent = session.request.mbap.raw + session.request.pdu.raw
            function, address, value = struct.unpack(">BHH", session.request.pdu.raw[:5])
            request = Request(connection, session.request.mbap.unit_id, function, address, value)
            charger.requests.append(request)
            fault = next((f for f in charger.faults if f.left[0] > 0 and f.when(request)), None)
            if fault is None or fault.executed or function != WRITE:
                self.server.engine(session)
            if charger.delay:
                time.sleep(charger.delay)
            if fault is None:
                self.request.sendall(session.response.raw)
                return True
            fault.left[0] -= 1
            reply = session.response.raw if len(session.response.pdu) else sent
            for wait, piece in fault.play(sent, reply):
                time.sleep(wait)
                if piece in (CLOSE, RESET):
                    self._end(piece)
                    return False
                self.request.sendall(piece)
            return True

        def _end(self, how: bytes) -> None:
            if how == RESET:  # linger 0: close() sends RST
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()

    def _serve(self) -> None:
        self._service.charger = self
        self._evt_running.set()
        self._service.serve_forever(poll_interval=0.005)  # how long stop() takes
        self._evt_running.clear()

    def start(self) -> None:
        """Listen on a free port."""
        super().start()
        self.port = self._service.server_address[1]

    def stop(self) -> None:
        """Be gone: nothing listens any more, and every connection is reset."""
        super().stop()
        self.drop()

    def vanish(self) -> Play:
        """Be gone (see stop) instead of replying."""

        def gone(request: bytes, reply: bytes) -> list[Piece]:
            self.stop()
            return [(0, RESET)]

        return gone

    def drop(self) -> None:
        """Reset the connections that are open."""
        for connection in list(self.sockets):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def watch_signs(self) -> None:
        """Play the failsafe from now on: a master that misses its sign is thrown out.

        The box looks every failsafe timeout / 2. Where nobody has given a sign since, it closes
        the connection, and the failsafe current takes the place of the dynamic current.
        """
        self.failsafe = True

        def look() -> None:
            while self.failsafe:
                since = time.monotonic()
                time.sleep(self.image[HOLDING, 2002] / 2)
                if not any(sign >= since for sign in self.signs) and self.failsafe:
                    self.image[HOLDING, 5004] = self.image[HOLDING, 2000]
                    self.drop()

        threading.Thread(target=look, daemon=True).start()


@contextlib.contextmanager
def simulated_charger(**options: Any) -> Iterator[SimulatedCharger]:
    """A running charger."""
    charger = SimulatedCharger(**options)
    charger.start()
    while not charger.is_run:
        time.sleep(0.001)
    try:
        yield charger
    finally:
        charger.failsafe = False
        charger.stop()


@contextlib.contextmanager
def dead_host() -> Iterator[int]:
    """A port where connections are never answered: one socket whose backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


# Ports below those that the system hands out, each worker's its own and none used again soon: a
# program that looks for its lost charger must not find that of another test.
_FIRST = 10_000 + 3_600 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 6)
_PORTS = itertools.cycle(range(_FIRST, _FIRST + 3_600))
for _ in range(os.getpid() % 3_600):
    next(_PORTS)


def free_port() -> int:
    """A port where nothing listens."""
    for port in _PORTS:
        with socket.socket() as listener, contextlib.suppress(OSError):
            # As the server does: a process that is just being started may hold a copy of this socket.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError
