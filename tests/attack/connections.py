"""Connections that cost the hub and give nothing: silent ones, half handshakes, one byte at a time, refused for ever."""
import resource

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

CAP = 400
LIMITS = "  unauthenticated_connections: %d" % CAP


class Crowd:
    """Many connections at once, opened again as soon as the hub closes them."""

    def __init__(self, port, hello=b""):
        self.port, self.hello, self.socks = port, hello, []

    def grow(self, count):
        for _ in range(count):
            try:
                sock = dial(self.port, 5)
                sock.sendall(self.hello)
                self.socks.append(sock)
            except OSError:
                pass

    def close(self):
        for sock in self.socks:
            sock.close()
        self.socks = []

    def open_ones(self):
        """Those that the hub has not closed."""
        held = 0
        for sock in self.socks:
            sock.setblocking(False)
            try:
                while sock.recv(65536):
                    pass
            except BlockingIOError:
                held += 1
            except OSError:
                pass
        return held


def client_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = careless().wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def crowd(target, port, hello, context):
    """Three times as many as the hub takes; the honest device gets in all the same, and all of it ends in time."""
    def assault():
        people = Crowd(port, hello)
        people.grow(3 * CAP)
        target.alive()
        held = target.metric("nave_net_connections_open")
        assert held <= CAP * 5 // 4 + 70, "%d connections of strangers are open, %d may be" % (held, CAP)
        target.among_strangers(target.publishes)
        target.among_strangers(target.publishes_over_tls, context)
        people.grow(CAP)
        target.among_strangers(target.publishes)
        deadline = time.monotonic() + PATIENCE_S
        while people.open_ones():
            assert time.monotonic() < deadline, "%d are still open" % people.open_ones()
            time.sleep(0.1)
        people.close()
    return assault


def trickle(port, data, tls, within):
    """One byte at a time, for ever: the hub must end it."""
    def assault():
        sock = dial_tls(port) if tls else dial(port)
        started = time.monotonic()
        with sock:
            sock.settimeout(0.02)
            for i in range(10 ** 6):
                assert time.monotonic() - started < within, "still open after %d s" % within
                try:
                    sock.send(data[i:i + 1] or b"x")
                    if sock.recv(4096) == b"":
                        return
                except (socket.timeout, ssl.SSLWantReadError):
                    pass
                except OSError:
                    return
    return assault


def refused_for_ever(target, request, within):
    """A connection whose every request is refused is still a stranger's: it may not stay."""
    def assault():
        with dial_tls(HTTPS) as sock:
            started = time.monotonic()
            while time.monotonic() - started < within:
                try:
                    sock.sendall(request)
                    if not sock.recv(65536):
                        return
                except OSError:
                    return
                time.sleep(0.3)
            raise AssertionError("still open after %d s of refusals" % within)
    return assault


def run(target):
    context = trusting(target.hub)
    for name, port, hello in (("silent, plain", PLAIN, b""), ("silent, TLS", MQTTS, b""),
                              ("half handshakes", MQTTS, client_hello()), ("half handshakes of HTTPS", HTTPS, client_hello()),
                              ("half a CONNECT", PLAIN, b"\x10\xff\x01\0\4MQTT")):
        target.attack("%d connections: %s" % (4 * CAP, name), crowd(target, port, hello, context), rounds=2,
                      growth=6 << 20, honest_during=False)
    connect = connect_packet("honest", target.key)
    head = b"GET /devices/x?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nX: "
    body = b"PUT /devices/x?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    for name, port, data, tls in (("a ClientHello", MQTTS, client_hello(), False), ("a CONNECT", PLAIN, connect[:-1], False),
                                  ("a CONNECT over TLS", MQTTS, connect[:-1], True), ("an HTTP head", HTTPS, head, True),
                                  ("an HTTP body", HTTPS, body, True), ("an admin head", ADMIN, head, False)):
        target.attack("one byte at a time: " + name, trickle(port, data, tls, PATIENCE_S), rounds=1)
    target.attack("refused for ever", refused_for_ever(
        target, b"GET /devices/x?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\n\r\n", PATIENCE_S), rounds=1)
    assert "refused" in target.log()


resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
main(run, LIMITS)
