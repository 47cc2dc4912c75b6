"""What a reference means to this node, who trusts whom: decided without network, disk or clock.

Rules:
    1. A name that is pinned means what its publisher signed; others are never chosen by it.
    2. A name that nobody has here yet means what its one publisher signed; of several the user chooses.
    3. Of the publisher so found, nothing below the highest version seen of it is taken, unless it is named.
    4. An id means its content, whoever signed it: content is checked against it (a few digits of one can be
       imitated, so the whole is shown then). So does NAME@PEER where the peer has nothing of the name's
       publisher; that is the user's word, and moves no pin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from overlaysync.errors import NotAllowedError
from overlaysync.model.pin import Pin, Sighting
from overlaysync.model.reference import Reference
from overlaysync.ops.resolve import Listing, fits, fitting, one_of, resolve
from overlaysync.ops.trust_words import (
    StrangerError,
    first_use,
    not_trusted,
    other_publisher,
    several_publishers,
    too_old,
    who,
)
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest

Seen = Callable[[str, str, bytes], Sighting | None]
"""The highest version seen of a team's name by a publisher."""


_INIMITABLE = 32
"""Digits of an id that nobody can make a content for; eight of them take an afternoon."""


class Reason(Enum):
    """Why a listing is what was meant."""

    PINNED = auto()
    FIRST_USE = auto()
    SAME_CONTENT = auto()
    PEER = auto()
    ID = auto()
    ID_BEGINNING = auto()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a reference means.

    Attributes:
        listing: the manifest and who has it.
        reason: ``FIRST_USE`` pins its publisher; ``SAME_CONTENT``: several publish the same, none is pinned.
    """

    listing: Listing
    reason: Reason

    @property
    def manifest(self) -> Manifest:
        return self.listing.manifest


def choose(
    reference: Reference,
    listings: Iterable[Listing],
    book: Book,
    seen: Seen,
    *,
    now: float,
    trusted_only: bool = False,
) -> list[Choice]:
    """What ``reference`` means: one thing, or for a whole team the newest of each name.

    Raises:
        NotFoundError: nothing fits.
        AmbiguousError: different contents fit, or several publishers use a name that is nobody's yet.
        NotAllowedError: the name belongs to another publisher, only old versions are there, or (with
            ``trusted_only``) nobody whom the user trusts publishes it.
    """
    everything = list(listings)
    choosing = _Choosing(book, seen, now, trusted_only, everything)
    candidates = fitting(reference, everything)
    if reference.id_prefix is not None:
        return [choosing.by_id(reference, candidates)]
    if not reference.is_team:
        return [choosing.by_name(reference, candidates)]
    return choosing.by_team(reference, candidates)


def meant_here(reference: Reference, listings: Iterable[Listing], book: Book) -> list[Listing]:
    """Of what this node has, what the reference may mean: of a pinned name its publisher's, and its own."""
    kept = list(listings)
    if reference.name is None or not book.pins_of(reference.team, reference.name):
        return kept
    return [
        listing
        for listing in kept
        if not fits(reference, listing)
        or _is_pinned(book, listing.manifest)
        or listing.manifest.publisher == book.own
    ]


def to_look_at(
    reference: Reference, listings: Iterable[Listing], book: Book, seen: Seen, *, now: float
) -> tuple[Listing, str]:
    """The thing to show, and why it would not be taken ("" when it would)."""
    everything = list(listings)
    try:
        return choose(reference, everything, book, seen, now=now)[0].listing, ""
    except NotAllowedError as error:
        problem = str(error)
    try:
        return choose(reference, everything, book, lambda *_: None, now=now)[0].listing, problem
    except NotAllowedError:
        return resolve(reference, everything)[0], problem


def new_pin(choice: Choice, book: Book, *, since: str) -> Pin | None:
    """The pin that is made when ``choice`` is taken, if there is none yet.

    Not of the masters that come along: their ids brought them, and the names are their publishers' words.
    """
    header = choice.manifest.header
    if choice.reason not in (Reason.PINNED, Reason.FIRST_USE) or (header.team, header.name) in book.pins:
        return None
    return Pin(header.team, header.name, choice.manifest.publisher, since, label=header.by)


def conflicts(publisher: bytes, published: Iterable[tuple[str, str]], book: Book) -> list[Pin]:
    """The pins that stand in the way of ``publisher``, which has published these teams' names."""
    return [book.pins[key] for key in sorted(set(published)) if book.is_other(publisher, *key)]


def remark(choice: Choice, book: Book, *, dry_run: bool = False) -> str:
    """What the user should know of a choice before it is pinned: whose word is taken, and why; or ""."""
    header, publisher = choice.manifest.header, choice.manifest.publisher
    thing, signer = f"  {header.full_name}:{header.version}", who(publisher, header.by)
    if choice.reason is Reason.PEER:
        return (
            f"{thing} is by {signer}, and the name belongs to another publisher here; it is taken because "
            "you named the peer"
        )
    if book.trust(publisher, header.team, header.name) in (Trust.OWN, Trust.EXPLICIT):
        return ""
    if choice.reason in (Reason.PINNED, Reason.FIRST_USE):
        pinned = book.has_pin(publisher, header.team, header.name)
        return "" if pinned else first_use(choice.manifest, dry_run=dry_run)
    if choice.reason is Reason.SAME_CONTENT:
        return f"{thing} has several publishers, all with this content; the name belongs to none of them yet"
    if not book.has_pin(publisher, header.team, header.name):
        doubt = _imitable(header.id) if choice.reason is Reason.ID_BEGINNING else ""
        return (
            f"{thing} is by {signer}, who is not trusted here; you named the content by its id, and that is "
            f"checked, whoever signed it{doubt}"
        )
    return ""


