"""What the controller knows of the cluster: the resources and their children, from watches, lists and the answers to its own writes.

Watches may be late, repeat themselves or lose an event. So an object only ever replaces an older version of itself, one that is gone stays gone, and
a list of everything (`replace`) settles the rest. Planning on what is out of date does no harm: every write names the uid that it means.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
        key = _key(kind, body)
        metadata = body["metadata"]
        if key is None or metadata["uid"] in self._gone:
            return None
        entries = self._objects.setdefault(key, {})
        known = entries.get((kind, metadata["name"]))
        version = int(metadata["resourceVersion"])
        if known is not None and known.version > version:
            return None
        kept = views.trim(kind, body)
        if known is not None and known.kept == kept:
            known.version = version
            return None
        entries[kind, metadata["name"]] = _Entry(metadata["uid"], version, kept)
        return key

    def deleted(self, kind: str, body: Object) -> Key | None:
        """An object that is gone. Returns whose it was, if it was known."""
        key = _key(kind, body)
        return self.forget(kind, key, body["metadata"]["name"], body["metadata"]["uid"]) if key is not None else None

    def forget(self, kind: str, key: Key, name: str, uid: str) -> Key | None:
        """The same, where only its name is at hand."""
        self._gone.add(uid)
        entries = self._objects.get(key, {})
        known = entries.get((kind, name))
        if known is None or known.uid != uid:
            return None
        self._remove(key, kind, name)
        return key

    def replace(self, kind: str, items: Iterable[Object], version: int) -> set[Key]:
        """A list of all objects of a kind, as of `version`. Returns whose objects were news."""
        changed: set[Key] = set()
        listed: set[str] = set()
        for body in items:
            listed.add(body["metadata"]["uid"])
            key = self.seen(kind, body)
            if key is not None:
                changed.add(key)
        for key, entries in list(self._objects.items()):
            for (found, name), entry in list(entries.items()):
                if found == kind and entry.uid not in listed and entry.version <= version:
                    self._remove(key, kind, name)
                    changed.add(key)
        return changed

    def forget_gone(self) -> None:
        """After a list of everything, nothing older is on its way any more."""
        self._gone.clear()

    def model(self, key: Key) -> dict[str, Any] | None:
        """The resource itself."""
        entry = self._objects.get(key, {}).get((names.KIND, key.name))
        return json.loads(entry.kept) if entry is not None else None

    def children(self, key: Key, kind: str) -> list[dict[str, Any]]:
        """The children of a kind, by name."""
        entries = self._objects.get(key, {})
        return [json.loads(entry.kept) for (found, _), entry in sorted(entries.items()) if found == kind]

    def models(self) -> list[Key]:
        """The resources that are there."""
        return [key for key, entries in self._objects.items() if (names.KIND, key.name) in entries]

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
