"""azure.eventhub of Debian's python3-azure (its own engine, pyamqp): properties, every start position, an owner with a
higher level, a consumer that goes on over the end of the hub, and WebSocket."""
# conformance: amqp.md 2, 4, 10, 12, 14, 16, 17, 19, 45, 46, 47, 48, 49, 50, 51, 52, 54, 56
import base64
import concurrent.futures
import datetime
import json
import queue
import signal
import sys
import threading

sys.path.append(sys.path.pop(0))  # the client imports a package whose name a test beside this one has too
import uamqp
from azure.eventhub import EventData, EventHubConsumerClient, EventHubProducerClient, TransportType
from azure.eventhub._pyamqp import ReceiveClient
from azure.eventhub._pyamqp.authentication import SASLPlainAuth
from azure.eventhub._pyamqp.error import AMQPLinkRedirect
from azure.eventhub.exceptions import AuthenticationError, ConnectError, ConnectionLostError, EventHubError
from hub import sas, with_hub
from uamqp import authentication

HOST = "localhost"
DEVICES, EACH = 6, 50
WAIT_S = 90


class Reader:
    """One receive_batch() on a thread of its own; events and errors become a queue."""

    def __init__(self, client, **options):
        self.client, self.seen, self.events, self.errors = client, queue.Queue(), [], []
        options.setdefault("max_wait_time", 0.1)
        self.thread = threading.Thread(target=client.receive_batch, args=(self.on_events,),
                                       kwargs=dict(options, on_error=self.on_error), daemon=True)
        self.thread.start()

    def on_events(self, context, events):
        for event in events:
            self.seen.put((context, event))

    def on_error(self, _context, error):
        self.seen.put((None, error))

    def until(self, condition, what):
        while not condition(self):
            try:
                context, thing = self.seen.get(timeout=WAIT_S)
            except queue.Empty:
                raise AssertionError("%s: %d events, errors %r" % (what, len(self.events), self.errors)) from None
            if context is None:
                self.errors.append(thing)
            else:
                self.events.append((context.partition_id, thing, context.last_enqueued_event_properties))
        return self

    def stop(self):
        self.client.close()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def in_order(self):
        following = {}
        for partition, event, _ in self.events:
            assert event.sequence_number == following.get(partition, event.sequence_number), (partition, event.sequence_number)
            following[partition] = event.sequence_number + 1


class Endpoint:
    def __init__(self, hub):
        self.ca = hub.ca()
        self.string = hub.json("hub", "show")["eventHubConnectionString"]

    def consumer(self, **options):
        return EventHubConsumerClient.from_connection_string(self.string, options.pop("group", "$Default"), connection_verify=self.ca,
                                                             retry_backoff_factor=0.1, **options)

    def read(self, count, transport=TransportType.Amqp, **options):
        """@p count events, then close."""
        reader = Reader(self.consumer(transport_type=transport), **options)
        reader.until(lambda r: len(r.events) >= count or r.errors, "%d events" % count)
        reader.stop()
        assert not reader.errors, reader.errors
        reader.in_order()
        return reader.events


class Device:
    """A sender of telemetry, python3-uamqp underneath."""

    def __init__(self, hub, ca, name):
        self.hub, self.ca, self.name = hub, ca, name
        self.key = hub.json("device", "add", name)["primaryKey"]

    def send(self, *messages):
        token = sas("%s/devices/%s" % (HOST, self.name), self.key)
        auth = authentication.SASLPlain(HOST, "%s@sas.%s" % (self.name, HOST), token, verify=self.ca)
        client = uamqp.SendClient("amqps://%s/devices/%s/messages/events" % (HOST, self.name), auth=auth)
        client.queue_message(*messages)
        states = client.send_all_messages()
        assert set(states) == {uamqp.constants.MessageState.SendComplete}, states


def body(event):
    return b"".join(event.body).decode()


