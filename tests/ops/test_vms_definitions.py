"""VMs that a definition describes: libvirt's XML, quickemu's .conf, vm.toml. All of them are text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.errors import AmbiguousError, ImageError, NotAllowedError, NotFoundError, UsageError
from overlaysync.ops.vms import libvirt
from overlaysync.ops.vms.find import find_vms, survey
from overlaysync.ops.vms.quickemu import read_conf
from overlaysync.units import MIB
from tests.ops.lab import disk, files, left, listen, master, names, only, tpm, variables

pytestmark = [pytest.mark.qemu, pytest.mark.holds("D7")]

UUID = "6b1c6d5e-0f0a-4f6b-9a51-0123456789ab"
DOMAIN = """\
<domain type='kvm'>
  <name>web</name>
  <uuid>{uuid}</uuid>
  <os firmware='efi'>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{nvram}</nvram>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    {more}
  </devices>
</domain>
"""
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the libvirt of a user's session keeps things."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(libvirt, "SYSTEM", str(tmp_path / "system"))
    return tmp_path / "config" / "libvirt"


def domain(path: Path, disk: Path | str, *, nvram: Path | str = "", more: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(DOMAIN.format(uuid=UUID, disk=disk, nvram=nvram, more=more))
    return path


# -- libvirt -----------------------------------------------------------------------------------------


def test_the_files_of_a_libvirt_domain(tmp_path: Path, config: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    web, data = disk(pool / "web.qcow2", disk(pool / "base.qcow2")), disk(pool / "data.raw")
    nvram = config / "qemu" / "nvram" / "web_VARS.fd"
    nvram.parent.mkdir(parents=True)
    nvram.write_bytes(variables())
    state = tpm(config / "qemu" / "swtpm" / UUID / "tpm2")
    seed, iso = pool / "seed.iso", pool / "debian.iso"
    seed.write_bytes(bytes(32769) + b"CD001" + bytes(2048))
    iso.touch()
    os.truncate(iso, 300 * MIB)
    drives = "".join(
        f"<disk type='file' device='cdrom'><source file='{path}'/><target dev='sd{letter}'/></disk>"
        for path, letter in ((seed, "a"), (iso, "b"))
    )
    more = (
        f"<disk type='file'><source file='{data}'/><target dev='vdb'/></disk>{drives}{TPM}"
        "<disk type='network' device='disk'><source protocol='rbd' name='x'/><target dev='vdc'/></disk>"
        "<disk type='file' device='cdrom'><target dev='sdc'/></disk>"
    )
    xml = domain(tmp_path / "xml" / "web.xml", web, nvram=nvram, more=more)
    vm = only(xml)
    assert (vm.name, vm.convention, vm.directory) == ("web", "libvirt", str(xml.parent))
    assert files(vm) == {
        "web.qcow2": "disk",
        "data.raw": "disk",
        "web.xml": "definition",
        "seed.iso": "seed",
        "web_VARS.fd": "uefi",
        f"{UUID}/tpm2/tpm2-00.permall": "tpm",
    }
    assert {part.path for part in vm.parts} >= {str(web), str(nvram), str(state)}
    assert "CDs" in left(vm)["../pool/debian.iso"]
    assert [("vdc" in warning and "network" in warning) for warning in vm.warnings] == [True]
    assert names(find_vms([str(pool), str(xml)])) == ["web"]


def test_the_default_places_of_a_domain(tmp_path: Path, config: Path) -> None:
    web = disk(tmp_path / "web.qcow2")
    nvram = config / "qemu" / "nvram" / "web_VARS.fd"
    nvram.parent.mkdir(parents=True)
    nvram.write_bytes(variables())
    assert files(only(domain(tmp_path / "web.xml", web)))["web_VARS.fd"] == "uefi"


def test_what_is_not_where_the_xml_says_is_taken_from_beside_it(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    (tmp_path / "web_VARS.fd").write_bytes(variables())
    state = tpm(tmp_path / UUID / "tpm2")
    xml = domain(tmp_path / "web.xml", "/nowhere/web.qcow2", nvram="/nowhere/web_VARS.fd", more=TPM)
    vm = only(xml)
    assert {"web.qcow2", "web_VARS.fd", f"{UUID}/tpm2/tpm2-00.permall"} <= files(vm).keys()
    state.unlink()
    (tmp_path / "web_VARS.fd").unlink()
    vm = only(xml)
    assert set(files(vm)) == {"web.qcow2", "web.xml"}
    assert any("TPM" in missed.why for missed in vm.left_out)
    assert any("UEFI" in missed.why for missed in vm.left_out)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_tpm_state_of_another_user_is_left_out(tmp_path: Path, config: Path) -> None:
    state = tpm(config / "qemu" / "swtpm" / UUID / "tpm2")
    for path in (state, state.parent):
        os.chown(path, 12345, 12345)
    vm = only(domain(tmp_path / "web.xml", disk(tmp_path / "web.qcow2"), more=TPM))
    assert set(files(vm)) == {"web.qcow2", "web.xml"}
    (why,) = [missed.why for missed in vm.left_out if missed.path == str(state)]
    assert "user 12345" in why
    theirs = tpm(tmp_path / "system" / "swtpm" / UUID / "tpm2")
    os.chown(theirs, 12345, 12345)
    os.chown(state, 0, 0)
    os.chown(state.parent, 0, 0)
    vm = only(tmp_path / "web.xml")
    assert str(state) in {part.path for part in vm.companions}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_disk_of_another_user_has_to_be_named(tmp_path: Path) -> None:
    web = disk(tmp_path / "web.qcow2")
    os.chown(web, 12345, 12345)
    xml = domain(tmp_path / "web.xml", web)
    with pytest.raises(NotAllowedError) as caught:
        find_vms([str(xml)])
    assert str(web) in caught.value.hint
    (vm,) = find_vms([str(xml), str(web)])
    assert set(files(vm)) == {"web.qcow2", "web.xml"}


@pytest.mark.red_without("D7", "what XML names is taken whatever it begins like")
def test_xml_cannot_make_other_files_travel(tmp_path: Path) -> None:
    secret, key = tmp_path / "secret", tmp_path / "id.img"
    secret.write_text("secret\n")
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    web = disk(tmp_path / "web.qcow2")
    drive = f"<disk type='file' device='cdrom'><source file='{key}'/><target dev='sda'/></disk>"
    vm = only(domain(tmp_path / "web.xml", web, nvram=secret, more=drive))
    assert set(files(vm)) == {"web.qcow2", "web.xml"}
    assert all("begin like" in left(vm)[name] for name in ("secret", "id.img"))
    with pytest.raises(ImageError, match="secret"):
        find_vms([str(domain(tmp_path / "evil.xml", secret))])
    (tmp_path / "link.qcow2").symlink_to(web)
    with pytest.raises(ImageError, match="symlink"):
        find_vms([str(domain(tmp_path / "evil.xml", tmp_path / "link.qcow2"))])


@pytest.mark.red_without("D7", "XML may declare entities")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
            '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><domain><name>&c;</name></domain>',
            "entities",
        ),
        (
            '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>',
            "entities",
        ),
        ('<!DOCTYPE d SYSTEM "http://localhost/d.dtd"><domain><name>x</name></domain>', "document type"),
        ("<domain><name>web</domain>", "mismatched"),
        ("<network><name>web</name></network>", "domain"),
        ("<domain></domain>", "name"),
        ("\0\xff", "syntax"),
        ('<?xml version="1.0" encoding="no-such"?><domain/>', "encoding"),
        ("<a>" * 100_000, "element"),
        ("<domain>" + "x" * 2 * MIB, "MiB"),
    ],
)
def test_xml_that_is_no_domain_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "web.xml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=said) as caught:
        find_vms([str(path)])
    assert caught.value.hint


def test_masters_that_the_xml_of_a_running_domain_names_are_told(tmp_path: Path) -> None:
    xml = domain(tmp_path / "web.xml", disk(tmp_path / "w.raw"))
    assert not any("masters" in warning for warning in only(xml).warnings)
    chain = "<backingStore type='file'><source file='/x/base.qcow2'/><backingStore/></backingStore>"
    xml.write_text(xml.read_text().replace("</disk>", f"{chain}</disk>"))
    assert "virsh dumpxml --inactive web" in only(xml).warnings[0]


def test_a_domain_without_a_file_is_refused_and_passwords_are_told(tmp_path: Path) -> None:
    more = "<graphics type='vnc' passwd='secret'/>"
    xml = domain(tmp_path / "web.xml", disk(tmp_path / "w.raw"), more=more + TPM)
    assert "password" in only(xml).warnings[0]
    xml.write_text(xml.read_text().replace(UUID, "no-uuid"))
    assert "no UUID" in left(only(xml))["web.xml"]
    (tmp_path / "none.xml").write_text(
        "<domain><name>n</name><devices><disk type='block'><source dev='/dev/sda'/></disk></devices></domain>"
    )
    with pytest.raises(UsageError, match="no disk that is a file"):
        find_vms([str(tmp_path / "none.xml")])


def test_two_domains_with_one_disk_are_refused(tmp_path: Path) -> None:
    web = disk(tmp_path / "web.qcow2")
    one, two = (domain(tmp_path / name, web) for name in ("one.xml", "two.xml"))
    with pytest.raises(AmbiguousError, match=r"web\.qcow2 belongs to two VMs"):
        find_vms([str(one), str(two)])


# -- quickemu ----------------------------------------------------------------------------------------


def quickemu(tmp_path: Path, conf: str) -> Path:
    disk_path = tmp_path / "debian" / "disk.qcow2"
    disk_path.parent.mkdir()
    disk(disk_path)
    path = tmp_path / "debian.conf"
    path.write_text(conf)
    return path


def test_the_files_of_quickemu(tmp_path: Path) -> None:
    conf = quickemu(
        tmp_path,
        '#!/usr/bin/quickemu --vm\nguest_os="linux"\n\ndisk_img="debian/disk.qcow2"  # here\n'
        "iso='debian/debian.iso'\nram=4G\nusb_devices=(\"046d:082d\")\n",
    )
    folder = tmp_path / "debian"
    (folder / "OVMF_VARS.fd").write_bytes(variables())
    (folder / "OVMF_CODE.fd").symlink_to("/usr/share/OVMF/OVMF_CODE_4M.fd")
    (folder / "tpm2-00.permall").write_bytes(b"tpm")
    (folder / "debian.iso").write_bytes(bytes(2048))
    for name in ("debian.log", "debian.pid", "debian.ports"):
        (folder / name).touch()
    listen(folder / "debian-monitor.socket")
    (tmp_path / "other.conf").write_text("[Interface]\nPrivateKey = x\n")
    for place in (tmp_path, conf):
        vm = only(place)
        assert (vm.name, vm.convention, vm.warnings) == ("debian", "quickemu", ())
        assert files(vm) == {
            "debian/disk.qcow2": "disk",
            "debian/OVMF_VARS.fd": "uefi",
            "debian/tpm2-00.permall": "tpm",
            "debian.conf": "definition",
        }
        reasons = left(vm)
        assert {"debian/debian.iso", "debian/debian.log", "debian/debian.pid"} <= reasons.keys()
        assert "socket" in reasons["debian/debian-monitor.socket"]


def test_a_conf_with_an_absolute_path_holds_in_one_place_only(tmp_path: Path) -> None:
    vm = only(quickemu(tmp_path, f'disk_img="{tmp_path}/debian/disk.qcow2"\n'))
    assert files(vm)["debian/disk.qcow2"] == "disk"
    (warning,) = vm.warnings
    assert 'write disk_img="debian/disk.qcow2" into it' in warning


def test_a_disk_that_lies_too_deep_keeps_its_name_alone(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("abcdefgh")
    deep.mkdir(parents=True)
    disk(deep / "disk.qcow2")
    (tmp_path / "vm.toml").write_text('name = "web"\ndisks = ["a/b/c/d/e/f/g/h/disk.qcow2"]\n')
    vm = only(tmp_path)
    assert [part.file for part in vm.disks] == ["disk.qcow2"] and len(vm.warnings) == 1


def test_shell_in_a_conf_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    conf = quickemu(
        tmp_path,
        f'touch {marker}\nx="$(touch {marker})"\ny=`touch {marker}`\n'
        f'disk_img="debian/disk.qcow2"\nguest_os="linux"; touch {marker}\nusb=($(touch {marker}))\n',
    )
    vm = only(conf)
    assert not marker.exists()
    assert files(vm) == {"debian/disk.qcow2": "disk", "debian.conf": "definition"}
    assert "line 1" in vm.warnings[0] and "not run" in vm.warnings[0]


@pytest.mark.red_without("D7", "a value with a dollar sign counts as plain text")
@pytest.mark.red_without("D7", "a disk of quickemu may lie anywhere")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('disk_img="$HOME/disk.qcow2"', "shell"),
        ('disk_img="debian/disk.qcow2"\ndisk_img+="x"', "shell"),
        ("disk_img=`echo debian/disk.qcow2`", "shell"),
        ('disk_img="debian/disk.qcow2" true', "shell"),
        ('disk_img="../outside.qcow2"', "does not lie in its directory"),
        ('disk_img="/etc/shadow"', "does not lie in its directory"),
        ('disk_img=""', "does not lie"),
        ('ram="4G"', "no line disk_img"),
    ],
)
def test_a_disk_that_a_conf_does_not_name_plainly_is_refused(tmp_path: Path, line: str, said: str) -> None:
    conf = quickemu(tmp_path, line + "\n")
    with pytest.raises(UsageError, match=said) as caught:
        find_vms([str(conf)])
    assert "vm.toml" in caught.value.hint


def test_a_conf_whose_disk_is_not_there_yet_is_told_of(tmp_path: Path) -> None:
    conf = quickemu(tmp_path, 'disk_img="debian/later.qcow2"\n')
    found = survey([str(tmp_path)])
    assert names(list(found.vms)) == ["debian"] and found.vms[0].convention == "folder"
    assert [Path(item.path).name for item in found.left_out] == ["later.qcow2"]
    with pytest.raises(NotFoundError, match="later"):
        find_vms([str(conf)])


def test_a_vm_toml_helps_where_another_definition_cannot_be_read(tmp_path: Path) -> None:
    quickemu(tmp_path, 'disk_img="$HOME/disk.qcow2"\n')
    (tmp_path / "lab.yaml").write_text("kvm: {vms: [")
    with pytest.raises(UsageError):
        find_vms([str(tmp_path)])
    (tmp_path / "vm.toml").write_text('name = "deb"\ndisks = ["debian/disk.qcow2"]\n')
    found = survey([str(tmp_path)])
    assert names(list(found.vms)) == ["deb"]
    assert {Path(item.path).name for item in found.left_out} == {"debian.conf", "lab.yaml"}


def test_the_last_word_of_a_conf_counts() -> None:
    conf = read_conf(b"a='1'\na=2\nexport b=\"3\"\nc=$(x)\nc='4'\n\xff\xfe=1\nd='it''s'\n")
    assert conf.values == {"a": "2", "b": "3", "c": "4"} and conf.shell == {"d"} and conf.odd == 4


# -- vm.toml -----------------------------------------------------------------------------------------


def test_a_vm_toml_says_what_a_vm_is(tmp_path: Path) -> None:
    base = master(tmp_path / "base.qcow2")
    disk(tmp_path / "sys.qcow2", base)
    disk(tmp_path / "data.qcow2")
    disk(tmp_path / "other.qcow2")
    (tmp_path / "efi.bin").write_bytes(b"vars")
    (tmp_path / "notes.md").write_text("how to start it")
    tpm(tmp_path / "chip")
    toml = tmp_path / "vm.toml"
    toml.write_text(
        'name = "lab-1"\ndisks = ["sys.qcow2", "./data.qcow2"]\nuefi = "efi.bin"\ntpm = "chip"\n'
        'definition = "notes.md"\n'
    )
    vm = only(toml)
    assert (vm.name, vm.convention) == ("lab-1", "vm.toml")
    assert files(vm) == {
        "sys.qcow2": "disk",
        "data.qcow2": "disk",
        "efi.bin": "uefi",
        "chip/tpm2-00.permall": "tpm",
        "notes.md": "definition",
        "vm.toml": "definition",
    }
    assert names(find_vms([str(tmp_path)])) == ["lab-1", "other"]
    (tmp_path / "other.vm.toml").write_text('name = "renamed"\ndisks = ["other.qcow2"]\n')
    assert names(find_vms([str(tmp_path)])) == ["lab-1", "renamed"]


def test_a_vm_toml_comes_before_a_lab(tmp_path: Path) -> None:
    for name in ("web", "data"):
        disk(tmp_path / f"{name}.qcow2")
    (tmp_path / "lab.yaml").write_text(
        "kvm: {vms: [{vm_name: web, devices: {storage: [{dev_name: data.qcow2}]}}]}"
    )
    assert set(files(only(tmp_path))) == {"web.qcow2", "data.qcow2", "lab.yaml"}
    (tmp_path / "vm.toml").write_text('name = "store"\ndisks = ["data.qcow2"]\n')
    store, web = find_vms([str(tmp_path)])
    assert set(files(store)) == {"data.qcow2", "vm.toml"} and set(files(web)) == {"web.qcow2", "lab.yaml"}


@pytest.mark.red_without("D7", "a vm.toml may name files outside its directory")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "Cannot read"),
        ('name = "a"', "no line disks"),
        ('disks = ["web.qcow2"]', "no line name"),
        ('name = "a"\ndisks = []', "no line disks"),
        ('name = "a"\ndisks = [3]', "disks"),
        ('name = "a b"\ndisks = ["web.qcow2"]', "cannot be a VM's name"),
        ('name = "a"\ndisks = ["../x.qcow2"]', "outside"),
        ('name = "a"\ndisks = ["/etc/shadow"]', "outside"),
        ('name = "a"\ndisks = ["web.qcow2"]\nuefi = "sub/../../x"', "outside"),
        ('name = "a"\ndisks = ["web.qcow2"]\nuefi = 5', "uefi"),
        ('name = "a"\ndisks = ["web.qcow2"]\nram = "4G"', "'ram'"),
        ("\udcff", "Cannot read"),
    ],
)
def test_a_vm_toml_that_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    disk(tmp_path / "web.qcow2")
    toml = tmp_path / "vm.toml"
    toml.write_bytes(text.encode(errors="surrogateescape"))
    for place in (toml, tmp_path):
        with pytest.raises(UsageError, match=said) as caught:
            find_vms([str(place)])
        assert caught.value.hint


def test_a_vm_toml_names_what_is_there(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "other").touch()
    (tmp_path / "secret").symlink_to("/etc/hostname")
    toml = tmp_path / "vm.toml"
    for line in ('uefi = "gone.fd"', 'tpm = "empty"', 'seed = "gone/seed.img"'):
        toml.write_text(f'name = "web"\ndisks = ["web.qcow2"]\n{line}\n')
        with pytest.raises(NotFoundError, match=r"vm\.toml"):
            find_vms([str(tmp_path)])
    toml.write_text('name = "web"\ndisks = ["gone.qcow2"]\n')
    with pytest.raises(NotFoundError, match=r"vm\.toml"):
        find_vms([str(tmp_path)])
    toml.write_text('name = "web"\ndisks = ["web.qcow2"]\ndefinition = "secret"\n')
    vm = only(tmp_path)
    assert "link" in left(vm)["secret"] and set(files(vm)) == {"web.qcow2", "vm.toml"}
    toml.write_text('name = "web"\ndisks = ["vm.toml"]\n')
    with pytest.raises(ImageError):
        find_vms([str(tmp_path)])


def test_two_vm_toml_that_name_one_file_are_refused(tmp_path: Path) -> None:
    disk(tmp_path / "web.qcow2")
    for name in ("vm.toml", "b.vm.toml"):
        (tmp_path / name).write_text(f'name = "{name}"\ndisks = ["web.qcow2"]\n')
    with pytest.raises(AmbiguousError, match="two VMs"):
        survey([str(tmp_path)])
