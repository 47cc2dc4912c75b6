"""The vault in a directory keeps the contract of all places."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Objects
from tests.vault.contract import Contract


class TestDirectory(Contract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> Objects:
        return DirectoryObjects(tmp_path / "vault")
