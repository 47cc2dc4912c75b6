"""What is written in pictures, in each language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overlaysync.errors import UsageError
from overlaysync.ops.tree import EntryKind
from overlaysync.units import format_size

DEFAULT = "en"


@dataclass(frozen=True, slots=True)
class LineageWords:
    """Words of the family tree."""

    title: str
    kinds: Mapping[EntryKind, str]
    promoted: str
    not_here: str
    copies: str
    changed: str
    master_changed: str
    missing: str
    of: str
    on: str
    promoted_to: str
    nothing: str
    counts: str


@dataclass(frozen=True, slots=True)
class LifeWords:
    """Words of the life of a master.

    Attributes:
        steps: heading and caption of each of the four steps.
        read_only: beside the size of a master.
        not_promoted: instead of a new master, where none was made.
        more: instead of overlays that there is no room for.
        again: back to the first step.
    """

    title: str
    steps: tuple[tuple[str, str], ...]
    read_only: str
    not_promoted: str
    more: str
    again: str
    description: str


@dataclass(frozen=True, slots=True)
class Words:
    """All words of a language."""

    lang: str
    lineage: LineageWords
    life: LifeWords
    units: Mapping[str, str]

    def size(self, count: int) -> str:
        """Return a number of bytes with its unit."""
        number, unit = format_size(count).split()
        return f"{number.replace('.', self.units['.'])} {self.units.get(unit, unit)}"


_ENGLISH = Words(
    lang="en",
    lineage=LineageWords(
        title="Family tree of VM images",
        kinds={EntryKind.MASTER: "master", EntryKind.OVERLAY: "overlay", EntryKind.MISSING: "unknown master"},
        promoted="promoted",
        not_here="not on this machine",
        copies="{count} files",
        changed="written to since it was hashed",
        master_changed="its master was changed",
        missing="nothing here has this content",
        of="{data} of {whole}",
        on="on {base}",
        promoted_to="promoted to {master}",
        nothing="No image is known yet",
        counts="Masters: {masters}. Overlays: {overlays}.",
    ),
    life=LifeWords(
        title="The life of a master",
        steps=(
            (
                "A master",
                "One disk image that every VM of the room starts from. "
                "It is read-only, so it stays as it is.",
            ),
            (
                "Overlays on it",
                "Each VM writes into an overlay of its own. It holds only what differs from the master.",
            ),
            (
                "What is thrown away",
                "An overlay is consumable. Delete it, make a fresh one, and begin again in an instant.",
            ),
            (
                "A new master",
                "The overlay that is worth keeping becomes a master. New overlays can stand on it.",
            ),
        ),
        read_only="read-only",
        not_promoted="no overlay was promoted yet",
        more="and {count} more",
        again="and so on",
        description="Master: {master}. Overlays: {overlays}. New master: {made}.",
    ),
    units={".": "."},
)

_FRENCH = Words(
    lang="fr",
    lineage=LineageWords(
        title="Arbre généalogique des images de VM",
        kinds={
            EntryKind.MASTER: "master",
            EntryKind.OVERLAY: "image différentielle",
            EntryKind.MISSING: "master inconnu",
        },
        promoted="promue",
        not_here="absente de cette machine",
        copies="{count} fichiers",
        changed="modifiée depuis son empreinte",
        master_changed="son master a changé",
        missing="rien ici n’a ce contenu",
        of="{data} sur {whole}",
        on="sur {base}",
        promoted_to="promue en {master}",
        nothing="Aucune image n’est encore connue",
        counts="Masters\u00a0: {masters}. Images différentielles\u00a0: {overlays}.",
    ),
    life=LifeWords(
        title="La vie d’un master",
        steps=(
            (
                "Un master",
                "Une image disque d’où partent toutes les VM de la salle. "
                "Elle est en lecture seule et ne change pas.",
            ),
            (
                "Images différentielles",
                "Chaque VM écrit dans la sienne, qui ne contient que les différences avec le master.",
            ),
            (
                "Ce que l’on jette",
                "Une image différentielle est jetable\u00a0: on la supprime, "
                "on en refait une, et on recommence aussitôt.",
            ),
            (
                "Un nouveau master",
                "L’image qui mérite d’être gardée devient un master. D’autres images peuvent partir de lui.",
            ),
        ),
        read_only="lecture seule",
        not_promoted="aucune image promue pour l’instant",
        more="et {count} de plus",
        again="et ainsi de suite",
        description="Master\u00a0: {master}. Images différentielles\u00a0: {overlays}. "
        "Nouveau master\u00a0: {made}.",
    ),
    units={".": ",", "B": "o", "KiB": "Kio", "MiB": "Mio", "GiB": "Gio", "TiB": "Tio"},
)

_LANGUAGES = {words.lang: words for words in (_ENGLISH, _FRENCH)}


def words_of(lang: str) -> Words:
    """Return the words of a language.

    Raises:
        UsageError: there are none.
    """
    if lang not in _LANGUAGES:
        known = ", ".join(_LANGUAGES)
        raise UsageError(
            f"Pictures have no words in '{lang}'",
            why=f"the languages are: {known}",
            hint=f"choose one of them: --lang {DEFAULT}",
        )
    return _LANGUAGES[lang]
