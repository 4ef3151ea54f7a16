#!/usr/bin/python3
"""The service API by hand, as clients generated from its description see it: exact status codes, headers and bodies.
conformance: http-hub.md 3, 21, 22, 23, 24, 26, 27, 28, 40"""
import http.client
import json
import re
import ssl
import threading

from hub import sas, with_hub

VERSION = "api-version=2021-04-12"


class Rest:
    def __init__(self, hub, policy="service"):
        shown = hub.json("hub", "show")
        self.context = ssl.create_default_context(cafile=shown["caFile"])
        self.token = sas("localhost", shown["policies"][policy]["primaryKey"], policy=policy)
        self.connection = http.client.HTTPSConnection("localhost", context=self.context, timeout=60)

    def ask(self, method, path, body=None, **headers):
        """(status, headers, JSON or None)"""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Authorization"] = self.token
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        self.connection.request(method, path + ("&" if "?" in path else "?") + VERSION, body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        assert re.fullmatch("[0-9a-f-]{36}", answer.getheader("x-ms-request-id")), answer.getheaders()
        if text:
            assert answer.getheader("Content-Type") == "application/json; charset=utf-8", answer.getheaders()
        return answer.status, answer.headers, json.loads(text) if text else None

    def must(self, method, path, body=None, **headers):
        status, _, answer = self.ask(method, path, body, **headers)
        assert status == 200, (method, path, status, answer)
        return answer

    def e1(self, status, name, method, path, body=None, **headers):
        """An error as Node and C# read it: the name after ErrorCode:, and in a header of its own."""
        got, head, answer = self.ask(method, path, body, **headers)
        assert got == status, (method, path, got, answer)
        assert head["iothub-errorcode"] == name, head["iothub-errorcode"]
        assert set(answer) == {"Message", "ExceptionMessage"}, answer
        assert answer["Message"].split(";")[0].split(":") == ["ErrorCode", name], answer
        tracking = re.fullmatch(r"Tracking ID:([0-9a-f]{32})-G:\d+-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d",
                                answer["ExceptionMessage"])
        assert tracking and tracking.group(1) == head["x-ms-request-id"].replace("-", ""), answer
        return answer["Message"]

    def e3(self, status, name, number, method, path, body=None):
        """An error of methods and commands: JSON in a string."""
        got, head, answer = self.ask(method, path, body)
        assert got == status and head["iothub-errorcode"] == name, (got, head["iothub-errorcode"], answer)
        assert answer["ExceptionMessage"] == "", answer
        inner = json.loads(answer["Message"])
        assert list(inner) == ["errorCode", "trackingId", "message", "info", "timestampUtc"], inner
        assert inner["errorCode"] == number and inner["trackingId"] == head["x-ms-request-id"].replace("-", "")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", inner["timestampUtc"]), inner
        return inner


def twins(rest):
    twin = rest.must("GET", "/twins/d1")
    assert list(twin)[:3] == ["deviceId", "etag", "deviceEtag"], list(twin)
    status, head, twin = rest.ask("PATCH", "/twins/d1", '{"tags":{"a":1},"properties":{"desired":{"t":21.70,"n":1e3}}}')
    assert status == 200 and head["ETag"] == '"%s"' % twin["etag"] == '"AAAAAAAAAAI="', (head["ETag"], twin)
    rest.connection.request("GET", "/twins/d1?" + VERSION, headers={"Authorization": rest.token})
    text = rest.connection.getresponse().read()
    assert b'"t":21.70,' in text and b'"n":1e3' in text, "numbers as written"
    # replace means replace, and needs no If-Match
    twin = rest.must("PUT", "/twins/d1", {"properties": {"desired": {"x": [1, {"y": 2}]}}})
    assert "tags" not in twin and set(twin["properties"]["desired"]) == {"x", "$metadata", "$version"}, twin
    assert "ETag mismatch for device ID 'd1'" in rest.e1(412, "PreconditionFailed", "PUT", "/twins/d1", {},
                                                         If_Match='"AAAAAAAAAAI="')
    rest.must("PUT", "/twins/d1", {}, If_Match='"%s"' % twin["etag"])
    for match in ("*", '"*"', '""'):
        rest.must("PATCH", "/twins/d1", {}, If_Match=match)
    assert rest.e1(404, "DeviceNotFound", "GET", "/twins/nobody").endswith(";nobody")
    rest.e1(404, "DeviceNotFound", "GET", "/twins/d1/modules/nobody")
    rest.e1(400, "IotHubFormatError", "PATCH", "/twins/d1", '{"tags":')
    rest.e1(400, "ArgumentInvalid", "PATCH", "/twins/d1", {"tags": {"a b": 1}})
    rest.e1(400, "ArgumentInvalid", "PATCH", "/twins/d1", {"tags": {"a": {"$b": 1}}})
    limit = rest.e1(400, "ArgumentInvalid", "PATCH", "/twins/d1",
                    {"tags": {"a%d" % i: "x" * 4000 for i in range(3)}})
    assert "tags" in limit and "8192" in limit, limit
    deep = {}
    for _ in range(11):
        deep = {"a": deep}
    rest.e1(400, "ArgumentInvalid", "PATCH", "/twins/d1", {"tags": deep})
    rest.must("PATCH", "/twins/d1", {"tags": deep["a"]})
    # a body in chunks, as Node sends it
    rest.connection.request("PATCH", "/twins/d1?" + VERSION, iter([b'{"tags":', b'{"chunked":1}}']),
                            {"Authorization": rest.token}, encode_chunked=True)
    assert json.loads(rest.connection.getresponse().read())["tags"]["chunked"] == 1


def methods(rest):
    offline = rest.e3(404, "DeviceNotOnline", 404103, "POST", "/twins/d1/methods", {"methodName": "m"})
    assert offline["info"] == {"timeout": "00:00:00"}, offline
    rest.e3(404, "DeviceNotFound", 404001, "POST", "/twins/nobody/methods", {"methodName": "m"})
    rest.e3(404, "DeviceNotFound", 404001, "POST", "/twins/d1/modules/nobody/methods", {"methodName": "m"})
    rest.e3(400, "ArgumentInvalid", 400004, "POST", "/twins/d1/methods", {})
    rest.e3(400, "ArgumentInvalid", 400004, "POST", "/twins/d1/methods",
            {"methodName": "m", "responseTimeoutInSeconds": 301})
    rest.e3(400, "IotHubFormatError", 400006, "POST", "/twins/d1/methods", "{")
    rest.e3(413, "MessageTooLarge", 413001, "POST", "/twins/d1/methods",
            {"methodName": "m", "payload": "x" * (128 * 1024)})
    rest.e3(404, "DeviceNotOnline", 404103, "POST", "/digitaltwins/d1/commands/c?responseTimeoutInSeconds=5", "{}")


def queries(rest):
    status, head, rows = rest.ask("POST", "/devices/query", {"query": "SELECT * FROM devices"}, x_ms_max_item_count="1")
    assert status == 200 and head["x-ms-item-type"] == "Twin" and len(rows) == 1, (status, head, rows)
    assert head["x-ms-continuation"], "two devices, one a page"
    status, head, rows = rest.ask("POST", "/devices/query", {"query": "SELECT * FROM devices"},
                                  x_ms_max_item_count="1", x_ms_continuation=head["x-ms-continuation"])
    assert len(rows) == 1 and "x-ms-continuation" not in head, head
    status, head, rows = rest.ask("POST", "/devices/query", {"query": "SELECT deviceId FROM devices"})
    assert rows == [{"deviceId": "d1"}, {"deviceId": "d2"}] and head["x-ms-item-type"] == "Raw", rows
    wrong = rest.e1(400, "ArgumentInvalid", "POST", "/devices/query", {"query": "SELECT * FROM devices WHERE tags.x ="})
    assert wrong.startswith("ErrorCode:ArgumentInvalid;The query is invalid: ") and "line 1" in wrong, wrong
    assert "The query is invalid" in rest.e1(400, "ArgumentInvalid", "POST", "/devices/query",
                                             {"query": "SELECT * FROM devices".ljust(8193)})
    rest.e1(400, "IotHubFormatError", "POST", "/devices/query", "{")


def many_callers(hub, rest):
    """A hundred callers wait for a device that does not come; the hub serves on, and nobody is cut off."""
    count = 100
    ends = []

    def call():
        one = Rest.__new__(Rest)
        one.context, one.token = rest.context, rest.token
        one.connection = http.client.HTTPSConnection("localhost", context=one.context, timeout=60)
        ends.append(one.ask("POST", "/twins/d1/methods",
                            {"methodName": "m", "connectTimeoutInSeconds": 5, "responseTimeoutInSeconds": 5})[0])

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    rest.must("GET", "/twins/d1")
    for thread in threads:
        thread.join()
    assert ends == [404] * count, ends


def rights(hub):
    other = Rest(hub, "registryReadWrite")
    other.e1(401, "IotHubUnauthorizedAccess", "GET", "/twins/d1")
    other.e1(401, "IotHubUnauthorizedAccess", "POST", "/twins/d1/methods", {"methodName": "m"})
    other.e1(401, "IotHubUnauthorizedAccess", "GET", "/digitaltwins/d1")


def run(hub):
    hub.cli("device", "add", "d1")
    hub.cli("device", "add", "d2")
    rest = Rest(hub)
    twins(rest)
    methods(rest)
    queries(rest)
    many_callers(hub, rest)
    rights(hub)


with_hub(run)
