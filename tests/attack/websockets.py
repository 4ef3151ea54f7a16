"""Attacks behind an upgrade to WebSocket: garbage, slow and endless frames, floods, and storms of upgrades."""
import random
import socket
import struct

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import
from ws import Socket, frame

CONNACK = b"\x20\x02\x00\x00"


def login(target, device="honest"):
    ws = Socket(target.hub)
    ws.sock.sendall(frame(connect_packet(device, target.key)))
    assert ws.data(4) == CONNACK
    return ws


def garbage(target):
    chance = random.Random(6455)

    def random_frame():
        first = chance.choice((0x82, 0x02, 0x00, 0x80, 0x89, 0x8A, chance.getrandbits(8)))
        payload = bytes(chance.getrandbits(8) for _ in range(chance.choice((0, 1, 2, 125, 126, 300))))
        return frame(payload, first)

    def assault():
        for i in range(60):
            data = (bytes(chance.getrandbits(8) for _ in range(2000)) if i % 3 == 0 else
                    b"".join(random_frame() for _ in range(30)))
            with Socket(target.hub, more=data if i % 2 else b"") as ws:
                try:
                    ws.sock.sendall(data)
                    ws.sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                drain(ws.sock)
    return assault


def announced(target):
    """A hundred strangers announce a megabyte each and send a byte; the deadline for CONNECT ends them all."""
    def assault():
        sockets = [Socket(target.hub, more=b"\x82\xff" + struct.pack(">Q", 1 << 20) + b"abcd" + b"\x10") for _ in range(100)]
        assert all(ws.status == 101 for ws in sockets)
        for ws in sockets:
            drain(ws.sock)
            ws.sock.close()
    return assault


def slow_frames(target):
    """Bytes of frames that never become a CONNECT win no time."""
    def assault():
        with Socket(target.hub) as ws:
            started = time.monotonic()
            ws.sock.settimeout(0.1)
            try:
                while time.monotonic() < started + PATIENCE_S:
                    try:
                        ws.sock.sendall(frame(b"", 0x89) + frame(b"", 0x02 if ws.buffer == b"" else 0x00))
                        ws.buffer += ws.sock.recv(1000)
                        if b"\x88" in ws.buffer:
                            break
                    except socket.timeout:
                        pass
            except OSError:
                pass
            assert time.monotonic() - started < PATIENCE_S, "a stranger was kept"
    return assault


def endless_message(target):
    """One message of fragments without end: a megabyte is the bound, whatever its pieces are."""
    def assault():
        for size in (1, 1000, 60000):
            with login(target) as ws:
                ws.sock.sendall(frame(b"", 0x02))
                piece = frame(b"\xc0\x00" * size, 0x00) * max(1, 60000 // size)  # PINGREQs: none is a unit too long
                sent, heard = 0, b""
                while b"\x03\xf1" not in heard and sent < 64 << 20:  # 1009; what it answers else has no such bytes
                    ws.sock.sendall(piece)
                    sent += len(piece)
                    ws.sock.settimeout(0.001)
                    try:
                        heard = (heard + ws.sock.recv(1 << 20))[-200:]
                    except socket.timeout:
                        pass
                    ws.sock.settimeout(PATIENCE_S)
                assert sent < 64 << 20, "a message without end was taken"
    return assault


def deaf(target, data):
    """Sends for ever, never reads: the hub must stop reading."""
    def assault():
        with login(target) as ws:
            ws.sock.settimeout(1)
            sent = 0
            try:
                while sent < 256 << 20:
                    sent += ws.sock.send(data)
            except (socket.timeout, OSError):
                pass
            assert sent < 256 << 20, "the hub took everything from a peer that reads nothing"
    return assault


def storm(target):
    """Upgrades that are cut at any moment."""
    context = careless()

    def assault():
        for i in range(150):
            with dial_tls(HTTPS, context) as tls:
                tls.sendall(b"GET /$iothub/websocket HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                            b"Sec-WebSocket-Protocol: mqtt\r\n\r\n" + frame(connect_packet("honest", target.key))[:i])
                if i % 3 == 0:
                    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif i % 3 == 1:
                    tls.recv(1)
    return assault


def run(target):
    target.attack("garbage in frames", garbage(target))
    target.attack("frames that are announced and do not come", announced(target), rounds=2)
    target.attack("slow frames without CONNECT", slow_frames(target), rounds=2)
    target.attack("a message without end", endless_message(target), honest_during=False)
    target.attack("pings, never reads", deaf(target, frame(b"p" * 100, 0x89) * 300), honest_during=False)
    target.attack("PINGREQ in frames, never reads", deaf(target, frame(b"\xc0\x00") * 5000), honest_during=False)
    target.attack("upgrades that are cut", storm(target), honest_during=False)
    log = target.log()
    for word in ("closed with 1002", "closed with 1009", "limits.websocket_frame_bytes"):
        assert word in log, word
    assert target.key not in log


if __name__ == "__main__":
    main(run)
