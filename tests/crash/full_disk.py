"""A small disk fills up: what does not fit is refused and never acknowledged, reads go on, and the hub resumes by itself."""
import json
import os
import subprocess
import time

from hub import with_hub
from wire import Wire, publish_packet

DATA = "/mnt"
CONFIG = "mqtt:\n  plain_port: 1883\nlog:\n  segment_bytes: 4194304\n  retention_hours: 24\n"
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


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
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
    deadline = time.monotonic() + 30
    while hub.admin("/healthz")[0] != 200:
        assert time.monotonic() < deadline, "the hub did not resume"
        time.sleep(0.05)
    with Wire("d1", key) as wire:
        assert wire.code == 0, wire.code
        wire.send(publish_packet(TOPIC, b"-1:after", 7))
        assert wire.acks() == [7]
    events = hub.all_events()
    assert events[-1]["body"] == "-1:after" or "-1:after" in json.dumps([e["body"] for e in events[-5:]])
    next_sequence = {}
    for event in events:
        assert event["sequence"] == next_sequence.get(event["partition"], 0), "a hole"
        next_sequence[event["partition"]] = event["sequence"] + 1


subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", DATA], check=True)
with_hub(run, config=CONFIG, data=os.path.join(DATA, "data"))
