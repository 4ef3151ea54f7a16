"""Broken bytes on the MQTT ports: garbage, TLS garbage, plain text where TLS is, packets against the rules."""
import os
import random
import struct

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

TOPIC = "devices/honest/messages/events/"
EVIL = "devices/evil/messages/events/"


def garbage(port):
    def assault():
        chance = random.Random(1)
        for size in (1, 2, 5, 64, 1000, 20000, 70000):
            for first in (None, 0x10, 0x16, 0x00, 0xFF, ord("G")):
                with dial(port) as sock:
                    data = bytes(chance.getrandbits(8) for _ in range(size))
                    try:
                        sock.sendall(data if first is None else bytes([first]) + data)
                        sock.shutdown(1)
                    except OSError:
                        pass
                    drain(sock)
    return assault


def tls_garbage(target):
    """A true ClientHello, then nonsense where the handshake goes on; nonsense records after the handshake."""
    context = careless()

    def assault():
        for tail in (b"", b"\x17\x03\x03\xff\xff" + b"x" * 70000, b"\x15\x03\x03\x00\x02\x01\x00" * 5000,
                     b"\x14\x03\x03\x00\x01\x01" * 2000, b"\x16\x03\x03\x40\x00" + b"\x0b" * 16384):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            with dial(MQTTS) as sock:
                try:
                    sock.sendall(outgoing.read())
                    sock.recv(65536)
                    sock.sendall(tail)
                    sock.shutdown(1)
                except OSError:
                    pass
                drain(sock)
            with dial_tls(MQTTS, context) as tls:
                raw = socket.socket(fileno=os.dup(tls.fileno()))
                try:
                    raw.sendall(tail)
                    raw.shutdown(1)
                except OSError:
                    pass
                drain(raw)
                raw.close()
    return assault


def must_close(data, first=b"", expected=None):
    """Everything that is sent after first must end the connection. @return what the hub said"""
    with dial(PLAIN) as sock:
        if first:
            sock.sendall(first)
            assert sock.recv(4)[:2] == b"\x20\x02"
        try:
            sock.sendall(data)
        except OSError:
            pass
        said = drain(sock)
        assert expected is None or said == expected, (data[:40], said[:40])
        return said


def broken_packets(target):
    key = target.hub.json("device", "add", "evil")["primaryKey"]
    connect = connect_packet("evil", key)
    id_1 = struct.pack(">H", 1)
    before = {
        "publish before CONNACK": publish_packet(EVIL, b"x", 1),
        "nothing but a length": b"\x10\xff\xff\xff\x7f",
        "a length of five bytes": b"\x10\xff\xff\xff\xff\x01",
        "an MQTT 3.1.1 CONNECT of 268 MB": b"\x10\xff\xff\xff\x7f" + b"\0\4MQTT",
        "a will on another device": connect_packet("evil", key, will=(TOPIC, b"x")),
        "a will with a wildcard": connect_packet("evil", key, will=(EVIL + "#", b"x")),
        "a will with QoS 3": connect_packet("evil", key, will=(EVIL, b"x"), will_flags=0x18),
        "a will with U+0000": connect_packet("evil", key, will=(EVIL + "\0", b"x")),
        "a will that is not UTF-8": connect_packet("evil", key, will=(EVIL.encode() + b"\xff", b"x")),
        "reserved flags": b"\x1f" + connect[1:],
        "the reserved connect flag": connect.replace(b"MQTT\4\xc2", b"MQTT\4\xc3"),
    }
    after = {
        "CONNECT twice": connect,
        "packet id 0": publish_packet(EVIL, b"x", 0),
        "a topic that is not UTF-8": packet(0x32, b"\0\3\xff\xfe\xfd" + id_1),
        "U+0000 in the topic": publish_packet(EVIL + "a\0b", b"x", 1),
        "a surrogate in the topic": packet(0x32, struct.pack(">H", len(EVIL) + 3) + EVIL.encode() + b"\xed\xa0\x80" + id_1),
        "a wildcard in the topic": publish_packet(EVIL + "+", b"x", 1),
        "an empty topic": packet(0x32, b"\0\0" + id_1),
        "a topic longer than its packet": packet(0x32, b"\xff\xffabc"),
        "268 MB announced": b"\x32\xff\xff\xff\x7f" + text(EVIL) + id_1,
        "a property bag of 20,000 pairs": publish_packet(EVIL + "&".join("%x=" % i for i in range(11000)), b"x", 1),
        "QoS 2": b"\x34" + publish_packet(EVIL, b"x", 1)[1:],
        "QoS 3": b"\x36" + publish_packet(EVIL, b"x", 1)[1:],
        "SUBSCRIBE without a filter": packet(0x82, id_1),
        "SUBSCRIBE with id 0": packet(0x82, b"\0\0" + text("a") + b"\0"),
        "SUBSCRIBE with QoS 3": packet(0x82, id_1 + text("a") + b"\3"),
        "SUBSCRIBE with an empty filter": packet(0x82, id_1 + text("") + b"\0"),
        "UNSUBSCRIBE without a filter": packet(0xA2, id_1),
        "CONNACK": b"\x20\x02\0\0",
        "packet type 0": b"\x00\x00",
        "packet type 15": b"\xf0\x00",
        "PINGREQ with a body": b"\xc0\x01\0",
        "PUBREL": b"\x62\x02\0\1",
        "PUBACK of one byte": b"\x40\x01\0",
    }

    def assault():
        for name, data in before.items():
            said = must_close(data)
            assert said in (b"", b"\x20\x02\0\5"), (name, said)
        for name, data in after.items():
            try:
                said = must_close(data, connect)
            except TimeoutError as error:
                raise AssertionError(name + " does not end the connection") from error
            assert said == b"", (name, said[:50])
        with Wire("evil", key) as wire:  # odd but legal: taken as it is
            for topic in (EVIL + "a=" + "%25" * 21000, EVIL + "a=%zz%", EVIL + "&&&==&=", EVIL + "x" * 65000):
                wire.send(publish_packet(topic, b"x", 9))
                assert wire.acks() == [9], topic[:60]
    return assault


