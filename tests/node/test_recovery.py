"""Save and restore, as the commands do it: real images, several vaults, damage, and what is in the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from overlaysync.errors import (
    AmbiguousError,
    InUseError,
    NotFoundError,
    OverlaysyncError,
    PeerError,
    VerificationError,
    WouldDestroyError,
)
from overlaysync.node.node import Node
from overlaysync.node.restore_plan import to_pull
from overlaysync.node.saving import Save
from overlaysync.ops.recovery.choosing import Wish
from overlaysync.ops.recovery.cleaning import clean
from overlaysync.ops.recovery.gathering import gather
from overlaysync.ops.recovery.lock import only_writer
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.tips import newest_of_vms
from overlaysync.ops.vms.find import survey
from overlaysync.ops.vms.vm import Vm
from overlaysync.units import CHUNK, KIB, MIB
from overlaysync.vault.spaces import PUBLIC
from tests import images
from tests.e2e.disks import noise
from tests.e2e.nodes import until
from tests.formats.test_locks import opened_by_qemu
from tests.node.observers import Heard
from tests.node.vaults import Outcome, member, objects, place, restore, save, vault, vm
from tests.ops.test_pulling import Faulty

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.holds("D1")]

SIZE = 8 * MIB


def write(path: Path, text: str, size: int, *, offset: int = 0) -> None:
    """Put bytes that do not compress where a guest would."""
    file = path.with_suffix(".noise")
    file.write_bytes(noise(text, size))
    images.run("qemu-io", "-f", images.format_of(path), "-c", f"write -q -s {file} {offset} {size}", path)
    file.unlink()


@pytest.fixture
def master(tmp_path: Path) -> Path:
    """A master for everybody."""
    path = images.create(mkdir(tmp_path / "images") / "debian.qcow2", SIZE)
    write(path, "master", 2 * MIB)
    return path


def mkdir(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture
def disk(master: Path) -> Path:
    path = images.create(master.with_name("router.qcow2"), backing=master)
    write(path, "overlay", MIB, offset=3 * MIB)
    return path


def publish(node: Node, path: Path) -> None:
    """Make it everybody's."""
    known = node.library.examine(path, now=1000.0)
    node.publisher.publish(known, team="", created="2026-01-31T12:00:00Z")


def only(outcome: Outcome) -> Path:
    """The one disk that came back."""
    assert not outcome.refusals and not outcome.missing, (outcome.refusals, outcome.missing)
    (restored,) = outcome.restored
    return Path(restored.plan.disks[0].path)


# -- saving ------------------------------------------------------------------------------------------


def test_a_second_save_stores_what_has_changed(ann: Node, disk: Path) -> None:
    first = save(ann, vm("router", disk))
    write(disk, "newer", 128 * KIB, offset=6 * MIB)
    second = save(ann, vm("router", disk))
    third = save(ann, vm("router", disk))
    assert first.stored > 3 * MIB and first.read == 3 * MIB
    assert second.read == 128 * KIB and 128 * KIB < second.stored < 192 * KIB
    assert third.read == 0 and third.stored < 8 * KIB
    assert [one.state.state.number for one in (first, second, third)] == [1, 2, 3]
    assert third.state.state.follows == (second.state.id.hex(),)


