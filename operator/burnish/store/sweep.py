"""Garbage: blobs that no record refers to any more, or never did because a run was killed before it wrote one.

Records are never removed, so what was built and measured once stays known. A publisher files its blobs first and the record last; in between
they look like garbage, and only their age tells them apart. Hence the order here: blobs that are old enough, then what the records refer to,
then, blob by blob, a last look at the age. A publisher that finds a blob in the store renews it before it counts on it (`Store.keep_blob`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from burnish.api import numbers
from burnish.api.scalars import format_bytes
from burnish.errors import BurnishError, Reason
from burnish.store import oci
from burnish.store.backend import MIN_GRACE_SECONDS
from burnish.store.store import Store

_MANIFEST_START = b'{"artifactType":"' + oci.ARTIFACT.encode()
"""How canonical JSON starts an artifact's manifest; a model's file that starts like this is parsed in vain."""


class Garbage(NamedTuple):
    """A blob that goes."""

    digest: str
    size: int


def find(store: Store, *, before: float) -> list[Garbage]:
    """The blobs that were filed before a time and that no record refers to, sorted by digest.

    Raises:
        BurnishError: StoreNotReadable; StoreCorrupted, where a record or manifest is damaged: what it refers to can't be told from garbage.
    """
    there = {f"sha256:{blob.name}": blob for blob in store.list_blobs()}
    old = {digest for digest, blob in there.items() if blob.modified < before}
    if not old:
        return []
    return [Garbage(digest, there[digest].size) for digest in sorted(old - referenced(store))]


def remove(store: Store, garbage: list[Garbage], *, before: float) -> Iterator[Garbage]:
    """Remove what `find` found, except what was renewed since; yields each blob that is gone.

    Raises:
        BurnishError: StoreNotWritable.
    """
    for blob in garbage:
        if store.remove_blob(blob.digest, before):
            yield blob


def referenced(store: Store) -> set[str]:
    """Every digest that a record mentions, and what the artifacts among them consist of.

    Raises:
        BurnishError: as `find`.
    """
    found: set[str] = set()
    for kind in store.record_kinds():
        for key in store.list_records(kind):
            found |= store.record_digests(kind, key)
    return found.union(*(_parts(store, digest) for digest in found))


def check_grace(seconds: float) -> None:
    """Refuse a grace time within which a publisher may still be at work.

    Raises:
        BurnishError: InvalidManifest.
    """
    if seconds < MIN_GRACE_SECONDS:
        hours = MIN_GRACE_SECONDS // 3600
        raise BurnishError(
            Reason.InvalidManifest,
            f"a run that is at work may still need blobs younger than {hours}h; name {hours}h or more",
            field="--older-than",
        )


def describe(what: str, sizes: list[int]) -> str:
    """How many of something and how much, for people."""
    return f"{numbers.counted(len(sizes), what)}, {format_bytes(sum(sizes))}"


def _parts(store: Store, digest: str) -> set[str]:
    """Config and layers, where the digest is an artifact's."""
    if not store.has_blob(digest):
        return set()
    with store.open_blob(digest) as blob:
        start = blob.read(len(_MANIFEST_START)) or b""
    if start != _MANIFEST_START:
        return set()
    try:
        manifest = oci.Manifest.model_validate_json(store.read_blob(digest))
    except ValueError:
        return set()
    return {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
