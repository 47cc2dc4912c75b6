"""Discovery over real multicast: on the loopback, in namespaces, and against those who make things up."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import resource
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from zeroconf import (  # type: ignore[attr-defined]
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    Zeroconf,
    current_time_millis,
)
from zeroconf._services.browser import generate_service_query
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from overlaysync.discovery import announcer as announcer_module
from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import SERVICE, Browser, Peer
from overlaysync.discovery.interfaces import Interface, list_interfaces
from overlaysync.discovery.one_shot import Listener, OneShot
from overlaysync.discovery.txt import Item
from overlaysync.errors import NetworkError, UsageError
from overlaysync.net.faults import Faults
from overlaysync.trust.keys import node_id
from tests.net.still import StillNetwork

pytestmark = pytest.mark.lan

LO = ("lo",)
NODE = node_id(bytes(32))
ITEMS = (Item("master", "debian", bytes(range(32))), Item("overlay", "red/routeur-é", bytes(32)))


@pytest.fixture
def label() -> str:
    """One that no other test on this machine uses."""
    return f"pl@bob-{random.getrandbits(40):010x}"


@asynccontextmanager
async def browsing(browser: Browser | None = None) -> AsyncIterator[Browser]:
    browser = browser or Browser(interfaces=LO)
    await browser.start()
    try:
        yield browser
    finally:
        await browser.stop()


@asynccontextmanager
async def announcing(label: str, announcement: Announcement) -> AsyncIterator[Announcer]:
    announcer = Announcer(label, interfaces=LO)
    await announcer.start(announcement)
    try:
        yield announcer
    finally:
        await announcer.stop()


@asynccontextmanager
async def stranger() -> AsyncIterator[AsyncZeroconf]:
    """Multicast DNS for a test to misuse."""
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()


def loopback() -> Interface:
    return next(interface for interface in list_interfaces() if interface.name == "lo")


def multicast_socket() -> socket.socket:
    """Hears what is multicast on the loopback."""
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    wire.bind(("", 5353))
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
    wire.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    return wire


def service(instance: str, **changes: object) -> AsyncServiceInfo:
    """A service as a stranger may announce it."""
    what: dict[str, object] = {
        "port": 7,
        "properties": {b"v": b"1"},
        "server": f"host-{random.getrandbits(40):010x}.local.",
        "parsed_addresses": ["127.0.0.1"],
    }
    return AsyncServiceInfo(SERVICE, f"{instance}.{SERVICE}", **{**what, **changes})  # type: ignore[arg-type]


async def until(browser: Browser, satisfied: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not satisfied():
            await browser.changed()


def named(browser: Browser, label: str) -> Peer | None:
    return next((peer for peer in browser.found() if peer.label == label), None)


# -- finding -----------------------------------------------------------------------------------------


async def test_a_node_is_found_changes_and_goes(label: str) -> None:
    async with browsing() as browser:
        async with announcing(label, Announcement(4321, NODE, "r1", ITEMS)) as announcer:
            await until(browser, lambda: label in browser.peers)
            assert browser.peers[label] == Peer(
                label,
                NODE,
                ("127.0.0.1",),
                4321,
                "r1",
                tuple(Item(item.kind, item.name, item.id[:4]) for item in ITEMS),
            )
            for revision in ("r2", "r3", "r4"):
                await announcer.update(Announcement(4321, NODE, revision))
            await until(browser, lambda: browser.peers[label].revision == "r4")
            assert browser.peers[label].items == ()
        await until(browser, lambda: label not in browser.peers)


async def test_a_question_from_a_port_of_its_own_is_answered_to_that_port(label: str) -> None:
    """However often others have asked, and whatever is multicast: that one does not listen there at all."""
    zeroconf = Zeroconf(interfaces=["127.0.0.1"], unicast=True)
    await zeroconf.async_wait_for_start()
    wanted = f"{label}.{SERVICE}"
    async with announcing(label, Announcement(4321, NODE)) as announcer, asyncio.timeout(15):
        for _ in range(3):
            zeroconf.cache.cache.clear()
            one_shot = OneShot(SERVICE, lambda host: host == "127.0.0.1", Faults())
            one_shot.ask([loopback()], zeroconf)
            while not all(map(zeroconf.cache.async_entries_with_name, (wanted, announcer.host))):
                await zeroconf.async_wait(50)
            one_shot.stop()
    await AsyncZeroconf(zc=zeroconf).async_close()


@pytest.mark.red_without("N7", "a new command asks only from the port that all nodes share")
async def test_a_node_whose_multicast_answers_are_late_or_lost_is_found(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stranger() as zeroconf:
        send = zeroconf.zeroconf.async_send

        def send_to_askers(out: DNSOutgoing, address: str | None = None, *more: Any) -> None:
            if address is not None:
                send(out, address, *more)

        monkeypatch.setattr(zeroconf.zeroconf, "async_send", send_to_askers)
        zeroconf.zeroconf.registry.async_add(service(label))
        async with browsing() as browser:
            await until(browser, lambda: label in browser.peers)


@pytest.mark.red_without(
    "N6", "an answer to a command's own port may come from any address, or from any port"
)
@pytest.mark.parametrize(
    ("host", "port", "reached", "taken"),
    [
        ("127.0.0.1", 5353, True, True),
        ("192.0.2.9", 5353, True, True),
        ("192.0.2.9", 5353, False, False),
        ("192.0.2.9", 40000, True, False),
    ],
)
async def test_answers_are_taken_from_nodes_of_this_network_alone(
    host: str, port: int, reached: bool, taken: bool
) -> None:
    faults = Faults()
    async with stranger() as zeroconf:
        cache = zeroconf.zeroconf.cache
        listener = Listener(zeroconf.zeroconf, {host: reached}.__getitem__, loopback(), faults)
        said = service("pl@bob", parsed_addresses=[host])
        answer = DNSOutgoing(0x8400)
        for record in (said.dns_pointer(), *said.dns_addresses()):
            answer.add_answer_at_time(record, 0)
        for packet in (b"", b"\xff" * 40, bytes(9001), *answer.packets()):
            listener.datagram_received(packet, (host, port))
        assert bool(cache.async_entries_with_name(SERVICE)) == taken
        assert not faults.counts


@pytest.mark.red_without("N7", "two questions from ports of their own are the same packet")
async def test_no_question_is_the_same_packet_as_another() -> None:
    """Those who answer take the same packet within a second for a copy."""
    loop = asyncio.get_running_loop()
    one_shots = [OneShot(SERVICE, lambda host: True, Faults()) for _ in range(2)]
    async with stranger() as zeroconf, asyncio.timeout(15):
        with multicast_socket() as wire:
            for one_shot in one_shots:
                one_shot.ask([loopback()], zeroconf.zeroconf)
            packets = [await loop.sock_recv(wire, 9000) for _ in range(4)]
            for one_shot in one_shots:
                one_shot.stop()
    assert len(set(packets)) == 4


async def test_the_same_again_is_not_sent(label: str) -> None:
    """What changes for a team alone shall not be heard."""
    loop = asyncio.get_running_loop()

    async def said_again(wire: socket.socket, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while label.encode() not in await loop.sock_recv(wire, 9000):
                    pass
                return True
        return False

    with multicast_socket() as wire:
        said = Announcement(4321, NODE, "r1")
        announcer = Announcer(label, interfaces=LO, bounds=replace(DISCOVERY, updates_s=0))
        await announcer.start(said)
        assert await said_again(wire, 5)
        while await said_again(wire, 1):
            pass
        await announcer.update(replace(said))
        assert not await said_again(wire, 1)
        await announcer.update(replace(said, revision="r2"))
        assert await said_again(wire, 5)
        await announcer.stop()


async def test_a_node_that_was_there_before_is_found(label: str) -> None:
    async with announcing(label, Announcement(4321, NODE)), browsing() as browser:
        await until(browser, lambda: label in browser.peers, 3)


async def test_a_node_does_not_find_itself(label: str) -> None:
    other = label + "-other"
    async with browsing() as browser:
        own = Announcer(label, interfaces=LO)
        browser.ignore(own.host)
        await own.start(Announcement(4321, NODE))
        async with announcing(other, Announcement(4321, NODE)):
            await until(browser, lambda: other in browser.peers)
            assert label not in browser.peers
        await own.stop()
        async with announcing(label, Announcement(4321, NODE, tls=4322)):  # all is as ours, but the process
            await until(browser, lambda: label in browser.peers)
            assert browser.peers[label].tls == 4322


async def test_a_name_that_is_taken_gets_a_suffix(label: str) -> None:
    async with browsing() as browser, announcing(label, Announcement(4321, NODE)):
        async with announcing(label, Announcement(4322, NODE)) as second:
            assert second.name == f"{label}-2"
            await until(browser, lambda: {label, f"{label}-2"} <= set(browser.peers))
            ports = {peer.port for peer in browser.found() if peer.label.startswith(label)}
            assert ports == {4321, 4322}


@pytest.mark.parametrize("free_s", [60.0, 0.0], ids=["lately", "long ago"])
async def test_a_name_that_was_looked_for_before(
    label: str, free_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it was taken then, or is since, another is found."""
    monkeypatch.setattr(announcer_module, "_FREE_S", free_s)
    early = Announcer(label, interfaces=LO)
    await early.look_for_name()
    async with announcing(label, Announcement(4321, NODE)) as first:
        late = Announcer(label, interfaces=LO)
        await late.look_for_name()
        await late.start(Announcement(4322, NODE))
        await early.start(Announcement(4323, NODE))
        assert (first.name, late.name) == (label, f"{label}-2")
        assert early.name == f"{label}-3"
        await asyncio.gather(early.stop(), late.stop())


