"""The parts of the page: what strangers name is escaped, and only what has changed is sent again."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from overlaysync.web.board import Board
from overlaysync.web.model import (
    Drill,
    Health,
    Image,
    Kept,
    Machine,
    Receiver,
    Snapshot,
    TaskView,
    TeamView,
    Transfer,
    Vm,
)
from overlaysync.web.texts import ALL, TEXTS, chosen

EVIL = "\"><script>hit()</script><img src=x onerror=hit()>'{{7*7}}{% x %}"
AT = "2026-11-28T10:00:00Z"


def snapshot(text: str = "name") -> Snapshot:
    """Something of everything, with ``text`` in all that is text and that others may choose."""
    image = Image(
        "0" * 32, "overlay", text, text, 5, "t", True, text, (text,), True, text, 2, (text,), (text,), 1.0,
        "changed", ("1" * 32, text), text,
    )  # fmt: skip
    vm = Vm(text, (1, 2), AT, True, 1, ((text, AT, text),), True, text)
    drill = Drill(AT, text, "failed", (text,), 1, 2, 3.0, 4.0)
    return Snapshot(
        at=2e9,
        health=Health(text, text, 1, 2, 3, 4, None),
        images=(
            image,
            replace(image, key="1" * 32, kind="missing"),
            replace(image, key="2" * 32, kind="master"),
        ),
        hidden=3,
        machines=(
            Machine(text, text, False, text, 1, 2, 3, text, (text,)),
            Machine("own", text, True, text, 1, 2, 0, ""),
        ),
        transfers=(
            Transfer("t1", text, True, 1, 2, 3, "0189", "0123", (text,), (), 0, 3.0, "task"),
            Transfer("t2", text, False, 1, 2, 3, "9999", "1111", (), (Receiver(text, 0.5),), 1),
        ),
        teams=(TeamView(text, (vm,), (text,), 2, 1, (text,), drill, drill, Kept(3, 5)),),
        tasks=(TaskView("a", "verify", text, 1.0, 2.0, 3, 4, text, text),),
    )


class Tags(HTMLParser):
    """Collects the tags and attributes of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {(tag, name) for name, _ in attrs} | {(tag, "")}


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "templates do not escape")
def test_what_strangers_name_adds_no_tag_and_no_attribute(language: str) -> None:
    plain, evil = Board(ALL[language]), Board(ALL[language])
    plain.show(snapshot())
    evil.show(snapshot(EVIL))
    for name, text in evil.texts.items():
        there, wanted = Tags(), Tags()
        there.feed(text)
        wanted.feed(plain.texts[name])
        assert there.seen == wanted.seen, name
    assert "49" not in "".join(evil.texts.values())


def test_only_what_has_changed_is_sent_again() -> None:
    board, first = Board(ALL["en"]), snapshot()
    assert board.show(first)
    version = board.version
    assert not board.show(replace(first, at=first.at + 1))
    assert board.since(version) == ""
    machines = (first.machines[0], replace(first.machines[1], masters=7))
    assert board.show(replace(first, machines=machines))
    assert re.findall(r'id="([^"]*)"', board.since(version))[0].startswith("m-")
    assert "lineage" not in board.since(version)


def test_a_row_that_goes_changes_its_list() -> None:
    board, first = Board(ALL["en"]), snapshot()
    board.show(first)
    version = board.version
    assert board.show(replace(first, images=first.images[1:]))
    text = board.since(version)
    assert 'id="lineage"' in text and "0" * 32 not in text and "1" * 32 in text


@pytest.mark.parametrize("version", [0, 1, 1 << 62])
def test_whoever_knows_another_page_gets_all_of_it(version: int) -> None:
    board = Board(ALL["en"])
    board.show(snapshot())
    text = board.since(version)
    assert all(f'id="{name}"' in text for name in board.texts)


def test_both_languages_say_everything_with_the_same_fields() -> None:
    for key, (english, french) in TEXTS.items():
        assert set(re.findall(r"{(\w+)}", english)) == set(re.findall(r"{(\w+)}", french)), key


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-CA,en;q=0.8", "fr"),
        ("de,fr;q=0.5", "fr"),
        ("en;q=0.1,fr;q=0.2", "fr"),
        ("fr;q=x,en", "en"),
        ("," * 5000, "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(accept: str, language: str) -> None:
    assert chosen(accept) == language


def test_every_field_of_strangers_is_tried() -> None:
    """So that a new field is not forgotten above."""
    found: Any = snapshot(EVIL)
    rows = (found.images[0], found.machines[0], found.transfers[0], found.teams[0], found.tasks[0])
    for value in (*rows, found.teams[0].vms[0], found.teams[0].drill):
        for field in dataclasses.fields(value):
            if field.type == "str" and field.name not in {
                "key", "kind", "guides", "changed", "cells", "copies", "action", "task", "at", "started",
                "verdict",
            }:  # fmt: skip
                assert getattr(value, field.name) == EVIL, (type(value), field.name)
