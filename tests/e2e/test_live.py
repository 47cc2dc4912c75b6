"""Running VMs are saved: real guests that write all the time, and a QEMU that must not be harmed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlaysync.formats.locks import in_use_for_writing
from overlaysync.units import KIB, MIB
from tests.e2e.nodes import DONE, IN_USE, INTERRUPTED, USAGE, Lab, Node, until
from tests.guest import Guest, counted, make_disks
from tests.live.vms import QMP, bare
from tests.qmp import Qmp, left_in

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.slow]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest that counts on a qcow2 and a QED overlay."""
    directory = tmp_path_factory.mktemp("vm")
    with Guest.boot(directory, make_disks(directory, "a.qcow2", "b.qed"), *QMP) as made:
        made.ask("start", "start")
        yield made


@pytest.fixture
def node(lab: Lab) -> Node:
    made = lab.node("ann")
    lab.team("red", made)
    return made


def in_use(disk: Path) -> bool:
    with disk.open("rb") as file:
        return in_use_for_writing(file.fileno())


@contextmanager
def half_written(disk: Path) -> Iterator[None]:
    """Let a qcow2 image look damaged, as one may that QEMU writes to at this moment."""
    with disk.open("r+b", buffering=0) as file:
        file.seek(40)
        kept = file.read(8)  # where its table is
        os.pwrite(file.fileno(), b"\xff" * 8, 40)
        yield
        os.pwrite(file.fileno(), kept, 40)


def grown(guest: Guest, beyond: int) -> int:
    """The guest's number, as soon as it is beyond another."""
    while (number := guest.counter()) <= beyond:
        pass
    return number


def counts_of(node: Node, saved: dict[str, Any], *names: str) -> list[int]:
    """What the guest had written to disks when a state was saved: restores them, and looks."""
    target = node.base / f"restored-{saved['state']}"
    node.json("restore", f"{saved['team']}:{saved['state']}", "--to", target)
    return [counted(target / name, node.base) for name in names]


def is_one_moment(counts: list[int]) -> bool:
    """Whether the disks show one moment: the guest writes each number to one after the other."""
    return all(counts[0] - 1 <= count <= counts[0] for count in counts) and counts == sorted(counts)[::-1]


def test_a_state_of_a_running_vm_is_one_moment(guest: Guest, node: Node) -> None:
    grown(guest, 20)
    first: dict[str, Any] = node.json("save", guest.directory)
    before = grown(guest, guest.counter() + 10)
    saved: dict[str, Any] = node.json("save", guest.directory)
    after = guest.counter()
    assert {vm["consistency"] for vm in saved["vms"]} == {"crash"}
    assert saved["stored"] < first["stored"] / 4, "what has changed, and no more"
    counts = counts_of(node, saved, "a.qcow2", "b.qed")
    assert is_one_moment(counts) and before <= counts[0] <= after + 1
    grown(guest, after)
    assert left_in(guest.directory / "qmp") == []


def test_a_running_vm_is_shared_as_it_is_at_one_moment(guest: Guest, node: Node, lab: Lab) -> None:
    disk, pupil = guest.directory / "a.qcow2", lab.node("ben")
    error = node.fails(IN_USE, "share", disk)
    assert error["hint"].endswith(f"overlaysync share --live {disk}")
    for version in (1, 2):
        before = grown(guest, guest.counter() + 5)
        share = node.share(disk, "--live")
        after = guest.counter()
        (captured,) = share.document()["captured"]
        assert captured["path"] == str(disk) and captured["consistency"] == "crash"
        assert 0 < captured["size"] < disk.stat().st_blocks * 512 + 4 * MIB, "no room is held for nothing"
        assert left_in(guest.directory / "qmp") == []
        grown(guest, after + 10)
        again = ["--replace"] if version == 2 else []
        fetched = pupil.fetch("a", "--peer", share.peer, *again)
        assert fetched[-1]["version"] == version
        assert before <= counted(pupil.place / "a.qcow2", node.base) <= after + 1
        assert share.stop().code == INTERRUPTED
    assert not list(node.home.glob("**/.frozen-*"))
    assert in_use(disk) and grown(guest, after)


