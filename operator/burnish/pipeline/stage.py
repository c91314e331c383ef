"""Step `stage`: put what the next steps read into the work directory, verified against its digests.

The datasets always; the source where something is to be built; the artifacts, and the model repository made of them, where only measuring is
left to do.
"""

from __future__ import annotations

from burnish import names
from burnish.api import requests
from burnish.api.job_contract import Plan, SourceRecord, StageRecord, StepName
from burnish.pipeline import formats, keep, repository
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.store.artifacts import get_artifact
from burnish.store.store import Store
from burnish.store.trees import materialize_tree


def run(work: WorkDir, store: Store) -> StageRecord:
    """Copy from the store.

    Raises:
        BurnishError: StoreCorrupted, StoreNotReadable, NotInStore, DiskFull.
    """
    request = work.load_request()
    resolved, plan = request.resolved, request.plan
    steps = requests.steps(plan.plan, request.passes)

    def place(record: SourceRecord, name: str) -> str:
        target = work.input / name
        target.mkdir(parents=True, exist_ok=True)
        file_name = formats.source_name(record) or name
        emit(f"staging {file_name}")
        materialize_tree(store, record.tree, target / file_name)
        return (target / file_name).relative_to(work.root).as_posix()

    trains = StepName.train in steps
    reached = keep.bring(work, request, store) if trains else keep.Reached()
    student = resolved.students.get(request.target.name) if trains else None
    staged = StageRecord(
        source=place(resolved.source, "source") if plan.plan is Plan.Build else "",
        calibration=place(resolved.calibration, "calibration") if resolved.calibration else None,
        evaluation=place(resolved.evaluation, "evaluation") if resolved.evaluation else None,
        checkpoints=reached.checkpoints,
        finished=reached.finished,
        training=place(resolved.training, "training") if resolved.training and trains else None,
        student=place(student.source, "student") if student else None,
    )
    if plan.plan is Plan.Measure and plan.build is not None:
        found = {names.BASELINE: plan.build.baseline} | {c.name: c.artifact for c in plan.build.candidates if c.artifact is not None}
        folder = work.folder(StepName.stage)
        for name, artifact in found.items():
            emit(f"staging artifact {name}")
            get_artifact(store, artifact.digest, folder / "artifacts" / name)
        repository.write(folder / "repository", {name: folder / "artifacts" / name for name in found}, request)
    return staged
