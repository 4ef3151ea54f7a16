"""Broken bytes on the AMQP ports: garbage, headers, SASL, frames and values against the rules, in every state."""
import random

from amqp import *  # pylint: disable=unused-wildcard-import,wildcard-import
from amqp_kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

EVENTS = "/devices/evil/messages/events"
NESTED = b"\xd0\0\0\0\x09\0\0\0\1" * 40 + b"\x45"


def garbage(port):
    def assault():
        chance = random.Random(1)
        for size in (1, 2, 7, 8, 9, 64, 1000, 20000, 70000):
            for first in (b"", b"AMQP", b"AMQP\0\1\0\0", b"AMQP\3\1\0\0", b"\x16\3\1", b"\x10\x0c\0\4MQTT", b"GET / HTTP/1.1\r\n"):
                with dial(port) as sock:
                    try:
                        sock.sendall(first + bytes(chance.getrandbits(8) for _ in range(size)))
                        sock.shutdown(1)
                    except OSError:
                        pass
                    drain(sock)
    return assault


def headers():
    """Which protocol was expected is told by its header; then the hub closes."""
    def assault():
        for wrong in (b"AMQP\0\0\x09\1", b"AMQP\1\1\0\x0a", b"AMQP\2\1\0\0", b"AMQP\0\2\0\0", b"AMQP\3\0\0\0", b"AMQQ\0\1\0\0", b"GET / HTTP/1.1\r\n\r\n"):
            with Peer() as peer:
                say(peer, wrong)
                assert drain(peer.sock) in (SASL, b""), wrong
        with Peer() as peer:  # SASL, and again where AMQP is due
            assert peer.sasl(frame(perf(0x41, symbol("ANONYMOUS")), kind=1)) == 0
            say(peer, SASL)
            assert drain(peer.sock) == amqp.AMQP
    return assault


def sasl():
    init = perf(0x41, symbol("PLAIN"), binary("\0a@sas.localhost\0" + "x" * 100))
    cut = {  # the connection ends, without an outcome that says yes
        "too large a frame": struct.pack(">IBBH", 8193, 2, 1, 0) + b"x" * 8185,
        "4 GB announced": struct.pack(">IBBH", 0xFFFFFFFF, 2, 1, 0),
        "a frame of 7 bytes": struct.pack(">IBBH", 7, 2, 1, 0),
        "a data offset of 1": struct.pack(">IBBH", 8 + len(init), 1, 1, 0) + init,
        "a data offset beyond the frame": struct.pack(">IBBH", 8 + len(init), 255, 1, 0) + init,
        "an AMQP frame": frame(init),
        "OPEN": opening(),
        "mechanisms from the client": frame(perf(0x40, symbol("PLAIN")), kind=1),
        "an outcome from the client": frame(perf(0x44, ubyte(0)), kind=1),
        "a response nobody asked for": frame(perf(0x43, binary(b"x")), kind=1),
        "no list": frame(described(0x41, symbol("PLAIN")), kind=1),
        "no mechanism": frame(perf(0x41), kind=1),
        "a mechanism that is a number": frame(perf(0x41, uint(7)), kind=1),
        "bytes behind it": frame(init + b"\x40", kind=1),
        "an empty frame": frame(b"", kind=1),
        "an array of 4 billion nulls": frame(perf(0x41, b"\xf0\0\0\0\5\xff\xff\xff\xff\x40"), kind=1),
    }
    refused = {  # outcome 1
        "an unknown mechanism": perf(0x41, symbol("SCRAM-SHA-256"), binary(b"n,,")),
        "a mechanism of 8,000 letters": perf(0x41, symbol("P" * 8000)),
        "no response": perf(0x41, symbol("PLAIN")),
        "an empty response": perf(0x41, symbol("PLAIN"), binary(b"")),
        "without zeros": perf(0x41, symbol("PLAIN"), binary(b"abc")),
        "zeros alone": perf(0x41, symbol("PLAIN"), binary(b"\0" * 4000)),
        "no name": perf(0x41, symbol("PLAIN"), binary(b"\0\0pw")),
        "a name of 7,000 letters": perf(0x41, symbol("PLAIN"), binary("\0%s@sas.localhost\0x" % ("a" * 7000))),
        "not UTF-8": perf(0x41, symbol("PLAIN"), binary(b"\0\xff\xfe@sas.localhost\0x")),
        "a wrong password": init,
        "escapes in the name": perf(0x41, symbol("PLAIN"), binary("\0%zz%00@sas.localhost\0x")),
        "EXTERNAL without a certificate": perf(0x41, symbol("EXTERNAL"), binary(b"")),
    }

    def assault():
        for name, data_ in cut.items():
            with Peer() as peer:
                peer.send(SASL)
                assert peer.take(8) == SASL and peer.receive().code == 0x40
                say(peer, data_)
                try:
                    rest = drain(peer.sock, timeout=1 if name == "an empty frame" else PATIENCE_S)
                except TimeoutError:
                    assert name == "an empty frame", name + " does not end the connection"
                    continue
                assert b"\x53\x44" not in rest, (name, rest)
        for name, body in refused.items():
            with Peer() as peer:
                try:
                    code = peer.sasl(frame(body, kind=1))
                except Closed:
                    assert name in ("a mechanism of 8,000 letters", "EXTERNAL without a certificate"), name
                    continue
                if name == "EXTERNAL without a certificate" and code == 0:
                    continue  # it may come in; it opens nothing
                assert code == 1, (name, code)
                assert drain(peer.sock) == b"", name
    return assault


