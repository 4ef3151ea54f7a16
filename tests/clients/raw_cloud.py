"""What comes from the cloud, as a user of paho sees it: twins, methods and messages, topics and bodies byte for byte."""
# conformance: mqtt.md 4, 12, 13, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 40, 42
import json
import re
import ssl
import struct
import subprocess
import threading
import time
import urllib.request

from hub import PROGRAM, sas, with_hub
from paho_device import HOST, WAIT_S, Device
from wire import Wire, packet, text
from ws import Socket, frame

RES = "$iothub/twin/res/#"
GET = "$iothub/twin/GET/?$rid="
REPORTED = "$iothub/twin/PATCH/properties/reported/?$rid="
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
METHODS = "$iothub/methods/POST/#"
ABSENT = "DeviceNotOnline"
BOUND = "devices/%s/messages/devicebound/#"


class Devices:
    """Makes connections of registered devices."""

    def __init__(self, hub):
        self.hub = hub
        self.keys = {}

    def connect(self, device_id, module=None, query="/?api-version=2021-04-12", **options):
        name = device_id + ("/" + module if module else "")
        resource = HOST + "/devices/" + device_id + ("/modules/" + module if module else "")
        if name not in self.keys:
            if module:
                self.keys[name] = self.hub.json("module", "add", device_id, module)["primaryKey"]
            else:
                self.keys[name] = self.hub.json("device", "add", device_id)["primaryKey"]
        connected = Device(self.hub, name, HOST + "/" + name + query, sas(resource, self.keys[name]), **options)
        assert connected.code == 0, connected.code
        return connected


def twins(hub, devices):
    for name, device_id, module in (("device", "t1", None), ("module", "t1", "m1")):
        where = ["--module", module] if module else []
        d = devices.connect(device_id, module)
        assert list(d.subscribe([(RES, 0), (DESIRED, 1)])) == [0, 1]
        for rid, payload in (("0", ""), ("65535", " "), ("4e2a1f00-1d5b-4d4a-9a30-6a1f5b9f0c11", ""), ("abc-1", " ")):
            d.publish(GET + rid, payload, 0 if payload else 1)
            topic, body = d.receive()
            assert topic == "$iothub/twin/res/200/?$rid=" + rid, (name, topic)
            assert json.loads(body) == {"desired": {"$version": 1}, "reported": {"$version": 1}}, (name, body)
        reported(d)
        malformed(d)
        desired(hub, d, device_id, where)
        d.quit()


def patch(d, rid, body, qos=0):
    d.publish(REPORTED + rid, body, qos)
    return d.receive()


def reported(d):
    assert patch(d, "1", '{"a":{"b":1.0,"c":[1]},"gone":true}') == ("$iothub/twin/res/204/?$rid=1&$version=2", "")
    assert patch(d, "2", '{"gone":null,"a":{"b":2}}', 1) == ("$iothub/twin/res/204/?$rid=2&$version=3", "")
    d.publish(GET + "3", " ")
    topic, body = d.receive()
    assert topic == "$iothub/twin/res/200/?$rid=3", topic
    assert json.loads(body)["reported"] == {"a": {"b": 2, "c": [1]}, "$version": 3}, body
    topic, body = patch(d, "4&$version=2", '{"x":1}')
    assert topic == "$iothub/twin/res/412/?$rid=4", topic
    assert json.loads(body)["errorCode"] == 412001, body
    assert patch(d, "5&$version=3", '{"x":1}')[0] == "$iothub/twin/res/204/?$rid=5&$version=4"


def malformed(d):
    bad = ["{", "[1]", "7", '{"a.b":1}', '{"a b":1}', '{"$x":1}', '{"a":4503599627370497}', '{"a":"%s"}' % ("x" * 4097),
           '{"a":' * 12 + "1" + "}" * 12, json.dumps({"k%d" % i: "y" * 4000 for i in range(9)})]
    for body in bad:
        topic, answer = patch(d, "bad", body)
        assert topic == "$iothub/twin/res/400/?$rid=bad", (topic, body[:60])
        answer = json.loads(answer)
        assert str(answer["errorCode"]).startswith("400") and answer["message"], answer
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", answer["timestampUtc"]), answer
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer["trackingId"]), answer
    assert patch(d, "6", '{"x":null}')[0] == "$iothub/twin/res/204/?$rid=6&$version=5", "the connection goes on"


