"""What a reference means to a node that has pins: decided without network, and never by a stranger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import AmbiguousError, NotAllowedError, NotFoundError, OverlaysyncError, Refusal
from overlaysync.model.digest import short_id
from overlaysync.model.pin import DistrustedPublisher, Pin, TrustedPublisher
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.ops.choice import Choice, Reason, new_pin, remark
from overlaysync.ops.listed_versions import Versions
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.matching import Listing
from overlaysync.ops.name_policy import Grounds, choose, choose_all, conflicts, meant_here, to_look_at
from overlaysync.ops.trust_messages import AwayError
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from tests import reference
from tests.ops.headers import disk_header

pytestmark = pytest.mark.holds("N12")

OWN, TEACHER, STRANGER, OTHER = (bytes([number]) * 32 for number in range(4))
NOW = 1_770_000_000.0  # 2026-02-02T02:40:00Z
SINCE = "2026-01-10T10:00:00Z"


def signed(
    publisher: bytes,
    name: str = "router",
    version: int = 0,
    *,
    after: Iterable[Listing] = (),
    team: str = "",
    content: str = "",
    created: str = "2026-01-31T12:00:00Z",
    at: str = "somebody",
) -> Listing:
    """A listing at the node labelled ``at``; each publisher's versions differ unless ``content`` is given.

    Its number is one more than those that it comes ``after``, unless its publisher says otherwise.
    """
    before = list(after)
    version = version or 1 + max((one.manifest.header.version for one in before), default=0)
    follows = tuple(sorted(one.manifest.id.hex() for one in before))
    seed = content or f"{publisher.hex()} {team} {name} {version} {follows}"
    header = disk_header(
        seed,
        team=team,
        name=name,
        version=version,
        follows=follows,
        created=created,
        by=f"label{publisher[0]}@host",
    )
    signed = f"{seed} {publisher.hex()} {team} {name} {version} {follows}"
    manifest = Manifest(hashlib.sha256(signed.encode()).digest(), header, publisher, b"")
    return Listing(manifest, ("10.0.0.1:80",), (f"{at}@lab-abc234",))


def book(*pins: tuple[str, bytes], trusted: Iterable[bytes] = ()) -> Book:
    """Pins of ``[team/]name`` to publishers."""
    made = []
    for text, publisher in pins:
        team, _, name = text.rpartition("/")
        made.append(Pin(team, name, publisher, SINCE, label="pl@bob"))
    return Book.of(OWN, made, [TrustedPublisher(key, SINCE) for key in trusted])


def nothing(team: str, name: str) -> list[ManifestRow]:
    """Nothing was ever seen."""
    return []


def seen(*listings: Listing) -> Versions:
    """These versions were seen here once."""
    rows = [manifest_row(listing.manifest) for listing in listings]
    return lambda team, name: [row for row in rows if (row.team, row.name) == (team, name)]


def chosen(
    text: str,
    listings: Iterable[Listing],
    known: Book,
    versions: Versions = nothing,
    *,
    trusted_only: bool = False,
) -> Choice:
    """What a reference means, whether or not it is a step back."""
    return choose(parse_reference(text), listings, Grounds(known, versions, NOW, trusted_only=trusted_only))


def one(
    text: str, *listings: Listing, known: Book, versions: Versions = nothing
) -> tuple[bytes, int, Reason]:
    """Publisher, version and reason of what would be fetched."""
    choice = chosen(text, listings, known, versions)
    assert choice.step_back is None and not choice.later
    return choice.manifest.publisher, choice.manifest.header.version, choice.reason


def several(
    text: str,
    listings: Iterable[Listing],
    known: Book,
    versions: Versions = nothing,
    *,
    trusted_only: bool = False,
) -> tuple[list[str], list[Refusal]]:
    """What a team or a pattern means, by name and version, and what is refused."""
    about = (parse_reference(text), listings, Grounds(known, versions, NOW, trusted_only))
    choices, refusals = choose_all(*about)
    headers = [choice.manifest.header for choice in choices]
    return [f"{header.full_name}:{header.version}" for header in headers], refusals


KNOWN = book(("router", TEACHER))


# -- whose a name is ---------------------------------------------------------------------------------


def test_a_new_name_becomes_its_publisher_s() -> None:
    first = signed(TEACHER)
    choice = chosen("router", [first, signed(TEACHER, after=[first])], book())
    assert (choice.manifest.header.version, choice.reason) == (2, Reason.FIRST_USE)
    assert new_pin(choice, book(), since=SINCE) == Pin("", "router", TEACHER, SINCE, label="label1@host")
    assert f"distrust {node_id(TEACHER)[:9]}" in remark(choice, book())
    assert node_id(TEACHER) in remark(choice, book(), dry_run=True)
    assert "trust" not in remark(choice, book(), dry_run=True)  # nothing is decided by it
    assert new_pin(choice, KNOWN, since=SINCE) is None
    assert remark(choice, KNOWN) == ""


@pytest.mark.red_without("N12", "any publisher counts as the one to which a name belongs")
def test_a_pinned_name_is_its_publisher_s_whatever_others_number_or_follow() -> None:
    first = signed(TEACHER)
    second = signed(TEACHER, after=[first])
    strange = [signed(STRANGER, version=9), signed(STRANGER, after=[first]), signed(STRANGER, after=[second])]
    listings = [*strange, first, second]
    for versions in (nothing, seen(*listings)):
        assert one("router", *listings, known=KNOWN, versions=versions) == (TEACHER, 2, Reason.PINNED)
        assert one("router:2", *listings, known=KNOWN, versions=versions) == (TEACHER, 2, Reason.PINNED)


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


def test_of_a_new_name_a_stranger_that_follows_the_first_publisher_does_not_take_its_place() -> None:
    first = signed(TEACHER)
    listings = [first, signed(STRANGER, after=[first])]
    for versions in (nothing, seen(*listings)):
        with pytest.raises(AmbiguousError) as caught:
            chosen("router", listings, book(), versions)
        assert len(caught.value.candidates) == 2
        # But it may when the user trusts it.
        known = book(trusted=[TEACHER, STRANGER])
        assert one("router", *listings, known=known, versions=versions)[:2] == (STRANGER, 2)


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
    choice = chosen("router", listings, book())
    assert choice.reason is Reason.SAME_CONTENT
    assert new_pin(choice, book(), since=SINCE) is None
    assert "several publishers" in remark(choice, book())


def test_nothing_fits() -> None:
    for known in (KNOWN, book()):
        with pytest.raises(NotFoundError):
            chosen("web", [signed(TEACHER)], known)


# -- which version -----------------------------------------------------------------------------------


def test_the_newest_is_the_one_that_no_other_follows() -> None:
    first = signed(TEACHER)
    second = signed(TEACHER, after=[first])
    back = signed(TEACHER, after=[second], content="as the first")
    listings = (back, first, second)
    assert one("router", *listings, known=KNOWN)[1] == 3
    assert one("router:1", *listings, known=KNOWN)[1] == 1
    # One in between is known, though no peer lists it any more.
    assert one("router", first, back, known=KNOWN, versions=seen(second))[1] == 3


def fork_of_two() -> tuple[Listing, Listing, Listing]:
    first = signed(TEACHER)
    return first, signed(TEACHER, after=[first], content="a"), signed(TEACHER, after=[first], content="b")


def test_of_a_fork_neither_side_is_chosen() -> None:
    first, left, right = fork_of_two()
    for text in ("router", "router:2"):
        with pytest.raises(AmbiguousError) as caught:
            chosen(text, [first, left, right], KNOWN)
        assert caught.value.exit_code == 2
        sides = caught.value.candidates
        assert len(sides) == 2 and all("router:2" in side and "label1@host" in side for side in sides)
        assert all("2026-01-31T12:00:00Z, 1 day ago" in side for side in sides)
        for side in (left, right):
            assert any(side.manifest.header.id[:11] in text for text in sides)
        assert all(
            f"overlaysync fetch {side.manifest.header.id[:11]}" in caught.value.hint for side in (left, right)
        )
    assert one("router:1", first, left, right, known=KNOWN)[1] == 1
    assert one(left.manifest.header.id, left, right, known=KNOWN)[2] is Reason.ID


def test_a_side_of_a_fork_can_be_named_by_the_peer_that_has_it() -> None:
    first = signed(TEACHER)
    left, right = (signed(TEACHER, after=[first], content=at, at=at) for at in ("ann", "bob"))
    with pytest.raises(AmbiguousError) as caught:
        chosen("router", [first, left, right], KNOWN)
    for at, side in (("ann", left), ("bob", right)):
        assert f"overlaysync fetch router:2@{at}" in caught.value.hint
        choice = chosen(f"router:2@{at}", [first, left, right], KNOWN)
        assert choice.listing == side


def test_a_longer_side_of_a_fork_is_no_newer() -> None:
    first, left, right = fork_of_two()
    longer = signed(TEACHER, after=[signed(TEACHER, after=[right])])
    with pytest.raises(AmbiguousError) as caught:
        chosen("router", [left, longer], KNOWN, seen(first, right))
    assert len(caught.value.candidates) == 2


def test_a_version_that_follows_both_sides_ends_a_fork() -> None:
    first, left, right = fork_of_two()
    merged = signed(TEACHER, after=[left, right])
    assert one("router", first, left, right, merged, known=KNOWN)[1] == 3


def test_two_sides_with_one_content_are_no_question() -> None:
    first = signed(TEACHER)
    sides = [signed(TEACHER, after=[first], content="x"), signed(TEACHER, version=7, content="x")]
    assert one("router", first, *sides, known=KNOWN)[1] == 7


# -- teams -------------------------------------------------------------------------------------------


def test_a_team_is_part_of_the_name() -> None:
    red, blue = signed(TEACHER, team="red"), signed(STRANGER, team="blue", version=5)
    assert one("red/router", red, blue, known=book()) == (TEACHER, 1, Reason.TEAM)
    assert one("blue/router", red, blue, known=book()) == (STRANGER, 5, Reason.TEAM)
    for listings in ([red, blue], [red, signed(OTHER)], [red, signed(OTHER), signed(STRANGER)]):
        with pytest.raises(AmbiguousError) as caught:
            chosen("router", listings, book())
        assert len(caught.value.candidates) == len(listings)
        assert "TEAM/NAME" in caught.value.hint


def test_in_a_team_every_member_s_word_counts_and_nothing_is_pinned() -> None:
    first = signed(TEACHER, team="red")
    second = signed(STRANGER, team="red", after=[first])
    third = signed(OTHER, team="red", after=[second])
    for known in (book(), book(("red/router", TEACHER), ("router", TEACHER)), book(trusted=[TEACHER])):
        choice = chosen("red/router", [first, second, third], known)
        assert (choice.manifest.publisher, choice.reason) == (OTHER, Reason.TEAM)
        assert new_pin(choice, known, since=SINCE) is None and remark(choice, known) == ""
        assert one("router", first, third, known=known, versions=seen(second))[0] == OTHER


def test_members_that_go_on_from_one_version_make_a_fork() -> None:
    first = signed(TEACHER, team="red")
    sides = [signed(key, team="red", after=[first]) for key in (STRANGER, OTHER)]
    with pytest.raises(AmbiguousError) as caught:
        chosen("red/router", [first, *sides], book(trusted=[OTHER]))
    ways = [f"overlaysync fetch {short_id(side.manifest.header.content_id)}" for side in sides]
    assert len(caught.value.candidates) == 2 and caught.value.hint.endswith("; or: ".join(ways))
    merged = signed(TEACHER, team="red", after=sides)
    assert one("red/router", first, *sides, merged, known=book())[:2] == (TEACHER, 3)


def test_where_a_team_and_others_publish_the_same_the_team_s_word_counts() -> None:
    same = [signed(STRANGER, content="same", version=9), signed(TEACHER, content="same", team="red")]
    choice = chosen("router", same, book())
    assert (choice.manifest.header.team, choice.reason) == ("red", Reason.TEAM)
    assert new_pin(choice, book(), since=SINCE) is None


def test_a_stranger_s_public_name_does_not_hide_a_team_s() -> None:
    """The public name is somebody's here, and he lists nothing."""
    listings = [signed(STRANGER, version=9), signed(OTHER, team="red")]
    assert one("router", *listings, known=KNOWN) == (OTHER, 1, Reason.TEAM)


