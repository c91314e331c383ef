"""Data as people have it, made into the npz that every step reads: folders and archives of npz, folders of images, rows of text.

It is done once per run, by a process without network: the step `export`, or a child of `measure` where nothing is built (`python -m
burnish.pipeline.prepare WORK STEP`). Images are decoded one at a time and written as they come, so that only arrays of numbers are left to the steps
after it, and no more than one image is in memory.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish import names
from burnish.api.job_contract import ArtifactConfig, Failure, PipelineRequest, Plan, StageRecord, StepName
from burnish.api.v1alpha1.optimized_model import Calibration, Evaluation
from burnish.api.v1alpha1.preprocess import Layout, Preprocess
from burnish.errors import BurnishError, Reason
from burnish.pipeline import archives, foreign, no_network, npz_parts, preprocess, texts
from burnish.pipeline.archives import Content, Member
from burnish.pipeline.datasets import MAX_BYTES
from burnish.pipeline.npz_parts import Part, write_array
from burnish.pipeline.progress import emit
from burnish.pipeline.workdir import WorkDir
from burnish.plugins.base import Signature

FOLDER = "datasets"
"""Of the step that prepares; holds calibration.npz, evaluation.npz and training.npz."""
DESCRIPTION = "preprocess.json"
"""In an artifact's companions: the resolved values, so that a client can do the same."""
DESCRIBING = ("tokenizer.json", "tokenizer_config.json", "config.json", preprocess.CONFIG)
"""What is read of the source's directory; it travels with the artifact, and so is there when only measuring is left."""
_DATASETS = ("calibration", "evaluation", "training")
_ROWS = (".jsonl", ".csv")
_LISTED = 5


def dataset_path(work: WorkDir, name: str, staged: str) -> Path:
    """Where the npz of a dataset is: what was made of it, or the file itself."""
    made = (work.folder(step) / FOLDER / f"{name}.npz" for step in (StepName.export, StepName.measure))
    return next((path for path in made if path.is_file()), work.path(staged))


def run(work: WorkDir, request: PipelineRequest, signature: Signature, source: Path | None, target: Path) -> Preprocess | None:
    """Make `target/<dataset>.npz` of every dataset that is no npz already; returns the resolved preprocessing, where the manifest has any.

    Args:
        source: the model's directory, or an artifact's companions; None where the model is one file.
        target: a folder of the step that this process runs.

    Raises:
        BurnishError: InvalidDataset, InputsMismatch, InvalidManifest, UnsafeSource, DiskFull.
    """
    staged = work.load(StepName.stage, StageRecord)
    written = request.datasets.preprocess
    resolved = preprocess.resolve(written, _read_json(source, preprocess.CONFIG)) if written else None
    if resolved is not None:
        emit(f"preprocess: {describe(resolved)}")
    used = False
    for name in _DATASETS:
        path, spec = getattr(staged, name), getattr(request.datasets, name)
        if path is not None and spec is not None and not _is_npz(work.path(path)):
            target.mkdir(parents=True, exist_ok=True)
            maker = _Maker(request, signature, source, resolved, name, spec)
            used |= maker.make(work.path(path), target / f"{name}.npz")
    if resolved is not None and not used:
        raise BurnishError(Reason.InvalidManifest, "no dataset holds images, so there is nothing to preprocess; remove it", field=preprocess.FIELD)
    return resolved


def describe(resolved: Preprocess) -> str:
    """The values on one line, as JSON."""
    return json.dumps(resolved.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"type"}))


