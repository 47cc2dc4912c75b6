"""The lock of a vault is waited for, and who waits says so."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from overlaysync.errors import InUseError
from overlaysync.node.vault_lock import only_writer_soon
from overlaysync.ops.recovery.lock import only_writer
from tests.node.observers import Heard


class Ending(Heard):
    """Ends what holds the lock when it is told that somebody waits."""

    def __init__(self, holding: ExitStack) -> None:
        super().__init__()
        self._holding = holding

    def note(self, text: str) -> None:
        super().note(text)
        self._holding.close()


def test_it_is_had_as_soon_as_the_other_has_ended(tmp_path: Path) -> None:
    with ExitStack() as other:
        other.enter_context(only_writer(tmp_path))
        heard = Ending(other)
        with only_writer_soon(tmp_path, heard, wait_s=600):
            with pytest.raises(InUseError), only_writer(tmp_path):
                pass
    assert heard.notes == [
        "  another command is writing to the vault; waiting for it to finish, 10 min at most"
    ]
    with only_writer(tmp_path):
        pass


def test_who_does_not_wait_is_refused_without_a_word(tmp_path: Path) -> None:
    heard = Heard()
    with only_writer(tmp_path), pytest.raises(InUseError), only_writer_soon(tmp_path, heard, wait_s=0):
        pass
    assert heard.notes == []


def test_it_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    heard = Heard()
    with only_writer(tmp_path), pytest.raises(InUseError), only_writer_soon(tmp_path, heard, wait_s=0.2):
        pass
    assert len(heard.notes) == 1


def test_what_fails_inside_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(InUseError, match="a VM"), only_writer_soon(tmp_path, Heard()):
        raise InUseError("a VM runs")
