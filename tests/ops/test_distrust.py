"""What a distrusted publisher signed is never chosen, and is in nobody's way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import NotAllowedError, NotFoundError, OverlaysyncError
from overlaysync.model.pin import DistrustedPublisher, Pin
from overlaysync.model.reference import parse_reference
from overlaysync.ops.choice import Choice, new_pin
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.matching import Listing
from overlaysync.ops.name_policy import Grounds, choose, choose_all, meant_here, to_look_at
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from tests.ops.headers import disk_header

OWN, TEACHER, EVE, OTHER = (bytes([number]) * 32 for number in range(4))
NOW = 1_770_000_000.0
SINCE = "2026-01-10T10:00:00Z"


def signed(
    publisher: bytes,
    name: str = "router",
    version: int = 1,
    *,
    team: str = "",
    content: str = "",
    follows: Sequence[Listing] = (),
) -> Listing:
    """A listing; each publisher's versions differ unless ``content`` is given."""
    seed = content or f"{publisher.hex()} {team} {name} {version}"
    header = disk_header(
        seed,
        team=team,
        name=name,
        version=version,
        by=f"label{publisher[0]}@host",
        follows=tuple(item.manifest.id.hex() for item in follows),
    )
    manifest = Manifest(hashlib.sha256(f"{seed} {publisher.hex()}".encode()).digest(), header, publisher, b"")
    return Listing(manifest, ("10.0.0.1:80",), ("eve@lab-abc234",))


BOOK = Book.of(OWN, distrusted=[DistrustedPublisher(EVE, SINCE, "eve@lab")])


def nothing(team: str, name: str) -> list[ManifestRow]:
    """No version was seen before."""
    return []


def chosen(text: str, *listings: Listing, book: Book = BOOK) -> Manifest:
    return choose(parse_reference(text), listings, Grounds(book, nothing, NOW)).manifest


def test_neither_a_name_nor_a_peer_nor_an_id_means_it() -> None:
    one = signed(EVE)
    for text in ("router", "router:1", "router@eve", one.manifest.header.id, one.manifest.header.id[:12]):
        with pytest.raises(NotAllowedError) as caught:
            chosen(text, one)
        assert node_id(EVE) in caught.value.why and SINCE in caught.value.why
        assert f"overlaysync trust {node_id(EVE)[:9]}" in caught.value.hint
    with pytest.raises(NotFoundError):
        chosen("web", one)


def test_the_same_content_counts_when_another_has_signed_it() -> None:
    listings = [signed(EVE, content="same", version=9), signed(TEACHER, content="same")]
    for text in ("router", listings[0].manifest.header.id, "router@eve"):
        assert chosen(text, *listings).publisher == TEACHER


def test_it_is_in_nobodys_way() -> None:
    assert chosen("router", signed(EVE, version=9), signed(TEACHER)).publisher == TEACHER
    pinned = Book.of(OWN, [Pin("", "router", TEACHER, SINCE)], (), BOOK.distrusted.values())
    assert chosen("router", signed(EVE), signed(TEACHER), book=pinned).publisher == TEACHER
    with pytest.raises(NotAllowedError) as caught:
        chosen("router", signed(EVE), signed(OTHER), book=pinned)
    assert node_id(EVE) not in str(caught.value) + caught.value.hint


def test_in_a_team_its_versions_make_no_other_one_old() -> None:
    first = signed(TEACHER, team="red")
    second = signed(EVE, version=2, team="red", follows=[first])
    third = signed(OTHER, version=3, team="red", follows=[second])

    def meant(*listings: Listing, seen: Sequence[Listing], book: Book) -> tuple[int, bool]:
        rows = [manifest_row(item.manifest) for item in seen]
        choice = choose(parse_reference("red/router"), listings, Grounds(book, lambda *_: rows, NOW))
        return choice.manifest.header.version, choice.step_back is not None

    nobody = Book.of(OWN)
    assert meant(first, seen=[first, second], book=nobody) == (1, True)
    assert meant(first, second, seen=[first, second], book=BOOK) == (1, False)
    # What another member has built on it is that member's word.
    assert meant(first, second, third, seen=[first, second, third], book=BOOK) == (3, False)
    assert meant(first, seen=[first, second, third], book=BOOK) == (1, True)


def test_of_many_things_it_is_left_out_and_of_a_team_that_is_said() -> None:
    listings = [
        signed(TEACHER, "vm1"),
        signed(EVE, "vm2"),
        signed(TEACHER, "a", team="red"),
        signed(EVE, "b", team="red"),
    ]
    choices, refusals = choose_all(parse_reference("vm*"), listings, Grounds(BOOK, nothing, NOW))
    assert [choice.manifest.header.name for choice in choices] == ["vm1"] and not refusals
    choices, refusals = choose_all(parse_reference("red/"), listings, Grounds(BOOK, nothing, NOW))
    assert [choice.manifest.header.name for choice in choices] == ["a"]
    assert [(refusal.name, refusal.error.exit_code) for refusal in refusals] == [("red/b", 8)]
    with pytest.raises(NotAllowedError):
        choose_all(parse_reference("vm2*"), listings, Grounds(BOOK, nothing, NOW))


def test_a_publisher_that_is_refused_while_its_image_comes_gets_no_name() -> None:
    choice = choose(parse_reference("router"), [signed(EVE)], Grounds(Book.of(OWN), nothing, NOW))
    assert new_pin(choice, Book.of(OWN), since=SINCE) is not None
    assert new_pin(choice, BOOK, since=SINCE) is None


def test_it_can_be_looked_at_and_has_no_name_here() -> None:
    listing, problem = to_look_at(parse_reference("router"), [signed(EVE)], Grounds(BOOK, nothing, NOW))
    assert listing.manifest.publisher == EVE and "distrust" in problem
    assert meant_here(parse_reference("router"), [signed(EVE)], BOOK) == []


LISTINGS = st.builds(
    signed,
    st.sampled_from([OWN, TEACHER, EVE]),
    st.sampled_from(["router", "web"]),
    st.integers(1, 4),
    team=st.sampled_from(["", "red"]),
    content=st.sampled_from(["", "", "x"]),
)


@given(
    text=st.sampled_from(["router", "router:2", "red/router", "web@eve", "red/", "*", "red/w*"])
    | LISTINGS.map(lambda item: item.manifest.header.id),
    listings=st.lists(LISTINGS, min_size=1, max_size=10),
    trusted_only=st.booleans(),
)
@pytest.mark.slow
def test_whatever_is_asked_for_it_is_never_chosen(
    text: str, listings: list[Listing], trusted_only: bool
) -> None:
    reference = parse_reference(text)
    choices: list[Choice] = []
    with suppress(OverlaysyncError):
        if reference.is_many:
            choices, _ = choose_all(
                reference, listings, Grounds(BOOK, nothing, NOW, trusted_only=trusted_only)
            )
        else:
            choices = [choose(reference, listings, Grounds(BOOK, nothing, NOW, trusted_only=trusted_only))]
    assert all(choice.manifest.publisher != EVE for choice in choices)
