"""The agent in a guest: it freezes the guest's file systems, and thaws them again.

Runs in a process of its own, see :mod:`overlaysync.live.watch`. Source: QEMU qga/qapi-schema.json.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from contextlib import suppress
from typing import Any, Protocol

from overlaysync.live.sockets import connect_unix, receive

_ANSWER_S = 2.0
_FREEZE_S = 5.0
_THAW_S = 600.0
"""How long thawing is tried."""
_LIMIT = 1 << 20
"""Bytes of an answer."""
_LINES = 1000
"""What an earlier client has left unread are a few lines; a guest that lies can write them without end."""


class AgentError(Exception):
    """The agent does not answer, or refuses."""


class Agent(Protocol):
    """A way to the agent of a guest."""

    def ask(self, command: str, within_s: float) -> Any:
        """Run a command and return its answer.

        Raises:
            AgentError: it refuses, or does not answer in that time.
        """
        ...


class SocketAgent:
    """The agent behind a Unix socket, which has one client at a time."""

    def __init__(self, path: str, owner: int) -> None:
        self._socket = connect_unix(path, _ANSWER_S, owner)
        self._received = b""

    def ask(self, command: str, within_s: float) -> Any:
        """Run a command; see :class:`Agent`. What an earlier client has left unread is skipped."""
        deadline = time.monotonic() + within_s
        mark = secrets.randbelow(1 << 31)
        # The agent drops what it had of an unfinished command at 0xFF, and begins its answer with one.
        self._send(b"\xff" + _command("guest-sync-delimited", {"id": mark}))
        for _ in range(_LINES):
            line = self._line(deadline)
            if b"\xff" in line and said(line.rpartition(b"\xff")[2]).get("return") == mark:
                break
        else:
            raise AgentError("the guest writes something else to the port of its agent")
        self._send(_command(command))
        answer = said(self._line(deadline))
        if "return" not in answer:
            raise AgentError(str(answer.get("error")))
        return answer["return"]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise AgentError(str(error)) from None

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._received:
            try:
                data = receive(self._socket, deadline)
            except OSError as error:
                raise AgentError(str(error)) from None
            self._received += data
            if not data or len(self._received) > _LIMIT:
                raise AgentError("the agent has ended")
        line, _, self._received = self._received.partition(b"\n")
        return line


class VirshAgent:
    """The agent of a domain of libvirt, which has its socket."""

    def __init__(self, uri: str, domain: str) -> None:
        self._words = ("virsh", "-q", "-c", uri, "qemu-agent-command", domain)

    def ask(self, command: str, within_s: float) -> Any:
        """Run a command; see :class:`Agent`."""
        words = [*self._words, "--timeout", str(max(1, int(within_s))), _command(command).decode()]
        try:
            done = subprocess.run(words, capture_output=True, check=True, timeout=within_s + 5)
        except (OSError, subprocess.SubprocessError) as error:
            raise AgentError(str(error)) from None
        return said(done.stdout).get("return")


def _command(name: str, arguments: dict[str, Any] | None = None) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments or {}}).encode() + b"\n"


def said(line: bytes) -> dict[str, Any]:
    """Return what a line of an agent says; nothing where it is no answer."""
    try:
        said = json.loads(line.rpartition(b"\xff")[2])
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


class Freeze:
    """A guest whose file systems are frozen for a while; see :class:`overlaysync.live.watch.Hold`."""

    held_s = 5.0
    """Windows thaws by itself after 10 seconds."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def prepare(self) -> bool:
        """Return whether the agent answers; thaws what a killed command has left frozen."""
        try:
            if self._agent.ask("guest-fsfreeze-status", _ANSWER_S) != "thawed":
                self.end()
        except AgentError:
            return False
        return True

    def begin(self) -> bool:
        """Freeze all file systems."""
        try:
            self._agent.ask("guest-fsfreeze-freeze", _FREEZE_S)
        except AgentError:
            return False
        return True

    def end(self) -> None:
        """Thaw until the agent says that nothing is frozen."""
        deadline = time.monotonic() + _THAW_S
        while time.monotonic() < deadline:
            with suppress(AgentError):
                self._agent.ask("guest-fsfreeze-thaw", _FREEZE_S)
                if self._agent.ask("guest-fsfreeze-status", _ANSWER_S) == "thawed":
                    return
            time.sleep(0.2)
