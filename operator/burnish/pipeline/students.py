"""The model of its own that one of a target's passes starts from (Distill's `student.source`): found in the manifest, and named by its own fields."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from burnish.api import requests
from burnish.api.job_contract import PipelineRequest, ResolveRequest
from burnish.errors import BurnishError, Reason
from burnish.pipeline import formats
from burnish.plugins import base as plugins
from burnish.plugins import registry
from burnish.plugins.files import Files

_OF_SOURCE = "spec.source."


@dataclasses.dataclass(frozen=True)
class Student:
    """What the manifest says of one."""

    target: str
    where: str
    """The pass's entry, such as `spec.passes[0]`."""
    source: plugins.PassSource

    def field(self, name: str) -> str:
        """The field that says of it what `spec.source` says of the source under this name."""
        return f"{self.where}.{self.source.fields[name]}"

    def find_format(self, files: Files) -> plugins.Format:
        """Which format it is of, without an ML library.

        Raises:
            BurnishError: as `formats.find`; UnsupportedFormat where no module can be made of it that trains.
        """
        with self.naming():
            plugin = formats.detect(files, self.source.format)
            if not plugin.is_trainable:
                able = ", ".join(name for name, known in registry.formats().items() if known.is_trainable)
                raise BurnishError(
                    Reason.UnsupportedFormat,
                    f"{files.name} is {plugin.name}, which can't become a PyTorch module here, and that is what is trained; give it as one of {able}",
                )
            plugin.check_options(self.source.options)
        return plugin

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Let what is said of a source name this one, and its fields."""
        try:
            yield
        except BurnishError as error:
            known = error.field or "spec.passes"
            name = known.removeprefix(_OF_SOURCE) if known.startswith(_OF_SOURCE) else "uri"
            is_ours = known.startswith((_OF_SOURCE, "spec.passes"))
            field = self.field(name if name in self.source.fields else "uri") if is_ours else known
            text = error.message if error.message.startswith("the student") else f"the student: {error.message}"
            raise BurnishError(error.reason, text, field=field) from error


def of_targets(request: ResolveRequest) -> list[Student]:
    """Those of all targets that have one; targets without passes of their own share one, and its field."""
    made = []
    for number, target in enumerate(request.targets):
        found = requests.located(request.passes[target.name])
        if found is not None:
            made.append(Student(target.name, f"spec.{'' if target.passes is None else f'targets[{number}].'}{found[0]}", found[1]))
    return made


def of_pipeline(request: PipelineRequest) -> Student | None:
    """The target's own."""
    found = requests.located(request.passes)
    return None if found is None else Student(request.target.name, f"spec.{found[0]}", found[1])
