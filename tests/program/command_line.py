"""The command line by itself: words, completion, the reference, the check of a configuration."""
import os
import re
import shutil
import subprocess
import tempfile

from rig import NAVE, ROOT, Hub, case, nave, one_sentence


@case
def words():
    assert re.fullmatch(r"nave \d+\.\d+\.\d+\n", nave("version")[0])
    overview = nave("help")[0]
    for line in ("device add", "twin patch", "method", "send", "query", "monitor", "doctor", "hub show", "sas",
                 "consumer-group add"):
        assert line in overview, overview
    assert nave("--help")[0] == overview
    assert "nave device add pump1" in nave("help", "device", "add")[0]
    assert nave("device", "add", "--help")[0] == nave("help", "device", "add")[0]
    for noun in ("device", "consumer-group", "send"):
        assert nave(noun, "--help")[0] == nave(noun, "-h")[0] == nave("help", noun)[0]
    assert "`nave help twin`" in nave("twin", code=2)[1]
    for bad, part in ((["nope"], "no command"), (["device"], "verb"), (["device", "nope"], "nope"),
                      (["device", "add"], "ID is missing"), (["device", "add", "a", "b"], "one word too many"),
                      (["device", "list", "--nope"], "--nope"), (["sas"], "--device ID or --policy"),
                      (["sas", "--policy", "x", "--ttl", "0"], "--ttl"), (["monitor", "--count", "0"], "--count"),
                      (["monitor", "--from", "5"], "--partition"),
                      (["monitor", "--over", "http", "--amqp-port", "1"], "--over amqp"),
                      (["monitor", "--hub", "HostName=x;SharedAccessKeyName=y;SharedAccessKey=eA==", "--amqp-port", "70000"], "1 to 65535"),
                      (["send", "x", "y", "--over", "http", "--amqp-port", "1"], "--over amqp"),
                      (["send", "x", "y", "--over", "amqp-ws", "--amqp-port", "1"], "--over amqp"),
                      (["feedback", "--over", "http"], "--over"), (["feedback", "--over", "pigeon"], "--over"),
                      (["monitor", "--over", "pigeon"], "--over"), (["send", "x", "y", "--over", "z"], "--over"),
                      (["monitor", "--over", "http", "--consumer-group", "x"], "--consumer-group"), (["device", "set", "x"], "nothing to change"),
                      (["up", "--dev-known-keys"], "--dev"), (["help", "nope"], "no command"),
                      (["help", "twin", "nope"], "\"twin nope\""), ([], "a command"),
                      (["device", "list", "-o", "xml"], "json or table"),
                      (["device", "list", "--hub", "HostName=x"], "connection string"),
                      (["twin"], "verb: get, patch, replace"), (["twin", "--data", "x"], "verb: get"),
                      (["twin", "show"], "but get, patch, replace"), (["twin", "get", "x", "--data", "--hub"], "--data needs a value"),
                      (["twin", "patch", "x"], "missing"), (["method", "x"], "missing"),
                      (["send", "x"], "missing"), (["send", "x", "y", "-p", "z"], "NAME=VALUE"),
                      (["send", "x", "y", "--ack", "some"], "--ack"), (["send", "x", "y", "--ttl", "0"], "--ttl"),
                      (["consumer-group"], "verb"), (["consumer-group", "add"], "NAME is missing"),
                      (["query"], "missing"), (["query", "x", "--page", "0"], "--page"),
                      (["completion", "fish"], "bash")):
        out, err = nave(*bad, code=2)
        assert out == "", out
        one_sentence(err, part)


