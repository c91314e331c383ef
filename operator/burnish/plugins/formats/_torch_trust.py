"""Formats whose files are programs: loading one runs what its author put into it.

`.pt2` files evaluate expressions (sympy) and fall back to full pickles for their sample inputs; TorchScript runs `__setstate__` and has operators
that write files. So they are loaded only where the manifest says that their author is trusted, and then in a step that has neither network nor
credentials.
"""

from __future__ import annotations

from burnish.errors import BurnishError, Reason
from burnish.plugins import base


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
