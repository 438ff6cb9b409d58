"""The page of a study, ``index.html``: its setting, what the last comparing stage put out, and the way to every report.

The page is a notebook like any report: of the last stage that reads several runs (its ``runs`` parameter lists them),
the sections named in EMBEDDED, or all if it has none of these, as its execution left them, between the study's own
tables. Nothing is computed or drawn again.
Links lead to ``trajectories.html?STAGE#…``: the page of all runs, under the method names of that stage's report.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd

from ...core import InputError
from ...runs.files import file_hash, write_text
from ...runs.progress import format_duration
from ...runs.provenance import git_revision, versions
from ...runs.run import read_results, trajectory_files
from ..analysis.load import evaluations, methods, rollouts
from ..analysis.text import link
from ..report.folder import add_links, share_scripts
from ..report.html import PLOTLY, figure_title, notebook_title, to_html
from ..report.viewer import write_trajectories_of_runs
from .parameters import read_notebook
from .plan import Stage, StageStatus
from .setting import study_setting

EMBEDDED = ("Treatment check", "Planned contrasts", "Accuracy")  # what a reader of a comparison looks for first
_FOLDER = Path(__file__).parent


def write_study_page(
    study: Mapping[str, Any], statuses: Sequence[StageStatus], folder: Path, inline: bool = False
) -> Path:
    """Copy every stage's report into the folder and write the page that leads to them; return its path.

    A page that was made of the same things is left as it is: reading a hundred thousand rows takes minutes.

    Args:
        study: its name and question.
        statuses: of the stages, in the order in which they ran, each done, failed or skipped.
        folder: emptied of the pages of an earlier execution.
        inline: each page holds its scripts and styles (6 MB), to be sent alone; else they lie beside the pages, once.
    """
    index = folder / "index.html"
    code = [file_hash(_FOLDER / name) for name in ("setting.py", "study_page.py", "study_page.template")]
    code += [file_hash(file) for file in sorted((_FOLDER.parent / "report").iterdir()) if file.is_file()]
    made_of = [[s.stage.name, s.key, s.state, s.error, s.older, s.seconds] for s in statuses]
    stamp = hashlib.sha256(json.dumps([study, made_of, code, inline], sort_keys=True, default=str).encode()).hexdigest()
    if index.exists() and stamp in index.read_text(encoding="utf-8"):
        return index
    stages = [status.stage for status in statuses]
    rows = [_stage_row(status) for status in statuses]
    for pattern in ("*.html", "trajectories-*.js", "script-*.js", "style-*.css"):
        for old in folder.glob(pattern):
            old.unlink()
    _write_reports(study["name"], rows, folder, inline)
    page_of_trajectories = _write_trajectories(study["name"], stages, folder)
    compared = next((s for s in reversed(statuses) if isinstance(s.stage.parameters.get("runs"), list)), None)
    executed = compared and compared.state == "done" and compared.stage.folder / "notebook.ipynb"
    report = []
    with contextlib.suppress(InputError):  # a notebook that came with an archive may be none
        report = _report_cells(executed) if executed and executed.exists() else []
    cells = _embedded(report)
    figures = [o.data[PLOTLY] for cell in cells for o in cell.get("outputs", ()) if PLOTLY in o.get("data", ())]
    text = _JINJA.get_template("study_page.template").render(
        study=study,
        rows=rows,
        verdict=_verdict(report),
        figures=[(n, figure_title(f)) for n, f in enumerate(figures, 1) if not _is_empty(f)],
        compared=compared and compared.stage,
        page_of_trajectories=page_of_trajectories,
        rest=next(
            (row for row in rows if compared and row["stage"] is compared.stage and len(cells) < len(report)), None
        ),
        **(_comparison(compared.stage, statuses) if compared else {}),
    )
    above, _, below = text.partition("\nREPORT\n")
    node = nbformat.v4.new_notebook(cells=[_html_cell(above), *cells, _html_cell(below)])
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    facts = {"stages": len(stages), "workers": study.get("workers"), "system": system}
    node.metadata["mentorlib"] = {
        "notebook": f"Study {study['name']}",
        "parameters": facts,
        "given": list(facts),
        "of": "of stages",  # which ran beside each other
        "seconds": round(sum(status.seconds or 0 for status in statuses), 1),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git": git_revision(),
        "versions": versions(),
    }
    page = to_html(node)
    if compared:
        page = _link_to_study(page, compared.stage)
    page = page if inline else share_scripts(page, folder)
    write_text(folder / "stages.json", json.dumps({stage.name: str(stage.folder) for stage in stages}, indent=1) + "\n")
    return write_text(index, f"{page}\n<!-- {stamp} -->\n")


def _stage_row(status: StageStatus) -> dict[str, Any]:
    """A line of the table of stages."""
    stage = status.stage
    report, results = stage.folder / "report.html", stage.folder / "results.json"
    linked = report.exists() and status.state in ("done", "failed")
    return {
        "stage": stage,
        "title": notebook_title(read_notebook(stage.notebook)) or stage.notebook.stem,
        "state": status.state,
        "error": status.error,
        "older": status.older,
        "link": f"{stage.name}.html" if linked else None,
        "seconds": status.seconds,
        "results": read_results(results) if results.exists() and status.state == "done" else {},
    }


def _write_reports(study: str, rows: Sequence[Mapping[str, Any]], folder: Path, inline: bool) -> None:
    """Copy the stages' reports beside the page, with links to it and to the report before and after."""
    linked = [row for row in rows if row["link"]]
    for n, row in enumerate(linked):
        links = [("index.html", f"study {study}")]
        links += [(before["link"], f"previous: {before['stage'].name}") for before in linked[n - 1 : n] if n]
        links += [(after["link"], f"next: {after['stage'].name}") for after in linked[n + 1 : n + 2]]
        page = (row["stage"].folder / "report.html").read_text(encoding="utf-8", errors="replace")
        page = add_links(_link_to_study(page, row["stage"]), links)
        write_text(folder / row["link"], page if inline else share_scripts(page, folder))


