"""What the crash rings share: a hub that is killed at random moments, and clients that come back."""
import contextlib
import os
import random
import sys
import threading
import time

from hub import Hub


class Client(threading.Thread):
    """Works until told to stop; comes back when the hub does."""

    DOWN = (OSError,)  # what tells that the hub is down; anything else is a broken promise

    def __init__(self):
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.error = None
        self.acknowledged = 0

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    self.serve()
                except self.DOWN:
                    self.stopping.wait(0.02)  # try again soon
        except BaseException as err:  # a broken promise must not end in a silent thread
            self.error = err
            raise

    def serve(self):
        raise NotImplementedError


def dice():
    """What chooses the moments; SEED repeats them."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print("seed %d" % seed, flush=True)
    return random.Random(seed)


@contextlib.contextmanager
def running(config):
    """A hub; what goes wrong is told with its log."""
    hub = Hub(config=config)
    try:
        hub.start()
        yield hub
    except BaseException:
        with open(hub.log, encoding="utf-8", errors="replace") as file:
            sys.stderr.write("--- the log of the hub\n" + file.read()[-8000:])
        raise
    finally:
        hub.stop()


def kill_again_and_again(hub, rng, cycles, clients, counts, least):
    """Every kill waits until each of the numbers of counts() has grown by least."""
    for _ in range(cycles):
        before = counts()
        deadline = time.monotonic() + 90
        while any(now < then + least for now, then in zip(counts(), before)):
            assert time.monotonic() < deadline, "nothing is acknowledged any more"
            assert not any(client.error for client in clients)
            time.sleep(0.005)
        time.sleep(rng.random() * 0.4)  # the random moment
        hub.kill()
        hub.start()


def stop(clients):
    for client in clients:
        client.stopping.set()
    for client in clients:
        client.join(90)
        assert not client.is_alive() and not client.error, "%s: %r" % (client.name, client.error)
