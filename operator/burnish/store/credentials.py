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
GOOGLE = ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST")
AZURE = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SERVICE_ENDPOINT")
SOURCE_VARIABLES = ("HF_TOKEN", HUB, *GOOGLE, *AZURE)
"""Of a user's environment, beside `KEYS`; only what fetches sources gets them."""
URI_PREFIX = "uriPrefix"
TOKEN = "token"  # noqa: S105  # a key's name
AUTHORITY = "ca.crt"
"""Kubernetes' usual name for it."""
AUTHORITY_CURE = f"put its authority's certificate (PEM) into the Secret, under the key {AUTHORITY}; at a terminal name the file in SSL_CERT_FILE"
_ALL = (*KEYS, HUB, URI_PREFIX, TOKEN, *GOOGLE, *AZURE)
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
    google_key: str = dataclasses.field(default="", repr=False)
    """Of a service account: the JSON text; from an environment the path of its file."""
    google_endpoint: str = ""
    azure_account: str = ""
    azure_key: str = dataclasses.field(default="", repr=False)
    azure_sas: str = dataclasses.field(default="", repr=False)
    azure_endpoint: str = ""
    """URLs of what speaks Google's or Azure's interface; empty = theirs."""
    authority: str = ""
    """Path of a file of certificates (PEM) that are trusted beside the system's."""
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
        BurnishError: SecretNotFound, where there is nothing, or no certificate where one should be.
    """
    found = [name for name in (*_ALL, AUTHORITY) if (directory / name).is_file()]
    if not found:
        raise BurnishError(
            Reason.SecretNotFound,
            f"the Secret is not in this namespace, or has none of the keys {', '.join((*KEYS[:2], TOKEN, GOOGLE[0], AZURE[0]))}; make it "
            "(kubectl create secret generic NAME --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=... "
            "--from-literal=AWS_ENDPOINT_URL=...)",
            field=field,
        )
    built = _build(lambda name: (directory / name).read_bytes()[:_MAX_BYTES].decode(errors="replace").strip() if name in found else "")
    if AUTHORITY not in found:
        return built
    _check_authority(directory / AUTHORITY, field)
    return dataclasses.replace(built, authority=str(directory / AUTHORITY))


def read_environment() -> Credentials:
    """Those of the user's own environment, as the command lines of the clouds and Hugging Face's read it."""
    names = {**{name: name for name in _ALL if name != URI_PREFIX}, TOKEN: "HF_TOKEN"}
    return _build(lambda name: os.environ.get(names[name], "") if name in names else "")


def with_google_file(found: Credentials) -> Credentials:
    """Those of an environment with the content of the file that it names.

    Raises:
        BurnishError: SourceForbidden, where it can't be read.
    """
    if not found.google_key:
        return found
    try:
        content = Path(found.google_key).read_bytes()[:_MAX_BYTES]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise BurnishError(Reason.SourceForbidden, f"the file that {GOOGLE[0]} names can't be read ({why}); correct the variable") from None
    return dataclasses.replace(found, google_key=content.decode(errors="replace"))


def _check_authority(path: Path, field: str) -> None:
    import ssl  # only here: most processes talk to nobody

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise BurnishError(
            Reason.SecretNotFound, f"the Secret's key {AUTHORITY} holds no certificate in PEM (-----BEGIN CERTIFICATE-----); correct it", field=field
        ) from None


def _build(value: Callable[[str], str]) -> Credentials:
    return Credentials(
        access_key=value("AWS_ACCESS_KEY_ID"),
        secret_key=value("AWS_SECRET_ACCESS_KEY"),
        session_token=value("AWS_SESSION_TOKEN"),
        region=value("AWS_REGION"),
        endpoint=value("AWS_ENDPOINT_URL"),
        hub=value(HUB),
        google_key=value(GOOGLE[0]),
        google_endpoint=value(GOOGLE[1]),
        azure_account=value(AZURE[0]),
        azure_key=value(AZURE[1]),
        azure_sas=value(AZURE[2]),
        azure_endpoint=value(AZURE[3]),
        uri_prefix=value(URI_PREFIX),
        token=value(TOKEN),
    )
