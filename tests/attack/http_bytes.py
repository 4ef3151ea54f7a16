"""Requests against HTTP: tricks with framing, heads, paths, ETags, tokens; bombs of JSON."""
import json
import re
import subprocess

from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

VERSION = "api-version=2021-04-12"


class Service:
    """One HTTPS connection with the right to change the registry."""

    def __init__(self, target):
        self.target, self.context = target, trusting(target.hub)
        self.token = target.hub.cli("sas", "--policy", "iothubowner").strip()

    def connect(self):
        return dial_tls(HTTPS, self.context)

    def head(self, method, path, headers=(), length=None, token=True, version=True):
        path += ("&" if "?" in path else "?") + VERSION if version else ""
        lines = ["%s %s HTTP/1.1" % (method, path), "Host: localhost"] + list(headers)
        if token:
            lines.append("Authorization: " + self.token)
        if length is not None:
            lines.append("Content-Length: %d" % length)
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"

    def raw(self, data, end=True):
        """(status codes, everything) of what the hub answers to bytes on a connection of their own."""
        with self.connect() as sock:
            try:
                sock.sendall(data)
                if end:
                    sock.sendall(self.head("GET", "/devices/last", ["Connection: close"], token=False))
            except OSError:
                pass
            answer = drain(sock, 8 << 20)
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", answer)], answer

    def ask(self, method, path, body=b"", **options):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.raw(self.head(method, path, length=len(data) if data else None, **options) + data)


def framing(service):
    head = service.head
    put = "/devices/smuggled"
    inner = head("DELETE", "/devices/honest", ["If-Match: *"])

    def refused(name, data, codes=(400,)):
        got, answer = service.raw(data)
        assert got and got[0] in codes and got[1:] in ([], [401]), (name, got, answer[:300])
        assert service.ask("GET", "/devices/honest")[0][0] == 200, name

    def assault():
        refused("length and chunks", head("PUT", put, ["Transfer-Encoding: chunked"], length=len(inner)) + b"0\r\n\r\n" + inner)
        refused("chunks and length", head("PUT", put, ["Content-Length: 4", "Transfer-Encoding: chunked"]) + b"0\r\n\r\n" + inner)
        refused("two lengths", head("PUT", put, ["Content-Length: 0", "Content-Length: %d" % len(inner)]) + inner)
        refused("a list of lengths", head("PUT", put, ["Content-Length: 0, %d" % len(inner)]) + inner)
        refused("a negative length", head("PUT", put, ["Content-Length: -1"]) + inner)
        refused("a length with a sign", head("PUT", put, ["Content-Length: +5"]) + inner)
        refused("a length in hex", head("PUT", put, ["Content-Length: 0x5"]) + inner)
        refused("a length beyond 64 bits", head("PUT", put, ["Content-Length: 18446744073709551617"]) + inner, (400, 413))
        refused("a length of 2^63", head("PUT", put, ["Content-Length: 9223372036854775808"]) + inner, (400, 413))
        for size in ("-1", "0x10", "ffffffffffffffff1", "10000000000000000", "zz", "", " 5"):
            refused("a chunk of size " + size, head("PUT", put, ["Transfer-Encoding: chunked"]) + size.encode() + b"\r\nabc\r\n" + inner)
        refused("a chunk of 2^63", head("PUT", put, ["Transfer-Encoding: chunked"]) + b"7fffffffffffffff\r\nabc", (400, 413, 408))
        refused("chunked, identity", head("PUT", put, ["Transfer-Encoding: chunked, identity"]) + b"0\r\n\r\n" + inner)
        refused("an unknown coding", head("PUT", put, ["Transfer-Encoding: xchunked"]) + b"0\r\n\r\n" + inner)
        refused("a space before the colon", head("PUT", put, ["Transfer-Encoding : chunked"]) + b"0\r\n\r\n" + inner)
        refused("HTTP/0.9", b"GET /devices/honest\r\n")
        refused("HTTP/2.0", head("GET", put).replace(b"HTTP/1.1", b"HTTP/2.0"))
        refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        refused("HTTP/1.9", head("GET", put).replace(b"HTTP/1.1", b"HTTP/1.9"))
        refused("NUL in the path", head("GET", "/devices/a\0b"))
        refused("NUL in a header", head("GET", put, ["X: a\0b"]))
        refused("a bare line feed with junk", b"GET / HTTP/1.1\n\x01: x\n\n")
        extensions = b"".join(b"1;a=%s\r\nx\r\n" % (b"e" * 1000) for _ in range(200)) + b"0\r\n\r\n"
        codes, _ = service.raw(head("PUT", put, ["Transfer-Encoding: chunked"]) + extensions)
        assert codes[0] == 400, codes
        trailers = b"0\r\n" + b"".join(b"T%d: %s\r\n" % (i, b"t" * 1000) for i in range(200)) + b"\r\n"
        codes, _ = service.raw(head("PUT", put, ["Transfer-Encoding: chunked"]) + trailers)
        assert codes[0] in (400, 431), codes
    return assault