@pytest.mark.parametrize(
    "wanted", ["pl@bob.lab.example-{}", "équipe@hôte-{}", "pl\x1b[31m@bob-{}", "{}" + "é" * 80, "a\u202eb-{}"]
)
async def test_any_label_can_be_announced(label: str, wanted: str) -> None:
    unique = label[-10:]
    async with (
        browsing() as browser,
        announcing(wanted.format(unique), Announcement(4321, NODE)) as announcer,
    ):
        await until(browser, lambda: named(browser, announcer.name) is not None)
        assert unique in announcer.name
        assert "." not in announcer.name
        assert announcer.name.isprintable()


async def test_an_interface_that_does_not_exist(label: str) -> None:
    with pytest.raises(UsageError, match="nosuch0"):
        await Browser(interfaces=["nosuch0"]).start()
    with pytest.raises(UsageError, match="nosuch0"):
        await Announcer(label, interfaces=["nosuch0"]).start(Announcement(1, NODE))
    looking = Announcer(label, interfaces=["nosuch0"])
    looking.look_for_name()
    with pytest.raises(UsageError, match="nosuch0"):
        await looking.start(Announcement(1, NODE))


async def test_an_address_that_is_withdrawn_is_dropped(label: str) -> None:
    async with browsing() as browser, stranger() as zeroconf:
        info = service(label, parsed_addresses=["127.0.0.1", "127.0.0.9"])
        await hear(browser, zeroconf, [info], f"{label}-z")
        await until(browser, lambda: label in browser.peers)
        assert browser.peers[label].addresses == ("127.0.0.1", "127.0.0.9")
        goodbye = DNSOutgoing(0x8400)
        (record,) = (one for one in info.dns_addresses(override_ttl=0) if one.address[-1] == 9)
        record.unique = False
        goodbye.add_answer_at_time(record, 0)
        zeroconf.zeroconf.async_send(goodbye)
        await until(browser, lambda: browser.peers[label].addresses == ("127.0.0.1",))


