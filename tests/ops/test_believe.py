"""What a reference means to a node that has pins: decided without network, and never by a stranger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import AmbiguousError, NotAllowedError, NotFoundError, OverlaysyncError
from overlaysync.model.digest import format_id
from overlaysync.model.manifest import Header
from overlaysync.model.pin import Pin, Sighting, TrustedPublisher
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.ops.believe import (
    Choice,
    Reason,
    Seen,
    choose,
    conflicts,
    meant_here,
    new_pin,
    remark,
    to_look_at,
)
from overlaysync.ops.resolve import Listing
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id

OWN, TEACHER, STRANGER, OTHER = (bytes([number]) * 32 for number in range(4))
NOW = 1_770_000_000.0  # 2026-02-02T02:40:00Z
SINCE = "2026-01-10T10:00:00Z"


def signed(
    publisher: bytes,
    name: str = "router",
    version: int = 1,
    *,
    team: str = "",
    content: str = "",
    created: str = "2026-01-31T12:00:00Z",
    at: str = "somebody",
) -> Listing:
    """A listing at the node labelled ``at``; each publisher's versions differ unless ``content`` is given."""
    seed = content or f"{publisher.hex()} {team} {name} {version}"
    id = format_id(hashlib.sha256(seed.encode()).digest())
    header = Header(
        kind="disk",
        team=team,
        name=name,
        version=version,
        id=id,
        virtual_size=1 << 20,
        unit=65536,
        data_size=0,
        list_size=48,
        result=id,
        format="raw",
        cluster_size=65536,
        created=created,
        by=f"label{publisher[0]}@host",
    )
    manifest = Manifest(hashlib.sha256(f"{seed} {publisher.hex()}".encode()).digest(), header, publisher, b"")
    return Listing(manifest, ("10.0.0.1:80",), (f"{at}@lab-abc234",))


def book(*pins: tuple[str, bytes], trusted: Iterable[bytes] = ()) -> Book:
    """Pins of ``[team/]name`` to publishers."""
    made = []
    for text, publisher in pins:
        team, _, name = text.rpartition("/")
        made.append(Pin(team, name, publisher, SINCE, label="pl@bob"))
    return Book.of(OWN, made, [TrustedPublisher(key, SINCE) for key in trusted])


def nothing(*_: object) -> None:
    """Nothing was ever seen."""


def seen(*sightings: Sighting) -> Seen:
    found = {(one.team, one.name, one.publisher): one for one in sightings}
    return lambda team, name, publisher: found.get((team, name, publisher))


def chosen(
    text: str,
    listings: Iterable[Listing],
    known: Book,
    highest: Seen = nothing,
    *,
    trusted_only: bool = False,
) -> list[Choice]:
    return choose(parse_reference(text), listings, known, highest, now=NOW, trusted_only=trusted_only)


def one(text: str, *listings: Listing, known: Book, highest: Seen = nothing) -> tuple[bytes, int, Reason]:
    (choice,) = chosen(text, listings, known, highest)
    return choice.manifest.publisher, choice.manifest.header.version, choice.reason


KNOWN = book(("router", TEACHER))


# -- whose a name is ---------------------------------------------------------------------------------


def test_a_new_name_becomes_its_publisher_s() -> None:
    (choice,) = chosen("router", [signed(TEACHER, version=1), signed(TEACHER, version=2)], book())
    assert (choice.manifest.header.version, choice.reason) == (2, Reason.FIRST_USE)
    assert new_pin(choice, book(), since=SINCE) == Pin("", "router", TEACHER, SINCE, label="label1@host")
    assert f"untrust {node_id(TEACHER)[:9]}" in remark(choice, book())
    assert node_id(TEACHER) in remark(choice, book(), dry_run=True)
    assert "untrust" not in remark(choice, book(), dry_run=True)  # nobody is trusted by it
    assert new_pin(choice, KNOWN, since=SINCE) is None
    assert remark(choice, KNOWN) == ""


def test_a_pinned_name_is_its_publisher_s_whatever_others_number() -> None:
    listings = [signed(STRANGER, version=9), signed(TEACHER, version=2), signed(STRANGER, version=2)]
    assert one("router", *listings, known=KNOWN) == (TEACHER, 2, Reason.PINNED)
    assert one("router:2", *listings, known=KNOWN) == (TEACHER, 2, Reason.PINNED)


def test_a_takeover_is_refused_and_explained() -> None:
    listings = [signed(STRANGER, version=2), signed(OTHER, version=3)]
    with pytest.raises(NotAllowedError) as caught:
        chosen("router", listings, KNOWN)
    why, hint = caught.value.why, caught.value.hint
    assert "pl@bob" in why and SINCE in why
    for publisher in (TEACHER, STRANGER, OTHER):
        assert node_id(publisher) in why
    assert f"overlaysync trust {node_id(STRANGER)}" in hint
    with pytest.raises(NotAllowedError) as caught:
        chosen("router:2", [*listings, signed(TEACHER, version=1)], KNOWN)
    assert "overlaysync fetch router:1" in caught.value.hint


