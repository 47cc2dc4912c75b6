"""An observer that remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Heard:
    """What an observer was told."""

    notes: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    advanced: Counter[str] = field(default_factory=Counter)
    served: list[tuple[str, int, int, Sequence[tuple[str, float]]]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        pass

    def advance(self, size: int, source: str = "") -> None:
        self.advanced[source] += size

    def fetching(self, sources: Sequence[str], idle_s: float, cells: str = "", copies: str = "") -> None:
        pass

    def end(self) -> None:
        pass

    def log(self, text: str) -> None:
        self.logged.append(text)

    def serving(
        self, what: str, total: int, done: int, joined: int, fetching: Sequence[tuple[str, float]]
    ) -> None:
        self.served.append((what, done, joined, fetching))
