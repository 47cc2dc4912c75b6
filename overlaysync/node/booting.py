"""Boot the VMs that a drill has restored: each on overlays and copies of its own, cut off, and bounded."""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.node.children import check_programs
from overlaysync.node.readiness import KvmFailedError, NotReadyError, Waiting, failure
from overlaysync.node.restore_plan import Restored
from overlaysync.node.vm_process import VmProcess, kvm_works, vm_process
from overlaysync.ops.drill.machine import MOST_WRITTEN, TPM_STATE, VARS, Machine, Seed, firmware_for
from overlaysync.ops.drill.probes import Probe, ProbeKind, Probes
from overlaysync.ops.drill.report import BootReport, Verdict
from overlaysync.store.files import translate
from overlaysync.units import MIB

SLOWER = 10
"""Without KVM everything may take this much longer."""
UNPROBED_S = 30.0
"""Where no probe was given, a VM is watched for so long, or until it looks as if it had come up."""

_SPARE = 0.75
"""Part of the free memory that guests may have together."""


@dataclass(frozen=True, slots=True)
class BootRules:
    """How VMs are booted.

    Attributes:
        probes: when they are ready.
        limit_s: how long each may take, with KVM.
        memory_mib: what each gets.
        emulate: whether to do without KVM where there is one.
    """

    probes: Probes
    limit_s: float = 300.0
    memory_mib: int = 2048
    emulate: bool = False


