"""Whose file one is that was found in a directory: the whole table, without files."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlaysync.formats.ownership import is_ours, name_of, objection_to

ME, ROOT, OTHER = 1000, 0, 1234
MINE, LAB = 1000, 50


@pytest.fixture(autouse=True)
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    monkeypatch.setattr(os, "getegid", lambda: MINE)


def status(user: int, mode: int, *, group: int | None = None, names: int = 1) -> os.stat_result:
    """Of a file or directory; its group is the user's own where none is given."""
    own = user if group is None else group
    return cast(os.stat_result, SimpleNamespace(st_uid=user, st_gid=own, st_mode=mode, st_nlink=names))


CLOSED = {ME: status(ME, 0o755), ROOT: status(ROOT, 0o755), OTHER: status(OTHER, 0o755)}
STICKY = status(ROOT, stat.S_ISVTX | 0o777)

CASES: list[tuple[os.stat_result, os.stat_result, dict[str, Any], str]] = [
    # mine, wherever it lies
    (status(ME, 0o644), CLOSED[ME], {}, ""),
    (status(ME, 0o600), STICKY, {}, ""),
    (status(ME, 0o644), CLOSED[OTHER], {}, ""),
    # who may write to it
    (status(ME, 0o646), CLOSED[ME], {}, "may write"),
    (status(ME, 0o664), CLOSED[ME], {}, ""),
    (status(ME, 0o664, group=LAB), CLOSED[ME], {}, "may write"),
    (status(ME, 0o644, group=LAB), CLOSED[ME], {}, ""),
    # another user's
    (status(OTHER, 0o644), CLOSED[ME], {}, "belongs to"),
    (status(OTHER, 0o644), STICKY, {}, "belongs to"),
    (status(OTHER, 0o644), CLOSED[OTHER], {}, "belongs to"),
    (status(OTHER, 0o644), CLOSED[OTHER], {"masters": True}, ""),
    (status(OTHER, 0o646), CLOSED[OTHER], {"masters": True}, "may write"),
    (status(OTHER, 0o644), status(OTHER, 0o775, group=LAB), {"masters": True}, "belongs to"),
    (status(OTHER, 0o644), status(OTHER, 0o777), {"masters": True}, "belongs to"),
    (status(OTHER, 0o644), CLOSED[ROOT], {"masters": True}, "belongs to"),
    # root's
    (status(ROOT, 0o644), CLOSED[ROOT], {}, ""),
    (status(ROOT, 0o644), CLOSED[ME], {}, ""),
    (status(ROOT, 0o644), STICKY, {"masters": True}, "belongs to"),
    (status(ROOT, 0o644), CLOSED[OTHER], {}, "belongs to"),
    # second names
    (status(ME, 0o644, names=2), CLOSED[ME], {}, ""),
    (status(ME, 0o644, names=2), STICKY, {}, "second name"),
    (status(ME, 0o644, names=2), CLOSED[OTHER], {}, "second name"),
    (status(OTHER, 0o644, names=2), CLOSED[OTHER], {"masters": True}, "second name"),
]


@pytest.mark.parametrize(("file", "folder", "more", "reason"), CASES)
def test_the_rule(file: os.stat_result, folder: os.stat_result, more: dict[str, Any], reason: str) -> None:
    found = objection_to(file, folder, **more)
    assert reason in found
    assert bool(found) == bool(reason)


def test_whose_header_is_believed_without_a_word() -> None:
    assert [is_ours(status(user, 0o644)) for user in (ME, ROOT, OTHER)] == [True, True, False]


def test_a_user_without_a_name_is_a_number() -> None:
    assert name_of(0) == "user root"
    assert name_of(4_000_000_000) == "user 4000000000"
