"""Starts, kills and asks a hub of its own for one test. NAVE names the program."""
import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

PROGRAM = os.environ["NAVE"]


class Hub:
    def __init__(self, config=None, data=None):
        self.dir = tempfile.mkdtemp(prefix="nave-test-")
        self.data = data or os.path.join(self.dir, "data")
        self.log = os.path.join(self.dir, "hub.log")
        self.process = None
        self.arguments = []
        if config:
            path = os.path.join(self.dir, "nave.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(config)
            self.arguments = ["--config", path]

    def start(self):
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen([PROGRAM, "up", "--data", self.data] + self.arguments,
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        deadline = time.monotonic() + 90
        while self.admin("/readyz")[0] != 200:
            assert self.process.poll() is None, "the hub exited with %s" % self.process.returncode
            assert time.monotonic() < deadline, "the hub did not become ready"
            time.sleep(0.02)  # it has no other way to tell an outsider
        return self

    @staticmethod
    def admin(path):
        """(status, text) of a request to the admin listener; (0, "") while it is not there."""
        try:
            with urllib.request.urlopen("http://127.0.0.1:9600" + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as err:
            return err.code, err.read().decode()
        except OSError:
            return 0, ""

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        return self.process.wait(60)

    def cli(self, *args, check=True):
        done = subprocess.run([PROGRAM, *args, "--data", self.data], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=90)
        if check and done.returncode != 0:
            raise AssertionError("nave %s: exit %d\n%s" % (" ".join(args), done.returncode, done.stderr.decode()))
        return done.stdout.decode()

    def json(self, *args):
        return json.loads(self.cli(*args, "-o", "json"))

    def events(self, count):
        text = self.cli("monitor", "--from", "beginning", "--count", str(count), "-o", "json")
        return [json.loads(line) for line in text.splitlines()]

    def each_event(self):
        """Everything stored now, one by one, through the public API, without following."""
        shown = self.json("hub", "show")
        token = self.cli("sas", "--policy", "service").strip()
        url = "https://localhost/nave/v1/events?from=beginning&follow=false"
        with subprocess.Popen(["curl", "-sS", "--fail", "--cacert", shown["caFile"], "-H", "Authorization: " + token, url],
                              stdout=subprocess.PIPE) as curl:
            for line in curl.stdout:
                if line.strip():
                    yield json.loads(line)
        assert curl.returncode == 0, "curl: exit %d" % curl.returncode

    def all_events(self):
        return list(self.each_event())

    def ca(self):
        return self.json("hub", "show")["caFile"]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        shutil.rmtree(self.dir, ignore_errors=True)


def sas(resource, key, ttl_s=3600, policy=None):
    """A token as a raw-protocol user writes it by hand."""
    resource = urllib.parse.quote(resource, safe="")
    expiry = str(int(time.time()) + ttl_s)
    mac = hmac.new(base64.b64decode(key), (resource + "\n" + expiry).encode(), hashlib.sha256).digest()
    token = "SharedAccessSignature sr=%s&sig=%s&se=%s" % (
        resource, urllib.parse.quote(base64.b64encode(mac), safe=""), expiry)
    return token + ("&skn=" + policy if policy else "")


def with_hub(test, **options):
    """Run test(hub) with a started hub; on failure show the hub's log and exit with 1."""
    hub = Hub(**options)
    try:
        hub.start()
        test(hub)
        if hub.process.poll() is None:
            code = hub.kill(signal.SIGTERM)
            assert code == 0, "the hub stopped with exit code %d" % code
    except BaseException:
        traceback.print_exc()
        with open(hub.log, encoding="utf-8", errors="replace") as file:
            sys.stderr.write("--- the log of the hub\n" + file.read()[-8000:])
        hub.stop()
        sys.exit(1)
    hub.stop()
