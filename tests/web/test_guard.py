"""Who is let in, by the fields of a request alone."""

from __future__ import annotations

import pytest

from overlaysync.web.guard import Verdict, cookie_for, is_arrival, judge, may_change
from overlaysync.web.secret import Secret

SECRET = Secret("A" * 43)
OTHER = Secret("B" * 43)
HOST = "127.0.0.1:4711"
COOKIE = f"overlaysync={SECRET.cookie}"


def fields(**more: str) -> dict[str, list[str]]:
    return {"host": [HOST]} | {name.replace("_", "-"): [value] for name, value in more.items()}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:80", "localhost:4711", "LOCALHOST", "[::1]:4711", "[::1]"]
)
@pytest.mark.holds("W1")
def test_it_answers_to_loopback_names_at_any_port(host: str) -> None:
    assert judge(SECRET, fields(cookie=COOKIE) | {"host": [host]}) is Verdict.KNOWN


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["evil.example"],
        ["127.0.0.1.evil.example"],
        ["localhost.evil.example:80"],
        ["evil.example:127.0.0.1"],
        ["127.0.0.1@evil.example"],
        ["127.0.0.2"],
        ["0.0.0.0:4711"],
        ["127.0.0.1:4711\n"],
        ["127.0.0.1:123456"],
        ["::1"],
        ["localhost."],
        [HOST, HOST],
        [HOST, "evil.example"],
    ],
)
@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "the Host field is not looked at")
def test_it_answers_to_no_other_name(hosts: list[str]) -> None:
    assert judge(SECRET, fields(cookie=COOKIE) | {"host": hosts}) is Verdict.FOREIGN


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "same-origin, cross-site"])
@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "another port of the same host counts as this page")
def test_what_another_page_asks_for_is_refused(site: str) -> None:
    assert judge(SECRET, fields(cookie=COOKIE, sec_fetch_site=site)) is Verdict.FOREIGN


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://127.0.0.1:4711",
        "http://127.0.0.1:4712",
        "http://localhost:4711",
    ],
)
@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "the Origin field is not looked at")
def test_another_origin_is_refused(origin: str) -> None:
    assert judge(SECRET, fields(cookie=COOKIE, origin=origin)) is Verdict.FOREIGN


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"cookie": f"overlaysync={OTHER.cookie}"},
        {"cookie": f"overlaysync={SECRET.token}"},
        {"cookie": f"xoverlaysync={SECRET.cookie}"},
        {"cookie": "overlaysync="},
        {"authorization": f"Bearer {OTHER.token}"},
        {"authorization": f"Basic {SECRET.token}"},
        {"authorization": f"Bearer {SECRET.cookie}"},
        {"authorization": "Bearer \udcff"},
    ],
)
@pytest.mark.holds("W1")
def test_without_the_token_nobody_is_known(shown: dict[str, str]) -> None:
    assert judge(SECRET, fields(**shown)) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "shown",
    [
        {"cookie": COOKIE},
        {"cookie": f"other=1; {COOKIE}; more=overlaysync=2"},
        {"cookie": f"overlaysync={OTHER.cookie}; {COOKIE}"},
        {"authorization": f"Bearer {SECRET.token}"},
        {"authorization": f"bearer {SECRET.token}"},
    ],
)
def test_with_the_token_the_user_is(shown: dict[str, str]) -> None:
    own = {"sec_fetch_site": "same-origin", "origin": f"http://{HOST}"}
    assert judge(SECRET, fields(**shown)) is Verdict.KNOWN
    assert judge(SECRET, fields(**shown, **own)) is Verdict.KNOWN


@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "a form needs no token of its own")
def test_a_form_must_be_this_pages_own_and_say_where_it_comes_from() -> None:
    own = fields(cookie=COOKIE, origin=f"http://{HOST}")
    form = {"csrf": SECRET.form("discard")}
    assert may_change(SECRET, own, form, "discard")
    assert may_change(SECRET, fields(cookie=COOKIE, sec_fetch_site="same-origin"), form, "discard")
    assert not may_change(SECRET, fields(cookie=COOKIE), form, "discard")
    assert not may_change(SECRET, own, form, "promote")
    assert not may_change(SECRET, own, {}, "discard")
    assert not may_change(SECRET, own, {"csrf": OTHER.form("discard")}, "discard")


def test_the_cookie_is_for_a_path_that_only_its_holder_knows() -> None:
    field = cookie_for(SECRET)
    assert f"Path=/{SECRET.path}/" in field and "HttpOnly" in field and "SameSite=Strict" in field
    assert SECRET.token not in field and OTHER.path != SECRET.path
    assert SECRET.token not in repr(SECRET)


@pytest.mark.parametrize(
    ("more", "arrives"),
    [
        ({}, True),
        ({"sec-fetch-site": ["same-site"]}, True),
        ({"sec-fetch-site": []}, False),
        ({"sec-fetch-mode": ["cors"]}, False),
        ({"sec-fetch-mode": ["no-cors"]}, False),
        ({"sec-fetch-dest": ["iframe"]}, False),
        ({"sec-fetch-dest": ["document", "iframe"]}, False),
        ({"origin": ["null"]}, False),
        ({"host": ["evil.example"]}, False),
        ({"host": []}, False),
    ],
)
@pytest.mark.holds("W1")
def test_only_a_browser_that_goes_to_the_page_as_a_whole_arrives(
    more: dict[str, list[str]], arrives: bool
) -> None:
    plain = fields(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document")
    assert is_arrival(plain | more) is arrives