def heads(service):
    def assault():
        for name, headers in (("many headers", ["H%d: x" % i for i in range(5000)]),
                              ("a long header", ["H: " + "x" * 300000]), ("a long name", ["H" * 300000 + ": x"])):
            codes, answer = service.raw(service.head("GET", "/devices/x", headers))
            assert codes and codes[0] in (400, 431), (name, codes, answer[:200])
        codes, _ = service.raw(service.head("GET", "/devices/" + "x" * 60000))
        assert codes[0] in (400, 414, 431), codes
        for token in ("SharedAccessSignature sr=localhost&sig=%s&se=9" % ("A" * 12000), "SharedAccessSignature " + "&" * 10000,
                      "SharedAccessSignature sr=localhost&sig=AAAA&se=99999999999999999999999&skn=iothubowner",
                      "SharedAccessSignature sr=localhost&sig=AAAA&se=-1&skn=iothubowner",
                      "SharedAccessSignature sr=localhost&sig=AAAA&se=1e9&skn=iothubowner",
                      "SharedAccessSignature sr=%00%ff%zz&sig=%%%&se=%39&skn=" + "%41" * 3000,
                      "Bearer x", "Basic eDp4", "", "SharedAccessSignature", "SharedAccessSignature sr=&sig=&se=&skn="):
            codes, answer = service.raw(service.head("GET", "/devices/honest", ["Authorization: " + token], token=False))
            assert codes[0] == 401, (token[:60], codes, answer[:300])
    return assault


def paths(service):
    tricks = ("/devices/..%2Fdevices%2Fhonest", "/devices/../devices/honest", "/devices/%2e%2e/honest", "//devices//honest",
              "/devices/honest%00", "/devices/%00", "/devices/a%2Fb", "/devices/%zz", "/devices/%", "/devices/%c3%28", "/%64evices",
              "/devices/';DROP TABLE devices;--", "/devices/%22%3B%27", "/devices/honest/modules/..", "/devices/honest/",
              "/devices/" + "a" * 129, "/devices/" + "%61" * 4000, "/" + "a/" * 5000, "*", "http://localhost", "http://",
              "https://localhost:443@evil/devices/honest", "?x", "#", "/devices/honest#?", "/devices/honest%23", "/devices/%ed%a0%80")

    def assault():
        for path in tricks:
            for method in ("GET", "DELETE", "PUT", "OPTIONS", "CONNECT", "PATCH"):
                body = b'{"deviceId":"honest"}' if method == "PUT" else b""
                codes, answer = service.ask(method, path.replace(" ", "%20"), body, token=method != "DELETE")
                assert codes and 200 <= codes[0] < 500, (method, path[:80], codes, answer[:300])
        # ids with everything an id may have
        odd = "a-:.+%_#*?!(),=@;$'"
        quoted = "".join("%%%02x" % byte for byte in odd.encode())
        codes, answer = service.ask("PUT", "/devices/" + quoted, {"deviceId": odd})
        assert codes[0] == 200 and json.loads(answer.split(b"\r\n\r\n")[1].split(b"HTTP/1.1")[0])["deviceId"] == odd, answer[:400]
        for match in ('""', '"', "*, *", "W/\"x\"", "a" * 8000, "\xff", '"' + "A" * 300 + '"', "-1", "null"):
            codes, answer = service.ask("DELETE", "/devices/" + quoted, headers=["If-Match: " + match])
            assert codes[0] in (400, 412), (match[:50], codes, answer[:200])
        assert service.ask("DELETE", "/devices/" + quoted, headers=["If-Match: *"])[0][0] == 204
    return assault


