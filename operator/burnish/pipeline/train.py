"""Step `train`: the passes that work on a torch module, one after the other, each with the truth about what it did.

It runs in PyTorch's own toolchain, and only where such a pass is asked for. Every pass leaves a model of its own as ONNX: the last one is what the
runtime's passes go on from, and each that may be faster than what it was given is a candidate, so that the gate can keep the best of the chain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from burnish.api.job_contract import Evaluated, ExportRecord, ModelFacts, PipelineRequest, StageRecord, StepName, TrainedPass, TrainRecord
from burnish.errors import BurnishError, Reason
from burnish.measurement import equivalence, summary
from burnish.pipeline import checkpoints, cpus, lesson, samples, students, team, usage
from burnish.pipeline.datasets import overlap
from burnish.pipeline.export import declared
from burnish.pipeline.exported import MODEL
from burnish.pipeline.lowering import passes_of
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins import base as plugins
from burnish.plugins import order, registry
from burnish.plugins.files import LocalFiles
from burnish.plugins.formats import _exported
from burnish.plugins.formats._torch_module import AskedModule
from burnish.plugins.passes import _channels, _students
from burnish.serving import images


def run(work: WorkDir) -> TrainRecord:
    """Train, and leave `<name>/model.onnx` of each pass.

    Raises:
        BurnishError: PassNotApplicable, LabelsMissing, InvalidDataset, TrainingDiverged; what exporting a torch module raises.
    """
    request, exported = work.load_request(), work.load(StepName.export, ExportRecord)
    with team.gather(request, work) as ours:
        _set_up(ours.size)
        chain = _Chain(work, request, exported, ours)
        requests = order.training_part(passes_of(request))
        for number, entry in enumerate(requests):
            chain.add(entry, number, len(requests))
    return TrainRecord(original=chain.original, passes=tuple(chain.passes), trained_with=team.where(ours))


def _set_up(processes: int) -> None:
    """As many threads as there are CPUs for each process, and the same sums in every run where PyTorch, and CUDA's matrix products, can do that."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch's notes on reproducibility; read when the first GPU is used
    torch.set_num_threads(max(1, cpus.usable() // processes))
    torch.use_deterministic_algorithms(True, warn_only=True)


class _Chain:
    """A model on its way through the passes."""

    def __init__(self, work: WorkDir, request: PipelineRequest, exported: ExportRecord, ours: plugins.Team) -> None:
        import torch

        self.work, self.request, self.exported, self.team = work, request, exported, ours
        self.folder = work.folder(StepName.train)
        if ours.rank:
            self.folder = self.folder / team.own_folder(ours.rank)
        self.data = samples.open_datasets(work, request, exported.signature)
        self.path = work.folder(StepName.export) / MODEL
        self.session = _open(self.path)
        self.examined = self._examined()
        self.first = self.last = self.examined.answers(self.session)
        training = lesson.load(work, request, exported.signature)
        shared = overlap(training, self.data.evaluation) if training and self.data.evaluation else 0
        if shared:
            emit(f"training and evaluation data share {shared} samples, so the score is flattering", warning=True)
        self.model = self._original()
        self.lesson = self._lesson(training)
        self.calibration = self._calibration(training)
        self.original = self._facts(self.model, self.path, self.first)
        if not isinstance(self.model, AskedModule) and (self.original.macs or 0) < SMALL:
            torch.set_num_threads(1)  # what is only asked is not counted, so that it says nothing of its size
        self.passes: list[TrainedPass] = []
        self._student: Any = None
        self.memory = checkpoints.Memory(work, request)

    def _original(self) -> Any:
        """The source as a torch module; where it can't become one and the first pass only wants its answers, its session in the form of one."""
        import torch

        first = order.training_part(passes_of(self.request))[0]
        plugin = registry.passes()[first.name]
        try:
            return self._module()
        except BurnishError as error:
            if not (isinstance(plugin, plugins.TrainingPass) and plugin.only_asks(first.config)):
                raise
            emit(f"the original stays what it is and only answers, its multiply-accumulates are not counted: {error.message.partition(';')[0]}")
        sizes = self._sizes()
        inputs = tuple(_exported.Input(tensor, sizes.get(tensor.name, {})) for tensor in self.exported.signature.inputs)
        return AskedModule(torch.nn.Identity(), inputs, session=self.session, known_weights=_weights(self.path)[0])

    def student(self) -> Any:
        """What `student.source` of the passes holds, with its own inputs and outputs."""
        if self._student is None:
            self._student = self._opened()
        return _channels.copied(self._student)

    def _opened(self) -> Any:
        wanted, staged = students.of_pipeline(self.request), self.work.load(StepName.stage, StageRecord).student
        assert wanted is not None and staged is not None  # noqa: S101  # `stage` put it there because a pass starts from it
        path, options = self.work.path(staged), wanted.source.options
        plugin = wanted.find_format(LocalFiles(path))
        with wanted.naming():
            model = self._of_framework(plugin, path, options)
            return self._of_graph(plugin, path, options) if model is None else model

    def _of_framework(self, plugin: plugins.Format, path: Path, options: plugins.SourceOptions) -> Any | None:
        """The student as its own framework has it; where that doesn't tell its inputs, with the original's."""
        try:
            return plugin.module(plugins.SourceModel(path, options, say=emit))
        except BurnishError as error:
            if error.reason is not Reason.InputsNotGeneratable:
                raise
        sizes = self._sizes()
        inputs = (plugins.DeclaredInput(t.name, t.data_type, t.shape, sizes.get(t.name, {})) for t in self.exported.signature.inputs)
        return plugin.module(plugins.SourceModel(path, options, tuple(inputs), emit))

    def _of_graph(self, plugin: plugins.Format, path: Path, options: plugins.SourceOptions) -> Any:
        """The student's own graph as a module; it is held to that graph's answers to the original's requests."""
        from burnish.plugins.formats import _onnx_torch

        scratch = lesson.scratch(self.folder / "student")
        graph = scratch / MODEL
        signature, _ = plugin.export(plugins.SourceModel(path, options, say=emit), graph, image=images.image(self.request.serving_image))
        wanted = self.exported.signature.inputs
        _students.check_inputs(signature.inputs, wanted)
        theirs = _students.matched([t.name for t in signature.inputs], [t.name for t in wanted])
        feeds = [{theirs[name]: array for name, array in feed.items()} for feed in self._feeds(2)]
        return _onnx_torch.convert(graph, signature, feeds, scratch, {theirs[name]: sizes for name, sizes in self._sizes().items()})

    def _module(self) -> Any:
        """The source as a torch module: its own framework's, else made of the exported graph."""
        staged = self.work.load(StepName.stage, StageRecord)
        source = plugins.SourceModel(self.work.path(staged.source), self.request.options, tuple(map(declared, self.request.inputs)), emit)
        model = registry.formats()[self.exported.format].module(source)
        scratch = lesson.scratch(self.folder)
        if model is None:
            from burnish.plugins.formats import _onnx_torch

            emit("bringing the graph to PyTorch")
            model = _onnx_torch.convert(self.path, self.exported.signature, self._feeds(2), scratch, self._sizes())
        self._export(model, scratch / "untouched.onnx")  # what can't come back is refused now, not after an hour's training
        return model

    def _sizes(self) -> Mapping[str, Mapping[int, int]]:
        """Input -> varying axis -> its size in the data; the batch's is the tracer's."""
        return {i.name: {b.axis: b.opt for b in i.bounds if b.axis > 0} for i in self.data.inputs}

    def _feeds(self, count: int) -> list[dict[str, np.ndarray]]:
        return self.data.feeds(count, max(2, self.data.smallest_batch) if self.data.is_batched else 1)

    def _examined(self) -> lesson.Examined:
        best = self.data.best
        batch = lesson.ASKED if self.data.is_batched else 1
        if best is None:
            batch = self.data.smallest_batch
            return lesson.Examined(self.request, None, self.data.feeds(samples.MADE_UP, batch))
        few = dataclasses.replace(best, arrays={name: array[: lesson.MAX_EXAMINED] for name, array in best.arrays.items()})
        return lesson.Examined(self.request, self.data.evaluation, few.feeds(batch))

    def _lesson(self, data: Any) -> plugins.Lesson | None:
        if data is None:
            return None
        entries = [(registry.passes()[e.name], e.config) for e in order.training_part(passes_of(self.request))]
        own = [(p, c) for p, c in entries if isinstance(p, plugins.TrainingPass)]
        return lesson.make(
            data,
            self.request,
            self.exported.signature,
            self.session,
            needs_labels=any(p.needs_labels(c) for p, c in own),
            asks_original=any(p.learns_from_original(c) for p, c in own),
        )

    def _calibration(self, training: Any) -> Sequence[plugins.Arrays]:
        data = self.data.calibration or training
        return data.feeds(1)[:CALIBRATION] if data else ()

    def add(self, entry: plugins.PassRequest, number: int, count: int) -> None:
        """Run one pass."""
        plugin = registry.passes()[entry.name]
        assert isinstance(plugin, plugins.TrainingPass)  # noqa: S101  # `training_part` gave it
        taken = sum(done.type == entry.name for done in self.passes)
        name = f"{plugin.short}-{taken + 1}" if taken else plugin.short
        bench = _Bench(self, entry.name, number, count)
        meter = usage.Meter()
        try:
            with undetermined() as operators:
                made = plugin.apply(entry.config, self.model, bench)
        except BurnishError as error:
            field = f"spec.passes[{number}]"  # they come first
            raise BurnishError(error.reason, error.message, field=error.field or field) from error
        except RuntimeError as error:  # torch's allocator
            if "not enough memory" not in str(error) and "out of memory" not in str(error):
                raise
            raise MemoryError from error
        self.model = made.model
        if self.team.rank:
            return  # the first process tells what came of it
        path = self.folder / name / MODEL
        path.parent.mkdir(parents=True, exist_ok=True)
        graph = self._export(self.model, path, exact=plugin.is_exact)
        session = _open(path)
        answers = self.examined.answers(session)
        facts = self._facts(self.model, path, answers)
        change = self._difference(self.last, answers)
        self.last = answers
        emit(f"{name}: {made.summary}{_told(facts)}")
        self.passes.append(
            TrainedPass(
                type=entry.name,
                name=name,
                summary=made.summary,
                config=entry.config.model_dump(mode="json", by_alias=True),
                file=path.relative_to(self.work.root).as_posix(),
                facts=facts,
                change=change,
                graph=graph,
                usage=meter.read(),
                losses=made.losses,
                notes=made.notes,
                undetermined=tuple(sorted(operators)),
            )
        )

    def _export(self, model: Any, path: Path, *, exact: bool = True) -> plugins.GraphFacts:
        """Write the module as ONNX; its signature and its answers stay what they are."""
        model.module.eval()
        signature, graph = cast("tuple[plugins.Signature, plugins.GraphFacts]", model.export(path, image=images.image(self.request.serving_image)))
        _check_signature(signature, self.exported.signature)
        if exact:
            session = _open(path)
            for feed in self._feeds(2):
                violation = equivalence.preserving_violation(equivalence.compare(model.run(feed), session.infer(feed), batched=self.data.is_batched))
                if violation:
                    raise BurnishError(Reason.ExportNotEquivalent, f"the trained model's ONNX does not answer as PyTorch does: {violation}")
        return graph

    def _facts(self, model: Any, path: Path, answers: dict[str, np.ndarray]) -> ModelFacts:
        parameters, non_zeros = _weights(path)
        scores, before = self.examined.scores(answers, self.first), self.examined.scores(self.first, self.first)
        spec = self.request.datasets.evaluation
        score = None
        if scores and spec is not None:
            evaluated = Evaluated(
                metric=spec.metric.value, output=spec.output or "", baseline=before, candidate=scores, largest_loss=self.examined.largest_loss
            )
            score = summary.summarize_score(evaluated)
        return ModelFacts(
            parameters=parameters,
            non_zeros=non_zeros,
            macs=self._macs(model),
            size_bytes=sum(f.stat().st_size for f in path.parent.glob(f"{path.name}*")),
            score=score,
            equivalence=self._difference(self.first, answers),
        )

    def _difference(self, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> Any:
        return summary.summarize_equivalence(equivalence.compare(before, after, batched=self.data.is_batched))

    def _macs(self, model: Any) -> int | None:
        """Multiply-accumulates of one sample: PyTorch's own counter counts two operations for each. None where it counts none, or nothing is PyTorch's."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        batch = max(2, self.data.smallest_batch) if self.data.is_batched else 1
        feed = self._feeds(1)[0]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.outputs([torch.from_numpy(np.array(feed[i.tensor.name])) for i in model.inputs])
        total = counter.get_total_flops()
        return total // 2 // batch if total else None


@contextlib.contextmanager
def undetermined() -> Iterator[set[str]]:
    """Gets the operators that PyTorch ran and has no deterministic implementation of: it warns of each (`_set_up`)."""
    found: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def listen(message: Warning | str, *rest: Any, **more: Any) -> None:
            said = re.match(r"(\S+) does not have a deterministic implementation", str(message))
            if said:
                found.add(said[1])
            else:
                show(message, *rest, **more)

        warnings.filterwarnings("always", message=".*does not have a deterministic implementation")
        warnings.showwarning = listen
        yield found


SMALL = 5_000_000
"""Multiply-accumulates below which threads wait for each other longer than they work."""
CALIBRATION = 256
"""Feeds of which passes see the activations."""


class _Bench(plugins.Bench):
    """A pass's place in the chain."""

    def __init__(self, chain: _Chain, name: str, number: int, count: int) -> None:
        self.lesson, self.calibration, self.team = chain.lesson, chain.calibration, chain.team
        self.hardware = chain.request.hardware_class
        self.scores_errors = chain.examined.scores_errors
        self._chain = chain
        self._name, self._number, self._count, self._memory = name, number, count, chain.memory

    def say(self, text: str, *, done: float | None = None) -> None:
        emit(f"{self._name}: {text}", done=None if done is None else (self._number + done) / self._count, logged=True)

    def save(self, state: Mapping[str, object]) -> None:
        if self.team.rank:
            return
        self._memory.save(self._number, state)

    def load(self) -> Mapping[str, Any] | None:
        return self._memory.load(self._number)

    def student(self) -> Any:
        return self._chain.student()

    def score(self, model: Any) -> float | None:
        examined = self._chain.examined
        model.module.eval()
        found = examined.scores(examined.answers(_AsSession(model)), self._chain.first)
        return sum(found) / len(found) if found else None


class _AsSession(plugins.Session):
    """A torch module, asked as a loaded model is."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def infer(self, feeds: plugins.Arrays) -> dict[str, np.ndarray]:
        answer: dict[str, np.ndarray] = self._model.run(feeds)
        return answer


def _open(path: Path) -> plugins.Session:
    from burnish.plugins.runtimes import _onnxruntime_session as ort

    return ort.open_session(path, threads=cpus.usable())


def _weights(path: Path) -> tuple[int, int]:
    """Weights of an ONNX file, floating-point or quantized, without scales and zero points; and how many of them aren't zero."""
    import onnx

    from burnish.plugins.formats import _onnx_graph

    model = onnx.load(path)
    linear = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    beside, quantized = {name for node in linear for name in node.input[1:]}, {node.input[0] for node in linear}
    kinds, counts = (*_onnx_graph.FLOAT_TYPES, onnx.TensorProto.INT8, onnx.TensorProto.UINT8), []
    for _, tensor in _onnx_graph.tensors(model):
        if (tensor.data_type in kinds or tensor.name in quantized) and tensor.name not in beside:
            array = onnx.numpy_helper.to_array(tensor)
            counts.append((array.size, int(np.count_nonzero(array))))
    return sum(c[0] for c in counts), sum(c[1] for c in counts)


def _check_signature(found: plugins.Signature, wanted: plugins.Signature) -> None:
    """What clients see must not change."""
    plain = [[(t.name, t.data_type, t.shape) for t in side] for s in (found, wanted) for side in (s.inputs, s.outputs)]
    if plain[:2] != plain[2:]:
        raise BurnishError(
            Reason.PassNotApplicable, f"PyTorch exports the model with other inputs or outputs: {plain[:2]}, not {plain[2:]}", field="spec.passes"
        )


def _told(facts: ModelFacts) -> str:
    score = f", score {facts.score.candidate:.4g} (drop {facts.score.drop:.4g}, at most {facts.score.high:.4g})" if facts.score else ""
    macs = f", {facts.macs:,} multiply-accumulates" if facts.macs else ""
    return f"; {facts.parameters:,} weights{macs}{score}"


if __name__ == "__main__":
    run(WorkDir(Path(sys.argv[1])))  # one of a team, but for the first: it leaves nothing
