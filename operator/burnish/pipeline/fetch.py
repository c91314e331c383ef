"""From a URI to a pinned tree in the store: the only place that looks at sources and datasets.

A remote URI is looked at once: what was found is recorded, and stays what it was until the manifest's pin or `refresh` changes. A file is
looked at in every run, because looking is cheap and an edited file that goes unnoticed is not (docs/adr/0002).
"""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from burnish.api.job_contract import FileRef, SourceRecord, TreeRef
from burnish.api.uris import scrub
from burnish.errors import BurnishError, Reason
from burnish.pipeline import https
from burnish.store import files, trees
from burnish.store.keys import source_key
from burnish.store.store import Store
from burnish.store.trees import Progress

__all__ = ["SOURCES", "FetchLimits", "fetch", "scrub"]

SOURCES = "sources"
"""Kind of the records of remote URIs."""


@dataclass(frozen=True)
class FetchLimits:
    """How much, and how long."""

    max_bytes: int = 16 * 2**30
    max_files: int = files.MAX_FILES
    total_seconds: float = 3600.0
    """For one download."""
    idle_seconds: float = 30.0
    """Longest silence of a server."""


def fetch(
    uri: str,
    base: Path,
    store: Store,
    *,
    digest: str | None,
    refresh: str | None,
    limits: FetchLimits,
    field: str,
    progress: Progress,
) -> SourceRecord:
    """Pin what is at `uri`, and have it in the store.

    Args:
        uri: `file:` (relative to `base`, or absolute), a file or a directory; or `https:`, a file.
        base: directory that relative `file:` URIs start from: the manifest's.
        digest: what it has to be.
        refresh: `spec.source.refresh`; another text looks at a remote URI again.
        field: the manifest's field that holds the URI, for messages.
        progress: told now and then how far it is.

    Raises:
        BurnishError: InvalidManifest (not a URI we fetch), SourceNotFound, SourceForbidden, SourceTooLarge, SourceTimeout, SourceIncomplete,
            SourceUnavailable, UnsafeSource, DigestMismatch; StoreFull, StoreNotWritable, StoreNotReadable, StoreCorrupted.
    """
    try:
        match _scheme(uri):
            case "file":
                return _fetch_file(uri, base, store, digest, limits, progress)
            case "https":
                return _fetch_https(uri, store, digest, refresh, limits, progress)
            case "http":
                raise BurnishError(Reason.InvalidManifest, f"{scrub(uri)} is not encrypted, so anyone on the way can change the model; use https:")
            case "":
                raise BurnishError(
                    Reason.InvalidManifest, f"{scrub(uri)} has no scheme; write file:{scrub(uri)} for a file beside the manifest, or https:"
                )
            case other:
                raise BurnishError(
                    Reason.InvalidManifest, f"{other}: is not supported here; use file: or https: (s3, gs, az, hf, oci and pvc come on clusters)"
                )
    except BurnishError as error:
        if error.field is None and not error.reason.value.startswith("Store"):
            error.field = field
        raise


def _scheme(uri: str) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    return match[1].lower() if match else ""


def _fetch_file(uri: str, base: Path, store: Store, digest: str | None, limits: FetchLimits, progress: Progress) -> SourceRecord:
    named = base / _file_path(uri)
    with files.reading(named):
        try:
            path = Path(os.path.realpath(named, strict=True))
        except NotADirectoryError as error:
            raise FileNotFoundError from error
    tree = trees.hash_tree(path, max_bytes=limits.max_bytes, max_files=limits.max_files, progress=progress)
    _check_pin(uri, tree.digest, digest)
    trees.copy_tree(store, path, tree)
    if not tree.is_directory:  # the name that the user knows, not that of the file behind a link
        tree = tree.model_copy(update={"files": (tree.files[0].model_copy(update={"path": named.name}),)})
    return SourceRecord(uri=uri, tree=tree, fetched_at=_now())


def _file_path(uri: str) -> Path:
    rest = uri.partition(":")[2]
    if "?" in rest or "#" in rest:
        raise BurnishError(Reason.InvalidManifest, f"{uri} holds ? or #; write %3F and %23 for them in a file: URI")
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        if host not in ("", "localhost"):
            raise BurnishError(
                Reason.InvalidManifest, f"{uri} names the host {host!r}; write file:{host}{rest} for a relative path, file:///... for an absolute one"
            )
    path = unquote(rest)
    if not path or "\0" in path:
        raise BurnishError(Reason.InvalidManifest, f"{uri} names no file; write file:model.onnx, or file:///absolute/path")
    return Path(path)


def _fetch_https(uri: str, store: Store, digest: str | None, refresh: str | None, limits: FetchLimits, progress: Progress) -> SourceRecord:
    _check_https(uri)
    key = source_key(uri, digest, refresh)
    known = store.get_record(SOURCES, key, SourceRecord)
    if known is not None and trees.has_tree(store, known.tree):
        return known
    clock = https.Clock(limits.total_seconds, limits.idle_seconds)
    progress(f"fetching {scrub(uri)}")
    with store.scratch() as scratch:
        for chunk, announced in https.download(uri, max_bytes=limits.max_bytes, clock=clock):
            scratch.write(chunk)
            if announced:
                progress(f"fetching {scrub(uri)}", done=scratch.size / announced)
        _check_pin(uri, scratch.digest, digest)
        found = FileRef(path=_file_name(uri), digest=store.publish_blob(scratch), size=scratch.size)
    record = SourceRecord(uri=scrub(uri), tree=TreeRef(digest=found.digest, is_directory=False, files=(found,)), fetched_at=_now())
    return store.put_record(SOURCES, key, record, replace=known is not None)


def _check_https(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or any(c.isspace() or not c.isprintable() for c in uri):
        raise BurnishError(
            Reason.InvalidManifest, f"{scrub(uri)} is not a valid URI; write https://host/path, and percent-encode what is not plain text"
        )
    if "@" in parts.netloc:
        raise BurnishError(Reason.InvalidManifest, f"{scrub(uri)} carries credentials, and a manifest is no place for them; remove the part before @")


def _file_name(uri: str) -> str:
    """The last part of the path, as a plain file name: its ending tells some readers what it is."""
    name = unquote(urlsplit(uri).path.rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-128:] or "download"


def _check_pin(uri: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise BurnishError(
            Reason.DigestMismatch, f"{scrub(uri)} has the digest {found}, the manifest pins {wanted}; if the new content is wanted, change the pin"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
