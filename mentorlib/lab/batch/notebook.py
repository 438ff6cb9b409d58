"""Run a notebook with strict parameters and leave an HTML report that opens offline.

papermill executes. Added here: before a kernel starts, parameters are checked against the annotations of the parameters
cell and by the cell tagged "check"; what a cell prints appears while it runs; and ``notebook.ipynb`` and
``report.html`` are written to the run's folder, also when a cell fails.
"""

import contextlib
import copy
import errno
import logging
import os
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbformat.sign import NotebookNotary

from ...core import InputError
from ...runs.files import REMEDIES, write_text
from ...runs.processes import RUN_LOCK, claim_run, lock_folder, release_run, unlock_folder
from ...runs.progress import visible
from ...runs.provenance import git_revision, versions
from ...runs.run import Run, check_name
from ...runs.workspace import find_workspace
from ..report.html import to_html
from .parameters import check_parameters, parameters_of, read_notebook, run_check_cell

MAX_SOCKET_FOLDER = 70  # characters; the kernel's sockets in it have thirty more, and a socket's path 107 at most


class NotebookFailed(RuntimeError):
    """A cell failed. The message is one line; ``report`` is the HTML of what ran until then."""

    def __init__(self, message: str, report: Path):
        super().__init__(message)
        self.report = report


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    on_line: Callable[[str], None] | None = None,
    patience: float = 0.0,
) -> Path:
    """Execute a notebook in the workspace (`find_workspace`) and return the path of its HTML report.

    Args:
        notebook: the .ipynb file; it is not changed.
        parameters: values for its parameters cell; see `check_parameters`.
        output: folder for notebook.ipynb, report.html and, if that links to it, trajectories.html. By default the run's
            folder (``<root>/<run>``; root is a parameter too, or "runs") if the notebook has a parameter ``run``, else
            ``reports/<notebook's name>``.
        on_line: is called with each line that a cell prints, while it runs; by default print.
        patience: seconds to wait while another process fills the folder.

    Raises:
        InputError: parameters do not fit, the cell tagged "check" refuses them, or another process fills the folder or
            writes the run (before a kernel starts); or a cell raised it. What an earlier execution left in the folder
            is then untouched, unless the run had already begun.
        NotebookFailed: a cell raised anything else, or the kernel died; notebook and report show how far it came, and
            the run's status is "failed".
    """
    here, home = Path.cwd(), find_workspace()
    if home != here:  # its kernel goes there, too
        with contextlib.chdir(home):
            report = run_notebook(here / notebook, parameters, output and here / output, on_line, patience)
        return Path(os.path.relpath(home / report))
    notebook = Path(notebook)
    node = read_notebook(notebook)
    known = {p.name: p for p in parameters_of(node, notebook)}
    given = check_parameters(notebook, parameters or {})
    values = {name: given.get(name, p.default) for name, p in known.items()}
    root = values.get("root", "runs")
    if output is None:
        output = Path(root) / check_name(values["run"]) if "run" in values else Path("reports") / notebook.stem
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a folder for the report")
    record = Path(root) / values["run"] if "run" in values else output  # --output may be elsewhere
    run_check_cell(node, given)
    fresh = not output.exists()
    lock = lock_folder(output, patience)
    try:
        if (record / RUN_LOCK).exists():  # refused here, before a kernel starts, if another process has it
            claim_run(record)
            release_run(record)
        return _run_into(
            output, record, notebook, node, given, values, on_line or (lambda line: print(visible(line), flush=True))
        )
    finally:
        unlock_folder(lock)
        if fresh:  # and refused: an executed notebook leaves files
            with contextlib.suppress(OSError):
                output.rmdir()


def _run_into(
    output: Path,
    record: Path,
    notebook: Path,
    node: nbformat.NotebookNode,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    on_line: Callable[[str], None],
) -> Path:
    """Execute a notebook and write what it leaves into a folder that no other process writes; see run_notebook."""
    began = _modified(record / "run.json")
    running = output / "running.ipynb"

    start, error, failure = time.monotonic(), None, None
    try:
        execute_notebook(node, running, given, on_line)
    except BaseException as caught:
        failure = caught
        error = _describe(caught)
    refused = InputError(failure.evalue) if getattr(failure, "ename", None) == "InputError" else None  # type: ignore[union-attr]
    if isinstance(failure, InputError):
        refused = failure
    if refused and _modified(record / "run.json") == began:
        running.unlink(missing_ok=True)
        raise refused from None
    if failure is not None and (record / "run.json").exists() and Run.open(record).status == "running":
        with contextlib.suppress(InputError):  # it is another process that writes the run
            claim_run(record)
            Run.open(record).finish("failed")
            release_run(record)

    with contextlib.suppress(*[InputError] if failure else []):  # a full disk must not hide why the cell failed
        executed = _what_ran(running, node)
        running.unlink(missing_ok=True)
        executed.metadata["mentorlib"] = {
            "notebook": notebook.name,
            "parameters": values,
            "given": sorted(given),
            "error": error,
            "seconds": round(time.monotonic() - start, 1),
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
            "git": git_revision(),
            "versions": versions(),
        }
        _write_report(output, executed, values)
    report = output / "report.html"
    if refused:
        raise refused from None
    if remedy := _remedy(failure):
        raise InputError(f"{output}: {error}: {remedy}")
    if isinstance(failure, Exception):
        raise NotebookFailed(f"{notebook.name}: {error}; see {report}", report) from None
    if failure is not None:
        raise failure
    return report