def broken_frames(key):
    """On an open connection: (bytes, condition that ends it). None: what nobody reads harms nobody."""
    framing, decode_error, not_allowed = "amqp:connection:framing-error", "amqp:decode-error", "amqp:not-allowed"
    cases = {
        "a frame of 7 bytes": (struct.pack(">IBBH", 7, 2, 0, 0), framing),
        "a frame of 0 bytes": (struct.pack(">IBBH", 0, 2, 0, 0), framing),
        "4 GB announced": (struct.pack(">IBBH", 0xFFFFFFFF, 2, 0, 0), framing),
        "one byte too large": (struct.pack(">IBBH", 65537, 2, 0, 0), framing),
        "data offset 1": (struct.pack(">IBBH", 8, 1, 0, 0), framing),
        "data offset beyond the frame": (struct.pack(">IBBH", 8, 3, 0, 0), framing),
        "frame type 2": (frame(b"", kind=2), framing),
        "a SASL frame": (frame(perf(0x41, symbol("PLAIN")), kind=1), framing),
        "garbage in a frame": (frame(b"\xff" * 100), decode_error),
        "a list that is longer than its frame": (frame(b"\0\x53\x11\xd0\0\0\xff\xff\0\0\0\1\x40"), decode_error),
        "a list of 4 billion": (frame(b"\0\x53\x11\xd0\0\0\0\4\xff\xff\xff\xff"), decode_error),
        "an array of 4 billion nulls": (frame(perf(BEGIN, NULL, uint(0), uint(1), uint(1), NULL, b"\xf0\0\0\0\5\xff\xff\xff\xff\x40")), None),
        "no performative": (frame(uint(7)), decode_error),
        "an unknown performative": (frame(perf(0x19)), decode_error),
        "a performative of 8 bytes' name": (frame(b"\0" + ulong(1 << 63) + EMPTY), decode_error),
        "described by what is described": (frame(b"\0" * 5000 + b"\x53\x10" + b"\x45" * 5000), decode_error),
        "lists in lists": (frame(b"\0\x53\x11" + NESTED), None),
        "a string that is not UTF-8": (frame(perf(ATTACH, b"\xa1\2\xff\xfe", uint(0), FALSE)), decode_error),
        "a missing field": (frame(perf(BEGIN)), decode_error),
        "a field of the wrong type": (frame(perf(BEGIN, NULL, string("1"), uint(1), uint(1))), decode_error),
        "a field too many": (frame(perf(CLOSE, NULL, NULL, NULL)), None),
        "OPEN twice": (opening(), not_allowed),
        "BEGIN twice": (begin() + begin(), not_allowed),
        "BEGIN above channel-max": (begin(60000), framing),
        "BEGIN that answers": (frame(perf(BEGIN, ushort(3), uint(0), uint(1), uint(1))), not_allowed),
        "ATTACH without BEGIN": (attach("x", 0, EVENTS, True, channel=7), not_allowed),
        "TRANSFER without BEGIN": (transfer(0, 0, data(b"x"), channel=7), not_allowed),
        "a huge handle": (begin() + attach("x", 0xFFFFFFFF, EVENTS, True), framing),
        "bytes behind ATTACH": (begin() + frame(perf(ATTACH, string("x"), uint(0), FALSE) + b"xx"), decode_error),
        "a source that is none": (begin() + frame(perf(ATTACH, string("x"), uint(0), TRUE, NULL, NULL, b"\0\x53\x28\xa1\1x")), decode_error),
        "an ERROR": (frame(perf(ERROR, symbol("x"))), not_allowed),
        "SASL's init": (frame(perf(0x41, symbol("PLAIN"))), not_allowed),
        "a section of a message": (frame(data(b"x")), None),
        "MQTT": (b"\x30\x02\0\0" * 100, framing),
        "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", framing),
    }

    def assault():
        for name, (bytes_, condition) in cases.items():
            for known in (False, True):
                with Peer() as peer:
                    peer = peer.device("evil", key) if known else peer.anonymous()
                    say(peer, bytes_, b"" if condition else frame(perf(CLOSE)))
                    try:
                        how, got, why = ending(peer)
                    except TimeoutError as error:
                        raise AssertionError(name + " does not end the connection") from error
                    assert how == "close" and (got == condition and why or condition is None), (name, known, how, got, why)
    return assault


