"""The one tree of errors, each with its exit code.

An error carries what happened, why, and what to type next. Errors that the user can cause derive from
:class:`OverlaysyncError`; anything else that reaches the command line is a bug (exit code 1).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


class OverlaysyncError(Exception):
    """Base of all errors shown to a user.

    Args:
        what: one sentence: what could not be done.
        why: the reason, when it adds to ``what``.
        hint: what to type or do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what


class UsageError(OverlaysyncError):
    """The command was not understood, or its arguments do not fit."""

    exit_code = 2


class AmbiguousError(UsageError):
    """A reference fits several things; ``candidates`` lists them, none is chosen."""

    def __init__(self, what: str, *, candidates: tuple[str, ...], hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.candidates = candidates


class NotFoundError(OverlaysyncError):
    """Nothing by that name here, or nobody has it."""

    exit_code = 3


class NetworkError(OverlaysyncError):
    """The network or every peer failed."""

    exit_code = 4


class BaseImageError(OverlaysyncError):
    """The master an overlay stands on is missing or has other content."""

    exit_code = 5


class VerificationError(OverlaysyncError):
    """Bytes do not match their digest or an object does not match its id."""

    exit_code = 6


class InUseError(OverlaysyncError):
    """An image is open in QEMU, or another overlaysync works on the same target."""

    exit_code = 7


class NotAllowedError(OverlaysyncError):
    """Permissions or trust forbid it."""

    exit_code = 8


class WouldDestroyError(OverlaysyncError):
    """Something would be overwritten or lost."""

    exit_code = 9


class NoSpaceError(OverlaysyncError):
    """Not enough room on the file system."""

    exit_code = 10


class ImageError(OverlaysyncError):
    """An image file is damaged, unsupported or not an image.

    Args:
        reason: a sentence fragment naming the reason ("the corrupt bit is set").
        path: the file.
        offset: where in the file, in bytes, when there is a place.
        hint: what to do; without one, to see what QEMU says of the file.
    """

    exit_code = 11

    def __init__(self, reason: str, *, path: str = "", offset: int | None = None, hint: str = "") -> None:
        if path and not hint:
            hint = f"to see what QEMU reports: qemu-img check {shlex.quote(path)}"
        where = f"{path} at byte {offset}" if path and offset is not None else path
        super().__init__(f"Cannot use {where}" if where else "Cannot use this image", why=reason, hint=hint)
        self.reason = reason
        self.path = path
        self.offset = offset


class NotReplicatedError(OverlaysyncError):
    """Something is not on as many machines as it should be."""

    exit_code = 12


class DecodeError(OverlaysyncError):
    """Bytes from outside (a header, a page list, a message) are not what they should be."""

    exit_code = 6


class StoppedError(BaseException):
    """Work in a thread ended because its command was interrupted; no handler of errors may catch it."""


class BrokenOffError(OverlaysyncError):
    """The user ended the command."""

    exit_code = 130


class PeerError(NetworkError):
    """One peer misbehaved or went away; the transfer goes on with others."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One of several things that were meant, and why it cannot be had."""

    name: str
    error: OverlaysyncError
