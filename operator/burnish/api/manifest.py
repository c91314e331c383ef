"""Turns a manifest file into a validated `OptimizedModel`, or into messages that a person can act on.

The models refuse what is wrong, but in the words of a library. Here each refusal becomes one line: the field as it stands in the file, what is
wrong with it, and the cure (`burnish.api.complaints`). All of them are told at once, so that a manifest is corrected in one go.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from burnish import names
from burnish.api import complaints, schema, yaml_reader
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.api.yaml_reader import show
from burnish.errors import BurnishError, Reason

_MAX_ERRORS = 20


def load(path: Path) -> OptimizedModel:
    """Read the manifest at `path`.

    Raises:
        BurnishError: InvalidManifest, also where the file can't be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(yaml_reader.MAX_BYTES + 1)
    except OSError as error:
        why = {FileNotFoundError: "no such file", IsADirectoryError: "is a directory", PermissionError: "no permission to read it"}
        raise BurnishError(
            Reason.InvalidManifest, f"{show(str(path))}: {why.get(type(error), error.strerror or 'cannot be read')}; give the path of a manifest"
        ) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(content) <= yaml_reader.MAX_BYTES:
            raise BurnishError(
                Reason.InvalidManifest, f"{show(str(path))}: byte {error.start} is not UTF-8 text; is this the manifest, and not the model?"
            ) from None
        text = content.decode("utf-8", errors="replace")
    return loads(text, path.name)


def loads(text: str, source: str = "manifest") -> OptimizedModel:
    """Read a manifest from text: YAML (or JSON) with exactly one OptimizedModel; documents of other kinds are passed over.

    As in the apiserver, a field that is there but empty counts as absent, and `status` is ignored.

    Args:
        text: the manifest.
        source: what to call it in messages, such as the file's name.

    Raises:
        BurnishError: InvalidManifest. The message has one line per wrong field (the first 20); `field` is set where it is only one. PassNotApplicable,
            CalibrationMissing: the only thing wrong is a list of passes that its runtime can't meet.
    """
    return parse(_select(yaml_reader.read(text, source), source))


def parse(written: dict[str, Any]) -> OptimizedModel:
    """Read a manifest that is a dictionary already, such as one from the apiserver.

    Raises:
        BurnishError: as `loads`.
    """
    written = {key: value for key, value in written.items() if key != "status"}
    document = _without_empty(written)
    wrong = [complaints.Complaint(field, f"is missing; write {field}: {value}") for field, value in _HEADER.items() if field not in document]
    wrong += complaints.non_finite(document, _schema())
    if not wrong:
        try:
            return OptimizedModel.model_validate_json(json.dumps(document), strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            details = error.errors(include_url=False)
        wrong = [complaints.explain(detail, _schema(), written) for detail in details]
    raise _error(wrong)


_HEADER = {"apiVersion": names.API_VERSION, "kind": names.KIND}


@functools.cache
def _schema() -> schema.Schema:
    return schema.flatten(OptimizedModel)


def _select(documents: list[Any], source: str) -> dict[str, Any]:
    """The one document that is ours."""
    where = show(source)
    ours = [document for document in documents if _kind(document) == names.KIND]
    if len(ours) > 1:
        raise BurnishError(Reason.InvalidManifest, f"{where} holds {len(ours)} documents of kind {names.KIND}; keep one per file")
    if not ours and len(documents) == 1:
        ours = documents  # one document with a wrong kind: its other errors are worth telling too
    if not ours:
        found = f"only {', '.join(sorted({_kind(document) for document in documents}))}" if documents else "is empty"
        raise BurnishError(
            Reason.InvalidManifest,
            f"{where} {'holds ' + found if documents else found}; write a document with apiVersion: {names.API_VERSION} and kind: {names.KIND}",
        )
    if not isinstance(ours[0], dict):
        raise BurnishError(
            Reason.InvalidManifest, f"{where} holds {complaints.describe(ours[0])} and not a map; begin with apiVersion: {names.API_VERSION}"
        )
    return dict(ours[0])


def _kind(document: Any) -> str:
    kind = document.get("kind") if isinstance(document, dict) else None
    return show(kind, 40) if isinstance(kind, str) else "a document without kind"


def _without_empty(value: Any) -> Any:
    """A copy without map entries that are null: the apiserver prunes them too."""
    if isinstance(value, dict):
        return {key: _without_empty(child) for key, child in value.items() if child is not None}
    return [_without_empty(child) for child in value] if isinstance(value, list) else value


def _error(wrong: list[complaints.Complaint]) -> BurnishError:
    if len(wrong) == 1:
        return BurnishError(wrong[0].reason, wrong[0].message, field=wrong[0].field or None)
    lines = [str(complaint) for complaint in wrong[:_MAX_ERRORS]]
    if len(wrong) > _MAX_ERRORS:
        lines.append(f"... and {len(wrong) - _MAX_ERRORS} more")
    return BurnishError(Reason.InvalidManifest, "\n".join(lines))