def test_of_a_whole_team_all_that_can_be_had_is_had() -> None:
    a, b = signed(TEACHER, "a", team="red"), signed(OTHER, "b", team="red")
    forks = [signed(key, "c", team="red") for key in (TEACHER, OTHER)]
    listings = [a, b, *forks, signed(TEACHER, "a", team="red", after=[a]), signed(STRANGER, "d")]
    names, refusals = several("red/", listings, KNOWN)
    assert names == ["red/a:2", "red/b:1"]
    ((refused, error),) = [(one.name, one.error) for one in refusals]
    assert refused == "red/c" and isinstance(error, AmbiguousError)
    with pytest.raises(NotFoundError):
        several("blue/", listings, KNOWN)


def test_a_pattern_means_all_that_fit_each_by_its_own_rule() -> None:
    known = book(("vm1", TEACHER), ("vm2", TEACHER))
    listings = [
        signed(TEACHER, "vm1"),
        signed(STRANGER, "vm1", 9),
        signed(STRANGER, "vm2"),
        signed(OTHER, "vm3"),
        signed(OTHER, "vm4", team="red"),
        signed(OTHER, "web"),
    ]
    names, refusals = several("vm*", listings, known)
    assert names == ["vm1:1", "vm3:1", "red/vm4:1"]
    assert [(one.name, type(one.error).__base__) for one in refusals] == [("vm2", NotAllowedError)]
    assert several("red/vm?", listings, known) == (["red/vm4:1"], [])
    assert several("vm[13]", listings, known)[0] == ["vm1:1", "vm3:1"]


