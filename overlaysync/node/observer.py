"""How long work is watched: a command shows it, a page could, tests record it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Observer(Protocol):
    """Told what happens. ``advance`` may be called from any thread."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Work of ``total`` bytes begins, of which ``done`` were done before."""

    def advance(self, size: int, source: str = "") -> None:
        """``size`` more bytes are done; they came from the node with this label, or from here."""

    def fetching(self, sources: Sequence[str], idle_s: float, cells: str = "", copies: str = "") -> None:
        """Show how a fetch stands; called several times a second.

        Args:
            sources: labels of the nodes that are asked for data.
            idle_s: for how long none has come.
            cells: how much there is of each of equal parts, digits; see
                :func:`overlaysync.model.pieces.cells_of`.
            copies: how many sources have each part, digits.
        """

    def end(self) -> None:
        """Note that the work has ended, well or not."""

    def log(self, text: str) -> None:
        """Something worth a line in a log only."""

    def serving(
        self, what: str, total: int, done: int, joined: int, fetching: Sequence[tuple[str, float]]
    ) -> None:
        """Of ``joined`` nodes that have begun to fetch something here, so many are done.

        Args:
            what: its name and version.
            total: its bytes.
            done: how many have it.
            joined: how many have begun.
            fetching: label of each that still fetches, and how much it has (0 to 1).
        """


class Silent:
    """An observer that shows nothing."""

    def note(self, text: str) -> None:
        pass

    def begin(self, what: str, total: int, done: int = 0) -> None:
        pass

    def advance(self, size: int, source: str = "") -> None:
        pass

    def fetching(self, sources: Sequence[str], idle_s: float, cells: str = "", copies: str = "") -> None:
        pass

    def end(self) -> None:
        pass

    def log(self, text: str) -> None:
        pass

    def serving(
        self, what: str, total: int, done: int, joined: int, fetching: Sequence[tuple[str, float]]
    ) -> None:
        pass