def broken_opens():
    """Before and in OPEN."""
    cases = {
        "BEGIN first": (begin(), "amqp:not-allowed"),
        "CLOSE first": (frame(perf(CLOSE)), None),
        "a container id of 60 KB": (opening("c" * 60000), "amqp:connection:framing-error"),
        "max-frame-size 511": (opening(max_frame=511), "amqp:invalid-field"),
        "an idle-time-out of 1 ms": (opening(idle_ms=1), "amqp:not-allowed"),
        "no container id": (frame(perf(OPEN, NULL)), "amqp:decode-error"),
        "a frame that would be allowed later": (struct.pack(">IBBH", 65000, 2, 0, 0), "amqp:connection:framing-error"),
    }
    odd = {
        "a host of 10 KB": opening(host="h" * 10000),
        "a host with line feeds": opening(host="a\r\nb\x1b[2J"),
        "properties that are a number": opening(more=(*[NULL] * 4, uint(3))),
        "an empty container id": opening(""),
        "locales without end": opening(more=(b"\xf0" + struct.pack(">II", 9000, 4497) + b"\xa3" + b"\1l" * 4497 + b"\0",)),
    }

    def assault():
        for name, (bytes_, condition) in cases.items():
            with Peer() as peer:
                assert peer.sasl(frame(perf(0x41, symbol("ANONYMOUS")), kind=1)) == 0
                say(peer, amqp.AMQP, bytes_)
                assert peer.take(8) == amqp.AMQP
                how, got, _ = ending(peer)
                assert how == "close" and got == condition or condition is None, (name, how, got)
        for name, bytes_ in odd.items():
            with Peer() as peer:
                assert peer.sasl(frame(perf(0x41, symbol("ANONYMOUS")), kind=1)) == 0
                say(peer, amqp.AMQP, bytes_, frame(perf(CLOSE)))
                assert peer.take(8) == amqp.AMQP
                assert ending(peer)[0] == "close", name
    return assault


def broken_sessions(key):
    """What ends the session, not the connection: (bytes, condition of END)."""
    link = attach("x", 0, EVENTS, True)
    cases = {
        "a handle twice": (link + attach("y", 0, EVENTS, True), "amqp:session:handle-in-use"),
        "a name of 5,000 letters": (attach("n" * 5000, 0, EVENTS, True), "amqp:invalid-field"),
        "an unknown mode": (attach("x", 0, EVENTS, True, options={"snd": 9}), "amqp:invalid-field"),
        "TRANSFER on no link": (transfer(5, 0, data(b"x")), "amqp:session:unattached-handle"),
        "a disposition backwards": (disposition(9, 3), "amqp:invalid-field"),
        "a delivery id again": (link + transfer(0, 5, data(b"x")) + transfer(0, 5, data(b"x")), "amqp:invalid-field"),
        "a delivery inside of a delivery": (link + transfer(0, 5, data(b"x"), more=True) + transfer(0, 6, data(b"x")), "amqp:not-allowed"),
    }

    def assault():
        with Peer() as peer:
            peer.device("evil", key)
            for name, (bytes_, condition) in cases.items():
                peer.send(begin(), bytes_)
                while True:
                    got = peer.receive()
                    assert got.code not in (CLOSE, DETACH), (name, got.error())
                    if got.code == END:
                        break
                assert got.error()[0] == condition and got.error()[1], (name, got.error())
                peer.send(frame(perf(END)))
            for code in (FLOW, DISPOSITION, DETACH, END):  # for what has ended: nobody is harmed
                peer.send({FLOW: flow(0, 5), DISPOSITION: disposition(0, 5), DETACH: frame(perf(DETACH, uint(0), TRUE)),
                           END: frame(perf(END))}[code])
            peer.sender(EVENTS)
    return assault


