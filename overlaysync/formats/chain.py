"""An image together with its backing files: what the guest sees.

Backing files are opened only if their names are plain paths of local files: QEMU also follows ``json:{...}``
and ``nbd://`` there. Names are relative to the directory of the name by which the overlay was opened;
symlinks are not resolved for that. Source: QEMU block.c (path_has_protocol, path_combine,
bdrv_open_backing_file).

A header may name any file as its raw backing file, so that whoever reads the overlay hands out that file: one
that does not look like a disk is read only when it is vouched for. And what lies below an overlay of another
user is not read at all, unless the overlay is the file that was asked for.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from overlaysync.errors import BaseImageError, ImageError, NotAllowedError, NotFoundError, OverlaysyncError
from overlaysync.formats.detect import WrongFormatError, open_image
from overlaysync.formats.files import fill_zeros, open_again
from overlaysync.formats.image import Backing, Extent, Format, Image, check_range, clip
from overlaysync.formats.names import display, has_protocol
from overlaysync.formats.ownership import name_of
from overlaysync.formats.reading import Access
from overlaysync.formats.recognition import Vouched, always, how_to_insist, objection, unlike_disk
from overlaysync.model.digest import Kind
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.units import MIB

MAX_DEPTH = 32
"""Our limit for the images of a chain."""

_SKIP = 16 * MIB
"""A gap in what is asked of a lower image from which it pays to start afresh behind it."""

_PLAIN = Access()
_UNCHECKED = Access(always, lambda _path, _file: True)

Located = tuple[Image | None, Extent]
"""An extent and the image that holds its bytes; None for ZERO."""


class Chain:
    """An open image and its backing files.

    Attributes:
        images: top first.
    """

    def __init__(self, images: tuple[Image, ...], *, owned: bool = True) -> None:
        self.images = images
        self._owned = owned

    @classmethod
    def open(
        cls,
        path: str,
        format: Format | None = None,
        access: Access = _PLAIN,
        *,
        base: str | None = None,
        file: int | None = None,
    ) -> Self:
        """Open the image at ``path`` and all its backing files.

        Args:
            path: of the top image.
            format: what it is said to be; None to look.
            access: what may be read, and how.
            base: path of an image to read an overlay over, instead of the one that its header names.
            file: a descriptor of the file, found at the real path ``path``, which the chain takes over; None
                to open it by that name, which is the user's.

        Raises:
            ImageError: one of them is damaged, unsupported or not a plain local file, or they form a loop.
                Or ``base`` was given for an image that is no overlay.
            BaseImageError: a backing file is missing.
            NotFoundError: there is nothing at ``path``.
            NotAllowedError: permissions forbid it, a backing file does not look like an image, or the overlay
                above it is another user's.
        """
        images: list[Image] = []
        try:
            _open_all(path, format, images, access, base, file)
        except BaseException:
            for image in images:
                image.close()
            raise
        return cls(tuple(images))

    @classmethod
    def alone(cls, image: Image) -> Self:
        """Return the chain of one open image, which stays the caller's: below it a guest would read zeros."""
        return cls((image,), owned=False)

    @property
    def top(self) -> Image:
        """The image that was named."""
        return self.images[0]

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk the guest sees: the top image's."""
        return self.top.virtual_size

    def again(self, depth: int = 0) -> Chain:
        """Read the files from ``depth`` on once more, by their descriptors: with locks of their own.

        Raises:
            ImageError: one is no image any more.
        """
        images: list[Image] = []
        try:
            for image in self.images[depth:]:
                file = open_again(image.fd)
                images.append(open_image(image.real_path, image.geometry.format, always, file=file))
        except BaseException:
            for image in images:
                image.close()
            raise
        return Chain(tuple(images))

    def reopened(self, depth: int = 0) -> Chain:
        """Return the images from ``depth`` on, on descriptors and with locks of their own.

        Nothing is read or checked once more: what was read of the tables serves both.
        """
        images: list[Image] = []
        try:
            images.extend(image.on(open_again(image.fd)) for image in self.images[depth:])
        except BaseException:
            for image in images:
                image.close()
            raise
        return Chain(tuple(images))

    def parent(self) -> Chain | None:
        """Return the chain below the top, or None; it shares the open files and does not close them."""
        return Chain(self.images[1:], owned=False) if len(self.images) > 1 else None

    def extents(self, offset: int, length: int) -> Iterator[Located]:
        """Yield what the guest sees in ``offset`` ..

        ``offset + length``, in order and without gaps: DATA or ZERO.

        Neighbouring ZERO extents are joined; neighbouring DATA extents of different images are not.
        """
        check_range(offset, length, self.virtual_size)
        zero: Extent | None = None
        for image, extent in _resolve(self.images, offset, offset + length):
            if image is None:
                start = extent.offset if zero is None else zero.offset
                zero = Extent(start, extent.offset + extent.length - start, Kind.ZERO)
                continue
            if zero is not None:
                yield None, zero
                zero = None
            yield image, extent
        if zero is not None:
            yield None, zero

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with guest bytes from ``offset`` on; several threads may do so at once.

        Raises:
            ImageError: a compressed cluster is damaged, or a disk cannot read it.
        """
        for image, extent in self.extents(offset, len(buffer)):
            part = buffer[extent.offset - offset :][: extent.length]
            if image is None:
                fill_zeros(part)
            else:
                image.read_into(extent, part)

    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """Return the fingerprint of every open file, top first."""
        return tuple(Fingerprint.of(os.fstat(image.fd)) for image in self.images)

    def close(self) -> None:
        """Close the files, unless this is another chain's parent."""
        if self._owned:
            for image in self.images:
                image.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def backing_path(overlay: str, backing: Backing) -> str:
    """Return the path of the backing file that the overlay opened as ``overlay`` names.

    Raises:
        ImageError: the name is not a plain path.
    """
    name = os.fsdecode(backing.name)
    if "\0" in name:
        raise ImageError("the name of its backing file contains a zero byte", path=overlay)
    if has_protocol(backing.name):
        raise ImageError(
            f"its backing file, {display(name)}, is not named as a plain local file", path=overlay
        )
    return os.path.join(os.path.dirname(overlay), name)


