"""A web server of another user of the machine: it gives out a page that attacks, and tells what it was sent.

Run as ``python -m tests.web.attacker``: a line of JSON on stdout says where it listens, and each further one
is a request. Its page says in its title what became of the attacks.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from aiohttp import web

_PAGE = """<!doctype html><title>attacking</title><script>
const there = new URLSearchParams(location.search).get("there");
const done = {};
async function attack() {
  for (const [name, settings] of Object.entries({
    read: {credentials: "include"},
    blind: {credentials: "include", mode: "no-cors"},
    write: {credentials: "include", mode: "no-cors", method: "POST",
            headers: {"Content-Type": "application/x-www-form-urlencoded"}, body: "csrf=x"},
  })) {
    try { done[name] = (await fetch(there, settings)).type; } catch (error) { done[name] = "refused"; }
  }
  done.frame = await new Promise((tell) => {
    const frame = document.createElement("iframe");
    frame.src = there;
    frame.onload = () => { try { tell(frame.contentDocument.title); } catch (error) { tell("closed"); } };
    document.body.append(frame);
  });
  done.script = await new Promise((tell) => {
    const script = document.createElement("script");
    script.src = there + "static/page.js";
    script.onload = () => tell("loaded");
    script.onerror = () => tell("refused");
    document.body.append(script);
  });
  done.stream = await new Promise((tell) => {
    const source = new EventSource(there + "events", {withCredentials: true});
    source.onopen = () => tell("open");
    source.onerror = () => tell("refused");
  });
  document.title = JSON.stringify(done);
}
</script><body onload="attack()"></body>"""


async def _answer(request: web.Request) -> web.Response:
    print(json.dumps({"path": request.path, "cookie": request.headers.get("Cookie", "")}), flush=True)
    return web.Response(text=_PAGE, content_type="text/html")


async def _main() -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "::1", 0)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
