"""A team with three VMs on machines of their own: for tests that lose one and bring its VMs back."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node
from tests.e2e.room import Host, Room

UEFI = "web.qcow2_OVMF_VARS.fd"
COMPANIONS = (UEFI, "lab.yaml")
DISKS = ("web.qcow2", "db.qcow2", "db-data.qcow2", "mail.qed")

_LAB = """\
kvm:
  vms:
    - vm_name: web
      force_copy: true
    - vm_name: db
      devices:
        storage:
          - dev_name: db-data.qcow2
    - vm_name: mail
"""


@dataclass(slots=True)
class Machine:
    """A host with a node."""

    host: Host
    node: Node

    def run(self, script: str) -> None:
        """Run a shell script on the host."""
        subprocess.run([*self.host.prefix, "sh", "-c", script], check=True, timeout=30)


def machines(lab: Lab, room: Room, words: str) -> dict[str, Machine]:
    """Nodes on the hosts of a room, each on a kernel of its own as far as anybody can tell."""
    found = {}
    for host, word in zip(room.hosts, words.split(), strict=True):
        machine = Machine(host, lab.node(word, prefix=host.prefix))
        boot = machine.node.base / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        machine.run(f"mount --bind {shlex.quote(str(boot))} /proc/sys/kernel/random/boot_id")
        found[word] = machine
    return found


def make_vms(node: Node) -> None:
    """Make three VMs on two masters: one with UEFI variables, one with a data disk that has subclusters."""
    place = node.place
    first = disks.make_master(place / "debian.qcow2", size=16 * MIB, data=4 * MIB)
    second = disks.make_master(place / "router.qcow2", size=8 * MIB, data=2 * MIB)
    disks.make_overlay(place / "web.qcow2", first, (MIB, 300 * KIB))
    disks.make_overlay(place / "db.qcow2", first, (0, 64 * KIB), (9 * MIB, 128 * KIB))
    disks.make_overlay(place / "mail.qed", second, (2 * MIB, 200 * KIB))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", place / "db-data.qcow2", "8M"],
        check=True,
    )
    disks.write(place / "db-data.qcow2", 3 * MIB + 4096, disks.noise("data", 12 * KIB))
    (place / UEFI).write_bytes(disks.noise("uefi", 528 * KIB))
    (place / "lab.yaml").write_text(_LAB)
    (place / "web.out").write_text("a log that nobody needs\n")


def work(node: Node, seed: str) -> None:
    """What a day in the lab writes: to each VM, and to the variables of one."""
    place = node.place
    disks.write(place / "web.qcow2", 5 * MIB, disks.noise(f"web {seed}", 96 * KIB))
    disks.write(place / "db.qcow2", 64 * KIB, disks.noise(f"db {seed}", 64 * KIB))
    disks.write(place / "db-data.qcow2", 6 * MIB, disks.noise(f"data {seed}", 4 * KIB))
    disks.write(place / "mail.qed", 128 * KIB, disks.noise(f"mail {seed}", 32 * KIB))
    (place / UEFI).write_bytes(disks.noise(f"uefi {seed}", 528 * KIB))


def flat_copies(node: Node, into: Path) -> None:
    """Copy what guests see, and the companions, to compare with later."""
    into.mkdir(parents=True)
    for name in DISKS:
        subprocess.run(
            ["qemu-img", "convert", "-O", "raw", node.place / name, into / f"{name}.raw"], check=True
        )
    for name in COMPANIONS:
        (into / name).write_bytes((node.place / name).read_bytes())


def same_as(copies: Path, restored: Path) -> bool:
    """Whether guests see in the restored disks what they saw then, and the companions are the same bytes."""
    for name in DISKS:
        compared = subprocess.run(
            ["qemu-img", "compare", "-q", copies / f"{name}.raw", restored / name], check=False
        )
        if compared.returncode:
            return False
    return all((copies / name).read_bytes() == (restored / name).read_bytes() for name in COMPANIONS)
