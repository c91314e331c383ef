"""Accuracy control: which operations have to stay in float so that static INT8 keeps its answers. Few, and those that cost most.

NNCF has one of its own, which puts operations back one by one and asks the whole data after each. On a real text recogniser it took minutes and ended
with everything in float and no answer right (its restored weights were not the model's). Here a model is quantized once and each operation's
quantization gets a switch, an input of the model: one compiled model then tells what each operation costs alone, and how many of the worst have to go.
What they are decides a quantization like any other, from the start, whose answers are asked again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.runtimes import _openvino_session as session

if TYPE_CHECKING:
    import numpy as np

RANKED_ON = 8
"""Requests on which operations are ranked: those whose answers change first."""
_SWITCH = "burnish_switch"
_PASSES_ON = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Relu", "Split", "VariadicSplit", "StridedSlice", "Concat"))
"""Operator types that hand quantized values on to whoever computes with them."""

Quantize = Callable[[Sequence[str]], Any]
"""Names of operations that stay in float -> the quantized model."""
Run = Callable[[Mapping[str, Any]], Any]
"""Feeds -> outputs by port, as a compiled model does it."""


@dataclasses.dataclass(frozen=True)
class Controlled:
    """What holds the limit."""

    model: Any
    kept: tuple[str, ...]
    """Names of the operations that stay in float, the costliest first."""
    same: float
    """Share of the answers that stay."""


def control(
    model: Any, quantize: Quantize, switchable: Callable[[], Any], calibration: Sequence[base.Arrays], answers: base.Answers, *, max_drop: float
) -> Controlled:
    """Quantize `model` so that at most a share of `max_drop` of its answers to `calibration` changes.

    Args:
        model: as it came.
        quantize: gives what is served.
        switchable: gives `model`, quantized, with every quantizer in sight and nothing else changed; called only if needed.
        calibration: what is asked.
        answers: what outputs say.
        max_drop: below 1.

    Raises:
        BurnishError: CandidateNotBuildable: that takes everything in float.
    """
    judge, wanted = _Judge(session.compile_model(model), calibration, answers), 1 - max_drop
    made = quantize(())
    compiled = session.compile_model(made)
    same = judge.same(compiled)
    if same >= wanted:
        return Controlled(made, (), same)
    switched = _Switched(switchable())
    ranked = switched.rank(judge.hardest(compiled, RANKED_ON))
    count = _smallest(len(ranked), lambda count: judge.same(switched.without(ranked[:count])) >= wanted)
    while count < len(ranked):
        made = quantize(ranked[:count])
        same = judge.same(session.compile_model(made))
        if same >= wanted:
            return Controlled(made, tuple(ranked[:count]), same)
        count += max(1, (len(ranked) - count) // _STEPS)
    raise BurnishError(Reason.CandidateNotBuildable, f"accuracy control: with anything in INT8 more than {max_drop:g} of the answers change")


_STEPS = 4
"""Parts of what is left that are given up one after the other where the prediction was too good."""


def _smallest(end: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from 1 to `end` for which `holds`, taken to hold for all above; `end` isn't asked."""
    low, high = 1, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


class _Judge:
    """Compares answers with the uncompressed model's."""

    def __init__(self, reference: Any, calibration: Sequence[base.Arrays], answers: base.Answers) -> None:
        self.calibration, self.answers = calibration, answers
        self.expected = [self._ask(reference, feed) for feed in calibration]

    def same(self, compiled: Run) -> float:
        """Share of the answers that are the uncompressed model's; the mean likeness where that is a matter of degree."""
        kept = [same for shares in self._kept(compiled) for same in shares]
        return sum(kept) / len(kept)

    def hardest(self, compiled: Run, count: int) -> list[base.Arrays]:
        """As many requests, those first whose answers change."""
        changed = [min(shares) for shares in self._kept(compiled)]
        return [self.calibration[position] for position in sorted(range(len(changed)), key=lambda position: changed[position])[:count]]

    def _kept(self, compiled: Run) -> list[list[float]]:
        """Of each request, of each of its samples: how far the answer is the uncompressed model's."""
        given = [self._ask(compiled, feed) for feed in self.calibration]
        return [[self._alike(a, b) for a, b in zip(one, other, strict=True)] for one, other in zip(self.expected, given, strict=True)]

    def _alike(self, expected: object, given: object) -> float:
        return 0.0 if expected is None or given is None else self.answers.alike(expected, given)

    def _ask(self, compiled: Run, feed: base.Arrays) -> Sequence[object]:
        return self.answers.decode({port.get_any_name(): array for port, array in compiled(dict(feed)).items()})


class _Switched:
    """A quantized model in which each operation's quantization can be switched off, without compiling it again."""

    def __init__(self, quantized: Any) -> None:
        import numpy as np
        from openvino import opset8 as ops

        quantizers = [op for op in quantized.get_ordered_ops() if op.get_type_name() == "FakeQuantize"]
        switch = ops.parameter([len(quantizers)], np.float32, name=_SWITCH)
        switch.output(0).get_tensor().set_names({_SWITCH})
        self._consumers: list[set[str]] = []
        """Of each quantizer, the operations that compute with its values."""
        for index, quantizer in enumerate(quantizers):
            self._consumers.append(set(_computing(quantizer)))
            users = list(quantizer.output(0).get_target_inputs())
            value = quantizer.input_value(0)
            part = ops.convert_like(ops.gather(switch, np.int64(index), np.int64(0)), value)
            mixed = ops.add(value, ops.multiply(part, ops.subtract(quantizer, value)))
            for user in users:
                user.replace_source_output(mixed.output(0))
        quantized.add_parameters([switch])
        quantized.validate_nodes_and_infer_types()
        self._compiled = session.compile_model(quantized)
        self.operations = list(dict.fromkeys(name for names in self._consumers for name in sorted(names)))

    def without(self, kept: Sequence[str]) -> Run:
        """The model with these operations in float."""
        return self._with(set(self.operations) - set(kept))

    def rank(self, feeds: Sequence[base.Arrays]) -> list[str]:
        """The operations by what each alone does to the outputs (mean squared error over the outputs' power), worst first."""
        reference = [self._outputs(self._with(set()), feed) for feed in feeds]
        cost = {}
        for name in self.operations:
            found = [self._outputs(self._with({name}), feed) for feed in feeds]
            cost[name] = sum(_error(a, b) for one, other in zip(reference, found, strict=True) for a, b in zip(one, other, strict=True))
        return sorted(self.operations, key=lambda name: -cost[name])

    def _with(self, quantized: set[str]) -> Run:
        import numpy as np

        switch = np.array([bool(names & quantized) for names in self._consumers], np.float32)
        return lambda feed: self._compiled({**feed, _SWITCH: switch})

    @staticmethod
    def _outputs(run: Run, feed: base.Arrays) -> list[np.ndarray]:
        return list(run(feed).values())


def _computing(op: Any) -> list[str]:
    """Names of the operations that compute with the values of `op`."""
    found: list[str] = []
    for user in (target.get_node() for output in op.outputs() for target in output.get_target_inputs()):
        found += _computing(user) if user.get_type_name() in _PASSES_ON else [user.get_friendly_name()]
    return found


def _error(reference: np.ndarray, found: np.ndarray) -> float:
    import numpy as np

    power = float(np.mean(np.square(reference, dtype=np.float64)))
    return float(np.mean(np.square(found - reference, dtype=np.float64))) / power if power else 0.0
