"""Who works: of several processes of one installation, the one that holds the Lease, by client-go's algorithm.

(The Kubernetes client for Python has an elector; in release 37 its first write fails on its own validation, and an apiserver that restarts ends it.)

The clocks of two machines are never compared: a lease has run out when it has not been renewed for its duration by the clock of who looks on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from burnish.controller import apiserver
from burnish.controller.apiserver import ApiError, ApiServer
from burnish.manifests.settings import Settings

LOG = logging.getLogger(__name__)

DURATION_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 15, 10, 2
"""client-go's own; a holder that can't renew for RENEW_SECONDS stops before another may start."""


class Lease:
    """One candidate's view of the lease."""

    def __init__(self, api: ApiServer, settings: Settings, identity: str) -> None:
        self._api = api
        self._name, self._namespace = settings.lease_name, settings.lease_namespace
        self._identity = identity
        self._seen: tuple[str, float] = ("", 0.0)
        """What stood there when it last changed, and when that was by our own clock."""

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then work while it is held; return when it is lost. Cancelled, it gives the lease back.

        Raises:
            Exception: what `work` raised; it does so only on a mistake of ours.
        """
        while not await self._try():
            await asyncio.sleep(RETRY_SECONDS)
        LOG.info("%s holds the lease %s/%s", self._identity, self._namespace, self._name)
        renewing, working = asyncio.ensure_future(self._renew()), asyncio.ensure_future(work())
        try:
            done, _ = await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            await self._release()

    async def _renew(self) -> None:
        """Return when the lease could not be renewed for too long, or another one has it."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < RENEW_SECONDS:
            await asyncio.sleep(RETRY_SECONDS)
            if await self._try():
                renewed = time.monotonic()
        LOG.warning("%s lost the lease %s/%s", self._identity, self._namespace, self._name)

    async def _try(self) -> bool:
        """Take the lease, or renew it. False: somebody else has it, or the apiserver could not be asked."""
        try:
            async with asyncio.timeout(RENEW_SECONDS / 2):
                known = await self._api.get(apiserver.LEASE, self._namespace, self._name)
                if known is None:
                    await self._api.create(apiserver.LEASE, self._namespace, self._body({}, {}))
                    return True
                spec = known.get("spec", {})
                if not self._is_free(spec):
                    return False
                path = apiserver.LEASE.path(self._namespace, self._name)
                await self._api.request("PUT", path, body=self._body(known["metadata"], spec))  # 409 if it changed meanwhile
                return True
        except ApiError as error:
            if error.status != 409:
                LOG.warning("lease %s/%s: %s", self._namespace, self._name, error)
            return False
        except TimeoutError:
            LOG.warning("lease %s/%s: the apiserver does not answer", self._namespace, self._name)
            return False

    def _is_free(self, spec: dict[str, Any]) -> bool:
        """It is ours, nobody's, or has run out."""
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        stands = f"{holder} {spec.get('renewTime')}"
        if stands != self._seen[0]:
            self._seen = (stands, time.monotonic())
        return time.monotonic() - self._seen[1] > float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

    def _body(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        now = apiserver.micro_time()
        is_ours = spec.get("holderIdentity") == self._identity
        kept = {"resourceVersion": metadata["resourceVersion"]} if metadata else {}
        return {
            "apiVersion": apiserver.LEASE.api_version,
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace, **kept},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": spec["acquireTime"] if is_ours and spec.get("acquireTime") else now,
                "renewTime": now,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if is_ours or not metadata else 1),
            },
        }

    async def _release(self) -> None:
        """Let the next one start at once, and not when the lease has run out."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                known = await self._api.get(apiserver.LEASE, self._namespace, self._name)
                if known is not None and known.get("spec", {}).get("holderIdentity") == self._identity:
                    body = self._body(known["metadata"], known["spec"])
                    body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.request("PUT", apiserver.LEASE.path(self._namespace, self._name), body=body)
