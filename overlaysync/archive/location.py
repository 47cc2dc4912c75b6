"""Where an archive is: ``s3://BUCKET/PREFIX``, ``gs://``, ``az://`` or ``file:///DIRECTORY``.

A URL is stored and shown, so it never holds a secret: one with a user, a password or an unknown option in it
is refused. Of S3 it may name a profile, ``s3://BUCKET/PREFIX?profile=NAME``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from overlaysync.errors import UsageError
from overlaysync.model.names import is_name, printable

Scheme: TypeAlias = Literal["s3", "gs", "az", "file"]

_MAX_URL = 1024
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_HINT = "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY"


@dataclass(frozen=True, slots=True)
class Location:
    """Where an archive is.

    Attributes:
        scheme: the kind of store.
        bucket: its bucket or container; "" for a directory.
        path: what the names of its objects begin with in the bucket, "" or ``A/B``; the path of a directory.
        profile: the profile whose keys are used, of S3; "" for the usual ones.
    """

    scheme: Scheme
    bucket: str
    path: str
    profile: str = ""

    def __str__(self) -> str:
        if self.scheme == "file":
            return f"file://{self.path}"
        path = f"/{self.path}" if self.path else ""
        return f"{self.scheme}://{self.bucket}{path}" + (f"?profile={self.profile}" if self.profile else "")


def parse_location(url: str) -> Location:
    """Return the location that a URL names.

    Raises:
        UsageError: it names none, or holds what has no place in it.
    """
    try:
        parts = urlsplit(url) if len(url) <= _MAX_URL and url.isprintable() else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in get_args(Scheme):
        raise _refused(url, "it is not the URL of an object store or a directory")
    if "@" in parts.netloc:  # not repeated: it may be a secret
        raise UsageError(
            "The URL of an archive must not hold a key or a password",
            why="it is kept in a file and shown",
            hint="leave it out, and put it into the environment (AWS_ACCESS_KEY_ID, …) or a profile",
        )
    profile = _profile(parts)
    if parts.scheme == "file":
        return _directory(url, parts)
    path = parts.path.strip("/")
    if not _BUCKET.fullmatch(parts.netloc):
        raise _refused(url, "the name of its bucket is wrong")
    if path and not all(map(_PART.fullmatch, path.split("/"))):
        raise _refused(url, "a prefix consists of letters, digits, '.', '_', '-' and '/'")
    return Location(cast(Scheme, parts.scheme), parts.netloc, path, profile)


def _directory(url: str, parts: SplitResult) -> Location:
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or "\0" in path:
        raise _refused(url, "the path of a directory begins with '/': file:///DIRECTORY")
    return Location("file", "", path.rstrip("/") or "/")


def _profile(parts: SplitResult) -> str:
    if not parts.query and not parts.fragment:
        return ""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    profile = options.pop("profile", "")
    if options or parts.fragment or parts.scheme != "s3" or not is_name(profile):
        raise UsageError(
            "The URL of an archive has an unknown option",
            why="the only option is the name of a profile, for s3://",
            hint="write s3://BUCKET/PREFIX?profile=NAME",
        )
    return profile


def _refused(url: str, why: str) -> UsageError:
    return UsageError(f"'{printable(url)}' is not the URL of an archive", why=why, hint=_HINT)
