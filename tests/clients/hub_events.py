"""Events of the hub itself, read by service clients: each once, in order, also when the hub is killed in between."""
# conformance: semantics.md 42, 43, 44, 46
import signal

from hub import with_hub
from wire import Wire, publish_packet

CONFIG = """
mqtt:
  plain_port: 1883
events:
  connection_state: true
  lifecycle: true
  twin_change: true
"""


def source_of(event):
    return event["systemProperties"]["iothub-message-source"]


def told(event):
    """(source, operation) of an event of the hub; telemetry has no operation."""
    return source_of(event), event["properties"].get("opType")


CREATED = ("deviceLifecycleEvents", "createDeviceIdentity")
DELETED = ("deviceLifecycleEvents", "deleteDeviceIdentity")
CONNECTED = ("deviceConnectionStateEvents", "deviceConnected")
DISCONNECTED = ("deviceConnectionStateEvents", "deviceDisconnected")
UPDATED = ("twinChangeEvents", "updateTwin")
TELEMETRY = ("Telemetry", None)


def publish(wire):
    wire.send(publish_packet("devices/d1/messages/events/", b"{}", 1))
    assert wire.acks() == [1]


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    with Wire("d1", key) as wire:  # connected, but nothing was done with it
        assert wire.code == 0, wire.code
        assert hub.json("device", "show", "d1")["connectionState"] == "Connected"
        hub.cli("twin", "patch", "d1", '{"tags":{"place":"roof"}}')
        assert [told(e) for e in hub.events(2)] == [CREATED, UPDATED]
        publish(wire)
        assert sorted(map(str, map(told, hub.events(4)[2:]))) == sorted(map(str, [CONNECTED, TELEMETRY]))
    assert told(hub.events(5)[4]) == DISCONNECTED
    shown = hub.json("device", "show", "d1")
    assert shown["connectionState"] == "Disconnected" and shown["lastActivityTime"] > "2020", shown
    killed_while_connected(hub, key, shown)
    hub.cli("device", "rm", "d1")
    assert told(hub.events(9)[8]) == DELETED
    envelope(hub.all_events())
    assert hub.kill(signal.SIGTERM) == 0
    hub.start()
    assert len(hub.all_events()) == 9, "an event came twice"
    lines = hub.cli("monitor", "--from", "beginning", "--count", "9").splitlines()
    assert sum("deviceConnectionStateEvents" in line for line in lines) == 4, lines


def killed_while_connected(hub, key, before):
    with Wire("d1", key) as wire:
        publish(wire)
        hub.events(7)
        hub.kill()
        hub.start()
    assert told(hub.events(8)[7]) == DISCONNECTED
    shown = hub.json("device", "show", "d1")
    assert shown["connectionState"] == "Disconnected", shown
    assert shown["connectionStateUpdatedTime"] >= before["connectionStateUpdatedTime"] > "2020", shown


def envelope(events):
    assert len(events) == 9, events
    own = [e for e in events if source_of(e) != "Telemetry"]
    schemas = {"deviceLifecycleEvents": "deviceLifecycleNotification", "twinChangeEvents": "twinChangeNotification",
               "deviceConnectionStateEvents": "deviceConnectionStateNotification"}
    for event in own:
        system, properties = event["systemProperties"], event["properties"]
        assert event["deviceId"] == properties["deviceId"] == system["iothub-connection-device-id"] == "d1", event
        assert properties["iothub-message-schema"] == schemas[source_of(event)], event
        assert properties["operationTimestamp"].endswith("Z") and properties["hubName"] == system["user-id"], event
        assert system["content-type"] == "application/json" and system["content-encoding"] == "utf-8", event
        assert isinstance(event["body"], dict), event
    numbers = [e["body"]["sequenceNumber"] for e in own if source_of(e) == "deviceConnectionStateEvents"]
    assert len(numbers) == 4 and numbers == sorted(set(numbers)) and {len(n) for n in numbers} == {64}, numbers
    connections = [told(e) for e in own if source_of(e) == "deviceConnectionStateEvents"]
    assert connections == [CONNECTED, DISCONNECTED] * 2, connections
    changed = next(e for e in own if told(e) == UPDATED)
    assert changed["body"]["tags"] == {"place": "roof"}, changed


with_hub(run, config=CONFIG)
