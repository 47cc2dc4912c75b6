"""A process that freezes the file systems of a guest and thaws them again, whatever becomes of its parent.

It alone holds the socket of the guest agent. It thaws when it is told to, when its parent has ended (its
standard input ends), and after a few seconds in any case. It runs as ``python -m overlaysync.live.thawer``.

Lines on standard input: ``freeze``, ``thaw``. Lines on standard output: ``ready``, or ``none`` if no agent
answers; ``frozen`` or ``failed``; ``thawed``, or ``late`` if it has thawed before it was told to.
Source: QEMU qga/qapi-schema.json.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

FROZEN_S = 5.0
"""A guest is frozen for no longer. Windows thaws by itself after 10 seconds."""
_ANSWER_S = 2.0
_FREEZE_S = 5.0
_THAW_S = 600.0
"""How long thawing is tried."""
_LIMIT = 1 << 20
"""Bytes of an answer."""


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

    def __init__(self, path: str) -> None:
        directory, name = os.path.split(os.path.abspath(path))
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX)
        self._received = b""
        try:
            self._socket.settimeout(_ANSWER_S)
            self._socket.connect(f"/proc/self/fd/{folder}/{name}")
        finally:
            os.close(folder)

    def ask(self, command: str, within_s: float) -> Any:
        """Run a command; see :class:`Agent`. What an earlier client has left unread is skipped."""
        deadline = time.monotonic() + within_s
        mark = secrets.randbelow(1 << 31)
        # The agent drops what it had of an unfinished command at 0xFF, and begins its answer with one.
        self._send(b"\xff" + _command("guest-sync-delimited", {"id": mark}))
        while True:
            line = self._line(deadline)
            if b"\xff" in line and _said(line.rpartition(b"\xff")[2]).get("return") == mark:
                break
        self._send(_command(command))
        answer = _said(self._line(deadline))
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
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
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
        return _said(done.stdout).get("return")


def _command(name: str, arguments: dict[str, Any] | None = None) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments or {}}).encode() + b"\n"


def _said(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line.rpartition(b"\xff")[2])
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def attend(agent: Agent) -> None:
    """Do what standard input says, and thaw in every case."""
    try:
        if agent.ask("guest-fsfreeze-status", _ANSWER_S) != "thawed":
            _thaw(agent)  # a command that was killed together with its thawer
    except AgentError:
        _say("none")
        return
    _say("ready")
    if _told(None) != "freeze":
        return
    try:
        agent.ask("guest-fsfreeze-freeze", _FREEZE_S)
        _say("frozen")
        in_time = _told(FROZEN_S) == "thaw"
    except AgentError:
        _say("failed")
        in_time = False
    finally:
        _thaw(agent)  # after a failure as well: some of the file systems may be frozen
    _say("thawed" if in_time else "late")


def _thaw(agent: Agent) -> None:
    """Thaw until the agent says that nothing is frozen."""
    deadline = time.monotonic() + _THAW_S
    while time.monotonic() < deadline:
        with suppress(AgentError):
            agent.ask("guest-fsfreeze-thaw", _FREEZE_S)
            if agent.ask("guest-fsfreeze-status", _ANSWER_S) == "thawed":
                return
        time.sleep(0.2)


def _told(within_s: float | None) -> str:
    """Return the next line of standard input; "" at its end, or if none comes in that time."""
    ready, _, _ = select.select([sys.stdin], [], [], within_s)
    return sys.stdin.readline().strip() if ready else ""


def _say(word: str) -> None:
    with suppress(OSError):  # the parent may have ended
        print(word, flush=True)


def main(words: Sequence[str]) -> None:
    """Attend to the agent at a socket, or to that of a domain: ``SOCKET`` or ``URI DOMAIN``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the parent is what counts
    try:
        attend(SocketAgent(words[0]) if len(words) == 1 else VirshAgent(words[0], words[1]))
    except OSError:
        _say("none")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (nobody reads what is left to be flushed)


if __name__ == "__main__":
    main(sys.argv[1:])