# -- ids and peers -----------------------------------------------------------------------------------


def test_an_id_means_its_content_and_pins_nobody() -> None:
    strange = signed(STRANGER)
    text = strange.manifest.header.id
    choice = chosen(text, [strange, signed(TEACHER)], KNOWN)
    assert (choice.manifest.publisher, choice.reason) == (STRANGER, Reason.ID)
    assert new_pin(choice, book(), since=SINCE) is None
    assert node_id(STRANGER) in remark(choice, KNOWN)
    assert text not in remark(choice, KNOWN)
    # A few digits can be imitated.
    choice = chosen(text[:12], [strange, signed(TEACHER)], KNOWN)
    assert (choice.manifest.publisher, choice.reason) == (STRANGER, Reason.ID_BEGINNING)
    assert text in remark(choice, KNOWN)
    # Who is trusted describes it, where one does.
    same = [signed(STRANGER, content="same"), signed(TEACHER, content="same")]
    choice = chosen(same[0].manifest.header.id, same, KNOWN)
    assert choice.manifest.publisher == TEACHER
    assert remark(choice, KNOWN) == ""


def test_a_peer_that_is_named_is_taken_at_its_word_unless_it_has_the_publisher_s() -> None:
    strange, right = signed(STRANGER, version=7, at="eve"), signed(TEACHER, at="eve")
    choice = chosen("router@eve", [strange, signed(TEACHER, at="bob")], KNOWN)
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
    choice = chosen("router", listings, known, trusted_only=True)
    assert remark(choice, known) == ""
    explicit = Book.of(OWN, [Pin("", "router", TEACHER, SINCE, explicit=True)])
    assert chosen("router", listings, explicit, trusted_only=True).reason is Reason.PINNED
    with pytest.raises(NotAllowedError):
        chosen("web", [signed(TEACHER, "web")], explicit, trusted_only=True)


