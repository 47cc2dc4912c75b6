"""What is said of nodes that do not answer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from overlaysync.cli.looking import note_silent, once_each, problem_of
from overlaysync.cli.output import Output, Settings
from overlaysync.net.messages import Address
from overlaysync.node.network import Network
from overlaysync.node.observer import Silent
from overlaysync.node.reach import Reach
from overlaysync.node.views import PeerView

NAMED = Address("192.0.2.7", 1)


def told(capsys: pytest.CaptureFixture[str], *views: PeerView) -> str:
    nothing = cast(Any, None)
    reach = Reach(nothing, nothing, Silent(), None, Network((NAMED,)))
    reach.directory.views.update({str(view.address): view for view in views})
    note_silent(reach, Output(Settings()))
    return capsys.readouterr().err


def test_a_named_peer_that_keeps_silent_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert problem_of(PeerView(NAMED)) == "192.0.2.7:1 has not answered so far"
    assert told(capsys, PeerView(NAMED)) == "192.0.2.7:1 has not answered so far\n"
    assert told(capsys, PeerView(NAMED, problem="192.0.2.7:1 is mute")) == "192.0.2.7:1 is mute\n"
    assert told(capsys, PeerView(NAMED, public_key=b"key")) == ""


def test_announced_nodes_that_keep_silent_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    views = [PeerView(Address("192.0.2.8", port), announced=True) for port in (1, 2)]
    assert "2 nodes are announced and did not answer" in told(capsys, *views)
    assert "1 node is announced" in told(capsys, views[0], PeerView(NAMED, public_key=b"key"))


def test_a_dead_address_is_listed_once_whatever_names_it_had() -> None:
    alive = PeerView(NAMED, public_key=b"key", announced=True)
    elsewhere = Address("192.0.2.8", 1)
    dead = [PeerView(address, problem="no answer", announced=True) for address in [elsewhere, NAMED] * 40]
    assert once_each([*dead[:40], alive, *dead[40:]]) == [alive, dead[0]]


def test_nodes_that_answer_are_all_listed() -> None:
    views = [PeerView(NAMED, public_key=key, announced=True) for key in (b"one", b"two")]
    assert once_each(views) == views
