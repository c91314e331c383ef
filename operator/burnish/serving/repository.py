"""Writes and checks a Triton model repository: `<model>/config.pbtxt` and the model's files in `<model>/1/`.

What is in a repository decides which code the server runs, so two things never pass: a link (or any other special file), and a config that
picks the `python` backend or a `runtime` library, which would execute a file of the model.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from burnish import names
from burnish.api.job_contract import ArtifactConfig
from burnish.errors import BurnishError, Reason
from burnish.serving.config import ServingOptions, render_config
from burnish.serving.text_format import words_and_strings

ARTIFACT_FILE = "artifact.json"
MODEL_FOLDER = "model"
CONFIG_FILE = "config.pbtxt"
VERSION_FOLDER = "1"

_BACKEND_NAME = re.compile(r"[a-z0-9_]+")


def write_repository(target: Path, models: Mapping[str, Path], options: ServingOptions) -> None:
    """Write a repository into the directory `target`.

    Args:
        target: is made where it doesn't exist.
        models: model name -> artifact directory (`ArtifactConfig`).
        options: the same for all: models in one server are compared with each other.

    Raises:
        BurnishError: UnsafeSource, for a file that is not regular, a name that is no plain name, or a backend that runs the model's code;
            InternalError, where an artifact directory lacks something.
    """
    for name, artifact in models.items():
        _write_model(target, name, artifact, options)


def _write_model(target: Path, name: str, artifact: Path, options: ServingOptions) -> None:
    if not re.fullmatch(names.NAME_PATTERN, name):
        raise BurnishError(Reason.UnsafeSource, f"{name!r} can't be the name of a model in Triton; use lower-case letters, digits and -")
    config = _load(artifact)
    _check_backend(name, config.backend)
    version = target / name / VERSION_FOLDER
    version.mkdir(parents=True)
    for relative in _regular_files(artifact / MODEL_FOLDER):
        (version / relative).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(artifact / MODEL_FOLDER / relative, version / relative)
    if Path(config.model_file).name != config.model_file or not (version / config.model_file).is_file():
        raise BurnishError(Reason.InternalError, f"artifact {name} names the model file {config.model_file!r}, which it doesn't hold")
    (target / name / CONFIG_FILE).write_text(render_config(name, config, options), encoding="ascii")


def check_repository(repository: Path) -> list[str]:
    """The names of the models in a repository that may be served.

    Raises:
        BurnishError: UnsafeSource, for a config that is missing or would run code of the model, and for files that are not regular.
    """
    found = sorted(entry.name for entry in repository.iterdir())
    for name in found:
        list(_regular_files(repository / name))
        config = repository / name / CONFIG_FILE
        if not config.is_file():
            raise BurnishError(Reason.UnsafeSource, f"model {name} has no {CONFIG_FILE}; Triton would guess how to run it")
        _check_backend(name, _declared_backend(name, config.read_text(encoding="utf-8", errors="surrogateescape")))
    return found


def _check_backend(name: str, backend: str) -> None:
    if backend == "python" or not _BACKEND_NAME.fullmatch(backend):
        raise BurnishError(
            Reason.UnsafeSource, f"model {name} asks for the backend {backend!r}, which runs code out of the model; such a model is never served"
        )


def _declared_backend(name: str, text: str) -> str:
    """The backend that a config picks, read strictly: what could be read in two ways is refused."""
    tokens = list(words_and_strings(text))
    if tokens.count("backend") == 1 and not {"runtime", "platform"} & set(tokens):
        at = tokens.index("backend")
        colon, value, after = [*tokens[at + 1 : at + 4], "", "", ""][:3]
        if colon == ":" and value[:1] in {'"', "'"} and after[:1] not in {'"', "'"} and "\\" not in value:
            return value[1:-1]
    raise BurnishError(Reason.UnsafeSource, f"model {name}: {CONFIG_FILE} must name its backend once, in a plain string, and no runtime or platform")


def _load(artifact: Path) -> ArtifactConfig:
    try:
        return ArtifactConfig.model_validate_json((artifact / ARTIFACT_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise BurnishError(Reason.InternalError, f"{artifact.name} is no artifact directory: {error}") from error


def _regular_files(root: Path) -> Iterator[Path]:
    """Relative paths of the files below `root`, sorted; no link is followed."""
    if not stat.S_ISDIR(root.lstat().st_mode):
        raise BurnishError(Reason.UnsafeSource, f"{root.name} is no directory")
    for entry in sorted(root.iterdir()):
        mode = entry.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from (Path(entry.name) / below for below in _regular_files(entry))
        elif stat.S_ISREG(mode):
            yield Path(entry.name)
        else:
            raise BurnishError(Reason.UnsafeSource, f"{entry.name} is a link or a special file; a model holds regular files only")


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system can: models are large, and nobody writes to them any more."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target, follow_symlinks=False)
    if not stat.S_ISREG(target.lstat().st_mode):
        raise BurnishError(Reason.UnsafeSource, f"{source.name} became a link while it was read")
