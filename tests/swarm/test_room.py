"""Rooms of nodes that fetch one content at once: how long the last one takes, and what the seed has to send.

Every figure is of the model (:mod:`tests.swarm.simulator`) with its own random numbers, so it is the same
each time. The limits leave little room: a change of the schedule that costs a tenth fails.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlaysync.swarm.source import Failure
from overlaysync.units import MIB
from tests.swarm import wires
from tests.swarm.simulator import RATE, Manner, Node, Room

pytestmark = pytest.mark.holds("N5")

SIZE = 256 * MIB
IDEAL = SIZE / RATE


def room_of(count: int, size: int = SIZE, seed: int = 0) -> tuple[Room, Node, list[Node]]:
    room = Room(size, seed=seed)
    return room, room.seed(), room.peers(count)


def honest(room: Room) -> None:
    """What holds in every room."""
    assert room.counts.absent == 0, "somebody was asked for what it did not have"
    assert room.counts.early == 0, "something was asked for twice before it was late"
    for node in room.nodes.values():
        if node.done_at is not None:
            assert node.log.held.complete() and node.log.cursor == room.data.count


# -- alike -------------------------------------------------------------------------------------------


@pytest.mark.red_without(
    "N5", "pieces are not assigned: each peer fetches the rarest (a test with four real nodes stays green)"
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "limit"), [(1, 1.02), (2, 1.04), (4, 1.05), (8, 1.06), (16, 1.08), (30, 1.1)]
)
def test_the_last_finisher(count: int, limit: int) -> None:
    room, seed, _ = room_of(count)
    assert room.run().ratio() <= limit
    assert room.sent(seed) <= 1.05
    assert room.counts.doubles == 0
    honest(room)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_whatever_the_random_numbers_are(seed: int) -> None:
    room, source, _ = room_of(8, seed=seed)
    assert room.run().ratio() <= 1.06
    assert room.sent(source) <= 1.05
    honest(room)


@pytest.mark.slow
def test_a_hundred() -> None:
    room, seed, _ = room_of(100, SIZE // 2)
    assert room.run().ratio() <= 1.25
    assert room.sent(seed) <= 1.05
    assert seed.wire.said_bytes <= 0.05 * room.size
    honest(room)


@pytest.mark.slow
def test_a_small_content() -> None:
    room, seed, _ = room_of(8, 16 * MIB)
    assert room.run().ratio() <= 1.6
    assert room.sent(seed) <= 1.3
    honest(room)


@pytest.mark.parametrize(("rate", "limit"), [(RATE / 10, 1.15), (RATE * 10, 1.5)])
@pytest.mark.slow
def test_slower_and_faster_links(rate: float, limit: float) -> None:
    size = 64 * MIB if rate < RATE else SIZE
    room = Room(size)
    room.seed(rate=rate)
    room.peers(8, up=rate)
    assert room.run().ratio(rate) <= limit
    honest(room)


def test_several_seeds_share_the_work() -> None:
    room = Room(SIZE)
    seeds = [room.seed(f"seed{number}") for number in range(4)]
    room.peer("one")
    assert room.run().ratio() <= 1.05
    assert max(room.sent(seed) for seed in seeds) <= 0.3
    honest(room)


# -- not alike ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_start_times_spread_over_three_seconds() -> None:
    room = Room(SIZE)
    seed = room.seed()
    for number in range(8):
        room.peer(f"p{number}", at=room.random.uniform(0, 3))
    assert room.run().ratio() <= 1.15
    assert room.sent(seed) <= 1.15
    honest(room)


@pytest.mark.slow
def test_who_comes_when_half_is_done() -> None:
    room, seed, peers = room_of(8)
    late = room.peer("late", at=IDEAL / 2)
    room.run()
    assert room.ratio(nodes=[late]) <= 1.1
    assert room.ratio(nodes=peers) <= 1.1
    assert room.sent(seed) <= 1.2
    honest(room)


@pytest.mark.slow
def test_who_comes_when_all_is_done() -> None:
    room, _, _ = room_of(8)
    late = room.peer("late", at=1.5 * IDEAL)
    assert room.run().ratio(nodes=[late]) <= 1.05
    honest(room)


@pytest.mark.slow
def test_a_slow_peer_does_not_slow_the_others() -> None:
    room, _, _ = room_of(7)
    alone = room.run().ratio()
    room, seed, others = room_of(7)
    slow = room.peer("slow", up=RATE / 20)
    room.clock.run(lambda: all(node.done_at for node in others), 300)
    assert room.ratio(nodes=others) <= 1.1 * alone
    assert room.sent(seed) <= 1.25
    assert room.run(1000).ratio(nodes=[slow]) <= 20 * 1.05
    honest(room)


@pytest.mark.slow
def test_links_of_different_speeds_are_all_used() -> None:
    room = Room(SIZE)
    room.seed(rate=4 * RATE)
    nodes = {times: [room.peer(f"p{times}{who}", up=times * RATE) for who in "abc"] for times in (1, 2, 3)}
    room.run()
    for times, alike in nodes.items():
        assert room.ratio(times * RATE, alike) <= 1.15
    honest(room)


# -- that go wrong -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_seed_goes_when_there_is_one_copy_among_the_others() -> None:
    room, seed, peers = room_of(8)

    def look() -> None:
        if all(any(piece in node.log.held for node in peers) for piece in range(room.data.count)):
            room.kill(seed)
        else:
            room.clock.after(0.05, look)

    look()
    assert room.run().ratio(nodes=peers) <= 1.15
    assert seed.gone and room.sent(seed) < 1.15
    honest(room)


@pytest.mark.slow
def test_the_seed_goes_too_early() -> None:
    room, seed, peers = room_of(4)
    room.clock.at(IDEAL / 2, room.kill, seed)
    room.run(300)
    held = {node.log.cursor for node in peers}
    assert all(node.gave_up for node in peers)
    assert len(held) == 1 and 0.3 * room.data.count < held.pop() < room.data.count
    assert room.clock.now < IDEAL / 2 + 40
    honest(room)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False])
def test_a_third_is_killed(at_once: bool) -> None:
    room, seed, peers = room_of(12)
    killed = room.random.sample(peers, 4)
    for node in killed:
        room.clock.at(10.0 if at_once else room.random.uniform(2, 18), room.kill, node)
    assert room.run().ratio() <= 1.25
    assert sum(node.done_at is not None for node in peers) == 8
    assert room.sent(seed) <= 1.4
    honest(room)


@pytest.mark.slow
def test_a_link_is_cut_and_put_back() -> None:
    room, _, peers = room_of(8)
    room.clock.at(8.0, peers[3].wire.cut, 5.0)
    room.run()
    assert room.ratio(nodes=[peers[3]]) <= (IDEAL + 5.0) / IDEAL + 0.25
    assert room.ratio(nodes=[node for node in peers if node is not peers[3]]) <= 1.15
    assert all(not node.schedule.dropped() for node in peers if node.schedule)
    honest(room)


@pytest.mark.slow
def test_the_seeds_link_is_cut_and_put_back() -> None:
    room, seed, _ = room_of(8)
    room.clock.at(8.0, seed.wire.cut, 5.0)
    assert room.run().ratio() <= (IDEAL + 5.0) / IDEAL + 0.15
    honest(room)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_four_of_five_seeds_lie(count: int) -> None:
    room = Room(SIZE)
    for number in range(5):
        room.seed(f"seed{number}", manner=Manner.LYING if number else Manner.HONEST)
    peers = room.peers(count)
    assert room.run().ratio() <= 1.1
    liars = {f"seed{number}": Failure.WRONG for number in range(1, 5)}
    assert [node.schedule and node.schedule.dropped() for node in peers] == [liars] * count
    honest(room)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manner", "failure"), [(Manner.LYING, Failure.WRONG), (Manner.BOASTING, Failure.GONE)]
)
def test_half_of_the_peers_lie(manner: Manner, failure: Failure) -> None:
    room = Room(SIZE)
    seed = room.seed()
    for number in range(4):
        room.peer(f"bad{number}", manner=manner)
    good = [room.peer(f"good{number}") for number in range(4)]
    room.run()
    # The bad ones' share is lost to the others: the seed sends it to both.
    assert room.ratio(nodes=good) <= 1.5 * 1.1
    assert room.sent(seed) <= 1.5 * 1.15
    for node in good:
        assert node.schedule and node.schedule.dropped() == {f"bad{number}": failure for number in range(4)}
    assert room.counts.early == 0


def test_one_of_three_seeds_stalls() -> None:
    room = Room(SIZE)
    for number in range(3):
        room.seed(f"seed{number}", manner=Manner.HONEST if number else Manner.STALLING)
    room.peer("one")
    assert room.run().ratio() <= 1.1
    honest(room)


@pytest.mark.slow
def test_one_of_three_peers_stalls() -> None:
    room, seed, peers = room_of(2)
    room.peer("stalling", manner=Manner.STALLING)
    room.run()
    # A third of the pieces come in with the stalling one, and again.
    assert room.ratio(nodes=peers) <= 1.5
    assert room.sent(seed) <= 1.4
    honest(room)


@pytest.mark.slow
def test_many_stall() -> None:
    """More than requests may be under way: they must not use up all of them."""
    room = Room(64 * MIB)
    room.seed(rate=4 * RATE)
    good = room.peers(8)
    for number in range(20):
        room.peer(f"stalling{number}", manner=Manner.STALLING)
    room.clock.run(lambda: all(node.done_at for node in good), 120)
    assert room.ratio(nodes=good) <= 4.5
    honest(room)


@pytest.mark.slow
def test_all_stay_a_moment_only() -> None:
    room = Room(SIZE, stay=1.0)
    room.seed()
    peers = [room.peer(f"p{number}", at=number * 1.0) for number in range(8)]
    room.run()
    assert all(node.done_at for node in peers)
    assert max((node.done_at or 0) - node.started_at for node in peers) <= 1.25 * IDEAL
    honest(room)


@pytest.mark.slow
def test_a_busy_seed_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(8 * MIB)
    seed = room.seed()
    peers = room.peers(30)
    for node in peers[:8]:  # they take what comes so slowly that all places are taken
        node.wire.down = RATE / 100
    monkeypatch.setattr(wires, "WAITING", 8)
    room.clock.run(lambda: all(node.done_at for node in peers[8:]), 60)
    assert room.counts.busy > 5
    assert room.ratio(nodes=peers[8:]) <= 8
    assert room.sent(seed) <= 4
    honest(room)


# -- that claim and do not pass on ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("count", "greedy", "limit"), [(8, 1, 1.1), (8, 3, 1.15), (30, 2, 1.25)])
def test_some_claim_pieces_and_read_nothing(count: int, greedy: int, limit: float) -> None:
    room, seed, others = room_of(count)
    for number in range(greedy):
        room.peer(f"greedy{number}", down=1.0)
    room.clock.run(lambda: all(node.done_at for node in others), 120)
    assert room.ratio(nodes=others) <= limit
    assert room.sent(seed) <= 1.1
    honest(room)


@pytest.mark.slow
def test_one_in_fifteen_is_killed() -> None:
    room, seed, peers = room_of(30)
    for node in room.random.sample(peers, 2):
        room.clock.at(room.random.uniform(2, 18), room.kill, node)
    assert room.run().ratio() <= 1.15
    assert room.sent(seed) <= 1.1
    honest(room)


# -- the simulator itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(("seed_rate", "down"), [(RATE, RATE / 4), (RATE / 4, RATE)])
def test_one_transfer_takes_as_long_as_its_slowest_link(seed_rate: float, down: float) -> None:
    room = Room(32 * MIB)
    room.seed(rate=seed_rate)
    room.peer("one", down=down)
    assert room.run().ratio(RATE / 4) == pytest.approx(1.0, abs=0.03)


def test_nodes_that_do_not_know_of_each_other_share_the_seeds_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """They claim nothing either: only a node that others are told of may."""
    say = Room._say
    monkeypatch.setattr(Room, "_claim", lambda *_: True, raising=True)
    monkeypatch.setattr(Room, "_say", lambda *args: replace(say(*args), members=(), crowd=0), raising=True)
    room, seed, _ = room_of(4, 32 * MIB)
    times = room.run().times()
    assert room.sent(seed) == pytest.approx(4.0, abs=0.01)
    assert times[-1] == pytest.approx(4 * room.size / RATE, rel=0.03)
    assert times[0] > 0.8 * times[-1]