def test_one_s_own_name_is_one_s_own() -> None:
    with pytest.raises(NotAllowedError) as caught:
        chosen("router", [signed(STRANGER)], book(("router", OWN)))
    assert "is yours" in caught.value.why
    assert one("router", signed(STRANGER), signed(OWN), known=book(("router", OWN)))[0] == OWN


def test_of_several_publishers_of_a_new_name_none_is_chosen() -> None:
    with pytest.raises(AmbiguousError) as caught:
        chosen("router", [signed(TEACHER, version=1), signed(STRANGER, version=2)], book())
    assert len(caught.value.candidates) == 2
    assert any(node_id(TEACHER) in line for line in caught.value.candidates)
    assert "overlaysync trust" in caught.value.hint
    # Unless the user trusts one of them, or names a version that only one has.
    listings = (signed(TEACHER, version=1), signed(STRANGER, version=2))
    assert one("router", *listings, known=book(trusted=[TEACHER])) == (TEACHER, 1, Reason.FIRST_USE)
    assert one("router:1", *listings, known=book()) == (TEACHER, 1, Reason.FIRST_USE)


def test_several_publishers_of_one_content_are_no_question_and_pin_nobody() -> None:
    listings = (signed(TEACHER, content="same"), signed(STRANGER, content="same", version=4))
    (choice,) = chosen("router", listings, book())
    assert choice.reason is Reason.SAME_CONTENT
    assert new_pin(choice, book(), since=SINCE) is None
    assert "several publishers" in remark(choice, book())


def test_two_contents_of_one_version_by_one_publisher_are_a_question() -> None:
    with pytest.raises(AmbiguousError):
        chosen("router", [signed(TEACHER, content="a"), signed(TEACHER, content="b")], KNOWN)


def test_nothing_fits() -> None:
    for known in (KNOWN, book()):
        with pytest.raises(NotFoundError):
            chosen("web", [signed(TEACHER)], known)


# -- teams -------------------------------------------------------------------------------------------


def test_a_team_is_part_of_the_name() -> None:
    known = book(("red/router", TEACHER))
    listings = (signed(TEACHER, team="red"), signed(STRANGER, team="blue", version=5))
    assert one("router", *listings, known=known) == (TEACHER, 1, Reason.PINNED)
    assert one("blue/router", *listings, known=known) == (STRANGER, 5, Reason.FIRST_USE)
    with pytest.raises(NotAllowedError):
        chosen("router", [signed(STRANGER, team="blue")], known)
    # The same publisher is no stranger to the name in another team.
    (choice,) = chosen("router", [signed(TEACHER), signed(STRANGER, team="blue")], known)
    assert (choice.manifest.publisher, choice.reason) == (TEACHER, Reason.PINNED)
    assert new_pin(choice, known, since=SINCE) is not None


def test_a_whole_team_without_what_strangers_call_so() -> None:
    known = book(("red/a", TEACHER), ("red/b", TEACHER))
    listings = [signed(TEACHER, "a", team="red"), signed(STRANGER, "b", team="red")]
    assert [choice.manifest.header.name for choice in chosen("red/", listings, known)] == ["a"]
    with pytest.raises(NotAllowedError):
        chosen("red/", listings[1:], known)
    listings.append(signed(TEACHER, "b", 3, team="red"))
    assert [choice.manifest.publisher for choice in chosen("red/", listings, known)] == [TEACHER] * 2


# -- ids and peers -----------------------------------------------------------------------------------


def test_an_id_means_its_content_and_pins_nobody() -> None:
    strange = signed(STRANGER)
    text = strange.manifest.header.id
    (choice,) = chosen(text, [strange, signed(TEACHER)], KNOWN)
    assert (choice.manifest.publisher, choice.reason) == (STRANGER, Reason.ID)
    assert new_pin(choice, book(), since=SINCE) is None
    assert node_id(STRANGER) in remark(choice, KNOWN)
    assert text not in remark(choice, KNOWN)
    # A few digits can be imitated.
    (choice,) = chosen(text[:12], [strange, signed(TEACHER)], KNOWN)
    assert (choice.manifest.publisher, choice.reason) == (STRANGER, Reason.ID_BEGINNING)
    assert text in remark(choice, KNOWN)
    # Who is trusted describes it, where one does.
    same = [signed(STRANGER, content="same"), signed(TEACHER, content="same")]
    (choice,) = chosen(same[0].manifest.header.id, same, KNOWN)
    assert choice.manifest.publisher == TEACHER
    assert remark(choice, KNOWN) == ""


