"""Who takes more than is due over AMQP: strangers first, then devices with a key. Memory, time and others must not suffer."""
import resource

from amqp import *  # pylint: disable=unused-wildcard-import,wildcard-import
from amqp_kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

STRANGERS = 40
STRANGER_BYTES = 256 << 10  # what one of them may cost at most, all in all
EVENTS = "/devices/evil/messages/events"
PUT = properties({"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "localhost/devices/evil"})


def put_token(number, token, operation=PUT, identity="i" * 500):
    return perf(0x73, string(identity), NULL, string("$cbs"), NULL, string("r" * 250)) + operation + described(0x77, string(token))


def stranger():
    return Peer(timeout=PATIENCE_S).anonymous()


def crowd(target, greed, budget=STRANGER_BYTES):
    """Strangers, each as greedy as it gets, all at once; the honest device beside them."""
    def assault():
        before = target.rss()
        people = []
        try:
            for _ in range(STRANGERS):
                people.append(stranger())
                greed(people[-1])
            target.metric("nave_net_connections_open")
            grown = target.rss() - before
            target.among_strangers(target.publishes)
        finally:
            for one in people:
                one.close()
        assert SANITIZED or grown < STRANGERS * budget, "%d strangers cost %.1f MB" % (STRANGERS, grown / 1e6)
    return assault


def attach_flood(peer):
    """Links that are refused, whose end is never answered, with the longest names, on every channel there is."""
    for channel in range(8):
        say(peer, begin(channel), *[attach("%03d" % i + "n" * 1000, i, "/devices/evil/twin", True, channel=channel) for i in range(400)])


def never_completed(peer):
    """Deliveries without end on as many links as there may be, before any token."""
    peer.send(begin())
    for handle in range(15):
        say(peer, attach("c%d" % handle, handle, "$cbs", True))
    try:
        peer.until(FLOW)
    except OSError:
        return
    for number in range(100):  # 6 MB
        say(peer, *([transfer(number % 15, number, b"\0" * 15000, more=True)] if number < 15 else [part(number % 15, b"\0" * 15000, True)] * 4))


def nobody_reads_answers(operation):
    """Requests on $cbs whose answers find no receiver."""
    def greed(peer):
        peer.sender("$cbs")
        number = 0
        for _ in range(16):
            say(peer, *[transfer(0, number + i, put_token(i, "nonsense", operation), settled=True) for i in range(250)])
            number += 250
            try:
                peer.until(FLOW)
            except OSError:
                return
    return greed


def big_tokens(peer):
    peer.sender("$cbs")
    for number in range(60):
        whole = put_token(number, "SharedAccessSignature sr=localhost%2Fdevices%2Fevil&sig=" + "A" * 60000 + "&se=9999999999")
        parts = [whole[at:at + 15000] for at in range(0, len(whole), 15000)]
        say(peer, transfer(0, number, parts[0], more=True), *[part(0, p, p is not parts[-1]) for p in parts[1:]])


def begin_flood(peer):
    say(peer, *[begin(channel) for channel in range(300)])


def plain_flood(target):
    """Wrong passwords as fast as they go, from many connections."""
    def assault():
        for _ in range(300):
            with Peer(timeout=PATIENCE_S) as peer:
                try:
                    assert peer.sasl(plain("honest@sas.localhost", sas("localhost/devices/honest", "AAAA"))) == 1
                except OSError:
                    target.alive()
    return assault


def is_over(sock):
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(PATIENCE_S)


def unfinished(target):
    """Half of each step, held until the deadline, some with heartbeats: all are closed in time, others get in meanwhile."""
    steps = (b"", b"AM", SASL, SASL + struct.pack(">IBBH", 8000, 2, 1, 0), SASL + plain("a@sas.localhost", "x")[:-1])

    def assault():
        people = []
        for number in range(100):
            peer = Peer(timeout=PATIENCE_S)
            say(peer, steps[number % len(steps)])
            people.append(peer)
        anonymous = [stranger() for _ in range(20)]
        target.among_strangers(target.publishes)
        deadline = time.monotonic() + PATIENCE_S
        people += anonymous
        while people:
            assert time.monotonic() < deadline, "%d are still open" % len(people)
            time.sleep(0.2)  # they beat at this pace
            for peer in people[:]:
                say(peer, frame(b"") if peer in anonymous else b"")
                if is_over(peer.sock):
                    peer.close()
                    people.remove(peer)
    return assault


# ---- with a key


def sessions_and_links(target, key):
    """As many sessions and links as there may be, then one more."""
    def assault():
        before = target.rss()
        with Peer().device("evil", key) as peer:
            for channel in range(0, 4000, 100):
                peer.send(*[begin(c) for c in range(channel, channel + 100)])
                for _ in range(100):
                    peer.until(BEGIN)
            grown = target.rss() - before
            assert SANITIZED or grown < 24 << 20, "4,000 sessions cost %.1f MB" % (grown / 1e6)
            for first in range(0, 8000, 100):
                peer.send(*[attach("%05d" % i, i // 2000, "$cbs", True, channel=i % 2000) for i in range(first, first + 100)])
                for _ in range(100):
                    assert peer.until(ATTACH).fields[6], "refused"
            target.publishes()
            say(peer, *[begin(c) for c in range(4000, 8200)])
            how, condition, why = ending(peer)
            assert (how, condition) == ("close", "amqp:resource-limit-exceeded") and why, (how, condition, why)
    return assault


def refused_links(target, key):
    """Links that are refused, and never acknowledged: a bound on them too."""
    def assault():
        before = target.rss()
        with Peer().device("evil", key) as peer:
            pieces = (begin(channel) + b"".join(attach("%04d" % i + "n" * 1000, i, "/devices/honest/twin", True, channel=channel)
                                                for i in range(2000)) for channel in range(40))
            reader = threading.Thread(target=drain, args=(peer.sock, 1 << 30))
            reader.start()
            for piece in pieces:
                say(peer, piece)
            grown = target.rss() - before
            peer.sock.shutdown(socket.SHUT_WR)
            reader.join(2 * PATIENCE_S)
        assert SANITIZED or grown < 96 << 20, "refused links cost %.1f MB" % (grown / 1e6)
    return assault


def partial_deliveries(target, key):
    """Deliveries that are never completed, on 500 links, settled or not: the budget of the connection holds."""
    def assault():
        before = target.rss()
        with Peer().device("evil", key) as peer:
            peer.begin()
            for first in range(0, 500, 100):
                peer.send(*[attach("p%d" % i, i, "$cbs", True) for i in range(first, first + 100)])
                for _ in range(100):
                    peer.until(ATTACH)
            sent = stuff(peer, (transfer(i, i, b"\0" * 60000, more=True, settled=i % 2 == 1) for i in range(500)), 1 << 30)
            target.publishes()
            grown = target.rss() - before
            told = []
            peer.sock.settimeout(PATIENCE_S)
            try:
                while True:
                    got = peer.receive()
                    if got.code == DETACH:
                        told.append(got.error())
                        peer.sock.settimeout(0.7)
            except OSError:
                pass
        assert SANITIZED or grown < 16 << 20, "%.1f MB of half messages cost %.1f MB" % (sent / 1e6, grown / 1e6)
        assert told and told[0][0] == "amqp:resource-limit-exceeded" and told[0][1], told[:3]
    return assault


def without_credit(target, key):
    """Thousands of transfers at once though a thousand were granted: told, or all taken when it is fast enough."""
    def assault():
        with Peer().device("evil", key) as peer:
            credit = peer.sender(EVENTS)
            say(peer, *[transfer(0, i, data(b"c" * 100)) for i in range(20 * credit)])
            accepted = 0
            try:
                while True:
                    got = peer.receive()
                    if got.code == DISPOSITION and got.fields[4].code == ACCEPTED:
                        accepted += got.fields[2] - got.fields[1] + 1
                    elif got.code in (DETACH, CLOSE, END) or accepted == 20 * credit:
                        break
            except Closed:
                pass
            if got.code != DISPOSITION:
                assert got.error()[0] in ("amqp:link:transfer-limit-exceeded", "amqp:session:window-violation"), got.error()
                peer.send(frame(perf(CLOSE)))
                assert ending(peer)[:2] == ("close", None)
    return assault


def deaf(target, key, pieces, hello, answered=True):
    """Sends and never reads. What is answered must stop: the hub stops reading or ends it; always in bounded memory."""
    limit = (192 if answered else 32) << 20

    def assault():
        before = target.rss()
        with Peer(receive_buffer=4096) as peer:
            peer.device("evil", key)
            hello(peer)
            sent = stuff(peer, pieces(), limit)
            assert sent < limit or not answered, "the hub took everything from a peer that reads nothing"
            target.publishes()
            grown = target.rss() - before
        assert SANITIZED or grown < 16 << 20, "a deaf peer costs %.1f MB" % (grown / 1e6)
    return assault


def telemetry_then_nothing():
    number = 0
    while True:
        yield b"".join(transfer(0, number + i, data(b"d" * 10)) for i in range(500))
        number += 500


def dispositions(target, key):
    """Dispositions for what was never sent, on a session with thousands of links: each costs the peer more than the hub."""
    def assault():
        with Peer().device("evil", key) as peer:
            peer.begin()
            for first in range(0, 8000, 200):
                peer.send(*[attach("d%d" % i, i, "$cbs", True) for i in range(first, first + 200)])
                for _ in range(200):
                    peer.until(ATTACH)
            started = time.monotonic()
            stop = threading.Event()
            slowest = [0]

            def witness():
                while not stop.is_set():
                    slowest[0] = max(slowest[0], target.publishes(PATIENCE_S))

            thread = threading.Thread(target=witness)
            thread.start()
            for receiver in (True, False):
                for first, last in ((0, 0x7FFFFFFF), (5, 5), (0xFFFFFFF0, 9)):
                    say(peer, disposition(first, last, receiver) * 3000)
            peer.send(frame(perf(END)))
            peer.until(END)
            stop.set()
            thread.join()
            print("  18,000 dispositions over 8,000 links: %.2f s, the honest device waited %.2f s at most" % (
                time.monotonic() - started, slowest[0]))
            assert slowest[0] < PROMPT_S, slowest
    return assault


def flows(target, key):
    """FLOWs that ask for an echo, with every odd number."""
    def assault():
        with Peer().device("evil", key) as peer:
            peer.sender(EVENTS)
            for _ in range(5):
                for handle, credit, seen in ((0, 0xFFFFFFFF, 0), (0, 0, 0xFFFFFFFF), (77, 5, 5), (None, 0, 0)):
                    say(peer, flow(handle, credit, seen, 0xFFFFFFFF, incoming=0xFFFFFFFF, drain=True, echo=True) * 200)
            peer.send(frame(perf(CLOSE)))
            assert ending(peer)[:2] == ("close", None)
    return assault


def never_settles(target, key):
    """A device that takes messages, never settles, and comes again and again; then one with a window of 0."""
    hub = target.hub

    def assault():
        for round_ in range(3):
            hub.cli("send", "evil", "m" * 1000)
            with Peer().device("evil", key) as peer:
                peer.begin(window=0 if round_ == 2 else 2048)
                peer.link("r", 0, "/devices/evil/messages/devicebound", False)
                peer.send(flow(0, 0xFFFFFFFF, window=0 if round_ == 2 else 0x7FFFFFFF))
                peer.sock.settimeout(0.3 if round_ == 2 else PATIENCE_S)
                got = 0
                try:
                    while peer.until(TRANSFER):
                        got += 1
                        peer.sock.settimeout(0.3)
                        peer.send(disposition(0, 0x7FFFFFFE, state=NULL, settled=False))
                except (socket.timeout, OSError):
                    pass
                assert (got == 0) == (round_ == 2), (round_, got)
    return assault


def token_flood(target, key):
    """Tokens by the thousand from one who is known: for ever the same name, then names of others, then nonsense."""
    def assault():
        with Peer().device("evil", key) as peer:
            peer.begin(window=100000)
            peer.link("c", 0, "$cbs", True)
            peer.until(FLOW)
            peer.link("r", 1, "$cbs", False)
            peer.send(flow(1, 100000, window=100000))
            good = sas("localhost/devices/evil", key)
            number = 0
            for token, name in ((good, "localhost/devices/evil"), (good, "localhost/devices/honest"), ("x" * 3000, "y" * 900)) * 3:
                operation = properties({"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name})
                peer.send(*[transfer(0, number + i, put_token(i, token, operation, "id"), settled=True) for i in range(250)])
                number += 250
                for _ in range(250):
                    status = sections(peer.until(TRANSFER).payload)[0x74]["status-code"]
                    assert (status == 200) == (name == "localhost/devices/evil"), (status, name)
    return assault


def answers_nobody_takes(target, key):
    """Answers of $cbs on many links, of which none has a receiver: the bound is the connection's, not each link's."""
    def assault():
        before = target.rss()
        ask = put_token(0, "nonsense", properties({"operation": "other"}))
        number = 0
        with Peer().device("evil", key) as peer:
            peer.begin()
            for handle in range(40):
                peer.link("a%d" % handle, handle, "$cbs", True)
                sent, may_send = 0, 0
                while sent < 1000:
                    while may_send < sent + 100:
                        got = peer.until(FLOW)
                        may_send = got.fields[5] + got.fields[6] if got.fields[4] == handle else may_send
                    peer.send(*[transfer(handle, number + i, ask, settled=True) for i in range(100)])
                    sent, number = sent + 100, number + 100
            grown = target.rss() - before
        assert SANITIZED or grown < 8 << 20, "%d answers cost %.1f MB" % (number, grown / 1e6)
    return assault


def run(target):
    key = target.hub.json("device", "add", "evil")["primaryKey"]
    other = properties({"operation": "other"})
    for name, greed in (("BEGIN", begin_flood), ("ATTACH, never answering DETACH", attach_flood), ("half deliveries to $cbs", never_completed),
                        ("$cbs without a receiver", nobody_reads_answers(PUT)), ("unknown operations to $cbs", nobody_reads_answers(other)),
                        ("big tokens", big_tokens)):
        target.attack("strangers: " + name, crowd(target, greed), rounds=2, growth=6 << 20)
    target.attack("strangers: wrong passwords", plain_flood(target), rounds=2)
    target.attack("strangers: half of each step", unfinished(target), rounds=1)
    target.attack("4,000 sessions, 8,000 links", sessions_and_links(target, key), rounds=2, growth=8 << 20)
    target.attack("refused links", refused_links(target, key), rounds=3, growth=60 << 20)
    target.attack("half messages on 500 links", partial_deliveries(target, key), rounds=2, growth=8 << 20)
    target.attack("more than the credit", without_credit(target, key), rounds=2)
    target.attack("telemetry, never reads", deaf(target, key, telemetry_then_nothing, lambda peer: peer.sender(EVENTS), False), rounds=2,
                  growth=8 << 20)
    target.attack("BEGIN and END, never reads", deaf(target, key, lambda: iter(lambda: (begin() + frame(perf(END))) * 500, 0), lambda peer: None),
                  rounds=2, growth=8 << 20)
    target.attack("echoes, never reads", deaf(target, key, lambda: iter(lambda: flow(None, 0, echo=True) * 500, 0), lambda peer: peer.begin()),
                  rounds=2, growth=8 << 20)
    refusals = (attach("n" * 900, 0, "/devices/honest/twin", True) + frame(perf(DETACH, uint(0), TRUE))) * 60
    target.attack("refused links, never reads", deaf(target, key, lambda: iter(lambda: refusals, 0), lambda peer: peer.begin()), rounds=2,
                  growth=8 << 20)
    target.attack("dispositions for nothing", dispositions(target, key), rounds=1, honest_during=False)
    target.attack("flows", flows(target, key), rounds=2)
    target.attack("never settles", never_settles(target, key), rounds=1)
    target.attack("tokens by the thousand", token_flood(target, key), rounds=2)
    target.attack("answers that nobody takes", answers_nobody_takes(target, key), rounds=2, growth=8 << 20)
    log = target.log()
    for word in ("too many refused links", "a delivery without credit", "more than 8192 sessions", "refused"):
        assert word in log, word
    assert key not in log and target.key not in log


resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
main_amqp(run, "  amqp_open_s: 5\n  amqp_authorize_s: 5\n")
