"""A hub under the name it would have in the cloud, inside the test's own mount namespace: scripts of a raw user dial that
name on the standard ports and trust the system's roots, as they are published."""
import subprocess
import tempfile

from hub import with_hub

HUB = "myhub"
HOST = "myhub.azure-devices.net"
HOSTS, ROOTS = "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"


def cover(path, content):
    """What @p path holds for this test and its children."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        subprocess.run(["mount", "--bind", file.name, path], check=True)  # the file lives on under the mount


def with_cloud_hub(test, config=""):
    """with_hub(), where the hub is HOST."""
    def run(hub):
        with open(hub.ca(), "rb") as file:
            cover(ROOTS, file.read())
        test(hub)

    cover(HOSTS, ("127.0.0.1 localhost %s\n" % HOST).encode())
    with_hub(run, config="net:\n  host_names: [%s]\n%s" % (HOST, config))
