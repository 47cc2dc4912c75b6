"""Images in archives: what a publisher says of them is compared with what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from overlaysync.archive.location import parse_location
from overlaysync.archive.places import add_place
from overlaysync.errors import VerificationError
from overlaysync.model.reference import parse_reference
from overlaysync.node.archived import Archived
from overlaysync.node.image_archiving import push_image
from overlaysync.node.node import Node, now
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.trust.envelope import sign_header
from overlaysync.units import CHUNK
from overlaysync.vault.directory import DirectoryObjects
from tests.node.observers import Heard
from tests.node.vaults import member


@pytest.mark.red_without("N1", "keep the page list of an archive without comparing its sizes")
def test_another_size_than_was_signed_keeps_nothing(ann: Node, bob: Node, tmp_path: Path) -> None:
    image, usb = tmp_path / "debian.raw", tmp_path / "usb"
    image.write_bytes(bytes(range(256)) * (3 * CHUNK // 256))
    usb.mkdir()
    add_place(bob.home.config, "usb", parse_location(f"file://{usb}"))
    archived, archive = Archived(bob), DirectoryObjects(usb)
    with member(tmp_path / "c", "carl") as carl:
        known = carl.library.examine(str(image), now=now())
        honest = carl.publisher.publish(known, team="", created="2026-01-31T12:00:00Z")
        lie = sign_header(replace(honest.header, name="lie", data_size=2 * CHUNK), ann.key)
        keep_manifest(ann.catalog, lie)
        push_image(ann, ann.library.examine(str(image), now=now()), "usb", archive, Heard())
        push_image(carl, known, "usb", archive, Heard())
    archived.look(parse_reference("lie"))
    assert [one.manifest for one in archived.listings] == [lie]
    with pytest.raises(VerificationError, match="does not match its content"):
        archived.pages(lie)
    assert bob.catalog.pages.load_list(lie.header.content_id) is None
    archived.look(parse_reference("debian"))
    assert archived.pages(honest) == known.content
