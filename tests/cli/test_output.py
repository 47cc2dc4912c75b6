"""What is printed: no foreign text makes a line of its own, or a column."""

from __future__ import annotations

import json

import msgspec
import pytest

from overlaysync.cli import streams
from overlaysync.cli.common import listing_fields
from overlaysync.cli.ls import _table
from overlaysync.cli.output import Output, Settings
from overlaysync.cli.show import _rows
from overlaysync.net.messages import CatalogMessage, decode_catalog, encode_catalog
from overlaysync.ops.matching import Listing
from overlaysync.ops.timeline import Place
from overlaysync.trust.book import Book
from overlaysync.trust.envelope import Manifest
from tests.net.fuzzing_decoders import MASTER

FORGED = "pl@bob\nvirtual size  1 (forged)\r\x1b[2K\u2028✗ forged  other publisher\x85forged"
NAMES = {"name", "version", "format", "disk", "publisher", "by", "created", "trusted", "virtual", "data"}


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(bytes(32), msgspec.structs.replace(MASTER, by=FORGED), bytes(32), b"")


def lines(text: str) -> list[str]:
    assert text.endswith("\n")
    return text[:-1].split("\n")


def test_a_result_has_as_many_lines_as_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Settings(color=False)).result({}, "first", f"by  {FORGED}", "last")
    shown = lines(capsys.readouterr().out)
    assert len(shown) == 3 and all(line.isprintable() for line in shown)


def test_show_has_no_line_that_a_publisher_wrote(
    capsys: pytest.CaptureFixture[str], manifest: Manifest
) -> None:
    fields = listing_fields(Listing(manifest, ("192.0.2.7:40001",), ("pl@bob",)), Book.of(b""), fork=False)
    Output(Settings(color=False)).result({}, *_rows(fields, lambda id: None, 0.0))
    shown = lines(capsys.readouterr().out)
    assert sum("forged" in line for line in shown) == 1
    assert all(line[:1] == " " or line.split()[0] in {*fields, *NAMES} for line in shown), shown


def test_ls_has_no_column_that_a_publisher_wrote(
    capsys: pytest.CaptureFixture[str], manifest: Manifest
) -> None:
    listing = Listing(manifest, ("192.0.2.7:40001",), ("pl@bob",))
    Output(Settings(color=False)).result(
        {}, _table([listing], Book.of(b""), {manifest.id: Place.NEWEST}, 0.0)
    )
    (line,) = lines(capsys.readouterr().out)
    assert line.split("  ")[-1].startswith("pl@bob?virtual size 1 (forged)")


def test_a_peer_s_label_is_one_field() -> None:
    label = decode_catalog(encode_catalog(CatalogMessage(bytes(32), FORGED, []))).label
    assert label.isprintable() and "  " not in label


@pytest.mark.parametrize("say", ["note", "error"])
def test_what_is_said_cannot_look_like_something_else_said(
    capsys: pytest.CaptureFixture[str], say: str
) -> None:
    output = Output(Settings(color=False))
    if say == "note":
        output.note(f"about {FORGED}\n✗ another\n    indented as it was")
    else:
        output.error(f"about {FORGED}\n✗ another\n    indented as it was", {})
    _, *more = lines(capsys.readouterr().err)
    assert all(line.startswith("  ") for line in more)
    assert more[-1] == "    indented as it was"


def test_a_note_in_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    text = FORGED * 1000
    Output(Settings(json=True)).note(text)
    (line,) = lines(capsys.readouterr().err)
    assert json.loads(line) == {"note": text}


def test_progress_of_others_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Settings(color=False)).serving("vm:1", 1, 0, 1, [(FORGED, 0.5)])
    assert len(lines(capsys.readouterr().err)) == 1


# -- narrow terminals --------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_width", lambda stream: 40)


@pytest.mark.usefixtures("narrow")
def test_text_is_wrapped_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Settings(color=False)).note("  No other machine answers, though it looked five seconds on eth0")
    shown = lines(capsys.readouterr().err)
    assert len(shown) > 1 and all(len(line) <= 40 for line in shown)
    assert " ".join(line.strip() for line in shown).endswith("looked five seconds on eth0")


@pytest.mark.usefixtures("narrow")
def test_a_command_to_type_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    hint = "  try: overlaysync fetch red/web --to /srv/images/of/the/team --masters /srv/masters --replace"
    Output(Settings(color=False)).error(f"What is wrong takes a line that is too long here:\n{hint}", {})
    assert lines(capsys.readouterr().err)[-1] == hint


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("size", range(20, 60))
def test_no_wrapped_word_of_a_peer_looks_like_a_hint(capsys: pytest.CaptureFixture[str], size: int) -> None:
    Output(Settings(color=False)).note(f"  {'x' * size} try: overlaysync trust evil ✗ all is lost")
    first, *more = lines(capsys.readouterr().err)
    assert first.startswith("  x") and all(line.startswith("      ") for line in more)
