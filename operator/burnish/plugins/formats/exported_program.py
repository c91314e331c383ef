"""The ExportedProgram format: what torch.export.save wrote, a traced graph with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from burnish.plugins import base
from burnish.plugins.formats import _exported, _torch_module, _torch_trust

if TYPE_CHECKING:
    import numpy as np


class ExportedProgram(_torch_trust.Program):
    """A .pt2 file. Loading it runs code, so it has to be trusted."""

    name: ClassVar[str] = "ExportedProgram"

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Convert the graph as it is; varying sizes stay so, and get names.

        Raises:
            BurnishError: InvalidModel, UnsupportedOperator; as the ONNX format's `export`.
        """
        import torch

        program = _load(source)
        inputs = _inputs(program, source.inputs)
        with _torch_module.exporting():
            found = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=[i.tensor.name for i in inputs],
                output_names=_output_names(program),
                opset_version=min(_torch_module.OPSET, image.max_opset),
                external_data=False,
                verbose=False,
            )
        return _torch_module.save(found, inputs, target, image=image)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the program in PyTorch, eager."""
        program = _load(source)
        names = _output_names(program)
        model = _torch_module.NamedModule(program.module(), _inputs(program, source.inputs))
        return [dict(zip(names, model.run(feed).values(), strict=True)) for feed in feeds]


def _load(source: base.SourceModel) -> Any:
    import torch

    return _torch_trust.load(source, ExportedProgram.name, torch.export.load, "export it again with that release")


def _inputs(program: Any, declared: tuple[base.DeclaredInput, ...]) -> tuple[_exported.Input, ...]:
    """The program's inputs with their own names; an only input may be renamed by the manifest."""
    wanted = set(program.graph_signature.user_inputs)
    found = []
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if node.name in wanted and hasattr(value, "shape"):
            shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
            data_type = _torch_module.data_type(value.dtype, node.name)
            found.append(_exported.Input(base.Tensor(name=node.name, data_type=data_type, shape=shape)))
    if len(found) == len(declared) == 1:
        found[0] = _exported.Input(found[0].tensor.model_copy(update={"name": declared[0].name}))
    return tuple(found)


def _output_names(program: Any) -> list[str]:
    """`output`, or the keys of the mapping that the module returned: a graph's own are those of operators."""
    spec = program.call_spec.out_spec
    count = len(program.graph_signature.user_outputs)
    keys = spec.context if spec is not None and isinstance(spec.context, list) and len(spec.context) == count else None
    if keys is not None and all(isinstance(key, str) for key in keys):
        return list(keys)
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]
