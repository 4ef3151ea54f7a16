"""Connections of one device in a loop from many sides, while its identity is disabled, deleted, given another key."""
import base64
import random

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

TOPIC = "devices/%s/messages/events/"


def open_raw(device, key, **options):
    sock = dial(PLAIN)
    sock.sendall(connect_packet(device, key, **options))
    return sock


def code_of(sock):
    """The CONNACK's code, or None when the connection was closed instead."""
    try:
        answer = b""
        while len(answer) < 4:
            part = sock.recv(4 - len(answer))
            if not part:
                return None
            answer += part
        return answer[3]
    except ConnectionError:
        return None


def take_overs(target, persistent):
    """200 connections of one device in a loop, from two threads: exactly one stays."""
    key = target.hub.json("device", "add", "twin-%d" % persistent)["primaryKey"]
    device = "twin-%d" % persistent

    def assault():
        kept, errors = [], []

        def side():
            try:
                for i in range(100):
                    sock = open_raw(device, key, persistent=persistent)
                    if i % 3 == 0:
                        sock.sendall(publish_packet(TOPIC % device, b"early", 1))
                    if i % 2:
                        code_of(sock)
                    kept.append(sock)
            except Exception as error:
                errors.append(error)

        sides = [threading.Thread(target=side) for _ in range(2)]
        for one in sides:
            one.start()
        for one in sides:
            one.join(4 * PATIENCE_S)
        assert not errors, errors
        deadline = time.monotonic() + PATIENCE_S
        while target.metric("nave_mqtt_sessions_open") > 2:  # it and the honest one
            assert time.monotonic() < deadline, target.metric("nave_mqtt_sessions_open")
            time.sleep(0.05)
        alive = 0
        for sock in kept:
            try:
                sock.settimeout(PATIENCE_S)
                sock.sendall(b"\xc0\x00")
                said = b""
                while b"\xd0\x00" not in said:  # it answers, or it is at its end
                    data = sock.recv(4096)
                    if not data:
                        break
                    said += data
                alive += b"\xd0\x00" in said
            except OSError:
                pass
        assert alive == 1, "%d connections of one device are alive" % alive
        for sock in kept:
            sock.close()
    return assault


def churn(target, count=4):
    """Devices connect, publish and go as fast as they can, while the registry does things to them."""
    hub = target.hub
    keys = [base64_key(b"1"), base64_key(b"2")]

    def delete(rest, device):
        return rest.ask("DELETE", "/devices/" + device, headers="If-Match: *\r\n")[0]

    def identity(device, key, status="enabled"):
        return ('{"deviceId":"%s","status":"%s","authentication":{"type":"sas","symmetricKey":{"primaryKey":"%s","secondaryKey":"%s"}}}'
                % (device, status, key, base64_key(b"9")))

    def assault():
        stop, errors, acked = threading.Event(), [], [0]

        def device_side(number):
            chance = random.Random(number)
            device = "churn-%d" % (number % 2)
            while not stop.is_set():
                try:
                    with open_raw(device, chance.choice(keys), persistent=chance.random() < 0.5,
                                  will=(TOPIC % device, b"will") if chance.random() < 0.3 else None) as sock:
                        code = code_of(sock)
                        if code not in (None, 0, 3, 5):
                            errors.append("CONNACK %s" % code)
                        if code == 0:
                            sock.sendall(publish_packet(TOPIC % device, b"x" * 100, 1) * 20)
                            if chance.random() < 0.5:
                                acked[0] += len(sock.recv(80)) // 4
                            if chance.random() < 0.5:
                                sock.sendall(b"\xe0\x00")
                except OSError:
                    pass

        def registry_side():
            chance = random.Random(99)
            try:
                with Rest(hub) as rest:
                    while not stop.is_set():
                        device = "churn-%d" % chance.randrange(2)
                        what = chance.random()
                        if what < 0.3:
                            code = delete(rest, device)
                        else:
                            code = rest.ask("PUT", "/devices/" + device,
                                            identity(device, chance.choice(keys), "disabled" if what < 0.45 else "enabled"))[0]
                            if code == 409:
                                code = delete(rest, device)
                        if code not in (200, 204, 404, 409, 412):
                            errors.append("registry %d" % code)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=device_side, args=(i,)) for i in range(count)] + [threading.Thread(target=registry_side)]
        for one in threads:
            one.start()
        started = time.monotonic()
        while time.monotonic() < started + (PATIENCE_S if not acked[0] else 3) and not errors:
            time.sleep(0.1)
        stop.set()
        for one in threads:
            one.join(2 * PATIENCE_S)
            assert not one.is_alive(), "somebody hangs"
        assert not errors, errors[:3]
        assert acked[0] > 0
    return assault


def base64_key(byte):
    return base64.b64encode(byte * 32).decode()


def run(target):
    for persistent in (False, True):
        target.attack("200 take-overs, %s" % ("persistent" if persistent else "clean"), take_overs(target, persistent), rounds=3)
    target.attack("devices against the registry", churn(target), rounds=3, growth=6 << 20)


main(run)
