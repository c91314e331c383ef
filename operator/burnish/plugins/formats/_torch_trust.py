"""Formats whose files are programs: loading one runs what its author put into it.

`.pt2` files evaluate expressions (sympy) and fall back to full pickles for their sample inputs; TorchScript runs `__setstate__` and has operators
that write files. So they are loaded only where the manifest says that their author is trusted, and then in a step that has neither network nor
credentials.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.files import Files
from burnish.plugins.formats import _torch_weights

_MAX_GRAPH_BYTES = 256 * 2**20
"""Of a program's nodes as JSON; a larger file is not looked into for what it can't load."""


class Program(base.Format):
    """What such formats have in common."""

    toolchain: ClassVar[str] = "torch"
    options: ClassVar[frozenset[str]] = frozenset({"trusted"})

    def detect(self, files: Files) -> bool:
        """True for a zip file with the format's entries."""
        return _torch_weights.zip_kind(files) == self.name

    def check_options(self, options: base.SourceOptions) -> None:
        """As every format's; and the source is trusted.

        Raises:
            BurnishError: InvalidManifest, SourceNotTrusted.
        """
        super().check_options(options)
        check(options, self.name)

    def wanted(self, folder: Files) -> str:
        """The trust."""
        return "trusted: true"


def load(source: base.SourceModel, format_name: str, read: Callable[[Path], Any], cure: str) -> Any:
    """What `read` makes of the source, which is trusted.

    Raises:
        BurnishError: SourceNotTrusted; UnsupportedOperator for one of a library of its author's; InvalidModel, with the cure.
    """
    import torch

    check(source.options, format_name)
    try:
        return read(source.path)
    except Exception as error:  # of the program's own code, or whatever a damaged archive makes torch raise
        if strange := _strange_operators(source.path, str(error)):
            text = f"{source.path.name} has operators that PyTorch doesn't have, of a library of its author's: {', '.join(strange)}"
            raise BurnishError(Reason.UnsupportedOperator, f"{text}; write the model without them and save it again") from error
        said = " ".join(str(error).split())[:300]
        raise BurnishError(Reason.InvalidModel, f"torch {torch.__version__} can't load {source.path.name}: {said}; {cure}") from error


def _strange_operators(path: Path, said: str) -> list[str]:
    """Operators that the torch of this process doesn't have: a program's nodes name them, of a script torch says so itself."""
    import torch

    named = set(re.findall(r"Unknown builtin op: (\w+)::(\w+)", said))
    with contextlib.suppress(OSError, zipfile.BadZipFile, UnicodeDecodeError), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("/models/model.json") and entry.file_size <= _MAX_GRAPH_BYTES:
                named |= set(re.findall(r'"target": *"torch\.ops\.(\w+)\.(\w+)', archive.read(entry).decode()))
    return sorted(f"{library}::{operator}" for library, operator in named if not hasattr(getattr(torch.ops, library), operator))


def check(options: base.SourceOptions, format_name: str) -> None:
    """Refuse a program that nobody vouched for.

    Raises:
        BurnishError: SourceNotTrusted.
    """
    if not options.trusted:
        raise BurnishError(
            Reason.SourceNotTrusted,
            f"loading a file of format {format_name} runs code of its author's; set trusted: true if you trust that author as your own team, "
            "or save the weights as safetensors (format StateDict) or the model as ONNX, which run nothing",
            field="spec.source.trusted",
        )
