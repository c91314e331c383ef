"""Where the pipeline files its records in the store."""

from __future__ import annotations

import hashlib

from burnish.api.job_contract import BuildRecord
from burnish.errors import BurnishError, Reason
from burnish.plugins.base import HardwareClass
from burnish.store.artifacts import has_artifact
from burnish.store.store import Store

BUILDS = "builds"
MEASUREMENTS = "measurements"
RESULTS = "results"
RESOLUTIONS = "resolutions"
"""What `resolve` found on a cluster, by run key: where the pipeline Jobs of the run start from."""


def build_name(artifact_key: str, hardware_class: HardwareClass) -> str:
    """A build record is of one artifact key on one hardware class: lowering may depend on the latter."""
    return f"{artifact_key}-{hashlib.sha256(str(hardware_class).encode()).hexdigest()[:16]}"


def find_builds(artifact_key: str, hardware_class: HardwareClass | None, store: Store) -> list[BuildRecord]:
    """What is known of an artifact key: on one hardware class, or on any, in a stable order."""
    if hardware_class is not None:
        found = [build_name(artifact_key, hardware_class)]
    else:
        found = [name for name in store.list_records(BUILDS) if name.startswith(f"{artifact_key}-")]
    return [record for name in found if (record := store.get_record(BUILDS, name, BuildRecord)) is not None]


def result_name(model: str, target: str) -> str:
    """The newest result of a model's target; neither name can hold a dot."""
    return f"{model}.{target}"


def artifact_digests(build: BuildRecord) -> list[str]:
    """Manifest digests of everything that a build made."""
    return [build.baseline.digest, *(c.artifact.digest for c in build.candidates if c.artifact is not None)]


def has_artifacts(build: BuildRecord, store: Store) -> bool:
    """False where something of a build was swept or lost."""
    return all(has_artifact(store, digest) for digest in artifact_digests(build))


def find_results(store: Store, reference: str) -> list[str]:
    """Names of the newest results that `NAME` or `NAME/TARGET` means.

    Raises:
        BurnishError: NotInStore, with what there is.
    """
    model, _, target = reference.partition("/")
    known = store.list_records(RESULTS)
    found = [name for name in known if name.split(".")[0] == model and (not target or name == result_name(model, target))]
    if not found:
        there = ", ".join(sorted(name.replace(".", "/") for name in known)) or "nothing"
        raise BurnishError(Reason.NotInStore, f"the store has no result of {reference}; it has {there}")
    return sorted(found)
