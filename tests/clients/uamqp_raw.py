"""A raw user of AMQP with Debian's unmodified python3-uamqp: the published snippets for devices, services, feedback and
events, by their own name, port and roots."""
# conformance: amqp.md 1, 2, 4, 5, 6, 7, 8, 12, 13, 14, 16, 17, 19, 23, 28, 31, 39, 40, 42, 44, 45, 48, 53
import collections
import json
import signal
import time
import urllib.parse
import uuid

import uamqp
from cloud_name import HOST, HUB, with_cloud_hub
from hub import sas
from uamqp import TransportType, address, authentication, errors, types

WAIT_MS = 60000


def uri(user, token, path):
    return "amqps://%s:%s@%s%s" % (urllib.parse.quote_plus(user), urllib.parse.quote_plus(token), HOST, path)


def device_uri(device, key, path, ttl_s=3600):
    return uri("%s@sas.%s" % (device, HUB), sas("%s/devices/%s" % (HOST, device), key, ttl_s), path)


def service_uri(policy, key, path):
    return uri("%s@sas.root.%s" % (policy, HUB), sas(HOST, key, policy=policy), path)


def send(target, *messages, **options):
    """The states of all messages."""
    client = uamqp.SendClient(target, **options)
    client.queue_message(*messages)
    return client.send_all_messages()


def sent(target, *messages, **options):
    states = send(target, *messages, **options)
    assert states and set(states) == {uamqp.constants.MessageState.SendComplete}, states


def receive(source, count, settle=None, **options):
    """@p count messages; @p settle(message) instead of accepting each."""
    client = uamqp.ReceiveClient(source, auto_complete=settle is None, prefetch=max(count, 1), **options)
    got = []
    try:
        while len(got) < count:
            batch = client.receive_message_batch(max_batch_size=count - len(got), timeout=WAIT_MS)
            assert batch, "%d of %d messages" % (len(got), count)
            got += batch
            for message in batch if settle else []:
                settle(message)
    finally:
        client.close()
    return got


def nothing_there(source, **options):
    client = uamqp.ReceiveClient(source, **options)
    try:
        return client.receive_message_batch(timeout=1) == []  # credit is out and all that was queued has come by then
    finally:
        client.close()


def body(message):
    return b"".join(message.get_data()).decode()


def refused(work, *kinds):
    try:
        work()
    except kinds or (errors.AMQPError,) as err:
        return err
    raise AssertionError("it was not refused")


# ---- devices -------------------------------------------------------------------------------------------------------

def telemetry(hub, key):
    events = device_uri("d1", key, "/devices/d1/messages/events")
    properties = uamqp.message.MessageProperties(message_id="m-1", correlation_id="c-1", content_type="application/json",
                                                 content_encoding="utf-8", user_id=b"me")
    unique = uuid.uuid4()
    sent(events,
         uamqp.Message(json.dumps({"t": 21.5}), properties=properties, application_properties={"alarm": "true", "größe": "25 %"}),
         uamqp.Message(b"typed", properties=uamqp.message.MessageProperties(message_id=unique),
                       application_properties={"n": types.AMQPLong(7), "yes": True, "f": 1.5}),
         uamqp.Message(b"number", properties=uamqp.message.MessageProperties(message_id=types.AMQPuLong(77))))
    sent(events, uamqp.BatchMessage(data=[b"b%d" % i for i in range(100)], application_properties={"batch": "1"}))
    sent(events, uamqp.Message(b"x" * 262144))  # some frames
    stored = hub.all_events()
    assert len(stored) == 104, len(stored)
    first, typed, number = stored[:3]
    assert first["body"] == {"t": 21.5} and first["properties"] == {"alarm": "true", "größe": "25 %"}, first
    system = first["systemProperties"]
    assert (system["message-id"], system["correlation-id"], system["content-type"]) == ("m-1", "c-1", "application/json"), system
    assert typed["properties"] == {"n": 7, "yes": True, "f": 1.5}, typed
    assert typed["systemProperties"]["message-id"] == str(unique), typed
    assert number["systemProperties"]["message-id"] == "77", number
    assert [e["body"] for e in stored[3:103]] == ["b%d" % i for i in range(100)]
    assert all(e["properties"] == {"batch": "1"} for e in stored[3:103])
    assert len(stored[103]["body"]) == 262144
    assert all(json.loads(e["systemProperties"]["iothub-connection-auth-method"])["type"] == "sas" for e in stored)
    return stored[0]["partition"]