def broken_links(key):
    """What ends the link, or rejects the message: (bytes, condition). The session goes on."""
    def large(size):
        parts, at = [transfer(0, 0, b"", more=True)], 0
        while at < size:
            parts.append(part(0, b"\0" * 60000, True))
            at += 60000
        return b"".join(parts)

    detached = {
        "no delivery id": (frame(perf(TRANSFER, uint(0), NULL, binary(b"t")) + data(b"x")), "amqp:invalid-field"),
        "a tag of 33 bytes": (transfer(0, 0, data(b"x"), tag=b"t" * 33), "amqp:invalid-field"),
        "a delivery resumed": (frame(perf(TRANSFER, uint(0), uint(0), binary(b"t"), uint(0), FALSE, FALSE, NULL, NULL, TRUE) + data(b"x")), "amqp:illegal-state"),
        "a message without end": (large(1100000), "amqp:link:message-size-exceeded"),
    }
    rejected = {
        "garbage": b"\xff" * 50,
        "no section": uint(3),
        "sections out of order": data(b"x") + properties({"a": "b"}),
        "properties that are a list": described(0x74, many(0xD0, [string("a")])) + data(b"x"),
        "a map of 4 billion": described(0x74, b"\xd1\0\0\0\4\xff\xff\xff\xfe") + data(b"x"),
        "an array of 4 billion nulls": described(0x77, b"\xf0\0\0\0\5\xff\xff\xff\xff\x40"),
        "an array of lists": described(0x74, mapping([(string("a"), b"\xf0" + struct.pack(">II", 5000, 4995) + b"\x45")])) + data(b"x"),
        "deeper than anybody looks": described(0x77, NESTED),
        "described without end": described(0x77, b"\0" * 20000 + b"\x53\1" + NULL * 20000),
        "a body cut off": described(0x75, b"\xb0\0\0\xff\xffabc"),
        "100,000 properties": described(0x74, mapping([(string("%x" % i), NULL) for i in range(9000)])) + data(b"x"),
        "maps in maps as a property": described(0x74, mapping([(string("a"), mapping([(string("b"), mapping([]))]))])) + data(b"x"),
    }
    either = ("100,000 properties", "maps in maps as a property", "an array of lists")

    def assault():
        with Peer() as peer:
            peer.device("evil", key)
            for number, (name, (bytes_, condition)) in enumerate(detached.items()):
                peer.begin(number)
                peer.send(attach(name, 0, EVENTS, True, channel=number), bytes_ if number == 0 else rechannel(bytes_, number))
                while True:
                    got = peer.receive()
                    assert got.code not in (CLOSE, END), (name, got.error())
                    if got.code == DETACH:
                        break
                assert got.error()[0] == condition and got.error()[1], (name, got.error())
        with Peer() as peer:
            peer.device("evil", key)
            peer.sender(EVENTS)
            for number, (name, message) in enumerate(rejected.items()):
                peer.send(transfer(0, number, message))
                state = peer.until(DISPOSITION).fields[4]
                if name in either and state.code == ACCEPTED:
                    continue
                assert state.code == REJECTED and state.value[0].value[1], (name, state)
    return assault


def rechannel(bytes_, channel):
    """The same frames on another channel."""
    out, at = [], 0
    while at < len(bytes_):
        size = struct.unpack_from(">I", bytes_, at)[0]
        out.append(bytes_[at:at + 6] + struct.pack(">H", channel) + bytes_[at + 8:at + size])
        at += size
    return b"".join(out)