def properties(endpoint):
    with endpoint.consumer() as client:
        about = client.get_eventhub_properties()
        assert about["eventhub_name"] in endpoint.string and about["partition_ids"] == ["0", "1", "2", "3"], about
        assert abs(about["created_at"] - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=10), about
        assert client.get_partition_ids() == about["partition_ids"]
        count = 0
        for partition in about["partition_ids"]:
            p = client.get_partition_properties(partition)
            assert p["id"] == partition and p["beginning_sequence_number"] == 0, p
            assert p["is_empty"] or int(p["last_enqueued_offset"]) >= 0, p
            count += 0 if p["is_empty"] else p["last_enqueued_sequence_number"] + 1
        assert count == DEVICES * EACH, count
        try:
            client.get_partition_properties("77")
        except EventHubError:
            pass
        else:
            raise AssertionError("there is no such partition")


def contents(endpoint):
    events = endpoint.read(DEVICES * EACH, starting_position="-1", track_last_enqueued_event_properties=True)
    following = {}
    for _, event, last in events:
        told = json.loads(body(event))
        assert told["n"] == following.get(told["d"], 0), told
        following[told["d"]] = told["n"] + 1
        system = {(k.decode() if isinstance(k, bytes) else k): v for k, v in event.system_properties.items()}
        assert system["iothub-connection-device-id"] == told["d"].encode(), system
        assert json.loads(system["iothub-connection-auth-method"])["type"] == "sas", system
        assert system["iothub-message-source"] == b"Telemetry" and isinstance(system["iothub-enqueuedtime"], int), system
        assert event.properties == {b"n": str(told["n"]).encode()}, event.properties
        assert event.offset.isdigit() and event.enqueued_time.tzinfo, (event.offset, event.enqueued_time)
        assert last["sequence_number"] >= event.sequence_number and last["retrieval_time"], last
    assert following == {"d%d" % d: EACH for d in range(DEVICES)}, following
    return events


def positions(endpoint, events):
    """Work to be done: each start position and what has to be read first."""
    partition = events[0][0]
    mine = [event for p, event, _ in events if p == partition]
    middle = mine[20]

    def first(expected, position, inclusive=False):
        got = endpoint.read(1, partition_id=partition, starting_position=position, starting_position_inclusive=inclusive)
        assert got[0][1].sequence_number == expected, (position, inclusive, got[0][1].sequence_number)

    here = middle.sequence_number
    after = next(event for event in mine if event.enqueued_time >= middle.enqueued_time)
    return [(first, here + 1, here), (first, here, here, True), (first, here + 1, middle.offset), (first, here, middle.offset, True),
            (first, after.sequence_number, middle.enqueued_time - datetime.timedelta(milliseconds=1)),
            (first, 0, {"0": "-1", "1": "-1", "2": "-1", "3": "-1"})]


def latest(endpoint, device, partition):
    reader = Reader(endpoint.consumer(), partition_id=partition, starting_position="@latest")
    sent = 0
    while reader.seen.empty():  # when its links stand, the client does not tell
        device.send(uamqp.Message(json.dumps({"marker": sent})))
        sent += 1
    device.send(uamqp.Message(json.dumps({"marker": sent})))
    reader.until(lambda r: r.events and json.loads(body(r.events[-1][1])).get("marker") == sent, "the last marker")
    reader.stop()
    assert all("marker" in body(event) for _, event, _ in reader.events)
    reader.in_order()


def owners(endpoint):
    first = Reader(endpoint.consumer(group="owners"), partition_id="0", starting_position="-1", owner_level=1)
    first.until(lambda r: r.events, "the first owner reads")
    second = Reader(endpoint.consumer(group="owners"), partition_id="0", starting_position="-1", owner_level=2)
    second.until(lambda r: r.events, "the second owner reads")
    first.until(lambda r: r.errors, "the first owner is told")
    assert isinstance(first.errors[0], ConnectionLostError) and "stolen" in str(first.errors[0]), first.errors
    first.stop()
    assert not second.errors, second.errors
    second.stop()


