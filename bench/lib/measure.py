"""Running scenarios: the servers in turn, round after round, one at a time, the others held still."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from . import hub
from .process import GENERATOR_CORE, Failure, Process, free_port, pinned, resident_bytes, wait_for
from .servers import KINDS

FOREIGN_LIMIT = 10.0  # percent of a core; above it a measurement is repeated


def say(text):
    print(text, file=sys.stderr, flush=True)


def generator_argv(context, scenario, server):
    port = server.port_of(scenario.protocol, scenario.tls)
    argv = context.generator + [scenario.protocol, "--port", str(port), "--pid", str(server.pid()), "-o", "json"]
    argv += server.credentials(scenario.protocol, scenario.service) + scenario.args
    if scenario.tls:
        argv += ["--tls", "--ca", context.certs["ca"]]
    if scenario.timed:
        argv += ["--duration", str(context.duration), "--warmup", str(context.warmup)]
    return pinned(GENERATOR_CORE, argv)


def run_generator(context, scenario, server):
    result = subprocess.run(generator_argv(context, scenario, server), capture_output=True, text=True, timeout=600,
                            check=False)
    try:
        figures = json.loads(result.stdout)
    except ValueError:
        raise Failure("the generator printed no figures: %s" % result.stderr.strip()[-400:]) from None
    figures["exit_code"] = result.returncode
    if not server.alive():
        figures["exit_code"] = 1
        figures["first_failure"] = "the server ended"
    return figures


def measure(context, scenario, server):
    """One measurement, repeated while the machine did too much else; the cleanest is kept."""
    best = None
    for attempt in range(context.retries + 1):
        if scenario.fresh and attempt:
            # Memory that an earlier attempt left in the process would hide what this one needs.
            server.stop()
            server.start(scenario.devices)
        os.sync()  # what an earlier server left to be written must not cost this one
        figures = run_generator(context, scenario, server)
        if best is None or figures.get("foreign_percent", 0) < best.get("foreign_percent", 0):
            best = figures
        if best["exit_code"] or best.get("foreign_percent", 0) <= FOREIGN_LIMIT:
            break
    return best


def disk_probe(context):
    """The disk itself, as the log uses it, in the same run. None when this program has no such command."""
    folder = os.path.join(context.work, "disk-probe")
    os.makedirs(folder, exist_ok=True)
    argv = pinned("0", context.generator + ["disk", "--dir", folder, "-o", "json"])
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return json.loads(result.stdout) if result.returncode == 0 else None


def run_scenario(context, scenario):
    """@return {"runs": {server: [figures]}, "disk": [figures]}"""
    context.tls = scenario.tls
    names = [n for n in scenario.servers if n in context.servers]
    servers = [KINDS[n](n, context) for n in names]
    runs, probes = {n: [] for n in names}, []
    rounds = min(scenario.rounds or context.rounds, context.rounds) * scenario.times
    say("%s: %s" % (scenario.name, ", ".join(names)))
    try:
        for number in range(rounds):
            turn = number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                figures = take_turn(context, scenario, server)
                runs[server.name].append(figures)
                say_run(scenario, server, number, figures)
            if scenario.disk_probe:
                probes.append(disk_probe(context))
    finally:
        for server in servers:
            server.stop()
    return {"runs": runs, "disk": [p for p in probes if p]}


def fill(context, scenario, server):
    """Telemetry for those that read: as fast as MQTT brings it, for so many seconds."""
    if not scenario.fill_s:
        return
    argv = context.generator + ["mqtt", "--port", str(server.port), "-o", "json", "--connections", str(scenario.devices),
                                "--window", "64", "--size", "256", "--warmup", "0", "--duration", str(scenario.fill_s)]
    result = subprocess.run(pinned(GENERATOR_CORE, argv + server.credentials()), capture_output=True, text=True, timeout=600,
                            check=False)
    if result.returncode != 0:
        raise Failure("the log was not filled: %s" % result.stderr.strip()[-400:])


def take_turn(context, scenario, server):
    """Start or wake the server, measure, hold it still again. What goes wrong is a failed measurement."""
    try:
        if server.alive():
            server.resume()
        else:
            server.start(scenario.devices)
            fill(context, scenario, server)
        figures = measure(context, scenario, server)
        if scenario.fresh:
            server.stop()
        else:
            server.pause()
        return figures
    except (Failure, OSError, subprocess.TimeoutExpired) as failure:
        server.stop()
        return {"exit_code": 1, "first_failure": str(failure), "failures": {}}


def say_run(scenario, server, number, figures):
    value = figures.get(scenario.metric)
    say("  round %d %-15s %14s %s, foreign %s %%%s"
        % (number + 1, server.name, "%.1f" % value if value is not None else "-", scenario.unit,
           figures.get("foreign_percent", "?"),
           ", FAILED: %s %s" % (figures.get("first_failure"), figures.get("failures")) if figures["exit_code"] else ""))


def measure_rest(context):
    """Start to ready on an empty data folder once keys exist, and resident size at rest."""
    folder = os.path.join(context.work, "rest")
    runs = []
    for _ in range(max(context.rounds, 3)):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        instance = hub.Hub(context.nave, folder, context.certs, "commit")
        instance.write_config(*(free_port() for _ in range(4)))
        for attempt in ("keys", "measured"):
            began = time.monotonic()
            process = Process(instance.argv(), os.path.join(folder, "output.log"))
            try:
                instance.wait_ready(process)
                ready = time.monotonic() - began
                if attempt == "measured":
                    time.sleep(1)  # at rest: one second without anything to do
                    runs.append({"start_ms": ready * 1000, "rss_bytes": resident_bytes(process.pid)})
            finally:
                code = process.stop()
            if code != 0:
                raise Failure("nave ended with code %s after SIGTERM" % code)
    shutil.rmtree(folder, ignore_errors=True)
    return {"start_ms": statistics.median(r["start_ms"] for r in runs),
            "rss_bytes": statistics.median(r["rss_bytes"] for r in runs), "runs": runs}

