"""Package versions and the git revision of the code."""

import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    *("torch", "trl", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy", "pandas", "pyarrow"),
    *("plotly", "papermill", "math-verify", "mathruler"),
)


def versions() -> dict[str, str]:
    """Installed versions of the packages that the results depend on."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_revision() -> str | None:
    """The commit of the code, with "+dirty" when tracked files differ from it; None if no git repository tracks it.

    Installed into a folder of another project's repository, it is not that project's code.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