def _write_trajectories(study: str, stages: Sequence[Stage], folder: Path) -> bool:
    """Write the page of the trajectories of all runs that the stages filled or read; False if there are none."""
    views = {}  # what the report of each stage calls the method of each of its runs that have rows
    for stage in stages:
        runs, root = stage.parameters.get("runs", [stage.run]), stage.folder.parent
        if runs and isinstance(runs, list):
            with contextlib.suppress(InputError):  # some have not begun
                frame = methods(runs, root)
                named = dict(zip(frame["run"], frame["method"], strict=True))
                views[stage.name] = {run: name for run, name in named.items() if trajectory_files(root / run)}
    views = {name: view for name, view in views.items() if view}
    filled = [stage for stage in stages if trajectory_files(stage.folder)]
    if not filled:
        return False
    runs = list(dict.fromkeys([*(s.run for s in filled), *(run for view in views.values() for run in view)]))
    with contextlib.suppress(InputError):  # a stage that broke left a row half-written
        write_trajectories_of_runs(folder / "trajectories.html", runs, filled[0].folder.parent, views, study)
    return (folder / "trajectories.html").exists()


def _report_cells(executed: Path) -> list[nbformat.NotebookNode]:
    """The text and the outputs of an executed notebook, without code, its headings a level lower."""
    cells = []
    for cell in read_notebook(executed).cells:
        if cell.cell_type == "markdown":
            cells.append(nbformat.v4.new_markdown_cell(re.sub(r"^(#+ )", r"#\1", cell.source, flags=re.MULTILINE)))
        elif cell.get("outputs"):
            cells.append(nbformat.v4.new_code_cell(outputs=cell.outputs))
    return cells


