"""Step `export`: the source as ONNX, and the source framework's own answers beside it.

Datasets are read here for the first time, so that data that doesn't fit the model is refused before anything is built.
"""

from __future__ import annotations

from pathlib import Path

from burnish.api.job_contract import ExportRecord, StageRecord, StepName
from burnish.errors import BurnishError, Reason
from burnish.pipeline import samples
from burnish.pipeline.evaluation import check_scorable
from burnish.pipeline.lowering import lower
from burnish.pipeline.progress import emit
from burnish.pipeline.status import resolution_warning
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.serving import images

MODEL = "model.onnx"
REFERENCE = "reference"
REFERENCE_SAMPLES = 8
"""Requests on which the export is compared with the source; each is one sample, or as few as spec.inputs allows."""


def run(work: WorkDir) -> ExportRecord:
    """Bring the source to ONNX and leave `model.onnx` and `reference/` (requests and the source's own answers).

    Raises:
        BurnishError: what `Format.export`, `samples.open_datasets`, `lower` and `check_scorable` raise; UnsupportedFormat; InvalidModel where
            the outputs don't count the samples.
    """
    request, staged = work.load_request(), work.load(StepName.stage, StageRecord)
    source = work.path(staged.source)
    folder = work.folder(StepName.export)
    plugin = detect(source, request.resolved.format)
    emit(f"source is {plugin.name}")
    signature, graph = plugin.export(source, folder / MODEL, image=images.image(request.serving_image))
    emit(f"{graph.parameters:,} parameters in {sum(graph.op_counts.values())} nodes, opset {graph.opset}")
    data = samples.open_datasets(work, request, signature)
    lower(request, graph)
    warning = resolution_warning(len(data.evaluation or ()), request.constraints)
    if warning:
        emit(warning.message, warning=True)  # now, not after everything was measured
    feeds = data.feeds(REFERENCE_SAMPLES, data.smallest_batch)
    for number, (feed, answer) in enumerate(zip(feeds, plugin.reference(source, feeds), strict=True)):
        data.check_answer(answer, data.smallest_batch)
        check_scorable(data.as_batch(answer, data.smallest_batch), data, request)
        samples.save_pair(folder / REFERENCE / f"{number}.npz", feed, answer)
    return ExportRecord(signature=signature, graph=graph, format=plugin.name)


def detect(source: Path, declared: str | None) -> plugins.Format:
    """The format plugin for a source.

    Raises:
        BurnishError: UnsupportedFormat: no plugin knows it, or the declared one doesn't recognise it.
    """
    known = registry.formats()
    if declared is not None:
        if not known[declared].detect(source):
            raise BurnishError(
                Reason.UnsupportedFormat,
                f"{source.name} is not {declared}; correct the field or the file, or leave the field out to have it detected",
                field="spec.source.format",
            )
        return known[declared]
    for plugin in known.values():
        if plugin.detect(source):
            return plugin
    raise BurnishError(Reason.UnsupportedFormat, f"{source.name} is of no known format; known: {', '.join(known)}", field="spec.source.uri")
