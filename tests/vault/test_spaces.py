"""Spaces: whose bytes open with whose key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.vault.spaces import PUBLIC, SEAL_SIZE, Space
from tests.vault.samples import OTHER, RED, flips

MAGIC, SALT = b"OSVP", bytes(range(32))
pytestmark = pytest.mark.holds("D2")


def test_the_same_team_has_the_same_space() -> None:
    assert Space.of_team("red", bytes(range(20))) == RED
    assert len(RED.tag) == 32 and RED.key is not None and not RED.is_public
    assert repr(RED.key) not in repr(RED)


def test_every_name_and_key_makes_another_space() -> None:
    spaces = [RED, OTHER, Space.of_team("blue", bytes(range(20))), PUBLIC]
    assert len({space.tag for space in spaces}) == len({space.key for space in spaces}) == len(spaces)


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_what_is_closed_is_opened(plain: bytes, number: int) -> None:
    seal = RED.seal(MAGIC, SALT)
    stored = seal.close(number, plain)
    assert len(stored) == len(plain) + seal.overhead == len(plain) + SEAL_SIZE
    assert RED.seal(MAGIC, SALT).open(number, stored) == plain


@pytest.mark.red_without("D2", "the seal of a record does not depend on its number")
def test_no_other_seal_opens_it() -> None:
    stored = RED.seal(MAGIC, SALT).close(7, b"secret")
    for seal, number in (
        (RED.seal(MAGIC, SALT), 8),
        (RED.seal(MAGIC, bytes(32)), 7),
        (RED.seal(b"OSVI", SALT), 7),
        (OTHER.seal(MAGIC, SALT), 7),
        (Space.of_team("blue", bytes(range(20))).seal(MAGIC, SALT), 7),
    ):
        with pytest.raises(DecodeError):
            seal.open(number, stored)


def test_nothing_of_what_is_closed_can_be_changed() -> None:
    seal = RED.seal(MAGIC, SALT)
    stored = seal.close(0, b"secret")
    for wrong in (*flips(stored), *(stored[:cut] for cut in range(len(stored))), stored + b"x"):
        with pytest.raises(DecodeError):
            seal.open(0, wrong)


def test_the_public_space_is_plain() -> None:
    seal = PUBLIC.seal(MAGIC, PUBLIC.new_salt())
    assert (PUBLIC.new_salt(), seal.overhead, seal.close(3, b"x"), seal.open(4, b"x")) == (
        bytes(32),
        0,
        b"x",
        b"x",
    )
    assert PUBLIC.vouch(b"anything") == bytes(32)


def test_salts_differ() -> None:
    assert len({RED.new_salt() for _ in range(50)}) == 50


def test_a_voucher_is_of_one_team_and_one_message() -> None:
    assert RED.vouch(b"a") == RED.vouch(b"a")
    assert len({RED.vouch(b"a"), RED.vouch(b"b"), OTHER.vouch(b"a"), bytes(32)}) == 4
