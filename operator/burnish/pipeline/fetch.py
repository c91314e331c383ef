"""From a URI to a pinned tree in the store: the only place that looks at sources and datasets.

A remote URI is looked at once: what was found is recorded, and stays what it was until the manifest's pin or `refresh` changes. A file is
looked at in every run, because looking is cheap and an edited file that goes unnoticed is not (docs/adr/0002).
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from burnish.api.job_contract import FileRef, SourceRecord, TreeRef
from burnish.api.uris import HUB_PAGE, scrub
from burnish.errors import BurnishError, Reason
from burnish.pipeline import az, gs, https, hub
from burnish.pipeline.remote_files import RemoteFiles
from burnish.plugins.files import Files, LocalFiles
from burnish.store import credentials, files, trees
from burnish.store.credentials import Credentials
from burnish.store.keys import source_key
from burnish.store.store import Store
from burnish.store.trees import Progress

__all__ = ["SOURCES", "Access", "FetchLimits", "fetch", "scrub"]

SOURCES = "sources"
"""Kind of the records of remote URIs."""
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Access:
    """What a run may reach, and with what. The default is that of a user at a terminal."""

    credentials: Credentials | None = None
    """Of `spec.source.secretRef`; None: s3: takes those of the environment, https: none."""
    claims: Mapping[str, Path] | None = None
    """Volume claim -> where it is mounted; None: this is no cluster, and `pvc:` means nothing here."""
    has_private_addresses: bool = True
    """https: may lead to loopback, link-local and private addresses."""

    @property
    def is_on_cluster(self) -> bool:
        """The process is a Job's: its files are nobody's sources."""
        return self.claims is not None


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
    access: Access = Access(),
) -> SourceRecord:
    """Pin what is at `uri`, and have it in the store.

    Args:
        uri: `file:` (relative to `base`, or absolute), a file or a directory; `https:`, a file; `s3:`, an object or all below a prefix, and so
            `gs:` and `az:`; `hf:`, a repository of the Hugging Face Hub, or a part of it; on a cluster `pvc:` (claim/path), a file or a directory.
        base: directory that relative `file:` URIs start from: the manifest's.
        digest: what it has to be.
        refresh: `spec.source.refresh`; another text looks at a remote URI again.
        field: the manifest's field that holds the URI, for messages.
        progress: told now and then how far it is.
        access: credentials and volumes.

    Raises:
        BurnishError: InvalidManifest (not a URI we fetch, or not here), SecretNotFound, SourceNotFound, SourceForbidden, SourceTooLarge, SourceTimeout, SourceIncomplete,
            SourceUnavailable, UnsafeSource, DigestMismatch; StoreFull, StoreNotWritable, StoreNotReadable, StoreCorrupted.
    """
    with _naming(field):
        match _checked_scheme(uri, access):
            case "file":
                return _fetch_file(uri, base / _file_path(uri), store, digest, limits, progress)
            case "pvc":
                return _fetch_file(uri, _volume_path(uri, access.claims or {}), store, digest, limits, progress)
            case "https":
                _check_https(uri)
                return _fetch_remote(uri, store, digest, refresh, lambda: _download_https(uri, store, digest, limits, progress, access))
            case "hf":
                repository = hub.parse(uri)
                return _fetch_remote(uri, store, digest, refresh, lambda: _download_hub(uri, repository, store, digest, limits, progress, access))
            case "s3":
                where = _bucket_and_key(uri)
                return _fetch_remote(uri, store, digest, refresh, lambda: _download_s3(uri, where, store, digest, limits, progress, access))
            case "gs":
                where = _bucket_and_key(uri)
                return _fetch_remote(uri, store, digest, refresh, lambda: _download_gs(uri, where, store, digest, limits, progress, access))
            case "az":
                where = _bucket_and_key(uri)
                in_account = _named_with_account(uri, access)
                return _fetch_remote(in_account, store, digest, refresh, lambda: _download_az(uri, where, store, digest, limits, progress, access))


@contextlib.contextmanager
def _naming(field: str) -> Iterator[None]:
    """Let what is wrong with a source name the manifest's field; the store's errors are not the source's."""
    try:
        yield
    except BurnishError as error:
        if error.field is None and not error.reason.value.startswith("Store"):
            error.field = field
        raise


