"""The domains of libvirt, through its own command ``virsh``: libvirt holds their monitors and their agents.

Source: virsh(1), "qemu-monitor-command", with ``--pass-fds`` since libvirt 8.2.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from overlaysync.live.monitor import GoneError, RefusedError
from overlaysync.live.processes import Identity
from overlaysync.model.names import printable

URIS = ("qemu:///session", "qemu:///system")
_ANSWER_S = 30.0
_LIMIT = 4096
"""Characters of a message of virsh that are looked at."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A running domain.

    Attributes:
        uri: of the libvirt that runs it.
        uuid: of the domain.
    """

    uri: str
    uuid: str


def domain_named(uuid: str) -> Domain | None:
    """Return the running domain with that UUID; None if no libvirt that may be asked runs it."""
    for uri in _asked():
        if uuid in _running(uri):
            return Domain(uri, uuid)
    return None


def domains_with(identities: Iterable[Identity]) -> Iterator[tuple[Domain, list[Identity]]]:
    """Yield the running domains that have one of these files as a disk, and which of them."""
    wanted = set(identities)
    for uri in _asked():
        for uuid in _running(uri):
            listed = _virsh(uri, "domblklist", uuid, "--details")
            found = wanted.intersection(filter(None, map(_identity, listed.splitlines())))
            if found:
                yield Domain(uri, uuid), sorted(found)


class VirshMonitor:
    """The monitor of a domain. libvirt notes in its log that the domain was spoken with past it."""

    def __init__(self, domain: Domain) -> None:
        self._words = ("virsh", "-q", "-c", domain.uri, "qemu-monitor-command", domain.uuid)

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, file: int | None = None
    ) -> Any:
        """Run a command; see :class:`overlaysync.live.monitor.Monitor`."""
        passed = () if file is None else ("--pass-fds", str(file))
        said = json.dumps({"execute": command, "arguments": dict(arguments or {})})
        process = await asyncio.create_subprocess_exec(
            *self._words,
            *passed,
            said,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=() if file is None else (file,),
            start_new_session=True,  # Ctrl-C is for us: what was begun is to be cleaned up with it
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _ANSWER_S)
        except TimeoutError:
            process.kill()
            raise GoneError("libvirt does not answer") from None
        try:
            answer = json.loads(output)
            if "return" in answer:
                return answer["return"]
            refused = str(answer["error"]["desc"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise GoneError(printable(errors.decode(errors="replace")[:_LIMIT].strip())) from None
        raise RefusedError(printable(refused))

    async def close(self) -> None:
        """Do nothing: each command is on its own."""


def _asked() -> tuple[str, ...]:
    return URIS if shutil.which("virsh") else ()


def _running(uri: str) -> list[str]:
    return _virsh(uri, "list", "--uuid").split()


def _virsh(uri: str, *words: str) -> str:
    """Return what a command of virsh prints; "" if it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["virsh", "-q", "-c", uri, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            check=True,
        )
        return done.stdout
    return ""


def _identity(line: str) -> Identity | None:
    """Return the identity of the file in a line of ``domblklist --details``: type, device, target, source."""
    words = line.split(None, 3)
    with suppress(OSError, ValueError):
        if len(words) == 4 and words[0] == "file":
            status = os.stat(words[3].strip())
            return status.st_dev, status.st_ino
    return None
