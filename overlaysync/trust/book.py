"""The book of trust: which publisher a name belongs to here, and which ones the user trusts or refuses.

A snapshot, asked without disk, network or clock. What a reference then means is for :mod:`overlaysync.ops`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from overlaysync.errors import AmbiguousError, NotFoundError, UsageError
from overlaysync.model.names import printable
from overlaysync.model.pin import DistrustedPublisher, Pin, TrustedPublisher
from overlaysync.trust.keys import node_id

MIN_FINGERPRINT = 8
"""Characters that must be given of a fingerprint: who wants to make a key that begins with them tries 2⁴⁰."""

_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_LENGTH = 32


class Trust(StrEnum):
    """Why a publisher is believed for a name."""

    OWN = "own"
    EXPLICIT = "explicit"
    FIRST_USE = "first-use"
    NO = "no"
    DISTRUSTED = "distrusted"


@dataclass(frozen=True, slots=True)
class Book:
    """What is pinned and trusted.

    Attributes:
        own: this node's public key.
        pins: by team and name.
        trusted: publishers the user trusts, by key.
        distrusted: publishers the user refuses for good, by key.
    """

    own: bytes
    pins: Mapping[tuple[str, str], Pin]
    trusted: Mapping[bytes, TrustedPublisher]
    distrusted: Mapping[bytes, DistrustedPublisher] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        own: bytes,
        pins: Iterable[Pin] = (),
        trusted: Iterable[TrustedPublisher] = (),
        distrusted: Iterable[DistrustedPublisher] = (),
    ) -> Book:
        """Return the book with these entries."""
        return cls(
            own,
            {(pin.team, pin.name): pin for pin in pins},
            {one.publisher: one for one in trusted},
            {one.publisher: one for one in distrusted if one.publisher != own},
        )

    def refuses(self, publisher: bytes) -> bool:
        """Whether the user refuses the publisher for good."""
        return publisher in self.distrusted

    def doubt(self, publisher: bytes, team: str, name: str) -> str:
        """Why a list marks what the publisher calls so: "distrusted", "other publisher"; "" for no reason."""
        if self.refuses(publisher):
            return "distrusted"
        return "other publisher" if self.is_other(publisher, team, name) else ""

    def pins_of(self, team: str | None, name: str) -> list[Pin]:
        """Return the pins of a name, in that team or (None) in all."""
        if team is not None:
            pin = self.pins.get((team, name))
            return [pin] if pin else []
        return [pin for pin in self.pins.values() if pin.name == name]

    def has_pin(self, publisher: bytes, team: str, name: str) -> bool:
        """Whether the name belongs to the publisher."""
        pin = self.pins.get((team, name))
        return pin is not None and pin.publisher == publisher

    def is_other(self, publisher: bytes, team: str, name: str) -> bool:
        """Whether the name belongs to somebody else."""
        pin = self.pins.get((team, name))
        return pin is not None and pin.publisher != publisher

    def trust(self, publisher: bytes, team: str, name: str) -> Trust:
        """How the publisher is trusted for that name."""
        if publisher == self.own:
            return Trust.OWN
        if self.refuses(publisher):
            return Trust.DISTRUSTED
        pinned = self.has_pin(publisher, team, name)
        if publisher in self.trusted or (pinned and self.pins[team, name].explicit):
            return Trust.EXPLICIT
        return Trust.FIRST_USE if pinned else Trust.NO

    def since(self, publisher: bytes, team: str, name: str) -> str | None:
        """Since when it is trusted or distrusted in that way; None when it is neither, or was never said."""
        trust = self.trust(publisher, team, name)
        if trust is Trust.DISTRUSTED:
            return self.distrusted[publisher].since
        if trust is Trust.EXPLICIT and publisher in self.trusted:
            return self.trusted[publisher].since
        return self.pins[team, name].since if self.has_pin(publisher, team, name) else None

    def label(self, publisher: bytes) -> str:
        """Return what the publisher called itself when it was last pinned, trusted or distrusted.

        "" if unknown.
        """
        everything: list[Pin | TrustedPublisher | DistrustedPublisher] = [
            *self.pins.values(),
            *self.trusted.values(),
            *self.distrusted.values(),
        ]
        entries = [entry for entry in everything if entry.publisher == publisher]
        return max(entries, key=lambda entry: entry.since).label if entries else ""


def find_publisher(text: str, publishers: Iterable[bytes]) -> bytes:
    """Return the one publisher whose fingerprint begins with ``text``; dashes do not count.

    Raises:
        UsageError: it is no beginning of a fingerprint, or too short.
        AmbiguousError: it is the beginning of several.
        NotFoundError: of none.
    """
    start = text.replace("-", "").lower()
    if not MIN_FINGERPRINT <= len(start) <= _LENGTH or not _ALPHABET.issuperset(start):
        raise UsageError(
            f"'{printable(text)}' is not a fingerprint",
            hint=f"give at least {MIN_FINGERPRINT} characters of it, such as j2ru-eujs",
        )
    found = sorted({key for key in publishers if node_id(key).replace("-", "").startswith(start)})
    if len(found) > 1:
        raise AmbiguousError(
            f"'{text}' is the beginning of {len(found)} fingerprints",
            candidates=tuple(map(node_id, found)),
            hint="give more of it; a fingerprint so like another was made on purpose",
        )
    if not found:
        raise NotFoundError(
            f"No publisher known here has the fingerprint '{text}'",
            hint="overlaysync trust lists those that are; one that is within reach now: --peer HOST",
        )
    return found[0]
