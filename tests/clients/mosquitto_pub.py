"""mosquitto_pub, as the README shows it, over TLS and over the opt-in plain port."""
# conformance: mqtt.md 1, 21
import subprocess

from hub import sas, with_hub


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    token = hub.cli("sas", "--device", "d1").strip()
    common = ["mosquitto_pub", "-V", "mqttv311", "-q", "1", "-i", "d1", "-u", "localhost/d1/?api-version=2021-04-12"]
    topic = ["-t", "devices/d1/messages/events/", "-m"]
    subprocess.run(common + ["-h", "localhost", "-p", "8883", "--cafile", hub.ca(), "-P", token] + topic + ["over TLS"],
                   check=True, timeout=90)
    subprocess.run(common + ["-h", "127.0.0.1", "-p", "1883", "-P", sas("localhost/devices/d1", key)] + topic + ["plain"],
                   check=True, timeout=90)
    refused = subprocess.run(common + ["-h", "127.0.0.1", "-p", "1883", "-P", "wrong"] + topic + ["no"],
                             stderr=subprocess.PIPE, timeout=90)
    assert refused.returncode == 5, refused
    assert [event["body"] for event in hub.events(2)] == ["over TLS", "plain"]


with_hub(run, config="mqtt:\n  plain_port: 1883\n")
