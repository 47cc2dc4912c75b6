"""Settings that belong to no single option."""

from __future__ import annotations

import pytest

from overlaysync.cli.common import compression, parse_rate
from overlaysync.errors import UsageError
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
