"""Opening an image by name: its format is read from the file, and must be the one that was named, if any."""

from __future__ import annotations

import os

from overlaysync.errors import ImageError
from overlaysync.formats.files import open_named
from overlaysync.formats.image import Format, Image
from overlaysync.formats.qcow2 import Qcow2Image
from overlaysync.formats.qed import QedImage
from overlaysync.formats.raw import RawImage
from overlaysync.formats.recognition import (
    HEAD_SIZE,
    Vouched,
    detect_format,
    foreign_format,
    how_to_insist,
    never,
    objection,
    unlike_disk,
)

_READERS: dict[Format, type[Image]] = {
    Format.RAW: RawImage,
    Format.QED: QedImage,
    Format.QCOW2: Qcow2Image,
}


class WrongFormatError(ImageError):
    """An image is of another format than it was said to be.

    Attributes:
        said: that format.
        content: what it is, in a sentence ("qcow2", "a VMDK image"); "" where it begins like no image.
        found: the format that could be said instead; None where the file is no image that we read.
    """

    def __init__(self, path: str, *, said: Format, content: str, found: Format | None) -> None:
        reason = f"it is {content}, not {said}" if content else f"it does not begin like a {said} image"
        super().__init__(reason, path=path)
        self.said = said
        self.content = content
        self.found = found


def open_image(
    path: str,
    format: Format | None = None,
    vouched: Vouched = never,
    *,
    file: int | None = None,
    tables: bool = True,
) -> Image:
    """Open the image at ``path``; own layer only.

    Args:
        path: may be a symlink; where ``file`` is given, its real path.
        format: what the user, the catalog or an overlay's header says it is; None to look.
        vouched: asked where nothing is said and the file should not be taken for an image.
        file: a descriptor of the file, which the image takes over; None to open it by its name.
        tables: False to read only the header: all that can be relied on while a VM writes to the image.

    Raises:
        WrongFormatError: it is of another format.
        ImageError: it is damaged, unsupported, no regular file, or does not look like an image.
        NotFoundError: there is nothing.
        NotAllowedError: permissions forbid it.
    """
    fd, real = open_named(path) if file is None else (file, path)
    try:
        found = detect_format(fd)
        if format not in (None, found):
            raise _mismatch(path, fd, format, found)
        image = _READERS[found].open(path, fd, tables=tables)
        image.real_path = real
        reason = objection(path, fd, found) if format is None else ""
        if reason and not vouched(path, found):
            raise ImageError(reason, path=path, hint=how_to_insist(path, found))
        return image
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise ImageError(f"it cannot be read ({error.strerror})", path=path) from error
        raise


def _mismatch(path: str, fd: int, said: Format, found: Format) -> WrongFormatError:
    if found is not Format.RAW:
        return WrongFormatError(path, said=said, content=found.value, found=found)
    foreign = foreign_format(os.pread(fd, HEAD_SIZE, 0)) or ""
    is_disk = not foreign and not unlike_disk(path, fd)
    return WrongFormatError(path, said=said, content=foreign, found=found if is_disk else None)
