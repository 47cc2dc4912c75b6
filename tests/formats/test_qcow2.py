"""qcow2: what is read, and every refusal."""

from __future__ import annotations

import os
import subprocess
import zlib
from pathlib import Path

import pytest
from backports import zstd

from overlaysync.errors import ImageError
from overlaysync.formats.compressed import inflate
from overlaysync.formats.image import Backing, Compression, Extent, Format, Geometry
from overlaysync.formats.qcow2 import Qcow2Image
from overlaysync.model.digest import Kind
from overlaysync.units import GIB, KIB, MAX_VIRTUAL_SIZE, MIB, TIB
from tests import images
from tests.formats.handmade import COPIED, ZSTD_COMPRESSION, Handmade, fill, memory_file, qcow2

pytestmark = pytest.mark.holds("F1")

CLUSTER = 512
HUGE = 1 << 63
BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
BITMAPS = 0x23852875
DATA_FILE = 0x44415441


def opened(image: Handmade, *, size: int | None = None) -> Qcow2Image:
    return Qcow2Image.open("vm.qcow2", memory_file(image.data, size=size))


def read(image: Qcow2Image, offset: int, length: int) -> bytes:
    data = bytearray()
    for extent in image.extents(offset, length):
        buffer = bytearray(extent.length)
        if extent.kind is Kind.DATA:
            image.read_into(extent, memoryview(buffer))
        data += buffer
    return bytes(data)


# -- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_extents_and_bytes(version: int) -> None:
    made = qcow2("DD-D", version=version)
    with opened(made) as image:
        host = made.entry("l2", 0) & ~COPIED
        assert image.geometry == Geometry(Format.QCOW2, CLUSTER, CLUSTER)
        assert [*image.extents(0, image.virtual_size)] == [
            Extent(0, 2 * CLUSTER, Kind.DATA, host=host),
            Extent(2 * CLUSTER, CLUSTER, Kind.UNALLOCATED),
            Extent(3 * CLUSTER, CLUSTER, Kind.DATA, host=host + 2 * CLUSTER),
        ]
        assert read(image, CLUSTER - 3, 6) == fill(0) * 3 + fill(1) * 3


def test_both_kinds_of_zero_clusters_are_zero_and_not_read() -> None:
    with opened(qcow2("ZPD")) as image:
        assert images.kinds(image) == [(0, 2 * CLUSTER, Kind.ZERO), (2 * CLUSTER, CLUSTER, Kind.DATA)]


@pytest.mark.parametrize("cluster_bits", range(9, 22))
def test_all_cluster_sizes(cluster_bits: int) -> None:
    with opened(qcow2("-DZ", cluster_bits=cluster_bits)) as image:
        size = 1 << cluster_bits
        assert images.kinds(image) == [
            (0, size, Kind.UNALLOCATED),
            (size, size, Kind.DATA),
            (2 * size, size, Kind.ZERO),
        ]
        assert read(image, size, 2) == fill(1) * 2


