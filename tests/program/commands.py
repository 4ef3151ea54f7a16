"""Commands and what they do at a hub."""
import base64
import json
import os
import re
import socket
import stat
import subprocess
import time

from rig import Hub, NAVE, admin, case, nave, one_sentence, port_of


@case
def identities():
    with Hub() as hub:
        added = hub.json("device", "add", "d1")
        assert added["deviceId"] == "d1" and len(base64.b64decode(added["primaryKey"])) == 32, added
        assert added["connectionString"] == "HostName=localhost;DeviceId=d1;SharedAccessKey=" + added["primaryKey"]
        out, err = hub.cli("device", "add", "d1", code=1)
        assert out == ""
        one_sentence(err, "d1", "DeviceAlreadyExists")
        assert hub.cli("device", "add", "d2")[0].startswith("HostName=localhost;DeviceId=d2;SharedAccessKey=")
        key = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
        assert hub.json("device", "add", "d3", "--key", key)["primaryKey"] == key
        x509 = hub.json("device", "add", "x1", "--thumbprint", "A" * 40)
        assert x509["connectionString"] == "HostName=localhost;DeviceId=x1;x509=true" and x509["primaryKey"] is None
        assert [d["deviceId"] for d in hub.json("device", "list")] == ["d1", "d2", "d3", "x1"]
        assert "d1" in hub.cli("device", "list")[0]
        assert hub.json("device", "show", "d1")["authentication"]["symmetricKey"]["primaryKey"] == added["primaryKey"]
        changed = hub.json("device", "set", "d1", "--status", "disabled", "--reason", "sold")
        assert changed["status"] == "disabled" and changed["statusReason"] == "sold"
        assert changed["authentication"]["symmetricKey"]["primaryKey"] == added["primaryKey"], "keys stay"
        assert hub.json("device", "set", "d2", "--thumbprint", "B" * 64)["authentication"]["type"] == "selfSigned"
        one_sentence(hub.cli("device", "set", "d1", "--thumbprint", "xyz", code=1)[1], "humbprint")
        module = hub.json("module", "add", "d3", "m1")
        assert module["moduleId"] == "m1" and ";ModuleId=m1;" in module["connectionString"]
        assert [m["moduleId"] for m in hub.json("module", "list", "d3")] == ["m1"]
        hub.cli("module", "rm", "d3", "m1")
        one_sentence(hub.cli("module", "rm", "d3", "m1", code=1)[1], "ModuleNotFound")
        hub.cli("device", "rm", "d2")
        one_sentence(hub.cli("device", "show", "d2", code=1)[1], "d2")
        one_sentence(hub.cli("device", "add", "b/d", code=1)[1], "nave: ")
        # what the service says is too little for a person
        one_sentence(hub.cli("device", "show", "nope", code=1)[1], 'there is no device "nope"')
        one_sentence(hub.cli("module", "show", "d3", "m1", code=1)[1], 'there is no module "d3/m1"')
        for words in (("add", "nope", "m"), ("list", "nope"), ("show", "nope", "m"), ("rm", "nope", "m")):
            one_sentence(hub.cli("module", *words, code=1)[1], 'there is no device "nope"')
        one_sentence(hub.cli("module", "list", "d1", code=1)[1], 'the device "d1" is disabled', "--status enabled")
        shown = hub.json("hub", "show")
        other = shown["serviceConnectionString"].replace("=iothubowner", "=service")
        one_sentence(nave("device", "list", "--hub", other, "--ca", shown["caFile"], code=1)[1], "Unauthorized", "key")
        assert "AMQP and HTTPS only" in hub.cli("device", "add", "a+b")[1]
        assert "AMQP and HTTPS only" in hub.cli("doctor", "a+b")[0]
        odd = hub.json("device", "add", "a%b#c'd*e")
        assert hub.json("device", "show", "a%b#c'd*e")["deviceId"] == odd["deviceId"]


