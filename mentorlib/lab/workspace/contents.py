"""Tables of a workspace's studies and runs, with links to their reports (notebooks/index.ipynb)."""

import html
from collections.abc import Sequence
from pathlib import Path

from IPython.display import HTML

from ...core import InputError
from ...runs.run import Run


def studies(reports: str | Path = "reports") -> HTML:
    """A table of the studies' pages, newest first.

    Args:
        reports: the folder with a folder a study.
    """
    pages = sorted(Path(reports).glob("*/index.html"), key=lambda page: page.stat().st_mtime, reverse=True)
    rows = [[_link(page, page.parent.name), _link(page.with_name("trajectories.html"), "")] for page in pages]
    return _table(["study", "trajectories"], rows, "No study has been run here: make study, or mentor study FILE.")


def runs(root: str | Path = "runs") -> HTML:
    """A table of the runs, newest first: what each did, its mean accuracy over suites, and its report and notebook.

    Args:
        root: the folder with a folder a run.
    """
    found = sorted(Path(root).glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    rows = []
    for folder in (file.parent for file in found):
        try:
            run = Run.open(folder)
            results, parameters, status = run.results, run.params, run.status
        except (InputError, KeyError, TypeError):  # a file that something else wrote
            continue
        accuracies = [entry["value"] for key, entry in results.items() if key.startswith("accuracy/")]
        numbers = [value for value in accuracies if isinstance(value, int | float)]
        method = str(parameters.get("method", "")) + (
            f" {parameters['reward']}" if parameters.get("method") == "grpo" else ""
        )
        mean = f"{sum(numbers) / len(numbers):.0%}" if numbers and "method" in parameters else ""
        names = ("report.html", "notebook.ipynb", "trajectories.html")
        links = " ".join(_link(folder / name, name.partition(".")[0]) for name in names)
        rows.append([*map(html.escape, (run.name, method, mean, status)), links])
    return _table(
        ["run", "method", "accuracy", "status", "open"], rows, "No run is here yet: begin with 01_build_data."
    )


def _link(file: Path, text: str) -> str:
    """A link from the notebooks' folder to a file, or nothing if it does not exist."""
    address = html.escape(f"../{file.as_posix()}")
    return f'<a href="{address}">{html.escape(text or file.stem)}</a>' if file.exists() else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], none: str) -> HTML:
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else f"<p>{none}</p>")
