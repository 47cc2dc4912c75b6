"""Pictures as files: what may be replaced by one, and what never is."""

from __future__ import annotations

import os

from overlaysync.errors import InUseError, WouldDestroyError
from overlaysync.formats.files import open_regular
from overlaysync.formats.locks import in_use, user_of
from overlaysync.formats.recognition import ending_of, looks_like_image
from overlaysync.node.node import Node
from overlaysync.ops.pictures.writers import PICTURE_HEAD, is_picture
from overlaysync.store.files import rename_new, translate


def write_picture(path: str, picture: bytes, node: Node, *, option: str, replace: bool) -> None:
    """Write a picture whole or not at all; over an older picture, or over a file when told so.

    Args:
        path: where.
        picture: the file's content.
        node: says what is an image here.
        option: what the picture was asked for with, for hints.
        replace: whether the user said that a file may be replaced.

    Raises:
        WouldDestroyError: something else is there; an image is never replaced.
        InUseError: a program has it open as an image.
    """

    real = os.path.realpath(path)
    try:
        old = os.path.lexists(real)
        if old and not os.path.isfile(real):
            raise WouldDestroyError(f"{path} is not a file", hint="choose another name")
        if old and not _is_picture(real):
            _check_no_image(real, path, node, option)
            if not replace:
                raise WouldDestroyError(
                    f"{path} exists and is not a picture of overlaysync's",
                    hint="choose another name, or say --replace",
                )
        _put(real, picture, new=not old)
    except OSError as error:
        raise translate(error, f"Cannot write {path}", hint=f"name another file: {option} FILE") from error


def _check_no_image(real: str, path: str, node: Node, option: str) -> None:
    """Refuse to put a picture in the place of an image: one that is known here, or what looks like one."""

    hint = f"choose another name: {option} FILE.{option.strip('-')}"
    fd = open_regular(real)
    try:
        if in_use(fd):
            raise InUseError(f"{path} is in use as an image", why=f"by {user_of(fd)}", hint=hint)
        known = node.catalog.images.at(real) or node.catalog.held.at(real) or node.catalog.made.at(real)
        if known or ending_of(path) or ending_of(real) or looks_like_image(fd):
            raise WouldDestroyError(
                f"{path} is a disk image", why="a picture never takes the place of one", hint=hint
            )
    finally:
        os.close(fd)


def _is_picture(path: str) -> bool:
    """Whether a picture of ours is there."""
    with open(path, "rb") as file:
        return is_picture(file.read(PICTURE_HEAD))


def _put(path: str, data: bytes, *, new: bool) -> None:
    """Give ``path`` its content; a ``new`` file replaces nothing."""

    parent, name = os.path.split(path)
    scratch = f".{name}.{os.getpid()}"
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(scratch, flags, 0o666, dir_fd=directory)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            if new:
                rename_new(directory, scratch, name)
            else:
                os.replace(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(scratch, dir_fd=directory)
            raise
    finally:
        os.close(directory)
