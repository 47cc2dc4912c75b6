"""Commands that look and explain: tree, doctor, demo."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from overlaysync.cli.common import InterfaceOption, open_node, output_of
from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.net.interfaces import Interface
    from overlaysync.node.node import Node
    from overlaysync.ops.tree import Entry, Tree
    from overlaysync.store.home import Home


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command("tree")(tree)
    app.command("doctor")(doctor)
    app.command("demo")(demo)


# -- demo --------------------------------------------------------------------------------------------


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's directory.")] = False,
) -> None:
    """Show the main job in a minute: two nodes on this machine, without QEMU."""
    from overlaysync.cli.demo import run

    run(output_of(context), keep=keep)


# -- tree --------------------------------------------------------------------------------------------


def tree(
    context: typer.Context,
    svg: Annotated[str | None, typer.Option("--svg", metavar="FILE", help="Draw it into this file.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace any file of that name.")] = False,
) -> None:
    """Show masters, overlays and promotions as a family tree."""
    from overlaysync.ops.tree import draw_svg, draw_text

    output = output_of(context)
    with open_node() as node:
        family = _family(node)
    document: dict[str, Any] = {"tree": [_entry_fields(row.entry) for row in family.rows]}
    lines = draw_text(family)
    if svg is not None:
        _write_drawing(svg, draw_svg(family), replace)
        document["svg"] = os.path.abspath(svg)
        lines = [output.good(f"{svg}  family tree of {len(family.rows)} images")]
    output.result(document, *lines)
    if not family.rows and not output.json:
        output.note("no image is known yet; try: overlaysync id PATH, or: overlaysync fetch REF")


def _family(node: Node) -> Tree:
    """The tree of what this node knows, without the files that are gone."""
    from overlaysync.model.datamap import DataMap
    from overlaysync.ops.resolve import Listing
    from overlaysync.ops.tree import build_tree
    from overlaysync.trust.envelope import open_envelope

    rows = [row for row in node.catalog.all_images() if os.path.exists(row.path)]
    changed = {row.path for row in rows if node.library.known(row.path) is None}
    manifests = node.catalog.manifests()
    sizes: dict[bytes, int] = {}
    for content in {row.layer or row.disk for row in rows} - {row.content for row in manifests}:
        pages = node.catalog.pages.load_list(content)
        if pages is not None:
            sizes[content] = DataMap(pages, node.library.load_page).size
    listings = [Listing(open_envelope(row.envelope)) for row in manifests]
    return build_tree(rows, listings, changed=changed, data_sizes=sizes)


def _entry_fields(entry: Entry) -> dict[str, Any]:
    from datetime import UTC, datetime

    from overlaysync.model.digest import format_id
    from overlaysync.ops.tree import EntryKind

    def text(id: bytes | None) -> str | None:
        return format_id(id) if id else None

    return {
        "name": entry.name,
        "kind": entry.kind.value,
        "virtual_size": entry.virtual_size,
        "data_size": entry.data_size,
        "disk": text(entry.disk),
        "layer": text(entry.id) if entry.kind is EntryKind.OVERLAY else None,
        "parent": text(entry.parent),
        "stands_on": text(entry.base),
        "promoted_to": text(entry.promoted),
        "versions": [
            {"name": item.name, "version": item.version, "by": item.by, "created": item.created}
            for item in entry.versions
        ],
        "copies": [
            {
                "path": copy.path,
                "format": copy.format,
                "changed": copy.changed,
                "verified_at": datetime.fromtimestamp(copy.verified_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for copy in entry.copies
        ],
    }


def _write_drawing(path: str, text: str, replace: bool) -> None:
    """Write the drawing whole or not at all; over an older drawing, or over any file when told so.

    Raises:
        WouldDestroyError: something else is there.
    """
    from overlaysync.errors import WouldDestroyError
    from overlaysync.ops.tree import SVG_START
    from overlaysync.store.files import translate

    real = os.path.realpath(path)
    try:
        old = os.path.lexists(real)
        if old and not os.path.isfile(real):
            raise WouldDestroyError(f"{path} is not a file", hint="choose another name")
        if old and not replace and not _begins_with(real, SVG_START):
            raise WouldDestroyError(
                f"{path} exists and is not a family tree", hint="choose another name, or say --replace"
            )
        _put(real, text, new=not old)
    except OSError as error:
        raise translate(error, f"Cannot write {path}") from error


def _begins_with(path: str, start: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start.encode()


def _put(path: str, text: str, *, new: bool) -> None:
    """Give ``path`` a text; a ``new`` one replaces nothing."""
    from overlaysync.store.files import rename_new

    parent, name = os.path.split(path)
    scratch = f".{name}.{os.getpid()}"
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(scratch, flags, 0o666, dir_fd=directory)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            if new:
                rename_new(directory, scratch, name)
            else:
                os.replace(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(scratch, dir_fd=directory)
            raise
    finally:
        os.close(directory)


# -- doctor ------------------------------------------------------------------------------------------

_NETWORK, _SPACE = 4, 10
"""Exit codes of failed checks; any other failure has 1."""
_MULTICAST_S, _CONNECT_S, _QEMU_S = 5.0, 2.0, 10.0
_FIRST_YEAR, _CLOCK_S = 2025, 2.0
_HOME_SPACE, _IMAGE_SPACE = (64 << 20, 1 << 30), (1 << 30, 10 << 30)
"""Free bytes below which a check fails, and below which it warns."""
_CHECKED_CATALOG = 256 << 20
"""Bytes of the largest catalog that is read through."""
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
    """Check network, clock, space, locks and QEMU, and say what to do."""
    import asyncio

    from overlaysync.net.interfaces import choose_interfaces, list_interfaces

    output = output_of(context)
    found = list_interfaces()
    chosen = choose_interfaces(iface or (), found)
    started, monotonic = time.time(), time.monotonic()
    checks = [_check_interfaces(chosen, found)]
    output.note("listening for multicast ...")
    checks += asyncio.run(_check_network(chosen))
    checks.append(_check_running_clock(time.time() - started, time.monotonic() - monotonic))
    checks += _check_home()
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
    used = ", ".join(f"{item.name} ({', '.join(item.ipv4) or 'no IPv4'})" for item in chosen)
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
    import asyncio

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
    import asyncio
    from contextlib import AsyncExitStack

    from overlaysync.errors import NetworkError
    from overlaysync.net.discovery import Announcement, Announcer, Browser
    from overlaysync.trust.keys import node_id

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
    return Check(name, state, why, f"{advice}, or use --peer HOST:PORT", _NETWORK)


async def _check_port(chosen: tuple[Interface, ...]) -> Check:
    """Listen as a sharing node does, and connect to every own address."""
    import asyncio
    import socket

    dual = socket.has_dualstack_ipv6()
    subnets = [subnet for item in chosen for subnet in item.addresses if not subnet.ip.is_link_local]
    addresses = [str(subnet.ip) for subnet in subnets if dual or subnet.version == 4]
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
    return Check("port", "ok", meaning)


async def _connects(address: str, port: int) -> bool:
    import asyncio

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
    """The home: may it be used, where does it lie, is the catalog whole, is there room."""
    from overlaysync.errors import OverlaysyncError
    from overlaysync.store.home import Home

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
        _check_catalog(home),
        _tried("file times", _check_file_times, str(home.root)),
        _check_space("space at home", str(home.root), *_HOME_SPACE),
    ]


def _check_catalog(home: Home) -> Check:
    import sqlite3

    from overlaysync.errors import OverlaysyncError
    from overlaysync.store.catalog import Catalog

    try:
        Catalog.open(home).close()
        size = home.catalog.stat().st_size
        problem = "ok"
        if size <= _CHECKED_CATALOG:
            connection = sqlite3.connect(home.catalog)
            (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.close()
    except OverlaysyncError as error:
        return Check("catalog", "fail", str(error), error.hint, error.exit_code)
    except (OSError, sqlite3.Error) as error:
        problem = str(error)
    if problem != "ok":
        advice = (
            f"stop overlaysync and move {home.catalog} away; no image is lost, only what is known of them"
        )
        return Check("catalog", "fail", problem, advice)
    return Check("catalog", "ok", f"SQLite {sqlite3.sqlite_version}, {_size(size)}")


def _check_file_times(directory: str) -> Check:
    import tempfile

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
    """A check that needs to write in ``directory``, which may not be allowed."""
    try:
        return check(directory)
    except OSError as error:
        return Check(name, "warn", f"cannot be tried in {directory}: {error.strerror}")


def _check_space(name: str, directory: str, least: int, enough: int) -> Check:
    import shutil

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
    import tempfile

    from overlaysync.formats.locks import hold_read_lock, in_use

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
    import fcntl
    import tempfile

    with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as target:
        source.write(bytes(1 << 16))
        source.flush()
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError:
            return Check("reflinks here", "ok", "not known to this file system; only 'cp' would use them")
    return Check("reflinks here", "ok", "'cp --reflink' shares the blocks of an image")


def _check_qemu() -> Check:
    import shutil
    import subprocess

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
    from overlaysync.units import format_size

    return format_size(size)
