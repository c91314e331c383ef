"""Runs a script of models in its toolchain's environment; see format_cases.py."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

from burnish.toolchains import environments


def case_names(script: Path) -> dict[str, list[str]]:
    """`GOOD` and `BAD` -> names, read from the script: it can't be imported here, where its library isn't."""
    return {
        target.id: [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(target := node.targets[0], ast.Name)
    }


def run_script(toolchain: str, script: Path, directory: Path) -> Path:
    """Let the script leave its models and outcome.json in the directory."""
    found = environments.find(toolchain)
    assert found is not None  # the fixture `toolchains` made it
    done = subprocess.run([found.python, script, directory], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return directory
