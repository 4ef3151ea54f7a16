"""The servers of a comparison. Each listens on free loopback ports and keeps its files under one folder."""
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess

from . import hub
from .process import Failure, Process, accepts, free_port, greets, wait_for


def make_certificates(folder):
    """One P-256 certificate from one P-256 CA, for every server alike."""
    ca, key, request, cert = (os.path.join(folder, n) for n in ("ca.pem", "server.key", "server.csr", "server.pem"))
    ca_key, names = os.path.join(folder, "ca.key"), os.path.join(folder, "names.ext")

    def openssl(*argv):
        subprocess.run(["openssl"] + list(argv), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for path in (ca_key, key):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    with open(names, "w", encoding="ascii") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    openssl("req", "-x509", "-new", "-key", ca_key, "-subj", "/CN=nave bench CA", "-days", "30", "-out", ca)
    openssl("req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "30",
            "-extfile", names, "-out", cert)
    os.chmod(key, 0o644)  # servers that drop their rights still read it
    return {"ca": ca, "key": key, "cert": cert}


class Server:
    """A server that can be started, held still while another is measured, and stopped."""
    stores = ""

    def __init__(self, name, context):
        self.name, self.context = name, context
        self.process, self.port, self.tls_port, self.amqp_port, self.amqps_port = None, None, None, None, None
        self.folder = os.path.join(context.work, name)

    @staticmethod
    def available(_context):
        return True

    def start(self, devices):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.port, self.tls_port, self.amqp_port, self.amqps_port = (free_port() for _ in range(4))
        try:
            self.launch(devices)
        except BaseException:
            self.stop()
            raise

    def launch(self, devices):
        raise NotImplementedError

    def run(self, argv, env=None):
        self.process = Process(argv, os.path.join(self.folder, "output.log"), env)

    def wait_port(self, *ports):
        for port in ports:
            wait_for(lambda p=port: accepts(p), self.name, self.process.popen, log=self.process.log)

    def wait_mqtt(self):
        """Until an MQTT client is let in: some listen long before."""
        wait_for(lambda: greets(self.port), self.name, self.process.popen, log=self.process.log)

    def pid(self):
        return self.process.pid

    def pause(self):
        self.process.signal(signal.SIGSTOP)

    def resume(self):
        self.process.signal(signal.SIGCONT)

    def alive(self):
        return self.process is not None and self.process.popen.poll() is None

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def port_of(self, protocol, tls):
        if protocol == "amqp":
            return self.amqps_port if tls else self.amqp_port
        return self.tls_port if tls else self.port

    def credentials(self, protocol="mqtt", service=False):
        return ["--anonymous"]


class Sink(Server):
    """The in-tree reference: parses and acknowledges, nothing else."""
    stores = "nothing; no authentication, sessions or routing"

    def __init__(self, name, context):
        super().__init__(name, context)
        self.tls_process = None

    def launch(self, devices):
        cert = ["--cert", self.context.certs["cert"], "--key", self.context.certs["key"]]
        generator = self.context.generator
        self.run(generator + ["sink", "--port", str(self.port)])
        self.tls_process = Process(generator + ["sink", "--port", str(self.tls_port)] + cert, self.process.log)
        self.wait_port(self.port, self.tls_port)

    def pid(self):
        return self.tls_process.pid if self.context.tls else self.process.pid

    def stop(self):
        if self.tls_process:
            self.tls_process.stop()
            self.tls_process = None
        super().stop()


class Mosquitto(Server):
    stores = "nothing (`persistence false`); has no durability per message in any setting"

    @staticmethod
    def available(_context):
        return shutil.which("mosquitto") is not None

    def launch(self, devices):
        path = os.path.join(self.folder, "mosquitto.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write("listener %d 127.0.0.1\nlistener %d 127.0.0.1\ncertfile %s\nkeyfile %s\n"
                       "allow_anonymous true\npersistence false\nmax_queued_messages 0\n"
                       "max_inflight_messages 65535\nset_tcp_nodelay true\nlog_type none\n"
                       % (self.port, self.tls_port, self.context.certs["cert"], self.context.certs["key"]))
        self.run(["mosquitto", "-c", path])
        self.wait_port(self.port, self.tls_port)


class Nats(Server):
    """nats-server with MQTT. Its QoS 1 stream keeps a message only while some session wants it."""
    stores = "nothing: its MQTT stream drops what no session has subscribed to"
    keeper = False

    @staticmethod
    def available(_context):
        return shutil.which("nats-server") is not None

    def launch(self, devices):
        mqtt_port = self.tls_port if self.context.tls else self.port
        tls = 'tls { cert_file: "%(cert)s", key_file: "%(key)s" }' % self.context.certs if self.context.tls else ""
        path = os.path.join(self.folder, "nats.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write('server_name: bench\nlisten: "127.0.0.1:%d"\njetstream { store_dir: "%s" }\n'
                       'mqtt { listen: "127.0.0.1:%d"\n %s }\n' % (free_port(), self.folder, mqtt_port, tls))
        self.run(["nats-server", "-c", path])
        self.wait_port(mqtt_port)
        if self.keeper:
            self.subscribe_keeper(mqtt_port)

    def subscribe_keeper(self, port):
        """A persistent session that wants everything and is away: from now on the stream must store."""
        tls = ["--cafile", self.context.certs["ca"]] if self.context.tls else []
        argv = ["mosquitto_sub", "-h", "localhost", "-p", str(port), "-c", "-i", "keeper", "-q", "1", "-t", "bench/#",
                "-E"] + tls
        if subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode != 0:
            raise Failure("nats-server did not take the subscription of the keeper")


class NatsStored(Nats):
    stores = "every message in a JetStream file stream before PUBACK; page cache only, synced once a minute"
    keeper = True

    @staticmethod
    def available(context):
        return Nats.available(context) and shutil.which("mosquitto_sub") is not None


class Rabbit(Server):
    stores = "nothing: no queue is bound, so messages are routed to nobody"
    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    plugin = "rabbitmq_mqtt"
    queue = False

    def __init__(self, name, context):
        super().__init__(name, context)
        self.epmd = None

    @staticmethod
    def available(_context):
        return os.access(Rabbit.program, os.X_OK) and shutil.which("epmd") is not None

    def definitions(self):
        salt = b"nave"
        digest = base64.b64encode(salt + hashlib.sha256(salt + b"guest").digest()).decode()
        out = {"vhosts": [{"name": "/"}],
               "users": [{"name": "guest", "password_hash": digest, "tags": "administrator",
                          "hashing_algorithm": "rabbit_password_hashing_sha256"}],
               "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]}
        if self.queue:
            out["queues"] = [{"name": "keeper", "vhost": "/", "durable": True, "auto_delete": False,
                              "arguments": {"x-max-length": 1000000}}]
            out["bindings"] = [] if self.plugin == "rabbitmq_amqp1_0" else [{"source": "amq.topic", "vhost": "/", "destination": "keeper",
                                "destination_type": "queue", "routing_key": "bench.#", "arguments": {}}]
        return out

    def write_files(self):
        at = lambda name: os.path.join(self.folder, name)
        with open(at("definitions.json"), "w", encoding="ascii") as file:
            json.dump(self.definitions(), file)
        with open(at("enabled_plugins"), "w", encoding="ascii") as file:
            file.write("[%s].\n" % self.plugin)
        with open(at("rabbitmq.conf"), "w", encoding="ascii") as file:
            file.write("load_definitions = %s\nloopback_users = none\nlog.file.level = warning\n" % at("definitions.json")
                       + self.listeners())
        return at

    def listeners(self):
        return ("listeners.tcp = none\nmqtt.allow_anonymous = true\nmqtt.default_user = guest\n"
                "mqtt.default_pass = guest\n"
                "mqtt.listeners.tcp.1 = 127.0.0.1:%d\nmqtt.listeners.ssl.1 = 127.0.0.1:%d\n"
                "mqtt.tcp_listen_options.nodelay = true\nmqtt.tcp_listen_options.backlog = 4096\n"
                "ssl_options.certfile = %s\nssl_options.keyfile = %s\nssl_options.verify = verify_none\n"
                % (self.port, self.tls_port, self.context.certs["cert"], self.context.certs["key"]))

    def launch(self, devices):
        at = self.write_files()
        epmd_port = free_port()
        self.epmd = Process(["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"], at("epmd.log"))
        env = dict(os.environ, HOME=self.folder, ERL_EPMD_PORT=str(epmd_port), RABBITMQ_NODENAME="bench@localhost",
                   RABBITMQ_DIST_PORT=str(free_port()), RABBITMQ_CONFIG_FILE=at("rabbitmq.conf"),
                   RABBITMQ_ENABLED_PLUGINS_FILE=at("enabled_plugins"), RABBITMQ_MNESIA_BASE=at("mnesia"),
                   RABBITMQ_LOG_BASE=at("log"), RABBITMQ_PID_FILE=at("pid"), RABBITMQ_CONF_ENV_FILE=at("none"),
                   RUNNING_UNDER_SYSTEMD="yes")  # the script then becomes the server: the id is the server's own
        self.run([self.program], env)
        self.wait_served()

    def wait_served(self):
        self.wait_port(self.tls_port)
        self.wait_mqtt()

    def stop(self):
        if self.process:
            self.process.signal(signal.SIGKILL)  # its data is thrown away, and an orderly stop takes seconds
        super().stop()
        if self.epmd:
            self.epmd.stop()
            self.epmd = None


class RabbitQueue(Rabbit):
    stores = "every message in one durable queue, written and synced in groups before PUBACK"
    queue = True


class RabbitAmqp(RabbitQueue):
    """The AMQP 1.0 plugin; its listener is that of AMQP 0.9.1."""
    stores = "every message, durable, in one durable queue, written and synced in groups before its outcome"
    plugin = "rabbitmq_amqp1_0"

    def listeners(self):
        return "listeners.tcp.1 = 127.0.0.1:%d\ntcp_listen_options.nodelay = true\n" % self.amqp_port

    def wait_served(self):
        self.wait_port(self.amqp_port)

    def credentials(self, protocol="amqp", service=False):
        return ["--queue", "/amq/queue/keeper"]


class Nave(Server):
    durability = "commit"
    stores = "every message, on the disk before PUBACK (group commit, synced)"

    def __init__(self, name, context):
        super().__init__(name, context)
        self.hub = None

    @staticmethod
    def available(context):
        return context.nave is not None

    def launch(self, devices):
        self.hub = hub.Hub(self.context.nave, self.folder, self.context.certs, self.durability)
        self.hub.write_config(self.port, self.tls_port, self.amqp_port, self.amqps_port)
        self.run(self.hub.argv())
        self.hub.wait_ready(self.process)
        self.hub.add_devices(devices)

    def credentials(self, protocol="mqtt", service=False):
        if service:
            rest = ["--https-port", str(self.hub.https)] if protocol == "mqtt" else []
            return ["--hub", self.hub.host_name, "--policy", "iothubowner", "--key", self.hub.owner_key] + rest
        return ["--hub", self.hub.host_name, "--policy", "device", "--key", self.hub.device_key]


class NaveOs(Nave):
    durability = "os"
    stores = "every message, handed to the operating system before PUBACK (survives the hub's end, not the machine's)"


KINDS = {"ref": Sink, "nave-os": NaveOs, "nave-commit": Nave, "mosquitto": Mosquitto, "nats": Nats,
         "nats-stored": NatsStored, "rabbitmq": Rabbit, "rabbitmq-queue": RabbitQueue, "rabbitmq-amqp": RabbitAmqp}
