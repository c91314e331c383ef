"""Credentials: where they may be sent, and that whoever makes the Secret finds its keys."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trustme

from burnish.api.v1alpha1.optimized_model import Source
from burnish.errors import BurnishError, Reason
from burnish.store import credentials
from burnish.store.credentials import Credentials

KEYS = (*credentials.KEYS, credentials.TOKEN, credentials.HUB, credentials.URI_PREFIX, *credentials.GOOGLE, *credentials.AZURE)
SECRET = (*credentials.KEYS[:3], credentials.TOKEN, credentials.GOOGLE[0], *credentials.AZURE[1:3])
STORE_PAGE = Path(__file__).parents[3] / "docs/store.md"


def test_every_key_of_a_secret_is_read_and_none_is_shown(tmp_path: Path) -> None:
    for key in KEYS:
        (tmp_path / key).write_text(f"value-of-{key}\n")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / credentials.AUTHORITY))
    found = credentials.read_secret(tmp_path, field="spec.source.secretRef")
    assert set(dataclasses.asdict(found).values()) == {*(f"value-of-{key}" for key in KEYS), str(tmp_path / credentials.AUTHORITY)}
    assert not [key for key in SECRET if f"value-of-{key}" in repr(found)]


def test_secret_without_a_key_of_ours_is_named_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2")
    with pytest.raises(BurnishError, match=credentials.KEYS[0]) as raised:
        credentials.read_secret(tmp_path, field="spec.source.secretRef")
    assert (raised.value.reason, raised.value.field) == (Reason.SecretNotFound, "spec.source.secretRef")


@pytest.mark.parametrize("content", ["", "hunter2", "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n"])
def test_authority_that_is_none_is_told_where_the_secret_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / credentials.AUTHORITY).write_text(content)
    with pytest.raises(BurnishError, match=r"ca\.crt holds no certificate in PEM") as raised:
        credentials.read_secret(tmp_path, field="spec.source.secretRef")
    assert (raised.value.reason, raised.value.field) == (Reason.SecretNotFound, "spec.source.secretRef")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("prefix", "uri", "is_covered"),
    [
        ("", "https://anywhere/m.onnx", True),
        ("https://models.example/team", "https://models.example/team/m.onnx", True),
        ("https://models.example/team/", "https://models.example/team/m.onnx", True),
        ("https://models.example/team", "https://models.example/team-b/m.onnx", False),
        ("https://models.example", "https://models.example.evil/m.onnx", False),
        ("s3://models", "s3://models-of-others/m.onnx", False),
        ("s3://models", "https://models/m.onnx", False),
    ],
)
def test_prefix_ends_at_a_part_of_the_path(prefix: str, uri: str, is_covered: bool) -> None:
    assert Credentials(uri_prefix=prefix).covers(uri) is is_covered


def test_docs_name_every_key() -> None:
    table = STORE_PAGE.read_text().split("## Secrets")[1].split("\n## ")[0]
    assert [key for key in (*KEYS, credentials.AUTHORITY) if f"`{key}`" not in table] == []
    description = Source.model_fields["secret_ref"].description or ""  # what kubectl explain prints
    assert [key for key in (*KEYS, credentials.AUTHORITY) if key not in description] == []