@dataclass(slots=True)
class Booter:
    """Boots VMs, as many at a time as there is memory for.

    Attributes:
        rules: how.
        place: directory for what they write.
        clock: seconds since the start of the drill.
        kvm: whether the processor runs them.
        why_emulated: why not, where there seems to be KVM.
        qemu: version of QEMU.
        machines: the VMs booted, by name.
    """

    rules: BootRules
    place: Path
    clock: Callable[[], float]
    kvm: bool = False
    why_emulated: str = ""
    qemu: str = ""
    machines: dict[str, Machine] = field(default_factory=dict)
    _turn: asyncio.Semaphore = field(init=False)

    async def prepare(self) -> None:
        """Find out what can be booted here.

        Raises:
            NotFoundError: QEMU is not installed.
        """
        check_programs(("qemu-system-x86_64", "qemu-img"))
        self.place.mkdir(mode=0o700, exist_ok=True)
        self.qemu = await _output("qemu-system-x86_64", "--version")
        if not self.rules.emulate:
            self.kvm = await kvm_works(self.place / ".kvm")  # no VM has such a name
            if not self.kvm and os.path.exists("/dev/kvm"):
                self.why_emulated = "/dev/kvm is there, but this user cannot run a VM with it"
        self._turn = asyncio.Semaphore(_at_once(self.rules.memory_mib))

    async def boot(self, restored: Restored) -> BootReport:
        """Boot a VM, and wait until it is ready or given up; without KVM when that turns out not to work.

        Raises:
            OverlaysyncError: it cannot be started at all.
        """
        async with self._turn:
            with suppress(KvmFailedError):
                return await self._boot(restored)
            self.kvm, self.why_emulated = False, "KVM stopped a VM on this machine with an internal error"
            return await self._boot(restored)

    async def _boot(self, restored: Restored) -> BootReport:
        name = restored.plan.saving.vm.name
        directory = self.place / name
        probe = self.rules.probes.of(name)
        try:
            directory.mkdir(mode=0o700)
            self.machines[name] = machine = await self._machine(restored, directory, probe)
            async with vm_process(machine, directory) as vm:
                return await self._run(vm, Waiting(vm, name, probe))
        except OSError as error:
            raise translate(error, f"Cannot boot '{name}'") from error
        finally:  # the next ones need the room
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _run(self, vm: VmProcess, waiting: Waiting) -> BootReport:
        limit = self.rules.limit_s
        if waiting.probe.kind is ProbeKind.NONE:
            limit = min(limit, UNPROBED_S)
        limit *= SLOWER if vm.emulated else 1
        await vm.monitor.ask("cont")
        power_on = self.clock()
        verdict, evidence = await self._wait(vm, waiting, limit)
        now = self.clock()
        shot = await vm.screenshot()
        return BootReport(
            command=shlex.join(vm.command),
            probe=str(waiting.probe),
            verdict=verdict,
            evidence=evidence,
            limit_s=limit,
            power_on_s=power_on,
            ready_s=now if verdict == "passed" else None,
            took_s=now - power_on,
            attempts=waiting.attempts,
            console=vm.console.lines,
            screenshot=base64.b64encode(shot).decode(),
        )

    async def _wait(self, vm: VmProcess, waiting: Waiting, limit: float) -> tuple[Verdict, str]:
        """Return how the wait for a VM ended, and what shows it.

        Raises:
            KvmFailedError: only KVM has failed.
        """
        ready, failed = asyncio.create_task(waiting.ready()), asyncio.create_task(failure(vm))
        unprobed = waiting.probe.kind is ProbeKind.NONE
        try:
            done, _ = await asyncio.wait((ready, failed), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if failed in done:
                return "failed", _said(failed.result())
            if ready in done:
                with suppress(OverlaysyncError):
                    evidence = ready.result()
                    return ("not-tested" if unprobed else "passed"), evidence
                return "failed", _said(await failed)
            if unprobed:
                return "not-tested", f"it ran for {limit:.0f} s"
            return "timed-out", f"not ready {limit:.0f} s after power-on"
        finally:
            for task in (ready, failed):
                task.cancel()
            await asyncio.gather(ready, failed, return_exceptions=True)

    # -- its files -------------------------------------------------------------------------------------

    async def _machine(self, restored: Restored, directory: Path, probe: Probe) -> Machine:
        """Make the overlays and copies of a VM, and return it."""
        vm, plan = restored.plan.saving.vm, restored.plan
        files: dict[str, list[str]] = {}
        for companion in vm.companions:
            files.setdefault(companion.role, []).append(os.path.join(plan.directory, companion.file))
        disks = []
        for number, disk in enumerate(restored.tops):
            disks.append(f"disk{number}.qcow2")
            await _make_overlay(disk.known.path, disk.known.geometry.format.value, directory / disks[-1])
        firmware, format = "", "raw"
        for path in files.get("uefi", ())[:1]:
            firmware = _firmware(path, vm.name)
            format = "qcow2" if path.endswith(".qcow2") else "raw"
            shutil.copyfile(path, directory / VARS)
        for path in files.get("tpm", ())[:1]:
            check_programs(("swtpm",))
            (directory / TPM_STATE).parent.mkdir(mode=0o700)
            shutil.copyfile(path, directory / TPM_STATE)
        seeds = []
        for number, path in enumerate(files.get("seed", ())):
            seeds.append(Seed(f"seed{number}.img", path.endswith(".iso")))
            shutil.copyfile(path, directory / seeds[-1].file)
        return Machine(
            vm.name,
            tuple(disks),
            firmware,
            format,
            tuple(seeds),
            tpm=bool(files.get("tpm")),
            memory_mib=self.rules.memory_mib,
            kvm=self.kvm,
            ports=probe.ports,
            most_written=self._most_written(len(disks) + 1),
        )

    def _most_written(self, files: int) -> int:
        """Return what each of so many files may grow to, so that all VMs together leave half of the room."""
        at_once = _at_once(self.rules.memory_mib)
        return min(MOST_WRITTEN, shutil.disk_usage(self.place).free // (2 * at_once * files))


def _said(failure: NotReadyError) -> str:
    """Return how a VM failed; raise it where it was KVM that failed."""
    if isinstance(failure, KvmFailedError):
        raise failure
    return str(failure)


async def _make_overlay(below: str, format: str, path: Path) -> None:
    """Make an empty overlay for a VM to write to.

    Raises:
        OverlaysyncError: it cannot be made.
    """
    words = ("create", "-q", "-f", "qcow2", "-F", format, "-b", below, str(path))
    await _output("qemu-img", *words)


def _firmware(variables: str, vm: str) -> str:
    """Return the UEFI code that goes with variables.

    Raises:
        NotFoundError: it is not installed.
    """
    known = firmware_for(os.path.getsize(variables))
    for path in known:
        if os.path.exists(path):
            return path
    why = "it is not installed" if known else "its variables have a size that no known firmware has"
    raise NotFoundError(
        f"Cannot boot '{vm}' without its UEFI firmware", why=why, hint="sudo apt install ovmf"
    )


async def _output(*words: str) -> str:
    """Run a program to its end, and return the first line that it prints.

    Raises:
        OverlaysyncError: it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    first = output.decode(errors="replace").partition("\n")[0]
    if process.returncode:
        raise OverlaysyncError(f"{words[0]} failed", why=first, hint=f"try it: {shlex.join(words)}")
    return first


def _at_once(memory_mib: int) -> int:
    """Return how many VMs may run at a time: as free memory and processors allow, one at least."""
    free = 0
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(1, min(len(os.sched_getaffinity(0)), int(free * _SPARE / (memory_mib * MIB))))
