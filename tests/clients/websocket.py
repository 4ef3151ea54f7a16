"""MQTT in WebSocket with paho, and frame by frame by hand: what the SDKs never do, and what nobody should."""
# conformance: mqtt.md 10, 11
import base64
import queue
import struct
import time

import paho.mqtt.client as mqtt
from hub import sas, with_hub
from wire import packet, publish_packet, text
from ws import HOST, Socket, frame

WAIT_S = 60
TOPIC = "devices/d1/messages/events/"


def connect_packet(key, keep_alive=60):
    body = text("MQTT") + bytes([4, 0xC2]) + struct.pack(">H", keep_alive) + text("d1")
    body += text(HOST + "/d1/?api-version=2021-04-12") + text(sas(HOST + "/devices/d1", key))
    return packet(0x10, body)


CONNACK = b"\x20\x02\x00\x00"


def puback(packet_id):
    return b"\x40\x02" + struct.pack(">H", packet_id)


def run(hub):
    key = hub.json("device", "add", "d1")["primaryKey"]
    paho(hub, key)
    handshakes(hub, key)
    frames_and_packets(hub, key)
    control_frames(hub, key)
    rules(hub, key)
    deadlines(hub, key)
    status, metrics = hub.admin("/metrics")
    assert status == 200 and "nave_http_websockets_total" in metrics


def paho(hub, key):
    client = mqtt.Client(client_id="d1", transport="websockets")
    client.ws_set_options(path="/$iothub/websocket?iothub-no-client-cert=true")
    client.tls_set(ca_certs=hub.ca())
    client.username_pw_set(HOST + "/d1/?api-version=2021-04-12", sas(HOST + "/devices/d1", key))
    connected, acked, subscribed = queue.Queue(), queue.Queue(), queue.Queue()
    client.on_connect = lambda c, u, flags, rc, *more: connected.put(rc)
    client.on_publish = lambda c, u, mid: acked.put(mid)
    client.on_subscribe = lambda c, u, mid, granted: subscribed.put(granted)
    client.connect(HOST, 443, 60)
    client.loop_start()
    assert connected.get(timeout=WAIT_S) == 0
    client.subscribe("devices/d1/messages/devicebound/#", 1)
    assert list(subscribed.get(timeout=WAIT_S)) == [1]
    sizes = [0, 1, 100, 126, 65535, 65536, 262144]
    for size in sizes:
        client.publish(TOPIC, "x" * size, 1)
    for _ in sizes:
        acked.get(timeout=WAIT_S)
    client.disconnect()
    client.loop_stop()
    assert [len(event["body"]) for event in hub.events(len(sizes))] == sizes


def handshakes(hub, key):
    for path in ("/$iothub/websocket", "/$iothub/websocket?iothub-no-client-cert=true", "/$iothub/websocket/?x=y"):
        for protocol in ("mqtt", "MQTT", "soap, MQTT"):
            with Socket(hub, path, protocol) as ws:
                assert ws.status == 101, (path, protocol, ws.status)
                assert ws.headers["sec-websocket-protocol"] == protocol.split(", ")[-1]
                ws.sock.sendall(frame(connect_packet(key)))
                assert ws.data(4) == CONNACK
    with Socket(hub, protocol="graphql") as ws:
        assert ws.status == 400 and "Sec-WebSocket-Protocol: mqtt" in ws.body, ws.body
    with Socket(hub, protocol=None) as ws:
        assert ws.status == 400, ws.status
    with Socket(hub, path="/elsewhere") as ws:
        assert ws.status == 404, ws.status
    # the first frame in the segment of the request
    with Socket(hub, more=frame(connect_packet(key)), headers="Origin: https://anybody.example\r\n") as ws:
        assert ws.status == 101 and ws.data(4) == CONNACK


