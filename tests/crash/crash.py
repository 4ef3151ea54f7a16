"""The crash ring: publishers note each PUBACK or accepted disposition, the hub is killed with SIGKILL at random moments
and started again.

At the end everything is read back: nothing acknowledged is missing, sequences have no hole and no repetition, and each
device's messages first appear in the order in which it sent them. Readers over AMQP follow all the while and go on from
the last offset after each kill: they saw exactly what is stored, each event once.
"""
import hashlib
import sys
import time

import amqp
import ring
from wire import Wire, publish_packet

DEVICES = 8  # half of them speak AMQP
PARTITIONS = 4
WINDOW = 64
CONFIG = "mqtt:\n  plain_port: 1883\namqp:\n  plain_port: 5672\nlog:\n  durability: %s\n  segment_bytes: 16777216\n"


class Publisher(ring.Client):
    """Keeps WINDOW messages in flight; after a cut it sends again what was not acknowledged, in order, then goes on."""

    def __init__(self, name, key):
        super().__init__()
        self.name, self.key = name, key
        self.next_number = 0
        self.unacknowledged = []  # in order of sending
        self.acked = set()

    def publish(self, wire):
        self.send(wire, self.unacknowledged, again=True)
        while True:
            room = 0 if self.stopping.is_set() else WINDOW - len(self.unacknowledged)
            if not room and not self.unacknowledged:
                return
            numbers = range(self.next_number, self.next_number + room)
            self.next_number += room
            self.unacknowledged += numbers
            self.send(wire, numbers)
            self.take(wire)

    def body(self, number):
        return b"%s:%d:" % (self.name.encode(), number) + b"x" * (number % 300)

    def note(self, number):
        self.acked.add(number)
        self.acknowledged += 1


class MqttPublisher(Publisher):
    """A PUBACK is noted."""

    def serve(self):
        with Wire(self.name, self.key) as wire:
            if wire.code == 3:
                return  # the hub is starting or stopping
            assert wire.code == 0, "CONNACK %d" % wire.code
            self.publish(wire)

    def send(self, wire, numbers, again=False):
        topic = "devices/%s/messages/events/n=%%d" % self.name
        wire.send(b"".join(publish_packet(topic % n, self.body(n), n % 65535 + 1, again) for n in numbers))

    def take(self, wire):
        for packet_id in wire.acks():
            number = self.unacknowledged.pop(0)
            assert packet_id == number % 65535 + 1, "PUBACK %d for message %d" % (packet_id, number)
            self.note(number)


class AmqpPublisher(Publisher):
    """What is accepted is noted."""

    def serve(self):
        with amqp.Peer().device(self.name, self.key) as peer:
            assert peer.sender("/devices/%s/messages/events" % self.name) >= WINDOW
            self.publish(peer)

    def send(self, wire, numbers, again=False):
        wire.send(*[amqp.transfer(0, n, amqp.properties({"n": str(n)}) + amqp.data(self.body(n))) for n in numbers])

    def take(self, wire):
        fields = wire.until(amqp.DISPOSITION).fields
        first, last, state = fields[1], fields[2], fields[4]
        for number in range(first, last + 1):
            assert self.unacknowledged.pop(0) == number, "the outcome of %d comes out of turn" % number
            if state.code == amqp.ACCEPTED:
                self.note(number)
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


class AmqpReader(ring.Client):
    """Follows all partitions; after a cut each goes on behind the last offset that it saw."""

    def __init__(self, key):
        super().__init__()
        self.key = key
        self.partitions = [Digest() for _ in range(PARTITIONS)]

    def serve(self):
        with amqp.Peer().policy("service", self.key) as peer:
            self.follow(peer)

    def follow(self, peer):
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
    ring.stop([reader])
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
    rng = ring.dice()
    with ring.running(CONFIG % (sys.argv[2] if len(sys.argv) > 2 else "commit")) as hub:
        publishers = []
        for i in range(DEVICES):
            kind = AmqpPublisher if i % 2 else MqttPublisher
            publishers.append(kind("d%d" % i, hub.json("device", "add", "d%d" % i)["primaryKey"]))
        reader = AmqpReader(hub.json("hub", "show")["policies"]["service"]["primaryKey"])
        clients = publishers + [reader]
        for client in clients:
            client.start()
        ring.kill_again_and_again(hub, rng, cycles, clients, lambda: [sum(p.acknowledged for p in publishers)], 100)
        ring.stop(publishers)
        stored = [Digest() for _ in range(PARTITIONS)]
        lost = verify(hub.each_event(), publishers, stored)  # millions: never all in memory
        compare(reader, stored)
        print("%d cycles, %d acknowledged, %d of them over AMQP, lost %d; %d events were followed" % (
            cycles, sum(len(p.acked) for p in publishers), sum(len(p.acked) for p in publishers[1::2]), lost,
            sum(p.count for p in reader.partitions)), flush=True)
        return 1 if lost else 0


sys.exit(main())
