"""From tokens to one vector per sentence, as sentence-transformers does it: the modules that modules.json names, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason
from burnish.plugins.files import LocalFiles, read_json

MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
"""`pooling_mode_<mode>` in the Pooling module's config.json, in the order in which the library joins them."""


def transformer_folder(directory: Path) -> str:
    """Where the transformer itself lies, relative to `directory`.

    Raises:
        BurnishError: ArchitectureMismatch, where modules.json names something else first, or a module that is not known here.
    """
    kinds = [(kind, path) for kind, path in _modules(directory)]
    unknown = [kind for kind, _ in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or not kinds or kinds[0][0] != "Transformer":
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"modules.json names {', '.join(kind for kind, _ in kinds) or 'nothing'}; Transformer, then Pooling and Normalize are served; "
            "export other models to ONNX where their code is",
        )
    return kinds[0][1]


def with_pooling(model: Any, directory: Path) -> Any:
    """A module that answers with `sentence_embedding`, (N, dimensions).

    Raises:
        BurnishError: ArchitectureMismatch for a way of pooling that is not known here.
    """
    import torch

    modes, normalizes = _modes(directory), any(kind == "Normalize" for kind, _ in _modules(directory))

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.transformer = model

        def forward(self, attention_mask: Any, **arguments: Any) -> dict[str, Any]:
            tokens = self.transformer(attention_mask=attention_mask, **arguments).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            count = mask.sum(1).clamp(min=1e-9)
            pooled = {
                "cls_token": lambda: tokens[:, 0],
                "mean_tokens": lambda: (tokens * mask).sum(1) / count,
                "max_tokens": lambda: tokens.masked_fill(mask == 0, -1e9).max(1).values,
                "mean_sqrt_len_tokens": lambda: (tokens * mask).sum(1) / count.sqrt(),
            }
            found = torch.cat([pooled[mode]() for mode in modes], dim=1)
            return {"sentence_embedding": torch.nn.functional.normalize(found, dim=1) if normalizes else found}

    return SentenceEncoder()


def _modules(directory: Path) -> list[tuple[str, str]]:
    """(class name, folder), in order."""
    listed = read_json(LocalFiles(directory), "modules.json")
    return (
        [(str(m.get("type", "")).rpartition(".")[2], str(m.get("path", ""))) for m in listed if isinstance(m, dict)]
        if isinstance(listed, list)
        else []
    )


def _modes(directory: Path) -> list[str]:
    folder = next((path for kind, path in _modules(directory) if kind == "Pooling"), None)
    config = read_json(LocalFiles(directory), f"{folder}/config.json") if folder else None
    settings = config if isinstance(config, dict) else {}
    asked = [name.removeprefix("pooling_mode_") for name, is_on in settings.items() if name.startswith("pooling_mode_") and is_on is True]
    if isinstance(settings.get("pooling_mode"), str):  # of newer releases
        short = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens"}
        asked = [short.get(settings["pooling_mode"], settings["pooling_mode"])]
    unknown = [mode for mode in asked if mode not in MODES]
    if unknown or not asked:
        raise BurnishError(
            Reason.ArchitectureMismatch, f"the Pooling module asks for {', '.join(unknown) or 'nothing'}; known are {', '.join(MODES)}"
        )
    return [mode for mode in MODES if mode in asked]