def run_apart(work: WorkDir) -> None:
    """As `run`, in a child without network: for `measure`, which has one, and where no step before it prepared.

    Raises:
        BurnishError: as `run`.
    """
    staged, request = work.load(StepName.stage, StageRecord), work.load_request()
    paths = [getattr(staged, name) for name in _DATASETS if getattr(request.datasets, name) is not None]
    if request.plan.plan is Plan.Build or all(path is None or _is_npz(work.path(path)) for path in paths):
        return
    command = [sys.executable, "-P", "-m", "burnish.pipeline.prepare", str(work.root)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode == 0:
        return
    if not done.stdout:
        raise BurnishError(Reason.InternalError, f"the data could not be prepared: the child process ended with exit code {done.returncode}")
    failure = Failure.model_validate_json(done.stdout)
    raise BurnishError(failure.reason, failure.message, field=failure.field)


def main(root: str) -> int:
    """The child of `run_apart`: what goes wrong is the last thing on stdout."""
    work = WorkDir(Path(root))
    if not no_network.drop():
        emit("data is prepared with the network in reach: this machine has no seccomp filters", warning=True)
    baseline = work.folder(StepName.stage) / "artifacts" / names.BASELINE
    config = ArtifactConfig.model_validate_json((baseline / "artifact.json").read_bytes())
    try:
        run(work, work.load_request(), config.signature, baseline / "companions", work.folder(StepName.measure) / FOLDER)
    except BurnishError as error:
        failure = Failure(step=StepName.measure.value, reason=error.reason, message=error.message, field=error.field, retriable=error.retriable)
        sys.stdout.write(failure.model_dump_json(by_alias=True))
        return 1
    return 0


def _is_npz(path: Path) -> bool:
    """A zip of .npy, or what claims to be one: its reader says what is wrong with it."""
    if path.is_dir():
        return False
    if path.suffix == ".npz":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _read_json(folder: Path | None, name: str) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / name).read_bytes()) if folder else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class _Maker:
    """One dataset being made; keeps what every message needs."""

    def __init__(
        self,
        request: PipelineRequest,
        signature: Signature,
        source: Path | None,
        resolved: Preprocess | None,
        name: str,
        spec: Calibration | Evaluation,
    ) -> None:
        self.inputs, self.signature, self.source, self.resolved, self.samples = request.inputs, signature, source, resolved, spec.samples
        self.field = f"spec.datasets.{name}"

    def make(self, path: Path, target: Path) -> bool:
        """Write the npz; True where images were preprocessed."""
        emit(f"preparing {path.name}")
        unpacked = target.with_suffix(".unpacked")
        try:
            if path.is_dir():
                return self._make(path.name, archives.list_folder(path), target)
            if archives.kind_of(path):
                return self._make(path.name, archives.unpack(path, unpacked, max_bytes=MAX_BYTES, field=self.field), target)
            return self._make(path.name, Content([Member(path.name, path)]), target)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)

    def _make(self, name: str, content: Content, target: Path) -> bool:
        if not content.members:
            raise self._invalid(f"{name} holds no files")
        suffixes = {Path(member.name).suffix.lower() for member in content.members}
        if suffixes == {".npz"}:
            npz_parts.join(content.members, target, field=self.field)
            return False
        rows = [suffix in _ROWS for suffix in suffixes]
        if all(rows) or (len(content.members) == 1 and "/" not in content.members[0].name):
            self._tokenize(content.members, target)
            return False
        if ".npz" in suffixes or any(rows):
            raise self._invalid(
                f"{name} mixes kinds of files ({', '.join(sorted(suffixes))}); give npz files, or images in a folder per class, or JSONL or CSV"
            )
        self._decode(name, content, target)
        return True

    # --- text ----------------------------------------------------------------------------------------------------------------------

    def _tokenize(self, members: Sequence[Member], target: Path) -> None:
        rows: list[texts.Row] = []
        for member in members:
            try:
                rows += texts.read_rows(member.path, samples=self.samples and self.samples - len(rows))
            except texts.RowsError as problem:
                raise self._invalid(f"{member.name} {problem}") from problem
            if len(rows) == self.samples:
                break
        arrays = texts.tokenize(rows, self.source, self.signature, self.inputs, field=self.field)
        labels = [row.label for row in rows]
        if None not in labels:
            arrays[names.LABEL] = np.array(self._indices(labels), dtype=np.int64)
        elif any(label is not None for label in labels):
            raise self._invalid(f"{sum(label is None for label in labels)} of {len(rows)} rows have no label; give it in all rows or in none")
        with target.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the names are the keys

    def _indices(self, labels: Sequence[str | int | None]) -> list[int]:
        known = self._class_names()
        unknown = sorted({label for label in labels if isinstance(label, str) and label not in known})
        if unknown:
            listed = ", ".join(map(repr, unknown[:_LISTED]))
            have = f"its config.json names {', '.join(list(known)[:_LISTED])}; use these names, or the classes' numbers"
            none = "no config.json names any; write the classes' numbers, or id2label into the source's config.json"
            raise self._invalid(f"{listed} is no class of the model: {have if known else none}")
        return [known[label] if isinstance(label, str) else int(label or 0) for label in labels]

    def _class_names(self) -> dict[str, int]:
        """Class name -> index, of the source's config.json; nothing where it names none, or only LABEL_0, LABEL_1."""
        config = _read_json(self.source, "config.json") or {}
        declared = config.get("id2label")
        if not isinstance(declared, dict) or not all(str(key).isdecimal() and isinstance(name, str) for key, name in declared.items()):
            return {}
        found = {name: int(key) for key, name in declared.items()}
        return {} if all(name == f"LABEL_{index}" for name, index in found.items()) else found

    # --- images --------------------------------------------------------------------------------------------------------------------

    def _decode(self, name: str, content: Content, target: Path) -> None:
        objection = foreign.objection_to_image(content.members[0].path)
        if objection is not None:
            raise self._invalid(f"{content.members[0].name} {objection}")
        if self.resolved is None:
            raise BurnishError(
                Reason.InvalidDataset,
                f"{name} holds images, and the manifest doesn't say how they become the model's input; add spec.datasets.preprocess (type: FromHuggingFace "
                "where the source has a preprocessor_config.json)",
                field=preprocess.FIELD,
            )
        if len(self.signature.inputs) != 1:
            raise self._invalid(f"images are one input, and the model takes {len(self.signature.inputs)}; give an npz")
        folders = [member.name.rpartition("/")[0] for member in content.members]
        loose = [member.name for member, folder in zip(content.members, folders, strict=True) if not folder]
        if loose:
            raise self._invalid(
                f"{name} has {loose[0]!r} outside of a class's folder; put images into one folder per class (or npz files, JSONL or CSV)"
            )
        indices = self._classes(folders, content.folders)
        chosen = _spread(list(zip(content.members, (indices[folder] for folder in folders), strict=True)), self.samples)
        first = self._load_image(chosen[0][0])
        self._check_shape(first.shape)
        if (total := first.nbytes * len(chosen)) > MAX_BYTES:
            raise self._invalid(f"{len(chosen)} images become {total} bytes of arrays; at most {MAX_BYTES} are made, set samples")
        images = itertools.chain([first], (self._load_like(first, member, chosen[0][0]) for member, _ in chosen[1:]))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            write_array(archive, self.signature.inputs[0].name, Part((len(chosen), *first.shape), first.dtype), images)
            labels = np.array([index for _, index in chosen], dtype=np.int64)
            write_array(archive, names.LABEL, Part(labels.shape, labels.dtype), [labels])

    def _classes(self, folders: Sequence[str], all_folders: set[str]) -> dict[str, int]:
        """Folder -> class index: its number where all names are numbers, else that of the model's config.json, else its place in sorted order."""
        found = {folder: folder.rpartition("/")[2] for folder in sorted(set(folders))}
        empty = sorted(f for f in all_folders if not any(g == f or g.startswith(f"{f}/") for g in found))
        if empty:
            raise self._invalid(f"the class {empty[0]!r} has no images; add some, or remove the folder")
        if len(set(found.values())) < len(found) or any(g.startswith(f"{f}/") for f in found for g in found):
            raise self._invalid("folders of images are nested or share a name; put one folder per class beside each other")
        known = self._class_names()
        if all(texts.is_number(name) for name in found.values()):
            how, indices = "the folders' numbers", {folder: int(name) for folder, name in found.items()}
        elif known:
            how, indices = "the model's config.json (id2label)", dict(zip(found, self._indices(list(found.values())), strict=True))
        else:
            how, indices = "the folders' names in sorted order", {folder: number for number, folder in enumerate(found)}
        pairs = ", ".join(f"{found[folder]}={index}" for folder, index in list(indices.items())[:10])
        emit(f"labels of {self.field} are {how}: {pairs}{', ...' if len(indices) > 10 else ''}")
        return indices

    def _load_image(self, member: Member) -> np.ndarray:
        assert self.resolved is not None  # noqa: S101  `_decode` has asked
        try:
            return preprocess.load_image(member.path, self.resolved)
        except preprocess.ImageError as problem:
            raise self._invalid(f"{member.name} {problem}") from problem

    def _load_like(self, first: np.ndarray, member: Member, named: Member) -> np.ndarray:
        array = self._load_image(member)
        if array.shape != first.shape:
            raise self._invalid(
                f"{member.name} becomes {list(array.shape)} and {named.name} {list(first.shape)}; write preprocess.resize with width and height, or crop"
            )
        return array

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        tensor = self.signature.inputs[0]
        entry = next((entry for entry in self.inputs if entry.name == tensor.name), None)
        wanted = (tensor.shape if entry is None or entry.shape is None else tuple(entry.shape))[1:]
        if len(shape) != len(wanted) or any(want not in (-1, have) for want, have in zip(wanted, shape, strict=True)):
            layout = self.resolved.layout if self.resolved else Layout.NCHW
            raise BurnishError(
                Reason.InputsMismatch,
                f"an image becomes {list(shape)} ({layout.value}), and the model's input {tensor.name!r} takes {list(wanted)}; correct resize, crop, colour or layout",
                field=preprocess.FIELD,
            )

    def _invalid(self, message: str) -> BurnishError:
        return BurnishError(Reason.InvalidDataset, message, field=self.field)


def _spread(pairs: list[tuple[Member, int]], samples: int | None) -> list[tuple[Member, int]]:
    """At most `samples`, from all classes: the first of each, then the second of each. Sorted by name one class would come first."""
    rank: dict[int, int] = {}
    order = []
    for position, (_, index) in enumerate(pairs):
        order.append((rank.get(index, 0), position))
        rank[index] = rank.get(index, 0) + 1
    return [pairs[position] for _, position in sorted(order)[:samples]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
