"""Artifacts in the store: an artifact directory becomes an OCI image manifest, as registries hold them.

The config blob is `artifact.json`; every other file is one zstd layer that carries its path and the digest of its uncompressed bytes. Nothing
in it tells time, host or user, so the same directory gives the same digest on every machine that has the same release of zstandard; what has
to hold beyond that (is it the same model?) is asked of the content digest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from pydantic import ValidationError

from burnish.api.job_contract import ArtifactConfig, ArtifactRef, FileRef
from burnish.errors import BurnishError, Reason
from burnish.store import files, oci, trees
from burnish.store.keys import canonical_json

if TYPE_CHECKING:
    from burnish.store.store import Store

CONFIG_FILE = "artifact.json"
MODEL_FOLDER = "model/"
LEVEL = 3
"""Compression level: weights hardly compress further, and 3 keeps up with a disk."""
MAX_WINDOW_BYTES = 2**27
"""Memory that a compressed layer may ask its reader for (level 3 asks for 2 MiB)."""


def config_bytes(config: ArtifactConfig) -> bytes:
    """`artifact.json`: canonical JSON."""
    return canonical_json(config.model_dump(mode="json", by_alias=True))


def content_digest(directory: Path) -> str:
    """Digest over the loadable files of an artifact directory, `model/` only: equal content = identical model.

    Raises:
        BurnishError: as `trees.hash_tree`.
    """
    return trees.tree_digest(trees.hash_tree(directory / MODEL_FOLDER).files)


def put_artifact(store: Store, directory: Path) -> ArtifactRef:
    """Store an artifact directory (see `ArtifactConfig`).

    Raises:
        BurnishError: InternalError if `artifact.json` is missing or wrong; UnsafeSource; StoreFull, StoreNotWritable.
    """
    config = config_bytes(_load_config(directory))
    layers = [_put_layer(store, directory, entry) for entry in files.list_files(directory) if entry.path != CONFIG_FILE]
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": oci.ARTIFACT,
            "config": {"mediaType": oci.CONFIG, "digest": store.put_blob(config), "size": len(config)},
            "layers": [layer.model_dump(mode="json", by_alias=True) for layer in layers],
        }
    )
    return _reference(store.put_blob(manifest), layers)


def get_artifact(store: Store, digest: str, target: Path, *, max_bytes: int = files.MAX_BYTES) -> ArtifactConfig:
    """Write the artifact whose manifest has `digest` to the directory `target`; `artifact.json` comes last, when all else is complete.

    Manifest, config, layers and the files themselves are verified, and no file is larger than its annotation says.

    Args:
        max_bytes: limit on the sum of the files' sizes.

    Raises:
        BurnishError: NotInStore (also if the digest is not an artifact's), StoreCorrupted, StoreNotReadable, DiskFull; UnsafeSource if a layer's
            path leads out of `target`; SourceTooLarge.
    """
    manifest = read_manifest(store, digest)
    total = sum(layer.annotations.content_size for layer in manifest.layers)
    if total > max_bytes:
        raise BurnishError(Reason.SourceTooLarge, f"artifact {digest} unpacks to {total} bytes, more than the limit of {max_bytes}")
    data = store.read_blob(manifest.config.digest)
    config = _parse_config(data, digest)
    for layer in manifest.layers:
        path = layer.annotations.path
        if path == CONFIG_FILE:
            raise BurnishError(Reason.UnsafeSource, f"artifact {digest} has a layer {path}, which only its config may be; run the manifest again")
        _get_layer(store, layer, target.joinpath(*files.split(path)))
    with files.new_file(target / CONFIG_FILE) as file:
        file.write(data)
    return config


def read_manifest(store: Store, digest: str) -> oci.Manifest:
    """An artifact's manifest, verified.

    Raises:
        BurnishError: NotInStore (also if the digest is not an artifact's), StoreCorrupted, StoreNotReadable.
    """
    try:
        return oci.Manifest.model_validate_json(store.read_blob(digest))
    except ValidationError as error:
        raise BurnishError(Reason.NotInStore, f"{digest} is in the store, but is no artifact; take a digest that `burnish report` prints") from error


def read_config(store: Store, digest: str) -> ArtifactConfig:
    """`artifact.json` of an artifact, verified.

    Raises:
        BurnishError: as `read_manifest`.
    """
    return _parse_config(store.read_blob(read_manifest(store, digest).config.digest), digest)


def _parse_config(data: bytes, digest: str) -> ArtifactConfig:
    try:
        return ArtifactConfig.model_validate_json(data)
    except ValidationError as error:
        raise BurnishError(
            Reason.StoreCorrupted, f"artifact {digest} was written by another release of Burnish; use that release, or run the manifest again"
        ) from error


def blob_digests(store: Store, digest: str) -> list[str]:
    """All blobs of an artifact: manifest, config, layers.

    Raises:
        BurnishError: as `read_manifest`.
    """
    manifest = read_manifest(store, digest)
    return [digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)]


def has_artifact(store: Store, digest: str) -> bool:
    """True where the store has the artifact with all its blobs; what they hold is verified when they are read.

    Raises:
        BurnishError: StoreCorrupted, StoreNotReadable.
    """
    return store.has_blob(digest) and all(store.has_blob(blob) for blob in blob_digests(store, digest))


def _load_config(directory: Path) -> ArtifactConfig:
    with files.open_file(directory, CONFIG_FILE) as file:
        try:
            return ArtifactConfig.model_validate_json(file.read())
        except ValidationError as error:
            raise BurnishError(Reason.InternalError, f"{directory / CONFIG_FILE} is not an artifact's description") from error


def _put_layer(store: Store, directory: Path, entry: files.Entry) -> oci.Layer:
    import zstandard  # here, as `build` only hashes and describes artifacts

    content, size = hashlib.sha256(), 0
    with files.open_file(directory, entry.path) as file, store.scratch() as scratch:
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
        for chunk in files.chunks(file):
            content.update(chunk)
            size += len(chunk)
            scratch.write(compressor.compress(chunk))
        scratch.write(compressor.flush())
        digest = store.publish_blob(scratch)
        annotations = {oci.TITLE: entry.path, oci.CONTENT_DIGEST: f"sha256:{content.hexdigest()}", oci.CONTENT_SIZE: str(size)}
        return oci.Layer.model_validate({"mediaType": oci.LAYER, "digest": digest, "size": scratch.size, "annotations": annotations})


def _get_layer(store: Store, layer: oci.Layer, target: Path) -> None:
    import zstandard

    content, size = hashlib.sha256(), 0
    with store.open_blob(layer.digest) as blob, files.new_file(target) as file:
        try:
            with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(cast(BinaryIO, blob), closefd=False) as reader:
                for chunk in files.chunks(reader):
                    size += len(chunk)
                    if size > layer.annotations.content_size:
                        break
                    content.update(chunk)
                    file.write(chunk)
        except zstandard.ZstdError:
            size = -1
        for _ in files.chunks(blob):  # to the end, where the layer's own digest is compared: that error says more
            pass
        if size != layer.annotations.content_size or f"sha256:{content.hexdigest()}" != layer.annotations.content_digest:
            raise BurnishError(
                Reason.StoreCorrupted,
                f"layer {layer.digest} does not hold the file {layer.annotations.path} that its manifest promises; "
                "whoever wrote it was not Burnish: pull an artifact that a run has published",
            )


def _reference(digest: str, layers: list[oci.Layer]) -> ArtifactRef:
    model = [layer for layer in layers if layer.annotations.path.startswith(MODEL_FOLDER)]
    refs = [
        FileRef(path=m.annotations.path.removeprefix(MODEL_FOLDER), digest=m.annotations.content_digest, size=m.annotations.content_size)
        for m in model
    ]
    return ArtifactRef(
        digest=digest,
        size_bytes=sum(ref.size for ref in refs),
        stored_bytes=sum(layer.size for layer in model),
        content_digest=trees.tree_digest(refs),
    )
