"""Timelines: order, what follows what in words, forks, and where versions are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from overlaysync.errors import NotFoundError
from overlaysync.model.reference import parse_reference
from overlaysync.ops.dates import ago, local_minute
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.matching import Listing
from overlaysync.ops.timeline import Entry, Place, is_fork, places, timeline
from overlaysync.store.manifests import ManifestRow
from overlaysync.trust.envelope import Manifest
from tests.ops.headers import disk_header

ALICE, BOB = b"a" * 32, b"b" * 32
LABELS = {ALICE: "alice@lab-abc234", BOB: "bob@lab-def567"}


def version(
    number: int,
    *follows: Manifest,
    by: bytes = ALICE,
    team: str = "red",
    name: str = "web",
    content: str = "",
    created: str = "2026-01-31T12:00:00Z",
) -> Manifest:
    """A version whose content is its own unless it is given."""
    seed = f"{number} {by!r} {team} {name} {[one.id for one in follows]}"
    header = disk_header(
        content or seed,
        team=team,
        name=name,
        version=number,
        follows=tuple(sorted(one.id.hex() for one in follows)),
        created=created,
        by=LABELS[by],
    )
    return Manifest(hashlib.sha256(f"{seed} {created}".encode()).digest(), header, by, b"")


def listed(manifests: Iterable[Manifest], *labels: str) -> list[Listing]:
    return [Listing(manifest, ("10.0.0.1:80",) * len(labels), labels) for manifest in manifests]


ONE = version(1)
TWO = version(2, ONE)
FORK = version(2, ONE, by=BOB)
SETTLED = version(3, TWO, FORK)
ALL = (ONE, TWO, FORK, SETTLED)


def lines(entries: Iterable[Entry]) -> list[tuple[int, tuple[str, ...], Place]]:
    return [(entry.manifest.header.version, entry.follows, entry.place) for entry in entries]


def test_versions_come_newest_first_with_what_they_follow() -> None:
    entries = timeline(parse_reference("red/web"), (ONE, TWO), (), {})
    assert lines(entries) == [(2, ("1",), Place.NEWEST), (1, (), Place.OLDER)]


def test_a_fork_is_marked_until_a_version_follows_both() -> None:
    forked = timeline(parse_reference("web"), (ONE, TWO, FORK), (), {})
    assert [entry.place for entry in forked] == [Place.FORKED, Place.FORKED, Place.OLDER]
    settled = timeline(parse_reference("web"), ALL, (), {})
    assert [entry.place for entry in settled] == [Place.NEWEST, Place.OLDER, Place.OLDER, Place.OLDER]
    assert sorted(settled[0].follows) == [f"2 ({LABELS[ALICE]})", f"2 ({LABELS[BOB]})"]
    assert settled[1].follows == ("1",), "a number that only one version has needs no name"


def test_the_same_content_published_twice_is_no_fork() -> None:
    left, right = (version(2, ONE, by=by, content="same") for by in (ALICE, BOB))
    assert set(places(listed((left, right))).values()) == {Place.NEWEST}
    assert not is_fork(left, lambda *_: [manifest_row(left), manifest_row(right)])


def test_what_a_stranger_publishes_under_a_public_name_forks_and_ages_nothing() -> None:
    mine = version(1, team="")
    theirs, later = version(1, team="", by=BOB), version(2, mine, team="", by=BOB)
    where = places(listed((mine, theirs, later)))
    assert where[mine.id] is Place.NEWEST
    rows = [manifest_row(one) for one in (mine, theirs, later)]
    assert places(listed((mine,)), lambda *_: rows)[mine.id] is Place.NEWEST
    assert not is_fork(mine, lambda *_: rows)


def test_a_version_seen_before_makes_older_what_it_follows() -> None:
    """Web:3 was seen once; now only web:1 is listed, and what lies between."""
    three = version(3, TWO)
    rows = [manifest_row(one) for one in (ONE, TWO, three)]
    assert places(listed((ONE,)), lambda *_: rows) == {ONE.id: Place.OLDER}
    assert places(listed((ONE, three)), lambda *_: rows) == {ONE.id: Place.OLDER, three.id: Place.NEWEST}


def test_is_fork_looks_at_all_versions_ever_seen() -> None:
    def seen(*_: str) -> list[ManifestRow]:
        return [manifest_row(one) for one in (ONE, TWO, FORK)]

    assert is_fork(TWO, seen) and is_fork(FORK, seen) and not is_fork(ONE, seen)


def test_an_unknown_past_is_said() -> None:
    (entry,) = timeline(parse_reference("web"), (TWO,), (), {})
    assert entry.follows == (f"{ONE.id.hex()[:8]} (unknown here)",)


def test_holders_are_peers_that_list_it_and_files_with_its_content() -> None:
    here = {ONE.header.content_id: ["/vm/b.raw", "/vm/a.raw"]}
    entries = timeline(parse_reference("web"), (ONE, TWO), listed((TWO,), "bob@lab-def567"), here)
    assert [(entry.held_by, entry.here) for entry in entries] == [
        (("bob@lab-def567",), ()),
        ((), ("/vm/a.raw", "/vm/b.raw")),
    ]


def test_a_reference_may_mean_several_names_one_version_or_what_one_peer_has() -> None:
    other = version(1, name="db")
    known = (*ALL, other)

    def found(text: str) -> list[str]:
        entries = timeline(parse_reference(text), known, listed((FORK,), LABELS[BOB]), {})
        return [f"{entry.manifest.header.name}:{entry.manifest.header.version}" for entry in entries]

    assert found("red/") == ["db:1", "web:3", "web:2", "web:2", "web:1"]
    assert found("d*") == ["db:1"]
    assert found("web:2") == ["web:2", "web:2"]
    assert found("web@bob") == ["web:2"]
    assert found(ONE.header.id[:15]) == ["web:1"]
    with pytest.raises(NotFoundError):
        found("nix")


def test_dates_for_people() -> None:
    now = 1_770_000_000.0  # 2026-02-02T02:40:00Z
    assert ago("2026-02-02T02:37:00Z", now) == "3 min ago"
    assert ago("2026-02-02T01:37:00Z", now) == "1 hour ago"
    assert ago("2026-01-31T02:37:00Z", now) == "2 days ago"
    assert ago("2026-02-02T02:39:59Z", now) == "just now"
    assert ago("2026-02-02T02:40:30Z", now) == "just now", "clocks differ a little"
    assert ago("2026-02-03T02:40:00Z", now) == ago("2026-99-99T99:99:99Z", now) == ""
    assert len(local_minute("2026-02-02T02:37:00Z")) == len("2026-02-02 02:37")
    assert local_minute("2026-99-99T99:99:99Z") == "2026-99-99T99:99:99Z"
    for edge in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert local_minute(edge)
