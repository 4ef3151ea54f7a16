"""testing.clock: manual: what takes hours and days happens in milliseconds, and is over when the answer comes."""
import http.client
import json
import socket
import ssl
import subprocess
import time
import urllib.request

from hub import PROGRAM, sas, with_hub
from wire import Wire, packet, publish_packet, text

CONFIG = """
testing:
  clock: manual
mqtt:
  plain_port: 1883
log:
  segment_bytes: 1MiB
  retention_hours: 24
"""
CLOCK = "http://127.0.0.1:9600/testing/clock"
LONG_S = 30 * 86400  # tokens that outlive the test's days


def advance(text):
    """Returns the new time; fails when that took long in real time."""
    started = time.monotonic()
    request = urllib.request.Request(CLOCK, json.dumps({"advance": text}).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        now = json.load(answer)["now"]
    assert time.monotonic() - started < 29, "%s took %.1f s" % (text, time.monotonic() - started)
    return now


def now():
    with urllib.request.urlopen(CLOCK, timeout=10) as answer:
        return json.load(answer)["now"]


def ended(sock):
    """True when the hub has closed it already: nothing is waited for but the packet on its way."""
    sock.settimeout(30)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True
    except socket.timeout:
        return False


def run(hub):
    first = now()
    time.sleep(0.01)  # real time passes, the hub's does not
    assert now() == first
    assert advance("1d")[:10] > first[:10]
    key = hub.json("device", "add", "d1")["primaryKey"]
    expiry(key)
    silence(key)
    strangers(hub)
    methods(hub, key)
    messages(hub, key)
    retention(hub, key)
    with open(hub.log, encoding="utf-8") as log:
        text = log.read()
    assert "time stands still here" in text and "never in production" in text
    assert "token-expired-while-connected" in text and "keep-alive" in text, text


def expiry(key):
    """A token of an hour, given a day ago in the hub's time, is refused; one of 26 hours holds for the rest."""
    with Wire("d1", key) as wire:
        assert wire.code == 5, wire.code
    with Wire("d1", key, ttl_s=26 * 3600, keep_alive=0) as wire:
        assert wire.code == 0, wire.code
        for _ in range(4):  # half an hour of silence would be too much
            advance("29m")
            wire.send(b"\xc0\x00")
            assert wire.take(2) == b"\xd0\x00"
        advance("PT5M")
        assert ended(wire.sock)


def silence(key):
    with Wire("d1", key, keep_alive=60, ttl_s=LONG_S) as wire:
        for _ in range(5):
            advance("89s")
            wire.send(b"\xc0\x00")
            assert wire.take(2) == b"\xd0\x00"
        advance("1m31s")
        assert ended(wire.sock)


def connections(hub, count):
    """Wait until the hub has so many open, that of this question among them: the system accepts before the hub does."""
    deadline = time.monotonic() + 30
    while "\nnave_net_connections_open %d\n" % count not in hub.admin("/metrics")[1]:
        assert time.monotonic() < deadline, hub.admin("/metrics")[1]
        time.sleep(0.01)


def strangers(hub):
    connections(hub, 1)
    with socket.create_connection(("127.0.0.1", 1883), 10) as silent, socket.create_connection(("127.0.0.1", 443), 10) as tls:
        connections(hub, 3)
        advance("29s")
        silent.settimeout(0.05)
        try:
            raise AssertionError("ended early: %r" % silent.recv(1))
        except socket.timeout:
            pass
        advance("2s")
        assert ended(silent) and ended(tls)


def subscribe(wire, topic, qos=1):
    wire.send(packet(0x82, b"\0\1" + text(topic) + bytes([qos])))
    head = wire.take(5)
    assert head == b"\x90\x03\0\1" + bytes([qos]), head


def publish(wire):
    """The next PUBLISH: topic and body."""
    first, length = wire.take(2)
    assert first & 0xF0 == 0x30 and length < 128, (first, length)
    body = wire.take(length)
    end = 2 + int.from_bytes(body[:2], "big")
    return body[2:end].decode(), body[end + (2 if first & 6 else 0):]


def call_method(hub, *words):
    return subprocess.Popen([PROGRAM, "method", "d1", "reboot", "{}", *words, "--data", hub.data], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def methods(hub, key):
    """The device does not answer: the caller hears of it when the time is over, at once in real time."""
    with Wire("d1", key, keep_alive=0, ttl_s=LONG_S) as wire:
        subscribe(wire, "$iothub/methods/POST/#", 0)
        call = call_method(hub, "--timeout", "300")
        assert publish(wire)[0].startswith("$iothub/methods/POST/reboot/?$rid=")
        advance("299s")
        assert call.poll() is None, call.communicate()
        advance("2s")
        out, err = call.communicate(timeout=60)
        assert call.returncode == 1, (out, err)
        assert b"timed out" in err.lower() or b"timeout" in err.lower() or b"504" in err, err


class Rest:
    """HTTPS with a token that outlives the test; a connection for each request, since idle ones end as time passes."""

    def __init__(self, hub, resource, key, policy=None):
        self.token = sas(resource, key, LONG_S, policy)
        self.context = ssl.create_default_context(cafile=hub.ca())

    def ask(self, method, path):
        connection = http.client.HTTPSConnection("localhost", context=self.context, timeout=30)
        connection.request(method, path + "?api-version=2021-04-12", headers={"Authorization": self.token})
        answer = connection.getresponse()
        result = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return result


def messages(hub, key):
    """Locks and lives of cloud-to-device messages, by their exact seconds."""
    device = Rest(hub, "localhost/devices/d1", key)
    service = Rest(hub, "localhost", hub.json("hub", "show")["policies"]["service"]["primaryKey"], "service")
    inbox = "/devices/d1/messages/deviceBound"
    hub.cli("send", "d1", "short-lived", "--ttl", "3600", "--ack", "full", "--message-id", "m1")
    for count in ("1", "2"):  # a lock of a minute, not settled: the next receiver gets it
        status, headers, body = device.ask("GET", inbox)
        assert (status, body, headers["iothub-deliverycount"]) == (200, b"short-lived", count), (status, headers, body)
        token = headers["etag"].strip('"')
        advance("59s")
        assert device.ask("GET", inbox)[0] == 204
        advance("2s")
        assert device.ask("DELETE", inbox + "/" + token)[0] == 412, "its lock had expired"
    advance("57m")  # 59 min 2 s so far
    assert device.ask("GET", inbox)[0] == 200
    advance("1m")  # its life ends while it is locked
    assert device.ask("GET", inbox)[0] == 204
    status, deadline = 204, time.monotonic() + 30
    while status == 204 and time.monotonic() < deadline:  # it follows the answer above
        status, headers, body = service.ask("GET", "/messages/serviceBound/feedback")
    assert status == 200, status
    record, = json.loads(body)
    assert (record["originalMessageId"], record["statusCode"]) == ("m1", "Expired"), record


def stored(hub):
    """How many messages are stored now."""
    token = hub.cli("sas", "--policy", "service", "--ttl", str(LONG_S)).strip()
    url = "https://localhost/nave/v1/events?from=beginning&follow=false"
    done = subprocess.run(["curl", "-sS", "--fail", "--cacert", hub.ca(), "-H", "Authorization: " + token, url],
                          stdout=subprocess.PIPE, check=True)
    return done.stdout.count(b"\n")


def retention(hub, key):
    with Wire("d1", key, ttl_s=LONG_S) as wire:
        for i in range(20):
            wire.send(publish_packet("devices/d1/messages/events/", b"x" * 200000, i + 1))
        acked = []
        while len(acked) < 20:
            acked += wire.acks()
    before = stored(hub)
    advance("23h")
    assert stored(hub) == before >= 20
    advance("2h")
    deadline = time.monotonic() + 30
    while stored(hub) >= 10:
        assert time.monotonic() < deadline, "retention left %d of %d" % (stored(hub), before)


with_hub(run, config=CONFIG)