async def test_an_address_that_another_replaces_is_dropped_without_a_goodbye(label: str) -> None:
    """It stays in the cache for a second beside the new one; packets with goodbyes get lost."""
    async with browsing() as browser, stranger() as zeroconf:
        info = service(label, parsed_addresses=["127.0.0.9"])
        await hear(browser, zeroconf, [info], f"{label}-z")
        await until(browser, lambda: label in browser.peers)
        zeroconf.zeroconf.registry.async_remove(info)  # answers no more questions
        await asyncio.sleep(2.6)  # what is younger than a second is not replaced (RFC 6762, 10.2)
        moved = DNSOutgoing(0x8400)
        now = service(label, parsed_addresses=["127.0.0.1"], server=info.server)
        for record in now.dns_addresses():
            moved.add_answer_at_time(record, 0)
        zeroconf.zeroconf.async_send(moved)
        await until(browser, lambda: browser.peers[label].addresses == ("127.0.0.1",))


def test_addresses_that_are_lost_are_withdrawn() -> None:
    sent: list[DNSOutgoing] = []
    announcer = Announcer("pl@bob")
    zeroconf = SimpleNamespace(zeroconf=SimpleNamespace(async_send=sent.append))
    announcer._multicast = cast(Any, StillNetwork(zeroconf))

    def withdrawn(before: list[str], now: list[str]) -> list[str]:
        sent.clear()
        announcer._withdraw_addresses(
            service("x", parsed_addresses=before), service("x", parsed_addresses=now)
        )
        messages = [DNSIncoming(packet) for out in sent for packet in out.packets()]
        records = [record for message in messages for record in message.answers()]
        assert all(record.ttl == 0 and not record.unique for record in records)
        addresses = (record.address for record in records if isinstance(record, DNSAddress))
        return sorted(str(ipaddress.ip_address(address)) for address in addresses)

    assert withdrawn(["192.0.2.7", "fe80::7"], ["fe80::7"]) == ["192.0.2.7"]
    assert withdrawn(["192.0.2.7", "fd00::7", "fe80::7"], ["192.0.2.7"]) == ["fd00::7", "fe80::7"]
    assert withdrawn(["192.0.2.7"], ["192.0.2.8"]) == ["192.0.2.7"]
    assert withdrawn(["192.0.2.7"], ["192.0.2.7", "192.0.2.8"]) == []
    assert withdrawn(["192.0.2.7"], []) == [], "there is nowhere to say so"