@case
def twins():
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        hub.cli("module", "add", "d1", "m1")
        twin = hub.json("twin", "get", "d1")
        assert twin["deviceId"] == "d1" and twin["version"] == 2 and twin["etag"] == "AAAAAAAAAAE=", twin
        assert json.loads(hub.cli("twin", "get", "d1")[0]) == twin, "JSON is the default"
        assert re.search(r"properties\.desired\.\$version +1\n", hub.cli("twin", "get", "d1", "-o", "table")[0])
        patched = hub.json("twin", "patch", "d1", '{"tags":{"site":"n"},"properties":{"desired":{"t":21.70,"x":1e3}}}')
        assert patched["tags"] == {"site": "n"} and patched["version"] == 3, patched
        assert '"t": 21.70' in hub.cli("twin", "get", "d1")[0] and '"x": 1e3' in hub.cli("twin", "get", "d1")[0]
        stale = twin["etag"]
        one_sentence(hub.cli("twin", "patch", "d1", "{}", "--if-match", stale, code=1)[1], "ETag mismatch", "'d1'",
                     "PreconditionFailed")
        hub.cli("twin", "patch", "d1", "{}", "--if-match", patched["etag"])
        hub.cli("twin", "patch", "d1", "{}", "--if-match", "*")
        # a whole twin, from a file and from stdin
        path = os.path.join(hub.dir, "twin.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(hub.cli("twin", "get", "d1")[0])
        replaced = hub.json("twin", "replace", "d1", "@" + path)
        assert replaced["tags"] == {"site": "n"} and replaced["properties"]["desired"]["t"] == 21.7, replaced
        piped = subprocess.run([NAVE, "twin", "replace", "d1", "-", "--data", hub.data], input=b'{"tags":{"only":1}}',
                               stdout=subprocess.PIPE, check=True, timeout=120)
        assert json.loads(piped.stdout)["tags"] == {"only": 1}
        assert "t" not in hub.json("twin", "get", "d1")["properties"]["desired"]
        module = hub.json("twin", "patch", "d1", '{"properties":{"desired":{"m":1}}}', "--module", "m1")
        assert module["moduleId"] == "m1" and module["properties"]["desired"]["m"] == 1
        one_sentence(hub.cli("twin", "get", "nobody", code=1)[1], 'there is no device "nobody"', "DeviceNotFound")
        one_sentence(hub.cli("twin", "get", "d1", "--module", "nobody", code=1)[1], 'no module "d1/nobody"', "DeviceNotFound")
        one_sentence(hub.cli("twin", "patch", "d1", '{"tags":{"a.b":1}}', code=1)[1], "tags", "ArgumentInvalid")
        one_sentence(hub.cli("twin", "patch", "d1", "no JSON", code=2)[1], "no JSON")
        one_sentence(hub.cli("twin", "patch", "d1", "@/nowhere", code=1)[1], "/nowhere")
        # what `device show` adds to the identity
        shown = hub.json("device", "show", "d1")
        assert shown["twin"] == {"version": 7, "desiredVersion": shown["twin"]["desiredVersion"], "reportedVersion": 1,
                                 "etag": shown["twin"]["etag"]}, shown
        assert shown["connectionState"] == "Disconnected" and shown["cloudToDeviceMessageCount"] == 0
        assert "twin.version" in hub.cli("device", "show", "d1")[0]
        # as from another machine
        remote = hub.json("hub", "show")
        words = ["--hub", remote["serviceConnectionString"], "--ca", remote["caFile"]]
        assert json.loads(nave("twin", "get", "d1", *words)[0])["deviceId"] == "d1"


@case
def methods():
    with Hub("--set", "net.drain_seconds=600") as hub:
        hub.cli("device", "add", "d1")
        out, err = hub.cli("method", "d1", "reboot", code=1)
        assert out == ""
        one_sentence(err, "not online", "DeviceNotOnline")
        one_sentence(hub.cli("method", "nobody", "reboot", code=1)[1], 'there is no device "nobody"', "DeviceNotFound")
        one_sentence(hub.cli("method", "d1", "no name", code=1)[1], "methodName", "ArgumentInvalid")
        one_sentence(hub.cli("method", "d1", "reboot", "no JSON", code=2)[1], "no JSON")
        for flag, value in (("--timeout", "4"), ("--timeout", "301"), ("--connect-timeout", "x")):
            one_sentence(hub.cli("method", "d1", "reboot", flag, value, code=2)[1], flag)
        # A caller waits for a device that does not come; the hub stops meanwhile and says so at once.
        waiting = subprocess.Popen([NAVE, "method", "d1", "reboot", "--timeout", "300", "--connect-timeout", "300",
                                    "--data", hub.data], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while int(re.search(r"nave_net_connections_open (\d+)", admin(hub, "/metrics")).group(1)) < 2:
            time.sleep(0.01)  # metrics have no other way to tell
        assert hub.stop() == 0  # in time: it would wait ten minutes for the answer
        err = waiting.communicate(timeout=90)[1].decode()
        assert waiting.returncode == 1
        one_sentence(err)
        assert "stopping" in err or "cannot be reached" in err, err  # it may not have asked yet


@case
def messages():
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        hub.cli("device", "add", "d2")
        sent = hub.json("send", "d1", "hello", "-p", "a=b", "-p", "c=d=e", "--message-id", "m1", "--ack", "full",
                        "--ttl", "600", "--content-type", "text/plain", "--correlation-id", "c1")
        assert sent["sequenceNumber"] == 1 and sent["messageId"] == "m1", sent
        out, err = hub.cli("send", "d1", "again")
        assert out == "" and "queued for d1 as number 2" in err, (out, err)
        assert hub.json("send", "d2", "named by the hub", "--ack", "negative")["messageId"].count("-") == 4
        path = os.path.join(hub.dir, "bytes")
        with open(path, "wb") as file:
            file.write(b"\xff\x00")
        assert hub.json("send", "d1", "@" + path)["sequenceNumber"] == 3
        assert hub.json("device", "show", "d1")["cloudToDeviceMessageCount"] == 3
        assert hub.json("twin", "get", "d1")["cloudToDeviceMessageCount"] == 3
        # a real client takes them, in order
        token = hub.cli("sas", "--device", "d1")[0].strip()
        taken = subprocess.run(["mosquitto_sub", "-h", "localhost", "-p", str(port_of(hub, "mqtts")), "--cafile",
                                hub.file()["caFile"], "-V", "mqttv311", "-i", "d1", "-u",
                                "localhost/d1/?api-version=2021-04-12", "-P", token, "-q", "1", "-t",
                                "devices/d1/messages/devicebound/#", "-C", "3", "-F", "%t %x"],
                               stdout=subprocess.PIPE, check=True, timeout=120).stdout.decode().splitlines()
        assert [line.split()[1] for line in taken] == [b"hello".hex(), b"again".hex(), "ff00"], taken
        assert "a=b" in taken[0] and "%24.mid=m1" in taken[0] and "c=d%3De" in taken[0], taken[0]
        one_sentence(hub.cli("send", "nobody", "x", code=1)[1], "nobody", "DeviceNotFound")
        one_sentence(hub.cli("send", "d1", "@/nowhere", code=1)[1], "/nowhere")


@case
def consumer_groups():
    with Hub() as hub:
        assert [g["name"] for g in hub.json("consumer-group", "list")] == ["$Default"]
        out, err = hub.cli("consumer-group", "add", "Archive")
        assert out == "" and err == "consumer group Archive is made\n", (out, err)
        assert "was there already" in hub.cli("consumer-group", "add", "archive")[1]
        made = hub.json("consumer-group", "add", "web.1")
        assert made["name"] == "web.1" and re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", made["createdTime"]), made
        assert [line.split()[0] for line in hub.cli("consumer-group", "list")[0].splitlines()] == [
            "name", "$Default", "Archive", "web.1"]
        assert hub.cli("consumer-group", "rm", "WEB.1") == ("", "")
        one_sentence(hub.cli("consumer-group", "rm", "web.1", code=1)[1], "no consumer group", "ResourceNotFound")
        one_sentence(hub.cli("consumer-group", "rm", "$Default", code=1)[1], "$Default", "cannot be deleted")
        one_sentence(hub.cli("consumer-group", "add", "a b", code=1)[1], "letters, digits", "ArgumentInvalid")
        hub.stop()
        hub.start()
        remote = hub.json("hub", "show")
        out = nave("consumer-group", "list", "--hub", remote["serviceConnectionString"], "--ca", remote["caFile"])[0]
        assert "Archive" in out and "web" not in out, out


@case
def query():
    with Hub() as hub:
        for i in range(5):
            hub.cli("device", "add", "d%d" % i)
            hub.cli("twin", "patch", "d%d" % i, '{"tags":{"n":%d,"site":{"x":"%s"}}}' % (i, "north" if i % 2 else "south"))
        rows = hub.json("query", "SELECT * FROM devices", "--page", "2")
        assert sorted(row["deviceId"] for row in rows) == ["d0", "d1", "d2", "d3", "d4"], rows
        table = hub.cli("query", "SELECT * FROM devices WHERE tags.n = 3")[0].splitlines()
        assert table[0].split()[:2] == ["deviceId", "status"] and table[1].startswith("d3 "), table
        table = hub.cli("query", "SELECT deviceId, tags.n AS n, tags.site AS site FROM devices WHERE tags.n >= 3")[0]
        assert [line.split() for line in table.splitlines()] == [
            ["deviceId", "n", "site"], ["d3", "3", '{"x":"north"}'], ["d4", "4", '{"x":"south"}']], table
        count = hub.json("query", "SELECT COUNT() AS n FROM devices WHERE tags.site.x = 'north'")
        assert count == [{"n": 2}], count
        assert hub.json("query", "SELECT * FROM devices WHERE tags.n = 99") == []
        assert hub.cli("query", "SELECT * FROM devices WHERE tags.n = 99")[0] == ""
        out, err = hub.cli("query", "SELECT * FROM devices WHERE", code=1)
        assert out == ""
        one_sentence(err, "The query is invalid", "ArgumentInvalid")


@case
def hub_show_and_sas():
    with Hub("--hostname", "hub.example") as hub:
        path = os.path.join(hub.data, "hub.json")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(hub.data).st_mode) == 0o700
        shown = hub.json("hub", "show")
        assert shown["hostName"] == "hub.example" and "localhost" in shown["hostNames"]
        dotted = shown["dottedHostName"]
        assert "." in dotted and dotted in shown["hostNames"] and socket.getaddrinfo(dotted, None)
        assert os.path.exists(shown["caFile"])
        assert set(shown["policies"]) == {"iothubowner", "service", "device", "registryRead", "registryReadWrite"}
        assert shown["policies"]["service"]["rights"] == "ServiceConnect"
        assert shown["serviceConnectionString"].endswith(shown["policies"]["iothubowner"]["primaryKey"])
        assert shown["endpoints"]["mqtts"].startswith("mqtts://hub.example:")
        amqps = shown["endpoints"]["amqps"]
        assert amqps.startswith("amqps://hub.example:")
        assert shown["eventHubConnectionString"] == (
            "Endpoint=sb://%s/;SharedAccessKeyName=service;SharedAccessKey=%s;EntityPath=hub" % (
                amqps[8:], shown["policies"]["service"]["primaryKey"])), shown
        assert "eventHubEmulatorString" not in shown and "amqp" not in shown["endpoints"]
        assert "events string   Endpoint=sb://" in hub.cli("hub", "show")[0]
        hub.cli("device", "add", "d1")
        token = hub.cli("sas", "--device", "d1", "--ttl", "60")[0].strip()
        assert token.startswith("SharedAccessSignature sr=hub.example%2Fdevices%2Fd1&sig=") and "skn" not in token
        # the same string over the network, as from another machine
        remote = ["--hub", shown["serviceConnectionString"].replace("hub.example", "localhost"), "--ca", shown["caFile"]]
        assert json.loads(nave("device", "show", "d1", "-o", "json", *remote)[0])["deviceId"] == "d1"
        there = json.loads(nave("hub", "show", "-o", "json", *remote)[0])
        assert there["hostName"] == "localhost"
        assert there["eventHubConnectionString"] == (
            "Endpoint=sb://localhost:%d/;SharedAccessKeyName=iothubowner;SharedAccessKey=%s;EntityPath=hub" % (
                port_of(hub, "amqps"), shown["policies"]["iothubowner"]["primaryKey"])), there
        nave("device", "list", env={"NAVE_CONNECTION_STRING": remote[1]}, code=1)  # its root is not trusted here
        wrong = re.sub("SharedAccessKey=.*", "SharedAccessKey=" + base64.b64encode(b"x" * 32).decode(), remote[1])
        one_sentence(nave("device", "list", "--hub", wrong, "--ca", shown["caFile"], code=1)[1], "Unauthorized")
        assert hub.stop() == 0
        # policies also while the hub is stopped
        token = hub.cli("sas", "--policy", "service")[0]
        assert "&skn=service" in token
        one_sentence(hub.cli("sas", "--policy", "nope", code=1)[1], "nope")
        one_sentence(hub.cli("device", "list", code=1)[1], "cannot be reached", "nave up")
        key = base64.b64encode(b"k" * 32).decode()
        assert nave("sas", "--device", "d", "--key", key, "--host", "h")[0].startswith("SharedAccessSignature sr=h%2F")


@case
def event_hub():
    with Hub("--set", "amqp.plain_port=-1", "--set", "events.entity=my-events") as hub:
        shown = hub.json("hub", "show")
        assert re.fullmatch(r"Endpoint=sb://localhost:\d+/;SharedAccessKeyName=service;SharedAccessKey=[^;]+;"
                            r"EntityPath=my-events;UseDevelopmentEmulator=true", shown["eventHubEmulatorString"]), shown
        assert shown["eventHubConnectionString"].endswith(";EntityPath=my-events")
        assert " amqps://localhost:" in hub.ready and " amqp://localhost:" in hub.ready, hub.ready
        assert "without TLS     Endpoint=sb://" in hub.cli("hub", "show")[0]
        # plain AMQP is there on loopback, and answers what begins with AMQP's header with its own
        with socket.create_connection(("127.0.0.1", port_of(hub, "amqp")), 10) as sock:
            sock.sendall(b"AMQP\x00\x01\x00\x00")
            assert sock.recv(8) == b"AMQP\x00\x01\x00\x00"
        one_sentence(nave("up", "--check", "--set", "events.entity=a/b", code=2)[1], "events.entity", "a/b")
    with Hub("--set", "amqp.port=0") as hub:
        shown = hub.json("hub", "show")
        assert "amqps" not in shown["endpoints"] and "eventHubConnectionString" not in shown


@case
def doctor():
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        out = hub.cli("doctor", "d1")[0]
        assert "registered" in out and "No refusals" in out, out
        done = subprocess.run(["mosquitto_pub", "-h", "localhost", "-p", str(port_of(hub, "mqtts")), "--cafile",
                               hub.file()["caFile"], "-V", "mqttv311", "-i", "d1", "-u",
                               "localhost/d1/?api-version=2021-04-12", "-P",
                               "SharedAccessSignature sr=localhost%2Fdevices%2Fd1&sig="
                               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D&se=1600000000", "-t", "x", "-m", "x"],
                              stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=90)
        assert done.returncode != 0
        report = hub.json("doctor", "d1")
        assert all(c["ok"] for c in report["checks"]), report
        assert report["refusals"][0]["refusal"] == "token-expired", report
        assert "cure" in hub.cli("doctor", "d1")[0]
        assert "no device \"D1\" is registered" in hub.cli("doctor", "D1", code=1)[0]
        hub.cli("device", "set", "d1", "--status", "disabled", "--reason", "lost")
        assert "lost" in hub.cli("doctor", "d1", code=1)[0]
