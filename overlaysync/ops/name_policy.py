"""What a reference means to this node, who trusts whom: decided without network, disk or clock.

Rules:
    1. Inside a team a name belongs to the team: what any member published counts, and nothing is pinned.
    2. A public name that is pinned means what its publisher signed; others are never chosen by it.
    3. A public name that belongs to no publisher here yet means what its one publisher signed; of several the
       user chooses.
    4. Of the versions so found the newest is meant: the one that no other follows. Two such are a fork, and
       none is chosen, also while one of them is away, until a version follows both. One that is followed by a
       version seen here before is a step back, and is refused unless it is named by its version.
    5. An id means its content, whoever signed it: content is checked against it (a few digits of one can be
       imitated, so the whole is shown then). So does NAME@PEER where the peer has nothing of the name's
       publisher; that is the user's word, and moves no pin.
    6. What a distrusted publisher signed is never chosen, by name or id, and its versions make no other one
       old. The same content counts when another publisher has signed it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from overlaysync.errors import NotAllowedError, OverlaysyncError, Refusal
from overlaysync.model.history import History
from overlaysync.model.pin import Pin
from overlaysync.model.reference import Reference
from overlaysync.ops.again import Again
from overlaysync.ops.matching import Listing, fits, fitting, one_of, resolve
from overlaysync.ops.publish import manifest_row
from overlaysync.ops.trust_messages import (
    AwayError,
    StrangerError,
    first_use,
    forked,
    not_trusted,
    only_distrusted,
    other_publisher,
    several_publishers,
    too_old,
    who,
)
from overlaysync.ops.versions import is_other_side, of_one_history
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest

Versions = Callable[[str, str], Sequence[ManifestRow]]
"""All versions of a team's name that were ever seen here."""

_INIMITABLE = 32
"""Digits of an id that nobody can make a content for; eight of them take an afternoon."""


