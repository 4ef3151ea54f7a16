"""What is measured: one row per scenario."""
from dataclasses import dataclass, field
from typing import List

PEERS = ["mosquitto", "nats", "nats-stored", "rabbitmq", "rabbitmq-queue"]
GROWTH_CONNECTIONS = {1: 64, 50: 16, 500: 16, 5000: 4}  # connections: window
GROWTH_SIZES = [64, 256, 1024, 16384]


@dataclass
class Scenario:
    name: str
    title: str
    servers: List[str]
    args: List[str]
    metric: str = "messages_per_s"
    unit: str = "msgs/s"
    lower_is_better: bool = False
    tls: bool = False
    fresh: bool = False   # a new process for each measurement: its memory is what is measured
    timed: bool = True    # takes --duration and --warmup
    devices: int = 0
    rounds: int = 0       # 0: as asked
    times: int = 1        # so many rounds for each that was asked for: where one measurement says little
    disk_probe: bool = False
    protocol: str = "mqtt"  # the generator's subcommand
    fill_s: float = 0  # seconds of telemetry stored before the first measurement
    service: bool = False  # the generator is a service too: it signs by the owner's policy and knows the HTTPS port
    base: str = "mosquitto"  # what the ratios are to
    columns: List[str] = field(default_factory=list)


def publish(connections, window, size=256):
    return ["--mode", "publish", "--connections", str(connections), "--window", str(window), "--size", str(size)]


RATE = ["latency_p50_us", "latency_p99_us", "server_cpu_s_per_million"]
STORM = ["connects_per_s", "latency_p99_us", "resumed"]


def latency(name, title, servers, **more):
    return Scenario(name, title, servers, publish(1, 1) + ["--spin"], metric="latency_p99_us", unit="us",
                    lower_is_better=True, devices=1, columns=["latency_p50_us", "latency_p999_us", "messages_per_s"], **more)


def idle(name, title, tls=False, subscribe="auto"):
    return Scenario(name, title, ["ref", "nave-os", "mosquitto", "nats", "rabbitmq"],
                    ["--mode", "idle", "--connections", "5000", "--subscribe", subscribe, "--duration", "2"],
                    metric="rss_per_connection_bytes", unit="bytes", lower_is_better=True, tls=tls, fresh=True,
                    timed=False, devices=5000, columns=["opened_per_s", "rss_before_bytes"])


def storm(name, title, *args):
    return Scenario(name, title, ["ref", "nave-os", "mosquitto", "nats", "rabbitmq"],
                    ["--mode", "storm", "--connections", "64", "--devices", "1000"] + list(args),
                    metric="per_server_core_second", unit="connects per server core second", tls=True, devices=1000,
                    times=3, columns=STORM)


def service(name, title, *args, **more):
    return Scenario(name, title, ["nave-commit"], list(args), tls=True, service=True, **more)


def amqp(name, title, *args, servers=("nave-os",), **more):
    return Scenario(name, title, list(servers), list(args), protocol="amqp", **more)


def through(name, title, server, *args, **more):
    return amqp(name, title, "--mode", "through", "--window", "1000", *args, servers=[server], metric="latency_p99_us",
                unit="us", lower_is_better=True, service=True,
                columns=["latency_p50_us", "latency_p999_us", "events_measured", "outcome_p99_us"], **more)


def growth():
    for connections, window in GROWTH_CONNECTIONS.items():
        for size in GROWTH_SIZES:
            yield Scenario("growth-%dx%d" % (connections, size),
                           "%d connections, window %d, %d B" % (connections, window, size),
                           ["ref", "nave-os", "nave-commit", "mosquitto"], publish(connections, window, size),
                           devices=connections, rounds=1, columns=RATE)


