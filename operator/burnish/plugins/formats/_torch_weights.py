"""Reading a state dict without running anything of it, recognising such files, and fitting them to a module."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.files import Files, head, zip_entries

_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began before torch 1.6 (`torch.serialization.MAGIC_NUMBER`, pickled)."""
_MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Of a parallel module, of a compiled one, and of a trainer's own module (Lightning), around the model; in any order, and more than once."""
_LISTED = 5


def looks_like_safetensors(files: Files) -> bool:
    """True for a single file that starts with a length and the JSON object of that length."""
    if files.is_directory or not files.paths:
        return False
    start = head(files, files.paths[0], 9)
    return len(start) == 9 and 2 <= int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES and start[8:] == b"{"


def zip_kind(files: Files) -> str | None:
    """What PyTorch wrote as a zip file: `ExportedProgram`, `TorchScript` or `StateDict`; None for anything else."""
    if files.is_directory or not files.paths or head(files, files.paths[0], 2) != b"PK":
        return None
    below = [entry.partition("/")[2] for entry in zip_entries(files, files.paths[0])]
    if (
        "archive_format" in below
        or any(name == "serialized_exported_program.json" for name in below)
        or any(name.startswith("models/") and name.endswith(".json") for name in below)
    ):
        return "ExportedProgram"
    if "constants.pkl" in below:
        return "TorchScript"
    return "StateDict" if "data.pkl" in below else None


def looks_like_pickle(files: Files) -> bool:
    """True for what torch.save wrote before torch 1.6."""
    return not files.is_directory and bool(files.paths) and head(files, files.paths[0], len(_LEGACY_MAGIC)) == _LEGACY_MAGIC


def load(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Tensors by name, out of the wrappers that training scripts put around them.

    Raises:
        BurnishError: UnsafeSource for a file that holds more than tensors; InvalidModel.
    """
    found = _load_pickle(path) if _is_pickle(path) else _load_safetensors(path)
    for name in _WRAPPERS:
        inner = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(inner, Mapping):
            say(f"took the weights from {name!r}; left out: {', '.join(str(key) for key in found if key != name) or 'nothing'}")
            found = inner
    return _tensors(found, path)


def fit(module: Any, weights: Mapping[str, Any], architecture: str, say: Callable[[str], None]) -> None:
    """Load the weights into a module that was built for them, without the prefixes that training scripts put before their names.

    Raises:
        BurnishError: ArchitectureMismatch with the first differences.
    """
    own = module.state_dict()
    prefix = trainer_prefix(weights, own)
    if prefix:
        say(f"removed {prefix!r} from the names of the weights")
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    held = {_place(value) for name, value in own.items() if name in weights}
    # Counters of batches are not there in old checkpoints, and nothing reads them in an evaluated model.
    missing = [n for n, w in own.items() if n not in weights and _place(w) not in held and not n.endswith("num_batches_tracked")]
    surplus = [name for name in weights if name not in own]
    shapes = [f"{n} is {list(w.shape)}, not {list(own[n].shape)}" for n, w in weights.items() if n in own and w.shape != own[n].shape]
    if missing or surplus or shapes:
        said = [
            *(_first("missing", missing)),
            *(_first("not in the architecture", surplus)),
            *(_first("of another shape", shapes)),
        ]
        cure = "correct spec.source.architecture" if missing or surplus else "correct spec.source.architectureArgs (num_classes, for one)"
        around = foreign_prefix(weights, own)
        if around:
            cure = f"all names begin with {around!r}, likely of a module around the model: save module.{around}state_dict(), or {cure}"
        raise BurnishError(
            Reason.ArchitectureMismatch, f"the weights are not those of {architecture}: {'; '.join(said)}; {cure}", field="spec.source.architecture"
        )
    module.load_state_dict(weights, strict=False)


def trainer_prefix(weights: Collection[str], own: Collection[str]) -> str:
    """What training scripts put before all names of `weights`: as much of it as leaves most names that the module has."""
    found = [""]
    while added := next((p for p in _PREFIXES if all(name.startswith(found[-1] + p) for name in weights)), None):
        found.append(found[-1] + added)
    return max(reversed(found), key=lambda prefix: _fitting(prefix, weights, own))


def foreign_prefix(weights: Collection[str], own: Collection[str]) -> str | None:
    """What all names begin with and none of the module's does, where that may be all that is wrong; None where it isn't."""
    columns = zip(*(name.split(".")[:-1] for name in weights), strict=False)
    shared = [f"{column[0]}." for column in itertools.takewhile(lambda column: len({*column}) == 1, columns)]
    prefixes = ["".join(shared[:count]) for count in range(1, len(shared) + 1)]
    best = max(prefixes, key=lambda prefix: _fitting(prefix, weights, own), default=None)
    return None if best is None or any(name.startswith(best) for name in own) else best


def _fitting(prefix: str, weights: Collection[str], own: Collection[str]) -> int:
    return sum(name.removeprefix(prefix) in own for name in weights)


def _place(tensor: Any) -> tuple[object, ...]:
    """Where its numbers lie: equal for tied weights, of which a file may hold one."""
    if not tensor.numel():
        return (id(tensor),)
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _first(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    rest = len(names) - _LISTED
    return [f"{what}: {', '.join(names[:_LISTED])}" + (f" and {rest} more" if rest > 0 else "")]


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LEGACY_MAGIC)).startswith((b"PK", _LEGACY_MAGIC))


def _load_safetensors(path: Path) -> Any:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise BurnishError(Reason.InvalidModel, f"{path.name} is no complete safetensors file ({error}); copy or save it again") from error


def _load_pickle(path: Path) -> Any:
    """Tensors and plain containers only (`weights_only`). Never anything else, whatever the first try said."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it names {named[1]}" if named else "it holds Python objects"
        raise BurnishError(
            Reason.UnsafeSource,
            f"{path.name} holds more than tensors, and loading it could run code ({found}); it was not loaded; "
            "save the weights alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        ) from error
    except Exception as error:  # a damaged archive: RuntimeError, EOFError, KeyError, ...
        said = " ".join(str(error).split())[:200]
        raise BurnishError(Reason.InvalidModel, f"PyTorch can't read {path.name} ({said}); copy or save it again") from error


def _tensors(found: Any, path: Path) -> dict[str, Any]:
    import torch

    if not isinstance(found, Mapping):
        odd = f"it is {type(found).__name__}"
    elif not found:
        odd = "it is empty"
    else:
        odd = next((f"{name!r} is {type(value).__name__}" for name, value in found.items() if not isinstance(value, torch.Tensor)), "")
    if odd:
        raise BurnishError(Reason.InvalidModel, f"{path.name} is no state dict: {odd}; save model.state_dict() alone")
    return {str(name): value for name, value in found.items()}