class Reason(Enum):
    """Why a listing is what was meant."""

    TEAM = auto()
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
        later: versions seen here before that follow it; empty when it is the newest known.
        step_back: why it is not taken, unless one of ``later`` is what is here already.
        asked: the reference that means this one thing.
    """

    listing: Listing
    reason: Reason
    later: tuple[ManifestRow, ...] = ()
    step_back: NotAllowedError | None = None
    asked: str = ""

    @property
    def manifest(self) -> Manifest:
        return self.listing.manifest


def choose(
    reference: Reference,
    listings: Iterable[Listing],
    book: Book,
    versions: Versions,
    *,
    now: float,
    trusted_only: bool = False,
    again: Again | None = None,
    held: Collection[bytes] | None = None,
) -> Choice:
    """Return the one thing that ``reference`` means.

    Args:
        reference, listings, book, versions, now, trusted_only, again: what is meant, among what, and to whom.
        held: ids of the versions that files here hold or were chosen over. With these the side of a fork
            counts as well that is not within reach; None for what is listed only.

    Raises:
        NotFoundError: nothing fits.
        AmbiguousError: different contents fit, the newest versions are a fork, or several publishers use a
            name that belongs to none of them yet.
        NotAllowedError: the name belongs to another publisher, or only to distrusted ones, or (with
            ``trusted_only``) no publisher that the user trusts has it.
    """
    everything = list(listings)
    candidates = fitting(reference, everything)
    choosing = _Choosing(
        book, versions, now, trusted_only, believable(everything, book), again or Again(), held
    )
    candidates = choosing.believable(reference, candidates)
    by = choosing.by_name if reference.id_prefix is None else choosing.by_id
    return replace(by(reference, candidates), asked=str(reference))


def choose_all(
    reference: Reference,
    listings: Iterable[Listing],
    book: Book,
    versions: Versions,
    *,
    now: float,
    trusted_only: bool = False,
    again: Again | None = None,
    held: Collection[bytes] | None = None,
) -> tuple[list[Choice], list[Refusal]]:
    """Return everything that a whole team or a pattern means, and what of it cannot be had.

    Of what distrusted publishers signed, only what belongs to a team is listed as missing: of public names
    any stranger could make up as many as it likes.

    Raises:
        NotFoundError: nothing fits.
        NotAllowedError: only distrusted publishers have what fits.
    """
    everything = list(listings)
    candidates = fitting(reference, everything)
    choosing = _Choosing(
        book, versions, now, trusted_only, believable(everything, book), again or Again(), held
    )
    of_teams = {_key(item) for item in candidates if item.manifest.header.team}
    kept = believable(candidates, book)
    if not kept and not of_teams:
        raise only_distrusted(reference, candidates, book)
    choices: list[Choice] = []
    refusals: list[Refusal] = []
    for team, name in sorted({*map(_key, kept), *of_teams}):
        one = replace(reference, team=team or None, name=name)
        named = [item for item in candidates if _key(item) == (team, name)]
        try:
            choice = choosing.by_name(one, choosing.believable(one, named))
            choices.append(replace(choice, asked=str(one)))
        except OverlaysyncError as error:
            refusals.append(Refusal(f"{team}/{name}" if team else name, error))
    return choices, refusals


def meant_here(reference: Reference, listings: Iterable[Listing], book: Book) -> list[Listing]:
    """Of what this node has, what the reference may mean: of a pinned name its publisher's, and its own.

    What a distrusted publisher signed has a path, and no name.
    """
    kept = believable(listings, book)
    if reference.name is None or not book.pins_of(reference.team, reference.name):
        return kept
    return [
        listing
        for listing in kept
        if not fits(reference, listing)
        or listing.manifest.header.team
        or _is_pinned(book, listing.manifest)
        or listing.manifest.publisher == book.own
    ]


def believable(listings: Iterable[Listing], book: Book) -> list[Listing]:
    """Return the listings without those that a distrusted publisher signed."""
    return [listing for listing in listings if not book.refuses(listing.manifest.publisher)]


def to_look_at(
    reference: Reference,
    listings: Iterable[Listing],
    book: Book,
    versions: Versions,
    *,
    now: float,
    held: Collection[bytes] | None = None,
) -> tuple[Listing, str]:
    """Return the thing to show, and why it would not be fetched ("" when it would)."""
    everything = list(listings)
    try:
        choice = choose(reference, everything, book, versions, now=now, held=held)
        return choice.listing, str(choice.step_back or "")
    except AwayError as error:
        return choose(reference, everything, book, versions, now=now).listing, str(error)
    except NotAllowedError as error:
        kept = [item for item in believable(everything, book) if fits(reference, item)]
        return resolve(reference, kept or everything)[0], str(error)


def new_pin(choice: Choice, book: Book, *, since: str) -> Pin | None:
    """Return the pin that is made when ``choice`` is taken, if there is none yet.

    Not of the masters that come along: their ids brought them, and the names are their publishers' words.
    """
    header = choice.manifest.header
    pinnable = choice.reason in (Reason.PINNED, Reason.FIRST_USE) and not header.team
    refused = book.refuses(choice.manifest.publisher)  # it may have been said while the image came
    if not pinnable or refused or (header.team, header.name) in book.pins:
        return None
    return Pin(header.team, header.name, choice.manifest.publisher, since, label=header.by)


def conflicts(publisher: bytes, published: Iterable[tuple[str, str]], book: Book) -> list[Pin]:
    """Return the pins that stand in the way of ``publisher``, which has published these teams' names."""
    return [book.pins[key] for key in sorted(set(published)) if book.is_other(publisher, *key)]


def remark(choice: Choice, book: Book, *, dry_run: bool = False) -> str:
    """Return what the user should know of a choice before it is pinned: whose word is taken, and why.

    Or "".
    """
    header, publisher = choice.manifest.header, choice.manifest.publisher
    if header.team:
        return ""
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
            f"{thing} is by {signer}, a publisher that is not trusted here; you named the content by its "
            f"id, and that is checked, whichever publisher signed it{doubt}"
        )
    return ""


def _imitable(id: str) -> str:
    return f". Content whose id begins like it can be made in a few hours. The whole id is {id}"


