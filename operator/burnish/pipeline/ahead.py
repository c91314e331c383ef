"""The step's side of being started ahead: its interpreter and libraries are loaded while the step before still works.

Loading takes longer than most steps of a small model. Who is started so waits, with the network already taken from it where its step has none, and
reads nothing that another step still writes. Where nobody starts ahead (a cluster's Job, `reproduce.sh`), nothing of this happens.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os

from burnish.api import requests
from burnish.api.job_contract import PipelineRequest, StepName
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import order
from burnish.plugins.base import Format, Runtime

DESCRIPTOR_VARIABLE = "BURNISH_GO_FD"
MEASURING = ("numpy", "scipy.special")
"""What the statistics of `measure` import when they are needed."""


def wait_for_go(step: StepName, work: WorkDir) -> list[str] | None:
    """Load what the step needs, and wait; more arguments, or None where the step isn't needed any more."""
    descriptor = os.environ.pop(DESCRIPTOR_VARIABLE, None)
    if descriptor is None:
        return []
    with contextlib.suppress(Exception):  # the step meets it again, and says it better
        _load(step, work)
    with os.fdopen(int(descriptor), "rb") as go:
        told = go.read()
    if not told:
        return None
    arguments: list[str] = json.loads(told)
    return arguments


def _load(step: StepName, work: WorkDir) -> None:
    if step in requests.STORE_STEPS:
        return  # light, and their work directory may not be there yet
    importlib.import_module(f"burnish.pipeline.{step.value}")
    for library in MEASURING if step is StepName.measure else libraries_of(step, work.load_request()):
        importlib.import_module(library)


class Trainer:
    """What the step `train` runs in; the passes come from several files."""

    toolchain = order.TRAINER
    libraries = ("numpy", "torch")


def libraries_of(step: StepName, request: PipelineRequest) -> tuple[str, ...]:
    """What a step imports that opens the model."""
    plugin = plugin_of(step, request)
    return (*plugin.libraries, *plugin.tools) if step is StepName.compress and isinstance(plugin, Runtime) else plugin.libraries


def plugin_of(step: StepName, request: PipelineRequest) -> Format | Runtime | type[Trainer]:
    """Whose toolchain and libraries a step has that opens the model."""
    from burnish.plugins import registry

    if step is StepName.train:
        return Trainer
    runtime = request.target.runtime.value
    return registry.exporter(request.resolved.detected, runtime) if step is StepName.export else registry.runtimes()[runtime]
