"""Published images in an archive: pushed one by one, and fetched when no machine within reach has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import KIB, MIB
from overlaysync.vault.objects import Kind
from tests.e2e import disks
from tests.e2e.nodes import NOT_VERIFIED, USAGE, Lab, Node
from tests.e2e.test_companions import vm

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.holds("D1")]

ALONE = ("--peer", "127.0.0.1:9", "--wait", "0")
"""Nobody answers there."""


@pytest.fixture
def usb(tmp_path: Path) -> Path:
    disk = tmp_path / "usb"
    disk.mkdir()
    return disk


def add(usb: Path, *nodes: Node) -> None:
    for node in nodes:
        node.json("archive", "add", "usb", f"file://{usb}")


def publish(node: Node, *arguments: object) -> None:
    """Share something for a moment, so that it has a publisher."""
    node.share(*arguments).stop()


def sources(fetched: dict[str, Any]) -> set[str]:
    return set(fetched["sources"])


def test_a_vm_of_a_team_comes_from_an_archive_with_all_that_belongs_to_it(lab: Lab, usb: Path) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team, name = lab.team("red", alice, bob), lab.name("web")
    file = vm(alice, name)
    add(usb, alice, bob)
    error = alice.fails(USAGE, "archive", "push", alice.place / file)
    assert "was never published" in error["what"]
    publish(alice, alice.place / file, "--team", team)
    pushed = alice.json("archive", "push", f"{team}/{name}")
    assert (pushed["name"], pushed["version"]) == (name, 1)
    assert pushed["stored"] > 2 * MIB + 64 * KIB, "with its master"
    assert alice.json("archive", "push", f"{team}/{name}")["stored"] == 0
    assert alice.json("archive", "check", "usb", "--read")["damaged"] == []
    base, overlay = bob.fetch(f"{team}/{name}", *ALONE)
    assert sources(base) == sources(overlay) == {"archive usb"}
    assert disks.identical(bob.place / file, alice.place / file)
    for companion in (f"{file}_OVMF_VARS.fd", f"{file}_TPM/tpm2-00.permall", f"{name}.conf"):
        assert (bob.place / companion).read_bytes() == (alice.place / companion).read_bytes()

    disks.write(alice.place / file, MIB, disks.noise("more", 64 * KIB))
    publish(alice, alice.place / file, "--team", team)
    second = alice.json("archive", "push", f"{team}/{name}")
    assert second["version"] == 2 and 64 * KIB < second["stored"] < 80 * KIB
    (newer,) = bob.fetch(f"{team}/{name}", "--replace", *ALONE)
    assert newer["version"] == 2
    # Nor does it need a network.
    bob.fetch(f"{team}/{name}:1", "--as", "first", "--wait", "0")


def test_a_machine_within_reach_is_nearer_than_an_archive(lab: Lab, usb: Path) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("debian")
    master = disks.make_master(alice.place / f"{name}.qcow2", size=2 * MIB)
    add(usb, alice, bob)
    share = alice.share(master)
    alice.json("archive", "push", name)
    (fetched,) = bob.fetch(name, "--peer", share.peer)
    assert "archive usb" not in sources(fetched)
    share.stop()
    carol = lab.node("carol")
    add(usb, carol)
    (fetched,) = carol.fetch(name, *ALONE)
    assert sources(fetched) == {"archive usb"}
    assert disks.identical(carol.place / f"{name}.qcow2", master)


def test_what_a_team_has_saved_can_be_fetched_too(lab: Lab, usb: Path) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team, name = lab.team("red", alice, bob), lab.name("web")
    file = vm(alice, name)
    (alice.place / f"{name}.conf").unlink()  # it says nothing of the disk, and so is not saved
    add(usb, alice, bob)
    alice.json("save", "--team", team, alice.place)
    alice.json("archive", "push", team)
    *_, overlay = bob.fetch(f"{team}/{name}", *ALONE)
    assert sources(overlay) == {"archive usb"}
    assert disks.identical(bob.place / file, alice.place / file)
    uefi = f"{file}_OVMF_VARS.fd"
    assert (bob.place / uefi).read_bytes() == (alice.place / uefi).read_bytes()


def test_what_has_rotted_in_an_archive_is_not_taken(lab: Lab, usb: Path) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("debian")
    master = disks.make_master(alice.place / f"{name}.qcow2", size=2 * MIB)
    add(usb, alice, bob)
    share = alice.share(master)
    alice.json("archive", "push", name)
    share.stop()
    pack = max(usb.glob(f"*/{Kind.PACK}/*"), key=lambda path: path.stat().st_size)
    rotten = bytearray(pack.read_bytes())
    rotten[len(rotten) // 2] ^= 1
    pack.write_bytes(rotten)
    error = bob.fails(NOT_VERIFIED, "fetch", name, *ALONE)
    assert error["hint"] == "overlaysync archive check --read usb"
    assert not bob.files()
    share = alice.share(master)
    (fetched,) = bob.fetch(name, "--peer", share.peer)
    assert disks.identical(bob.place / f"{name}.qcow2", master) and fetched["resumed"] > MIB


def test_an_archive_that_is_not_there_is_said(lab: Lab, usb: Path) -> None:
    alice = lab.node("alice")
    add(usb, alice)
    shutil.rmtree(usb)
    result = alice.run("fetch", lab.name("debian"), *ALONE)
    assert "archive usb cannot be used" in result.stderr and "connect the disk" not in result.stdout