def test_a_peer_that_is_named_is_taken_at_its_word_unless_it_has_the_publisher_s() -> None:
    strange, right = signed(STRANGER, version=7, at="eve"), signed(TEACHER, at="eve")
    (choice,) = chosen("router@eve", [strange, signed(TEACHER, at="bob")], KNOWN)
    assert (choice.manifest.publisher, choice.reason) == (STRANGER, Reason.PEER)
    assert new_pin(choice, KNOWN, since=SINCE) is None
    assert node_id(STRANGER) in remark(choice, KNOWN)
    assert one("router@eve", strange, right, known=KNOWN) == (TEACHER, 1, Reason.PINNED)
    assert one("router@eve", strange, known=book()) == (STRANGER, 7, Reason.FIRST_USE)


# -- only who is trusted -----------------------------------------------------------------------------


def test_trusted_only_takes_nothing_else() -> None:
    listings = [signed(TEACHER), signed(STRANGER, "web")]
    for text in ("router", "web", listings[1].manifest.header.id, "web@somebody"):
        with pytest.raises(NotAllowedError) as caught:
            chosen(text, listings, KNOWN, trusted_only=True)
        assert "overlaysync trust" in caught.value.hint
    known = book(("router", TEACHER), trusted=[TEACHER])
    (choice,) = chosen("router", listings, known, trusted_only=True)
    assert remark(choice, known) == ""
    explicit = Book.of(OWN, [Pin("", "router", TEACHER, SINCE, explicit=True)])
    assert chosen("router", listings, explicit, trusted_only=True)
    with pytest.raises(NotAllowedError):
        chosen("web", [signed(TEACHER, "web")], explicit, trusted_only=True)


def test_trusted_only_leaves_strangers_out_of_a_team() -> None:
    listings = [signed(TEACHER, "a", team="red"), signed(STRANGER, "b", team="red")]
    (choice,) = chosen("red/", listings, book(trusted=[TEACHER]), trusted_only=True)
    assert choice.manifest.header.name == "a"


def test_trust_does_not_take_a_name_silently() -> None:
    with pytest.raises(NotAllowedError):
        chosen("router", [signed(OTHER)], book(("router", TEACHER), trusted=[OTHER]))


# -- versions only rise ------------------------------------------------------------------------------

HIGHEST = seen(Sighting("", "router", TEACHER, 3, "2026-02-01T00:00:00Z"))


def test_nothing_below_the_highest_seen_unless_it_is_named() -> None:
    old = signed(TEACHER, version=2)
    for text in ("router", "router@somebody"):
        with pytest.raises(NotAllowedError) as caught:
            chosen(text, [old], KNOWN, HIGHEST)
    why, hint = caught.value.why, caught.value.hint
    assert "2026-01-31T12:00:00Z, 1 day ago" in why
    assert "router:3" in why and "2026-02-01T00:00:00Z" in why
    assert "overlaysync fetch router:2" in hint
    assert one("router:2", old, known=KNOWN, highest=HIGHEST)[1] == 2
    assert one(old.manifest.header.id, old, known=KNOWN, highest=HIGHEST)[1] == 2
    assert one("router", old, signed(TEACHER, version=3), known=KNOWN, highest=HIGHEST)[1] == 3


def test_versions_of_strangers_lock_no_name() -> None:
    strange = seen(Sighting("", "router", STRANGER, 1 << 30), Sighting("red", "router", TEACHER, 9))
    assert one("router", signed(TEACHER, version=2), known=KNOWN, highest=strange)[1] == 2
    assert one("router", signed(TEACHER, version=2), known=book(), highest=strange)[1] == 2
    same = (signed(TEACHER, content="same"), signed(STRANGER, content="same", version=4))
    assert one("router", *same, known=book(), highest=strange)[0] == TEACHER


@pytest.mark.parametrize("created", ["2026-13-99T99:99:99Z", "2031-01-01T00:00:00Z", "0000-00-00T00:00:00Z"])
def test_a_strange_date_has_no_age(created: str) -> None:
    with pytest.raises(NotAllowedError) as caught:
        chosen("router", [signed(TEACHER, created=created)], KNOWN, HIGHEST)
    assert created in caught.value.why and "ago" not in caught.value.why


# -- looking, and what is here -----------------------------------------------------------------------


def test_what_would_be_refused_can_be_looked_at() -> None:
    def shown(*listings: Listing, highest: Seen = nothing) -> tuple[bytes, bool]:
        listing, problem = to_look_at(parse_reference("router"), listings, KNOWN, highest, now=NOW)
        return listing.manifest.publisher, bool(problem)

    assert shown(signed(STRANGER, version=5), signed(TEACHER)) == (TEACHER, False)
    assert shown(signed(STRANGER)) == (STRANGER, True)
    assert shown(signed(STRANGER, version=5), signed(TEACHER), highest=HIGHEST) == (TEACHER, True)


