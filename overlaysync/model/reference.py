"""References: how a user names a thing, ``[team/]name[:version][@peer]`` or an id."""

from __future__ import annotations

import re
from dataclasses import dataclass

from overlaysync.errors import UsageError
from overlaysync.model.digest import ID_PREFIX, MIN_ID_DIGITS
from overlaysync.model.manifest import MAX_VERSION
from overlaysync.model.names import check_name, printable

_HEX = re.compile(r"[0-9a-fA-F]+")
_WILD = frozenset("*?[]!")
_WITHOUT_WILD = re.compile(r"[*?]|\[!?|[\]]")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference; what the user left out is None.

    Attributes:
        team: the team; None means any, and "" (which nobody can type) none.
        name: the name, or a pattern with ``*``, ``?`` or ``[…]``; None for an id or a whole team.
        version: None means the newest.
        peer: a node's label or node id, or the beginning of either.
        id_prefix: lower-case hexadecimal digits of an id.
    """

    team: str | None = None
    name: str | None = None
    version: int | None = None
    peer: str | None = None
    id_prefix: str | None = None

    @property
    def is_team(self) -> bool:
        """Whether a whole team is meant (``red/``)."""
        return self.team is not None and self.name is None

    @property
    def is_pattern(self) -> bool:
        """Whether ``name`` is a pattern."""
        return self.name is not None and not _WILD.isdisjoint(self.name)

    @property
    def is_many(self) -> bool:
        """Whether several things may be meant: a whole team, or all that fit a pattern."""
        return self.is_team or self.is_pattern

    def __str__(self) -> str:
        if self.id_prefix is not None:
            text = ID_PREFIX + self.id_prefix
        else:
            text = (f"{self.team}/" if self.team else "") + (self.name or "")
        if self.version is not None:
            text += f":{self.version}"
        return text + (f"@{self.peer}" if self.peer else "")


def parse_reference(text: str) -> Reference:
    """Return what ``text`` refers to.

    Raises:
        UsageError: it is neither a name nor an id.
    """
    body, _, peer = text.partition("@")
    if text.endswith("@"):
        raise UsageError(f"'{printable(text)}' names no peer after the '@'", hint="write NAME@PEER")
    if body.startswith(ID_PREFIX):
        return Reference(id_prefix=_id_prefix(body), peer=peer or None)
    body, _, version_text = body.partition(":")
    team, slash, name = body.rpartition("/")
    version = None
    if version_text or text.partition("@")[0].endswith(":"):
        if not _VERSION.fullmatch(version_text) or int(version_text) > MAX_VERSION:
            raise UsageError(
                f"'{printable(version_text)}' is not a version", hint="a version is a number: NAME:2"
            )
        version = int(version_text)
    if slash:
        check_name(team, "team")
        if not name and version is None:
            return Reference(team=team, peer=peer or None)
    check_name(_WITHOUT_WILD.sub("x", name))
    return Reference(team=team if slash else None, name=name, version=version, peer=peer or None)


def _id_prefix(text: str) -> str:
    digits = text.removeprefix(ID_PREFIX)
    if not _HEX.fullmatch(digits) or not MIN_ID_DIGITS <= len(digits) <= 64:
        raise UsageError(
            f"'{printable(text)}' is not an id",
            hint=f"an id is b3: and at least {MIN_ID_DIGITS} hexadecimal digits",
        )
    return digits.lower()
