"""A workspace to work in, made by ``mentor init``: the notebooks, the studies and a reward to begin with.

``notebooks`` and ``studies`` are links to the repository's folders; a wheel holds the files themselves.
"""

import shutil
from contextlib import suppress
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
        OSError: it cannot be written, or the disk is full. Nothing is left of what was copied.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder")
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target}: is not empty; name a new folder")
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            _copy(_FOLDER / name, target / name)
    except BaseException:  # such as a full disk, or Ctrl-C: half a workspace would be refused as not empty
        for name in PARTS:
            _remove(target / name)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise
    return target


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder; as shutil.copytree, but the first error ends it, and is an ordinary OSError."""
    if not source.is_dir():
        shutil.copyfile(source, target)
    elif source.name not in (".ipynb_checkpoints", "__pycache__"):
        target.mkdir()
        for file in source.iterdir():
            _copy(file, target / file.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
