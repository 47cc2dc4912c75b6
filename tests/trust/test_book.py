"""The book of trust: how a publisher is trusted for a name, and who a fingerprint belongs to."""

from __future__ import annotations

import pytest

from overlaysync.errors import AmbiguousError, NotFoundError, UsageError
from overlaysync.model.pin import Pin, TrustedPublisher
from overlaysync.trust import book as book_module
from overlaysync.trust.book import Book, Trust, find_publisher
from overlaysync.trust.keys import node_id

OWN, A, B, C = (bytes([number]) * 32 for number in range(4))
DAY = "2026-01-0{}T00:00:00Z".format
BOOK = Book.of(
    OWN,
    [
        Pin("", "own", OWN, DAY(1)),
        Pin("", "used", A, DAY(2), label="old"),
        Pin("", "said", A, DAY(3), explicit=True, label="new"),
        Pin("red", "used", B, DAY(4)),
    ],
    [TrustedPublisher(C, DAY(5), "carol")],
)


@pytest.mark.parametrize(
    ("publisher", "team", "name", "trust", "since"),
    [
        (OWN, "", "own", Trust.OWN, DAY(1)),
        (OWN, "", "used", Trust.OWN, None),
        (A, "", "used", Trust.FIRST_USE, DAY(2)),
        (A, "", "said", Trust.EXPLICIT, DAY(3)),
        (A, "red", "used", Trust.NO, None),
        (A, "", "new", Trust.NO, None),
        (B, "red", "used", Trust.FIRST_USE, DAY(4)),
        (C, "", "used", Trust.EXPLICIT, DAY(5)),
    ],
)
def test_how_a_publisher_is_trusted(
    publisher: bytes, team: str, name: str, trust: Trust, since: str | None
) -> None:
    assert (BOOK.trust(publisher, team, name), BOOK.since(publisher, team, name)) == (trust, since)


def test_whose_a_name_is() -> None:
    assert BOOK.has_pin(A, "", "used") and not BOOK.is_other(A, "", "used")
    assert BOOK.is_other(B, "", "used")
    assert not BOOK.is_other(B, "", "nobody's")
    assert [pin.publisher for pin in BOOK.pins_of(None, "used")] == [A, B]
    assert [pin.publisher for pin in BOOK.pins_of("red", "used")] == [B]
    assert BOOK.pins_of("blue", "used") == []


def test_labels_are_the_latest() -> None:
    assert [BOOK.label(key) for key in (A, B, C, b"")] == ["new", "", "carol", ""]


def test_a_fingerprint_may_be_short_and_without_dashes() -> None:
    whole = node_id(A)
    bare = whole.replace("-", "")
    for text in (whole, bare, bare[:8], whole[:9], bare.upper(), f"{bare[:5]}-{bare[5:20]}"):
        assert find_publisher(text, [A, A, B, C]) == A


@pytest.mark.parametrize(
    "text", ["", "abcdefg", "abcdefg-", "abcdefg1", "a" * 33, "éééééééé", "\x1b[2Jabcdefg"]
)
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_publisher(text, [A])
    assert "\x1b" not in str(caught.value)


def test_a_fingerprint_of_nobody_and_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError):
        find_publisher(node_id(A), [B, C])
    monkeypatch.setattr(book_module, "node_id", lambda key: f"aaaa-aaaa-{key.hex()[:4]}")
    with pytest.raises(AmbiguousError) as caught:
        find_publisher("aaaaaaaa", [A, B])
    assert len(caught.value.candidates) == 2