def desired(hub, d, device_id, where):
    def change(patch_text):
        hub.cli("twin", "patch", device_id, '{"properties":{"desired":%s}}' % patch_text, *where)

    change('{"t":21.7,"a":{"b":1}}')
    topic, body = d.receive()
    assert topic == "$iothub/twin/PATCH/properties/desired/?$version=2", topic
    assert body == '{"t":21.7,"a":{"b":1},"$version":2}', body
    change('{"a":null}')
    assert d.receive() == ("$iothub/twin/PATCH/properties/desired/?$version=3", '{"a":null,"$version":3}')
    hub.cli("twin", "patch", device_id, '{"tags":{"site":"n"}}', *where)  # tags are not the device's business
    d.unsubscribe(DESIRED)
    change('{"t":22}')
    d.publish(GET + "7", "", 0)
    topic, body = d.receive()  # the next message is this answer: nothing told of the change
    assert topic == "$iothub/twin/res/200/?$rid=7", topic
    assert json.loads(body)["desired"] == {"t": 22, "$version": 4}, body


def api_versions(devices):
    """Which user names may touch twins and methods."""
    for query in ("/api-version=2016-11-14", "/?api-version=2018-06-30", "/?&api-version=2020-09-30&model-id=dtmi%3Aa%3Bb%3B1"):
        d = devices.connect("v1", query=query)
        d.subscribe([(RES, 0)])
        d.publish(GET + "1", "", 0)
        assert d.receive()[0] == "$iothub/twin/res/200/?$rid=1", query
        d.quit()
    for query in ("", "/"):
        for work in (lambda d: d.client.publish(GET + "1", "", 0), lambda d: d.client.subscribe(METHODS),
                     lambda d: d.client.publish("$iothub/methods/res/200/?$rid=1", "", 0)):
            d = devices.connect("v1", query=query)
            work(d)
            d.must_be_closed()
    d = devices.connect("v1")
    d.client.publish("$iothub/twin/GET/properties/?$rid=1", "", 1)
    d.must_be_closed()


class Call(threading.Thread):
    """`nave method` while the device answers."""

    def __init__(self, hub, *args):
        super().__init__()
        self.command = [PROGRAM, "method", *args, "--data", hub.data, "-o", "json"]
        self.start()

    def run(self):
        self.done = subprocess.run(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=90, check=False)

    def answer(self):
        self.join()
        assert self.done.returncode == 0, self.done.stderr.decode()
        return json.loads(self.done.stdout)

    def refusal(self):
        self.join()
        assert self.done.returncode == 1, self.done.stdout.decode()
        return self.done.stderr.decode()


def methods(hub, devices):
    for device_id, module in (("c1", None), ("c1", "m1")):
        where = ["--module", module] if module else []
        assert "NotFound" in Call(hub, device_id, "m", *where).refusal(), "it does not exist yet"
        d = devices.connect(device_id, module)
        assert ABSENT in Call(hub, device_id, "m", *where).refusal(), "connected without a subscription"
        d.subscribe([(METHODS, 0)])
        for name, sent, seen, status, answer, told in (
                ("reboot", ['{"in": 5}'], '{"in":5}', "200", '{"ok":true}', {"ok": True}),
                ("no.payload_", [], "null", "-3", "", None),
                ("a*b", ["null"], "null", "2147483647", "[1, 2]", [1, 2])):
            call = Call(hub, device_id, name, *sent, *where)
            topic, body = d.receive()
            found = re.fullmatch(r"\$iothub/methods/POST/%s/\?\$rid=(\d+)" % re.escape(name), topic)  # Go's iothub reads a number
            assert found and body == seen, (topic, body)
            d.publish("$iothub/methods/res/500/?$rid=nobodys", "{}")
            d.publish("$iothub/methods/res/%s/?$rid=%s" % (status, found.group(1)), answer)
            assert call.answer() == {"status": int(status), "payload": told}
            d.publish("$iothub/methods/res/200/?$rid=" + found.group(1), "late")
        call = Call(hub, device_id, "silent", *where, "--timeout", "5")
        d.receive()
        assert "GatewayTimeout" in call.refusal()
        d.publish(GET + "1", "", 1)  # still there
        d.quit()


def answers_of_a_former_life(hub, devices):
    """A device that finishes a method after the hub was killed does not answer the next caller's."""
    rids = []
    for name in ("former", "present"):
        hub.kill()
        hub.start()
        d = devices.connect("f1")
        d.subscribe([(METHODS, 0)])
        call = Call(hub, "f1", name, "--timeout", "30")
        rids.append(d.receive()[0].split("$rid=")[1])
    assert 0 < int(rids[0]) < 2**31 and rids[0] != rids[1], rids
    for rid, name in zip(rids, ("former", "present")):
        d.publish("$iothub/methods/res/200/?$rid=" + rid, json.dumps(name), 1)
    assert call.answer() == {"status": 200, "payload": "present"}
    d.quit()


