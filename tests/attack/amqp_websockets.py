"""AMQP behind an upgrade to WebSocket: frames cut anywhere, control frames between, floods of both, ends in the middle."""
import random

import amqp
from amqp_kit import *  # pylint: disable=unused-wildcard-import,wildcard-import
from ws import Socket, frame

PATHS = ("/$iothub/websocket", "/$servicebus/websocket/")
EVENTS = "/devices/evil/messages/events"
PING, PONG, CLOSE = 0x89, 0x8A, 0x88
TOO_BIG, PROTOCOL_ERROR, UNSUPPORTED = 1009, 1002, 1003


class Stream:
    """The stream of a WebSocket in the place of a socket. cut(bytes) gives the frames that carry what is sent."""

    def __init__(self, hub, path=PATHS[0], cut=None):
        self.ws = Socket(hub, path, "AMQPWSB10")
        assert self.ws.status == 101, self.ws.status
        self.cut = cut or (lambda bytes_: [frame(bytes_)])
        self.pongs, self.code = [], None
        self.settimeout, self.shutdown = self.ws.sock.settimeout, self.ws.sock.shutdown

    def sendall(self, bytes_):
        self.ws.sock.sendall(b"".join(self.cut(bytes_)))

    def raw(self, *frames):
        self.ws.sock.sendall(b"".join(frames))

    def recv(self, _):
        """What the next binary frame carries. b"": there was a close frame, whose code is kept."""
        while True:
            first, payload = self.ws.frame()
            if first == CLOSE:
                self.code = int.from_bytes(payload[:2], "big")
                return b""
            if first == PONG:
                self.pongs.append(payload)
                continue
            assert first == 0x82, hex(first)
            if payload:
                return payload

    def close(self):
        self.ws.sock.close()


class WsPeer(amqp.Peer):
    def __init__(self, hub, **options):  # pylint: disable=super-init-not-called
        self.buffer = bytearray()
        self.sock = Stream(hub, **options)


class WsTarget(AmqpTarget):
    """A hub whose root is asked for once: many WebSockets are opened."""

    def __init__(self, hub):
        super().__init__(hub)
        trusted = hub.ca()
        hub.ca = lambda: trusted


def pieces_of(bytes_, size):
    """One message of many frames."""
    parts = [bytes_[at:at + size] for at in range(0, len(bytes_), size)] or [b""]
    last = len(parts) - 1
    return [frame(part, (0 if at else 2) | (0x80 if at == last else 0)) for at, part in enumerate(parts)]


def among_pings(bytes_):
    """Every other frame is one that carries nothing."""
    out = []
    for at, piece in enumerate(pieces_of(bytes_, 5)):
        out += [piece, frame(b"p%d" % at, PING), frame(b"", PONG), frame(b"q" * 125, PONG)]
    return out


def cuts(target, key):
    """What is allowed, however odd: it works, whatever the frames are."""
    chance = random.Random(1)
    ways = {
        "a byte each": lambda bytes_: [frame(bytes_[at:at + 1]) for at in range(len(bytes_))],
        "fragments of a byte": lambda bytes_: pieces_of(bytes_, 1),
        "pings between fragments": among_pings,
        "empty frames and fragments": lambda bytes_: [frame(b""), frame(b"", 2), frame(b"", 0), frame(bytes_, 0), frame(b"", 0x80)],
        "anywhere": lambda bytes_: pieces_of(bytes_, chance.randrange(1, 300)),
    }

    def assault():
        for path in PATHS:
            for name, cut in ways.items():
                with WsPeer(target.hub, path=path, cut=cut).device("evil", key) as peer:
                    peer.sender(EVENTS)
                    peer.send(amqp.transfer(0, 0, amqp.data(name.encode() * 50)))
                    assert peer.until(amqp.DISPOSITION).fields[4].code == amqp.ACCEPTED, name
                    assert (name == "pings between fragments") == bool(peer.sock.pongs), (name, peer.sock.pongs[:3])
                    peer.send(amqp.frame(amqp.perf(amqp.CLOSE)))
                    assert peer.until(amqp.CLOSE).error() == (None, None), name
    return assault


