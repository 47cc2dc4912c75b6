"""Names: what can be one, what becomes one, and foreign text on a terminal."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlaysync.errors import UsageError
from overlaysync.model.names import (
    MAX_NAME,
    MAX_NAME_BYTES,
    check_name,
    is_name,
    name_from,
    one_field,
    printable,
)

pytestmark = pytest.mark.holds("N10")

GOOD = [
    "a",
    "7",
    "debian-13",
    "vm_1.old",
    "été",
    "日本語",
    "Ω",
    "x" * 64,
    "a..b",
    "a.-_",
    "文" * 64,
]
BAD = [
    "",
    ".",
    "..",
    ".hidden",
    "-rf",
    "--json",
    "_x",
    "a/b",
    "/etc/passwd",
    "../../x",
    "a\\b",
    "a b",
    "a\nb",
    "a\0b",
    "a\x1b[31m",
    "a\x7f",
    "a\x9b2J",
    "a\u202eb",
    "a\u200bb",
    "a\ufeff",
    "a\u3164",
    "\u1160a",
    "a\u2800",
    "a\xad",
    "a:b",
    "a@b",
    "a*",
    "~a",
    "a'",
    'a"',
    "$a",
    "a;b",
    "a|b",
    "a\u2215b",
    "a\uff0fb",
    "e\u0301",
    "\u212b",
    "a\ud800",
    "a\udcff",
    "x" * 65,
    "\U00020000" * 64,
    "a\U000e0041",
    "\u0301a",
    "½",
    "a\u00b2",
    "a\u2460",
]

# Characters that programs have stumbled over, mixed with ordinary ones.
NASTY = st.text(
    st.one_of(
        st.sampled_from(
            "aZ9éß文\u0301\u0327\u1100\u1161\u11a8.-_/\\:@ \0\n\r\t\x1b\x7f\x9b\u202e\u2066\u200d\u2028"
        ),
        st.characters(),
        st.characters(categories=["Cs", "Co", "Cn", "Cf", "Cc"]),
    ),
    max_size=90,
)


def is_harmless(name: str) -> bool:
    """Not the rule again, but what the rule is for."""
    return (
        os.path.basename(name) == name
        and os.path.normpath(os.path.join("/base", name)) == f"/base/{name}"
        and not name.startswith(("-", ".", "~"))
        and name.isprintable()
        and not any(char.isspace() for char in name)
        and unicodedata.normalize("NFC", name) == name
        and len(os.fsencode(f".{name}.qcow2.part")) <= 255
        and not set(name) & set("/\\:@*?[]{}()<>|&;$`'\"!#%=,+^~")
    )


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert is_name(name)
    assert check_name(name) is name
    assert name_from(name) == name
    assert is_harmless(name)


@pytest.mark.red_without("N10", "a name may begin with any character")
@pytest.mark.red_without("N10", "a name need not be in the Unicode form NFC")
@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(UsageError) as caught:
        check_name(name, "team")
    assert "team" in str(caught.value) and printable(caught.value.what) == caught.value.what
    assert is_name(name_from(name))


@settings(max_examples=1000)
@given(NASTY)
@example("\ud800")
@example("..")
@example("\u1100\u1161")
@example("\U00020000" * 70)
@pytest.mark.slow
def test_whatever_passes_is_harmless_and_whatever_does_not_is_made_so(text: str) -> None:
    if is_name(text):
        assert is_harmless(text)
    name = name_from(text)
    assert is_name(name) and is_harmless(name)


@pytest.mark.slow
def test_every_single_character() -> None:
    """Of all of Unicode, only letters and decimal digits begin a name."""
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        if is_name(char):
            assert unicodedata.category(char) in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd")
            assert char.isprintable() and not char.isspace()
        if is_name("a" + char) and not is_name(char):
            assert char in "._-"


def test_long_names_are_cut_between_characters() -> None:
    assert name_from("y" * 200) == "y" * MAX_NAME
    assert name_from("\U00020000" * 64) == "\U00020000" * (MAX_NAME_BYTES // 4)
    assert name_from("---...") == "image"
    assert name_from("My VM (old)") == "My-VM--old-"


@settings(max_examples=300)
@given(NASTY, st.integers(0, 100))
@pytest.mark.slow
def test_printable(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + 1
    assert all(shown[at] in (char, "?") for at, char in enumerate(text[:limit]))
    assert shown.endswith("…") or len(text) <= limit


@settings(max_examples=300)
@given(NASTY, st.integers(0, 100))
@example("a  b", 10)
@example(" a\n b ", 10)
@pytest.mark.slow
def test_one_field(text: str, limit: int) -> None:
    shown = one_field(text, limit)
    assert shown.isprintable() and "  " not in shown and shown == shown.strip()
    assert len(shown) <= limit + 1


def test_printable_keeps_ordinary_text() -> None:
    assert printable("L'été à l'école: 100 %") == "L'été à l'école: 100 %"
    assert printable("\x1b[2J\u202eabc\r\n") == "?[2J?abc??"
