"""From tokens to one vector per sentence, as sentence-transformers does it: the modules that modules.json names, and no others."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.files import LocalFiles, read_json
from burnish.plugins.formats import _torch_weights

MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
"""`pooling_mode_<mode>` in the Pooling module's config.json, in the order in which the library joins them."""

ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid")
"""Of a Dense module, by their names in torch.nn."""

_USUAL = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding", "use_residual": False}


def transformer_folder(directory: Path) -> Path:
    """Where the transformer itself lies: `directory`, or a folder of it.

    Raises:
        BurnishError: ArchitectureMismatch, where modules.json names something else first, or a module that is not known here; as `_folder`.
    """
    kinds = [(kind, path) for kind, path in _modules(directory)]
    order = [kind for kind, _ in kinds]
    if order[:2] != ["Transformer", "Pooling"] or not {*order[2:]} <= {"Dense", "Normalize"}:
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"modules.json names {', '.join(order) or 'nothing'}; Transformer, Pooling, then Dense and Normalize are served; "
            "export other models to ONNX where their code is",
        )
    return _folder(directory, kinds[0][1])


def with_pooling(model: Any, directory: Path) -> Any:
    """A module that answers with `sentence_embedding`, (N, dimensions).

    Raises:
        BurnishError: ArchitectureMismatch for a way of pooling or an activation that is not known here, and for weights that don't fit; UnsafeSource;
            InvalidModel.
    """
    import torch

    class Normalize(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def forward(self, vectors: Any) -> Any:
            return torch.nn.functional.normalize(vectors, dim=1)

    modes = _modes(directory)
    layers = [Normalize() if kind == "Normalize" else _dense(directory, path) for kind, path in _modules(directory)[2:]]

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.transformer, self.layers = model, torch.nn.Sequential(*layers)

        def forward(self, attention_mask: Any, **arguments: Any) -> dict[str, Any]:
            tokens = self.transformer(attention_mask=attention_mask, **arguments).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            count = mask.sum(1).clamp(min=1e-9)
            pooled = {
                "cls_token": lambda: tokens[:, 0],
                "mean_tokens": lambda: (tokens * mask).sum(1) / count,
                "max_tokens": lambda: tokens.masked_fill(mask == 0, -1e9).max(1).values,
                "mean_sqrt_len_tokens": lambda: (tokens * mask).sum(1) / count.sqrt(),
            }
            return {"sentence_embedding": self.layers(torch.cat([pooled[mode]() for mode in modes], dim=1))}

    return SentenceEncoder()


def _dense(directory: Path, path: str) -> Any:
    """A linear layer and its activation."""
    import torch

    folder = _folder(directory, path)
    files = LocalFiles(folder)
    config = read_json(files, "config.json")
    settings = config if isinstance(config, dict) else {}
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))  # the library's default
    known = activation.startswith("torch.nn.modules.") and activation.rpartition(".")[2] in ACTIVATIONS
    if not known or any(settings.get(name, usual) != usual for name, usual in _USUAL.items()):
        odd = [f"{name}: {settings[name]}" for name, usual in _USUAL.items() if settings.get(name, usual) != usual]
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"{path} asks for {', '.join(odd) or activation}; of Dense a plain layer is served, with {', '.join(ACTIVATIONS)}; "
            "export other models to ONNX where their code is",
        )
    weights = next((name for name in ("model.safetensors", "pytorch_model.bin") if name in files.paths), None)
    if weights is None:
        raise BurnishError(Reason.InvalidModel, f"{path} holds no model.safetensors; save the model again")
    tensors = _torch_weights.load(folder / weights, base.silent)
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    size = [settings.get("out_features"), settings.get("in_features")]
    if shapes != {"linear.weight": size} | ({"linear.bias": size[:1]} if settings.get("bias", True) else {}):
        raise BurnishError(Reason.ArchitectureMismatch, f"{path} holds {shapes}, which is no layer of out, in = {size}, as its config.json says")
    layer = torch.nn.Linear(size[1], size[0], bias="linear.bias" in tensors)
    layer.load_state_dict({name.removeprefix("linear."): value.float() for name, value in tensors.items()})
    return torch.nn.Sequential(layer, getattr(torch.nn, activation.rpartition(".")[2])())


def _folder(directory: Path, path: str) -> Path:
    """A folder that modules.json names, which has to be one of the source's own.

    Raises:
        BurnishError: UnsafeSource for one that leads out of the source; InvalidModel for one that isn't there.
    """
    named = PurePosixPath(path)
    if named.is_absolute() or ".." in named.parts:
        raise BurnishError(
            Reason.UnsafeSource,
            f"modules.json names the folder {path!r}, which leads out of the source; nothing outside is read: "
            "copy that module into the model's folder, and write its path from there",
            field="spec.source.uri",
        )
    if named.parts and not any(file.startswith(f"{named}/") for file in LocalFiles(directory).paths):  # links are not listed
        raise BurnishError(
            Reason.InvalidModel,
            f"modules.json names the folder {path!r}, which the source does not hold (links are not followed); copy the model again, with all its folders",
            field="spec.source.uri",
        )
    return directory / named


def _modules(directory: Path) -> list[tuple[str, str]]:
    """(class name, folder), in order."""
    listed = read_json(LocalFiles(directory), "modules.json")
    return (
        [(str(m.get("type", "")).rpartition(".")[2], str(m.get("path", ""))) for m in listed if isinstance(m, dict)]
        if isinstance(listed, list)
        else []
    )


def _modes(directory: Path) -> list[str]:
    path = next(path for kind, path in _modules(directory) if kind == "Pooling")  # `transformer_folder` has seen it
    config = read_json(LocalFiles(_folder(directory, path)), "config.json")
    settings = config if isinstance(config, dict) else {}
    asked = [name.removeprefix("pooling_mode_") for name, is_on in settings.items() if name.startswith("pooling_mode_") and is_on is True]
    if isinstance(settings.get("pooling_mode"), str):  # of newer releases
        short = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens"}
        asked = [short.get(settings["pooling_mode"], settings["pooling_mode"])]
    unknown = [mode for mode in asked if mode not in MODES]
    if unknown or not asked:
        raise BurnishError(
            Reason.ArchitectureMismatch, f"the Pooling module asks for {', '.join(unknown) or 'nothing'}; known are {', '.join(MODES)}"
        )
    return [mode for mode in MODES if mode in asked]
