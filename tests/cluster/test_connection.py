"""The operator's process where its connection is at fault: an apiserver that goes away and comes back, a watch that lives and loses an event.

The oracle of each is the same life over a connection without fault: the same end, and the same writes of children.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lossy
import one_model
import pytest
from control_plane import ControlPlane
from lossy import Loses
from one_model import World

from burnish import names
from burnish.controller import apiserver

WATCHES = {"optimizedmodels", *(resource.plural for resource in apiserver.WATCHED)}
RESYNC = "5s"


def _of(kind: str, told: Callable[[dict[str, Any]], Any]) -> Loses:
    return lambda event: event["object"].get("kind") == kind and bool(told(event["object"].get("status", {})))


def _is_complete(status: dict[str, Any]) -> bool:
    return any(c["type"] == "Complete" for c in status.get("conditions", ()))


LOST: dict[str, Loses] = {
    "the model's first": lambda event: event["type"] == "ADDED" and event["object"].get("kind") == names.KIND,
    "a Job is complete": _of("Job", _is_complete),
    "a server answers": _of("Deployment", lambda status: status.get("availableReplicas")),
}


def _live(world: World, folder: Path, loses: Loses, life: Callable[[], None], **changes: Any) -> lossy.Proxy:
    """One life of the model, with an operator that had begun before. Returns what went by."""

    async def live() -> lossy.Proxy:
        kubeconfig = folder / "kubeconfig"
        async with (
            lossy.proxy(world.api, kubeconfig, loses) as between,
            one_model.process(kubeconfig, folder, world.namespace, **changes) as operator,
        ):
            # Kopf has listed everything, the workers too, and every watch is open
            async with asyncio.timeout(one_model.SETTLE_SECONDS):
                while between.watches != WATCHES or between.lists["services"] < 2:
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(life)
            await world.settle(lambda: operator.returncode is not None, world.is_settled)
            assert operator.returncode is None
            return between

    return asyncio.run(live())


@pytest.fixture(scope="module")
def without_fault(api: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, lossy.Proxy]]:
    """A life without one."""
    world = World(api, api.create_namespace("without-fault"))
    yield world, _live(world, tmp_path_factory.mktemp("operator"), lambda _: False, world.create)
    api.delete_namespace(world.namespace)


@pytest.mark.parametrize("what", LOST)
def test_lost_event_is_repaired_by_the_resync(
    api: ControlPlane, namespace: str, tmp_path: Path, what: str, without_fault: tuple[World, lossy.Proxy]
) -> None:  # fmt: skip
    world = World(api, namespace)
    found = _live(world, tmp_path, LOST[what], world.create, resync=RESYNC)
    assert found.lost
    other, expected = without_fault
    assert found.lists["services"] > expected.lists["services"] == 2  # it took a resync, and without the fault it doesn't
    assert one_model.comparable(found.written, world) == one_model.comparable(expected.written, other)
    assert world.outline() == other.outline()


def test_lost_end_of_a_model_is_noticed_at_the_next_write(api: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Its children go, which looks as if somebody had removed them by hand: one is made again, and goes too."""
    world = World(api, namespace)
    world.create()
    asyncio.run(world.run())
    found = _live(world, tmp_path, lambda event: event["type"] == "DELETED" and event["object"].get("kind") == names.KIND, world.delete)
    assert found.lost
    assert not any(world.children().values())
    assert found.lists["services"] == 2  # no resync was needed
    assert len(found.written) < 10


def _restart(world: World, seconds: float) -> None:
    """Kill the control plane while the operator has something to write, and bring it back: all of it, because the other controllers take up to half a
    minute to find an apiserver again.
    """
    world.edit()
    for name in ("apiserver", "controller-manager", "scheduler"):
        os.kill(int((world.api.kubeconfig.parent / f"run/{name}.pid").read_text()), signal.SIGKILL)
    time.sleep(seconds)
    world.api.start()


def test_apiserver_that_is_restarted_is_found_again(api: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """An edit right before, a Job that ends and another edit after: the same process goes on, by its watches alone."""
    world, other = World(api, namespace), World(api, api.create_namespace("without-fault"))
    for each in (world, other):
        each.create()
        asyncio.run(each.run())

    async def live(each: World, edit: Callable[[], None]) -> None:
        kubeconfig = one_model.service_account(api, each.namespace, tmp_path)
        async with one_model.process(kubeconfig, tmp_path, each.namespace) as operator:
            await asyncio.to_thread(each.wait_for_operator)
            each.edit(6)
            await each.settle(lambda: operator.returncode is not None, each.is_settled)  # so its watches are open
            await asyncio.to_thread(edit)
            await each.settle(lambda: operator.returncode is not None, each.is_settled)
            each.edit(8)
            await each.settle(lambda: operator.returncode is not None, each.is_settled)
            assert operator.returncode is None

    asyncio.run(live(other, other.edit))
    asyncio.run(live(world, lambda: _restart(world, 2)))
    assert world.outline() == other.outline()
    api.delete_namespace(other.namespace)
