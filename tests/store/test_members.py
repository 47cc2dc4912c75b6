"""Members of teams in the catalog: bounded, written only when there is news, apart for each key."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.store import members
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.store.members import Member, MemberStore, Thing
from overlaysync.trust.teams import Team, new_team

RED, OTHER = b"R" * 32, b"O" * 32
AT = "2026-01-01T10:0{}:00Z".format
BOB = Member(b"B" * 32, "etu@bob-abc234", AT(0), (Thing("debian", 2, False), Thing("vm", 3, True)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "node", tmp_path / "config").prepare()


@pytest.fixture
def store(home: Home) -> Iterator[MemberStore]:
    catalog = Catalog.open(home)
    yield catalog.members
    catalog.close()


def test_the_latest_is_kept_of_each_member_and_team(store: MemberStore) -> None:
    carl = replace(BOB, node=b"C" * 32, seen_at=AT(1))
    store.note(RED, BOB, fresh=AT(0))
    store.note(RED, carl, fresh=AT(0))
    store.note(OTHER, BOB, fresh=AT(0))
    assert store.seen(RED) == [carl, BOB]
    later = replace(BOB, seen_at=AT(2), label="new@bob-abc234", things=())
    store.note(RED, later, fresh=AT(2))
    assert store.seen(RED) == [later, carl]
    assert store.seen(OTHER) == [BOB]
    store.forget(RED)
    assert (store.seen(RED), store.seen(OTHER)) == ([], [BOB])


def test_only_news_is_written(store: MemberStore, home: Home) -> None:
    store.note(RED, BOB, fresh=AT(0))
    again = replace(BOB, seen_at=AT(1))
    with sqlite3.connect(home.catalog) as busy:
        busy.execute("BEGIN IMMEDIATE")
        store.note(RED, again, fresh=AT(0))  # it would wait, and fail
    busy.close()
    assert store.seen(RED) == [BOB]
    store.note(RED, again, fresh=AT(1))
    assert store.seen(RED) == [again]
    changed = replace(BOB, seen_at=AT(2), things=BOB.things[:1])
    store.note(RED, changed, fresh=AT(0))
    assert store.seen(RED) == [changed]


def test_members_and_what_they_have_are_bounded(store: MemberStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    monkeypatch.setattr(members, "MAX_THINGS", 2)
    many = tuple(Thing(f"vm{number}", 1, True) for number in range(9))
    store.note(OTHER, BOB, fresh=AT(0))
    for number in range(5):
        one = Member(bytes([number]) * 32, "", AT(number), many)
        for _ in range(2):
            store.note(RED, one, fresh=AT(0))
    assert [one.node[0] for one in store.seen(RED)] == [4, 3, 2]
    assert {one.things for one in store.seen(RED)} == {many[:2]}
    assert store.seen(OTHER) == [BOB]


def test_a_team_s_id_is_its_key_s_and_its_name_s() -> None:
    red = new_team("red")
    assert red.id == Team("red", red.key, since="later").id
    assert len({red.id, new_team("red").id, Team("blue", red.key).id}) == 3
    assert red.key not in red.id and len(red.id) == 32