def test_trusted_only_takes_what_a_team_has_and_leaves_strangers_out() -> None:
    listings = [signed(TEACHER, "a"), signed(STRANGER, "b"), signed(STRANGER, "c", team="red")]
    names, refusals = several("*", listings, book(trusted=[TEACHER]), trusted_only=True)
    assert names == ["a:1", "red/c:1"]
    assert [one.name for one in refusals] == ["b"]


def test_trust_does_not_take_a_name_silently() -> None:
    with pytest.raises(NotAllowedError):
        chosen("router", [signed(OTHER)], book(("router", TEACHER), trusted=[OTHER]))


# -- nothing is taken back ---------------------------------------------------------------------------

FIRST = signed(TEACHER)
SECOND = signed(TEACHER, after=[FIRST])
THIRD = signed(TEACHER, after=[SECOND], created="2026-02-01T00:00:00Z")
SEEN = seen(FIRST, SECOND, THIRD)


@pytest.mark.red_without("N12", "a version counts as the newest although a version seen here follows it")
def test_what_a_version_seen_here_follows_is_a_step_back_unless_it_is_named() -> None:
    for text in ("router", "router@somebody"):
        choice = chosen(text, [SECOND], KNOWN, SEEN)
        assert choice.listing == SECOND and choice.later == (manifest_row(THIRD.manifest),)
        assert isinstance(choice.step_back, NotAllowedError)
        why, hint = choice.step_back.why, choice.step_back.hint
        assert "2026-01-31T12:00:00Z, 1 day ago" in why
        assert "router:3" in why and "2026-02-01T00:00:00Z" in why
        assert "overlaysync fetch router:2" in hint
    assert one("router:2", SECOND, known=KNOWN, versions=SEEN)[1] == 2
    assert one(SECOND.manifest.header.id, SECOND, known=KNOWN, versions=SEEN)[1] == 2
    assert one("router", SECOND, THIRD, known=KNOWN, versions=SEEN)[1] == 3
    assert chosen("router", [FIRST], KNOWN, SEEN).later == tuple(
        manifest_row(one.manifest) for one in (SECOND, THIRD)
    )


