"""Qpid Proton (python3-qpid-proton) as a strict third party: types to the letter, settlement in both modes, small frames,
drain, many links in one session, errors that leave the connection alone."""
# conformance: amqp.md 4, 5, 8, 9, 10, 12, 13, 19, 23, 24, 25, 26, 27, 30, 32, 34, 35, 36, 37, 39, 42, 45, 46, 48, 49, 51, 53, 54, 55, 58
import json
import subprocess
import threading
import time
import uuid

from hub import PROGRAM, sas, with_hub
from proton import Data, Delivery, Described, Link, Message, SSLDomain, int32, symbol, timestamp, ubyte, ulong
from proton.reactor import Filter, ReceiverOption, SenderOption
from proton.utils import BlockingConnection, LinkDetached, SendException

HOST = "localhost"
WAIT_S = 60


class Modes(ReceiverOption):
    """How a receiver settles."""

    def __init__(self, second):
        self.second = second

    def apply(self, receiver):
        receiver.rcv_settle_mode = Link.RCV_SECOND if self.second else Link.RCV_FIRST


class Properties(SenderOption, ReceiverOption):
    """Link properties: symbols to strings."""

    def __init__(self, properties):
        self.properties = {symbol(k): v for k, v in properties.items()}

    def apply(self, link):
        link.properties = self.properties


class Selector(Filter):
    def __init__(self, text, numeric=False):
        name = symbol("apache.org:selector-filter:string")
        super().__init__({name: Described(ulong(0x0000468C00000004) if numeric else name, text)})


class Peer:
    def __init__(self, hub, user=None, password=None, **options):
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_trusted_ca_db(hub.ca())
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
        mechanisms = "PLAIN" if user else "ANONYMOUS"
        self.connection = BlockingConnection("amqps://%s:5671" % HOST, timeout=WAIT_S, ssl_domain=domain, user=user,
                                             password=password, allowed_mechs=mechanisms, **options)
        self.transport = self.connection.conn.transport

    @staticmethod
    def device(hub, name, key, **options):
        return Peer(hub, "%s@sas.%s" % (name, HOST), sas("%s/devices/%s" % (HOST, name), key), **options)

    @staticmethod
    def policy(hub, name, key, **options):
        return Peer(hub, "%s@sas.root.%s" % (name, HOST), sas(HOST, key, policy=name), **options)

    def sender(self, address, **options):
        return self.connection.create_sender(address, **options)

    def receiver(self, address, credit=10, **options):
        return self.connection.create_receiver(address, credit=credit, **options)

    def close(self):
        self.connection.close()


def take(receiver, state=Delivery.ACCEPTED):
    """(message, its delivery)"""
    message = receiver.receive()
    delivery = receiver.fetcher.unsettled[-1] if receiver.fetcher.unsettled else None
    if delivery is not None and state is not None:
        receiver.settle(state)
    return message, delivery


def data(payload, **fields):
    return Message(body=payload, inferred=True, **fields)


def text(message):
    return bytes(message.body).decode()


def exactly(value, kind):
    """Proton gives a class of its own for every wire type that is not Python's."""
    assert type(value) is kind, (value, type(value), kind)
    return value


def detached(work, condition):
    try:
        work()
    except LinkDetached as err:
        assert err.condition == condition, (condition, str(err))
        assert err.link.remote_condition.description, "without a sentence"
        assert err.link.remote_condition.info, "without info"
        return err
    raise AssertionError("not refused")


