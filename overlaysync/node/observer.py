"""How long work is watched: a command shows it, a page could, tests record it."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Told what happens. ``advance`` may be called from any thread."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def begin(self, what: str, total: int) -> None:
        """Work of ``total`` bytes begins."""

    def advance(self, size: int) -> None:
        """``size`` more bytes are done."""

    def end(self) -> None:
        """The work has ended, well or not."""


class Silent:
    """An observer that shows nothing."""

    def note(self, text: str) -> None:
        pass

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, size: int) -> None:
        pass

    def end(self) -> None:
        pass
