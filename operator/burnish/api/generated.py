"""Every file of the repository that is generated from the models: `burnish crd --write` writes them, `--check` and a test compare them."""

from __future__ import annotations

from pathlib import Path

from burnish.api import crd, reference

CHECKOUT = Path(__file__).parents[3]
EXAMPLE = "examples/digits.yaml"


def generated_files(root: Path = CHECKOUT) -> dict[str, str]:
    """Path, relative to the repository -> text.

    Args:
        root: a checkout, for the example that the reference shows; without one the reference has no example.
    """
    example = root / EXAMPLE
    return {
        crd.FILE: crd.render(),
        crd.CHART_FILE: crd.render_chart(),
        reference.FIELDS_FILE: reference.render_fields(example.read_text() if example.is_file() else None),
        reference.REASONS_FILE: reference.render_reasons(),
    }
