"""Renders a result in the store: what `burnish report` starts in the environment that has the plotting libraries."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path

from burnish.api.job_contract import Result
from burnish.errors import BurnishError, Reason
from burnish.pipeline import publish, records, verdict
from burnish.pipeline.report import figures
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
    """Draw every page that is asked for on stdin, until that ends; returns the exit code.

    A request is a line of JSON, `{"result": ..., "output": ...}`, and so is its answer on stdout: `{}`, or `{"error": ...}`. The libraries are loaded
    before the first request comes, so whoever starts us early waits for the drawing alone.
    """
    parser = argparse.ArgumentParser(prog="python -m burnish.pipeline.report", description="Write HTML reports of results in the store.")
    parser.add_argument("--store", required=True)
    parser.add_argument("--namespace", default="default")
    options = parser.parse_args(arguments)
    figures.load()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            page = render(load_input(open_store(options.store, namespace=options.namespace), request["result"]))
            Path(request["output"]).write_text(page, encoding="utf-8")
            answer = {}
        except BurnishError as error:
            answer = {"error": str(error)}
        except Exception as error:  # a bug: the traceback for who looks for it, a sentence for the user
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201  # the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
