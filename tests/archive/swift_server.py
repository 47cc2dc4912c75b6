"""Run by the Python of .venv-swift, not imported: makes the rings of a Swift, or runs one of its servers.

swift_server.py rings ETC account=PORT,PORT,PORT container=… object=…
swift_server.py serve CONF SECTION
swift_server.py bucket CONF ACCOUNT BUCKET [HEADER=VALUE …]
swift_server.py catch-up CONF
"""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARTITION_POWER = 4


def make_ring(etc: Path, kind: str, ports: list[int]) -> None:
    """A ring with as many replicas as ports: each on a device of its own, behind the server of that port."""
    from swift.common.ring import RingBuilder

    builder = RingBuilder(_PARTITION_POWER, len(ports), 0)
    for number, port in enumerate(ports, 1):
        place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
        builder.add_dev(
            {"id": number - 1, "region": 1, "zone": number, "weight": 1.0, "device": f"d{number}", "meta": ""}
            | place
        )
    builder.rebalance(seed="tests")
    builder.get_ring().save(str(etc / f"{kind}.ring.gz"))


def use_configuration(directory: Path) -> None:
    """Have Swift read ``swift.conf`` there instead of in /etc/swift."""
    from swift.common import constraints, storage_policy, utils

    utils.set_swift_dir(str(directory))
    storage_policy.reload_storage_policies()
    constraints.reload_constraints()


def serve(conf: str, section: str) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no server outlives the tests
    use_configuration(Path(conf).parent)
    from swift.common.wsgi import run_wsgi

    status: int = run_wsgi(conf, section, verbose=True)
    return status


def make_bucket(conf: str, account: str, bucket: str, headers: dict[str, str]) -> None:
    """Make a bucket or change it, past all authentication: by the proxy's own code, in this process."""
    use_configuration(Path(conf).parent)
    from swift.common.internal_client import InternalClient

    client = InternalClient(conf, "tests", 1)
    client.make_request("PUT", client.make_path(account, bucket), headers, (2,))


def catch_up(conf: str) -> None:
    """Make the three copies of every bucket's list equal, as a daemon of Swift does every half minute."""
    use_configuration(Path(conf).parent)
    from swift.common.utils import readconf
    from swift.container.replicator import ContainerReplicator

    ContainerReplicator(readconf(conf, "container-replicator")).run_once()


def main(words: list[str]) -> int:
    if words[0] == "serve":
        return serve(words[1], words[2])
    if words[0] == "bucket":
        pairs = (word.partition("=") for word in words[4:])
        make_bucket(words[1], words[2], words[3], {header: value for header, _, value in pairs})
        return 0
    if words[0] == "catch-up":
        catch_up(words[1])
        return 0
    for word in words[2:]:
        kind, _, ports = word.partition("=")
        make_ring(Path(words[1]), kind, [int(port) for port in ports.split(",")])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
