"""Several who fetch the same at once: they give each other what they have, and stay for that."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, Process, Share, until

SIZE = 24 * MIB


@pytest.fixture
def master(lab: Lab) -> Path:
    return disks.make_master(lab.node("teacher").place / f"{lab.name('disk')}.raw", size=SIZE)


def slow_share(lab: Lab, master: Path, rate: str) -> Share:
    share = lab.node("teacher").start_share(master, "--limit-rate", rate)
    share.document()
    return share


def start(lab: Lab, name: str, master: Path, share: Share, *more: str) -> Process:
    """Begin to fetch on a node of that name."""
    return lab.node(name).start("fetch", master.stem, "--peer", share.peer, "--json", *more)


def said(process: Process, key: str) -> list[dict[str, Any]]:
    """The JSON lines on standard error that have ``key``."""
    lines = process.stderr.splitlines(keepends=True)
    documents = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    return [document for document in documents if key in document]


def stays_for_others(process: Process) -> bool:
    """Whether a fetch has said so."""
    return any("until they have it" in document["note"] for document in said(process, "note"))


def test_two_who_fetch_give_each_other_what_they_have(lab: Lab, master: Path) -> None:
    share = slow_share(lab, master, "6M")
    fetches = {name: start(lab, name, master, share) for name in ("anna", "ben")}
    results = {name: fetch.wait() for name, fetch in fetches.items()}

    from_teacher = 0
    for name, result in results.items():
        assert result.code == DONE, result.stderr
        (item,) = result.document["fetched"]
        assert Path(item["path"]).read_bytes() == master.read_bytes()
        assert SIZE <= sum(item["sources"].values()) < 1.5 * SIZE  # what is late is asked for twice
        teacher = share.document()["node"]
        (other,) = (source for source in item["sources"] if source != teacher)
        assert other.startswith({"anna": "ben", "ben": "anna"}[name])
        from_teacher += item["sources"].get(teacher, 0)
        # Who gave how much is told while it comes, too.
        progress = said(fetches[name], "progress")
        assert progress
        assert set(progress[-1]["sources"]) <= set(item["sources"])
        assert progress[-1]["total"] == SIZE
    assert SIZE <= from_teacher < 2 * SIZE

    done = until(
        lambda: [serving for serving in said(share, "serving") if serving["done"] == 2],
        what="word of the share that both are done",
    )
    assert (done[-1]["serving"], done[-1]["joined"], done[-1]["clients"]) == (f"{master.stem}:1", 2, {})
    clients = {
        client.partition("@")[0] for serving in said(share, "serving") for client in serving["clients"]
    }
    assert clients == {"anna", "ben"}


@pytest.mark.slow
def test_who_is_done_stays_while_others_need_it_and_not_longer(lab: Lab, master: Path) -> None:
    share = slow_share(lab, master, "50M")
    # Slow enough to be at it still when the three others have started and are done, on a busy machine too.
    slow = start(lab, "slow", master, share, "--limit-rate", "2M")
    until((lab.node("slow").place / f".{master.name}.part").exists, what="the slow fetch's part")
    stays, ends = start(lab, "stays", master, share), start(lab, "ends", master, share)
    leaves = start(lab, "leaves", master, share, "--seed", "0")

    assert leaves.wait().code == DONE
    for process in (stays, ends):
        process.document()  # the result is told at once
        until(partial(stays_for_others, process), what="word that it stays")
    ends.interrupt()
    result = ends.wait(within_s=5)
    assert (result.code, slow.running, stays.running) == (DONE, True, True)
    assert not stays_for_others(leaves)

    result = slow.wait()
    assert result.code == DONE
    assert stays.wait(within_s=5).code == DONE
    for name in ("slow", "stays", "ends", "leaves"):
        assert (lab.node(name).place / master.name).read_bytes() == master.read_bytes()
