"""`python3 -m burnish.controller`: the operator's process, as the chart starts it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from burnish import __version__
from burnish.controller import apiserver, endpoints
from burnish.controller.lease import Lease
from burnish.controller.operator import Operator
from burnish.errors import BurnishError
from burnish.manifests.settings import Settings, load

LOG = logging.getLogger("burnish")


def main() -> int:
    """Run until SIGTERM. Exit code 0: asked to end; 1: the lease was lost, the watches ended, or a port is taken; 2: wrong settings."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("kopf", "aiohttp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # that signals are not its own, on purpose
    try:
        settings = load(arguments.settings)
    except BurnishError as error:
        LOG.error("%s", error.message)
        return 2
    try:
        return asyncio.run(_run(settings, arguments))
    except (OSError, apiserver.ApiError) as error:
        LOG.error("%s", error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m burnish.controller", description="The operator: watches OptimizedModels and serves them.")
    parser.add_argument("--settings", type=Path, required=True, help="the installation's settings (YAML; the chart's ConfigMap)")
    parser.add_argument("--port", type=int, default=8080, help="of /healthz and /readyz (default 8080)")
    parser.add_argument("--metrics-port", type=int, default=9090, help="of /metrics (default 9090)")
    parser.add_argument("--host", default="0.0.0.0", help="address of both (default: all)")  # noqa: S104  # the kubelet and Prometheus ask
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser


async def _run(settings: Settings, arguments: argparse.Namespace) -> int:
    asked, stop = asyncio.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    identity = os.environ.get("POD_NAME") or socket.gethostname()
    where = f"namespaces {', '.join(settings.watch_namespaces)}" if settings.watch_namespaces else "all namespaces"
    LOG.info("Burnish %s starts as %s, watching %s", __version__, identity, where)
    async with apiserver.connect() as api:
        operator = Operator(api, settings, identity=identity)
        async with endpoints.serve(
            arguments.port, arguments.metrics_port, unwell=operator.unwell, registry=operator.metrics.registry, host=arguments.host
        ):
            watching = asyncio.create_task(operator.watch(stop))
            leading = asyncio.create_task(Lease(api, settings, identity).hold(operator.work))
            stopping = asyncio.create_task(asked.wait())
            done, _ = await asyncio.wait({watching, leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            leading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leading
            stop.set()
            (failure,) = await asyncio.gather(watching, return_exceptions=True)
            if stopping in done:
                LOG.info("ended")
                return 0
            if watching in done:
                LOG.error("the watches ended (%s): ending, so that a new process starts them", failure)
            else:
                LOG.info("the lease was lost: ending, so that only its new holder works")
            return 1


if __name__ == "__main__":
    sys.exit(main())
