"""What a state says of the files that are left out."""

from __future__ import annotations

import os

import msgspec

from overlaysync.node.saving import told_of
from overlaysync.ops.vms.vm import Missed
from overlaysync.vault.limits import MAX_TEXT
from overlaysync.vault.state import LeftOut


def test_a_file_with_any_name_can_be_told_of() -> None:
    for name in (b"n" * 255, b"\xff\xfe\n\x1b[31m", "é".encode() * 127):
        told = told_of(Missed(os.fsdecode(b"/vm/" + name), "it is a log" * 100))
        assert 0 < len(told.file) <= MAX_TEXT and 0 < len(told.why) <= MAX_TEXT
        assert msgspec.json.decode(msgspec.json.encode(told), type=LeftOut) == told
