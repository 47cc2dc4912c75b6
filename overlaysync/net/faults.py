"""Unexpected exceptions in work for one peer: contained, counted by kind, each kind noted once.

A peer must never end a command. What is known to go wrong with a peer is a PeerError or a DecodeError and has
its own words; anything else is a bug of ours or of a library that some peer has found. It costs that peer its
answer, and the user is told of it once. Leaves out errors of this machine, such as a full disk: those end the
command, see :func:`is_local`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from overlaysync.errors import (
    DecodeError,
    InUseError,
    NoSpaceError,
    NotAllowedError,
    OverlaysyncError,
    PeerError,
)
from overlaysync.model.names import printable
from overlaysync.store.database import CatalogError

_LOCAL = (NoSpaceError, NotAllowedError, InUseError, CatalogError)
_MAX_TEXT = 200
_MAX_KINDS = 64
_OBJECT = re.compile(r"[<(]|\d")


def is_local(error: BaseException) -> bool:
    """Whether ``error`` says that this machine fails: its disk, its catalog or its permissions."""
    return isinstance(error, _LOCAL) or type(error) is OverlaysyncError


class Faults:
    """Unexpected exceptions of one command.

    Args:
        note: told of the first of each kind.

    Attributes:
        counts: how often each kind has occurred, by what was done and the exception's type.
    """

    def __init__(self, note: Callable[[str], None] | None = None) -> None:
        self._note = note
        self.counts: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()

    def take(self) -> Counter[str]:
        """Return what was counted since this was last asked."""
        new = self.counts - self._taken
        self._taken = self.counts.copy()
        return new

    def contain(self, error: BaseException, doing: str) -> PeerError | DecodeError:
        """Return the failure of one peer that ``error`` means; note and count it if it is unexpected.

        Args:
            error: what was raised.
            doing: the kind of work, such as ``asking a peer for a page``; without the peer's name, so that
                all peers together have few kinds.

        Raises:
            OverlaysyncError: ``error`` itself when this machine fails and not the peer.
            BaseException: ``error`` itself when it is no Exception, such as a cancellation.
        """
        if isinstance(error, PeerError | DecodeError):
            return error
        if not isinstance(error, Exception) or is_local(error):
            raise error
        self.count(error, doing)
        return PeerError(f"Unexpected {type(error).__name__} while {doing}", why=_text(error))

    def tell(self, note: Callable[[str], None]) -> None:
        """Note what is new from now on there."""
        self._note = note

    def count(self, error: BaseException, doing: str) -> None:
        """Count an unexpected exception, and note the first of its kind."""
        kind = f"{doing}: {type(error).__name__}"
        if kind not in self.counts and len(self.counts) >= _MAX_KINDS:
            kind = "others"
        self.counts[kind] += 1
        if self.counts[kind] == 1 and self._note is not None:
            self._note(f"Unexpected {type(error).__name__} while {doing}: {_text(error)}")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take what the event loop has nobody else to give to; by default it prints a traceback each time."""
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(self._take)

    def _take(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = str(context.get("message", ""))
        error = context.get("exception") or RuntimeError(message)
        # What follows a bracket names one object, and would make each occurrence a kind of its own.
        self.count(error, f"the event loop ran ({_OBJECT.split(message)[0].strip()})")


def _text(error: BaseException) -> str:
    return printable(str(error), _MAX_TEXT) or "no reason given"