def test_subclusters() -> None:
    with opened(qcow2("SP", cluster_bits=14, extended_l2=True)) as image:
        assert image.geometry.subcluster_size == 512
        (_, first, *_) = extents = [*image.extents(0, image.virtual_size)]
        assert [(extent.length // 512, extent.kind) for extent in extents] == [
            (1, Kind.UNALLOCATED),
            (1, Kind.DATA),
            (1, Kind.ZERO),
            (1, Kind.DATA),
            (28, Kind.UNALLOCATED),
            (32, Kind.ZERO),
        ]
        assert read(image, first.offset, 512) == fill(0) * 512


def test_an_extent_is_clipped_inside_a_subcluster() -> None:
    with opened(qcow2("D", cluster_bits=14, extended_l2=True)) as image:
        (whole,) = image.extents(0, image.virtual_size)
        assert [*image.extents(700, 900)] == [Extent(700, 900, Kind.DATA, host=whole.host + 700)]


@pytest.mark.parametrize("compression", [0, ZSTD_COMPRESSION])
@pytest.mark.parametrize("extended_l2", [False, True])
def test_compressed_clusters(compression: int, extended_l2: bool) -> None:
    bits = 14 if extended_l2 else 12
    with opened(qcow2("CCD-C", cluster_bits=bits, compression=compression, extended_l2=extended_l2)) as image:
        size = 1 << bits
        extents = [*image.extents(0, image.virtual_size)]
        assert [(extent.offset // size, extent.length // size) for extent in extents] == [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 1),
            (4, 1),
        ]
        assert extents[0].stored and extents[1].stored and not extents[2].stored
        assert read(image, 0, 3 * size) == fill(0) * size + fill(1) * size + fill(2) * size
        assert read(image, 4 * size, size) == fill(4) * size


def test_a_compressed_cluster_and_data_just_behind_it_are_two_extents() -> None:
    made = qcow2("CDD")
    behind = made.append_cluster(b"x")
    with opened(made.set_entry("l2", 1, behind)) as image:
        first, second, _ = image.extents(0, image.virtual_size)
        assert first.host + CLUSTER == second.host
        assert (first.length, second.length) == (CLUSTER, CLUSTER)


def test_a_clipped_compressed_extent_keeps_the_place_of_the_whole() -> None:
    with opened(qcow2("CC", cluster_bits=12)) as image:
        (whole, _) = image.extents(0, image.virtual_size)
        (part,) = image.extents(1000, 50)
        assert part == Extent(1000, 50, Kind.DATA, host=whole.host, stored=whole.stored)
        assert read(image, 4000, 200) == fill(0) * 96 + fill(1) * 104


def test_a_compressed_cluster_may_end_with_the_file() -> None:
    made = qcow2("C")
    with opened(made) as image:
        assert len(made.data) % 512
        assert read(image, 0, CLUSTER) == fill(0) * CLUSTER


def test_a_short_last_data_cluster_reads_zeros() -> None:
    made = qcow2("D", cluster_bits=12)
    with opened(made, size=len(made.data) - 4000) as image:
        assert read(image, 0, 4096) == fill(0) * 96 + bytes(4000)


def test_sizes_are_cut_to_sectors() -> None:
    with opened(qcow2("DD").set(size=1000)) as image:
        assert image.virtual_size == 512


def test_an_l1_table_may_be_longer_than_needed() -> None:
    # As after an internal snapshot with the machine's memory: what lies past the disk is not looked at.
    made = qcow2("D" + "-" * 63 + "D").set(size=CLUSTER)
    with opened(made.set_entry("l1", 1, (1 << 64) - 1)) as image:
        assert images.kinds(image) == [(0, CLUSTER, Kind.DATA)]


def test_a_disk_of_size_zero() -> None:
    with opened(qcow2("").set(l1_size=0)) as image:
        assert [*image.extents(0, 0)] == []


def test_an_l1_entry_without_an_offset_is_no_table() -> None:
    with opened(qcow2("D").set_entry("l1", 0, COPIED)) as image:
        assert images.kinds(image) == [(0, CLUSTER, Kind.UNALLOCATED)]


@pytest.mark.parametrize("version", [2, 3])
def test_backing_file_and_format(version: int) -> None:
    made = qcow2("D-", version=version, backing=b"dir/base.qed", extensions=[(BACKING_FORMAT, b"qed")])
    with opened(made) as image:
        assert image.backing == Backing(b"dir/base.qed", "qed")


def test_a_backing_file_without_a_format() -> None:
    with opened(qcow2(backing=b"base")) as image:
        assert image.backing == Backing(b"base", None)


def test_what_is_not_carried_over_is_noted() -> None:
    bitmaps = (2).to_bytes(4, "big") + bytes(20)
    made = qcow2(cluster_bits=12, extensions=[(BITMAPS, bitmaps)]).set(snapshots=3, incompatible=1)
    with opened(made) as image:
        snapshots, dirty_bitmaps, unclean = image.notes
        assert "internal snapshots (3)" in snapshots
        assert "bitmaps (2)" in dirty_bitmaps
        assert "not closed cleanly" in unclean


def test_unknown_extensions_and_soft_features_are_skipped() -> None:
    made = qcow2(
        cluster_bits=12, extensions=[(0x12345678, b"x" * 13), (BACKING_FORMAT, b"raw")], backing=b"b"
    )
    with opened(made.set(compatible=HUGE, autoclear=HUGE)) as image:
        assert image.backing == Backing(b"b", "raw")


# -- refusals: the header ----------------------------------------------------------------------------

REFUSED_FIELDS = {
    "magic": ({"magic": 0}, "no qcow2 header"),
    "version 1": ({"version": 1}, "QCOW image of version 1"),
    "version 4": ({"version": 4}, "version 4"),
    "clusters too small": ({"cluster_bits": 8}, "cluster size"),
    "clusters too large": ({"cluster_bits": 22}, "cluster size"),
    "clusters absurd": ({"cluster_bits": 0xFFFFFFFF}, "cluster size"),
    "AES": ({"crypt_method": 1}, "encrypted"),
    "LUKS": ({"crypt_method": 2}, "encrypted"),
    "corrupt": ({"incompatible": 2}, "marked as corrupt"),
    "external data file": ({"incompatible": 4}, "external data file"),
    "raw external data": ({"autoclear": 2}, "external data file"),
    "unknown feature": ({"incompatible": 1 << 40}, "bit 40"),
    "compression bit alone": ({"incompatible": 8}, "compression type, 0"),
    "compression type alone": ({"compression": 1}, "compression type, 1"),
    "unknown compression": ({"incompatible": 8, "compression": 2}, "compression type, 2"),
    "subclusters too small": ({"incompatible": 16}, "too small for subclusters"),
    "refcount order": ({"refcount_order": 7}, "refcounts are too wide"),
    "header length short": ({"header_length": 96}, "header length, 96"),
    "header length odd": ({"header_length": 107}, "header length"),
    "header length long": ({"header_length": 1 << 31}, "header length"),
    "L1 too long": ({"l1_size": (32 * MIB) // 8 + 1}, "over 32 MiB"),
    "L1 too short": ({"l1_size": 0}, "too small for its virtual size"),
    "L1 not aligned": ({"l1_offset": 1000}, "L1 table is not where"),
    "L1 past the end": ({"l1_offset": 1 << 40}, "L1 table lies past the end"),
    "L1 far past the end": ({"l1_offset": HUGE}, "L1 table lies past the end"),
    "no refcount table": ({"reftable_clusters": 0}, "refcount table is empty"),
    "refcount table too long": ({"reftable_clusters": 1 << 31}, "over 8 MiB"),
    "refcount table not aligned": ({"reftable_offset": 700}, "refcount table is not where"),
    "refcount table past the end": ({"reftable_offset": HUGE}, "refcount table lies past the end"),
    "snapshots": ({"snapshots": 65537}, "65537 internal snapshots"),
    "size over the limit": ({"size": MAX_VIRTUAL_SIZE + 512}, "over the limit"),
    "size over the L1": ({"size": GIB}, "too small for its virtual size"),
    "backing name outside": ({"backing_offset": 500, "backing_size": 100}, "name of its backing file"),
    "backing name in the header": ({"backing_offset": 8, "backing_size": 8}, "name of its backing file"),
}


@pytest.mark.red_without(
    "F1", "the size of an L1 table is not limited (another check still refuses the image)"
)
@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_a_bad_header_is_refused(name: str) -> None:
    values, reason = REFUSED_FIELDS[name]
    with pytest.raises(ImageError, match=reason):
        opened(qcow2().set(**values))


def test_a_backing_name_over_1023_bytes_is_refused() -> None:
    with pytest.raises(ImageError, match="name of its backing file"):
        opened(qcow2(cluster_bits=12, backing=b"b" * 1024))


def test_a_long_backing_format_is_refused() -> None:
    with pytest.raises(ImageError, match="format is too long"):
        opened(qcow2(backing=b"b", extensions=[(BACKING_FORMAT, b"q" * 16)]))


def test_an_external_data_file_is_refused_by_its_extension_alone() -> None:
    with pytest.raises(ImageError, match="external data file"):
        opened(qcow2(extensions=[(DATA_FILE, b"/etc/shadow")]))


def test_an_unknown_feature_is_named_and_its_name_made_harmless() -> None:
    names = bytes([0, 9]) + b"warp\x1b[31m".ljust(46, b"\0") + bytes([1, 10]) + b"other kind".ljust(46, b"\0")
    made = qcow2(extensions=[(FEATURE_NAMES, names)]).set(incompatible=1 << 9 | 1 << 10)
    with pytest.raises(ImageError, match=r"warp\?\[31m, bit 10"):
        opened(made)


def test_an_extension_longer_than_the_header_is_refused() -> None:
    made = qcow2(extensions=[(0x12345678, b"")])
    made.data[116:120] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match="longer than the header"):
        opened(made)


def test_too_many_extensions_are_refused() -> None:
    made = qcow2(cluster_bits=16, extensions=[(0x12345678, b"")] * 2000)
    with pytest.raises(ImageError, match="too many header extensions"):
        opened(made)


@pytest.mark.parametrize("size", [0, 4, 71, 103, 200])
def test_a_file_that_ends_in_its_header_is_refused(size: int) -> None:
    with pytest.raises(ImageError):
        opened(qcow2(), size=size)


# -- refusals: tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [1 << 56, 1, 1 << 62, 1 << 8])
def test_reserved_bits_in_an_l1_entry_are_refused(entry: int) -> None:
    made = qcow2()
    with pytest.raises(ImageError, match="L1 entry has reserved bits") as caught:
        opened(made.set_entry("l1", 0, made.entry("l1", 0) | entry))
    assert caught.value.offset == made.tables["l1"][0]


@pytest.mark.parametrize("entry", [2, 1 << 8, 1 << 56, 1 << 61])
def test_reserved_bits_in_an_l2_entry_are_refused(entry: int) -> None:
    made = qcow2()
    with pytest.raises(ImageError, match="L2 entry has reserved bits") as caught:
        opened(made.set_entry("l2", 3, made.entry("l2", 3) | entry))
    assert caught.value.offset == made.tables["l2"][3]


@pytest.mark.parametrize("entry", [0x1FF, 512 | 1, 1 << 55, HUGE])
def test_a_bad_refcount_table_entry_is_refused(entry: int) -> None:
    with pytest.raises(ImageError, match="refcount table entry"):
        opened(qcow2().set_entry("reftable", 5, entry))


@pytest.mark.parametrize("offset", [4096 + 512, 1 << 40, 1 << 55])
def test_misplaced_tables_and_clusters_are_refused(offset: int) -> None:
    with pytest.raises(ImageError, match="not the offset of a table"):
        opened(qcow2(cluster_bits=12).set_entry("l1", 0, offset))
    with pytest.raises(ImageError, match="not the offset of a cluster"):
        opened(qcow2(cluster_bits=12).set_entry("l2", 0, offset))
    with pytest.raises(ImageError, match="not the offset of a cluster"):
        opened(qcow2(cluster_bits=12).set_entry("l2", 0, offset | 1))


def test_a_cluster_that_begins_at_the_end_of_the_file_is_refused() -> None:
    made = qcow2("D")
    with pytest.raises(ImageError, match="not the offset of a cluster"):
        opened(made, size=len(made.data) - CLUSTER)


def test_a_table_that_ends_past_the_file_is_refused() -> None:
    made = qcow2("-")
    with pytest.raises(ImageError, match="not the offset of a table"):
        opened(made, size=len(made.data) - 8)


def test_the_zero_flag_in_version_2_is_refused() -> None:
    with pytest.raises(ImageError, match="version 2 does not know"):
        opened(qcow2("D-", version=2).set_entry("l2", 1, 1))


@pytest.mark.parametrize(
    ("pattern", "bitmap"),
    [("D", 1 | 1 << 32), ("-", 1), ("C", 1), ("C", 1 << 63)],
    ids=["allocated and zero", "allocated nowhere", "compressed and allocated", "compressed and zero"],
)
def test_subclusters_in_impossible_states_are_refused(pattern: str, bitmap: int) -> None:
    made = qcow2(pattern, cluster_bits=14, extended_l2=True)
    made.set_word(made.tables["l2"][0] + 8, bitmap)
    with pytest.raises(ImageError, match="subclusters in a state"):
        opened(made)


METADATA = ["header", "l1", "l2", "reftable", "refblock"]


def place_of(made: Handmade, what: str) -> int:
    return {
        "header": 0,
        "l1": made.get("l1_offset"),
        "l2": made.tables["l2"][0],
        "reftable": made.get("reftable_offset"),
        "refblock": made.entry("reftable", 0),
        "data": made.entry("l2", 0) & ~COPIED,
    }[what]


@pytest.mark.parametrize("what", [*METADATA[1:], "data"])
@pytest.mark.parametrize("flag", [0, 1], ids=["data", "preallocated zero"])
def test_a_data_cluster_on_something_else_is_refused(what: str, flag: int) -> None:
    made = qcow2("DD")
    with pytest.raises(ImageError, match="overlaps something else in the file"):
        opened(made.set_entry("l2", 1, place_of(made, what) | flag))


@pytest.mark.parametrize("what", METADATA)
def test_a_compressed_cluster_on_metadata_is_refused(what: str) -> None:
    made = qcow2("DC")
    with pytest.raises(ImageError, match="overlaps something else in the file"):
        opened(made.set_entry("l2", 1, 1 << 62 | place_of(made, what) + 10))


def test_a_compressed_cluster_on_a_data_cluster_is_refused() -> None:
    made = qcow2("DC")
    with pytest.raises(ImageError, match="a compressed cluster overlaps something else"):
        opened(made.set_entry("l2", 1, 1 << 62 | place_of(made, "data") + 10))


def test_two_compressed_clusters_at_one_place_are_refused() -> None:
    made = qcow2("-CC")
    with pytest.raises(ImageError, match="a compressed cluster overlaps something else"):
        opened(made.set_entry("l2", 2, made.entry("l2", 1)))


@pytest.mark.parametrize(("apart", "refused"), [(5, True), (512, True), (513, False)])
def test_compressed_clusters_that_overlap_by_more_than_a_sector_are_refused(
    apart: int, refused: bool
) -> None:
    made = qcow2("-CC", cluster_bits=12)
    start = made.entry("l2", 1) & (1 << 58) - 1
    start += -start % 512  # so that the first one takes two sectors, and ends 1024 bytes on
    made.set_entry("l2", 1, 1 << 62 | 1 << 58 | start)
    made.set_entry("l2", 2, 1 << 62 | start + apart)
    size = len(made.data) + 8192
    if not refused:
        opened(made, size=size).close()
        return
    with pytest.raises(ImageError, match="a compressed cluster overlaps something else"):
        opened(made, size=size)


@pytest.mark.parametrize("entry", [1 << 62 | 1 << 40, 1 << 62, COPIED | 1 << 62 | 5000])
def test_a_misplaced_compressed_cluster_is_refused(entry: int) -> None:
    with pytest.raises(ImageError, match="a compressed cluster lies past the end"):
        opened(qcow2("D" * 20 + "C").set_entry("l2", 20, entry))


@pytest.mark.parametrize("what", [*METADATA[1:], "twice"])
def test_a_table_on_something_else_is_refused(what: str) -> None:
    made = qcow2("D" * 70)
    if what == "twice":
        made.set_entry("l1", 1, made.entry("l1", 0))
    else:
        made.set_entry("l1", 1, place_of(made, what))
    with pytest.raises(ImageError, match="overlaps something else in the file"):
        opened(made)


@pytest.mark.parametrize("what", ["header", "l1"])
def test_a_refcount_table_on_something_else_is_refused(what: str) -> None:
    made = qcow2()
    with pytest.raises(ImageError, match="the refcount table overlaps something else in the file"):
        opened(made.set(reftable_offset=place_of(made, what)))


def test_a_refcount_block_used_twice_is_refused() -> None:
    made = qcow2()
    with pytest.raises(ImageError, match="a refcount block overlaps something else"):
        opened(made.set_entry("reftable", 1, made.entry("reftable", 0)))


def test_a_table_changed_after_opening_is_checked_again() -> None:
    made = qcow2("D")
    fd = memory_file(made.data)
    with Qcow2Image.open("vm.qcow2", fd) as image:
        made.set_entry("l2", 0, 2)
        os.pwrite(fd, made.data, 0)
        with pytest.raises(ImageError, match="reserved bits"):
            [*image.extents(0, image.virtual_size)]


# -- refusals: compressed bytes ----------------------------------------------------------------------


@pytest.mark.parametrize("compression", [0, ZSTD_COMPRESSION])
def test_damaged_compressed_bytes_are_refused_when_read(compression: int) -> None:
    made = qcow2("C", cluster_bits=12, compression=compression)
    with opened(made) as image:
        (extent,) = image.extents(0, image.virtual_size)
    made.data[extent.host : extent.host + 8] = b"\xff" * 8
    with opened(made) as image, pytest.raises(ImageError, match="does not inflate") as caught:
        read(image, 0, 4096)
    assert caught.value.offset == extent.host


def deflated(data: bytes, wbits: int = -15) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return stream.compress(data) + stream.flush()


def test_deflate_streams_may_reach_further_back_than_4_kib() -> None:
    data = bytes(range(256)) * 100
    data = data[:20000] + b"unlike" + data[:20000]
    assert inflate(deflated(data), len(data), Compression.ZLIB) == data


def test_garbage_after_a_stream_is_normal() -> None:
    assert inflate(deflated(b"a" * 512) + b"\xff" * 400, 512, Compression.ZLIB) == b"a" * 512
    assert inflate(zstd.compress(b"a" * 512) + b"\xff" * 400, 512, Compression.ZSTD) == b"a" * 512


def test_several_zstd_frames_make_a_cluster() -> None:
    stored = zstd.compress(b"a" * 100) + zstd.compress(b"b" * 412)
    assert inflate(stored, 512, Compression.ZSTD) == b"a" * 100 + b"b" * 412


@pytest.mark.parametrize("stored", [b"", deflated(b"a" * 511), b"\0" * 512])
def test_too_little_is_refused(stored: bytes) -> None:
    assert inflate(stored, 512, Compression.ZLIB) is None
    assert inflate(zstd.compress(b"a" * 511), 512, Compression.ZSTD) is None


@pytest.mark.slow
def test_bombs_end_at_the_cluster() -> None:
    bomb = bytes(64 * MIB)
    assert inflate(deflated(bomb), 512, Compression.ZLIB) == bytes(512)
    assert inflate(zstd.compress(bomb), 512, Compression.ZSTD) == bytes(512)


def test_a_zstd_window_over_our_limit_is_refused() -> None:
    options = {
        int(zstd.CompressionParameter.window_log): 27,
        int(zstd.CompressionParameter.content_size_flag): 0,
    }
    stream = zstd.ZstdCompressor(options=options)
    stored = stream.compress(b"a" * 512) + stream.flush()
    assert inflate(stored, 512, Compression.ZSTD) is None


def test_empty_zstd_frames_without_end_are_refused() -> None:
    assert inflate(zstd.compress(b"") * 5000, 512, Compression.ZSTD) is None


# -- bounds ------------------------------------------------------------------------------------------


def test_a_file_of_8_eib_opens_as_fast_as_its_content() -> None:
    made = qcow2("D-ZD", cluster_bits=16)
    l1_size = 64 * TIB // (8192 * 64 * KIB)
    made.set(l1_offset=1 << 40, l1_size=l1_size, size=64 * TIB)
    with opened(made, size=(1 << 63) - 1) as image:
        assert images.kinds(image) == [(0, 64 * TIB, Kind.UNALLOCATED)]


def test_tables_in_holes_cost_nothing() -> None:
    # A full L1 of 64 TiB whose 128 Ki tables all lie in a hole: 8 GiB, were they read.
    made = qcow2("-", cluster_bits=16)
    l1_size = 64 * TIB // (8192 * 64 * KIB)
    offset = made.append_cluster(b"")
    made.set(l1_offset=offset, l1_size=l1_size, size=64 * TIB)
    made.data += b"".join(((1 << 32) + (index << 16)).to_bytes(8, "big") for index in range(l1_size))
    with opened(made, size=1 << 35) as image:
        assert images.kinds(image) == [(0, 64 * TIB, Kind.UNALLOCATED)]


# -- QEMU's own --------------------------------------------------------------------------------------


@pytest.mark.qemu
def test_handmade_images_are_clean(tmp_path: Path) -> None:
    for made in (
        qcow2("D-ZPCCDC" * 20),
        qcow2("D-DC", version=2),
        qcow2("DS-ZPC" * 3, cluster_bits=14, extended_l2=True),
        qcow2(
            "CCD",
            cluster_bits=12,
            compression=ZSTD_COMPRESSION,
            backing=b"b",
            extensions=[(BACKING_FORMAT, b"raw")],
        ),
    ):
        path = made.write(tmp_path / "vm.qcow2")
        images.create(tmp_path / "b.raw", MIB).rename(tmp_path / "b")
        assert images.check(path) == 0


@pytest.mark.qemu
def test_snapshots_and_bitmaps_of_qemu_are_noted_and_the_active_state_read(tmp_path: Path) -> None:
    path = images.create(tmp_path / "vm.qcow2", MIB)
    images.draw(path, "AAA")
    images.run("qemu-img", "snapshot", "-c", "before", path)
    images.run("qemu-img", "bitmap", "--add", path, "changes")
    images.draw(path, "-B")
    with Qcow2Image.open(str(path), memory_file(path.read_bytes())) as image:
        assert len(image.notes) == 2
        assert images.kinds(image) == images.own_extents(path)
        assert read(image, 0, MIB) == images.content(path)


@pytest.mark.qemu
def test_an_image_with_lazy_refcounts_that_was_killed(tmp_path: Path) -> None:
    path = images.create(tmp_path / "vm.qcow2", MIB, lazy_refcounts="on")
    command = [
        "qemu-io",
        "-f",
        "qcow2",
        "-c",
        "write -q -P 65 0 200k",
        "-c",
        "flush",
        "-c",
        "sigraise 9",
        str(path),
    ]
    subprocess.run(command, check=False, capture_output=True)
    with Qcow2Image.open(str(path), memory_file(path.read_bytes())) as image:
        assert "not closed cleanly" in image.notes[0]
        assert read(image, 0, 200 * KIB) == b"A" * 200 * KIB


@pytest.mark.qemu
@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
def test_preallocated_images(tmp_path: Path, preallocation: str) -> None:
    path = images.create(tmp_path / "vm.qcow2", 3 * MIB + 512, preallocation=preallocation)
    with Qcow2Image.open(str(path), memory_file(path.read_bytes())) as image:
        assert images.kinds(image) == images.own_extents(path)


@pytest.mark.qemu
@pytest.mark.parametrize(
    "options", [{"data_file": "data.raw"}, {"encrypt.format": "aes", "encrypt.key-secret": "s"}]
)
def test_qemu_images_that_are_refused(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "vm.qcow2"
    if "data_file" in options:
        options = {"data_file": str(tmp_path / "data.raw")}
    words = ",".join(f"{name}={value}" for name, value in options.items())
    secret = ["--object", "secret,id=s,data=pw"]
    images.run("qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", words, path, "1M")
    with pytest.raises(ImageError, match=r"encrypted|external data file"):
        Qcow2Image.open(str(path), memory_file(path.read_bytes()))
