"""A node key belongs to one machine: a copy of the home takes a new one, anything else keeps it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overlaysync.errors import NotFoundError
from overlaysync.node import identity
from overlaysync.node.identity import Exchange, identify, kept_keys, make_new_key, restore_key, words_of
from overlaysync.node.node import Node
from overlaysync.store.home import Home
from overlaysync.trust.hardware import MAX_ADDRESSES, Hardware, load_hardware
from overlaysync.trust.keys import NodeKey, load_key, node_id

pytestmark = [
    pytest.mark.holds("N14"),
    pytest.mark.red_without(
        "N14", "a copy is not recognised; any machine is a copy; nothing is locked; the old key is not kept"
    ),
    pytest.mark.red_without(
        "N14",
        "a home on a network file system, or a key for any hardware, is judged; an earlier key is not reused",
    ),
]

A, B, C, D = (f"52:54:00:00:00:0{digit}" for digit in "abcd")
Here = Callable[..., None]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Says which hardware there is."""

    def set_hardware(*addresses: str) -> None:
        monkeypatch.setattr(identity, "hardware_addresses", lambda: addresses)

    return set_hardware


@pytest.fixture
def place(tmp_path: Path) -> Home:
    return make_home(tmp_path / "original")


def make_home(root: Path) -> Home:
    return Home(root, root / "config").prepare()


def copy(home: Home, root: Path) -> Home:
    """A clone of the disk."""
    shutil.copytree(home.root, root)
    return make_home(root)


def changed(home: Home) -> Exchange:
    key, exchange = identify(home)
    assert exchange is not None and exchange.key.public == key.public == load_key(home.node_key).public
    return exchange


def unchanged(home: Home) -> NodeKey:
    key, exchange = identify(home)
    assert exchange is None
    return key


def test_a_copy_takes_a_key_of_its_own_once_and_keeps_the_old_one(
    place: Home, here: Here, tmp_path: Path
) -> None:
    here(A, B)
    original = unchanged(place)
    clone = copy(place, tmp_path / "clone")
    here(C)
    exchange = changed(clone)
    assert exchange.key.public != original.public
    assert exchange.former.key.public == original.public == load_key(exchange.former.path).public
    for path in (clone.node_key, exchange.former.path, clone.hardware):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    words = words_of(exchange)
    assert "overlaysync key restore" in words and str(exchange.former.path) in words
    assert unchanged(clone).public == exchange.key.public, "once"
    here(A)
    assert unchanged(place).public == original.public, "the machine that was copied is the same"


@pytest.mark.parametrize(
    ("present", "why"),
    [
        ((), "nothing is plugged in"),
        ((B,), "the Wi-Fi card is enough"),
        ((C, B), "a new dongle"),
        ((A, B), "all"),
    ],
)
def test_the_same_machine_keeps_its_key(place: Home, here: Here, present: tuple[str, ...], why: str) -> None:
    here(A, B)
    key = unchanged(place)
    here(*present)
    assert unchanged(place).public == key.public, why


def test_what_is_new_beside_something_known_is_known_from_then_on(place: Home, here: Here) -> None:
    here(A)
    key = unchanged(place)
    for present in ((A, B), (B, C), (C,), (C, D), (D,)):
        here(*present)
        assert unchanged(place).public == key.public
    (known,) = load_hardware(place.hardware).values()
    assert known.addresses == (A, B, C, D)


def test_a_key_from_a_machine_without_hardware_is_kept_where_there_is_some(place: Home, here: Here) -> None:
    here()
    key = unchanged(place)
    here(A)
    assert unchanged(place).public == key.public
    here(B)
    assert changed(place).former.key.public == key.public


def test_a_replaced_card_is_one_line(place: Home, here: Here) -> None:
    here(A)
    original = unchanged(place)
    here(B)
    second = changed(place).key
    restored = restore_key(place)
    assert (restored.key.public, restored.former.key.public) == (original.public, second.public)
    assert unchanged(place).public == original.public
    here(A)
    assert unchanged(place).public == original.public
    assert [one.key.public for one in kept_keys(place)] == [second.public]


