"""The types of the JSON documents: each command has one, and docs/schemas.json is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from overlaysync.cli import commands
from overlaysync.cli.documents import DOCUMENTS, check, schemas
from overlaysync.cli.main import app

DOCS = Path(__file__).parents[2] / "docs"
WITHOUT = {"demo", "help", "team code"}
"""For people only: demo shows, help explains, and the code of a team is shown on a terminal alone."""


def names() -> set[str]:
    """All commands; of groups those in them."""
    typer.main.get_command(app)
    found = set()
    for name in commands.ENTRIES:
        below = getattr(commands.load(name), "commands", None)
        found |= {f"{name} {word}" for word in below} if below else {name}
    return found


def test_each_command_has_a_type_for_what_it_prints() -> None:
    assert names() - WITHOUT == set(DOCUMENTS) - {"--version"}


def test_the_schemas_are_those_of_the_types() -> None:
    same = json.loads((DOCS / "schemas.json").read_text()) == schemas()
    assert same, "docs/schemas.json is not what the types say: run scripts/schemas.py, which writes it"


def test_each_field_of_a_schema_is_named_and_closed() -> None:
    made = schemas()
    for name, schema in made["$defs"].items():
        assert schema["type"] == "object" and schema["additionalProperties"] is False, name
        assert schema["description"], name


ERROR = {"what": "No", "why": "", "hint": "", "candidates": [], "exit_code": 3}


def test_an_error_is_what_any_command_may_print() -> None:
    for command in DOCUMENTS:
        check(command, {"error": ERROR})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"version": 1}, "Expected `str`, got `int`"),
        ({"version": "1", "more": 1}, "unknown field `more`"),
        ({}, "missing required field `version`"),
        ({"error": ERROR | {"exit_code": "3"}}, "$.error.exit_code"),
    ],
)
def test_another_document_is_refused_with_its_field(document: object, said: str) -> None:
    with pytest.raises(ValueError, match="--version") as caught:
        check("--version", document)
    assert said in str(caught.value)
