"""Pins: which publisher a name belongs to here, and which publishers the user trusts or refuses.

Times are ISO 8601 UTC, or "" where nobody knows any more. Labels are what a node calls itself: for people.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pin:
    """A name and the publisher it belongs to.

    Attributes:
        team: "" for none.
        name: of the thing.
        publisher: public key.
        since: when it was pinned.
        explicit: whether the user said so for this name (else it was the first use).
        label: of the publisher, when it was pinned.
    """

    team: str
    name: str
    publisher: bytes
    since: str
    explicit: bool = False
    label: str = ""

    @property
    def full_name(self) -> str:
        """``team/name`` or ``name``."""
        return f"{self.team}/{self.name}" if self.team else self.name


@dataclass(frozen=True, slots=True)
class TrustedPublisher:
    """A publisher that the user trusts, whatever it publishes.

    Attributes:
        publisher: public key.
        since: when the user said so.
        label: of the publisher at that time.
    """

    publisher: bytes
    since: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class DistrustedPublisher:
    """A publisher that the user refuses for good, whatever it publishes.

    Attributes:
        publisher: public key.
        since: when the user said so.
        label: of the publisher at that time.
    """

    publisher: bytes
    since: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The highest version of a name that was seen of one publisher.

    Attributes:
        team, name, publisher: as in a pin.
        version: 1, 2, …
        at: when it was first seen here.
        label: of the publisher, then.
    """

    team: str
    name: str
    publisher: bytes
    version: int
    at: str = ""
    label: str = ""