def over_websocket(endpoint, events):
    mine = [event.sequence_number for p, event, _ in events if p == events[0][0]]
    got = endpoint.read(len(mine), TransportType.AmqpOverWebsocket, partition_id=events[0][0], starting_position="-1")
    assert [event.sequence_number for _, event, _ in got] == mine


def refusals(endpoint):
    wrong = ";".join("SharedAccessKey=" + base64.b64encode(b"7" * 32).decode() if p.startswith("SharedAccessKey=") else p
                     for p in endpoint.string.split(";"))
    client = EventHubConsumerClient.from_connection_string(wrong, "$Default", connection_verify=endpoint.ca, retry_total=0)
    with client:
        try:
            client.get_eventhub_properties()
        except (AuthenticationError, ConnectError) as error:
            print("  wrong key: %s" % error)
        else:
            raise AssertionError("a wrong key was accepted")
    nobody = Reader(endpoint.consumer(group="nobody", retry_total=0), partition_id="0", starting_position="-1")
    nobody.until(lambda r: r.errors, "a group that does not exist")
    assert "not-found" in str(nobody.errors[0]).lower() or "not found" in str(nobody.errors[0]).lower(), nobody.errors
    nobody.stop()
    producer = EventHubProducerClient.from_connection_string(endpoint.string, connection_verify=endpoint.ca, retry_total=0)
    with producer:
        try:
            producer.send_batch([EventData("x")])
        except EventHubError as error:
            print("  sending: %s" % error)
        else:
            raise AssertionError("the endpoint is for reading")


def redirected(hub):
    """From the hub's own address, as the newer az iot finds the endpoint with this client's engine."""
    token = sas("localhost", hub.json("hub", "show")["policies"]["service"]["primaryKey"], policy="service")
    client = ReceiveClient("localhost", "amqps://localhost/messages/events/$management", prefetch=1, connection_verify=hub.ca(),
                           auth=SASLPlainAuth(authcid="service@sas.root.localhost", passwd=token))
    try:
        client.open()
        client.receive_message_batch(max_batch_size=1, timeout=WAIT_S)
    except AMQPLinkRedirect as err:
        assert err.hostname == "localhost" and err.address.endswith("/$management"), (err.hostname, err.address)
    else:
        raise AssertionError("not redirected")
    finally:
        client.close()


def killed(hub, endpoint, device):
    """Reading goes on over the hub's end: nothing is missed, nothing comes twice."""
    reader = Reader(endpoint.consumer(retry_total=30, retry_backoff_max=1), starting_position="-1")
    before = len(hub.all_events())
    reader.until(lambda r: len(r.events) >= before, "all until now")
    hub.kill(signal.SIGKILL)
    hub.start()
    device.send(*(uamqp.Message(json.dumps({"after": n})) for n in range(20)))
    reader.until(lambda r: len(r.events) >= before + 20, "events of the second life")
    reader.stop()
    reader.in_order()
    assert [json.loads(body(e))["after"] for _, e, _ in reader.events[before:]] == list(range(20))


def run(hub):
    endpoint = Endpoint(hub)
    hub.cli("consumer-group", "add", "owners")
    devices = [Device(hub, endpoint.ca, "d%d" % d) for d in range(DEVICES)]
    for device in devices:
        device.send(uamqp.BatchMessage(data=(
            uamqp.Message(json.dumps({"d": device.name, "n": n}), application_properties={"n": str(n)}) for n in range(EACH))))

    def step(work, *arguments):
        print(work.__name__, flush=True)  # the last one named is where a run hangs
        return work(*arguments)

    step(redirected, hub)
    events = step(contents, endpoint)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # the client waits most of the time
        work = [(properties, endpoint), (over_websocket, endpoint, events), (owners, endpoint), (refusals, endpoint)]
        for done in [pool.submit(step, *one) for one in work + positions(endpoint, events)]:
            done.result()
    step(latest, endpoint, devices[0], next(p for p, event, _ in events if json.loads(body(event))["d"] == "d0"))
    step(killed, hub, endpoint, devices[1])


with_hub(run, config="limits:\n  readers_per_partition: 32\n")  # most of the work is done at once
