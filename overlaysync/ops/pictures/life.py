"""The life of a master in four steps, as a scene for slides.

The steps are a master, overlays on it, what is thrown away, and the overlay that becomes a new master.
Names and sizes are those of images that are known here, or of an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overlaysync.model.names import printable
from overlaysync.ops.pictures.lineage import BAND, BRANCH, FAINT, INK, MASTER, OVERLAY, PROMOTION
from overlaysync.ops.pictures.scene import Anchor, Box, Item, Label, Line, Look, Scene, Type
from overlaysync.ops.pictures.typography import fitted, wrapped
from overlaysync.ops.pictures.words import Words, words_of
from overlaysync.ops.tree import Entry, EntryKind, Tree
from overlaysync.ops.tree_drawing import title
from overlaysync.units import GIB, MIB

WIDTH, HEIGHT = 1280.0, 720.0
"""As a slide has it: 16 to 9."""

_MARGIN, _PANEL, _GAP = 40.0, 279.0, 28.0
_TOP, _ART, _FLOOR, _BOTTOM = 96.0, 186.0, 488.0, 628.0
"""Tops of a panel and of what is drawn in it, and where both end."""
_INSIDE = 22.0
_MASTER_HEIGHT, _OVERLAY_HEIGHT, _BETWEEN, _TRUNK = 58.0, 46.0, 14.0, 22.0
_BAND = 8.0
SHOWN = 3
"""Overlays that there is room for."""

_TITLE, _HEADING = Type(30, bold=True, color=INK), Type(17.5, bold=True, color=INK)
_COMMAND, _CAPTION = Type(13, color="#1f4e8c"), Type(15, color="#333333")
_NAME, _FACTS = Type(14.5, bold=True, color=INK), Type(12.5, color=FAINT)
_GONE_NAME, _GONE_FACTS = Type(14.5, color="#6b6b6b"), Type(12.5, color="#777777")
_NUMBER = Type(15, bold=True, color="#ffffff")
_AGAIN = Type(14, color=FAINT)

_PAPER = Look(fill="#fafafa", stroke="#c8c8c8")
_DISC = Look(fill="#1f4e8c")
_KEPT = Look(fill="#e3f1e7", stroke="#1b5e34", width=2.4)
_GONE = Look(fill="#ffffff", stroke="#999999", width=1.2, dash=(5, 3))
_GONE_BRANCH = Look(stroke="#999999", width=1.2, dash=(5, 3))
_CROSS = Look(stroke="#999999", width=1.4)
_NEXT = Look(stroke="#555555", width=2.2)
_AROUND = Look(stroke="#888888", width=1.4, dash=(6, 4))
_COMMANDS = (
    "overlaysync share MASTER",
    "overlaysync new VM --master MASTER",
    "overlaysync discard VM",
    "overlaysync promote VM --as NAME",
)


@dataclass(frozen=True, slots=True)
class Part:
    """An image in the picture.

    Attributes:
        name: safe to print.
        data: bytes that it holds; None where that is not known.
        whole: bytes of the guest's disk.
    """

    name: str
    data: int | None
    whole: int


@dataclass(frozen=True, slots=True)
class Life:
    """What the picture shows.

    Attributes:
        master: what everything stands on.
        overlays: on it.
        kept: the one of them that became a master; None where none did.
        made: that master.
    """

    master: Part
    overlays: tuple[Part, ...]
    kept: Part | None = None
    made: Part | None = None


_ROUTER, _WEB, _TEST = (
    Part(name, data * MIB, 120 * GIB) for name, data in (("router", 412), ("web", 186), ("test", 9))
)
EXAMPLE = Life(
    master=Part("debian-testing-amd64", 3 * GIB + 410 * MIB, 120 * GIB),
    overlays=(_WEB, _ROUTER, _TEST),
    kept=_WEB,
    made=Part("debian-web", 3 * GIB + 596 * MIB, 120 * GIB),
)


def life_of(tree: Tree) -> Life | None:
    """Return the life of the master with most to show: a promoted overlay, then many; None without any."""
    lives = [
        (overlays, master)
        for at, row in enumerate(tree.rows)
        if row.entry.kind is EntryKind.MASTER
        for master, overlays in ((row.entry, _above(tree, at)),)
        if overlays
    ]
    if not lives:
        return None
    overlays, master = max(lives, key=lambda life: (any(item.promoted for item in life[0]), len(life[0])))
    kept = next((item for item in overlays if item.promoted), None)
    return Life(
        master=_part(master),
        overlays=tuple(map(_part, overlays)),
        kept=_part(kept) if kept else None,
        made=_part(tree.entry(kept.promoted)) if kept and kept.promoted else None,
    )


def _above(tree: Tree, at: int) -> list[Entry]:
    """Return the overlays that stand on a row, those that were promoted first."""
    found: list[Entry] = []
    for row in tree.rows[at + 1 :]:
        if row.depth <= tree.rows[at].depth:
            break
        found.append(row.entry)
    return sorted(found, key=lambda entry: entry.promoted is None)


def _part(entry: Entry) -> Part:
    return Part(printable(title(entry)), entry.data_size, entry.virtual_size or 0)


# -- the picture -------------------------------------------------------------------------------------


def life_scene(life: Life, lang: str = "en") -> Scene:
    """Return the picture, with words in a language."""
    words = words_of(lang)
    items: list[Item] = [Label(_MARGIN, 58, words.life.title, _TITLE)]
    for step in range(4):
        items += _panel(step, words)
        if step:
            items.append(_arrow_before(step))
    shown = life.overlays if len(life.overlays) <= SHOWN else life.overlays[: SHOWN - 1]
    more = len(life.overlays) - len(shown)
    items += _drawn_master(life.master, _left(0), _FLOOR - _MASTER_HEIGHT, words, read_only=True)
    for step in (1, 2):
        thrown = [step == 2 and part != life.kept for part in shown]
        items += _stack(life.master, list(zip(shown, thrown, strict=True)), more, step, words)
    items += _promoted(life, words)
    items += _again(words)
    return Scene(WIDTH, HEIGHT, words.life.title, describe(life, words), lang, tuple(items))


def describe(life: Life, words: Words) -> str:
    """Return the picture in sentences, for those who do not see it."""
    steps = " ".join(
        f"{number}. {head}: {caption}" for number, (head, caption) in enumerate(words.life.steps, 1)
    )
    names = words.life.description.format(
        master=life.master.name,
        overlays=", ".join(part.name for part in life.overlays),
        made=life.made.name if life.made else words.life.not_promoted,
    )
    return f"{steps} {names}"


def _left(step: int) -> float:
    """Return where what is drawn in a panel begins."""
    return _MARGIN + step * (_PANEL + _GAP) + _INSIDE


def _panel(step: int, words: Words) -> list[Item]:
    heading, caption = words.life.steps[step]
    x, room = _left(step), _PANEL - 2 * _INSIDE
    items: list[Item] = [
        Box(x - _INSIDE, _TOP, _PANEL, _BOTTOM - _TOP, _PAPER, 10),
        Box(x, _TOP + 18, 28, 28, _DISC, 14),
        Label(x + 14, _TOP + 37.5, str(step + 1), _NUMBER, Anchor.MIDDLE),
        Label(x + 38, _TOP + 38.5, fitted(heading, _HEADING, room - 38 + 12), _HEADING),
        Label(x, _TOP + 70, fitted(_COMMANDS[step], _COMMAND, room + 14), _COMMAND),
    ]
    for at, line in enumerate(wrapped(caption, _CAPTION, room)):
        items.append(Label(x, _FLOOR + 34 + at * 20, line, _CAPTION))
    return items


def _arrow_before(step: int) -> Line:
    edge, y = _left(step) - _INSIDE, _TOP + 32
    return Line(((edge - _GAP + 3, y), (edge - 3, y)), _NEXT, arrow=True)


def _drawn_master(part: Part, x: float, y: float, words: Words, *, read_only: bool = False) -> list[Item]:
    """Return a master, as wide as a panel has room for."""
    box = Box(x, y, _PANEL - 2 * _INSIDE, _MASTER_HEIGHT, MASTER)
    facts = [_whole_size(part, words), *([words.life.read_only] if read_only else [])]
    band = Box(x, y, _BAND, box.height, BAND)
    return [box, band, *_texts(box, 20, part.name, " · ".join(filter(None, facts)), (_NAME, _FACTS))]


def _drawn_overlay(part: Part, box: Box, words: Words) -> list[Item]:
    size = f"+{words.size(part.data)}" if part.data is not None else ""
    return [box, *_texts(box, 14, part.name, size, (_NAME, _FACTS))]


def _whole_size(part: Part, words: Words) -> str:
    if part.data is None:
        return ""
    return words.lineage.of.format(data=words.size(part.data), whole=words.size(part.whole))


def _texts(box: Box, before: float, name: str, facts: str, types: Sequence[Type]) -> list[Item]:
    """Return a name and the facts below it, both in the middle of the box's height."""
    room, middle = box.width - before - 12, box.y + box.height / 2
    first = middle + 5 if not facts else middle - 4
    items: list[Item] = [Label(box.x + before, first, fitted(name, types[0], room), types[0])]
    if facts:
        items.append(Label(box.x + before, middle + 14, fitted(facts, types[1], room), types[1]))
    return items