def refusals(key, other):
    """Each is an error, not a hang."""
    events = "/devices/d1/messages/events"
    user = "d1@sas." + HUB
    token = sas(HOST + "/devices/d1", key)
    cases = {
        "wrong key": device_uri("d1", other, events),
        "expired": device_uri("d1", key, events, -60),
        "another hub": uri("d1@sas.elsewhere", token, events),
        "another device's token": uri("d2@sas." + HUB, token, events),
        "no token": uri(user, "secret", events),
        "unknown device": uri("nobody@sas." + HUB, sas(HOST + "/devices/nobody", key), events),
        "a device as a policy": uri("d1@sas.root." + HUB, token, events),
    }
    for name, target in cases.items():
        started = time.monotonic()
        try:
            sent(target, uamqp.Message(b"refused"))
        except (errors.AMQPError, AssertionError):
            assert time.monotonic() - started < 60, name
        else:
            raise AssertionError("accepted: " + name)
    # The right token, somebody else's links.
    for path in ("/devices/d2/messages/events", "/messages/devicebound", "/devices/d1/twins", "/nowhere"):
        err = refused(lambda path=path: sent(device_uri("d1", key, path), uamqp.Message(b"refused")), errors.LinkDetach,
                      errors.MessageHandlerError)
        print("  %s: %s" % (path, err))


def modules(hub):
    module = hub.json("module", "add", "d1", "m1")
    user = urllib.parse.quote("d1/modules/m1", safe="")
    token = sas(HOST + "/devices/d1/modules/m1", module["primaryKey"])
    target = uri(user + "@sas." + HUB, token, "/devices/d1/modules/m1/messages/events")
    sent(target, uamqp.Message(b"by a module", application_properties={"iothub-outputname": "out"}))
    event = hub.all_events()[-1]
    assert (event["deviceId"], event["moduleId"], event["body"]) == ("d1", "m1", "by a module"), event
    assert event["systemProperties"]["iothub-outputname"] == "out", event


def escaped(hub):
    """An id with what ids may have; percent-encoded in the user name and the address."""
    device = "a:b+c#d?e%f"
    key = hub.json("device", "add", device)["primaryKey"]
    quoted = urllib.parse.quote(device, safe="")
    resource = "%s/devices/%s" % (HOST, device)
    login = authentication.SASLPlain(HOST, "%s@sas.%s" % (quoted, HUB), sas(resource, key))
    sent("amqps://%s/devices/%s/messages/events" % (HOST, quoted), uamqp.Message(b"escaped"), auth=login)
    event = hub.all_events()[-1]
    assert (event["deviceId"], event["body"]) == (device, "escaped"), event


def devicebound(hub, key):
    bound = device_uri("d1", key, "/devices/d1/messages/devicebound")
    for text in ("one", "two", "three"):
        hub.cli("send", "d1", text, "-p", "n=" + text)
    settled = collections.Counter()

    def settle(message):
        settled[body(message)] += 1
        if body(message) == "two":
            assert message.reject()
        elif body(message) == "three" and settled["three"] == 1:
            assert message.release()
        else:
            assert message.accept()

    got = receive(bound, 4, settle)
    assert [body(m) for m in got] == ["one", "two", "three", "three"], [body(m) for m in got]
    first, again = got[0], got[3]
    assert first.application_properties == {b"n": b"one"}, first.application_properties
    assert first.properties.to.lower() == b"/devices/d1/messages/devicebound", first.properties.to
    assert first.annotations[b"iothub-deliverycount"] == 1 and again.annotations[b"iothub-deliverycount"] == 2
    assert abs(first.annotations[b"iothub-enqueuedtime"] / 1000 - time.time()) < 60, first.annotations
    assert first.annotations[b"x-opt-sequence-number"] < again.annotations[b"x-opt-sequence-number"]
    assert nothing_there(device_uri("d1", key, "/DEVICES/d1/messages/deviceBound"))


# ---- services ------------------------------------------------------------------------------------------------------