def floods(target):
    key = target.hub.json("device", "add", "flood")["primaryKey"]
    topic = "devices/flood/messages/events/"

    def subscribe_10000():
        with Wire("flood", key) as wire:
            filters = b"".join(text("devices/flood/messages/devicebound/%d" % i) + b"\1" for i in range(4000))
            wire.send(packet(0x82, b"\0\1" + filters))
            head = wire.take(3)
            assert head[0] == 0x90, head
            codes = wire.take(2 + 4000)[2:]
            assert codes.count(b"\x80") >= 3900, codes[:100]

    def unsubscribe():
        with Wire("flood", key) as wire:
            one = packet(0xA2, b"\0\1" + text("devices/flood/messages/devicebound/#"))
            for _ in range(20):
                wire.send(one * 1000)
                assert wire.take(4000) == b"\xb0\x02\0\1" * 1000

    def ping():
        with Wire("flood", key) as wire:
            for _ in range(20):
                wire.send(b"\xc0\x00" * 10000)
                assert wire.take(20000) == b"\xd0\x00" * 10000

    def deaf(data):
        """Sends for ever, never reads: the hub must stop reading, then nothing more goes in."""
        def assault():
            with Wire("flood", key) as wire:
                wire.sock.settimeout(1)
                sent = 0
                try:
                    while sent < 256 << 20:
                        sent += wire.sock.send(data)
                except (socket.timeout, OSError):
                    pass
                assert sent < 256 << 20, "the hub took everything from a peer that reads nothing"
        return assault

    target.attack("SUBSCRIBE with 4,000 filters", subscribe_10000)
    target.attack("UNSUBSCRIBE floods", unsubscribe)
    target.attack("PINGREQ floods", ping)
    target.attack("PINGREQ, never reads", deaf(b"\xc0\x00" * 32768), rounds=3)
    one = publish_packet(topic, b"", 1)
    target.attack("QoS 1 PUBLISH, never reads its PUBACKs", deaf(one * (65536 // len(one))), rounds=3)
    big = publish_packet(topic, b"b" * 200000, 1)
    target.attack("big PUBLISH, never reads its PUBACKs", deaf_bounded(key, big), rounds=2)


def deaf_bounded(key, data):
    def assault():
        with Wire("flood", key) as wire:
            for _ in range(100):
                wire.send(data)
            for _ in range(100):
                wire.acks()
                break
    return assault


def more_than_a_second_holds(target):
    """Refusals all at once: that lines about them are missing is said with the next one."""
    deadline = time.monotonic() + PATIENCE_S
    while "more refusals were not written" not in target.log():
        assert time.monotonic() < deadline, "refusals without a line are not told of"
        people = [dial(PLAIN) for _ in range(300)]
        for sock in people:
            sock.sendall(b"\x00\x00")
        for sock in people:
            drain(sock)
            sock.close()
        time.sleep(1.1)  # a second for each count
        must_close(b"\x00\x00")


def run(target):
    for port in (MQTTS, PLAIN, HTTPS, ADMIN):
        target.attack("garbage on port %d" % port, garbage(port))
    target.attack("TLS garbage", tls_garbage(target))
    target.attack("packets against the rules", broken_packets(target))
    floods(target)
    key = target.hub.json("device", "add", "last")["primaryKey"]
    more_than_a_second_holds(target)
    time.sleep(1.1)  # a second holds a hundred lines about refusals, and the attacks used it up
    must_close(connect_packet("last", key), connect_packet("last", key), b"")
    with dial(MQTTS) as sock:
        sock.sendall(connect_packet("last", key))
        drain(sock)
    log = target.log()
    for word in ("plain MQTT on a TLS port", "a second one on the same connection", "[MQTT-", "more refusals were not written"):
        assert word in log, word
    assert target.key not in log and "SharedAccessSignature" not in log


if __name__ == "__main__":
    main(run)
