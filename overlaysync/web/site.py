"""What the page answers to its user: the page itself, its parts, images, tasks, forms and what they do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from overlaysync import __version__
from overlaysync.errors import OverlaysyncError
from overlaysync.net.bounds import SERVER
from overlaysync.net.faults import Faults
from overlaysync.units import KIB, MIB, parse_size
from overlaysync.web import texts
from overlaysync.web.actions import ACTIONS, Action, Target, fitting, keeping_of
from overlaysync.web.events import Watch
from overlaysync.web.guard import may_change
from overlaysync.web.metrics import metrics_of
from overlaysync.web.model import Snapshot
from overlaysync.web.render import Clock, environment
from overlaysync.web.replies import FIELDS, file_reply, redirect, reply
from overlaysync.web.secret import Secret
from overlaysync.web.subject import Subject
from overlaysync.web.tasks import Task, Tasks
from overlaysync.web.view import CHOICES, MAX_TEXT, View, view_of

Headers = Mapping[str, list[str]]

SLOW = MIB
"""Bytes per second of slow mode, unless the user says otherwise."""
_LEAST_RATE = 16 * KIB
_MAX_FORM = 16 * KIB
_MAX_FIELDS = 32
_BODY_S = 10.0
_MAX_STREAMS = 24
_LANGUAGE = "overlaysync-lang"


@dataclass(slots=True)
class Site:
    """Answers the user.

    Args:
        subject: what the page shows.
        secret: makes the tokens of forms.
        faults: unexpected exceptions go there.
    """

    subject: Subject
    secret: Secret
    faults: Faults
    tasks: Tasks = field(init=False)
    _watch: Watch = field(init=False)
    _streams: int = 0
    _ending: bool = False
    _rate: int | None = None
    """The limit that the share was begun with."""

    def __post_init__(self) -> None:
        peers = [str(address) for address in self.subject.network.peers]
        self.tasks = Tasks(self.subject.node.home.root / "tasks", peers)
        self._watch = Watch(self.subject, self.tasks, self.faults)
        self._rate = self.subject.limit.rate

    async def stop(self) -> None:
        """End what runs."""
        self._ending = True
        await self._watch.stop()
        await self.tasks.close()

    async def metrics(self) -> web.Response:
        """Return what Prometheus asks for."""
        text = await asyncio.to_thread(metrics_of, self.subject, await self._watch.snapshots.take())
        return reply(text, "text/plain")

    # -- GET: nothing changes by it --------------------------------------------------------------------

    async def get(self, request: web.BaseRequest, path: list[str], headers: Headers) -> web.StreamResponse:
        """Answer a GET of the user's."""
        query = request.rel_url.query
        language = _language(headers)
        view = view_of(query)
        match path:
            case ["static", *rest]:
                file = file_reply("/".join(rest), request.headers.get("If-None-Match", ""))
                return file or self._missing(language)
            case [""] if query.get("lang") in texts.LANGUAGES:
                where = f"Path=/{self.secret.path}/; SameSite=Strict; Max-Age=31536000"
                there = f"./?{view.query}" if view.query else "./"
                return redirect(there, Set_Cookie=f"{_LANGUAGE}={query['lang']}; {where}")
            case [""]:
                return await self._whole(language, view)
            case ["parts"]:
                version = query.get("since", "")
                board = await self._watch.board(language, view, fresh=False)
                text = board.since(int(version) if version.isdecimal() and len(version) < 20 else 0)
                return reply(text, packed=True, Overlaysync_Version=str(board.version))
            case ["events"]:
                return await self._stream(request, language, view)
            case ["image", key]:
                return await self._image(key, language)
            case ["task", key]:
                return await self._task(key, language)
            case ["team", name]:
                return await self._team(unquote(name), language)
            case ["do", name]:
                return await self._form(name, dict(query), language)
        return self._missing(language)

    async def _whole(self, language: str, view: View) -> web.Response:
        board = await self._watch.board(language, view)
        return self._page(
            "page.html",
            language,
            title=f"{self.subject.share.label} · overlaysync",
            parts=board.texts,
            version=board.version,
            view=view,
            choices=CHOICES,
            longest=MAX_TEXT,
        )

    async def _team(self, name: str, language: str) -> web.Response:
        snapshot = await self._watch.snapshots.take()
        target = self._target({"team": name}, snapshot)
        if target.team is None:
            return self._missing(language)
        return self._page(
            "team.html",
            language,
            title=f"{target.name} · overlaysync",
            one=target.team,
            actions=fitting(target),
            at=snapshot.at,
        )

    async def _image(self, key: str, language: str) -> web.Response:
        snapshot = await self._watch.snapshots.take()
        target = self._target({"image": key}, snapshot)
        if target.image is None:
            return self._missing(language)
        title = f"{target.name} · overlaysync"
        return self._page(
            "image.html", language, title=title, one=target.image, actions=fitting(target), at=snapshot.at
        )

    async def _task(self, key: str, language: str) -> web.Response:
        task = self.tasks.get(key)
        if task is None:
            return self._missing(language)
        title = f"{texts.ALL[language](f'do-{task.action}')} {task.about} · overlaysync"
        csrf = self.secret.form("stop")
        snapshot = await self._watch.snapshots.take()
        transfers = [one for one in snapshot.transfers if one.task == key]
        return self._page(
            "task.html",
            language,
            title=title,
            one=task.view(),
            lines=list(task.lines),
            transfers=transfers,
            csrf=csrf,
            at=snapshot.at,
        )

    async def _form(
        self, name: str, query: Mapping[str, str], language: str, error: OverlaysyncError | None = None
    ) -> web.Response:
        """Ask once more, before something is done; after an error, with what was typed."""
        if name == "slow":
            return self._slow_form(query, language, error)
        action = ACTIONS.get(name)
        target = self._target(query, await self._watch.snapshots.take())
        if action is None or not action.fits(target):
            return self._missing(language)
        here = os.getcwd()
        directory = os.path.dirname(target.path) or here
        values = {"to": directory, "masters": directory, "name": "", "note": "", "repair": ""}
        values |= keeping_of(target) | dict(query)
        return self._page(
            "form.html",
            language,
            status=400 if error else 200,
            title=f"{name} · overlaysync",
            action=action,
            target=target,
            values=values,
            csrf=self.secret.form(name),
            error=error,
        )

    def _slow_form(
        self, query: Mapping[str, str], language: str, error: OverlaysyncError | None
    ) -> web.Response:
        return self._page(
            "slow.html",
            language,
            status=400 if error else 200,
            title="overlaysync",
            rate=self.subject.limit.rate,
            slow=self.subject.limit.rate != self._rate,
            value=query.get("rate", "1M"),
            csrf=self.secret.form("slow"),
            error=error,
        )

    # -- POST: what a form does ------------------------------------------------------------------------

    async def post(self, request: web.BaseRequest, path: list[str], headers: Headers) -> web.StreamResponse:
        """Do what a form of this page asks for."""
        language = _language(headers)
        match path:
            case ["do", name]:
                pass
            case _:
                return self._missing(language)
        form = await _read_form(request)
        if form is None:
            return reply("", "text/plain", status=413)
        if not may_change(self.secret, headers, form, name):
            return reply("", "text/plain", status=403)
        try:
            return await self._do(name, form, language)
        except OverlaysyncError as error:
            return await self._form(name, form, language, error)

    async def _do(self, name: str, form: Mapping[str, str], language: str) -> web.Response:
        if name == "stop":
            task = self.tasks.get(form.get("task", ""))
            if task is None:
                return self._missing(language)
            self.tasks.stop(task)
            return redirect(f"../task/{task.key}")
        if name == "slow":
            self._set_rate(form)
            return redirect("../")
        action = ACTIONS.get(name)
        target = self._target(form, await self._watch.snapshots.take(age_s=0))
        if action is None or not action.fits(target):
            return self._missing(language)
        return redirect(f"../task/{(await self._start(action, target, form)).key}")

    async def _start(self, action: Action, target: Target, form: Mapping[str, str]) -> Task:
        return await self.tasks.start(action.name, action.words(target, form), target.name)

    def _set_rate(self, form: Mapping[str, str]) -> None:
        """Send slowly from now on, or as the share was told to.

        Raises:
            UsageError: it is no rate.
        """
        if form.get("off"):
            self.subject.limit.rate = self._rate
            return
        rate = max(_LEAST_RATE, parse_size(form.get("rate", "").removesuffix("/s")))
        self.subject.limit.rate = min(rate, self._rate or rate)

    # -- inside ----------------------------------------------------------------------------------------

    def _target(self, fields: Mapping[str, str], snapshot: Snapshot) -> Target:
        """Return what a form is about: something that is shown, or nothing."""
        if "image" in fields:
            image = next((one for one in snapshot.images if one.key == fields["image"]), None)
            paths = self._watch.snapshots.paths(fields["image"])
            return Target(image, paths[0] if image and paths else "")
        return Target(team=next((one for one in snapshot.teams if one.name == fields.get("team")), None))

    def _page(self, template: str, language: str, *, status: int = 200, **values: object) -> web.Response:
        Clock.now = values.pop("at", Clock.now)  # type: ignore[assignment] # "at" is a time
        text = (
            environment()
            .get_template(template)
            .render(
                w=texts.ALL[language],
                words=texts.ALL,
                languages=texts.LANGUAGES,
                program=__version__,
                root=f"/{self.secret.path}/",
                **values,
            )
        )
        return reply(text, packed=True, status=status)

    def _missing(self, language: str) -> web.Response:
        return self._page("missing.html", language, status=404, title="overlaysync")

    async def _stream(self, request: web.BaseRequest, language: str, view: View) -> web.StreamResponse:
        """Say when something has changed, until the browser goes."""
        if self._streams >= _MAX_STREAMS:
            return reply("", "text/plain", status=503, Retry_After="5")
        response = web.StreamResponse(headers=FIELDS | {"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        self._streams += 1
        try:
            async with self._watch.watched(language, view) as board:
                await response.prepare(request)
                version = 0
                while not self._ending:
                    now = await self._watch.next_change(board, version) if version else board.version
                    text = f"event: changed\nid: {now}\ndata: {now}\n\n"
                    async with asyncio.timeout(SERVER.write_s):
                        await response.write(text.encode() if now != version else b": still here\n\n")
                    version = now
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._streams -= 1
        return response


def fields_of(request: web.BaseRequest) -> dict[str, list[str]]:
    """Return the fields of a request, by name in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        found.setdefault(name.lower(), []).append(value)
    return found


async def _read_form(request: web.BaseRequest) -> dict[str, str] | None:
    """Return the fields of a form; None for one that is too long, comes too slowly, or is none."""
    if (
        request.content_type != "application/x-www-form-urlencoded"
        or (request.content_length or 0) > _MAX_FORM
    ):
        return None
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            while chunk := await request.content.read(_MAX_FORM):
                body += chunk
                if len(body) > _MAX_FORM:
                    return None
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except (TimeoutError, ValueError):
        return None


def _language(headers: Headers) -> str:
    """Return the language that was chosen, else the one that the browser prefers."""
    for line in headers.get("cookie", []):
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            if name == _LANGUAGE and value in texts.LANGUAGES:
                return value
    return texts.chosen(", ".join(headers.get("accept-language", [])))
