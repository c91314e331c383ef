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
from pathlib import Path
from typing import Any

import kopf

from burnish import __version__
from burnish.controller import apiserver, endpoints
from burnish.controller.lease import Lease
from burnish.controller.operator import Operator
from burnish.errors import BurnishError
from burnish.manifests.settings import Settings, load

LOG = logging.getLogger("burnish")


def main() -> int:
    """Run until SIGTERM. Exit code 0: asked to end; 1: the lease was lost, or a port is taken; 2: wrong settings."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("kopf", "kubernetes", "aiohttp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
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
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    identity = os.environ.get("POD_NAME") or socket.gethostname()
    where = f"namespaces {', '.join(settings.watch_namespaces)}" if settings.watch_namespaces else "all namespaces"
    LOG.info("Burnish %s starts as %s, watching %s", __version__, identity, where)
    async with apiserver.connect() as api:
        operator = Operator(api, settings, identity=identity)
        unready = lambda: ""  # noqa: E731  # a standby is as ready as one can be: the lease says who works
        async with endpoints.serve(
            arguments.port, arguments.metrics_port, unwell=operator.unwell, unready=unready, registry=operator.metrics.registry, host=arguments.host
        ):
            watching = asyncio.create_task(watch(operator, stop))
            leading = asyncio.create_task(Lease(api, settings, identity).hold(operator.work))
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait({watching, leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            is_lost = leading in done  # Kopf has signal handlers of its own: asked to end, its watches may be the first to do so
            stop.set()
            leading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leading
            await watching
            LOG.info("the lease was lost: ending, so that only its new holder works" if is_lost else "ended")
            return 1 if is_lost else 0


async def watch(operator: Operator, stop: asyncio.Event) -> None:
    """Run Kopf's watches until `stop`."""

    def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return apiserver.login(settings)

    registry = operator.registry()
    kopf.on.login(registry=registry)(login)
    namespaces = operator.settings.watch_namespaces
    await kopf.operator(
        registry=registry,
        settings=operator.kopf_settings(),
        standalone=True,
        identity=operator.identity,  # type: ignore[arg-type]  # a string; without one Kopf asks for the user's name, and a pod has none
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )


if __name__ == "__main__":
    sys.exit(main())
