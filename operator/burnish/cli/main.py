"""The `burnish` command: one file per subcommand, found here.

stdout holds the result and nothing else, so that it can be piped; everything that happens on the way goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import sys

import burnish
from burnish.cli import terminal
from burnish.errors import BurnishError, ExitCode

COMMANDS = ("run", "plan", "report", "pull", "sweep", "toolchain", "crd")
EPILOG = """exit codes:
  0    every target is published
  2    invalid manifest, model or data
  3    refused: no candidate holds the limits
  4    undecided: the measurement could not tell
  5    failed: the machine, the network or the store
  130  ended by Ctrl-C

docs: docs/reference.md (every field), docs/reasons.md (every reason)
"""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="burnish",
        description="Convert, compress, measure and judge a trained model: one manifest in, a proven model out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"burnish {burnish.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = [name for name in COMMANDS if arguments[:1] == [name]]
    for name in chosen or COMMANDS:  # loading those that were not chosen would take longer than some commands
        importlib.import_module(f"burnish.cli.{name}").add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        code = int(options.function(options))
        sys.stdout.flush()
        return code
    except BurnishError as error:
        terminal.complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("burnish: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        terminal.drop_readers()
        return ExitCode.FAILED
