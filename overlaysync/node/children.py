"""Programs that die with this one, however it dies, and that keep within bounds.

What sets the bounds is a small Python that then becomes the program: code of ours in a fork of this process,
which has threads, could wait for ever for a lock that one of them held.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from overlaysync.errors import NotFoundError

_LAUNCHER = """
import ctypes, os, resource, signal, sys
parent, mapped, written, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
    sys.exit(1)  # the parent died before that
for name, most in {"CORE": 0, "AS": int(mapped), "FSIZE": int(written)}.items():
    kind = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(kind)[1]
    if most >= 0 and not 0 <= hard <= most:
        resource.setrlimit(kind, (most, most))
os.execvp(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a program may take; -1 for as much as this one.

    Attributes:
        mapped: bytes of address space.
        written: bytes that a file may have after it has written to it.
    """

    mapped: int = -1
    written: int = -1


@asynccontextmanager
async def child(
    command: Sequence[str],
    directory: Path,
    log: str,
    *,
    inherits: Sequence[int] = (),
    bounds: Bounds = Bounds(),
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in a directory until the end of the block; what it says goes to the file ``log`` there.

    Args:
        command: its words.
        directory: in which it runs.
        log: name of the file.
        inherits: descriptors that it shares with this process.
        bounds: what it may take.

    Raises:
        NotFoundError: it is not installed.
    """
    check_programs(command[:1])
    limits = (str(os.getpid()), str(bounds.mapped), str(bounds.written))
    with open(directory / log, "wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LAUNCHER, *limits, *command),
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=inherits,
            env={"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(directory)},
            start_new_session=True,  # Ctrl-C in the terminal is for this process, which ends the others
        )
    try:
        yield process
    finally:
        # process.kill() might reap a process that has just ended, and asyncio would warn on the terminal that
        # it does not know its exit code.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


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
