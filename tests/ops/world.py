"""A node's offline half in a directory: catalog, library, maker; and images to try them on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from overlaysync.formats.chain import Chain
from overlaysync.formats.image import Format
from overlaysync.formats.reading import Access
from overlaysync.formats.recognition import always
from overlaysync.model.digest import Kind
from overlaysync.ops.known import Known
from overlaysync.ops.library import Library
from overlaysync.ops.make import Maker
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from tests import reference
from tests.images import check, content, format_of, own_extents

NOW = 1000.0


@dataclass(frozen=True)
class World:
    """Everything an offline operation needs.

    Attributes:
        images: an empty directory for images.
    """

    images: Path
    home: Home
    catalog: Catalog
    library: Library
    maker: Maker

    @classmethod
    def make(cls, root: Path) -> World:
        (root / "images").mkdir(parents=True)
        home = Home(root / "home", root / "config").prepare()
        catalog = Catalog.open(home)
        library = Library(catalog)
        return cls(root / "images", home, catalog, library, Maker(library, home.journals))

    def known(self, path: Path, *, fresh: bool = False) -> Known:
        """The image as the library knows it (hashed when it does not, or when ``fresh``)."""
        examine = self.library.examine_anew if fresh else self.library.examine
        return examine(path, now=NOW, format=Format(format_of(path)))

    def new(self, path: Path, base: Path) -> Known:
        return self.maker.new(str(path), self.known(base), format=Format(format_of(path)), now=NOW)

    def promote(self, overlay: Path, path: Path) -> Known:
        format = Format(format_of(path))
        return self.maker.promote(self.known(overlay), str(path), format=format, now=NOW)

    def rebase(self, overlay: Path, base: Path, path: Path, *, replace: bool = False) -> Known:
        known = self.known(overlay)
        replaces = known.files[0].entry if replace else None
        return self.maker.rebase(known, self.known(base), str(path), now=NOW, replaces=replaces)


def sha(path: Path) -> str:
    """Of the file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hidden_files(directory: Path) -> list[str]:
    """Part files and the like that something left behind."""
    return [name for name in os.listdir(directory) if name.startswith(".")]


def is_clean(path: Path) -> bool:
    """Whether QEMU finds nothing wrong with the file (raw has nothing to be wrong)."""
    return format_of(path) == "raw" or check(path) == 0


def guest(path: Path) -> bytes:
    """What the program reads through the chain, whatever it is made of."""
    with Chain.open(str(path), Format(format_of(path)), Access(always)) as chain:
        buffer = bytearray(b"?" * chain.virtual_size)
        chain.read_into(0, memoryview(buffer))
        return bytes(buffer)


def expected_layer(path: Path, parent: Path, granule: int) -> reference.Listed:
    """The layer by the reference, from what QEMU maps and reads."""
    data = content(path)
    names = {Kind.DATA: "data", Kind.ZERO: "zero"}
    runs = [
        reference.Run(offset, length, names[kind], data[offset : offset + length])
        for offset, length, kind in own_extents(path)
        if kind != Kind.UNALLOCATED
    ]
    return reference.layer(content(parent), len(data), granule, runs)
