"""AMQP in WebSocket frame by frame: every path and spelling, and a Proton engine whose bytes are cut as nobody would."""
# conformance: amqp.md 1, 2, 3, 4, 5
from hub import sas, with_hub
from proton import Collector, Connection, Delivery, Endpoint, Event, Message, Transport
from ws import HOST, Socket, frame

PROTOCOL = "AMQPWSB10"
HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
PATHS = ("/$iothub/websocket", "/$iothub/websocket/", "/$iothub/websocket?iothub-no-client-cert=true", "/$servicebus/websocket",
         "/$servicebus/websocket/", "/%24servicebus/websocket/?x=y")


def handshakes(hub):
    for path in PATHS:
        for offered in (PROTOCOL, "mqtt2, " + PROTOCOL):
            with Socket(hub, path, offered, headers="Sec-WebSocket-Extensions: permessage-deflate\r\n") as ws:
                assert ws.status == 101 and ws.headers["sec-websocket-protocol"] == PROTOCOL, (path, ws.status, ws.headers)
                assert "sec-websocket-extensions" not in ws.headers, ws.headers
                ws.sock.sendall(frame(HEADER))
                assert ws.data(8) == HEADER, path
    with Socket(hub, "/$servicebus/websocket", "mqtt") as ws:
        assert ws.status in (400, 404), "MQTT is not spoken there"
    with Socket(hub, PATHS[0], PROTOCOL) as ws:
        ws.sock.sendall(frame(SASL_HEADER))
        stream = b""
        while b"MSSBCBS" not in stream:
            stream += ws.frame()[1]
        assert stream.startswith(SASL_HEADER)
        mechanisms = stream[8:]
        ws.sock.sendall(frame(b"still", first=0x89))
        assert ws.frame() == (0x8A, b"still"), "a ping is answered"
        assert b"\xf0" in mechanisms or b"\xe0" in mechanisms, "an array"
        assert all(name in mechanisms for name in (b"PLAIN", b"ANONYMOUS", b"EXTERNAL", b"MSSBCBS")), mechanisms
    with Socket(hub, PATHS[0], PROTOCOL) as ws:
        ws.sock.sendall(frame(b"GET / HTTP/1.1\r\n\r\n"))
        first, payload = ws.frame()
        assert (first, payload[:4]) == (0x82, b"AMQP"), "the header that is spoken, then the end"
        ws.closed()


class Device:
    """Proton's engine, PLAIN, with a link for telemetry; @p cut(bytes) gives the payloads of the frames."""

    def __init__(self, hub, ws, key, cut):
        self.ws, self.cut = ws, cut
        self.collector, self.connection, self.transport = Collector(), Connection(), Transport()
        self.connection.collect(self.collector)
        self.connection.hostname = HOST
        self.connection.user, self.connection.password = "d1@sas." + HOST, sas(HOST + "/devices/d1", key)
        sasl = self.transport.sasl()
        sasl.allowed_mechs("PLAIN")
        sasl.allow_insecure_mechs = True  # TLS is beneath
        self.transport.bind(self.connection)
        self.connection.open()
        self.session = self.connection.session()
        self.session.open()
        self.sender = self.session.sender("events")
        self.sender.target.address = "/devices/d1/messages/events"
        self.sender.open()

    def run_until(self, condition):
        while not condition():
            while self.transport.pending() > 0:
                data = self.transport.peek(self.transport.pending())
                self.transport.pop(len(data))
                self.ws.sock.sendall(b"".join(frame(piece) for piece in self.cut(data)))
            if condition():
                return
            first, payload = self.ws.frame()
            assert first == 0x82, (hex(first), payload)
            while payload:
                taken = self.transport.push(payload[:self.transport.capacity()])
                payload = payload[taken if taken else len(payload):]
            while self.collector.peek():
                event = self.collector.peek()
                assert event.type not in (Event.TRANSPORT_ERROR, Event.LINK_REMOTE_CLOSE), (event, self.transport.condition)
                self.collector.pop()

    def send(self, body):
        self.run_until(lambda: self.sender.credit > 0)
        delivery = self.sender.delivery(str(len(body)))
        self.sender.send(Message(body=body, inferred=True).encode())
        self.sender.advance()
        self.run_until(lambda: delivery.settled)
        assert delivery.remote_state == Delivery.ACCEPTED, delivery.remote_state
        delivery.settle()

    def close(self):
        self.connection.close()
        self.run_until(lambda: self.connection.state & Endpoint.REMOTE_CLOSED)


def cuts(hub, key):
    """One AMQP frame over many WebSocket frames, many in one, a boundary anywhere, and empty ones between."""
    sizes = [0, 1, 200, 70000]
    ways = {"byte by byte": (lambda data: [data[i:i + 1] for i in range(len(data))], [0, 1, 200]),
            "sevens": (lambda data: [data[i:i + 7] for i in range(0, len(data), 7)], [0, 1, 200]),
            "as it comes": (lambda data: [data], sizes), "with empty frames": (lambda data: [b"", data[:3], b"", data[3:]], sizes)}
    expected = []
    for name, (cut, bodies) in ways.items():
        with Socket(hub, PATHS[0], PROTOCOL) as ws:
            device = Device(hub, ws, key, cut)
            for size in bodies:
                device.send((name[:1] * size).encode())
                expected.append(name[:1] * size)
            device.close()
    assert [event["body"] for event in hub.all_events()] == expected


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    handshakes(hub)
    cuts(hub, key)


with_hub(run)
