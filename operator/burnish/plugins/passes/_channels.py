"""Removing whole channels of a torch module, with everything that depends on them: Torch-Pruning (Fang et al. 2023, arXiv:2301.12900)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.formats import _torch_module

ROUND_TO = 8
"""Channels are left in multiples of it where there are enough: vector instructions take so many at once."""
LARGEST_SHARE = 0.95
"""Of a layer's channels that go at most, where layers are weighed against each other."""


def cut(
    named: Any,
    share: float,
    importance: Any,
    *,
    overall: bool,
    before: Callable[[Any], None] | None = None,
    instead: str = "use method: Magnitude",
    more: str = "raise sparsityPercent",
) -> None:
    """Remove a share of the channels of every layer, in place; the layers that answer keep theirs.

    Args:
        named: a `NamedModule`.
        share: of the channels, below 1.
        importance: of Torch-Pruning: which channels matter.
        overall: weigh the layers against each other, so that some lose more.
        before: given the module right before channels are chosen; makes what `importance` needs.
        instead: the cure where the dependencies can't be followed.
        more: the cure where no layer has channels to lose.

    Raises:
        BurnishError: PassNotApplicable where the dependencies can't be followed, or no layer has channels to lose.
    """
    import torch
    import torch_pruning

    examples = tuple(_torch_module.example(i) for i in named.inputs)
    whole = _torch_module.positional(named)
    try:
        widths = _widths(named.module)
        pruner = torch_pruning.pruner.BasePruner(
            whole,
            examples,
            importance=importance,
            pruning_ratio=share,
            max_pruning_ratio=LARGEST_SHARE if overall else 1.0,
            global_pruning=overall,
            ignored_layers=_answering(whole, examples),
            round_to=ROUND_TO if min(widths.values(), default=0) >= 2 * ROUND_TO else None,
        )
        if before is not None:
            before(whole)
        pruner.step()
        for parameter in whole.parameters():
            parameter.grad = None
        with torch.inference_mode():
            whole.eval()(*examples)
    except BurnishError:
        raise
    except Exception as error:  # of the library, on a module whose dependencies it doesn't follow
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise BurnishError(
            Reason.PassNotApplicable, f"Torch-Pruning can't follow the channels of this model: {said}; {instead}, or remove the pass"
        ) from error
    if _widths(named.module) == widths:
        raise BurnishError(
            Reason.PassNotApplicable,
            f"no layer lost a channel: they are few, or all belong to the model's answer; {more}, or remove the pass",
        )


def record(whole: Any, feed: list[Any]) -> dict[Any, Any]:
    """Layer -> mean magnitude of each channel of its input: what the layers before it say, after what stands between them."""
    import torch

    found: dict[Any, Any] = {}

    def look(layer: Any, given: tuple[Any, ...], _: Any) -> None:
        value = given[0].detach().abs()
        axis = -1 if isinstance(layer, torch.nn.Linear) else 1
        found[layer] = value.movedim(axis, -1).flatten(0, -2).mean(0)

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    hooks = [layer.register_forward_hook(look) for layer in whole.modules() if isinstance(layer, kinds)]
    try:
        with torch.no_grad():
            whole.eval()(*feed)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def by_activation(seen: Mapping[Any, Any]) -> Any:
    """An importance for Torch-Pruning: of a channel the sum of what the layers that take it saw of it (`record`).

    The library has one of its own, which takes the length of a flattened input for the number of channels and then prunes nothing there.
    """
    import torch
    import torch_pruning

    taking = (torch_pruning.function.prune_conv_in_channels, torch_pruning.function.prune_linear_in_channels)

    class Activation(torch_pruning.importance.Importance):  # type: ignore[misc]  # the library has no types
        def __call__(self, group: Any) -> Any:
            total, known = torch.zeros(len(group[0].idxs)), False
            for number, (dependency, indices) in enumerate(group):
                layer, roots = dependency.target.module, group[number].root_idxs
                if dependency.handler in taking and layer in seen and None not in roots:
                    total.scatter_add_(0, torch.tensor(roots), seen[layer][indices])
                    known = True
            return total if known else None

    return Activation()


def copied(named: Any) -> Any:
    """A `NamedModule` of its own."""
    return _torch_module.NamedModule(copy.deepcopy(named.module), named.inputs, named.by_keyword)


def fit(module: Any, state: Mapping[str, Any]) -> None:
    """Give the layers of `module` the sizes of `state`, a state dict of the same module with fewer channels, and load it."""
    import torch

    for name, value in state.items():
        owner = module.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        old = getattr(owner, leaf)
        if not isinstance(old, torch.Tensor) or old.shape == value.shape:
            continue
        if isinstance(old, torch.nn.Parameter):
            setattr(owner, leaf, torch.nn.Parameter(torch.empty_like(value)))
        else:
            owner.register_buffer(leaf, torch.empty_like(value))
        _sizes(owner, leaf, value)
    module.load_state_dict(state)


def _sizes(layer: Any, leaf: str, value: Any) -> None:
    """Tell a layer what its tensors are now."""
    import torch

    if leaf != "weight":
        return
    if isinstance(layer, torch.nn.Linear):
        layer.out_features, layer.in_features = value.shape
    elif isinstance(layer, torch.nn.modules.conv._ConvNd):
        outer, inner = (1, 0) if layer.transposed else (0, 1)
        if layer.groups > 1:  # depthwise: as many groups as channels
            layer.groups = value.shape[0] // (layer.out_channels // layer.groups)
        layer.out_channels, layer.in_channels = value.shape[outer], value.shape[inner] * layer.groups
    elif hasattr(layer, "num_features"):
        layer.num_features = value.shape[0]
    elif hasattr(layer, "normalized_shape"):
        layer.normalized_shape = tuple(value.shape)


def _widths(module: Any) -> dict[str, int]:
    """Layer -> channels that it makes, of those that have weights of their own."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    return {name: m.out_features if isinstance(m, torch.nn.Linear) else m.out_channels for name, m in module.named_modules() if isinstance(m, kinds)}


def _answering(whole: Any, examples: tuple[Any, ...]) -> list[Any]:
    """The layers whose channels are the answer's: the last ones with weights on each way to an output, followed backwards through the gradients."""
    import torch

    made: dict[Any, Any] = {}

    def remember(layer: Any, _: Any, answer: Any) -> None:
        made[answer.grad_fn] = layer

    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    hooks = [layer.register_forward_hook(remember) for layer in whole.modules() if isinstance(layer, kinds)]
    try:
        with torch.enable_grad():
            outputs = whole(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    found, seen = [], set()
    pending = [o.grad_fn for o in outputs if o.grad_fn is not None]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in made:
            found.append(made[node])
        else:
            pending += [following for following, _ in node.next_functions if following is not None]
    return found