def broken(target, key):
    """Frames against the rules in the middle of a delivery: told by a code, the connection over, the device let go."""
    half = amqp.transfer(0, 0, b"\0" * 900, more=True)
    cases = {
        "without a mask": (b"\x82\x05hello", PROTOCOL_ERROR),
        "a continuation of nothing": (frame(b"x", 0x80), PROTOCOL_ERROR),
        "a message inside of a message": (frame(half, 2) + frame(half, 0x82), PROTOCOL_ERROR),
        "text": (frame(half, 0x81), UNSUPPORTED),
        "text inside of a message": (frame(half[:9], 2) + frame(half[9:], 1), UNSUPPORTED),
        "a reserved bit": (frame(half, 0xC2), PROTOCOL_ERROR),
        "an unknown opcode": (frame(half, 0x83), PROTOCOL_ERROR),
        "an unknown control frame": (frame(b"", 0x8B), PROTOCOL_ERROR),
        "a ping in fragments": (frame(b"x", 0x09), PROTOCOL_ERROR),
        "a ping of 126 bytes": (frame(b"x" * 126, PING), PROTOCOL_ERROR),
        "a close of one byte": (frame(b"x", CLOSE), PROTOCOL_ERROR),
        "a close with a code that nobody may send": (frame(struct.pack(">H", 1006), CLOSE), PROTOCOL_ERROR),
        "2^63 bytes announced": (b"\x82\xff" + b"\xff" * 8 + b"abcd", PROTOCOL_ERROR),
        "16 MB announced": (b"\x82\xff" + struct.pack(">Q", 16 << 20) + b"abcd" + half, TOO_BIG),
        "fragments beyond the bound": (frame(b"", 2) + b"\0\xff" + struct.pack(">Q", 16 << 20) + b"abcd" + half, TOO_BIG),
        "a length that is not the shortest": (b"\x82\xfe\0\x05abcdhello", PROTOCOL_ERROR),
        "a close in the middle of a transfer": (frame(half[:500], 2) + frame(struct.pack(">H", 1000), CLOSE), 1000),
        "a close after half a frame": (frame(half[:20]) + frame(b"", CLOSE), 0),
    }

    def assault():
        for name, (bytes_, code) in cases.items():
            with WsPeer(target.hub).device("evil", key) as peer:
                peer.sender(EVENTS)
                peer.send(half)
                peer.sock.raw(bytes_)
                try:
                    while peer.sock.recv(1):
                        pass
                except OSError:
                    pass
                assert peer.sock.code == code, (name, peer.sock.code)
        target.quiet()
    return assault


def half_upgrades(target, key):
    """Upgrades that are never finished, with AMQP behind them, or whose peer goes at any byte."""
    context = careless()
    head = (b"GET /$iothub/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n")
    hello = (frame(amqp.SASL) + frame(amqp.plain("evil@sas.localhost", sas("localhost/devices/evil", key)) + amqp.AMQP + amqp.opening()) +
             frame(amqp.begin() + amqp.attach("s", 0, EVENTS, True) + amqp.transfer(0, 0, amqp.data(b"early"))))
    whole = head + hello

    def assault():
        waiting = []
        for size in list(range(1, len(whole), 29)) + [len(head), len(whole)]:
            tls = dial_tls(HTTPS, context)
            tls.sendall(whole[:size])
            if size % 3 == 0:
                tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if size % 3 == 2 and size < len(head) + 20:  # nobody knows who it is
                waiting.append(tls)
            else:
                tls.close()
        started = time.monotonic()
        for tls in waiting:
            drain(tls, timeout=PATIENCE_S)
            tls.close()
        assert time.monotonic() - started < PATIENCE_S, "strangers were kept"
    return assault


def slow_strangers(target):
    """Pings, pongs and empty frames for ever win no time, before AMQP's header and within SASL."""
    def assault():
        people = [Socket(target.hub, PATHS[0], "AMQPWSB10") for _ in range(3)]
        for ws, first in zip(people, (b"", amqp.SASL, amqp.SASL[:3])):
            ws.sock.sendall(frame(first))
            ws.sock.settimeout(0.05)
        started = time.monotonic()
        while people:
            assert time.monotonic() - started < PATIENCE_S, "%d strangers were kept" % len(people)
            for ws in people[:]:
                try:
                    ws.sock.sendall(frame(b"a", PING) + frame(b"b", PONG) + frame(b""))
                    ws.buffer += ws.sock.recv(1000)
                    over = b"\x88" in ws.buffer
                except socket.timeout:
                    over = False
                except OSError:
                    over = True
                if over:
                    ws.sock.close()
                    people.remove(ws)
    return assault


