"""The measuring tritonserver: started with exactly the resources of the serving one, watched, and ended without a trace.

The server loads models that nobody has vetted, so it must be possible for one to be broken while the others answer, to use too much memory,
or to take the server down, and for each of these to be told apart.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import socket
import time
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Self

from burnish.api.scalars import format_bytes, quantity_bytes, quantity_value
from burnish.api.v1alpha1.optimized_model import Resources
from burnish.errors import BurnishError, Reason
from burnish.pipeline import cpu_limit, procfs, triton_installation
from burnish.pipeline.confined_process import ChildExit, ConfinedProcess, Limits
from burnish.serving.repository import check_repository

LOOPBACK = "127.0.0.1"
_EXIT_TIMEOUT_S = 5
_GRACE_S = 8.0
_MEMORY_POLL_S = 0.25
_READY_POLL_S = 0.02
_START_ATTEMPTS = 3
_LOG_TAIL_LINES = 15
_METADATA_BYTES = 64 * 1024
_PORT_TAKEN = re.compile(r"failed to start \w+ service: .*already in use")
_LOST_RACE = re.compile(r"terminate called after throwing an instance of 'boost::interprocess::lock_exception'")
"""Triton's python backend and its stub race for a lock in their shared memory when they start; on a busy machine both at times lose
(github.com/triton-inference-server/server, issues 5949 and 8882). It has nothing to do with the models."""


class TritonServer:
    """A running tritonserver. A context manager: leaving it stops the server."""

    def __init__(
        self, repository: Path, backends: Path, installation: triton_installation.TritonInstallation, limits: Limits, log: Path, http_port: int
    ) -> None:
        """Use `start`."""
        self._repository = repository
        self._backends = backends
        self._installation = installation
        self._limits = limits
        self._log = log
        self._wanted_port = http_port
        self._exit: ChildExit | None = None
        self._is_left = False
        self._launch()

    @classmethod
    def start(
        cls,
        repository: Path,
        *,
        toolchain_python: Path,
        resources: Resources,
        log: Path,
        scratch: Path | None = None,
        backends: Path | None = None,
        http_port: int = 0,
    ) -> TritonServer:
        """Start a server on the loopback interface; it is not ready yet (`wait_ready`).

        Args:
            repository: a model repository; checked before anything runs.
            toolchain_python: interpreter of the serving environment.
            resources: what the serving container will get.
            log: gets the server's output.
            scratch: directory for the server's own files; default beside the log.
            backends: python-based backends to use instead of ours, one directory each (the benchmark injects slower ones).
            http_port: 0 for a free one, as always for gRPC and metrics.

        Raises:
            BurnishError: UnsafeSource, ResourcesNotEnforceable, LibpythonMissing, ToolchainUnavailable.
        """
        check_repository(repository)
        installation = triton_installation.find(toolchain_python)
        directory = (scratch or log.parent / "server").absolute() / f"backends-{secrets.token_hex(4)}"
        installation.lay_out_backends(directory, backends or triton_installation.OUR_BACKENDS)
        limits = Limits(
            memory_bytes=quantity_bytes(resources.memory), cpus=Decimal(quantity_value(resources.cpu)), grace_s=_GRACE_S, poll_s=_MEMORY_POLL_S
        )
        return cls(repository.absolute(), directory, installation, limits, log, http_port)

    def _launch(self) -> None:
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        free_port, grpc_port, metrics_port = _free_ports(3)
        self._http_port = self._wanted_port or free_port
        self.url = f"http://{LOOPBACK}:{self._http_port}"
        self.grpc_url = f"{LOOPBACK}:{grpc_port}"
        self.metrics_url = f"http://{LOOPBACK}:{metrics_port}/metrics"
        self._id = f"burnish-{secrets.token_hex(8)}"
        self._process = ConfinedProcess.start(
            [
                str(self._installation.program),
                f"--id={self._id}",
                f"--model-repository={self._repository}",
                "--model-control-mode=none",
                "--disable-auto-complete-config",
                "--exit-on-error=false",
                f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
                f"--backend-directory={self._backends}",
                f"--backend-config=python,shm-region-prefix-name={self._id}-",
                f"--http-address={LOOPBACK}",
                f"--http-port={self._http_port}",
                f"--grpc-address={LOOPBACK}",
                f"--grpc-port={grpc_port}",
                f"--metrics-address={LOOPBACK}",
                f"--metrics-port={metrics_port}",
                "--allow-gpu-metrics=false",
                "--allow-cpu-metrics=false",
            ],
            env=self._environment(),
            cwd=self._backends,
            log=self._log,
            limits=self._limits,
            shm_prefix=f"{self._id}-",
        )

    def _environment(self) -> dict[str, str]:
        """All of the server's environment: no credential and no setting of the user's reaches it."""
        return {
            "PATH": f"{self._installation.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": ":".join(str(directory) for directory in self._installation.libraries),
            "HOME": str(self._backends),
            "LANG": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "",
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._is_left:
            self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server itself."""
        return self._process.pid

    @property
    def enforcement(self) -> str:
        """How the CPU limit is held: affinity, cgroup v1 quota, cgroup v2 quota."""
        return self._process.enforcement or ""

    @property
    def client_cpus(self) -> tuple[int, ...]:
        """CPUs for the load generator: those the server doesn't have, or all where there are no others."""
        return cpu_limit.client_cpus(self._process.cpus)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every model is loaded or has failed to load, and the server answers.

        Says nothing about single models: read the repository index.

        Raises:
            BurnishError: ServerNotReady, with the log's last lines; OutOfMemory.
        """
        deadline = time.monotonic() + timeout_s
        attempts = 1
        while not self._answers():
            if time.monotonic() > deadline:
                raise BurnishError(Reason.ServerNotReady, f"Triton did not come up within {timeout_s:.0f} s; its log ends with:\n{self._log_tail()}")
            if not self.is_alive():
                self._raise_if_out_of_memory()
                if attempts == _START_ATTEMPTS or not self._may_start_again():
                    raise BurnishError(Reason.ServerNotReady, f"Triton ended while it started; its log ends with:\n{self._log_tail()}")
                attempts += 1
                self._process.end()
                self._exit = None
                self._launch()
            time.sleep(_READY_POLL_S)

    def _may_start_again(self) -> bool:
        """True where the server ended for want of luck: somebody took a port between our look and Triton's, or a race of Triton's own."""
        said = self._log_tail()
        return bool(_LOST_RACE.search(said) or (not self._wanted_port and _PORT_TAKEN.search(said)))

    def _answers(self) -> bool:
        """True if this very server answers: on a port that was taken meanwhile, somebody else's may."""
        connection = http.client.HTTPConnection(LOOPBACK, self._http_port, timeout=2.0)
        try:
            connection.request("GET", "/v2")
            answer = connection.getresponse()
            return answer.status == 200 and json.loads(answer.read(_METADATA_BYTES)).get("name") == self._id
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def is_alive(self) -> bool:
        """True while the server's process runs. Says nothing about its models' processes: only an inference does."""
        if self._exit is None:
            self._exit = self._process.wait(0)
        return self._exit is None

    def raise_if_ended(self) -> None:
        """Raise the reason if the server is gone.

        Raises:
            BurnishError: OutOfMemory; ServerLost for any other end.
        """
        if self.is_alive():
            return
        self._raise_if_out_of_memory()
        raise BurnishError(Reason.ServerLost, f"Triton ended by itself or was killed; its log ends with:\n{self._log_tail()}")

    def _raise_if_out_of_memory(self) -> None:
        if self._exit is not None and self._exit.out_of_memory:
            used, limit = format_bytes(self._exit.peak_memory_bytes), format_bytes(self._limits.memory_bytes or 0)
            raise BurnishError(
                Reason.OutOfMemory, f"Triton with its models used {used}, the limit is {limit}; raise it", field="spec.targets[].resources.memory"
            )

    def peak_memory_bytes(self, model: str) -> int | None:
        """Largest resident memory of the model's processes so far; None where there are none (not loaded)."""
        return peak_memory_bytes(self.pid, model)

    def throttled_periods(self) -> int | None:
        """CFS periods in which the server was throttled so far; None without a quota."""
        return self._process.throttled_periods()

    def stop(self) -> None:
        """Stop the server: SIGTERM, a bounded wait, SIGKILL. No process and no shared memory of it is left. Idempotent."""
        self._exit = self._process.end() or self._exit

    def leave(self) -> None:
        """Ask the server to stop and don't wait for it: it is among those that `processes.end_all` waits for. Its guard sees to it anyway."""
        self._process.request_end()
        self._is_left = True

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError), self._log.open("rb") as file:
            file.seek(self._log_start)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        return ""


def peak_memory_bytes(server_pid: int, model: str) -> int | None:
    """Sum of the largest resident memory (VmHWM) of each process that runs `model` for the server `server_pid`; None where there are none."""
    peaks = [procfs.peak_resident_bytes(pid) for pid in procfs.children(server_pid) if _runs_model(procfs.command_line(pid), model)]
    return sum(peak for peak in peaks if peak is not None) if peaks else None


def _runs_model(command: list[str], model: str) -> bool:
    """The python backend's stub has the path of the model's file, `<repository>/<model>/<version>/<file>`, as its first argument."""
    return len(command) > 1 and "triton_python_backend_stub" in command[0] and Path(command[1]).parts[-3:-2] == (model,)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
