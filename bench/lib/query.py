"""Queries over many twins: what an indexed equality and a full scan cost, and what a scan does to telemetry."""
import http.client
import json
import os
import shutil
import ssl
import statistics
import subprocess
import threading
import time

from . import hub
from .process import GENERATOR_CORE, SERVER_CORE, Failure, Process, free_port, pinned, resident_bytes

SIZES = [1000, 10000, 100000]
FILLER = "x" * 180
REPEATS = 9
PAIRS = 15
TELEMETRY_RATE = 20000
QUERIES = {
    "by tag": "SELECT deviceId FROM devices WHERE tags.site = 'site-7'",
    "by id": "SELECT * FROM devices WHERE deviceId = 'bench-7'",
    "scan": "SELECT COUNT() AS n FROM devices WHERE properties.desired.level > 99",
    "group": "SELECT tags.line AS line, COUNT() AS n FROM devices GROUP BY tags.line",
    "page": "SELECT * FROM devices",
}


def twin(number):
    """About 2 KB; ten devices share a site, however many there are."""
    desired = {"level": number % 100, "unit": "bar"}
    desired.update({"text%d" % i: FILLER for i in range(8)})
    return {"id": "bench-%d" % number, "importMode": "create", "status": "enabled",
            "tags": {"site": "site-%d" % (number // 10), "line": "line-%d" % (number % 16), "note": FILLER},
            "properties": {"desired": desired}}


class Service:
    def __init__(self, instance):
        self.instance = instance
        context = ssl.create_default_context(cafile=instance.certs["ca"])
        self.connection = http.client.HTTPSConnection("localhost", instance.https, timeout=120, context=context)
        self.headers = {"Authorization": instance.token(), "Content-Type": "application/json"}

    def post(self, path, body):
        self.connection.request("POST", path + "?" + hub.API, json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise Failure("%s: %d %s" % (path, answer.status, text[:300]))
        return json.loads(text)

    def fill(self, first, last):
        for start in range(first, last, hub.BULK):
            self.post("/devices", [twin(i) for i in range(start, min(start + hub.BULK, last))])

    def milliseconds(self, text, repeats=REPEATS):
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            self.post("/devices/query", {"query": text})
            times.append((time.perf_counter() - began) * 1000)
        return statistics.median(times)


def telemetry(context, instance, port, scans):
    """Telemetry at a fixed rate, with or without one scan after the other beside it. @return the generator's figures"""
    argv = pinned(GENERATOR_CORE, context.generator + [
        "mqtt", "--port", str(port), "--hub", instance.host_name, "--policy", "device", "--key", instance.device_key,
        "--connections", "50", "--window", "64", "--rate", str(TELEMETRY_RATE), "--duration", "3", "-o", "json"])
    stop = threading.Event()

    def scan():
        # Its own work must wait for the generator and the hub alike: some 2 ms of Python for each scan would be the p99.
        os.sched_setaffinity(0, {int(SERVER_CORE)})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        service = Service(instance)
        while not stop.is_set():
            service.post("/devices/query", {"query": QUERIES["scan"]})

    scanner = threading.Thread(target=scan) if scans else None
    if scanner:
        scanner.start()
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        return json.loads(result.stdout)
    except ValueError:
        raise Failure("the generator printed no figures: %s" % result.stderr.strip()[-400:]) from None
    finally:
        stop.set()
        if scanner:
            scanner.join()


def telemetry_beside_scans(context, instance, port):
    """Medians of pairs: on a virtual machine the p99 of one run says little."""
    runs = {False: [], True: []}
    for _ in range(PAIRS):
        for scans, found in runs.items():
            os.sync()  # what filling left to be written must not count
            found.append(telemetry(context, instance, port, scans))
    return {"telemetry %s us%s" % (p, " beside scans" if scans else ""):
            statistics.median(f["latency_%s_us" % p] for f in found)
            for p in ("p50", "p90", "p99") for scans, found in runs.items()}


def measure_queries(context, say, sizes=None):
    """@return rows: {"twins", "<query> ms", "filled per s", "rss MB", "database MB", telemetry p99}"""
    folder = os.path.join(context.work, "queries")
    os.makedirs(folder)
    instance = hub.Hub(context.nave, folder, context.certs, "commit")
    plain = free_port()
    instance.write_config(plain, *(free_port() for _ in range(3)))
    process = Process(instance.argv(), os.path.join(folder, "output.log"))
    rows, filled = [], 0
    try:
        instance.wait_ready(process)
        instance.add_devices(0)
        for size in sizes or SIZES:
            began = time.monotonic()
            Service(instance).fill(filled, size)
            row = {"twins": size, "created per s": (size - filled) / (time.monotonic() - began)}
            filled = size
            service = Service(instance)
            row.update({"%s ms" % name: service.milliseconds(text) for name, text in QUERIES.items()})
            row["rss MB"] = resident_bytes(process.pid) / 1e6
            state = os.path.join(instance.data, "state")
            row["database MB"] = sum(os.path.getsize(os.path.join(state, f)) for f in os.listdir(state)) / 1e6
            rows.append(row)
        rows[-1].update(telemetry_beside_scans(context, instance, plain))
        say("queries: %s" % rows[-1])
    finally:
        process.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return rows