def telemetry(hub, key):
    peer = Peer.device(hub, "d1", key, max_frame_size=512)
    assert peer.transport.remote_max_frame_size >= 4096 and peer.transport.remote_channel_max >= 255
    sender = peer.sender("/devices/d1/messages/events")
    assert sender.link.credit > 0 and sender.link.remote_max_message_size == 1048576, sender.link.remote_max_message_size
    assert sender.link.remote_target.address == "/devices/d1/messages/events"
    assert sender.link.remote_properties, "a properties map"
    unique = uuid.uuid4()
    values = {"s": "ä", "i": int32(-5), "l": 1 << 40, "b": True, "d": 2.5, "t": timestamp(1700000000123), "u": ubyte(7)}
    sender.send(data(b"typed", properties=values, id=unique, correlation_id=ulong(9), content_type="text/plain",
                     annotations={symbol("iothub-interface-id"): "i1"}))
    sender.send(data(b"z" * 200000))
    sender.send(Message(body="a string value"))
    event, large, value = hub.all_events()
    assert event["systemProperties"]["message-id"] == str(unique) and event["systemProperties"]["correlation-id"] == "9", event
    assert event["systemProperties"]["iothub-interface-id"] == "i1", event
    assert event["properties"]["s"] == "ä" and event["properties"]["i"] == -5 and event["properties"]["l"] == 1 << 40, event
    assert event["properties"]["b"] is True and event["properties"]["d"] == 2.5 and event["properties"]["u"] == 7, event
    assert event["properties"]["t"] == "2023-11-14T22:13:20.123Z" or event["properties"]["t"].startswith("2023-11-14T22:13:20.123"), event
    assert large["body"] == "z" * 200000 and value["body"] == "a string value", value
    # Unsettled by hundreds at once: each gets its own outcome.
    deliveries = [sender.link.send(data(b"%d" % n)) for n in range(300)]
    peer.connection.wait(lambda: all(d.settled for d in deliveries), msg="settling")
    assert {d.remote_state for d in deliveries} == {Delivery.ACCEPTED}
    assert [e["body"] for e in hub.all_events()[3:]] == [str(n) for n in range(300)]
    # A message beyond the limit: told by its condition, the connection stays.
    try:
        sender.send(data(b"y" * 262145))
    except (SendException, LinkDetached):
        pass
    else:
        raise AssertionError("too large, and accepted")
    sender.close()
    again = peer.sender("devices/d1/messages/events", name="again")
    again.send(data(b"after"))
    again.close()
    peer.sender("amqps://%s/devices/d1/messages/events" % HOST, name="again").send(data(b"the same name"))
    peer.close()
    return event["partition"]


def refusals(hub, key):
    peer = Peer.device(hub, "d1", key)
    for address, condition in (("/devices/d2/messages/events", "amqp:unauthorized-access"),
                               ("/messages/devicebound", "amqp:unauthorized-access"), ("/devices/d1/nowhere", "amqp:not-allowed")):
        detached(lambda address=address: peer.sender(address), condition)
    detached(lambda: peer.receiver("/messages/serviceBound/feedback"), "amqp:unauthorized-access")
    peer.sender("/devices/d1/messages/events").send(data(b"the connection stays"))
    peer.close()


def claims(hub, key):
    """ANONYMOUS, then a token on $cbs; types of the reply; the outcome of the request stands before it."""
    peer = Peer(hub)
    detached(lambda: peer.sender("/devices/d1/messages/events"), "amqp:unauthorized-access")
    ask, answers = peer.sender("$cbs"), peer.receiver("$cbs")
    for number, (name, token, status) in enumerate((
            (HOST + "/devices/d1", sas(HOST + "/devices/d1", key), 200), (HOST + "/devices/d1", "nonsense", 400),
            (HOST + "/devices/d1", sas(HOST + "/devices/d1", "AAAA"), 401))):
        identity = ulong(number) if number != 1 else "text"
        properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name}
        ask.send(Message(body=token, id=identity, properties=properties))  # returns with its outcome
        reply, _ = take(answers)
        assert reply.correlation_id == identity and isinstance(reply.correlation_id, str) == (number == 1), reply.correlation_id
        exactly(reply.properties["status-code"], int32)
        assert reply.properties["status-code"] == status and all(type(k) is str for k in reply.properties), reply.properties
        assert ("error-condition" in reply.properties) == (status != 200), reply.properties
    peer.sender("/devices/d1/messages/events").send(data(b"by a token"))
    peer.close()


