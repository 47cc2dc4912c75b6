"""Lines of a log: who begins to fetch, who is done, who has left; nothing of a stranger's makes a line."""

from __future__ import annotations

import msgspec

from overlaysync.node.deliveries import Deliveries
from overlaysync.swarm.members import Member, Members
from overlaysync.trust.envelope import Manifest
from overlaysync.units import MIB
from tests.net.fuzzing_decoders import MASTER

MANIFEST = Manifest(
    b"m" * 32, msgspec.structs.replace(MASTER, name="web", version=3, data_size=8 * MIB), bytes(32), b""
)


class Scene:
    """Deliveries of one image."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.members = Members()
        self.deliveries = Deliveries(self.lines.append)

    def sent(self, host: str, size: int, now: float) -> None:
        self.deliveries.sent(MANIFEST, host, size, self.members, now)

    def asks(self, label: str, host: str, held: int, now: float) -> None:
        self.members.seen(Member(f"{label:0<16}"[:16], host, 4000, held, label), 10, now)

    def look(self, now: float) -> list[str]:
        self.deliveries.look(lambda _: self.members, now)
        said, self.lines[:] = self.lines[:], []
        return said


def test_who_fetches_is_said_once_and_how_much_when_it_is_done() -> None:
    scene = Scene()
    scene.asks("etu@oscar", "192.0.2.9", 0, 0)
    for now in (1, 2, 3):
        scene.sent("192.0.2.9", 2 * MIB, now)
    assert scene.look(4) == ["etu@oscar (192.0.2.9) fetches web:3"]
    scene.asks("etu@oscar", "192.0.2.9", 10, 5)
    assert scene.look(5) == ["etu@oscar (192.0.2.9) has all of web:3; this machine sent 6 MiB in 2.0 s"]
    assert scene.look(60) == []


def test_who_leaves_is_said_and_one_that_is_no_member_goes_by_its_address() -> None:
    scene = Scene()
    scene.asks("etu@oscar", "192.0.2.9", 0, 0)
    scene.sent("192.0.2.9", MIB, 1)
    scene.sent("2001:db8::7", 4 * MIB, 1)
    scene.sent("2001:db8::8", 4 * MIB, 3)  # the same network: one machine may have many addresses
    assert scene.look(4)[1:] == ["2001:db8::7 fetches web:3"]
    assert scene.look(20) == [
        "etu@oscar (192.0.2.9) left before it had all of web:3; this machine sent 1 MiB in 0.0 s",
        "2001:db8::7 has all of web:3; this machine sent 8 MiB in 2.0 s",
    ]


def test_several_nodes_of_one_address_are_named_together() -> None:
    scene = Scene()
    for name in "abcde":
        scene.asks(name, "192.0.2.9", 0, 0)
    scene.sent("192.0.2.9", MIB, 0)
    assert scene.look(1) == ["a, b, c and 2 more (192.0.2.9) fetches web:3"]
    for name in "abcd":
        scene.asks(name, "192.0.2.9", 10, 2)
    assert scene.look(3) == []
    scene.asks("e", "192.0.2.9", 10, 4)
    assert len(scene.look(5)) == 1


def test_a_flood_of_addresses_is_not_remembered() -> None:
    scene = Scene()
    for number in range(5000):
        scene.sent(f"10.0.{number // 250}.{number % 250}", 1, 0)
    assert len(scene.look(1)) == 1024
