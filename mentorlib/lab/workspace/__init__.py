"""A workspace to work in, made by ``mentor init``: the notebooks, the studies and a reward to begin with.

``notebooks`` and ``studies`` are links to the repository's folders; a wheel holds the files themselves.
"""

import shutil
from pathlib import Path

from ...core import InputError

_FOLDER = Path(__file__).parent
# Settings: pages (.md) open as pages; reports (.html) draw their figures, in a frame that reaches nothing else; no
# question about Jupyter's news.
JUPYTERLAB = _FOLDER / "jupyterlab"
PARTS = ("notebooks", "studies", "README.md", "mine.py")


def create_workspace(folder: str | Path) -> Path:
    """Copy the workspace into a new or empty folder. Returns its path.

    Raises:
        InputError: it is a file, or holds something: nothing is ever replaced.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder")
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: is not empty; name a new folder")
    target.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        source = _FOLDER / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
        else:
            shutil.copyfile(source, target / name)
    return target
