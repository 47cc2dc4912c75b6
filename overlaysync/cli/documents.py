"""The JSON documents of the commands: the type of each, of which docs/schemas.json is made.

The tests hold every document that a command prints to its type. No command imports this.
A field with ``UNSET`` may be missing. Times are ISO 8601 UTC, sizes are bytes, ids are as in messages.
"""

from __future__ import annotations

from typing import Any

import msgspec

from overlaysync.cli.documents_of_images import IMAGE_DOCUMENTS
from overlaysync.cli.documents_of_machines import MACHINE_DOCUMENTS
from overlaysync.cli.documents_of_states import STATE_DOCUMENTS
from overlaysync.cli.documents_parts import ErrorDocument

DOCUMENTS: dict[str, tuple[type[Any], ...]] = IMAGE_DOCUMENTS | MACHINE_DOCUMENTS | STATE_DOCUMENTS
"""Command → the documents that it may print when it succeeds."""


def check(command: str, document: object) -> None:
    """Refuse a document that is none of those that a command prints; an error is one that each may print.

    Raises:
        ValueError: it says which field is wrong, for each document that it could be.
    """
    problems = []
    kind: Any
    for kind in (*DOCUMENTS.get(command, ()), ErrorDocument):
        try:
            msgspec.convert(document, kind, strict=True)
            return
        except msgspec.ValidationError as error:
            problems.append(f"{kind.__name__}: {error}")
    raise ValueError(f"{command}: " + "; ".join(problems))


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of all documents: for each command one, below ``$defs``."""
    unique: list[Any] = list(
        dict.fromkeys([*(kind for kinds in DOCUMENTS.values() for kind in kinds), ErrorDocument])
    )
    references, components = msgspec.json.schema_components(unique, ref_template="#/$defs/{name}")
    by_kind = dict(zip(unique, references, strict=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What overlaysync prints with --json",
        "commands": {
            command: {"anyOf": [by_kind[kind] for kind in (*kinds, ErrorDocument)]}
            for command, kinds in sorted(DOCUMENTS.items())
        },
        "$defs": dict(sorted(components.items())),
    }