def wrong_identity(key):
    """A device that is authenticated and asks for what is another's."""
    addresses = ("/devices/honest/messages/events", "/devices/honest/twin", "/devices/honest/methods/devicebound", "/messages/devicebound",
                 "/devices/honest/modules/m/messages/events", "/devices/EVIL/messages/events", "/devices/evil%00/messages/events",
                 "/devices/evil/../honest/messages/events", "amqps://a:b@localhost/devices/honest/messages/events", "/devices//messages/events",
                 "/devices/" + "a" * 5000 + "/messages/events", "", "\x1b[2J\r\nforged", "$management", "/messages/events", "iothub-ehub/ConsumerGroups/$Default/Partitions/0")

    def assault():
        with Peer() as peer:
            peer.device("evil", key)
            peer.begin()
            for number, address in enumerate(addresses):
                for sends in (True, False):
                    try:
                        peer.link("l%d%d" % (number, sends), 2 * number + sends, address, sends)
                    except Closed as error:
                        assert str(error).startswith(("amqp:", "com.microsoft:")), error
                        continue
                    raise AssertionError("%r is open to a stranger (sends: %s)" % (address, sends))
            peer.send(frame(perf(ATTACH, string("c"), uint(900), FALSE, NULL, NULL, perf(SOURCE), perf(0x30))))  # transactions
            assert peer.until(ATTACH).fields[6] is None and peer.until(DETACH).error()[0] == "amqp:not-implemented"
    return assault


def wrong_states(key):
    """END, CLOSE and DETACH in the middle of everything; all at once in one segment."""
    def assault():
        link, messages = attach("x", 0, EVENTS, True), b"".join(transfer(0, i, data(b"m" * 500)) for i in range(50))
        tails = (frame(perf(DETACH, uint(0), TRUE)), frame(perf(END)), frame(perf(CLOSE)), frame(perf(END)) + frame(perf(CLOSE)),
                 frame(perf(DETACH, uint(0), TRUE)) * 3 + frame(perf(END)) * 3 + frame(perf(CLOSE)) * 3, b"")
        for tail in tails:
            for middle in (link + messages, link, link + transfer(0, 0, b"\0\x53", more=True), b""):
                with Peer() as peer:
                    peer.device("evil", key)
                    say(peer, begin() + middle + tail)
                    if b"\x53\x18" in tail:
                        assert ending(peer)[:2] == ("close", None)
        with Peer() as peer:  # everything from the first byte without waiting for anything
            token = sas("localhost/devices/evil", key)
            peer.send(SASL, plain("evil@sas.localhost", token), amqp.AMQP, opening(), begin(), link, messages, frame(perf(CLOSE)))
            assert peer.take(8) == SASL and peer.receive().code == 0x40 and peer.receive().fields[0] == 0 and peer.take(8) == amqp.AMQP
            assert ending(peer)[:2] == ("close", None)
    return assault


def run(target):
    key = target.hub.json("device", "add", "evil")["primaryKey"]
    for port in (AMQPS, AMQP):
        target.attack("garbage on port %d" % port, garbage(port), rounds=2)
    target.attack("protocol headers", headers(), rounds=2)
    target.attack("SASL against the rules", sasl(), rounds=1)
    target.attack("OPEN against the rules", broken_opens(), rounds=2)
    target.attack("frames against the rules", broken_frames(key), rounds=2)
    target.attack("sessions against the rules", broken_sessions(key), rounds=2)
    target.attack("links and messages against the rules", broken_links(key), rounds=2)
    target.attack("addresses of others", wrong_identity(key), rounds=2)
    target.attack("ends in the middle", wrong_states(key), rounds=2)
    for again in ((broken_sessions(key), broken_links(key), wrong_identity(key)), (broken_frames(key),)):
        time.sleep(1.1)  # a second holds a hundred lines about refusals, and the attacks used it up
        for one in again:
            one()
    log = target.log()
    for word in ("framing-error", "decode-error", "handle-in-use", "message-size-exceeded", "unauthorized-access", "decoded"):
        assert word in log, word
    assert target.key not in log and key not in log and "SharedAccessSignature" not in log and "\x1b" not in log


main_amqp(run)
