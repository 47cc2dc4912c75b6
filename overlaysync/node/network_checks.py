"""Checks of the network: interfaces, multicast, the port, and whether another machine has this one's key."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal

from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.browser import Browser
from overlaysync.discovery.interfaces import Interface
from overlaysync.errors import NetworkError
from overlaysync.model.addresses import is_link_local
from overlaysync.net.messages import DEFAULT_PORT, Address
from overlaysync.node.checks import NETWORK_FAILS, Check
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.session import looking
from overlaysync.node.twins import Twin
from overlaysync.trust.keys import node_id

_MULTICAST_S = 5.0

_CONNECT_S = 2.0

_TWINS_S = 2.0
"""Others are looked for this long. If one is still being asked then, its answer may take as long again."""

_DISCARD_PORT = 9
"""What the doctor announces: a port where nobody answers."""


def check_interfaces(chosen: tuple[Interface, ...], found: tuple[Interface, ...]) -> Check:
    """Return which interfaces are used, and why others are not."""
    used = ", ".join(f"{item.name} ({', '.join(item.lasting) or 'no address that lasts'})" for item in chosen)
    skipped = [f"{item.name} ({item.left_out or 'not named'})" for item in found if item not in chosen]
    meaning = f"used: {used or 'none'}" + (f"; left out: {', '.join(skipped)}" if skipped else "")
    if not chosen:
        return Check(
            "interfaces", "fail", meaning, "connect a network, or name one: --iface NAME", NETWORK_FAILS
        )
    if all(_is_loopback(item) for item in chosen):
        return Check(
            "interfaces", "warn", meaning, "only nodes on this machine are found; --iface NAME adds one"
        )
    return Check("interfaces", "ok", meaning)


def _is_loopback(interface: Interface) -> bool:
    return all(subnet.ip.is_loopback for subnet in interface.addresses)


async def check_network(chosen: tuple[Interface, ...]) -> list[Check]:
    """Return whether multicast works on the interfaces, and whether this machine can be reached."""
    checks = await asyncio.gather(*(_check_multicast(interface) for interface in chosen))
    lan = [check for check, interface in zip(checks, chosen, strict=True) if not _is_loopback(interface)]
    if any(check.state == "ok" for check in lan):
        # One interface is enough: another may be a tunnel, which has no multicast.
        checks = [_milder(check) for check in checks]
    return [*checks, await _check_port(chosen)]


def _milder(check: Check) -> Check:
    return dataclasses.replace(check, state="warn") if check.state == "fail" else check


async def _check_multicast(interface: Interface) -> Check:
    """Announce a node that is none on one pair of sockets, and listen for it on another."""

    name, only = f"multicast {interface.name}", (interface.name,)
    browser = Browser(interfaces=only)
    announcer = Announcer(f"doctor@{os.getpid()}-{os.urandom(3).hex()}", interfaces=only)
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(_MULTICAST_S):
            stack.push_async_callback(browser.stop)
            await browser.start()
            stack.push_async_callback(announcer.stop)
            await announcer.start(Announcement(port=_DISCARD_PORT, node_id=node_id(os.urandom(32))))
            while announcer.name not in browser.peers:
                await browser.changed()
            others = len(browser.peers) - 1
    except TimeoutError:
        why, advice = (
            "its own announcement was not heard",
            "let UDP port 5353 pass the firewall of this machine",
        )
    except NetworkError as error:
        why, advice = error.why or error.what, "name another interface with --iface"
    else:
        return Check(name, "ok", f"its own announcement was heard; other nodes: {others}")
    state: Literal["warn", "fail"] = "warn" if _is_loopback(interface) else "fail"
    return Check(name, state, why, f"{advice}, or use --peer HOST", NETWORK_FAILS)


async def _check_port(chosen: tuple[Interface, ...]) -> Check:
    """Listen as a sharing node does, and connect to every own address."""

    dual = socket.has_dualstack_ipv6()
    every = [(str(subnet.ip), item.name) for item in chosen for subnet in item.addresses]
    addresses = [
        f"{address}%{name}" if is_link_local(address) else address
        for address, name in every
        if dual or ":" not in address
    ]
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        listener = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
    except OSError as error:
        return Check("port", "fail", f"cannot listen: {error.strerror}", exit_code=NETWORK_FAILS)
    async with await asyncio.start_server(lambda _, writer: writer.close(), sock=listener):
        port = listener.getsockname()[1]
        refused = [address for address in addresses if not await _connects(address, port)]
    if refused or not addresses:
        advice = "let TCP connections to the port of 'overlaysync share' (see --port) pass the firewall"
        return Check(
            "port", "fail", f"not reached at {', '.join(refused) or 'any address'}", advice, NETWORK_FAILS
        )
    meaning = f"reached from here at {', '.join(addresses)}; other machines may still meet a firewall"
    if not is_free(DEFAULT_PORT):
        meaning += f"; port {DEFAULT_PORT} is taken, so the next share takes a free one"
    return Check("port", "ok", meaning)


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError:
        return False
    return True


async def _connects(address: str, port: int) -> bool:

    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def meet_twins(node: Node, peers: Sequence[Address], interfaces: Sequence[str]) -> list[Twin]:
    """Return other machines with this machine's key that are announced, or named by OVERLAYSYNC_PEERS.

    This is the one time that ``doctor`` meets peers: what else it is to ask them belongs here.
    """

    try:
        async with looking(node, Silent(), Network(peers, interfaces, catalogs=bool(peers))) as reach:
            found = reach.twins.found
            await reach.until(lambda: bool(found), wait_s=_TWINS_S)
            if reach.looking:
                await reach.until(lambda: bool(found) or not reach.looking, wait_s=_TWINS_S)
            return list(found.values())
    except NetworkError:  # the checks of the network say so
        return []
