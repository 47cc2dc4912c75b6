"""The family tree: what stands on what, in which order, and how it is drawn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.model.digest import format_id
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.manifest import Header
from overlaysync.ops.matching import Listing
from overlaysync.ops.tree import Entry, EntryKind, Tree, build_tree
from overlaysync.ops.tree_drawing import draw_text
from overlaysync.store.images import ImageRow
from overlaysync.trust.envelope import Manifest
from overlaysync.units import CHUNK, GIB, MIB


def id_of(text: str) -> bytes:
    """A disk or layer id that shows in a failure what it stands for."""
    return text.encode().ljust(32, b".")


def row(
    path: str,
    disk: str,
    *,
    layer: str | None = None,
    parent: str | None = None,
    inodes: tuple[int, ...] = (0,),
) -> ImageRow:
    """An image file; ``inodes`` are those of its chain, top first."""
    return ImageRow(
        path=f"/vm/{path}",
        chain=tuple(Fingerprint(1, inode, 0, 0, 0) for inode in inodes),
        format="qcow2",
        virtual_size=GIB,
        disk=id_of(disk),
        layer=id_of(layer) if layer else None,
        parent=id_of(parent) if parent else None,
        verified_at=0.0,
    )


def listing(
    name: str,
    disk: str,
    *,
    layer: str | None = None,
    parent: str | None = None,
    version: int = 1,
    team: str = "",
    parent_name: str = "",
    by: str = "pl@bob-abc234",
    labels: tuple[str, ...] = (),
) -> Listing:
    """A manifest; nobody looks at its signature any more here."""
    header = Header(
        kind="layer" if layer else "disk",
        team=team,
        name=name,
        version=version,
        id=format_id(id_of(layer or disk)),
        virtual_size=GIB,
        unit=CHUNK,
        data_size=412 * MIB,
        list_size=100,
        parent=format_id(id_of(parent)) if parent else "",
        parent_name=parent_name,
        result=format_id(id_of(disk)),
        format="qcow2",
        cluster_size=CHUNK,
        created="2026-01-02T03:04:05Z",
        by=by,
    )
    return Listing(Manifest(id_of(f"{team}{name}{version}{by}"), header, b"", b""), labels=labels)


def shape(tree: Tree) -> list[str]:
    """The tree as names, two blanks a level, overlays in brackets, missing bases with a question mark."""
    marks = {EntryKind.MASTER: "{}", EntryKind.OVERLAY: "[{}]", EntryKind.MISSING: "{}?"}
    return ["  " * row.depth + marks[row.entry.kind].format(row.entry.name) for row in tree.rows]


def entry(tree: Tree, name: str) -> Entry:
    return next(row.entry for row in tree.rows if row.entry.name == name)


# -- what stands on what -----------------------------------------------------------------------------


def test_nothing_is_an_empty_tree() -> None:
    assert build_tree([], []).rows == ()


def test_overlays_stand_under_the_disk_they_stand_on() -> None:
    tree = build_tree(
        [
            row("web.qcow2", "D-web", layer="L-web", parent="D"),
            row("debian.qcow2", "D"),
            row("kali.qcow2", "K"),
            row("on-web.qcow2", "D-on", layer="L-on", parent="D-web"),
        ],
        [listing("router", "D-router", layer="L-router", parent="D")],
    )
    assert shape(tree) == ["debian", "  [router]", "  [web]", "    [on-web]", "kali"]


def test_one_content_is_one_entry_however_many_files_and_names_it_has() -> None:
    tree = build_tree(
        [row("b/debian.qcow2", "D"), row("a/copy.qcow2", "D")],
        [
            listing("debian", "D"),
            listing("debian", "D", version=3),
            listing("lab", "D", team="red", labels=("etu@oscar-x",)),
        ],
    )
    (only,) = (row.entry for row in tree.rows)
    assert [copy.path for copy in only.copies] == ["/vm/a/copy.qcow2", "/vm/b/debian.qcow2"]
    assert [str(version) for version in only.versions] == ["debian:3", "debian:1", "red/lab:1"]
    assert only.versions[2].nodes == ("etu@oscar-x",)
    assert only.name == "debian"


def test_versions_of_a_name_are_entries_from_old_to_new() -> None:
    tree = build_tree([], [listing("debian", f"D{n}", version=n) for n in (10, 2, 1)])
    assert [row.entry.versions[0].version for row in tree.rows] == [1, 2, 10]


def test_a_base_that_nobody_knows_is_shown_as_missing_under_the_name_it_is_called_by() -> None:
    tree = build_tree(
        [row("vm.qcow2", "D-vm", layer="L-vm", parent="GONE")],
        [
            listing("web", "D-web", layer="L-web", parent="GONE", parent_name="debian-12"),
            listing("aaa", "A"),
        ],
    )
    assert shape(tree) == ["aaa", "debian-12?", "  [vm]", "  [web]"]
    missing = entry(tree, "debian-12")
    assert (missing.disk, missing.virtual_size, missing.copies) == (id_of("GONE"), None, ())
    assert draw_text(tree)[1].missing and "missing" in draw_text(tree)[1].problem


def test_a_base_without_any_name_is_a_question_mark() -> None:
    tree = build_tree([row("vm.qcow2", "D-vm", layer="L-vm", parent="GONE")], [])
    assert shape(tree) == ["??", "  [vm]"]


def test_a_fresh_overlay_shows_its_masters_disk_and_is_neither_a_promotion_nor_a_base() -> None:
    rows = [
        row("debian.qcow2", "D", inodes=(1,)),
        row("fresh.qcow2", "D", layer="L-fresh", parent="D", inodes=(2, 1)),
        row("vm.qcow2", "D-vm", layer="L-vm", parent="D", inodes=(3, 1)),
    ]
    tree = build_tree(rows, [])
    assert shape(tree) == ["debian", "  [fresh]", "  [vm]"]
    assert entry(tree, "fresh").promoted is None
    without_master = build_tree(rows[1:], [])
    assert shape(without_master) == ["??", "  [fresh]", "  [vm]"]


def test_an_overlay_stands_on_the_file_below_it_even_when_a_master_shows_the_same_disk() -> None:
    rows = [
        row("debian.qcow2", "D", inodes=(1,)),
        row("step1.qcow2", "D1", layer="L1", parent="D", inodes=(2, 1)),
        row("step1-master.qcow2", "D1", inodes=(3,)),
        row("on-overlay.qcow2", "D2", layer="L2", parent="D1", inodes=(4, 2, 1)),
        row("on-master.qcow2", "D3", layer="L3", parent="D1", inodes=(5, 3)),
    ]
    assert shape(build_tree(rows, [])) == [
        "debian",
        "  [step1]",
        "    [on-overlay]",
        "step1-master",
        "  [on-master]",
    ]


# -- promotions --------------------------------------------------------------------------------------


def test_a_master_that_shows_an_overlays_disk_is_its_promotion() -> None:
    tree = build_tree(
        [row("debian.qcow2", "D"), row("web.qcow2", "D-web", layer="L-web", parent="D")],
        [listing("debian-web-2026", "D-web")],
    )
    assert shape(tree) == ["debian", "  [web]", "debian-web-2026"]
    assert entry(tree, "web").promoted == id_of("D-web")
    assert draw_text(tree)[1].promotion == "┄┄promoted┄┄▶ ■ debian-web-2026:1"


# -- what manifests claim ----------------------------------------------------------------------------


def test_rings_of_claims_are_cut() -> None:
    ring = [
        listing("a", "A", layer="L-a", parent="B"),
        listing("b", "B", layer="L-b", parent="A"),
        listing("self", "S", layer="L-s", parent="S"),
    ]
    tree = build_tree([], ring)
    names = [row.entry.name for row in tree.rows if row.entry.kind is EntryKind.OVERLAY]
    assert sorted(names) == ["a", "b", "self"]


def test_what_is_here_is_believed_before_what_is_claimed() -> None:
    rows = [row("debian.qcow2", "D"), row("vm.qcow2", "D-vm", layer="L-vm", parent="D")]
    liar = listing("vm", "LIE", layer="L-vm", parent="OTHER", parent_name="other")
    assert shape(build_tree(rows, [liar])) == ["debian", "  [vm]"]


def test_a_chain_may_be_longer_than_pythons_stack() -> None:
    long = [listing(f"n{at}", f"D{at + 1}", layer=f"L{at}", parent=f"D{at}") for at in range(1500)]
    tree = build_tree([], [listing("root", "D0"), *long])
    assert tree.rows[-1].depth == 1500


_ids = st.sampled_from([f"D{n}" for n in range(5)])
_claims = st.lists(
    st.builds(
        lambda name, disk, layer, parent: listing(name, disk, layer=layer, parent=parent if layer else None),
        st.sampled_from(["a", "b", "c"]),
        _ids,
        st.none() | st.sampled_from([f"L{n}" for n in range(5)]),
        _ids,
    ),
    max_size=12,
)


@given(_claims, st.randoms(use_true_random=False))
@pytest.mark.slow
def test_everything_claimed_is_drawn_once_and_in_one_order(
    claims: list[Listing], chance: random.Random
) -> None:
    # One content has one description here: the first claim wins, and its order is not the order of names.
    unique = list({claim.manifest.header.content_id: claim for claim in claims}.values())
    tree = build_tree([], unique)
    drawn = [row.entry.id for row in tree.rows]
    assert len(drawn) == len(set(drawn))
    assert {claim.manifest.header.content_id for claim in unique} <= set(drawn)
    seen: set[bytes] = set()
    for at in tree.rows:
        assert at.entry.base is None or at.entry.base in seen
        seen.add(at.entry.id)
    chance.shuffle(unique)
    assert build_tree([], unique) == tree


def test_overlays_that_were_written_to_since_are_not_taken_for_one() -> None:
    rows = [row("debian.qcow2", "D", inodes=(1,))]
    rows += [
        row(f"{name}.qcow2", "D", layer="L-empty", parent="D", inodes=(at, 1))
        for at, name in enumerate(("a", "b", "c", "d"), 2)
    ]
    changed = ["/vm/a.qcow2", "/vm/b.qcow2"]
    tree = build_tree(rows, [], changed=changed)
    files = {tuple(copy.path for copy in one.entry.copies) for one in tree.rows if one.depth}
    assert files == {("/vm/a.qcow2",), ("/vm/b.qcow2",), ("/vm/c.qcow2", "/vm/d.qcow2")}
    assert {one.entry.content for one in tree.rows if one.depth} == {id_of("L-empty")}
    both = build_tree(rows[:3], [], changed=changed)
    assert len(both.rows) == 3 and all("since it was hashed" in line.problem for line in draw_text(both)[1:])


# -- drawing -----------------------------------------------------------------------------------------


def sample() -> Tree:
    return build_tree(
        [
            row("debian.qcow2", "D"),
            row("router.qcow2", "D-r", layer="L-r", parent="D"),
            row("copy.qcow2", "D-r", layer="L-r", parent="D"),
            row("web.qcow2", "D-w", layer="L-w", parent="D"),
        ],
        [
            listing("debian", "D"),
            listing("router", "D-r", layer="L-r", parent="D", version=2),
            listing("debian-web", "D-w"),
        ],
        changed=["/vm/web.qcow2"],
        data_sizes={id_of("L-w"): 9 * MIB, id_of("L-r"): 1},
    )


def test_what_is_not_here_is_left_out_unless_something_here_belongs_to_it() -> None:
    images = [row("/vm/web.qcow2", "web disk", layer="web", parent="debian")]
    listings = [
        listing("debian", "debian"),
        listing("web", "web disk", layer="web", parent="debian"),
        listing("debian-web", "web disk"),
        listing("gone", "gone disk", layer="gone", parent="debian"),
        listing("old", "old"),
    ]
    assert len(build_tree(images, listings).rows) == 5
    near = build_tree(images, listings, only_here=True)
    assert [item.entry.name for item in near.rows] == ["debian", "web", "debian-web"]
    assert near.rows[1].last == (True,), "what is left out leaves no branch"
    assert draw_text(near)[1].promotion.endswith("▶ ■ debian-web:1")
    assert build_tree([], listings, only_here=True).rows == ()


def test_what_a_master_here_was_promoted_from_is_shown() -> None:
    images = [row("/vm/debian-web.qcow2", "web disk")]
    listings = [
        listing("debian", "debian"),
        listing("web", "web disk", layer="web", parent="debian"),
        listing("other", "other disk", layer="other", parent="debian"),
    ]
    names = [item.entry.name for item in build_tree(images, listings, only_here=True).rows]
    assert sorted(names) == ["debian", "debian-web", "web"]


def test_text_has_branches_sizes_copies_and_places() -> None:
    first, router, web, master = draw_text(sample())
    assert (first.name, first.size, first.place) == ("■ debian:1", "412 MiB of 1 GiB", "/vm/debian.qcow2")
    assert (router.name, router.size, router.place) == (" ├─▢ router:2", "+412 MiB", "/vm/copy.qcow2  ×2")
    assert (web.name, web.size) == (" └─▢ web", "+9 MiB")
    assert "since it was hashed" in web.problem and not web.missing
    assert (master.name, master.place) == ("■ debian-web:1", "not here")


def test_lines_that_belong_to_an_entry_carry_the_branches_on() -> None:
    first, router, web, master = draw_text(sample())
    assert [item.below for item in (first, router, web, master)] == [" │ ", " │    ", "      ", "   "]


def test_text_from_elsewhere_is_made_printable() -> None:
    rows = [row("<script>&\x1b]0;x\udcff.qcow2", "D")]
    (shown,) = draw_text(build_tree(rows, [listing("d", "D", labels=("<b>\x00@x",))]))
    assert "<script>&?]0;x?.qcow2" in shown.place
    assert "<b>?@x" in shown.also


def test_an_empty_tree_can_be_drawn() -> None:
    assert draw_text(build_tree([], [])) == []
