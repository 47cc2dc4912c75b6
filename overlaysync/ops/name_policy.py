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

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from overlaysync.errors import NotAllowedError, OverlaysyncError, Refusal
from overlaysync.model.history import History
from overlaysync.model.pin import Pin
from overlaysync.model.reference import Reference
from overlaysync.ops.again import Again
from overlaysync.ops.choice import Choice, Reason
from overlaysync.ops.listed_versions import Versions, key_of, newest_versions, place_of
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.matching import Listing, fits, fitting, one_of, resolve
from overlaysync.ops.trust_messages import (
    AwayError,
    StrangerError,
    forked,
    not_trusted,
    only_distrusted,
    other_publisher,
    several_publishers,
    too_old,
)
from overlaysync.ops.versions import is_other_side, of_one_history
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book, Trust
from overlaysync.trust.envelope import Manifest

_INIMITABLE = 32
"""Digits of an id that nobody can make a content for; eight of them take an afternoon."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a choice is decided on, beside what is listed.

    Attributes:
        book: whom this node trusts.
        versions: what it has seen of a name.
        now: seconds since 1970.
        trusted_only: whether only publishers count that the user has said to trust.
        again: what a command needs that fetches the thing into the same places.
        held: ids of the versions that files here hold or were chosen over. With these the side of a fork
            counts as well that is not within reach; None for what is listed only.
    """

    book: Book
    versions: Versions
    now: float
    trusted_only: bool = False
    again: Again = field(default_factory=Again)
    held: Collection[bytes] | None = None


def choose(reference: Reference, listings: Iterable[Listing], grounds: Grounds) -> Choice:
    """Return the one thing that ``reference`` means.

    Args:
        reference: what is meant.
        listings: among what.
        grounds: to whom.

    Raises:
        NotFoundError: nothing fits.
        AmbiguousError: different contents fit, the newest versions are a fork, or several publishers use a
            name that belongs to none of them yet.
        NotAllowedError: the name belongs to another publisher, or only to distrusted ones, or (with
            ``trusted_only``) no publisher that the user trusts has it.
    """
    everything = list(listings)
    candidates = fitting(reference, everything)
    choosing = _Choosing(grounds, believable(everything, grounds.book))
    candidates = choosing.believable(reference, candidates)
    by = choosing.by_name if reference.id_prefix is None else choosing.by_id
    return replace(by(reference, candidates), asked=str(reference))


