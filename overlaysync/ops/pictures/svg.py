"""A scene as SVG: a standalone file without scripts and style sheets, which loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from overlaysync.ops.pictures.scene import Box, Label, Line, Look, Point, Scene, arrow_head, shaft
from overlaysync.ops.pictures.typography import FONTS

SVG_START = '<svg xmlns="http://www.w3.org/2000/svg" data-overlaysync="tree"'
"""How a drawing of this module begins, to be known again."""


def draw_scene(scene: Scene, fonts: Sequence[str] = (*FONTS, "sans-serif")) -> str:
    """Return the drawing; ``fonts`` are tried in this order."""
    width, height = _number(scene.width), _number(scene.height)
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "data-overlaysync": "tree",
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "font-family": ", ".join(f"'{font}'" if " " in font else font for font in fonts),
            "role": "img",
            "aria-labelledby": "tree-title tree-description",
            "xml:lang": scene.lang,
        },
    )
    _add(svg, "title", scene.title, id="tree-title")
    _add(svg, "desc", scene.description, id="tree-description")
    _add(svg, "rect", width=scene.width, height=scene.height, fill="#ffffff")
    for item in scene.items:
        if isinstance(item, Box):
            _add_box(svg, item)
        elif isinstance(item, Line):
            _add_line(svg, item)
        else:
            _add_label(svg, item)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _add_box(svg: ElementTree.Element, box: Box) -> None:
    radius = {"rx": box.radius} if box.radius else {}
    element = _add(
        svg, "rect", x=box.x, y=box.y, width=box.width, height=box.height, **radius, **_paint(box.look)
    )
    if box.note:
        _add(element, "title", box.note)


def _add_line(svg: ElementTree.Element, line: Line) -> None:
    _add(svg, "polyline", points=_points(shaft(line)), stroke_linejoin="round", **_paint(line.look))
    if line.arrow:
        _add(svg, "polygon", points=_points(arrow_head(line)), fill=line.look.stroke)


def _add_label(svg: ElementTree.Element, label: Label) -> None:
    weight = {"font_weight": "bold"} if label.type.bold else {}
    anchor = {"text_anchor": label.anchor.value} if label.anchor != "start" else {}
    _add(
        svg,
        "text",
        label.text,
        x=label.x,
        y=label.y,
        font_size=label.type.size,
        fill=label.type.color,
        **weight,
        **anchor,
    )


def _paint(look: Look) -> dict[str, object]:
    paint: dict[str, object] = {"fill": look.fill or "none"}
    if look.stroke:
        paint |= {"stroke": look.stroke, "stroke_width": look.width}
    if any(look.dash):
        paint["stroke_dasharray"] = " ".join(map(_number, look.dash))
    return paint


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, /, **attributes: object
) -> ElementTree.Element:
    names = {
        name.replace("_", "-"): _number(value) if isinstance(value, float | int) else str(value)
        for name, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, names)
    element.text = text
    return element


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