def test_a_home_that_goes_to_and_fro_has_one_key_on_each_machine(place: Home, here: Here) -> None:
    """On a disk that is carried, say: no key is made at each turn."""
    here(A)
    first = unchanged(place)
    here(B)
    second = changed(place).key
    for _ in range(3):
        here(A)
        back = changed(place)
        assert back.earlier and back.key.public == first.public
        assert "again" in words_of(back) and "restore" not in words_of(back)
        here(B)
        assert changed(place).key.public == second.public
    assert len(kept_keys(place)) == 1 and len(list(place.root.glob("node.key.former-*"))) == 1


def test_a_key_for_any_hardware(place: Home, here: Here) -> None:
    here(A)
    key = unchanged(place)
    here(B)
    changed(place)
    restore_key(place, anywhere=True)
    for address in (C, D):
        here(address)
        assert unchanged(place).public == key.public


def test_nothing_is_concluded_from_a_home_on_a_network_file_system(
    place: Home, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Home, "on_network", property(lambda self: "nfs4"))
    keys = set()
    for address in (A, B, C):
        here(address)
        keys.add(unchanged(place).public)
    assert len(keys) == 1 and not place.hardware.exists()


def test_commands_that_begin_together_on_a_copy_take_one_new_key(place: Home, here: Here) -> None:
    here(A)
    original = unchanged(place)
    here(B)
    with ThreadPoolExecutor(8) as pool:
        keys = {key.public for key, _ in pool.map(lambda _: identify(place), range(8))}
    assert len(keys) == 1 and original.public not in keys
    assert [one.key.public for one in kept_keys(place)] == [original.public]


@pytest.mark.parametrize("step", ["make_secret", "save_hardware", "replace_secret"])
@pytest.mark.parametrize("done", [False, True])
def test_a_crash_loses_no_key(
    place: Home, here: Here, monkeypatch: pytest.MonkeyPatch, step: str, done: bool
) -> None:
    class Crash(BaseException):
        pass

    here(A)
    original = unchanged(place)
    here(B)
    real = getattr(identity, step)

    def crash(*arguments: object) -> None:
        if done:
            real(*arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(identity, step, crash)
        with pytest.raises(Crash):
            identify(place)
    key, _ = identify(place)
    assert key.public != original.public
    assert [one.key.public for one in kept_keys(place)] == [original.public]
    assert restore_key(place).key.public == original.public
    assert len(list(place.root.glob("node.key.former-*"))) == 1


def test_a_new_key_when_it_is_asked_for(place: Home, here: Here) -> None:
    here(A)
    original = unchanged(place)
    made = make_new_key(place)
    assert made.former.key.public == original.public != made.key.public == unchanged(place).public
    assert restore_key(place).key.public == original.public


def test_there_is_nothing_to_take_back(place: Home) -> None:
    with pytest.raises(NotFoundError):
        restore_key(place)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x":{"addresses":["zz"]}}', bytes(100_000)])
def test_a_damaged_list_is_no_list(place: Home, here: Here, content: bytes) -> None:
    here(A)
    key = unchanged(place)
    place.hardware.write_bytes(content)
    here(B)
    assert unchanged(place).public == key.public
    assert load_hardware(place.hardware)[node_id(key.public)] == Hardware((B,))


def test_a_list_that_cannot_be_written_stops_nothing(
    place: Home, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(identity, "save_hardware", full)
    here(A)
    unchanged(place)


def test_what_is_remembered_is_bounded() -> None:
    addresses = [f"52:54:00:00:00:{number:02x}" for number in range(40)]
    known = Hardware()
    for address in addresses:
        known = known.with_more([addresses[0], address])
    assert len(known.addresses) == MAX_ADDRESSES and {addresses[0], addresses[-1]} <= set(known.addresses)
    assert known.with_more(addresses[-3:]) is known, "nothing is written when nothing is new"
    assert len(Hardware().with_more(addresses).addresses) == MAX_ADDRESSES
    many = Hardware().with_more(addresses)
    assert many.with_more(addresses) is many


def test_a_node_says_it_when_it_is_opened_by_a_command(place: Home, here: Here) -> None:
    said: list[str] = []
    environment = {"OVERLAYSYNC_HOME": str(place.root)}
    here(A)
    Node.open(environment, tell=said.append).close()
    here(B)
    silent = Node.open(environment)
    silent.close()
    assert not said
    told = Node.open(environment, tell=said.append)
    told.close()
    assert len(said) == 1 and told.key.public != silent.key.public
    assert os.listdir(place.root).count("node.key") == 1
