"""Teams: codes that show their typos, proofs worth nothing elsewhere, keys that nobody else can read."""

from __future__ import annotations

import base64
import os
import random
import re
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from overlaysync.errors import NotAllowedError, NotFoundError, UsageError, WouldDestroyError
from overlaysync.trust.team_files import forget_team, keep_team, load_teams
from overlaysync.trust.teams import MAX_TEAMS, Binding, Role, Team, new_team, proven, read_code

RED = Team("red", bytes(range(20)), "2026-01-01T00:00:00Z")
BINDING = Binding(b"n" * 32, b"p" * 32, b"s" * 32, b"c" * 32)
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"

# -- codes -------------------------------------------------------------------------------------------


def test_a_code_is_forty_characters_in_groups() -> None:
    groups = RED.code.split("-")
    assert [len(group) for group in groups] == [5] * 8
    assert set("".join(groups)) <= set(ALPHABET)
    assert len({new_team("red").key for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "change",
    [
        str,
        str.upper,
        lambda code: code.replace("-", ""),
        lambda code: code.replace("-", " "),
        lambda code: f"  {code}\n",
        lambda code: code.replace("o", "0").replace("b", "8").replace("l", "1"),
    ],
)
def test_a_code_is_read_however_it_is_written(change) -> None:
    for name in ("red", "équipe_2"):
        team = new_team(name)
        assert read_code(name, change(team.code)) == team


def test_every_single_typo_and_swap_is_found() -> None:
    code = RED.code.replace("-", "")
    wrong = {code[:at] + letter + code[at + 1 :] for at in range(40) for letter in ALPHABET}
    wrong |= {code[:at] + code[at + 1] + code[at] + code[at + 2 :] for at in range(39)}
    wrong |= {code[1:], code + "a", "", "a" * 40, code[:-1] + "=", code[:-1] + "é"}
    for text in wrong - {code}:
        with pytest.raises(UsageError) as caught:
            read_code("red", text)
        assert text not in str(caught.value) or not text


def test_random_typing_is_no_code() -> None:
    for _ in range(2000):
        with pytest.raises(UsageError):
            read_code("red", "".join(random.choices(ALPHABET, k=40)))


def test_a_code_belongs_to_one_name() -> None:
    with pytest.raises(UsageError):
        read_code("blue", RED.code)
    with pytest.raises(UsageError):
        read_code("../red", RED.code)


@pytest.mark.red_without(
    "F3", "the hash contexts of a team's proofs, code and tag are changed, one at a time"
)
def test_code_and_tag_are_what_the_protocol_says() -> None:
    def derived(context: str) -> bytes:
        return blake3(RED.key + b"red", derive_key_context=f"overlaysync v1 team {context}").digest()[:5]

    code = base64.b32encode(RED.key + derived("code")).decode().lower()
    tag = base64.b32encode(derived("tag")).decode().lower()
    assert RED.code == "-".join(re.findall(".....", code))
    assert RED.tag == "-".join(re.findall("....", tag))


def test_a_team_does_not_show_its_key() -> None:
    for text in (repr(RED), str(RED), RED.tag):
        assert RED.key.hex() not in text and RED.code not in text and repr(RED.key) not in text
    assert RED.tag == Team("red", RED.key).tag != Team("blue", RED.key).tag


# -- proofs ------------------------------------------------------------------------------------------


@pytest.mark.holds("F3")
@pytest.mark.red_without(
    "F3", "the hash contexts of a team's proofs, code and tag are changed, one at a time"
)
@pytest.mark.parametrize("role", Role)
def test_a_proof_is_what_the_protocol_says(role: Role) -> None:
    mac = blake3(derive_key_context=f"overlaysync v1 team proof of a {role.name.lower()}")
    key = mac.update(RED.key + b"red").digest()
    assert RED.prove(role, BINDING) == blake3(b"n" * 32 + b"p" * 32 + b"s" * 32 + b"c" * 32, key=key).digest()


def test_a_member_is_told_from_others() -> None:
    blue, old = new_team("blue"), new_team("red")
    proof = RED.prove(Role.CLIENT, BINDING)
    assert proven(Role.CLIENT, (blue, RED), BINDING, proof) == RED
    assert proven(Role.CLIENT, (blue, old), BINDING, proof) is None
    assert proven(Role.CLIENT, (), BINDING, proof) is None


@pytest.mark.red_without("N13", "a proof is not bound to the node that is asked")
@pytest.mark.parametrize("bound", ["node", "lane", "server", "client"])
def test_a_proof_is_bound_to_everything(bound: str) -> None:
    proof = RED.prove(Role.CLIENT, BINDING)
    assert proven(Role.CLIENT, (RED,), replace(BINDING, **{bound: secrets.token_bytes(32)}), proof) is None
    assert proven(Role.SERVER, (RED,), BINDING, proof) is None, "a proof sent back proves nothing"
    for wrong in (b"", proof[:-1], proof + b"x", bytes(32), proof[::-1]):
        assert proven(Role.CLIENT, (RED,), BINDING, wrong) is None


# -- files -------------------------------------------------------------------------------------------


def test_teams_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "teams"
    assert load_teams(directory) == {}
    os.umask(os.umask(0))
    assert keep_team(directory, RED)
    assert not keep_team(directory, RED)
    assert load_teams(directory) == {"red": RED}
    assert load_teams(directory)["red"].since == RED.since
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]
    forget_team(directory, "red")
    assert load_teams(directory) == {} and list(directory.iterdir()) == []


def test_a_team_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    keep_team(tmp_path, RED)
    with pytest.raises(WouldDestroyError):
        keep_team(tmp_path, new_team("red"))
    assert load_teams(tmp_path) == {"red": RED}


def test_leaving_what_one_is_not_in(tmp_path: Path) -> None:
    (tmp_path / "x.team").touch(0o600)
    for name in ("red", "../x", "", "."):
        with pytest.raises(NotFoundError):
            forget_team(tmp_path / "teams", name)
    assert (tmp_path / "x.team").exists()


def test_one_team_too_many(tmp_path: Path) -> None:
    for number in range(MAX_TEAMS):
        keep_team(tmp_path, new_team(f"team{number}"))
    with pytest.raises(UsageError):
        keep_team(tmp_path, RED)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    keep_team(tmp_path, RED)
    (tmp_path / "red.team").chmod(mode)
    with pytest.raises(NotAllowedError) as caught:
        load_teams(tmp_path)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"key":"00","since":""}', b"\xff", b"x" * 5000])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "red.team").touch(0o600)
    (tmp_path / "red.team").write_bytes(content)
    with pytest.raises(NotAllowedError):
        load_teams(tmp_path)


def test_a_link_is_no_key(tmp_path: Path) -> None:
    keep_team(tmp_path, RED)
    (tmp_path / "blue.team").symlink_to("red.team")
    with pytest.raises(NotAllowedError):
        load_teams(tmp_path)