def devicebound(hub, key):
    for second in (False, True):
        hub.cli("send", "d1", "typed", "-p", "p=1", "--message-id", "m-1", "--correlation-id", "c-1", "--content-type", "text/plain",
                "--ttl", "600", "--ack", "full")
        peer = Peer.device(hub, "d1", key)
        receiver = peer.receiver("/devices/d1/messages/deviceBound", credit=1, options=Modes(second))
        if not second:
            message, delivery = take(receiver, Delivery.RELEASED)
            assert message.annotations["iothub-deliverycount"] == 1
            receiver.link.flow(1)
        message, delivery = take(receiver, None)
        tag = delivery.tag
        assert len(tag if isinstance(tag, bytes) else tag.encode("utf-8", "surrogateescape")) == 16, tag
        exactly(message.annotations["iothub-deliverycount"], ubyte)
        assert message.annotations["iothub-deliverycount"] == (1 if second else 2), message.annotations
        exactly(message.annotations["x-opt-sequence-number"], ulong)
        exactly(message.annotations["iothub-enqueuedtime"], timestamp)
        assert all(type(k) is symbol for k in message.annotations), message.annotations
        assert message.properties == {"p": "1", "iothub-ack": "full"} and all(type(v) is str for v in message.properties.values())
        assert (message.id, message.correlation_id, message.address) == ("m-1", "c-1", "/devices/d1/messages/deviceBound"), message
        assert message.inferred and text(message) == "typed" and message.expiry_time > time.time() and message.content_type == "text/plain"
        if second:
            # Not settled by us: the hub settles once it has completed the message.
            delivery.update(Delivery.ACCEPTED)
            peer.connection.wait(lambda: delivery.settled, msg="the hub's settling")
            assert delivery.remote_state == Delivery.ACCEPTED
            delivery.settle()
        else:
            delivery.update(Delivery.ACCEPTED)
            delivery.settle()
        receiver.link.drain(1)
        peer.connection.wait(lambda: receiver.link.credit == 0, msg="drain")
        assert not receiver.fetcher.has_message, "nothing is left"
        peer.close()


def twin(hub, key):
    peer = Peer.device(hub, "d1", key)
    pair = Properties({"com.microsoft:channel-correlation-id": "twin:1", "com.microsoft:api-version": "2021-04-12"})
    sender = peer.sender("/devices/d1/twin", options=pair)
    receiver = peer.receiver("/devices/d1/twin", credit=100, options=pair)

    def ask(operation, resource=None, body=b" "):
        identity = str(uuid.uuid4())
        annotations = {symbol("operation"): operation}
        if resource:
            annotations[symbol("resource")] = resource
        sender.send(data(body, correlation_id=identity, annotations=annotations))
        while True:
            reply, delivery = take(receiver, None)
            if reply.correlation_id is not None:
                assert exactly(reply.correlation_id, str) == identity and reply.inferred
                exactly(reply.annotations["status"], int32)
                return reply
            told.append(reply)

    told = []
    reply = ask("GET")
    assert reply.annotations["status"] == 200
    assert json.loads(text(reply)) == {"desired": {"$version": 1}, "reported": {"$version": 1}}, text(reply)
    reply = ask("PATCH", "/properties/reported", b'{"a":{"b":1}}')
    assert reply.annotations["status"] in (200, 204) and exactly(reply.annotations["version"], int) == 2, reply.annotations
    assert ask("PATCH", "/properties/reported", b"{nonsense").annotations["status"] == 400
    desired = "/notifications/twin/properties/desired"
    assert ask("PUT", desired).annotations["status"] == 200
    hub.cli("twin", "patch", "d1", '{"properties":{"desired":{"x":1}}}')
    note, _ = take(receiver, None)
    assert note.correlation_id is None and "status" not in note.annotations and note.annotations["resource"] == "/properties/desired"
    assert json.loads(text(note)) == {"x": 1, "$version": 2} and exactly(note.annotations["version"], int) == 2, text(note)
    assert ask("DELETE", desired).annotations["status"] == 200
    hub.cli("twin", "patch", "d1", '{"properties":{"desired":{"x":2}}}')
    assert json.loads(text(ask("GET")))["desired"]["x"] == 2
    assert not told, "told after DELETE"
    peer.close()


