"""Nave as a server under test: configuration, readiness, and the devices of a run, through public interfaces only."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import ssl
import subprocess
import time
import urllib.parse

from .process import Failure, free_port, wait_for

CONFIG = """net:
  loops: 1
mqtt:
  plain_port: {plain}
  port: {tls}
amqp:
  plain_port: {amqp}
  port: {amqps}
https:
  port: {https}
admin:
  port: {admin}
tls:
  certificate_file: {cert}
  key_file: {key}
log:
  durability: {durability}
diag:
  level: warn
"""
API = "api-version=2021-04-12"
BULK = 100


class Hub:
    def __init__(self, program, folder, certs, durability):
        self.program, self.folder, self.certs, self.durability = program, folder, certs, durability
        self.data, self.config = os.path.join(folder, "data"), os.path.join(folder, "nave.yaml")
        self.https, self.admin = free_port(), free_port()
        self.host_name, self.device_key, self.owner_key = "localhost", None, None

    def write_config(self, plain, tls, amqp, amqps):
        with open(self.config, "w", encoding="ascii") as file:
            file.write(CONFIG.format(plain=plain, tls=tls, amqp=amqp, amqps=amqps, https=self.https, admin=self.admin,
                                     durability=self.durability, **self.certs))

    def argv(self):
        return [self.program, "up", "--data", self.data, "--config", self.config]

    def ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def wait_ready(self, process):
        wait_for(self.ready, "nave", process.popen, log=process.log)

    def show(self):
        argv = [self.program, "hub", "show", "--data", self.data, "-o", "json"]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if result.returncode != 0:
            raise Failure("nave hub show: %s" % result.stderr.strip())
        return json.loads(result.stdout)

    def token(self):
        resource = urllib.parse.quote(self.host_name, safe="")
        expires = int(time.time()) + 3600
        mac = hmac.new(base64.b64decode(self.owner_key), ("%s\n%d" % (resource, expires)).encode(), hashlib.sha256)
        signature = urllib.parse.quote(base64.b64encode(mac.digest()).decode(), safe="")
        return "SharedAccessSignature sr=%s&sig=%s&se=%d&skn=iothubowner" % (resource, signature, expires)

    def add_devices(self, count):
        """Create bench-0 .. by the bulk call of the service's own interface."""
        shown = self.show()
        self.host_name = shown["hostName"]
        self.device_key = shown["policies"]["device"]["primaryKey"]
        parts = dict(p.split("=", 1) for p in shown["serviceConnectionString"].split(";"))
        self.owner_key = parts["SharedAccessKey"]
        context = ssl.create_default_context(cafile=self.certs["ca"])
        connection = http.client.HTTPSConnection("localhost", self.https, timeout=60, context=context)
        headers = {"Authorization": self.token(), "Content-Type": "application/json"}
        for first in range(0, count, BULK):
            body = [{"id": "bench-%d" % i, "importMode": "create", "status": "enabled"}
                    for i in range(first, min(first + BULK, count))]
            connection.request("POST", "/devices?" + API, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200 or not json.loads(text).get("isSuccessful", False):
                raise Failure("the hub did not create the devices: %d %s" % (answer.status, text[:300]))
        connection.close()
