"""The hub's own ground: killed while identities change, its disk full, its certificate broken, its files scarce, a twin on its data."""
import json
import os
import shutil
import signal
import subprocess

import hub as hub_module
from hub import Hub
from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

SMALL = "/mnt"


class Registry:
    def __init__(self, hub):
        self.context, self.token, self.sock = trusting(hub), hub.cli("sas", "--policy", "iothubowner").strip(), None

    def ask(self, method, path, body=None, headers=()):
        if not self.sock:
            self.sock = dial_tls(HTTPS, self.context)
        data = b"" if body is None else json.dumps(body).encode()
        lines = ["%s %s?api-version=2021-04-12 HTTP/1.1" % (method, path), "Host: localhost",
                 "Authorization: " + self.token, "Content-Length: %d" % len(data), *headers]
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.sock.recv(65536)
            if not part:
                raise ConnectionError("closed")
            answer += part
        head, rest = answer.split(b"\r\n\r\n", 1)
        length = max([int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")] or [0])
        while len(rest) < length:
            rest += self.sock.recv(65536)
        return int(head.split()[1]), rest

    def devices(self):
        status, answer = self.ask("GET", "/devices")
        assert status == 200, answer
        return {one["deviceId"]: one for one in json.loads(answer)}


def killed_while_creating():
    """kill -9 in the middle of bulk creation: what was answered is there, each device is there whole or not at all."""
    hub = Hub(config=CONFIG % "").start()
    answered, asked = set(), 0
    try:
        for cycle in range(6):
            registry = Registry(hub)
            killer = threading.Timer(0.05 + 0.04 * cycle, hub.kill)
            try:
                while True:
                    bulk = asked
                    asked += 1
                    items = [{"id": "k%d-%d" % (bulk, i), "importMode": "create"} for i in range(10)]
                    status, answer = registry.ask("POST", "/devices", items)
                    assert status == 200, (status, answer)
                    answered.add(bulk)
                    if not killer.ident:
                        killer.start()  # once the hub is at work, however slow the build
            except OSError:
                pass
            killer.join()
            hub.start()
            there = Registry(hub).ask("GET", "/statistics/devices")
            assert there[0] == 200
            count = json.loads(there[1])["totalDeviceCount"]
            assert count >= 10 * len(answered), (count, len(answered))
            registry = Registry(hub)
            for bulk in (min(answered), max(answered), asked - 1):
                have = [registry.ask("GET", "/devices/k%d-%d" % (bulk, i)) for i in range(10)]
                assert {code for code, _ in have} <= {200, 404}  # the items of a bulk stand each for itself
                assert bulk not in answered or {code for code, _ in have} == {200}, "answered and gone"
                for code, body in have:
                    if code == 200:
                        assert json.loads(body)["authentication"]["symmetricKey"]["primaryKey"], "half a device"
        assert answered
        print("killed while creating: %d bulks asked, %d answered, none lost, no half device" % (asked, len(answered)))
    finally:
        hub.stop()


def full_state_disk():
    """No room for the state store: creation is refused with a reason, nothing is half there, connections go on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", SMALL], check=True)
    hub = Hub(config=CONFIG % "" + "log:\n  segment_bytes: 4194304\n", data=os.path.join(SMALL, "data")).start()
    try:
        target = Target(hub)
        registry = Registry(hub)
        room = os.statvfs(SMALL)
        with open(os.path.join(SMALL, "ballast"), "wb") as file:
            file.write(b"\0" * max(0, room.f_bavail * room.f_bsize - (256 << 10)))
        created, refused = [], None
        for number in range(5000):
            name = "full-%d" % number
            status, answer = registry.ask("PUT", "/devices/" + name, {"deviceId": name})
            if status != 200:
                refused = (name, status, answer)
                break
            created.append(name)
        assert refused, "the disk never filled up"
        print("full disk: %d devices, then %d %s" % (len(created), refused[1], refused[2][:300]))
        assert refused[1] in (500, 503, 507), refused
        assert registry.ask("GET", "/devices/" + refused[0])[0] == 404, "half applied"
        for name in created[-5:]:
            assert registry.ask("GET", "/devices/" + name)[0] == 200, "what was answered can still be read"
        status, answer = registry.ask("DELETE", "/devices/" + created[0], headers=["If-Match: *"])
        assert status in (204, 500, 503), (status, answer)
        assert hub.process.poll() is None
        os.remove(os.path.join(SMALL, "ballast"))
        deadline = time.monotonic() + PATIENCE_S
        while registry.ask("PUT", "/devices/after", {"deviceId": "after"})[0] not in (200, 409):
            assert time.monotonic() < deadline, "it does not resume when there is room again"
            time.sleep(0.1)
        while hub.admin("/readyz")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        target.publishes()
        log = target.log()
        assert "full" in log or "space" in log, "the log does not say why"
        hub.kill()
        hub.start()
        registry = Registry(hub)
        assert registry.ask("GET", "/devices/" + refused[0])[0] == 404
        assert registry.ask("GET", "/devices/" + created[-1])[0] == 200
        assert registry.ask("GET", "/devices/after")[0] == 200
    finally:
        hub.stop()
        subprocess.run(["umount", "-l", SMALL], check=True)


def second_instance(target):
    done = subprocess.run([hub_module.PROGRAM, "up", "--data", target.hub.data], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=PATIENCE_S, check=False)
    text_ = done.stdout.decode()
    assert done.returncode == 1 and "another hub runs on the data folder" in text_ and "--data" in text_, text_
    done = subprocess.run([hub_module.PROGRAM, "up", "--dev"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False)
    text_ = done.stdout.decode()
    assert done.returncode == 1 and "8883" in text_ and "in use" in text_, text_
    target.publishes()


def broken_certificates():
    """SIGHUP by the hundred while the certificate files are damaged: the old one goes on serving, the log says why."""
    hub = Hub(config=CONFIG % "").start()
    hub.kill(signal.SIGTERM)
    files = {name: os.path.join(hub.dir, name) for name in ("cert.pem", "key.pem")}
    tls = os.path.join(hub.data, "tls")
    sources = sorted(os.listdir(tls))
    pick = lambda words: next(os.path.join(tls, name) for name in sources if any(word in name for word in words) and "ca" not in name)  # noqa: E731
    shutil.copy(pick(["server.pem", "server.crt", "cert"]), files["cert.pem"])
    shutil.copy(pick(["key"]), files["key.pem"])
    hub.arguments += ["--set", "tls.certificate_file=" + files["cert.pem"], "--set", "tls.key_file=" + files["key.pem"]]
    hub.start()
    try:
        target = Target(hub)
        good = {name: open(path, "rb").read() for name, path in files.items()}
        context = trusting(hub)
        broken = [{"cert.pem": b""}, {"cert.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
                  {"key.pem": b"nonsense"}, {"cert.pem": good["cert.pem"][:200]}, {"cert.pem": os.urandom(100000)},
                  {"key.pem": good["cert.pem"]}, {"cert.pem": None}, {"key.pem": None}]

        def assault():
            with dial_tls(MQTTS, context) as kept:
                kept.sendall(connect_packet("honest", target.key))
                assert kept.recv(4) == b"\x20\x02\x00\x00"
                for damage in broken:
                    for name, data in damage.items():
                        if data is None:
                            os.remove(files[name])
                        else:
                            with open(files[name], "wb") as file:
                                file.write(data)
                    for _ in range(20):
                        target.hub.process.send_signal(signal.SIGHUP)
                    with dial_tls(MQTTS, context) as other:
                        assert other.version()
                    target.alive()
                    for name, data in good.items():
                        with open(files[name], "wb") as file:
                            file.write(data)
                kept.sendall(publish_packet("devices/honest/messages/events/", b"x", 5))
                assert kept.recv(4) == b"\x40\x02\x00\x05", "a connection was disturbed"
            target.hub.process.send_signal(signal.SIGHUP)
            target.publishes_over_tls(context)

        target.attack("SIGHUP storms with broken certificates", assault, rounds=3, honest_during=False)
        log = target.log()
        assert log.count("cert.pem") + log.count("key.pem") > 5, "the log does not name the file"
        assert "PEM lib" not in log, "the log names who passed the error on, not the error"
        print("\n".join(sorted({line.split(" ", 1)[1][:220] for line in log.splitlines() if ".pem" in line and " warn " in line or " error " in line})[:8]))
    finally:
        hub.stop()


def few_files():
    """Descriptors are scarce: peers get what is left, the log and the state store get theirs first."""
    real = hub_module.PROGRAM
    wrapper = os.path.join(os.environ.get("TMPDIR", "/tmp"), "nave-few-files-%d" % os.getpid())
    with open(wrapper, "w") as file:
        file.write('#!/bin/sh\nulimit -n 400\nexec "%s" "$@"\n' % real)
    os.chmod(wrapper, 0o755)
    hub_module.PROGRAM = wrapper
    hub = Hub(config=CONFIG % "" + "log:\n  segment_bytes: 1048576\n")
    hub.start()
    hub_module.PROGRAM = real
    os.remove(wrapper)
    try:
        target = Target(hub)
        registry = Registry(hub)
        with Wire("honest", target.key) as wire:
            people = [dial(PLAIN) for _ in range(600)]
            for number in range(1, 200):  # many segments
                wire.send(publish_packet("devices/honest/messages/events/", b"s" * 100000, number))
                assert wire.acks() == [number]
                if number % 20 == 0:
                    people += [dial(PLAIN) for _ in range(50)]
            name = "while-full"
            assert registry.ask("PUT", "/devices/" + name, {"deviceId": name})[0] == 200
            assert hub.admin("/healthz")[0] == 200
            for one in people:
                one.close()
        target.quiet()
        target.publishes()
        assert "ulimit" in target.log()
        print("few files: served")
    finally:
        hub.stop()


def run(target):
    second_instance(target)


killed_while_creating()
full_state_disk()
broken_certificates()
few_files()
main(run)
