"""A place of objects in a bucket: S3 and what is compatible, GCS, Azure; through obstore.

Keys come from the environment and from profiles, never from a command line. Requests are paced, repeated when
the store asks for it, and have time-outs that grow with what is transferred. Nothing is believed about times:
no date of the store is used. obstore is imported when it is needed, and may be missing.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from overlaysync.archive.authorities import authorities_shown
from overlaysync.archive.faults import answer_in, no_key, translate, wrong_key_form, wrong_settings
from overlaysync.archive.location import Location
from overlaysync.archive.pace import Pace
from overlaysync.archive.profiles import Profile, read_profile
from overlaysync.errors import (
    NetworkError,
    NotAllowedError,
    OverlaysyncError,
    VerificationError,
)
from overlaysync.installed import adding
from overlaysync.units import KIB, MIB
from overlaysync.vault.objects import LIMITS, Part, Stored, is_whole, missing, parse_name

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config, S3Credential

T = TypeVar("T")

_SIZES = (MIB, 24 * MIB, 64 * MIB)
"""Transfers up to each of these sizes have one time-out."""
_PAGE = 1000
"""Names that a store lists in one answer."""
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._/-]*)?")
# Without any of these, obstore asks an address that answers only in Amazon's cloud, for minutes. A machine
# there that has a role is to say so, with AWS_METADATA_ENDPOINT=http://169.254.169.254.
_S3_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store is asked to bear, and for how long it is waited for.

    Attributes:
        rate: requests per second; repeats are not counted, but wait.
        parallel: requests at once.
        repeats: how often a request is repeated at most.
        first_wait_s: the wait before the first repeat, about; later ones double.
        repeat_for_s: no repeat is begun so long after the first attempt.
        connect_s: for a connection.
        answer_s: for a small answer, and between two parts of a long one.
        slowest: bytes per second that a transfer is expected to have at least.
    """

    rate: float = 30
    parallel: int = 8
    repeats: int = 6
    first_wait_s: float = 0.2
    repeat_for_s: float = 120
    connect_s: float = 10
    answer_s: float = 30
    slowest: int = 256 * KIB


class _RefusedError(Exception):
    """A request that did not succeed: what obstore raised, and what the store answered."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
        self.answer = answer_in(error)


class BucketObjects:
    """Objects in a bucket. Threads may share it.

    Attributes:
        location: where it is.
        requests: how many were made so far, repeats not counted.
        bytes_in, bytes_out: of objects, read and stored so far.

    Args:
        location: the bucket, and what names begin with in it.
        limits: see there.

    Raises:
        NotAllowedError: there is no key that can be used, or obstore is not installed.
        NotFoundError: there is no such profile.
    """

    def __init__(self, location: Location, limits: Limits | None = None) -> None:
        self.location = location
        self.requests = self.bytes_in = self.bytes_out = 0
        self._limits = limits or Limits()
        self._prefix = f"{location.path}/" if location.path else ""
        self._pace = Pace(self._limits.rate, self._limits.parallel)
        self._lock = threading.Lock()
        self._creates = True
        self._bucket_seen = False
        self._stores = _open_stores(location, self._limits)

    def put(self, name: str, data: bytes) -> bool:
        """Store an object; False when it was there already, whole, which is looked at.

        True as well where the store cannot tell: then the same bytes are written over it.
        """
        if self._creates:
            try:
                self._put(name, data, "create")
                return True
            except _RefusedError as refused:
                status = refused.answer.status
                if status == 501:
                    self._creates = False
                elif status not in (409, 412):
                    raise self._error(refused, "write to") from None
                # It may be damaged, or be being written at this moment by one that is then cut short.
                elif is_whole(self, name):
                    return False
        self._overwrite(name, data)
        return True

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        return self.put(name, b"".join(map(bytes, parts)))

    def parts(self, name: str) -> Iterator[Part]:
        yield self.get(name)  # each request may cost money

    def _overwrite(self, name: str, data: bytes) -> None:
        for repeat in range(self._limits.repeats + 1):
            try:
                self._put(name, data, "overwrite")
                return
            except _RefusedError as refused:
                # obstore repeats what it knows to be worth it; a conflict it does not.
                if refused.answer.status != 409 or repeat == self._limits.repeats:
                    raise self._error(refused, "write to") from None
            time.sleep(self._limits.first_wait_s * 2**repeat * random.uniform(0.5, 1))

    def _put(self, name: str, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        import obstore

        path = self._path(name)
        self._request(len(data), lambda store: obstore.put(store, path, data, mode=mode, use_multipart=False))
        with self._lock:
            self.bytes_out += len(data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            if self.size(name) is None:
                raise missing(name)
            return b""
        try:
            return self._get(name, offset, length)
        except _RefusedError as refused:
            answer = refused.answer
            if answer.status == 416:  # it is there, and ends before
                return b""
            if answer.status == 404 and not answer.has_no_bucket:
                raise missing(name) from None
            raise self._error(refused, "read") from None

    def _get(self, name: str, offset: int, length: int | None) -> bytes:
        import obstore

        path, limit = self._path(name), _limit(name) + 1 if length is None else length
        options: GetOptions = {}
        if length is not None:
            options = {"range": (offset, offset + length)}
        elif offset:
            options = {"range": {"offset": offset}}

        def read(store: ObjectStore) -> bytes:
            result = obstore.get(store, path, options=options)
            start, end = result.range
            if end - start > limit:
                raise VerificationError(
                    f"The object {name} is larger than {limit} bytes",
                    hint=f"overlaysync stores no object of that size; remove it from {self.location}",
                )
            return result.bytes().to_bytes()

        data = self._request(limit, read)
        with self._lock:
            self.bytes_in += len(data)
        return data

    def size(self, name: str) -> int | None:
        import obstore

        path = self._path(name)
        try:
            return self._request(0, lambda store: obstore.head(store, path))["size"]
        except _RefusedError as refused:
            if refused.answer.status != 404:
                raise self._error(refused, "read") from None
        # An answer without a body does not say whether the object is missing, or the whole bucket.
        if not self._bucket_seen:
            next(self.list(f"{name}/"), None)
        return None

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield the objects whose names begin with ``prefix``, as the store orders them: by name.

        A list may lag behind while servers of the store are down: that an object is not in it proves nothing.
        """
        import obstore

        assert not prefix or prefix.endswith("/"), prefix
        try:
            pages = obstore.list(self._stores[0], (self._prefix + prefix) or None, chunk_size=_PAGE)
            while page := self._request(0, lambda _: next(pages, None)):
                for found in page:
                    name = found["path"].removeprefix(self._prefix)
                    if parse_name(name):
                        yield Stored(name, found["size"])
                if len(page) < _PAGE:
                    return
        except _RefusedError as refused:
            raise self._error(refused, "list") from None

    def delete(self, name: str) -> bool:
        import obstore

        path = self._path(name)
        try:
            self._request(0, lambda store: obstore.delete(store, path))
        except _RefusedError as refused:
            answer = refused.answer
            if (answer.status == 403 and not answer.is_wrong_key) or answer.status == 409:
                return False
            if answer.status != 404 or answer.has_no_bucket:
                raise self._error(refused, "remove objects from") from None
        return True

    def _path(self, name: str) -> str:
        assert parse_name(name) is not None, name
        return self._prefix + name

    def _request(self, size: int, make: Callable[[ObjectStore], T]) -> T:
        """Make a request that transfers up to ``size`` bytes, when its turn comes.

        Raises:
            _RefusedError: it did not succeed.
        """
        store = next((store for most, store in zip(_SIZES, self._stores, strict=True) if size <= most), None)
        with self._pace.request():
            with self._lock:
                self.requests += 1
            try:
                done = make(store or self._stores[-1])
            except OverlaysyncError:
                raise
            except Exception as error:  # obstore's errors have no base of their own that is all of them
                raise _RefusedError(error) from None
        self._bucket_seen = True
        return done

    def _error(self, refused: _RefusedError, doing: str) -> OverlaysyncError:
        return translate(refused.error, doing, self.location)