def cloud_to_device(hub, device_key, policies):
    key = policies["service"]["primaryKey"]

    def message(device, text, **properties):
        to = "/devices/%s/messages/devicebound" % device
        return uamqp.Message(text, properties=uamqp.message.MessageProperties(to=to, **properties),
                             application_properties={"iothub-ack": "full", "p": "v"})

    target = service_uri("service", key, "/messages/devicebound")
    # A batch goes when it has 64 records; otherwise it waits for some seconds.
    sent(target, *(message("d1", "to be rejected" if n == 2 else "to be completed", message_id="id-%d" % n) for n in range(64)))
    got = receive(device_uri("d1", device_key, "/devices/d1/messages/devicebound"), 64,
                  lambda m: m.accept() if body(m) == "to be completed" else m.reject())
    assert got[1].application_properties[b"p"] == b"v" and got[1].properties.message_id == b"id-1", got[1].properties

    records = []
    feedback = uamqp.ReceiveClient(service_uri("service", key, "/messages/serviceBound/feedback"))
    while len(records) < 64:
        for batch in feedback.receive_message_batch(max_batch_size=10, timeout=WAIT_MS):
            assert batch.properties.content_type == b"application/vnd.microsoft.iothub.feedback.json", batch.properties
            assert batch.properties.user_id == HUB.encode() and b"iothub-enqueuedtime" in batch.annotations, batch.annotations
            records += json.loads(body(batch))
    feedback.close()
    expected = {"id-%d" % n: "Rejected" if n == 2 else "Success" for n in range(64)}
    assert {r["originalMessageId"]: r["statusCode"] for r in records} == expected, records
    for record in records:
        assert set(record) == {"originalMessageId", "enqueuedTimeUtc", "statusCode", "description", "deviceId",
                               "deviceGenerationId"}, record
        assert record["deviceId"] == "d1" and record["enqueuedTimeUtc"].endswith("Z"), record

    states = send(target, message("nobody", "lost", message_id="1"), message("d1", "goes on", message_id="2"))
    assert [s.name for s in states] == ["SendFailed", "SendComplete"], states
    err = refused(lambda: uamqp.SendClient(target).send_message(message("nobody", "lost", message_id="3"), close_on_done=True),
                  errors.ClientMessageError)
    assert err.condition == uamqp.constants.ErrorCodes.NotFound and b"DeviceNotFound" in err.description, (err.condition,
                                                                                                          err.description)
    # A policy without the right, and one that does not exist.
    reader = policies["registryRead"]["primaryKey"]
    refused(lambda: sent(service_uri("registryRead", reader, "/messages/devicebound"), message("d1", "x")))
    for policy, wrong in (("nobody", key), ("service", reader)):
        try:
            sent(service_uri(policy, wrong, "/messages/devicebound"), message("d1", "x"))
        except (errors.AMQPError, AssertionError):
            continue
        raise AssertionError("accepted: policy " + policy)


# ---- events --------------------------------------------------------------------------------------------------------

def filtered(target, text):
    source = address.Source(target)
    source.set_filter(text)
    return source