def feedback(hub, message_id):
    """What the service is told of a message, once it is; paho acknowledges by itself."""
    shown = hub.json("hub", "show")
    url = "https://localhost/messages/serviceBound/feedback?api-version=2021-04-12"
    context = ssl.create_default_context(cafile=shown["caFile"])
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        ask = urllib.request.Request(url, headers={"Authorization": hub.cli("sas", "--policy", "service").strip()})
        with urllib.request.urlopen(ask, context=context, timeout=WAIT_S) as answer:
            records = json.loads(answer.read() or b"[]")
        for record in records:
            if record["originalMessageId"] == message_id:
                return {name: record[name] for name in ("deviceId", "statusCode", "description")}
        time.sleep(0.05)  # it is not told otherwise
    raise AssertionError("no feedback")


def taken(hub, device_id):
    """What the device received is acknowledged, too: paho shows a message before it does."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if hub.json("device", "show", device_id).get("cloudToDeviceMessageCount", 0) == 0:
            return
        time.sleep(0.05)  # it is not told otherwise
    raise AssertionError("not acknowledged")


def messages(hub, devices):
    d = devices.connect("b1", clean=False)
    d.subscribe([(BOUND % "b1", 1)])
    hub.cli("send", "b1", "hello", "-p", "k y=a/b +&=", "-p", "z=", "--message-id", "m 1", "--correlation-id", "c",
            "--content-type", "application/json", "--content-encoding", "utf-8", "--ack", "full", "--ttl", "100")
    topic, body = d.receive()
    head, bag = topic.split("/devicebound/")
    assert head == "devices/b1/messages" and body == "hello", topic
    pairs = bag.split("&")
    assert pairs[0] == "%24.to=%2Fdevices%2Fb1%2Fmessages%2FdeviceBound", pairs
    assert "%24.mid=m%201" in pairs and "%24.cid=c" in pairs and "iothub-ack=full" in pairs, pairs
    assert "%24.ct=application%2Fjson" in pairs and "%24.ce=utf-8" in pairs, pairs
    assert sum(bool(re.fullmatch(r"%24\.exp=\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\d\.\d{7}Z", pair)) for pair in pairs) == 1, pairs
    assert pairs[-2:] == ["k%20y=a%2Fb%20%2B%26%3D", "z="], pairs
    assert max(i for i, p in enumerate(pairs) if p.startswith("%24.")) < pairs.index("iothub-ack=full"), pairs
    assert feedback(hub, "m 1") == {"deviceId": "b1", "statusCode": "Success", "description": "Success"}
    hub.cli("send", "b1", "plain")
    assert d.receive() == ("devices/b1/messages/devicebound/" + pairs[0], "plain")
    taken(hub, "b1")
    d.drop()
    hub.cli("send", "b1", "sent offline")
    d = devices.connect("b1", clean=False)
    assert d.flags["session present"] == 1
    assert d.receive()[1] == "sent offline"
    taken(hub, "b1")
    d.quit()
    # The wildcard of azure-sdk-for-c, with QoS 0; and a module, which gets none.
    d = devices.connect("b1")
    d.subscribe([("devices/+/messages/devicebound/#", 0)])
    m = devices.connect("b1", "m1")
    assert list(m.subscribe([("devices/b1/modules/m1/messages/devicebound/#", 1), ("devices/b1/modules/m1/inputs/#", 1),
                             ("devices/b1/modules/m1/#", 0)])) == [1, 1, 0]
    devices.connect("b2").quit()
    hub.cli("send", "b2", "another device's")
    hub.cli("send", "b1", "mine")
    assert d.receive()[1] == "mine"
    assert d.messages.empty() and m.messages.empty()
    taken(hub, "b1")
    d.quit()
    m.quit()


def take_head(take):
    """(first byte, remaining length) of the next packet."""
    first = take(1)[0]
    length = shift = 0
    while True:
        digit = take(1)[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return first, length


def take_publish(wire):
    first, length = take_head(wire.take)
    body = wire.take(length)
    size = struct.unpack(">H", body[:2])[0]
    (packet_id,) = struct.unpack(">H", body[2 + size:4 + size])
    return first, packet_id, body[4 + size:]


def redelivery(hub, devices):
    """Without PUBACK: again after the lock, again after a new connection; PUBACK ends it."""
    devices.connect("r1").quit()
    key = devices.keys["r1"]
    context = ssl.create_default_context(cafile=hub.ca())
    subscribe = packet(0x82, struct.pack(">H", 1) + text(BOUND % "r1") + b"\x01")
    hub.cli("send", "r1", "again")
    with Wire("r1", key, port=8883, tls=context) as wire:
        started = time.monotonic()
        wire.send(subscribe)
        assert wire.take(5) == b"\x90\x03\x00\x01\x01"
        first, packet_id, body = take_publish(wire)
        assert (first, body) == (0x32, b"again")
        first, again_id, body = take_publish(wire)  # the lock is 6 s here
        assert time.monotonic() - started > 5.9
        assert (first, again_id, body) == (0x3A, packet_id, b"again")
    with Wire("r1", key, port=8883, tls=context) as wire:
        wire.send(subscribe)
        assert wire.take(5) == b"\x90\x03\x00\x01\x01"
        first, packet_id, body = take_publish(wire)
        assert body == b"again"
        wire.send(packet(0x40, struct.pack(">H", packet_id)) + b"\xc0\x00")
        assert wire.take(2) == b"\xd0\x00"
    hub.cli("send", "r1", "next")
    with Wire("r1", key, port=8883, tls=context) as wire:
        wire.send(subscribe)
        wire.take(5)
        assert take_publish(wire)[2] == b"next", "what was acknowledged is gone"


def waiting(hub, device_id):
    return hub.json("device", "show", device_id)["cloudToDeviceMessageCount"]


# conformance: semantics.md 59
def nothing_rejects(hub, devices):
    """Whatever a device does short of PUBACK, its message stays; only PUBACK ends it, as Success."""
    devices.connect("x1").quit()
    context = ssl.create_default_context(cafile=hub.ca())
    subscribe = packet(0x82, struct.pack(">H", 1) + text(BOUND % "x1") + b"\x01")
    hub.cli("send", "x1", "stays", "--message-id", "x 1", "--ack", "full")
    for leave in (packet(0xA2, struct.pack(">H", 2) + text(BOUND % "x1")), packet(0x40, struct.pack(">H", 4711)), b""):
        with Wire("x1", devices.keys["x1"], port=8883, tls=context) as wire:
            wire.send(subscribe)
            wire.take(5)
            assert take_publish(wire)[2] == b"stays"
            wire.send(leave + b"\xc0\x00")
            while wire.take(2) != b"\xd0\x00":  # an UNSUBACK has four bytes
                pass
            wire.send(b"\xe0\x00")
        assert waiting(hub, "x1") == 1
    with Wire("x1", devices.keys["x1"], port=8883, tls=context) as wire:
        wire.send(subscribe)
        wire.take(5)
        _, packet_id, body = take_publish(wire)
        assert body == b"stays"
        wire.send(packet(0x40, struct.pack(">H", packet_id)))
        assert feedback(hub, "x 1")["statusCode"] == "Success"
        assert waiting(hub, "x1") == 0


class WebSocketWire(Socket):
    """The same over WebSocket: a stream of the frames' payloads."""

    def __init__(self, hub, device, key):
        super().__init__(hub)
        self.stream = b""
        head = text("MQTT") + bytes([4, 0xC2]) + struct.pack(">H", 60)
        user = "%s/%s/?api-version=2021-04-12" % (HOST, device)
        self.send(packet(0x10, head + text(device) + text(user) + text(sas("%s/devices/%s" % (HOST, device), key))))
        assert self.read(4)[3] == 0

    def send(self, data):
        self.sock.sendall(frame(data))

    def read(self, count):
        while len(self.stream) < count:
            first, payload = self.frame()
            assert first == 0x82, hex(first)
            self.stream += payload
        taken, self.stream = self.stream[:count], self.stream[count:]
        return taken


