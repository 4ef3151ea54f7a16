"""What must hold, as ratios within one run; absolute numbers belong to one machine only."""
import statistics


def median(results, scenario, server, key="median"):
    row = results.get(scenario, {}).get(server)
    return row.get(key) if row else None


def rate_floors(results):
    for scenario, server, floor in (("os-50x16", "nave-os", 7), ("commit-50x16", "nave-commit", 5),
                                    ("commit-500x64", "nave-commit", 7), ("tls-os-50x16", "nave-os", 6)):
        ratio = median(results, scenario, server, "ratio")
        yield "%s: rate against mosquitto" % scenario, ">= %.1f x" % floor, ratio, "x", lambda v, f=floor: v >= f
    for scenario in ("storm-tls13", "storm-tls13-resumed", "storm-tls12-resumed"):
        ratio = median(results, scenario, "nave-os", "ratio")
        yield "%s: connects per server core second against mosquitto" % scenario, ">= 1.0 x", ratio, "x", \
            lambda v: v >= 1.0


def disk_p99(disks, scenario="lat-1x1-commit"):
    """The p99 of one small commit, from `nave bench disk` in the same run; None when there was none."""
    found = [probe["write_4096_p99_us"] for probe in disks.get(scenario, []) if "write_4096_p99_us" in probe]
    return statistics.median(found) if found else None


def latency_floors(results, disks):
    ours, theirs = median(results, "lat-1x1-os", "nave-os"), median(results, "lat-1x1-os", "mosquitto")
    yield "lat-1x1-os: p99 against mosquitto", "<= 1.0 x", ours / theirs if ours and theirs else None, "x", \
        lambda v: v <= 1.0
    ours, disk = median(results, "lat-1x1-commit", "nave-commit"), disk_p99(disks)
    yield "lat-1x1-commit: p99 against the disk's own", "<= 1.2 x", ours / disk if ours and disk else None, "x", \
        lambda v: v <= 1.2


def size_floors(results, rest):
    yield "idle-plain: resident bytes per connection", "<= 2048", median(results, "idle-plain", "nave-os"), "B", \
        lambda v: v <= 2048
    yield "idle-tls: against mosquitto", "<= 1.0 x", median(results, "idle-tls", "nave-os", "ratio"), "x", \
        lambda v: v <= 1.0
    yield "start to ready", "< 100 ms", rest["start_ms"] if rest else None, "ms", lambda v: v < 100
    yield "resident at rest", "< 15 MB", rest["rss_bytes"] / 1e6 if rest else None, "MB", lambda v: v < 15


def service_floors(results):
    for scenario, floor in (("twin-100x16", 20000), ("c2d-100", 10000)):
        yield "%s: a second" % scenario, ">= %d" % floor, median(results, scenario, "nave-commit"), "/s", \
            lambda v, f=floor: v >= f
    yield "method-1k: p50", "< 200 us", median(results, "method-1k", "nave-commit", "latency_p50_us"), "us", \
        lambda v: v < 200
    yield "method-1k: p99", "< 1,000 us", median(results, "method-1k", "nave-commit"), "us", lambda v: v < 1000
    yield "desired-5000: all committed and notified", "< 2 s", median(results, "desired-5000", "nave-commit"), "s", \
        lambda v: v < 2


def amqp_floors(results, disks):
    yield "amqp-commit-50x16: rate against RabbitMQ's AMQP 1.0", ">= 3.0 x", \
        median(results, "amqp-commit-50x16", "nave-commit", "ratio"), "x", lambda v: v >= 3
    ours, mqtt = (median(results, name, "nave-commit") for name in ("amqp-commit-50x16", "amqp-mqtt-commit-50x16"))
    yield "amqp-commit-50x16: rate against our MQTT", ">= 0.5 x", ours / mqtt if ours and mqtt else None, "x", \
        lambda v: v >= 0.5
    yield "amqp-read: to one reader", ">= 500,000", median(results, "amqp-read", "nave-os"), "/s", lambda v: v >= 500000
    fast = median(results, "amqp-through-os", "nave-os")
    yield "amqp-through-os: p99 from device to reader", "< 5,000 us", fast, "us", lambda v: v < 5000
    safe = median(results, "amqp-through-commit", "nave-commit")
    disk = disk_p99(disks, "amqp-through-commit")
    yield "amqp-through-commit: p99 above that, in p99 of the disk", "<= 2.0", \
        (safe - fast) / disk if fast and safe and disk else None, "", lambda v: v <= 2
    yield "amqp-idle-tls: resident bytes per connection", "< 60,000", median(results, "amqp-idle-tls", "nave-os"), "B", \
        lambda v: v < 60000
    yield "amqp-idle-shared: resident bytes per device", "< 8,000", median(results, "amqp-idle-shared", "nave-os"), "B", \
        lambda v: v < 8000


def query_floors(queries):
    last = queries[-1] if queries else {}
    if last.get("twins") == 100000:
        yield "queries, 100,000 twins: equality on a tag", "< 10 ms", last["by tag ms"], "ms", lambda v: v < 10
        yield "queries, 100,000 twins: full scan, numeric predicate", "< 1,000 ms", last["scan ms"], "ms", \
            lambda v: v < 1000
        yield "telemetry p99 beside scans", "<= 1.2 x", \
            last["telemetry p99 us beside scans"] / last["telemetry p99 us"], "x", lambda v: v <= 1.2


def table(results, disks, rest, queries):
    """Markdown lines; nothing when the hub was not measured."""
    rows = [r for r in [*rate_floors(results), *latency_floors(results, disks), *size_floors(results, rest),
                        *service_floors(results), *amqp_floors(results, disks), *query_floors(queries)]
            if r[2] is not None]
    if not rows:
        return []
    lines = ["### Floors", "", "| what | floor | measured | |", "|---|---|---|---|"]
    for what, floor, value, unit, holds in rows:
        lines.append("| %s | %s | %.2f %s | %s |" % (what, floor, value, unit, "holds" if holds(value) else "**misses**"))
    return lines + [""]