def test_a_pinned_name_means_here_what_its_publisher_or_this_node_signed() -> None:
    listings = [signed(STRANGER, version=9), signed(TEACHER), signed(OWN, version=2), signed(STRANGER, "web")]

    def publishers(text: str, known: Book) -> list[bytes]:
        return [item.manifest.publisher for item in meant_here(parse_reference(text), listings, known)]

    assert publishers("router", KNOWN) == [TEACHER, OWN, STRANGER]
    assert len(publishers("router", book())) == 4
    assert len(publishers("b3:00000000", KNOWN)) == 4


def test_conflicts_are_names_of_others() -> None:
    known = book(("a", TEACHER), ("b", STRANGER), ("red/a", TEACHER))
    published = [("", "a"), ("", "b"), ("", "c"), ("", "a")]
    assert conflicts(STRANGER, published, known) == [known.pins["", "a"]]


# -- whatever strangers do ---------------------------------------------------------------------------

NAMES, TEAMS = st.sampled_from(["router", "web", "debian"]), st.sampled_from(["", "red", "blue"])
VERSIONS = st.integers(1, 5) | st.just(1 << 30)
LISTINGS = st.builds(
    signed,
    st.sampled_from([OWN, TEACHER, STRANGER, OTHER]),
    NAMES,
    VERSIONS,
    team=TEAMS,
    content=st.sampled_from(["", "", "x", "y"]),
    at=st.sampled_from(["pl", "eve"]),
)
BOOKS = st.builds(
    lambda pins, trusted: Book.of(
        OWN,
        [Pin(team, name, key, SINCE, explicit) for (team, name), (key, explicit) in pins.items()],
        [TrustedPublisher(key, SINCE) for key in trusted],
    ),
    st.dictionaries(
        st.tuples(TEAMS, NAMES), st.tuples(st.sampled_from([OWN, TEACHER, OTHER]), st.booleans()), max_size=6
    ),
    st.sets(st.sampled_from([TEACHER, OTHER])),
)
HIGHEST_SEEN = st.dictionaries(
    st.tuples(TEAMS, NAMES, st.sampled_from([TEACHER, STRANGER, OTHER])), VERSIONS, max_size=8
)


@given(
    name=NAMES | st.none(),
    team=TEAMS | st.none(),
    version=st.none() | VERSIONS,
    listings=st.lists(LISTINGS, min_size=1, max_size=12),
    known=BOOKS,
    versions=HIGHEST_SEEN,
    trusted_only=st.booleans(),
)
def test_a_pinned_name_never_means_what_a_stranger_signed(
    name: str | None,
    team: str | None,
    version: int | None,
    listings: list[Listing],
    known: Book,
    versions: dict[tuple[str, str, bytes], int],
    trusted_only: bool,
) -> None:
    if name is None:
        team, version = team or "red", None
    reference = Reference(team=team, name=name, version=version)

    def highest(team: str, name: str, publisher: bytes) -> Sighting | None:
        number = versions.get((team, name, publisher))
        return Sighting(team, name, publisher, number) if number else None

    choices: list[Choice] = []
    with suppress(OverlaysyncError):
        choices = choose(reference, listings, known, highest, now=NOW, trusted_only=trusted_only)
    for choice in choices:
        header, publisher = choice.manifest.header, choice.manifest.publisher
        pins = known.pins_of(team, header.name)
        assert not pins or publisher in {pin.publisher for pin in pins}
        assert not known.is_other(publisher, header.team, header.name)
        if trusted_only:
            assert known.trust(publisher, header.team, header.name) in ("own", "explicit")
        if version is None:
            assert versions.get((header.team, header.name, publisher), 0) <= header.version
        pin = new_pin(choice, known, since=SINCE)
        assert pin is None or (pin.team, pin.name) not in known.pins


@given(
    listings=st.lists(LISTINGS, max_size=12),
    strange=st.lists(LISTINGS.filter(lambda item: item.manifest.publisher == STRANGER), max_size=6),
    known=BOOKS,
    name=NAMES,
)
def test_strangers_change_nothing_about_a_pinned_name(
    listings: list[Listing], strange: list[Listing], known: Book, name: str
) -> None:
    honest = [item for item in listings if item.manifest.publisher != STRANGER]
    if not known.pins_of(None, name):
        return

    def outcome(found: list[Listing]) -> tuple[bytes, int] | None:
        try:
            (choice,) = chosen(name, found, known)
        except OverlaysyncError:
            return None
        return choice.manifest.header.content_id, choice.manifest.header.version

    assert outcome([*honest, *strange]) == outcome(honest)
