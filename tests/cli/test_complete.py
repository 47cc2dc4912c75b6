"""Completion of references: through the shells' own protocol, in real processes.

The LAN is the real one, where others may share at the same time: names looked for there begin with ``qz``.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from overlaysync.cli.complete import complete_reference
from overlaysync.net.membership import PrivateLane
from overlaysync.net.server import Server
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.sharing import Share
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import new_team
from overlaysync.units import CHUNK

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def complete(line: str, *, shell: str = "bash", **environment: str) -> list[str]:
    """What a shell is offered at the end of ``line``; nothing else may be printed."""
    words = line.split(" ")
    protocol = {
        "_OVERLAYSYNC_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
    }
    done = subprocess.run(
        [sys.executable, "-m", "overlaysync"],
        env=os.environ | protocol | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def remember(home: Path, *candidates: str, age_s: float = 0.0) -> None:
    """Put candidates into the cache, as a TAB did ``age_s`` ago."""
    (home / "completion.json").write_text(
        json.dumps({"at": time.time() - age_s, "candidates": dict.fromkeys(candidates, "master, 7 MiB")})
    )


def known(home: Path) -> list[str]:
    cached: dict[str, str] = json.loads((home / "completion.json").read_text())["candidates"]
    return list(cached)


def offers(incomplete: str) -> list[str]:
    """The references that are offered."""
    return [text for text, _ in complete_reference(incomplete)]


def raw_image(path: Path) -> str:
    path.write_bytes(os.urandom(CHUNK))
    return str(path)


@asynccontextmanager
async def sharing(home: Path, image: str, team: str) -> AsyncIterator[str]:
    """Another node that shares ``image``; gives its address."""
    node = Node.open({"OVERLAYSYNC_HOME": str(home), "OVERLAYSYNC_USER": "pl"})
    share = Share(node, [image], team, Silent())
    await asyncio.to_thread(share.publish_all)
    server = Server(share, lane=PrivateLane(node.key, node.teams))
    try:
        yield f"127.0.0.1:{await server.start(['127.0.0.1'])}"
    finally:
        await server.stop()
        share.close()
        node.close()


# -- where candidates come from ----------------------------------------------------------------------


async def test_names_are_found_at_peers_and_remembered_here(home: Path, tmp_path: Path) -> None:
    image = raw_image(tmp_path / "qzmaster.raw")
    team = new_team("qzteam")
    (tmp_path / "other").mkdir(mode=0o700)
    for member in (home, tmp_path / "other"):
        keep_team(member / "teams", team)
    async with sharing(tmp_path / "other", image, team.name) as address:
        offered = await asyncio.to_thread(complete, "overlaysync fetch qzm", OVERLAYSYNC_PEERS=address)
    assert offered == ["qzmaster"]
    assert complete("overlaysync fetch qzt") == ["qzteam/", "qzteam/qzmaster"]
    assert any(text.startswith("qzteam/qzmaster@pl@") for text in known(home))


def test_names_known_here_need_no_network(home: Path, tmp_path: Path) -> None:
    image = raw_image(tmp_path / "qzlone.raw")
    node = Node.open(os.environ)
    share = Share(node, [image], None, Silent())
    share.publish_all()
    share.close()
    node.close()
    assert complete("overlaysync show qzl") == ["qzlone"]


def test_what_was_found_lately_is_offered_at_once(home: Path) -> None:
    remember(home, "debian", "router")
    assert complete("overlaysync fetch rou") == ["router"]
    assert not (home / "catalog.sqlite").exists()


@pytest.mark.parametrize("age_s", [31.0, -5.0])
def test_what_was_found_long_ago_or_in_the_future_is_looked_for_again(home: Path, age_s: float) -> None:
    remember(home, "stale-name", age_s=age_s)
    assert offers("stale") == []
    assert "stale-name" not in known(home)


# -- what is offered ---------------------------------------------------------------------------------


def test_versions_and_nodes_come_only_after_their_marks(home: Path) -> None:
    remember(home, "router", "router:1", "router:2", "router@pl@bob-abc234")
    assert offers("ro") == ["router"]
    assert offers("router:") == ["router:1", "router:2"]
    assert offers("router@") == ["router@pl@bob-abc234"]
    assert offers("zz") == []


def test_what_a_shell_could_run_is_never_offered(home: Path) -> None:
    bad = ["x$(id)", "x`id`", "x;id", "x y", "x\nid", "-x", "x'", 'x"', "x\x1b[0m", "~x", "x*", "x|y"]
    remember(home, *bad, "xok")
    assert offers("") == ["xok"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"at": "x"}',
        b"\xff\xfe",
        b'{"at": 1e400}',
        b'{"at": %d, "candidates": {"qz": 7}}',
        b'{"at": %d, "candidates": ["qz"]}',
    ],
)
def test_a_spoiled_cache_is_looked_over(home: Path, content: bytes) -> None:
    (home / "completion.json").write_bytes(content.replace(b"%d", b"%d" % time.time()))
    assert offers("qz") == []
    assert "qz" not in known(home)


def test_a_home_that_cannot_be_used_offers_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for place in ("/proc/nowhere", str(tmp_path / "file")):
        monkeypatch.setenv("OVERLAYSYNC_HOME", place)
        assert offers("qz") == []
    assert capfd.readouterr() == ("", "")
    assert complete("overlaysync fetch qz", OVERLAYSYNC_HOME="/proc/nowhere") == []


def test_a_peer_that_cannot_be_is_no_reason_to_fail(home: Path) -> None:
    assert complete("overlaysync fetch qz", OVERLAYSYNC_PEERS="no/such:host:99999999") == []


# -- shells ------------------------------------------------------------------------------------------


def test_commands_are_completed_by_name() -> None:
    assert complete("overlaysync doc") == ["doctor"]


def test_fish_gets_a_description_beside_each_candidate(home: Path) -> None:
    remember(home, "router")
    asked = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}

    def shown(line: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "overlaysync"],
            env=os.environ | asked | {"_OVERLAYSYNC_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    assert shown("overlaysync fetch ro") == ["router\tmaster, 7 MiB"]
    assert shown("overlaysync doc") == ["doctor\tCheck network, clock, key, vault, disk and QEMU."]
    # Each on one line, however long it is.
    assert all("\t" in line for line in shown("overlaysync share --"))


def test_zsh_gets_words_it_can_evaluate(home: Path) -> None:
    remember(home, "router", "router:1")
    offered = complete("overlaysync fetch router:", shell="zsh")
    assert offered == ["_arguments", "'*:", ':(("router\\\\:1":"master,', "7", "MiB\"))'"]


def test_bash_completes_through_the_script_that_is_installed(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "overlaysync"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m overlaysync "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": os.getcwd()}

    def bash(script: str) -> str:
        done = subprocess.run(
            ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "bash completion installed" in bash("overlaysync --install-completion; true")
    remember(home, "debian", "debian-web", "router", "router:1", "router:2", "router@pl@bob")
    offered = bash("source ~/.bashrc; complete -p overlaysync")
    assert "-F _overlaysync_completion overlaysync" in offered

    def offered_for(line: str, breaks: str = " :@=") -> list[str]:
        return bash(
            f"source ~/.bashrc; COMP_WORDBREAKS=$' \\t\\n{breaks}';"
            f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)};"
            '_overlaysync_completion overlaysync; printf "%s\\n" "${COMPREPLY[@]}"'
        ).split()

    assert offered_for("overlaysync fetch deb") == ["debian", "debian-web"]
    # What follows the mark is all that bash completes, unless the mark is part of words.
    assert offered_for("overlaysync fetch router:") == ["1", "2"]
    assert offered_for("overlaysync fetch --to '/a dir' router@") == ["pl@bob"]
    assert offered_for("overlaysync fetch router@pl@b") == ["bob"]
    assert offered_for("overlaysync fetch router:", breaks=" =") == ["router:1", "router:2"]
    assert offered_for("overlaysync fetch nothing-like-it") == []
    assert "--port" in offered_for("overlaysync share --po")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes_from_the_first_tab_on(home: Path, tmp_path: Path) -> None:
    """Its file is read at the first Tab, and has to answer it. zsh completes on a terminal only."""
    program = tmp_path / "bin" / "overlaysync"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m overlaysync "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
        "ZDOTDIR": str(Path.home()),
        "TERM": "dumb",
    }
    subprocess.run(
        ["zsh", "-fc", "overlaysync --install-completion; true"],
        env=environment,
        capture_output=True,
        check=True,
    )
    settings = Path.home() / ".zshrc"
    settings.write_text(f"{settings.read_text()}\nunsetopt zle_bracketed_paste; PS1='ready> '\n")
    remember(home, "debian", "router", age_s=0)
    terminal, inside = os.openpty()
    with subprocess.Popen(
        ["zsh", "-i"], env=environment, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    ) as zsh:
        os.close(inside)
        shown = b""
        try:
            for expected, typed in ((b"ready> ", b"overlaysync fetch rou\t"), (b"fetch router", b"")):
                deadline = time.monotonic() + 20
                while expected not in shown:
                    assert time.monotonic() < deadline, shown
                    if select.select([terminal], [], [], 0.1)[0]:
                        shown += os.read(terminal, 4096)
                os.write(terminal, typed)
        finally:
            zsh.kill()
            os.close(terminal)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_for_the_name_overlaysync(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "overlaysync"],
        env=os.environ | {"_OVERLAYSYNC_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    # bash asks as fish does.
    assert f"_OVERLAYSYNC_COMPLETE=complete_{'zsh' if shell == 'zsh' else 'fish'}" in done.stdout
    assert "overlaysync" in done.stdout and "%(" not in done.stdout
