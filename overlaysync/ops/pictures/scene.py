"""What a picture consists of: boxes, lines, shapes and labels, each at its place. Leaves out files.

Lengths are in pixels of 1/96 inch, from the top left corner. Later items are drawn over earlier ones. Colours
differ in lightness too, and each meaning has a shape or a dash of its own, so that a picture can be printed
in grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]


class Anchor(StrEnum):
    """Which part of a label its place is."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


@dataclass(frozen=True, slots=True)
class Look:
    """How an area or a line is painted.

    Attributes:
        fill: ``#rrggbb``; "" for nothing.
        stroke: the same, of the line or the edge.
        width: of the line.
        dash: lengths of a stroke and of the gap after it; (0, 0) for a whole line.
    """

    fill: str = ""
    stroke: str = ""
    width: float = 1.0
    dash: tuple[float, float] = (0, 0)


@dataclass(frozen=True, slots=True)
class Type:
    """How a label is set."""

    size: float
    bold: bool = False
    color: str = "#1a1a1a"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; ``note`` is shown where a viewer can point at it."""

    x: float
    y: float
    width: float
    height: float
    look: Look
    radius: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through at least two points; ``arrow``: with a head at its end."""

    points: tuple[Point, ...]
    look: Look
    arrow: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """One line of text; ``y`` is its baseline."""

    x: float
    y: float
    text: str
    type: Type
    anchor: Anchor = Anchor.START


Item: TypeAlias = Box | Line | Label


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture.

    Attributes:
        width, height: of all of it.
        title: what it is.
        description: what it shows, in sentences, for those who do not see it.
        lang: language of its texts.
        items: in the order in which they are drawn.
    """

    width: float
    height: float
    title: str
    description: str
    lang: str
    items: tuple[Item, ...]


def arrow_head(line: Line) -> tuple[Point, Point, Point]:
    """Return the corners of the head of an arrow, its tip first."""
    (x0, y0), (x1, y1) = line.points[-2:]
    length = max(1e-6, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
    size = 5 + 2 * line.look.width
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    back_x, back_y = x1 - ux * size, y1 - uy * size
    side = size * 0.5
    return (x1, y1), (back_x - uy * side, back_y + ux * side), (back_x + uy * side, back_y - ux * side)


def shaft(line: Line) -> tuple[Point, ...]:
    """Return the points of a line without what its head covers."""
    if not line.arrow:
        return line.points
    _, left, right = arrow_head(line)
    return (*line.points[:-1], ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2))