def test_a_vm_without_a_monitor_says_what_to_add(node: Node) -> None:
    (disk,) = make_disks(node.place, "plain.qcow2")
    with bare(node.place, [disk], "-serial", "none"):
        until(lambda: in_use(disk), what="QEMU has opened its disk")
        error = node.fails(IN_USE, "save", disk)
        assert f"-qmp unix:{node.place}/plain.qmp,server=on,wait=off" in error["hint"]
        assert "--when-off" in error["hint"]
        error = node.fails(IN_USE, "share", "--live", disk)
        assert f"-qmp unix:{node.place}/plain.qmp,server=on,wait=off" in error["hint"]
        with half_written(disk):
            node.fails(IN_USE, "share", disk)
        waiting = node.start("save", disk, "--when-off", "--json")
        until(lambda: "waiting until the VM is shut down: plain" in waiting.stderr, what="word of the wait")
        assert waiting.running
    result = waiting.wait()
    assert result.code == DONE, result.stderr
    assert result.document["vms"][0]["consistency"] == "off"


def test_a_vm_that_takes_no_locks_is_captured_all_the_same(node: Node) -> None:
    (disk,) = make_disks(node.place, "loose.qcow2")
    drive = f"file.filename={disk},file.driver=file,file.locking=off,if=none,id=d,format=qcow2"
    with bare(node.place, [], *QMP, "-drive", drive, "-device", "virtio-blk,drive=d"):
        Qmp(node.place / "qmp").close()
        assert not in_use(disk)
        assert node.json("save", disk)["vms"][0]["consistency"] == "crash"


def test_variables_of_the_firmware_are_captured_with_the_disks(node: Node) -> None:
    """QEMU has them open: they are copied by it, and are never read beside it."""
    (disk,) = make_disks(node.place, "uefi.qcow2")
    variables = node.place / "uefi.qcow2_OVMF_VARS.fd"
    variables.write_bytes(os.urandom(528 * KIB))
    firmware = node.place.parent / "code"
    firmware.write_bytes(bytes(512 * KIB))
    pflash = [f"if=pflash,format=raw,readonly=on,file={firmware}", f"if=pflash,format=raw,file={variables}"]
    with bare(node.place, [disk], *QMP, *(word for one in pflash for word in ("-drive", one))):
        Qmp(node.place / "qmp").close()
        saved = node.json("save", disk)
    (vm,) = saved["vms"]
    assert vm["consistency"] == "crash" and [one["role"] for one in vm["companions"]] == ["uefi"]
    target = node.base / "back"
    node.json("restore", saved["team"], "--to", target)
    assert (target / variables.name).read_bytes() == variables.read_bytes()


def test_two_vms_are_captured_together(node: Node) -> None:
    places = [node.place / name for name in ("one", "two")]
    with ExitStack() as stack:
        for place in places:
            place.mkdir()
            stack.enter_context(bare(place, make_disks(place, f"{place.name}.qcow2")))
        saved = node.json("save", *places)
    assert {vm["name"] for vm in saved["vms"]} == {"one", "two"}
    assert {vm["consistency"] for vm in saved["vms"]} == {"crash"}
    assert 0 < saved["skew_s"] < 1


def test_a_running_vm_is_saved_again_and_again(node: Node) -> None:
    """While ``keep`` runs; the state that is there makes it due after the interval, which a test shortens."""
    place = node.place / "web"
    place.mkdir()
    with bare(place, make_disks(place, "web.qcow2")):
        team = node.json("save", place)["team"]
        assert node.json("keep", team, "--live", "15m", "--once")["keeps"]["teams"][team]["live_s"] == 900
        settings = node.home / "keeping.json"
        settings.write_text(settings.read_text().replace("900", "1"))
        keep = node.start("keep", team)
        until(lambda: "Saved" in keep.stderr + keep.stdout, within_s=60, what="a second state")
        assert keep.stop().code == INTERRUPTED
        assert left_in(place / "qmp") == []
    assert node.fails(USAGE, "keep", team, "--live", "5")["hint"]
