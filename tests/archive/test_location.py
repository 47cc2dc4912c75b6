"""URLs of archives: what they mean, and that no secret is in them."""

from __future__ import annotations

import pytest

from overlaysync.archive.location import Location, parse_location
from overlaysync.errors import UsageError


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://lab", Location("s3", "lab", "")),
        ("s3://lab/", Location("s3", "lab", "")),
        ("s3://lab/rooms/3.14", Location("s3", "lab", "rooms/3.14")),
        ("s3://lab/rooms?profile=ceph", Location("s3", "lab", "rooms", "ceph")),
        ("gs://my_bucket.x/a", Location("gs", "my_bucket.x", "a")),
        ("az://container/a", Location("az", "container", "a")),
        ("file:///srv/vault", Location("file", "", "/srv/vault")),
        ("file:///a%20b", Location("file", "", "/a b")),
    ],
)
def test_a_url_names_a_location_and_a_location_its_url(url: str, location: Location) -> None:
    assert parse_location(url) == location
    assert parse_location(str(location)) == location


@pytest.mark.parametrize(
    "url",
    [
        "",
        "lab",
        "/srv/vault",
        "http://lab/x",
        "s3://",
        "s3:///x",
        "s3://a",
        "s3://-lab/x",
        "s3://lab/../x",
        "s3://lab/.hidden",
        "s3://lab/a//b",
        "s3://lab/a b",
        "s3://lab/\x1b[31m",
        "s3://lab:80/x",
        "s3://[lab/x",
        "file://host/x",
        "file:x",
        "file:///a%00b",
        "s3://lab/" + "x" * 2000,
    ],
)
def test_what_is_no_archive_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the URL of an archive") as caught:
        parse_location(url)
    assert "s3://BUCKET/PREFIX" in caught.value.hint and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:topsecret@lab/x",
        "s3://lab/x?secret_access_key=topsecret",
        "s3://lab/x?profile=a&token=topsecret",
        "az://container/x?sig=topsecret",
        "gs://lab/x#topsecret",
        "s3://lab/x?profile=",
    ],
)
def test_a_url_with_a_secret_or_an_unknown_option_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_location(url)
    assert "topsecret" not in f"{caught.value} {caught.value.hint}" and "AKIA" not in str(caught.value)
