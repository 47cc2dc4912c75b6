"""When a node that keeps looks at the others: as soon as one has answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from overlaysync.net.client import Client
from overlaysync.net.faults import Faults
from overlaysync.net.server import Server
from overlaysync.node import keeping
from overlaysync.node.keeping import Keeper
from overlaysync.node.network import Network
from overlaysync.node.reach import Reach
from overlaysync.node.vault_serving import ServedVault
from overlaysync.ops.recovery.placement import Kept
from overlaysync.vault.directory import DirectoryObjects
from tests.net.content_provider import make_shelf, serving
from tests.node.observers import Heard
from tests.node.test_vault_liars import saved
from tests.node.vaults import member
from tests.vault.samples import RED


async def test_the_first_round_waits_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a share that has just begun would see nobody, and take its copies a quarter of a minute later."""
    monkeypatch.setattr(keeping, "ROUND_S", 3600.0)
    vault = DirectoryObjects(tmp_path / "vault")
    saved(vault, b"a pack")
    served = ServedVault(vault.root, lambda: Kept((RED.tag,), 1), lambda: 0.0)
    with member(tmp_path / "carl", "carl") as node:
        async with serving(Server(make_shelf(tmp_path), vault=served)) as address, Client() as client:
            network = Network([address], mdns_needed=False)
            async with Reach.open(node, client, Heard(), network) as reach:
                task = asyncio.create_task(Keeper(node, reach, Heard(), Faults()).run())
                async with asyncio.timeout(20):
                    while not node.catalog.copies.seen(RED.tag):
                        await asyncio.sleep(0.01)
                task.cancel()
