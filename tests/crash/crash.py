"""The crash ring: publishers note each PUBACK, the hub is killed with SIGKILL at random moments and started again.

At the end everything is read back: nothing acknowledged is missing, sequences have no hole and no repetition, and each
device's messages first appear in the order in which it sent them.
"""
import os
import random
import sys
import threading
import time

from hub import Hub
from wire import Wire, publish_packet

DEVICES = 8
WINDOW = 64
CONFIG = "mqtt:\n  plain_port: 1883\nlog:\n  durability: %s\n  segment_bytes: 16777216\n"


class Publisher(threading.Thread):
    """Keeps WINDOW messages in flight; after a cut it sends again what was not acknowledged, in order, then goes on."""

    def __init__(self, name, key):
        super().__init__(daemon=True)
        self.name, self.key = name, key
        self.next_number = 0
        self.unacknowledged = []  # in order of sending
        self.acknowledged = 0
        self.acked = set()
        self.stopping = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    with Wire(self.name, self.key) as wire:
                        self.serve(wire)
                except OSError:
                    self.stopping.wait(0.02)  # the hub is down: try again soon
        except BaseException as err:  # a broken promise must not end in a silent thread
            self.error = err
            raise

    def packet(self, number, again=False):
        payload = b"%s:%d:" % (self.name.encode(), number) + b"x" * (number % 300)
        topic = "devices/%s/messages/events/n=%d" % (self.name, number)
        return publish_packet(topic, payload, number % 65535 + 1, again)

    def serve(self, wire):
        if wire.code == 3:
            return  # the hub is starting or stopping
        assert wire.code == 0, "CONNACK %d" % wire.code
        for number in self.unacknowledged:
            wire.send(self.packet(number, again=True))
        while not self.stopping.is_set() or self.unacknowledged:
            out = b""
            while len(self.unacknowledged) < WINDOW and not self.stopping.is_set():
                out += self.packet(self.next_number)
                self.unacknowledged.append(self.next_number)
                self.next_number += 1
            wire.send(out)
            for packet_id in wire.acks():
                number = self.unacknowledged.pop(0)
                assert packet_id == number % 65535 + 1, "PUBACK %d for message %d" % (packet_id, number)
                self.acked.add(number)
                self.acknowledged += 1


def verify(events, publishers):
    """Return how many acknowledged messages are missing; raise on anything else that is wrong."""
    next_sequence = {}
    seen = {p.name: {} for p in publishers}
    for event in events:
        partition, sequence = event["partition"], event["sequence"]
        assert sequence == next_sequence.setdefault(partition, 0), "partition %d: %d follows %d" % (
            partition, sequence, next_sequence[partition] - 1)
        next_sequence[partition] += 1
        name, number, rest = event["body"].split(":", 2)
        again = {"mqtt-dup": "true"}  # of a message sent again after a cut
        assert event["deviceId"] == name and event["properties"] in ({"n": number}, {"n": number, **again}), event
        assert rest == "x" * (int(number) % 300), "the body was damaged"
        seen[name].setdefault(int(number), len(seen[name]))
    lost = 0
    for p in publishers:
        first_seen = sorted(seen[p.name], key=seen[p.name].get)
        assert first_seen == sorted(first_seen), "the order of %s is broken" % p.name
        lost += len(p.acked - set(seen[p.name]))
    return lost


def main():
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    rng = random.Random(seed)
    print("seed %d" % seed, flush=True)
    hub = Hub(config=CONFIG % (sys.argv[2] if len(sys.argv) > 2 else "commit"))
    try:
        hub.start()
        publishers = []
        for i in range(DEVICES):
            publishers.append(Publisher("d%d" % i, hub.json("device", "add", "d%d" % i)["primaryKey"]))
        for p in publishers:
            p.start()
        for cycle in range(cycles):
            before = sum(p.acknowledged for p in publishers)
            deadline = time.monotonic() + 30
            while sum(p.acknowledged for p in publishers) < before + 100:  # every cycle acknowledges something
                assert time.monotonic() < deadline, "nothing is acknowledged any more"
                assert not any(p.error for p in publishers)
                time.sleep(0.005)
            time.sleep(rng.random() * 0.4)  # the random moment
            hub.kill()
            hub.start()
        for p in publishers:
            p.stopping.set()
        for p in publishers:
            p.join(30)
            assert not p.is_alive() and not p.error, "%s: %r" % (p.name, p.error)
        lost = verify(hub.each_event(), publishers)  # millions: never all in memory
        print("%d cycles, %d acknowledged, lost %d" % (cycles, sum(len(p.acked) for p in publishers), lost), flush=True)
        return 1 if lost else 0
    except BaseException:
        with open(hub.log, encoding="utf-8", errors="replace") as file:
            sys.stderr.write("--- the log of the hub\n" + file.read()[-8000:])
        raise
    finally:
        hub.stop()


sys.exit(main())