def reachable(path: str) -> tuple[Fingerprint, ...]:
    """Return the fingerprints of the image at ``path`` and all below it, top first.

    They end with the first file that does not open, or that is not there.
    """
    images: list[Image] = []
    try:
        with suppress(OverlaysyncError, OSError):
            _open_all(path, None, images, _UNCHECKED)
        files = [Fingerprint.of(os.fstat(image.fd)) for image in images]
        with suppress(OverlaysyncError, OSError, IndexError, ValueError):
            last = images[-1]
            if last.backing is not None:
                files.append(Fingerprint.of(os.stat(backing_path(last.path, last.backing))))
        return tuple(files)
    finally:
        for image in images:
            image.close()


def _open_all(
    path: str,
    format: Format | None,
    images: list[Image],
    access: Access,
    base: str | None = None,
    file: int | None = None,
) -> None:
    """Append the image at ``path`` and its backing files, or ``base`` and those of it, to ``images``."""
    visited = set()
    image = open_image(path, format, access.vouched, file=file, tables=not access.running)
    while True:
        images.append(image)
        status = os.fstat(image.fd)
        if (status.st_dev, status.st_ino) in visited:
            raise ImageError("its backing files form a loop", path=path)
        visited.add((status.st_dev, status.st_ino))
        if image.backing is None:
            if base is not None and len(images) == 1:
                raise ImageError("it has no backing file, so it is not an overlay", path=path)
            return
        if len(images) == MAX_DEPTH:
            raise ImageError(f"it has more than {MAX_DEPTH - 1} backing files", path=path)
        named = len(images) == 1 and file is None
        if not named and not access.followed(image.real_path, status):
            raise _not_followed(image, status)
        given = base if len(images) == 1 else None
        image = (
            _open_backing(image, image.backing, access)
            if given is None
            else open_image(given, None, access.vouched)
        )