def _stack(
    master: Part, overlays: Sequence[tuple[Part, bool]], more: int, step: int, words: Words
) -> list[Item]:
    """Return overlays above their master; of each, whether it is thrown away."""
    x, floor = _left(step), _FLOOR - _MASTER_HEIGHT
    boxes = [
        Box(
            x + _TRUNK * 2,
            floor - (at + 1) * (_OVERLAY_HEIGHT + _BETWEEN) - 6,
            _PANEL - 2 * _INSIDE - _TRUNK * 2,
            _OVERLAY_HEIGHT,
            _GONE if thrown else OVERLAY if step == 1 else _KEPT,
            8,
        )
        for at, (_, thrown) in enumerate(reversed(overlays))
    ]
    items: list[Item] = [
        Line(
            ((x + _TRUNK, floor), (x + _TRUNK, box.y + box.height / 2), (box.x, box.y + box.height / 2)),
            _GONE_BRANCH if thrown else BRANCH,
        )
        for box, (_, thrown) in sorted(
            zip(boxes, reversed(overlays), strict=True), key=lambda pair: not pair[1][1]
        )
    ]
    for box, (part, thrown) in zip(boxes, reversed(overlays), strict=True):
        if thrown:
            items += [box, *_texts(box, 14, part.name, "", (_GONE_NAME, _GONE_FACTS)), *_cross(box)]
        else:
            items += _drawn_overlay(part, box, words)
    if more:
        top = min(box.y for box in boxes) - 12
        items.append(Label(x + _TRUNK * 2, top, words.life.more.format(count=more), _FACTS))
    return items + _drawn_master(master, x, floor, words)


