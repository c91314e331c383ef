"""The artifact store: content under its digest, and small records written last that give it a meaning.

    <root>/<cluster>/<namespace>/
      oci-layout  index.json            an OCI image layout (index.json lists nothing: docs/adr/0003)
      blobs/sha256/<hex>                files, artifacts' layers, configs and manifests
      records/<kind>/<key>.json         what was found out, and which blobs belong to it
      tmp/                              what is being written

Whatever is read is verified: a blob against its name, a record against the digest that stands in front of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import ValidationError

from burnish import names
from burnish.api.job_contract import Record
from burnish.api.scalars import DIGEST_PATTERN
from burnish.errors import BurnishError, Reason
from burnish.store import credentials, files
from burnish.store.backend import Backend, DirectoryBackend, Found, Scratch, reading
from burnish.store.blobs import BlobReader
from burnish.store.credentials import Credentials
from burnish.store.keys import canonical_json

R = TypeVar("R", bound=Record)

_BLOBS = "blobs/sha256"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_HEAD, _MIDDLE, _TAIL = b'{"digest":"', b'","record":', b"}\n"
_HEAD_BYTES = len(_HEAD) + len("sha256:") + 64 + len(_MIDDLE)
_LAYOUT = {
    "oci-layout": canonical_json({"imageLayoutVersion": "1.0.0"}),
    "index.json": canonical_json({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}),
}


def open_store(
    location: str | Path, *, cluster: str = names.LOCAL_CLUSTER, namespace: str = "default", access: Credentials | None = None, is_tidied: bool = True
) -> Store:
    """The store of one namespace at `location`: a path, a `file:` URI or `s3://bucket/prefix`. Nothing is made there before something is written.

    Args:
        location: where it is.
        cluster: first part of the layout.
        namespace: second part.
        access: credentials for s3; default those of the environment.
        is_tidied: whether what killed writers left behind is removed on the way.

    Raises:
        BurnishError: InvalidManifest: not a kind of location that a store can be at.
    """
    for part in (cluster, namespace):
        _checked_name(part)
    parts = urlsplit(str(location))
    if parts.scheme == "s3":
        return Store(_s3_backend(parts, cluster, namespace, access))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment:
        root = Path(unquote(parts.path))
    elif not parts.scheme:
        root = Path(location)
    else:
        why = "is a volume of a cluster, which the chart's store.volume names" if parts.scheme == "pvc" else "is not supported"
        raise BurnishError(
            Reason.InvalidManifest,
            f"a store at {parts.scheme}: {why}; here name a directory (./path or file:///path) or s3://bucket/prefix",
            field="--store",
        )
    backend = DirectoryBackend(root.expanduser().absolute() / cluster / namespace)
    if is_tidied:
        backend.tidy()
    return Store(backend)


def _s3_backend(parts: SplitResult, cluster: str, namespace: str, given: Credentials | None) -> Backend:
    from burnish.store.s3 import S3Backend

    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise BurnishError(Reason.InvalidManifest, "an s3 store is s3://bucket/prefix, without anything else in it", field="--store")
    prefix = "/".join(part for part in (unquote(parts.path).strip("/"), cluster, namespace) if part)
    return S3Backend(parts.netloc, prefix, given if given is not None else credentials.read_environment())


class Store:
    """Blobs and records of one namespace. Safe to be used by many processes at once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._has_layout = False

    @property
    def location(self) -> str:
        """Where the namespace's part of the store is, as messages name it: `/srv/store/local/default`."""
        return self._backend.root

    def ensure_writable(self) -> None:
        """Find out now, not after an hour's work, whether the store can be written.

        Raises:
            BurnishError: StoreNotWritable, StoreFull.
        """
        with self.scratch() as scratch:
            scratch.finish()

    def leftovers(self) -> list[Found]:
        """What killed writers left to be removed, paths for names.

        Raises:
            BurnishError: StoreNotReadable.
        """
        return self._backend.leftovers()

    def tidy(self) -> list[Found]:
        """Remove what killed writers left, and return it; does nothing in a store that can't be written."""
        return self._backend.tidy()

    # --- blobs ------------------------------------------------------------------------------------------------------------------------

    def has_blob(self, digest: str) -> bool:
        """True where there is a blob of that name; what it holds is verified when it is read.

        Raises:
            BurnishError: StoreNotReadable.
        """
        return self._backend.size(_blob(digest)) is not None

    def keep_blob(self, digest: str) -> bool:
        """As `has_blob`, for who is about to publish what refers to it: True promises that no sweep takes the blob meanwhile.

        False where it has to be written (again).

        Raises:
            BurnishError: StoreNotReadable.
        """
        return self._backend.renew(_blob(digest))

    def list_blobs(self) -> list[Found]:
        """All blobs; their names are digests without `sha256:`.

        Raises:
            BurnishError: StoreNotReadable.
        """
        return [found for found in self._backend.entries(_BLOBS) if re.fullmatch(r"[0-9a-f]{64}", found.name)]

    def remove_blob(self, digest: str, before: float) -> bool:
        """Remove a blob that nobody filed or renewed since `before` (seconds since the epoch). True: it was removed.

        Raises:
            BurnishError: StoreNotWritable.
        """
        return self._backend.remove_older(_blob(digest), before)

    def put_blob(self, source: Path | bytes) -> str:
        """Store a file or bytes; returns the digest. A file that the store has is only read.

        Raises:
            BurnishError: StoreFull, StoreNotWritable; as `files.open_file` for a file.
        """
        if isinstance(source, Path):
            with files.open_file(source.parent, source.name) as file:
                return self.put_stream(file)
        digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
        return digest if self.keep_blob(digest) else self.put_stream(io.BytesIO(source))

    def put_stream(self, file: BinaryIO) -> str:
        """Store what the seekable `file` holds; returns the digest of the bytes that were copied.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """
        digest = files.digest(file)
        if self.keep_blob(digest):
            return digest
        file.seek(0)
        with self.scratch() as scratch:
            for chunk in files.chunks(file):
                scratch.write(chunk)
            return self.publish_blob(scratch)

    def scratch(self) -> AbstractContextManager[Scratch]:
        """A file to write a blob of yet unknown digest into; gone with the context unless `publish_blob` got it.

        Raises:
            BurnishError: StoreNotWritable, StoreFull.
        """
        self._ensure_layout()
        return self._backend.scratch()

    def publish_blob(self, scratch: Scratch) -> str:
        """File what was written under its digest, and return that.

        It replaces a blob of that name: both should be the same bytes, and if the old ones rotted, this heals them.

        Raises:
            BurnishError: StoreFull, StoreNotWritable.
        """
        self._backend.replace(scratch, _blob(scratch.digest))
        return scratch.digest

    def open_blob(self, digest: str) -> BlobReader:
        """Open for reading; the reader verifies.

        Raises:
            BurnishError: NotInStore, StoreNotReadable.
        """
        path = _blob(digest)
        return BlobReader(self._backend.open(path), digest, self._backend.describe(path))

    def peek_blob(self, digest: str) -> BinaryIO:
        """Open to look at parts of a blob; the stream can seek, and nothing is verified.

        Raises:
            BurnishError: NotInStore, StoreNotReadable.
        """
        return self._backend.open(_blob(digest))

    def read_blob(self, digest: str) -> bytes:
        """All bytes of a small blob, verified.

        Raises:
            BurnishError: NotInStore, StoreNotReadable, StoreCorrupted.
        """
        with self.open_blob(digest) as blob:
            return blob.readall()

    def copy_blob(self, digest: str, target: Path) -> None:
        """Write the blob to the file `target`, which appears only after it was verified.

        Raises:
            BurnishError: NotInStore, StoreNotReadable, StoreCorrupted; DiskFull.
        """
        with self.open_blob(digest) as blob, files.new_file(target) as file:
            for chunk in files.chunks(blob):
                file.write(chunk)

    # --- records ----------------------------------------------------------------------------------------------------------------------

    def put_record(self, kind: str, key: str, record: R, *, replace: bool = False) -> R:
        """Write a record, and return the one that is there now: `record`, or that of whoever was first.

        Args:
            replace: the newest wins instead of the first.

        Raises:
            BurnishError: StoreFull, StoreNotWritable; StoreCorrupted where the first one can't be read.
        """
        path = _record(kind, key)
        payload = record.model_dump_json(by_alias=True).encode()
        digest = f"sha256:{hashlib.sha256(payload).hexdigest()}"
        with self.scratch() as scratch:
            scratch.write(_HEAD + digest.encode() + _MIDDLE + payload + _TAIL)
            if replace:
                self._backend.replace(scratch, path)
                return record
            if self._backend.publish(scratch, path):
                return record
        winner = self.get_record(kind, key, type(record))
        return winner if winner is not None else self.put_record(kind, key, record)

    def get_record(self, kind: str, key: str, of: type[R]) -> R | None:
        """The record, or None where there is none.

        Raises:
            BurnishError: StoreNotReadable; StoreCorrupted where the record is not what was written, or was written by another release. The
                message names the file, and to delete it is the cure: it is never overwritten in silence.
        """
        path = _record(kind, key)
        payload = self._payload(kind, path)
        if payload is None:
            return None
        where = self._backend.describe(path)
        try:
            return of.model_validate_json(payload)
        except ValidationError as error:
            version = json.loads(payload).get("contractVersion")
            raise BurnishError(
                Reason.StoreCorrupted,
                f"a record of kind {kind} was written by another release of Burnish (contractVersion {version}); "
                f"use that release, or delete the file {where}, the next run makes it again",
            ) from error

    def record_digests(self, kind: str, key: str) -> set[str]:
        """Every digest that a record mentions, whatever its kind and whichever release wrote it; none where there is no such record.

        Raises:
            BurnishError: StoreNotReadable; StoreCorrupted, where it is not what was written.
        """
        payload = self._payload(kind, _record(kind, key))
        return {found.decode() for found in re.findall(rb"sha256:[0-9a-f]{64}", payload or b"")}

    def record_kinds(self) -> list[str]:
        """The kinds of which there are records, sorted.

        Raises:
            BurnishError: StoreNotReadable.
        """
        return [name for name in self._backend.names("records") if _NAME.fullmatch(name)]

    def _payload(self, kind: str, path: str) -> bytes | None:
        """A record's JSON, verified; None where there is none."""
        if self._backend.size(path) is None:
            return None
        where = self._backend.describe(path)
        with self._backend.open(path) as file, reading(where):
            data = file.read()
        payload = data[_HEAD_BYTES : -len(_TAIL)]
        if data[:_HEAD_BYTES] != _HEAD + f"sha256:{hashlib.sha256(payload).hexdigest()}".encode() + _MIDDLE or not data.endswith(_TAIL):
            raise BurnishError(Reason.StoreCorrupted, f"a record of kind {kind} is damaged; delete the file {where}, the next run makes it again")
        return payload

    def list_records(self, kind: str) -> list[str]:
        """Keys of all records of a kind, sorted.

        Raises:
            BurnishError: StoreNotReadable.
        """
        return [name.removesuffix(".json") for name in self._backend.names(f"records/{_checked_name(kind)}") if name.endswith(".json")]

    def _ensure_layout(self) -> None:
        if self._has_layout:
            return
        for path, content in _LAYOUT.items():
            if self._backend.size(path) is None:
                with self._backend.scratch() as scratch:
                    scratch.write(content)
                    self._backend.publish(scratch, path)
        self._has_layout = True


def _blob(digest: str) -> str:
    if not re.fullmatch(DIGEST_PATTERN, digest):
        raise BurnishError(Reason.NotInStore, f"{digest[:80]!r} is not a digest (sha256: and 64 hex digits), so the store can't have it")
    return f"{_BLOBS}/{digest.removeprefix('sha256:')}"


def _record(kind: str, key: str) -> str:
    return f"records/{_checked_name(kind)}/{_checked_name(key)}.json"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BurnishError(Reason.NotInStore, f"{name[:80]!r} is not a name that the store can have (letters, digits, dots, dashes)")
    return name
