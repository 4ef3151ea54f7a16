"""The hub is killed again and again while devices come, go and connect: its events stay in turns, and none comes twice."""
import random
import subprocess
import threading
import time

from hub import with_hub
from wire import Wire, publish_packet

CONFIG = """
net:
  loops: 2
mqtt:
  plain_port: 1883
events:
  connection_state: true
  lifecycle: true
"""
ROUNDS = 6
DEVICES = 12


def connect_and_go(device, key, killed, acked):
    while not killed.is_set():
        try:
            with Wire(device, key) as wire:
                if wire.code == 0 and random.random() < 0.8:  # else: connected, and gone without a word
                    wire.send(publish_packet("devices/%s/messages/events/" % device, b"{}", 1))
                    acked.append(wire.acks())
        except (OSError, IndexError):
            pass  # killed meanwhile


def come_and_go(hub, number, killed):
    while not killed.is_set():
        for verb in ("add", "rm"):
            try:
                hub.cli("device", verb, "guest%d" % number, check=False)
            except subprocess.TimeoutExpired:
                pass


def run(hub):
    keys = {"d%d" % i: hub.json("device", "add", "d%d" % i)["primaryKey"] for i in range(DEVICES)}
    for _ in range(ROUNDS):
        killed, acked = threading.Event(), []
        threads = [threading.Thread(target=connect_and_go, args=(d, key, killed, acked)) for d, key in keys.items()]
        threads += [threading.Thread(target=come_and_go, args=(hub, i, killed)) for i in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(acked) < 3:
            assert time.monotonic() < deadline, "devices do not get on"
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.6))  # when it happens is what is tried
        hub.kill()
        killed.set()
        for thread in threads:
            thread.join()
        hub.start()
    # The last life had no guests but these: what comes before their events was drained before.
    hub.cli("device", "add", "last")
    wait_for_last(hub)
    check(hub)


def wait_for_last(hub):
    deadline = time.monotonic() + 90
    while not any(e["deviceId"] == "last" for e in hub.each_event()):
        assert time.monotonic() < deadline, "an event did not come"


def check(hub):
    told, numbers, connects = {}, {}, 0
    for event in hub.each_event():
        source = event["systemProperties"]["iothub-message-source"]
        operation = event["properties"].get("opType")
        if source == "Telemetry":
            continue
        key = (source, event["deviceId"])
        assert told.get(key) != operation, "%s of %s came twice" % (operation, event["deviceId"])
        first = key not in told
        told[key] = operation
        if source == "deviceConnectionStateEvents":
            assert not first or operation == "deviceConnected", event
            number = event["body"]["sequenceNumber"]
            assert number > numbers.get(event["deviceId"], ""), event
            numbers[event["deviceId"]] = number
            connects += operation == "deviceConnected"
        else:
            assert not first or operation == "createDeviceIdentity", event
    assert connects > ROUNDS, "too few connections to tell anything: %d" % connects
    for (source, device), operation in told.items():
        assert source != "deviceConnectionStateEvents" or operation == "deviceDisconnected", device
    there = {d["deviceId"] for d in hub.json("device", "list")}
    alive = {device for (source, device), operation in told.items() if operation == "createDeviceIdentity"}
    assert there == alive, (there ^ alive)


with_hub(run, config=CONFIG)
