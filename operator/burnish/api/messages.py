"""Termination messages: how a Job's container tells the controller what came of it, in the few kilobytes that a pod has for that.

The controller reads neither the store nor Secrets, so what it shows comes through the pod's status. The kubelet keeps 4 KiB of a container's
message and 12 KiB of a pod's, shared by all its containers (kubernetes.io, "Determine the Reason for Pod Failure"). JSON of a whole target with
its candidates is larger than a share of that, so it is compressed, with the names that recur in every message as a preset dictionary, and where
that doesn't do, the least important parts are left out: the store holds them all.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable

from pydantic import ValidationError

from burnish.api.job_contract import Failure, Message, PublishMessage, ResolveMessage, TargetMessage
from burnish.api.message_dictionary import WORDS_1
from burnish.api.v1alpha1.status import TargetStatus

POD_BYTES = 12 * 1024
CONTAINER_BYTES = 4096
_VERSION = "1:"
_SHORT = 160
_MAX_DECODED_BYTES = 2**20


def budget(containers: int) -> int:
    """Bytes that one of a pod's `containers` may leave."""
    return min(CONTAINER_BYTES, POD_BYTES // containers)


def encode(message: Message, budget_bytes: int) -> str:
    """The message as ASCII text of at most `budget_bytes`; what doesn't fit is shortened, the least important first.

    Raises:
        ValueError: not even the shortest form fits.
    """
    for shorten in (lambda m: m, _shorter_texts, _without_candidates, _bare):
        text = _pack(shorten(message))
        if len(text) <= budget_bytes:
            return text
    raise ValueError(f"a message of {len(text)} bytes does not fit into {budget_bytes}")


def decode(text: str) -> Message | None:
    """The message that a container left; None where it is none of ours (a crash leaves other text) or of another release."""
    if not text.startswith(_VERSION):
        return None
    try:
        data = base64.b85decode(text[len(_VERSION) :])
        unpacker = zlib.decompressobj(zdict=WORDS_1)
        return Message.model_validate_json(unpacker.decompress(data, _MAX_DECODED_BYTES))
    except (ValueError, zlib.error, ValidationError):
        return None


def _pack(message: Message) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, WORDS_1)
    data = packer.compress(message.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True).encode()) + packer.flush()
    return _VERSION + base64.b85encode(data).decode()


def _shorter_texts(message: Message) -> Message:
    """Messages within cut to a line; the first of the details behind them stay."""
    return _map_targets(
        message,
        lambda t: t.model_copy(
            update={
                "message": _cut(t.message),
                "candidates": [c.model_copy(update={"message": _cut(c.message)}) for c in t.candidates],
            }
        ),
        cut=_SHORT,
    )


def _without_candidates(message: Message) -> Message:
    """Without the candidates, and with the first load point only: the one that is judged and shown."""
    return _map_targets(
        message, lambda t: t.model_copy(update={"message": _cut(t.message), "candidates": [], "measurements": t.measurements[:1]}), cut=_SHORT
    )


def _bare(message: Message) -> Message:
    """What the controller acts on."""

    def bare(status: TargetStatus) -> TargetStatus:
        return TargetStatus(name=status.name, state=status.state, reason=status.reason, message=_cut(status.message, 60), artifact=status.artifact)

    return _map_targets(message, bare, cut=60)


def _map_targets(message: Message, change: Callable[[TargetStatus], TargetStatus], *, cut: int) -> Message:
    resolved, published, failure = message.resolved, message.published, message.failure
    if resolved is not None:
        targets = tuple(TargetMessage(plan=t.plan, status=change(t.status)) for t in resolved.targets)
        warnings = tuple(w.model_copy(update={"message": _cut(w.message, cut)}) for w in resolved.warnings)
        resolved = ResolveMessage(source=resolved.source, targets=targets, warnings=warnings)
    if published is not None:
        warnings = tuple(w.model_copy(update={"message": _cut(w.message, cut)}) for w in published.warnings)
        published = PublishMessage(status=change(published.status), source_format=published.source_format, warnings=warnings)
    if failure is not None:
        failure = Failure(
            step=failure.step, reason=failure.reason, message=_cut(failure.message, 4 * cut), field=failure.field, retriable=failure.retriable
        )
    return Message(resolved=resolved, published=published, failure=failure)


def _cut(text: str, length: int = _SHORT) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
