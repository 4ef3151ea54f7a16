"""Processes of a comparison: pinned to a core, in a group of their own, stopped by the ids we started."""
import os
import shutil
import signal
import socket
import subprocess
import time

SERVER_CORE, GENERATOR_CORE = "0", "1"


class Failure(Exception):
    """Something the comparison cannot go on without; the text says what and why."""


def pinned(core, argv):
    if shutil.which("taskset") and (os.cpu_count() or 1) > 1:
        return ["taskset", "-c", core] + argv
    return argv


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, process=None, seconds=60.0, log=None):
    """Poll until condition() is true; a process that ended meanwhile is an error with the end of its log."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise Failure("%s ended with code %s\n%s" % (what, process.returncode, tail(log)))
        if time.monotonic() > end:
            raise Failure("%s was not ready after %.0f s\n%s" % (what, seconds, tail(log)))
        time.sleep(0.002)


def tail(path, lines=15):
    if not path or not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-lines:])


def accepts(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def greets(port):
    """True when an anonymous MQTT CONNECT is answered with CONNACK 0."""
    name = b"nave-bench-probe"
    hello = b"\x00\x04MQTT\x04\x02\x00\x3c" + bytes([0, len(name)]) + name
    with socket.socket() as probe:
        probe.settimeout(2)
        try:
            probe.connect(("127.0.0.1", port))
            probe.sendall(bytes([0x10, len(hello)]) + hello)
            return probe.recv(4) == b"\x20\x02\x00\x00"
        except OSError:
            return False


class Process:
    """One server process (taskset becomes it, so the id is the server's own)."""

    def __init__(self, argv, log, env=None, core=SERVER_CORE, cwd=None):
        self.log = log
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(pinned(core, argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          env=env, cwd=cwd, start_new_session=True)
        self.pid = self.popen.pid

    def signal(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def stop(self, seconds=20.0):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        self.signal(signal.SIGKILL)
        self.popen.wait()
        return self.popen.returncode


def resident_bytes(pid):
    with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as file:
        for line in file:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    return 0