def bombs(service):
    def assault():
        put = lambda data, path="/devices/bomb": service.ask("PUT", path, data)  # noqa: E731
        depth = 100000
        cases = {
            "depth": b'{"deviceId":"bomb","x":' + b"[" * depth + b"]" * depth + b"}",
            "objects in objects": b'{"a":' * depth + b"1" + b"}" * depth,
            "values": b'{"deviceId":"bomb","x":[' + b"1," * 1000000 + b"1]}",
            "names": b"{" + b",".join(b'"%d":0' % i for i in range(300000)) + b"}",
            "no end": b'{"deviceId":"bo',
            "a huge number": b'{"deviceId":' + b"9" * 1000000 + b"}",
            "a huge exponent": b'{"deviceId":1e999999999}',
            "a lone surrogate": b'{"deviceId":"\\ud800"}',
            "U+0000": b'{"deviceId":"bo\\u0000mb"}',
            "not UTF-8": b'{"deviceId":"\xff\xfe"}',
            "a BOM": b'\xef\xbb\xbf{"deviceId":"bomb"}x',
            "NaN": b'{"deviceId":NaN}',
            "a list": b'[{"deviceId":"bomb"}]',
            "nothing": b" ",
            "null": b"null",
            "wrong types": b'{"deviceId":"bomb","status":5,"authentication":[],"capabilities":"x"}',
            "another id": b'{"deviceId":"other"}',
            "a huge id": b'{"deviceId":"' + b"a" * 3000000 + b'"}',
            "a key that is none": b'{"deviceId":"bomb","authentication":{"type":"sas","symmetricKey":{"primaryKey":"' + b"A" * 100000 + b'","secondaryKey":"x"}}}',
        }
        for name, data in cases.items():
            codes, answer = put(data)
            assert codes and codes[0] in (400, 413), (name, codes, answer[:300])
        codes, answer = put(b"{" + b'"deviceId":"other",' * 1000 + b'"deviceId":"bomb"}')
        assert codes[0] in (200, 400), (codes, answer[:200])
        service.ask("DELETE", "/devices/bomb", headers=["If-Match: *"])
        codes, answer = service.ask("PUT", "/devices/bomb", b"x" * (5 << 20))
        assert codes and codes[0] == 413, (codes, answer[:200])
        codes, answer = service.ask("POST", "/devices", b"[" + b"{}," * 150 + b"{}]")
        assert codes[0] == 400, (codes, answer[:200])
        codes, answer = service.ask("POST", "/devices", b"[" + b"[" * 50000)
        assert codes[0] == 400, (codes, answer[:200])
        assert service.ask("GET", "/devices/bomb")[0][0] == 404
    return assault


def pipelining(service):
    """Thousands of requests at once: answered in order; a peer that does not read is not read from."""
    def assault():
        one = service.head("GET", "/devices/honest")
        codes, _ = service.raw(one * 3000)
        assert codes == [200] * 3000 + [401], (len(codes), codes[-3:])
        with service.connect() as sock:
            sock.settimeout(1)
            sent = 0
            try:
                while sent < 64 << 20:
                    sent += sock.send(one * 100)
            except OSError:
                pass
            assert sent < 64 << 20
    return assault


def words(service):
    """What a person sees who got something wrong: cause and cure."""
    hub = service.target.hub
    url = "https://localhost/devices/honest?" + VERSION

    def curl(*args):
        done = subprocess.run(["curl", "-sS", "--cacert", hub.ca(), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=PATIENCE_S, check=False)
        return done.stdout.decode()

    seen = {
        "no token": curl(url),
        "nonsense": curl("-H", "Authorization: nonsense", url),
        "wrong key": curl("-H", "Authorization: " + re.sub("sig=[^&]*", "sig=AAAA", service.token), url),
        "expired": curl("-H", "Authorization: " + re.sub("se=[0-9]*", "se=1000000000", service.token), url),
        "no api-version": curl("-H", "Authorization: " + service.token, "https://localhost/devices/honest"),
        "no such path": curl("-H", "Authorization: " + service.token, "https://localhost/nothing"),
        "wrong method": curl("-X", "PATCH", "-H", "Authorization: " + service.token, url),
        "plain HTTP": curl("http://localhost:443/"),
        "no CA": subprocess.run(["curl", "-sS", url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout.decode(),
    }
    for name, answer in seen.items():
        print("  %-14s %s" % (name, answer.strip()[:400]))
        assert answer.strip(), name
    assert "https://" in seen["plain HTTP"], seen["plain HTTP"]


def run(target):
    service = Service(target)
    target.attack("framing", framing(service))
    target.attack("heads and tokens", heads(service))
    target.attack("paths and ETags", paths(service), rounds=2)
    target.attack("bombs of JSON", bombs(service), growth=8 << 20)
    target.attack("pipelining", pipelining(service))
    words(service)
    log = target.log()
    assert target.key not in log and not re.search("sig=(?!AAAA)", log)


main(run)
