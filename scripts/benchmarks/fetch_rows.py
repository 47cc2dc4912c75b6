"""Rows of what two nodes do: fetches of masters, overlays, newer versions and promoted masters."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks import images
from benchmarks.bench import NAME, Bench, Line, at_most
from benchmarks.images import GIB, KIB, MIB
from benchmarks.measure import CannotMeasureError, FileWatch, Series, run, serving, take_turns
from benchmarks.row import check_equal, clean


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
