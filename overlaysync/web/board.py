"""The page in one language and view, as parts with versions: browsers ask for what has changed since then.

A part is one element with an id. Rows are parts of a list; a list counts as changed when rows come, go or
move, and is then sent with all of its rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from overlaysync.web.model import Snapshot
from overlaysync.web.news import News
from overlaysync.web.render import Clock, macros, slug
from overlaysync.web.texts import Words
from overlaysync.web.view import View


@dataclass(slots=True)
class _Part:
    """A part as it is shown: its text and when that was new; a row has no text while its list was sent."""

    text: Markup
    version: int


@dataclass(slots=True)
class _List:
    """A list as it is shown: what it is but for its rows, which rows, and when one of these was new."""

    frame: tuple[str, tuple[str, ...]]
    version: int
    rows: tuple[str, ...]


@dataclass(slots=True)
class Board:
    """What is shown in one language.

    Args:
        words: of the language.
        view: which rows are shown.

    Attributes:
        version: rises whenever something shown has changed.
        texts: the whole text of each part of the page.
    """

    words: Words
    view: View = field(default_factory=View)
    version: int = field(default_factory=lambda: int(time.time() * 1000))
    texts: dict[str, Markup] = field(default_factory=dict)
    _first: int = 0
    _plain: dict[str, _Part] = field(default_factory=dict)
    _lists: dict[str, _List] = field(default_factory=dict)
    _rows: dict[str, _Part] = field(default_factory=dict)
    _known: dict[str, tuple[object, int, Markup]] = field(default_factory=dict)
    _news: News = field(default_factory=News)

    def __post_init__(self) -> None:
        self._first = self.version

    def show(self, snapshot: Snapshot) -> bool:
        """Show a snapshot; whether anything looks different."""
        before = self.version
        self.version += 1
        Clock.now = snapshot.at
        parts, known = macros(), {}
        self._news.see(snapshot, self.words)
        for name in ("summary", "alerts", "counters"):
            self._set(self._plain, name, getattr(parts, name)(self.words, snapshot))
        self._set(self._plain, "news", parts.news(self._news))
        self.texts |= {name: part.text for name, part in self._plain.items()}
        snapshot = self.view.of(snapshot)
        lists: tuple[tuple[str, str, Callable[[Any], str], Sequence[Any]], ...] = (
            ("lineage", "image", lambda one: f"i-{one.key}", snapshot.images),
            ("machines", "machine", lambda one: f"m-{slug(one.key)}", snapshot.machines),
            ("transfers", "transfer", lambda one: f"t-{one.key}", snapshot.transfers),
            ("tasks", "task", lambda one: f"task-{one.key}", snapshot.tasks),
            ("teams", "team", lambda one: f"team-{slug(one.name)}", snapshot.teams),
        )
        rows: dict[str, _Part] = {}
        changed = False
        for name, row, id_of, values in lists:
            ids = []
            for value in values:
                id = id_of(value)
                ids.append(id)
                known[id] = self._row(id, row, value)
                changed |= self._set(self._rows, id, known[id][2])
                rows[id] = self._rows[id]
            changed |= self._set_list(name, tuple(ids), snapshot)
        self._known, self._rows = known, rows
        changed |= any(part.version == self.version for part in self._plain.values())
        if not changed:
            self.version = before
        return changed

    def since(self, version: int) -> str:
        """Return the text of all parts that are newer than ``version``."""
        if not self._first <= version <= self.version:
            version = 0
        found: list[str] = [part.text for part in self._plain.values() if part.version > version]
        for name, one in self._lists.items():
            if one.version > version:
                found.append(self.texts[name])
            else:
                found += [self._rows[id].text for id in one.rows if self._rows[id].version > version]
        return "".join(found)

    def _row(self, id: str, macro: str, value: Any) -> tuple[object, int, Markup]:
        """Return the row of a value: made anew when the value is another, or the ages that it tells."""
        minute = int(Clock.now // 60)
        before = self._known.get(id)
        if before is not None and before[:2] == (value, minute):
            return before
        return value, minute, Markup(getattr(macros(), macro)(self.words, value))

    def _set(self, parts: dict[str, _Part], id: str, text: Any) -> bool:
        before = parts.get(id)
        if before is not None and before.text == text:
            return False
        parts[id] = _Part(Markup(text), self.version)
        return True

    def _set_list(self, name: str, ids: tuple[str, ...], snapshot: Snapshot) -> bool:
        """Note what a list is now; whether it is another, its rows apart."""
        macro = getattr(macros(), name)
        frame = str(macro(self.words, snapshot, "", self.view)), ids
        before = self._lists.get(name)
        fresh = before is None or before.frame != frame
        if fresh:
            self._lists[name] = _List(frame, self.version, ids)
        if fresh or any(self._rows[id].version == self.version for id in ids):
            rows = Markup("\n").join(self._rows[id].text for id in ids)
            self.texts[name] = Markup(macro(self.words, snapshot, rows, self.view))
        return fresh