def _write_report(output: Path, executed: nbformat.NotebookNode, values: Mapping[str, Any]) -> None:
    """Write notebook.ipynb, report.html and, if that links to it, trajectories.html."""
    write_text(output / "notebook.ipynb", nbformat.writes(executed))
    with contextlib.suppress(OSError, sqlite3.Error):  # such as a home that cannot be written
        NotebookNotary().sign(executed)  # JupyterLab need not ask whether it is trusted: it was executed here
    page = to_html(executed)
    if "trajectories.html#" in page:  # the report's numbers link to the trajectories behind them
        from ..report.viewer import write_trajectories_of_runs  # it imports pandas and scipy, a second

        with contextlib.suppress(InputError):  # a run that failed before it had rows
            runs = values.get("runs") or ([] if "runs" in values else [values.get("run", "")])
            write_trajectories_of_runs(output / "trajectories.html", runs, values.get("root", "runs"))
    write_text(output / "report.html", page)


class _ThisPython(AsyncKernelManager):
    """A kernel of the running interpreter, not of one installed under the name python3.

    It is reached by sockets in ``folder``, not by TCP: other users cannot reach it, and kernels that start at the same
    moment cannot pick the same port.
    """

    folder: str

    def __init__(self, **settings: Any):
        super().__init__(transport="ipc", connection_file=f"{self.folder}/kernel.json", **settings)

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        argv += ["--InteractiveShell.automagic=False"]  # else a cell `run: str = "x"` is taken for the magic %run
        # Figures as data: JupyterLab draws them, and the report inlines plotly once.
        return KernelSpec(argv=argv, language="python", env={"PLOTLY_RENDERER": "plotly_mimetype"})


class _Lines:
    """A file that passes whole lines on as they come.

    So is a line that ends with a carriage return, which a notebook overwrites with the next one; of a progress bar,
    which begins with carriage returns, the last state is.
    """

    def __init__(self, on_line: Callable[[str], None]):
        self.on_line, self.rest = on_line, ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.on_line(line.rstrip("\r").rpartition("\r")[2].rstrip())
        if self.rest.endswith("\r"):
            if line := self.rest.rstrip("\r").rpartition("\r")[2].rstrip():
                self.on_line(line)
            self.rest = ""

    def flush(self) -> None:
        pass


def execute_notebook(
    node: nbformat.NotebookNode, output: Path, parameters: Mapping[str, Any], on_line: Callable[[str], None]
) -> None:
    """Execute a notebook into the file ``output`` with a kernel of this Python; raises what papermill does."""
    import papermill  # half a second to import

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that its pattern cannot read
    lines = _Lines(on_line)
    with tempfile.TemporaryDirectory(prefix="mentor-", dir=_socket_folder()) as folder:
        papermill.execute_notebook(
            copy.deepcopy(node),
            str(output),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=lines,
            cwd=os.getcwd(),
            kernel_manager_class=type("ThisPython", (_ThisPython,), {"folder": folder}),
        )
    if lines.rest:
        on_line(lines.rest)


def _socket_folder() -> str:
    """A folder for sockets, whose paths may have about a hundred characters: TMPDIR's may be too long."""
    folders = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
    for folder in folders:
        if folder and len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise InputError(f"TMPDIR={folders[0]} is too long for a kernel's sockets: set it to a folder with a shorter path")


def _what_ran(running: Path, node: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with its outputs, or without where a full disk has cut them short.

    Of lines that were overwritten in place, such as those of progress, the last one is kept.
    """
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    try:
        ran = nbformat.read(running, as_version=4)
    except Exception:  # nbformat raises several kinds
        return copy.deepcopy(node)
    whole: nbformat.NotebookNode = CoalesceStreamsPreprocessor().preprocess(ran, {})[0]
    return whole


def _remedy(failure: BaseException | None) -> str | None:
    """What to do where the disk, its permissions or a name's length failed a cell or papermill; None for all else."""
    said = getattr(failure, "evalue", "") or str(failure)
    code = re.search(r"\[Errno (\d+)\]", said)
    # Not every writer raises an OSError: safetensors has an error of its own.
    return REMEDIES.get(errno.ENOSPC if "No space left on device" in said else int(code[1]) if code else 0)


def _describe(error: BaseException) -> str:
    if hasattr(error, "ename"):  # papermill's PapermillExecutionError: a cell raised
        return f"cell {error.exec_count}: {error.ename}: {(error.evalue.splitlines() or [''])[0]:.300}"  # type: ignore[attr-defined]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.300}"


def _modified(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
