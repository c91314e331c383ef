"""Several processes that train one model: data-parallel, with torch.distributed over gloo, one process for each device that the target asks for.

Every process runs the same step (`python -m burnish.pipeline.train WORK`) with the standard variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, takes its
share of every batch and adds its gradients to the others'. Only the first one writes. Gloo needs sockets, so where there is a team the step has a network
namespace of its own with loopback only (`no_network.separate`); where none can be made, as in most containers, it has the pod's network under its NetworkPolicy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from burnish.api.job_contract import PipelineRequest, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import no_network
from burnish.pipeline.progress import DESCRIPTOR_VARIABLE
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base

PATIENCE = timedelta(minutes=10)
"""For the others to come, and to answer."""
_END_S = 30.0
_LAST_WORDS_S = 5.0
"""For one whose connection closed to end."""


def size_of(request: PipelineRequest) -> int:
    """How many processes train for a target."""
    return request.target.accelerator.count or 1


def own_folder(rank: int) -> str:
    """Where a process that isn't the first leaves what nobody reads, below the step's folder."""
    return f"rank-{rank}"


def reach() -> str:
    """What this process could reach while it trained, for the report."""
    return {
        no_network.Reach.Nothing: "no sockets",
        no_network.Reach.Loopback: "a network namespace of its own with loopback only",
        no_network.Reach.All: "the network of its pod, under its NetworkPolicy",
    }[no_network.reach()]


class _Gloo(base.Team):
    """One of several."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def add(self, tensors: Sequence[Any]) -> None:
        import torch.distributed as dist

        for handle in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            handle.wait()

    def follow(self, tensors: Sequence[Any]) -> None:
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, src=0)


@contextlib.contextmanager
def gather(size: int, work: WorkDir) -> Iterator[base.Team]:
    """The team of this process: nobody else, or `size` processes that the first one starts; none of them is left afterwards.

    Raises:
        BurnishError: InternalError where the others do not come.
    """
    if size == 1:
        yield base.Team()
        return
    rank = int(os.environ.get("RANK", "0"))
    with contextlib.ExitStack() as stack:
        if rank == 0:
            os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())})
            for other in range(1, size):
                stack.enter_context(_started(other, size, work))
        import torch.distributed as dist

        try:
            dist.init_process_group("gloo", rank=rank, world_size=size, timeout=PATIENCE)
        except Exception as error:  # of the library: RuntimeError, DistNetworkError, ...
            raise BurnishError(Reason.InternalError, f"the {size} processes that shall train do not find each other: {error}") from error
        stack.callback(dist.destroy_process_group)
        yield _Gloo(rank, size)


@contextlib.contextmanager
def _started(rank: int, size: int, work: WorkDir) -> Iterator[None]:
    folder = work.folder(StepName.train) / own_folder(rank)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != DESCRIPTOR_VARIABLE} | {"RANK": str(rank), "WORLD_SIZE": str(size)}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "burnish.pipeline.train", str(work.root)], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
        process.wait(_END_S)
    except BurnishError:  # both of them found it
        raise
    except Exception as error:  # of gloo, which only says that a connection closed
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_S)
        if process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise MemoryError from error
        if process.returncode:
            raise BurnishError(
                Reason.InternalError, f"process {rank + 1} of {size} that train ended with {process.returncode}: {_last_words(folder)}"
            ) from error
        raise
    finally:
        process.kill()
        process.wait()


def _last_words(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
