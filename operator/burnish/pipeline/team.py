"""Several processes that train one model: data-parallel, with torch.distributed, one process for each device that the target asks for.

Every process runs the same step (`python -m burnish.pipeline.train WORK`) with the standard variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, takes its
share of every batch and adds its gradients to the others'. Only the first one writes. With a GPU for each they meet over NCCL, else they train on CPUs and
meet over gloo, with the same sums. Both need sockets, so where there is a team the step has a network
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

from burnish.api import numbers
from burnish.api.job_contract import PipelineRequest, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import no_network
from burnish.pipeline.progress import DESCRIPTOR_VARIABLE, emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base

PATIENCE = timedelta(minutes=10)
"""For the others to come, and to answer."""
_END_S = 30.0
_LAST_WORDS_S = 5.0
"""For one whose connection closed to end."""


def size_of(request: PipelineRequest) -> int:
    """How many processes train for a target."""
    return max(1, request.target.accelerator.gpus)


def where(team: base.Team) -> str:
    """Who trained on what, for the report."""
    devices = "" if team.device == "cpu" else " on a GPU" if team.size == 1 else " on a GPU each, over NCCL"
    return f"{team.size} process{'' if team.size == 1 else 'es'}{devices}, {_reach()}"


def own_folder(rank: int) -> str:
    """Where a process that isn't the first leaves what nobody reads, below the step's folder."""
    return f"rank-{rank}"


def _reach() -> str:
    """What this process could reach while it trained."""
    return {
        no_network.Reach.Nothing: "no sockets",
        no_network.Reach.Loopback: "a network namespace of its own with loopback only",
        no_network.Reach.All: "the network of its pod, under its NetworkPolicy",
    }[no_network.reach()]


class _Member(base.Team):
    """One of several."""

    def __init__(self, rank: int, size: int, device: str) -> None:
        super().__init__(device)
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
def gather(request: PipelineRequest, work: WorkDir) -> Iterator[base.Team]:
    """The team of this process: nobody else, or as many processes as the target asks for devices, which the first one starts; none of them is left afterwards.

    Raises:
        BurnishError: InternalError where the others do not come.
    """
    size, rank = size_of(request), int(os.environ.get("RANK", "0"))
    device = _device(request, rank, size)
    if size == 1:
        yield base.Team(device)
        return
    with contextlib.ExitStack() as stack:
        if rank == 0:
            os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())})
            for other in range(1, size):
                stack.enter_context(_started(other, size, work))
        import torch.distributed as dist

        try:
            dist.init_process_group(rank=rank, world_size=size, timeout=PATIENCE, **_meeting(device))
        except Exception as error:  # of the library: RuntimeError, DistNetworkError, ...
            raise BurnishError(Reason.InternalError, f"the {size} processes that shall train do not find each other: {error}") from error
        stack.callback(dist.destroy_process_group)
        yield _Member(rank, size, device)


def _device(request: PipelineRequest, rank: int, size: int) -> str:
    """A GPU for each process where the target asks for them and PyTorch sees as many; else the CPUs, and the user is told."""
    if not request.target.accelerator.gpus:
        return "cpu"
    import torch

    seen = torch.cuda.device_count()  # a container numbers the GPUs that it was given from 0
    if seen >= size:
        torch.cuda.set_device(rank)
        return f"cuda:{rank}"
    if rank == 0:
        emit(f"PyTorch sees {seen} of {numbers.counted(size, 'GPU')} here, so training is on CPUs", warning=True)
    return "cpu"


def _meeting(device: str) -> dict[str, Any]:
    """How the processes of a device find each other: over loopback, as all of them are in one container."""
    if device == "cpu":
        return {"backend": "gloo"}
    import torch

    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # One that is gone is an error after PATIENCE, which can be told, and not the end of this process.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    return {"backend": "nccl", "device_id": torch.device(device)}


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
    except Exception as error:  # of gloo, which only says that a connection closed, or of NCCL, which has waited
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
