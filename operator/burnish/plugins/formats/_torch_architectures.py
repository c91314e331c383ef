"""Building the module that a state dict belongs to: by name, from the libraries that are on the list, and from nothing else."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.formats import _exported, _huggingface_inputs

FIELD = "spec.source.architecture"
PREFIXES = ("torchvision.models.", "timm.", "transformers.")
RECIPE = (
    "export it where its code is, with an example that is a batch of 2, and use that file as the source: "
    "import torch; batch = torch.export.Dim('batch'); "
    "torch.onnx.export(model.eval(), (example,), 'model.onnx', dynamo=True, dynamic_shapes=({0: batch},), external_data=False)"
)
_REFUSED_ARGS = ("pretrained", "weights", "checkpoint", "cache_dir", "progress", "name_or_path", "trust_remote_code")
"""Beginnings of arguments with which a library would fetch or open something."""


_DETECTORS = ("fasterrcnn_", "fcos_", "keypointrcnn_", "maskrcnn_", "retinanet_", "ssd300_", "ssdlite320_")
"""How the names of torchvision's detection models begin, wherever they are looked up."""


def check_name(architecture: str | None) -> None:
    """Refuse what is not on the list, without a library.

    Raises:
        BurnishError: ArchitectureMismatch.
    """
    listed = ", ".join(prefix.removesuffix(".") for prefix in PREFIXES)
    if architecture is None:
        text = f"a state dict holds weights only; name what they belong to, out of {listed}, such as torchvision.models.resnet18"
        raise BurnishError(Reason.InvalidManifest, text, field=FIELD)
    if not architecture.startswith(PREFIXES):
        text = f"{architecture!r} is not in {listed}, and no other code is run. If the model is your own, {RECIPE}"
        raise BurnishError(Reason.ArchitectureMismatch, text, field=FIELD)
    library, _, name = architecture.partition(".")
    if library == "timm" and "." in name and not name.startswith("models."):
        name, _, tag = name.partition(".")
        text = f"in {architecture} the tag {tag!r} names weights, which are the source's own; write timm.{name}"
        raise BurnishError(Reason.ArchitectureMismatch, text, field=FIELD)
    if library == "torchvision" and name.rpartition(".")[2].startswith(_DETECTORS):
        text = (
            f"{architecture} finds objects: it takes a list of images and answers with lists, which no served model does. "
            f"Put it into a module that takes a batch and returns tensors, and {RECIPE}"
        )
        raise BurnishError(Reason.ArchitectureMismatch, text, field=FIELD)


def of_timm(config: object) -> str | None:
    """What the manifest has to say, by the config.json that timm leaves beside weights; None of any other."""
    name, classes = (config.get("architecture"), config.get("num_classes")) if isinstance(config, dict) else (None, None)
    if not isinstance(name, str) or not name.isidentifier():
        return None
    args = f' and architectureArgs: [{{name: num_classes, value: "{classes}"}}]' if isinstance(classes, int) else ""
    return f"architecture: timm.{name}{args}"


def build(options: base.SourceOptions) -> Any:
    """The module, with weights of no meaning.

    Raises:
        BurnishError: ArchitectureMismatch.
    """
    check_name(options.architecture)
    architecture = options.architecture or ""
    for name in options.architecture_args:
        if name.startswith(_REFUSED_ARGS):
            raise BurnishError(
                Reason.ArchitectureMismatch, f"{name!r} would load weights from elsewhere; remove it", field="spec.source.architectureArgs"
            )
    prefix = next(p for p in PREFIXES if architecture.startswith(p))
    make = {"torchvision.models.": _torchvision, "timm.": _timm, "transformers.": _transformers}[prefix]
    try:
        return make(architecture, architecture.rpartition(".")[2], options.architecture_args).eval()
    except BurnishError:
        raise
    except Exception as error:  # of the library's own constructor: TypeError for an unknown argument, ValueError, AssertionError, ...
        said = " ".join(str(error).split())[:300]
        raise BurnishError(
            Reason.ArchitectureMismatch, f"{architecture} can't be built with these arguments: {said}", field="spec.source.architectureArgs"
        ) from error


def inputs_of(module: Any, options: base.SourceOptions, declared: tuple[base.DeclaredInput, ...]) -> tuple[_exported.Input, ...]:
    """The module's inputs: its library's own words, what the manifest declares, or both.

    Raises:
        BurnishError: InputsNotGeneratable where neither tells a shape.
    """
    architecture = options.architecture or ""
    if architecture.startswith("transformers."):
        return _exported.declare(_huggingface_inputs.of_model(module, None), declared)
    if architecture.startswith("timm.") and not any(entry.shape for entry in declared):
        channels, *size = module.pretrained_cfg["input_size"]
        shape = (-1, int(options.architecture_args.get("in_chans", channels)), *size)
        told = base.Tensor(name="image", data_type=base.DataType.FP32, shape=shape)
        return _exported.declare((_exported.Input(told),), declared)
    return _exported.undeclared(declared, architecture)


def _torchvision(architecture: str, name: str, args: dict[str, base.Scalar]) -> Any:
    import torchvision

    known = torchvision.models.list_models()
    if name not in known:
        raise _unknown(architecture, known)
    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    of_backbone = {"weights_backbone": None} if "weights_backbone" in takes else {}  # else they would be fetched
    return torchvision.models.get_model(name, weights=None, **of_backbone, **args)


def _timm(architecture: str, name: str, args: dict[str, base.Scalar]) -> Any:
    import timm

    if not timm.is_model(name):
        raise _unknown(architecture, timm.list_models())
    return timm.create_model(name, pretrained=False, **args)


def _transformers(architecture: str, name: str, args: dict[str, base.Scalar]) -> Any:
    import transformers

    found: Any = getattr(transformers, name, None)
    config = getattr(found, "config_class", None) if inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel) else None
    if config is None:
        raise _unknown(architecture, [n for n in dir(transformers) if "For" in n or n.endswith("Model")])
    return found(config(attn_implementation="eager", **args))


def _unknown(architecture: str, known: list[str]) -> BurnishError:
    name = architecture.rpartition(".")[2]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {architecture.rpartition('.')[0]}.{close[0]}?" if close else ""
    return BurnishError(Reason.ArchitectureMismatch, f"the library has no {architecture}.{hint} If the model is your own, {RECIPE}", field=FIELD)
