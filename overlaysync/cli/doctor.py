"""The doctor: what could keep overlaysync from working on this machine, and what to do about it."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Literal

import typer

from overlaysync.cli.common import InterfaceOption, open_node, parse_peers
from overlaysync.cli.output import Output, output_of
from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.browser import Browser
from overlaysync.discovery.interfaces import Interface, choose_interfaces, list_interfaces
from overlaysync.errors import NetworkError, OverlaysyncError
from overlaysync.formats.locks import hold_read_lock, in_use
from overlaysync.model.addresses import is_link_local
from overlaysync.net.messages import DEFAULT_PORT, Address
from overlaysync.node.identity import RESTORE, kept_keys
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.session import looking
from overlaysync.node.twins import ADVICE, Twin
from overlaysync.store.catalog import Catalog
from overlaysync.store.faultlog import FaultCount
from overlaysync.store.home import Home
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("doctor")(doctor)


_NETWORK, _SPACE = 4, 10
"""Exit codes of failed checks; any other failure has 1."""
_MULTICAST_S, _CONNECT_S, _QEMU_S, _TWINS_S = 5.0, 2.0, 10.0, 2.0
_FIRST_YEAR, _CLOCK_S = 2025, 2.0
_HOME_SPACE, _IMAGE_SPACE = (64 << 20, 1 << 30), (1 << 30, 10 << 30)
"""Free bytes below which a check fails, and below which it warns."""
_CHECKED_CATALOG = 256 << 20
"""Bytes of the largest catalog that is read through."""
_SHOWN = 5
"""Kinds of unexpected errors that are listed."""
_DISCARD_PORT = 9
"""What the doctor announces: a port where nobody answers."""
_FICLONE = 0x40049409


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What one check of the doctor found.

    Attributes:
        name: what was looked at.
        state: how it is.
        meaning: what that means.
        advice: what to do.
        exit_code: of the command, when this check failed.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    meaning: str
    advice: str = ""
    exit_code: int = 1


def doctor(context: typer.Context, iface: InterfaceOption = None) -> None:
    """Check network, clock, key, disk and QEMU.

    What is wrong is said, with what to do.
    """

    output, peers = output_of(context), parse_peers(None)
    found = list_interfaces()
    chosen = choose_interfaces(iface or (), found)
    started, monotonic = time.time(), time.monotonic()
    checks = [_check_interfaces(chosen, found)]
    output.note("listening for multicast ...")
    checks += asyncio.run(_check_network(chosen))
    checks.append(_check_running_clock(time.time() - started, time.monotonic() - monotonic))
    home = _check_home()
    checks += home
    if not any(check.name in ("home", "catalog") and check.state == "fail" for check in home):
        checks.append(_check_key(output, peers, iface or ()))
    checks += _check_directory(os.getcwd())
    checks.append(_check_qemu())
    _report(output, checks)


def _report(output: Output, checks: list[Check]) -> None:
    """Print the checks; exit with the code of what failed, the network's first."""
    codes = {check.exit_code for check in checks if check.state == "fail"}
    code = _NETWORK if _NETWORK in codes else max(codes, default=0)
    document = {
        "checks": [
            {"name": check.name, "state": check.state, "meaning": check.meaning, "advice": check.advice}
            for check in checks
        ],
        "exit_code": code,
    }
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        text = f"{check.name:{width}}  {check.meaning}"
        lines.append(output.good(text) if check.state == "ok" else f"{'!✗'[check.state == 'fail']} {text}")
        if check.advice:
            lines.append(f"  {'':{width}}  do: {check.advice}")
    output.result(document, *lines)
    if code:
        raise typer.Exit(code)


# -- doctor: the network -----------------------------------------------------------------------------


def _check_interfaces(chosen: tuple[Interface, ...], found: tuple[Interface, ...]) -> Check:
    used = ", ".join(f"{item.name} ({', '.join(item.lasting) or 'no address that lasts'})" for item in chosen)
    skipped = [f"{item.name} ({item.left_out or 'not named'})" for item in found if item not in chosen]
    meaning = f"used: {used or 'none'}" + (f"; left out: {', '.join(skipped)}" if skipped else "")
    if not chosen:
        return Check("interfaces", "fail", meaning, "connect a network, or name one: --iface NAME", _NETWORK)
    if all(_is_loopback(item) for item in chosen):
        return Check(
            "interfaces", "warn", meaning, "only nodes on this machine are found; --iface NAME adds one"
        )
    return Check("interfaces", "ok", meaning)


