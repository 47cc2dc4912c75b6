"""What the server of the page answers to those who are not its user, byte for byte, and what it bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from overlaysync.net.faults import Faults
from overlaysync.net.rate import RateLimit
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.session import looking
from overlaysync.node.sharing import Share
from overlaysync.web.page import Page
from overlaysync.web.session import link_to, paged, running
from overlaysync.web.subject import Subject


@asynccontextmanager
async def served(home: Path) -> AsyncIterator[Page]:
    """The page of a share of nothing."""
    node = Node.open({"OVERLAYSYNC_HOME": str(home)})
    network = Network(interfaces=("lo",), mdns_needed=False, catalogs=False)
    share = Share(node, [str(home)], None, Silent())
    faults: list[str] = []
    try:
        async with looking(node, Silent(), network) as reach:
            subject = Subject(share, reach, 29450, "lo", RateLimit(None), network)
            async with paged(subject, Faults(faults.append)) as page:
                yield page
    finally:
        share.close()
        node.close()
    assert faults == []


def known(page: Page) -> dict[str, str]:
    return {"Authorization": f"Bearer {page.secret.token}"}


@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "the path is looked at before the token")
async def test_without_the_token_every_address_answers_alike(tmp_path: Path) -> None:
    async with served(tmp_path / "home") as page, aiohttp.ClientSession() as session:
        answers = set()
        for path in (
            "", "?token=x", "metrics", "nothing", f"{page.secret.path}/", f"{page.secret.path}/events",
            f"{page.secret.path}/do/slow", f"{page.secret.path}/static/page.js", "a" * 2000, "%00", "..%2f",
        ):  # fmt: skip
            for method in ("GET", "POST", "PUT", "OPTIONS", "HEAD"):
                async with session.request(method, f"{page.address}{path}") as answer:
                    body = b"" if method == "HEAD" else await answer.read()
                    fields = {name: value for name, value in answer.headers.items() if name != "Date"}
                    if method != "HEAD":
                        answers.add((answer.status, body, tuple(sorted(fields.items()))))
        assert len(answers) == 1 and answers.pop()[0] == 403


@pytest.mark.holds("W1")
async def test_a_get_changes_nothing_and_a_post_needs_its_forms_token(tmp_path: Path) -> None:
    async with served(tmp_path / "home") as page, aiohttp.ClientSession() as session:
        address = f"{page.address}{page.secret.path}/do/slow"
        own = known(page) | {"Origin": page.address.rstrip("/")}
        good = {"csrf": page.secret.form("slow"), "rate": "2M"}
        limit = page.subject.limit
        async with session.get(f"{address}?rate=2M&csrf={good['csrf']}", headers=own) as answer:
            assert answer.status == 200 and limit.rate is None
        for headers, form in (
            (known(page), good),
            (own, {"rate": "2M"}),
            (own, good | {"csrf": page.secret.form("discard")}),
            (own | {"Sec-Fetch-Site": "same-site"}, good),
            (known(page) | {"Origin": "null"}, good),
        ):
            async with session.post(address, headers=headers, data=form) as answer:
                assert answer.status == 403 and limit.rate is None
        async with session.post(address, headers=own, data=good, allow_redirects=False) as answer:
            assert answer.status == 303 and limit.rate == 2 << 20


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"csrf=" + b"x" * 20_000, "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=1" % number for number in range(100)), "application/x-www-form-urlencoded"),
        (b"csrf=%ff\xff", "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    ],
)
async def test_a_body_that_is_no_small_form_is_refused(tmp_path: Path, body: bytes, kind: str) -> None:
    async with served(tmp_path / "home") as page, aiohttp.ClientSession() as session:
        headers = known(page) | {"Origin": page.address.rstrip("/"), "Content-Type": kind}
        address = f"{page.address}{page.secret.path}/do/slow"
        async with session.post(address, headers=headers, data=body) as answer:
            assert answer.status in (403, 413)


@pytest.mark.parametrize(
    "target", ["*", "example.org:80", "//example.org/", "http://example.org/", "/", "/%00"]
)
@pytest.mark.parametrize("method", ["CONNECT", "OPTIONS", "GET", "POST"])
async def test_a_request_without_a_path_of_the_page_is_refused(
    tmp_path: Path, method: str, target: str
) -> None:
    """Also one of the user's browser."""
    async with served(tmp_path / "home") as page:
        reader, writer = await asyncio.open_connection(page.hosts[0], page.port)
        lines = (f"{method} {target} HTTP/1.1", f"Host: {page.host}:{page.port}", "Connection: close")
        token = f"Authorization: Bearer {page.secret.token}"
        writer.write("\r\n".join((*lines, token, "", "")).encode())
        answer = await reader.read()
        writer.close()
    assert answer[9:12] in (b"400", b"403"), answer


async def test_every_answer_has_a_strict_policy_and_is_kept_nowhere(tmp_path: Path) -> None:
    async with served(tmp_path / "home") as page, aiohttp.ClientSession() as session:
        for path in (
            "",
            "image/x",
            "task/x",
            "do/slow",
            "do/x",
            "parts?since=0",
            "static/x",
            "static/page.css",
        ):
            address = f"{page.address}{page.secret.path}/{path}"
            async with session.get(address, headers=known(page)) as answer:
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"], path
                assert "unsafe" not in answer.headers["Content-Security-Policy"]
                assert "no-" in answer.headers["Cache-Control"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.holds("W1")
async def test_metrics_need_the_token_and_name_nobody(tmp_path: Path) -> None:
    async with served(tmp_path / "home") as page, aiohttp.ClientSession() as session:
        async with session.get(f"{page.address}metrics") as answer:
            assert answer.status == 403
        async with session.get(f"{page.address}metrics", headers=known(page)) as answer:
            text = await answer.text()
        assert answer.status == 200
        assert "overlaysync_given_bytes_total 0.0" in text and "overlaysync_peers 0.0" in text


async def test_where_it_is_is_known_while_it_runs_and_to_its_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with served(home) as page:
        (found,) = await asyncio.to_thread(running, page.subject.node.home)
        assert found.link == link_to(page.address, page.secret)
        assert (home / "page.token").stat().st_mode & 0o777 == 0o600
        assert page.secret.token not in str(next((home / "pages").iterdir()).read_text())
    assert running(page.subject.node.home) == []


@pytest.mark.holds("W1")
async def test_from_a_file_the_token_opens_the_page_and_nothing_else_does(tmp_path: Path) -> None:
    arrival = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with served(tmp_path / "home") as page, aiohttp.ClientSession() as session:
        good = link_to(page.address, page.secret)
        for address, headers, status in (
            (good, arrival, 200),
            (good, arrival | {"Sec-Fetch-Dest": "iframe"}, 403),
            (good, arrival | {"Host": "evil.example"}, 403),
            (f"{page.address}?token={'A' * 43}", arrival, 403),
            (f"{page.address}{page.secret.path}/?token={page.secret.token}", arrival | known(page), 403),
        ):
            async with session.get(address, headers=headers, allow_redirects=False) as answer:
                assert answer.status == status, address
                assert ("Set-Cookie" in answer.headers) is (status == 200)
                assert (page.secret.path in await answer.text()) is (status == 200)
