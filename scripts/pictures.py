"""Draw the pictures of the documentation into docs/pictures, from an example."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before what is imported from there

from overlaysync.model.fingerprint import Fingerprint  # noqa: E402
from overlaysync.ops.pictures.life import EXAMPLE, life_scene  # noqa: E402
from overlaysync.ops.pictures.lineage import lineage_scene  # noqa: E402
from overlaysync.ops.pictures.svg import draw_scene  # noqa: E402
from overlaysync.ops.tree import Tree, build_tree  # noqa: E402
from overlaysync.store.images import ImageRow  # noqa: E402
from overlaysync.units import GIB, MIB  # noqa: E402

PLACE = ROOT / "docs" / "pictures"
# name, disk, layer and disk below of an overlay, MiB of data
IMAGES = (
    ("debian-testing-amd64", 1, 0, 0, 3482),
    ("router", 2, 3, 1, 412),
    ("web", 4, 5, 1, 186),
    ("test", 6, 7, 1, 9),
    ("debian-web", 4, 0, 0, 3668),
    ("shop", 8, 9, 4, 74),
)


def digest(number: int) -> bytes:
    """Return an id that looks like one."""
    return hashlib.sha256(bytes([number])).digest()


def example_tree() -> Tree:
    """Return the family tree of the tutorial."""
    rows = [
        ImageRow(
            path=f"/home/pl/{name}.qcow2",
            chain=(Fingerprint(1, at, 0, 0, 0),),
            format="qcow2",
            virtual_size=120 * GIB,
            disk=digest(disk),
            layer=digest(layer) if layer else None,
            parent=digest(parent) if parent else None,
            verified_at=0.0,
        )
        for at, (name, disk, layer, parent, _) in enumerate(IMAGES)
    ]
    sizes = {digest(layer or disk): size * MIB for _, disk, layer, _, size in IMAGES}
    return build_tree(rows, [], data_sizes=sizes)


def pictures() -> Mapping[str, str]:
    """Return the files of all pictures."""
    return {
        f"{name}-{lang}.svg": draw_scene(scene)
        for lang in ("en", "fr")
        for name, scene in (
            ("life", life_scene(EXAMPLE, lang)),
            ("tree", lineage_scene(example_tree(), lang)),
        )
    }


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (PLACE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
