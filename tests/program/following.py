"""Commands that follow a hub, or speak AMQP with one: monitor, send, feedback."""
import base64
import http.server
import json
import os
import re
import signal
import ssl
import subprocess
import threading
import urllib.request

from rig import Hub, NAVE, case, nave, one_sentence, port_of, publish


@case
def monitor():
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        for i in range(3):
            publish(hub, "d1", "hello %d" % i)
        out = hub.cli("monitor", "--from", "beginning", "--count", "3", "-o", "json")[0]
        events = [json.loads(line) for line in out.splitlines()]
        assert [e["body"] for e in events] == ["hello 0", "hello 1", "hello 2"], events
        assert events[0]["deviceId"] == "d1" and events[0]["properties"] == {"a": "b"}, events
        assert [e["sequence"] for e in events] == [0, 1, 2]
        table = hub.cli("monitor", "--from", "beginning", "--device", "d1", "--count", "1")[0]
        assert "d1" in table and "hello 0" in table and "a=b" in table
        hub.cli("device", "add", "d2")
        publish(hub, "d2", "\u009b31m red \u00e9")
        table = hub.cli("monitor", "--from", "beginning", "--device", "d2", "--count", "1")[0]
        assert "?31m red \u00e9" in table, "control characters of a device stay off the terminal"
        partition = str(events[0]["partition"])
        out = hub.cli("monitor", "--from", "1", "--partition", partition, "--count", "2", "-o", "json")[0]
        assert [json.loads(line)["sequence"] for line in out.splitlines()] == [1, 2]


