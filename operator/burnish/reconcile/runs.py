"""One run: the Jobs that answer one question. The same question has the same run key, so an answered one is never asked again.

Everything that can change the answer is in the key: the source, data, passes, limits, hardware, and the Triton that serves. What is not, such
as replicas or which target is primary, changes the rollout only. The resource's uid is in it, so that a resource that was deleted and made again
never meets the Jobs of its predecessor.
"""

from __future__ import annotations

import dataclasses
import hashlib

from burnish import names
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.manifests.settings import Settings
from burnish.store.keys import canonical_json


@dataclasses.dataclass(frozen=True)
class Run:
    """The current run of a resource."""

    model: str
    key: str
    """Hex, 32 digits."""

    @property
    def resolve_job(self) -> str:
        """Name of its resolve Job."""
        return names.resolve_job(self.model, self.key)

    def pipeline_job(self, target: str) -> str:
        """Name of a target's pipeline Job."""
        return names.pipeline_job(self.model, target, self.key)


def current(model: OptimizedModel, uid: str, settings: Settings) -> Run:
    """The run that the spec asks for."""
    spec = model.spec.model_dump(mode="json", by_alias=True, exclude={"suspend": True, "serving": True, "targets": {"__all__": {"replicas"}}})
    spec["passes"] = {
        target.name: [{"name": p.name, "config": p.config.model_dump(mode="json", by_alias=True)} for p in model.spec.passes_of(target)]
        for target in model.spec.targets
    }
    batching = model.spec.serving.dynamic_batching
    question = {
        "uid": uid,
        "spec": spec,
        "batching": batching.model_dump(mode="json", by_alias=True) if batching else None,
        "triton": [settings.images.triton, settings.images.serving_image],
        "cluster": settings.cluster,
    }
    return Run(model=model.metadata.name, key=hashlib.sha256(canonical_json(question)).hexdigest()[:32])
