"""VMs of a drill do not fill the disk: what each may write is bounded, and goes when it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlaysync.errors import OverlaysyncError
from overlaysync.node import booting
from overlaysync.node.booting import Booter, BootRules
from overlaysync.node.readiness import KvmFailedError, failure
from overlaysync.node.vm_process import VmProcess, vm_process
from overlaysync.ops.drill.machine import Machine
from overlaysync.ops.drill.probes import NO_PROBE, Probes
from overlaysync.units import MIB
from tests.images import run

pytestmark = [pytest.mark.qemu, pytest.mark.drill]


async def test_a_guest_cannot_write_without_end(tmp_path: Path) -> None:
    """It gets an error, as of a disk that fails."""
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk0.qcow2", "64M")
    machine = Machine("web", ("disk0.qcow2",), memory_mib=64, most_written=16 * MIB)
    async with vm_process(machine, tmp_path) as vm:
        await vm.monitor.tell('qemu-io virtio0 "write 0 4M"')
        await vm.monitor.tell('qemu-io virtio0 "write 4M 32M"')
        assert vm.running
    assert (tmp_path / "disk0.qcow2").stat().st_size >= 4 * MIB
    assert (tmp_path / "disk0.qcow2").stat().st_size <= 16 * MIB


def restored(tmp_path: Path, name: str, *companions: tuple[str, str]) -> Any:
    """A VM with an empty disk."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    known = SimpleNamespace(path=str(disk), geometry=SimpleNamespace(format=SimpleNamespace(value="raw")))
    parts = tuple(SimpleNamespace(role=role, file=file) for role, file in companions)
    plan = SimpleNamespace(
        saving=SimpleNamespace(vm=SimpleNamespace(name=name, companions=parts)), directory=str(tmp_path)
    )
    return SimpleNamespace(plan=plan, tops=[SimpleNamespace(known=known)])


@pytest.fixture
def booter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Booter:
    monkeypatch.setattr(booting, "UNPROBED_S", 0.05)
    rules = BootRules(Probes(NO_PROBE, {}), memory_mib=64, emulate=True)
    return Booter(rules, tmp_path / "boot", lambda: 0.0)


async def test_what_a_vm_wrote_goes_with_it(tmp_path: Path, booter: Booter) -> None:
    await booter.prepare()
    assert (await booter.boot(restored(tmp_path, "web"))).verdict == "not-tested"
    assert list((tmp_path / "boot").iterdir()) == []
    assert 0 < booter.machines["web"].most_written <= 8 * 1024 * MIB


@pytest.mark.parametrize("name", ["probe", "boot", "disk0.qcow2", "vars.fd"])
async def test_a_vm_may_have_any_name(
    tmp_path: Path, booter: Booter, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also one that has to do with how it is booted."""
    booter.rules = replace(booter.rules, emulate=False)
    monkeypatch.setattr(booting, "SLOWER", 1)
    await booter.prepare()
    assert (await booter.boot(restored(tmp_path, name))).verdict == "not-tested"


@pytest.mark.parametrize(
    ("state", "is_kvms", "words"),
    [("internal-error", True, "internal error"), ("io-error", False, "its disk")],
)
async def test_a_vm_that_is_stopped_for_good_has_failed(state: str, is_kvms: bool, words: str) -> None:
    class Monitor:
        events: tuple[str, ...] = ()

        async def ask(self, command: str) -> dict[str, str]:
            assert command == "query-status"
            return {"status": state}

    class Vm:
        monitor = Monitor()

        async def ended(self) -> int:
            return await asyncio.Future()

    said = await failure(cast(VmProcess, Vm()))
    assert isinstance(said, KvmFailedError) == is_kvms and words in str(said)


async def test_a_vm_that_kvm_stops_boots_without_kvm(
    tmp_path: Path, booter: Booter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As inside a virtual machine whose KVM begins to run a guest, and then gives up."""

    @asynccontextmanager
    async def stopped_by_kvm(machine: Machine, directory: Path) -> AsyncIterator[VmProcess]:
        async with vm_process(replace(machine, kvm=False), directory) as vm:
            if machine.kvm:
                raise KvmFailedError("stopped")
            yield vm

    monkeypatch.setattr(booting, "vm_process", stopped_by_kvm)
    monkeypatch.setattr(booting, "SLOWER", 1)
    await booter.prepare()
    booter.kvm = True
    assert (await booter.boot(restored(tmp_path, "web"))).verdict == "not-tested"
    assert not booter.kvm and "internal error" in booter.why_emulated
    assert not booter.machines["web"].kvm


async def test_a_file_that_cannot_be_copied_fails_the_vm_alone(tmp_path: Path, booter: Booter) -> None:
    await booter.prepare()
    with pytest.raises(OverlaysyncError, match="Cannot boot 'web'"):
        await booter.boot(restored(tmp_path, "web", ("seed", "missing.iso")))
    assert list((tmp_path / "boot").iterdir()) == []
