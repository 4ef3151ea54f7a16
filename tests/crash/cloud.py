"""The crash ring of what comes from the cloud: twins and messages, each acknowledgement noted, the hub killed with SIGKILL.

Devices patch reported properties and acknowledge some of their messages, services patch desired properties and send
messages. At the end: no acknowledged patch is missing, versions never stood still or went back, each change has its
event exactly once, and each message that was accepted either comes again, in order, or was completed and has its
feedback: never both, never neither.
"""
import http.client
import json
import random
import select
import ssl
import struct
import sys
import time

import ring
from hub import sas
from wire import Wire, packet, publish_packet, text

DEVICES = 4
SLOTS = 40  # a patch stays to be seen for so many patches
CONFIG = "mqtt:\n  plain_port: 1883\nevents:\n  twin_change: true\nnet:\n  loops: 2\n"
VERSION = "api-version=2021-04-12"


class Client(ring.Client):
    DOWN = (OSError, http.client.HTTPException, IndexError)


class Versions:
    """What was acknowledged of one section of one twin."""

    def __init__(self, name):
        self.name = name
        self.version = 1
        self.asked = 0
        self.acked = []  # (number, version)

    def next_patch(self):
        self.asked += 1
        return {"n": self.asked, "k%d" % (self.asked % SLOTS): self.asked}

    def told(self, number, version):
        assert version > self.version, "%s: version %d follows %d" % (self.name, version, self.version)
        self.version = version
        self.acked.append((number, version))

    def verify(self, section):
        """Nothing acknowledged is missing in the section as it is now."""
        version = section["$version"]
        assert self.version <= version <= 1 + self.asked, (self.name, self.version, version, self.asked)
        for number, at in self.acked:
            slot = section.get("k%d" % (number % SLOTS), 0)
            assert slot >= number and slot % SLOTS == number % SLOTS, "%s: patch %d (version %d) is lost: %d" % (
                self.name, number, at, slot)
        assert section.get("n", 0) <= self.asked and section.get("n", 0) >= (self.acked or [(0, 0)])[-1][0], section


class Device(Client):
    """Patches its reported properties, one after the other, and acknowledges messages late, in order."""

    def __init__(self, name, key, rng):
        super().__init__()
        self.name, self.key, self.rng = name, key, rng
        self.reported = Versions(name + " reported")
        self.completed = set()  # PUBACK was sent
        self.seen = set()
        self.draining = False
        self.wanted, self.deadline = set(), 0  # what must come while it drains, and until when
        self.left = set()

    def subscribe(self, wire):
        filters = text("$iothub/twin/res/#") + b"\x00" + text("devices/%s/messages/devicebound/#" % self.name) + b"\x01"
        wire.send(packet(0x82, b"\x00\x01" + filters))

    @staticmethod
    def packets(wire, wait_s):
        """Whole packets that are there, or come in time: (first byte, body)."""
        while True:
            length, at = 0, 1
            while at < len(wire.buffer):
                length |= (wire.buffer[at] & 127) << 7 * (at - 1)
                at += 1
                if wire.buffer[at - 1] < 128:
                    break
            if at > 1 and wire.buffer[at - 1] < 128 and len(wire.buffer) >= at + length:
                head = wire.take(at)[0]
                yield head, wire.take(length)
            elif select.select([wire.sock], [], [], wait_s)[0]:
                wire.receive()
            else:
                return

    def serve(self):
        with Wire(self.name, self.key) as wire:
            if wire.code == 3:
                return  # the hub is starting or stopping
            assert wire.code == 0, "CONNACK %d" % wire.code
            self.subscribe(wire)
            self.talk(wire)

    def patch(self, wire):
        body = json.dumps(self.reported.next_patch()).encode()
        wire.send(publish_packet("$iothub/twin/PATCH/properties/reported/?$rid=%d" % self.reported.asked, body, 7))

    def talk(self, wire):
        held = []  # (packet id, number), not acknowledged yet
        last = 0
        self.patch(wire)
        while not self.stopping.is_set():
            for head, body in self.packets(wire, 0.2):
                if head >> 4 == 3:
                    size = struct.unpack(">H", body[:2])[0]
                    topic, rest = body[2:2 + size].decode(), body[2 + size:]
                    if topic.startswith("$iothub/twin/res/"):
                        self.answered(topic)
                        if not self.draining:
                            self.patch(wire)
                    else:
                        last = self.message(held, last, rest)
                self.acknowledge(wire, held)
                if self.stopping.is_set():
                    return
            if self.draining and self.wanted <= self.completed:
                self.draining -= 1
                if self.draining == 1:  # nothing more came for a while
                    return
            assert not self.draining or time.monotonic() < self.deadline, "%s: missing %s" % (
                self.name, sorted(self.wanted - self.completed)[:9])

    def answered(self, topic):
        assert topic.startswith("$iothub/twin/res/204/?$rid="), topic
        rid, version = topic.split("?$rid=")[1].split("&$version=")
        self.reported.told(int(rid), int(version))
        self.acknowledged += 1

    def message(self, held, last, rest):
        packet_id, number = struct.unpack(">H", rest[:2])[0], int(rest[2:])
        assert number > last, "%s: message %d after %d" % (self.name, number, last)
        self.seen.add(number)
        held.append((packet_id, number))
        return number

    def acknowledge(self, wire, held):
        count = len(held) if self.draining or len(held) > 40 else self.rng.choice([0, 0, 0, 1, 2, 5])
        for packet_id, number in held[:count]:
            self.completed.add(number)
            wire.send(struct.pack(">BBH", 0x40, 2, packet_id))
        del held[:count]


