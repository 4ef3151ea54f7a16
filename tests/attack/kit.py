"""What every attack needs: a hub, an honest device that must not notice anything, and a look at what the hub holds."""
import collections
import os
import re
import socket
import ssl
import struct
import threading
import time

from hub import sas, with_hub
from wire import Wire, packet, publish_packet, text

SANITIZED = os.environ.get("NAVE_SANITIZED", "") not in ("", "0", "OFF")  # its memory tells nothing
# The machine may be slow, and busy with other things. Who is held up by an attack is so each time, or for as long as it lasts.
FAST_S = 5 if SANITIZED else 2
PROMPT_S = 15
PATIENCE_S = 60  # until what must happen has happened, however slow the machine
MQTTS, HTTPS, PLAIN, ADMIN = 8883, 443, 1883, 9600
CONFIG = """
mqtt:
  plain_port: 1883
limits:
  connect_deadline_s: 5
  http_request_s: 3
  http_idle_s: 5
%s
"""
OF_THE_LOG = re.compile(r"/(\d{20}\.seg|(spare|pack|writer|janitor)\.tmp)( \(deleted\))?$")
GAUGES = ("nave_net_connections_open", "nave_mqtt_sessions_open", "nave_reader_open")


def trusting(hub):
    return ssl.create_default_context(cafile=hub.ca())


def careless():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def dial(port, timeout=PATIENCE_S):
    return socket.create_connection(("127.0.0.1", port), timeout)


def dial_tls(port, context=None, timeout=PATIENCE_S):
    return (context or careless()).wrap_socket(dial(port, timeout), server_hostname="localhost")


def drain(sock, limit=1 << 20, timeout=PATIENCE_S):
    """All that comes until the hub closes; raises TimeoutError when it does not."""
    data = bytearray()
    deadline = time.monotonic() + timeout
    try:
        while len(data) < limit:
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            part = sock.recv(65536)
            if not part:
                break
            data += part
    except (ConnectionError, ssl.SSLError):
        pass
    return bytes(data)


