"""Which interfaces are used for multicast DNS, and which announced addresses are worth a try."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from zeroconf import DNSAddress, DNSOutgoing  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncZeroconf

from overlaysync.discovery import multicast as module
from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.interfaces import Interface
from overlaysync.discovery.multicast import Multicast, Repeats
from overlaysync.discovery.record_limits import Sturdy
from overlaysync.errors import NetworkError, UsageError
from overlaysync.net.faults import Faults

pytestmark = pytest.mark.red_without(
    "N7", "a link-local address is dialled with any scope that it came with, or without one"
)


def interface(name: str, index: int, *addresses: str) -> Interface:
    return Interface(name, tuple(map(ipaddress.ip_interface, addresses)), index=index)


LO = interface("lo", 1, "127.0.0.1/8", "::1/128")
LAN = interface("eth0", 2, "192.0.2.7/24", "2001:db8::7/64", "fe80::7/64")
OTHER = interface("eth1", 3, "198.51.100.7/24", "fe80::8/64")


class Engine:
    """Stands for the library: keeps what it was told to use."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(senders=[], readers=[])
        self.told: list[list[str | int]] = []

    async def async_update_interfaces(self, interfaces: list[str | int]) -> None:
        self.told.append(interfaces)
        self.engine.senders = interfaces


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Interface]]:
    """The interfaces of a machine, all with working multicast where they have addresses for it."""
    present = [LO, LAN]
    monkeypatch.setattr(module, "list_interfaces", lambda: tuple(present))
    monkeypatch.setattr(module, "_why_no_ipv4", lambda one: "" if one.ipv4 else "no IPv4 address")
    monkeypatch.setattr(module, "_why_no_ipv6", lambda one: "" if one.link_local else "no link-local address")
    yield present


def looking(*named: str) -> tuple[Multicast, Engine]:
    made, engine = Multicast(named, Faults()), Engine()
    made._zeroconf = cast(Any, SimpleNamespace(zeroconf=engine))
    made.look()
    return made, engine


async def test_sockets_follow_the_interfaces(found: list[Interface]) -> None:
    made, engine = looking()
    await made.adapt()
    assert engine.told == [["127.0.0.1", "192.0.2.7", "fe80::7"]]
    assert not made.look()
    await made.adapt()
    assert len(engine.told) == 1, "nothing has changed"
    found[1:] = [replace(LAN, addresses=(ipaddress.ip_interface("192.0.2.9/24"),)), OTHER]
    assert made.look()
    await made.adapt()
    assert engine.told[1:] == [["127.0.0.1", "192.0.2.9", "198.51.100.7", "fe80::8"]]
    found.clear()
    assert made.look() and not made.interfaces
    await made.adapt()
    assert engine.told[2:] == [[]]


async def test_a_socket_that_could_not_be_had_is_tried_again(found: list[Interface]) -> None:
    made, engine = looking()
    await made.adapt()
    engine.engine.senders = ["127.0.0.1"]
    await made.adapt()
    assert engine.told == [["127.0.0.1", "192.0.2.7", "fe80::7"]] * 2


@pytest.mark.red_without("N7", "an interface that was unplugged and plugged in again keeps its old sockets")
async def test_an_interface_that_was_unplugged_between_two_looks_gets_new_sockets(
    found: list[Interface],
) -> None:
    made, engine = looking()
    await made.adapt()
    found[1] = replace(LAN, index=7)
    assert made.look()
    await made.adapt()
    assert engine.told[1:] == [["127.0.0.1"], ["127.0.0.1", "192.0.2.7", "fe80::7"]]


async def test_interfaces_with_one_link_local_address_are_told_apart(found: list[Interface]) -> None:
    found.append(interface("vlan28", 28, "fe80::7/64"))
    made, engine = looking()
    await made.adapt()
    assert engine.told == [["127.0.0.1", "192.0.2.7", 2, 28]]


async def test_a_named_interface_may_go_and_come(found: list[Interface]) -> None:
    made, _ = looking("eth0")
    for present in ([LO, LAN], [LO], [LO, LAN]):
        found[:] = present
        made.look()
        assert made.interfaces == tuple(one for one in present if one is LAN)


async def test_who_can_wait_for_a_network_still_names_interfaces_that_there_are() -> None:
    with pytest.raises(UsageError, match="nosuch0"):
        await Multicast(("nosuch0",), Faults()).start(patient=True)


async def test_who_cannot_wait_for_a_network_is_told_why(found: list[Interface]) -> None:
    found[:] = [interface("eth0", 2, "2001:db8::7/64")]
    with pytest.raises(NetworkError, match="eth0: no link-local address"):
        await Multicast((), Faults()).start()


async def test_announced_addresses_the_most_promising_first(found: list[Interface]) -> None:
    found.append(OTHER)
    made, _ = looking()
    heard = ["::1", "127.0.0.9", "fe80::9%2", "2001:db8::9", "192.0.2.9", "198.51.100.9"]
    assert made.reachable(heard) == ("192.0.2.9", "198.51.100.9", "2001:db8::9", "fe80::9%eth0")
    assert made.reachable(heard[:3]) == ("fe80::9%eth0", "127.0.0.9", "::1")
    assert len(made.reachable(f"192.0.2.{number}" for number in range(50))) == DISCOVERY.addresses


@pytest.mark.parametrize(
    "address",
    [
        "fe80::9",  # heard on no link in particular
        "fe80::7",  # our own address, on whatever link
        "fe80::9%1",  # the loopback has no such addresses
        "fe80::9%3",  # not an interface of ours
        "fe80::9%0",
        "fe80::9%eth0",  # heard interfaces have numbers
        "2001:db8:1::9",
        "198.51.100.9",
        "ff02::fb",
        "::",
    ],
)
async def test_announced_addresses_that_are_not_dialled(found: list[Interface], address: str) -> None:
    made, _ = looking()
    assert made.reachable([address]) == ()


def test_after_a_change_things_are_done_again_a_few_times() -> None:
    repeats = Repeats()
    assert not repeats.due(0)
    repeats.begin(100)
    assert [second for second in range(100, 300) if repeats.due(second)] == [102, 108, 132]


@pytest.mark.red_without("N7", "another machine's loopback address is taken for ours")
@pytest.mark.parametrize(("source", "kept"), [("127.0.0.1", True), ("10.77.0.2", False), ("fe80::2", False)])
@pytest.mark.parametrize("address", [b"\x7f\x00\x00\x01", bytes(15) + b"\x01"])
async def test_no_other_machine_is_found_on_our_loopback(source: str, kept: bool, address: bytes) -> None:
    """As it says while it has not seen its network: through the library, as if it came from a socket."""
    zeroconf = Sturdy(Faults(), interfaces=["127.0.0.1"])
    await zeroconf.async_wait_for_start()
    answer = DNSOutgoing(0x8400)
    kind = 1 if len(address) == 4 else 28
    answer.add_answer_at_time(DNSAddress("early.local.", kind, 1, 120, address), 0)
    try:
        zeroconf.engine.protocols[0].datagram_received(answer.packets()[0], (source, 5353))
        assert bool(zeroconf.cache.async_entries_with_name("early.local.")) == kept
    finally:
        await AsyncZeroconf(zc=zeroconf).async_close()
