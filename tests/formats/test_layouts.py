"""Layouts of new images, with QEMU as the oracle: what is written by plan must check clean and read back."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from overlaysync.errors import ImageError
from overlaysync.formats.image import Format
from overlaysync.formats.layout import Layout, Target, check_target, cluster_size_for
from overlaysync.formats.plan import plan_layout
from overlaysync.formats.qcow2_layout import Qcow2Layout, refcount_clusters
from overlaysync.formats.qed_layout import QedLayout, choose_table_size
from overlaysync.model.datamap import DataMap
from overlaysync.model.digest import UNALLOCATED, ZERO, Kind, Kinds
from overlaysync.model.manifest import FORMATS
from overlaysync.model.pages import PageListBuilder, page_length
from overlaysync.units import CHUNK, GIB, KIB, MAX_VIRTUAL_SIZE, MIB, PAGE_UNITS, SECTOR, TIB, ceil_div

pytestmark = pytest.mark.holds("F4")

MASTER_SIZE = 3 * MIB + SECTOR
BIG = 64 * MIB
TABLED = (Format.QED, Format.QCOW2)
WRITTEN = tuple(map(Format, FORMATS))
"""A format that is only read has no layout."""

U, Z, D = Kind.UNALLOCATED, Kind.ZERO, Kind.DATA


# -- helpers -----------------------------------------------------------------------------------------


@dataclass
class Pages:
    """A unit map in memory: page number → kinds."""

    pages: dict[int, Kinds]

    def kind_pages(self) -> Iterator[tuple[int, Kinds]]:
        return iter(self.pages.items())

    def kind_groups(self) -> Iterator[tuple[NDArray[np.int64], Kinds]]:
        """Pages that are alike together."""
        alike: dict[bytes, list[int]] = {}
        for index, kinds in self.pages.items():
            alike.setdefault(kinds.tobytes(), []).append(index)
        return ((np.array(indices), self.pages[indices[0]]) for indices in alike.values())


def as_pages(kinds: Kinds, blank: Kind, *, keep_blank: bool = False) -> Pages:
    """All units' kinds cut into pages, those that are wholly blank left out."""
    cut = {at // PAGE_UNITS: kinds[at : at + PAGE_UNITS] for at in range(0, len(kinds), PAGE_UNITS)}
    return Pages({index: page for index, page in cut.items() if keep_blank or (page != blank).any()})


def pages_of(target: Target, units: dict[int, Kind]) -> Pages:
    """The pages of an image that is blank but for ``units``."""
    pages: dict[int, Kinds] = {}
    for unit, kind in sorted(units.items()):
        index, at = divmod(unit, PAGE_UNITS)
        if index not in pages:
            pages[index] = np.full(page_length(target.unit_count, index), target.blank, dtype=np.uint8)
        pages[index][at] = kind
    return Pages(pages)


def make_target(format: Format, **changes: Any) -> Target:
    plain = Target(format, cluster_size=CHUNK, virtual_size=MIB, unit=CHUNK, blank=Kind.UNALLOCATED)
    return replace(plain, **changes)


def layered(format: Format, **changes: Any) -> Target:
    return make_target(format, **{"backing_name": b"master.raw", "backing_format": Format.RAW} | changes)


def write_image(
    path: Path, layout: Layout, units: Sequence[int], body: Callable[[int], bytes], order: Sequence[int] = ()
) -> None:
    """Write ``layout`` with the data units ``units``, in ``order`` (positions in ``units``), tables last."""
    with path.open("xb") as file:
        os.ftruncate(file.fileno(), layout.file_size)
        for slot in order or range(len(units)):
            (offset,) = layout.locate(slot, np.array([units[slot]], dtype=np.int64))
            os.pwrite(file.fileno(), body(units[slot]), int(offset))
        for offset, data in layout.metadata():
            os.pwrite(file.fileno(), data, offset)
        assert os.fstat(file.fileno()).st_size == layout.file_size


def qemu_img(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)


def check(path: Path, format: Format) -> None:
    result = qemu_img("check", "-f", format, path)
    assert result.returncode == 0, result.stdout + result.stderr


def compare(path: Path, format: Format, expected: Path) -> None:
    result = qemu_img("compare", "-f", format, "-F", "raw", path, expected)
    assert result.returncode == 0, result.stdout + result.stderr


def read_pattern(path: Path, format: Format, reads: Sequence[tuple[int, int, int]]) -> None:
    """QEMU reads at (guest offset, length) nothing but one byte's repetition."""
    commands = [f"-c read -P {byte} {offset} {length}" for offset, length, byte in reads]
    result = subprocess.run(
        ["qemu-io", "-r", "-f", format, *commands, str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def own_map(path: Path, format: Format) -> list[dict[str, Any]]:
    """QEMU's extents of the image without its backing file."""
    file = {"driver": "file", "filename": str(path)}
    source = {"driver": str(format), "file": file} | ({"backing": None} if format in TABLED else {})
    result = qemu_img("map", "--output=json", "json:" + json.dumps(source))
    assert result.returncode == 0, result.stderr
    extents: list[dict[str, Any]] = json.loads(result.stdout)
    return extents


def mapped_kind(extent: dict[str, Any]) -> Kind:
    if not extent["present"]:
        return Kind.UNALLOCATED
    return Kind.DATA if extent["data"] else Kind.ZERO


def cluster_kinds(kinds: Kinds, target: Target) -> list[Kind]:
    """What every cluster should be, worked out one by one."""
    result = []
    for start in range(0, target.virtual_size, target.cluster_size):
        end = min(start + target.cluster_size, target.virtual_size)
        inside = kinds[start // target.unit : ceil_div(end, target.unit)]
        kind = Kind(int(max(inside)))
        result.append(kind if kind is Kind.DATA or target.backing_name else Kind.UNALLOCATED)
    return result


def check_map(path: Path, layout: Layout, kinds: Kinds) -> None:
    """QEMU sees each cluster as planned, and data where ``locate`` says."""
    target = layout.target
    wanted = cluster_kinds(kinds, target)
    data = np.flatnonzero(kinds == Kind.DATA)
    places = dict(zip(data.tolist(), layout.locate(0, data).tolist(), strict=True))
    covered = 0
    for extent in own_map(path, target.format):
        assert extent["start"] == covered
        if not target.virtual_size:
            break  # one extent of no bytes
        covered += extent["length"]
        first = extent["start"] // target.cluster_size
        count = ceil_div(extent["length"], target.cluster_size)
        assert set(wanted[first : first + count]) == {mapped_kind(extent)}
        if mapped_kind(extent) is Kind.DATA:
            for unit in range(ceil_div(extent["start"], target.unit), ceil_div(covered, target.unit)):
                if unit in places:
                    assert places[unit] == extent["offset"] + unit * target.unit - extent["start"]
    assert covered == target.virtual_size


def guest_content(kinds: Kinds, target: Target, bodies: dict[int, bytes], master: bytes) -> bytes:
    """What the guest should read: the master, cut or extended by zeros, under the units of the layer."""
    content = bytearray(master[: target.virtual_size].ljust(target.virtual_size, b"\0"))
    for unit, kind in enumerate(kinds.tolist()):
        start = unit * target.unit
        end = min(start + target.unit, target.virtual_size)
        if kind == Kind.ZERO:
            content[start:end] = bytes(end - start)
        elif kind == Kind.DATA:
            content[start:end] = bodies[unit]
    return bytes(content)


# -- generated images --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A generated image."""

    target: Target
    kinds: Kinds
    seed: int
    keep_blank: bool

    @property
    def pages(self) -> Pages:
        return as_pages(self.kinds, self.target.blank, keep_blank=self.keep_blank)


def fill_kinds(target: Target, runs: list[tuple[Kind, int]], rng: np.random.Generator) -> Kinds:
    """Kinds of all units: ``runs`` repeated, cluster by cluster where clusters hold several units."""
    per_cluster = max(1, target.cluster_size // target.unit)
    groups = ceil_div(target.unit_count, per_cluster)
    pattern = np.concatenate([np.full(length, kind, dtype=np.uint8) for kind, length in runs])
    kinds = np.repeat(np.resize(pattern, groups), per_cluster)[: target.unit_count]
    holes = (kinds == Kind.DATA) & (rng.random(len(kinds)) < 0.3)
    if per_cluster > 1:
        kinds[holes] = Kind.ZERO
    return kinds


@st.composite
def cases(draw: st.DrawFn, format: Format) -> Case:
    smallest = 4 * KIB if format is Format.QED else 512
    largest = 4 * MIB if format is Format.QED else 2 * MIB
    sizes = [1 << bits for bits in range(9, 23) if smallest <= 1 << bits <= largest]
    unit = draw(st.sampled_from([4 * KIB, 8 * KIB, 32 * KIB, CHUNK]))
    # Many pages need small units, several clusters need small clusters; one image stays below 16 MiB, where
    # QEMU begins to see leaks in a QED file with 4 KiB clusters.
    sectors = draw(st.one_of(st.integers(0, 300), st.integers(0, 9 * MIB // SECTOR)))
    backing = draw(st.sampled_from([None, *WRITTEN]))
    target = Target(
        format,
        cluster_size=draw(st.sampled_from(sizes)),
        virtual_size=sectors * SECTOR,
        unit=unit,
        blank=draw(st.sampled_from([Kind.UNALLOCATED, Kind.ZERO])),
        backing_name=None if backing is None else b"./master." + backing.encode(),
        backing_format=backing,
    )
    runs = draw(
        st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(1, 700)), min_size=1, max_size=8)
        | st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(1, 3)), min_size=1, max_size=12)
    )
    seed = draw(st.integers(0, 2**32 - 1))
    kinds = fill_kinds(target, runs, np.random.default_rng(seed))
    return Case(target, kinds, seed, keep_blank=draw(st.booleans()))


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A directory with one master in every format, whose bytes are nowhere zero, and its content."""
    folder = tmp_path_factory.mktemp("masters")
    content = np.random.default_rng(7).integers(1, 256, MASTER_SIZE, dtype=np.uint8).tobytes()
    (folder / "master.raw").write_bytes(content)
    for format in TABLED:
        result = qemu_img(
            "convert", "-f", "raw", "-O", format, folder / "master.raw", folder / f"master.{format}"
        )
        assert result.returncode == 0, result.stderr
    return folder, content


def check_case(case: Case, masters: tuple[Path, bytes]) -> None:
    folder, master = masters
    target = case.target
    rng = np.random.default_rng(case.seed)
    units = np.flatnonzero(case.kinds == Kind.DATA).tolist()
    bodies = {unit: rng.bytes(min(target.unit, target.virtual_size - unit * target.unit)) for unit in units}
    layout = plan_layout(target, case.pages)
    path, expected = folder / "image", folder / "expected"
    path.unlink(missing_ok=True)
    write_image(path, layout, units, bodies.__getitem__, rng.permutation(len(units)).tolist())
    expected.write_bytes(guest_content(case.kinds, target, bodies, master if target.backing_name else b""))
    check(path, target.format)
    compare(path, target.format, expected)
    check_map(path, layout, case.kinds)


def small(format: Format, kinds: list[Kind], **changes: Any) -> Case:
    target = layered(format, virtual_size=len(kinds) * CHUNK, backing_name=b"./master.raw")
    return Case(replace(target, **changes), np.array(kinds, dtype=np.uint8), seed=1, keep_blank=False)


QEMU_SETTINGS = settings(
    max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.slow
@pytest.mark.qemu
@QEMU_SETTINGS
@given(case=cases(Format.QED))
@example(case=small(Format.QED, []))
@example(case=small(Format.QED, [U] * 20))
@example(case=small(Format.QED, [Z] * 20))
@example(case=small(Format.QED, [Z] * 20, blank=Kind.ZERO))
@example(case=small(Format.QED, [D] * 50))
@example(case=small(Format.QED, [U, Z, D, U, U, Z, Z, D, D, D]))
def test_qemu_reads_qed(case: Case, masters: tuple[Path, bytes]) -> None:
    check_case(case, masters)


@pytest.mark.slow
@pytest.mark.qemu
@QEMU_SETTINGS
@given(case=cases(Format.QCOW2))
@example(case=small(Format.QCOW2, []))
@example(case=small(Format.QCOW2, [U] * 20))
@example(case=small(Format.QCOW2, [Z] * 20))
@example(case=small(Format.QCOW2, [Z] * 20, blank=Kind.ZERO))
@example(case=small(Format.QCOW2, [D] * 50))
@example(case=small(Format.QCOW2, [U, Z, D, U, U, Z, Z, D, D, D]))
def test_qemu_reads_qcow2(case: Case, masters: tuple[Path, bytes]) -> None:
    check_case(case, masters)


@pytest.mark.parametrize("format", TABLED)
@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.slow
def test_nothing_overlaps(format: Format, data: st.DataObject) -> None:
    case = data.draw(cases(format))
    layout = plan_layout(case.target, case.pages)
    units = np.flatnonzero(case.kinds == Kind.DATA)
    places = [(offset, offset + len(body)) for offset, body in layout.metadata()]
    assert places[-1][0] == 0
    ends = np.minimum((units + 1) * case.target.unit, case.target.virtual_size)
    lengths = ends - units * case.target.unit
    offsets = layout.locate(0, units)
    places += zip(offsets.tolist(), (offsets + lengths).tolist(), strict=True)
    places.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    assert places[-1][1] <= layout.file_size
    assert layout.file_size % case.target.cluster_size == 0


@pytest.mark.parametrize("format", TABLED)
@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.slow
def test_units_are_found_from_any_slot(format: Format, data: st.DataObject) -> None:
    case = data.draw(cases(format))
    layout = plan_layout(case.target, case.pages)
    units = np.flatnonzero(case.kinds == Kind.DATA)
    first = data.draw(st.integers(0, len(units)))
    end = data.draw(st.integers(first, len(units)))
    assert (layout.locate(first, units[first:end]) == layout.locate(0, units)[first:end]).all()


# -- pages and formats -------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("format", WRITTEN)
def test_from_a_data_map(format: Format, tmp_path: Path) -> None:
    """The map of a manifest will do: a sparse disk of three pages, the middle one left out."""
    size = 2 * BIG + 3 * MIB + SECTOR
    last = size // CHUNK
    bodies = {0: b"a" * CHUNK, 1023: b"b" * CHUNK, 2048: b"c" * CHUNK, last: b"d" * SECTOR}
    store: dict[bytes, bytes] = {}
    builder = PageListBuilder(virtual_size=size, unit=CHUNK, parent=None, keep=store.__setitem__)
    for index in range(3):
        numbers = range(index * PAGE_UNITS, min((index + 1) * PAGE_UNITS, last + 1))
        builder.add(index, b"".join(blake3(bodies[n]).digest() if n in bodies else ZERO for n in numbers))
    data_map = DataMap(builder.build(), store.__getitem__)
    target = make_target(format, virtual_size=size, blank=data_map.pages.blank)
    layout = plan_layout(target, data_map)
    path, expected = tmp_path / "image", tmp_path / "expected"
    with path.open("xb") as file:
        file.truncate(layout.file_size)
        for run in reversed(list(data_map.runs(0, data_map.count))):
            offsets = layout.locate(run.first, run.units)
            for unit, offset in zip(run.units.tolist(), offsets.tolist(), strict=True):
                os.pwrite(file.fileno(), bodies[unit], offset)
        for offset, body in layout.metadata():
            os.pwrite(file.fileno(), body, offset)
    with expected.open("xb") as file:
        file.truncate(size)
        for unit, body in bodies.items():
            os.pwrite(file.fileno(), body, unit * CHUNK)
    compare(path, format, expected)
    if format in TABLED:
        check(path, format)
        kinds = dict(data_map.kind_pages())
        check_map(path, layout, np.concatenate([kinds[0], np.ones(1024), kinds[2]]))


def test_data_map_of_a_layer() -> None:
    store: dict[bytes, bytes] = {}
    builder = PageListBuilder(virtual_size=4 * CHUNK, unit=CHUNK, parent=bytes(32), keep=store.__setitem__)
    builder.add(0, UNALLOCATED + blake3(b"x").digest() + ZERO + blake3(b"y").digest())
    data_map = DataMap(builder.build(), store.__getitem__)
    layout = plan_layout(layered(Format.QED, virtual_size=4 * CHUNK), data_map)
    header, l1, l2 = CHUNK, 4 * CHUNK, 4 * CHUNK
    assert layout.locate(0, np.array([1, 3])).tolist() == [header + l1 + l2, header + l1 + l2 + CHUNK]
    metadata = dict(layout.metadata())
    assert struct.unpack("<4Q", metadata[header + l1][:32]) == (
        0,
        header + l1 + l2,
        1,
        header + l1 + l2 + CHUNK,
    )


@pytest.mark.qemu
@pytest.mark.parametrize("cluster_size", [CHUNK, 2 * MIB])
def test_raw(tmp_path: Path, cluster_size: int) -> None:
    size = 2 * CHUNK + 3 * SECTOR
    target = make_target(Format.RAW, virtual_size=size, cluster_size=cluster_size, blank=Kind.ZERO)
    layout = plan_layout(target, pages_of(target, {0: D, 2: D}))
    assert layout.file_size == size
    assert list(layout.metadata()) == []
    bodies = {0: b"a" * CHUNK, 2: b"c" * 3 * SECTOR}
    write_image(tmp_path / "image", layout, [0, 2], bodies.__getitem__, [1, 0])
    assert (tmp_path / "image").read_bytes() == bodies[0] + bytes(CHUNK) + bodies[2]


# -- headers -----------------------------------------------------------------------------------------


def header_of(layout: Layout) -> bytes:
    *_, (offset, header) = layout.metadata()
    assert offset == 0
    return header


@pytest.mark.parametrize(
    ("backing", "features"), [(Format.RAW, 5), (Format.QED, 1), (Format.QCOW2, 1), (None, 0)]
)
def test_qed_header(backing: Format | None, features: int) -> None:
    name = None if backing is None else b"../m"
    target = make_target(Format.QED, backing_name=name, backing_format=backing)
    header = header_of(plan_layout(target, Pages({})))
    fields = struct.unpack_from("<4sIIIQQQQQII", header)
    place = (0, 0) if name is None else (64, 4)
    assert fields == (b"QED\0", CHUNK, 4, 1, features, 0, 0, CHUNK, MIB, *place)
    assert header[64:] == (name or b"")


def test_qcow2_header() -> None:
    target = layered(Format.QCOW2, backing_name=b"../m", backing_format=Format.QED)
    header = header_of(plan_layout(target, Pages({})))
    assert header[:4] == b"QFI\xfb"
    assert struct.unpack_from(">IQII", header, 4) == (3, 128, 4, 16)
    assert header[72:96] == bytes(24)
    assert struct.unpack_from(">II", header, 96) == (4, 104)
    assert struct.unpack_from(">II8s", header, 104) == (0xE2792ACA, 3, b"qed" + bytes(5))
    assert header[120:] == bytes(8) + b"../m"


@pytest.mark.qemu
@pytest.mark.parametrize("format", TABLED)
@pytest.mark.parametrize("backing", Format)
def test_qemu_sees_the_backing_file(format: Format, backing: Format, tmp_path: Path) -> None:
    name = "./" + "ü" * 100 + "/a:b c"
    target = layered(format, backing_name=name.encode(), backing_format=backing)
    write_image(tmp_path / "image", plan_layout(target, Pages({})), [], lambda unit: b"")
    result = qemu_img("info", "--output=json", "-f", format, tmp_path / "image")
    info = json.loads(result.stdout)
    assert info["backing-filename"] == name
    assert info["virtual-size"] == MIB
    assert info["cluster-size"] == CHUNK
    known = format is Format.QCOW2 or backing is Format.RAW
    assert info.get("backing-filename-format") == (str(backing) if known else None)


@pytest.mark.qemu
@pytest.mark.parametrize("length", [384, 385, 1023])
def test_longest_name_in_qcow2(length: int, tmp_path: Path) -> None:
    name = b"./" + b"n" * (length - 2)
    target = layered(Format.QCOW2, cluster_size=512 if length < 1023 else 2048, backing_name=name)
    if length == 385:
        with pytest.raises(ImageError, match="does not fit"):
            plan_layout(target, Pages({}))
        return
    write_image(tmp_path / "image", plan_layout(target, Pages({})), [], lambda unit: b"")
    result = qemu_img("info", "--output=json", "-f", "qcow2", tmp_path / "image")
    assert json.loads(result.stdout)["backing-filename"] == name.decode()


# -- large images ------------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("format", "cluster_size"), [(Format.QED, CHUNK), (Format.QCOW2, CHUNK), (Format.QCOW2, 2 * MIB)]
)
@pytest.mark.parametrize("size", [TIB, 10 * TIB])
@pytest.mark.slow
def test_large_and_sparse(format: Format, cluster_size: int, size: int, tmp_path: Path) -> None:
    target = make_target(format, virtual_size=size + SECTOR, cluster_size=cluster_size, blank=Kind.ZERO)
    last = target.unit_count - 1
    units = [0, 8191, 8192, 32768, last // 3, last // 3 + 1, last - 1, last]
    layout = plan_layout(target, pages_of(target, dict.fromkeys(units, D)))
    expected = tmp_path / "expected"
    body = {unit: np.random.default_rng(unit).bytes(CHUNK) for unit in units}
    body[last] = body[last][:SECTOR]
    write_image(tmp_path / "image", layout, units, body.__getitem__, list(reversed(range(len(units)))))
    with expected.open("xb") as file:
        file.truncate(target.virtual_size)
        for unit in units:
            os.pwrite(file.fileno(), body[unit], unit * CHUNK)
    check(tmp_path / "image", format)
    compare(tmp_path / "image", format, expected)
    assert (tmp_path / "image").stat().st_blocks * 512 < 64 * MIB


@pytest.mark.qemu
@pytest.mark.parametrize("format", TABLED)
def test_zero_disk_over_a_backing_file(format: Format, tmp_path: Path) -> None:
    """Every cluster hides the backing file although no page is there: tables for the whole disk."""
    master = tmp_path / "master.raw"
    master.write_bytes(b"m" * (9 * MIB))
    size = 5 * BIG + 7 * SECTOR
    target = layered(format, virtual_size=size, blank=Kind.ZERO)
    layout = plan_layout(target, pages_of(target, {1024: D, 3072: U}))
    write_image(tmp_path / "image", layout, [1024], lambda unit: b"x" * CHUNK)
    expected = tmp_path / "expected"
    with expected.open("xb") as file:
        file.truncate(size)
        os.pwrite(file.fileno(), b"x" * CHUNK, 1024 * CHUNK)
    check(tmp_path / "image", format)
    compare(tmp_path / "image", format, expected)
    present = sum(extent["length"] for extent in own_map(tmp_path / "image", format) if extent["present"])
    assert present == size - CHUNK


@pytest.mark.qemu
def test_qed_of_more_than_4_gib(tmp_path: Path) -> None:
    """QEMU divides by cluster_size - 1 when it counts clusters, and calls the surplus leaks; nothing else."""
    size = 4 * GIB + 3 * CHUNK
    target = make_target(Format.QED, virtual_size=size)
    full = np.full(size // CHUNK, Kind.DATA, dtype=np.uint8)
    layout = plan_layout(target, as_pages(full, Kind.ZERO))
    last = len(full) - 1
    path = tmp_path / "image"
    write_image(path, layout, [], lambda unit: b"")
    (offset,) = layout.locate(last, np.array([last]))
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"z" * CHUNK, int(offset))
    leaks = ceil_div(layout.file_size, CHUNK - 1) - layout.file_size // CHUNK
    result = qemu_img("check", "--output=json", "-f", "qed", path)
    report = json.loads(result.stdout)
    assert result.returncode == 3
    assert 0 < report["leaks"] <= leaks
    assert report.get("corruptions", 0) == 0
    assert report["allocated-clusters"] == len(full)
    read_pattern(path, Format.QED, [(last * CHUNK, CHUNK, ord("z")), (0, CHUNK, 0)])


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("cluster_size", "size"), [(4 * MIB, 3 * TIB), (2 * MIB, 3 * TIB), (4 * KIB, 200 * GIB)]
)
def test_table_sizes_that_qemu_opens(cluster_size: int, size: int, tmp_path: Path) -> None:
    """Looked at through reads: map and compare abort in QEMU's own QED images of 128 KiB clusters and more
    where 4 GiB in a row are of one kind (a length of 32 bits).
    """
    target = make_target(Format.QED, virtual_size=size, cluster_size=cluster_size)
    last = target.unit_count - 1
    layout = plan_layout(target, pages_of(target, {0: D, last: D}))
    write_image(tmp_path / "image", layout, [0, last], lambda unit: b"x" * CHUNK)
    check(tmp_path / "image", Format.QED)
    ends = [(0, CHUNK), (size - CHUNK, CHUNK)]
    holes = [(CHUNK, CHUNK), (size // 2, 8 * MIB), (size - 2 * CHUNK, CHUNK)]
    reads = [(*place, ord("x")) for place in ends] + [(*place, 0) for place in holes]
    read_pattern(tmp_path / "image", Format.QED, reads)


def test_table_size_is_the_least_that_reaches() -> None:
    sizes = {16 * GIB: 4, 16 * GIB + SECTOR: 8, 64 * GIB: 8, 64 * GIB + SECTOR: 16, 256 * GIB: 16}
    for size, table_size in sizes.items():
        target = make_target(Format.QED, cluster_size=4 * KIB, virtual_size=size)
        assert choose_table_size(target) == table_size


@pytest.mark.slow
@pytest.mark.parametrize("format", TABLED)
def test_memory_is_flat(format: Format) -> None:
    """1 TiB with 1 % data, first gathered, then in every fourth page: a few MB either way."""
    target = layered(format, virtual_size=TIB)
    full = np.full(PAGE_UNITS, Kind.DATA, dtype=np.uint8)
    some = np.zeros(PAGE_UNITS, dtype=np.uint8)
    some[::25] = Kind.DATA
    for units in (Pages({100 * i: full for i in range(163)}), Pages(dict.fromkeys(range(0, 16384, 4), some))):
        tracemalloc.start()
        layout = plan_layout(target, units)
        for _ in layout.metadata():
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * MIB


# -- refcounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster_size", [512, 1024, 4096, CHUNK])
def test_refcounts_cover_the_file_with_nothing_to_spare(cluster_size: int) -> None:
    per_block, per_table = cluster_size // 2, cluster_size // 8
    edges = [per_block, 2 * per_block, 7 * per_block, per_block * per_table, 3 * per_block * per_table]
    for edge in edges:
        for other in {max(1, edge + near) for near in range(-20, 20)}:
            table, blocks = refcount_clusters(other, cluster_size)
            assert blocks * per_block >= other + table + blocks
            assert table * per_table >= blocks
            fewer = blocks - 1
            assert fewer * per_block < other + ceil_div(fewer, per_table) + fewer
            assert (table - 1) * per_table < blocks


def refcount_edges() -> Iterator[int]:
    """Full disks of 512-byte clusters around the sizes where a refcount block or table cluster is added."""
    before: tuple[int, int] | None = None
    for size in [*range(120 * KIB, 280 * KIB, SECTOR), *range(7800 * KIB, 8200 * KIB, SECTOR)]:
        target = make_target(Format.QCOW2, cluster_size=512, virtual_size=size)
        full = np.full(target.unit_count, Kind.DATA, dtype=np.uint8)
        layout = Qcow2Layout(target, as_pages(full, Kind.ZERO))
        now = (layout.refcount_table_clusters, layout.refcount_blocks)
        if before not in (None, now) and (size < MIB or now[0] != 1):
            yield from (size - SECTOR, size)
            if size > MIB:
                return
        before = now


@pytest.mark.qemu
def test_qemu_counts_the_same_at_refcount_edges(tmp_path: Path) -> None:
    sizes = list(refcount_edges())
    assert len(sizes) >= 4
    for size in sizes:
        target = make_target(Format.QCOW2, cluster_size=512, virtual_size=size)
        full = np.full(target.unit_count, Kind.DATA, dtype=np.uint8)
        write_image(
            tmp_path / str(size), plan_layout(target, as_pages(full, Kind.ZERO)), [], lambda unit: b""
        )
        check(tmp_path / str(size), Format.QCOW2)


# -- geometry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "cluster_size", "unit", "chosen"),
    [
        (Format.QED, CHUNK, CHUNK, CHUNK),
        (Format.QED, 512, 4 * KIB, 4 * KIB),
        (Format.QED, 4 * KIB, 4 * KIB, 4 * KIB),
        (Format.QED, 2 * MIB, CHUNK, CHUNK),  # QEMU: 64 KiB at most
        (Format.QED, 64 * MIB, CHUNK, CHUNK),
        (Format.QCOW2, 512, 4 * KIB, 512),
        (Format.QCOW2, 4 * MIB, CHUNK, 2 * MIB),
        (Format.QCOW2, CHUNK, CHUNK, CHUNK),
        (Format.QCOW2, 128 * KIB, 4 * KIB, 4 * KIB),  # subclusters
        (Format.RAW, 4 * KIB, CHUNK, CHUNK),
    ],
)
def test_cluster_size_for(format: Format, cluster_size: int, unit: int, chosen: int) -> None:
    assert cluster_size_for(format, cluster_size, unit) == chosen


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"virtual_size": 513}, "virtual size"),
        ({"virtual_size": -512}, "virtual size"),
        ({"virtual_size": MAX_VIRTUAL_SIZE + SECTOR}, "virtual size"),
        ({"unit": 2 * KIB}, "unit"),
        ({"unit": 48 * KIB}, "unit"),
        ({"unit": 128 * KIB}, "unit"),
        ({"blank": Kind.DATA}, "left out"),
        ({"backing_name": b""}, "1 to 1023 bytes"),
        ({"backing_name": b"n" * 1024}, "1 to 1023 bytes"),
        ({"backing_name": b"a\0b"}, "NUL"),
        ({"backing_name": b"nbd:host"}, "protocol"),
        ({"backing_name": b"json:{}/x"}, "protocol"),
        ({"backing_name": b":/x"}, "protocol"),
        ({"backing_format": None}, "format is not given"),
    ],
)
@pytest.mark.parametrize("format", TABLED)
def test_refused_targets(format: Format, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        plan_layout(layered(format, **changes), Pages({}))
    assert caught.value.exit_code == 11


@pytest.mark.parametrize(
    ("format", "cluster_size"),
    [
        (Format.QED, 2 * KIB),
        (Format.QED, 8 * MIB),
        (Format.QED, 48 * KIB),
        (Format.QCOW2, 256),
        (Format.QCOW2, 4 * MIB),
        (Format.QCOW2, 0),
    ],
)
def test_refused_cluster_sizes(format: Format, cluster_size: int) -> None:
    with pytest.raises(ImageError, match=re.escape(f"clusters of {cluster_size} bytes")):
        plan_layout(make_target(format, cluster_size=cluster_size), Pages({}))


@pytest.mark.parametrize("name", [b"a/b:c", b"./a:b", b"/a:b", b"n" * 1023])
def test_accepted_names(name: bytes) -> None:
    check_target(layered(Format.QED, backing_name=name))


def test_raw_has_no_backing_file() -> None:
    with pytest.raises(ImageError, match="cannot have a backing file"):
        plan_layout(layered(Format.RAW), Pages({}))


def test_qed_too_large() -> None:
    target = make_target(Format.QED, cluster_size=4 * KIB, virtual_size=256 * GIB + SECTOR)
    with pytest.raises(ImageError, match="QED cannot hold") as caught:
        QedLayout(target, Pages({}))
    assert "larger clusters" in caught.value.hint


def test_qcow2_too_large() -> None:
    most = make_target(Format.QCOW2, cluster_size=512, virtual_size=128 * GIB)
    plan_layout(most, Pages({}))
    with pytest.raises(ImageError, match="qcow2 cannot hold") as caught:
        plan_layout(replace(most, virtual_size=128 * GIB + SECTOR), Pages({}))
    assert "larger clusters" in caught.value.hint


@pytest.mark.parametrize("format", TABLED)
@pytest.mark.parametrize("beside", [Kind.ZERO, Kind.DATA])
def test_mixed_clusters(format: Format, beside: Kind) -> None:
    target = layered(format, cluster_size=2 * CHUNK)
    units = pages_of(target, {6: beside})
    with pytest.raises(ImageError, match=f"guest offset {6 * CHUNK} would hide"):
        plan_layout(target, units)
    plan_layout(replace(target, backing_name=None), units)  # nothing to hide
    ragged = replace(target, virtual_size=7 * CHUNK)
    plan_layout(ragged, pages_of(ragged, {6: beside}))  # the cluster ends with the disk


@pytest.mark.parametrize("format", TABLED)
@pytest.mark.parametrize(
    "pages",
    [
        {1: np.full(16, 2, dtype=np.uint8)},
        {-1: np.full(16, 2, dtype=np.uint8)},
        {0: np.full(17, 2, dtype=np.uint8)},
        {0: np.full(15, 2, dtype=np.uint8)},
        {0: np.full(16, 3, dtype=np.uint8)},
    ],
)
def test_unit_maps_that_do_not_fit(format: Format, pages: dict[int, Kinds]) -> None:
    with pytest.raises(ImageError, match="unit map"):
        plan_layout(make_target(format), Pages(pages))


def test_pages_out_of_order() -> None:
    full = np.full(PAGE_UNITS, 2, dtype=np.uint8)
    with pytest.raises(ImageError, match="out of place"):
        plan_layout(make_target(Format.QED, virtual_size=2 * BIG), Pages({1: full, 0: full}))


@pytest.mark.parametrize("format", TABLED)
@pytest.mark.parametrize("cluster_size", [4 * KIB, CHUNK, 2 * CHUNK])
def test_units_that_are_not_there(format: Format, cluster_size: int) -> None:
    target = make_target(format, cluster_size=cluster_size)
    layout = plan_layout(target, pages_of(target, {2: D, 3: D}))
    assert len(layout.locate(2, np.empty(0, dtype=np.int64))) == 0
    for first, count in ((-1, 1), (2, 1), (1, 2), (0, 3)):
        with pytest.raises(IndexError):
            layout.locate(first, np.arange(2, 2 + count))
    if cluster_size > CHUNK:
        for unit in (8, 5 * PAGE_UNITS):
            with pytest.raises(IndexError):
                layout.locate(0, np.array([unit]))


def test_raw_units_that_are_not_there() -> None:
    layout = plan_layout(make_target(Format.RAW), Pages({}))
    assert layout.locate(0, np.array([15])).tolist() == [15 * CHUNK]
    for unit in (-1, 16):
        with pytest.raises(IndexError):
            layout.locate(0, np.array([unit]))
