"""`burnish toolchain`: make the environments of the steps ahead of time, or see which are there."""

from __future__ import annotations

import argparse

from burnish.toolchains import environments


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "toolchain", help="make the steps' environments ahead of time", description="Environments are made when first needed; this makes them now."
    )
    parser.add_argument("action", choices=["list", "install"])
    parser.add_argument("name", nargs="*", type=_known, help="toolchains to install (default: all)")
    parser.set_defaults(function=main)


def _known(name: str) -> str:
    if name not in environments.TOOLCHAINS:
        raise argparse.ArgumentTypeError(f"there is no toolchain {name!r}; there are {', '.join(environments.TOOLCHAINS)}")
    return name


def main(options: argparse.Namespace) -> int:
    """List or install; returns the exit code."""
    for name in options.name or environments.TOOLCHAINS:
        found = environments.ensure(name, print) if options.action == "install" else environments.find(name)
        print(f"{name}: {found.directory if found else 'not made yet'}  ({environments.TOOLCHAINS[name].purpose})")
    return 0
