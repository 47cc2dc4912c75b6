"""Keys from the files of other programs: which are taken, and that no message repeats one."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.archive.profiles import Profile, read_profile
from overlaysync.errors import NotAllowedError, NotFoundError

CREDENTIALS = """\
[default]
aws_access_key_id = DEFAULT
aws_secret_access_key = topsecret%1
[ceph]
aws_access_key_id = CEPH
aws_secret_access_key = ceph-topsecret
aws_session_token = a-token
"""
CONFIG = """\
[default]
region = eu-1
[profile ceph]
endpoint_url = http://ceph.example:8080
region = lab
[profile sso]
sso_start_url = https://example
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(CREDENTIALS)
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    return {"HOME": str(tmp_path)}


def test_the_default_profile_is_used_where_the_environment_has_no_key(env: dict[str, str]) -> None:
    assert read_profile(env) == Profile(("DEFAULT", "topsecret%1", ""), "eu-1", "")
    assert read_profile(env | {"AWS_ACCESS_KEY_ID": "x"}) == Profile()


def test_a_named_profile_is_used_before_the_environment(env: dict[str, str]) -> None:
    ceph = Profile(("CEPH", "ceph-topsecret", "a-token"), "lab", "http://ceph.example:8080")
    assert read_profile(env | {"AWS_ACCESS_KEY_ID": "x"}, "ceph") == ceph
    assert read_profile(env | {"AWS_PROFILE": "ceph"}) == ceph
    assert "topsecret" not in repr(ceph)


def test_without_files_there_are_no_keys(tmp_path: Path) -> None:
    assert read_profile({"HOME": str(tmp_path)}) == Profile()


def test_other_places_of_the_files(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("[default]\naws_access_key_id=A\naws_secret_access_key=B\n")
    mine = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "mine"), "AWS_CONFIG_FILE": "/nowhere"}
    assert read_profile(env | mine) == Profile(("A", "B", ""))


def test_a_profile_that_is_missing_or_has_no_key(env: dict[str, str]) -> None:
    with pytest.raises(NotFoundError, match="no profile 'other'"):
        read_profile(env, "other")
    with pytest.raises(NotAllowedError, match="'sso' has no key that can be used"):
        read_profile(env | {"AWS_PROFILE": "sso"})


def test_a_damaged_file_is_named_and_not_shown(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".aws" / "credentials").write_text("aws_secret_access_key = topsecret\n")
    with pytest.raises(NotAllowedError, match=r"Cannot read .*credentials") as caught:
        read_profile(env)
    assert "topsecret" not in f"{caught.value} {caught.value.hint}"
