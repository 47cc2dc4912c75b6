"""Pins and trusted publishers: what is kept, replaced and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.model.pin import Pin, TrustedPublisher
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
