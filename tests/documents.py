"""Holds the JSON documents that commands print in any test to their types."""

from __future__ import annotations

from collections.abc import Iterable

from overlaysync.cli.documents import DOCUMENTS, check

_GROUPS = {command.split()[0] for command in DOCUMENTS if " " in command}


def check_printed(words: Iterable[object], document: object) -> None:
    """Refuse a document that is none of those that the command of these words may print."""
    named = [text for text in map(str, words) if not text.startswith("-") or text == "--version"]
    if not named:
        return
    try:
        check(" ".join(named[: 2 if named[0] in _GROUPS else 1]), document)
    except ValueError as error:
        error.add_note(
            "The types are in overlaysync/cli/documents_*.py. After a change, run scripts/schemas.py, and"
            " describe the field in docs/commands.md."
        )
        raise
