#!/usr/bin/python3
"""The program as a user meets it: words, exit codes, files. Usage: NAVE=path program.py [CASE]"""
import base64
import http.client
import http.server
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

NAVE = os.environ["NAVE"]
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FREE = ["--set", "mqtt.port=-1", "--set", "amqp.port=-1", "--set", "https.port=-1", "--set", "admin.port=-1", "--bind", "localhost"]
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def nave(*words, env=None, code=0, timeout=60):
    """Run to the end; check the exit code. Returns (stdout, stderr)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NAVE_")}
    environment.update(env or {})
    done = subprocess.run([NAVE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                          timeout=timeout, env=environment)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, "nave %s: exit %d, not %d\n%s%s" % (" ".join(words), done.returncode, code, out, err)
    return out, err


def one_sentence(text, *parts):
    """The complaint is one line, and names what matters."""
    lines = [line for line in text.splitlines() if line.startswith("nave: ")]
    assert len(lines) == 1, text
    for part in parts:
        assert part in lines[0], "%r is not in: %s" % (part, lines[0])


class Hub:
    """A hub on free ports."""

    def __init__(self, *words, data=True):
        self.dir = tempfile.mkdtemp(prefix="nave-program-")
        self.data = os.path.join(self.dir, "data")
        self.words = ["up", *(["--data", self.data] if data else []), *FREE, *words]
        self.log = os.path.join(self.dir, "log")
        self.process = None
        self.ready = ""

    def start(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NAVE_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([NAVE, *self.words], stdout=subprocess.PIPE, stderr=log,
                                            stdin=subprocess.DEVNULL, env=environment)
        text = b""
        while b"Nave is ready" not in text or not text.endswith(b"\n"):
            assert select.select([self.process.stdout], [], [], 30)[0], "not ready in time: " + self.read_log()
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, "it ended: " + self.read_log()
            text += chunk
        self.ready = text.decode()
        return self

    def read_log(self):
        with open(self.log, encoding="utf-8") as file:
            return file.read()

    def wait_log(self, text):
        deadline = time.monotonic() + 30
        while text not in self.read_log():
            assert time.monotonic() < deadline, "%r never came: %s" % (text, self.read_log())
            time.sleep(0.01)  # a file has no other way to tell

    def file(self):
        with open(os.path.join(self.data, "hub.json"), encoding="utf-8") as file:
            return json.load(file)

    def cli(self, *words, **options):
        return nave(*words, "--data", self.data, **options)

    def json(self, *words):
        return json.loads(self.cli(*words, "-o", "json")[0])

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        if kind:
            sys.stderr.write("--- log\n" + self.read_log())
        shutil.rmtree(self.dir, ignore_errors=True)


def port_of(hub, name):
    return urllib.parse.urlsplit(hub.file()["endpoints"][name]).port


def admin(hub, path):
    with urllib.request.urlopen(hub.file()["endpoints"]["admin"] + path, timeout=10) as answer:
        return answer.read().decode()


@case
def words():
    assert re.fullmatch(r"nave \d+\.\d+\.\d+\n", nave("version")[0])
    overview = nave("help")[0]
    for line in ("device add", "twin patch", "method", "send", "query", "monitor", "doctor", "hub show", "sas",
                 "consumer-group add"):
        assert line in overview, overview
    assert nave("--help")[0] == overview
    assert "nave device add pump1" in nave("help", "device", "add")[0]
    assert nave("device", "add", "--help")[0] == nave("help", "device", "add")[0]
    for bad, part in ((["nope"], "no command"), (["device"], "verb"), (["device", "nope"], "nope"),
                      (["device", "add"], "ID is missing"), (["device", "add", "a", "b"], "one word too many"),
                      (["device", "list", "--nope"], "--nope"), (["sas"], "--device ID or --policy"),
                      (["sas", "--policy", "x", "--ttl", "0"], "--ttl"), (["monitor", "--count", "0"], "--count"),
                      (["monitor", "--from", "5"], "--partition"),
                      (["monitor", "--over", "pigeon"], "--over"), (["send", "x", "y", "--over", "z"], "--over"),
                      (["monitor", "--over", "http", "--consumer-group", "x"], "--consumer-group"), (["device", "set", "x"], "nothing to change"),
                      (["up", "--dev-known-keys"], "--dev"), (["help", "nope"], "no command"), ([], "a command"),
                      (["device", "list", "-o", "xml"], "json or table"),
                      (["device", "list", "--hub", "HostName=x"], "connection string"),
                      (["twin"], "verb"), (["twin", "patch", "x"], "missing"), (["method", "x"], "missing"),
                      (["send", "x"], "missing"), (["send", "x", "y", "-p", "z"], "NAME=VALUE"),
                      (["send", "x", "y", "--ack", "some"], "--ack"), (["send", "x", "y", "--ttl", "0"], "--ttl"),
                      (["consumer-group"], "verb"), (["consumer-group", "add"], "NAME is missing"),
                      (["query"], "missing"), (["query", "x", "--page", "0"], "--page"),
                      (["completion", "fish"], "bash")):
        out, err = nave(*bad, code=2)
        assert out == "", out
        one_sentence(err, part)


@case
def completion():
    script = nave("completion", "bash")[0] + """
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _nave; echo "${COMPREPLY[*]}"; }
try nave de
try nave device r
try nave device add --th
try nave up --de
try nave tw
try nave twin p
try nave method d1 --c
"""
    done = subprocess.run(["bash", "-eu", "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().splitlines() == ["device", "rm", "--thumbprint", "--dev --dev-known-keys", "twin",
                                                 "patch", "--connect-timeout --ca"], done.stdout


@case
def reference():
    with open(os.path.join(ROOT, "docs", "configuration.md"), encoding="utf-8") as file:
        assert nave("up", "--print-options")[0] == file.read(), \
            "docs/configuration.md is old: build/dev/nave up --print-options > docs/configuration.md"


@case
def check():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "nave.yaml")

        def write(text):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

        write("log:\n  durability: os\n")
        out, err = nave("up", "--check", "--data", folder)
        assert "log.durability: os" in out and path in err, out + err
        assert os.listdir(folder) == ["nave.yaml"], "a check writes nothing"
        out = nave("up", "--check", "--data", folder, "--set", "mqtt.port=1", env={"NAVE_MQTT_PORT": "2",
                                                                                   "NAVE_ADMIN_PORT": "3"})[0]
        assert "mqtt.port: 1\n" in out and "admin.port: 3\n" in out, out
        for text, parts in (("mqtt:\n  port: 70000\n", ("line 2", "mqtt.port", "70000")),
                            ("mqtt:\n  prot: 1\n", ("line: 2", "prot")), ("mqtt: [\n", ("nave.yaml",)),
                            ("log:\n  durability: x\n", ("line 2", "commit|os"))):
            write(text)
            for words in (["--check"], []):  # also when it should really start
                out, err = nave("up", *words, "--data", folder, code=2)
                one_sentence(err, *parts)
        one_sentence(nave("up", "--check", "--config", os.path.join(folder, "absent.yaml"), code=2)[1], "absent.yaml")
        write("")
        one_sentence(nave("up", "--data", folder, env={"NAVE_LOG_PARTITIONS": "99"}, code=2)[1], "NAVE_LOG_PARTITIONS")
        one_sentence(nave("up", "--data", folder, "--set", "a.b=1", code=2)[1], "a.b")
        one_sentence(nave("up", "--data", folder, "--set", "a", code=2)[1], "OPTION=VALUE")


@case
def used_port():
    with socket.socket() as taken, tempfile.TemporaryDirectory() as folder:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("mqtt.port", "amqp.port", "amqp.plain_port", "https.port", "admin.port"):
            err = nave("up", "--data", folder, *FREE, "--set", option + "=" + port, code=1)[1]
            one_sentence(err, port, "127.0.0.1", option)


@case
def second_instance():
    with Hub() as hub:
        started = time.monotonic()
        one_sentence(nave(*hub.words, code=1)[1], "another hub", hub.data)
        assert time.monotonic() - started < 10
        hub.json("hub", "show")
        hub.cli("device", "add", "still-served")


@case
def unusable_folder():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        with open(path, "w", encoding="utf-8"):
            pass
        one_sentence(nave("up", "--data", path, *FREE, code=1)[1], path, "data folder")
        one_sentence(nave("up", "--data", os.path.join(path, "below"), *FREE, code=1)[1], path, "data folder")
        closed = os.path.join(folder, "closed")
        os.mkdir(closed, 0)
        command = [NAVE, "up", "--data", closed, *FREE]
        if os.geteuid() == 0:  # root may read everything: be somebody else
            os.chmod(folder, 0o755)
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=60)
        assert done.returncode == 1, done
        one_sentence(done.stderr.decode(), closed, "ermission")
        one_sentence(nave("device", "list", "--data", folder, code=1)[1], folder, "nave up")


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
                               stdout=subprocess.PIPE, check=True, timeout=60)
        assert json.loads(piped.stdout)["tags"] == {"only": 1}
        assert "t" not in hub.json("twin", "get", "d1")["properties"]["desired"]
        module = hub.json("twin", "patch", "d1", '{"properties":{"desired":{"m":1}}}', "--module", "m1")
        assert module["moduleId"] == "m1" and module["properties"]["desired"]["m"] == 1
        one_sentence(hub.cli("twin", "get", "nobody", code=1)[1], "nobody", "DeviceNotFound")
        one_sentence(hub.cli("twin", "get", "d1", "--module", "nobody", code=1)[1], "nobody", "DeviceNotFound")
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
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        out, err = hub.cli("method", "d1", "reboot", code=1)
        assert out == ""
        one_sentence(err, "not online", "DeviceNotOnline")
        one_sentence(hub.cli("method", "nobody", "reboot", code=1)[1], "nobody", "DeviceNotFound")
        one_sentence(hub.cli("method", "d1", "no name", code=1)[1], "methodName", "ArgumentInvalid")
        one_sentence(hub.cli("method", "d1", "reboot", "no JSON", code=2)[1], "no JSON")
        for flag, value in (("--timeout", "4"), ("--timeout", "301"), ("--connect-timeout", "x")):
            one_sentence(hub.cli("method", "d1", "reboot", flag, value, code=2)[1], flag)
        # A caller waits for a device that does not come; the hub stops meanwhile and says so at once.
        waiting = subprocess.Popen([NAVE, "method", "d1", "reboot", "--timeout", "300", "--connect-timeout", "300",
                                    "--data", hub.data], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while int(re.search(r"nave_net_connections_open (\d+)", admin(hub, "/metrics")).group(1)) < 2:
            time.sleep(0.01)  # metrics have no other way to tell
        started = time.monotonic()
        assert hub.stop() == 0
        assert time.monotonic() - started < 9
        err = waiting.communicate(timeout=30)[1].decode()
        assert waiting.returncode == 1
        one_sentence(err)
        assert "stopping" in err or "cannot be reached" in err, err  # it may not have asked yet


@case
def messages():
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        sent = hub.json("send", "d1", "hello", "-p", "a=b", "-p", "c=d=e", "--message-id", "m1", "--ack", "full",
                        "--ttl", "600", "--content-type", "text/plain", "--correlation-id", "c1")
        assert sent["sequenceNumber"] == 1 and sent["messageId"] == "m1", sent
        out, err = hub.cli("send", "d1", "again")
        assert out == "" and "queued for d1 as number 2" in err, (out, err)
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
                               stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode().splitlines()
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
def restart_keeps_keys():
    with Hub() as hub:
        before = hub.json("hub", "show")
        first = hub.json("device", "add", "d1")
        assert "This hub is new" in hub.ready
        assert hub.stop() == 0
        hub.start()
        after = hub.json("hub", "show")
        assert "This hub is new" not in hub.ready
        assert before["policies"] == after["policies"]
        assert hub.json("device", "show", "d1")["authentication"]["symmetricKey"]["primaryKey"] == first["primaryKey"]


@case
def throw_away():
    with Hub("--dev", data=False) as hub:
        data = re.search(r"data in (\S+)\)", hub.ready).group(1)
        hub.data = data
        assert hub.json("device", "add", "d1")["deviceId"] == "d1"
        random_keys = hub.json("hub", "show")["policies"]
        assert hub.stop() == 0
        assert not os.path.exists(data)
    keys = []
    for _ in range(2):
        with Hub("--dev", "--dev-known-keys", data=False) as hub:
            hub.data = re.search(r"data in (\S+)\)", hub.ready).group(1)
            hub.wait_log("--dev-known-keys")
            keys.append(hub.json("hub", "show")["policies"])
            assert hub.stop() == 0
    assert keys[0] == keys[1] != random_keys


def publish(hub, device, payload):
    """One QoS 1 message by a real client."""
    token = hub.cli("sas", "--device", device)[0].strip()
    subprocess.run(["mosquitto_pub", "-h", "localhost", "-p", str(port_of(hub, "mqtts")), "--cafile",
                    hub.file()["caFile"], "-V", "mqttv311", "-i", device, "-u",
                    "localhost/%s/?api-version=2021-04-12" % device, "-P", token, "-q", "1", "-t",
                    "devices/%s/messages/events/a=b" % device, "-m", payload], check=True, timeout=30)


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
        partition = str(events[0]["partition"])
        out = hub.cli("monitor", "--from", "1", "--partition", partition, "--count", "2", "-o", "json")[0]
        assert [json.loads(line)["sequence"] for line in out.splitlines()] == [1, 2]


@case
def monitor_survives_a_restart():
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        publish(hub, "d1", "one")
        watcher = subprocess.Popen([NAVE, "monitor", "--data", hub.data, "--from", "beginning", "--count", "3", "-o",
                                    "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first = json.loads(watcher.stdout.readline())
        assert first["body"] == "one"
        assert hub.stop(signal.SIGKILL) == -signal.SIGKILL
        hub.start()
        publish(hub, "d1", "two")
        publish(hub, "d1", "three")
        out, err = watcher.communicate(timeout=60)
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
        assert b"d3  late" in watcher.communicate(timeout=30)[0]
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
        hub.cli("device", "add", "d1")
        publish(hub, "d1", "one")
        watcher = subprocess.Popen([NAVE, "monitor", "--data", hub.data, "--from", "beginning", "--count", "4", "-o",
                                    "json", "--over", "amqp"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert json.loads(watcher.stdout.readline())["body"] == "one"
        for sig, code, body in ((signal.SIGKILL, -signal.SIGKILL, "two"), (signal.SIGTERM, 0, "three")):
            assert hub.stop(sig) == code
            hub.start()
            publish(hub, "d1", body)
            assert json.loads(watcher.stdout.readline())["body"] == body
        publish(hub, "d1", "four")
        out, err = watcher.communicate(timeout=60)
        assert watcher.returncode == 0 and json.loads(out)["body"] == "four", (out, err)
        assert err.decode().count("trying again") == 2, err


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
def send_amqp_and_feedback():
    with Hub("--set", "testing.clock=manual") as hub:
        hub.cli("device", "add", "d1")
        hub.cli("device", "add", "a%b#c")
        sent = hub.json("send", "d1", "hello", "-p", "a=b", "--message-id", "m1", "--ack", "full", "--ttl", "600",
                        "--content-type", "text/plain", "--correlation-id", "c1", "--over", "amqp")
        assert sent == {"deviceId": "d1", "messageId": "m1", "outcome": "accepted"}, sent
        out, err = hub.cli("send", "a%b#c", "odd", "--over", "amqp")
        assert out == "" and err == "queued for a%b#c\n", err
        assert hub.json("twin", "get", "a%b#c")["cloudToDeviceMessageCount"] == 1
        one_sentence(hub.cli("send", "nobody", "x", "--over", "amqp", code=1)[1], "DeviceNotFound")
        one_sentence(hub.cli("send", "d1", "x" * 70000, "--over", "amqp", code=1)[1], "MessageTooLarge")
        token = hub.cli("sas", "--device", "d1")[0].strip()
        taken = subprocess.run(["mosquitto_sub", "-h", "localhost", "-p", str(port_of(hub, "mqtts")), "--cafile",
                                hub.file()["caFile"], "-V", "mqttv311", "-i", "d1", "-u",
                                "localhost/d1/?api-version=2021-04-12", "-P", token, "-q", "1", "-t",
                                "devices/d1/messages/devicebound/#", "-C", "1", "-F", "%t %p"],
                               stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()
        assert taken.endswith(" hello\n") and "a=b" in taken and "%24.mid=m1" in taken and "%24.cid=c1" in taken, taken
        watcher = subprocess.Popen([NAVE, "feedback", "--data", hub.data, "--count", "1", "-o", "json"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while watcher.poll() is None:  # the hub gathers records for a while
            urllib.request.urlopen(urllib.request.Request(hub.file()["endpoints"]["admin"] + "/testing/clock",
                                                          data=b'{"advance":"5s"}'), timeout=10).close()
        record = json.loads(watcher.communicate(timeout=30)[0])
        assert record["originalMessageId"] == "m1" and record["statusCode"] == "Success" and record["deviceId"] == "d1"
        one_sentence(nave("feedback", "--count", "0", code=2)[1], "--count")


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
                              stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=30)
        assert done.returncode != 0
        report = hub.json("doctor", "d1")
        assert all(c["ok"] for c in report["checks"]), report
        assert report["refusals"][0]["refusal"] == "token-expired", report
        assert "cure" in hub.cli("doctor", "d1")[0]
        assert "no device \"D1\" is registered" in hub.cli("doctor", "D1", code=1)[0]
        hub.cli("device", "set", "d1", "--status", "disabled", "--reason", "lost")
        assert "lost" in hub.cli("doctor", "d1", code=1)[0]


@case
def no_secrets_in_the_log():
    with Hub("--set", "diag.level=debug") as hub:
        key = hub.json("device", "add", "d1")["primaryKey"]
        publish(hub, "d1", "a-payload-nobody-logs")
        token = hub.cli("sas", "--device", "d1")[0].strip()
        secrets = [key, "a-payload-nobody-logs", re.search("sig=([^&]*)", token).group(1)[:20]]
        secrets += [p["primaryKey"] for p in hub.json("hub", "show")["policies"].values()]
        assert hub.stop() == 0
        text = hub.read_log() + hub.ready
        for secret in secrets:
            assert secret not in text, "%s is in the log" % secret


@case
def reload():
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "nave.yaml")

    def write(text):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    write("diag:\n  level: warn\n")
    with Hub("--config", path) as hub:
        write("diag:\n  level: debug\nlog:\n  partitions: 9\n")
        hub.process.send_signal(signal.SIGHUP)
        hub.wait_log("log.partitions is changed in the configuration; that waits for a restart")
        write("diag: [\n")
        hub.process.send_signal(signal.SIGHUP)
        hub.wait_log("the former configuration stays in force")
        write("diag:\n  level: info\n  format: json\n")
        hub.process.send_signal(signal.SIGHUP)
        hub.wait_log('"area":"tls"')
        hub.json("device", "add", "d1")
        assert hub.stop() == 0
    shutil.rmtree(folder)


@case
def signals_at_once():
    """A signal right behind the ready line, and one in the middle of the start, are taken as meant."""
    for _ in range(20):
        with Hub() as hub:
            hub.process.send_signal(signal.SIGHUP)
            assert hub.stop() == 0
    for delay in range(0, 40, 4):
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen([NAVE, "up", "--data", folder, *FREE], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE)
            while not os.path.exists(os.path.join(folder, "lock")):
                assert process.poll() is None
            time.sleep(delay / 1000)
            process.terminate()
            err = process.communicate(timeout=30)[1].decode()
            assert process.returncode == 0 and "stopped" in err, (delay, process.returncode, err)


@case
def two_signals():
    with Hub("--set", "net.drain_seconds=600") as hub:
        with socket.create_connection(("127.0.0.1", port_of(hub, "mqtts"))):  # somebody who never says a word
            hub.process.send_signal(signal.SIGINT)
            hub.wait_log("stopping")
            assert hub.stop(signal.SIGINT) == 0


@case
def a_log_that_nobody_reads():
    """Its pipe is full: the hub serves on, and says how much is missing once somebody reads."""
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([NAVE, "up", "--data", folder, *FREE, "--set", "diag.level=debug"],
                                   stdout=subprocess.PIPE, stderr=writer, stdin=subprocess.DEVNULL)
        os.close(writer)
        line = b""
        while b"Nave is ready" not in line:
            line = process.stdout.readline()
            assert line, process.poll()
        admin = re.search(r"http://127\.0\.0\.1:(\d+)", line.decode())
        connection = http.client.HTTPConnection("127.0.0.1", int(admin.group(1)), timeout=30)

        def get(path):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

        for _ in range(1500):
            get("/readyz")
        assert int(re.search(r"^nave_diag_dropped_lines (\d+)$", get("/metrics"), re.M).group(1)) > 0
        text = os.read(reader, 1 << 20)  # room again
        get("/readyz")
        process.terminate()
        while True:
            part = os.read(reader, 1 << 20)
            if not part:
                break
            text += part
        assert process.wait(30) == 0
        process.stdout.close()
        os.close(reader)
        lines = text.decode().splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\dT\S+ (debug|info|warn|error) \w+: ", line) for line in lines), lines[:5]
        assert any("lines of this log were dropped here" in line for line in lines), lines[-5:]
        assert lines[-1].endswith("hub: stopped"), lines[-1]


@case
def https_fallback():
    """Port 443 without the right to it: another port and a warning, and a start that is refused when told so."""
    script = ('ip link set lo up; exec setpriv --bounding-set=-all --inh-caps=-all "$@"')
    bare = ["unshare", "-rn", "sh", "-c", script, "sh"]
    with tempfile.TemporaryDirectory() as folder:
        refused = subprocess.run([*bare, NAVE, "up", "--data", folder, "--set", "https.fallback_port=0"], timeout=60,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert refused.returncode == 1, refused
        one_sentence(refused.stderr.decode(), "443")
        process = subprocess.Popen([*bare, NAVE, "up", "--data", folder], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        line = b""
        while b"Nave is ready" not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read().decode()
        process.terminate()
        err = process.communicate(timeout=30)[1].decode()
        assert b"https://localhost:8443" in line and "setcap" in err and "443" in err, err


@case
def stops_under_watch():
    """Somebody watching and somebody idle do not hold up the end."""
    with Hub() as hub:
        hub.cli("device", "add", "d1")
        publish(hub, "d1", "one")
        watcher = subprocess.Popen([NAVE, "monitor", "--data", hub.data, "--from", "beginning", "-o", "json"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert watcher.stdout.readline()
        with socket.create_connection(("127.0.0.1", port_of(hub, "https"))):
            started = time.monotonic()
            assert hub.stop() == 0
            took = time.monotonic() - started
        watcher.terminate()
        watcher.communicate(timeout=30)
        assert took < 9, "the stop took %.1f s" % took
        print("stopped in %.1f s" % took)


@case
def start_is_fast():
    with Hub() as hub:
        assert hub.stop() == 0
        times = []
        for _ in range(5):
            hub.start()
            times.append(int(re.search(r"\((\d+) ms", hub.ready).group(1)))
            assert hub.stop() == 0
        print("ready after", sorted(times), "ms")
        # The aim is 100 ms; a busy test machine and sanitizers get room.
        assert sorted(times)[0] < 2000, times


def main():
    wanted = sys.argv[1:] or list(CASES)
    for name in wanted:
        CASES[name]()
        print("ok", name)


main()