@dataclass(frozen=True)
class Seen:
    """What can be said of a URI without fetching it."""

    digest: str | None
    """What it holds; None: only fetching it tells."""
    is_stored: bool
    """The store has all of it."""
    files: Files | None = None
    """To look into, where they are at hand."""


def look_up(uri: str, base: Path, store: Store, *, digest: str | None, refresh: str | None, limits: FetchLimits, field: str) -> Seen:
    """What a run would find at `uri`, as far as that shows without reaching out or writing: a file is read, a remote URI only looked up.

    Raises:
        BurnishError: as `fetch`, for what is wrong with the URI or the file.
    """
    remembered_as = uri
    with _naming(field):
        match _checked_scheme(uri, Access()):
            case "file":
                named = base / _file_path(uri)
                tree = trees.hash_tree(_real_path(named), max_bytes=limits.max_bytes, max_files=limits.max_files)
                _check_pin(uri, tree.digest, digest)
                return Seen(tree.digest, trees.has_tree(store, tree), LocalFiles(named))
            case "https":
                _check_https(uri)
            case "hf":
                hub.parse(uri)
            case "s3" | "gs":
                _bucket_and_key(uri)
            case "az":
                _bucket_and_key(uri)
                remembered_as = _named_with_account(uri, Access())
        known = store.get_record(SOURCES, source_key(remembered_as, digest, refresh), SourceRecord)
        if known is not None and trees.has_tree(store, known.tree):
            return Seen(known.tree.digest, is_stored=True, files=trees.StoredFiles(store, known.tree, Path(uri).name))
        return Seen(digest, is_stored=False)