def test_an_own_later_version_is_said_to_be_one_s_own() -> None:
    mine = signed(OWN, team="red", after=[first := signed(TEACHER, team="red")])
    choice = chosen("red/router", [first], book(), seen(mine))
    assert choice.step_back is not None and "You published red/router:2 yourself" in choice.step_back.why
    assert "on purpose" not in choice.step_back.why


def test_going_back_to_older_content_is_no_step_back() -> None:
    back = signed(TEACHER, after=[THIRD], content="as the first")
    assert one("router", back, known=KNOWN, versions=SEEN)[1] == 4


def test_another_version_of_a_lower_number_is_no_step_back() -> None:
    """It is a fork of what was seen, which a file that is here will be compared with."""
    other = signed(TEACHER, after=[FIRST], content="other")
    assert one("router", other, known=KNOWN, versions=SEEN)[1] == 2


def test_in_a_team_a_step_back_is_one_whoever_went_on() -> None:
    first = signed(TEACHER, team="red")
    second = signed(OTHER, team="red", after=[first])
    choice = chosen("red/router", [first], book(), seen(first, second))
    assert choice.step_back is not None and "red/router:2" in choice.step_back.why
    assert node_id(OTHER) in choice.step_back.why


def test_versions_of_strangers_lock_no_name() -> None:
    strange = seen(
        signed(STRANGER, version=1 << 30), signed(STRANGER, after=[FIRST]), signed(TEACHER, team="red")
    )
    assert one("router", FIRST, known=KNOWN, versions=strange)[1] == 1
    assert one("router", FIRST, known=book(), versions=strange)[1] == 1
    same = (signed(TEACHER, content="same"), signed(STRANGER, content="same", version=4))
    assert one("router", *same, known=book(), versions=seen(signed(OTHER, after=same)))[1] == 4


def test_of_one_content_the_description_is_taken_that_nothing_follows() -> None:
    """Somebody else publishes what the teacher has left behind: for the user it is no old state."""
    same = (signed(STRANGER, content="same"), signed(TEACHER, content="same", version=4))
    later = signed(TEACHER, after=[same[1]])
    choice = chosen("router", same, book(), seen(later))
    assert (choice.manifest.publisher, choice.step_back) == (STRANGER, None)


@pytest.mark.parametrize("created", ["2026-13-99T99:99:99Z", "2031-01-01T00:00:00Z", "0000-00-00T00:00:00Z"])
def test_a_strange_date_has_no_age(created: str) -> None:
    old = signed(TEACHER, created=created)
    later = signed(TEACHER, after=[old], created="9999-01-01T00:00:00Z")
    problem = chosen("router", [old], KNOWN, seen(later)).step_back
    assert problem is not None and created in problem.why and "ago" not in problem.why


# -- looking, and what is here -----------------------------------------------------------------------


def test_what_would_be_refused_can_be_looked_at() -> None:
    def shown(*listings: Listing, versions: Versions = nothing) -> tuple[bytes, bool]:
        listing, problem = to_look_at(parse_reference("router"), listings, Grounds(KNOWN, versions, NOW))
        return listing.manifest.publisher, bool(problem)

    assert shown(signed(STRANGER, version=5), signed(TEACHER)) == (TEACHER, False)
    assert shown(signed(STRANGER)) == (STRANGER, True)
    assert shown(signed(STRANGER, version=5), FIRST, versions=SEEN) == (TEACHER, True)


