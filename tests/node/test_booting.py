"""VMs of a drill do not fill the disk: what each may write is bounded, and goes when it has ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from overlaysync.node import booting
from overlaysync.node.booting import Booter, BootRules
from overlaysync.node.vm_process import vm_process
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


async def test_what_a_vm_wrote_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booting, "UNPROBED_S", 0.05)
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    known = SimpleNamespace(path=str(disk), geometry=SimpleNamespace(format=SimpleNamespace(value="raw")))
    vm = SimpleNamespace(name="web", companions=())
    plan = SimpleNamespace(saving=SimpleNamespace(vm=vm), directory=str(tmp_path))
    restored: Any = SimpleNamespace(plan=plan, tops=[SimpleNamespace(known=known)])
    rules = BootRules(Probes(NO_PROBE, {}), memory_mib=64, emulate=True)
    booter = Booter(rules, tmp_path / "boot", lambda: 0.0)
    await booter.prepare()
    assert (await booter.boot(restored)).verdict == "not-tested"
    assert list((tmp_path / "boot").iterdir()) == []
    assert 0 < booter.machines[0].most_written <= 8 * 1024 * MIB
