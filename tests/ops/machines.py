"""Machines that publish for each other: real files, catalogs and signatures; only the transfer is a copy."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.ops.manifest_rows import keep_manifest, manifest_row
from overlaysync.ops.publish import Publisher
from overlaysync.ops.versions import settled
from overlaysync.store.held import Held
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.teams import Team
from overlaysync.units import CHUNK
from tests.ops.world import World

CREATED = "2026-01-31T12:00:00Z"


@dataclass(frozen=True)
class Machine:
    """A machine with a key; ``name`` is in its label.

    Attributes:
        world: its catalog, library and directory of images.
        teams: those it is in, by name.
    """

    name: str
    world: World
    key: NodeKey
    teams: Mapping[str, Team] = field(default_factory=dict)

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.world.library, self.key, f"{self.name}@lab-abc234", self.teams)

    def path(self, name: str) -> Path:
        return self.world.images / name

    def write(self, name: str, text: str) -> Path:
        """A raw image with a content of its own, or new content in the one that is there."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(text.encode()).digest() * (CHUNK // 32))
        return path

    def publish(
        self,
        file: str,
        *,
        team: str | None = None,
        name: str | None = None,
        note: str = "",
        created: str = CREATED,
        continues: bool = False,
    ) -> Manifest:
        """What the file holds, published."""
        known = self.world.known(self.path(file))
        more = {"name": name, "note": note, "created": created, "continues": continues}
        return self.publisher.publish(known, team=team, **more)  # type: ignore[arg-type]

    def sees(self, *manifests: Manifest) -> None:
        """They were listed by somebody within reach."""
        self.world.catalog.manifests.note_seen(map(manifest_row, manifests), at=CREATED)

    def take(
        self, manifest: Manifest, source: Path, file: str, *, superseded: tuple[bytes, ...] = ()
    ) -> Path:
        """Fetch ``manifest``, of which ``source`` has the bytes, into a file."""
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        keep_manifest(self.world.catalog, manifest, at=CREATED)
        known = self.world.known(path)
        assert known.content.id == manifest.header.content_id
        held = settled(self.world.catalog, manifest, superseded)
        self.world.catalog.held.hold(
            Held(known.path, manifest.header.team, manifest.header.name, held, known.files[0])
        )
        return path


@contextmanager
def machine(root: Path, name: str, **teams: Team) -> Iterator[Machine]:
    """A machine with a directory of its own below ``root``."""
    world = World.make(root / name)
    seed = hashlib.sha256(name.encode()).digest()
    try:
        yield Machine(name, world, NodeKey(Ed25519PrivateKey.from_private_bytes(seed)), teams)
    finally:
        world.catalog.close()


def inode_of(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