class Rest:
    def __init__(self, hub):
        shown = hub.json("hub", "show")
        self.context = ssl.create_default_context(cafile=shown["caFile"])
        self.token = sas("localhost", shown["policies"]["service"]["primaryKey"], policy="service")
        self.connection = None

    def ask(self, method, path, body=None):
        """(status, headers, JSON or None); OSError and the like while the hub is down."""
        if not self.connection:
            self.connection = http.client.HTTPSConnection("localhost", context=self.context, timeout=30)
        try:
            self.connection.request(method, path + "?" + VERSION, json.dumps(body) if body is not None else None,
                                    {"Authorization": self.token})
            answer = self.connection.getresponse()
            raw = answer.read()
            return answer.status, answer.headers, json.loads(raw) if raw else None
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise


class Service(Client):
    """Patches desired properties of one device and sends it messages."""

    def __init__(self, hub, name):
        super().__init__()
        self.rest, self.name = Rest(hub), name
        self.desired = Versions(name + " desired")
        self.sent = 0
        self.accepted = {}  # number: sequence
        self.sequence = 0

    def serve(self):
        while not self.stopping.is_set():
            status, _, twin = self.rest.ask("PATCH", "/twins/" + self.name,
                                            {"properties": {"desired": self.desired.next_patch()}})
            if status == 503:
                continue
            assert status == 200, (status, twin)
            self.desired.told(self.desired.asked, twin["properties"]["desired"]["$version"])
            self.acknowledged += 1
            self.send()

    def send(self):
        self.sent += 1
        number = self.sent
        status, _, answer = self.rest.ask("POST", "/nave/v1/devices/%s/messages" % self.name,
                                          {"body": str(number), "messageId": str(number), "ack": "full"})
        if status in (403, 503):  # the queue is full
            self.stopping.wait(0.05)
            return
        assert status == 201, (status, answer)
        assert answer["sequenceNumber"] > self.sequence, "sequence %d follows %d" % (answer["sequenceNumber"], self.sequence)
        self.sequence = self.accepted[number] = answer["sequenceNumber"]
        self.acknowledged += 1


def feedback(rest):
    """Everything there is: {device: set of numbers}."""
    told = {}
    while True:
        status, head, records = rest.ask("GET", "/messages/serviceBound/feedback")
        if status == 204:
            return told
        assert status == 200, (status, records)
        for record in records:
            assert record["statusCode"] == "Success", record
            numbers = told.setdefault(record["deviceId"], set())
            number = int(record["originalMessageId"])
            assert number not in numbers, "feedback of message %d comes twice" % number
            numbers.add(number)
        status, _, answer = rest.ask("DELETE", "/messages/serviceBound/feedback/" + head["ETag"].strip('"'))
        assert status == 204, (status, answer)


