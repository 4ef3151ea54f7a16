"""WebSocket by hand, over TLS: for tests that need to see and to choose each frame."""
import base64
import hashlib
import os
import socket
import ssl
import struct

HOST = "localhost"


class Socket:
    """One WebSocket by hand; frames go out as they are told, answers are read one frame at a time."""

    def __init__(self, hub, path="/$iothub/websocket", protocol="mqtt", more=b"", headers=""):
        self.buffer = b""
        context = ssl.create_default_context(cafile=hub.ca())
        self.sock = context.wrap_socket(socket.create_connection((HOST, 443), 60), server_hostname=HOST)
        key = base64.b64encode(os.urandom(16)).decode()
        offer = "Sec-WebSocket-Protocol: %s\r\n" % protocol if protocol else ""
        self.sock.sendall(("GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s%s\r\n"
                           % (path, HOST, key, offer, headers)).encode() + more)
        head = self.until(b"\r\n\r\n").decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        if self.status == 101:
            guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
            assert self.headers["sec-websocket-accept"] == accept
        else:
            self.body = self.take(int(self.headers["content-length"])).decode()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.sock.close()

    def receive(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the hub")
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.receive()
        end = self.buffer.index(mark) + len(mark)
        return self.take(end)

    def take(self, count):
        while len(self.buffer) < count:
            self.receive()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def frame(self):
        """(first byte, payload) of the next frame."""
        first, length = self.take(2)
        assert not length & 0x80, "a server does not mask"
        if length >= 126:
            length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
        return first, self.take(length)

    def data(self, count):
        """So many bytes of the stream that the hub's binary frames carry."""
        got = b""
        while len(got) < count:
            first, payload = self.frame()
            assert first == 0x82, hex(first)
            got += payload
        assert len(got) == count, got
        return got

    def closed(self):
        """The code of the close frame that comes next, and the end behind it."""
        first, payload = self.frame()
        assert first == 0x88, hex(first)
        try:
            while True:
                self.receive()
        except OSError:
            pass
        assert not self.buffer, self.buffer
        return struct.unpack(">H", payload[:2])[0] if payload else None


def frame(payload, first=0x82, mask=None):
    mask = os.urandom(4) if mask is None else mask
    length = len(payload)
    head = bytes([first]) + (bytes([0x80 | length]) if length < 126 else
                             struct.pack(">BH", 0xFE, length) if length < 65536 else struct.pack(">BQ", 0xFF, length))
    stream = (mask * (length // 4 + 1))[:length]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(length, "big")
