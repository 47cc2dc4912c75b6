"""The scratch directory of a drill, and what is left of one whose drill was killed.

Each drill holds a lock on its directory while it runs. The kernel lets go of it when the process dies,
however that happens, so that the next drill knows what nobody uses any more, and removes it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from overlaysync.errors import OverlaysyncError
from overlaysync.store.files import translate

_LOCK, _ELSEWHERE = "lock", "elsewhere"
_NAME = "overlaysync-drill-"


@dataclass(frozen=True, slots=True)
class Scratch:
    """A directory that vanishes with its drill.

    Attributes:
        place: where the drill works.
    """

    place: Path

    def make(self, name: str) -> Path:
        """Make a directory in it."""
        path = self.place / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


@contextmanager
def scratch(root: Path, elsewhere: Path | None) -> Iterator[Scratch]:
    """Make a scratch directory for as long as the block runs.

    Args:
        root: where drills of this home are known.
        elsewhere: a directory of the user's to work in; None to work in ``root`` itself.

    Raises:
        OverlaysyncError: it cannot be made.
    """
    own = root / secrets.token_hex(6)
    place = own / "work" if elsewhere is None else elsewhere / f"{_NAME}{own.name}"
    try:
        own.mkdir(mode=0o700, parents=True)
        lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks has nothing that sweeps it
            fcntl.flock(lock, fcntl.LOCK_EX)
        (own / _ELSEWHERE).write_bytes(os.fsencode(place))
        place.mkdir(mode=0o700)
    except OSError as error:
        shutil.rmtree(own, ignore_errors=True)
        raise translate(
            error, f"Cannot make the directory {place}", hint="name one that you may write to: --scratch DIR"
        ) from error
    try:
        yield Scratch(place)
    finally:
        _remove(own)
        os.close(lock)


def sweep(root: Path) -> int:
    """Remove what drills have left that were killed; returns how many there were."""
    count = 0
    for own in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            lock = os.open(own / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(own)
            count += 1
        except OSError:
            continue  # that drill is under way
        finally:
            os.close(lock)
    return count


def _remove(own: Path) -> None:
    """Remove a scratch directory; the note of where it is goes last."""
    with suppress(OSError, OverlaysyncError):
        place = Path(os.fsdecode((own / _ELSEWHERE).read_bytes()))
        if place.parent == own or place.name == f"{_NAME}{own.name}":
            shutil.rmtree(place, ignore_errors=True)
            if place.exists():
                return
    shutil.rmtree(own, ignore_errors=True)
