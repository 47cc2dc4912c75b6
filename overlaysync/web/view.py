"""What of a snapshot is shown, and in which order: chosen in the address, so that it can be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from overlaysync.web.model import Image, Machine, Snapshot, TaskView, TeamView, Transfer

MAX_TEXT = 64
SHOWN_TASKS = 20
"""Tasks that are listed unless it is asked for more."""

_IMAGES: dict[str, Callable[[Image], bool]] = {
    "": lambda one: True,
    "master": lambda one: one.kind == "master",
    "overlay": lambda one: one.kind == "overlay",
    "here": lambda one: one.here,
    "elsewhere": lambda one: not one.here and one.kind != "missing",
    "single": lambda one: one.kind != "missing" and one.here + one.machines < 2,
    "in-use": lambda one: bool(one.in_use),
}
_ORDERS: dict[str, Callable[[Image], object] | None] = {
    "": None,
    "name": lambda one: one.title.casefold(),
    "size": lambda one: -(one.size or 0),
    "verified": lambda one: (one.verified_at is None, one.verified_at or 0.0),
    "copies": lambda one: one.here + one.machines,
}
_TASKS = ("", "all", "running", "done", "stopped", "failed")

CHOICES = {"images": tuple(_IMAGES), "order": tuple(_ORDERS), "tasks": _TASKS}
"""What each choice of an address can be; the first is what is shown without it."""


@dataclass(frozen=True, slots=True)
class View:
    """A choice of what is shown.

    Attributes:
        text: rows must contain it, in upper or lower case; "" for any.
        images: which images: see :data:`CHOICES`.
        order: of the images; "" for the family tree.
        tasks: which tasks; "" for the newest.
    """

    text: str = ""
    images: str = ""
    order: str = ""
    tasks: str = ""

    @property
    def query(self) -> str:
        """The part of an address after ``?`` that shows this view; "" for the one without choices."""
        fields = {"q": self.text, "images": self.images, "order": self.order, "tasks": self.tasks}
        return urlencode({name: value for name, value in fields.items() if value})

    @property
    def flat(self) -> bool:
        """Whether images are a list instead of a tree: there are gaps in it, or it has another order."""
        return bool(self.text or self.images or self.order)

    def of(self, snapshot: Snapshot) -> Snapshot:
        """Return the part of a snapshot that is shown."""
        tasks = snapshot.tasks
        if self.tasks not in ("", "all"):
            tasks = tuple(task for task in tasks if task.state == self.tasks)
        if not self.text and not self.tasks:
            tasks = tasks[:SHOWN_TASKS]
        if not self.flat:
            return replace(snapshot, tasks=tasks)
        return replace(
            snapshot,
            images=self._listed(snapshot.images),
            machines=tuple(filter(self._fits, snapshot.machines)),
            transfers=tuple(filter(self._fits, snapshot.transfers)),
            teams=tuple(filter(self._fits, snapshot.teams)),
            tasks=tuple(filter(self._fits, tasks)),
        )

    def _listed(self, images: Iterable[Image]) -> tuple[Image, ...]:
        chosen = [one for one in images if _IMAGES[self.images](one) and self._fits(one)]
        if (order := _ORDERS[self.order]) is not None:
            chosen.sort(key=order)  # type: ignore[arg-type] # each order is of one type
        return tuple(replace(one, guides="", carries=False) for one in chosen)

    def _fits(self, row: Image | Machine | Transfer | TeamView | TaskView) -> bool:
        """Whether a row contains the text."""
        return not self.text or any(self.text.casefold() in text.casefold() for text in _texts(row))


def view_of(query: Mapping[str, str]) -> View:
    """Return the view of an address; what it cannot mean is left out."""
    chosen = {name: query.get(name, "") for name in CHOICES}
    text = " ".join(query.get("q", "").split())[:MAX_TEXT]
    return View(
        text=text if text.isprintable() else "",
        **{name: value for name, value in chosen.items() if value in CHOICES[name]},
    )


def _texts(row: Image | Machine | Transfer | TeamView | TaskView) -> tuple[str, ...]:
    match row:
        case Image():
            return (row.title, row.on, row.short, *row.paths, *row.holders)
        case Machine():
            return (row.label, row.address)
        case Transfer():
            return (row.what, *row.sources, *(one.label for one in row.receivers))
        case TeamView():
            return (row.name, *(vm.name for vm in row.vms), *row.never)
        case TaskView():
            return (row.command, row.last, row.about)
