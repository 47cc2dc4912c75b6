"""Rooms full of nodes: all fetch at once, come late, are killed; cables are pulled, peers lie or stall.

Every host has a link of its own, so that times are those of links, not of processors: bounds are multiples
of size / rate, counted from the first data on a link. A node finds the others by mDNS unless a test says so.
The room itself is tested first.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from overlaysync.units import MIB
from tests.e2e.classroom import HEADERS, Class, Fetch
from tests.e2e.lies import OWN_PORT
from tests.e2e.nodes import DONE, NETWORK, Lab, until
from tests.e2e.room import MBIT, Host, Room, room

pytestmark = [pytest.mark.lan, pytest.mark.bench]

START_S = 3.0
"""Processes that are started together need not begin together, and the last of them sets the time."""
CUT_S = 7.0
"""A cable is pulled for so long: TCP would try again only after 12 s."""
RECOVER_S = 6.0
"""After the cable is plugged in again: a source is asked again at least every 4 s, and gets 3 s to answer."""
IN_FLIGHT = 2 * MIB
"""What may be on its way to one node when its cable is pulled, and is lost."""

Open: TypeAlias = Callable[..., AbstractContextManager[Class]]


@pytest.fixture
def open_class(tmp_path: Path) -> Open:
    """Opens a room with so many hosts, and a node on each; the first one shares an image."""

    @contextmanager
    def opened(hosts: int, *, mib: int = 12, rate: int = 24 * MBIT, networks: int = 1) -> Iterator[Class]:
        with room(hosts, rate=rate, networks=networks) as made, Lab(tmp_path) as lab:
            yield Class.of(made, lab, size=mib * MIB, rate=rate)

    return opened


def last_one_s(fetches: Sequence[Fetch]) -> float:
    """Seconds from the first data of any to the file of the last."""
    began = [fetch.data_began for fetch in fetches if fetch.data_began is not None]
    arrived = [fetch.arrived for fetch in fetches if fetch.arrived is not None]
    assert len(began) == len(arrived) == len(fetches)
    return max(arrived) - min(began)


# -- the room ----------------------------------------------------------------------------------------

_PORT = 40001
_LISTEN = """
import socket
with socket.create_server(("", {port})) as server:
    print("ready", flush=True)
    client, _ = server.accept()
    with client:
        client.sendall(bytes({size}))
"""
_WAIT = """
import socket
with socket.create_server(("127.0.0.1", {port})) as server:
    print("ready", flush=True)
    client, _ = server.accept()
    print("called", flush=True)
"""
_READ = """
import socket
with socket.create_connection(("{address}", {port}), timeout=20) as sock:
    size = 0
    while part := sock.recv(1 << 20):
        size += len(part)
    print(size)