def _imitable(id: str) -> str:
    return f": but who tries for a while can make another that begins like it. The whole id is {id}"


# -- choosing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Choosing:
    """One reference being looked up."""

    book: Book
    seen: Seen
    now: float
    trusted_only: bool
    everything: list[Listing]

    def by_id(self, reference: Reference, candidates: list[Listing]) -> Choice:
        """The content of that id, as somebody describes it who is trusted, if there is one."""
        allowed = self.allowed(reference, candidates)
        allowed.sort(key=lambda listing: self._trust(listing.manifest) is Trust.NO)
        whole = len(reference.id_prefix or "") >= _INIMITABLE
        return Choice(one_of(reference, allowed), Reason.ID if whole else Reason.ID_BEGINNING)

    def by_team(self, reference: Reference, candidates: list[Listing]) -> list[Choice]:
        """Each name of a team; those that only strangers list are not there, unless nothing else is."""
        choices = []
        strange: StrangerError | None = None
        for name in sorted({listing.manifest.header.name for listing in candidates}):
            one = replace(reference, name=name)
            named = [listing for listing in candidates if listing.manifest.header.name == name]
            try:
                choices.append(self.by_name(one, named))
            except StrangerError as error:
                strange = error
        if strange and not choices:
            raise strange
        return choices

    def by_name(self, reference: Reference, candidates: list[Listing]) -> Choice:
        meant, reason = self._meant(reference, candidates)
        meant = self.allowed(reference, meant)
        if reference.version is None:
            meant = _newest_of_each(meant)
        if reason is Reason.FIRST_USE and len({listing.manifest.publisher for listing in meant}) > 1:
            reason = Reason.SAME_CONTENT
            if len({listing.manifest.header.content_id for listing in meant}) > 1:
                raise several_publishers(reference, meant)
        one_of(reference, meant)
        if reference.version is None:
            meant = self._risen(reference, meant)
        return Choice(max(meant, key=_version), reason)

    def allowed(self, reference: Reference, candidates: list[Listing]) -> list[Listing]:
        """The candidates, with ``trusted_only`` those by publishers that the user trusts."""
        if not self.trusted_only:
            return list(candidates)
        kept = [listing for listing in candidates if self._is_trusted(listing.manifest)]
        if not kept:
            raise not_trusted(reference, candidates)
        return kept

    def _meant(self, reference: Reference, candidates: list[Listing]) -> tuple[list[Listing], Reason]:
        assert reference.name is not None
        pins = self.book.pins_of(reference.team, reference.name)
        if not pins:
            trusted = [listing for listing in candidates if self._is_trusted(listing.manifest)]
            return trusted or candidates, Reason.FIRST_USE
        pinned = [listing for listing in candidates if _is_pinned(self.book, listing.manifest)]
        # Under another team, too, the name may be that publisher's.
        pinned = pinned or [listing for listing in candidates if self._is_known(listing.manifest, pins)]
        if pinned:
            return pinned, Reason.PINNED
        if reference.peer:
            return candidates, Reason.PEER
        raise other_publisher(reference, candidates, pins, self.book, self.everything)

    def _is_known(self, manifest: Manifest, pins: list[Pin]) -> bool:
        header = manifest.header
        known = any(pin.publisher == manifest.publisher for pin in pins)
        return known and not self.book.is_other(manifest.publisher, header.team, header.name)

    def _is_trusted(self, manifest: Manifest) -> bool:
        return self._trust(manifest) in (Trust.OWN, Trust.EXPLICIT)

    def _trust(self, manifest: Manifest) -> Trust:
        return self.book.trust(manifest.publisher, manifest.header.team, manifest.header.name)

    def _risen(self, reference: Reference, newest: list[Listing]) -> list[Listing]:
        """Those whose publisher was not seen with a higher version."""
        kept = [listing for listing in newest if self._higher(listing) is None]
        if not kept:
            listing = max(newest, key=_version)
            highest = self._higher(listing)
            assert highest is not None
            raise too_old(reference, listing, highest, self.now)
        return kept

    def _higher(self, listing: Listing) -> Sighting | None:
        header = listing.manifest.header
        highest = self.seen(header.team, header.name, listing.manifest.publisher)
        return highest if highest is not None and highest.version > header.version else None


def _is_pinned(book: Book, manifest: Manifest) -> bool:
    return book.has_pin(manifest.publisher, manifest.header.team, manifest.header.name)


def _version(listing: Listing) -> int:
    return listing.manifest.header.version


def _newest_of_each(listings: Sequence[Listing]) -> list[Listing]:
    """The newest of each publisher: numbers of different publishers say nothing about each other."""
    best: dict[tuple[str, str, bytes], int] = {}

    def key(listing: Listing) -> tuple[str, str, bytes]:
        return (listing.manifest.header.team, listing.manifest.header.name, listing.manifest.publisher)

    for listing in listings:
        best[key(listing)] = max(best.get(key(listing), 0), _version(listing))
    return [listing for listing in listings if _version(listing) == best[key(listing)]]
