"""Opening an image by name: its format is read from the file, and must be the one that was named, if any."""

from __future__ import annotations

import os

from overlaysync.errors import ImageError
from overlaysync.formats.files import open_regular
from overlaysync.formats.image import MAGIC, Format, Image
from overlaysync.formats.qcow2 import Qcow2Image
from overlaysync.formats.qed import QedImage
from overlaysync.formats.raw import RawImage

_READERS: dict[Format, type[RawImage | QedImage | Qcow2Image]] = {
    Format.RAW: RawImage,
    Format.QED: QedImage,
    Format.QCOW2: Qcow2Image,
}


def open_image(path: str, format: Format | None = None) -> Image:
    """Open the image at ``path``; own layer only.

    Args:
        path: may be a symlink.
        format: what the user or an overlay's header says it is; None to look.

    Raises:
        ImageError: it is damaged, unsupported, of another format, or no regular file.
        NotFoundError: there is nothing.
        NotAllowedError: permissions forbid it.
    """
    fd = open_regular(path)
    try:
        found = detect_format(fd)
        if format not in (None, found):
            raise ImageError(_mismatch(format, found), path=path)
        return _READERS[found].open(path, fd)
    except BaseException:
        os.close(fd)
        raise


def detect_format(fd: int) -> Format:
    """QED or qcow2 if the file begins so, else raw (:class:`RawImage` refuses what only looks raw)."""
    begin = os.pread(fd, 4, 0)
    return next((format for format, magic in MAGIC.items() if begin == magic), Format.RAW)


def _mismatch(declared: Format | None, found: Format) -> str:
    content = f"is {found}" if found is not Format.RAW else "does not begin like one"
    return f"it is declared {declared} but {content}"
