"""What can be done on the page: each action is a form that asks once more, and a command that is then run.

A form carries keys of what the page shows, never paths of images; the one exception is a directory to put
something into, which the user types.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overlaysync.errors import UsageError
from overlaysync.model.names import check_name, printable
from overlaysync.store.keeping import KeptTeam
from overlaysync.units import MIB, parse_size
from overlaysync.web.model import Image, TeamView

_MAX_DIRECTORY = 1024
_MAX_NOTE = 200
_COPIES = tuple(map(str, range(1, 11)))


@dataclass(frozen=True, slots=True)
class Target:
    """What an action is about.

    Attributes:
        image: of an action on an image.
        path: of the image here; "" where there is none.
        team: of an action on a team.
    """

    image: Image | None = None
    path: str = ""
    team: TeamView | None = None

    @property
    def name(self) -> str:
        if self.image:
            return self.image.title
        return self.team.name if self.team else ""


Words = Callable[[Target, Mapping[str, str]], list[str]]


@dataclass(frozen=True, slots=True)
class Action:
    """An action.

    Attributes:
        name: in addresses and texts.
        fits: whether it can be done with a target.
        words: the command, made of the target and the fields of the form.
        fields: what the form asks for: ``to``, ``masters``, ``name``, ``note``, ``repair``,
            ``copies``, ``budget``.
        grave: whether it removes something.
    """

    name: str
    fits: Callable[[Target], bool]
    words: Words
    fields: tuple[str, ...] = ()
    grave: bool = False

    @property
    def of_team(self) -> bool:
        """Whether it is about a team, and not about an image."""
        return self.fits in (_is_team, _is_kept)


def directory(form: Mapping[str, str], field: str) -> str:
    """Return a directory of a form, absolute.

    Raises:
        UsageError: it is none.
    """
    text = form.get(field, "").strip()
    if not text or len(text) > _MAX_DIRECTORY or not text.isprintable():
        raise UsageError("A directory is missing", hint="name the directory to put it into")
    return os.path.abspath(os.path.expanduser(text))


def _fetch(target: Target, form: Mapping[str, str]) -> list[str]:
    assert target.image
    to, masters = directory(form, "to"), directory(form, "masters")
    return ["fetch", f"--to={to}", f"--masters={masters}", "--", target.image.reference]


def _verify(target: Target, form: Mapping[str, str]) -> list[str]:
    return ["verify", *(["--repair"] if form.get("repair") else []), "--", target.path]


def _promote(target: Target, form: Mapping[str, str]) -> list[str]:
    name = check_name(form.get("name", "").strip())
    return ["promote", f"--as={name}", f"--to={directory(form, 'to')}", "--", target.path]


def _discard(target: Target, _: Mapping[str, str]) -> list[str]:
    return ["discard", "--yes", "--", target.path]


def _save(target: Target, form: Mapping[str, str]) -> list[str]:
    note = form.get("note", "").strip()
    if len(note) > _MAX_NOTE or not note.isprintable():
        raise UsageError("That note is too long", hint=f"at most {_MAX_NOTE} characters, on one line")
    return [
        "save",
        f"--team={target.name}",
        *([f"--note={note}"] if note else []),
        "--",
        directory(form, "to"),
    ]


def _restore(target: Target, form: Mapping[str, str]) -> list[str]:
    to, masters = directory(form, "to"), directory(form, "masters")
    return ["restore", f"--to={to}", f"--masters={masters}", "--", target.name]


def _drill(target: Target, form: Mapping[str, str]) -> list[str]:
    return ["drill", f"--to={directory(form, 'to')}", "--", target.name]


def _keep(target: Target, form: Mapping[str, str]) -> list[str]:
    copies, budget = form.get("copies", "").strip(), form.get("budget", "").strip()
    if copies not in _COPIES:
        raise UsageError(
            f"'{printable(copies)}' is no number of machines", hint="type a number from 1 to 10, such as 3"
        )
    if budget:
        parse_size(budget)
    limit = [f"--budget={budget or '0'}"] if budget or _is_kept(target) else []
    return ["keep", "--once", f"--copies={copies}", *limit, "--", target.name]


def _unkeep(target: Target, _: Mapping[str, str]) -> list[str]:
    return ["keep", "--off", "--", target.name]


def keeping_of(target: Target) -> dict[str, str]:
    """Return how a team is kept, as a form asks for it."""
    kept = target.team.kept if target.team else None
    budget = f"{kept.budget / MIB:.0f}M" if kept and kept.budget else ""
    return {"copies": str(kept.copies if kept else KeptTeam().copies), "budget": budget}


def _is_here(target: Target) -> bool:
    return bool(target.image and target.path)


def _is_overlay_here(target: Target) -> bool:
    return bool(target.image and target.path and target.image.kind == "overlay")


def _is_elsewhere(target: Target) -> bool:
    return bool(target.image and target.image.machines and target.image.reference and not target.path)


def _is_team(target: Target) -> bool:
    return target.team is not None


def _is_kept(target: Target) -> bool:
    return bool(target.team and target.team.kept)


_ALL = (
    Action("fetch", _is_elsewhere, _fetch, ("to", "masters")),
    Action("verify", _is_here, _verify, ("repair",)),
    Action("promote", _is_overlay_here, _promote, ("name", "to")),
    Action("discard", _is_overlay_here, _discard, grave=True),
    Action("save", _is_team, _save, ("to", "note")),
    Action("restore", _is_team, _restore, ("to", "masters")),
    Action("drill", _is_team, _drill, ("to",)),
    Action("keep", _is_team, _keep, ("copies", "budget")),
    Action("unkeep", _is_kept, _unkeep),
)

ACTIONS: dict[str, Action] = {action.name: action for action in _ALL}


def fitting(target: Target) -> list[Action]:
    """Return what can be done with a target."""
    return [action for action in ACTIONS.values() if action.fits(target)]