def _is_loopback(interface: Interface) -> bool:
    return all(subnet.ip.is_loopback for subnet in interface.addresses)


async def _check_network(chosen: tuple[Interface, ...]) -> list[Check]:

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
    return Check(name, state, why, f"{advice}, or use --peer HOST", _NETWORK)


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
        return Check("port", "fail", f"cannot listen: {error.strerror}", exit_code=_NETWORK)
    async with await asyncio.start_server(lambda _, writer: writer.close(), sock=listener):
        port = listener.getsockname()[1]
        refused = [address for address in addresses if not await _connects(address, port)]
    if refused or not addresses:
        advice = "let TCP connections to the port of 'overlaysync share' (see --port) pass the firewall"
        return Check(
            "port", "fail", f"not reached at {', '.join(refused) or 'any address'}", advice, _NETWORK
        )
    meaning = f"reached from here at {', '.join(addresses)}; other machines may still meet a firewall"
    if not _is_free(DEFAULT_PORT):
        meaning += f"; port {DEFAULT_PORT} is taken, so the next share takes a free one"
    return Check("port", "ok", meaning)


def _is_free(port: int) -> bool:

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


# -- doctor: this machine ----------------------------------------------------------------------------


def _check_running_clock(passed: float, monotonic: float) -> Check:
    year = time.gmtime().tm_year
    advice = "set it: timedatectl set-ntp true"
    if year < _FIRST_YEAR:
        return Check("clock", "fail", f"says it is {year}; what is published carries that date", advice)
    if abs(passed - monotonic) > _CLOCK_S:
        return Check("clock", "warn", f"jumped by {passed - monotonic:.1f} s while it was watched", advice)
    return Check("clock", "ok", f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC, running evenly")


def _check_home() -> list[Check]:
    """Return the home: may it be used, where does it lie, is the catalog whole, is there room."""

    home = Home.from_environment(os.environ)
    try:
        home.prepare()
    except OverlaysyncError as error:
        return [Check("home", "fail", str(error), error.hint, error.exit_code)]
    checks = [Check("home", "ok", f"{home.root}, on a local disk")]
    if home.on_network:
        meaning = f"{home.root} is on {home.on_network}: slower, and never for nodes on two machines at once"
        checks = [Check("home", "warn", meaning, "set OVERLAYSYNC_HOME to a directory on a local disk")]
    return [
        *checks,
        *_check_catalog(home),
        _tried("file times", _check_file_times, str(home.root)),
        _check_space("space at home", str(home.root), *_HOME_SPACE),
    ]


def _check_key(output: Output, peers: Sequence[Address], interfaces: Sequence[str]) -> Check:
    """Return the node key: may it be used, and does another machine use it."""

    try:
        with open_node(output) as node:
            fingerprint, kept = node_id(node.key.public), kept_keys(node.home)
            twins = asyncio.run(_meet_twins(node, peers, interfaces))
    except OverlaysyncError as error:
        return Check("key", "fail", str(error), error.hint, error.exit_code)
    if twins:
        return Check("key", "fail", "; ".join(twin.words for twin in twins), ADVICE)
    former = f"; a former key is kept, which '{RESTORE}' takes back" if kept else ""
    return Check("key", "ok", f"{fingerprint}; no other machine was seen with it{former}")


async def _meet_twins(node: Node, peers: Sequence[Address], interfaces: Sequence[str]) -> list[Twin]:
    """Other machines with this machine's key that are announced, or named by OVERLAYSYNC_PEERS."""

    try:
        async with looking(node, Silent(), Network(peers, interfaces, catalogs=bool(peers))) as reach:
            await reach.until(lambda: bool(reach.twins.found), wait_s=_TWINS_S)
            return list(reach.twins.found.values())
    except NetworkError:  # the checks of the network say so
        return []


def _check_catalog(home: Home) -> list[Check]:

    try:
        catalog = Catalog.open(home)
        faults = catalog.faults.all()
        catalog.close()
        size = home.catalog.stat().st_size
        problem = "ok"
        if size <= _CHECKED_CATALOG:
            connection = sqlite3.connect(home.catalog)
            (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.close()
    except OverlaysyncError as error:
        return [Check("catalog", "fail", str(error), error.hint, error.exit_code)]
    except (OSError, sqlite3.Error) as error:
        problem, faults = str(error), []
    if problem != "ok":
        advice = (
            f"stop overlaysync and move {home.catalog} away; no image is lost, only what is known of them"
        )
        return [Check("catalog", "fail", problem, advice)]
    whole = Check("catalog", "ok", f"SQLite {sqlite3.sqlite_version}, {_size(size)}")
    return [whole, _check_faults(faults)]


def _check_faults(faults: list[FaultCount]) -> Check:
    """Return what peers have made go wrong in a way that no code foresaw."""
    if not faults:
        return Check("faults", "ok", "no peer has caused an unexpected error")
    total = sum(fault.count for fault in faults)
    listed = "; ".join(f"{fault.kind} ({fault.count} ×, last {fault.last_at})" for fault in faults[:_SHOWN])
    more = f"; and {len(faults) - _SHOWN} more kinds" if len(faults) > _SHOWN else ""
    meaning = f"peers have caused {total} unexpected errors: {listed}{more}"
    return Check("faults", "warn", meaning, "report it: each is a fault of overlaysync or of a library")


def _check_file_times(directory: str) -> Check:

    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"x")
        file.flush()
        away = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(away) > _CLOCK_S:
        meaning = f"the file system's clock differs by {away:.0f} s: changed files may look old"
        return Check("file times", "warn", meaning, "set the clocks of this machine and of the file server")
    return Check("file times", "ok", "agree with the clock")


def _check_directory(directory: str) -> list[Check]:
    """Where images would be written."""
    return [
        _check_space("space here", directory, *_IMAGE_SPACE),
        _tried("locks here", _check_locks, directory),
        _tried("reflinks here", _check_reflink, directory),
    ]


def _tried(name: str, check: Callable[[str], Check], directory: str) -> Check:
    """Return a check that needs to write in ``directory``, which may not be allowed."""
    try:
        return check(directory)
    except OSError as error:
        return Check(name, "warn", f"cannot be tried in {directory}: {error.strerror}")


def _check_space(name: str, directory: str, least: int, enough: int) -> Check:

    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return Check(name, "fail", f"{directory}: {error.strerror}")
    meaning = f"{_size(free)} free in {directory}"
    if free < least:
        return Check(name, "fail", meaning, "free some space, or work in another directory", _SPACE)
    if free < enough:
        return Check(name, "warn", meaning, "images are large: free some space, or work in another directory")
    return Check(name, "ok", meaning)


def _check_locks(directory: str) -> Check:

    with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-") as file:
        other = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            works = hold_read_lock(file.fileno()) and in_use(other)
        finally:
            os.close(other)
    if works:
        return Check("locks here", "ok", "QEMU's image locks work on this file system")
    meaning = "this file system has no locks: whether QEMU uses an image cannot be seen"
    advice = "shut a VM down before its image is shared, or keep images on another file system"
    return Check("locks here", "warn", meaning, advice)


def _check_reflink(directory: str) -> Check:

    with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as target:
        source.write(bytes(1 << 16))
        source.flush()
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError:
            return Check("reflinks here", "ok", "not known to this file system; only 'cp' would use them")
    return Check("reflinks here", "ok", "'cp --reflink' shares the blocks of an image")


def _check_qemu() -> Check:

    program = shutil.which("qemu-img")
    if program is None:
        meaning = "qemu-img is not installed: images can be shared and promoted, but no VM runs on them here"
        return Check("qemu", "warn", meaning, "sudo apt install qemu-utils qemu-system-x86")
    try:
        text = subprocess.run(
            [program, "--help"], capture_output=True, text=True, timeout=_QEMU_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("qemu", "warn", f"{program} does not run: {error}", "install qemu-utils again")
    known = next(
        (
            line.split(":", 1)[1].split()
            for line in text.splitlines()
            if line.startswith("Supported formats:")
        ),
        [],
    )
    lacking = [format for format in ("raw", "qcow2", "qed") if format not in known]
    version = text.partition("\n")[0]
    if lacking:
        advice = f"fetch overlays with --format qcow2; QEMU here cannot open {' and '.join(lacking)}"
        return Check("qemu", "warn", f"{version}, without {', '.join(lacking)}", advice)
    return Check("qemu", "ok", f"{version}, with raw, qcow2 and qed")


def _size(size: int) -> str:

    return format_size(size)
