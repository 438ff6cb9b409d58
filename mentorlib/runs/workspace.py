"""The workspace: the folder that holds notebooks/, studies/ and runs/, from which relative paths are read.

Commands are run in it. JupyterLab, VS Code, papermill and nbconvert start a notebook's kernel in the notebook's own
folder, one below; there, importing mentorlib goes up to the workspace, so that all of them find the same runs.
"""

import os
import sys
from pathlib import Path


def find_workspace() -> Path:
    """The nearest folder, from the current one upwards, with notebooks/ and studies/ or runs/; else the current one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and any((folder / name).is_dir() for name in ("studies", "runs")):
            return folder
    return here


def enter_workspace() -> None:
    """Go to the workspace, if this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    if ipython and hasattr(ipython.get_ipython(), "kernel"):
        os.chdir(find_workspace())