SCENARIOS = [
    Scenario("os-50x16", "QoS 1, 256 B, 50 connections, window 16; hub with `durability: os`",
             ["ref", "nave-os"] + PEERS, publish(50, 16), devices=50, columns=RATE),
    Scenario("commit-50x16", "the same; hub with `durability: commit`",
             ["nave-commit", "mosquitto", "nats-stored", "rabbitmq-queue"], publish(50, 16), devices=50, columns=RATE),
    Scenario("commit-500x64", "500 connections, window 64; hub with `durability: commit`",
             ["ref", "nave-commit", "mosquitto", "nats-stored"], publish(500, 64), devices=500, columns=RATE),
    Scenario("tls-os-50x16", "TLS 1.3, 50 connections, window 16; hub with `durability: os`",
             ["ref", "nave-os", "mosquitto", "nats", "rabbitmq"], publish(50, 16), tls=True, devices=50, columns=RATE),
    Scenario("tls-commit-50x16", "the same; hub with `durability: commit`",
             ["nave-commit", "mosquitto", "nats-stored"], publish(50, 16), tls=True, devices=50, columns=RATE),
    latency("lat-1x1-os", "one connection, window 1: p99; hub with `durability: os`",
            ["ref", "nave-os", "mosquitto", "nats", "rabbitmq"]),
    latency("lat-1x1-commit", "one connection, window 1: p99; hub with `durability: commit`, beside the disk itself",
            ["nave-commit", "nats-stored"], disk_probe=True),
    idle("idle-plain", "5,000 idle connections, resident bytes each; the hub's have four subscriptions, the others' none"),
    idle("idle-tls", "the same over TLS 1.3", tls=True),
    idle("idle-plain-subscribed", "5,000 idle connections, four subscriptions each at every server", subscribe="yes"),
    idle("idle-tls-subscribed", "the same over TLS 1.3", tls=True, subscribe="yes"),
    storm("storm-tls13", "64 clients connect, TLS 1.3 full handshake (ECDSA P-256), CONNACK, leave"),
    storm("storm-tls13-resumed", "the same with resumed sessions", "--resume"),
    storm("storm-tls12-resumed", "TLS 1.2, resumed sessions", "--resume", "--tls-version", "1.2"),
    service("twin-100x16", "reported patches, 100 devices with 16 in flight each",
            "--mode", "twin", "--connections", "100", "--window", "16", "--size", "64", metric="patches_per_s",
            unit="patches/s", devices=100, columns=RATE),
    service("method-1k", "direct methods, 1,000 a second, REST to device and back: p99",
            "--mode", "method", "--connections", "50", "--requests", "50", "--rate", "1000", "--size", "64", "--spin",
            metric="latency_p99_us", unit="us", lower_is_better=True, devices=50, times=3,
            columns=["latency_p50_us", "latency_p999_us", "operations_per_s"]),
    service("method-most", "direct methods, as fast as 50 callers get answers",
            "--mode", "method", "--connections", "50", "--requests", "50", "--size", "64",
            metric="operations_per_s", unit="calls/s", devices=50, columns=RATE),
    service("desired-5000", "one desired patch for each of 5,000 connected devices over 50 connections: seconds until "
            "all are committed and notified", "--mode", "desired", "--connections", "5000", "--requests", "50",
            "--size", "64", metric="wall_s", unit="s", lower_is_better=True, timed=False, devices=5000,
            columns=["latency_p50_us", "latency_p99_us"]),
    service("c2d-100", "messages to 100 devices, sent by REST over 50 connections, completed by PUBACK",
            "--mode", "c2d", "--connections", "100", "--requests", "50", "--window", "16", "--size", "64",
            metric="operations_per_s", unit="messages/s", devices=100, columns=RATE),
    # Before what fills the disk: for a while after gigabytes of files are gone a virtual machine stalls for milliseconds,
    # whatever runs (`nave bench sink`, which stores nothing, has a p99 of 1.8 ms instead of 0.3 then).
    through("amqp-through-os", "from device to reader at 20,000 a second: p99; hub with `durability: os`", "nave-os", "--rate",
            "20000", "--connections", "50", devices=50),
    through("amqp-through-commit", "the same; hub with `durability: commit`, beside the disk itself", "nave-commit", "--rate",
            "20000", "--connections", "50", devices=50, disk_probe=True),
    amqp("amqp-commit-50x16", "telemetry over AMQP, 256 B, 50 links, window 16; hub with `durability: commit`",
         "--connections", "50", "--window", "16", servers=["nave-commit", "rabbitmq-amqp"], base="rabbitmq-amqp", devices=50,
         columns=RATE),
    Scenario("amqp-mqtt-commit-50x16", "the same over MQTT, to compare with", ["nave-commit"], publish(50, 16), devices=50,
             columns=RATE),
    amqp("amqp-os-50x16", "the same over AMQP; hub with `durability: os`", "--connections", "50", "--window", "16",
         devices=50, columns=RATE),
    amqp("amqp-shared-50x16", "50 links of 50 devices on one connection; hub with `durability: commit`", "--connections", "1",
         "--devices", "50", "--window", "16", servers=["nave-commit"], devices=50, columns=RATE),
    amqp("amqp-read", "one reader of all partitions from the log, 256 B", "--mode", "read", "--credit", "10000",
         unit="events/s", devices=50, fill_s=4, service=True, columns=["encoded_mbytes_per_s", "server_cpu_s_per_million"]),
    amqp("amqp-idle-tls", "1,000 idle device connections over TLS 1.3, two links each, resident bytes each", "--mode", "idle",
         "--connections", "1000", "--duration", "2", metric="rss_per_connection_bytes", unit="bytes", lower_is_better=True,
         tls=True, fresh=True, timed=False, devices=1000, columns=["opened_per_s", "rss_before_bytes"]),
    amqp("amqp-idle-shared", "4,000 idle devices on one connection over TLS 1.3, two links each, resident bytes each",
         "--mode", "idle", "--connections", "1", "--devices", "4000", "--duration", "2", metric="rss_per_device_bytes",
         unit="bytes", lower_is_better=True, tls=True, fresh=True, timed=False, devices=4000,
         columns=["opened_per_s", "rss_before_bytes"]),
] + list(growth())

