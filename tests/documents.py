"""Holds the JSON documents that commands print in any test to their types."""

from __future__ import annotations

from collections.abc import Iterable

from overlaysync.cli.documents import DOCUMENTS, check

_GROUPS = {command.split()[0] for command in DOCUMENTS if " " in command}


def check_printed(words: Iterable[object], document: object) -> None:
    """Refuse a document that is none of those that the command of these words may print."""
    named = [text for text in map(str, words) if not text.startswith("-") or text == "--version"]
    if named:
        check(" ".join(named[: 2 if named[0] in _GROUPS else 1]), document)
