"""The controller's own HTTP endpoints: /healthz and /readyz for the kubelet, /metrics for Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@asynccontextmanager
async def serve(
    port: int, metrics_port: int, *, unwell: Callable[[], str], registry: CollectorRegistry, host: str
) -> AsyncIterator[None]:  # fmt: skip
    """Answer on two ports while the context lasts.

    Args:
        port: of /healthz and /readyz.
        metrics_port: of /metrics.
        unwell: why the process should be restarted; empty while it is well.
        registry: what /metrics shows.
        host: address to listen on.

    Raises:
        OSError: a port is taken.
    """

    async def healthy(_: web.Request) -> web.Response:
        text = unwell()
        return web.Response(status=503 if text else 200, text=(text or "ok") + "\n")

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # a standby is as ready as one can be: the lease says who works

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    health = web.Application()
    health.router.add_get("/healthz", healthy)
    health.router.add_get("/readyz", ready)
    scraped = web.Application()
    scraped.router.add_get("/metrics", metrics)
    runners = []
    try:
        for application, number in ((health, port), (scraped, metrics_port)):
            runner = web.AppRunner(application, access_log=None)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, host, number).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
