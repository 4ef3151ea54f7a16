"""AMQP 1.0 by hand, plain or in TLS: for tests that need to see, break or count each frame.

Values are encoded bytes made by the small functions here; what comes is decoded into Python's own types.
"""
import base64
import socket
import struct

from hub import sas

SASL, AMQP = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
ERROR, ACCEPTED, REJECTED, SOURCE, TARGET = 0x1D, 0x24, 0x25, 0x28, 0x29
NULL, TRUE, FALSE, EMPTY = b"\x40", b"\x41", b"\x42", b"\x45"


def uint(value):
    return b"\x43" if value == 0 else struct.pack(">BI", 0x70, value)


def ulong(value):
    return struct.pack(">BQ", 0x80, value)


def ushort(value):
    return struct.pack(">BH", 0x60, value)


def ubyte(value):
    return bytes([0x50, value])


def _bytes(code, value):
    value = value.encode() if isinstance(value, str) else value
    return bytes([code, len(value)]) + value if len(value) < 256 else struct.pack(">BI", code | 0x10, len(value)) + value


def binary(value):
    return _bytes(0xA0, value)


def string(value):
    return _bytes(0xA1, value)


def symbol(value):
    return _bytes(0xA3, value)


def many(code, values):
    """A list (0xd0) or map (0xd1)."""
    body = b"".join(values)
    return struct.pack(">BII", code, len(body) + 4, len(values)) + body


def described(code, value):
    return b"\x00\x53" + bytes([code]) + value


def perf(code, *fields):
    return described(code, many(0xD0, fields))


def mapping(pairs):
    return many(0xD1, [part for pair in pairs for part in pair])


def frame(body, channel=0, kind=0):
    return struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body


def data(payload):
    return described(0x75, binary(payload))


def properties(pairs):
    """Application properties, strings to strings."""
    return described(0x74, mapping([(string(k), string(v)) for k, v in pairs.items()]))


def plain(user, password):
    return frame(perf(0x41, symbol("PLAIN"), binary("\0%s\0%s" % (user, password))), kind=1)


def opening(name="attacker", host="localhost", max_frame=65536, idle_ms=None, more=()):
    idle = NULL if idle_ms is None else uint(idle_ms)
    return frame(perf(OPEN, string(name), string(host), uint(max_frame), ushort(65535), idle, *more))


def begin(channel=0, window=2048):
    return frame(perf(BEGIN, NULL, uint(0), uint(window), uint(2048), uint(0xFFFFFFFF)), channel)


def attach(name, handle, address, sends, channel=0, options=None, more=()):
    """The link of one who sends to, or receives from, an address. options: filter, modes."""
    options = options or {}
    source = perf(SOURCE, NULL if sends else string(address), *[NULL] * 6, options.get("filter", NULL))
    target = perf(TARGET, string(address) if sends else NULL)
    return frame(perf(ATTACH, string(name), uint(handle), FALSE if sends else TRUE, ubyte(options.get("snd", 2)),
                      ubyte(options.get("rcv", 0)), source, target, NULL, NULL, uint(0) if sends else NULL, *more), channel)


def transfer(handle, number, body, channel=0, more=False, settled=False, tag=None):
    head = [uint(handle), uint(number), binary(struct.pack(">I", number) if tag is None else tag), uint(0),
            TRUE if settled else FALSE, TRUE if more else FALSE]
    return frame(perf(TRANSFER, *head) + body, channel)


def part(handle, body, more, channel=0):
    """A frame of a delivery that has begun."""
    return frame(perf(TRANSFER, uint(handle), NULL, NULL, NULL, NULL, TRUE if more else FALSE) + body, channel)


def flow(handle, credit, seen=0, window=2048, channel=0, incoming=0, drain=False, echo=False):
    return frame(perf(FLOW, uint(incoming), uint(window), uint(0), uint(2048), NULL if handle is None else uint(handle),
                      NULL if handle is None else uint(seen), NULL if handle is None else uint(credit), NULL,
                      TRUE if drain else FALSE, TRUE if echo else FALSE), channel)


def disposition(first, last, receiver=True, settled=True, state=None, channel=0):
    return frame(perf(DISPOSITION, TRUE if receiver else FALSE, uint(first), uint(last), TRUE if settled else FALSE,
                      described(ACCEPTED, EMPTY) if state is None else state), channel)


def selector(text):
    """The filter of a reader of events."""
    name = symbol("apache.org:selector-filter:string")
    return mapping([(name, b"\x00" + name + string(text))])


class Described:
    def __init__(self, code, value):
        self.code, self.value = code, value

    def __repr__(self):
        return "%s%r" % (hex(self.code) if isinstance(self.code, int) else self.code, self.value)


_FIXED = {0x40: (0, lambda b: None), 0x41: (0, lambda b: True), 0x42: (0, lambda b: False), 0x43: (0, lambda b: 0),
          0x44: (0, lambda b: 0), 0x45: (0, lambda b: []), 0x56: (1, lambda b: b[0] == 1), 0x50: (1, lambda b: b[0]),
          0x52: (1, lambda b: b[0]), 0x53: (1, lambda b: b[0]), 0x51: (1, lambda b: struct.unpack("b", b)[0]),
          0x54: (1, lambda b: struct.unpack("b", b)[0]), 0x55: (1, lambda b: struct.unpack("b", b)[0]),
          0x60: (2, lambda b: int.from_bytes(b, "big")), 0x70: (4, lambda b: int.from_bytes(b, "big")),
          0x71: (4, lambda b: struct.unpack(">i", b)[0]), 0x80: (8, lambda b: int.from_bytes(b, "big")),
          0x81: (8, lambda b: struct.unpack(">q", b)[0]), 0x83: (8, lambda b: struct.unpack(">q", b)[0]),
          0x98: (16, bytes)}