def methods(hub, key):
    peer = Peer.device(hub, "d1", key)
    pair = Properties({"com.microsoft:channel-correlation-id": "methods:1"})
    path = "/devices/d1/methods/devicebound"
    sender, receiver = peer.sender(path, options=pair), peer.receiver(path, options=pair)
    answer = {}
    for payload, status in ((b'{"x":[1,2.5]}', 200), (b"null", 404)):
        call = threading.Thread(target=lambda body=payload: answer.update(json.loads(subprocess.run(
            [PROGRAM, "method", "d1", "echo", body.decode(), "--connect-timeout", "60", "-o", "json", "--data", hub.data], check=True,
            stdout=subprocess.PIPE, timeout=90).stdout)))
        call.start()
        request, delivery = take(receiver, None)
        exactly(request.correlation_id, uuid.UUID)
        assert request.properties == {"IoThub-methodname": "echo"} and text(request) == payload.decode(), request
        sender.send(data(b'{"got":' + bytes(request.body) + b"}", correlation_id=request.correlation_id,
                         properties={"IoThub-status": int32(status)}))
        call.join(WAIT_S)
        assert answer == {"status": status, "payload": {"got": json.loads(payload)}}, answer
    peer.close()


def service(hub, policies):
    peer = Peer.policy(hub, "service", policies["service"]["primaryKey"])
    sender = peer.sender("/messages/devicebound")
    for to, condition in (("/devices/nobody/messages/devicebound", "amqp:not-found"), ("nonsense", None)):
        delivery = sender.link.send(data(b"x", address=to))
        peer.connection.wait(lambda: delivery.settled, msg="outcome")
        assert delivery.remote_state == Delivery.REJECTED, delivery.remote_state
        refused = delivery.remote.condition
        assert refused.description and condition in (None, refused.name), (refused.name, refused.description)
    sender.send(data(b"x", address="/devices/d1/messages/devicebound"))
    peer.receiver("/messages/serviceBound/filenotifications")
    for work in (peer.receiver, peer.sender):
        link = work("/messages/events/$management").link  # attached, then sent on
        err = detached(lambda link=link: peer.connection.wait(lambda: link.state & Link.REMOTE_CLOSED), "amqp:link:redirect")
        print("  %s" % err)
    peer.close()


def management(hub, policies, entity):
    peer = Peer.policy(hub, "iothubowner", policies["iothubowner"]["primaryKey"])
    ask, answers = peer.sender("$management"), peer.receiver("$management")

    def read(kind, **more):
        ask.send(Message(id=ulong(3), properties=dict({"operation": "READ", "type": kind, "name": entity}, **more)))
        reply, _ = take(answers)
        assert reply.correlation_id == 3 and exactly(reply.properties["status-code"], int32), reply
        return reply

    about = read("com.microsoft:eventhub").body
    exactly(about["created_at"], timestamp)
    exactly(about["partition_count"], int32)
    exactly(about["georeplication_factor"], int32)
    assert about["name"] == entity and about["type"] == "com.microsoft:eventhub"
    assert list(about["partition_ids"].elements) == ["0", "1", "2", "3"] and about["partition_ids"].type == Data.STRING
    count = 0
    for partition in about["partition_ids"].elements:
        p = read("com.microsoft:partition", partition=partition).body
        assert set(p) == {"name", "type", "partition", "begin_sequence_number", "last_enqueued_sequence_number",
                          "last_enqueued_offset", "last_enqueued_time_utc", "is_partition_empty", "begin_sequence_number_epoch",
                          "last_enqueued_sequence_number_epoch"}, p
        for key, kind in (("begin_sequence_number", int), ("last_enqueued_sequence_number", int), ("last_enqueued_offset", str),
                          ("last_enqueued_time_utc", timestamp), ("is_partition_empty", bool), ("partition", str)):
            exactly(p[key], kind)
        count += p["last_enqueued_sequence_number"] + 1
    assert count == len(hub.all_events())
    wrong = read("com.microsoft:partition", partition="77")
    assert wrong.properties["status-code"] in (400, 404) and "error-condition" in wrong.properties, wrong.properties
    assert read("com.microsoft:nothing").properties["status-code"] >= 400
    peer.close()