class Rest:
    """One connection to the REST API as the hub's owner, which asks again and again."""

    def __init__(self, hub, timeout=PATIENCE_S):
        self.token = hub.cli("sas", "--policy", "iothubowner").strip()
        self.sock = dial_tls(HTTPS, trusting(hub), timeout)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.sock.close()

    def ask(self, method, path, body="", headers=""):
        """@return (status, body)"""
        self.sock.sendall(("%s %s?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n%sContent-Length: %d\r\n\r\n%s"
                           % (method, path, self.token, headers, len(body), body)).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.sock.recv(65536)
            assert part, "the hub hung up"
            answer += part
        head, rest = answer.split(b"\r\n\r\n", 1)
        length = int((re.search(rb"(?i)\r\ncontent-length: *(\d+)", head) or [0, 0])[1])
        while len(rest) < length:
            part = self.sock.recv(65536)
            assert part, "the hub hung up"
            rest += part
        return int(head.split()[1]), rest


class Target:
    """A hub under attack."""

    def __init__(self, hub):
        self.hub = hub
        self.pid = hub.process.pid
        self.key = hub.json("device", "add", "honest")["primaryKey"]
        self.number = 0

    def metric(self, name):
        deadline = time.monotonic() + PATIENCE_S
        status, answer = self.hub.admin("/metrics")
        while status != 200:  # among strangers this one is a stranger, too, whose place a newer one may get
            self.alive()
            assert time.monotonic() < deadline, status
            status, answer = self.hub.admin("/metrics")
        return int(re.search("^%s ([0-9-]+)$" % name, answer, re.M).group(1))

    def rss(self):
        with open("/proc/%d/status" % self.pid) as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) << 10

    def peak(self):
        with open("/proc/%d/status" % self.pid) as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) << 10

    def files(self):
        """Open descriptors by what they are: "socket", "anon_inode:[eventfd]", a path. How many of its own the log has
        open moves with what it holds: they are not counted."""
        held = collections.Counter()
        for name in os.listdir("/proc/%d/fd" % self.pid):
            try:
                kind = os.readlink("/proc/%d/fd/%s" % (self.pid, name))
            except OSError:
                continue  # closed meanwhile
            if not OF_THE_LOG.search(kind):
                held[re.sub(r":\[\d+\]$", "", kind)] += 1
        return held

    def reach_every_loop(self):
        """A loop opens a descriptor with its first connection, for the day when they run out."""
        for tls in [dial_tls(MQTTS) for _ in range(2 * os.cpu_count())]:
            tls.close()

    def files_return(self, before, seconds=PATIENCE_S):
        deadline = time.monotonic() + seconds
        while True:
            more = self.files() - before
            if not more:
                return
            assert time.monotonic() < deadline, "descriptors that were not there before: %s" % dict(more)
            time.sleep(0.05)

    def alive(self):
        assert self.hub.process.poll() is None, "the hub died: %s" % self.hub.process.returncode

    def among_strangers(self, publish, *arguments):
        """Until it has said who it is the honest device is a stranger too, and may have to come again, as clients do."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                return publish(*arguments)
            except (ConnectionError, ssl.SSLError):
                self.alive()
        return publish(*arguments)

    def publishes(self, within=None, tls=None):
        """The honest device connects anew, publishes and gets its PUBACK in time."""
        self.alive()
        self.number = self.number % 65535 + 1
        started = time.monotonic()
        with Wire("honest", self.key, port=MQTTS if tls else PLAIN, tls=tls) as wire:
            assert wire.code == 0, "the honest device got CONNACK %d" % wire.code
            wire.send(publish_packet("devices/honest/messages/events/", b"honest", self.number))
            assert wire.acks() == [self.number]
            wire.send(b"\xe0\x00")
        took = time.monotonic() - started
        assert took < (within or PROMPT_S), "the honest device waited %.2f s" % took
        return took

    def publishes_over_tls(self, context):
        return self.publishes(None, context)

    def quiet(self, seconds=PATIENCE_S):
        """Wait until the hub has let go of everything: the only connection is the one that asks."""
        deadline = time.monotonic() + seconds
        while True:
            held = [self.metric(name) for name in GAUGES]
            if held[0] <= 1 and held[1:] == [0, 0]:
                return
            assert time.monotonic() < deadline, "not let go: %s" % dict(zip(GAUGES, held))
            time.sleep(0.05)

    def shrinks(self, below, seconds=10):
        """Less is resident in the end. What was freed goes back to the system when some hundred connections of a loop have
        ended and it is quiet: what an attack freed may have done so after one round and not after another."""
        deadline = time.monotonic() + seconds
        while self.rss() >= below and time.monotonic() < deadline:
            for _ in range(300 * os.cpu_count()):
                dial(PLAIN).close()
            quiet = time.monotonic() + 1
            while self.rss() >= below and time.monotonic() < quiet:
                time.sleep(0.05)
        return self.rss() < below

    def log(self):
        with open(self.hub.log, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    def attack(self, name, assault, rounds=3, growth=4 << 20, honest_during=True):
        """Run assault() several times. Memory may grow in the first round, not in the later ones. What is lost is lost each
        time; what came late, or had never come so much at once, has not come again after another go."""
        for _ in range(3):
            sizes = self.run_rounds(name, assault, rounds, honest_during)
            if SANITIZED or rounds == 1 or self.shrinks(sizes[1] + growth):
                return
        raise AssertionError("%s: memory grows with each round: %s" % (name, sizes))

    def run_rounds(self, name, assault, rounds, honest_during):
        """@return what was resident before, after each round, and in the end"""
        self.reach_every_loop()
        self.quiet()
        self.publishes()
        files, sizes = self.files(), [self.rss()]
        stop, failures, waits = threading.Event(), [], []

        def honest():
            while not stop.is_set():
                try:
                    waits.append(self.publishes())
                except Exception as error:  # told to the main thread
                    failures.append(error)
                    return
                stop.wait(0.1)

        witness = threading.Thread(target=honest, daemon=True)
        if honest_during:
            witness.start()
        started = time.monotonic()
        for _ in range(rounds):
            assault()
            sizes.append(self.rss())
        stop.set()
        if honest_during:
            witness.join(2 * PATIENCE_S)
        assert not failures, "%s: during the attack %r" % (name, failures[0])
        assert len(waits) < 3 or min(waits) < FAST_S, "%s: the honest device waited each time: %s" % (name, waits)
        self.quiet()
        self.publishes()
        self.quiet()
        self.files_return(files)
        sizes.append(self.rss())
        print("%-44s %6.2f s  resident MB %s" % (name, time.monotonic() - started,
                                                 " ".join("%.1f" % (size / 1e6) for size in sizes)), flush=True)
        return sizes


def connect_packet(device, key, **options):
    user = options.get("user", "localhost/%s/?api-version=2021-04-12" % device)
    password = options.get("password") or sas("localhost/devices/%s" % device, key)
    flags = 0xC0 | (0 if options.get("persistent") else 2)
    will = options.get("will")
    body = text("MQTT")
    tail = text(device)
    if will:
        flags |= 4 | options.get("will_flags", 0)
        topic = will[0] if isinstance(will[0], bytes) else will[0].encode()
        tail += struct.pack(">H", len(topic)) + topic + struct.pack(">H", len(will[1])) + will[1]
    body += bytes([options.get("level", 4), flags]) + struct.pack(">H", options.get("keepalive", 60)) + tail
    return packet(0x10, body + text(user) + text(password))


def clocked(call):
    started = time.monotonic()
    call()
    return time.monotonic() - started


def main(run, limits="", more=""):
    with_hub(lambda hub: run(Target(hub)), config=CONFIG % limits + more)