"""


@pytest.fixture
def three() -> Iterator[Room]:
    with room(3, rate=40 * MBIT) as made:
        yield made


def transfer(source: Host, target: Host, size: int) -> float:
    """Seconds that bytes take from one host to another."""
    listen = _LISTEN.format(port=_PORT, size=size)
    read = _READ.format(address=source.address, port=_PORT)
    with subprocess.Popen([*source.prefix, sys.executable, "-c", listen], stdout=subprocess.PIPE) as sender:
        assert sender.stdout and sender.stdout.readline() == b"ready\n"
        started = time.monotonic()
        received = subprocess.check_output([*target.prefix, sys.executable, "-c", read])
    assert int(received) == size
    return time.monotonic() - started


def reaches(source: Host, target: Host) -> bool:
    code = f"import socket; socket.create_connection(({target.address!r}, 9), timeout=0.3)"
    done = subprocess.run(
        [*source.prefix, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return "ConnectionRefusedError" in done.stderr  # nobody listens there, but somebody answers


def test_a_link_has_its_rate_and_can_get_another(three: Room) -> None:
    first, second, _ = three.hosts
    before = first.sent(), second.received()

    assert 0.8 < transfer(first, second, 4 * MIB) < 3  # 0.84 s at 40 Mbit/s
    assert first.sent() - before[0] > 4 * MIB
    assert second.received() - before[1] > 4 * MIB

    three.shape(second, 10 * MBIT)
    assert transfer(first, second, 4 * MIB) > 3


def test_a_cable_can_be_pulled_and_plugged_in_again(three: Room) -> None:
    first, second, third = three.hosts
    assert reaches(first, second)

    three.cut(second)
    assert not reaches(first, second)
    assert reaches(first, third)

    three.heal(second)
    until(lambda: reaches(first, second), what="the link's return")


# -- all at once -------------------------------------------------------------------------------------


@pytest.mark.holds("N5")
@pytest.mark.red_without("N5", "a node that fetches uploads nothing")
@pytest.mark.red_without("N5", "every piece is assigned to every peer")
def test_four_that_fetch_together_need_little_longer_than_one(open_class: Open) -> None:
    with open_class(5) as made:
        seed, *others = made.room.hosts
        sent_before = seed.sent()
        fetches = made.fetch_on(others)

        made.wait(fetches, within_s=60)

        sent = seed.sent() - sent_before
        began = [fetch.data_began or 0 for fetch in fetches]
        assert last_one_s(fetches) <= 1.6 * made.ideal_s + START_S  # from one host alone: 4 times
        # Who begins before the others takes everything from the one who shares.
        head_start = (max(began) - min(began)) * made.rate / 8
        assert sent <= 1.5 * made.size + head_start
        for fetch in fetches:
            sources = made.sent_by(fetch)
            assert len(sources.keys() & {f"host{host.number}" for host in others}) >= 2, sources
            assert made.size <= sum(sources.values()) <= made.size + IN_FLIGHT  # what was late came twice


def test_who_comes_late_takes_from_all(open_class: Open) -> None:
    with open_class(5, mib=20) as made:
        *early_hosts, late_host = made.room.hosts[1:]
        early = made.fetch_on(early_hosts)
        made.wait_for_data(early, 0.15)  # by the time it looks for data they have half of them

        late = made.fetch(late_host)
        made.wait([*early, late], within_s=60)

        assert late.took_s <= 1.4 * made.ideal_s + 1
        assert len(made.sent_by(late)) >= 3
        assert max(fetch.took_s for fetch in early) <= 1.6 * made.ideal_s + START_S


# -- those who go ------------------------------------------------------------------------------------


def test_when_the_others_have_a_copy_among_them_the_seed_may_die(open_class: Open) -> None:
    with open_class(5) as made:
        seed, *others, watcher = made.room.hosts
        swarm = made.watch_swarm(watcher)
        # First they get much more from the seed than from each other, so that each has another part.
        made.room.shape(seed, 3 * made.rate)
        for host in others:
            made.room.shape(host, made.rate, up=made.rate // 8)
        fetches = made.fetch_on(others)

        def they_have_a_copy() -> bool:
            seen = swarm()
            return bool(seen) and seen["together"] == seen["pieces"]

        made.watch(fetches, they_have_a_copy, within_s=60)
        made.seed.kill()
        killed = time.monotonic()
        seen = swarm()
        assert max(seen["held"]) < 0.8 * seen["pieces"]
        for host in others:
            made.room.shape(host, made.rate)
        made.wait(fetches, within_s=60)

        assert time.monotonic() - killed <= 1.6 * made.ideal_s + START_S


def test_when_a_third_is_killed_the_others_go_on(open_class: Open) -> None:
    with open_class(7) as made:
        chance = random.Random(7)
        fetches = made.fetch_on(made.room.hosts[1:])
        doomed = chance.sample(fetches, 2)
        others = [fetch for fetch in fetches if fetch not in doomed]

        for fetch, share in zip(doomed, sorted(chance.uniform(0.1, 0.8) for _ in doomed), strict=True):
            made.wait_for_data([fetch], share)
            fetch.process.kill()
        made.wait(others, within_s=60)

        assert last_one_s(others) <= 2 * made.ideal_s + START_S
        assert not any(fetch.path.exists() for fetch in doomed)


# -- cables ------------------------------------------------------------------------------------------


def pull(made: Class, host: Host, fetches: Sequence[Fetch]) -> float:
    """Pull a cable and plug it in again; when it was plugged in."""
    made.room.cut(host)
    watch_for_a_while(made, fetches)
    made.room.heal(host)
    return time.monotonic()


def watch_for_a_while(made: Class, fetches: Sequence[Fetch]) -> None:
    end = time.monotonic() + CUT_S
    made.watch(fetches, lambda: time.monotonic() >= end, within_s=CUT_S + 5)


def last_one(fetches: Sequence[Fetch]) -> float:
    """When the last of them had its file."""
    return max(fetch.arrived for fetch in fetches if fetch.arrived is not None)


@pytest.mark.holds("N8")
@pytest.mark.red_without("N8", "a source that fails once is given up")
@pytest.mark.red_without("N8", "what is already being fetched is requested again")
def test_a_fetch_outlives_a_pulled_cable_and_asks_for_nothing_twice(open_class: Open) -> None:
    with open_class(3) as made:
        fetches = made.fetch_on(made.room.hosts[1:])
        cut = fetches[0]
        made.wait_for_data([cut], 0.4)
        received = cut.received

        healed = pull(made, cut.host, fetches)
        assert cut.received - received < IN_FLIGHT
        made.wait(fetches, within_s=60)

        assert last_one([cut]) - healed <= made.ideal_s + RECOVER_S
        assert cut.document["wire"]["data"] <= made.size + MIB
        assert cut.received <= made.size * HEADERS + IN_FLIGHT


def test_those_who_fetch_outlive_the_pulled_cable_of_the_seed(open_class: Open) -> None:
    with open_class(3) as made:
        seed, *others = made.room.hosts
        fetches = made.fetch_on(others)
        made.wait_for_data(fetches, 0.2)

        healed = pull(made, seed, fetches)
        assert not any(fetch.arrived for fetch in fetches)
        made.wait(fetches, within_s=60)

        assert last_one(fetches) - healed <= made.ideal_s + RECOVER_S
        for fetch in fetches:
            assert fetch.document["wire"]["data"] <= made.size + MIB
            assert fetch.received <= made.size * HEADERS + IN_FLIGHT


@pytest.mark.holds("N8")
@pytest.mark.red_without("N8", "a source that fails once is given up")
def test_two_halves_of_a_room_grow_together_again(open_class: Open) -> None:
    with open_class(5) as made:
        fetches = made.fetch_on(made.room.hosts[1:])
        made.wait_for_data(fetches, 0.2)

        made.room.part(made.room.hosts[3:])
        watch_for_a_while(made, fetches)
        assert not any(fetch.arrived for fetch in fetches if fetch.host.number >= 3)
        made.room.join()
        healed = time.monotonic()
        made.wait(fetches, within_s=60)

        assert last_one(fetches) - healed <= made.ideal_s + RECOVER_S
        for fetch in fetches:
            assert fetch.document["wire"]["data"] <= made.size + MIB


def test_a_killed_fetch_goes_on_in_company_when_it_is_repeated(open_class: Open) -> None:
    with open_class(3, mib=20) as made:
        one, other = made.fetch_on(made.room.hosts[1:])
        made.wait_for_data([one], 0.8)  # after more than 5 s, so that some of it has been claimed
        one.process.kill()
        assert not one.path.exists()

        again = made.fetch(one.host)
        made.wait([again, other], within_s=60)

        resumed = again.document["resumed"]
        assert resumed >= made.size // 4
        assert resumed + again.document["wire"]["data"] <= made.size + MIB
        assert again.received <= (made.size - resumed) * HEADERS + IN_FLIGHT


# -- bad company -------------------------------------------------------------------------------------


def named(*peers: str) -> list[str]:
    return [word for peer in peers for word in ("--peer", peer)]


@pytest.mark.holds("N1")
def test_four_of_five_sources_lie(open_class: Open) -> None:
    with open_class(6) as made:
        *liars, student = made.room.hosts[1:]
        peers = made.liars(liars, "flip", "data")

        fetch = made.fetch(student, *named(*peers))
        made.wait([fetch], within_s=60)

        assert sum(made.sent_by(fetch).values()) >= made.size
        for peer in peers:  # each was asked, and found out, once
            assert fetch.process.stderr.count(f"{peer} sent wrong bytes") == 1
        assert fetch.took_s <= 1.6 * made.ideal_s + START_S


@pytest.mark.holds("N2")
@pytest.mark.red_without("N2", "a request that is late is not made to another peer")
def test_one_of_three_sources_stalls(open_class: Open) -> None:
    with open_class(6, mib=16, rate=40 * MBIT) as made:
        seed, second, third, *students = made.room.hosts
        made.share(second)
        took_s = []
        for lie, student in zip(("honestly", "hang", "drip"), students, strict=True):
            (peer,) = made.liars([third], lie, "list", "page", "data")
            fetch = made.fetch(student, *named(peer, made.address(seed), made.address(second)))
            made.wait([fetch], within_s=60)
            took_s.append(last_one([fetch]) - fetch.began)
            assert fetch.process.wait().code == DONE

        honest_s, *stalled_s = took_s
        assert max(stalled_s) <= 1.5 * honest_s + 2, took_s


# -- networks ----------------------------------------------------------------------------------------


@pytest.mark.red_without("N7", "a peer that is named by address is not asked")
def test_who_names_one_peer_in_another_network_finds_the_others_there(open_class: Open) -> None:
    with open_class(5, networks=2) as made:
        seed, *others = made.room.hosts
        far = [host for host in others if host.switch != seed.switch]
        near = [host for host in others if host.switch == seed.switch]
        made.node(far[0]).fails(NETWORK, "fetch", made.name, "--wait", "1")

        from_near, from_far = made.fetch_on(near), made.fetch_on(far, "--peer", made.address(seed))
        made.wait(from_near + from_far, within_s=60)

        assert last_one_s(from_near + from_far) <= 1.6 * made.ideal_s + START_S
        # Which of the others a fetch takes from is chance, so each side is asked as one.
        for fetches in (from_near, from_far):
            for hosts in (near, far):
                assert any(
                    host != fetch.host and f"host{host.number}" in made.sent_by(fetch)
                    for fetch in fetches
                    for host in hosts
                ), [made.sent_by(fetch) for fetch in fetches]


@pytest.mark.holds("N7")
@pytest.mark.red_without("N7", "a peer that was named is not asked for the peers it knows")
@pytest.mark.red_without("N7", "a peer that was named is believed, whatever peers it reports")
def test_who_was_named_tells_of_others_but_has_nobody_call_himself(open_class: Open) -> None:
    with open_class(4, networks=2) as made:
        seed, *others = made.room.hosts
        teller = next(host for host in others if host.switch == seed.switch)
        student = next(host for host in others if host.switch != seed.switch)
        (peer,) = made.liars([teller], "misdirect", "peers")
        wait = [*student.prefix, sys.executable, "-c", _WAIT.format(port=OWN_PORT)]
        with subprocess.Popen(wait, stdout=subprocess.PIPE) as own:
            assert own.stdout and own.stdout.readline() == b"ready\n"
            (image,) = made.node(student).json("ls", "--peer", peer, "--wait", "3")["images"]
            own.terminate()
            assert own.stdout.read() == b""

        assert set(image["peers"]) == {peer, made.address(seed)}