# -- what strangers say ------------------------------------------------------------------------------


async def hear(
    browser: Browser, zeroconf: AsyncZeroconf, services: list[AsyncServiceInfo], last: str
) -> None:
    """Announce ``services``, then an honest one; what was not found by then is not going to be."""
    for info in services:
        await (await zeroconf.async_register_service(info, cooperating_responders=True, strict=False))
    await zeroconf.async_register_service(service(last), cooperating_responders=True)
    await until(browser, lambda: last in browser.peers)


@pytest.mark.holds("N6")
@pytest.mark.red_without("N6", "all addresses of a peer are kept")
async def test_addresses_elsewhere_are_not_dialled(label: str) -> None:
    elsewhere = ["8.8.8.8", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255"]
    async with browsing() as browser, stranger() as zeroconf:
        services = [
            service(f"{label}-a", parsed_addresses=elsewhere),
            service(f"{label}-b", parsed_addresses=[*elsewhere, "127.0.0.9"]),
            service(f"{label}-c", parsed_addresses=[f"127.0.1.{n}" for n in range(40)]),
            service(f"{label}-d", port=0),
        ]
        await hear(browser, zeroconf, services, f"{label}-z")
        await until(browser, lambda: f"{label}-c" in browser.peers)
        assert f"{label}-a" not in browser.peers
        assert f"{label}-d" not in browser.peers
        assert browser.peers[f"{label}-b"].addresses == ("127.0.0.9",)
        assert len(browser.peers[f"{label}-c"].addresses) == DISCOVERY.addresses


@pytest.mark.parametrize(
    "txt",
    [
        b"",
        b"\0",
        b"\xff" * 300,
        os.urandom(300),
        b"\x05v=1\x00\x00",
        b"\x03v=2",
        b"\x03v=1\x0cm.a=01234567\x0cm.\x1b=01234567\x10m.../../x=01234567",
        b"\x03v=1" + b"".join(b"\x0fm.%05d=01234567" % n for n in range(80)),
    ],
)
async def test_nasty_txt(label: str, txt: bytes) -> None:
    async with browsing() as browser, stranger() as zeroconf:
        await hear(browser, zeroconf, [service(f"{label}-x", properties=txt)], f"{label}-z")
        peer = named(browser, f"{label}-x")
        if peer is not None:
            assert len(peer.items) <= DISCOVERY.items
            assert all(item.name.isprintable() and ".." not in item.name for item in peer.items)


async def test_nasty_names_are_made_safe_to_print(label: str) -> None:
    nasty = f"{label}\u202e\u200b\ue000"
    async with browsing() as browser, stranger() as zeroconf:
        await hear(browser, zeroconf, [service(nasty)], f"{label}-z")
        await until(browser, lambda: any(peer.label.startswith(f"{label}?") for peer in browser.found()))
        assert all(peer.label.isprintable() for peer in browser.found())


@pytest.mark.parametrize("instance", [b"\xff" * 30, b"\xff" + b"x" * 61, b"."])
async def test_a_name_that_cannot_be_written_again_does_not_end_our_questions(
    label: str, instance: bytes
) -> None:
    async with browsing() as browser, stranger() as zeroconf:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            named = dns_name(instance, *KIND)
            sock.sendto(dns_response(dns_record(dns_name(*KIND), 12, named)), ("224.0.0.251", 5353))
        await hear(browser, zeroconf, [], f"{label}-a")  # so the record has come as well
        question = generate_service_query(
            browser._multicast.zeroconf.zeroconf, current_time_millis(), {SERVICE}, True, None
        )
        packets = [packet for out in question for packet in out.packets()]
        assert packets
        for packet in packets:
            message = DNSIncoming(packet)
            assert message.valid and len(message.answers()) == message.num_answers > 0


@pytest.mark.red_without("N6", "any number of peers is kept")
async def test_no_more_peers_than_allowed_and_those_that_answered_stay(label: str) -> None:
    browser = Browser(interfaces=LO, bounds=replace(DISCOVERY, peers=3))
    async with browsing(browser), stranger() as zeroconf:
        await hear(browser, zeroconf, [], f"{label}-first")
        browser.confirm(f"{label}-first", "127.0.0.1", 7)
        await hear(browser, zeroconf, [service(f"{label}-{n}") for n in range(8)], f"{label}-last")
        assert len(browser.peers) <= 3
        assert f"{label}-first" in browser.peers


async def test_one_host_that_answers_by_many_names_hides_nobody(label: str) -> None:
    browser = Browser(interfaces=LO, bounds=replace(DISCOVERY, peers=4, confirmed=2))
    async with browsing(browser), stranger() as zeroconf:
        for number in range(8):
            name = f"{label}-{number}"
            await hear(browser, zeroconf, [], name)
            browser.confirm(name, "127.0.0.1", 2000 + number)
        await hear(browser, zeroconf, [], f"{label}-honest")
        await hear(browser, zeroconf, [], f"{label}-one-more")
        assert f"{label}-honest" in browser.peers


def crowd(browser: Browser, *labels: str) -> None:
    """Let these be heard of, as many others after them as there is room for."""
    for label in (*labels, *(f"made-up-{number}" for number in range(browser._bounds.peers))):
        browser._keep(Peer(label, "", ("127.0.0.9",), 7))


@pytest.mark.red_without(
    "N6", "places are reserved for each name that has answered, not for each address and port"
)
def test_made_up_names_for_one_place_use_up_nothing_that_others_need() -> None:
    browser = Browser(bounds=replace(DISCOVERY, peers=6, confirmed=2))
    for number in range(4):
        browser._keep(Peer(f"f{number}", "", ("127.0.0.1",), 7))
        browser.confirm(f"f{number}", "127.0.0.1", 7)
    browser._keep(Peer("honest", "", ("127.0.0.1",), 8))
    browser.confirm("honest", "127.0.0.1", 8)
    crowd(browser)
    assert {"f0", "honest"} < set(browser.peers)
    assert "f1" not in browser.peers, "one name for a place is enough"


@pytest.mark.red_without(
    "N6", "a name that moves or stops answering keeps its place, and known names are not looked at again"
)
@pytest.mark.parametrize("how", ["moves", "keeps silent", "goes"])
def test_a_name_that_stands_for_a_place_no_more_gives_it_back(how: str) -> None:
    browser = Browser(bounds=replace(DISCOVERY, peers=6, confirmed=1))
    for name in ("false", "honest"):
        browser._keep(Peer(name, "", ("127.0.0.1",), 7))
        browser.confirm(name, "127.0.0.1", 7)
    assert list(browser._confirmed) == ["false"]
    if how == "moves":
        browser.confirm("false", "127.0.0.2", 7)
    elif how == "keeps silent":
        browser.unanswered("false")
    else:
        browser._doubt("false")
    browser.confirm("honest", "127.0.0.1", 7)
    assert browser._freed, "others for the place may have had to go, and are looked for among the known"
    crowd(browser)
    assert "honest" in browser.peers
    assert ("false" in browser.peers) == (how == "moves")


@pytest.mark.red_without(
    "N6", "a name that moves or stops answering keeps its place, and known names are not looked at again"
)
async def test_a_name_that_had_to_go_is_found_when_the_place_of_another_is_free(label: str) -> None:
    """What is withdrawn was the only name that this node kept of a place; the other is still announced."""
    browser = Browser(interfaces=LO, bounds=replace(DISCOVERY, peers=3))
    async with browsing(browser), stranger() as zeroconf:
        await hear(browser, zeroconf, [], f"{label}-honest")
        browser._drop(f"{label}-honest")
        await hear(browser, zeroconf, [], f"{label}-false")
        browser.confirm(f"{label}-false", "127.0.0.1", 7)
        browser._drop(f"{label}-false")
        await until(browser, lambda: f"{label}-honest" in browser.peers)


KIND = (b"_overlaysync", b"_tcp", b"local")


def dns_name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def dns_record(owner: bytes, kind: int, data: bytes, ttl: int = 4500) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def dns_response(*records: bytes) -> bytes:
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def flood_packet(rng: random.Random) -> bytes:
    """A response that announces a dozen nodes, each whole: PTR, SRV, TXT and A records."""
    records = []
    for _ in range(12):
        instance = b"flood-%016x" % rng.getrandbits(64)
        owner, host = dns_name(instance, *KIND), dns_name(instance, b"local")
        records += [
            dns_record(dns_name(*KIND), 12, owner),
            dns_record(owner, 33, struct.pack(">HHH", 0, 0, 9) + host),
            dns_record(owner, 16, b"\x03v=1\x0cm.\x1b[=01234567"),
            dns_record(host, 1, bytes([127, *rng.randbytes(3)])),
        ]
    return dns_response(*records)


def long_bitmap(rng: random.Random) -> bytes:
    """An NSEC record of all types there could be."""
    windows = b"".join(bytes([window, 32]) + b"\xff" * 32 for window in range(250))
    owner = dns_name(b"flood-%016x" % rng.getrandbits(64), *KIND)
    return dns_response(dns_record(owner, 47, b"\xc0\x0c" + windows))


def long_text(rng: random.Random) -> bytes:
    """A TXT record as long as a packet."""
    owner = dns_name(b"flood-%016x" % rng.getrandbits(64), *KIND)
    return dns_response(dns_record(owner, 16, (b"\xff" + rng.randbytes(255)) * 33))


def few_names(rng: random.Random) -> bytes:
    """The same few names again and again, each time for another time."""
    first = dns_record(dns_name(*KIND), 12, b"\x01x\xc0\x0c")
    names = (b"\x02%02x\xc0\x0c" % rng.randrange(50) for _ in range(300))
    return dns_response(
        first, *(dns_record(b"\xc0\x0c", 12, name, rng.randrange(1 << 30, 1 << 31)) for name in names)
    )


_FLOOD = """
import asyncio, os, random, resource, socket, sys
from tests.discovery import test_discovery as ours

async def main(make, count):
    rng = random.Random(1)
    async with ours.browsing() as browser:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            for _ in range(count):
                sock.sendto(make(rng), ("224.0.0.251", 5353))
                await asyncio.sleep(0)
        label = f"after-{os.getpid()}"
        async with ours.announcing(label, ours.Announcement(4322, ours.NODE)):
            await ours.until(browser, lambda: label in browser.peers)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)

asyncio.run(main(getattr(ours, sys.argv[1]), int(sys.argv[2])))
"""


@pytest.mark.holds("N6")
@pytest.mark.parametrize(("make", "count"), [("long_bitmap", 300), ("long_text", 8000), ("few_names", 2000)])
def test_nothing_that_is_kept_of_records_is_without_bound(make: str, count: int) -> None:
    """In a process of its own, for a peak of memory of its own."""
    words = [sys.executable, "-c", _FLOOD, make, str(count)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30, "MiB"


@pytest.mark.holds("N6")
@pytest.mark.slow
async def test_a_flood_bounds_memory_and_hides_nobody(label: str) -> None:
    rng = random.Random(1)
    async with browsing() as browser, announcing(f"{label}-a", Announcement(4321, NODE)):
        await until(browser, lambda: f"{label}-a" in browser.peers)
        browser.confirm(f"{label}-a", "127.0.0.1", 7)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            for _ in range(2100):  # 100,000 records
                sock.sendto(flood_packet(rng), ("224.0.0.251", 5353))
                await asyncio.sleep(0)
        assert len(browser.peers) <= DISCOVERY.peers
        async with announcing(f"{label}-b", Announcement(4322, NODE)):
            await until(browser, lambda: f"{label}-b" in browser.peers, 10)
        assert f"{label}-a" in browser.peers
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


# -- machines ----------------------------------------------------------------------------------------


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a network namespace of its own, with nothing in it but a loopback that is down."""
    unshare = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    prelude = (
        f"cd {Path(__file__).resolve().parents[2]}; node='{sys.executable} -m tests.discovery.neighbour'\n"
    )
    return subprocess.run(
        [*unshare, "bash", "-euc", prelude + script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        check=False,
    )


def test_two_processes_on_this_machine() -> None:
    unique = f"{random.getrandbits(40):010x}"
    command = [sys.executable, "-m", "tests.discovery.neighbour"]
    root = Path(__file__).resolve().parents[2]
    pairs = [(f"a@x-{unique}", f"bb@x-{unique}"), (f"bb@x-{unique}", f"a@x-{unique}")]
    nodes = [subprocess.Popen([*command, *pair], cwd=root) for pair in pairs]
    assert [node.wait(timeout=30) for node in nodes] == [0, 0]


@pytest.mark.red_without("N7", "nothing is announced on the loopback interface")
def test_two_nodes_with_nothing_but_a_loopback() -> None:
    done = in_namespace(
        """
        ip link set lo up
        $node a@x bb@x & first=$!
        $node bb@x a@x
        wait $first
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("announced on lo\n") == 2
    assert done.stdout.count("found 127.0.0.1\n") == 2


@pytest.mark.holds("N7")
@pytest.mark.red_without("N7", "an interface without a route counts as one without multicast")
def test_two_machines_on_one_wire_without_any_route() -> None:
    done = in_namespace(
        """
        mount -t tmpfs tmpfs /run
        ip netns add other
        ip link set lo up
        ip link add lab0 type veth peer name lab1 netns other
        ip address add 10.77.0.1/24 dev lab0
        ip link set lab0 up
        ip -n other link set lo up
        ip -n other address add 10.77.0.2/24 dev lab1
        ip -n other link set lab1 up
        ip netns exec other $node a@x bb@x & first=$!
        $node bb@x a@x
        wait $first
        """
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("found")) == [
        "found 10.77.0.1",
        "found 10.77.0.2",
    ]


_ELSEWHERE = """
import asyncio
import socket

from zeroconf import DNSOutgoing, DNSPointer, RecordUpdateListener
from overlaysync.net.faults import Faults
from overlaysync.discovery.multicast import Multicast

GROUP, RESPONSE, PTR, IN = "224.0.0.251", 0x8400, 12, 1

class Names(RecordUpdateListener):
    heard = asyncio.Event()

    def async_update_records(self, zeroconf, now, records):
        for record in records:
            print(record.new.alias)
        self.heard.set()

def say(name, address):
    answer = DNSOutgoing(RESPONSE)
    answer.add_answer_at_time(DNSPointer("_x._tcp.local.", PTR, IN, 60, name), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
        speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        speaker.sendto(answer.packets()[0], (GROUP, 5353))

async def main():
    joined = socket.inet_aton(GROUP) + socket.inet_aton("10.77.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        multicast = Multicast(["lo"], Faults())
        await multicast.start()
        multicast.zeroconf.zeroconf.async_add_listener(Names(), None)
        say("elsewhere.local.", "10.77.0.1")
        say("here.local.", "127.0.0.1")
        await Names.heard.wait()
        await multicast.close()

asyncio.run(main())
"""


def test_what_was_joined_for_another_program_is_not_heard() -> None:
    """A node that uses one interface does not answer on another, where the system's own mDNS listens."""
    done = in_namespace(
        f"""
        ip link set lo up
        ip link add lab0 type veth peer name lab1
        ip address add 10.77.0.1/24 dev lab0
        ip link set lab0 up
        ip link set lab1 up
        {sys.executable} -c {shlex.quote(_ELSEWHERE)}
        """
    )
    assert done.stdout == "here.local.\n", done.stderr


@pytest.mark.holds("N7")
@pytest.mark.red_without("N7", "tap interfaces are used like all others")
@pytest.mark.red_without("N7", "an interface that the user names is not used")
@pytest.mark.red_without("N7", "multicast goes to every interface, whichever are chosen")
def test_taps_are_left_out_unless_named() -> None:
    def both_on(interface: str) -> str:
        """What two nodes print, and whether the guest behind a tap has heard of them."""
        return in_namespace(
            f"""
            mount -t tmpfs tmpfs /run
            ip netns add guest
            ip link set lo up
            ip link add tap7 type veth peer name eth0 netns guest
            ip address add 10.78.0.1/24 dev tap7
            ip link set tap7 up
            ip -n guest link set eth0 up
            mkfifo /run/began
            ip netns exec guest {sys.executable} -m tests.e2e.sniffer /run/heard >/run/began & sniffer=$!
            read </run/began
            $node a@x bb@x {interface} & first=$!
            $node bb@x a@x {interface}
            wait $first
            kill $sniffer
            if grep -q _overlaysync /run/heard; then echo heard; else echo not heard; fi
            """
        ).stdout

    usual = both_on("")
    assert usual.count("announced on lo\n") == 2
    assert usual.endswith("\nnot heard\n")
    chosen = both_on("tap7")
    assert chosen.count("announced on tap7\n") == 2
    assert chosen.count("found 10.78.0.1\n") == 2
    assert chosen.endswith("\nheard\n")


def test_without_a_network_the_reason_is_said() -> None:
    done = in_namespace("$node a@x bb@x")
    assert done.returncode == 1
    assert "Discovery does not work here: there is no network interface to use" in done.stderr
    assert "--peer HOST" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_machine_where_multicast_fails(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    def refuse(*what: object) -> str:
        return "no multicast (Network is unreachable)"

    monkeypatch.setattr("overlaysync.discovery.multicast.why_unusable", refuse)
    with pytest.raises(NetworkError, match="Network is unreachable"):
        await Browser(interfaces=LO).start()
    with pytest.raises(NetworkError, match="Network is unreachable"):
        await Announcer(label, interfaces=LO).start(Announcement(1, NODE))


async def test_the_mdns_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*what: object, **more: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("overlaysync.discovery.multicast.Sturdy", taken)
    with pytest.raises(NetworkError, match="already in use") as caught:
        await Browser(interfaces=LO).start()
    assert "--peer" in caught.value.hint
