"""Waiting until a VM is ready, by one of the probes; each attempt is bounded, and all of them together."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass

from overlaysync.errors import OverlaysyncError
from overlaysync.live.guest_agent import said
from overlaysync.node.channel import ChannelError
from overlaysync.node.vm_process import VmProcess
from overlaysync.ops.drill.probes import Probe, ProbeKind

_AGAIN_S = 0.5
"""Between two attempts."""
_CONNECT_S, _COMMAND_S, _AGENT_S = 3.0, 30.0, 5.0
_AGENT_LINES = 100
"""Lines that are read after each question: a guest can write what it likes to the port of its agent."""
_LOGIN = re.compile(r"\blogin: *$")
_FORWARD = re.compile(r"TCP\[(\w+)\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)")
_TAKEN = {"ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK", "TIME_WAIT"}
"""States of a connection that the guest has taken: some services answer and close it at once."""
_PANIC = "GUEST_PANICKED"


@dataclass(slots=True)
class Waiting:
    """One VM, which is waited for.

    Attributes:
        vm: it.
        name: of it.
        probe: what is asked.
        attempts: how often it was.
    """

    vm: VmProcess
    name: str
    probe: Probe
    attempts: int = 0

    async def ready(self) -> str:
        """Return when the VM is ready, with what shows it; without a probe, what looks like it."""
        match self.probe.kind:
            case ProbeKind.SERIAL:
                return await self._serial(re.compile(self.probe.value), "the serial port shows")
            case ProbeKind.TCP:
                return await self._tcp(int(self.probe.value))
            case ProbeKind.COMMAND:
                return await self._command()
            case ProbeKind.AGENT:
                return await self._agent()
        return await self._anything()

    async def _serial(self, pattern: re.Pattern[str], words: str) -> str:
        while True:
            self.vm.console.changed.clear()
            self.attempts += 1
            found = pattern.search(self.vm.console.text)
            if found:
                return f"{words} “{found[0].strip()[:80]}”"
            await self.vm.console.changed.wait()

    async def _tcp(self, port: int) -> str:
        while True:
            self.attempts += 1
            forwards = await self._forwards()
            if port in forwards and await self._answers(forwards[port]):
                return f"port {port} answers"
            await asyncio.sleep(_AGAIN_S)

    async def _forwards(self) -> dict[int, int]:
        """Return which port of this machine leads to which of the guest, by the latter."""
        text = await self.vm.monitor.tell("info usernet")
        rows = _FORWARD.findall(text)
        return {int(guest): int(here) for state, here, guest in rows if state == "HOST_FORWARD"}

    async def _answers(self, port: int) -> bool:
        """Whether the guest takes a connection: QEMU itself takes every one before it asks the guest."""
        writer = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                while True:
                    said = await _said(reader)
                    rows = _FORWARD.findall(await self.vm.monitor.tell("info usernet"))
                    states = {state for state, here, _ in rows if int(here) == port}
                    if said or states & _TAKEN:
                        return True
                    if said is not None or states == {"HOST_FORWARD"}:
                        return False  # the guest has refused it
        except (OSError, TimeoutError):
            return False
        finally:
            if writer is not None:
                writer.close()

    async def _command(self) -> str:
        while True:
            self.attempts += 1
            if await self._run() == 0:
                return "the command succeeded"
            await asyncio.sleep(_AGAIN_S)

    async def _run(self) -> int:
        forwards = await self._forwards()
        ports = {f"OVERLAYSYNC_PORT_{guest}": str(here) for guest, here in forwards.items()}
        console = self.vm.directory / "console.txt"
        await asyncio.to_thread(console.write_text, self.vm.console.text)
        about = {"VM": self.name, "ADDRESS": "127.0.0.1", "CONSOLE": str(console)}
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            self.probe.value,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **ports, **{f"OVERLAYSYNC_{key}": value for key, value in about.items()}},
            start_new_session=True,
        )
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_COMMAND_S):
                    return await process.wait()
            return -1
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())

    async def _agent(self) -> str:
        reader, writer = self.vm.agent
        while True:
            self.attempts += 1
            question = {"execute": "guest-sync", "arguments": {"id": self.attempts}}
            writer.write(b"\xff" + json.dumps(question).encode() + b"\n")
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_AGENT_S):
                    if await self._synced(reader):
                        return "the guest agent answers"
                    await asyncio.sleep(_AGENT_S)  # what is at its port, and is no agent, may say more

    async def _synced(self, reader: asyncio.StreamReader) -> bool:
        """Whether one of the next lines is the answer to what was asked."""
        for _ in range(_AGENT_LINES):
            with suppress(ValueError):  # a line without end
                line = await reader.readline()
                answer = said(line).get("return")
                if type(answer) is int and 0 < answer <= self.attempts:
                    return True
                if not line:
                    return False
        return False

    async def _anything(self) -> str:
        """Return what looks as if the system had come up, without having been asked for."""
        tasks = [
            asyncio.create_task(self._serial(_LOGIN, "the serial port shows")),
            asyncio.create_task(self._agent()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _said(reader: asyncio.StreamReader) -> bytes | None:
    """Return the first byte that comes soon; b"" if the connection has ended, None if nothing comes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_AGAIN_S / 10):
            return await reader.read(1)
    return None


class NotReadyError(OverlaysyncError):
    """A VM did not become ready, and will not."""

    exit_code = 6


class KvmFailedError(NotReadyError):
    """KVM has stopped a VM that may run without it, as happens inside some virtual machines."""


_STOPPED: dict[str, tuple[type[NotReadyError], str]] = {
    "internal-error": (KvmFailedError, "KVM has stopped it with an internal error"),
    "io-error": (NotReadyError, "it was stopped by an error of its disk"),
}
"""States that a VM does not leave by itself (QEMU's ``RunState``), and the errors for them."""


async def failure(vm: VmProcess) -> NotReadyError:
    """Return when a VM has failed: it has ended or was stopped for good, or its system has."""
    ended = asyncio.create_task(vm.ended())
    try:
        while not ended.done():
            with suppress(ChannelError):
                state = (await vm.monitor.ask("query-status"))["status"]
                if state in _STOPPED:
                    kind, what = _STOPPED[state]
                    return kind(what)
            if _PANIC in vm.monitor.events:
                return NotReadyError("its system has panicked")
            await asyncio.wait([ended], timeout=_AGAIN_S)
        code = ended.result()
        if code == 0:
            return NotReadyError("it switched itself off")
        return NotReadyError("QEMU ended", why=vm.said or f"exit code {code}")
    finally:
        ended.cancel()
