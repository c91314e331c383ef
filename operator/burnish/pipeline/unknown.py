"""What to say of a source that is of no known format: what it is where that can be told, and what to give instead."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.plugins.files import Files, Part, head
from burnish.plugins.formats import saved_model

_FILES = (".onnx", ".safetensors", ".pt", ".pth", ".pt2", ".bin", ".keras", ".h5", ".hdf5")
_IN_FOLDERS = ("saved_model.pb", "config.json", "modules.json")
_WEIGHTS = re.compile(r"-\d+-of-\d+\.\w+$|(\.weights|^tf_model|/tf_model)\.h5$")
"""A part of the weights, or weights of Keras alone: no source by itself."""
_MAX_LOOKED = 20
"""Files and folders of a directory that are opened; a store may be far away."""
_LISTED = 3

_PICKLE = (
    "is a pickle, which runs code when it is loaded, so it never is; save PyTorch's weights as safetensors (safetensors.torch.save_file), "
    "and bring a scikit-learn model to ONNX (skl2onnx.to_onnx)"
)
_CHECKPOINT = (
    "is of a checkpoint of TensorFlow, variables without a graph; load it where the model's code is and save the model: "
    "model.save('model.keras'), or tf.saved_model.save(model, 'folder')"
)
_HEADS = (
    (0, re.compile(re.escape(saved_model.HEAD)), "is a SavedModel's graph without its variables; set uri to its folder"),
    (4, re.compile(b"TFL3"), "is TensorFlow Lite, which was converted already; take the Keras model or the SavedModel that it was made of"),
    (0, re.compile(b"GGUF"), "is llama.cpp's, and models that generate are not served; of an encoder take the HuggingFace folder"),
    (0, re.compile(b"version https://git-lfs"), "is a pointer of Git LFS, not the file; fetch it: git lfs pull"),
    (0, re.compile(rb"\x80[\x02-\x05]"), _PICKLE),
    (0, re.compile(b"model_checkpoint_path:"), _CHECKPOINT),
)
"""Where in a file, what lies there, and what the file then is."""
_HEAD_BYTES = 32
_NAMES = (
    (re.compile(r".*\.(pkl|pickle|joblib)"), _PICKLE),
    (re.compile(r".*\.(index|data-\d+-of-\d+)"), _CHECKPOINT),
)
"""As `_HEADS`, of what its content does not tell."""


class Inside(NamedTuple):
    """What would be a source by itself, within a directory."""

    path: str
    plugin: plugins.Format
    wanted: str
    """As of `Format.wanted`."""

    def __str__(self) -> str:
        return f"uri: .../{self.path} ({self.plugin.name})" + (f" and {self.wanted}" if self.wanted else "")


def cure(source: Files) -> str:
    """What to give instead of a source that no plugin detects; what it is, where that can be told."""
    found = list(itertools.islice(inside(source), _LISTED))
    if found:
        return f"of what is in it, set {', or '.join(map(str, found))}"
    kinds = ((path, _kind(Part(source, path) if source.is_directory else source)) for path in _at_the_top(source))
    path, kind = next(((path, kind) for path, kind in kinds if kind), ("", None))
    if kind:
        return f"{path} {kind}" if source.is_directory else f"it {kind}"
    return f"known: {', '.join(registry.formats())}; bring it to ONNX with its own framework"


def inside(source: Files) -> Iterator[Inside]:
    """Files and folders of a directory that are sources by themselves; none of a single file."""
    folders = list[str]()
    for path in itertools.islice(_candidates(source), _MAX_LOOKED):
        if path.startswith(tuple(f"{folder}/" for folder in folders)):
            continue
        part = Part(source, path)
        plugin = next((plugin for plugin in registry.formats().values() if plugin.detect(part)), None)
        if plugin:
            folders += [path] * part.is_directory
            above = str(PurePosixPath(path).parent)
            yield Inside(path, plugin, plugin.wanted(source if above == "." else Part(source, above)))


def _candidates(source: Files) -> Iterator[str]:
    """Folders before the files that may be theirs, the nearest first."""
    if source.is_directory:
        paths = sorted(source.paths, key=lambda path: (path.count("/"), path))
        yield from dict.fromkeys(str(PurePosixPath(p).parent) for p in paths if "/" in p and p.endswith(_IN_FOLDERS))
        yield from (p for p in paths if p.endswith(_FILES) and not _WEIGHTS.search(p))


def _at_the_top(source: Files) -> list[str]:
    return [path for path in source.paths if "/" not in path][:_MAX_LOOKED]


def _kind(file: Files) -> str | None:
    named = next((text for pattern, text in _NAMES if pattern.fullmatch(file.name)), None)
    start = head(file, file.paths[0], _HEAD_BYTES) if file.paths else b""
    return next((text for offset, pattern, text in _HEADS if pattern.match(start, offset)), named)
