"""One Swift for all tests that a process runs, and a bucket of its own for each of them."""

from __future__ import annotations

import itertools
import os
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from overlaysync.archive.bucket import BucketObjects, Limits
from overlaysync.archive.location import Location
from tests.archive.swift_cluster import TESTER, Swift, User, running_swift
from tests.archive.wire import Wire, wire_to

QUICK = Limits(rate=1000, repeats=3, first_wait_s=0.02, repeat_for_s=20, connect_s=5, answer_s=20)
"""Nothing in a test is to wait longer than it must."""

_numbers = itertools.count(1)


class Cloud:
    """What a test has of the store: buckets, and objects in them as a user sees them."""

    def __init__(self, swift: Swift, monkeypatch: pytest.MonkeyPatch) -> None:
        self.swift = swift
        self._monkeypatch = monkeypatch

    def bucket(self, user: User = TESTER, **headers: str) -> str:
        """Make a bucket; with headers, see :meth:`Swift.make_bucket`, which takes a second."""
        name = f"bucket-{next(_numbers)}"
        if headers:
            return self.swift.make_bucket(name, user, **headers)
        self.use(user)
        store = S3Store(name, client_options={"allow_http": True})
        url = obstore.sign(store, "PUT", "", timedelta(minutes=5))
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=b"")).close()
        return name

    def use(self, user: User = TESTER, url: str | None = None) -> None:
        """Have the keys of this user in the environment, and the store at ``url``."""
        for name, value in self.swift.environment(user, url).items():
            self._monkeypatch.setenv(name, value)

    def objects(
        self, bucket: str, user: User = TESTER, *, limits: Limits = QUICK, url: str | None = None
    ) -> BucketObjects:
        self.use(user, url)
        return BucketObjects(Location("s3", bucket, "a/b"), limits)


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with running_swift(tmp_path_factory.mktemp("swift")) as swift:
        yield swift


@pytest.fixture
def clean(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without keys or proxies of the real user; returns the home."""
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return home


@pytest.fixture
def cloud(swift: Swift, clean: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return Cloud(swift, monkeypatch)


@pytest.fixture
def wire(swift: Swift) -> Iterator[Wire]:
    with wire_to(swift.url) as wire:
        yield wire
