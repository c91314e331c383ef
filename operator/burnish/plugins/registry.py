"""Finds the plugins: every class in the three plugin packages, no list to keep in step.

Scanning imports each plugin module, which is cheap by rule (heavy imports only inside methods; a test holds it).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from burnish.plugins import base

T = TypeVar("T")


def _scan(package: str, kind: type[T]) -> Mapping[str, T]:
    found: dict[str, T] = {}
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda i: i.name):
        module = importlib.import_module(f"{package}.{info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, kind) and not inspect.isabstract(value) and value.__module__ == module.__name__:
                plugin = value()
                found[plugin.name] = plugin  # type: ignore[attr-defined]  # every plugin class declares `name`
    return MappingProxyType(found)


@functools.cache
def formats() -> Mapping[str, base.Format]:
    """Source formats by name."""
    return _scan("burnish.plugins.formats", base.Format)  # type: ignore[type-abstract]


@functools.cache
def passes() -> Mapping[str, base.Pass]:
    """Passes by name."""
    return _scan("burnish.plugins.passes", base.Pass)


@functools.cache
def runtimes() -> Mapping[str, base.Runtime]:
    """Runtimes by name."""
    return _scan("burnish.plugins.runtimes", base.Runtime)  # type: ignore[type-abstract]


def exporter(source_format: str | None, runtime: str) -> base.Format | base.Runtime:
    """Whose toolchain and libraries the export of a source needs: the format's, or the runtime's, where the format isn't known."""
    return formats().get(source_format or "") or runtimes()[runtime]
