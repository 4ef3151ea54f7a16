"""Readers of events that stop reading, come by the hundred, ask for nonsense, or follow what is deleted."""

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

TOPIC = "devices/writer/messages/events/"
BATCH = 32


class Reader:
    """GET /nave/v1/events by hand."""

    def __init__(self, service, query, headers=()):
        context, token = service
        self.sock = dial_tls(HTTPS, context)
        lines = ["GET /nave/v1/events?%s HTTP/1.1" % query, "Host: localhost", "Authorization: " + token, *headers]
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        self.data = b""

    def status(self):
        while b"\r\n" not in self.data:
            part = self.sock.recv(65536)
            assert part, "closed without an answer"
            self.data += part
        return int(self.data.split()[1])

    def until(self, word, seconds=PATIENCE_S):
        self.sock.settimeout(seconds)
        while word not in self.data:
            part = self.sock.recv(65536)
            if not part:
                return False
            self.data += part
        return True

    def close(self):
        self.sock.close()


def write(key, count, body=b"w" * 1000):
    """@return acknowledged messages a second, one connection, some in flight"""
    with Wire("writer", key) as wire:
        assert wire.code == 0
        started, sent, acked = time.monotonic(), 0, 0
        while acked < count:
            while sent < count and sent - acked < BATCH:
                wire.send(publish_packet(TOPIC, body, sent % 65535 + 1))
                sent += 1
            acked += len(wire.acks())
        wire.send(b"\xe0\x00")
    return count / (time.monotonic() - started)


def stalled(target, service, key, count):
    """Readers that never read, from the beginning, while writers run: bounded memory, the same pace."""
    def assault():
        alone = max(write(key, 3000) for _ in range(2))
        before = target.rss()
        readers = [Reader(service, "from=beginning&follow=true") for _ in range(count)]
        crowd = write(key, 3000)
        for _ in range(9):  # the machine may be busy with other things now and then
            if crowd < alone / 3:
                crowd = max(crowd, write(key, 3000))
        grown = target.rss() - before
        print("  %d readers that do not read: %.0f acknowledged a second, %.0f without them; %.1f MB more" % (
            count, crowd, alone, grown / 1e6))
        assert SANITIZED or grown < count * (2 << 20), grown
        assert SANITIZED or crowd > alone / 3, "writers are held up: %.0f a second, %.0f alone" % (crowd, alone)
        for reader in readers:
            reader.close()
    return assault


def hundreds(target, service, limit):
    """More readers than allowed: the rest is told so; all places come back."""
    def assault():
        readers = [Reader(service, "from=now&follow=true") for _ in range(limit + 20)]
        codes = [reader.status() for reader in readers]
        assert codes.count(200) == limit and codes.count(429) == 20, (codes.count(200), codes.count(429))
        assert any(reader.until(b"Too many readers") for reader in readers[-1:]), readers[-1].data
        for reader in readers:
            reader.close()
        target.quiet()
        one = Reader(service, "from=now&follow=false")
        assert one.status() == 200, "no place came back"
        one.close()
    return assault


def nonsense(target, service):
    def ask(query, headers=()):
        reader = Reader(service, query, ["Connection: close", *headers])
        status = reader.status()
        body = drain(reader.sock, 64 << 20)
        reader.close()
        return status, reader.data + body

    bad = ["from=-1", "from=18446744073709551616&partition=0", "from=1e3&partition=0", "from=", "from=5", "partition=-1", "partition=4",
           "partition=99999999999999999999", "max=0", "max=-1", "max=18446744073709551616", "device=", "device=" + "a" * 200,
           "device=%00", "device=a%20b", "follow=maybe", "from=%ff", "from=2024-13-45T99:99:99Z", "from=-2024-01-01T00:00:00Z",
           "from=99999-01-01T00:00:00Z", "from=2024-01-01T00:00:00+05:00", "from=" + "9" * 5000]
    good = ["from=18446744073709551615&partition=0", "from=9999-12-31T23:59:59.999999999Z", "from=0000-01-01T00:00:00Z",
            "from=1969-12-31T23:59:59Z", "from=2024-01-01T00:00:00.%s1Z" % ("0" * 30), "max=18446744073709551615&from=now",
            "device=nobody", "from=beginning&from=-1&max=3"]

    def assault():
        for query in bad:
            status, answer = ask(query + "&follow=false" if "follow" not in query else query)
            assert status == 400 and b"message" in answer, (query[:60], status, answer[-300:])
        for query in good:
            status, answer = ask(query + "&follow=false&max=3")
            assert status == 200, (query, status, answer[-300:])
        for event in ("x", "0:18446744073709551615", "9:1", "0:-1", ":", "0:0:0", "0" * 3000):
            status, _ = ask("follow=false", ["Last-Event-ID: " + event])
            assert status == 400, (event[:50], status)
        status, _ = ask("follow=false&from=now", ["Last-Event-ID: 0:18446744073709551614"])
        assert status == 200, status
    return assault


def deleted(target, service):
    """Who follows a device that is deleted hears nothing more, and is not harmed; made again, it is heard again."""
    hub = target.hub

    def assault():
        key = hub.json("device", "add", "gone")["primaryKey"]
        reader = Reader(service, "device=gone&from=now&follow=true")
        assert reader.status() == 200
        for word in (b"one", b"two"):
            with Wire("gone", key) as wire:
                assert wire.code == 0
                wire.send(publish_packet("devices/gone/messages/events/", word, 1))
                assert wire.acks() == [1]
                assert reader.until(word)
                hub.cli("device", "rm", "gone")
                try:
                    wire.receive()
                except ConnectionError:
                    pass
            if word == b"one":
                key = hub.json("device", "add", "gone")["primaryKey"]
        reader.close()
    return assault


def run(target):
    key = target.hub.json("device", "add", "writer")["primaryKey"]
    service = trusting(target.hub), target.hub.cli("sas", "--policy", "service").strip()
    write(key, 8000)
    target.attack("readers that do not read", stalled(target, service, key, 20), rounds=3, growth=8 << 20)
    target.attack("more readers than allowed", hundreds(target, service, 64), rounds=3)
    target.attack("nonsense about where to read", nonsense(target, service), rounds=2)
    target.attack("a device that is deleted", deleted(target, service), rounds=2)


main(run, "  readers: 64")
