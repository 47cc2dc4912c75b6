"""A domain of a real libvirt is captured through virsh; libvirt keeps its monitor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlaysync.live.capture import capture
from overlaysync.units import KIB
from tests.e2e.namespaces import namespace
from tests.e2e.nodes import Lab, until
from tests.live.vms import copied, overlay, running, whole

pytestmark = [pytest.mark.qemu, pytest.mark.libvirt, pytest.mark.slow]

NOBODY = 65534

DOMAIN = """
<domain type='qemu'><name>lab</name><uuid>0b5a1e1e-9d0f-4f0a-8a59-0f3a2d1c7e55</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{place}/a.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qed'/><source file='{place}/b.qed'/>
<target dev='vdb' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>
"""


OWN_DIRECTORIES = """\
for place in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
  mkdir -p $place && mount -t tmpfs none $place || exit
done
mkdir /var/lib/libvirt/qemu && chown libvirt-qemu /var/lib/libvirt/qemu"""


@dataclass(frozen=True)
class Libvirt:
    """A daemon of an ordinary user, and a domain under way."""

    place: Path
    environment: dict[str, str]

    def virsh(self, *words: str) -> str:
        command = ["virsh", "-q", "-c", "qemu:///session", *words]
        done = subprocess.run(
            command, env=self.environment, cwd=self.place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


@contextmanager
def started(virsh: Sequence[str], definition: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a domain until the block ends, or the tests are killed: then libvirt destroys it."""
    process = subprocess.Popen(virsh, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    assert process.stdin is not None
    process.stdin.write(f"create --autodestroy {definition}\n".encode())
    process.stdin.flush()
    try:
        yield
    finally:
        process.communicate()


@pytest.fixture
def libvirt() -> Iterator[Libvirt]:
    """Of a user who is not root, as which virsh runs as well: root's libvirt would be that of the machine."""
    place = Path(tempfile.mkdtemp(prefix="lv", dir="/tmp"))
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    disks = [overlay(place / "a.qcow2", 512 * KIB), overlay(place / "b.qed", 512 * KIB)]
    for path in (place, *place.iterdir()):
        os.chown(path, user, user)
    place.chmod(0o700)
    environment = {
        name: str(place) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    }
    environment["PATH"] = f"{place}:{os.environ['PATH']}:/usr/sbin:/sbin"
    virsh = place / "virsh"
    as_user = f"setpriv --reuid {user} --regid {user} --clear-groups" if os.geteuid() == 0 else ""
    virsh.write_text(f'#!/bin/sh\nexec {as_user} {shutil.which("virsh")} "$@"\n')
    virsh.chmod(0o755)
    made = Libvirt(place, environment)
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["libvirtd", "--timeout", "30"],
            env=environment,
            cwd=place,
            stderr=log,
            user=user,
            group=user,
            extra_groups=[] if os.geteuid() == 0 else None,
        )
    try:
        until((place / "libvirt" / "libvirt-sock").exists, what="a socket of libvirt")
        (place / "lab.xml").write_text(DOMAIN.format(place=place))
        assert all(disk.exists() for disk in disks)
        with started(["virsh", "-q", "-c", "qemu:///session"], place / "lab.xml", environment):
            until(lambda: "lab" in made.virsh("list", "--name"), what="the domain")
            yield made
    finally:
        daemon.terminate()
        daemon.wait(20)
        shutil.rmtree(place)


def test_a_domain_is_captured_while_libvirt_holds_its_monitor(
    libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in libvirt.environment.items():
        monkeypatch.setenv(name, value)
    disks = [libvirt.place / "a.qcow2", libvirt.place / "b.qed"]
    copies = capture([running(disks)], libvirt.place, lambda _: None)
    for disk in disks:
        copy = copied(copies.files[str(disk)].file, libvirt.place, disk)
        os.close(copies.files[str(disk)].file)
        whole(copy)
        compared = ["qemu-img", "compare", "-q", "-U", str(copy), str(disk)]
        assert subprocess.run(compared, check=False).returncode == 0
    nodes = libvirt.virsh("qemu-monitor-command", "lab", '{"execute":"query-named-block-nodes"}')
    assert "os-" not in nodes
    assert "running" in libvirt.virsh("domstate", "lab")
    assert libvirt.virsh("qemu-monitor-command", "lab", '{"execute":"query-jobs"}').count('"id":"os-') == 0


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as made:
        yield made


@pytest.fixture
def system() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A directory with two disks of a domain of root's libvirt, and words that run a command beside it.

    Its daemons see directories of their own where those of the machine's libvirt are.
    """
    place = Path(tempfile.mkdtemp(prefix="lv", dir="/tmp"))
    place.chmod(0o755)
    for name in ("a.qcow2", "b.qed"):
        overlay(place / name, 512 * KIB)
    (place / "lab.xml").write_text(DOMAIN.format(place=place))
    with namespace("mount", script=OWN_DIRECTORIES) as apart, ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        for daemon in ("virtlogd", "libvirtd"):
            words = [*apart.prefix, daemon, "--timeout", "30", "-p", f"/run/libvirt/{daemon}.pid"]
            log = stack.enter_context((place / f"{daemon}.log").open("wb"))
            process = subprocess.Popen(words, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        until(apart.outside(Path("/run/libvirt/libvirt-sock")).exists, what="a socket of libvirt")
        virsh = [*apart.prefix, "virsh", "-q", "-c", "qemu:///system"]
        stack.enter_context(started(virsh, place / "lab.xml", os.environ))
        listed = ["list", "--name"]
        until(lambda: b"lab" in subprocess.check_output([*virsh, *listed]), what="the domain")
        yield place, apart.prefix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the libvirt of a system")
def test_a_domain_of_the_system_is_saved_by_root(system: tuple[Path, tuple[str, ...]], lab: Lab) -> None:
    """QEMU runs as another user, who may not read our files: the copies are handed to it as descriptors."""
    place, prefix = system
    node = lab.node("ann", prefix=prefix)
    team = lab.team("red", node)
    # The disks belong to that user while the domain runs: they have to be named.
    saved = node.json("save", "--team", team, place / "a.qcow2", place / "b.qed")
    assert {vm["name"]: vm["consistency"] for vm in saved["vms"]} == {"a": "crash", "b": "crash"}
    node.json("restore", team, "--to", node.place / "back", "--peer", "127.0.0.1:1", "--wait", "0")
    for name in ("a.qcow2", "b.qed"):
        compared = ["qemu-img", "compare", "-q", "-U", str(node.place / "back" / name), str(place / name)]
        assert subprocess.run(compared, check=False).returncode == 0
    asked = [*prefix, "virsh", "-q", "-c", "qemu:///system", "qemu-monitor-command", "lab"]
    for question in ("query-named-block-nodes", "query-jobs"):
        said = subprocess.check_output([*asked, json.dumps({"execute": question})], text=True)
        assert '"return"' in said and '"os-' not in said
