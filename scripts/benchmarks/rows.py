"""The rows of the table: what is measured, against what, and how."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import images
from benchmarks.bench import NAME, OVERLAYSYNC, Bench, Line, at_least, at_most
from benchmarks.images import GIB, KIB, MIB, TIB
from benchmarks.measure import CannotMeasureError, FileWatch, Series, run, serving, take_turns


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: its number, what it is called, and how it is measured."""

    number: int
    title: str
    measure: Callable[[Bench], list[Line]]


# -- 1: index ----------------------------------------------------------------------------------------


def index(bench: Bench) -> list[Line]:
    """Speeds are of the bytes that each side hashes: ours passes over holes, the other does not."""
    master = bench.master
    images.warm(master)

    def identify() -> float:
        home = bench.home()
        seconds = bench.command("id", master, home=home).seconds
        shutil.rmtree(home)
        return seconds

    times = take_turns(
        bench.runs,
        {
            "blake3": lambda: bench.worker("blake3_file", master),
            "hash_disk": lambda: bench.worker("hash_image", master),
            "id": identify,
        },
    )
    whole, ours = master.stat().st_size / 1e9, bench.data_size / 1e9
    speeds = {
        name: Series(tuple((whole if name == "blake3" else ours) / value for value in series.values))
        for name, series in times.items()
    }
    against = {"against": "BLAKE3, all threads", "theirs": speeds["blake3"].text("GB/s")}

    def ratio(name: str) -> float:
        return speeds[name].median / speeds["blake3"].median

    return [
        at_least(
            0.75,
            ratio("hash_disk"),
            what="hashing, in process",
            ours=speeds["hash_disk"].text("GB/s"),
            **against,
        ),
        at_least(
            0.6,
            ratio("id"),
            what="`id`, whole command, nothing known",
            ours=speeds["id"].text("GB/s"),
            **against,
        ),
    ]


# -- 2: first fetch ----------------------------------------------------------------------------------


def first_fetch(bench: Bench) -> list[Line]:
    master = bench.master
    target = bench.directory("fetched")
    images.warm(master)

    def fetch(peer: str) -> dict[str, float]:
        home, path = bench.home(), target / f"{NAME}.raw"
        with FileWatch(path) as watch:
            done = bench.command("fetch", NAME, "--to", target, "--peer", peer, home=home)
        clean(target, home)
        return {"whole": done.seconds, "transfer": watch.seconds}

    def receive(port: str, sync: str) -> float:
        seconds = bench.worker("receive_file", port, target / "copy.raw", sync)
        clean(target)
        return seconds

    def rsync(url: str, *words: str) -> float:
        seconds = run(["rsync", "-W", *words, f"{url}/{master.name}", target]).seconds
        clean(target)
        return seconds

    sender = [sys.executable, "-m", "benchmarks.workers", "send_file", master]
    with (
        bench.share(master, "--iface", "lo", home=bench.home(bench.master_home)) as (peer, _),
        serving(sender, {}, bench.scratch / "sender.log") as server,
        bench.rsync_daemon(master.parent) as url,
    ):
        port = str(server.read_document())
        times = take_turns(
            bench.runs,
            {
                "fetch": lambda: fetch(peer),
                "socket+fsync": lambda: receive(port, "sync"),
                "rsync+fsync": lambda: rsync(url, "--fsync"),
                "socket": lambda: receive(port, "no"),
                "rsync": lambda: rsync(url),
            },
        )
        by_name = by_mdns(bench, target)
    whole, transfer = times["fetch whole"], times["fetch transfer"]

    def line(what: str, ours: Series, against: str, side: str, limit: float | None = None) -> Line:
        theirs, ratio = times[side], ours.median / times[side].median
        fields: dict[str, Any] = {
            "what": what,
            "ours": ours.text(),
            "against": against,
            "theirs": theirs.text(),
        }
        return at_most(limit, ratio, **fields) if limit else Line(ratio=ratio, **fields)

    command, part = "`fetch`, whole command with its fsync", "its transfer and fsync alone"
    return [
        line(command, whole, "socket copy with fsync", "socket+fsync", 1.2),
        line(command, whole, "`rsync -W --fsync`, daemon", "rsync+fsync", 1.0),
        line(part, transfer, "socket copy with fsync", "socket+fsync"),
        line(command, whole, "socket copy without fsync", "socket"),
        line(command, whole, "`rsync -W` without fsync", "rsync"),
        by_name,
    ]


