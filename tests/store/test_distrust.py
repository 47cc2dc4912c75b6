"""Distrusted publishers in the catalog: kept, forgotten by trust alone, and stronger than pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.model.pin import DistrustedPublisher, Pin, TrustedPublisher
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.store.pins import PinStore

P, Q = b"P" * 32, b"Q" * 32
PIN = Pin("", "router", P, "2026-01-02T03:04:05Z", label="pl@bob-abc234")
REFUSED = DistrustedPublisher(P, "2026-02-03T04:05:06Z", "pl@bob-abc234")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PinStore]:
    catalog = Catalog.open(Home(tmp_path / "node", tmp_path / "config").prepare())
    yield catalog.pins
    catalog.close()


def test_distrust_takes_names_and_trust_away(store: PinStore) -> None:
    other = replace(PIN, name="web", publisher=Q)
    store.trust(TrustedPublisher(P, PIN.since), [PIN, other])
    store.distrust(REFUSED)
    store.distrust(replace(REFUSED, since="2027-01-01T00:00:00Z"))
    assert (store.pins(), store.trusted(), store.distrusted()) == ([other], [], [REFUSED])


def test_only_trust_takes_it_back(store: PinStore) -> None:
    store.distrust(REFUSED)
    store.forget(P)
    store.pin_first(replace(PIN, publisher=Q))
    store.trust(TrustedPublisher(Q, PIN.since), [])
    assert store.distrusted() == [REFUSED]
    store.trust(None, [replace(PIN, explicit=True)])
    assert store.distrusted() == []
    store.distrust(REFUSED)
    store.trust(TrustedPublisher(P, PIN.since), [])
    assert store.distrusted() == []


def test_when_it_ends_all_is_as_before_but_for_names_that_became_another_s(store: PinStore) -> None:
    web, trusted = replace(PIN, name="web"), TrustedPublisher(P, PIN.since)
    store.trust(trusted, [PIN, web])
    store.distrust(REFUSED)
    store.pin_first(replace(web, publisher=Q))
    store.end_distrust(P)
    assert (store.pins(), store.trusted(), store.distrusted()) == (
        [PIN, replace(web, publisher=Q)],
        [trusted],
        [],
    )