def _limit(name: str) -> int:
    named = parse_name(name)
    assert named is not None, name
    return LIMITS[named.kind]


def _open_stores(location: Location, limits: Limits) -> list[ObjectStore]:
    """Return a client for each of the sizes, which differ in their time-outs."""
    try:
        import obstore.store  # noqa: F401 (is it installed?)
    except ImportError:
        raise NotAllowedError(
            f"Cannot use the archive {location}",
            why="the package obstore is not installed",
            hint=adding("archive"),
        ) from None
    profile = read_profile(os.environ, location.profile) if location.scheme == "s3" else Profile()
    endpoint = profile.endpoint
    for variable in () if location.profile and endpoint else _ENDPOINTS.get(location.scheme, ()):
        if os.environ.get(variable):
            endpoint = os.environ[variable]
            break
    if location.scheme == "s3" and profile.keys is None and not any(map(os.environ.get, _S3_KEYS)):
        raise no_key(location)
    if endpoint and not _ENDPOINT.fullmatch(endpoint):  # obstore would panic
        raise wrong_settings(location, "the URL of the store")
    try:
        with authorities_shown():
            return [_store(location, profile, endpoint, limits, size) for size in _SIZES]
    except Exception as error:  # obstore's own, and ValueError
        refused = translate(error, "use", location)
        # Nothing was asked yet: what is wrong is here.
        raise (wrong_key_form(location) if isinstance(refused, NetworkError) else refused) from None


def _store(location: Location, profile: Profile, endpoint: str, limits: Limits, size: int) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, S3Store

    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=limits.connect_s),
        "read_timeout": timedelta(seconds=limits.answer_s),
        "timeout": timedelta(seconds=limits.answer_s + size / limits.slowest),
        "allow_http": endpoint.startswith("http://"),
    }
    retry: RetryConfig = {
        "max_retries": limits.repeats,
        "retry_timeout": timedelta(seconds=limits.repeat_for_s),
        "backoff": {
            "init_backoff": timedelta(seconds=limits.first_wait_s),
            "max_backoff": timedelta(seconds=limits.first_wait_s * 2**limits.repeats),
            "base": 2,
        },
    }
    if location.scheme == "gs":
        return GCSStore(location.bucket, client_options=client, retry_config=retry)
    if location.scheme == "az":
        return AzureStore(location.bucket, client_options=client, retry_config=retry)
    # A request for several deletions at once hides why one of them was refused.
    config: S3Config = {"disable_bulk_delete": True}
    if endpoint:
        config["endpoint"] = endpoint
    if profile.region and (location.profile or not _has_region()):
        config["region"] = profile.region
    return S3Store(
        location.bucket,
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=_provider(profile),
    )


def _has_region() -> bool:
    return bool(os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"))


def _provider(profile: Profile) -> Callable[[], S3Credential] | None:
    if profile.keys is None:
        return None
    id, secret, token = profile.keys
    credential: S3Credential = {
        "access_key_id": id,
        "secret_access_key": secret,
        "token": token or None,
        "expires_at": None,
    }
    return lambda: credential