def test_a_pinned_name_means_here_what_its_publisher_or_this_node_signed() -> None:
    listings = [signed(STRANGER, version=9), signed(TEACHER), signed(OWN, version=2), signed(STRANGER, "web")]

    def publishers(text: str, known: Book) -> list[bytes]:
        return [item.manifest.publisher for item in meant_here(parse_reference(text), listings, known)]

    assert publishers("router", KNOWN) == [TEACHER, OWN, STRANGER]
    listings.append(signed(OTHER, team="red"))
    assert publishers("router", KNOWN) == [TEACHER, OWN, STRANGER, OTHER], "in a team every member counts"
    del listings[-1]
    assert len(publishers("router", book())) == 4
    assert len(publishers("b3:00000000", KNOWN)) == 4


def test_conflicts_are_names_of_others() -> None:
    known = book(("a", TEACHER), ("b", STRANGER), ("red/a", TEACHER))
    published = [("", "a"), ("", "b"), ("", "c"), ("", "a")]
    assert conflicts(STRANGER, published, known) == [known.pins["", "a"]]


# -- whatever strangers do ---------------------------------------------------------------------------

NAMES, TEAMS = st.sampled_from(["router", "web", "debian"]), st.sampled_from(["", "red", "blue"])
VERSIONS = st.integers(1, 5) | st.just(1 << 30)
PUBLISHERS = st.sampled_from([OWN, TEACHER, STRANGER, OTHER])


@st.composite
def histories(draw: st.DrawFn) -> list[Listing]:
    """Versions by anybody; each follows some that were there before, of the same team and name."""
    made: list[Listing] = []
    for _ in range(draw(st.integers(1, 12))):
        team, name = draw(TEAMS), draw(NAMES)
        alike = [one for one in made if header_of(one)[:2] == (team, name)]
        after = draw(st.lists(st.sampled_from(alike), max_size=2, unique_by=id)) if alike else []
        number = draw(st.just(0) | VERSIONS)
        content, at = draw(st.sampled_from(["", "", "x", "y"])), draw(st.sampled_from(["pl", "eve"]))
        made.append(signed(draw(PUBLISHERS), name, number, after=after, team=team, content=content, at=at))
    return list({one.manifest.id: one for one in made}.values())


def header_of(listing: Listing) -> tuple[str, str, bytes]:
    return listing.manifest.header.team, listing.manifest.header.name, listing.manifest.publisher


def past_of(listing: Listing, everything: Iterable[Listing]) -> set[bytes]:
    follows = {one.manifest.id: one.manifest.header.followed for one in everything}
    return reference.followed_by(listing.manifest.id, follows)


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


@given(
    name=NAMES | st.none(),
    team=TEAMS.filter(bool) | st.none(),
    version=st.none() | VERSIONS,
    everything=histories(),
    data=st.data(),
    known=BOOKS,
    trusted_only=st.booleans(),
)
@pytest.mark.slow
def test_a_name_means_the_newest_of_its_team_or_of_its_publisher(
    name: str | None,
    team: str | None,
    version: int | None,
    everything: list[Listing],
    data: st.DataObject,
    known: Book,
    trusted_only: bool,
) -> None:
    """Some versions are listed, some were only seen here, and some are both."""
    if name is None:
        version = None
    wanted = Reference(team=team, name=name or "*", version=version)
    listings = data.draw(st.lists(st.sampled_from(everything), unique_by=id))
    remembered = data.draw(st.lists(st.sampled_from(everything), unique_by=id))
    about = (wanted, listings, Grounds(known, seen(*remembered), NOW, trusted_only))
    choices: list[Choice] = []
    with suppress(OverlaysyncError):
        if name is None:
            choices, _ = choose_all(*about)
        else:
            choices = [choose(*about)]
    for choice in choices:
        header, publisher = choice.manifest.header, choice.manifest.publisher
        pin = new_pin(choice, known, since=SINCE)
        if header.team:
            assert team in (None, header.team) and choice.reason is Reason.TEAM and pin is None
        else:
            assert team is None and not known.is_other(publisher, "", header.name)
            assert pin is None or ("", header.name) not in known.pins
            if trusted_only:
                assert known.trust(publisher, "", header.name) in ("own", "explicit")
        if version is not None:
            assert header.version == version and choice.step_back is None
            continue

        def is_later(one: Listing, choice: Choice = choice) -> bool:
            """Whether a version follows the chosen one, and its publisher's word counts."""
            header = choice.manifest.header
            same = header_of(one)[:2] == (header.team, header.name)
            counts = header.team or one.manifest.publisher == choice.manifest.publisher
            return bool(same and counts and choice.manifest.id in past_of(one, [*listings, *remembered]))

        assert not any(map(is_later, listings))
        assert bool(choice.step_back) == bool(choice.later) == any(map(is_later, remembered))


