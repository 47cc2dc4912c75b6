"""Pictures of the family tree and of the life of a master, in every format."""

from __future__ import annotations

import io
import struct
import zipfile
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import NotFoundError, UsageError
from overlaysync.model.names import printable
from overlaysync.ops.pictures.life import EXAMPLE, Life, Part, life_of, life_scene
from overlaysync.ops.pictures.lineage import lineage_scene
from overlaysync.ops.pictures.png import draw_png, found_fonts
from overlaysync.ops.pictures.scene import Anchor, Box, Label, Line, Scene, Type
from overlaysync.ops.pictures.svg import draw_scene
from overlaysync.ops.pictures.typography import fitted, text_width, wrapped
from overlaysync.ops.pictures.words import words_of
from overlaysync.ops.pictures.writers import PICTURE_HEAD, WRITERS, is_picture
from overlaysync.ops.tree import Tree, build_tree
from overlaysync.units import GIB, MIB
from tests.ops.test_tree import listing, row

SVG = "{http://www.w3.org/2000/svg}"
DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
LONG = "a-name-that-goes-on-and-on-until-there-is-no-room-for-it"


def family() -> Tree:
    """Two promotions whose lines pass one another, a missing master, and names of every length."""
    images = [
        row("debian.qcow2", "D"),
        row("router.qcow2", "R", layer="LR", parent="D"),
        row("web.qcow2", "W", layer="LW", parent="D"),
        row("deep.qcow2", "DD", layer="LD", parent="W"),
        row(f"{LONG}.qcow2", "L", layer="LL", parent="gone"),
        row("debian-router.qcow2", "R"),
        row("web-2026.qcow2", "W"),
        row("a-first.qcow2", "DD"),
    ]
    listings = [listing("debian", "D"), listing("router", "R", layer="LR", parent="D"), listing("kali", "K")]
    return build_tree(images, listings)


def scenes() -> list[Scene]:
    many = Life(EXAMPLE.master, EXAMPLE.overlays * 3)
    long = Part(LONG, None, 0)
    lives = [EXAMPLE, many, Life(long, (long,), long, long)]
    return [
        scene
        for lang in ("en", "fr")
        for scene in (
            lineage_scene(family(), lang),
            lineage_scene(build_tree([], []), lang),
            *(life_scene(life, lang) for life in lives),
        )
    ]


def extent(label: Label) -> tuple[float, float]:
    """Left and right end of a label."""
    width = text_width(label.text, label.type)
    left = label.x - {Anchor.START: 0, Anchor.MIDDLE: width / 2, Anchor.END: width}[label.anchor]
    return left, left + width


@pytest.mark.parametrize("scene", scenes(), ids=lambda scene: f"{scene.title[:8]}-{scene.lang}")
def test_everything_is_inside_the_picture_and_every_label_inside_its_box(scene: Scene) -> None:
    boxes = [item for item in scene.items if isinstance(item, Box)]
    for item in scene.items:
        if isinstance(item, Box):
            assert item.x >= 0 and item.x + item.width <= scene.width
            assert item.y >= 0 and item.y + item.height <= scene.height
        elif isinstance(item, Line):
            assert all(0 <= x <= scene.width and 0 <= y <= scene.height for x, y in item.points)
        else:
            left, right = extent(item)
            assert left >= 0 and right <= scene.width + 0.1
            for box in boxes:
                if box.x <= item.x <= box.x + box.width and box.y <= item.y <= box.y + box.height:
                    assert right <= box.x + box.width + 0.1, item.text


@pytest.mark.parametrize("scene", scenes(), ids=lambda scene: f"{scene.title[:8]}-{scene.lang}")
def test_no_two_labels_are_over_one_another(scene: Scene) -> None:
    labels = [item for item in scene.items if isinstance(item, Label)]
    for one, other in combinations(labels, 2):
        beside = extent(one)[1] <= extent(other)[0] + 0.1 or extent(other)[1] <= extent(one)[0] + 0.1
        assert beside or abs(one.y - other.y) >= 0.85 * min(one.type.size, other.type.size), (one, other)


def test_lines_of_promotions_that_pass_one_another_have_lanes_of_their_own() -> None:
    arrows = [item for item in lineage_scene(family()).items if isinstance(item, Line) and item.arrow]
    assert len(arrows) == 3
    for one, other in combinations(arrows, 2):
        (low, high), (start, end) = (sorted((line.points[1][1], line.points[2][1])) for line in (one, other))
        assert one.points[1][0] != other.points[1][0] or high < start or end < low


def test_a_picture_names_no_path() -> None:
    for write in (WRITERS["svg"], WRITERS["odg"]):
        assert b"/vm" not in write(lineage_scene(family()))


# -- the life of a master ----------------------------------------------------------------------------


def test_the_life_is_that_of_the_master_with_a_promoted_overlay() -> None:
    life = life_of(family())
    assert life is not None and life.kept is not None and life.made is not None
    assert life.master.name == "debian:1"
    assert life.kept in life.overlays
    assert {part.name for part in life.overlays} == {"router:1", "web"}


def test_without_overlays_there_is_no_life() -> None:
    assert life_of(build_tree([row("debian.qcow2", "D")], [])) is None
    assert life_of(build_tree([], [])) is None


def test_without_a_promotion_the_last_step_says_so() -> None:
    tree = build_tree([row("d.qcow2", "D"), row("w.qcow2", "W", layer="LW", parent="D")], [])
    life = life_of(tree)
    assert life is not None and life.kept is None
    texts = [item.text for item in life_scene(life, "fr").items if isinstance(item, Label)]
    assert words_of("fr").life.not_promoted in texts


