"""Linux namespaces, kept by a process that waits, so that several commands can run in the same ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_DEAF = "ip link set lo up && ip address del 127.0.0.1/8 dev lo"


class NoNamespaceError(Exception):
    """Neither root nor user namespaces here, or a tool is missing."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """Namespaces of their own.

    Attributes:
        prefix: words before a command that shall run in them; it begins in the root directory.
        pid: of the process that keeps them.
    """

    prefix: tuple[str, ...] = ()
    pid: int = 0

    def outside(self, path: Path) -> Path:
        """Where others find a path that is seen in here."""
        return Path(f"/proc/{self.pid}/root{path}")


@contextmanager
def namespace(*kinds: str, script: str, within: tuple[str, ...] = ()) -> Iterator[Namespace]:
    """New namespaces of these kinds (``net``, ``mount``), prepared by a shell script.

    Args:
        kinds: which; besides these two, ``uts`` (a host's name).
        script: run in them, as root of them.
        within: prefix of others to begin in.

    Raises:
        NoNamespaceError: they cannot be had.
    """
    flags = [f"--{kind}" for kind in kinds]
    user = ["--user", "--map-root-user"] if os.geteuid() and not within else []
    command = [*within, "unshare", *user, *flags, "sh", "-c", f"{script} && echo ready && exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        try:
            if holder.stdout.readline() != b"ready\n":
                raise NoNamespaceError(" ".join(command))
            enter = ["--user", "--preserve-credentials"] if os.geteuid() else []
            known = dict.fromkeys(("--net", "--mount", *flags))
            prefix = ("nsenter", "--target", str(holder.pid), *enter, *known)
            yield Namespace(prefix, holder.pid)
        finally:
            holder.stdin.close()


@contextmanager
def island() -> Iterator[Namespace]:
    """A network that is a loopback without IPv4, and so without mDNS: only who is named is found."""
    with namespace("net", "mount", script=_DEAF) as made:
        yield made