def frames_and_packets(hub, key):
    connect = connect_packet(key)
    with Socket(hub) as ws:
        for byte in connect:  # a frame for each byte
            ws.sock.sendall(frame(bytes([byte])))
        assert ws.data(4) == CONNACK
        # three packets in one frame, then one packet over fragments and two messages
        ws.sock.sendall(frame(publish_packet(TOPIC, b"a", 1) + publish_packet(TOPIC, b"b", 2) + b"\xc0\x00"))
        got = ws.data(10)
        assert sorted([got.index(puback(1)), got.index(puback(2))]) and b"\xd0\x00" in got, got
        message = publish_packet(TOPIC, b"split" * 1000, 3)
        ws.sock.sendall(frame(message[:10], 0x02) + frame(message[10:11], 0x00) + frame(b"", 0x00) +
                        frame(message[11:2000], 0x80) + frame(b"") + frame(message[2000:]))
        assert ws.data(4) == puback(3)
        # one frame in small pieces of TLS
        for byte in frame(publish_packet(TOPIC, b"slow", 4)):
            ws.sock.sendall(bytes([byte]))
        assert ws.data(4) == puback(4)
        ws.sock.sendall(frame(b"\xe0\x00"))  # DISCONNECT
        assert ws.closed() == 1000
    bodies = [event["body"] for event in hub.events(11)][-4:]
    assert bodies == ["a", "b", "split" * 1000, "slow"], bodies


def control_frames(hub, key):
    with Socket(hub) as ws:
        ws.sock.sendall(frame(b"before", 0x89))
        assert ws.frame() == (0x8A, b"before")
        ws.sock.sendall(frame(connect_packet(key)))
        assert ws.data(4) == CONNACK
        message = publish_packet(TOPIC, b"around a ping", 1)
        ws.sock.sendall(frame(message[:9], 0x02) + frame(b"?" * 125, 0x89) + frame(message[9:], 0x80))
        assert ws.frame() == (0x8A, b"?" * 125)
        assert ws.data(4) == puback(1)
        ws.sock.sendall(frame(struct.pack(">H", 1001) + "geht".encode(), 0x88))
        assert ws.closed() == 1001
    # all that was said before a goodbye in the same segment counts, waited for or not
    with Socket(hub, more=frame(connect_packet(key)) + frame(publish_packet(TOPIC, b"last words", 7)) +
                frame(struct.pack(">H", 1000), 0x88)) as ws:
        assert ws.data(4) == CONNACK
        first, payload = ws.frame()
        assert (first, payload) in ((0x82, puback(7)), (0x88, struct.pack(">H", 1000))), (first, payload)
    assert hub.events(13)[-1]["body"] == "last words"


def rules(hub, key):
    for name, code, data in (
            ("text", 1003, frame(b"hello", 0x81)), ("no mask", 1002, b"\x82\x01x"), ("reserved bit", 1002, frame(b"x", 0xC2)),
            ("unknown opcode", 1002, frame(b"x", 0x83)), ("a fragment of nothing", 1002, frame(b"x", 0x80)),
            ("a long ping", 1002, b"\x89\xfe\x00\x7e"), ("a fragmented close", 1002, frame(b"", 0x08)),
            ("a code nobody may send", 1002, frame(struct.pack(">H", 1005), 0x88)),
            ("too long", 1009, b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"abcd"),
            ("HTTP again", 1002, b"GET / HTTP/1.1\r\n\r\n")):
        for logged_in in (False, True):
            with Socket(hub) as ws:
                if logged_in:
                    ws.sock.sendall(frame(connect_packet(key)))
                    assert ws.data(4) == CONNACK
                ws.sock.sendall(data)
                assert ws.closed() == code, name
    # MQTT's own rules hold behind the frames
    with Socket(hub) as ws:
        ws.sock.sendall(frame(publish_packet(TOPIC, b"x", 1)))
        assert ws.closed() == 1000
    with Socket(hub) as ws:
        ws.sock.sendall(frame(connect_packet(base64.b64encode(b"wrong" * 8).decode())))
        assert ws.data(4) == b"\x20\x02\x00\x05"
        assert ws.closed() == 1000


def deadlines(hub, key):
    """Silence behind the frames ends as it does without them, also when pings are sent instead of MQTT's."""
    with Socket(hub) as ws:
        started = time.monotonic()
        ws.sock.sendall(frame(connect_packet(key, keep_alive=2)))
        assert ws.data(4) == CONNACK
        code = None
        while code is None:
            ws.sock.sendall(frame(b"", 0x89))
            first, payload = ws.frame()
            code = struct.unpack(">H", payload)[0] if first == 0x88 else None
            time.sleep(0.2)  # the silence is what is tested
            assert time.monotonic() - started < WAIT_S, "kept by pings"
        assert code == 1000 and time.monotonic() - started > 2.9, code


with_hub(run)
