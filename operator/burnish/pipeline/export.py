"""Step `export`: the source as ONNX, and the source framework's own answers beside it.

Datasets are read here for the first time, so that data that doesn't fit the model is refused before anything is built.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from burnish.api.job_contract import ExportRecord, StageRecord, StepName
from burnish.api.v1alpha1.optimized_model import Input
from burnish.pipeline import formats, pairs, prepare, samples
from burnish.pipeline.evaluation import check_scorable, largest_loss
from burnish.pipeline.exported import COMPANIONS, GOLDEN, MODEL, REFERENCE
from burnish.pipeline.lowering import lower
from burnish.pipeline.progress import emit
from burnish.pipeline.status import resolution_warning
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins.files import LocalFiles
from burnish.serving import images

REFERENCE_SAMPLES = 8
"""Requests on which the export is compared with the source; each is one sample, or as few as spec.inputs allows."""


def run(work: WorkDir) -> ExportRecord:
    """Bring the source to ONNX and leave `model.onnx`, `reference/` (requests and the source's own answers) and the golden request.

    Raises:
        BurnishError: what `Format.export`, `samples.open_datasets`, `lower` and `check_scorable` raise, and `formats.find`, `prepare.run`; InvalidModel where
            the outputs don't count the samples.
    """
    request, staged = work.load_request(), work.load(StepName.stage, StageRecord)
    source = work.path(staged.source)
    folder = work.folder(StepName.export)
    plugin = formats.find(LocalFiles(source), request.resolved.detected, request.options)
    model = plugins.SourceModel(source, request.options, tuple(map(declared, request.inputs)), emit)
    signature, graph = plugin.export(model, folder / MODEL, image=images.image(request.serving_image))
    emit(f"{graph.parameters:,} parameters in {sum(graph.op_counts.values())} nodes, opset {graph.opset}")
    _write_companions(plugin, source, folder / COMPANIONS)
    resolved = prepare.run(work, request, signature, folder / COMPANIONS if source.is_dir() else None, folder / prepare.FOLDER)
    if resolved:
        (folder / COMPANIONS).mkdir(exist_ok=True)
        (folder / COMPANIONS / prepare.DESCRIPTION).write_text(prepare.describe(resolved) + "\n")
    data = samples.open_datasets(work, request, signature)
    exported = ExportRecord(signature=signature, graph=graph, format=plugin.name, inputs=data.inputs, keeps_axis=data.keeps_axis)
    lower(request, exported)
    warning = resolution_warning(len(data.evaluation or ()), request.constraints, largest_loss(data, request))
    if warning:
        emit(warning.message, warning=True)  # now, not after everything was measured
    feeds = data.feeds(REFERENCE_SAMPLES, data.smallest_batch)
    for number, (feed, answer) in enumerate(zip(feeds, plugin.reference(model, feeds), strict=True)):
        data.check_answer(answer, data.smallest_batch)
        check_scorable(data.as_batch(answer, data.smallest_batch), data, request)
        pairs.save_pair(folder / REFERENCE / f"{number}.npz", feed, answer)
    pairs.save_pair(folder / GOLDEN, data.golden, {})
    return exported


def declared(entry: Input) -> plugins.DeclaredInput:
    """What spec.inputs says of an input, as formats want it."""
    shape = None if entry.shape is None else tuple(entry.shape)
    return plugins.DeclaredInput(entry.name, entry.data_type, shape, {d.axis: d.opt for d in entry.dynamic})


def _write_companions(plugin: plugins.Format, source: Path, target: Path) -> None:
    """What clients, `prepare`, and a later run that only measures, make requests with."""
    describing = [source / name for name in prepare.DESCRIBING if source.is_dir() and (source / name).is_file()]
    found = {path.name: path for path in (*describing, *plugin.companions(source))}
    if found:
        target.mkdir(exist_ok=True)
    for path in found.values():
        shutil.copyfile(path, target / path.name)
