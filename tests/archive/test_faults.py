"""What goes wrong with an object store, by killing the servers of a real one; and what it refuses."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.archive.bucket import BucketObjects
from overlaysync.archive.location import Location
from overlaysync.archive.probe import Abilities, probe
from overlaysync.errors import (
    NetworkError,
    NoSpaceError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
)
from overlaysync.units import KIB, MIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import LIMITS, Kind
from tests.archive.conftest import QUICK, Cloud
from tests.archive.swift_cluster import READER, STRANGER, Swift, User
from tests.archive.wire import Fault, Wire
from tests.vault.contract import TAG, an_object

pytestmark = [pytest.mark.swift, pytest.mark.slow]

ALL = Abilities(put=True, range=True, list=True, conditional=True, delete=True)
OPERATIONS = {
    "put": lambda objects, name, data: objects.put(name, data),
    "get": lambda objects, name, data: objects.get(name),
    "size": lambda objects, name, data: objects.size(name),
    "list": lambda objects, name, data: list(objects.list("")),
    "delete": lambda objects, name, data: objects.delete(name),
}


def refused(objects: BucketObjects, operation: str, error: type[OverlaysyncError]) -> OverlaysyncError:
    """The error that an operation on an object that may not be there ends with; it says what to do."""
    with pytest.raises(error) as caught:
        OPERATIONS[operation](objects, *an_object())
    assert type(caught.value) is error and caught.value.hint and caught.value.why
    return caught.value


# -- servers that die ------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_object_server_is_killed_while_objects_are_written_and_read(cloud: Cloud, victim: int) -> None:
    objects = cloud.objects(cloud.bucket())
    made = dict(an_object(200 * KIB) for _ in range(24))
    under_way, killed = threading.Event(), threading.Event()

    def write_and_read(name: str) -> bool:
        stored = objects.put(name, made[name])
        under_way.set()
        killed.wait(30)
        return stored and objects.get(name) == made[name] and objects.get(name, 5, 7) == made[name][5:12]

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(write_and_read, name) for name in made]
        assert under_way.wait(30)
        with cloud.swift.without(cloud.swift.object_servers[victim]):
            killed.set()
            assert all(result.result() for result in results)
            late, data = an_object(3 * MIB)
            assert objects.put(late, data) and objects.get(late) == data
    # A list may lag behind; what it names is there.
    assert {one.name for one in objects.list("")} <= {*made, late}
    cloud.swift.catch_up()
    assert {one.name for one in objects.list("")} == {*made, late}


def test_all_object_servers_are_dead(cloud: Cloud, wire: Wire) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    name, data = an_object()
    objects.put(name, data)
    with cloud.swift.without(*cloud.swift.object_servers):
        for method, operate in (
            ("PUT", lambda: objects.put(*an_object())),
            ("GET", lambda: objects.get(name)),
            ("HEAD", lambda: objects.size(name)),
            ("DELETE", lambda: objects.delete(name)),
        ):
            before = wire.count(method)
            with pytest.raises(NetworkError, match="answered 503 each time") as caught:
                operate()
            assert caught.value.hint
            assert wire.count(method) - before == 1 + QUICK.repeats
    assert objects.get(name) == data


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_proxy_is_stopped(cloud: Cloud, operation: str) -> None:
    impatient = replace(QUICK, repeats=1, answer_s=0.5, slowest=100 * MIB)
    objects = cloud.objects(cloud.bucket(), limits=impatient)
    with cloud.swift.stopped("proxy"):
        begun = time.monotonic()
        assert "does not answer" in str(refused(objects, operation, NetworkError))
        assert time.monotonic() - begun < 20
    assert probe(cloud.objects(cloud.bucket())) == ALL


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_proxy_is_dead(cloud: Cloud, operation: str) -> None:
    objects = cloud.objects(cloud.bucket())
    with cloud.swift.without("proxy"):
        assert "does not answer" in str(refused(objects, operation, NetworkError))


# -- what the store refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("user", [User("test", "tester", "wrong"), User("test", "nobody", "x")])
def test_a_wrong_key(cloud: Cloud, operation: str, user: User) -> None:
    objects = cloud.objects(cloud.bucket(), user)
    error = refused(objects, operation, NotAllowedError)
    assert "key" in error.why and "AWS_SECRET_ACCESS_KEY" in error.hint
    assert user.key not in f"{error} {error.hint}".split()


@pytest.mark.parametrize("operation", ["put", "get", "size", "list"])
def test_a_key_that_may_not_do_it(cloud: Cloud, operation: str) -> None:
    refused(cloud.objects(cloud.bucket(), READER), operation, NotAllowedError)


def test_what_may_not_be_removed_is_kept(cloud: Cloud) -> None:
    bucket, (name, data) = cloud.bucket(), an_object()
    objects = cloud.objects(bucket)
    objects.put(name, data)
    assert cloud.objects(bucket, READER).delete(name) is False
    assert cloud.objects(bucket).get(name) == data


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bucket_that_is_not_there(cloud: Cloud, operation: str) -> None:
    error = refused(cloud.objects("no-such-bucket"), operation, NotFoundError)
    assert "no bucket 'no-such-bucket'" in error.why


def test_a_wrong_region(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = cloud.bucket()
    monkeypatch.setenv("AWS_REGION", "elsewhere")
    objects = BucketObjects(Location("s3", bucket, ""), QUICK)
    assert "AWS_REGION" in refused(objects, "get", NotAllowedError).hint


def test_a_quota_that_is_used_up(cloud: Cloud) -> None:
    objects = cloud.objects(cloud.bucket(Meta_Quota_Bytes="5000"))
    name, data = an_object(1000)
    assert objects.put(name, data)
    with pytest.raises(NoSpaceError, match="quota is used up") as caught:
        objects.put(*an_object(6000))
    assert caught.value.hint and objects.get(name) == data


def test_two_tenants_do_not_see_each_other(cloud: Cloud) -> None:
    bucket, (name, data), (other, theirs) = cloud.bucket(), an_object(), an_object()
    cloud.objects(bucket).put(name, data)
    with pytest.raises(NotFoundError, match="no bucket"):
        cloud.objects(bucket, STRANGER).get(name)
    cloud.swift.make_bucket(bucket, STRANGER)
    stranger = cloud.objects(bucket, STRANGER)
    assert stranger.put(other, theirs)
    assert [one.name for one in stranger.list("")] == [other] and stranger.size(name) is None
    assert [one.name for one in cloud.objects(bucket).list("")] == [name]


def test_two_prefixes_of_a_bucket_do_not_see_each_other(cloud: Cloud) -> None:
    bucket, (name, data) = cloud.bucket(), an_object()
    cloud.use()
    a, ab = (BucketObjects(Location("s3", bucket, path), QUICK) for path in ("a", "ab"))
    a.put(name, data)
    assert ab.size(name) is None and not list(ab.list("")) and [one.name for one in a.list("")] == [name]


def test_what_others_keep_in_the_bucket_is_not_listed(cloud: Cloud) -> None:
    import obstore

    objects = cloud.objects(cloud.bucket())
    name, data = an_object()
    objects.put(name, data)
    obstore.put(objects._stores[0], f"a/b/{TAG}/packs/readme.txt", b"x")
    obstore.put(objects._stores[0], "a/bc", b"x")
    assert list(objects.list("")) == [(name, len(data))]


# -- answers that are seldom -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("operation", "method"), [("put", "PUT"), ("get", "GET"), ("list", "GET")])
def test_a_store_that_is_busy_is_asked_again(
    cloud: Cloud, wire: Wire, status: int, operation: str, method: str
) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    name, data = an_object()
    objects.put(name, data)
    before = wire.count(method)
    wire.fail(method, *[Fault(status, "SlowDown")] * 2)
    other, more = an_object()
    {"put": lambda: objects.put(other, more), "get": lambda: objects.get(name)}.get(
        operation, lambda: list(objects.list(""))
    )()
    assert wire.count(method) - before == 3 and not wire.faults


def test_a_conflict_is_tried_again(cloud: Cloud, wire: Wire) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    name, data = an_object()
    wire.fail("PUT", *[Fault(409, "ConditionalRequestConflict")] * 3)
    assert objects.put(name, data) is True and objects.get(name) == data
    wire.fail("PUT", *[Fault(409, "OperationAborted")] * 20)
    with pytest.raises(NetworkError, match="409"):
        objects.put(*an_object())
    assert len(wire.faults) == 20 - 2 - QUICK.repeats


@pytest.mark.parametrize("there", [b"", b"x" * 500, b"x" * 1000, b"x" * 2000])
def test_a_damaged_object_gives_way_to_a_good_one(cloud: Cloud, there: bytes) -> None:
    import obstore

    objects = cloud.objects(cloud.bucket())
    name, data = an_object(1000)
    obstore.put(objects._stores[0], f"a/b/{name}", there)
    assert objects.put(name, data) is True and objects.get(name) == data


def test_a_store_without_conditions_is_written_to_without_them(cloud: Cloud, wire: Wire) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    wire.fail("PUT", *[Fault(501, "NotImplemented")] * (1 + QUICK.repeats))
    abilities = probe(objects)
    assert abilities == replace(ALL, conditional=False) and abilities.is_usable
    assert ["overwrites" in sentence for sentence in abilities.lacks] == [True]
    before = wire.count("PUT")
    name, data = an_object()
    assert objects.put(name, data) and objects.put(name, data) and objects.get(name) == data
    assert wire.count("PUT") - before == 2


def test_a_locked_object_is_kept_and_that_is_found_out(cloud: Cloud, wire: Wire) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    wire.fail("DELETE", Fault(403, "AccessDenied"))
    abilities = probe(objects)
    assert abilities == replace(ALL, delete=False) and "only grows" in abilities.lacks[0]


def test_a_wrong_clock_is_called_one(cloud: Cloud, wire: Wire) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    wire.fail("DELETE", Fault(403, "RequestTimeTooSkewed"))
    error = refused(objects, "delete", NotAllowedError)
    assert "clock" in error.why and error.hint == "timedatectl"


def test_an_object_that_is_larger_than_any_is_not_read(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = cloud.objects(cloud.bucket())
    name, data = an_object(5000)
    objects.put(name, data)
    monkeypatch.setitem(LIMITS, Kind.PACK, 3000)
    with pytest.raises(OverlaysyncError, match="larger than"):
        objects.get(name)
    assert objects.bytes_in == 0


# -- what is counted, probed, opened ---------------------------------------------------------------------


def test_requests_and_bytes_are_counted(cloud: Cloud, wire: Wire) -> None:
    objects = cloud.objects(cloud.bucket(), url=wire.url)
    name, data = an_object(5000)
    objects.put(name, data)
    objects.get(name, 100, 250)
    objects.get(name)
    assert objects.size(name) == 5000
    assert objects.delete(name)
    assert (objects.bytes_out, objects.bytes_in) == (5000, 5250)
    assert objects.requests == len(wire.requests) == 5
    wire.requests.clear()
    for _ in range(3):
        objects.put(*an_object(10))
    assert len(list(objects.list(""))) == 3
    assert objects.requests - 5 == len(wire.requests) == 4


def test_a_probe_leaves_nothing_behind(cloud: Cloud, tmp_path: Path) -> None:
    for objects in (cloud.objects(cloud.bucket()), DirectoryObjects(tmp_path / "vault")):
        abilities = probe(objects)
        assert abilities == ALL and abilities.lacks == () and not list(objects.list(""))


def test_keys_of_a_profile_are_used(
    cloud: Cloud, swift: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = cloud.bucket()
    for name in tuple(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    with pytest.raises(NotFoundError, match="no profile 'lab'"):
        BucketObjects(Location("s3", bucket, "", "lab"), QUICK)
    env = swift.environment()
    directory = Path(os.environ["HOME"]) / ".aws"
    directory.mkdir()
    (directory / "credentials").write_text(
        f"[lab]\naws_access_key_id={env['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key={env['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (directory / "config").write_text(f"[profile lab]\nregion=us-east-1\nendpoint_url={swift.url}\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert probe(BucketObjects(Location("s3", bucket, "x", "lab"), QUICK)) == ALL
