"""A bucket of a real object store keeps the contract of all places."""

from __future__ import annotations

import pytest

from overlaysync.vault.objects import Objects
from tests.archive.conftest import Cloud
from tests.vault.contract import Contract

pytestmark = [pytest.mark.swift, pytest.mark.slow]


class TestBucket(Contract):
    @pytest.fixture
    def objects(self, cloud: Cloud) -> Objects:
        return cloud.objects(cloud.bucket())
