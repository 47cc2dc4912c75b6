"""What the environment says of a store is checked before it is asked; no store answers in these tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from overlaysync.archive.bucket import BucketObjects, Limits
from overlaysync.archive.location import Location, parse_location
from overlaysync.archive.opening import open_place
from overlaysync.errors import NetworkError, NotAllowedError
from overlaysync.installed import adding
from tests.vault.contract import an_object

AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": "account"}
S3 = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "topsecret"}


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("url", "variables", "said", "hint"),
    [
        ("s3://lab/x", {}, "no key for it was found", "AWS_ACCESS_KEY_ID"),
        ("az://lab/x", {}, "no key for it was found", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://lab/x", AZURE | {"AZURE_STORAGE_ACCOUNT_KEY": "topsecret!"}, "is wrong", "ACCOUNT_KEY"),
        ("gs://lab/x", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}, "is wrong", "GOOGLE_APPLICATION"),
        ("s3://lab/x", S3 | {"AWS_ENDPOINT_URL": "not a URL"}, "is wrong", "URL of the store"),
        ("s3://lab/x", S3 | {"AWS_ENDPOINT_URL": "http://id:topsecret@host"}, "is wrong", "URL of the store"),
    ],
)
def test_settings_with_which_no_store_can_be_asked(
    clean: Path, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], said: str, hint: str
) -> None:
    set_all(monkeypatch, variables)
    with pytest.raises(NotAllowedError, match=said) as caught:
        open_place(parse_location(url))
    assert hint in caught.value.hint and "topsecret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("s3://lab/x", S3 | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}),
        (
            "az://lab/x",
            AZURE
            | {"AZURE_STORAGE_ACCOUNT_KEY": "AAAA", "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1/account"},
        ),
    ],
)
def test_a_store_that_is_not_there(
    clean: Path, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str]
) -> None:
    set_all(monkeypatch, variables)
    objects = BucketObjects(parse_location(url), Limits(repeats=1, first_wait_s=0.01))
    with pytest.raises(NetworkError, match="does not answer") as caught:
        objects.put(*an_object())
    assert caught.value.hint


def test_without_obstore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if re.match(r"obstore(\.|$)", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(NotAllowedError, match="obstore is not installed") as caught:
        BucketObjects(Location("s3", "lab", ""))
    assert caught.value.hint == adding("archive") and "obstore" in caught.value.hint
