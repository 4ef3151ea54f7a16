"""The crash ring: publishers note each PUBACK or accepted disposition, the hub is killed with SIGKILL at random moments
and started again.

At the end everything is read back: nothing acknowledged is missing, sequences have no hole and no repetition, and each
device's messages first appear in the order in which it sent them. Readers over AMQP follow all the while and go on from
the last offset after each kill: they saw exactly what is stored, each event once.
"""
import hashlib
import os
import random
import sys
import threading
import time

import amqp
from hub import Hub
from wire import Wire, publish_packet

DEVICES = 8  # half of them speak AMQP
PARTITIONS = 4
WINDOW = 64
CONFIG = "mqtt:\n  plain_port: 1883\namqp:\n  plain_port: 5672\nlog:\n  durability: %s\n  segment_bytes: 16777216\n"


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
                    self.connect()
                except OSError:
                    self.stopping.wait(0.02)  # the hub is down: try again soon
        except BaseException as err:  # a broken promise must not end in a silent thread
            self.error = err
            raise

    def connect(self):
        with Wire(self.name, self.key) as wire:
            self.serve(wire)

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


class AmqpPublisher(Publisher):
    """The same over AMQP: what is accepted is noted."""

    def connect(self):
        with amqp.Peer().device(self.name, self.key) as peer:
            assert peer.sender("/devices/%s/messages/events" % self.name) >= WINDOW
            self.serve(peer)

    def message(self, number):
        body = b"%s:%d:" % (self.name.encode(), number) + b"x" * (number % 300)
        return amqp.transfer(0, number, amqp.properties({"n": str(number)}) + amqp.data(body))

    def serve(self, wire):
        wire.send(*[self.message(number) for number in self.unacknowledged])
        while not self.stopping.is_set() or self.unacknowledged:
            out = []
            while len(self.unacknowledged) < WINDOW and not self.stopping.is_set():
                out.append(self.message(self.next_number))
                self.unacknowledged.append(self.next_number)
                self.next_number += 1
            wire.send(*out)
            self.settled(wire.until(amqp.DISPOSITION).fields)

    def settled(self, fields):
        first, last, state = fields[1], fields[2], fields[4]
        for number in range(first, last + 1):
            assert self.unacknowledged.pop(0) == number, "the outcome of %d comes out of turn" % number
            if state.code == amqp.ACCEPTED:
                self.acked.add(number)
                self.acknowledged += 1
            else:  # it must say why; what is refused is not sent again
                assert state.code == amqp.REJECTED and state.value[0].value[1], state


class Digest:
    """What was read of a partition, in order, without keeping it."""

    def __init__(self):
        self.count, self.hash, self.offset = 0, hashlib.sha256(), "-1"

    def add(self, sequence, offset, body):
        assert sequence == self.count, "sequence %d where %d is due" % (sequence, self.count)
        self.count, self.offset = self.count + 1, offset
        self.hash.update(b"%d %s %s\n" % (sequence, offset.encode(), body))

    def told(self):
        return self.count, self.hash.hexdigest()


class AmqpReader(threading.Thread):
    """Follows all partitions; after a cut each goes on behind the last offset that it saw."""

    def __init__(self, key):
        super().__init__(daemon=True)
        self.key = key
        self.partitions = [Digest() for _ in range(PARTITIONS)]
        self.stopping = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    with amqp.Peer().policy("service", self.key) as peer:
                        self.serve(peer)
                except OSError:
                    self.stopping.wait(0.02)
        except BaseException as err:
            self.error = err
            raise

    def serve(self, peer):
        peer.begin(window=0x7FFFFFFF)
        for number, partition in enumerate(self.partitions):
            peer.link("r%d" % number, number, "localhost/ConsumerGroups/$Default/Partitions/%d" % number, False,
                      options={"filter": amqp.selector("amqp.annotation.x-opt-offset > '%s'" % partition.offset)})
        for number in range(PARTITIONS):
            peer.send(amqp.flow(number, 0x7FFFFFFF, window=0x7FFFFFFF))
        peer.sock.settimeout(0.5)
        body = b""
        while not self.stopping.is_set():
            try:
                got = peer.until(amqp.TRANSFER)
            except TimeoutError:
                continue
            body += got.payload
            if not got.fields[5]:  # more
                self.take(self.partitions[got.fields[0]], amqp.sections(body))
                body = b""

    @staticmethod
    def take(partition, parts):
        told = parts[0x72]
        partition.add(told["x-opt-sequence-number"], told["x-opt-offset"], parts[0x75])


def compare(reader, stored):
    """The readers saw what is stored, in time."""
    deadline = time.monotonic() + 120
    while [p.count for p in reader.partitions] != [p.count for p in stored]:
        assert not reader.error, reader.error
        assert time.monotonic() < deadline, "the readers stand at %s of %s" % (
            [p.count for p in reader.partitions], [p.count for p in stored])
        time.sleep(0.05)
    reader.stopping.set()
    reader.join(60)
    assert not reader.error, reader.error
    for number, (seen, kept) in enumerate(zip(reader.partitions, stored)):
        assert seen.told() == kept.told(), "partition %d: what was read is not what is stored" % number


def verify(events, publishers, stored):
    """Return how many acknowledged messages are missing; raise on anything else that is wrong."""
    next_sequence = {}
    seen = {p.name: {} for p in publishers}
    for event in events:
        partition, sequence = event["partition"], event["sequence"]
        assert sequence == next_sequence.setdefault(partition, 0), "partition %d: %d follows %d" % (
            partition, sequence, next_sequence[partition] - 1)
        next_sequence[partition] += 1
        stored[partition].add(sequence, event["offset"], event["body"].encode())
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
            kind = AmqpPublisher if i % 2 else Publisher
            publishers.append(kind("d%d" % i, hub.json("device", "add", "d%d" % i)["primaryKey"]))
        reader = AmqpReader(hub.json("hub", "show")["policies"]["service"]["primaryKey"])
        for p in publishers + [reader]:
            p.start()
        for cycle in range(cycles):
            before = sum(p.acknowledged for p in publishers)
            deadline = time.monotonic() + 90
            while sum(p.acknowledged for p in publishers) < before + 100:  # every cycle acknowledges something
                assert time.monotonic() < deadline, "nothing is acknowledged any more"
                assert not reader.error and not any(p.error for p in publishers)
                time.sleep(0.005)
            time.sleep(rng.random() * 0.4)  # the random moment
            hub.kill()
            hub.start()
        for p in publishers:
            p.stopping.set()
        for p in publishers:
            p.join(90)
            assert not p.is_alive() and not p.error, "%s: %r" % (p.name, p.error)
        stored = [Digest() for _ in range(PARTITIONS)]
        lost = verify(hub.each_event(), publishers, stored)  # millions: never all in memory
        compare(reader, stored)
        print("%d cycles, %d acknowledged, %d of them over AMQP, lost %d; %d events were followed" % (
            cycles, sum(len(p.acked) for p in publishers), sum(len(p.acked) for p in publishers[1::2]), lost,
            sum(p.count for p in reader.partitions)), flush=True)
        return 1 if lost else 0
    except BaseException:
        with open(hub.log, encoding="utf-8", errors="replace") as file:
            sys.stderr.write("--- the log of the hub\n" + file.read()[-8000:])
        raise
    finally:
        hub.stop()


sys.exit(main())