def unread(hub, devices):
    """Much is asked for and nothing read for a while: the hub keeps no more than it must, and then all of it comes."""
    devices.connect("u1").quit()
    hub.cli("twin", "patch", "u1", json.dumps({"properties": {"desired": {"k%d" % i: "y" * 4000 for i in range(7)}}}))
    asked = 300
    load = packet(0x82, struct.pack(">H", 1) + text(RES) + b"\x00")
    load += b"".join(packet(0x30, text(GET + str(i))) for i in range(asked))
    with Wire("u1", devices.keys["u1"], port=8883, tls=ssl.create_default_context(cafile=hub.ca())) as wire:
        wire.send(load)
        all_answers(wire.take, asked)
    with WebSocketWire(hub, "u1", devices.keys["u1"]) as wire:
        wire.send(load)
        all_answers(wire.read, asked)


def all_answers(take, asked):
    assert take(5) == b"\x90\x03\x00\x01\x00"
    time.sleep(0.5)  # not reading is what is tested
    rids = set()
    while len(rids) < asked:
        first, length = take_head(take)
        assert first == 0x30, hex(first)
        body = take(length)
        size = struct.unpack(">H", body[:2])[0]
        rids.add(re.fullmatch(rb"\$iothub/twin/res/200/\?\$rid=(\d+)", body[2:2 + size]).group(1))
    assert len(rids) == asked


def run(hub):
    devices = Devices(hub)
    unread(hub, devices)
    twins(hub, devices)
    api_versions(devices)
    methods(hub, devices)
    messages(hub, devices)
    redelivery(hub, devices)
    nothing_rejects(hub, devices)
    answers_of_a_former_life(hub, devices)


with_hub(run, config="limits:\n  c2d_lock_s: 6\n")
