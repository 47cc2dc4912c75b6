"""The family tree as a scene: a card for each image, below and right of what it stands on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from overlaysync.model.digest import format_id, short_id
from overlaysync.model.names import printable
from overlaysync.ops.pictures.scene import Anchor, Box, Item, Label, Line, Look, Scene, Type
from overlaysync.ops.pictures.typography import fitted, text_width
from overlaysync.ops.pictures.words import Words, words_of
from overlaysync.ops.tree import Entry, EntryKind, Tree
from overlaysync.ops.tree_drawing import title

MARGIN = 24.0
_ROW, _CARD, _INDENT, _PAD = 58.0, 44.0, 32.0, 14.0
_LANE, _FIRST_LANE = 14.0, 20.0
_LEAST_CARD, _USUAL_CARD, _WIDEST_CARD = 150.0, 280.0, 430.0
"""Cards are as wide as the widest of them, unless that one is wider than usual: then it stands out alone."""
_BAND = 7.0
"""Width of the band at the left of a master's card."""

INK, FAINT = "#1a1a1a", "#555555"
MASTER = Look(fill="#dfe9f5", stroke="#1f4e8c", width=1.6)
BAND = Look(fill="#1f4e8c")
OVERLAY = Look(fill="#ffffff", stroke="#1f4e8c", width=1.2)
MISSING = Look(fill="#ffffff", stroke="#9b1c1c", width=1.2, dash=(5, 3))
BRANCH = Look(stroke="#777777", width=1.2)
PROMOTION = Look(stroke="#1b5e34", width=1.8, dash=(6, 3))

_LOOKS = {EntryKind.MASTER: MASTER, EntryKind.OVERLAY: OVERLAY, EntryKind.MISSING: MISSING}
_NAME, _FACTS = Type(14, bold=True, color=INK), Type(11.5, color=FAINT)
_BESIDE = Type(11, color=PROMOTION.stroke)


def lineage_scene(tree: Tree, lang: str = "en") -> Scene:
    """Return the picture of the tree, with words in a language."""
    words = words_of(lang)
    wanted = [_wanted(row.entry, words) for row in tree.rows]
    least = min(_USUAL_CARD, max(wanted, default=_LEAST_CARD))
    cards = {
        row.entry.id: _card(
            row.entry, (MARGIN + row.depth * _INDENT, MARGIN + at * _ROW), max(least, wanted[at]), words
        )
        for at, row in enumerate(tree.rows)
    }
    links = _promotions(tree, cards, words)
    right = max([320.0, *(card.x + card.width for card in cards.values()), *(link.lane for link in links)])
    items: list[Item] = []
    for row in tree.rows:
        if row.entry.base is not None:
            items.append(_branch(cards[row.entry.base], cards[row.entry.id]))
    for link in links:
        items += _promotion(link, words)
    for row in tree.rows:
        items += _drawn(row.entry, cards[row.entry.id], words)
    if not tree.rows:
        items.append(Label(MARGIN, MARGIN + 14, words.lineage.nothing, _FACTS))
    return Scene(
        width=right + MARGIN,
        height=max(1, len(tree.rows)) * _ROW - (_ROW - _CARD) + 2 * MARGIN,
        title=words.lineage.title,
        description=describe(tree, words),
        lang=lang,
        items=tuple(items),
    )


def describe(tree: Tree, words: Words) -> str:
    """Return the whole tree in sentences, for those who do not see the drawing."""
    kinds = Counter(row.entry.kind for row in tree.rows)
    sentences = [
        words.lineage.counts.format(masters=kinds[EntryKind.MASTER], overlays=kinds[EntryKind.OVERLAY])
    ]
    for row in tree.rows:
        entry = row.entry
        text = f"{title(entry)}, {words.lineage.kinds[entry.kind]}"
        if entry.base:
            text += f" {words.lineage.on.format(base=title(tree.entry(entry.base)))}"
        if entry.promoted:
            text += f", {words.lineage.promoted_to.format(master=title(tree.entry(entry.promoted)))}"
        sentences.append(f"{text}.")
    return " ".join(sentences)


def size_words(entry: Entry, words: Words) -> str:
    """Return how much an image holds; "" where that is not known."""
    if entry.data_size is None:
        return ""
    size = words.size(entry.data_size)
    if entry.kind is EntryKind.OVERLAY:
        return f"+{size}"
    return words.lineage.of.format(data=size, whole=words.size(entry.virtual_size or 0))


