"""A hub that is started as a user starts it, and what its cases need: commands, complaints, a device that sends."""
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
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


def nave(*words, env=None, code=0, timeout=120):
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
            assert select.select([self.process.stdout], [], [], 90)[0], "not ready in time: " + self.read_log()
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, "it ended: " + self.read_log()
            text += chunk
        self.ready = text.decode()
        return self

    def read_log(self):
        with open(self.log, encoding="utf-8") as file:
            return file.read()

    def wait_log(self, text, times=1):
        deadline = time.monotonic() + 90
        while self.read_log().count(text) < times:
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
        code = self.process.wait(90)
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
    with urllib.request.urlopen(hub.file()["endpoints"]["admin"] + path, timeout=60) as answer:
        return answer.read().decode()


def publish(hub, device, payload):
    """One QoS 1 message by a real client."""
    token = hub.cli("sas", "--device", device)[0].strip()
    subprocess.run(["mosquitto_pub", "-h", "localhost", "-p", str(port_of(hub, "mqtts")), "--cafile",
                    hub.file()["caFile"], "-V", "mqttv311", "-i", device, "-u",
                    "localhost/%s/?api-version=2021-04-12" % device, "-P", token, "-q", "1", "-t",
                    "devices/%s/messages/events/a=b" % device, "-m", payload], check=True, timeout=90)
