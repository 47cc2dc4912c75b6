"""Chooses the layout for a target's format."""

from __future__ import annotations

from overlaysync.errors import ImageError
from overlaysync.formats.image import Format
from overlaysync.formats.layout import Layout, Target, UnitMap
from overlaysync.formats.qcow2_layout import Qcow2Layout
from overlaysync.formats.qed_layout import QedLayout
from overlaysync.formats.raw_layout import RawLayout


def plan_layout(target: Target, units: UnitMap) -> Layout:
    """Return the whole layout of the image ``target``, whose units are as ``units`` says.

    Raises:
        ImageError: the format cannot hold the target, or the unit map does not fit it.
    """
    match target.format:
        case Format.RAW:
            return RawLayout(target)
        case Format.QED:
            return QedLayout(target, units)
        case Format.QCOW2:
            return Qcow2Layout(target, units)
        case only_read:
            raise ImageError(f"images of the format {only_read} can only be read")
