"""A small disk fills up: what does not fit is refused and never acknowledged, reads go on, and the hub resumes by itself."""
import json
import os
import subprocess
import time

import amqp
from hub import with_hub
from wire import Wire, publish_packet

DATA = "/mnt"
CONFIG = "mqtt:\n  plain_port: 1883\namqp:\n  plain_port: 5672\nlog:\n  segment_bytes: 4194304\n  retention_hours: 24\n"
TOPIC = "devices/d1/messages/events/"


def fill(key, acknowledged):
    """Publish until the hub closes the connection; note what was acknowledged."""
    with Wire("d1", key) as wire:
        assert wire.code == 0, wire.code
        number = len(acknowledged)
        try:
            for i in range(number, number + 2000):
                wire.send(publish_packet(TOPIC, b"%d:" % i + b"f" * 60000, i % 65535 + 1))
                while wire.acks() != [i % 65535 + 1]:
                    raise AssertionError("an unexpected PUBACK")
                acknowledged.append(i)
        except OSError:
            return True
    return False


def told_over_amqp(peer, first, count):
    """Send @p count messages. @return ([numbers accepted], [(condition, sentence) of the others])"""
    accepted, refused, left = [], [], set(range(first, first + count))
    for number in range(first, first + count):
        body = amqp.data(b"amqp:%d:" % number + b"f" * 60000)
        peer.send(amqp.transfer(0, number, body[:50000], more=True), amqp.part(0, body[50000:], False))
    while left:
        got = peer.until(amqp.DISPOSITION)
        numbers = set(range(got.fields[1], got.fields[2] + 1))
        assert numbers <= left, (numbers, left)
        left -= numbers
        if got.fields[4].code == amqp.ACCEPTED:
            accepted += sorted(numbers)
        else:
            assert got.fields[4].code == amqp.REJECTED, got.fields
            refused += [tuple(got.fields[4].value[0].value[:2])] * len(numbers)
    return accepted, refused


def fill_over_amqp(peer, acknowledged):
    """Until something is rejected, or the link is detached. @return (condition, sentence)"""
    for first in range(0, 4000, 20):
        try:
            accepted, refused = told_over_amqp(peer, first, 20)
        except amqp.Closed as error:
            return str(error).split(": ", 1)
        acknowledged += accepted
        if refused:
            return refused[0]
    raise AssertionError("the disk never filled up")


def over_amqp(hub, key, ballast):
    """The same for a device that speaks AMQP: what does not fit is told, and its connection lives through it."""
    room = os.statvfs(DATA)
    with open(ballast, "wb") as file:
        file.write(b"\0" * max(0, room.f_bavail * room.f_frsize - (9 << 20)))
    acknowledged = []
    with amqp.Peer().device("d2", key) as peer:
        peer.sender("/devices/d2/messages/events")
        condition, sentence = fill_over_amqp(peer, acknowledged)
        print("  over AMQP a full disk is %s: %s" % (condition, sentence), flush=True)
        assert condition.startswith(("amqp:", "com.microsoft:")), (condition, sentence)
        assert "no space left" in sentence and "free space on the volume" in sentence, sentence
        assert hub.admin("/healthz")[0] == 503
        status, answers = refusal_while_full(key)
        print("  and who comes meanwhile: %s %s" % (status, answers), flush=True)
        stored = {event["body"][:20] for event in hub.each_event()}  # reading goes on
        assert all(any(body.startswith("amqp:%d:" % n) for body in stored) for n in acknowledged), "accepted and gone"
        os.remove(ballast)
        resumes(hub)
    with amqp.Peer().device("d2", key) as peer:
        peer.sender("/devices/d2/messages/events")
        assert told_over_amqp(peer, 0, 5) == ([0, 1, 2, 3, 4], [])


def refusal_while_full(key):
    try:
        with amqp.Peer().device("d2", key) as peer:
            peer.sender("/devices/d2/messages/events")
            return "connects", told_over_amqp(peer, 9000, 1)
    except OSError as error:
        assert str(error), "without a word"
        return "is refused", str(error)


def resumes(hub):
    deadline = time.monotonic() + 90
    while hub.admin("/healthz")[0] != 200:
        assert time.monotonic() < deadline, "the hub did not resume"
        time.sleep(0.05)


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    second = hub.json("device", "add", "d2")["primaryKey"]
    ballast = os.path.join(DATA, "ballast")
    with open(ballast, "wb") as file:
        file.write(b"\0" * (24 << 20))
    acknowledged = []
    assert fill(key, acknowledged), "the disk never filled up"
    assert acknowledged, "nothing was stored at all"

    status, text = hub.admin("/healthz")
    assert status == 503 and "full" in text, (status, text)
    with Wire("d1", key) as wire:
        assert wire.code == 3, "a full disk is `server unavailable`, not %d" % wire.code
    stored = [int(event["body"].split(":")[0]) for event in hub.all_events()]
    assert set(acknowledged) <= set(stored), "acknowledged and gone"

    os.remove(ballast)
    resumes(hub)
    with Wire("d1", key) as wire:
        assert wire.code == 0, wire.code
        wire.send(publish_packet(TOPIC, b"-1:after", 7))
        assert wire.acks() == [7]
    events = hub.all_events()
    assert events[-1]["body"] == "-1:after" or "-1:after" in json.dumps([e["body"] for e in events[-5:]])
    over_amqp(hub, second, ballast)
    next_sequence = {}
    for event in hub.each_event():
        assert event["sequence"] == next_sequence.get(event["partition"], 0), "a hole"
        next_sequence[event["partition"]] = event["sequence"] + 1


subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", DATA], check=True)
with_hub(run, config=CONFIG, data=os.path.join(DATA, "data"))
