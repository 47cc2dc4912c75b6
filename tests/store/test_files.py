"""Errors of the system as a user reads them: which directory, why, and what to type."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from overlaysync.errors import (
    NoSpaceError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    UsageError,
    WouldDestroyError,
)
from overlaysync.store.files import make_directory, translate


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EACCES, NotAllowedError),
        (errno.EPERM, NotAllowedError),
        (errno.EROFS, NotAllowedError),
        (errno.ELOOP, NotAllowedError),
        (errno.ENAMETOOLONG, UsageError),
        (errno.ENOENT, NotFoundError),
        (errno.ENOTDIR, NotFoundError),
        (errno.EEXIST, WouldDestroyError),
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EFBIG, NoSpaceError),
        (errno.EIO, OverlaysyncError),
        (errno.EBADF, OverlaysyncError),
    ],
)
def test_every_error_of_the_system_says_what_to_type(code: int, kind: type[OverlaysyncError]) -> None:
    for directory in ("", "/srv/images"):
        error = translate(OSError(code, os.strerror(code), "x"), "Cannot write x", directory=directory)
        assert type(error) is kind
        assert error.what == "Cannot write x" and error.why and error.hint


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_directory_that_cannot_be_written_is_named(code: int) -> None:
    error = translate(OSError(code, os.strerror(code)), "Cannot write x", directory="/srv/my images")
    assert "/srv/my images" in error.why
    assert "--to DIR" in error.hint and "ls -ld '/srv/my images'" in error.hint
    assert ("read-only" in error.why) == (code == errno.EROFS)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name too long") as caught:
        make_directory(str(tmp_path / ("x" * 300)))
    assert "shorter" in caught.value.hint
    assert caught.value.exit_code == 2