def _checked_scheme(uri: str, access: Access) -> Literal["file", "pvc", "https", "hf", "s3", "gs", "az"]:
    """The scheme of a URI that can be fetched here."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    scheme = match[1].lower() if match else ""
    match scheme:
        case "file" if access.is_on_cluster:
            wrong = f"{uri} is a file of one machine, and a cluster has many; put it into a bucket (s3:, gs:, az:), on a volume (pvc:) or on a server (https:)"
        case "pvc" if not access.is_on_cluster:
            wrong = f"{uri} is a volume of a cluster; on this machine use file:, s3:, gs:, az:, hf: or https:"
        case "file" | "pvc" | "https" | "hf" | "s3" | "gs" | "az":
            return scheme
        case "http":
            wrong = f"{scrub(uri)} is not encrypted, so anyone on the way can change the model; use https:"
        case "":
            wrong = f"{scrub(uri)} has no scheme; write file:{scrub(uri)} for a file beside the manifest, or https:"
        case _:
            wrong = f"{scheme}: is not supported; use s3:, gs:, az:, https:, hf:, pvc: (on a cluster) or file: (on this machine)"
    raise BurnishError(Reason.InvalidManifest, wrong)


def _fetch_file(uri: str, named: Path, store: Store, digest: str | None, limits: FetchLimits, progress: Progress) -> SourceRecord:
    path = _real_path(named)
    tree = trees.hash_tree(path, max_bytes=limits.max_bytes, max_files=limits.max_files, progress=progress)
    _check_pin(uri, tree.digest, digest)
    trees.copy_tree(store, path, tree)
    if not tree.is_directory:  # the name that the user knows, not that of the file behind a link
        tree = tree.model_copy(update={"files": (tree.files[0].model_copy(update={"path": named.name}),)})
    return SourceRecord(uri=uri, tree=tree, fetched_at=_now())


def _real_path(named: Path) -> Path:
    """The file or directory behind links."""
    with files.reading(named):
        try:
            return Path(os.path.realpath(named, strict=True))
        except NotADirectoryError as error:
            raise FileNotFoundError from error


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


def _volume_path(uri: str, claims: Mapping[str, Path]) -> Path:
    """Where `pvc://claim/path` is mounted."""
    parts = urlsplit(uri)
    claim, path = parts.netloc, unquote(parts.path).strip("/")
    if not claim or not path or claim not in claims:
        raise BurnishError(Reason.InvalidManifest, f"{uri} names no file on a volume; write pvc://CLAIM/path/to/model.onnx")
    root = Path(os.path.realpath(claims[claim]))
    found = Path(os.path.realpath(root / path))
    if found != root and root not in found.parents:
        raise BurnishError(Reason.UnsafeSource, f"{uri} leads out of the volume; links may point within it only")
    return found


def _fetch_remote(uri: str, store: Store, digest: str | None, refresh: str | None, download: Callable[[], TreeRef]) -> SourceRecord:
    """What is recorded of a remote URI, or else what `download` finds there."""
    key = source_key(uri, digest, refresh)
    known = store.get_record(SOURCES, key, SourceRecord)
    if known is not None and trees.has_tree(store, known.tree):
        return known
    record = SourceRecord(uri=scrub(uri), tree=download(), fetched_at=_now())
    return store.put_record(SOURCES, key, record, replace=known is not None)


def _download_https(uri: str, store: Store, digest: str | None, limits: FetchLimits, progress: Progress, access: Access) -> TreeRef:
    token = access.credentials.token if access.credentials is not None and access.credentials.covers(uri) else ""
    progress(f"fetching {scrub(uri)}")
    with store.scratch() as scratch:
        chunks = https.download(uri, max_bytes=limits.max_bytes, transport=_transport(limits, access), headers=https.bearer(token))
        for chunk, announced in chunks:
            scratch.write(chunk)
            if announced:
                progress(f"fetching {scrub(uri)}", done=scratch.size / announced)
        _check_pin(uri, scratch.digest, digest)
        found = FileRef(path=_file_name(urlsplit(uri).path), digest=store.publish_blob(scratch), size=scratch.size)
    return TreeRef(digest=found.digest, is_directory=False, files=(found,))


def _download_hub(
    uri: str, wanted: hub.Repository, store: Store, digest: str | None, limits: FetchLimits, progress: Progress, access: Access
) -> TreeRef:
    keys = _keys_for(uri, access)
    place = hub.Hub(_transport(limits, access), (keys.hub or hub.HUB).rstrip("/"), keys.token)
    return _download_found(uri, place.find(uri, wanted, max_bytes=limits.max_bytes), store, digest, limits, progress)


def _download_gs(
    uri: str, where: tuple[str, str], store: Store, digest: str | None, limits: FetchLimits, progress: Progress, access: Access
) -> TreeRef:
    keys = _keys_for(uri, access)
    keys = keys if access.credentials is not None else credentials.with_google_file(keys)
    account = gs.ServiceAccount(keys.google_key, _transport(limits, access))
    bucket = gs.Bucket(uri, where[0], account, _endpoint(keys.google_endpoint, "STORAGE_EMULATOR_HOST") or gs.ENDPOINT)
    return _download_found(uri, bucket.find(where[1], max_bytes=limits.max_bytes, max_files=limits.max_files), store, digest, limits, progress)


def _download_az(
    uri: str, where: tuple[str, str], store: Store, digest: str | None, limits: FetchLimits, progress: Progress, access: Access
) -> TreeRef:
    keys = _keys_for(uri, access)
    endpoint = _endpoint(keys.azure_endpoint, "AZURE_STORAGE_SERVICE_ENDPOINT")
    account = az.Account(keys.azure_account, keys.azure_key, keys.azure_sas, endpoint)
    container = az.Container(uri, where[0], account, _transport(limits, access))
    return _download_found(uri, container.find(where[1], max_bytes=limits.max_bytes, max_files=limits.max_files), store, digest, limits, progress)


def _named_with_account(uri: str, access: Access) -> str:
    """What an az: source is remembered by: containers of two accounts may have one name."""
    keys = access.credentials if access.credentials is not None else credentials.read_environment()
    return f"{uri}#{keys.azure_account}@{keys.azure_endpoint}"


def _endpoint(url: str, name: str) -> str:
    if url and not url.lower().startswith("https://"):
        raise BurnishError(Reason.SourceUnavailable, f"{name} is no https: address, and models are fetched from no other; write https://host")
    return url.rstrip("/")


def _download_found(uri: str, found: RemoteFiles, store: Store, digest: str | None, limits: FetchLimits, progress: Progress) -> TreeRef:
    """Each file of what a place listed, held to its word and to the limits."""
    progress(f"fetching {uri}{' at ' if found.version else ''}{found.version}")
    _check_listing(uri, {file.path: {"size": file.size} for file in found.files}, limits)
    total, done, refs = sum(file.size for file in found.files), 0, []
    for file in sorted(found.files, key=lambda file: file.path):
        with store.scratch() as scratch:
            for chunk, _ in file.download():
                scratch.write(chunk)
                progress(f"fetching {uri}", done=(done + scratch.size) / total if total else 0.0)
            if scratch.size != file.size:
                raise BurnishError(Reason.SourceIncomplete, f"{uri}: {file.path} has {scratch.size} bytes, and {file.size} are listed; try again")
            if not found.is_directory:
                _check_pin(uri, scratch.digest, digest)
            path = file.path if found.is_directory else _file_name(file.path)
            refs.append(FileRef(path=path, digest=store.publish_blob(scratch), size=scratch.size))
            done += scratch.size
    return _tree_of(uri, refs, digest, is_directory=found.is_directory)


def _transport(limits: FetchLimits, access: Access) -> https.Transport:
    """A user at a terminal names further authorities in SSL_CERT_FILE."""
    clock = https.Clock(limits.total_seconds, limits.idle_seconds)
    authority = access.credentials.authority if access.credentials is not None else ""
    return https.Transport(clock, access.has_private_addresses, authority)


def _keys_for(uri: str, access: Access) -> Credentials:
    """The credentials that may be sent there."""
    keys = access.credentials if access.credentials is not None else credentials.read_environment()
    _check_covered(uri, keys)
    return keys


def _check_covered(uri: str, keys: Credentials) -> None:
    if not keys.covers(uri):
        raise BurnishError(
            Reason.SourceForbidden, f"the Secret's credentials are for {keys.uri_prefix} only, and {uri} is not below it; use another Secret"
        )


def _tree_of(uri: str, refs: Sequence[FileRef], digest: str | None, *, is_directory: bool) -> TreeRef:
    """What was downloaded, held to its pin."""
    tree = TreeRef(digest=trees.tree_digest(refs) if is_directory else refs[0].digest, is_directory=is_directory, files=tuple(refs))
    _check_pin(uri, tree.digest, digest)
    return tree


def _bucket_and_key(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise BurnishError(
            Reason.InvalidManifest, f"{scrub(uri)} carries credentials, and a manifest is no place for them; name a Secret in spec.source.secretRef"
        )
    bucket, key = parts.netloc, parts.path.strip("/")
    if not bucket or not key or parts.query or parts.fragment or ".." in key.split("/"):
        raise BurnishError(
            Reason.InvalidManifest,
            f"{scrub(uri)} names no object; write {parts.scheme}://{'container' if parts.scheme == 'az' else 'bucket'}/path/to/model.onnx",
        )
    return bucket, key


def _download_s3(
    uri: str, where: tuple[str, str], store: Store, digest: str | None, limits: FetchLimits, progress: Progress, access: Access
) -> TreeRef:
    from burnish.store import s3

    keys = _keys_for(uri, access)
    progress(f"fetching {uri}")
    path = "/".join(where)
    with _s3_errors(uri):
        bucket = s3.connect(keys)
        found = {path: bucket.info(path)}
        is_directory = found[path]["type"] == "directory"
        if is_directory:
            found = bucket.find(path, detail=True)
    _check_listing(uri, found, limits)
    total, done, refs = sum(int(o["size"]) for o in found.values()), 0, []
    for name, facts in sorted(found.items()):
        relative = name.removeprefix(path).lstrip("/") if is_directory else _file_name(name)
        if is_directory and (".." in relative.split("/") or relative.startswith("/")):
            raise BurnishError(Reason.UnsafeSource, f"{uri} holds an object named {relative!r}, which leads out of its folder; rename it")
        with _s3_errors(uri), store.scratch() as scratch:
            with bucket.open(name, "rb", cache_type="readahead") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    scratch.write(chunk)
                    progress(f"fetching {uri}", done=(done + scratch.size) / total if total else 0.0)
            if scratch.size != int(facts["size"]):
                raise BurnishError(Reason.SourceIncomplete, f"{uri}/{relative} changed while it was read; try again when nobody writes it")
            if not is_directory:
                _check_pin(uri, scratch.digest, digest)
            refs.append(FileRef(path=relative, digest=store.publish_blob(scratch), size=scratch.size))
            done += scratch.size
    return _tree_of(uri, refs, digest, is_directory=is_directory)


def _check_listing(uri: str, found: Mapping[str, Mapping[str, object]], limits: FetchLimits) -> None:
    if not found:
        raise BurnishError(Reason.SourceNotFound, f"nothing is at {uri}; correct the URI")
    if len(found) > limits.max_files:
        raise BurnishError(
            Reason.SourceTooLarge, f"{uri} holds {len(found)} objects, more than the limit of {limits.max_files}; name the model's folder"
        )
    total = sum(int(str(facts["size"])) for facts in found.values())
    if total > limits.max_bytes:
        raise BurnishError(Reason.SourceTooLarge, f"{uri} has {total} bytes, more than the limit of {limits.max_bytes}; use a smaller file")


@contextlib.contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """What goes wrong at the source, as the source's fault; the store's own errors are typed already."""
    from burnish.store import s3

    try:
        with s3.os_errors():
            yield
    except FileNotFoundError:
        raise BurnishError(Reason.SourceNotFound, f"nothing is at {uri}; correct the URI") from None
    except PermissionError:
        raise BurnishError(
            Reason.SourceForbidden,
            f"{uri} may not be read with these credentials; correct the Secret that spec.source.secretRef names (or the AWS_* variables)",
        ) from None
    except OSError as error:
        if error.errno == errno.EBUSY:  # s3fs reads the one version that it found first, by its ETag
            raise BurnishError(Reason.SourceIncomplete, f"{uri} changed while it was read; try again when nobody writes it") from None
        raise BurnishError(
            Reason.SourceUnavailable,
            f"can't read {uri}: {error.strerror or type(error).__name__}; check AWS_ENDPOINT_URL and the network, and try again",
        ) from None


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
    if re.search(HUB_PAGE, uri):
        raise BurnishError(
            Reason.InvalidManifest,
            f"{scrub(uri)} is a page of the Hugging Face Hub, and no file; write hf://org/name (data: hf://datasets/org/name/path)",
        )


def _file_name(path: str) -> str:
    """The last part of a path, as a plain file name: its ending tells some readers what it is."""
    name = unquote(path.rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-128:] or "download"


def _check_pin(uri: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise BurnishError(
            Reason.DigestMismatch, f"{scrub(uri)} has the digest {found}, the manifest pins {wanted}; if the new content is wanted, change the pin"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