def choose_all(
    reference: Reference, listings: Iterable[Listing], grounds: Grounds
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
    choosing = _Choosing(grounds, believable(everything, grounds.book))
    of_teams = {key_of(item) for item in candidates if item.manifest.header.team}
    kept = believable(candidates, grounds.book)
    if not kept and not of_teams:
        raise only_distrusted(reference, candidates, grounds.book)
    choices: list[Choice] = []
    refusals: list[Refusal] = []
    for team, name in sorted({*map(key_of, kept), *of_teams}):
        one = replace(reference, team=team or None, name=name)
        named = [item for item in candidates if key_of(item) == (team, name)]
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


def to_look_at(reference: Reference, listings: Iterable[Listing], grounds: Grounds) -> tuple[Listing, str]:
    """Return the thing to show, and why it would not be fetched ("" when it would)."""
    everything = list(listings)
    try:
        choice = choose(reference, everything, grounds)
        return choice.listing, str(choice.step_back or "")
    except AwayError as error:
        return choose(reference, everything, replace(grounds, held=None)).listing, str(error)
    except NotAllowedError as error:
        kept = [item for item in believable(everything, grounds.book) if fits(reference, item)]
        return resolve(reference, kept or everything)[0], str(error)


def conflicts(publisher: bytes, published: Iterable[tuple[str, str]], book: Book) -> list[Pin]:
    """Return the pins that stand in the way of ``publisher``, which has published these teams' names."""
    return [book.pins[key] for key in sorted(set(published)) if book.is_other(publisher, *key)]


# -- choosing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Choosing:
    """One reference being looked up."""

    grounds: Grounds
    everything: list[Listing]

    def believable(self, reference: Reference, candidates: list[Listing]) -> list[Listing]:
        """Return the candidates that no distrusted publisher signed.

        Raises:
            NotAllowedError: there is none.
        """
        kept = believable(candidates, self.grounds.book)
        if not kept:
            raise only_distrusted(reference, candidates, self.grounds.book)
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
        if len(contents) > 1 and several and len({key_of(listing) for listing in meant}) == 1:
            raise several_publishers(reference, meant)
        if len(contents) + len(away) > 1 and len({key_of(listing) for listing in meant}) == 1:
            raise forked(reference, meant, away, self.everything, self.grounds.now, self.grounds.again)
        one_of(reference, meant)
        reason = Reason.SAME_CONTENT if several else reason
        if reference.version is not None:
            return _choice(max(meant, key=_preference), reason)
        return self._dated(reference, meant, reason)

    def allowed(self, reference: Reference, candidates: list[Listing]) -> list[Listing]:
        """Return the candidates.

        With ``trusted_only`` those by publishers that the user trusts, or by a team.
        """
        if not self.grounds.trusted_only:
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
        pins = self.grounds.book.pins_of("", reference.name)
        if not pins:
            trusted = [listing for listing in candidates if self._is_trusted(listing.manifest)]
            return trusted or candidates, Reason.FIRST_USE
        pinned = [listing for listing in candidates if _is_pinned(self.grounds.book, listing.manifest)]
        if pinned:
            return pinned, Reason.PINNED
        if reference.peer:
            return candidates, Reason.PEER
        raise other_publisher(
            reference, candidates, pins, self.grounds.book, self.everything, self.grounds.again
        )

    def _is_trusted(self, manifest: Manifest) -> bool:
        return self._trust(manifest) in (Trust.OWN, Trust.EXPLICIT)

    def _trust(self, manifest: Manifest) -> Trust:
        return self.grounds.book.trust(manifest.publisher, manifest.header.team, manifest.header.name)

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
            item
            for one in groups
            for group in newest_versions(one, self.grounds.versions).values()
            for item in group
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
        problem = too_old(
            reference, listing, seen, self.grounds.now, own=self.grounds.book.own, again=self.grounds.again
        )
        return replace(_choice(listing, reason), later=later, step_back=problem)

    def _away(self, reference: Reference, meant: Sequence[Listing]) -> list[ManifestRow]:
        """Return the known sides of a fork that are neither within reach nor in a file here.

        Who names a version, or a peer, has chosen. What this node published itself is away by its own doing.
        """
        if self.grounds.held is None or reference.version is not None or reference.peer:
            return []
        if len({key_of(listing) for listing in meant}) != 1:
            return []
        listed = [manifest_row(listing.manifest) for listing in meant]
        rows = {row.id: row for row in listed}
        for row in self.grounds.versions(*key_of(meant[0])):
            if not self.grounds.book.refuses(row.publisher) and of_one_history([row], meant[0].manifest):
                rows.setdefault(row.id, row)
        history = History(rows.values())
        return [
            row
            for row in history.newest(rows.values())
            if row.id not in self.grounds.held
            and row.publisher != self.grounds.book.own
            and all(
                row.id != one.id
                and not history.is_before(one.id, row.id)
                and is_other_side(history, one, row)
                for one in listed
            )
        ]

    def _later(self, listing: Listing) -> tuple[ManifestRow, ...]:
        """Versions seen here that follow it, in a team by any member, else by its publisher."""
        team, name = key_of(listing)
        known = self.grounds.versions(team, name)
        history = History([*known, place_of(listing)])
        return tuple(
            row
            for row in known
            if (team or row.publisher == listing.manifest.publisher)
            and not self.grounds.book.refuses(row.publisher)
            and history.is_before(listing.manifest.id, row.id)
        )


def _is_pinned(book: Book, manifest: Manifest) -> bool:
    return book.has_pin(manifest.publisher, manifest.header.team, manifest.header.name)


def _choice(listing: Listing, reason: Reason) -> Choice:
    """Choose a listing; when a team and others publish the same, the team's word is the one that counts."""
    return Choice(listing, Reason.TEAM if listing.manifest.header.team else reason)


def _preference(listing: Listing) -> tuple[bool, int]:
    return (bool(listing.manifest.header.team), listing.manifest.header.version)
