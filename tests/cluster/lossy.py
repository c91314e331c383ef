"""Between an operator and the apiserver, a proxy that loses events of watches: nothing else happens to the watch, and nobody is told."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from control_plane import ControlPlane

Loses = Callable[[dict[str, Any]], bool]
"""Of an event of a watch, whether it is lost."""
_LINE_BYTES = 2**24
_FORWARDED = ("Accept", "Content-Type")


class Proxy:
    """One that runs. What it saw grows as it works."""

    def __init__(self, server: str, session: aiohttp.ClientSession, loses: Loses) -> None:
        self._server, self._session, self._loses = server, session, loses
        self.lost: list[dict[str, Any]] = []
        self.lists: Counter[str] = Counter()
        """By plural: how often one was asked for, its pages counted."""
        self.watches: set[str] = set()
        """Plurals that are watched."""
        self.written: list[tuple[str, str]] = []
        """Method and path of every write that was answered well; events and leases aside."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass on one request."""
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        body = await request.read()
        call = self._session.request(request.method, f"{self._server}{request.path_qs}", data=body or None, headers=headers)
        async with call as answer:
            if request.query.get("watch") == "true" and answer.status == 200:
                return await self._watch(request, answer)
            content = await answer.read()
        if answer.status < 300:
            self._note(request, body)
        return web.Response(status=answer.status, body=content, headers={"Content-Type": answer.headers["Content-Type"]})

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
        await response.prepare(request)
        self.watches.add(request.path.rpartition("/")[2])
        async for line in answer.content:
            event = json.loads(line)
            if self._loses(event):
                self.lost.append(event)
            else:
                await response.write(line)
        return response

    def _note(self, request: web.Request, body: bytes) -> None:
        if request.method == "GET":
            self.lists[request.path.rpartition("/")[2]] += 1
        elif request.method != "PUT" and not request.path.endswith("/events") and "/leases" not in request.path:
            name = f"/{json.loads(body)['metadata']['name']}" if request.method == "POST" else ""
            self.written.append((request.method, request.path + name))


@contextlib.asynccontextmanager
async def proxy(api: ControlPlane, kubeconfig: Path, loses: Loses) -> AsyncIterator[Proxy]:
    """One in front of `api`, as its admin; `kubeconfig` is written, and leads there."""
    config = yaml.safe_load(api.kubeconfig.read_text())
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(ssl=api.tls, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_LINE_BYTES) as session:
        found = Proxy(config["clusters"][0]["cluster"]["server"], session, loses)
        application = web.Application(client_max_size=_LINE_BYTES)
        application.router.add_route("*", "/{path:.*}", found.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            config["clusters"][0]["cluster"] = {"server": f"http://{host}:{port}"}
            config["users"][0]["user"] = {"token": "none"}
            kubeconfig.write_text(yaml.safe_dump(config))
            yield found
        finally:
            await runner.cleanup()