def events(hub, policies, partition):
    """The published way: PLAIN at the hub, the redirect, then CBS at where it leads."""
    key = policies["service"]["primaryKey"]
    path = "/messages/events/ConsumerGroups/$Default/Partitions/%d" % partition
    client = uamqp.ReceiveClient(filtered(service_uri("service", key, path), b"amqp.annotation.x-opt-sequence-number > 1"))
    redirect = refused(lambda: client.receive_message_batch(max_batch_size=5), errors.LinkRedirect)
    client.close()
    where = redirect.address.decode()
    assert redirect.hostname.decode() == HOST and redirect.network_host.decode() == HOST and redirect.port == 5671, redirect.info
    assert where == "amqps://%s:5671/%s/ConsumerGroups/$Default/Partitions/%d" % (HOST, HUB, partition), where

    stored = [e for e in hub.all_events() if e["partition"] == partition]

    def auth():
        return authentication.SASTokenAuth.from_shared_access_key(where, "service", key)

    def read(text, count):
        return receive(filtered(where, text.encode()), count, auth=auth())

    got = receive(where, len(stored), auth=auth())
    assert [m.annotations[b"x-opt-sequence-number"] for m in got] == [e["sequence"] for e in stored]
    for message, event in zip(got, stored):
        assert message.annotations[b"x-opt-offset"].decode() == event["offset"]
        assert message.annotations[b"iothub-connection-device-id"].decode() == event["deviceId"]
        assert message.annotations[b"iothub-enqueuedtime"] == event["systemProperties"]["iothub-enqueuedtime"]
        assert message.annotations[b"iothub-message-source"] == b"Telemetry"
    assert body(got[0]) == '{"t": 21.5}' and got[0].application_properties[b"alarm"] == b"true"
    assert got[1].application_properties == {b"n": 7, b"yes": True, b"f": 1.5}, got[1].application_properties

    middle = stored[2]
    time_ms = got[2].annotations[b"x-opt-enqueued-time"]
    for text, first in (("amqp.annotation.x-opt-sequence-number > %d" % middle["sequence"], stored[3]["sequence"]),
                        ("amqp.annotation.x-opt-sequence-number >= '%d'" % middle["sequence"], stored[2]["sequence"]),
                        ("amqp.annotation.x-opt-offset > '-1'", stored[0]["sequence"]),
                        ("amqp.annotation.x-opt-offset > '%s'" % middle["offset"], stored[3]["sequence"]),
                        ("amqp.annotation.x-opt-offset>=%s" % middle["offset"], stored[2]["sequence"])):
        assert read(text, 1)[0].annotations[b"x-opt-sequence-number"] == first, text
    for name in ("x-opt-enqueued-time", "x-opt-enqueuedtimeutc"):
        got = read("amqp.annotation.%s > %d" % (name, time_ms - 1), 1)[0]
        assert got.annotations[b"x-opt-enqueued-time"] >= time_ms, name
    err = refused(lambda: read("x-opt-nothing = 1", 1), errors.LinkDetach)
    assert err.condition in (b"amqp:invalid-field", b"com.microsoft:argument-error", uamqp.constants.ErrorCodes.InvalidField), err.condition
    nobody = where.replace("$Default", "nobody")
    auth_of_nobody = authentication.SASTokenAuth.from_shared_access_key(nobody, "service", key)
    err = refused(lambda: receive(nobody, 1, auth=auth_of_nobody), errors.LinkDetach)
    assert err.condition == uamqp.constants.ErrorCodes.NotFound, err.condition


def management(hub, policies):
    """As az iot monitors: redirect of $management, READ there."""
    key = policies["iothubowner"]["primaryKey"]
    client = uamqp.ReceiveClient(service_uri("iothubowner", key, "/messages/events/$management"))
    redirect = refused(lambda: client.receive_message_batch(max_batch_size=1), errors.LinkRedirect)
    client.close()
    assert redirect.address.decode() == "amqps://%s:5671/%s/$management" % (HOST, HUB), redirect.address
    auth = authentication.SASTokenAuth.from_shared_access_key("sb://%s/%s" % (HOST, HUB), "iothubowner", key)
    client = uamqp.AMQPClient("amqps://%s/%s" % (HOST, HUB), auth=auth)
    client.open()
    ask = uamqp.Message(application_properties={"name": HUB})
    answer = client.mgmt_request(ask, b"READ", op_type=b"com.microsoft:eventhub", status_code_field=b"status-code",
                                 description_fields=b"status-description", timeout=WAIT_MS)
    about = answer.get_data()
    client.close()
    assert about[b"name"] == HUB.encode() and about[b"partition_count"] == 4, about
    assert about[b"partition_ids"] == [b"0", b"1", b"2", b"3"], about


# ---- tokens put on $cbs --------------------------------------------------------------------------------------------

