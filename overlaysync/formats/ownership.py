"""Whose a file is that was found in a directory, and not named: only your own count.

In a directory that others may write to, whatever lies there can be theirs, and become something else at any
time. Rules for a file that was found:

    1. It is yours, or root's in a directory that nobody but you and root may write to. In a directory of
       masters that you named its owner's files count too, if nobody but that owner and root may write to it.
    2. Others may not write to it: not all users, and no group but your own primary one.
    3. Where others may put files it has one name only: they can give your files second ones (hard links).

Here is the judgement alone, from what the kernel says of the open file and the open directory.
"""

from __future__ import annotations

import os
import pwd
import stat

_ROOT = 0


def objection_to(file: os.stat_result, folder: os.stat_result, *, masters: bool = False) -> str:
    """Return why a file that was found in a directory must not be taken; "" when nothing speaks against it.

    Args:
        file: of the open file.
        folder: of the open directory that it was found in.
        masters: whether the directory was named as one of masters.
    """
    us = (os.geteuid(), _ROOT)
    closed = not _writable_by_others(folder)
    owners = {os.geteuid()}
    if closed and folder.st_uid in us:
        owners.add(_ROOT)
    elif closed and masters:
        owners |= {_ROOT, folder.st_uid}
    if file.st_uid not in owners:
        return f"it belongs to {name_of(file.st_uid)}"
    if _writable_by_others(file):
        return "other users may write to it"
    if file.st_nlink > 1 and not (closed and folder.st_uid in us):
        return "it has a second name, and others may have given it this one"
    return ""


def is_ours(file: os.stat_result) -> bool:
    """Return whether what the header of an overlay names is looked into without a word from the user."""
    return file.st_uid in (os.geteuid(), _ROOT)


def name_of(user: int) -> str:
    """Return what a user is called, for people."""
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"


def _writable_by_others(status: os.stat_result) -> bool:
    """Whether users that are neither the owner nor you, nor of your own group, may write to it."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and status.st_gid != os.getegid()