SMOKE = [
    Scenario("smoke-plain", "plain", ["ref", "nave-os", "nave-commit"], publish(20, 16) + ["--spin"], devices=20),
    Scenario("smoke-tls", "TLS", ["ref", "nave-commit"], publish(20, 16), tls=True, devices=20),
    Scenario("smoke-open-loop", "open loop", ["ref", "nave-commit"], publish(20, 64) + ["--rate", "2000"], devices=20),
    Scenario("smoke-storm", "connects", ["ref", "nave-os"],
             ["--mode", "storm", "--connections", "8", "--devices", "20", "--resume"], metric="connects_per_s",
             unit="connects/s", tls=True, devices=20),
    service("smoke-twin", "twins", "--mode", "twin", "--connections", "20", "--window", "4", "--size", "64",
            metric="patches_per_s", unit="patches/s", devices=20),
    service("smoke-method", "methods", "--mode", "method", "--connections", "20", "--requests", "4", "--size", "64",
            metric="operations_per_s", unit="calls/s", devices=20),
    service("smoke-desired", "desired", "--mode", "desired", "--connections", "20", "--requests", "4", "--size", "64",
            metric="wall_s", unit="s", timed=False, devices=20),
    service("smoke-c2d", "messages to devices", "--mode", "c2d", "--connections", "20", "--requests", "4", "--window",
            "4", "--size", "64", metric="operations_per_s", unit="messages/s", devices=20),
    amqp("smoke-amqp", "AMQP", "--connections", "2", "--devices", "20", "--window", "16", devices=20),
    through("smoke-amqp-through", "AMQP, to a reader", "nave-os", "--rate", "500", "--connections", "4", tls=True, devices=20),
    amqp("smoke-amqp-read", "AMQP, from the log", "--mode", "read", service=True, fill_s=0.2, devices=20),
    amqp("smoke-amqp-idle", "AMQP, idle", "--mode", "idle", "--connections", "20", "--duration", "0.1", tls=True,
         metric="rss_per_connection_bytes", unit="bytes", timed=False, devices=20, fresh=True),
    Scenario("smoke-idle", "idle", ["ref", "nave-os"],
             ["--mode", "idle", "--connections", "200", "--subscribe", "yes", "--duration", "0.2"],
             metric="rss_per_connection_bytes", unit="bytes", timed=False, devices=200, fresh=True),
]