def test_a_language_without_words_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'de'") as refused:
        lineage_scene(family(), "de")
    assert "en, fr" in str(refused.value.why)
    assert "3,4 Gio" in {part for item in life_scene(EXAMPLE, "fr").items if isinstance(item, Label)
                         for part in [item.text[:7]]}  # fmt: skip


# -- the formats -------------------------------------------------------------------------------------


def test_svg_is_standalone_and_says_what_it_shows() -> None:
    scene = lineage_scene(family())
    text = draw_scene(scene)
    svg = ElementTree.fromstring(text)
    title, description = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert title is not None and description is not None
    assert svg.get("role") == "img"
    assert svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert description.text == scene.description
    assert "router:1, overlay on debian:1, promoted to debian-router." in scene.description
    tags = {element.tag.removeprefix(SVG) for element in svg.iter()}
    assert tags == {"svg", "title", "desc", "rect", "text", "polyline", "polygon"}
    assert "href" not in text and "url(" not in text and "style=" not in text


def test_odg_is_a_package_whose_type_comes_first() -> None:
    scene = life_scene(EXAMPLE)
    drawn = WRITERS["odg"](scene)
    assert drawn[30:].startswith(b"mimetypeapplication/vnd.oasis.opendocument.graphics")
    with zipfile.ZipFile(io.BytesIO(drawn)) as package:
        listed = set(package.namelist()) - {"mimetype", "META-INF/manifest.xml"}
        manifest = package.read("META-INF/manifest.xml").decode()
        assert all(f'"{name}"' in manifest for name in listed)
        content, styles = (
            ElementTree.fromstring(package.read(name)) for name in ("content.xml", "styles.xml")
        )
    shown = ["".join(text.itertext()) for text in content.iter(f"{TEXT}p")]
    assert shown == [item.text for item in scene.items if isinstance(item, Label)]
    defined = {element.get(f"{DRAW}name") for element in styles.iter(f"{DRAW}stroke-dash")}
    used = {dash for element in content.iter() if (dash := element.get(f"{DRAW}stroke-dash"))}
    assert used and used == defined
    assert WRITERS["odg"](scene) == drawn, "the same picture is the same file"


def test_png_has_the_size_of_the_scene_and_says_its_density() -> None:
    scene = life_scene(EXAMPLE)
    png = draw_png(scene)
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (scene.width * 3, scene.height * 3)
    assert png.index(b"pHYs") < png.index(b"IDAT")


def test_a_picture_that_png_cannot_hold_is_refused() -> None:
    scene = Scene(100, 60_000, "tall", "", "en", ())
    with pytest.raises(UsageError, match="too large") as refused:
        draw_png(scene)
    assert "--svg" in refused.value.hint


def test_a_machine_without_fonts_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="font") as refused:
        found_fonts([str(tmp_path), str(tmp_path / "absent")])
    assert "fonts-liberation" in refused.value.hint
    (tmp_path / "DejaVuSans.ttf").touch()
    (tmp_path / "LiberationSans-Regular.ttf").touch()
    assert found_fonts([str(tmp_path)]) == ["Liberation Sans", "DejaVu Sans"]


def test_own_pictures_are_known_again_and_others_are_not() -> None:
    for write in WRITERS.values():
        drawn = write(lineage_scene(build_tree([], [])))
        assert is_picture(drawn[:PICTURE_HEAD])
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as package:
        package.writestr("mimetype", "application/vnd.oasis.opendocument.graphics")
    for head in (other.getvalue(), b"\x89PNG\r\n\x1a\n", b"<svg/>", b""):
        assert not is_picture(head)


HOSTILE = "<script>alert(1)</script>&\"'\x1b]0;x\udcff\u202e]]>"
SHOWN = printable(HOSTILE)


@pytest.mark.parametrize("kind", WRITERS)
def test_hostile_names_are_text_and_nothing_else(kind: str) -> None:
    tree = build_tree(
        [row(f"{HOSTILE.replace(chr(47), chr(92))}.qcow2", "D"), row("o.qcow2", "O", layer="L", parent="D")],
        [],
    )
    life = Life(Part(SHOWN, MIB, GIB), (Part(SHOWN, MIB, GIB),))
    for scene in (lineage_scene(tree), life_scene(life)):
        drawn = WRITERS[kind](scene)
        if kind == "svg":
            svg = ElementTree.fromstring(drawn)
            assert svg.find(f".//{SVG}script") is None
        elif kind == "odg":
            with zipfile.ZipFile(io.BytesIO(drawn)) as package:
                content = ElementTree.fromstring(package.read("content.xml"))
            assert not [element for element in content.iter() if "script" in element.tag]


# -- typography --------------------------------------------------------------------------------------


@given(text=st.text(min_size=1, max_size=80), room=st.floats(20, 400), bold=st.booleans())
def test_shortened_text_fits_and_keeps_its_ends(text: str, room: float, bold: bool) -> None:
    type = Type(14, bold)
    shown = fitted(text, type, room)
    assert text_width(shown, type) <= room + 0.02 or shown == "…"
    assert shown == text or "…" in shown
    head, _, tail = shown.partition("…")
    assert shown == text or (text.startswith(head) and text.endswith(tail))


@given(words=st.lists(st.text("abcdé", min_size=1, max_size=9), min_size=1, max_size=20))
def test_wrapped_text_keeps_its_words(words: list[str]) -> None:
    lines = wrapped(" ".join(words), Type(12), 120)
    assert " ".join(lines).split() == words
    assert all(text_width(line, Type(12)) <= 120 for line in lines)
