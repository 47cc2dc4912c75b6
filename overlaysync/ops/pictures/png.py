"""A scene as PNG, through its SVG. resvg draws it; it is imported when it is needed, and may be missing."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable

from overlaysync.errors import NotFoundError, UsageError
from overlaysync.installed import adding
from overlaysync.ops.pictures.scene import Scene
from overlaysync.ops.pictures.svg import draw_scene

PNG_MARK = b"Software\0overlaysync"
"""Near the beginning of a drawing of this module, to be known again."""

MAX_PIXELS = 12_000
"""Width or height at most: larger pictures are opened by few programs."""
_ZOOM = 3.0
"""288 pixels per inch, as for print."""
_HEADER = 8 + 25
"""Bytes of the signature and the first chunk."""

_FONT_DIRECTORIES = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_FILES = (
    ("Helvetica", "helvetica"),
    ("Arial", "arial"),
    ("Liberation Sans", "liberationsans-"),
    ("Arimo", "arimo"),
    ("Nimbus Sans", "nimbussans-"),
    ("DejaVu Sans", "dejavusans"),
    ("Noto Sans", "notosans-"),
)
"""Fonts, and how the names of their files begin; the last two are wider than the others."""


def draw_png(scene: Scene) -> bytes:
    """Return the drawing as a file.

    Raises:
        UsageError: resvg is not installed, or the picture is too large.
        NotFoundError: there is no font to set the labels in.
    """
    try:
        import resvg_py
    except ImportError:
        raise UsageError(
            "PNG pictures need the package resvg-py, which is not installed",
            hint=f"draw SVG instead: --svg FILE; or install it: {adding('pictures')}",
        ) from None
    fonts = found_fonts(_FONT_DIRECTORIES)
    zoom = min(_ZOOM, MAX_PIXELS / max(scene.width, scene.height))
    if zoom < _ZOOM / 12:
        raise UsageError(
            "The picture is too large for a PNG file",
            why=f"it would be {scene.width:.0f} by {scene.height:.0f} pixels before it is enlarged",
            hint="draw SVG, which has no limit: --svg FILE",
        )
    size = round(scene.width * zoom)
    svg = draw_scene(scene, [*fonts, "sans-serif"])
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=size, background="#ffffff", sans_serif_family=fonts[0])
    )
    return png[:_HEADER] + _chunk(b"tEXt", PNG_MARK) + _chunk(b"pHYs", _density(zoom)) + png[_HEADER:]


def found_fonts(directories: Iterable[str]) -> list[str]:
    """Return the fonts that are there, those of the widths that were measured first.

    Raises:
        NotFoundError: there is none of those that are looked for.
    """
    names = {
        file.lower()
        for directory in directories
        for _, _, files in os.walk(os.path.expanduser(directory))
        for file in files
    }
    found = [font for font, start in _FILES if any(name.startswith(start) for name in names)]
    if not found:
        raise NotFoundError(
            "No font was found to set the labels of the picture in",
            why=f"there is none of {', '.join(font for font, _ in _FILES)}",
            hint="sudo apt install fonts-liberation, or draw SVG instead: --svg FILE",
        )
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _density(zoom: float) -> bytes:
    """Return how many pixels a metre has, so that programs show it in the size of the scene."""
    per_metre = round(96 * zoom / 0.0254)
    return struct.pack(">IIB", per_metre, per_metre, 1)
