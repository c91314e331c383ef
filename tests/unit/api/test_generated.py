"""Generated files are what the models say now, and the pages leave nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from burnish.api import generated, reference, schema
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.errors import REASONS, ExitCode, Kind, Reason

FILES = generated.generated_files()


@pytest.mark.parametrize("path", FILES)
def test_generated_file_is_up_to_date(path: str) -> None:
    assert (generated.CHECKOUT / path).read_text() == FILES[path], f"{path} is out of date; run `make generate`"


def test_generated_files_are_equal_in_two_runs() -> None:
    assert generated.generated_files() == FILES


def test_generated_files_need_no_examples(tmp_path: Path) -> None:
    assert "```yaml" not in generated.generated_files(tmp_path)[reference.FIELDS_FILE]


def test_reasons_page_has_every_reason_with_its_facts() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", FILES[reference.REASONS_FILE], flags=re.M))
    assert set(rows) == {str(reason) for reason in Reason}
    assert rows["SourceTimeout"] == f"5 | yes | {REASONS[Reason.SourceTimeout].meaning}"
    assert rows["InvalidManifest"] == f"2 | no | {REASONS[Reason.InvalidManifest].meaning}"
    assert rows["Interrupted"].startswith("130 | yes")
    assert all(rows[reason].endswith(facts.meaning) for reason, facts in REASONS.items())
    assert all(rows[reason][0] == "2" for reason, facts in REASONS.items() if facts.kind is Kind.INPUT)


def test_reasons_page_has_every_exit_code() -> None:
    for code in ExitCode:
        assert f"| {code.value} | " in FILES[reference.REASONS_FILE]


def test_reference_has_a_row_or_a_link_for_every_object() -> None:
    page = FILES[reference.FIELDS_FILE]

    def check(path: str, node: schema.Schema) -> None:
        section = page.split(f"\n### {path}\n", 1)[1].split("\n### ", 1)[0]
        if "The fields are those of" in section:
            return
        for name, child in node["properties"].items():
            assert f"| `{name}` | " in section, f"{path}.{name}"
            inner = child.get("items", child)
            if inner["type"] == "object":
                check(f"{path}.{name}{'[]' if child['type'] == 'array' else ''}", inner)

    flat = schema.flatten(OptimizedModel)["properties"]
    check("spec", flat["spec"])
    check("status", flat["status"])


def test_reference_links_lead_somewhere() -> None:
    page = FILES[reference.FIELDS_FILE]
    headings = {re.sub(r"[^a-z0-9-]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", page, flags=re.M)}
    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    assert links
    assert links <= headings
    for target in set(re.findall(r"\]\(([^#)]+)\)", page)):
        assert f"docs/{target}" in FILES


def test_reference_tables_are_well_formed() -> None:
    for text in (FILES[reference.FIELDS_FILE], FILES[reference.REASONS_FILE]):
        for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
            widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(widths) == 1, table[:200]
