"""MQTT 3.1.1 by hand, plain or in TLS: for tests that need to see each byte and each acknowledgement."""
import socket
import struct

from hub import sas


def text(value):
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(first, body):
    length, head = len(body), bytearray([first])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def publish_packet(topic, payload, packet_id, again=False):
    return packet(0x3A if again else 0x32, text(topic) + struct.pack(">H", packet_id) + payload)


class Wire:
    """One connection of a device; code is the CONNACK's."""

    def __init__(self, device, key, host="localhost", port=1883, tls=None, keep_alive=60, ttl_s=3600):
        self.buffer = b""
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        if tls:  # an ssl.SSLContext
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        user = "%s/%s/?api-version=2021-04-12" % (host, device)
        password = sas("%s/devices/%s" % (host, device), key, ttl_s)
        head = text("MQTT") + bytes([4, 0xC2]) + struct.pack(">H", keep_alive)
        self.send(packet(0x10, head + text(device) + text(user) + text(password)))
        self.code = self.take(4)[3]

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def receive(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the hub")
        self.buffer += data

    def take(self, count):
        while len(self.buffer) < count:
            self.receive()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def acks(self):
        """Packet ids of at least one PUBACK, in order of arrival."""
        while len(self.buffer) < 4:
            self.receive()
        ids = []
        while len(self.buffer) >= 4:
            head = self.take(4)
            assert head[:2] == b"\x40\x02", head
            ids.append(struct.unpack(">H", head[2:])[0])
        return ids