def events(hub, policies, entity, partition):
    stored = [e for e in hub.all_events() if e["partition"] == partition]
    peer = Peer.policy(hub, "service", policies["service"]["primaryKey"], max_frame_size=512)
    base = "%s/ConsumerGroups/$Default/Partitions/" % entity
    # In frames of 512 bytes, five credits at a time, never one more.
    receiver = peer.receiver(base + str(partition), credit=0, name="r1", options=Selector("amqp.annotation.x-opt-offset > '-1'"))
    got = []
    while len(got) < len(stored):
        wanted = min(5, len(stored) - len(got))
        receiver.link.flow(wanted)
        batch = [take(receiver)[0] for _ in range(wanted)]
        got += batch
    receiver.link.drain(5)
    peer.connection.wait(lambda: receiver.link.credit == 0, msg="drain")
    assert not receiver.fetcher.has_message
    for message, event in zip(got, stored):
        a = message.annotations
        assert all(type(k) is symbol for k in a), a
        assert exactly(a["x-opt-sequence-number"], int) == event["sequence"] and exactly(a["x-opt-offset"], str) == event["offset"]
        exactly(a["x-opt-enqueued-time"], timestamp)
        assert exactly(a["iothub-connection-device-id"], str) == "d1" and exactly(a["iothub-message-source"], str) == "Telemetry"
        for name in ("iothub-connection-auth-method", "iothub-connection-auth-generation-id"):
            assert exactly(a[name], str) == event["systemProperties"][name]
        exactly(a["iothub-enqueuedtime"], timestamp)
    first = got[0]
    exactly(first.properties["i"], int32)
    exactly(first.properties["t"], timestamp)
    exactly(first.properties["u"], ubyte)
    assert first.properties["l"] == 1 << 40 and first.properties["d"] == 2.5 and first.content_type == "text/plain"
    assert bytes(got[1].body) == b"z" * 200000
    receiver.close()
    # Both descriptors of the filter; a name used again.
    for numeric in (False, True):
        again = peer.receiver(base + str(partition), credit=1, name="r1",
                              options=Selector("amqp.annotation.x-opt-sequence-number > '%d'" % stored[1]["sequence"], numeric))
        assert take(again)[0].annotations["x-opt-sequence-number"] == stored[2]["sequence"]
        again.close()
    detached(lambda: peer.receiver(base + "99"), "amqp:not-found")
    detached(lambda: peer.receiver("elsewhere/ConsumerGroups/$Default/Partitions/0"), "amqp:not-found")
    try:
        peer.receiver(base + "0", options=Selector("nonsense"))
    except LinkDetached as err:
        assert err.condition in ("amqp:invalid-field", "com.microsoft:argument-error"), err.condition
    else:
        raise AssertionError("a filter that cannot be understood")
    sixth = [peer.receiver(base + "0", name="n%d" % n) for n in range(5)]
    detached(lambda: peer.receiver(base + "0", name="n5"), "amqp:resource-limit-exceeded")
    assert len(sixth) == 5
    peer.close()


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    hub.cli("device", "add", "d2")
    shown = hub.json("hub", "show")
    policies = shown["policies"]
    parts = dict(p.split("=", 1) for p in shown["eventHubConnectionString"].split(";") if p)
    entity = parts["EntityPath"]
    partition = telemetry(hub, key)
    steps = ((refusals, hub, key), (claims, hub, key), (management, hub, policies, entity), (events, hub, policies, entity, partition),
             (devicebound, hub, key), (twin, hub, key), (methods, hub, key), (service, hub, policies))
    for step, *arguments in steps:
        print(step.__name__, flush=True)  # the last one named is where a run hangs
        step(*arguments)


with_hub(run)
