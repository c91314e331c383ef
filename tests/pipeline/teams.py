"""The step `train` in several processes, without a GPU for any of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from burnish.toolchains import environments


def team_of_two(work: Path) -> subprocess.Popen[str]:
    """The step `train` of a finished run once more, in two processes."""
    request = json.loads((work / "request.json").read_text())
    request["target"]["accelerator"] |= {"type": "GPU", "count": 2}
    (work / "request.json").write_text(json.dumps(request))
    shutil.rmtree(work / "steps/03-train")
    found = environments.find("torch")
    assert found is not None
    command = [found.python, "-P", "-m", "burnish.pipeline", "train", "--work", work]
    return subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