@given(
    everything=histories(),
    data=st.data(),
    known=BOOKS,
    name=NAMES,
    remember=st.booleans(),
)
@pytest.mark.slow
def test_strangers_change_nothing_about_a_pinned_name(
    everything: list[Listing], data: st.DataObject, known: Book, name: str, remember: bool
) -> None:
    strange = [one for one in everything if one.manifest.publisher == STRANGER and not header_of(one)[0]]
    honest = [one for one in everything if one not in strange]
    if not known.pins_of("", name):
        return
    listed = data.draw(st.lists(st.sampled_from(strange), unique_by=id)) if strange else []

    def outcome(found: list[Listing], versions: Versions) -> tuple[bytes, int, bool] | None:
        try:
            choice = chosen(name, found, known, versions)
        except OverlaysyncError:
            return None
        return choice.manifest.header.content_id, choice.manifest.header.version, bool(choice.step_back)

    alone = outcome(honest, seen(*honest) if remember else nothing)
    assert outcome([*honest, *listed], seen(*everything) if remember else nothing) == alone


# -- forks of which a side is away -------------------------------------------------------------------


def known_fork() -> tuple[Listing, Listing, Listing]:
    """A version of a team, and two that members made of it."""
    first = signed(OTHER, team="red", created="2026-01-30T12:00:00Z")
    return first, signed(OTHER, team="red", after=[first]), signed(STRANGER, team="red", after=[first])


def with_held(text: str, *listed: Listing, versions: Versions, held: Iterable[bytes] = ()) -> Choice:
    return choose(parse_reference(text), listed, Grounds(book(), versions, NOW, held=set(held)))


@pytest.mark.holds("A2")
@pytest.mark.parametrize("text", ["red/router", "router"])
def test_a_known_fork_stays_one_while_a_side_of_it_is_away(text: str) -> None:
    first, ours, theirs = known_fork()
    with pytest.raises(AmbiguousError) as caught:
        with_held(text, ours, first, versions=seen(first, theirs))
    away, here = sorted(caught.value.candidates, key=lambda line: "no machine within reach" not in line)
    assert "label2@host" in away and "somebody@lab" in here
    take, settle = caught.value.hint.split("; ")
    assert take == "to take the one that is within reach: overlaysync fetch red/router:2@somebody"
    assert settle.endswith("overlaysync settle FILE")
    _, refusals = choose_all(
        parse_reference("red/"), [ours], Grounds(book(), seen(first, theirs), NOW, held=())
    )
    assert [(one.name, type(one.error)) for one in refusals] == [("red/router", AwayError)]


def test_a_known_fork_is_settled_by_what_follows_both_or_by_who_chooses() -> None:
    first, ours, theirs = known_fork()
    settled = signed(OTHER, team="red", after=[ours, theirs])
    assert with_held("red/router", settled, versions=seen(first, ours, theirs)).listing == settled
    for text in ("red/router:2", "red/router@somebody", short_id(ours.manifest.header.content_id)):
        assert with_held(text, ours, versions=seen(first, theirs)).listing == ours
    held = [theirs.manifest.id]
    assert with_held("red/router", ours, versions=seen(first, theirs), held=held).listing == ours, (
        "it is in a file here: what is at the place decides"
    )


def test_no_stranger_and_no_distrusted_publisher_makes_a_fork_that_is_away() -> None:
    first = signed(TEACHER)
    teachers, strangers = signed(TEACHER, after=[first]), signed(STRANGER, after=[first])
    known = book(("router", TEACHER))
    meant = choose(
        parse_reference("router"), [teachers], Grounds(known, seen(first, strangers), NOW, held=frozenset())
    )
    assert meant.listing == teachers
    _, ours, theirs = known_fork()
    refusing = Book.of(OWN, [], [], [DistrustedPublisher(STRANGER, SINCE)])
    meant = choose(
        parse_reference("red/router"), [ours], Grounds(refusing, seen(first, theirs), NOW, held=frozenset())
    )
    assert meant.listing == ours
