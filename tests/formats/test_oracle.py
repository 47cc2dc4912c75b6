"""QEMU as the oracle: whatever a guest did, we map the layer and read the disk as QEMU does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlaysync.formats.chain import Chain
from overlaysync.model.digest import Kind
from overlaysync.units import KIB, MIB, SECTOR
from tests import images
from tests.counts import record_counts
from tests.effort import EFFORT
from tests.images import Op

pytestmark = pytest.mark.qemu

MAX_SIZE = 12 * MIB


@dataclass(frozen=True)
class Layer:
    """An image to be made: suffix, options of its format, size and what the guest does."""

    suffix: str
    size: int
    options: dict[str, object] = field(default_factory=dict)
    ops: tuple[Op, ...] = ()


def cluster_of(suffix: str, options: dict[str, object]) -> int:
    default = 4 * KIB if suffix == "raw" else 64 * KIB
    return int(str(options.get("cluster_size", default)))


@st.composite
def formats(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A format and its geometry."""
    suffix = draw(st.sampled_from(["qcow2", "qcow2", "qed", "raw"]))
    if suffix == "raw":
        return suffix, {}
    if suffix == "qed":
        size = draw(st.sampled_from([4 * KIB, 16 * KIB, 64 * KIB, MIB]))
        return suffix, {"cluster_size": size, "table_size": draw(st.sampled_from([2, 4, 16]))}
    bits = draw(st.integers(9, 21))
    options: dict[str, object] = {"cluster_size": 1 << bits}
    if draw(st.booleans()) and bits >= 14:
        options["extended_l2"] = "on"
    elif draw(st.booleans()):
        options["compat"] = "0.10"
    if "compat" not in options:
        options["compression_type"] = draw(st.sampled_from(["zlib", "zstd"]))
        options["lazy_refcounts"] = draw(st.sampled_from(["on", "off"]))
    return suffix, options


