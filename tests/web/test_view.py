"""What of the page is shown, and in which order: chosen in the address; and what a screen reader is told."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from overlaysync.web.board import Board
from overlaysync.web.model import Image, Snapshot, TaskView, TeamView, Vm
from overlaysync.web.news import REST_S, News
from overlaysync.web.texts import ALL, TEXTS
from overlaysync.web.view import CHOICES, MAX_TEXT, SHOWN_TASKS, View, view_of
from tests.web.test_board import AT, snapshot

EN = ALL["en"]


def image(name: str, kind: str = "overlay", **more: object) -> Image:
    plain = replace(
        snapshot().images[0], key=name, kind=kind, title=name, on="base:1", paths=(), holders=(), machines=0
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def lab() -> Snapshot:
    return replace(
        snapshot(),
        images=(
            image("base:1", "master", on="", machines=2, size=9, in_use=()),
            image("web:1", paths=("/vm/web.qcow2",), size=3, verified_at=5.0, in_use=()),
            image("Db:1", machines=1, size=None, verified_at=None, in_use=("ben@host",)),
        ),
    )


def titles(view: View) -> list[str]:
    return [one.title for one in view.of(lab()).images]


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (View(), ["base:1", "web:1", "Db:1"]),
        (View(text="DB"), ["Db:1"]),
        (View(text="/vm/"), ["web:1"]),
        (View(text="base"), ["base:1", "web:1", "Db:1"]),
        (View(text="b.*"), []),
        (View(images="master"), ["base:1"]),
        (View(images="overlay"), ["web:1", "Db:1"]),
        (View(images="here"), ["web:1"]),
        (View(images="elsewhere"), ["base:1", "Db:1"]),
        (View(images="single"), ["web:1", "Db:1"]),
        (View(images="in-use"), ["Db:1"]),
        (View(order="name"), ["base:1", "Db:1", "web:1"]),
        (View(order="size"), ["base:1", "web:1", "Db:1"]),
        (View(order="verified"), ["base:1", "web:1", "Db:1"]),
        (View(order="copies"), ["web:1", "Db:1", "base:1"]),
        (View(images="overlay", order="name", text=":1"), ["Db:1", "web:1"]),
    ],
)
def test_images_are_chosen_and_ordered(view: View, shown: list[str]) -> None:
    assert titles(view) == shown


def test_rows_of_a_list_are_no_tree() -> None:
    assert [one.guides for one in View(order="name").of(lab()).images] == ["", "", ""]
    board = Board(EN, View(text="web"))
    board.show(lab())
    assert 'class="kind"> on base:1' in board.texts["lineage"]
    board = Board(EN, View(text="nothing has this"))
    board.show(lab())
    assert EN("no-match") in board.texts["lineage"] and EN("no-match") in board.texts["machines"]
    assert "<b>1</b> Masters" in board.texts["counters"], "what is counted is everything"


def test_tasks_are_chosen_by_their_state_and_the_newest_are_listed() -> None:
    many = tuple(TaskView(f"t{n}", "verify", "x", 1.0, 2.0, n % 2, 1, "said") for n in range(50))
    shown = replace(lab(), tasks=many)
    assert len(View().of(shown).tasks) == SHOWN_TASKS
    assert len(View(tasks="all").of(shown).tasks) == 50
    assert {task.state for task in View(tasks="failed").of(shown).tasks} == {"failed"}


def test_an_address_says_the_view_and_nothing_else() -> None:
    view = View("two words & more=1", "here", "size", "failed")
    assert view_of(dict(parse_qsl(view.query))) == view
    assert view_of({}).query == ""
    odd = {"q": "a" * 500, "images": "../x", "order": "<script>", "tasks": "none", "lang": "fr"}
    assert view_of(odd) == View("a" * MAX_TEXT)
    assert view_of({"q": "x\u202ey"}) == View()


def test_every_choice_has_words() -> None:
    for name, values in CHOICES.items():
        assert {f"{name}-{value}" for value in values} <= TEXTS.keys()


# -- what a screen reader is told --------------------------------------------------------------------------


def task(key: str, code: int | None) -> TaskView:
    return TaskView(
        key, "fetch", "overlaysync fetch x", 1.0, None if code is None else 2.0, code, 1, "", "x:1"
    )


def team(lacking: bool) -> TeamView:
    return TeamView("red", (Vm("web", (1,), AT, None, 1, (), lacking, ""),), (), 2, 1, ())


def at(seconds: float, *tasks: TaskView, lacking: bool = False) -> Snapshot:
    return replace(lab(), at=seconds, tasks=tasks, teams=(team(lacking),))


def test_what_has_happened_is_told_once_and_what_was_there_is_not() -> None:
    news = News()
    news.see(at(100, task("old", 1), task("a", None), lacking=True), EN)
    assert news.number == 0
    news.see(at(101, task("old", 1), task("a", 0), lacking=True), EN)
    assert (news.number, news.text) == (1, "Fetch x:1: done.")
    news.see(at(200, task("old", 1), task("a", 0)), EN)
    assert news.number == 1, "what becomes better interrupts nobody"
    news.see(at(300, task("old", 1), task("a", 0), lacking=True), EN)
    assert (news.number, news.text) == (2, "red/web is on too few machines now.")


def test_a_flood_is_one_sentence() -> None:
    news = News()
    news.see(at(100), EN)
    done = [task(f"t{number}", 0) for number in range(30)]
    for number in range(1, 31):
        news.see(at(100 + number / 30 * REST_S * 0.9, *done[:number]), EN)
    assert news.number == 1
    news.see(at(100 + 2 * REST_S, *done), EN)
    assert (news.number, news.text) == (2, "29 tasks have ended.")


def test_the_same_sentence_again_is_another_element() -> None:
    board = Board(EN)
    board.show(at(100))
    board.show(at(101, task("a", 0)))
    first = board.texts["news"]
    board.show(at(200, task("a", 0), task("b", 0)))
    assert (
        "Fetch x:1: done." in first
        and "Fetch x:1: done." in board.texts["news"]
        and board.texts["news"] != first
    )