def _open_backing(overlay: Image, backing: Backing, access: Access) -> Image:
    path, declared = backing_path(overlay.path, backing), _declared_format(overlay, backing)
    try:
        image = access.below(path, declared)
    except NotFoundError as error:
        raise BaseImageError(
            f"The backing file of {overlay.path} is missing",
            why=f"there is no file {display(path)}",
            hint=f"overlaysync adopt '{overlay.path}', which finds its master",
        ) from error
    except WrongFormatError as error:
        raise _wrong_header(overlay, backing, error) from error
    try:
        _check_backing(overlay, image, declared, access.vouched)
    except BaseException:
        image.close()
        raise
    return image


def _check_backing(overlay: Image, image: Image, declared: Format | None, vouched: Vouched) -> None:
    """Refuse to read through a file that is taken for an image only because the overlay's header says so.

    Raises:
        NotAllowedError: it does not look like one, and nobody vouches for it.
    """
    format = image.geometry.format
    if declared is None:
        reason = objection(image.path, image.fd, format)
    else:
        reason = unlike_disk(image.path, image.fd) if format is Format.RAW else ""
    if reason and not vouched(image.path, format):
        raise NotAllowedError(
            f"Cannot use {image.path} as the backing file of {overlay.path}",
            why=reason,
            hint=how_to_insist(image.path, format),
        )


def _not_followed(overlay: Image, status: os.stat_result) -> NotAllowedError:
    return NotAllowedError(
        f"Not reading the backing file of {overlay.path}",
        why=f"it belongs to {name_of(status.st_uid)}, and its header can name any file that you may read",
        hint=f"if you trust its owner, name it: overlaysync id {shlex.quote(overlay.path)}",
    )


def _wrong_header(overlay: Image, backing: Backing, error: WrongFormatError) -> ImageError:
    """Return what is said of an overlay whose header names the wrong format of its backing file."""
    if error.found is None:
        hint = f"overlaysync adopt '{overlay.path}', or put the right master in the place of {error.path}"
    else:
        name = shlex.quote(os.fsdecode(backing.name))
        hint = f"qemu-img rebase -u -F {error.found} -b {name} {shlex.quote(overlay.path)}"
    content = f"it is {error.content}" if error.content else "it does not begin like one"
    return ImageError(
        f"its header says that its backing file {error.path} is {error.said}, but {content}",
        path=overlay.path,
        hint=hint,
    )


def _declared_format(overlay: Image, backing: Backing) -> Format | None:
    try:
        return None if backing.format is None else Format(backing.format)
    except ValueError as error:
        reason = f"its backing file has an unsupported format, {display(backing.format or '')}"
        raise ImageError(reason, path=overlay.path) from error


def _resolve(images: tuple[Image, ...], offset: int, end: int) -> Iterator[Located]:
    """Yield what ``images`` (top first) show in ``offset`` .. ``end``; ZERO may come in pieces."""
    top, below = images[0], _Below(images[1:], end)
    for extent in top.extents(offset, end - offset):
        if extent.kind is Kind.DATA:
            yield top, extent
        elif extent.kind is Kind.ZERO:
            yield None, extent
        else:
            yield from below.take(extent.offset, extent.offset + extent.length)


class _Below:
    """Looks through at the images below, at rising offsets; keeps its place between two looks."""

    def __init__(self, images: tuple[Image, ...], end: int) -> None:
        self._images = images
        # Past the end of a shorter backing file, and below the last one, a guest reads zeros.
        self._end = min(end, images[0].virtual_size) if images else 0
        self._source: Iterator[Located] = iter(())
        self._image: Image | None = None
        self._extent: Extent | None = None

    def take(self, offset: int, end: int) -> Iterator[Located]:
        """Yield what lies at ``offset`` .. ``end``."""
        inside = min(end, self._end)
        while offset < inside:
            extent = clip(self._advance(offset), offset, inside)
            yield self._image, extent
            offset += extent.length
        if offset < end:
            yield None, Extent(offset, end - offset, Kind.ZERO)

    def _advance(self, offset: int) -> Extent:
        """Return the extent that covers ``offset``."""
        extent = self._extent
        if extent is None or extent.offset + extent.length + _SKIP <= offset:
            self._source = _resolve(self._images, offset, self._end)
            extent = None
        while extent is None or extent.offset + extent.length <= offset:
            self._image, extent = next(self._source)
        self._extent = extent
        return extent