def test_masters_lie_apart_from_what_stands_on_them(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    """Who has the master pulls only the layer."""
    save(ann, vm("router", disk))
    mkdir(tmp_path / "bob")
    shutil.copy(disk.with_name("debian.qcow2"), tmp_path / "bob")
    outcome = restore(bob, tmp_path / "bob", place(ann))
    assert images.same_content(only(outcome), disk)
    assert MIB < to_pull(outcome.plans[:1]) < MIB + 128 * KIB


def test_what_is_everybodys_goes_into_the_public_space(ann: Node, master: Path, disk: Path) -> None:
    publish(ann, master)
    saved = save(ann, vm("router", disk))
    state = saved.state.state
    assert state.public_packs and state.public_indexes and state.packs
    public = sum(one.size for one in objects(ann).list(f"{PUBLIC.tag}/"))
    assert 2 * MIB < public < 2 * MIB + 64 * KIB


def test_a_vm_that_runs_is_refused_and_nothing_is_stored(ann: Node, disk: Path) -> None:
    with opened_by_qemu(disk, read_only=False):
        with pytest.raises(InUseError):
            save(ann, vm("router", disk))
    assert list(objects(ann).list("")) == []
    assert [path.name for path in ann.home.vault.iterdir()] == [".lock"]
    with only_writer(ann.home.vault), pytest.raises(InUseError, match="Another command"):
        save(ann, vm("router", disk))


@pytest.mark.holds("N9")
@pytest.mark.red_without("D5", "what goes into a vault is not compared with its digest")
def test_a_master_that_changes_while_it_is_saved(ann: Node, disk: Path, master: Path) -> None:
    """Its digests were known; the file is another by the time it is read."""
    known = ann.library.examine(disk, now=1000.0)
    status = master.stat()
    data = bytearray(master.read_bytes())
    data[-1] ^= 1
    real = ann.publisher.publish_lineage

    def changed(*args, **more):
        found = real(*args, **more)
        master.write_bytes(data)
        os.utime(master, ns=(status.st_atime_ns, status.st_mtime_ns))
        return found

    object.__setattr__(ann.publisher, "publish_lineage", changed)
    with pytest.raises(OverlaysyncError):
        save(ann, vm("router", disk))
    assert vault(ann).states() == [] and known.content.is_layer


def test_a_companion_that_is_no_file_is_refused(ann: Node, disk: Path, tmp_path: Path) -> None:
    with pytest.raises(OverlaysyncError):
        save(ann, vm("router", disk, companions=[(tmp_path, "vars.fd")]))
    assert vault(ann).states() == []


# -- restoring ---------------------------------------------------------------------------------------


def test_it_comes_back_with_its_masters_and_companions(
    ann: Node, bob: Node, master: Path, disk: Path, tmp_path: Path
) -> None:
    """On a machine that has nothing: chain of three, from the vault of a peer."""
    top = images.create(disk.with_name("top.qed"), backing=disk)
    write(top, "top", 64 * KIB, offset=7 * MIB)
    variables = tmp_path / "vars"
    variables.write_bytes(noise("vars", CHUNK + 1))
    expected = images.content(top)
    save(ann, vm("router", top, companions=[(variables, "nvram/vars.fd")]))
    for path in (top, disk, master):
        path.unlink()
    outcome = restore(bob, tmp_path / "to", place(ann))
    assert images.content(only(outcome)) == expected
    assert (tmp_path / "to" / "nvram" / "vars.fd").read_bytes() == variables.read_bytes()
    assert len(outcome.plans[0].disks[0].steps) == 3
    again = restore(bob, tmp_path / "to", place(ann))
    assert images.content(only(again)) == expected, "what is there and the same stays"
    assert to_pull(again.plans) == 0


def test_restored_from_its_own_vault(ann: Node, master: Path, disk: Path, tmp_path: Path) -> None:
    save(ann, vm("router", disk))
    expected = images.content(disk)
    write(disk, "later", 64 * KIB)
    save(ann, vm("router", disk))
    wish = Wish("red", number=1)
    assert images.content(only(restore(ann, tmp_path / "to", wish=wish))) == expected
    assert images.same_content(only(restore(ann, tmp_path / "newest")), disk)


def test_vms_of_different_states_and_files_of_one_name(ann: Node, tmp_path: Path) -> None:
    disks = {}
    for name in ("web", "db"):
        disks[name] = images.create(mkdir(tmp_path / name) / "disk.qcow2", MIB)
        images.draw(disks[name], name.upper()[0])
        save(ann, vm(name, disks[name]))
    outcome = restore(ann, tmp_path / "to")
    assert len(outcome.restored) == 2 and not outcome.refusals
    for name, path in disks.items():
        assert images.same_content(tmp_path / "to" / name / "disk.qcow2", path)
    alone = restore(ann, tmp_path / "alone", wish=Wish("red", vms=("web",)))
    assert only(alone) == tmp_path / "alone" / "disk.qcow2"


def test_two_that_saved_the_same_vm(ann: Node, bob: Node, tmp_path: Path) -> None:
    for node, byte in ((ann, "A"), (bob, "B")):
        disk = images.create(mkdir(tmp_path / byte) / "vm.qcow2", MIB)
        images.draw(disk, byte)
        save(node, vm("vm", disk))
    outcome = restore(ann, tmp_path / "to", place(bob))
    (refusal,) = outcome.refusals
    assert isinstance(refusal.error, AmbiguousError) and outcome.restored == []
    (theirs,) = (state for state in outcome.gathered.states if state.node == bob.key.public)
    chosen = restore(ann, tmp_path / "to", place(bob), wish=Wish("red", id=theirs.id.hex()[:8]))
    assert images.same_content(only(chosen), tmp_path / "B" / "vm.qcow2")


def test_what_is_saved_after_a_restore_goes_on_from_there(
    ann: Node, bob: Node, disk: Path, tmp_path: Path
) -> None:
    first = save(ann, vm("router", disk)).state
    mine = only(restore(bob, tmp_path / "first", place(ann)))
    write(mine, "after the disaster", 64 * KIB, offset=6 * MIB)
    second = save(bob, vm("router", mine))
    assert not second.beside
    assert (second.state.state.number, second.state.state.follows) == (2, (first.id.hex(),))
    outcome = restore(ann, tmp_path / "second", place(bob))
    assert only(outcome).exists()
    assert outcome.plans[0].saving.state.id == second.state.id


@pytest.mark.red_without("D1", "a VM that is saved continues all that is known of it")
def test_what_another_saved_meanwhile_is_not_hidden(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    """Bob's machine knows of it, as that of everybody does who keeps the team."""
    save(ann, vm("router", disk))
    mine = only(restore(bob, tmp_path / "first", place(ann)))
    write(disk, "of ann", 64 * KIB, offset=6 * MIB)
    hers = save(ann, vm("router", disk)).state
    restore(bob, tmp_path / "known", place(ann))
    write(mine, "of bob", 64 * KIB, offset=7 * MIB)
    saved = save(bob, vm("router", mine))
    assert [one.state.id for one in saved.beside] == [hers.id]
    (refusal,) = restore(ann, tmp_path / "fork", place(bob)).refusals
    assert isinstance(refusal.error, AmbiguousError)
    settled = Save(bob, bob.teams["red"], Heard(), settle=True).run([vm("router", mine)])
    assert not settled.beside
    assert not restore(ann, tmp_path / "settled", place(bob)).refusals


@pytest.mark.holds("D3")
@pytest.mark.red_without("D3", "an index is believed to say that its packs are here")
@pytest.mark.red_without("D1", "a state is read from packs that it does not list, too")
def test_a_save_after_a_restore_of_a_part_is_whole(
    ann: Node, bob: Node, master: Path, disk: Path, tmp_path: Path
) -> None:
    """Bob has the master, so the restore pulls the index of everything and the packs of the layer alone."""
    save(ann, vm("router", disk))
    mine = mkdir(tmp_path / "bob")
    shutil.copy(master, mine)
    back = only(restore(bob, mine, place(ann)))
    write(back, "bob's", 64 * KIB, offset=5 * MIB)
    expected = images.content(back)
    save(bob, vm("router", back))
    head = vault(bob).heads()[bob.key.public]
    assert [name for name in head.head.names(PUBLIC.tag) if objects(bob).size(name) is None] == []
    with member(tmp_path / "c", "carol") as carol:
        assert images.content(only(restore(carol, tmp_path / "carol", place(bob)))) == expected


# -- places ------------------------------------------------------------------------------------------


def everything(node: Node) -> dict[str, bytes]:
    return {one.name: objects(node).get(one.name) for one in objects(node).list("")}


@pytest.mark.holds("D6")
@pytest.mark.red_without("D6", "what is pulled is not compared with its name")
@pytest.mark.red_without("D6", "what one place gave wrong is not asked of the next one")
def test_one_place_lies_one_is_cut_off_and_one_has_a_part(
    ann: Node, bob: Node, disk: Path, tmp_path: Path
) -> None:
    save(ann, vm("router", disk))
    stored = everything(ann)
    packs = [name for name in stored if "/packs/" in name]
    liar = Place("liar", Faulty(stored, wrong=packs))
    cut = Place("cut", Faulty(stored, error=PeerError("cut off"), good=4))
    part = Place("part", Faulty({name: data for name, data in stored.items() if name != packs[0]}))
    outcome = restore(bob, tmp_path / "to", liar, cut, part, place(ann, near=3))
    assert images.same_content(only(outcome), disk)
    assert set(liar.wrong) <= set(packs)


@dataclass
class Patient(Faulty):
    """A place that gives a whole pack only when a file is there, which takes another pack.

    Attributes:
        late: the name of the pack.
        file: the file.
    """

    late: str = ""
    file: Path = Path()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name == self.late and (length or MIB) >= MIB:
            until(self.file.exists, what="the master")
        return super().get(name, offset, length)


@pytest.mark.red_without("D1", "packs are used when all of them are here")
def test_a_pack_is_used_before_the_last_one_has_come(
    ann: Node, bob: Node, disk: Path, tmp_path: Path
) -> None:
    """The pack of the overlay comes when the master is restored."""
    save(ann, vm("router", disk))
    stored = everything(ann)
    peer = Patient(stored)
    (peer.late,) = (name for name in stored if "/packs/" in name and MIB < len(stored[name]) < 2 * MIB)
    peer.file = tmp_path / "to" / "debian.qcow2"
    outcome = restore(bob, tmp_path / "to", Place("patient", peer))
    assert images.same_content(only(outcome), disk)
    assert len(outcome.plans[0].packs) == 2 and outcome.plans[0].packs[1] == peer.late


def test_when_a_pack_is_nowhere_the_vm_is_refused(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    save(ann, vm("router", disk))
    for stored in list(objects(ann).list("")):
        if "/packs/" in stored.name and stored.size > MIB:
            objects(ann).delete(stored.name)
    outcome = restore(bob, tmp_path / "to", place(ann))
    assert [refusal.name for refusal in outcome.refusals] == ["router"] and not outcome.restored
    assert not (tmp_path / "to" / "router.qcow2").exists()


@pytest.mark.holds("R6")
@pytest.mark.red_without("R6", "a pull takes whatever has the name for the object")
def test_a_rotten_vault_is_mended_by_another(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    save(ann, vm("router", disk))
    only(restore(bob, tmp_path / "first", place(ann)))
    for stored in list(objects(bob).list("")):
        path = bob.home.vault / stored.name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    outcome = restore(bob, tmp_path / "second", place(ann))
    assert images.same_content(only(outcome), disk)


def test_the_head_of_the_restoring_node_is_its_own(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    """A restore adds no head: what it pulled may be a part."""
    save(ann, vm("router", disk))
    restore(bob, tmp_path / "to", place(ann))
    assert vault(bob).heads() == {}


# -- what is in the way --------------------------------------------------------------------------------


@pytest.mark.holds("R5")
def test_what_is_in_the_way_is_left_alone(ann: Node, disk: Path, tmp_path: Path) -> None:
    variables = tmp_path / "vars"
    variables.write_bytes(b"saved")
    save(ann, vm("router", disk, companions=[(variables, "vars.fd")]))
    before = images.content(disk)
    write(disk, "later", 64 * KIB)
    later = disk.read_bytes()
    with pytest.raises(WouldDestroyError):
        restore(ann, disk.parent)
    assert disk.read_bytes() == later
    to = mkdir(tmp_path / "to")
    (to / "vars.fd").write_bytes(b"mine")
    with pytest.raises(WouldDestroyError):
        restore(ann, to)
    assert (to / "vars.fd").read_bytes() == b"mine"
    assert images.content(only(restore(ann, tmp_path / "empty"))) == before


# -- whom it is for ------------------------------------------------------------------------------------


@pytest.mark.holds("D2")
def test_a_team_of_the_same_name_made_anew_reads_nothing(ann: Node, disk: Path, tmp_path: Path) -> None:
    save(ann, vm("router", disk))
    stored = everything(ann)
    other = replace(ann.teams["red"], key=bytes(20))
    with member(tmp_path / "x", "xavier", other) as xavier:
        with pytest.raises(NotFoundError):
            restore(xavier, tmp_path / "to", place(ann))
    plain = (b"router", b"debian", b"ann", noise("overlay", MIB)[:32], noise("master", MIB)[:32])
    for name, data in stored.items():
        assert not [word for word in plain if word in data and word != b"ann"], name


@pytest.mark.holds("N1")
@pytest.mark.red_without("N1", "a unit from a vault is not compared with its digest")
def test_an_index_of_a_member_that_lies(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    """Every unit of the disk is in its vault, with other bytes: nothing of it gets into the image."""
    save(ann, vm("router", disk))
    contents = vault(ann).contents
    contents.learn()
    real = type(contents).record

    def wrong(self, pack, place):
        data = real(self, pack, place)
        return bytes(reversed(data)) if len(data) >= 128 * KIB else data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(contents), "record", wrong)
        with pytest.raises(OverlaysyncError):
            only(restore(bob, tmp_path / "to", place(ann)))
    assert not (tmp_path / "to" / "router.qcow2").exists()
    assert images.same_content(only(restore(bob, tmp_path / "to", place(ann))), disk)


# -- killed --------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from overlaysync.node.node import Node
from overlaysync.vault.directory import DirectoryObjects
from tests.node.observers import Heard
from tests.node.vaults import save, vm
left, real = int(sys.argv[3]), DirectoryObjects.put
def put(self, name, data):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, name, data)
DirectoryObjects.put = put
node = Node.open({"OVERLAYSYNC_HOME": sys.argv[1], "OVERLAYSYNC_USER": "ann"})
save(node, vm("router", Path(sys.argv[2])))
"""


@pytest.mark.holds("D3")
@pytest.mark.holds("R3")
@pytest.mark.parametrize("after", range(5))
def test_a_save_that_is_killed_leaves_the_last_state_and_goes_on(
    ann: Node, bob: Node, disk: Path, tmp_path: Path, after: int
) -> None:
    """Killed before each of its objects is stored: pack, index, state, head."""
    save(ann, vm("router", disk))
    first = images.content(disk)
    write(disk, "newer", 64 * KIB, offset=6 * MIB)
    variables = [sys.executable, "-c", _KILLED, str(ann.home.root), str(disk), str(after)]
    done = subprocess.run(
        variables, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True
    )
    if done.returncode == 0:
        assert after == 4, "fewer objects than this were stored"
        return
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(vault(ann).states()) == 1
    for head in vault(ann).heads().values():
        assert all(objects(ann).size(name) is not None for name in head.head.names(PUBLIC.tag))
    assert images.content(only(restore(bob, tmp_path / "to", place(ann)))) == first
    again = save(ann, vm("router", disk))
    assert again.state.state.number == 2
    assert after < 2 or again.stored < 16 * KIB, "what was stored is not stored again"
    assert images.same_content(only(restore(bob, tmp_path / "again", place(ann))), disk)


# -- disks in directories of their own -------------------------------------------------------------------


def in_directory(root: Path, master: Path) -> Path:
    """A VM of quickemu: its definition, and the directory of its disk and variables."""
    (root / "web").mkdir(parents=True)
    disk = images.create(root / "web" / "disk.qcow2", backing=master)
    write(disk, "overlay", MIB, offset=3 * MIB)
    (root / "web" / "OVMF_VARS.fd").write_bytes(b"\0" * 540_672)
    (root / "web.conf").write_text('disk_img="web/disk.qcow2"\n')
    return disk


def test_a_disk_comes_back_where_its_definition_expects_it(
    ann: Node, bob: Node, master: Path, tmp_path: Path
) -> None:
    disk = in_directory(tmp_path / "vms", master)
    (found,) = survey([str(tmp_path / "vms")]).vms
    save(ann, found)
    back = mkdir(tmp_path / "back")
    path = only(restore(bob, back, place(ann)))
    assert path == back / "web" / "disk.qcow2" and images.same_content(path, disk)
    assert (back / "debian.qcow2").exists(), "its master lies where masters go"
    (again,) = survey([str(back / "web.conf")]).vms
    assert [part.file for part in again.parts] == [part.file for part in found.parts]


@pytest.mark.red_without("N10", "restore a disk through a link below the directory that was chosen")
def test_no_disk_is_restored_through_a_link(ann: Node, bob: Node, master: Path, tmp_path: Path) -> None:
    in_directory(tmp_path / "vms", master)
    save(ann, *survey([str(tmp_path / "vms")]).vms)
    back, elsewhere = mkdir(tmp_path / "back"), mkdir(tmp_path / "elsewhere")
    (back / "web").symlink_to(elsewhere)
    with pytest.raises(WouldDestroyError, match="is a link"):
        restore(bob, back, place(ann))
    assert list(elsewhere.iterdir()) == []


# -- companions alone ----------------------------------------------------------------------------------


def with_uefi(disk: Path, content: bytes) -> Vm:
    """The VM of a disk, with variables that hold this."""
    path = disk.with_name("web.qcow2_OVMF_VARS.fd")
    path.write_bytes(content)
    return vm("web", disk, companions=[(path, path.name)])


def known_to(node: Node, *others: Node) -> None:
    """The node learns what the others have saved."""
    gather(vault(node), [place(other) for other in others])


def test_two_that_changed_nothing_but_companions_are_a_fork(ann: Node, bob: Node, tmp_path: Path) -> None:
    disk = images.create(mkdir(tmp_path / "a") / "web.qcow2", SIZE)
    save(ann, with_uefi(disk, b"first"))
    theirs = only(restore(bob, tmp_path / "b", place(ann)))
    assert not save(bob, with_uefi(theirs, b"bob's")).beside, "it was restored from that"
    known_to(ann, bob)
    (side,) = save(ann, with_uefi(disk, b"ann's")).beside
    assert side.state.node == bob.key.public
    with member(tmp_path / "c", "carl") as carl:
        (refusal,) = restore(carl, tmp_path / "c", place(ann), place(bob)).refusals
        assert isinstance(refusal.error, AmbiguousError)
        wish = Wish("red", id=side.state.id.hex()[:8])
        mine = only(restore(carl, tmp_path / "c", place(ann), place(bob), wish=wish))
        write(mine, "more", 64 * KIB)
        (ours,) = save(carl, with_uefi(mine, b"carl's")).beside
        assert ours.state.node == ann.key.public, "what was restored is continued"


def test_variables_that_lead_to_another_file_are_not_restored(ann: Node, bob: Node, tmp_path: Path) -> None:
    """QEMU would write to the data file that a header names, as soon as the VM is booted."""
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(64 * KIB))
    hostile = mkdir(tmp_path / "a") / "hostile"
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={victim}", str(hostile), "64K")
    disk = images.create(tmp_path / "a" / "web.qcow2", SIZE)
    save(ann, with_uefi(disk, hostile.read_bytes()))
    with pytest.raises(VerificationError, match="other files of this machine"):
        restore(bob, tmp_path / "b", place(ann))
    assert not (tmp_path / "b" / "web.qcow2_OVMF_VARS.fd").exists()


# -- weeks later ---------------------------------------------------------------------------------------


@pytest.mark.red_without("A1", "a cleaning removes the states that VMs here were restored from")
def test_a_vm_that_was_restored_goes_on_weeks_later(ann: Node, bob: Node, disk: Path, tmp_path: Path) -> None:
    """Its state is of another machine, and in no list of this one: a cleaning takes it for garbage."""
    save(ann, vm("router", disk))
    write(disk, "newer", 64 * KIB, offset=6 * MIB)
    first = save(ann, vm("router", disk))
    back = only(restore(bob, tmp_path / "bob", place(ann)))
    for day in (0.0, 15.0):
        cleaned = clean(objects(bob), now=day * 86400)
    assert cleaned.freed > 3 * MIB, "its data are here, as a disk"
    write(back, "more", 64 * KIB, offset=7 * MIB)
    second = save(bob, vm("router", back))
    assert not second.beside and second.state.state.number == 3
    known_to(ann, bob)
    newest = newest_of_vms([*vault(ann).states(), second.state])
    assert [one.state.id for one in newest["router"]] == [second.state.id], "and this is no fork"
    assert first.state.id != second.state.id


def test_disks_that_are_called_alike_are_published_under_the_names_of_their_vms(
    ann: Node, tmp_path: Path
) -> None:
    """They would be taken for two sides of a fork."""
    found = []
    for name in ("db", "web"):
        for file in ("disk.qcow2", "hdb.qcow2"):
            path = images.create(mkdir(mkdir(tmp_path / "vms") / name) / file, SIZE)
            write(path, f"{name} {file}", 64 * KIB)
            found.append(path)
    vms = survey([str(tmp_path / "vms")]).vms
    assert [one.name for one in vms] == ["db", "web"]
    for _ in range(2):
        save(ann, *vms)
        write(found[0], "newer", 64 * KIB)
    names = {path: ann.catalog.held.at(str(path)) for path in found}
    assert [held.name for held in names.values() if held] == ["db", "db-hdb", "web", "web-hdb"]
    assert [row.version for row in ann.versions("red", "db")] == [2, 1]
