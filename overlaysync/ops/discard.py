"""Discard: remove overlays that nobody needs any more, and refuse the others."""

from __future__ import annotations

import os
import shlex
from contextlib import closing

from overlaysync.errors import InUseError, WouldDestroyError
from overlaysync.formats.chain import reachable
from overlaysync.formats.detect import open_image
from overlaysync.formats.files import open_named, open_regular
from overlaysync.formats.folders import image_files
from overlaysync.formats.locks import in_use, in_use_for_writing, user_of, writer_of
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.ops.library import vouched_by
from overlaysync.store.catalog import Catalog
from overlaysync.store.files import sync_directory, translate


def check_discardable(path: str, catalog: Catalog) -> Fingerprint:
    """Refuse what must not be removed; return the fingerprint of what may.

    Raises:
        WouldDestroyError: it is a master, or overlays stand on it.
        InUseError: QEMU has it open.
        ImageError: it is not an image.
    """
    fd, real = open_named(path)
    # It alone: an overlay whose master is gone is good for nothing else.
    with closing(open_image(real, vouched=vouched_by(catalog), file=fd)) as image:
        if image.backing is None:
            raise WouldDestroyError(
                f"{path} is a master, not an overlay",
                hint="remove a master by hand, once no overlay stands on it",
            )
        _check_unneeded(fd, path, catalog)
        return Fingerprint.of(os.fstat(fd))


def check_unneeded(path: str, catalog: Catalog, *, instead: str = "") -> None:
    """Refuse a file that a VM runs on or that overlays stand on; any other may be removed or replaced.

    Args:
        path: the file.
        catalog: knows what stands on it.
        instead: the command that keeps it and does what is wanted otherwise; "" for none.

    Raises:
        WouldDestroyError, InUseError: which.
    """
    fd = open_regular(path)
    try:
        _check_unneeded(fd, path, catalog, instead=instead)
    finally:
        os.close(fd)


def _check_unneeded(fd: int, path: str, catalog: Catalog, *, instead: str = "") -> None:
    if in_use(fd):
        first = "shut the VM down first" if in_use_for_writing(fd) else "end what reads it first"
        hint = f"to have both: {instead}; or {first}" if instead else first
        raise InUseError(f"{path} is in use", why=f"by {writer_of(fd) or user_of(fd)}", hint=hint)
    status = os.fstat(fd)
    standing = standing_on(path, (status.st_dev, status.st_ino), catalog)
    if standing:
        raise WouldDestroyError(
            f"{path} has overlays on it",
            why=", ".join(standing),
            hint=f"to have both: {instead}; or promote, rebase or discard those first"
            if instead
            else "promote, rebase or discard those first",
        )


def standing_on(path: str, inode: tuple[int, int], catalog: Catalog) -> list[str]:
    """Paths of images that stand on the file: known ones, and those beside it."""
    real = os.path.realpath(path)
    known = [row.path for row in catalog.images.all()]
    found = []
    for other in sorted({*known, *map(os.path.realpath, image_files([os.path.dirname(real)]))}):
        if other == real or not os.path.exists(other):
            continue
        if any(below[:2] == inode for below in reachable(other)[1:]):
            found.append(other)
    return found


def discard(path: str, catalog: Catalog, judged: Fingerprint) -> None:
    """Remove the overlay, after :func:`check_discardable`; a symlink that led to it goes too.

    Args:
        path: the overlay.
        catalog: forgets it.
        judged: its fingerprint when it was decided that it goes; a path may lead elsewhere since.

    Raises:
        NotAllowedError: the directory is not writable.
        WouldDestroyError: it is another file by now, or was written to. And as :func:`check_discardable`.
    """
    if not _is_same(check_discardable(path, catalog), judged):
        raise _changed(path)
    real = os.path.realpath(path)
    directory, name = os.path.split(real)
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not _is_same(Fingerprint.of(os.stat(name, dir_fd=folder, follow_symlinks=False)), judged):
                raise _changed(path)
            os.unlink(name, dir_fd=folder)
            sync_directory(folder)
        finally:
            os.close(folder)
        if os.path.islink(path):
            os.unlink(path)
    except OSError as error:
        hint = f"you need write permission for its directory: ls -ld {shlex.quote(directory)}"
        raise translate(error, f"Cannot remove {path}", directory=directory, hint=hint) from error
    catalog.forget_image(real)


def _is_same(present: Fingerprint, judged: Fingerprint) -> bool:
    """Whether it is the same file with the same content; its other names and its rights may change."""
    return present._replace(ctime_ns=0) == judged._replace(ctime_ns=0)


def _changed(path: str) -> WouldDestroyError:
    return WouldDestroyError(
        f"{path} has changed since you agreed to remove it",
        why="it was written to since, or another file has its name",
        hint=f"ls -l {shlex.quote(path)}, and then the same command again",
    )
