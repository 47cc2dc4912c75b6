"""The book of trust: publishers that the user refuses for good."""

from __future__ import annotations

from overlaysync.model.pin import DistrustedPublisher, Pin, TrustedPublisher
from overlaysync.trust.book import Book, Trust

OWN, KNOWN, REFUSED = (bytes([number]) * 32 for number in range(3))
DAY = "2026-01-0{}T00:00:00Z".format
BOOK = Book.of(
    OWN,
    [Pin("", "router", KNOWN, DAY(1)), Pin("", "web", REFUSED, DAY(2), explicit=True, label="old")],
    [TrustedPublisher(REFUSED, DAY(2))],
    [DistrustedPublisher(REFUSED, DAY(3), "eve")],
)


def test_distrust_is_stronger_than_any_trust() -> None:
    for name in ("web", "router", "new"):
        assert BOOK.trust(REFUSED, "", name) is Trust.DISTRUSTED
        assert BOOK.since(REFUSED, "", name) == DAY(3)
    assert BOOK.trust(REFUSED, "red", "web") is Trust.DISTRUSTED
    assert BOOK.refuses(REFUSED) and not BOOK.refuses(KNOWN)
    assert BOOK.label(REFUSED) == "eve"


def test_a_list_says_distrusted_before_anything_else() -> None:
    assert BOOK.doubt(REFUSED, "", "router") == "distrusted"
    assert BOOK.doubt(REFUSED, "", "new") == "distrusted"
    assert BOOK.doubt(KNOWN, "", "web") == "other publisher"
    assert BOOK.doubt(KNOWN, "", "router") == BOOK.doubt(KNOWN, "", "new") == ""


def test_a_node_never_refuses_itself() -> None:
    book = Book.of(OWN, distrusted=[DistrustedPublisher(OWN, DAY(1))])
    assert not book.refuses(OWN) and book.trust(OWN, "", "web") is Trust.OWN
