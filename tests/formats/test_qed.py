"""QED: what is read, and every refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.errors import ImageError
from overlaysync.formats.image import Backing, Extent, Format, Geometry
from overlaysync.formats.qed import QedImage
from overlaysync.model.digest import Kind
from overlaysync.units import KIB, MAX_VIRTUAL_SIZE, MIB, TIB
from tests import images
from tests.formats.handmade import Handmade, fill, memory_file, qed

pytestmark = pytest.mark.holds("F1")

CLUSTER = 4 * KIB
HUGE = 1 << 63


def opened(image: Handmade, *, size: int | None = None) -> QedImage:
    return QedImage.open("vm.qed", memory_file(image.data, size=size))


def read(image: QedImage, offset: int, length: int) -> bytes:
    (extent,) = image.extents(offset, length)
    buffer = bytearray(length)
    image.read_into(extent, memoryview(buffer))
    return bytes(buffer)


def test_extents_and_bytes() -> None:
    with opened(qed("DD-ZZD")) as image:
        data = 5 * CLUSTER
        assert image.geometry == Geometry(Format.QED, CLUSTER, CLUSTER)
        assert [*image.extents(0, image.virtual_size)] == [
            Extent(0, 2 * CLUSTER, Kind.DATA, host=data),
            Extent(2 * CLUSTER, CLUSTER, Kind.UNALLOCATED),
            Extent(3 * CLUSTER, 2 * CLUSTER, Kind.ZERO),
            Extent(5 * CLUSTER, CLUSTER, Kind.DATA, host=data + 2 * CLUSTER),
        ]
        assert read(image, CLUSTER - 3, 6) == fill(0) * 3 + fill(1) * 3


def test_extents_join_across_tables() -> None:
    # Tables of one cluster: 512 entries.
    with opened(qed("-" * 511 + "ZZ" + "-" * 600, table_size=1)) as image:
        assert images.kinds(image) == [
            (0, 511 * CLUSTER, Kind.UNALLOCATED),
            (511 * CLUSTER, 2 * CLUSTER, Kind.ZERO),
            (513 * CLUSTER, 600 * CLUSTER, Kind.UNALLOCATED),
        ]
        assert len([*image.extents(0, image.virtual_size)]) == 3


def test_a_large_table_that_lies_mostly_in_a_hole() -> None:
    # 512 KiB of table, 65536 entries; only a page in its second half is stored.
    made = qed("-" * 40000 + "ZD-", cluster_size=64 * KIB, table_size=8)
    with QedImage.open("vm.qed", memory_file(made.data, sparse=True)) as image:
        start = 40000 * 64 * KIB
        assert images.kinds(image) == [
            (0, start, Kind.UNALLOCATED),
            (start, 64 * KIB, Kind.ZERO),
            (start + 64 * KIB, 64 * KIB, Kind.DATA),
            (start + 128 * KIB, 64 * KIB, Kind.UNALLOCATED),
        ]


def test_a_whole_table_in_a_hole_is_empty_and_the_others_are_not() -> None:
    made = qed("Z" + "-" * 600, table_size=1)
    with QedImage.open("vm.qed", memory_file(made.data, sparse=True)) as image:
        assert images.kinds(image) == [
            (0, CLUSTER, Kind.ZERO),
            (CLUSTER, 600 * CLUSTER, Kind.UNALLOCATED),
        ]


def test_data_that_are_not_adjacent_in_the_file_are_two_extents() -> None:
    made = qed("DDD")
    first, second = made.entry("l2", 0), made.entry("l2", 1)
    made.set_entry("l2", 0, second).set_entry("l2", 1, first)
    with opened(made) as image:
        assert [extent.host for extent in image.extents(0, image.virtual_size)] == [
            second,
            first,
            made.entry("l2", 2),
        ]
        assert read(image, 0, 4) == fill(1) * 4


def test_an_l2_table_that_is_missing_is_unallocated() -> None:
    with opened(qed("D-D").set_entry("l1", 0, 0)) as image:
        assert images.kinds(image) == [(0, 3 * CLUSTER, Kind.UNALLOCATED)]


def test_a_disk_of_size_zero() -> None:
    with opened(qed("")) as image:
        assert image.virtual_size == 0
        assert [*image.extents(0, 0)] == []


@pytest.mark.parametrize(
    ("cluster_size", "table_size"), [(4 * KIB, 1), (4 * KIB, 16), (64 * KIB, 4), (MIB, 16), (4 * MIB, 4)]
)
def test_geometries(cluster_size: int, table_size: int) -> None:
    with opened(qed("-D", cluster_size=cluster_size, table_size=table_size)) as image:
        assert image.geometry.cluster_size == cluster_size
        assert images.kinds(image)[1] == (cluster_size, cluster_size, Kind.DATA)


@pytest.mark.parametrize(("raw", "format"), [(True, "raw"), (False, None)])
def test_backing_file(raw: bool, format: str | None) -> None:
    with opened(qed(backing=b"dir/base.raw", raw=raw)) as image:
        assert image.backing == Backing(b"dir/base.raw", format)


def test_an_empty_backing_name_is_none() -> None:
    with opened(qed(backing=b"x").set(name_size=0)) as image:
        assert image.backing is None


def test_an_unclean_image_opens_with_a_note() -> None:
    with opened(qed().set(features=2)) as image:
        assert "not closed cleanly" in image.notes[0]


def test_compatible_and_autoclear_features_are_ignored() -> None:
    with opened(qed().set(compat_features=HUGE, autoclear_features=7)) as image:
        assert image.virtual_size == 4 * CLUSTER


def test_a_header_size_of_zero_opens_as_in_qemu() -> None:
    with opened(qed().set(header_size=0)) as image:
        assert len([*image.extents(0, image.virtual_size)]) == 4


REFUSED_FIELDS = {
    "magic": ({"magic": 0}, "no QED header"),
    "cluster size 0": ({"cluster_size": 0}, "cluster size, 0,"),
    "cluster size 2 KiB": ({"cluster_size": 2048}, "cluster size"),
    "cluster size no power of two": ({"cluster_size": 12288}, "cluster size"),
    "cluster size 64 MiB": ({"cluster_size": 64 * MIB}, "cluster size"),
    "table size 0": ({"table_size": 0}, "table size, 0 clusters"),
    "table size 3": ({"table_size": 3}, "table size"),
    "table size 32": ({"table_size": 32}, "table size"),
    "tables over 16 MiB": ({"cluster_size": 4 * MIB, "table_size": 8}, "table size"),
    "unknown feature": ({"features": 8}, "features that overlaysync does not know"),
    "header larger than the file": ({"header_size": 1000}, "header is larger"),
    "L1 not aligned": ({"l1_offset": CLUSTER + 512}, "L1 table is not where"),
    "L1 in the header": ({"l1_offset": 0}, "L1 table is not where"),
    "L1 past the end": ({"l1_offset": 1000 * CLUSTER}, "L1 table lies past the end"),
    "L1 far past the end": ({"l1_offset": HUGE}, "L1 table lies past the end"),
    "size not in sectors": ({"image_size": 4 * CLUSTER + 100}, "not a multiple of 512"),
    "size over the tables": ({"image_size": 5 << 32}, "more than its tables can map"),
}


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_a_bad_header_is_refused(name: str) -> None:
    values, reason = REFUSED_FIELDS[name]
    with pytest.raises(ImageError, match=reason):
        opened(qed().set(**values))


def test_a_disk_over_our_limit_is_refused() -> None:
    made = qed("", cluster_size=64 * KIB, table_size=16).set(image_size=MAX_VIRTUAL_SIZE + 512)
    with pytest.raises(ImageError, match="over the limit"):
        opened(made)


def test_a_backing_name_outside_the_header_is_refused() -> None:
    with pytest.raises(ImageError, match="name of its backing file"):
        opened(qed(backing=b"base.raw").set(name_offset=CLUSTER - 4))


def test_a_backing_name_longer_than_a_path_is_refused() -> None:
    with pytest.raises(ImageError, match="name of its backing file"):
        opened(qed(cluster_size=64 * KIB, backing=b"b" * 5000))


BAD_ENTRIES = {
    "not aligned": CLUSTER + 512,
    "past the end": 1000 * CLUSTER,
    "top bit": HUGE | 5 * CLUSTER,
    "all bits": (1 << 64) - 1,
}


@pytest.mark.parametrize("name", [*BAD_ENTRIES, "one"])
def test_a_bad_l1_entry_is_refused(name: str) -> None:
    made = qed()
    with pytest.raises(ImageError, match="L1 entry") as caught:
        opened(made.set_entry("l1", 0, BAD_ENTRIES.get(name, 1)))
    assert caught.value.offset == made.tables["l1"][0]


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_a_bad_l2_entry_is_refused_and_its_place_named(name: str) -> None:
    made = qed()
    with pytest.raises(ImageError, match="L2 entry") as caught:
        opened(made.set_entry("l2", 3, BAD_ENTRIES[name]))
    assert caught.value.offset == made.tables["l2"][3]


def test_the_place_is_right_in_the_second_table() -> None:
    made = qed("D" * 2 + "-" * 600, table_size=1)
    with pytest.raises(ImageError) as caught:
        opened(made.set_entry("l2", 520, 77))
    assert caught.value.offset == made.tables["l2"][520]


def test_a_table_that_ends_past_the_file_is_refused() -> None:
    made = qed("-", table_size=2)
    with pytest.raises(ImageError, match="L1 entry"):
        opened(made, size=len(made.data) - CLUSTER)


def test_a_short_last_data_cluster_is_refused() -> None:
    made = qed("DD")
    with pytest.raises(ImageError, match="L2 entry"):
        opened(made, size=len(made.data) - 512)


@pytest.mark.parametrize("place", ["l1", "l2", "data"])
def test_a_data_cluster_on_something_else_is_refused(place: str) -> None:
    made = qed("DD")
    target = {"l1": CLUSTER, "l2": made.tables["l2"][0], "data": made.entry("l2", 0)}[place]
    with pytest.raises(ImageError, match="a data cluster overlaps something else in the file"):
        opened(made.set_entry("l2", 1, target))


def test_a_data_cluster_in_the_header_is_refused() -> None:
    made = qed("D" * 3)
    # A header of three clusters moves everything by two.
    made.data[CLUSTER:CLUSTER] = bytes(2 * CLUSTER)
    made.set(header_size=3, l1_offset=3 * CLUSTER)
    made.set_word(3 * CLUSTER, 5 * CLUSTER)
    for index, offset in enumerate((7 * CLUSTER, 8 * CLUSTER, 2 * CLUSTER)):
        made.set_word(5 * CLUSTER + index * 8, offset)
    with pytest.raises(ImageError, match="L2 entry is not the offset of a cluster"):
        opened(made)


def test_a_table_used_twice_is_refused() -> None:
    made = qed("D" + "-" * 600, table_size=1)
    with pytest.raises(ImageError, match="a table overlaps something else in the file"):
        opened(made.set_entry("l1", 1, made.entry("l1", 0)))


def test_tables_that_overlap_are_refused() -> None:
    made = qed("-" * 1100, table_size=2)
    with pytest.raises(ImageError, match="a table overlaps something else"):
        opened(made.set_entry("l1", 1, made.entry("l1", 0) + CLUSTER))


def test_clusters_scattered_over_a_huge_file_are_refused() -> None:
    made = qed("-" * 1024 * 2, table_size=4)
    for index in range(1200):
        made.set_entry("l2", index, (index + 1) << 40)
    with pytest.raises(ImageError, match="too scattered"):
        opened(made, size=1 << 62)


def test_a_file_of_8_eib_opens_as_fast_as_its_content() -> None:
    with opened(
        qed("D-ZD", cluster_size=64 * KIB, table_size=4).set(image_size=64 * TIB), size=(1 << 63) - 1
    ) as image:
        assert len([*image.extents(0, image.virtual_size)]) == 5


@pytest.mark.qemu
def test_handmade_images_are_clean(tmp_path: Path) -> None:
    for table_size in (2, 16):
        path = qed("D-ZD" * 300, table_size=table_size).write(tmp_path / "vm.qed")
        assert images.check(path) == 0


@pytest.mark.qemu
def test_an_image_of_qemu(tmp_path: Path) -> None:
    base = images.create(tmp_path / "base.raw", MIB)
    path = images.create(tmp_path / "vm.qed", MIB, backing="base.raw")
    images.draw(path, "-A0xB")
    with QedImage.open(str(path), memory_file(path.read_bytes())) as image:
        assert image.backing == Backing(b"base.raw", "raw")
        assert images.kinds(image) == images.own_extents(path)
    assert base.exists()