# -- choosing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Choosing:
    """One reference being looked up."""

    book: Book
    versions: Versions
    now: float
    trusted_only: bool
    everything: list[Listing]
    again: Again
    held: Collection[bytes] | None

    def believable(self, reference: Reference, candidates: list[Listing]) -> list[Listing]:
        """Return the candidates that no distrusted publisher signed.

        Raises:
            NotAllowedError: there is none.
        """
        kept = believable(candidates, self.book)
        if not kept:
            raise only_distrusted(reference, candidates, self.book)
        return kept

    def by_id(self, reference: Reference, candidates: list[Listing]) -> Choice:
        """Return the content of that id, as a trusted publisher describes it, if there is one."""
        allowed = self.allowed(reference, candidates)
        allowed.sort(key=lambda listing: self._trust(listing.manifest) is Trust.NO)
        whole = len(reference.id_prefix or "") >= _INIMITABLE
        return Choice(one_of(reference, allowed), Reason.ID if whole else Reason.ID_BEGINNING)

    def by_name(self, reference: Reference, candidates: list[Listing]) -> Choice:
        meant, reason = self._meant(reference, candidates)
        meant = self.allowed(reference, meant)
        if reference.version is None:
            meant = self._newest(meant, reason)
        publishers = {item.manifest.publisher for item in meant if not item.manifest.header.team}
        contents = {listing.manifest.header.content_id for listing in meant}
        away = self._away(reference, meant)
        several = reason is Reason.FIRST_USE and len(publishers) > 1
        if len(contents) > 1 and several and len({_key(listing) for listing in meant}) == 1:
            raise several_publishers(reference, meant)
        if len(contents) + len(away) > 1 and len({_key(listing) for listing in meant}) == 1:
            raise forked(reference, meant, away, self.everything, self.now, self.again)
        one_of(reference, meant)
        reason = Reason.SAME_CONTENT if several else reason
        if reference.version is not None:
            return _choice(max(meant, key=_preference), reason)
        return self._dated(reference, meant, reason)

    def allowed(self, reference: Reference, candidates: list[Listing]) -> list[Listing]:
        """Return the candidates.

        With ``trusted_only`` those by publishers that the user trusts, or by a team.
        """
        if not self.trusted_only:
            return list(candidates)
        kept = [item for item in candidates if item.manifest.header.team or self._is_trusted(item.manifest)]
        if not kept:
            raise not_trusted(reference, candidates)
        return kept

    def _meant(self, reference: Reference, candidates: list[Listing]) -> tuple[list[Listing], Reason]:
        """Return what the team or the publisher of the name says of it."""
        team = [listing for listing in candidates if listing.manifest.header.team]
        public = [listing for listing in candidates if not listing.manifest.header.team]
        if not public:
            return team, Reason.TEAM
        try:
            meant, reason = self._public(reference, public)
        except StrangerError:
            if not team:
                raise
            return team, Reason.TEAM
        return team + meant, reason

    def _public(self, reference: Reference, candidates: list[Listing]) -> tuple[list[Listing], Reason]:
        assert reference.name is not None
        pins = self.book.pins_of("", reference.name)
        if not pins:
            trusted = [listing for listing in candidates if self._is_trusted(listing.manifest)]
            return trusted or candidates, Reason.FIRST_USE
        pinned = [listing for listing in candidates if _is_pinned(self.book, listing.manifest)]
        if pinned:
            return pinned, Reason.PINNED
        if reference.peer:
            return candidates, Reason.PEER
        raise other_publisher(reference, candidates, pins, self.book, self.everything, self.again)

    def _is_trusted(self, manifest: Manifest) -> bool:
        return self._trust(manifest) in (Trust.OWN, Trust.EXPLICIT)

    def _trust(self, manifest: Manifest) -> Trust:
        return self.book.trust(manifest.publisher, manifest.header.team, manifest.header.name)

    def _newest(self, meant: Sequence[Listing], reason: Reason) -> list[Listing]:
        """Those that no other of them follows, name by name.

        While a public name belongs to no publisher here, each publisher's versions are taken by themselves:
        otherwise a stranger that follows the teacher's version would take its place.
        """
        if reason is Reason.FIRST_USE and not all(self._is_trusted(listing.manifest) for listing in meant):
            publishers = dict.fromkeys(listing.manifest.publisher for listing in meant)
            groups = [[one for one in meant if one.manifest.publisher == key] for key in publishers]
        else:
            groups = [list(meant)]
        return [
            item for one in groups for group in newest_versions(one, self.versions).values() for item in group
        ]

    def _dated(self, reference: Reference, newest: list[Listing], reason: Reason) -> Choice:
        """Choose among listings of one content: one that nothing seen here follows, else a step back."""
        steps = {listing.manifest.id: self._later(listing) for listing in newest}
        preferred = sorted(newest, key=_preference, reverse=True)
        for listing in preferred:
            if not steps[listing.manifest.id]:
                return _choice(listing, reason)
        listing = preferred[0]
        later = steps[listing.manifest.id]
        seen = max(later, key=lambda row: row.version)
        problem = too_old(reference, listing, seen, self.now, own=self.book.own, again=self.again)
        return replace(_choice(listing, reason), later=later, step_back=problem)

    def _away(self, reference: Reference, meant: Sequence[Listing]) -> list[ManifestRow]:
        """Return the known sides of a fork that are neither within reach nor in a file here.

        Who names a version, or a peer, has chosen. What this node published itself is away by its own doing.
        """
        if self.held is None or reference.version is not None or reference.peer:
            return []
        if len({_key(listing) for listing in meant}) != 1:
            return []
        listed = [manifest_row(listing.manifest) for listing in meant]
        rows = {row.id: row for row in listed}
        for row in self.versions(*_key(meant[0])):
            if not self.book.refuses(row.publisher) and of_one_history([row], meant[0].manifest):
                rows.setdefault(row.id, row)
        history = History(rows.values())
        return [
            row
            for row in history.newest(rows.values())
            if row.id not in self.held
            and row.publisher != self.book.own
            and all(
                row.id != one.id
                and not history.is_before(one.id, row.id)
                and is_other_side(history, one, row)
                for one in listed
            )
        ]

    def _later(self, listing: Listing) -> tuple[ManifestRow, ...]:
        """Versions seen here that follow it, in a team by any member, else by its publisher."""
        team, name = _key(listing)
        known = self.versions(team, name)
        history = History([*known, _place(listing)])
        return tuple(
            row
            for row in known
            if (team or row.publisher == listing.manifest.publisher)
            and not self.book.refuses(row.publisher)
            and history.is_before(listing.manifest.id, row.id)
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """A listed version's place in its history."""

    id: bytes
    version: int
    follows: tuple[bytes, ...]


def _place(listing: Listing) -> _Place:
    header = listing.manifest.header
    return _Place(listing.manifest.id, header.version, header.followed)


def _key(listing: Listing) -> tuple[str, str]:
    return (listing.manifest.header.team, listing.manifest.header.name)


def _is_pinned(book: Book, manifest: Manifest) -> bool:
    return book.has_pin(manifest.publisher, manifest.header.team, manifest.header.name)


def _choice(listing: Listing, reason: Reason) -> Choice:
    """Choose a listing; when a team and others publish the same, the team's word is the one that counts."""
    return Choice(listing, Reason.TEAM if listing.manifest.header.team else reason)


def _preference(listing: Listing) -> tuple[bool, int]:
    return (bool(listing.manifest.header.team), listing.manifest.header.version)


def newest_versions(listings: Iterable[Listing], versions: Versions) -> dict[tuple[str, str], list[Listing]]:
    """Return by team and name the listed versions that no other listed one follows; several are a fork."""
    grouped: dict[tuple[str, str], list[Listing]] = {}
    for listing in listings:
        grouped.setdefault(_key(listing), []).append(listing)
    found = {}
    for (team, name), group in grouped.items():
        by_id = {listing.manifest.id: listing for listing in group}
        places = [_place(listing) for listing in by_id.values()]
        history = History([*versions(team, name), *places])
        found[team, name] = [by_id[place.id] for place in history.newest(places)]
    return found
