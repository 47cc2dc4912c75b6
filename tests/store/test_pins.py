"""Pins, trusted publishers and versions seen: what is kept, replaced and forgotten; homes of version 1."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.model.pin import Pin, Sighting, TrustedPublisher
from overlaysync.store import pins
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.store.pins import PinStore

P, Q = b"P" * 32, b"Q" * 32
PIN = Pin("", "router", P, "2026-01-02T03:04:05Z", label="pl@bob-abc234")
LATER = "2026-02-03T04:05:06Z"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "node", tmp_path / "config").prepare()


@pytest.fixture
def store(home: Home) -> Iterator[PinStore]:
    catalog = Catalog.open(home)
    yield catalog.pins
    catalog.close()


def test_the_first_publisher_of_a_name_keeps_it(store: PinStore) -> None:
    store.pin_first(PIN)
    store.pin_first(replace(PIN, publisher=Q, since=LATER))
    store.pin_first(replace(PIN, team="red", publisher=Q))
    assert store.pins() == [PIN, replace(PIN, team="red", publisher=Q)]


def test_trust_takes_names_over_and_keeps_its_first_time(store: PinStore) -> None:
    store.pin_first(PIN)
    trusted = TrustedPublisher(Q, LATER, "etu@oscar")
    mine = replace(PIN, publisher=Q, since=LATER, explicit=True)
    store.trust(trusted, [mine])
    store.trust(replace(trusted, since="2027-01-01T00:00:00Z"), [])
    assert store.pins() == [mine]
    assert store.trusted() == [trusted]


def test_one_name_alone_can_be_trusted(store: PinStore) -> None:
    store.trust(None, [PIN])
    assert (store.pins(), store.trusted()) == ([PIN], [])


def test_who_is_forgotten_has_nothing_any_more(store: PinStore) -> None:
    other = replace(PIN, name="web", publisher=Q)
    store.trust(TrustedPublisher(P, LATER), [PIN, other, replace(PIN, team="red")])
    store.forget(P)
    assert (store.pins(), store.trusted()) == ([other], [])
    store.forget(b"nobody")


def test_the_highest_version_of_each_publisher_and_when_it_came(store: PinStore) -> None:
    first = Sighting("", "vm", P, 3, "2026-01-01T00:00:00Z")
    store.note([first, Sighting("", "vm", Q, 9, LATER), replace(first, version=1)])
    store.note([replace(first, version=2, at=LATER), replace(first, at=LATER)])
    assert store.sighting("", "vm", P) == first
    store.note([replace(first, version=4, at=LATER)])
    assert store.sighting("", "vm", P) == Sighting("", "vm", P, 4, LATER)
    assert store.sighting("red", "vm", P) is None
    assert [(seen.publisher, seen.version) for seen in store.sightings()] == [(P, 4), (Q, 9)]


def test_what_is_noted_already_is_not_written_again(store: PinStore, home: Home) -> None:
    store.note([Sighting("", "vm", P, 3)])
    with sqlite3.connect(home.catalog) as busy:
        busy.execute("BEGIN IMMEDIATE")
        store.note([Sighting("", "vm", P, 3), Sighting("", "vm", P, 1)])
    busy.close()


def test_a_home_of_version_1_goes_on(home: Home) -> None:
    with sqlite3.connect(home.catalog) as connection:
        connection.executescript(Path(__file__).with_name("version-1.sql").read_text())
    connection.close()
    catalog = Catalog.open(home)
    (image,) = catalog.all_images()
    (manifest,) = catalog.manifests()
    assert (image.path, manifest.name, manifest.version) == ("/images/debian.raw", "debian", 2)
    assert catalog.pages.load_list(image.disk) is not None
    assert catalog.highest_version("red", "router") == 7
    # What was seen is known still; when, nobody knows.
    assert catalog.pins.sighting("red", "router", Q) == Sighting("red", "router", Q, 7, "")
    assert catalog.pins.pins() == []
    catalog.pins.pin_first(PIN)
    catalog.pins.note([Sighting("red", "router", Q, 8, LATER)])
    made = catalog.keep_next("", "debian", lambda version: replace(manifest, id=b"N" * 32, version=version))
    catalog.close()

    again = Catalog.open(home)
    assert made.version == 3
    assert again.pins.pins() == [PIN]
    assert again.pins.sighting("red", "router", Q) == Sighting("red", "router", Q, 8, LATER)
    assert again.pins.sighting("", "debian", P) == Sighting("", "debian", P, 3, manifest.created)
    again.close()


def test_what_strangers_make_up_is_forgotten_the_oldest_first(
    store: PinStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "MAX_STRANGE", 100)
    store.trust(TrustedPublisher(Q, LATER), [PIN])
    kept = [Sighting("", "router", P, 5), Sighting("", "web", Q, 7)]
    strange = [Sighting("", f"n{number}", bytes([1, number]) * 16, 1) for number in range(250)]
    store.note([*kept, *strange[:150]])
    for at in range(150, 250, 10):
        store.note(strange[at : at + 10])
    seen = store.sightings()
    assert [one for one in seen if one in kept] == kept
    assert {one.name for one in seen if one not in kept} == {one.name for one in strange[150:]}
