"""References: ``[team/]name[:version][@peer]`` or an id."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlaysync.errors import UsageError
from overlaysync.model.names import is_name
from overlaysync.model.reference import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm", Reference(name="vm")),
        ("red/vm", Reference(team="red", name="vm")),
        ("vm:3", Reference(name="vm", version=3)),
        ("vm@ann", Reference(name="vm", peer="ann")),
        ("red/vm:12@ann@lab-3", Reference(team="red", name="vm", version=12, peer="ann@lab-3")),
        ("vm@10.0.0.1:8000", Reference(name="vm", peer="10.0.0.1:8000")),
        ("vm@[fe80::1]:80", Reference(name="vm", peer="[fe80::1]:80")),
        ("red/", Reference(team="red")),
        ("red/@ann", Reference(team="red", peer="ann")),
        ("b3:0123abcd", Reference(id_prefix="0123abcd")),
        ("b3:0123ABCD@ann", Reference(id_prefix="0123abcd", peer="ann")),
        ("b3:" + "f" * 64, Reference(id_prefix="f" * 64)),
        ("vm:2147483647", Reference(name="vm", version=2147483647)),
        ("b3", Reference(name="b3")),
        ("vm*", Reference(name="vm*")),
        ("*", Reference(name="*")),
        ("red/r?[a-c][!x]", Reference(team="red", name="r?[a-c][!x]")),
        ("vm*:2@ann", Reference(name="vm*", version=2, peer="ann")),
    ],
)
def test_good(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@ann",
        "vm@",
        ":1",
        "/vm",
        "/",
        "a/b/vm",
        "../vm",
        "red//vm",
        "red/:2",
        "vm:",
        "vm:0",
        "vm:01",
        "vm:-1",
        "vm:+1",
        "vm:1.0",
        "vm:1:2",
        "vm:x",
        "vm:٣",
        "vm: 1",
        "vm:2147483648",
        "vm:000000000001999999999999",
        "vm:1" + "0" * 5000,
        "b3:",
        "b3:0123abc",
        "b3:" + "0" * 65,
        "b3:0123abcg",
        "b3:0123 abcd",
        "-vm",
        "v m",
        "vm\n",
        "*/vm",
        "r*d/",
        "vm!",
        "vm{1,2}",
        "-*",
        "*" * 65,
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_bad(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "many", "pattern"),
    [("vm", False, False), ("red/vm:2", False, False), ("b3:0123abcd", False, False), ("red/", True, False)]
    + [(text, True, True) for text in ("vm*", "vm?", "red/vm[12]", "*:3")],
)
def test_what_may_mean_several_things(text: str, many: bool, pattern: bool) -> None:
    reference = parse_reference(text)
    assert (reference.is_many, reference.is_pattern) == (many, pattern)


NAMES = st.from_regex(r"[a-z0-9é][a-z0-9._-]{0,20}", fullmatch=True).filter(is_name)


@given(st.none() | NAMES, NAMES, st.none() | st.integers(1, 2**31 - 1), st.none() | NAMES)
@pytest.mark.slow
def test_what_is_written_is_read(team: str | None, name: str, version: int | None, peer: str | None) -> None:
    reference = Reference(team=team, name=name, version=version, peer=peer)
    text = str(reference)
    if not text.startswith("b3:"):
        assert parse_reference(text) == reference


WILD = str.maketrans("*?[]!", "xxxxx")


@given(st.text(st.one_of(st.sampled_from("ab/:@3.-09*?[]!"), st.characters()), max_size=100))
@example("a:" + "9" * 12 + "\ud800")
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    if reference.is_pattern:
        assert reference.is_many and reference.name and is_name(reference.name.translate(WILD))
    else:
        assert reference.name is None or is_name(reference.name)
    assert reference.team is None or is_name(reference.team)
    assert reference.version is None or 0 < reference.version < 1 << 31
    assert parse_reference(str(reference)) == reference
