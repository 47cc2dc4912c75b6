"""Every refusal says what to type next: errors that reach a user are made with a hint."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import overlaysync
from overlaysync.errors import ImageError

TREE = Path(overlaysync.__file__).parent
REFUSALS = {
    "AmbiguousError",
    "BaseImageError",
    "CatalogError",
    "InUseError",
    "NetworkError",
    "NoSpaceError",
    "NotAllowedError",
    "NotFoundError",
    "OverlaysyncError",
    "UsageError",
    "VerificationError",
    "WouldDestroyError",
}
"""ImageError has a hint of its own where none is given."""

EXCEPTIONS = {
    ("net/bodies.py", "NotFoundError"): "a peer is answered that it is not there",
    ("net/compression.py", "NotFoundError"): "a peer is answered that it is not there",
    ("net/sending.py", "NotFoundError"): "a peer is answered that it is not there",
    ("net/vault_wire.py", "NotFoundError"): "a peer is answered that it is not there",
    ("ops/offer.py", "NotFoundError"): "a peer is answered that it is not there",
    ("store/pagestore.py", "NotFoundError"): "the caller asks for the page elsewhere",
}
"""Where no user reads it, and why."""


def without_hint(source: str) -> Iterator[tuple[int, str]]:
    """Line and class of every refusal that is made without a hint."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        made = REFUSALS.intersection(names_in(node.func))
        if made and not any(keyword.arg in ("hint", None) for keyword in node.keywords):
            yield node.lineno, ", ".join(sorted(made))
        for keyword in node.keywords:
            if (
                made
                and keyword.arg == "hint"
                and isinstance(keyword.value, ast.Constant)
                and not keyword.value.value
            ):
                yield node.lineno, ", ".join(sorted(made))


def names_in(function: ast.expr) -> Iterator[str]:
    """The classes that a call may be of: one by its name, or the sides of a choice."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case ast.IfExp(body=body, orelse=orelse):
            yield from names_in(body)
            yield from names_in(orelse)


@pytest.mark.slow
def test_every_refusal_says_what_to_type_next() -> None:
    found = [
        (path.relative_to(TREE).as_posix(), line, name)
        for path in sorted(TREE.rglob("*.py"))
        for line, name in without_hint(path.read_text(encoding="utf-8"))
    ]
    silent = [f"{path}:{line} {name}" for path, line, name in found if (path, name) not in EXCEPTIONS]
    assert not silent, "made without a hint:\n" + "\n".join(silent)
    unused = EXCEPTIONS.keys() - {(path, name) for path, _, name in found}
    assert not unused, f"not needed any more: {unused}"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("NotFoundError('x')", ["NotFoundError"]),
        ("errors.UsageError(f'{x}', why='y')", ["UsageError"]),
        ("(VerificationError if wrong else NetworkError)('x')", ["NetworkError, VerificationError"]),
        ("UsageError('x', hint='')", ["UsageError"]),
        ("UsageError('x', hint=y)", []),
        ("UsageError('x', **more)", []),
        ("ImageError('x')", []),
    ],
)
def test_what_counts_as_silent(source: str, names: list[str]) -> None:
    assert [name for _, name in without_hint(source)] == names


def test_a_damaged_image_is_shown_to_qemu() -> None:
    assert "qemu-img check '/a b.qcow2'" in ImageError("it is damaged", path="/a b.qcow2").hint
    assert ImageError("it is damaged", path="/a", hint="do this").hint == "do this"
