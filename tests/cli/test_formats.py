"""What ``--format`` takes, of images that are read and of images that are written."""

from __future__ import annotations

import pytest

from overlaysync.cli import formats
from overlaysync.cli.formats import format_to_read, format_to_write
from overlaysync.errors import UsageError
from overlaysync.formats.image import Format


def test_a_format_that_is_only_read_is_not_offered_for_a_new_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "WRITTEN", (Format.QCOW2, Format.RAW))
    assert format_to_read("QED") is Format.QED and format_to_write("Raw") is Format.RAW
    with pytest.raises(UsageError) as caught:
        format_to_write("qed")
    assert caught.value.hint == "--format qcow2 or raw"


@pytest.mark.parametrize("parse", [format_to_read, format_to_write])
def test_nothing_said_is_no_format_and_another_word_is_refused(parse) -> None:
    assert parse(None) is None
    with pytest.raises(UsageError) as caught:
        parse("floppy")
    assert caught.value.hint.startswith("--format qed, ")
