"""Which format a source is of: said once, by `resolve`, before anything opens it; `export` asks again of the verified bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from burnish.api.job_contract import SourceRecord
from burnish.errors import BurnishError, Reason
from burnish.pipeline import unknown
from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.plugins.files import Files


def find(source: Files, declared: str | None, options: plugins.SourceOptions) -> plugins.Format:
    """The plugin for a source that the manifest describes with `options`.

    Args:
        declared: `spec.source.format`.

    Raises:
        BurnishError: as `detect` and `Format.check_options`.
    """
    plugin = detect(source, declared)
    plugin.check_options(options)
    return plugin


def detect(source: Files, declared: str | None) -> plugins.Format:
    """The plugin for a source.

    Raises:
        BurnishError: UnsupportedFormat: no plugin knows it, or the declared one doesn't recognise it.
    """
    known = registry.formats()
    if declared is not None and known[declared].detect(source):
        return known[declared]
    found = next((plugin for plugin in known.values() if plugin.detect(source)), None)
    if found is None:
        content = "of no known format" if declared is None else f"not {declared}, nor of another known format"
        field = "spec.source.uri" if declared is None else "spec.source.format"
        raise BurnishError(Reason.UnsupportedFormat, f"{source.name} is {content}; {unknown.cure(source)}", field=field)
    if declared is not None:
        within = next((part for part in unknown.inside(source) if part.plugin is known[declared]), None)
        cure = f"for the {declared} in it set {within}" if within else "correct the field or the file, or leave the field out to have it detected"
        raise BurnishError(Reason.UnsupportedFormat, f"{source.name} is {found.name}, not {declared}; {cure}", field="spec.source.format")
    return found


def told(plugin: plugins.Format, source: Files, declared: str | None) -> str:
    """The format that was taken and, unless it was declared, how to get what else the source holds that needs nothing more."""
    if declared is None:
        for other in registry.formats().values():
            if other is not plugin and other.detect(source):
                return f"{plugin.name}; for the {other.name} in it set format: {other.name}"
        for part in unknown.inside(source):
            if part.plugin is not plugin and not part.wanted:
                return f"{plugin.name}; for the {part.plugin.name} in it set {part}"
    return plugin.name


def check_versions(plugin: plugins.Format, source: Files, runtimes: Sequence[plugins.Runtime], image: plugins.ServingImage) -> None:
    """Refuse a source that is ONNX already and newer than any of the targets' runtimes loads, before an accelerator is held for it.

    Where one of several loads it, `compress` tells the others' targets.

    Raises:
        BurnishError: UnsupportedOpset.
    """
    found = plugin.versions(source)
    refusals = [runtime.too_new(*found, image=image) for runtime in runtimes] if found else []
    if refusals and all(refusals):
        raise BurnishError(Reason.UnsupportedOpset, refusals[0], field="spec.source.uri")


def source_name(record: SourceRecord) -> str:
    """The name that the user knows; empty where the URI of a directory has none of its own (`file:.`)."""
    if not record.tree.is_directory:
        return record.tree.files[0].path
    name = Path(unquote(record.uri.partition(":")[2])).name
    return "" if name == ".." else name
