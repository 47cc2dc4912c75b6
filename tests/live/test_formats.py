"""Whatever a disk is stored as, its copy holds what the file holds once its VM is shut down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from overlaysync.node.capturing import QMP, captured
from overlaysync.node.node import now
from overlaysync.units import CHUNK, KIB, MIB
from tests import images
from tests.images import run
from tests.live.vms import bare
from tests.node.observers import Heard
from tests.node.vaults import member, vm

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.holds("D5")]


def overlay_of(*options: str, format: str = "qcow2") -> Callable[[Path], Path]:
    """An overlay with data, with zeros that hide its master's data, and with nothing."""

    def make(place: Path) -> Path:
        master = images.create(place / "master.raw", 2 * MIB)
        run("qemu-io", "-f", "raw", "-c", "write -q -P 9 0 2M", str(master))
        master.chmod(0o444)
        disk = place / f"vm.{format}"
        run("qemu-img", "create", "-q", "-f", format, *options, "-b", str(master), "-F", "raw", str(disk))
        for command in ("write -q -P 7 64k 128k", "write -q -z 512k 256k", "write -q -P 5 1100k 4k"):
            run("qemu-io", "-f", format, "-c", command, str(disk))
        return disk

    return make


def compressed(place: Path) -> Path:
    """A standalone image with compressed clusters, as clouds have it, of which some were written since."""
    plain = images.create(place / "plain.raw", 4 * MIB)
    run("qemu-io", "-f", "raw", "-c", "write -q -P 9 0 3M", str(plain))
    run("qemu-img", "convert", "-c", "-O", "qcow2", str(plain), str(place / "vm.qcow2"))
    plain.unlink()
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 128k 64k", str(place / "vm.qcow2"))
    return place / "vm.qcow2"


def raw(place: Path) -> Path:
    disk = images.create(place / "vm.raw", 3 * MIB + 512)
    run("qemu-io", "-f", "raw", "-c", "write -q -P 9 1M 700k", str(disk))
    return disk


@pytest.mark.parametrize(
    ("make", "same_layer"),
    [
        pytest.param(overlay_of(), True, id="qcow2"),
        pytest.param(overlay_of(format="qed"), True, id="qed"),
        pytest.param(overlay_of("-o", "cluster_size=2M"), True, id="large"),
        pytest.param(overlay_of("-o", "cluster_size=4k"), False, id="small"),
        pytest.param(overlay_of("-o", "extended_l2=on,cluster_size=128k"), False, id="subclusters"),
        pytest.param(compressed, True, id="compressed"),
        pytest.param(raw, True, id="raw"),
    ],
)
def test_a_copy_has_the_content_of_the_disk(
    tmp_path: Path, make: Callable[[Path], Path], same_layer: bool
) -> None:
    place = tmp_path / "vm"
    place.mkdir()
    disk = make(place)
    with member(tmp_path) as node:
        with bare(place, [disk]):
            with captured(node, [vm("vm", disk)], tmp_path, Heard(), QMP) as found:
                known = found.disks[str(disk)].known
        off = node.library.examine(disk, now=now())
    assert known.disk.id == off.disk.id
    assert known.geometry == off.geometry, "it is restored as what it was"
    assert known.content.unit == off.content.unit <= CHUNK
    assert (known.content.id == off.content.id) == same_layer
    assert known.content.unit >= 4 * KIB