def decode(raw, at=0):
    """(value, where the next one begins)"""
    code = raw[at]
    if code == 0:
        kind, at = decode(raw, at + 1)
        value, at = decode(raw, at)
        return Described(kind, value), at
    if code in _FIXED:
        size, make = _FIXED[code]
        return make(raw[at + 1:at + 1 + size]), at + 1 + size
    wide = code >> 4 in (0xB, 0xD, 0xF)
    size = struct.unpack_from(">I", raw, at + 1)[0] if wide else raw[at + 1]
    at += 5 if wide else 2
    end = at + size
    if code >> 4 in (0xA, 0xB):
        value = bytes(raw[at:end])
        return (value if code & 15 == 0 else value.decode()), end
    count = struct.unpack_from(">I", raw, at)[0] if wide else raw[at]
    at += 4 if wide else 1
    if code >> 4 in (0xE, 0xF):
        return bytes(raw[at:end]), end  # arrays as they stand
    values = []
    for _ in range(count):
        value, at = decode(raw, at)
        values.append(value)
    return (dict(zip(values[::2], values[1::2])) if code & 15 == 1 else values), end


def sections(message):
    """{descriptor: value} of a message."""
    found, at = {}, 0
    while at < len(message):
        value, at = decode(message, at)
        found[value.code] = value.value
    return found


class Frame:
    def __init__(self, kind, channel, body):
        self.kind, self.channel, self.body = kind, channel, body
        self.code, self.fields, self.payload = None, [], b""
        if body:
            value, at = decode(body)
            self.code, self.fields, self.payload = value.code, value.value, body[at:]

    def error(self):
        """(condition, description) of a DETACH, END or CLOSE."""
        index = 2 if self.code == DETACH else 0
        error = self.fields[index] if len(self.fields) > index else None
        return (error.value[0], error.value[1]) if error else (None, None)


class Closed(ConnectionError):
    """The hub closed the connection."""


class Peer:
    """One connection. Ports: 5672 is plain, 5671 wants a context."""

    def __init__(self, port=5672, tls=None, host="localhost", timeout=60, receive_buffer=None):
        self.buffer = bytearray()
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        self.sock.connect(("127.0.0.1", port))
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def fill(self, count):
        while len(self.buffer) < count:
            more = self.sock.recv(262144)
            if not more:
                raise Closed("closed by the hub")
            self.buffer += more

    def take(self, count):
        self.fill(count)
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def receive(self):
        """The next frame that is no heartbeat."""
        while True:
            self.fill(8)
            size, offset, kind, channel = struct.unpack_from(">IBBH", self.buffer)
            raw = self.take(size)
            if size > 8:
                return Frame(kind, channel, raw[4 * offset:])

    def until(self, *codes):
        """The next frame of one of these kinds; others are dropped, but what ends something unasked is told."""
        while True:
            got = self.receive()
            if got.code in codes:
                return got
            if got.code in (END, CLOSE, DETACH):
                raise Closed("%s: %s" % got.error())

    def sasl(self, first):
        """@return the code of the outcome"""
        self.send(SASL)
        assert self.take(8) == SASL
        assert self.receive().code == 0x40
        self.send(first)
        outcome = self.receive()
        assert outcome.code == 0x44, outcome.fields
        return outcome.fields[0]

    def login(self, user, password, **options):
        """PLAIN and OPEN. @return self"""
        code = self.sasl(plain(user, password))
        if code != 0:
            raise Closed("SASL outcome %d" % code)
        return self.hello(**options)

    def anonymous(self, **options):
        assert self.sasl(frame(perf(0x41, symbol("ANONYMOUS"), binary(b"")), kind=1)) == 0
        return self.hello(**options)

    def hello(self, **options):
        self.send(AMQP, opening(**options))
        assert self.take(8) == AMQP
        assert self.until(OPEN)
        return self

    def device(self, name, key, host="localhost", **options):
        return self.login("%s@sas.%s" % (name, host), sas("%s/devices/%s" % (host, name), key), **options)

    def policy(self, name, key, host="localhost", **options):
        return self.login("%s@sas.root.%s" % (name, host), sas(host, key, policy=name), **options)

    def begin(self, channel=0, window=2048):
        self.send(begin(channel, window))
        return self.until(BEGIN)

    def link(self, name, handle, address, sends, **options):
        """ATTACH and its answer; Closed, with condition and description, when it is refused."""
        self.send(attach(name, handle, address, sends, **options))
        answer = self.until(ATTACH)
        if answer.fields[6 if sends else 5] is None:
            raise Closed("%s: %s" % self.until(DETACH).error())
        return answer

    def sender(self, address, name="s", handle=0, channel=0):
        """@return the credit"""
        self.begin(channel)
        self.link(name, handle, address, True, channel=channel)
        return self.until(FLOW).fields[6]


def key_of(secret):
    return base64.b64encode(secret).decode()
