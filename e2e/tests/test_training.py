"""Passes that train, on a real cluster: the epoch in the status, and a Job that is killed and goes on. The image has gigabytes, so it is built, loaded and installed here only."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from installation import EXAMPLES, Installation, Space, is_ready

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

PIPELINE = ("--selector", "burnish.dev/component=pipeline")
EPOCHS = 20


def _trains(model: dict[str, Any]) -> bool:
    """At least two epochs are done, as the status tells."""
    steps = [target.get("step") or "" for target in model.get("status", {}).get("targets", [])]
    epochs = [re.fullmatch(rf"train: Finetune: epoch (\d+) of {EPOCHS}: loss [0-9.e-]+", step) for step in steps]
    return any(found is not None and int(found[1]) >= 2 for found in epochs)


def test_killed_training_job_goes_on_from_its_last_checkpoint(installation: Installation, space: Space) -> None:
    installation.upload("prune")
    installation.images("optimizer-torch")
    installation.install()
    model = yaml.safe_load((EXAMPLES / "cluster/prune.yaml").read_text())
    model["spec"]["passes"] = [{"type": "Finetune", "finetune": {"epochs": EPOCHS, "batchSize": 16, "learningRate": "0.0001"}}]
    model["spec"]["constraints"] |= {"maxSlowdownPercent": 50, "score": {"maxDrop": "0.05"}}
    space.apply(model)
    space.wait("prune", _trains, 600)
    (job,) = space.get("jobs", "", *PIPELINE)
    (killed,) = space.get("pods", "", *PIPELINE)
    containers = {c["name"]: c for c in killed["spec"]["initContainers"]}
    assert not [m for m in containers["train"]["volumeMounts"] if "credentials" in m["mountPath"]]
    space.kubectl("delete", "job", job["metadata"]["name"], "--wait=true")
    ready = space.wait("prune", is_ready, 600)
    (pod,) = space.get("pods", "", *PIPELINE)
    assert pod["metadata"]["uid"] != killed["metadata"]["uid"]
    assert "export: done by an earlier attempt" in space.kubectl("logs", pod["metadata"]["name"], "--container", "export")
    log = space.kubectl("logs", pod["metadata"]["name"], "--container", "train")
    after = re.search(r"going on from the checkpoint after epoch (\d+)", log)
    assert after is not None and 1 <= int(after[1]) < EPOCHS
    assert f"epoch {after[1]} of {EPOCHS}" not in log and f"epoch {EPOCHS} of {EPOCHS}" in log
    assert ready["status"]["targets"][0]["artifact"]["served"] == "Candidate"


def test_student_with_a_source_of_its_own_is_fetched_and_taught(installation: Installation, space: Space) -> None:
    installation.upload("distill", "pytorch")
    installation.images("optimizer-torch")
    installation.install()
    model = yaml.safe_load((EXAMPLES / "cluster/distill.yaml").read_text())
    of_another = yaml.safe_load((EXAMPLES / "cluster/pytorch.yaml").read_text())["spec"]["source"]
    student = {"source": {"uri": of_another["uri"]}, "architecture": of_another["architecture"], "architectureArgs": of_another["architectureArgs"]}
    model["spec"]["passes"] = [{"type": "Distill", "distill": {"student": student, "epochs": 2, "learningRate": "0.002", "compareSeeds": 0}}]
    model["spec"] |= {"constraints": {"maxSlowdownPercent": 1000, "score": {"maxDrop": "0.05"}}, "serving": {"mode": "PublishOnly"}}
    space.apply(model)
    target = space.wait("distill", is_ready, 600)["status"]["targets"][0]
    assert target["artifact"]["served"] == "Candidate" and target["artifact"]["candidate"] == "distill"
    (pod,) = space.get("pods", "", "--selector", "burnish.dev/component=resolve")
    assert "student is StateDict" in space.kubectl("logs", pod["metadata"]["name"])
