"""What the attacks over AMQP share: an honest device that speaks AMQP, and ways to see how a connection ended."""
import amqp
from kit import *  # pylint: disable=unused-wildcard-import,wildcard-import

AMQPS, AMQP = 5671, 5672
PORTS = "amqp:\n  plain_port: 5672\n"


class AmqpTarget(Target):
    """A hub whose honest device uses AMQP, and which must have let go of all AMQP connections in the end."""

    def __init__(self, hub):
        super().__init__(hub)
        self.second = hub.json("device", "add", "honest2")["primaryKey"]

    def publishes(self, within=None):
        """The attacker's own thread asks as another device than the witness beside it."""
        self.alive()
        main = threading.current_thread() is threading.main_thread()
        name, key = ("honest2", self.second) if main else ("honest", self.key)
        started = time.monotonic()
        with amqp.Peer().device(name, key) as peer:
            assert peer.sender("/devices/%s/messages/events" % name) > 0
            peer.send(amqp.transfer(0, 7, amqp.data(b"honest")))
            settled = peer.until(amqp.DISPOSITION)
            assert settled.fields[1] == 7 and settled.fields[4].code == amqp.ACCEPTED, settled.fields
            peer.send(amqp.frame(amqp.perf(amqp.CLOSE)))
            assert peer.until(amqp.CLOSE).error() == (None, None)
        took = time.monotonic() - started
        assert took < (within or PROMPT_S), "the honest device waited %.2f s" % took
        return took

    def quiet(self, seconds=PATIENCE_S):
        super().quiet(seconds)
        deadline = time.monotonic() + seconds
        while self.metric("nave_amqp_connections_open") or self.metric("nave_amqp_devices_open"):
            assert time.monotonic() < deadline, "AMQP connections or devices were not let go"
            time.sleep(0.05)


def ending(peer, timeout=PATIENCE_S):
    """How the hub ended the connection: ('close', condition, description), or ('cut', all that came)."""
    peer.sock.settimeout(timeout)
    try:
        while True:
            got = peer.receive()
            if got.code == amqp.CLOSE:
                drain(peer.sock)
                return ("close",) + got.error()
    except (ConnectionError, ssl.SSLError):
        return ("cut", bytes(peer.buffer), "")


def say(peer, *parts):
    """Send, though the hub may have closed already."""
    try:
        peer.send(*parts)
    except OSError:
        pass


def stuff(peer, pieces, limit, stall_s=2):
    """Send without reading until the hub takes no more (or ends it). @return bytes taken, at most limit and a piece"""
    peer.sock.settimeout(stall_s)
    sent = 0
    try:
        for piece in pieces:
            while piece:
                count = peer.sock.send(piece)
                sent += count
                piece = piece[count:]
            if sent > limit:
                break
    except (socket.timeout, OSError):
        pass
    return sent


def main_amqp(run, limits="", more=""):
    with_hub(lambda hub: run(AmqpTarget(hub)), config=CONFIG % limits + PORTS + more)
