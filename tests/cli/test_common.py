"""Settings that belong to no single option."""

from __future__ import annotations

import pytest

from overlaysync.cli.common import compression, parse_rate
from overlaysync.cli.refusals import candidate_lines, error_fields, refusal_lines
from overlaysync.errors import AmbiguousError, Refusal, UsageError
from overlaysync.swarm.link import Compression


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Compression.AUTO),
        ("auto", Compression.AUTO),
        ("never", Compression.NEVER),
        ("Always", Compression.ALWAYS),
    ],
)
def test_compression_is_set_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, meant: Compression
) -> None:
    monkeypatch.setenv("OVERLAYSYNC_COMPRESSION", text)
    assert compression() is meant


def test_compression_is_automatic_unless_something_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVERLAYSYNC_COMPRESSION", raising=False)
    assert compression() is Compression.AUTO


def test_another_word_for_compression_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAYSYNC_COMPRESSION", "on\x1b[2J")
    with pytest.raises(UsageError) as caught:
        compression()
    assert "\x1b" not in str(caught.value)
    assert "never" in caught.value.hint


def test_a_rate_without_its_unit_is_refused() -> None:
    assert (parse_rate(None), parse_rate("16K"), parse_rate("20M/s")) == (None, 16 << 10, 20 << 20)
    with pytest.raises(UsageError) as caught:
        parse_rate("20")
    assert "20M" in caught.value.hint


def test_thousands_of_candidates_do_not_flood_the_terminal() -> None:
    error = AmbiguousError("It fits much", candidates=tuple(map(str, range(3000))), hint="name one")
    lines = candidate_lines(error)
    assert lines[0] == "0" and len(lines) == 21
    assert lines[-1] == "and 2980 more, all of them with --json"
    assert len(error_fields(error)["candidates"]) == 3000
    assert len(refusal_lines(Refusal("much", error))) == 23
    assert candidate_lines(AmbiguousError("It fits two", candidates=("a", "b"))) == ["a", "b"]
