"""A disk that is cloned, with the node's home on it: the copy takes another key, or the two meet."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.e2e.nodes import DONE, Lab, Node, Share, until
from tests.e2e.room import Host, room

pytestmark = [pytest.mark.lan, pytest.mark.holds("N14")]

CARDS = ("52:54:00:00:00:0a", "52:54:00:00:00:0b")


def run_on(host: Host, script: str) -> None:
    subprocess.run([*host.prefix, "sh", "-ec", script], check=True)


def plug_in(host: Host, base: Path, address: str) -> None:
    """Give the host a network card: what the kernel shows of its ``lan0`` looks like one from now on."""
    shown = base / "cards"
    card = shown / "lan0"
    (card / "device").mkdir(parents=True)
    (card / "address").write_text(f"{address}\n")
    (card / "addr_assign_type").write_text("0\n")
    run_on(host, f"mount --bind {shown} /sys/class/net")


def boot(host: Host, base: Path) -> None:
    """Give the host a kernel's start of its own, and the name that is on the disk."""
    mark = base / "boot"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"boot of host {host.number}\n")
    run_on(host, f"hostname lab && mount --bind {mark} /proc/sys/kernel/random/boot_id")


@contextmanager
def cloned(disk: Path, copy: Path, host: Host) -> Iterator[Node]:
    """The node on ``disk``, copied: on that host the copy is where the original is on its own."""
    shutil.copytree(disk, copy, copy_function=shutil.copy2)
    run_on(host, f"mount --bind {copy} {disk}")
    with closing(Node(disk, host.prefix)) as node:
        yield node


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    with room(2) as made:
        original, other = made.hosts
        for host in made.hosts:
            boot(host, tmp_path / f"host{host.number}")
        yield original, other


def note_of(share: Share, *words: str) -> str:
    """The note with all these words that a share gives."""

    def noted() -> str:
        fitting = (line for line in share.stderr.splitlines() if all(word in line for word in words))
        return next(fitting, "")

    return until(noted, within_s=30, what=lambda: f"a note with {words}: {share.stderr}")


def failed_check(node: Node, name: str) -> dict[str, str] | None:
    """The doctor's check of that name, if it fails."""
    checks = node.run("doctor", "--json").document["checks"]
    return next((check for check in checks if check["name"] == name and check["state"] == "fail"), None)


def write_to(image: Path, host: Host, data: str) -> None:
    run_on(host, f"printf {data} | dd of={image} conv=notrunc status=none")


def test_a_copy_takes_a_key_of_its_own_and_shares_as_another(
    machines: tuple[Host, Host], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with Lab(tmp_path) as lab, ExitStack() as stack:
        for host, card in zip(machines, CARDS, strict=True):
            plug_in(host, tmp_path / f"host{host.number}", card)
        original = lab.node("disk", prefix=machines[0].prefix)
        image = original.place / f"{lab.name('web')}.raw"
        image.write_bytes(os.urandom(MIB))
        share = original.share(image)
        share.stop()
        own = original.json("key", "show")
        copy = stack.enter_context(cloned(disk, tmp_path / "copy", machines[1]))

        first = copy.share(image)
        note_of(first, "other network hardware", "overlaysync key restore")
        (passed_on,) = first.document()["shared"]
        first.stop()
        assert passed_on["publisher"] == own["fingerprint"], "what has not changed is the original's still"
        key = copy.json("key", "show")
        assert key["fingerprint"] != own["fingerprint"]
        assert [one["fingerprint"] for one in key["former"]] == [own["fingerprint"]]

        write_to(image, machines[1], "new")
        second = copy.share(image)
        note_of(second, f"'{image.stem}' belongs to", own["fingerprint"])
        assert "network hardware" not in second.stderr, "said once"
        (published,) = second.document()["shared"]
        assert published["publisher"] == key["fingerprint"]
        running = original.share(image)
        listed = original.json("peers", "--wait", 3)["peers"]
        assert {peer["id"] for peer in listed} == {own["fingerprint"], key["fingerprint"]}
        running.stop()
        second.stop()

        assert copy.json("key", "restore")["fingerprint"] == own["fingerprint"]
        again = copy.run("ls", "--local")
        assert again.code == DONE and "network hardware" not in again.stderr
        assert copy.json("key", "show")["fingerprint"] == own["fingerprint"]
        assert original.json("key", "show") == own


def test_two_machines_with_one_key_say_so_on_both(machines: tuple[Host, Host], tmp_path: Path) -> None:
    """Machines that hardware does not tell apart, as virtual ones with one address are not."""
    disk = tmp_path / "disk"
    with Lab(tmp_path) as lab, ExitStack() as stack:
        original = lab.node("disk", prefix=machines[0].prefix)
        image = original.place / f"{lab.name('web')}.raw"
        image.write_bytes(os.urandom(MIB))
        original.run("id", image)
        copy = stack.enter_context(cloned(disk, tmp_path / "copy", machines[1]))
        shares = [node.start_share(image) for node in (original, copy)]
        for share, other in zip(shares, reversed(machines), strict=True):
            note_of(share, "Another machine", other.address, "overlaysync key new")
        listed = original.run("ls", "--json")
        assert "Another machine" in listed.stderr and machines[1].address in listed.stderr
        check = until(
            lambda: failed_check(original, "key"), within_s=30, what="that the doctor sees the copy"
        )
        assert check and machines[1].address in check["meaning"]
        assert "overlaysync key new" in check["advice"]

        assert copy.json("key", "new")["former"]
        shares[1].stop()
        shares[1] = copy.share(image)
        assert "Another machine" not in original.run("ls", "--json").stderr
