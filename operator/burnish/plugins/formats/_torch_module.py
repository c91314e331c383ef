"""A torch module with named inputs and outputs: running it as its own framework does, and bringing it to ONNX.

Everything that PyTorch's formats share after they have a module in their hands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported

if TYPE_CHECKING:
    import numpy as np

OPSET = 20
"""What torch 2.15's exporter writes without a conversion afterwards that may fail."""
EXAMPLE_BATCH = 2
"""torch.export takes a size of 1 for a constant."""
_EXTERNAL_BYTES = 1_900_000_000
"""Above it weights go beside the protobuf, which holds 2 GiB."""
_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'")
_LISTED = 5


def example(entry: _exported.Input) -> Any:
    """A tensor of zeros, or of the smallest allowed integers."""
    import torch

    tensor = entry.tensor
    shape = [entry.sizes.get(axis, EXAMPLE_BATCH) if size == -1 else size for axis, size in enumerate(tensor.shape)]
    low = tensor.range[0] if tensor.range else 0
    return torch.full(shape, low, dtype=getattr(torch, tensor.data_type.numpy_name))


@dataclasses.dataclass(frozen=True)
class NamedModule:
    """A module in evaluation mode and its inputs."""

    module: Any
    inputs: tuple[_exported.Input, ...]
    by_keyword: bool = False
    """Inputs are passed by name, not in order."""

    @property
    def weights(self) -> int:
        """How many there are."""
        return sum(p.numel() for p in self.module.parameters())

    def run(self, feed: base.Arrays) -> dict[str, np.ndarray]:
        """The module's own answer.

        Raises:
            BurnishError: InvalidModel where it refuses the feed.
        """
        import numpy as np
        import torch

        try:
            with torch.inference_mode():
                found = self.outputs([torch.from_numpy(np.array(feed[i.tensor.name])) for i in self.inputs])
        except BurnishError:
            raise
        except Exception as error:  # the model's own code
            raise _broken("PyTorch does not run the model on such a request", error) from error
        return {name: value.contiguous().numpy() for name, value in found.items()}

    def export(self, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Write ONNX to `target`, checked as every ONNX source is.

        Raises:
            BurnishError: InvalidModel, UnsupportedOperator; as the ONNX format's `export`.
        """
        import torch

        examples = tuple(example(i) for i in self.inputs)
        try:
            with torch.inference_mode():
                outputs = self.outputs(list(examples))
        except BurnishError:
            raise
        except Exception as error:
            raise _broken(f"the model does not run on inputs of {_shapes(self.inputs, examples)}", error) from error
        varying = tuple({axis: torch.export.Dim.AUTO for axis, size in enumerate(i.tensor.shape) if size == -1} for i in self.inputs)
        program = self._program(examples, varying, [i.tensor.name for i in self.inputs], list(outputs), min(OPSET, image.max_opset))
        return save(program, self.inputs, target, image=image)

    def _program(self, examples: tuple[Any, ...], varying: tuple[Any, ...], inputs: list[str], outputs: list[str], opset: int) -> Any:
        import torch

        with exporting():
            return torch.onnx.export(
                positional(self),
                examples,
                dynamo=True,
                dynamic_shapes=(varying,),
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                external_data=False,
                verbose=False,
            )

    def outputs(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """The module's tensors by name, for inputs in order."""
        names = [i.tensor.name for i in self.inputs]
        answer = self.module(**dict(zip(names, arguments, strict=True))) if self.by_keyword else self.module(*arguments)
        return named_outputs(answer)


@dataclasses.dataclass(frozen=True)
class AskedModule(NamedModule):
    """A model that another runtime has loaded, for those that want its answers only: `module` is an empty one, and nothing of it can be trained."""

    session: base.Session | None = None
    known_weights: int = 0

    @property
    def weights(self) -> int:
        """As its file has them."""
        return self.known_weights

    def outputs(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """The runtime's answers as tensors."""
        import torch

        assert self.session is not None  # noqa: S101  # whoever makes one gives it
        found = self.session.infer({i.tensor.name: value.numpy() for i, value in zip(self.inputs, arguments, strict=True)})
        return {name: torch.from_numpy(value) for name, value in found.items()}


def data_type(dtype: Any, name: str) -> base.DataType:
    """The protocol's name of a torch dtype.

    Raises:
        BurnishError: InvalidModel for one that it can't carry.
    """
    for found in base.DataType:
        if str(dtype) == f"torch.{found.numpy_name}":
            return found
    raise BurnishError(Reason.InvalidModel, f"input {name!r} is {dtype}, which Triton's protocol can't carry; cast it inside the model")


def named_outputs(answer: Any) -> dict[str, Any]:
    """The tensors of what a module returns, by name: its own where it returns a mapping, else `output`, or `output_0` and so on.

    Raises:
        BurnishError: InvalidModel where there is none.
    """
    import torch

    if isinstance(answer, torch.Tensor):
        return {"output": answer}
    if isinstance(answer, Mapping):
        found = {str(name): value for name, value in answer.items() if isinstance(value, torch.Tensor)}
    else:
        values = [value for value in answer if isinstance(value, torch.Tensor)] if isinstance(answer, Sequence) else []
        found = {"output" if len(values) == 1 else f"output_{number}": value for number, value in enumerate(values)}
    if not found:
        raise BurnishError(Reason.InvalidModel, f"the model returns {type(answer).__name__} without a tensor in it; let it return tensors")
    return found


def positional(named: NamedModule) -> Any:
    """A module that takes the inputs in order and returns a tuple of tensors, as the exporter wants it."""
    import torch

    class Positional(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.inner = named.module

        def forward(self, *arguments: Any) -> tuple[Any, ...]:
            return tuple(named.outputs(list(arguments)).values())

    return Positional().eval()


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Turn what torch's exporter raises into words for the user.

    Raises:
        BurnishError: UnsupportedOperator with the operators' names; InvalidModel.
    """
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:  # of the exporter, or of the model's own code
        operators = sorted(set(_OPERATOR.findall("\n".join(str(cause) for cause in _causes(error)))))
        if not operators:
            raise _broken("PyTorch does not export the model to ONNX", error) from error
        raise BurnishError(
            Reason.UnsupportedOperator,
            f"ONNX has no operator for {', '.join(operators[:_LISTED])}; replace it in the model with operators of PyTorch itself",
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def save(program: Any, inputs: Sequence[_exported.Input], target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
    """Write an exported program to `target`, with readable names of sizes and without the paths of this machine.

    Raises:
        BurnishError: InvalidModel where an axis became a constant; as the ONNX format's `export`.
    """
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces
        node.doc_string = None
    raw = target.with_suffix(".torch.onnx")
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value is not None)
    program.save(raw, external_data=size > _EXTERNAL_BYTES)
    return _exported.finish(raw, inputs, target, image=image)


def _shapes(inputs: Sequence[_exported.Input], examples: Sequence[Any]) -> str:
    return ", ".join(f"{i.tensor.name} {list(e.shape)}" for i, e in zip(inputs, examples, strict=True))


def _broken(what: str, error: Exception) -> BurnishError:
    said = " ".join((str(error) or type(error).__name__).split())[:400]
    return BurnishError(Reason.InvalidModel, f"{what}: {said}")
