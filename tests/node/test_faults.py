"""An exception that nobody has thought of, in each task of a command that asks peers: the others count."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlaysync.discovery.announcer import Announcer
from overlaysync.discovery.browser import Peer
from overlaysync.errors import NoSpaceError
from overlaysync.net.client import CatalogAnswer, Client
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address, CatalogMessage
from overlaysync.net.server import Server
from overlaysync.node import serving as serving_module
from overlaysync.node.deliveries import Deliveries
from overlaysync.node.intake import Intake
from overlaysync.node.network import Network
from overlaysync.node.polling import Polling
from overlaysync.node.reach import Reach
from overlaysync.ops.offer import Offer
from overlaysync.trust.envelope import Manifest
from overlaysync.units import CHUNK
from tests.net.content_provider import make_offer, make_shelf, serving
from tests.net.fuzzing_decoders import MASTER
from tests.node.fetchers import fetcher, soon
from tests.node.observers import Heard
from tests.node.stand_ins import forgetful_node

NOTHING = cast(Any, None)
BAD, WORSE, GOOD = (Address(f"192.0.2.{number}", 40001) for number in (1, 2, 3))
CONTENT = os.urandom(16 * CHUNK)


def breaks(*_: object, **__: object) -> Any:
    raise RuntimeError("nobody has thought of this")


# -- looking for peers -------------------------------------------------------------------------------


class Asked:
    """Stands for the client: some peers break what asks them."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.peers_break = False

    async def catalog(self, address: Address, etag: str) -> CatalogAnswer:
        if address in (BAD, WORSE):
            raise self.error
        return CatalogAnswer(CatalogMessage(bytes(32), "pl@bob", (), tls=40002), "e1")

    async def peers(self, address: Address) -> tuple[Address, ...]:
        return breaks() if self.peers_break else ()

    async def private_catalog(self, address: object) -> CatalogMessage:
        return cast(CatalogMessage, breaks())


@asynccontextmanager
async def reaching(
    error: Exception | None = None, *named: Address, teams: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Reach, Asked, Heard]]:
    node = forgetful_node(teams=teams)
    client, observer = Asked(error or RuntimeError("nobody has thought of this")), Heard()
    reach = Reach(node, cast(Any, client), observer, None, Network(named), Faults(observer.note))
    yield reach, client, observer
    await reach.polling.stop()


async def all_asked(reach: Reach) -> None:
    async with asyncio.timeout(5):
        await reach.polling.watch()
        while reach.looking:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("named", [True, False])
async def test_a_peer_that_breaks_what_asks_it_is_a_problem_of_its_own(named: bool) -> None:
    addresses = (BAD, WORSE, GOOD)
    async with reaching(None, *(addresses if named else ())) as (reach, _, observer):
        for address in () if named else addresses:
            reach.polling.consider(Peer(str(address), "", (address.host,), address.port))
        await all_asked(reach)
        reach.check()
        assert reach.directory.answering() == [GOOD]
        problems = [view.problem for view in reach.directory.nodes() if view.problem]
        assert len(problems) == 2 and all("RuntimeError" in problem for problem in problems)
        assert reach.faults.counts.total() == 2
        assert sum("RuntimeError" in note for note in observer.notes) == 1


async def test_a_machine_that_fails_is_no_peer_s_problem() -> None:
    async with reaching(NoSpaceError("the disk is full"), BAD, GOOD) as (reach, _, _):
        await all_asked(reach)
        with pytest.raises(NoSpaceError):
            reach.check()


async def test_who_breaks_when_asked_for_its_peers_counts_all_the_same() -> None:
    async with reaching(None, GOOD) as (reach, client, _):
        client.peers_break = True
        await all_asked(reach)
        reach.check()
        assert reach.directory.answering() == [GOOD]
        assert reach.faults.counts.total() == 1


async def test_who_breaks_on_its_private_lane_counts_in_public() -> None:
    async with reaching(None, GOOD, teams=("red", "blue")) as (reach, _, _):
        await all_asked(reach)
        reach.check()
        assert reach.directory.answering() == [GOOD]
        assert reach.faults.counts.total() == 2


