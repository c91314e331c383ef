"""The part of the OCI image specification (v1.1) that an artifact needs: descriptors, the image manifest, and our media types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from burnish.api.base import ApiModel
from burnish.api.scalars import Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.burnish.artifact.v1"
CONFIG = "application/vnd.burnish.artifact.config.v1+json"
LAYER = "application/vnd.burnish.artifact.file.v1+zstd"

TITLE = "org.opencontainers.image.title"
"""Relative path of the file that a layer holds (the annotation that ORAS and others use)."""
CONTENT_DIGEST = "dev.burnish.content.digest"
"""Digest of the uncompressed bytes."""
CONTENT_SIZE = "dev.burnish.content.size"
"""Number of uncompressed bytes."""


class OciModel(ApiModel):
    """Fields that we do not write are allowed, as the specification asks of readers."""

    model_config = ApiModel.model_config | {"extra": "ignore"}


class Descriptor(OciModel):
    """Points at a blob."""

    media_type: str
    digest: Digest
    size: Annotated[int, Field(ge=0)]
    """Bytes of the blob."""
    annotations: dict[str, str] = Field(default_factory=dict)


class LayerAnnotations(OciModel):
    """The annotations of a layer, typed here, text outside (the specification has annotations of text only)."""

    path: str = Field(alias=TITLE)
    content_digest: Digest = Field(alias=CONTENT_DIGEST)
    content_size: Annotated[int, Field(ge=0), PlainSerializer(str)] = Field(alias=CONTENT_SIZE)


class Layer(OciModel):
    """A descriptor of one compressed file."""

    media_type: Literal["application/vnd.burnish.artifact.file.v1+zstd"]
    digest: Digest
    size: Annotated[int, Field(ge=0)]
    annotations: LayerAnnotations


class Manifest(OciModel):
    """An image manifest whose layers are an artifact's files."""

    schema_version: Literal[2]
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"]
    artifact_type: Literal["application/vnd.burnish.artifact.v1"]
    config: Descriptor
    layers: tuple[Layer, ...]