@case
def libcurl_is_for_commands():
    """The hub lives without it; a command that cannot have it says so."""
    with Hub() as hub:
        hub.json("device", "list")
        with open("/proc/%d/maps" % hub.process.pid, encoding="utf-8") as file:
            maps = file.read()
        assert "libcrypto" in maps and "libcurl" not in maps, maps
        # A copy, since the loader hears no environment for a program with capabilities of its own.
        with open(os.path.join(hub.dir, "libcurl.so.4"), "wb") as file:
            file.write(b"no library")
        shown = subprocess.run([shutil.copy(NAVE, hub.dir), "device", "list", "--data", hub.data], timeout=60,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                               env={**os.environ, "LD_LIBRARY_PATH": hub.dir})
        assert shown.returncode == 1 and shown.stdout == b"", shown
        one_sentence(shown.stderr.decode(), "libcurl", hub.dir)


@case
def completion():
    script = nave("completion", "bash")[0] + """
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _nave; echo "${COMPREPLY[*]}"; }
try nave de
try nave device r
try nave device add --th
try nave up --de
try nave tw
try nave twin p
try nave method d1 --c
"""
    done = subprocess.run(["bash", "-eu", "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().splitlines() == ["device", "rm", "--thumbprint", "--dev --dev-known-keys", "twin",
                                                 "patch", "--connect-timeout --ca"], done.stdout


@case
def reference():
    with open(os.path.join(ROOT, "docs", "configuration.md"), encoding="utf-8") as file:
        assert nave("up", "--print-options")[0] == file.read(), \
            "docs/configuration.md is old: build/dev/nave up --print-options > docs/configuration.md"


@case
def check():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "nave.yaml")

        def write(text):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

        write("log:\n  durability: os\n")
        out, err = nave("up", "--check", "--data", folder)
        assert "log.durability: os" in out and path in err, out + err
        assert os.listdir(folder) == ["nave.yaml"], "a check writes nothing"
        out = nave("up", "--check", "--data", folder, "--set", "mqtt.port=1", env={"NAVE_MQTT_PORT": "2",
                                                                                   "NAVE_ADMIN_PORT": "3"})[0]
        assert "mqtt.port: 1\n" in out and "admin.port: 3\n" in out, out
        for text, parts in (("mqtt:\n  port: 70000\n", ("line 2", "mqtt.port", "70000")),
                            ("mqtt:\n  prot: 1\n", ("line: 2", "prot")), ("mqtt: [\n", ("nave.yaml",)),
                            ("log:\n  durability: x\n", ("line 2", "commit|os"))):
            write(text)
            for words in (["--check"], []):  # also when it should really start
                out, err = nave("up", *words, "--data", folder, code=2)
                one_sentence(err, *parts)
        one_sentence(nave("up", "--check", "--config", os.path.join(folder, "absent.yaml"), code=2)[1], "absent.yaml")
        write("")
        one_sentence(nave("up", "--data", folder, env={"NAVE_LOG_PARTITIONS": "99"}, code=2)[1], "NAVE_LOG_PARTITIONS")
        one_sentence(nave("up", "--data", folder, "--set", "a.b=1", code=2)[1], "a.b")
        one_sentence(nave("up", "--data", folder, "--set", "a", code=2)[1], "OPTION=VALUE")
        for words, parts in ((("--set", "amqp.port=8883"), ("mqtt.port and amqp.port are both 8883",)),
                             (("--set", "mqtt.plain_port=443", "--set", "mqtt.plain_bind=::"), ("https.port", "443")),
                             (("--set", "admin.port=7", "--set", "amqp.plain_port=7"), ("admin.port", "are both 7")),
                             (("--set", "tls.certificate_file=/absent", "--set", "tls.key_file=/absent"), ("/absent",)),
                             (("--hostname", "*.example.com"), ("*.example.com", "host name"))):
            one_sentence(nave("up", "--check", "--data", folder, *words, code=2)[1], *parts)
        nave("up", "--check", "--data", folder, "--bind", "192.0.2.1", "--set", "admin.port=443")  # other addresses
        for empty in ("--data", "--config"):
            one_sentence(nave("up", "--check", empty, "", code=2)[1], empty, "is empty")
