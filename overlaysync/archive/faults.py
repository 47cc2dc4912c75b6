"""What an object store answered, as an error of the one tree.

obstore has few kinds of errors and puts the answer into their text: the status, and as XML a code that S3,
GCS and Azure have much in common. The text itself is never shown: it can hold ids of keys and signatures.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from overlaysync.archive.location import Location
from overlaysync.errors import (
    NetworkError,
    NoSpaceError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
)

_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_DETAILS = "\n\nDebug source"

_WRONG_KEY = {
    "AuthenticationFailed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_NO_BUCKET = {"ContainerNotFound", "InvalidBucketName", "NoSuchBucket"}
# The objects are far below every store's limit for one: what is too large is the bucket.
_FULL = {
    "EntityTooLarge",
    "InsufficientCapacity",
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
# Where a machine in a cloud is given its keys: asked when there are no others.
_KEYS_OF_THE_CLOUD = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class Answer(NamedTuple):
    """What the store said: the status of HTTP (0: none), its code ("": none), and obstore's text."""

    status: int
    code: str
    text: str

    @property
    def is_wrong_key(self) -> bool:
        """Whether the key itself was refused, rather than what it may do."""
        return self.code in _WRONG_KEY or self.status == 401

    @property
    def has_no_bucket(self) -> bool:
        return self.code in _NO_BUCKET


def answer_in(error: BaseException) -> Answer:
    """Return what the store said according to an error of obstore."""
    text = str(error).partition(_DETAILS)[0]
    status, code = _STATUS.search(text), _CODE.search(text)
    return Answer(int(status[1]) if status else 0, code[1] if code else "", text)


def translate(error: BaseException, doing: str, location: Location) -> OverlaysyncError:
    """``error`` of obstore as the error a user sees; ``doing`` is "read", "write to", …."""
    answer = answer_in(error)
    what = f"Cannot {doing} the archive {location}"
    if any(address in answer.text for address in _KEYS_OF_THE_CLOUD) or "must be specified" in answer.text:
        return no_key(location)
    if answer.code in _FULL or answer.status in (413, 507):
        return NoSpaceError(
            what,
            why="its quota is used up",
            hint="have the quota raised, or forget old states; what is stored already is not stored again",
        )
    if answer.has_no_bucket:
        return no_bucket(location)
    if answer.code == "RequestTimeTooSkewed":
        return NotAllowedError(what, why="the clock of this machine is wrong", hint="timedatectl")
    if answer.is_wrong_key:
        return NotAllowedError(what, why="the store refused the key", hint=f"check {_KEYS[location.scheme]}")
    if answer.code in _WRONG_REGION:
        return NotAllowedError(what, why="the bucket is in another region", hint="export AWS_REGION=REGION")
    if answer.status == 403:
        return NotAllowedError(
            what,
            why="the store refused: the key is wrong, or does not give the right to do this",
            hint=f"check {_KEYS[location.scheme]}, and what the key may do in the bucket",
        )
    return _other(answer, what, location)


def _other(answer: Answer, what: str, location: Location) -> OverlaysyncError:
    if answer.status == 404:
        return NotFoundError(
            what, why="the store has no such object or bucket", hint=f"check the URL {location}"
        )
    if 400 <= answer.status < 500 and answer.status not in (408, 409, 429):
        said = f"{answer.status} {answer.code}".strip()
        return OverlaysyncError(what, why=f"the store answered {said}", hint=f"check the URL {location}")
    if answer.status:
        why = f"the store answered {answer.status} each time"
        return NetworkError(what, why=why, hint="try again later; what is stored already is not stored again")
    return NetworkError(
        what,
        why="the store does not answer",
        hint="check the network, and AWS_ENDPOINT_URL if the store is not Amazon's"
        if location.scheme == "s3"
        else "check the network, and try again later",
    )


def no_key(location: Location) -> NotAllowedError:
    """Return the error for a store whose key is nowhere."""
    return NotAllowedError(
        f"Cannot use the archive {location}",
        why="no key for it was found",
        hint=f"set {_KEYS[location.scheme]}",
    )


def wrong_settings(location: Location, what: str) -> NotAllowedError:
    """Return the error for an environment with which no request can be made."""
    return NotAllowedError(
        f"Cannot use the archive {location}", why=f"{what} in the environment is wrong", hint=f"check {what}"
    )


def wrong_key_form(location: Location) -> NotAllowedError:
    """Return the error for a key that cannot be one, or cannot be read."""
    return wrong_settings(location, _KEYS[location.scheme])


def no_bucket(location: Location) -> NotFoundError:
    """Return the error for a bucket that is not there."""
    return NotFoundError(
        f"The archive {location} does not exist",
        why=f"there is no bucket '{location.bucket}' for this key",
        hint="make the bucket with the tools of its store, or check its name",
    )
