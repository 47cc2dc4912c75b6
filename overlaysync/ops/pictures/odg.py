"""A scene as an OpenDocument drawing, in which every box, line and label can be moved and edited.

Source: OpenDocument 1.3, parts 2 (packages) and 3 (schema), OASIS. Leaves out what only text documents have.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from overlaysync.ops.pictures.scene import (
    Anchor,
    Box,
    Item,
    Label,
    Line,
    Look,
    Point,
    Scene,
    Type,
    arrow_head,
    shaft,
)
from overlaysync.ops.pictures.typography import text_width

_MIMETYPE = "application/vnd.oasis.opendocument.graphics"
_GENERATOR = "overlaysync"
ODG_MARK = f"<meta:generator>{_GENERATOR}</meta:generator>".encode()
"""Near the beginning of a drawing of this module, to be known again."""

_FONT = "Liberation Sans"
_PX_CM = 2.54 / 96
_PX_PT = 0.75
_ASCENT, _LINE = 0.905, 1.149
"""Of the font, in parts of its size: from the top of a line to its baseline, and to the next line."""
_SLACK = 1.1
"""A frame is so much wider than its text was measured: where the font is missing, another may be wider."""

_NAMES = {
    "office": "urn:oasis:names:tc:opendocument:xmlns:office:1.0",
    "style": "urn:oasis:names:tc:opendocument:xmlns:style:1.0",
    "draw": "urn:oasis:names:tc:opendocument:xmlns:drawing:1.0",
    "text": "urn:oasis:names:tc:opendocument:xmlns:text:1.0",
    "fo": "urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0",
    "svg": "urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0",
    "meta": "urn:oasis:names:tc:opendocument:xmlns:meta:1.0",
    "dc": "http://purl.org/dc/elements/1.1/",
    "manifest": "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0",
}
_START = '<?xml version="1.0" encoding="UTF-8"?>\n'
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same picture is the same file, whenever it is written."""


def draw_odg(scene: Scene) -> bytes:
    """Return the drawing as a file."""
    drawing = _Drawing()
    for item in scene.items:
        drawing.add(item)
    drawn = io.BytesIO()
    with zipfile.ZipFile(drawn, "w") as package:
        # The type comes first and, like the mark, is not compressed, so that both can be seen from outside.
        for name, text, packed in (
            ("mimetype", _MIMETYPE, False),
            ("meta.xml", _meta(scene), False),
            ("content.xml", _content(scene, drawing), True),
            ("styles.xml", _styles(scene, drawing), True),
            ("META-INF/manifest.xml", _manifest(), True),
        ):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            package.writestr(entry, text)
    return drawn.getvalue()


def _element(name: str, *children: ElementTree.Element, **attributes: str) -> ElementTree.Element:
    """Return an element; ``style_name`` is the attribute ``style:name``."""
    names = {key.replace("_", ":", 1).replace("_", "-"): value for key, value in attributes.items()}
    element = ElementTree.Element(name, names)
    element.extend(children)
    return element


def _document(name: str, *children: ElementTree.Element) -> str:
    root = _element(name, *children, office_version="1.3")
    root.attrib |= {f"xmlns:{prefix}": uri for prefix, uri in _NAMES.items()}
    return _START + ElementTree.tostring(root, encoding="unicode")


# -- the files of the package ------------------------------------------------------------------------


def _meta(scene: Scene) -> str:
    generator, title, language = (_element(name) for name in ("meta:generator", "dc:title", "dc:language"))
    generator.text, title.text, language.text = _GENERATOR, scene.title, scene.lang
    return _document("office:document-meta", _element("office:meta", generator, title, language))


def _styles(scene: Scene, drawing: _Drawing) -> str:
    """Return the page, which is as large as the picture, and the dashes, which are looked for here only."""
    page = _element(
        "style:page-layout",
        _element(
            "style:page-layout-properties",
            fo_page_width=_cm(scene.width),
            fo_page_height=_cm(scene.height),
            fo_margin="0cm",
            style_print_orientation="landscape" if scene.width > scene.height else "portrait",
        ),
        style_name="page",
    )
    return _document(
        "office:document-styles",
        _element("office:styles", *drawing.dashes),
        _element("office:automatic-styles", page),
        _element(
            "office:master-styles",
            _element("style:master-page", style_name="Default", style_page_layout_name="page"),
        ),
    )


def _manifest() -> str:
    root = _element("manifest:manifest", manifest_version="1.3")
    root.set("xmlns:manifest", _NAMES["manifest"])
    for path, kind in (
        ("/", _MIMETYPE),
        ("content.xml", "text/xml"),
        ("styles.xml", "text/xml"),
        ("meta.xml", "text/xml"),
    ):
        root.append(_element("manifest:file-entry", manifest_full_path=path, manifest_media_type=kind))
    return _START + ElementTree.tostring(root, encoding="unicode")


def _content(scene: Scene, drawing: _Drawing) -> str:
    fonts = _element(
        "office:font-face-decls",
        _element("style:font-face", style_name=_FONT, svg_font_family=f"'{_FONT}', Arial, Helvetica"),
    )
    page = _element("draw:page", *drawing.shapes, draw_name=scene.title[:60], draw_master_page_name="Default")
    return _document(
        "office:document-content",
        fonts,
        _element("office:automatic-styles", *drawing.styles),
        _element("office:body", _element("office:drawing", page)),
    )


# -- shapes and their styles -------------------------------------------------------------------------


