"""A VM of a drill as processes: QEMU and its TPM, which die with this one, however it dies."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.node.channel import ChannelError, Console, Monitor
from overlaysync.ops.drill.machine import TPM_SOCKET, Channels, Machine, qemu_command, swtpm_command

_PR_SET_PDEATHSIG = 1
_START_S, _END_S, _SCREEN_S = 20.0, 5.0, 5.0
_POLL_S = 0.02
_SAID = 400
"""Characters of what QEMU says when it fails."""

_libc = ctypes.CDLL(None, use_errno=True)


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
            await stack.enter_async_context(_process(swtpm_command(), directory, "swtpm.log"))
            await _wait_for(directory / TPM_SOCKET)
        ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        for end in (*ours, *theirs):
            stack.callback(end.close)
        command = qemu_command(machine, Channels(*(end.fileno() for end in theirs)))
        process = await stack.enter_async_context(
            _process(command, directory, "qemu.log", inherits=theirs, machine=machine)
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


def check_programs(names: Sequence[str]) -> None:
    """Refuse to begin without a program.

    Raises:
        NotFoundError: it is not installed.
    """
    packages = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"}
    for name in names:
        if shutil.which(name) is None:
            raise NotFoundError(
                f"Cannot boot a VM without {name}, which is not installed",
                hint=f"sudo apt install {packages.get(name, name)}",
            )


def said_in(directory: Path) -> str:
    """Return the last that QEMU has said in this directory."""
    with suppress(OSError):
        return " ".join((directory / "qemu.log").read_text(errors="replace").split())[-_SAID:]
    return ""


@asynccontextmanager
async def _process(
    command: list[str],
    directory: Path,
    log: str,
    *,
    inherits: Sequence[socket.socket] = (),
    machine: Machine | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in a directory; it is killed at the end of the block, and when this process dies."""
    check_programs(command[:1])
    with open(directory / log, "wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=[end.fileno() for end in inherits],
            env={"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(directory)},
            start_new_session=True,  # Ctrl-C in the terminal is for this process, which ends the others
            preexec_fn=_bound(os.getpid(), machine),
        )
    try:
        yield process
    finally:
        # process.kill() might reap a process that has just ended, and asyncio would warn on the terminal that
        # it does not know its exit code.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def _bound(parent: int, machine: Machine | None) -> Callable[[], None]:
    """Return what a child does before it becomes the program: die with its parent, and keep within bounds."""

    def bind() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if machine is not None:
            memory, size = machine.address_space, machine.most_written
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return bind


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
