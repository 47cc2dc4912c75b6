"""Reading what lies below overlays: whether it may be read, and once for all overlays that stand on it."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from overlaysync.formats.detect import open_image
from overlaysync.formats.files import open_named
from overlaysync.formats.image import Format, Image
from overlaysync.formats.ownership import is_ours
from overlaysync.formats.recognition import Vouched, always, never
from overlaysync.model.fingerprint import Fingerprint

Followed: TypeAlias = Callable[[str, os.stat_result], bool]
"""Whether what the header of an overlay names may be read: its real path, and what is known of its file."""

_KEPT = 8
"""Images whose tables are remembered: lineages of a lab have few masters, and their overlays lie together."""


class OpenBelow(Protocol):
    """Opens the image at a path, of a format or any; see :func:`overlaysync.formats.detect.open_image`."""

    def __call__(self, path: str, format: Format | None, /) -> Image: ...


def is_own(_path: str, status: os.stat_result) -> bool:
    """Follow overlays of this user and of root; see :data:`Followed`."""
    return is_ours(status)


def open_anew(path: str, format: Format | None, /) -> Image:
    """Open an image and read its tables; see :class:`OpenBelow`."""
    return open_image(path, format, always)


@dataclass(frozen=True, slots=True)
class Access:
    """How the files of a chain may be read.

    Attributes:
        vouched: asked about files that should not be taken for images.
        followed: asked whether the header of an overlay that the user did not name is believed.
        below: opens the backing files.
        running: a VM writes to the top image: of it, only the header is read.
    """

    vouched: Vouched = never
    followed: Followed = is_own
    below: OpenBelow = open_anew
    running: bool = False


class ReadOnce:
    """Opens backing files, and reads the tables of one only when it has changed since the last time.

    A directory of overlays stands on few masters, and the tables of a master are large. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[tuple[str, Format | None], tuple[Fingerprint, Image]] = OrderedDict()

    def __call__(self, path: str, format: Format | None, /) -> Image:
        """Open an image; see :class:`OpenBelow`."""
        fd, real = open_named(path)
        try:
            file = Fingerprint.of(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            known, image = self._read.get((real, format), (None, None))
        if image is not None and known == file:
            image = image.on(fd)
        else:
            image = open_image(path, format, always, file=fd)
            image.real_path = real
        image.path = path
        if Fingerprint.of(os.fstat(fd)) == file:
            self._keep((real, format), file, image)
        return image

    def _keep(self, key: tuple[str, Format | None], file: Fingerprint, image: Image) -> None:
        with self._lock:
            self._read[key] = file, image
            self._read.move_to_end(key)
            while len(self._read) > _KEPT:
                self._read.popitem(last=False)
