"""The running operator: Kopf's watches fill the cache and the queue, workers reconcile, a resync repairs what watches lost.

Kopf's low-level handlers write nothing to an object (no finalizer, no annotation), so a resource can be deleted while the operator is gone. The workers,
not the watches, wait for the lease: a standby knows everything when its turn comes.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import gc
import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import kopf

from burnish import names
from burnish.api.scalars import duration_seconds
from burnish.controller import apiserver
from burnish.controller.apiserver import ApiError, ApiServer
from burnish.controller.cache import Item, prepare
from burnish.controller.cluster import Cluster
from burnish.controller.metrics import Metrics
from burnish.controller.queue import WorkQueue
from burnish.manifests.settings import Settings
from burnish.reconcile import planning
from burnish.reconcile.observed import JobView, Key, Observed

LOG = logging.getLogger(__name__)

MAX_PASSES = 6
"""Passes over one resource in a row; a plan converges in two or three."""
STUCK_SECONDS = 600.0
_ODD_SECONDS = 5.0
"""A Job without a pod is looked at again: no event says why there is none."""
_IDLE_SECONDS = 0.1
"""Kopf keeps an object's last event, whole, for so long: with its five seconds, all objects of a list at once."""
_SYNC_RETRY_SECONDS = 2.0
_TIDY_SECONDS = 10.0
"""After a list of everything."""


