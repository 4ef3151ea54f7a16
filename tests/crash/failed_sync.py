"""Syncing the log fails under AMQP senders: told with a condition, nothing accepted is lost, what was not is not there."""
import os
import tempfile
import threading
import time

import amqp
from hub import with_hub

TRIGGER = os.path.join(tempfile.mkdtemp(prefix="nave-test-"), "fail")
WINDOW = 50


class Sender(threading.Thread):
    """Sends for ever; notes which numbers were accepted, which refused and why."""

    def __init__(self, name, key):
        super().__init__(daemon=True)
        self.name, self.key = name, key
        self.accepted, self.refused, self.open = set(), set(), set()
        self.reasons, self.next_number = set(), 0
        self.stopping, self.error = threading.Event(), None

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    with amqp.Peer().device(self.name, self.key) as peer:
                        peer.sender("/devices/%s/messages/events" % self.name)
                        self.serve(peer)
                except amqp.Closed as error:
                    self.reasons.add(str(error))
                    self.open.clear()  # nobody said what became of them: either is right
                    self.stopping.wait(0.02)
        except BaseException as error:
            self.error = error
            raise

    def serve(self, peer):
        while self.open or not self.stopping.is_set():
            while len(self.open) < WINDOW and not self.stopping.is_set():
                body = amqp.data(b"%s:%d:" % (self.name.encode(), self.next_number) + b"s" * 300)
                peer.send(amqp.transfer(0, self.next_number, body))
                self.open.add(self.next_number)
                self.next_number += 1
            fields = peer.until(amqp.DISPOSITION).fields
            numbers = set(range(fields[1], fields[2] + 1))
            assert numbers <= self.open, (numbers, self.open)
            self.open -= numbers
            if fields[4].code == amqp.ACCEPTED:
                self.accepted |= numbers
            else:
                self.refused |= numbers
                self.reasons.add("%s: %s" % tuple(fields[4].value[0].value[:2]))
                self.stopping.wait(0.01)


def wait(what, test):
    deadline = time.monotonic() + 90
    while not test():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def cut(hub, senders):
    """Syncing fails for a while, under load."""
    before = [len(s.accepted) for s in senders]
    wait("nothing is accepted", lambda: all(len(s.accepted) > b + 500 for s, b in zip(senders, before)))
    told = [len(s.refused) + len(s.reasons) for s in senders]
    open(TRIGGER, "wb").close()
    wait("nobody was told", lambda: all(len(s.refused) + len(s.reasons) > t for s, t in zip(senders, told)))
    wait("the hub does not say so", lambda: hub.admin("/healthz")[0] == 503)
    os.remove(TRIGGER)
    wait("the hub did not resume", lambda: hub.admin("/healthz")[0] == 200)


def run(hub):
    senders = [Sender("d%d" % n, hub.json("device", "add", "d%d" % n)["primaryKey"]) for n in range(4)]
    for sender in senders:
        sender.start()
    for _ in range(3):
        cut(hub, senders)
    before = [len(s.accepted) for s in senders]
    wait("nothing is accepted any more", lambda: all(len(s.accepted) > b + 100 for s, b in zip(senders, before)))
    for sender in senders:
        sender.stopping.set()
    for sender in senders:
        sender.join(90)
        assert not sender.is_alive() and not sender.error, sender.error
    for round_ in ("at once", "after a restart"):
        stored, next_sequence = {s.name: [] for s in senders}, {}
        for event in hub.each_event():
            assert event["sequence"] == next_sequence.get(event["partition"], 0), "a hole"
            next_sequence[event["partition"]] = event["sequence"] + 1
            name, number, _ = event["body"].split(":", 2)
            stored[name].append(int(number))
        for sender in senders:
            numbers = stored[sender.name]
            assert numbers == sorted(set(numbers)), "the order of %s, %s" % (sender.name, round_)
            lost, back = sender.accepted - set(numbers), sender.refused & set(numbers)
            assert not lost, "%s: accepted and gone: %s" % (round_, sorted(lost)[:9])
            assert not back, "%s: refused and there: %s" % (round_, sorted(back)[:9])
        if round_ == "at once":
            hub.kill()
            hub.start()
    for reason in set().union(*(s.reasons for s in senders)):
        print("  " + reason)
        assert reason.startswith(("amqp:", "com.microsoft:")) and len(reason) > 20, reason
    assert any("check the disk" in reason for s in senders for reason in s.reasons), "nobody was told what helps"
    print("  %d accepted, %d refused" % (sum(len(s.accepted) for s in senders), sum(len(s.refused) for s in senders)), flush=True)


os.environ["NAVE_FAIL_SYNC"] = TRIGGER
os.environ["LD_PRELOAD"] = os.environ["FAILING_SYNC"]  # from here on: the hub
try:
    with_hub(run, config="amqp:\n  plain_port: 5672\nlog:\n  segment_bytes: 4194304\n")
finally:
    os.rmdir(os.path.dirname(TRIGGER))