def _cross(box: Box) -> list[Item]:
    """Return a cross at the right of what is thrown away."""
    x, y, half = box.x + box.width - 22, box.y + box.height / 2, 7.0
    return [
        Line(((x - half, y - half), (x + half, y + half)), _CROSS),
        Line(((x - half, y + half), (x + half, y - half)), _CROSS),
    ]


def _promoted(life: Life, words: Words) -> list[Item]:
    """Return the last step: the overlay on its master, and above them the master that was made of it."""
    x, floor, width = _left(3), _FLOOR - _MASTER_HEIGHT, _PANEL - 2 * _INSIDE
    items: list[Item] = []
    top = _ART + 6
    if life.kept is None or life.made is None:
        ghost = Box(x, top, width, _MASTER_HEIGHT, _GONE)
        items += [ghost, *_texts(ghost, 20, words.life.not_promoted, "", (_GONE_FACTS, _GONE_FACTS))]
        return items + _drawn_master(life.master, x, floor, words)
    overlay = Box(
        x + _TRUNK * 2, floor - _OVERLAY_HEIGHT - _BETWEEN - 6, width - _TRUNK * 2, _OVERLAY_HEIGHT, _KEPT, 8
    )
    middle = overlay.y + overlay.height / 2
    items.append(Line(((x + _TRUNK, floor), (x + _TRUNK, middle), (overlay.x, middle)), BRANCH))
    items += _drawn_master(life.master, x, floor, words) + _drawn_overlay(life.kept, overlay, words)
    centre = overlay.x + overlay.width / 2
    items.append(Line(((centre, overlay.y), (centre, top + _MASTER_HEIGHT + 2)), PROMOTION, arrow=True))
    return items + _drawn_master(life.made, x, top, words, read_only=True)


def _again(words: Words) -> list[Item]:
    """Return the way back: the new master is where a life begins."""
    first, last = (_left(step) - _INSIDE + _PANEL / 2 for step in (0, 3))
    y = _BOTTOM + 38
    return [
        Line(((last, _BOTTOM), (last, y), (first, y), (first, _BOTTOM + 3)), _AROUND, arrow=True),
        Label((first + last) / 2, y + 22, words.life.again, _AGAIN, Anchor.MIDDLE),
    ]
