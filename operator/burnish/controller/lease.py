"""Who works: of several processes of one installation, the one that holds the Lease. The election is the Kubernetes client's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, CoordinationV1Api
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from burnish.manifests.settings import Settings

LOG = logging.getLogger(__name__)

DURATION_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 15, 10, 2
"""client-go's own; a holder that can't renew stops before another may start."""
_CALL_SECONDS = 5
_UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


class _Lock(LeaseLock):
    """An apiserver that can't be reached is no reason to fall over, which the client's own lock does."""

    async def get(self, name: str, namespace: str) -> Any:
        try:
            return await asyncio.wait_for(super().get(name, namespace), _CALL_SECONDS)
        except _UNREACHABLE as error:
            return False, ApiException(status=0, reason=f"the apiserver can't be reached: {type(error).__name__}")

    async def create(self, *arguments: Any, **named: Any) -> bool:
        return await self._tried(super().create(*arguments, **named))

    async def update(self, *arguments: Any, **named: Any) -> bool:
        return await self._tried(super().update(*arguments, **named))

    @staticmethod
    async def _tried(call: Awaitable[bool]) -> bool:
        try:
            return await asyncio.wait_for(call, _CALL_SECONDS)
        except _UNREACHABLE:
            return False


async def hold(client: ApiClient, settings: Settings, identity: str, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the lease, then work while it is held; return when it is lost. Cancelled, it gives the lease back.

    Raises:
        Exception: what `work` raised; it does so only on a mistake of ours.
    """
    name, namespace = settings.lease_name, settings.lease_namespace
    held = asyncio.Event()

    async def started() -> None:
        LOG.info("%s holds the lease %s/%s", identity, namespace, name)
        held.set()

    lock = _Lock(name, namespace, identity, client)
    election = asyncio.ensure_future(LeaderElection(Config(lock, DURATION_SECONDS, RENEW_SECONDS, RETRY_SECONDS, started, _nothing)).run())
    working = asyncio.ensure_future(_when(held, work))
    try:
        done, _ = await asyncio.wait({election, working}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (working, election):
            task.cancel()
        await asyncio.gather(working, election, return_exceptions=True)
        if held.is_set():
            await _release(client, settings, identity)


async def _nothing() -> None:
    pass


async def _when(held: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    await held.wait()
    await work()


async def _release(client: ApiClient, settings: Settings, identity: str) -> None:
    """Let the next one start at once, and not when the lease has run out."""
    api = CoordinationV1Api(client)
    with contextlib.suppress(ApiException, *_UNREACHABLE):
        lease = await api.read_namespaced_lease(settings.lease_name, settings.lease_namespace)
        if lease.spec is not None and lease.spec.holder_identity == identity:
            lease.spec.holder_identity, lease.spec.lease_duration_seconds = "", 1
            await api.replace_namespaced_lease(settings.lease_name, settings.lease_namespace, lease)
