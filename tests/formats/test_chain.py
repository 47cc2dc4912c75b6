"""Chains: which backing files are opened, and what a guest sees through them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from overlaysync.errors import BaseImageError, ImageError, NotFoundError
from overlaysync.formats.chain import MAX_DEPTH, Chain
from overlaysync.formats.image import Extent, Format
from overlaysync.formats.names import has_protocol
from overlaysync.model.digest import Kind
from overlaysync.units import KIB
from tests.formats.handmade import fill, qcow2, qed, small_image

pytestmark = pytest.mark.holds("N11")

CLUSTER = 4 * KIB


def raw(path: Path, *clusters: bytes) -> Path:
    path.write_bytes(b"".join(cluster * CLUSTER for cluster in clusters))
    return path


def read(chain: Chain, offset: int = 0, length: int | None = None) -> bytes:
    buffer = bytearray(b"?" * (chain.virtual_size - offset if length is None else length))
    chain.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def clusters_of(chain: Chain) -> str:
    """One character a cluster: ``0`` for zeros, else its first byte."""
    data = read(chain)
    return "".join(chr(data[at]) if data[at] else "0" for at in range(0, len(data), CLUSTER))


# -- what a guest sees -------------------------------------------------------------------------------


def test_a_chain_of_three(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw", b"a", b"b", b"c", b"d", b"e")
    qed("-D-Z-", backing=b"base.raw").write(tmp_path / "middle.qed")
    top = qcow2("--DDP", cluster_bits=12, backing=b"middle.qed").write(tmp_path / "top.qcow2")
    with Chain.open(str(top)) as chain:
        assert [image.geometry.format for image in chain.images] == [Format.QCOW2, Format.QED, Format.RAW]
        qcow2_image, qed_image, raw_image = chain.images
        assert [
            (image, extent.offset // CLUSTER, extent.kind) for image, extent in chain.extents(0, 5 * CLUSTER)
        ] == [
            (raw_image, 0, Kind.DATA),
            (qed_image, 1, Kind.DATA),
            (qcow2_image, 2, Kind.DATA),
            (None, 4, Kind.ZERO),
        ]
        assert read(chain) == b"".join(byte * CLUSTER for byte in (b"a", fill(1), fill(2), fill(3), b"\0"))
        assert read(chain, CLUSTER - 1, 2) == b"a" + fill(1)
        assert read(chain, 0, 0) == b""


def test_past_the_end_of_a_shorter_backing_file_are_zeros(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw", b"a")
    top = qed("----D", backing=b"base.raw").write(tmp_path / "top.qed")
    with Chain.open(str(top)) as chain:
        assert [(extent.offset // CLUSTER, extent.kind) for _, extent in chain.extents(0, 5 * CLUSTER)] == [
            (0, Kind.DATA),
            (1, Kind.ZERO),
            (4, Kind.DATA),
        ]
        assert read(chain) == b"a" * CLUSTER + bytes(3 * CLUSTER) + fill(4) * CLUSTER


def test_a_smaller_overlay_shows_its_own_size(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw", b"a", b"b", b"c")
    top = qed("-", backing=b"base.raw").write(tmp_path / "top.qed")
    with Chain.open(str(top)) as chain:
        assert read(chain) == b"a" * CLUSTER
        with pytest.raises(ValueError, match="not inside"):
            read(chain, 0, 2 * CLUSTER)


def test_below_the_last_image_are_zeros(tmp_path: Path) -> None:
    with Chain.open(str(qed("-D--Z").write(tmp_path / "alone.qed"))) as chain:
        assert chain.parent() is None
        assert [extent for image, extent in chain.extents(0, 5 * CLUSTER) if image is None] == [
            Extent(0, CLUSTER, Kind.ZERO),
            Extent(2 * CLUSTER, 3 * CLUSTER, Kind.ZERO),
        ]


def test_the_parent_is_the_chain_below_and_shares_its_files(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw", b"a", b"b", b"c")
    qed("D--", backing=b"base.raw").write(tmp_path / "middle.qed")
    top = qed("-D-", backing=b"middle.qed", raw=False).write(tmp_path / "top.qed")
    with Chain.open(str(top)) as chain:
        parent = chain.parent()
        assert parent is not None
        assert parent.images == chain.images[1:]
        assert read(parent) == fill(0) * CLUSTER + b"b" * CLUSTER + b"c" * CLUSTER
        parent.close()
        assert read(chain) == fill(0) * CLUSTER + fill(1) * CLUSTER + b"c" * CLUSTER
        assert len(chain.fingerprints()) == 3


def test_compressed_clusters_are_read_through_other_cluster_sizes(tmp_path: Path) -> None:
    qcow2("CCC", cluster_bits=14).write(tmp_path / "base.qcow2")
    top = qcow2("-D" * 48, backing=b"base.qcow2").write(tmp_path / "top.qcow2")
    with Chain.open(str(top)) as chain:
        assert read(chain) == b"".join(
            (fill(index) if index % 2 else fill(index // 32)) * 512 for index in range(96)
        )


def test_a_base_is_skipped_where_an_overlay_covers_it(tmp_path: Path) -> None:
    size = 100 << 20
    with open(tmp_path / "base.raw", "wb") as file:
        os.ftruncate(file.fileno(), size)
        os.pwrite(file.fileno(), b"a" * CLUSTER, 0)
        os.pwrite(file.fileno(), b"z" * CLUSTER, size - CLUSTER)
    pattern = "-" + "Z" * (size // CLUSTER - 2) + "-"
    top = qed(pattern, table_size=16, backing=b"base.raw").write(tmp_path / "top.qed")
    with Chain.open(str(top)) as chain:
        assert [(extent.offset, extent.length) for image, extent in chain.extents(0, size) if image] == [
            (0, CLUSTER),
            (size - CLUSTER, CLUSTER),
        ]


def test_many_threads_read_one_chain(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw", *(bytes([index % 250 + 1]) for index in range(64)))
    top = qcow2("-CD" * 21 + "-", cluster_bits=12, backing=b"base.raw").write(tmp_path / "top.qcow2")
    wrong: list[int] = []
    with Chain.open(str(top)) as chain:
        expected = read(chain)

        def check(step: int) -> None:
            for turn in range(200):
                offset = (turn * step * 1024) % (len(expected) - 8192)
                if read(chain, offset, 8192) != expected[offset : offset + 8192]:
                    wrong.append(offset)

        threads = [threading.Thread(target=check, args=(step,)) for step in (1, 3, 5, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# -- which files are opened --------------------------------------------------------------------------


def test_names_are_relative_to_the_directory_of_the_name_used(tmp_path: Path) -> None:
    (tmp_path / "masters").mkdir()
    (tmp_path / "vms").mkdir()
    raw(tmp_path / "masters" / "base.raw", b"m")
    top = qed("-", backing=b"../masters/base.raw").write(tmp_path / "vms" / "vm.qed")
    with Chain.open(str(top)) as chain:
        assert clusters_of(chain) == "m"
    # A symlink elsewhere leads to the overlay, but not to its backing file: as in QEMU.
    link = tmp_path / "vm.qed"
    link.symlink_to(top)
    with pytest.raises(BaseImageError) as caught:
        Chain.open(str(link))
    assert str(tmp_path / ".." / "masters" / "base.raw") in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_bare_name_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(tmp_path / "base.raw", b"m")
    qed("-", backing=b"base.raw").write(tmp_path / "vm.qed")
    monkeypatch.chdir(tmp_path)
    with Chain.open("vm.qed") as chain:
        assert clusters_of(chain) == "m"


def test_absolute_names_symlinks_and_odd_bytes(tmp_path: Path) -> None:
    real = raw(tmp_path / "real.raw", b"m")
    odd = os.fsencode(tmp_path) + b"/\xff\xfe:.raw"
    os.symlink(real, odd)
    top = qed("-", backing=odd).write(tmp_path / "vm.qed")
    with Chain.open(str(top)) as chain:
        assert clusters_of(chain) == "m"


def test_a_colon_after_a_slash_is_part_of_a_name(tmp_path: Path) -> None:
    raw(tmp_path / "a:b.raw", b"m")
    top = qed("-", backing=b"./a:b.raw").write(tmp_path / "vm.qed")
    with Chain.open(str(top)) as chain:
        assert clusters_of(chain) == "m"


@pytest.mark.red_without("N11", "a backing name may be a URL or begin with `json:`")
@pytest.mark.parametrize(
    "name",
    ["a:b.raw", 'json:{"driver":"raw"}', "nbd://host/x", "file:base.raw", "fat:/etc", "http://h/b", ":"],
)
def test_names_with_a_protocol_are_refused(tmp_path: Path, name: str) -> None:
    raw(tmp_path / "base.raw", b"m")
    top = qed("-", backing=name.encode()).write(tmp_path / "vm.qed")
    with pytest.raises(ImageError, match="not named as a plain local file") as caught:
        Chain.open(str(top))
    assert caught.value.exit_code == 11


@pytest.mark.parametrize(
    ("name", "answer"),
    [(b"a:b", True), (b"./a:b", False), (b"/a:b", False), (b"plain", False), (b"a/b:c", False), (b"", False)],
)
def test_has_protocol(name: bytes, answer: bool) -> None:
    assert has_protocol(name) is answer


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="zero byte"):
        Chain.open(str(qed("-", backing=b"base.raw\0.qed").write(tmp_path / "vm.qed")))


def test_control_characters_in_names_are_shown_harmless(tmp_path: Path) -> None:
    top = qed("-", backing=b"\x1b]0;x\x07\xff.raw").write(tmp_path / "vm.qed")
    with pytest.raises(BaseImageError) as caught:
        Chain.open(str(top))
    assert str(caught.value).isascii() and str(caught.value).isprintable()


def test_a_directory_or_device_as_backing_file_is_refused(tmp_path: Path) -> None:
    for name in (b"/dev/null", b"."):
        with pytest.raises(ImageError, match="not a regular file"):
            Chain.open(str(qed("-", backing=name).write(tmp_path / "vm.qed")))


def test_a_missing_overlay_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Chain.open(str(tmp_path / "vm.qed"))


# -- formats of backing files ------------------------------------------------------------------------


def test_a_backing_file_must_have_the_declared_format(tmp_path: Path) -> None:
    qed("-").write(tmp_path / "base.raw")
    with pytest.raises(ImageError, match=r"backing file .*/base\.raw is raw, but it is qed"):
        Chain.open(str(qed("-", backing=b"base.raw", raw=True).write(tmp_path / "vm.qed")))


def test_a_backing_format_that_we_do_not_read_is_refused(tmp_path: Path) -> None:
    made = qcow2("-", backing=b"base", extensions=[(0xE2792ACA, b"vmdk")])
    with pytest.raises(ImageError, match="'vmdk'"):
        Chain.open(str(made.write(tmp_path / "vm.qcow2")))


@pytest.mark.parametrize("format", Format)
def test_without_a_declared_format_the_file_is_looked_at(tmp_path: Path, format: Format) -> None:
    small_image(format, tmp_path / "base.img")
    for made in (qed("-", backing=b"base.img", raw=False), qcow2("-", backing=b"base.img")):
        with Chain.open(str(made.write(tmp_path / "vm"))) as chain:
            assert chain.images[1].geometry.format is format


def test_the_declared_format_of_the_top_must_be_the_real_one(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is qed, not qcow2"):
        Chain.open(str(qed().write(tmp_path / "vm.qed")), Format.QCOW2)


# -- loops and depth ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3])
def test_loops_are_refused_and_everything_closed(tmp_path: Path, length: int) -> None:
    for index in range(length):
        following = f"{(index + 1) % length}.qed".encode()
        qed("-", backing=following, raw=False).write(tmp_path / f"{index}.qed")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ImageError, match="loop"):
        Chain.open(str(tmp_path / "0.qed"))
    assert os.listdir("/proc/self/fd") == before


def test_the_depth_is_bounded(tmp_path: Path) -> None:
    raw(tmp_path / "0.img", b"m")
    for index in range(1, MAX_DEPTH + 1):
        qed("-", backing=f"{index - 1}.img".encode(), raw=False).write(tmp_path / f"{index}.img")
    with Chain.open(str(tmp_path / f"{MAX_DEPTH - 1}.img")) as chain:
        assert clusters_of(chain) == "m"
    with pytest.raises(ImageError, match="more than 31 backing files"):
        Chain.open(str(tmp_path / f"{MAX_DEPTH}.img"))


# -- another base than the header's ------------------------------------------------------------------


def test_an_overlay_is_read_over_another_base(tmp_path: Path) -> None:
    raw(tmp_path / "lowest.raw", b"a", b"b")
    (tmp_path / "elsewhere").mkdir()
    qed("-D", backing=b"../lowest.raw").write(tmp_path / "elsewhere" / "base.qed")
    top = qcow2("D-", cluster_bits=12, backing=b"/nowhere/missing.qed").write(tmp_path / "top.qcow2")
    with pytest.raises(BaseImageError, match="is missing") as caught:
        Chain.open(str(top))
    assert f"overlaysync adopt '{top}'" in caught.value.hint
    with Chain.open(str(top), base=str(tmp_path / "elsewhere" / "base.qed")) as chain:
        assert len(chain.images) == 3
        assert read(chain) == fill(0) * CLUSTER + fill(1) * CLUSTER


def test_a_name_that_is_no_path_does_not_matter_to_another_base(tmp_path: Path) -> None:
    base = raw(tmp_path / "base.raw", b"a")
    top = qcow2("-", cluster_bits=12, backing=b"nbd://127.0.0.1/x").write(tmp_path / "top.qcow2")
    with Chain.open(str(top), base=str(base)) as chain:
        assert read(chain) == b"a" * CLUSTER


def test_another_base_is_for_overlays_only(tmp_path: Path) -> None:
    base = raw(tmp_path / "base.raw", b"a")
    with pytest.raises(ImageError, match="no backing file"):
        Chain.open(str(base), base=str(base))


def test_an_overlay_that_is_its_own_base_is_a_loop(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw", b"a")
    top = qcow2("-", cluster_bits=12, backing=b"base.raw").write(tmp_path / "top.qcow2")
    with pytest.raises(ImageError, match="loop"):
        Chain.open(str(top), base=str(top))
