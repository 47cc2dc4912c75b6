"""An image is shared and fetched with the small files that its VM needs beside it."""

from __future__ import annotations

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, NETWORK, Lab, Node, until

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


def vm(node: Node, name: str) -> str:
    """Make an overlay with UEFI variables, a TPM, a seed and a definition beside it; returns its file."""
    base = disks.make_master(node.place / f"{name}-base.qcow2", size=2 * MIB)
    base.chmod(0o444)
    file = f"{name}.qcow2"
    disks.make_overlay(node.place / file, base, (0, 64 * KIB))
    (node.place / f"{file}_OVMF_VARS.fd").write_bytes(disks.noise("uefi", 528 * KIB))
    (node.place / f"{file}_TPM").mkdir()
    (node.place / f"{file}_TPM" / "tpm2-00.permall").write_bytes(b"keys of a TPM")
    (node.place / f"{file}_TPM" / "swtpm.pid").write_text("1\n")
    (node.place / f"{name}-seed.img").write_bytes(disks.noise("seed", 4 * KIB))
    (node.place / f"{name}.conf").write_text('guest_os="linux"\n')
    return file


def test_a_team_gets_all_that_belongs_to_a_vm(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team, name = lab.team("red", alice, bob), lab.name("web")
    file = vm(alice, name)
    share = alice.share(alice.place / file, "--team", team)
    bob.fetch(f"{team}/{name}", "--peer", share.peer)
    for companion in (
        f"{file}_OVMF_VARS.fd",
        f"{file}_TPM/tpm2-00.permall",
        f"{name}-seed.img",
        f"{name}.conf",
    ):
        assert (bob.place / companion).read_bytes() == (alice.place / companion).read_bytes()
    assert not (bob.place / f"{file}_TPM" / "swtpm.pid").exists()
    # It is the same version that Bob passes on, and the files are named after the image.
    carol = lab.node("carol")
    lab_team = carol.home / "teams"
    lab_team.mkdir(mode=0o700)
    (lab_team / f"{team}.team").write_bytes((bob.home / "teams" / f"{team}.team").read_bytes())
    (lab_team / f"{team}.team").chmod(0o600)
    share.stop()
    passed_on = bob.share(bob.place / file)
    carol.fetch(f"{team}/{name}", "--as", "mine", "--peer", passed_on.peer)
    assert (carol.place / "mine.qcow2_OVMF_VARS.fd").read_bytes() == disks.noise("uefi", 528 * KIB)
    (image,) = (carol.json("show", carol.place / "mine.qcow2"),)
    assert image["version"] == 1


def test_what_is_secret_is_for_no_stranger(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("web")
    file = vm(alice, name)
    share = alice.share(alice.place / file)
    bob.fetch(name, "--peer", share.peer)
    assert (bob.place / f"{file}_OVMF_VARS.fd").exists() and (bob.place / f"{name}.conf").exists()
    assert not (bob.place / f"{file}_TPM").exists() and not (bob.place / f"{name}-seed.img").exists()


def test_variables_that_change_are_another_version_and_work_on_them_stays(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team, name = lab.team("red", alice, bob), lab.name("web")
    file = vm(alice, name)
    share = alice.share(alice.place / file, "--team", team)
    bob.fetch(f"{team}/{name}", "--peer", share.peer)
    variables = f"{file}_OVMF_VARS.fd"
    (alice.place / variables).write_bytes(disks.noise("uefi 2", 528 * KIB))
    until(lambda: f"{name}:2" in share.stderr, what="version 2")
    bob.fetch(f"{team}/{name}", "--replace", "--peer", share.peer)
    assert (bob.place / variables).read_bytes() == disks.noise("uefi 2", 528 * KIB)

    (bob.place / variables).write_bytes(b"written by Bob's VM")
    (alice.place / variables).write_bytes(disks.noise("uefi 3", 528 * KIB))
    until(lambda: f"{name}:3" in share.stderr, what="version 3")
    result = bob.run("fetch", f"{team}/{name}", "--replace", "--peer", share.peer)
    assert result.code == DONE and "is left as it is" in result.stderr
    assert (bob.place / variables).read_bytes() == b"written by Bob's VM"


def test_a_directory_with_a_slash_is_shown_unless_a_team_has_its_name(lab: Lab) -> None:
    ann = lab.node("ann")
    team = lab.team("red", ann)
    for name in ("vm", team):
        (ann.place / name).mkdir()
        disks.make_master(ann.place / name / "web.raw", size=64 * KIB)
    assert ann.json("show", "vm/")["vms"]
    ann.fails(NETWORK, "show", f"{team}/", "--wait", "0", "--peer", "127.0.0.1:1")
