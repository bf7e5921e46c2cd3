"""The socket of the charger, and the faults of frames: pyModbusTCP, not what vestel.py uses."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
from functools import partial
from typing import Any, Callable, Iterator

from charger import CLOSE, GARBAGE, RESET, SILENCE, Frames, Late, Link, Request, SimulatedCharger
from pyModbusTCP.server import DataHandler, ModbusServer
from registers import HOLDING, INPUT

RST = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection


def exception(request: bytes, code: int) -> bytes:
    return request[:4] + b"\0\3" + request[6:7] + bytes([request[7] | 0x80, code])


def _with(reply: bytes, at: int, *values: int) -> bytes:
    return reply[:at] + bytes(values) + reply[at + len(values) :]


def _resized(reply: bytes, words: int) -> bytes:
    body = reply[9 : len(reply) + min(0, 2 * words)] + b"\x12\x34" * words
    return reply[:4] + struct.pack(">H", len(body) + 3) + reply[6:8] + bytes([len(body)]) + body


def _earlier(request: bytes, words: int) -> bytes:
    transaction = struct.pack(">H", (struct.unpack(">H", request[:2])[0] - 1) & 0xFFFF)
    body = bytes([request[7], 2 * words]) + b"\x11\x22" * words
    return transaction + b"\0\0" + struct.pack(">H", len(body) + 1) + request[6:7] + body


def held_back(count: int) -> Frames:
    """Keep so many replies, and send them before the reply to the request that follows."""
    kept: list[bytes] = []

    def play(_: bytes, reply: bytes) -> list[Any]:
        kept.append(reply)
        if len(kept) <= count:
            return []
        sent = b"".join(kept)
        kept.clear()
        return [(0, sent)]

    return Frames(play)


def _sent(frame: Callable[[bytes, bytes], bytes], *then: str) -> Frames:
    return Frames(lambda q, r: [(0, frame(q, r)), *((0, end) for end in then)])


# What comes in place of a reply. Then the connection stays, or is closed or reset.
PLAYS = {  # q: the request, r: its right reply
    "reply and reset": _sent(lambda q, r: r, RESET),
    "reply and close": _sent(lambda q, r: r, CLOSE),
    "half a reply and reset": _sent(lambda q, r: r[: len(r) // 2], RESET),
    "short": _sent(lambda q, r: _resized(r, -1)),
    "short, header of the whole": _sent(lambda q, r: r[:-2]),
    "long": _sent(lambda q, r: _resized(r, 1)),
    "bytes behind the reply": _sent(lambda q, r: r + b"\xab\xcd\xef"),
    "other function": _sent(lambda q, r: _with(r, 7, 7 - r[7])),
    "other unit": _sent(lambda q, r: _with(r, 6, r[6] ^ 1)),
    "other transaction": _sent(lambda q, r: _with(r, 0, r[0] ^ 0x55)),
    "other protocol": _sent(lambda q, r: _with(r, 2, 1)),
    "wrong byte count": _sent(lambda q, r: _with(r, 8, r[8] - 2)),
    "earlier reply, other length": _sent(lambda q, r: _earlier(q, 3) + r),
    "earlier reply, same length": _sent(lambda q, r: _earlier(q, (len(r) - 9) // 2) + r),
    "web server": _sent(lambda q, r: b"HTTP/1.1 400 Bad Request\r\n\r\n", CLOSE),
    "65535 bytes": _sent(lambda q, r: _with(r, 4, 0xFF, 0xFF) + bytes(2000)),
    "single bytes": Frames(lambda q, r: [(0.001, r[n : n + 1]) for n in range(len(r))]),
    "split in the header": Frames(lambda q, r: [(0, r[:5]), (0.05, r[5:])]),
    "part of a header": _sent(lambda q, r: r[:5]),
    **{
        f"exception {code} and reset": _sent(partial(lambda c, q, r: exception(q, c), code), RESET)
        for code in range(1, 12)
    },
}


def _pieces(outcome: Any, request: bytes, reply: bytes) -> list[Any]:
    outcome = PLAYS.get(outcome, outcome)
    if isinstance(outcome, Frames):
        return outcome.play(request, reply)
    if isinstance(outcome, int):
        return [(0, exception(request, outcome))]
    if outcome is None or isinstance(outcome, Late):
        return [(outcome.seconds if outcome else 0, reply)]
    assert outcome in (SILENCE, GARBAGE, RESET, CLOSE)
    sent = {SILENCE: [], GARBAGE: [(0, b"SSH-2.0-dropbear_2022.83\r\n")]}
    return sent.get(outcome, [(0, outcome)])


class _Registers(DataHandler):  # type: ignore[misc]
    def __init__(self, charger: SimulatedCharger) -> None:
        super().__init__()
        self.charger = charger

    def _carry_out(self, write: bool, bank: str, asked: int, value: int) -> Any:
        request = Request(0, 0, write, bank, asked + self.charger.base, value)
        code, words = self.charger.carry_out(request)
        return self.Return(exp_code=code or 0, data=words)

    def read_h_regs(self, address: int, count: int, srv_info: Any) -> Any:
        return self._carry_out(False, HOLDING, address, count)

    def read_i_regs(self, address: int, count: int, srv_info: Any) -> Any:
        return self._carry_out(False, INPUT, address, count)

    def write_h_regs(self, address: int, words_l: list[int], srv_info: Any) -> Any:
        return self._carry_out(True, HOLDING, address, words_l[0])


class SocketLink(Link):
    def __init__(self, charger: SimulatedCharger, number: int, client: socket.socket) -> None:
        super().__init__(charger, number)
        self.client = client
        self.thread = threading.Thread(target=self._serve, name=f"connection {number}", daemon=True)

    def cut(self) -> None:
        super().cut()
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            self.client.shutdown(socket.SHUT_RDWR)  # the thread wakes, and closes it

    def has_left(self) -> bool:
        with contextlib.suppress(OSError):
            return not self.client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def _serve(self) -> None:
        try:
            with contextlib.suppress(OSError):
                while self._exchange():
                    pass
        finally:
            self.charger.hang_up(self)
            self.client.close()

    def _receive(self, size: int) -> bytes:
        data = self.client.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise ConnectionResetError
        return data

    def _exchange(self) -> bool:
        charger = self.charger
        session = ModbusServer.SessionData()
        session.request.mbap.raw = self._receive(7)
        session.request.pdu.raw = self._receive(session.request.mbap.length - 1)
        session.set_response_mbap()
        sent = session.request.mbap.raw + session.request.pdu.raw
        function, asked, value = struct.unpack(">BHH", session.request.pdu.raw[:5])
        bank, write = INPUT if function == 4 else HOLDING, function == 6
        request = charger.receive(self, write, bank, asked, value, session.request.mbap.unit_id)
        outcome, is_executed = charger.decide(self, request)
        if charger.applies_late:
            charger.clock.sleep(charger.delay)
        reply = sent  # what a write is answered with
        if is_executed or not write:
            charger.door.modbus._engine(session)
            reply = session.response.raw
        if not charger.applies_late:
            charger.clock.sleep(charger.delay)
        code = reply[8] if outcome is None and reply[7] & 0x80 else outcome
        for wait, piece in _pieces(outcome, sent, reply):
            charger.clock.sleep(wait)
            if isinstance(piece, str):
                if piece == RESET:
                    self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                charger.replied(self, request, outcome)
                return False
            self.client.sendall(piece)
        charger.replied(self, request, code)
        return not self.is_cut


class Door:
    def __init__(self, charger: SimulatedCharger, ipv6: bool = False) -> None:
        self.charger = charger
        self.family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self.modbus = ModbusServer(data_hdl=_Registers(charger))
        self.links: list[SocketLink] = []
        self._listener: socket.socket | None = None
        self._changed = threading.Condition(threading.RLock())
        self._is_shut = False
        charger.door = self
        charger.host, charger.port = "::1" if ipv6 else "127.0.0.1", free_port()

    def start(self) -> None:
        listener = socket.socket(self.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.charger.host, self.charger.port))
        listener.listen(128)
        self._listener, self._is_shut = listener, False
        self._thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._thread.start()
        self.update()

    def stop(self) -> None:
        """Listen no more, and reset all connections. No thread outlives it but that which calls."""
        with self._changed:
            listener, self._listener = self._listener, None
            if listener is not None:
                if not self._is_shut:
                    listener.shutdown(socket.SHUT_RDWR)  # accept() wakes
                listener.close()
            self._changed.notify_all()
        self.charger.clock.stop()
        for link in self.links:
            link.cut()
        for thread in [self._thread, *(link.thread for link in self.links)]:
            if thread is not threading.current_thread():
                thread.join()

    def update(self) -> None:
        """Shut or open the door, as the charger has it now: nothing listens behind a shut one."""
        with self._changed:
            is_shut = self.charger.refuses_now()
            if self._listener is None or is_shut == self._is_shut:
                return
            self._is_shut = is_shut
            if is_shut:
                self._listener.shutdown(socket.SHUT_RD)
            else:
                self._listener.listen(128)
            self._changed.notify_all()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            with self._changed:
                while self._is_shut and self._listener is listener:
                    self._changed.wait()
                if self._listener is not listener:
                    return
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                self._greet(client)

    def _greet(self, client: socket.socket) -> None:
        charger = self.charger
        charger.attempts.append(charger.clock.now)
        charger.attempted()
        charger.connections += 1
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for link in list(charger.links):
            if isinstance(link, SocketLink) and link.has_left():
                charger.hang_up(link)
        how = charger.greeting()
        if how not in ("", "silent"):
            if how != "closes":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            client.close()
            charger.connected(None)
            return
        link = SocketLink(charger, charger.connections, client)
        link.is_ignored = how == "silent"
        if not link.is_ignored:
            charger.take(link)
        self.links.append(link)
        charger.connected(link)
        link.thread.start()


@contextlib.contextmanager
def listening(
    charger: SimulatedCharger | None = None, ipv6: bool = False, **attributes: Any
) -> Iterator[SimulatedCharger]:
    charger = charger or SimulatedCharger(**attributes)
    door = Door(charger, ipv6)
    door.start()
    try:
        yield charger
    finally:
        charger.failsafe = False
        door.stop()


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


# Ports below those that the system hands out. Each worker has its own, and none is used again soon:
# a program that looks for its lost charger must not find that of another test.
_FIRST = 10_000 + 2_700 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
_PORTS = itertools.cycle(range(_FIRST, _FIRST + 2_700))
for _ in range(os.getpid() % 2_700):
    next(_PORTS)


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as listener, contextlib.suppress(OSError):
            # A process that is just being started may hold a copy of this socket.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError
