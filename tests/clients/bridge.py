"""A real mosquitto bridges what arrives on its plain port into the hub over TLS, also across a restart of the hub."""
# conformance: mqtt.md 48
import os
import subprocess

import paho.mqtt.client as mqtt
from hub import sas, with_hub

CONFIG = """
user root
listener 18831 127.0.0.1
allow_anonymous true
persistence false
connection nave
address localhost:8883
bridge_cafile {ca}
bridge_protocol_version mqttv311
try_private false
notifications false
cleansession false
restart_timeout 1
remote_clientid gw
remote_username localhost/gw/api-version=2016-11-14
remote_password {token}
topic devices/gw/messages/events/# out 1
"""


def run(hub):
    key = hub.json("device", "add", "gw")["primaryKey"]
    path = os.path.join(hub.dir, "mosquitto.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(ca=hub.ca(), token=sas("localhost/devices/gw", key)))
    with open(os.path.join(hub.dir, "mosquitto.log"), "wb") as log:
        broker = subprocess.Popen(["/usr/sbin/mosquitto", "-c", path, "-v"], stdout=log, stderr=log)
    try:
        client = mqtt.Client(client_id="sensor")
        for _ in range(1000):
            try:
                client.connect("127.0.0.1", 18831)
                break
            except ConnectionRefusedError:
                subprocess.run(["sleep", "0.05"], check=True)
        client.loop_start()

        def publish(first, count):
            for i in range(first, first + count):
                client.publish("devices/gw/messages/events/n=%d" % i, "m%d" % i, 1).wait_for_publish(60)

        publish(0, 50)
        hub.events(50)
        hub.kill()
        publish(50, 20)  # queued by the bridge meanwhile
        hub.start()
        publish(70, 10)
        bodies = [event["body"] for event in hub.events(80)]
        missing = {"m%d" % i for i in range(80)} - set(bodies)
        # The bridge may send again what was in flight when the hub died, so wait until the last ones are there.
        count = 80
        while missing and count < 120:
            count += 1
            bodies = [event["body"] for event in hub.events(count)]
            missing = {"m%d" % i for i in range(80)} - set(bodies)
        assert not missing, missing
        client.loop_stop()
    except BaseException:
        with open(os.path.join(hub.dir, "mosquitto.log"), encoding="utf-8") as file:
            print("--- the log of mosquitto\n" + file.read()[-4000:])
        raise
    finally:
        broker.kill()
        broker.wait()


with_hub(run)
