"""Plans of fetches: what goes where, and what is brought along."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.errors import AmbiguousError, BaseImageError, NotFoundError, UsageError
from overlaysync.formats.image import Format
from overlaysync.model.digest import format_id
from overlaysync.model.manifest import Header
from overlaysync.model.reference import parse_reference
from overlaysync.ops.matching import Listing, resolve
from overlaysync.ops.plan import MAX_LINEAGE, Destination, plan_fetch
from overlaysync.trust.envelope import sign_header
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.teams import Team

KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def some_id(text: str) -> str:
    return format_id(hashlib.sha256(text.encode()).digest())


def listing(
    name: str,
    content: str,
    *,
    on: str = "",
    makes: str = "",
    version: int = 1,
    team: str = "",
    peers: tuple[str, ...] = ("10.0.0.1:80",),
    label: str = "ann@lab-abc234",
) -> Listing:
    """A master called ``name``, or an overlay ``on`` a disk."""
    header = Header(
        kind="layer" if on else "disk",
        team=team,
        name=name,
        version=version,
        follows=(some_id("before")[3:],) if version > 1 else (),
        id=some_id(content),
        virtual_size=1 << 20,
        unit=65536,
        data_size=0,
        list_size=48,
        parent=some_id(on) if on else "",
        parent_name="its-master" if on else "",
        result=some_id(makes) if on else some_id(content),
        format="qcow2" if on else "raw",
        cluster_size=65536,
        created="2025-01-31T12:00:00Z",
        by=label,
    )
    return Listing(sign_header(header, KEY, Team(team, bytes(20)) if team else None), peers, (label,))


MASTER = listing("debian", "M")
OVERLAY = listing("vm", "L", on="M", makes="R")
TOP = listing("top", "T", on="R", makes="S")


def paths(wanted: Listing, *others: Listing, **options) -> list[tuple[str, str | None]]:
    steps = plan_fetch(wanted, [wanted, *others], lambda *_, **__: None, Destination("/to", "/m", **options))
    assert [step.brought for step in steps] == [True] * (len(steps) - 1) + [False]
    return [(step.path, step.base) for step in steps]


def test_lowest_first_each_on_the_one_below() -> None:
    assert paths(MASTER) == [("/to/debian.raw", None)]
    assert paths(TOP, MASTER, OVERLAY) == [
        ("/m/debian.raw", None),
        ("/m/vm.qcow2", "/m/debian.raw"),
        ("/to/top.qcow2", "/m/vm.qcow2"),
    ]


def test_name_and_format_are_those_of_what_was_asked_for() -> None:
    assert paths(OVERLAY, MASTER, name="mine", format=Format.QED) == [
        ("/m/debian.raw", None),
        ("/to/mine.qed", "/m/debian.raw"),
    ]
    with pytest.raises(UsageError) as caught:
        paths(OVERLAY, MASTER, format=Format.RAW)
    assert "promote '/to/vm.qcow2' --as vm --format raw" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        paths(OVERLAY, MASTER, name="web", format=Format.RAW)
    assert "promote '/to/web.qcow2' --as web --format raw" in caught.value.hint
    assert paths(MASTER, name="mine.raw") == [("/to/mine.raw", None)]
    with pytest.raises(UsageError):
        paths(MASTER, name="mine.qcow2")


def test_no_two_steps_write_one_file() -> None:
    master = listing("vm", "M", version=1)
    overlay = listing("vm", "L", on="M", makes="R", version=2)
    top = listing("vm", "T", on="R", makes="S", version=3)
    steps = plan_fetch(top, [top, overlay, master], lambda *_, **__: None, Destination("/x/.", "/x"))
    assert len({step.path for step in steps}) == 3
    assert [(step.path, step.base) for step in steps][1:] == [
        (f"/x/vm-{overlay.manifest.header.id[3:11]}.qcow2", "/x/vm.raw"),
        ("/x/./vm.qcow2", f"/x/vm-{overlay.manifest.header.id[3:11]}.qcow2"),
    ]


def test_a_base_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "debian.raw").write_bytes(b"other")
    steps = plan_fetch(OVERLAY, [OVERLAY, MASTER], lambda *_, **__: None, Destination("/to", str(tmp_path)))
    assert steps[0].path == str(tmp_path / f"debian-{MASTER.manifest.header.id[3:11]}.raw") == steps[1].base


def test_what_may_be_gone_tomorrow_is_a_base_only_where_no_peer_has_the_master() -> None:
    asked = []

    def find(header: Header, path: str, *, last_resort: bool) -> None:
        asked.append((header.name, path, last_resort))

    plan_fetch(OVERLAY, [OVERLAY, MASTER], find, Destination("/to", "/m"))
    with pytest.raises(BaseImageError):
        plan_fetch(OVERLAY, [OVERLAY], find, Destination("/to", "/m"))
    assert asked == [("vm", "/to/vm.qcow2", False), ("vm", "/to/vm.qcow2", True)]


def test_a_base_that_nobody_has() -> None:
    with pytest.raises(BaseImageError, match="its-master"):
        paths(OVERLAY)
    with pytest.raises(BaseImageError):
        paths(OVERLAY, listing("debian", "M", peers=()))


def test_a_layer_that_says_it_makes_its_own_parent_does_not_go_round_for_ever() -> None:
    with pytest.raises(BaseImageError):
        paths(listing("round", "L", on="P", makes="P"))
    assert MAX_LINEAGE <= 32


# -- references --------------------------------------------------------------------------------------


def names(text: str, *listings: Listing) -> list[str]:
    found = resolve(parse_reference(text), listings)
    return [f"{one.manifest.header.full_name}:{one.manifest.header.version}" for one in found]


def test_the_newest_version_or_the_one_named() -> None:
    versions = [listing("vm", f"v{number}", version=number) for number in (1, 3, 2)]
    assert names("vm", *versions) == ["vm:3"]
    assert names("vm:2", *versions) == ["vm:2"]
    assert names(some_id("v1")[:11], *versions) == ["vm:1"]


def test_of_two_things_with_one_name_none_is_chosen() -> None:
    pairs = [
        (listing("vm", "a"), listing("vm", "b", label="bob@x-zzz234")),
        (listing("vm", "a", team="red"), listing("vm", "b", team="blue")),
    ]
    for one, other in pairs:
        with pytest.raises(AmbiguousError) as caught:
            names("vm", one, other)
        assert len(caught.value.candidates) == 2
    assert names("vm@bob", *pairs[0]) == ["vm:1"]
    assert names("red/vm", *pairs[1]) == ["red/vm:1"]


def test_one_thing_from_two_publishers_is_one_thing() -> None:
    assert names("vm", listing("vm", "a"), listing("vm", "a", label="bob@x-zzz234")) == ["vm:1"]


def test_a_team_is_the_newest_of_each_name() -> None:
    red = [
        listing("a", "1", team="red"),
        listing("a", "2", team="red", version=2),
        listing("b", "3", team="red"),
    ]
    assert names("red/", *red, listing("c", "4")) == ["red/a:2", "red/b:1"]


def test_nothing_fits() -> None:
    with pytest.raises(NotFoundError) as caught:
        names("debain", MASTER)
    assert "debian" in str(caught.value)
    for text in ("vm:2", "red/vm", "vm@nobody", "b3:00000000"):
        with pytest.raises(NotFoundError):
            names(text, OVERLAY)


def test_a_version_that_is_not_there_names_some_of_those_that_are() -> None:
    listings = [listing("router", str(version), version=version) for version in range(1, 101)]
    with pytest.raises(NotFoundError) as caught:
        resolve(parse_reference("router:2000"), listings)
    assert caught.value.why.count("router:") == 20
    assert caught.value.why.endswith("; and 80 more")
