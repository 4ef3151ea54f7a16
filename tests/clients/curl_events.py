"""curl as the reader: lines and server-sent events, followed while devices send, resumed, refused, and slower than anybody."""
import json
import os
import select
import signal
import subprocess
import time

from hub import sas, with_hub
from wire import Wire, publish_packet

URL = "https://localhost/nave/v1/events?"
WAIT_S = 90


class Curl:
    """A followed answer; lines come as they arrive."""

    def __init__(self, hub, query, token, *headers):
        command = ["curl", "-sSNv", "--fail", "--cacert", hub.ca(), "-H", "Authorization: " + token]
        for header in headers:
            command += ["-H", header]
        self.process = subprocess.Popen(command + [URL + query], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.buffer = b""

    def headers(self):
        """Wait for the status and the headers: from now on it follows."""
        lines = []
        while not lines or lines[-1]:
            line = self.process.stderr.readline().decode()  # curl tells them here at once, elsewhere in blocks
            assert line, "curl ended"
            if line.startswith("< "):
                lines.append(line[2:].rstrip())
        assert lines[0] == "HTTP/1.1 200 OK", lines
        return lines

    def line(self):
        """The next line that is not the blank one that says `still here`."""
        line = self.text()
        return line if line else self.text()

    def text(self):
        while b"\n" not in self.buffer:
            assert select.select([self.process.stdout], [], [], WAIT_S)[0], "nothing came"
            chunk = self.process.stdout.read1()
            assert chunk, "the answer ended"
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode()

    def sse(self):
        """(id, event) of the next server-sent event."""
        fields = {}
        while True:
            line = self.text()
            if line == "" and "data" in fields:
                return fields["id"], json.loads(fields["data"])
            if line and not line.startswith(":"):
                name, value = line.split(":", 1)
                fields[name] = value.lstrip(" ")

    def rest(self):
        """(exit code, the lines that are left)"""
        out, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, [line for line in (self.buffer + out).decode().splitlines() if line]

    def quit(self):
        self.process.kill()
        self.process.communicate()


def publish(wire, *bodies):
    for i, body in enumerate(bodies):
        wire.send(publish_packet("devices/d1/messages/events/a=b", body.encode(), i + 1))
        assert wire.acks() == [i + 1]


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    other = hub.json("device", "add", "other")["primaryKey"]
    token = hub.cli("sas", "--policy", "service").strip()
    with Wire("d1", key, keep_alive=0) as wire, Wire("other", other, keep_alive=0):
        lines(hub, token, wire)
        server_sent_events(hub, token, wire)
        refusals(hub, key)
        stopped_reader(hub, token, wire)
        end_of_the_hub(hub, token, wire)


def lines(hub, token, wire):
    publish(wire, "one", "two")
    follower = Curl(hub, "from=beginning&follow=true&device=d1&max=4", token)
    assert "Content-Type: application/x-ndjson" in follower.headers()
    assert [json.loads(follower.line())["body"] for _ in range(2)] == ["one", "two"]
    publish(wire, "three", "four")  # arrive while it waits
    code, rest = follower.rest()
    assert code == 0 and [json.loads(line)["body"] for line in rest] == ["three", "four"], rest
    code, rest = Curl(hub, "from=beginning&device=other", token).rest()
    assert code == 0 and rest == [], rest
    first = hub.all_events()[0]
    code, rest = Curl(hub, "partition=%d&from=%d" % (first["partition"], first["sequence"] + 2), token).rest()
    assert code == 0 and [json.loads(line)["body"] for line in rest] == ["three", "four"], rest


def server_sent_events(hub, token, wire):
    stream = "Accept: text/event-stream"
    watcher = Curl(hub, "from=beginning", token, stream)
    assert "Content-Type: text/event-stream" in watcher.headers()
    for body in ("one", "two", "three", "four"):
        last, event = watcher.sse()
        assert event["body"] == body and event["properties"] == {"a": "b"}, event
        assert last == "%d:%d" % (event["partition"], event["sequence"]), last
    publish(wire, "five")
    last, event = watcher.sse()
    assert event["body"] == "five"
    watcher.quit()
    publish(wire, "six", "seven")
    watcher = Curl(hub, "", token, stream, "Last-Event-ID: " + last)  # as a browser comes back
    watcher.headers()
    seen = [watcher.sse()[1]["body"]]
    while seen[-1] != "seven":
        seen.append(watcher.sse()[1]["body"])
    assert [body for body in seen if body != "five"] == ["six", "seven"], seen
    watcher.quit()


def refusals(hub, key):
    policies = hub.json("hub", "show")["policies"]
    bad = sas("localhost", policies["service"]["secondaryKey"], ttl_s=-60, policy="service")
    for name, token in (("no rights", sas("localhost", policies["device"]["primaryKey"], policy="device")),
                        ("expired", bad), ("a device", sas("localhost/devices/d1", key)), ("nothing", "x")):
        assert Curl(hub, "", token).rest() == (22, []), name
    good = sas("localhost", policies["service"]["secondaryKey"], policy="service")
    assert Curl(hub, "from=5", good).rest() == (22, []), "a sequence without a partition"
    assert Curl(hub, "partition=99", good).rest() == (22, [])


def resident_bytes(hub):
    with open("/proc/%d/status" % hub.process.pid, encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def stopped_reader(hub, token, wire):
    """Someone who asked for everything and reads nothing: writers go on, the hub's memory does not grow with it."""
    reader = Curl(hub, "from=now&follow=true&max=801", token)
    reader.headers()
    publish(wire, "first of many")
    assert json.loads(reader.line())["body"] == "first of many"
    reader.process.send_signal(signal.SIGSTOP)
    before = resident_bytes(hub)
    started = time.monotonic()
    for start in range(0, 800, 50):
        for i in range(50):
            wire.send(publish_packet("devices/d1/messages/events/", b"%d:" % (start + i) + b"z" * 60000, i + 1))
        acked = []
        while len(acked) < 50:
            acked += wire.acks()
        assert acked == list(range(1, 51))
    took = time.monotonic() - started
    grown = resident_bytes(hub) - before
    print("48 MB acknowledged in %.1f s beside a reader that stands still, %.1f MB more memory" % (took, grown / 1e6))
    assert grown < (24 << 20), grown
    reader.process.send_signal(signal.SIGCONT)
    code, rest = reader.rest()
    numbers = [int(json.loads(line)["body"].split(":")[0]) for line in rest]
    assert code == 0 and numbers == list(range(800)), (code, len(numbers))


def end_of_the_hub(hub, token, wire):
    """A stop ends a followed answer properly: curl sees the last chunk."""
    watcher = Curl(hub, "from=now&follow=true", token)
    watcher.headers()
    publish(wire, "for the watcher")
    line = watcher.line()
    assert json.loads(line)["body"] == "for the watcher", line
    assert hub.kill(signal.SIGTERM) == 0
    assert watcher.rest() == (0, [])


# AddressSanitizer keeps what is freed for a while: too little here to pass for memory that grows.
os.environ["ASAN_OPTIONS"] = "quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
with_hub(run, config="mqtt:\n  plain_port: 1883\n")