def _embedded(cells: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The title, the sections named in EMBEDDED and what precedes all sections, such as the script of tables.

    All cells if no section has such a name.
    """
    kept, section, found = [], "", False
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = re.search(r"^### +(.+?) *$", cell.source, re.MULTILINE)
            section = heading[1] if heading else section
            title = re.search(r"^## .+$", cell.source, re.MULTILINE)
            if title and not section:
                kept.append(nbformat.v4.new_markdown_cell(title[0]))
        found |= section in EMBEDDED
        if section in EMBEDDED or (not section and cell.cell_type == "code"):
            kept.append(cell)
    return kept if found else list(cells)


def _verdict(cells: Sequence[nbformat.NotebookNode]) -> str:
    """The sentences, as HTML, that a comparing notebook puts out under its heading "Verdict"; "" if it has none."""
    heading = False
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = re.search(r"^#+ Verdict$", cell.source, re.MULTILINE) is not None
        elif heading:
            return next((str(o.data["text/html"]) for o in cell.outputs if "text/html" in o.get("data", ())), "")
    return ""


def _is_empty(figure: Mapping[str, Any]) -> bool:
    """Whether a figure only says what is missing (figures.base.empty_figure)."""
    return bool(((figure.get("layout") or {}).get("meta") or {}).get("empty"))


def _comparison(stage: Stage, statuses: Sequence[StageStatus]) -> dict[str, Any]:
    """The setting of the runs that a stage compares and how many of their trajectories count; empty if unreadable."""
    states, root = {status.stage.run: status.state for status in statuses}, stage.folder.parent
    runs = [run for run in stage.parameters["runs"] if states.get(run, "done") == "done"]
    if not runs:
        return {}
    frames = [pd.DataFrame(columns=["suite", "task_id", "outcome", "method"])]
    try:
        described = methods(runs, root)
    except InputError:  # runs that mentorlib did not make
        return {}
    for run, method in zip(described["run"], described["method"], strict=True):
        with contextlib.suppress(InputError):  # not evaluated
            frames.append(evaluations([run], root)[["suite", "task_id", "outcome"]].assign(method=method))
        frames.append(rollouts([run], root)[["outcome"]].assign(method=method))
    rows = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
    failures = rows.loc[rows["outcome"] == "infrastructure failure", "method"]
    return {
        "setting": study_setting(described, root),
        "tasks": rows.groupby("suite", sort=False)["task_id"].nunique().to_dict(),
        "infrastructure": failures.value_counts(sort=False).to_dict(),
        "trajectories": len(rows),
    }


def _html_cell(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", {"text/html": text})])


_OF_TRAINING = {"arms", "counterfactual", "exploits", "learning_speed"}
_DIFFERENCES = {"paired", "paired_domains", "planned"}  # of accuracy: the rows are those with different verdicts
_OF_BOTH = {"treatment", "off_reference", "version_difference_share"}


def _rows_link(stage: Stage, entry: Mapping[str, Any]) -> str:
    """The address of the trajectories that a result was computed from; empty if it names none."""
    if entry["rows"] == "runs":
        table, _, query = entry["query"].partition("(")
        if table == "pass_at_k":  # of eval/samples, which the page of trajectories has not
            return ""
        filters = dict(re.findall(r"(suite|method) == '([^']*)'", query.partition(" where ")[2]))
        if table in _DIFFERENCES and "measure=" not in query:
            filters |= re.findall(r"\b(against) ?==? ?'([^']*)'", query)
        phase = {} if table in _OF_BOTH else {"phase": "training" if table in _OF_TRAINING else "evaluation"}
        return _stage_link(stage, **filters, **phase)
    rows = re.fullmatch(r"(?:\.\./([^/]+)/)?(eval/.+|rollouts)\.jsonl", str(entry["rows"] or ""))
    return _stage_link(stage, file=f"{rows[1] or stage.run}/{rows[2]}.jsonl") if rows else ""


def _stage_link(stage: Stage, **filters: str) -> str:
    return _link_to_study(link(**filters), stage)


def _link_to_study(text: str, stage: Stage) -> str:
    """Links to trajectories, turned to the study's page of them, under the method names of a stage."""
    return text.replace("trajectories.html#", f"trajectories.html?{stage.name}#")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None or seconds != seconds else format_duration(seconds)


_JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_JINJA.filters.update(number=_number, duration=_duration)
_JINJA.globals.update(rows_link=_rows_link, link=_stage_link)
