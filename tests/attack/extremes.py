"""Options at their extremes, and text from peers in the log."""
import json

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

TOPIC = "devices/honest/messages/events/"


def large_messages(target):
    """limits.message_bytes as far as it goes: what is acknowledged is what was sent, and it is stored."""
    sizes = (262145, 900000, (1 << 20) - 70000, 1 << 20)
    long = TOPIC + "p=" + "x" * 60000  # with it a packet has more bytes than a message may have

    def assault():
        with Wire("honest", target.key) as wire:
            for number, size in enumerate(sizes, 0x1234):
                try:
                    wire.send(publish_packet(TOPIC, b"%d" % size + b"L" * (size - 7), number))
                    assert wire.acks() == [number], size
                    wire.send(publish_packet(long, b"L" * min(size, (1 << 20) - 60100), number))
                    assert wire.acks() == [number], size
                except ConnectionError:
                    raise AssertionError("%d bytes are refused, limits.message_bytes allows them" % size) from None
            wire.send(b"".join(publish_packet(TOPIC, b"l", i) for i in range(1, 50)))
            got = []
            while len(got) < 49:
                got += wire.acks()
            assert got == list(range(1, 50)), got
    return assault


def log_lines(target):
    """Whatever a peer sends, a line of the log is one JSON object, without control characters."""
    def assault():
        for evil in (b"\x1b[2Jclear", b"line\nforged", "\u2028\u202e\x85".encode(), b'"}{"', b"\xff\xfe", "ü".encode() * 200, b"x" + "ü".encode() * 200):
            for user in (b"localhost/" + evil + b"/?api-version=2021-04-12", evil + b"/honest/?api-version=2021-04-12"):
                name = evil if len(evil) < 60000 else b"x"
                body = b"\0\4MQTT\4\x82\0\x3c" + struct.pack(">H", len(name)) + name + struct.pack(">H", len(user)) + user
                with dial(PLAIN) as sock:
                    sock.sendall(packet(0x10, body))
                    drain(sock)
            topic = b"devices/" + evil + b"/messages"
            with Wire("honest", target.key) as wire:
                wire.send(packet(0x32, struct.pack(">H", len(topic)) + topic + b"\0\1"))
                drain(wire.sock)
            with Wire("honest", target.key) as wire:
                wire.send(packet(0x82, b"\0\1" + struct.pack(">H", len(topic)) + topic + b"\1"))
                wire.send(b"\xe0\0")
                drain(wire.sock)
    return assault


def run(target):
    target.attack("messages larger than the default", large_messages(target), rounds=2, growth=32 << 20, honest_during=False)
    target.attack("text of peers in the log", log_lines(target), rounds=1, honest_during=False)
    with open(target.hub.log, "rb") as file:
        for line in file.read().split(b"\n"):
            if line.startswith(b"{"):
                json.loads(line.decode("utf-8"))  # both raise
                assert not any(byte < 0x20 or byte == 0x7F for byte in line), line


main(run, "  message_bytes: 1048576", "diag:\n  format: json\nlog:\n  segment_bytes: 1048576\n")
