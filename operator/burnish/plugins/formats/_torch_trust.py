"""Formats whose files are programs: loading one runs what its author put into it.

`.pt2` files evaluate expressions (sympy) and fall back to full pickles for their sample inputs; TorchScript runs `__setstate__` and has operators
that write files. So they are loaded only where the manifest says that their author is trusted, and then in a step that has neither network nor
credentials.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.files import Files
from burnish.plugins.formats import _torch_weights


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


def load(source: base.SourceModel, format_name: str, read: Callable[[Path], Any], cure: str) -> Any:
    """What `read` makes of the source, which is trusted.

    Raises:
        BurnishError: SourceNotTrusted; InvalidModel, with the cure.
    """
    import torch

    check(source.options, format_name)
    try:
        return read(source.path)
    except Exception as error:  # of the program's own code, or whatever a damaged archive makes torch raise
        said = " ".join(str(error).split())[:300]
        raise BurnishError(Reason.InvalidModel, f"torch {torch.__version__} can't load {source.path.name}: {said}; {cure}") from error


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
