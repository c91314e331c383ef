"""What the controller knows of the cluster: the resources and their children, from watches, lists and the answers to its own writes.

Watches may be late, repeat themselves or lose an event. So an object only ever replaces an older version of itself, one that is gone stays gone, and
a list of everything (`drop_unlisted`) settles the rest. Planning on what is out of date does no harm: every write names the uid that it means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

from pydantic_core import from_json

from burnish import names
from burnish.controller import views
from burnish.reconcile.observed import Key

Object = Mapping[str, Any]


@dataclasses.dataclass(slots=True)
class _Entry:
    uid: str
    version: int
    """Of the object; they grow (KEP-5504 makes that a promise, etcd always kept it)."""
    kept: bytes


class Item(NamedTuple):
    """An object on its way into the cache: all that will be kept of it, and no more."""

    kind: str
    key: Key
    name: str
    uid: str
    version: int
    kept: bytes
    is_deleted: bool = False


def prepare(kind: str, body: Object, *, is_deleted: bool = False) -> Item | None:
    """What will be kept of an object; None where it belongs to no resource. Needs no cache, so any thread may do it."""
    key = _key(kind, body)
    if key is None:
        return None
    metadata = body["metadata"]
    kept = b"" if is_deleted else views.trim(kind, body)
    return Item(kind, key, metadata["name"], metadata["uid"], int(metadata["resourceVersion"]), kept, is_deleted)


class Cache:
    """All that is known, by resource."""

    def __init__(self) -> None:
        self._objects: dict[Key, dict[tuple[str, str], _Entry]] = {}
        self._gone: set[str] = set()
        """uids of what was deleted: a late event must not bring it back."""

    def __iter__(self) -> Iterator[Key]:
        """The resources, and those that only children tell of."""
        return iter(tuple(self._objects))

    def seen(self, kind: str, body: Object) -> Key | None:
        """An object as the apiserver shows it. Returns whose it is, if it is news."""
        item = prepare(kind, body)
        return self.put(item) if item is not None else None

    def put(self, item: Item) -> Key | None:
        """The same, of what was prepared elsewhere."""
        if item.is_deleted:
            return self.forget(item.kind, item.key, item.name, item.uid)
        if item.uid in self._gone:
            return None
        entries = self._objects.setdefault(item.key, {})
        known = entries.get((item.kind, item.name))
        if known is not None and known.version > item.version:
            return None
        if known is not None and known.kept == item.kept:
            known.version = item.version
            return None
        entries[item.kind, item.name] = _Entry(item.uid, item.version, item.kept)
        return item.key

    def forget(self, kind: str, key: Key, name: str, uid: str) -> Key | None:
        """An object that is gone. Returns whose it was, if it was known."""
        self._gone.add(uid)
        entries = self._objects.get(key, {})
        known = entries.get((kind, name))
        if known is None or known.uid != uid:
            return None
        self._remove(key, kind, name)
        return key

    def drop_unlisted(self, kind: str, listed: Set[str], version: int) -> None:
        """Forget what a list of all objects of a kind, as of `version`, did not hold."""
        for key, entries in list(self._objects.items()):
            for (found, name), entry in list(entries.items()):
                if found == kind and entry.uid not in listed and entry.version <= version:
                    self._remove(key, kind, name)

    def forget_gone(self) -> None:
        """After a list of everything, nothing older is on its way any more."""
        self._gone.clear()

    def model(self, key: Key) -> dict[str, Any] | None:
        """The resource itself."""
        entry = self._objects.get(key, {}).get((names.KIND, key.name))
        return from_json(entry.kept) if entry is not None else None

    def children(self, key: Key, kind: str) -> list[dict[str, Any]]:
        """The children of a kind, by name."""
        entries = self._objects.get(key, {})
        return [from_json(entry.kept) for (found, _), entry in sorted(entries.items()) if found == kind]

    def _remove(self, key: Key, kind: str, name: str) -> None:
        entries = self._objects[key]
        del entries[kind, name]
        if not entries:
            del self._objects[key]


def _key(kind: str, body: Object) -> Key | None:
    metadata = body["metadata"]
    if kind == names.KIND:
        return Key(metadata["namespace"], metadata["name"])
    labels = metadata.get("labels") or {}
    model = labels.get(names.LABEL_MODEL)
    return Key(metadata["namespace"], model) if model and labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY else None