def watching(hub, *words):
    """A `monitor` from the beginning that has shown the first event and goes on."""
    hub.cli("device", "add", "d1")
    publish(hub, "d1", "one")
    watcher = subprocess.Popen([NAVE, "monitor", "--data", hub.data, "--from", "beginning", "-o", "json", *words],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert json.loads(watcher.stdout.readline())["body"] == "one"
    return watcher


@case
def monitor_survives_a_restart():
    with Hub() as hub:
        watcher = watching(hub, "--count", "3")
        assert hub.stop(signal.SIGKILL) == -signal.SIGKILL
        hub.start()
        publish(hub, "d1", "two")
        publish(hub, "d1", "three")
        out, err = watcher.communicate(timeout=120)
        bodies = [json.loads(line)["body"] for line in out.splitlines()]
        assert watcher.returncode == 0 and bodies == ["two", "three"], (bodies, err)


def shown(out):
    """Events of `monitor -o json`; over AMQP times have milliseconds."""
    events = [json.loads(line) for line in out.splitlines()]
    for event in events:
        event["enqueuedTime"] = event["enqueuedTime"][:23]
    return sorted(events, key=lambda e: (e["partition"], e["sequence"]))


@case
def monitor_amqp():
    with Hub("--set", "amqp.plain_port=-1") as hub:
        for device in ("d1", "d2", "d3"):
            hub.cli("device", "add", device)
        for i in range(4):
            publish(hub, "d%d" % (i % 3 + 1), "hello %d" % i)
        ask = ("monitor", "--from", "beginning", "-o", "json")
        http_way = shown(hub.cli(*ask, "--count", "4", "--over", "http")[0])
        assert shown(hub.cli(*ask, "--count", "4", "--over", "amqp")[0]) == http_way
        hub.cli("consumer-group", "add", "web")
        assert shown(hub.cli(*ask, "--count", "4", "--consumer-group", "WEB")[0]) == http_way
        table = hub.cli("monitor", "--from", "beginning", "--device", "d2", "--count", "1", "--over", "amqp")[0]
        assert re.fullmatch(r"\S+T\S+  d2  hello 1 a=b\n", table), table
        d1 = [e for e in http_way if e["deviceId"] == "d1"]
        out = hub.cli("monitor", "--from", str(d1[0]["sequence"] + 1), "--partition", str(d1[0]["partition"]), "--device",
                      "d1", "--count", "1", "-o", "json", "--over", "amqp")[0]
        assert shown(out) == d1[1:2], out
        out = hub.cli("monitor", "--from", d1[1]["enqueuedTime"], "--device", "d1", "--count", "1", "-o", "json", "--over",
                      "amqp")[0]
        assert shown(out) == d1[1:2], out
        # as from another machine, by the string alone
        there = hub.json("hub", "show")
        remote = ("--hub", there["serviceConnectionString"], "--ca", there["caFile"])
        assert shown(nave(*ask, "--count", "4", "--consumer-group", "web", *remote)[0]) == http_way
        # by the strings of the event hub, with TLS and without
        assert shown(nave(*ask, "--count", "4", "--hub", there["eventHubConnectionString"], *remote[2:])[0]) == http_way
        assert shown(nave(*ask, "--count", "4", "--hub", there["eventHubEmulatorString"])[0]) == http_way
        one_sentence(nave("device", "list", "--hub", there["eventHubConnectionString"], code=2)[1], "event hub", "monitor")
        # now: only what comes
        watcher = subprocess.Popen([NAVE, "monitor", "--data", hub.data, "--over", "amqp", "--count", "1"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while watcher.poll() is None:  # until it listens nothing is for it
            publish(hub, "d3", "late")
        assert b"d3  late" in watcher.communicate(timeout=90)[0]
        # what is refused is said in a sentence
        for words, parts in ((("--consumer-group", "nope"), ("nope", "amqp:not-found")),
                             (("--over", "amqp", "--partition", "9"), ("no partition 9",))):
            one_sentence(hub.cli("monitor", *words, code=1)[1], *parts)
        wrong = re.sub("SharedAccessKey=.*", "SharedAccessKey=" + base64.b64encode(b"x" * 32).decode(), remote[1])
        one_sentence(nave("monitor", "--consumer-group", "web", "--hub", wrong, *remote[2:], code=1)[1], "nauthorized")
        hub.stop()
        one_sentence(hub.cli("monitor", "--over", "amqp", code=1)[1], "cannot be read", "nave up")


@case
def monitor_amqp_survives_a_restart():
    with Hub() as hub:
        watcher = watching(hub, "--count", "4", "--over", "amqp")
        for sig, code, body in ((signal.SIGKILL, -signal.SIGKILL, "two"), (signal.SIGTERM, 0, "three")):
            assert hub.stop(sig) == code
            hub.start()
            publish(hub, "d1", body)
            assert json.loads(watcher.stdout.readline())["body"] == body
        publish(hub, "d1", "four")
        out, err = watcher.communicate(timeout=120)
        assert watcher.returncode == 0 and json.loads(out)["body"] == "four", (out, err)
        assert err.decode().count("trying again") == 2, err


@case
def send_amqp_and_feedback():
    with Hub("--set", "testing.clock=manual") as hub:
        hub.cli("device", "add", "d1")
        hub.cli("device", "add", "a%b#c")
        sent = hub.json("send", "d1", "hello", "-p", "a=b", "--message-id", "m1", "--ack", "full", "--ttl", "600",
                        "--content-type", "text/plain", "--correlation-id", "c1", "--over", "amqp")
        assert sent == {"deviceId": "d1", "messageId": "m1", "outcome": "accepted"}, sent
        assert hub.json("send", "a%b#c", "named", "--ack", "full", "--over", "amqp")["messageId"].count("-") == 4
        out, err = hub.cli("send", "a%b#c", "odd", "--over", "amqp")
        assert out == "" and err == "queued for a%b#c\n", err
        assert hub.json("twin", "get", "a%b#c")["cloudToDeviceMessageCount"] == 2
        one_sentence(hub.cli("send", "nobody", "x", "--over", "amqp", code=1)[1], "DeviceNotFound")
        one_sentence(hub.cli("send", "d1", "x" * 70000, "--over", "amqp", code=1)[1], "MessageTooLarge")
        token = hub.cli("sas", "--device", "d1")[0].strip()
        taken = subprocess.run(["mosquitto_sub", "-h", "localhost", "-p", str(port_of(hub, "mqtts")), "--cafile",
                                hub.file()["caFile"], "-V", "mqttv311", "-i", "d1", "-u",
                                "localhost/d1/?api-version=2021-04-12", "-P", token, "-q", "1", "-t",
                                "devices/d1/messages/devicebound/#", "-C", "1", "-F", "%t %p"],
                               stdout=subprocess.PIPE, check=True, timeout=120).stdout.decode()
        assert taken.endswith(" hello\n") and "a=b" in taken and "%24.mid=m1" in taken and "%24.cid=c1" in taken, taken
        while hub.json("device", "show", "d1")["cloudToDeviceMessageCount"]:
            pass  # its PUBACK is on its way
        before = hub.read_log().count("amqp: connected")
        watcher = subprocess.Popen([NAVE, "feedback", "--data", hub.data, "--count", "1", "-o", "json"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        hub.wait_log("amqp: connected", before + 1)  # the deadline of its handshake goes by this clock as well
        for _ in range(5):  # the hub gathers records for 15 s; hours would be silence that ends connections
            urllib.request.urlopen(urllib.request.Request(hub.file()["endpoints"]["admin"] + "/testing/clock",
                                                          data=b'{"advance":"20s"}'), timeout=60).close()
            try:
                watcher.wait(10)
                break
            except subprocess.TimeoutExpired:
                pass
        record = json.loads(watcher.communicate(timeout=90)[0])
        assert record["originalMessageId"] == "m1" and record["statusCode"] == "Success" and record["deviceId"] == "d1"
        one_sentence(nave("feedback", "--count", "0", code=2)[1], "--count")


@case
def without_https():
    with Hub("--set", "https.port=0") as hub:
        one_sentence(hub.cli("monitor", "--partition", "9", code=1)[1], "no partition 9")
        one_sentence(hub.cli("send", "nobody", "x", code=1)[1], "DeviceNotFound")


@case
def another_hub():
    """A hub that knows nothing of /nave/v1/, on the ports that clients know: a namespace of its own is needed."""
    with Hub("--set", "https.port=9443", "--set", "amqp.port=5671") as hub:
        hub.cli("device", "add", "d1")
        publish(hub, "d1", "hello")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(os.path.join(hub.data, "tls", "server.pem"), os.path.join(hub.data, "tls", "server.key"))

        class Stranger(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # pylint: disable=invalid-name
                body = b'{"Message":"ErrorCode:GenericNotFound"}'
                self.send_response(404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):  # pylint: disable=arguments-differ
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), Stranger)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = hub.json("hub", "show")
        remote = ("--hub", there["serviceConnectionString"].replace(":9443", ""), "--ca", there["caFile"])
        assert "d1  hello" in nave("monitor", "--from", "beginning", "--count", "1", *remote)[0]
        assert "queued for d1" in nave("send", "d1", "hi", *remote)[1]
        assert json.loads(nave("twin", "get", "d1", "--data", hub.data)[0])["cloudToDeviceMessageCount"] == 1
        server.shutdown()


@case
def amqp_on_another_port():
    """On port 443, so a namespace of its own is needed: the hub is asked, also again after a restart."""
    with Hub("--set", "https.port=443", "--set", "amqp.port=5699") as hub:
        hub.cli("device", "add", "d1")
        there = hub.json("hub", "show")
        remote = ("--hub", there["serviceConnectionString"], "--ca", there["caFile"])
        assert "queued for d1" in nave("send", "d1", "hi", "--over", "amqp", *remote)[1]
        publish(hub, "d1", "one")
        with subprocess.Popen([NAVE, "monitor", "--over", "amqp", "--from", "beginning", "--count", "2", "-o", "json",
                               *remote], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watcher:
            assert json.loads(watcher.stdout.readline())["body"] == "one"
            assert hub.stop() == 0
            assert b"trying again" in watcher.stderr.readline()
            hub.start()
            publish(hub, "d1", "two")
            out, err = watcher.communicate(timeout=120)
            assert watcher.returncode == 0 and json.loads(out)["body"] == "two" and err == b"", (out, err)
    with Hub("--set", "https.port=0", "--set", "amqp.port=5699") as hub:  # nobody to ask
        remote = ("--hub", hub.file()["serviceConnectionString"], "--ca", hub.file()["caFile"])
        one_sentence(nave("send", "nobody", "hi", "--over", "amqp", *remote, code=1)[1], "5671", "--amqp-port")
        one_sentence(nave("feedback", *remote, code=1)[1], "5671", "--amqp-port")
        port = ("--amqp-port", "5699")
        one_sentence(nave("send", "nobody", "hi", *port, *remote, code=1)[1], "DeviceNotFound")
        one_sentence(nave("monitor", "--partition", "9", *port, *remote, code=1)[1], "no partition 9")
        events = ("--hub", hub.file()["eventHubConnectionString"].replace(":5699", ""), *remote[2:])
        one_sentence(nave("monitor", "--partition", "9", *port, *events, code=1)[1], "no partition 9")


@case
def amqp_in_a_websocket():
    """All three commands on port 443 alone, so in a namespace of its own; what is sent needs the longest heads of frames."""
    with Hub("--set", "https.port=443", "--set", "amqp.port=0") as hub:
        hub.cli("device", "add", "d1")
        publish(hub, "d1", "one" * 40000)
        service = hub.file()["serviceConnectionString"]
        trusted = ("--ca", hub.file()["caFile"])
        events = service.replace("HostName=localhost", "Endpoint=sb://localhost/;EntityPath=localhost")
        ask = ("monitor", "--over", "amqp-ws", "--from", "beginning", "--count", "1", "-o", "json")
        for where in (("--data", hub.data), ("--hub", service, *trusted), ("--hub", events, *trusted)):
            assert json.loads(nave(*ask, *where)[0])["body"] == "one" * 40000, where
        assert "queued for d1" in hub.cli("send", "d1", "x" * 60000, "--over", "amqp-ws")[1]
        one_sentence(nave("send", "nobody", "x", "--over", "amqp-ws", "--hub", service, *trusted, code=1)[1],
                     "DeviceNotFound")
        one_sentence(nave("send", "nobody", "x", "--over", "amqp-ws", "--hub", service, code=1)[1], "--ca FILE")
        with subprocess.Popen([NAVE, "monitor", "--over", "amqp-ws", "--from", "beginning", "--count", "2", "-o", "json",
                               "--data", hub.data], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watcher:
            watcher.stdout.readline()
            assert hub.stop() == 0
            assert b"trying again" in watcher.stderr.readline()
            hub.start()
            publish(hub, "d1", "two")
            out, err = watcher.communicate(timeout=120)
            assert watcher.returncode == 0 and json.loads(out)["body"] == "two" and err == b"", (out, err)
    with Hub("--set", "https.port=0") as hub:
        one_sentence(hub.cli("feedback", "--over", "amqp-ws", code=1)[1], "https.port")
