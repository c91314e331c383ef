"""Brings a published artifact into a serving pod: verified, on the right hardware, rendered as the repository that Triton loads.

The only container of the pod that holds the store's credentials, and it ends before Triton starts. What it leaves is read-only for the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from burnish.api import messages
from burnish.api.job_contract import ArtifactConfig, Failure, Message
from burnish.errors import BurnishError, Reason, StepExit
from burnish.manifests.settings import HardwareMismatch
from burnish.pipeline import container, machine, store_options
from burnish.pipeline.probe import CONTAINERS
from burnish.pipeline.progress import emit
from burnish.plugins.base import HardwareClass
from burnish.serving.config import ServingOptions
from burnish.serving.repository import write_repository
from burnish.store.artifacts import get_artifact, read_config
from burnish.store.store import Store

GOLDEN_FILES = ("golden.request", "golden.npz")


def run(
    store: Store, digest: str, *, model: str, models: Path, golden: Path, options: ServingOptions, mismatch: HardwareMismatch, here: HardwareClass
) -> ArtifactConfig:
    """Write the repository with the one model, and what the probe replays.

    Args:
        store: the namespace's.
        digest: the artifact's.
        model: its name in Triton: the resource's.
        models: directory for the repository; emptied first, for an attempt before this one may have been killed.
        golden: directory for the golden request and answer; emptied, too.
        options: how it is served; it was measured with the same.
        mismatch: what to do where the artifact was measured on another class of hardware than `here`.
        here: what this node is.

    Raises:
        BurnishError: HardwareMismatch, before anything large is read; as `get_artifact` and `write_repository`; DiskFull.
    """
    for child in (*models.iterdir(), *golden.iterdir()):
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    _check_hardware(read_config(store, digest), here, mismatch)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=models) as scratch:  # same file system: the repository links instead of copying
        folder = Path(scratch) / "artifact"
        emit(f"pulling {digest}")
        config = get_artifact(store, digest, folder)
        for name in GOLDEN_FILES:
            if not (folder / name).is_file():
                raise BurnishError(Reason.StoreCorrupted, f"artifact {digest} has no {name}, so nothing could tell whether it is served right")
            shutil.copyfile(folder / name, golden / name)
        write_repository(models, {model: folder}, options)
    emit(f"{config.name}: ready to be loaded by the backend {config.backend}")
    return config


def _check_hardware(config: ArtifactConfig, here: HardwareClass, mismatch: HardwareMismatch) -> None:
    if config.hardware_class == here:
        return
    text = (
        f"the artifact was built and measured on {config.hardware_class}, this node is {here}: numbers and answers may differ; "
        "label nodes with burnish.dev/hardware-class and name the label in targets[].accelerator.nodeLabels"
    )
    if mismatch is HardwareMismatch.Refuse:
        raise BurnishError(Reason.HardwareMismatch, f"{text}, or set the chart's hardwareMismatch to Warn")
    emit(text, warning=True)


def main(arguments: list[str] | None = None) -> int:
    """Pull; returns the exit code (`StepExit`). Why it failed is in the container's termination message."""
    parser = argparse.ArgumentParser(prog="python -m burnish.pipeline.pull", description=__doc__)
    parser.add_argument("--digest", required=True, help="of the artifact's manifest")
    parser.add_argument("--model-name", required=True, help="name of the model in Triton")
    parser.add_argument("--models", type=Path, required=True, help="directory for the model repository")
    parser.add_argument("--golden", type=Path, required=True, help="directory for the golden request and answer")
    parser.add_argument("--options", required=True, help="how it is served, as JSON")
    parser.add_argument("--mismatch", choices=[m.value for m in HardwareMismatch], default=HardwareMismatch.Refuse.value)
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"))
    store_options.add(parser)
    options = parser.parse_args(arguments)
    os.umask(0o022)  # the other containers read what this one writes
    try:
        run(
            store_options.open_from(options),
            options.digest,
            model=options.model_name,
            models=options.models,
            golden=options.golden,
            options=ServingOptions.from_json(options.options),
            mismatch=HardwareMismatch(options.mismatch),
            here=machine.hardware_class(),
        )
        return StepExit.OK
    except BurnishError as error:
        found = error
    except Exception as error:  # a bug: the traceback belongs into the log
        traceback.print_exc()
        found = BurnishError(Reason.InternalError, f"pull failed unexpectedly ({type(error).__name__}: {error}); its log has the details"[:300])
    emit(f"pull: {found.reason.value}: {found}", warning=True)
    failure = Failure(step="pull", reason=found.reason, message=found.message, field=found.field, retriable=found.retriable)
    options.termination_log.write_text(messages.encode(Message(failure=failure), messages.budget(CONTAINERS)))
    return StepExit.RETRIABLE if found.retriable else StepExit.NOT_RETRIABLE


if __name__ == "__main__":
    container.end_on_sigterm()
    sys.exit(main())
