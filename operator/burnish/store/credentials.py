"""Credentials of a store or a source, from the two places that they may come from: a mounted Secret, or the user's environment.

Static keys only: a pod's own identity would reach every program in it, a model's code included. They are kept in memory, never in a command line,
an environment that children inherit, or a message.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from burnish.errors import BurnishError, Reason

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
HUB = "HF_ENDPOINT"
URI_PREFIX = "uriPrefix"
TOKEN = "token"  # noqa: S105  # a key's name
_MAX_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What an object store or a server asks for. Shows nothing of itself."""

    access_key: str = dataclasses.field(default="", repr=False)
    secret_key: str = dataclasses.field(default="", repr=False)
    session_token: str = dataclasses.field(default="", repr=False)
    token: str = dataclasses.field(default="", repr=False)
    """For https and hf: sent as `Authorization: Bearer`."""
    region: str = ""
    endpoint: str = ""
    """URL of an S3-compatible server; empty = Amazon's."""
    hub: str = ""
    """URL of a Hub other than Hugging Face's own."""
    uri_prefix: str = ""
    """The URIs that these may be sent to; empty = any."""

    def covers(self, uri: str) -> bool:
        """Whether they may be sent there. A prefix ends at a path's part: `s3://models` is not one of `s3://models-of-others`."""
        prefix = self.uri_prefix.rstrip("/")
        return not prefix or uri == prefix or uri.startswith(prefix + "/")


def read_secret(directory: Path, *, field: str) -> Credentials:
    """The credentials in a mounted Secret: one file per key.

    Args:
        directory: where it is mounted.
        field: the manifest's field that names it, for messages.

    Raises:
        BurnishError: SecretNotFound, where there is nothing.
    """
    found = [name for name in (*KEYS, HUB, URI_PREFIX, TOKEN) if (directory / name).is_file()]
    if not found:
        raise BurnishError(
            Reason.SecretNotFound,
            f"the Secret is not in this namespace, or has none of the keys {', '.join((*KEYS[:2], TOKEN))}; make it "
            "(kubectl create secret generic NAME --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=... "
            "--from-literal=AWS_ENDPOINT_URL=...)",
            field=field,
        )
    return _build(lambda name: (directory / name).read_bytes()[:_MAX_BYTES].decode(errors="replace").strip() if name in found else "")


def read_environment() -> Credentials:
    """Those of the user's own environment, as the AWS command line and Hugging Face's read it."""
    names = {**{name: name for name in KEYS}, HUB: HUB, TOKEN: "HF_TOKEN"}
    return _build(lambda name: os.environ.get(names[name], "") if name in names else "")


def _build(value: Callable[[str], str]) -> Credentials:
    return Credentials(
        access_key=value("AWS_ACCESS_KEY_ID"),
        secret_key=value("AWS_SECRET_ACCESS_KEY"),
        session_token=value("AWS_SESSION_TOKEN"),
        region=value("AWS_REGION"),
        endpoint=value("AWS_ENDPOINT_URL"),
        hub=value(HUB),
        uri_prefix=value(URI_PREFIX),
        token=value(TOKEN),
    )