@st.composite
def requests(draw: st.DrawFn, suffix: str, cluster: int, size: int) -> Op:
    """One thing a guest does: in sectors, often at a cluster's boundary."""
    what = draw(st.sampled_from(["write", "write", "zero", "unmap", "discard", "compress"]))
    unit = draw(st.sampled_from([SECTOR, 4 * KIB, cluster]))
    if what == "compress":
        # Whole clusters only, and only qcow2 knows how.
        what, unit = ("compress", cluster) if suffix == "qcow2" else ("write", unit)
    if unit > size:
        unit, what = SECTOR, "write"
    offset = draw(st.integers(0, size // unit - 1)) * unit
    count = 1 if what == "compress" else draw(st.integers(1, 12))
    return Op(what, offset, min(count * unit, size - offset), draw(st.integers(0, 255)))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    suffix, options = draw(formats())
    cluster = cluster_of(suffix, options)
    sectors = st.integers(1, min(MAX_SIZE, 40 * cluster) // SECTOR)
    size = draw(sectors) * SECTOR
    ops = draw(st.lists(requests(suffix, cluster, size), max_size=10))
    # QEMU compresses only what nobody has written.
    compressed = {op.offset: op for op in ops if op.what == "compress"}
    others = [op for op in ops if op.what != "compress"]
    return Layer(suffix, size, options, (*compressed.values(), *others))


def build(directory: Path, made: list[Layer]) -> Path:
    """Make the images of a chain, the lowest first; return the top."""
    path: Path | None = None
    for level, layer in enumerate(made):
        suffix = layer.suffix if path is None or layer.suffix != "raw" else "qed"
        backing = None if path is None else path.name
        path = images.create(directory / f"{level}.{suffix}", layer.size, backing=backing, **layer.options)
        images.apply(path, layer.ops)
    assert path is not None
    return path


def pieces(chain: Chain, step: int) -> Iterator[tuple[int, int, Kind]]:
    """The top layer's extents, asked for ``step`` bytes at a time."""
    for offset in range(0, chain.virtual_size, step):
        for extent in chain.top.extents(offset, min(step, chain.virtual_size - offset)):
            yield extent.offset, extent.length, extent.kind


_compared = count(1)


def assert_as_qemu(path: Path, step: int) -> None:
    with Chain.open(str(path)) as chain:
        expected = images.own_extents(path)
        assert images.kinds(chain.top) == expected
        assert images.join(pieces(chain, step)) == expected
        buffer = bytearray(b"?" * chain.virtual_size)
        chain.read_into(0, memoryview(buffer))
        assert buffer == images.content(path)
    record_counts(f"generated-{os.getpid()}", compared=next(_compared))


def check_chain(made: list[Layer], step: int, *, compress: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = build(Path(name), made)
        assert_as_qemu(top, step)
        if compress:
            options = {"compression_type": "zstd"} if step % 2 else {}
            assert_as_qemu(images.convert(top, Path(name) / "flat.qcow2", compress=True, **options), step)


STEPS = st.integers(SECTOR, 3 * MIB)
CHAINS = st.lists(layers(), min_size=1, max_size=3)


@pytest.mark.red_without("F4", "a ZERO cluster shows the backing file")
@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(CHAINS, STEPS, st.booleans())
def test_generated_chains(made: list[Layer], step: int, compress: bool) -> None:
    check_chain(made, step, compress=compress)


@pytest.mark.holds("F4")
@pytest.mark.fuzz
@pytest.mark.slow
@settings(max_examples=150 * EFFORT, suppress_health_check=list(HealthCheck))
@given(CHAINS, STEPS, st.booleans())
def test_many_generated_chains(made: list[Layer], step: int, compress: bool) -> None:
    check_chain(made, step, compress=compress)


def test_a_disk_over_many_tables(tmp_path: Path) -> None:
    base = images.create(tmp_path / "base.raw", 3 << 30)
    images.draw(base, "A" * 20, offset=(1 << 29) - 10 * 64 * KIB)
    for suffix in ("qed", "qcow2"):
        path = images.create(tmp_path / f"vm.{suffix}", 3 << 30, backing=base.name)
        for table in (1, 4):
            images.draw(path, "BB0-BB--BB", offset=(table << 29) - 4 * 64 * KIB)
        with Chain.open(str(path)) as chain:
            assert images.kinds(chain.top) == images.own_extents(path)


def test_partly_written_subclusters_show_the_base(tmp_path: Path) -> None:
    base = images.create(tmp_path / "base.raw", MIB)
    images.draw(base, "A" * 16)
    path = images.create(
        tmp_path / "vm.qcow2", MIB, backing=base.name, extended_l2="on", cluster_size=128 * KIB
    )
    images.draw(path, "-B0--B", unit=4 * KIB, offset=128 * KIB)
    assert_as_qemu(path, 4 * KIB)
    with Chain.open(str(path)) as chain:
        kinds = [extent.kind for extent in chain.top.extents(128 * KIB, 24 * KIB)]
        assert kinds == [Kind.UNALLOCATED, Kind.DATA, Kind.ZERO, Kind.UNALLOCATED, Kind.DATA]


def test_larger_and_smaller_overlays(tmp_path: Path) -> None:
    base = images.create(tmp_path / "base.raw", MIB)
    images.draw(base, "A" * 16)
    for size in (MIB // 2, MIB + 3 * SECTOR, 2 * MIB):
        path = images.create(tmp_path / f"{size}.qed", size, backing=base.name)
        images.draw(path, "-B")
        assert_as_qemu(path, 64 * KIB)


def test_committed_and_emptied_overlays(tmp_path: Path) -> None:
    base = images.create(tmp_path / "base.qcow2", MIB)
    path = images.create(tmp_path / "vm.qcow2", MIB, backing=base.name)
    images.draw(path, "ABC")
    images.run("qemu-img", "commit", "-q", "-f", "qcow2", path)
    assert_as_qemu(path, MIB)
    assert_as_qemu(base, MIB)