def facts(entry: Entry, words: Words) -> str:
    """Return what stands below a name. Paths are left out: a picture may be shown to anybody."""
    lineage = words.lineage
    found = [lineage.kinds[entry.kind], short_id(entry.content)]
    if entry.kind is EntryKind.MISSING:
        return " · ".join([*found, lineage.missing])
    found.append(size_words(entry, words))
    if len(entry.copies) > 1:
        found.append(lineage.copies.format(count=len(entry.copies)))
    if not entry.copies:
        found.append(lineage.not_here)
    elif all(copy.changed for copy in entry.copies):
        found.append(lineage.changed)
    elif all(copy.master_changed for copy in entry.copies):
        found.append(lineage.master_changed)
    return " · ".join(filter(None, found))


# -- cards -------------------------------------------------------------------------------------------


def _wanted(entry: Entry, words: Words) -> float:
    """Return how wide a card has to be, within limits."""
    text = max(text_width(printable(title(entry)), _NAME), text_width(facts(entry, words), _FACTS))
    return min(_WIDEST_CARD, max(_LEAST_CARD, text + 2 * _PAD + _band(entry)))


def _band(entry: Entry) -> float:
    """Return the room that the band of a card takes from its text."""
    return _BAND if entry.kind is EntryKind.MASTER else 0.0


def _card(entry: Entry, at: tuple[float, float], width: float, words: Words) -> Box:
    radius = 0.0 if entry.kind is EntryKind.MASTER else 9.0
    versions = [printable(str(version)) for version in entry.versions]
    note = "\n".join([f"{words.lineage.kinds[entry.kind]} {format_id(entry.content)}", *versions])
    return Box(*at, width, _CARD, _LOOKS[entry.kind], radius, note)


def _drawn(entry: Entry, card: Box, words: Words) -> list[Item]:
    items: list[Item] = [card]
    if entry.kind is EntryKind.MASTER:
        items.append(Box(card.x, card.y, _BAND, card.height, BAND))
    left = card.x + _PAD + _band(entry)
    room = card.x + card.width - _PAD - left
    name, below = printable(title(entry)), facts(entry, words)
    items.append(Label(left, card.y + 18, fitted(name, _NAME, room), _NAME))
    items.append(Label(left, card.y + 35, fitted(below, _FACTS, room), _FACTS))
    return items


# -- lines -------------------------------------------------------------------------------------------


def _branch(base: Box, card: Box) -> Line:
    trunk, middle = card.x - _INDENT / 2, card.y + card.height / 2
    return Line(((trunk, base.y + base.height), (trunk, middle), (card.x, middle)), BRANCH)


@dataclass(frozen=True, slots=True)
class _Link:
    """A promotion: the two cards, and where its line runs down or up."""

    overlay: Box
    master: Box
    lane: float

    @property
    def span(self) -> tuple[float, float]:
        """Its top and bottom."""
        top, bottom = sorted((self.overlay.y, self.master.y))
        return top, bottom


def _promotions(tree: Tree, cards: dict[bytes, Box], words: Words) -> list[_Link]:
    """Return the promotions. Each runs right of the cards that it passes and of shorter ones beside it."""
    wanted = [
        _Link(cards[row.entry.id], cards[row.entry.promoted], 0.0)
        for row in tree.rows
        if row.entry.promoted is not None
    ]
    found: list[_Link] = []
    for link in sorted(wanted, key=lambda link: link.span[1] - link.span[0]):
        top, bottom = link.span
        passed = [card.x + card.width for card in cards.values() if top <= card.y <= bottom]
        lane = max(*passed, _beside(link.overlay, words)) + _FIRST_LANE
        beside = [other.lane for other in found if other.span[0] <= bottom and other.span[1] >= top]
        found.append(replace(link, lane=max([lane, *(x + _LANE for x in beside)])))
    return found


def _beside(card: Box, words: Words) -> float:
    """Return where the word beside a card ends."""
    return card.x + card.width + 8 + text_width(words.lineage.promoted, _BESIDE)


def _promotion(link: _Link, words: Words) -> list[Item]:
    """Return the line from an overlay to the master that was made of it, and the word beside it."""
    overlay, master = link.overlay, link.master
    start = overlay.x + overlay.width
    middle, end = overlay.y + overlay.height / 2, master.y + master.height / 2
    around = ((start, middle), (link.lane, middle), (link.lane, end), (master.x + master.width, end))
    return [
        Line(around, PROMOTION, arrow=True),
        Label(start + 8, middle - 5, words.lineage.promoted, _BESIDE, Anchor.START),
    ]
