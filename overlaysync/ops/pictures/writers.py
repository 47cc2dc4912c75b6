"""The formats that a scene can be written in, and how files of ours are known again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from overlaysync.ops.pictures.odg import ODG_MARK, draw_odg
from overlaysync.ops.pictures.png import PNG_MARK, draw_png
from overlaysync.ops.pictures.scene import Scene
from overlaysync.ops.pictures.svg import SVG_START, draw_scene

PICTURE_HEAD = 2048
"""Bytes at the beginning of a file by which a picture is known."""


def _svg(scene: Scene) -> bytes:
    return draw_scene(scene).encode()


WRITERS: Mapping[str, Callable[[Scene], bytes]] = {"svg": _svg, "png": draw_png, "odg": draw_odg}
"""Format → what makes a file of a scene."""


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so was written here."""
    if head.startswith(b"\x89PNG"):
        return PNG_MARK in head
    if head.startswith(b"PK"):
        return ODG_MARK in head
    return head.startswith(SVG_START.encode())