@pytest.mark.parametrize("what", ["history", "keep_past"])
async def test_who_breaks_when_asked_for_earlier_versions_counts_all_the_same(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def history(*_: object) -> tuple[bytes, ...]:
        return ()

    async with reaching(None, GOOD) as (reach, client, _):
        manifest = Manifest(bytes(32), MASTER, bytes(32), b"")
        monkeypatch.setattr(Intake, "without_past", lambda self, manifests: [manifest])
        cast(Any, client).history = breaks if what == "history" else history
        if what == "keep_past":
            monkeypatch.setattr(Intake, "keep_past", breaks)
        await all_asked(reach)
        assert reach.directory.answering() == [GOOD] and not next(iter(reach.directory.nodes())).problem
        assert reach.faults.counts == {"asking a peer for earlier versions: RuntimeError": 1}


@pytest.mark.parametrize("what", ["keep_listed", "note_member"])
async def test_a_team_s_catalog_that_breaks_what_takes_it_counts_in_public(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def private_catalog(address: object) -> CatalogMessage:
        return CatalogMessage(bytes(32), "pl@bob", ())

    real: Callable[..., Any] = getattr(Intake, what)

    def for_teams(reach: Reach, envelopes: Any, team: str, *rest: Any) -> Any:
        return breaks() if what == "note_member" or team else real(reach, envelopes, team, *rest)

    async with reaching(None, GOOD, teams=("red",)) as (reach, client, _):
        cast(Any, client).private_catalog = private_catalog
        monkeypatch.setattr(Intake, what, for_teams)
        await all_asked(reach)
        assert reach.directory.answering() == [GOOD] and not next(iter(reach.directory.nodes())).problem
        assert reach.faults.counts.total() == 1


async def test_a_catalog_that_breaks_what_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reaching(None, GOOD) as (reach, _, _):
        monkeypatch.setattr(Intake, "keep_listed", breaks)
        await all_asked(reach)
        reach.check()
        assert "RuntimeError" in next(iter(reach.directory.nodes())).problem


async def test_an_announcement_that_breaks_the_watch_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    considered: list[str] = []
    waiting = asyncio.Event()

    def consider(polling: Polling, peer: Peer) -> None:
        considered.append(peer.label)
        if peer.label == "bad":
            breaks()

    async def changed() -> None:
        waiting.set()
        await asyncio.sleep(3600)

    found = [Peer(label, "", ("192.0.2.1",), 40001) for label in ("bad", "good")]
    async with reaching() as (reach, _, _):
        monkeypatch.setattr(Polling, "consider", consider)
        reach.polling.browser = cast(Any, SimpleNamespace(found=lambda: found, changed=changed))
        watcher = asyncio.create_task(reach.polling.watch())
        async with asyncio.timeout(5):
            await waiting.wait()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        assert considered == ["bad", "good"]
        assert reach.faults.counts.total() == 1


# -- transfers ---------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> Offer:
    return make_offer(tmp_path / "image.raw", CONTENT, make_shelf(tmp_path).key)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["swarm", "read_slots"])
async def test_a_source_that_breaks_what_asks_it_leaves_the_others(
    tmp_path: Path, whole: Offer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shelf = make_shelf(tmp_path)
    shelf.items.append(whole)
    real: Callable[..., Any] = getattr(Client, what)
    async with serving(Server(shelf)) as good, serving(Server(shelf)) as bad:

        async def ask(client: Client, address: Address, *rest: Any, **options: Any) -> Any:
            return breaks() if address == bad else await real(client, address, *rest, **options)

        monkeypatch.setattr(Client, what, ask)
        async with fetcher(tmp_path / "a", whole, [bad, good]) as a, asyncio.timeout(20):
            await a.run()
            assert a.content == CONTENT
        assert a.around.faults.counts.total() >= 1


async def test_what_a_source_tells_of_others_may_break_without_harm(
    tmp_path: Path, whole: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = make_shelf(tmp_path)
    shelf.items.append(whole)
    monkeypatch.setattr("overlaysync.node.company.Company.hear", breaks)
    async with serving(Server(shelf)) as good, fetcher(tmp_path / "a", whole, [good]) as a:
        async with asyncio.timeout(20):
            await a.run()
        assert a.content == CONTENT


# -- sharing -----------------------------------------------------------------------------------------


async def test_a_look_at_who_fetches_that_breaks_does_not_end_the_watch_over_the_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving_module, "WATCH_S", 0.01)
    monkeypatch.setattr(serving_module, "_tell_progress", breaks)
    faults, observer = Faults(), Heard()
    share = SimpleNamespace(refresh=lambda: False, changes=0, observer=observer)
    task = asyncio.create_task(
        serving_module.keep_announced(
            cast(Announcer, NOTHING), cast(Any, share), NOTHING, faults, Deliveries(print)
        )
    )
    await soon(lambda: faults.counts.total() > 2)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
