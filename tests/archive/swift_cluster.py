"""An object store that is real and distributed: OpenStack Swift with its S3 interface, on the loopback.

Three devices and three replicas of everything. Each device has an object server of its own, a process that a
test can kill or stop; one server each serves the accounts and the containers of all devices.
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv-swift" / "bin" / "python"
SERVER = Path(__file__).with_name("swift_server.py")
REPLICAS = 3
START_S = 60


class User(NamedTuple):
    """Somebody who may use the store: an account, a name in it, a key."""

    account: str
    name: str
    key: str


TESTER = User("test", "tester", "testing")
READER = User("test", "reader", "reading")
"""In the same account, but allowed nothing in it."""
STRANGER = User("other", "tester", "stranging")
"""Of another tenant."""

_SWIFT_CONF = """\
[swift-hash]
swift_hash_path_suffix = tests
swift_hash_path_prefix = tests
[storage-policy:0]
name = default
default = yes
"""

_COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {etc}
log_level = WARNING
"""

# Nothing listens at the address of the memcached: without one, every answer is what the servers know now.
# With the long time-outs here and below, a list names what was just stored, unless a server is dead.
_INTERNAL = """\
[pipeline:main]
pipeline = catch_errors cache proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
set log_level = CRITICAL
"""

_PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth copy container_quotas slo
    proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_limit = 1000000
post_quorum_timeout = 20
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
set log_level = CRITICAL
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:copy]
use = egg:swift#copy
[filter:container_quotas]
use = egg:swift#container_quotas
[filter:slo]
use = egg:swift#slo
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
user_other_tester = stranging .admin
"""

_STORAGE = """\
devices = {devices}
mount_check = false
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
container_update_timeout = 20
[{kind}-replicator]
recon_cache_path = {etc}
"""


class Swift:
    """A running store.

    Attributes:
        root: its files; ``devices/d1`` to ``d3`` hold what is stored.
        url: of its S3 interface.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        objects = [f"object{number}" for number in range(1, REPLICAS + 1)]
        self.servers = ("account", "container", *objects, "proxy")
        self._ports = dict(zip(self.servers, _free_ports(len(self.servers)), strict=True))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"http://127.0.0.1:{self._ports['proxy']}"

    def configure(self) -> None:
        for name in ("etc", "log", *(f"devices/d{number}" for number in range(1, REPLICAS + 1))):
            (self.root / name).mkdir(parents=True)
        etc, devices = self.root / "etc", self.root / "devices"
        (etc / "swift.conf").write_text(_SWIFT_CONF)
        (etc / "internal.conf").write_text(
            _COMMON.format(port=1, user=getpass.getuser(), etc=etc) + _INTERNAL
        )
        for server, port in self._ports.items():
            text = _COMMON.format(port=port, user=getpass.getuser(), etc=etc)
            if server == "proxy":
                text += _PROXY
            else:
                text += _STORAGE.format(etc=etc, devices=devices, kind=server.rstrip("0123456789"))
            (etc / f"{server}.conf").write_text(text)
        rings = [self._ring(kind) for kind in ("account", "container", "object")]
        subprocess.run([PYTHON, SERVER, "rings", etc, *rings], check=True)

    def _ring(self, kind: str) -> str:
        ports = [port for server, port in self._ports.items() if server.startswith(kind)]
        return f"{kind}=" + ",".join(map(str, (ports * REPLICAS)[:REPLICAS]))

    def start(self, *servers: str) -> None:
        """Start these servers, or all; returns when each of them takes connections."""
        for server in servers or self.servers:
            section = f"{server.rstrip('0123456789')}-server"
            with open(self.root / "log" / f"{server}.log", "ab") as log:
                self._running[server] = subprocess.Popen(
                    [PYTHON, SERVER, "serve", self.root / "etc" / f"{server}.conf", section],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                )
        for server in servers or self.servers:
            self._wait_for(server)

    def _wait_for(self, server: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._ports[server]), 2).close()
                return
            except OSError:
                ended = self._running[server].poll()
                if ended is not None or time.monotonic() > deadline:
                    log = (self.root / "log" / f"{server}.log").read_text(errors="replace")
                    raise AssertionError(f"{server} did not start ({ended}):\n{log[-2000:]}") from None
                time.sleep(0.02)

    def kill(self, *servers: str) -> None:
        for server in servers:
            process = self._running.pop(server)
            process.kill()
            process.wait()

    @contextmanager
    def without(self, *servers: str) -> Iterator[None]:
        """These servers are dead inside, and run again afterwards."""
        self.kill(*servers)
        try:
            yield
        finally:
            self.start(*servers)

    @contextmanager
    def stopped(self, server: str) -> Iterator[None]:
        """This server takes connections inside and answers nothing."""
        process = self._running[server]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill(*self._running)

    @property
    def object_servers(self) -> tuple[str, ...]:
        return tuple(server for server in self.servers if server.startswith("object"))

    def make_bucket(self, name: str, user: User = TESTER, **headers: str) -> str:
        """Make a bucket of the user's account, or change it; ``Read="x"`` is ``X-Container-Read: x``."""
        pairs = [f"X-Container-{key.replace('_', '-')}={value}" for key, value in headers.items()]
        conf, account = self.root / "etc" / "internal.conf", f"AUTH_{user.account}"
        subprocess.run([PYTHON, SERVER, "bucket", conf, account, name, *pairs], check=True)
        return name

    def catch_up(self) -> None:
        """Have the lists of buckets brought up to date in all their copies.

        While a server is dead, what is stored is missing from the copy of a list that it would have told.
        """
        conf = self.root / "etc" / "container.conf"
        subprocess.run([PYTHON, SERVER, "catch-up", conf], check=True, capture_output=True)

    def environment(self, user: User = TESTER, url: str | None = None) -> dict[str, str]:
        """What a user of the store has in the environment."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": f"{user.account}:{user.name}",
            "AWS_SECRET_ACCESS_KEY": user.key,
        }

    def raw(self) -> Iterator[tuple[Path, bytes]]:
        """Yield every file on the devices with its bytes, and with those of its attributes."""
        for directory, _, names in os.walk(self.root / "devices"):
            for name in names:
                path = Path(directory, name)
                attributes = [os.getxattr(path, key) for key in os.listxattr(path)]
                yield path, b"".join([path.read_bytes(), *attributes])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def running_swift(root: Path) -> Iterator[Swift]:
    swift = Swift(root)
    swift.configure()
    try:
        swift.start()
        yield swift
    finally:
        swift.close()
