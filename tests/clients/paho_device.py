"""A device as a user of paho writes it."""
import queue
import socket

import paho.mqtt.client as mqtt

HOST = "localhost"
WAIT_S = 60


class Device:
    """A paho client whose callbacks become queues that a test can wait on."""

    def __init__(self, hub, client_id, username, password, clean=True, protocol=mqtt.MQTTv311, keepalive=60, will=None):
        options = {} if protocol == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(client_id=client_id, protocol=protocol, **options)
        self.client.username_pw_set(username, password)
        self.client.tls_set(ca_certs=hub.ca())
        self.connected, self.closed, self.acked, self.subscribed, self.messages = (queue.Queue() for _ in range(5))
        self.client.on_connect = lambda c, u, flags, rc, *more: self.connected.put((int(getattr(rc, "value", rc)), flags))
        self.client.on_disconnect = lambda c, u, rc, *more: self.closed.put(rc)
        self.client.on_publish = lambda c, u, mid: self.acked.put(mid)
        self.client.on_subscribe = lambda c, u, mid, granted: self.subscribed.put(granted)
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.reconnect_delay_set(3600, 3600)  # the tests decide when to reconnect
        if will:
            self.client.will_set(*will)
        self.client.connect(HOST, 8883, keepalive)
        self.client.loop_start()
        self.code, self.flags = self.connected.get(timeout=WAIT_S)

    def publish(self, topic, payload="x", qos=1, retain=False):
        self.client.publish(topic, payload, qos, retain)
        if qos == 1:
            self.acked.get(timeout=WAIT_S)

    def subscribe(self, filters):
        self.client.subscribe(filters)
        return self.subscribed.get(timeout=WAIT_S)

    def unsubscribe(self, topic):
        done = queue.Queue()
        self.client.on_unsubscribe = lambda c, u, mid, *more: done.put(mid)
        self.client.unsubscribe(topic)
        done.get(timeout=WAIT_S)

    def receive(self, seconds=WAIT_S):
        """(topic, payload) of the next message."""
        message = self.messages.get(timeout=seconds)
        return message.topic, message.payload.decode()

    def must_be_closed(self, seconds=WAIT_S):
        self.closed.get(timeout=seconds)
        self.quit()

    def drop(self):
        """Cut the connection without DISCONNECT."""
        self.client.socket().shutdown(socket.SHUT_RDWR)
        self.must_be_closed()

    def quit(self):
        self.client.disconnect()
        self.client.loop_stop()