def claims(hub, key, other):
    target = "amqps://%s/devices/d1/messages/events" % HOST
    token = sas(HOST + "/devices/d1", key)

    def by_sas(audience, text=token, **options):
        return authentication.SASTokenAuth(audience, target, text, expires_at=time.time() + 3600, **options)

    names = (HOST + "/devices/d1", "amqps://%s:5671/devices/d1" % HOST, "sb://%s/devices/d1/" % HOST,
             urllib.parse.quote(HOST + "/devices/d1", safe=""), "https://%s/devices/d1/messages/events" % HOST.upper())
    for name in names:
        sent(target, uamqp.Message(name), auth=by_sas(name))
    given = collections.namedtuple("AccessToken", "token expires_on")
    jwt = authentication.JWTTokenAuth("sb://%s/devices/d1" % HOST, target, lambda: given(token, time.time() + 3600))
    sent(target, uamqp.Message(b"jwt"), auth=jwt)
    stored = [e["body"] for e in hub.all_events()[-len(names) - 1:]]
    assert stored == list(names) + ["jwt"], stored

    none = authentication.TokenRetryPolicy(retries=0)
    bad = {"signature": sas(HOST + "/devices/d1", other), "expired": sas(HOST + "/devices/d1", key, -60), "text": "nothing"}
    for name, text in bad.items():
        auth = by_sas(HOST + "/devices/d1", text, retry_policy=none)
        err = refused(lambda auth=auth: sent(target, uamqp.Message(b"refused"), auth=auth), errors.TokenAuthFailure)
        assert err.status_code == (400 if name == "text" else 401), (name, err)
    # Without any token: the link is refused, with words.
    err = refused(lambda: sent(target, uamqp.Message(b"refused"), auth=authentication.SASLAnonymous(HOST)))
    assert "nauthorized" in str(err), err


def over_websocket(hub, key, policies):
    options = {"transport_type": TransportType.AmqpOverWebsocket}
    token = sas(HOST + "/devices/d1", key)
    plain = authentication.SASLPlain(HOST, "d1@sas." + HUB, token, port=443, **options)
    sent("amqps://%s/devices/d1/messages/events" % HOST, uamqp.Message(b"y" * 200000), auth=plain, **options)
    last = hub.all_events()[-1]
    assert last["body"] == "y" * 200000
    where = "amqps://%s/%s/ConsumerGroups/$default/Partitions/%d" % (HOST, HUB, last["partition"])
    auth = authentication.SASTokenAuth.from_shared_access_key(where, "service", policies["service"]["primaryKey"], port=443,
                                                              **options)
    got = receive(filtered(where, b"amqp.annotation.x-opt-sequence-number >= %d" % last["sequence"]), 1, auth=auth, **options)
    assert body(got[0]) == last["body"]


# ---- the hub goes and comes -----------------------------------------------------------------------------------------

def send_until(client, complete):
    """Work until complete() or the connection fails, as a loop of the application's own would."""
    try:
        client.open()
        while not complete():
            client.do_work()
    except errors.AMQPError:
        pass


def killed(hub, key, count=600):
    """In the middle of sending: what was accepted is stored, what was not is sent again by the application."""
    events = device_uri("d1", key, "/devices/d1/messages/events")
    accepted = set()

    def message(n):
        made = uamqp.Message(b"killed %d" % n)
        made.on_send_complete = lambda result, err: accepted.add(n) if result == uamqp.constants.MessageSendResult.Ok else None
        return made

    client = uamqp.SendClient(events)
    half = count // 2
    client.queue_message(*map(message, range(half)))
    send_until(client, lambda: len(accepted) == half)
    assert len(accepted) == half, len(accepted)
    client.queue_message(*map(message, range(half, count)))
    client.do_work()  # on their way
    hub.kill(signal.SIGKILL)
    send_until(client, lambda: len(accepted) == count)
    client.close()
    before = set(accepted)
    hub.start()
    stored = {str(e["body"]) for e in hub.all_events()}
    assert {"killed %d" % n for n in before} <= stored, "accepted and lost"
    sent(events, uamqp.Message(b"one more"), *(uamqp.Message(b"killed %d" % n) for n in range(count) if n not in before))
    stored = {str(e["body"]) for e in hub.all_events()}
    assert {"killed %d" % n for n in range(count)} <= stored


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    other = hub.json("device", "add", "d2")["primaryKey"]
    policies = hub.json("hub", "show")["policies"]
    partition = telemetry(hub, key)
    steps = ((refusals, key, other), (events, hub, policies, partition), (modules, hub), (escaped, hub), (devicebound, hub, key),
             (cloud_to_device, hub, key, policies), (management, hub, policies), (claims, hub, key, other),
             (over_websocket, hub, key, policies), (killed, hub, key))
    for step, *arguments in steps:
        print(step.__name__, flush=True)  # the last one named is where a run hangs
        step(*arguments)


with_cloud_hub(run)
