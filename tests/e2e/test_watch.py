"""``--watch``: what is shown follows what happens, in place on a terminal and in lines elsewhere."""

from __future__ import annotations

import json

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, free_port, until
from tests.e2e.terminals import Terminal
from tests.e2e.versions import shared

pytestmark = pytest.mark.slow


def test_a_terminal_shows_each_view_in_the_place_of_the_last_one(lab: Lab) -> None:
    ann, ben, cleo = (lab.node(name) for name in ("ann", "ben", "cleo"))
    port = free_port()
    disks.make_master(ann.place / "web.raw", size=MIB)
    disks.make_master(cleo.place / "db.raw", size=MIB)
    with shared(ann, ann.place) as share:
        peers = ("--peer", share.peer, "--peer", share.peer.rpartition(":")[0] + f":{port}")
        with Terminal(ben, "ls", "--watch", "--wait", "1", *peers) as terminal:
            terminal.until(lambda shown: "web:1" in shown and "until Ctrl-C" in shown, what="the first view")
            assert "db:1" not in terminal.shown
            with shared(cleo, "--port", port, cleo.place):
                terminal.until(lambda shown: "db:1" in shown, what="the image that is shared since")
            assert "A\x1b[J" in terminal.shown.partition("db:1")[0], "the cursor goes back"
            terminal.interrupt()
            assert terminal.end() == DONE


def test_elsewhere_a_view_is_printed_again_when_it_has_changed(lab: Lab) -> None:
    ann = lab.node("ann")
    team = lab.team("red", ann)
    disks.make_master(ann.place / "web.raw", size=MIB)
    watching = ann.start("ls", "--watch", "--local")
    until(lambda: "overlaysync tree" in watching.stdout, what="a view of nothing")
    with shared(ann, "--team", team, ann.place / "web.raw"):
        until(lambda: f"{team}/web:1" in watching.stdout, what="a view of the image")
    result = watching.stop()
    assert result.code == DONE and "\x1b" not in result.stdout
    assert result.stdout.count("overlaysync tree") == 1


@pytest.mark.parametrize("words", [("peers",), ("status",), ("ls",)])
def test_as_json_each_view_is_a_line_and_silence_ends_nothing(lab: Lab, words: tuple[str, ...]) -> None:
    ann = lab.node("ann")
    lab.team("red", ann)
    watching = ann.start(*words, "--watch", "--json", "--wait", "0.2", "--peer", "[::1]:1")
    until(lambda: watching.stdout.count("\n") >= 2, what="two views")
    result = watching.stop()
    assert result.code == DONE
    views = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"peers": "peers", "status": "teams", "ls": "images"}[words[0]] in views[0]
    assert all(view["at"].endswith("Z") for view in views)
    assert words[0] == "status" or views[-1]["error"]["exit_code"] == 4


def test_what_does_not_fit_a_terminal_is_counted(lab: Lab) -> None:
    ann = lab.node("ann")
    for at in range(30):
        disks.make_master(ann.place / f"image{at}.raw", size=MIB)
    with shared(ann, "--public", ann.place), Terminal(ann, "ls", "--local", "--watch") as terminal:
        terminal.until(lambda shown: "more lines" in shown, what="a count of what is left out")
        terminal.interrupt()
        assert terminal.end() == DONE