def flood(target, key, piece, hello=lambda peer: peer.sender(EVENTS), must_stop=True, known=True):
    """Sends for ever and never reads: the hub stops reading or ends it, in bounded memory."""
    limit = (128 if must_stop else 24) << 20

    def assault():
        before = target.rss()
        with WsPeer(target.hub) as peer:
            peer = peer.device("evil", key) if known else peer.anonymous()
            hello(peer)
            peer.sock.settimeout(2)
            sent = 0
            try:
                while sent < limit:
                    sent += peer.sock.ws.sock.send(piece)
            except (socket.timeout, OSError):
                pass
            assert sent < limit or not must_stop, "the hub took everything from a peer that reads nothing"
            grown = target.rss() - before
            target.publishes()
        assert SANITIZED or grown < 16 << 20, "a flood costs %.1f MB" % (grown / 1e6)
    return assault


def endless(target, key):
    """One message of fragments without end, each a heartbeat of AMQP: a bound, whatever its pieces are."""
    beat = amqp.frame(b"")

    def assault():
        for many in (1, 1000):
            with WsPeer(target.hub).device("evil", key) as peer:
                peer.sock.raw(frame(beat, 2))
                piece = frame(beat * many, 0) * max(1, 4000 // many)
                sent = 0
                while peer.sock.code is None and sent < 64 << 20:
                    peer.sock.settimeout(PATIENCE_S)
                    peer.sock.raw(piece)
                    sent += len(piece)
                    peer.sock.settimeout(0.001)
                    try:
                        peer.sock.recv(1)
                    except socket.timeout:
                        pass
                assert peer.sock.code == TOO_BIG, "a message without end was taken"
    return assault


def cut_off(target, key):
    """The peer goes in the middle of a delivery, of a fragment, of a frame's head; the next one gets the device at once."""
    def assault():
        for number in range(30):
            peer = WsPeer(target.hub).device("evil", key)
            peer.sender(EVENTS)
            whole = frame(amqp.transfer(0, 0, amqp.data(b"m" * 400)) + amqp.transfer(0, 1, b"\0" * 300, more=True), 2)
            peer.sock.raw(whole[:1 + 23 * number])
            if number % 3 == 0:
                peer.sock.ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif number % 3 == 1:
                peer.sock.shutdown(socket.SHUT_RDWR)
            peer.close()
    return assault


def run(target):
    key = target.hub.json("device", "add", "evil")["primaryKey"]
    target.attack("frames cut anywhere", cuts(target, key), rounds=2)
    target.attack("frames against the rules", broken(target, key), rounds=2)
    target.attack("half upgrades", half_upgrades(target, key), rounds=1)
    target.attack("pings of strangers win no time", slow_strangers(target), rounds=1)
    target.attack("pings, never reads", flood(target, key, frame(b"p" * 125, PING) * 500), rounds=2, growth=8 << 20)
    target.attack("strangers' pings, never reads", flood(target, key, frame(b"p" * 125, PING) * 500, lambda peer: None, known=False), rounds=2,
                  growth=8 << 20)
    target.attack("pongs nobody asked for", flood(target, key, frame(b"", PONG) * 4000, must_stop=False), rounds=2, growth=8 << 20)
    target.attack("empty frames", flood(target, key, frame(b"") * 4000, must_stop=False), rounds=2, growth=8 << 20)
    target.attack("a message without end", endless(target, key), rounds=2)
    target.attack("echoes in frames, never reads", flood(target, key, frame(amqp.flow(None, 0, echo=True)) * 1000, lambda peer: peer.begin()),
                  rounds=2, growth=8 << 20)
    target.attack("cut in the middle", cut_off(target, key), rounds=2)
    log = target.log()
    for word in ("closed with 1002", "closed with 1003", "closed with 1009"):
        assert word in log, word
    assert key not in log and target.key not in log and "SharedAccessSignature" not in log


with_hub(lambda hub: run(WsTarget(hub)), config=CONFIG % "  amqp_open_s: 5\n  amqp_authorize_s: 5\n" + PORTS)
