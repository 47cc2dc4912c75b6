"""VMs in directories: disks with their companions, what they stand on, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.errors import (
    AmbiguousError,
    ImageError,
    NotFoundError,
    OverlaysyncError,
    UsageError,
)
from overlaysync.model.names import is_name
from overlaysync.ops.vms.find import find_vms, survey
from overlaysync.units import MIB
from overlaysync.vault.limits import MAX_FILES, is_inner_path
from tests.images import run
from tests.ops.lab import disk, files, left, listen, master, names, only, tpm, variables

pytestmark = pytest.mark.qemu

LAB = """\
kvm:
  vms:
    - vm_name: web
      os: linux
      master_image: debian.qcow2
      force_copy: {force}
      memory: 1024
      tapnum: 5
      devices:
        storage:
          - dev_name: second_disk.qcow2
            type: disk
            size: 32G
            bus: virtio
    - vm_name: client
      master_image: debian.qcow2
      force_copy: false
      tapnum: 6
"""


def test_the_files_of_an_inetdoc_vm(tmp_path: Path) -> None:
    base = master(tmp_path / "debian.qcow2")
    disk(tmp_path / "web.qcow2", base)
    disk(tmp_path / "second_disk.qcow2")
    (tmp_path / "lab.yaml").write_text(LAB.format(force="true"))
    (tmp_path / "web_OVMF_VARS.fd").write_bytes(variables())
    tpm(tmp_path / "web_TPM")
    (tmp_path / "web-seed.img").write_bytes(bytes(MIB))
    (tmp_path / "OVMF_CODE.fd").symlink_to("/usr/share/OVMF/OVMF_CODE_4M.fd")
    (tmp_path / "web.out").write_text("console")
    (tmp_path / "web.pid").write_text("12")
    (tmp_path / "nohup.out").touch()
    (tmp_path / "debian-13.iso").write_bytes(bytes(2048))
    listen(tmp_path / "web.qmp")

    found = survey([str(tmp_path)])
    (vm,) = found.vms
    assert (vm.name, vm.convention, vm.directory) == ("web", "inetdoc", str(tmp_path))
    assert files(vm) == {
        "web.qcow2": "disk",
        "second_disk.qcow2": "disk",
        "web_OVMF_VARS.fd": "uefi",
        "web_TPM/tpm2-00.permall": "tpm",
        "web-seed.img": "seed",
        "lab.yaml": "definition",
    }
    assert all(part.why and os.path.isfile(part.path) for part in vm.parts)
    reasons = left(vm)
    assert "socket" in reasons["web.qmp"] and "log" in reasons["web.out"] and "process" in reasons["web.pid"]
    assert "firmware" in reasons["OVMF_CODE.fd"] and "ISO" in reasons["debian-13.iso"]
    assert "only tpm2-00.permall" in reasons["web_TPM/tpm2-00.volatilestate"]
    assert "nohup.out" in reasons and "debian.qcow2" not in reasons
    assert ["force_copy" in warning for warning in vm.warnings] == [True]
    assert found.masters == (str(base),)
    assert [missed.path for missed in found.left_out] == [str(tmp_path / "client.qcow2")]


def test_companions_named_like_the_file_or_like_the_vm(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    disk(tmp_path / "db.qed")
    (tmp_path / "web.qcow2_OVMF_VARS.fd").write_bytes(b"by ovs-startup.sh")
    tpm(tmp_path / "web.qcow2_TPM")
    (tmp_path / "db_OVMF_VARS.fd").write_bytes(b"by lab-startup.py")
    db, web = find_vms([str(tmp_path)])
    assert files(web) == {
        "web.qcow2": "disk",
        "web.qcow2_OVMF_VARS.fd": "uefi",
        "web.qcow2_TPM/tpm2-00.permall": "tpm",
    }
    assert files(db) == {"db.qed": "disk", "db_OVMF_VARS.fd": "uefi"}
    assert {db.convention, web.convention} == {"inetdoc"}
    assert files(only(tmp_path / "web.qcow2")) == files(web)


def test_a_vm_without_companions_is_an_image(tmp_path: Path) -> None:
    image = disk(tmp_path / "web.raw")
    vm = only(image)
    assert (vm.name, vm.convention, files(vm)) == ("web", "image", {"web.raw": "disk"})
    assert not vm.left_out and not vm.warnings


def test_what_another_image_stands_on_is_a_master(tmp_path: Path) -> None:
    (tmp_path / "masters").mkdir()
    base = disk(tmp_path / "base.qcow2")
    (tmp_path / "link.qcow2").symlink_to(base)
    middle = disk(tmp_path / "middle.qcow2", tmp_path / "link.qcow2")
    disk(tmp_path / "vm.qed", Path("middle.qcow2"))
    alone = disk(tmp_path / "alone.qcow2")
    elsewhere = disk(tmp_path / "masters" / "far.qcow2")
    disk(tmp_path / "far-vm.qcow2", elsewhere)
    found = survey([str(tmp_path), str(tmp_path / "masters")])
    assert names(list(found.vms)) == ["alone", "far-vm", "vm"]
    assert set(found.masters) == {str(base), str(middle), str(elsewhere)}
    alone.chmod(0o444)
    assert names(find_vms([str(tmp_path)])) == ["far-vm", "vm"]


def test_a_read_only_overlay_is_a_vm_and_a_named_master_too(tmp_path: Path) -> None:
    base = master(tmp_path / "base.qcow2")
    disk(tmp_path / "vm.qcow2", base).chmod(0o444)
    assert names(find_vms([str(tmp_path)])) == ["vm"]
    assert names(find_vms([str(base)])) == ["base"]
    assert names(find_vms([str(tmp_path), str(base), str(tmp_path / "vm.qcow2")])) == ["base", "vm"]


def test_a_directory_of_one_vm(tmp_path: Path) -> None:
    home = tmp_path / "router"
    home.mkdir()
    for name in ("hda.qcow2", "hdb.qcow2"):
        disk(home / name)
    (home / "OVMF_VARS.fd").write_bytes(variables())
    (home / "OVMF_CODE_4M.fd").write_bytes(b"code")
    (home / "cidata.iso").write_bytes(bytes(4096))
    tpm(home / "tpm")
    vm = only(home)
    assert (vm.name, vm.convention) == ("router", "folder")
    assert files(vm) == {
        "hda.qcow2": "disk",
        "hdb.qcow2": "disk",
        "OVMF_VARS.fd": "uefi",
        "cidata.iso": "seed",
        "tpm/tpm2-00.permall": "tpm",
    }
    assert set(left(vm)) == {"OVMF_CODE_4M.fd", "tpm/tpm2-00.volatilestate"}
    assert "tpm" in files(only(home)).values()


def test_a_directory_of_directories(tmp_path: Path) -> None:
    base = disk(tmp_path / "base.qcow2")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        disk(tmp_path / name / "disk.qcow2", base)
    (tmp_path / "two" / "OVMF_VARS.fd").write_bytes(variables())
    (tmp_path / "empty").mkdir()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    disk(deep / "deep.qcow2")
    one, two = find_vms([str(tmp_path)])
    assert (one.name, two.name) == ("one", "two") and files(two)["OVMF_VARS.fd"] == "uefi"
    disk(tmp_path / "top.qcow2")
    assert names(find_vms([str(tmp_path)])) == ["top"]


def test_files_that_could_be_of_several_vms_are_nobodys(tmp_path: Path) -> None:
    disk(tmp_path / "one.qcow2")
    disk(tmp_path / "two.qcow2")
    (tmp_path / "OVMF_VARS.fd").write_bytes(variables())
    (tmp_path / "one-notes.txt").write_text("mine")
    found = survey([str(tmp_path)])
    one, two = found.vms
    assert "vm.toml" in left(one)["one-notes.txt"] and not two.left_out
    assert [(Path(item.path).name, "several VMs" in item.why) for item in found.left_out] == [
        ("OVMF_VARS.fd", True)
    ]


@pytest.mark.parametrize(
    ("name", "size", "cap"),
    [
        ("web_OVMF_VARS.fd", 64 * MIB, "uefi"),
        ("web_TPM/tpm2-00.permall", MIB, "tpm"),
        ("web-seed.img", 16 * MIB, "seed"),
    ],
)
def test_a_companion_over_its_cap_is_left_out(tmp_path: Path, name: str, size: int, cap: str) -> None:
    disk(tmp_path / "web.qcow2")
    (tmp_path / "web_TPM").mkdir()
    path = tmp_path / name
    path.touch()
    os.truncate(path, size)
    assert files(only(tmp_path)) == {"web.qcow2": "disk", name: cap}
    os.truncate(path, size + 1)
    vm = only(tmp_path)
    assert files(vm) == {"web.qcow2": "disk"}
    assert "at most" in left(vm)[name]


@pytest.mark.holds("D7")
@pytest.mark.red_without("D7", "a file that is found is opened like one that is named")
def test_links_are_not_followed(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    disk(home / "web.qcow2")
    (other / "web_TPM").mkdir(parents=True)
    (other / "web_TPM" / "tpm2-00.permall").write_bytes(b"other")
    secret = other / "secret"
    secret.write_bytes(b"secret")
    (home / "web_OVMF_VARS.fd").symlink_to(secret)
    (home / "web_TPM").symlink_to(other / "web_TPM")
    (home / "lab.yaml").symlink_to(secret)
    disk(other / "db.qcow2")
    (home / "db.qcow2").symlink_to(other / "db.qcow2")
    vm = only(home)
    assert files(vm) == {"web.qcow2": "disk"}
    assert set(left(vm)) >= {"web_OVMF_VARS.fd", "web_TPM/tpm2-00.permall", "db.qcow2"}
    assert "link" in left(vm)["web_OVMF_VARS.fd"] and "link" in left(vm)["web_TPM/tpm2-00.permall"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_other_users_are_left_out(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    theirs = disk(tmp_path / "theirs.qcow2")
    tpm(tmp_path / "web_TPM")
    for path in (theirs, tmp_path / "web_TPM" / "tpm2-00.permall"):
        os.chown(path, 12345, 12345)
    found = survey([str(tmp_path)])
    (vm,) = found.vms
    assert files(vm) == {"web.qcow2": "disk"}
    assert "user 12345" in left(vm)["web_TPM/tpm2-00.permall"]
    assert [(item.path, "user 12345" in item.why) for item in found.left_out] == [(str(theirs), True)]
    assert names(find_vms([str(theirs)])) == ["theirs"]


def test_what_cannot_be_opened_or_is_no_file_is_left_out(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    os.mkfifo(tmp_path / "web_OVMF_VARS.fd")
    (tmp_path / "web_TPM").write_text("a file where a directory is expected")
    (tmp_path / "web-seed.img").mkdir()
    (tmp_path / "broken.qcow2").write_bytes(b"QFI\xfb" + b"\xff" * 200)
    (tmp_path / "page.raw").write_text("<html>")
    found = survey([str(tmp_path)])
    (vm,) = found.vms
    reasons = left(vm)
    assert files(vm) == {"web.qcow2": "disk"}
    assert "FIFO" in reasons["web_OVMF_VARS.fd"] and "directory" in reasons["web-seed.img"]
    assert "on the way" in reasons["web_TPM/tpm2-00.permall"]
    assert {Path(item.path).name for item in found.left_out} == {"broken.qcow2", "page.raw"}
    with pytest.raises(ImageError):
        find_vms([str(tmp_path / "broken.qcow2")])


def test_hostile_names_become_names(tmp_path: Path) -> None:
    for name in ("-rf.qcow2", "a b\n$(reboot).qcow2", ".hidden.qcow2", "é" * 100 + ".qcow2"):
        disk(tmp_path / name)
    (tmp_path / "a b\n$(reboot)_OVMF_VARS.fd").write_bytes(b"v")
    (tmp_path / "a b\n$(reboot).log").touch()
    os.rename(disk(tmp_path / "plain.qcow2"), os.fsencode(tmp_path) + b"/\xff\xfe.qcow2")
    found = find_vms([str(tmp_path)])
    assert len(found) == 4
    assert all(is_name(vm.name) and is_name(part.file) for vm in found for part in vm.disks)
    assert all(is_inner_path(part.file) for vm in found for part in vm.companions)
    assert all("is called" in vm.warnings[0] for vm in found)
    assert all(part.file.endswith(".qcow2") for vm in found for part in vm.disks)


def test_two_vms_of_one_name_are_told_apart_by_a_vm_toml(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    disk(tmp_path / "web.raw")
    with pytest.raises(AmbiguousError, match="'web'") as caught:
        find_vms([str(tmp_path)])
    assert len(caught.value.candidates) == 2
    run("sh", "-c", caught.value.hint.partition(": ")[2])
    assert names(find_vms([str(tmp_path)])) == ["NAME", "web"]
    disk(tmp_path / "web.qed")
    with pytest.raises(AmbiguousError) as caught:
        find_vms([str(tmp_path)])
    run("sh", "-c", caught.value.hint.partition(": ")[2].replace("NAME", "third"))
    assert names(find_vms([str(tmp_path)])) == ["NAME", "third", "web"]


def test_two_names_of_one_file_are_refused(tmp_path: Path) -> None:
    os.link(disk(tmp_path / "one.qcow2"), tmp_path / "two.qcow2")
    with pytest.raises(AmbiguousError, match="two VMs"):
        find_vms([str(tmp_path)])


def test_two_vms_of_a_lab_that_share_a_disk_are_refused(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    disk(tmp_path / "client.qcow2")
    disk(tmp_path / "shared.qcow2")
    storage = "devices: {storage: [{dev_name: shared.qcow2}]}"
    entries = "".join(f"  - {{vm_name: {name}, {storage}}}\n" for name in ("web", "client"))
    (tmp_path / "lab.yaml").write_text("kvm:\n vms:\n" + entries)
    with pytest.raises(AmbiguousError, match=r"shared.qcow2 belongs to two VMs, 'web' and 'client'"):
        find_vms([str(tmp_path)])


@pytest.mark.holds("D7")
@pytest.mark.red_without("D7", "a lab may name files outside its directory")
@pytest.mark.parametrize(
    ("lab", "said"),
    [
        ("kvm: {vms: [", "flow"),
        ("kvm: {vms: [{vm_name: ../../etc/passwd}]}", "beside it"),
        ("kvm: {vms: [{vm_name: web, devices: {storage: [{dev_name: /etc/shadow}]}}]}", "beside it"),
        ("[" * 5000, "expected|depth|recursion"),
        ("a: &a [*a]", "recursive"),
        ("#" * 300_000, "at most"),
    ],
)
def test_a_lab_that_cannot_be_read_is_refused(tmp_path: Path, lab: str, said: str) -> None:
    disk(tmp_path / "web.qcow2")
    path = tmp_path / "lab.yaml"
    path.write_text(lab)
    for place in (path, tmp_path):
        with pytest.raises(UsageError, match=f"(?is)as a lab.*({said})") as caught:
            find_vms([str(place)])
        assert caught.value.hint


@pytest.mark.holds("D7")
@pytest.mark.red_without("D7", "YAML is read with a loader that makes objects")
def test_a_lab_makes_no_objects_and_does_not_grow(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    marker = tmp_path / "executed"
    levels = "".join(
        f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}\n" if n else "l0: &l0 {force_copy: 'true'}\n"
        for n in range(12)
    )
    (tmp_path / "lab.yaml").write_text(
        f"x: !!python/object/apply:os.mknod [{marker}]\n{levels}"
        "common: &common {force_copy: yes, master_image: debian.qcow2}\n"
        "kvm: {vms: [{vm_name: web, <<: *common}, {vm_name: none, <<: *l11}, {vm_name: [no]}, 7]}\n"
    )
    vm = only(tmp_path)
    assert vm.name == "web" and "force_copy" in vm.warnings[0]
    assert not marker.exists()


def test_a_lab_that_is_named_has_to_list_vms(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    path = tmp_path / "lab.yaml"
    path.write_text("ovs: {switches: []}")
    assert names(find_vms([str(tmp_path)])) == ["web"]
    with pytest.raises(UsageError, match="lists no VM"):
        find_vms([str(path)])
    path.write_text("kvm: {vms: [{vm_name: client}]}")
    with pytest.raises(NotFoundError, match="no disk here yet"):
        find_vms([str(path)])


def test_a_named_lab_gives_its_own_vms_only(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    disk(tmp_path / "other.qcow2")
    exam = tmp_path / "exam.yaml"
    exam.write_text("kvm: {vms: [{vm_name: web, master_image: m.qcow2, force_copy: false}]}")
    vm = only(exam)
    assert files(vm) == {"web.qcow2": "disk", "exam.yaml": "definition"} and not vm.warnings
    assert names(find_vms([str(exam), str(tmp_path)])) == ["other", "web"]


def test_where_no_vm_is(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no image is there"):
        find_vms([str(tmp_path)])
    master(tmp_path / "base.qcow2")
    with pytest.raises(NotFoundError, match="only masters"):
        find_vms([str(tmp_path)])
    for name in ("gone.qcow2", "gone/lab.yaml", "gone.xml"):
        with pytest.raises(OverlaysyncError) as caught:
            find_vms([str(tmp_path / name)])
        assert isinstance(caught.value, NotFoundError) and caught.value.hint


def test_what_is_left_out_is_no_longer_than_a_state_can_tell(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    for number in range(2 * MAX_FILES):
        (tmp_path / f"web.{number}.log").touch()
    vm = only(tmp_path)
    assert len(vm.left_out) == MAX_FILES and f"{MAX_FILES + 1} more" in vm.left_out[-1].why