class Operator:
    """One process of the operator."""

    def __init__(self, api: ApiServer, settings: Settings, *, identity: str = "burnish") -> None:
        self.settings = settings
        self.identity = identity
        self.queue: WorkQueue[Key] = WorkQueue()
        self.cluster = Cluster(api, settings, identity=identity)
        self.metrics = Metrics(lambda: len(self.queue))
        self.is_leading = False
        self._ended: set[str] = set()
        """uids of Jobs that were counted."""

    # --- what comes in ----------------------------------------------------------------------------------------------------------------

    def registry(self) -> kopf.OperatorRegistry:
        """Kopf's handlers, for a thread of their own: each event goes into the cache, and if it is news, its resource into the queue."""
        registry = kopf.OperatorRegistry()
        for resource in (apiserver.MODEL, *apiserver.WATCHED):
            self._watch(registry, resource)
        return registry

    def _watch(self, registry: kopf.OperatorRegistry, resource: apiserver.Resource) -> None:
        loop = asyncio.get_running_loop()
        arrived: collections.deque[Item] = collections.deque()

        def take() -> None:
            while arrived:
                self._seen(arrived.popleft())

        @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.kind)
        async def seen(event: Any, **_: Any) -> None:
            item = prepare(resource.kind, event["object"], is_deleted=event["type"] == "DELETED")  # here, so that no whole objects queue up
            if item is not None:
                arrived.append(item)
                if len(arrived) == 1:  # waking the other thread costs both of them more than an item does
                    loop.call_soon_threadsafe(take)

    def _seen(self, item: Item) -> None:
        key = self.cluster.cache.put(item)
        if key is not None:
            self.queue.add(key)

    async def watch(self, stop: threading.Event) -> None:
        """Run Kopf's watches until `stop`, in a thread and a loop of their own: Kopf takes signals and other people's tasks of its loop for its own.

        Raises:
            Exception: Kopf could not go on.
        """

        def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
            return apiserver.login(settings)

        registry = self.registry()
        kopf.on.login(registry=registry)(login)
        namespaces = self.settings.watch_namespaces
        running = kopf.operator(
            registry=registry,
            settings=self.kopf_settings(),
            standalone=True,
            identity=self.identity,  # type: ignore[arg-type]  # a string; without one Kopf asks for the user's name, and a pod has none
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )

        async def run() -> None:
            try:
                await running
            finally:
                stop.set()  # which a thread of Kopf's waits for, and the loop for that thread: it would never end by itself

        await asyncio.to_thread(asyncio.run, run())

    @staticmethod
    def kopf_settings() -> kopf.OperatorSettings:
        """Kopf as we use it: it watches, and nothing else."""
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.persistence.diffbase_storage = _NoDiffs()
        settings.queueing.idle_timeout = _IDLE_SECONDS
        settings.watching.chunk_size = apiserver.PAGE
        settings.networking.request_timeout = apiserver.TIMEOUT_SECONDS
        for resource in apiserver.WATCHED:
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = names.MANAGED_SELECTOR
        return settings

    # --- the work ---------------------------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Reconcile until cancelled. To be called by the leader only."""
        await self._sync()
        self.is_leading = True
        self.metrics.leader.set(1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resync())
                group.create_task(self.cluster.post_events())
                for _ in range(self.settings.workers):
                    group.create_task(self._worker())
        finally:
            self.is_leading = False
            self.metrics.leader.set(0)

    async def _sync(self) -> None:
        """List everything, however often that takes, and look at all of it."""
        while True:
            try:
                await self.cluster.sync()
                break
            except ApiError as error:
                LOG.warning("can't list everything: %s; trying again", error)
                await asyncio.sleep(_SYNC_RETRY_SECONDS)
        for key in self.cluster.cache:
            self.queue.add(key)

    async def _resync(self) -> None:
        seconds = duration_seconds(self.settings.resync)
        pause = min(_TIDY_SECONDS, seconds / 2)
        while True:
            await asyncio.sleep(pause)
            _tidy()
            await asyncio.sleep(seconds - pause)
            await self._sync()

    async def _worker(self) -> None:
        while True:
            key, waited = await self.queue.get()
            started = time.monotonic()
            try:
                await self.reconcile(key)
            except ApiError as error:
                self.metrics.reconciles.labels("failed").inc()
                seconds = self.queue.retry(key)
                LOG.warning("%s/%s: %s; trying again in %.1f s", *key, error, seconds)
            except Exception:
                self.metrics.reconciles.labels("failed").inc()
                seconds = self.queue.retry(key)
                LOG.exception("%s/%s: reconcile failed; trying again in %.1f s", *key, seconds)
            else:
                self.metrics.reconciles.labels("done").inc()
                self.queue.succeeded(key)
            finally:
                self.queue.done(key)
                self.metrics.waited.observe(waited)
                self.metrics.seconds.observe(time.monotonic() - started)

    async def reconcile(self, key: Key) -> None:
        """Bring one resource to where its plan has nothing more to do now: actions first, and when there are none left, the status.

        Raises:
            ApiError: something could not be read or written now.
        """
        for attempt in range(MAX_PASSES):
            observed = await self.cluster.observe(key)
            if observed is None:
                self.metrics.targets.update(key, None)
                self.queue.forget(key)
                return
            plan = planning.plan(observed, self.settings, datetime.now(UTC))
            is_news = await self.cluster.execute(observed, plan)
            if (plan.actions or is_news) and attempt < MAX_PASSES - 1 and (is_news or not (observed.conflicts or observed.refusals)):
                continue
            await self.cluster.tell(observed, plan)
            self._count(observed)
            self.metrics.targets.update(key, plan.status or observed.status)
            self._look_again(observed, plan.requeue_seconds)
            return

    def _look_again(self, observed: Observed, seconds: float | None) -> None:
        """Where something happens that no event tells of."""
        with_pods = {pod.owner_uid for pod in observed.pods}
        odd = any(job.state == "active" and not job.is_suspended and job.uid not in with_pods for job in observed.jobs)
        times = [t for t in (seconds, _ODD_SECONDS if odd else None) if t is not None]
        if times:
            self.queue.add_after(observed.key, min(times))

    def _count(self, observed: Observed) -> None:
        """Jobs that ended since this process started; each once."""
        for job in observed.jobs:
            if job.state != "active" and job.uid not in self._ended:
                self._ended.add(job.uid)
                self.metrics.jobs.labels(job.labels.get(names.LABEL_COMPONENT, ""), _outcome(job)).inc()

    # --- how it is --------------------------------------------------------------------------------------------------------------------

    def unwell(self) -> str:
        """Why the process should be restarted; empty while it is well."""
        waits = self.queue.oldest_seconds
        return f"a resource has waited {waits:.0f} s for its reconcile" if self.is_leading and waits > STUCK_SECONDS else ""


class _NoDiffs(kopf.DiffBaseStorage):
    """Kopf compares each object with what its handlers saw last, which none of ours asks for: two copies of it for every event."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """What is compared."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """What was seen last."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Remember it."""


def _tidy() -> None:
    """Give back what listing everything took: Kopf holds all objects of a kind for a moment, which is most of what the process ever needs."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _outcome(job: JobView) -> str:
    return job.state if job.state == "succeeded" else job.reason or job.state
