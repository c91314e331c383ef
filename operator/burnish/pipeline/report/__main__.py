"""Renders a result in the store: what `burnish report` starts in the environment that has the plotting libraries."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from burnish.api.job_contract import Result
from burnish.errors import BurnishError, Reason
from burnish.pipeline import publish, records, verdict
from burnish.pipeline.report.inputs import ReportInput
from burnish.pipeline.report.page import render
from burnish.store.store import Store, open_store


def load_input(store: Store, name: str) -> ReportInput:
    """Everything that the store knows of a result.

    Args:
        store: where it is.
        name: name of the result record, `<model>.<target>`.

    Raises:
        BurnishError: NotInStore, StoreCorrupted, StoreNotReadable.
    """
    result = store.get_record(records.RESULTS, name, Result)
    if result is None:
        raise BurnishError(Reason.NotInStore, f"the store has no result {name}")
    return ReportInput(
        model=name.split(".")[0],
        target=result.status,
        record=publish.load_measurement(result.measurement, store),
        build=result.build,
        constraints=result.constraints,
        judgements=verdict.decide(result.measurement, result.build, result.constraints).judgements,
        warnings=result.warnings,
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m burnish.pipeline.report", description="Write the HTML report of a result in the store.")
    parser.add_argument("--store", required=True)
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--result", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        options.output.write_text(render(load_input(open_store(options.store, namespace=options.namespace), options.result)), encoding="utf-8")
    except BurnishError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