def by_mdns(bench: Bench, target: Path) -> Line:
    """One fetch that finds its peer by mDNS."""
    home = bench.home()
    try:
        done = bench.command("fetch", NAME, "--to", target, "--iface", "lo", home=home)
    except CannotMeasureError as error:
        return Line(what="`fetch` that finds its peer by mDNS (once)", ours=f"failed: {error}")
    clean(target, home)
    return Line(what="`fetch` that finds its peer by mDNS (once)", ours=f"{done.seconds:.2f} s")


def clean(directory: Path, *homes: Path) -> None:
    """Empty ``directory``, and remove homes."""
    for path in directory.iterdir():
        path.unlink()
    for home in homes:
        shutil.rmtree(home)


# -- 3: an overlay whose master is here --------------------------------------------------------------


def overlay(bench: Bench) -> list[Line]:
    master = bench.master
    path = bench.directory("overlays") / "router.qcow2"
    images.make_overlay(path, master, bench.size // 16)
    own, target = images.allocated(path), bench.directory("fetched")
    with bench.share(path, str(master), home=bench.home(bench.master_home)) as (peer, _):
        words = ("fetch", "router", "--to", target, "--masters", master.parent, "--peer", peer)
        fetched = bench.command(*words, home=bench.home(bench.master_home)).json["fetched"][-1]
    check_equal(path, target / "router.qcow2")
    clean(target)
    clean(path.parent)
    wire = fetched["wire"]
    return [
        at_most(
            1.01,
            wire["data"] / own,
            what=f"data on the wire (and {wire['manifest'] / KIB:.0f} KiB of manifest)",
            ours=f"{wire['data'] / MIB:.2f} MiB",
            against="allocated bytes (`qemu-img map`)",
            theirs=f"{own / MIB:.2f} MiB",
        )
    ]


def check_equal(left: Path, right: Path) -> None:
    """What was measured must also be right: ask qemu-img."""
    run(["qemu-img", "compare", "-q", left, right])


# -- 4: a newer version ------------------------------------------------------------------------------


def newer_version(bench: Bench) -> list[Line]:
    old = bench.master
    new = bench.directory("newer") / old.name
    images.copy(old, new)
    changed = images.change(new, 0.01)
    new_home = bench.home()
    bench.command("id", new, home=new_home)
    here = bench.directory("here")
    held = here / old.name
    images.copy(old, held)
    home = bench.home()
    bench.command("id", held, home=home)
    rsync_dir = bench.directory("rsync")
    target, last = rsync_dir / old.name, {}

    def fetch(peer: str) -> dict[str, float]:
        images.warm(held)
        mine, path = bench.home(home), here / f"{NAME}-new.raw"
        words = ("fetch", NAME, "--to", here, "--as", f"{NAME}-new", "--peer", peer)
        with FileWatch(path) as watch:
            done = bench.command(*words, home=mine)
        last["ours"] = done.json["fetched"][-1]
        if "checked" not in last:
            check_equal(new, path)
            last["checked"] = True
        path.unlink()
        shutil.rmtree(mine)
        return {"whole": done.seconds, "transfer": watch.seconds}

    def rsync(url: str, *words: str) -> float:
        target.unlink(missing_ok=True)
        images.copy(old, target)
        os.sync()
        images.warm(target)
        command = ["rsync", "--inplace", "--ignore-times", "--stats", *words, f"{url}/{new.name}", rsync_dir]
        done = run(command)
        last["rsync"] = next(
            int(line.split(":")[1].replace(",", ""))
            for line in done.stdout.splitlines()
            if line.startswith("Total bytes received")
        )
        return done.seconds

    images.warm(new)
    with bench.share(new, home=new_home) as (peer, _), bench.rsync_daemon(new.parent) as url:
        times = take_turns(
            bench.runs,
            {
                "fetch": lambda: fetch(peer),
                "rsync+fsync": lambda: rsync(url, "--fsync"),
                "rsync": lambda: rsync(url),
            },
        )
    for directory in (new.parent, here, rsync_dir):
        shutil.rmtree(directory)
    wire = sum(last["ours"]["wire"].values())
    whole = times["fetch whole"]
    return [
        at_most(
            1.1,
            wire / changed,
            what="bytes on the wire, manifest included",
            ours=f"{wire / MIB:.2f} MiB",
            against=f"changed bytes (`rsync` receives {last['rsync'] / changed:.2f} ×)",
            theirs=f"{changed / MIB:.2f} MiB",
        ),
        at_most(
            0.6,
            whole.median / times["rsync+fsync"].median,
            what="`fetch`, whole command with its fsync",
            ours=whole.text(),
            against="`rsync --inplace --fsync`, daemon",
            theirs=times["rsync+fsync"].text(),
        ),
        Line(
            what="the same",
            ours=whole.text(),
            against="`rsync --inplace` without fsync",
            theirs=times["rsync"].text(),
            ratio=whole.median / times["rsync"].median,
        ),
        Line(
            what="its transfer and fsync alone",
            ours=times["fetch transfer"].text(),
            against="`rsync --inplace --fsync`, daemon",
            theirs=times["rsync+fsync"].text(),
            ratio=times["fetch transfer"].median / times["rsync+fsync"].median,
        ),
    ]


# -- 5: promote --------------------------------------------------------------------------------------


def promote(bench: Bench) -> list[Line]:
    master = bench.master
    directory = bench.directory("promoted")
    path = directory / "router.qcow2"
    images.make_overlay(path, master, bench.size // 16)
    out = bench.directory("out")
    known = bench.home(bench.master_home)
    bench.command("id", path, home=known)

    def ours(home: Path) -> float:
        mine = bench.home(home)
        images.warm(path)
        done = bench.command("promote", path, "--as", "web", "--to", out, "--format", "qcow2", home=mine)
        if not (bench.scratch / "compared").exists():
            check_equal(path, out / "web.qcow2")
            (bench.scratch / "compared").touch()
        clean(out, mine)
        return done.seconds

    def theirs(*words: str) -> float:
        images.warm(path)
        command = ["qemu-img", "convert", *words, "-f", "qcow2", "-O", "qcow2", path, out / "web.qcow2"]
        seconds = run(command).seconds
        clean(out)
        return seconds

    images.warm(master)
    times = take_turns(
        bench.runs,
        {
            "promote": lambda: ours(bench.master_home),
            "convert+flush": lambda: theirs("-t", "writeback"),
            "promote, known": lambda: ours(known),
            "convert": theirs,
            "convert, direct": lambda: theirs("-t", "none"),
            "convert -W -m 8": lambda: theirs("-W", "-m", "8", "-t", "writeback"),
        },
    )
    shutil.rmtree(directory)
    convert = {"against": "`qemu-img convert -t writeback`", "theirs": times["convert+flush"].text()}

    def told(what: str, side: str, against: str) -> Line:
        fields: dict[str, Any] = {"what": what, "ours": times["promote"].text(), "against": against}
        ratio = times["promote"].median / times[side].median
        return Line(theirs=times[side].text(), ratio=ratio, **fields)

    return [
        at_most(
            0.8,
            times["promote"].median / times["convert+flush"].median,
            what="`promote`, overlay not hashed yet, with its fsync",
            ours=times["promote"].text(),
            **convert,
        ),
        Line(
            what="the same, overlay hashed before",
            ours=times["promote, known"].text(),
            ratio=times["promote, known"].median / times["convert+flush"].median,
            **convert,
        ),
        told("the first again", "convert", "`qemu-img convert`, which does not flush"),
        told("the first again", "convert, direct", "`qemu-img convert -t none`, past the page cache"),
        told("the first again", "convert -W -m 8", "`qemu-img convert -W -m 8 -t writeback`"),
    ]


# -- 6: memory ---------------------------------------------------------------------------------------


def memory(bench: Bench) -> list[Line]:
    size = 64 * MIB if bench.quick else GIB
    directory, target = bench.directory("sparse"), bench.directory("fetched")
    peaks: dict[tuple[str, str], list[int]] = {}
    for virtual_size, label in ((GIB, "1 GiB"), (TIB, "1 TiB")):
        path = directory / "sparse.raw"
        images.make_spread(path, bench.master, size, virtual_size)
        with bench.share(path) as (peer, server):
            for format in ("raw", "qcow2"):
                home = bench.home()
                words = ("fetch", "sparse", "--to", target, "--format", format, "--peer", peer)
                fetched = bench.command(*words, home=home)
                peaks.setdefault(("fetch", label), []).append(fetched.peak)
                clean(target, home)
            peaks["share", label] = [server.peak()]
        path.unlink()
    lines = []
    for command in ("share", "fetch"):
        small, large = (max(peaks[command, label]) for label in ("1 GiB", "1 TiB"))
        lines.append(
            Line(
                what=f"`{command}`, peak resident memory, {size // MIB} MiB of data in 1 TiB",
                ours=f"{large / MIB:.0f} MiB",
                against="the same data in 1 GiB",
                theirs=f"{small / MIB:.0f} MiB",
                ratio=large / small,
                reach="≤ 200 MiB, ≤ 1.25",
                good=large <= 200 * MIB and large <= 1.25 * small,
            )
        )
    return lines


# -- 7: help -----------------------------------------------------------------------------------------


def help_text(bench: Bench) -> list[Line]:
    times = take_turns(
        3 * bench.runs,
        {"--help": lambda: run([*OVERLAYSYNC, "--help"], bench.env(bench.scratch)).seconds},
    )["--help"]
    return [
        Line(what="`overlaysync --help`", ours=times.text(), reach="≤ 0.3 s", good=times.median <= 0.3),
    ]


# -- 8: a promoted master ----------------------------------------------------------------------------


def recipe(bench: Bench) -> list[Line]:
    master = bench.master
    overlays, out = bench.directory("overlays"), bench.directory("out")
    path = overlays / "router.qcow2"
    images.make_overlay(path, master, bench.size // 16)
    home, student = bench.home(bench.master_home), bench.home(bench.master_home)
    bench.command("id", path, home=student)
    bench.command("promote", path, "--as", "web", "--to", out, home=home)

    def fetch(peer: str, home: Path) -> Any:
        # The directories matter to a node that has not hashed what is there.
        words = ("fetch", "web", "--to", overlays, "--masters", master.parent, "--peer", peer)
        fetched = bench.command(*words, home=home).json["fetched"][-1]
        check_equal(path, Path(fetched["path"]))
        Path(fetched["path"]).unlink()
        return fetched["wire"]

    with bench.share(out / "web.qcow2", home=home) as (peer, _):
        wires = {"known": fetch(peer, student), "not hashed yet": fetch(peer, bench.home())}
    clean(out)
    clean(overlays)
    return [
        Line(
            what=f"bytes on the wire, manifest included; parent and layer {word}",
            ours=f"{sum(wire.values()) / KIB:.1f} KiB",
            reach="≤ 100 KiB",
            good=sum(wire.values()) <= 100 * KIB,
        )
        for word, wire in wires.items()
    ]


# -- 9: the private lane -----------------------------------------------------------------------------


def private_fetch(bench: Bench) -> list[Line]:
    """A master of at most 1 GiB, shared with a team; ssh compresses nothing, as it is set by default."""
    path = bench.directory("private") / "secret.raw"
    images.make_spread(path, bench.master, min(bench.size, GIB), min(bench.size, GIB))
    seed, member = bench.home(), bench.home()
    code = bench.command("team", "create", "red", home=seed).json["code"]
    secret = bench.scratch / "code"
    secret.touch(0o600)
    secret.write_text(code)
    bench.command("team", "join", "red", "--code-file", secret, home=member)
    bench.command("id", path, home=seed)
    images.warm(path)
    target = bench.directory("fetched")

    def fetch(peer: str) -> float:
        home = bench.home(member)
        seconds = bench.command("fetch", "secret", "--to", target, "--peer", peer, home=home).seconds
        clean(target, home)
        return seconds

    def rsync(login: str, *words: str) -> float:
        command = ["rsync", "-W", *words, "-e", login, f"127.0.0.1:{path}", target]
        seconds = run(command).seconds
        clean(target)
        return seconds

    with (
        bench.ssh_server() as login,
        bench.share(path, "--iface", "lo", "--team", "red", home=seed) as (private, _),
        bench.share(path, "--iface", "lo", "--public", "--yes", home=bench.home(seed)) as (public, _),
    ):
        times = take_turns(
            bench.runs,
            {
                "private": lambda: fetch(private),
                "rsync+fsync": lambda: rsync(login, "--fsync"),
                "rsync": lambda: rsync(login),
                "public": lambda: fetch(public),
            },
        )
    clean(path.parent)
    ours = times["private"]

    def told(against: str, side: str) -> Line:
        ratio = ours.median / times[side].median
        return Line("the same", ours.text(), against, times[side].text(), ratio)

    return [
        at_most(
            1.0,
            ours.median / times["rsync+fsync"].median,
            what="`fetch` of what belongs to a team, whole command with its fsync",
            ours=ours.text(),
            against="`rsync -W --fsync -e ssh`",
            theirs=times["rsync+fsync"].text(),
        ),
        told("`rsync -W -e ssh` without fsync", "rsync"),
        told("`fetch` of the same in public", "public"),
    ]


ALL = (
    Row(1, "Index an image that is in the page cache", index),
    Row(2, "First fetch of a public master, loopback", first_fetch),
    Row(3, "Overlay whose master is here", overlay),
    Row(4, "Newer version, 1 % changed, the old one here", newer_version),
    Row(5, "Promote, verification included", promote),
    Row(6, "Peak memory", memory),
    Row(7, "Start", help_text),
    Row(8, "Promoted master where parent and layer are held", recipe),
    Row(9, "First fetch of a team's master over TLS, loopback", private_fetch),
)