@dataclass(slots=True)
class _Drawing:
    """The shapes of a page, and one style for each way in which they look."""

    shapes: list[ElementTree.Element] = field(default_factory=list)
    styles: list[ElementTree.Element] = field(default_factory=list)
    dashes: list[ElementTree.Element] = field(default_factory=list)
    _names: dict[object, str] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        if isinstance(item, Box):
            self._add_box(item)
        elif isinstance(item, Line):
            self._add_shaft(shaft(item), item.look)
            if item.arrow:
                self._add_points("draw:polygon", arrow_head(item), Look(fill=item.look.stroke))
        else:
            self._add_label(item)

    def _add_box(self, box: Box) -> None:
        shape = _element(
            "draw:rect",
            draw_style_name=self._look(box.look),
            svg_x=_cm(box.x),
            svg_y=_cm(box.y),
            svg_width=_cm(box.width),
            svg_height=_cm(box.height),
        )
        if box.radius:
            shape.set("draw:corner-radius", _cm(min(box.radius, box.width / 2, box.height / 2)))
        if box.note:
            description = _element("svg:desc")
            description.text = box.note
            shape.append(description)
        self.shapes.append(shape)

    def _add_label(self, label: Label) -> None:
        width = text_width(label.text, label.type) * _SLACK + 2
        before = {Anchor.START: 0.0, Anchor.MIDDLE: width / 2, Anchor.END: width}[label.anchor]
        paragraph = _element("text:p", text_style_name=self._paragraph(label.anchor, label.type))
        paragraph.text = label.text
        self.shapes.append(
            _element(
                "draw:frame",
                _element("draw:text-box", paragraph),
                draw_style_name=self._frame(),
                svg_x=_cm(label.x - before),
                svg_y=_cm(label.y - _ASCENT * label.type.size),
                svg_width=_cm(width),
                svg_height=_cm(_LINE * label.type.size),
            )
        )

    def _add_shaft(self, points: Sequence[Point], look: Look) -> None:
        if len(points) > 2:
            self._add_points("draw:polyline", points, look)
            return
        # As a polyline, a line that goes straight along has a box without any height, which has no scale.
        (x1, y1), (x2, y2) = points
        self.shapes.append(
            _element(
                "draw:line",
                draw_style_name=self._look(look),
                svg_x1=_cm(x1),
                svg_y1=_cm(y1),
                svg_x2=_cm(x2),
                svg_y2=_cm(y2),
            )
        )

    def _add_points(self, name: str, points: Sequence[Point], look: Look) -> None:
        left, top = (min(point[axis] for point in points) for axis in (0, 1))
        width, height = (
            max(point[axis] for point in points) - least for axis, least in ((0, left), (1, top))
        )
        places = " ".join(f"{round((x - left) * 100)},{round((y - top) * 100)}" for x, y in points)
        self.shapes.append(
            _element(
                name,
                draw_style_name=self._look(look),
                svg_x=_cm(left),
                svg_y=_cm(top),
                svg_width=_cm(width),
                svg_height=_cm(height),
                svg_viewBox=f"0 0 {round(width * 100)} {round(height * 100)}",
                draw_points=places,
            )
        )

    def _look(self, look: Look) -> str:
        if look not in self._names:
            properties = _element("style:graphic-properties", draw_fill="solid" if look.fill else "none")
            if look.fill:
                properties.set("draw:fill-color", look.fill)
            properties.set("draw:stroke", "none")
            if look.stroke:
                properties.set("draw:stroke", "dash" if any(look.dash) else "solid")
                properties.set("svg:stroke-color", look.stroke)
                properties.set("svg:stroke-width", _cm(look.width))
            if any(look.dash):
                properties.set("draw:stroke-dash", self._dash(look.dash))
            self._add_style(look, "graphic", properties)
        return self._names[look]

    def _dash(self, dash: tuple[float, float]) -> str:
        if dash not in self._names:
            self._names[dash] = f"dash{len(self._names)}"
            self.dashes.append(
                _element(
                    "draw:stroke-dash",
                    draw_name=self._names[dash],
                    draw_style="rect",
                    draw_dots1="1",
                    draw_dots1_length=_cm(dash[0]),
                    draw_distance=_cm(dash[1]),
                )
            )
        return self._names[dash]

    def _frame(self) -> str:
        if "frame" not in self._names:
            properties = _element(
                "style:graphic-properties",
                draw_fill="none",
                draw_stroke="none",
                fo_padding_left="0cm",
                fo_padding_right="0cm",
                fo_padding_top="0cm",
                fo_padding_bottom="0cm",
                fo_wrap_option="no-wrap",
                draw_auto_grow_width="false",
                draw_auto_grow_height="false",
                draw_textarea_vertical_align="top",
            )
            self._add_style("frame", "graphic", properties)
        return self._names["frame"]

    def _paragraph(self, anchor: Anchor, type: Type) -> str:
        key = (anchor, type)
        if key not in self._names:
            align = {Anchor.START: "start", Anchor.MIDDLE: "center", Anchor.END: "end"}[anchor]
            text = _element(
                "style:text-properties",
                style_font_name=_FONT,
                fo_font_size=f"{type.size * _PX_PT:.2f}pt",
                fo_font_weight="bold" if type.bold else "normal",
                fo_color=type.color,
            )
            self._add_style(
                key, "paragraph", _element("style:paragraph-properties", fo_text_align=align), text
            )
        return self._names[key]

    def _add_style(self, key: object, family: str, *properties: ElementTree.Element) -> None:
        self._names[key] = f"{family}{len(self._names)}"
        self.styles.append(
            _element("style:style", *properties, style_name=self._names[key], style_family=family)
        )


def _cm(pixels: float) -> str:
    return f"{pixels * _PX_CM:.4f}cm"
