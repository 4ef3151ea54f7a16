"""Races over AMQP: two connections that want one device, links that come and go, readers of all levels, the hub's end."""
import collections
import itertools
import json
import random
import signal

import amqp
from amqp_kit import *  # pylint: disable=unused-wildcard-import,wildcard-import
from wire import Wire, packet, text

BOUND = "/devices/%s/messages/devicebound"
FEEDBACK = "/messages/serviceBound/feedback"
GONE = (OSError, amqp.Closed)
HELD = amqp.described(amqp.ACCEPTED, amqp.EMPTY)


def together(*calls, seconds=4 * PATIENCE_S):
    """Run all at once. Raises what one of them raised."""
    failures = []

    def run_one(call):
        try:
            call()
        except BaseException as error:  # told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=run_one, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "somebody hangs"
    if failures:
        raise failures[0]


# ---- messages to a device that two connections want -----------------------------------------------------------------


def to_device(device, name):
    about = amqp.described(0x73, amqp.many(0xD0, [amqp.string(name), amqp.NULL, amqp.string(BOUND % device)]))
    return about + amqp.properties({"iothub-ack": "full"}) + amqp.data(name)


class Mailbox:
    """What the device got, and what the hub says became of it. Feedback comes by 64 records, or late: 64 are sent in all."""

    def __init__(self, device, key, service):
        self.device, self.key, self.service = device, key, service
        self.got, self.ends = collections.Counter(), collections.defaultdict(set)
        self.stop = threading.Event()
        self.sent = 0

    def settled(self):
        return len(self.ends)

    def send(self, count):
        with amqp.Peer().policy("service", self.service) as peer:
            peer.sender("/messages/devicebound")
            for _ in range(count):
                self.sent += 1
                peer.send(amqp.transfer(0, self.sent, to_device(self.device, "m%d" % self.sent)))
                state = peer.until(amqp.DISPOSITION).fields[4]
                assert state.code == amqp.ACCEPTED, state

    def over_amqp(self, chance):
        """Connects, takes some, goes or is thrown out; again and again."""
        while not self.stop.is_set():
            try:
                with amqp.Peer().device(self.device, self.key) as peer:
                    peer.begin()
                    peer.link("bound", 0, BOUND % self.device, False)
                    peer.sock.settimeout(1)
                    peer.send(amqp.flow(0, 50))
                    for _ in range(chance.randrange(1, 30)):
                        taken = peer.until(amqp.TRANSFER)
                        self.got[amqp.sections(taken.payload)[0x75]] += 1
                        peer.send(amqp.disposition(taken.fields[1], taken.fields[1], settled=chance.random() < 0.5, state=HELD))
            except GONE:
                self.stop.wait(0.05 * chance.random())  # as clients do, so that the other one gets somewhere

    def over_mqtt(self, chance):
        while not self.stop.is_set():
            try:
                with Wire(self.device, self.key) as wire:
                    wire.sock.settimeout(1)
                    wire.send(packet(0x82, b"\0\1" + text("devices/%s/messages/devicebound/#" % self.device) + b"\1"))
                    for _ in range(chance.randrange(1, 30)):
                        first, body = self.publish(wire)
                        if first >> 4 != 3:
                            continue
                        at = 2 + struct.unpack(">H", body[:2])[0]
                        self.got[body[at + 2:]] += 1
                        wire.send(b"\x40\x02" + body[at:at + 2])
            except GONE:
                self.stop.wait(0.05 * chance.random())

    @staticmethod
    def publish(wire):
        """(first byte, the rest) of the next packet."""
        first, length, shift = wire.take(1)[0], 0, 0
        while True:
            digit = wire.take(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return first, wire.take(length)

    def feedback(self):
        while not self.stop.is_set():
            try:
                with amqp.Peer().policy("service", self.service) as peer:
                    peer.begin()
                    peer.link("feedback", 0, FEEDBACK, False)
                    peer.sock.settimeout(1)
                    peer.send(amqp.flow(0, 1000))
                    while not self.stop.is_set():
                        taken = peer.until(amqp.TRANSFER)
                        body = taken.payload
                        while taken.fields[5]:
                            taken = peer.until(amqp.TRANSFER)
                            body += taken.payload
                        for record in json.loads(amqp.sections(body)[0x75]):
                            self.ends[record["originalMessageId"]].add(record["statusCode"])
                        peer.send(amqp.disposition(taken.fields[1], taken.fields[1], state=HELD))
            except GONE:
                pass

    def judge(self):
        names = {"m%d" % (number + 1) for number in range(self.sent)}
        assert {name.decode() for name in self.got} == names, "never delivered: %s" % sorted(names - {n.decode() for n in self.got})[:5]
        assert set(self.ends) == names and all(ends == {"Success"} for ends in self.ends.values()), dict(self.ends)


def fights(target, service, rounds=itertools.count()):
    """Over AMQP and MQTT at once, each throwing the other out: every message comes, and is completed once."""
    def assault():
        device = "fought-%d" % next(rounds)
        box = Mailbox(device, target.hub.json("device", "add", device)["primaryKey"], service)

        def conduct():
            try:
                for _ in range(4):
                    box.send(16)
                deadline = time.monotonic() + 2 * PATIENCE_S
                while box.settled() < box.sent:
                    assert time.monotonic() < deadline, "%d of %d were completed" % (box.settled(), box.sent)
                    time.sleep(0.05)  # they come by feedback
            finally:
                box.stop.set()

        together(conduct, box.feedback, lambda: box.over_amqp(random.Random(1)), lambda: box.over_mqtt(random.Random(2)),
                 lambda: box.over_amqp(random.Random(3)))
        box.judge()
    return assault


def killed(target, service):
    """The same while the hub is killed: nothing accepted is lost."""
    hub = target.hub
    box = Mailbox("killed", hub.json("device", "add", "killed")["primaryKey"], service)

    def conduct():
        try:
            for _ in range(3):
                box.send(16)
                hub.kill(signal.SIGKILL)
                hub.start()
            target.pid = hub.process.pid
            box.send(16)
            deadline = time.monotonic() + 2 * PATIENCE_S
            while box.settled() < box.sent:
                assert time.monotonic() < deadline, "%d of %d were completed" % (box.settled(), box.sent)
                time.sleep(0.05)
        finally:
            box.stop.set()

    started = time.monotonic()
    together(conduct, box.feedback, lambda: box.over_amqp(random.Random(1)), lambda: box.over_mqtt(random.Random(2)))
    box.judge()
    print("%-44s %6.2f s" % ("killed in the middle of it", time.monotonic() - started), flush=True)


# ---- links that come and go ------------------------------------------------------------------------------------------


def reattach(target, key):
    """ATTACH and DETACH of one name and handle, by the hundred in one segment, for each kind of link, with use in between."""
    detach = amqp.frame(amqp.perf(amqp.DETACH, amqp.uint(0), amqp.TRUE))

    def message(number):
        return amqp.transfer(0, number, amqp.data(b"{}"), settled=True)

    def credit(_):
        return amqp.flow(0, 100)

    kinds = (("/devices/evil/messages/events", True, message), (BOUND % "evil", False, credit), ("/devices/evil/twin", True, message),
             ("/devices/evil/twin", False, credit), ("/devices/evil/methods/devicebound", False, credit),
             ("$cbs", True, message), ("$cbs", False, credit))

    def assault():
        target.hub.cli("send", "evil", "stays")
        for address, sends, use in kinds:
            for between in (lambda _: b"", use):
                with amqp.Peer().device("evil", key) as peer:
                    peer.begin()
                    peer.send(*[amqp.attach("same", 0, address, sends) + between(number) + detach for number in range(200)])
                    for _ in range(200):
                        while peer.receive().code != amqp.DETACH:
                            pass
                    peer.link("same", 0, address, sends)
                    # The same name on another handle: the link that was is gone.
                    peer.send(*[amqp.attach("same", handle, address, sends) for handle in range(1, 40)])
                    stolen = 0
                    while stolen < 39:
                        got = peer.receive()
                        assert got.code not in (amqp.END, amqp.CLOSE), (address, got.error())
                        stolen += got.code == amqp.DETACH
                    peer.send(amqp.frame(amqp.perf(amqp.CLOSE)))
                    while peer.receive().code != amqp.CLOSE:
                        pass
    return assault


# ---- tokens ----------------------------------------------------------------------------------------------------------


class Claims:
    """A connection whose tokens are put on $cbs."""

    def __init__(self, peer):
        self.peer = peer.anonymous()
        self.number = 0
        peer.begin(60)
        peer.link("cbs-out", 0, "$cbs", True, channel=60)
        peer.link("cbs-in", 1, "$cbs", False, channel=60)
        peer.send(amqp.flow(1, 1000, channel=60))

    def put(self, name, token):
        """@return the status"""
        operation = amqp.properties({"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name})
        about = amqp.perf(0x73, amqp.string("id%d" % self.number), amqp.NULL, amqp.string("$cbs"))
        self.peer.send(amqp.transfer(0, self.number, about + operation + amqp.described(0x77, amqp.string(token)), channel=60, settled=True))
        self.number += 1
        return amqp.sections(self.peer.until(amqp.TRANSFER).payload)[0x74]["status-code"]


def tokens(target, keys):
    """Others' names, shorter tokens, worse tokens, while links live: nobody else is hurt, and nothing is opened."""
    a, b = "claims-a", "claims-b"

    def audience(device):
        return "localhost/devices/" + device

    def sends(peer, channel, number):
        peer.send(amqp.transfer(0, number, amqp.data(b"t"), channel=channel))
        got = peer.until(amqp.DISPOSITION)
        assert (got.channel, got.fields[4].code) == (channel, amqp.ACCEPTED), got.fields

    def assault():
        with amqp.Peer() as peer:
            claims = Claims(peer)
            assert claims.put(audience(b), sas(audience(b), keys[b])) == 200
            try:
                peer.sender("/devices/%s/messages/events" % a)
                raise AssertionError("a link to another's address")
            except amqp.Closed as refused:
                assert "unauthorized-access" in str(refused), refused
            assert claims.put(audience(a), sas(audience(a), keys[a])) == 200
            peer.sender("/devices/%s/messages/events" % a, "s1", channel=1)
            peer.sender("/devices/%s/messages/events" % b, "s2", channel=2)
            for name, token, status in ((a, sas(audience(b), keys[b]), 401), (a, sas(audience(a), keys[b]), 401), (b, sas(audience(a), keys[a]), 401),
                                        (a, sas(audience(a), keys[a], -5), 401), ("honest", sas(audience("honest"), keys[a]), 401)):
                assert claims.put(audience(name), token) == status, (name, status)
            sends(peer, 1, 0)
            sends(peer, 2, 0)
            padded = sas(audience(a), keys[a]) + "&x=" + "A" * 60000  # would be kept as long as the connection is
            assert claims.put(audience(a), padded) == 400
            # A shorter one takes the place of the longer: its time counts.
            assert claims.put(audience(a), sas(audience(a), keys[a], 6)) == 200
            ended = peer.receive()
            while ended.code != amqp.DETACH:
                ended = peer.receive()
            assert ended.channel == 1 and "unauthorized-access" in ended.error()[0], (ended.channel, ended.error())
            sends(peer, 2, 1)
            peer.send(amqp.frame(amqp.perf(amqp.DETACH, amqp.uint(0), amqp.TRUE), 1))
            assert claims.put(audience(a), sas(audience(a), keys[a])) == 200
            peer.sender("/devices/%s/messages/events" % a, "s3", channel=3)
            sends(peer, 3, 0)
    return assault


# ---- readers of all levels --------------------------------------------------------------------------------------------


def levels(target, service):
    """Twenty readers with levels fight for a partition, from many connections, while the group goes and comes."""
    hub = target.hub

    def reader(peer, level, number):
        epoch = amqp.mapping([(amqp.symbol("com.microsoft:epoch"), struct.pack(">Bq", 0x81, level))])
        peer.link("reader-%d" % number, number, "localhost/ConsumerGroups/levels/Partitions/0", False,
                  options={"filter": amqp.selector("amqp.annotation.x-opt-offset > '-1'")}, more=(amqp.NULL, amqp.NULL, amqp.NULL, epoch))
        peer.send(amqp.flow(number, 1000))

    def assault():
        stop = threading.Event()
        told = collections.Counter()

        def fighter(chance):
            while not stop.is_set():
                try:
                    with amqp.Peer(timeout=15).policy("service", service) as peer:
                        peer.begin()
                        for number in range(chance.randrange(1, 12)):
                            try:
                                reader(peer, chance.randrange(5), number)
                            except amqp.Closed as refused:
                                told[str(refused).split(":", 2)[1]] += 1
                                if not str(refused).startswith(("amqp:link:stolen", "amqp:not-found")):
                                    raise AssertionError(str(refused)) from refused
                except OSError:
                    pass

        def conduct():
            try:
                deadline, rounds = time.monotonic() + PATIENCE_S, 0
                while rounds < 4 or not told:
                    assert time.monotonic() < deadline, "nobody fought"
                    hub.cli("consumer-group", "add", "levels")
                    stop.wait(0.3)
                    hub.cli("consumer-group", "rm", "levels")
                    rounds += 1
            finally:
                stop.set()

        together(conduct, *[lambda seed=seed: fighter(random.Random(seed)) for seed in range(20)])
        hub.cli("consumer-group", "add", "levels")
        with amqp.Peer().policy("service", service) as winner:
            winner.begin()
            reader(winner, 1000, 0)
            assert winner.until(amqp.TRANSFER)
        hub.cli("consumer-group", "rm", "levels")
    return assault


# ---- the registry ------------------------------------------------------------------------------------------------------


def churn(target, owner, count=4):
    """Devices with all kinds of links, alone and many on a connection, while the registry, callers and twins do things to them."""
    hub = target.hub
    keys = [amqp.key_of(b"1" * 32), amqp.key_of(b"2" * 32)]
    kinds = (("messages/events", True), ("messages/devicebound", False), ("twin", True), ("twin", False), ("methods/devicebound", True),
             ("methods/devicebound", False))

    def identity(device, chance):
        key = {"primaryKey": chance.choice(keys), "secondaryKey": keys[0]}
        return {"deviceId": device, "status": "disabled" if chance.random() < 0.15 else "enabled",
                "authentication": {"type": "sas", "symmetricKey": key}}

    def assault():
        stop, seen = threading.Event(), collections.Counter()
        wanted = (amqp.DISPOSITION, amqp.TRANSFER, amqp.DETACH, 200)

        def open_one(chance, device):
            if chance.random() < 0.5:
                return amqp.Peer(timeout=15).policy("iothubowner", owner)
            return amqp.Peer(timeout=15).device(device, chance.choice(keys))

        def use(chance, peer, device):
            peer.begin()
            answers, number = None, 100
            for handle, (path, sends) in enumerate(chance.sample(kinds, chance.randrange(1, 6))):
                of = "churn-%d" % chance.randrange(count) if chance.random() < 0.5 else device
                correlation = amqp.mapping([(amqp.symbol("com.microsoft:channel-correlation-id"), amqp.string("twin:%d" % handle))])
                peer.send(amqp.attach("%s-%d" % (path, handle), handle, "/devices/%s/%s" % (of, path), sends,
                                      more=(amqp.NULL, amqp.NULL, amqp.NULL, correlation)))
                answers = handle if (path, sends) == ("methods/devicebound", True) else answers
                if sends:
                    peer.send(amqp.transfer(handle, handle, amqp.data(b"x"), settled=chance.random() < 0.5))
                else:
                    peer.send(amqp.flow(handle, 10))
            peer.sock.settimeout(chance.choice((0.01, 0.05, 0.2, 1)))
            while True:
                got = peer.receive()
                seen[got.code] += 1
                if got.code == amqp.TRANSFER:
                    peer.send(amqp.disposition(got.fields[1], got.fields[1], state=HELD))
                    about = amqp.sections(got.payload).get(0x73, [])
                    if answers is not None and len(about) > 5 and isinstance(about[5], bytes):
                        head = amqp.perf(0x73, *[amqp.NULL] * 5, b"\x98" + about[5])
                        status = amqp.described(0x74, amqp.mapping([(amqp.string("IoThub-status"), b"\x54\x07")]))
                        peer.send(amqp.transfer(answers, number, head + status + amqp.data(b"{}")))
                        number, seen["answers"] = number + 1, seen["answers"] + 1

        def device_side(number):
            chance = random.Random(number)
            while not stop.is_set():
                device = "churn-%d" % chance.randrange(count)
                try:
                    with open_one(chance, device) as peer:
                        use(chance, peer, device)
                except GONE:
                    seen["gone"] += 1

        def registry_side(seed):
            chance = random.Random(seed)
            with Rest(hub) as rest:
                while not stop.is_set():
                    device, what = "churn-%d" % chance.randrange(count), chance.random()
                    if what < 0.1:
                        status, answer = rest.ask("DELETE", "/devices/" + device, headers="If-Match: *\r\n")
                    elif what < 0.4:
                        exists = rest.ask("GET", "/devices/" + device)[0] == 200
                        status, answer = rest.ask("PUT", "/devices/" + device, json.dumps(identity(device, chance)),
                                                  "If-Match: *\r\n" if exists else "")
                    elif what < 0.7:
                        status, answer = rest.ask("PATCH", "/twins/" + device, '{"properties":{"desired":{"n":%d}}}' % chance.randrange(9),
                                                  "If-Match: *\r\n")
                    else:
                        status, answer = rest.ask("POST", "/twins/%s/methods" % device, '{"methodName":"m","responseTimeoutInSeconds":5,'
                                                  '"connectTimeoutInSeconds":0,"payload":1}')
                    assert status in (200, 204, 404, 409, 412, 504), (status, answer)
                    seen[status] += 1

        def conduct():
            started = time.monotonic()
            while time.monotonic() < started + (3 if all(seen[kind] for kind in wanted) else PATIENCE_S):
                stop.wait(0.1)
            stop.set()

        together(conduct, *[lambda seed=seed: device_side(seed) for seed in range(6)], *[lambda seed=seed: registry_side(seed) for seed in range(50, 53)])
        assert all(seen[kind] for kind in wanted), seen
    return assault


# ---- the hub's end ----------------------------------------------------------------------------------------------------


def stopped(target, owner, count=1000):
    """SIGTERM under a thousand devices of one connection in full flight, after a storm of SIGHUPs: in time, and nothing accepted is lost."""
    hub = target.hub
    with Rest(hub) as rest:
        for first in range(0, count, 100):
            rows = [{"id": "many-%d" % n, "importMode": "create"} for n in range(first, first + 100)]
            status, answer = rest.ask("POST", "/devices", json.dumps(rows))
            assert status == 200, answer
    peer = amqp.Peer().policy("iothubowner", owner)
    peer.begin()
    for first in range(0, count, 100):
        peer.send(*[amqp.attach("many-%d" % n, n, "/devices/many-%d/messages/events" % n, True) for n in range(first, first + 100)])
        for _ in range(100):
            assert peer.until(amqp.ATTACH).fields[6], "refused"
    accepted, sent = set(), 0

    def send(how_many):
        peer.send(*[amqp.transfer(n % count, n, amqp.data(b"n%d" % n)) for n in range(sent, sent + how_many)])
        return sent + how_many

    def take():
        got = peer.receive()
        if got.code == amqp.DISPOSITION and got.fields[4].code == amqp.ACCEPTED:
            accepted.update(range(got.fields[1], (got.fields[1] if got.fields[2] is None else got.fields[2]) + 1))
        return got

    while sent < 5000:
        sent = send(100)
        while len(accepted) < sent - 500:
            assert take().code not in (amqp.CLOSE, amqp.END, amqp.DETACH)
        if sent % 500 == 0:
            hub.process.send_signal(signal.SIGHUP)
    sent = send(500)
    started = time.monotonic()
    hub.process.send_signal(signal.SIGTERM)
    sent = send(500)
    try:
        while True:
            got = take()
            if got.code == amqp.CLOSE:
                assert got.error()[0] == "amqp:connection:forced", got.error()
                say(peer, amqp.frame(amqp.perf(amqp.CLOSE)))
    except GONE:
        peer.close()
    assert hub.process.wait(PATIENCE_S) == 0, "the hub ended with %d" % hub.process.returncode
    took = time.monotonic() - started
    hub.start()
    target.pid = hub.process.pid
    stored = {event["body"] for event in hub.each_event() if str(event["body"]).startswith("n")}
    lost = [n for n in accepted if "n%d" % n not in stored]
    print("%-44s %6.2f s  %d sent, %d accepted, %d stored" % ("stopped under %d devices" % count, took, sent, len(accepted), len(stored)), flush=True)
    assert not lost, "accepted and lost: %s" % lost[:5]


def run(target):
    policies = target.hub.json("hub", "show")["policies"]
    service, owner = policies["service"]["primaryKey"], policies["iothubowner"]["primaryKey"]
    key = target.hub.json("device", "add", "evil")["primaryKey"]
    keys = {name: target.hub.json("device", "add", name)["primaryKey"] for name in ("claims-a", "claims-b")}
    target.attack("links that come and go", reattach(target, key), rounds=2)
    target.attack("tokens of others, shorter and worse ones", tokens(target, keys), rounds=1)
    target.attack("fights over AMQP and MQTT", fights(target, service), rounds=2)
    target.attack("readers of all levels", levels(target, service), rounds=2, growth=8 << 20)
    target.attack("links against the registry", churn(target, owner), rounds=2, growth=8 << 20)
    killed(target, service)
    stopped(target, owner)
    assert key not in target.log() and owner not in target.log()


main_amqp(run, "  c2d_max_deliveries: 1000\n")
