"""The line that starts a VM, by convention, safe in a shell whatever the names are."""

from __future__ import annotations

import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from overlaysync.ops.vms.find import find_vms
from overlaysync.ops.vms.start import start_line
from overlaysync.ops.vms.vm import Part, Vm
from overlaysync.vault.state import Companion, Disk, SavedVm
from tests.images import run
from tests.ops.lab import disk, tpm, variables


def vm(*files: str, name: str = "web") -> Vm:
    """A VM of such files; ROLE:FILE is a companion."""
    companions = [file.partition(":") for file in files if ":" in file]
    return Vm(
        name,
        "/x",
        tuple(Part(file, file, "disk", "") for file in files if ":" not in file),
        tuple(Part(file, file, role, "") for role, _, file in companions),
    )


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (["web.qcow2", "definition:lab.yaml", "uefi:web_OVMF_VARS.fd"], "lab-startup.py lab.yaml"),
        (["web.qcow2", "uefi:web.qcow2_OVMF_VARS.fd"], "ovs-startup.sh web.qcow2 MEMORY_MIB TAP_NUMBER"),
        (["web.qcow2", "definition:w.xml"], "virsh define w.xml && virsh start web"),
        (["disk.qcow2", "definition:debian.conf"], "quickemu --vm debian.conf"),
        (
            ["a.qcow2", "b.img", "definition:vm.toml"],
            "qemu-system-x86_64 -name web -machine q35,accel=kvm:tcg -m 2048 "
            "-drive format=qcow2,if=virtio,file=a.qcow2 -drive if=virtio,file=b.img",
        ),
    ],
)
def test_the_line_of_each_convention(files: list[str], line: str) -> None:
    assert start_line(vm(*files)) == line
    assert start_line(vm(*files), "/a b/$x") == f"cd '/a b/$x' && {line}"


def test_firmware_seed_and_tpm_are_attached() -> None:
    line = start_line(vm("a.raw", "uefi:OVMF_VARS.fd", "seed:s.iso", "tpm:tpm/tpm2-00.permall"))
    swtpm, qemu = line.split(" && ")
    assert shlex.split(swtpm)[:5] == ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=tpm"]
    words = shlex.split(qemu)
    assert "if=pflash,format=raw,file=OVMF_VARS.fd" in words
    assert words.index("format=raw,if=virtio,file=a.raw") > words.index(
        "if=pflash,format=raw,file=OVMF_VARS.fd"
    )
    assert "format=raw,readonly=on,media=cdrom,file=s.iso" in words
    assert words[words.index("-chardev") + 1] == "socket,id=chrtpm,path=tpm/swtpm-sock"


def test_a_saved_vm_has_a_line_as_well() -> None:
    saved = SavedVm(
        name="web",
        at="2026-11-29T12:00:00Z",
        disks=(Disk(file="web.qcow2", manifest="00" * 32),),
        companions=(Companion(file="lab.yaml", role="definition", size=0),),
    )
    assert start_line(saved) == "lab-startup.py lab.yaml"


def test_names_are_words_for_a_shell(tmp_path: Path) -> None:
    hostile = "x'; touch executed; $(touch executed) `touch executed`"
    for files in ((f"{hostile}.qcow2",), (f"{hostile}.raw", f"definition:{hostile}.xml"), ("-a,b.qcow2",)):
        line = start_line(vm(*files, name=hostile), str(tmp_path))
        tried = line.replace("qemu-system-x86_64", "printf '%s\\n'").replace("virsh", "printf '%s\\n'")
        said = run("sh", "-c", tried)
        assert not (tmp_path / "executed").exists()
        assert hostile in said
    assert "file=./-a,,b.qcow2" in said


@pytest.mark.qemu
def test_qemu_takes_the_line(tmp_path: Path) -> None:
    home = tmp_path / "router"
    home.mkdir()
    disk(home / "disk.qcow2")
    (home / "OVMF_VARS.fd").write_bytes(variables())
    (found,) = find_vms([str(home)])
    line = start_line(found, found.directory)
    assert "ovs-startup" not in line and "OVMF_VARS.fd" in line
    words = line.replace("accel=kvm:tcg", "accel=tcg").replace(
        "/usr/share/OVMF/OVMF_CODE_4M.fd", "OVMF_VARS.fd"
    )
    monitor = "-S -display none -monitor stdio -nodefaults"
    # Two of one file: the firmware itself may not be installed.
    tried = words.replace(
        "if=pflash,format=raw,file=OVMF_VARS.fd", "if=pflash,format=raw,readonly=on,file=OVMF_VARS.fd"
    )
    assert "virtio0" in run("sh", "-c", f"{tried} {monitor}", stdin="info block\nquit\n")
    tpm(home / "tpm")
    (found,) = find_vms([str(home)])
    assert "dir=tpm" in start_line(found)


@pytest.mark.parametrize("directory", ["/srv/vm", "/srv/it's a & b|c\\d $x"])
def test_a_restored_domain_names_the_files_that_were_restored(tmp_path: Path, directory: str) -> None:
    definition = tmp_path / "w.xml"
    definition.write_text(
        "<domain><os><loader type='pflash'>/usr/share/CODE.fd</loader>"
        "<nvram template='/usr/share/VARS.fd'>/var/there/w_VARS.fd</nvram></os><devices>\n"
        "<disk><source file='/var/there/web.qcow2'/></disk><disk><source file='/srv/s.iso'/></disk>\n"
        "</devices></domain>"
    )
    line = start_line(vm("web.qcow2", "definition:w.xml", "uefi:w_VARS.fd"), directory, moved=True)
    assert line.startswith(f"cd {shlex.quote(directory)} && ")
    assert line.endswith(" && virsh define w.xml && virsh start web")
    change = line.removeprefix(f"cd {shlex.quote(directory)} && ").removesuffix(
        " && virsh define w.xml && virsh start web"
    )
    run("sh", "-c", f"cd {shlex.quote(str(tmp_path))} && {change}")
    domain = ElementTree.fromstring(definition.read_text())
    named = [source.get("file") for source in domain.iter("source")]
    assert named == [f"{directory}/web.qcow2", "/srv/s.iso"]  # what was not restored stays where it is
    assert domain.findtext("os/nvram") == f"{directory}/w_VARS.fd"
    assert domain.findtext("os/loader") == "/usr/share/CODE.fd"


def test_other_definitions_are_left_alone_after_a_restore() -> None:
    assert (
        start_line(vm("a.qcow2", "definition:lab.yaml"), "/x", moved=True)
        == "cd /x && lab-startup.py lab.yaml"
    )