def drain(device, wanted):
    """All that is left for it, acknowledged: the numbers. Some must be among them."""
    last = Device(device.name, device.key, device.rng)
    last.reported.asked, last.reported.version = device.reported.asked, device.reported.version
    last.draining, last.wanted, last.deadline = 6, wanted, time.monotonic() + 60
    last.serve()
    device.reported.asked = last.reported.asked
    device.reported.acked += last.reported.acked
    device.reported.version = last.reported.version
    return last.completed


def verify_messages(rest, devices, services):
    told = feedback(rest)
    for device, service in zip(devices, services):
        done = told.get(device.name, set())
        accepted = set(service.accepted)
        left = drain(device, accepted - done)
        name = device.name
        assert not done & left, "%s: completed and back: %s" % (name, sorted(done & left)[:9])
        assert done <= device.completed, "%s: feedback of what was not completed: %s" % (
            name, sorted(done - device.completed)[:9])
        assert accepted <= done | left, "%s: lost: %s" % (name, sorted(accepted - done - left)[:9])
        assert accepted - device.completed <= left, "%s: not completed and gone" % name
        assert max(left | done | {0}) <= service.sent
        device.left = left
    again, deadline = feedback(rest), time.monotonic() + 60
    while sum(map(len, again.values())) < sum(len(d.left) for d in devices) and time.monotonic() < deadline:
        for name, numbers in feedback(rest).items():  # it follows PUBACK, which nobody answers
            assert not numbers & again.setdefault(name, set()), "feedback comes twice"
            again[name] |= numbers
    for device in devices:
        assert again.get(device.name, set()) == device.left, "%s: feedback of the rest is %s, not %s" % (
            device.name, again.get(device.name), device.left)
    return sum(len(s.accepted) for s in services)


def verify_twins(hub, rest, devices, services):
    versions = {}
    for device, service in zip(devices, services):
        twin = rest.ask("GET", "/twins/" + device.name)[2]
        device.reported.verify(twin["properties"]["reported"])
        service.desired.verify(twin["properties"]["desired"])
        sections = twin["properties"]
        assert twin["version"] == sections["desired"]["$version"] + sections["reported"]["$version"], twin["version"]
        versions[device.name] = twin["version"]
    deadline = time.monotonic() + 90
    while not verify_events(hub, versions):
        assert time.monotonic() < deadline, "events of the last changes do not come"
        time.sleep(0.2)  # they come after the answers, and nothing tells an outsider when


def verify_events(hub, versions):
    """Each change once, in order. Return whether all are there."""
    last = {name: 2 for name in versions}
    for event in hub.each_event():
        if event["systemProperties"]["iothub-message-source"] != "twinChangeEvents":
            continue
        name, version = event["deviceId"], event["body"]["version"]
        assert version == last[name] + 1, "%s: the event of version %d follows that of %d" % (name, version, last[name])
        last[name] = version
    return last == versions


def main():
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = ring.dice()
    with ring.running(CONFIG) as hub:
        devices, services = [], []
        for i in range(DEVICES):
            key = hub.json("device", "add", "d%d" % i)["primaryKey"]
            devices.append(Device("d%d" % i, key, random.Random(rng.random())))
            services.append(Service(hub, "d%d" % i))
        clients = devices + services
        for client in clients:
            client.start()
        ring.kill_again_and_again(hub, rng, cycles, clients, lambda: [c.acknowledged for c in clients], 3)
        ring.stop(clients)
        hub.kill()  # locks are gone: what nobody completed comes at once
        hub.start()
        rest = Rest(hub)
        messages = verify_messages(rest, devices, services)
        verify_twins(hub, rest, devices, services)
        print("%d cycles, %d reported and %d desired patches, %d messages, %d completed at the last kill" % (
            cycles, sum(len(d.reported.acked) for d in devices), sum(len(s.desired.acked) for s in services), messages,
            messages - sum(len(d.left) for d in devices)), flush=True)


main()
