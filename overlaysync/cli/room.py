"""Those who fetch from this node, as a terminal shows them: a line for each, with a bar and a rate.

Leaves out what a log and JSON get, see :mod:`overlaysync.cli.progress`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from overlaysync.cli.block import Drawn
from overlaysync.cli.later import later
from overlaysync.units import format_size

_WINDOW_S = 6.0
"""The rate is that of the last seconds."""
_SHOWN = 12
"""Machines that have a line at most; the slowest are shown."""
_NAME = 24


@dataclass(frozen=True, slots=True)
class _Image:
    """What is fetched, and how far everybody is."""

    total: int
    done: int
    joined: int
    held: Mapping[str, float]


@dataclass(slots=True)
class Room:
    """All that is fetched here now.

    Attributes:
        color: whether there is colour.
    """

    color: bool
    _images: dict[str, _Image] = field(default_factory=dict)
    _history: dict[tuple[str, str], deque[tuple[float, float]]] = field(default_factory=dict)

    def take(
        self,
        what: str,
        total: int,
        counts: tuple[int, int],
        fetching: Sequence[tuple[str, float]],
        now: float,
    ) -> None:
        """Note how far those are who fetch ``what``; ``counts`` are how many are done and have begun."""
        for key in [key for key in self._history if key[0] == what and key[1] not in dict(fetching)]:
            del self._history[key]
        for label, held in fetching:
            history = self._history.setdefault((what, label), deque())
            history.append((now, held))
            while len(history) > 2 and now - history[1][0] >= _WINDOW_S:
                history.popleft()
        self._images.pop(what, None)
        if fetching:
            self._images[what] = _Image(total, *counts, dict(fetching))

    def lines(self, columns: int, rows: int) -> list[Drawn]:
        """Return what to draw in so much room."""
        drawn: list[Drawn] = []
        share = max(1, (rows - 2 * len(self._images)) // max(1, len(self._images)))
        for what, image in self._images.items():
            drawn += self._image_lines(what, image, columns, min(share, _SHOWN))
        return drawn[: max(1, rows)]

    def _image_lines(self, what: str, image: _Image, columns: int, most: int) -> list[Drawn]:
        terminal = later("cli.terminal")
        slowest = sorted(image.held, key=lambda label: (image.held[label], label))
        rates = {label: self._rate(what, label, image.total) for label in slowest}
        heads = [f"  {what}  {image.done} of {image.joined} done", f"{format_size(sum(rates.values()))}/s"]
        gone = image.joined - image.done - len(slowest)
        heads += [f"{gone} gone"] if gone > 0 else []
        head = terminal.cut("  ".join(heads), columns)
        drawn: list[Drawn] = [(head, terminal.cell_len(head))]
        name = min(_NAME, max(map(terminal.cell_len, slowest)), max(8, columns - 24))
        for label in slowest[:most]:
            held = image.held[label]
            text = f"{int(held * 100):3} %  {format_size(rates[label])}/s"
            drawn.append(
                terminal.member_line(terminal.padded(label, name), held, text, columns, color=self.color)
            )
        if len(slowest) > most:
            more = terminal.cut(f"    and {len(slowest) - most} more, which have more of it", columns)
            drawn.append((more, terminal.cell_len(more)))
        return drawn

    def _rate(self, what: str, label: str, total: int) -> int:
        """Return by how many bytes per second a machine has come further of late, wherever they came from."""
        history = self._history[what, label]
        (since, before), (now, held) = history[0], history[-1]
        return int(max(0.0, held - before) * total / (now - since)) if now > since else 0
