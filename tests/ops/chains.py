"""Chains of images that QEMU makes, drawn by hypothesis: formats, cluster sizes, odd sizes, requests."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.images import Op, apply, create
from tests.ops.world import World

SECTOR = 512
KIB = 1024


@dataclass(frozen=True)
class Geometry:
    """Format and options of one image.

    Attributes:
        unit: what it allocates: cluster or subcluster, in bytes.
    """

    format: str
    cluster_size: int = 4096
    extended: bool = False
    compat: str = "1.1"

    def __str__(self) -> str:
        compat = "-v2" if self.compat == "0.10" else ""
        return f"{self.format}-{self.cluster_size}{'-subclusters' if self.extended else ''}{compat}"

    @property
    def options(self) -> dict[str, Any]:
        if self.format == "raw":
            return {}
        options: dict[str, Any] = {"cluster_size": self.cluster_size}
        if self.format == "qcow2":
            options["compat"] = self.compat
        return options | ({"extended_l2": "on"} if self.extended else {})

    @property
    def unit(self) -> int:
        return self.cluster_size // 32 if self.extended else self.cluster_size

    @property
    def granule(self) -> int:
        return min(65536, max(4096, self.unit))


RAW = Geometry("raw")
OVERLAYS = (
    Geometry("qcow2", 512),
    Geometry("qcow2", 1024),
    Geometry("qcow2", 4 * KIB),
    Geometry("qcow2", 16 * KIB),
    Geometry("qcow2", 64 * KIB),
    Geometry("qcow2", 64 * KIB, compat="0.10"),
    Geometry("qcow2", 256 * KIB),
    Geometry("qcow2", 2048 * KIB),
    Geometry("qcow2", 16 * KIB, extended=True),
    Geometry("qcow2", 128 * KIB, extended=True),
    Geometry("qcow2", 2048 * KIB, extended=True),
    Geometry("qed", 4 * KIB),
    Geometry("qed", 8 * KIB),
    Geometry("qed", 64 * KIB),
    Geometry("qed", 1024 * KIB),
)


@dataclass(frozen=True)
class Spec:
    """One image of a chain: how it is made and what a guest then does to it."""

    geometry: Geometry
    size: int
    ops: tuple[Op, ...]


SIZES = st.one_of(
    st.integers(1, 400),
    st.sampled_from([8, 127, 128, 129, 256, 1024, 4096, 4097, 8195, 10_000]),
).map(lambda sectors: sectors * SECTOR)


@st.composite
def ops(draw: st.DrawFn, geometry: Geometry, size: int) -> tuple[Op, ...]:
    """Requests, aligned to nothing or to clusters."""
    made = []
    for _ in range(draw(st.integers(0, 6))):
        kinds = ["write", "write", "zero", "discard", "stored zeros"]
        if geometry.format == "qcow2":
            kinds += ["unmap", "compress"]
        what = draw(st.sampled_from(kinds))
        step = geometry.cluster_size if what == "compress" else draw(st.sampled_from([SECTOR, geometry.unit]))
        offset = draw(st.integers(0, (size - 1) // step)) * step
        length = min(size - offset, step * draw(st.integers(1, 1 if what == "compress" else 9)))
        if what == "stored zeros":
            made.append(Op("write", offset, length, 0))
        else:
            made.append(Op(what, offset, length, draw(st.integers(1, 255))))
    # QEMU compresses only into clusters that nothing was written to.
    compressed = {op.offset: op for op in made if op.what == "compress"}
    return (*compressed.values(), *(op for op in made if op.what != "compress"))


@st.composite
def specs(draw: st.DrawFn, *, depth: int | None = None) -> tuple[Spec, ...]:
    """A chain, lowest image first."""
    count = depth or draw(st.integers(2, 3))
    chain: list[Spec] = []
    for number in range(count):
        bases = (RAW, *OVERLAYS) if number == 0 else OVERLAYS
        geometry = draw(st.sampled_from(bases))
        size = draw(SIZES if not chain else st.one_of(st.just(chain[-1].size), SIZES))
        chain.append(Spec(geometry, size, draw(ops(geometry, size))))
    return tuple(chain)


def build(directory: Path, chain: tuple[Spec, ...], *, name: str = "image") -> list[Path]:
    """The files of ``chain``, top last."""
    paths: list[Path] = []
    for number, spec in enumerate(chain):
        path = directory / f"{name}{number}.{spec.geometry.format}"
        backing = paths[-1] if paths else None
        create(path, spec.size, backing=backing, **spec.geometry.options)
        apply(path, spec.ops)
        paths.append(path)
    return paths


@contextlib.contextmanager
def fresh_world() -> Iterator[World]:
    """A world for one example."""
    with tempfile.TemporaryDirectory() as directory:
        world = World.make(Path(directory))
        try:
            yield world
        finally:
            world.catalog.close()
