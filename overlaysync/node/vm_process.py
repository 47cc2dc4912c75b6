"""A VM of a drill as processes: QEMU and its TPM, which die with this one, however it dies."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import OverlaysyncError
from overlaysync.node.channel import ChannelError, Console, Monitor
from overlaysync.node.children import Bounds, child
from overlaysync.ops.drill.machine import TPM_SOCKET, Channels, Machine, qemu_command, swtpm_command

_START_S, _END_S, _SCREEN_S = 20.0, 5.0, 5.0
_POLL_S = 0.02
_SAID = 400
"""Characters of what QEMU says when it fails."""


@dataclass(slots=True)
class VmProcess:
    """A VM under way.

    Attributes:
        command: what started it.
        monitor, console: of it.
        agent: this end of the guest agent's port.
        directory: in which it runs.
        emulated: whether it runs without KVM.
    """

    command: list[str]
    monitor: Monitor
    console: Console
    agent: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    directory: Path
    emulated: bool
    _process: asyncio.subprocess.Process = field(repr=False)

    @property
    def running(self) -> bool:
        """Whether QEMU has not ended."""
        return self._process.returncode is None

    @property
    def said(self) -> str:
        """What QEMU has said on its standard error."""
        return said_in(self.directory)

    async def ended(self) -> int:
        """Wait for the end of QEMU; returns its exit code."""
        return await self._process.wait()

    async def screenshot(self) -> bytes:
        """Return a PNG of the screen; b"" where there is none."""
        path = self.directory / "screen.png"
        with suppress(ChannelError, OSError, TimeoutError):
            async with asyncio.timeout(_SCREEN_S):
                await self.monitor.ask("screendump", filename=str(path), format="png")
            return path.read_bytes()
        return b""

    async def quit(self) -> None:
        """Switch it off, and wait for its end."""
        with suppress(ChannelError, TimeoutError):
            async with asyncio.timeout(_END_S):
                if self.running:
                    await self.monitor.ask("quit")
                await self._process.wait()


@asynccontextmanager
async def vm_process(machine: Machine, directory: Path) -> AsyncIterator[VmProcess]:
    """Start a VM, stopped at power-on; it ends with the block.

    Raises:
        NotFoundError: a program is not installed.
        OverlaysyncError: it does not start.
    """
    async with AsyncExitStack() as stack:
        if machine.tpm:
            await stack.enter_async_context(child(swtpm_command(), directory, "swtpm.log"))
            await _wait_for(directory / TPM_SOCKET)
        ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        for end in (*ours, *theirs):
            stack.callback(end.close)
        command = qemu_command(machine, Channels(*(end.fileno() for end in theirs)))
        process = await stack.enter_async_context(
            child(
                command,
                directory,
                "qemu.log",
                inherits=[end.fileno() for end in theirs],
                bounds=Bounds(machine.address_space, machine.most_written),
            )
        )
        for end in theirs:
            end.close()
        try:
            async with asyncio.timeout(_START_S):
                monitor = await Monitor.open(ours[0])
                stack.callback(monitor.close)
                kvm = bool((await monitor.ask("query-kvm"))["enabled"])
        except (ChannelError, TimeoutError):
            raise OverlaysyncError(
                "QEMU does not start",
                why=said_in(directory) or "it does not answer",
                hint="which version it is: qemu-system-x86_64 --version",
            ) from None
        console = await Console.open(ours[1])
        stack.push_async_callback(console.close)
        agent = await asyncio.open_connection(sock=ours[2])
        stack.callback(agent[1].close)
        vm = VmProcess(command, monitor, console, agent, directory, not kvm, process)
        stack.push_async_callback(vm.quit)
        yield vm


async def kvm_works(directory: Path) -> bool:
    """Find out whether the processor can run VMs for this user: some machines only say so."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    directory.mkdir(exist_ok=True)
    with suppress(OverlaysyncError, TimeoutError):
        async with vm_process(Machine("probe", (), memory_mib=64, kvm=True), directory) as vm:
            async with asyncio.timeout(_START_S):
                await vm.monitor.ask("cont")
                return bool((await vm.monitor.ask("query-status"))["running"]) and not vm.emulated
    return False


def said_in(directory: Path) -> str:
    """Return the last that QEMU has said in this directory."""
    with suppress(OSError):
        return " ".join((directory / "qemu.log").read_text(errors="replace").split())[-_SAID:]
    return ""


async def _wait_for(path: Path) -> None:
    """Wait until a socket is there.

    Raises:
        OverlaysyncError: it does not come.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            while not path.exists():
                await asyncio.sleep(_POLL_S)
            return
    raise OverlaysyncError("swtpm does not start", hint="which version it is: swtpm --version")
