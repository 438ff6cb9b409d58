"""A study's page, ``index.html``: the question, the setting, what came out, what failed, and the way to every report.

Numbers and figures are those of the last stage that compares runs (its ``runs`` parameter lists them); a study without
one gets its reports, stages and results only. Links lead to ``trajectories.html?STAGE#…``: the page of all runs of
the study, which then shows the runs of that stage under the names that the stage gives them.
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
import pandas as pd
from markupsafe import Markup

from ...core import InputError
from ...runs.files import file_hash, write_text
from ...runs.progress import format_duration
from ...runs.provenance import git_revision, versions
from ...runs.run import Run
from .. import analysis, figures
from ..report import viewer
from ..report.html import figure_html, figure_title, plotly_js
from .parameters import parameters_of, read_notebook
from .plan import Stage

_HERE = Path(__file__).parent
# Neither the method nor its training: where things are, what is drawn, and how the work is cut up.
_ASIDE = {"run", "root", "data", "student", "served", "vllm", "method", "reward", "seed", "micro_batch", "save_steps"}
_ASIDE |= {"eval_suites", "n_eval", "eval_split", "steps", "groups", "group_size", "learning_rate"}


def write_page(
    study: Mapping[str, Any],
    stages: "list[Stage]",
    state: Mapping[str, str],
    errors: Mapping[str, tuple[int, str]],
    older: list[str],
    seconds: Mapping[str, float | None],
    keys: Mapping[str, str],
    folder: Path,
) -> Path:
    """Copy every stage's report into the folder and write the page that leads to them; give its path.

    A page that was made of the same things is left as it is: reading a hundred thousand rows takes minutes.

    Args:
        study: its name and question.
        stages: in the order in which they ran.
        state: of each stage by name: done, failed or skipped.
        errors: exit code and last line of those that failed.
        older: names of stages that were done with another version of the library.
        seconds: what each took.
        keys: of the stages (see ``studies.stage_keys``).
        folder: emptied of the pages of an earlier execution.
    """
    index, code = folder / "index.html", [file_hash(_HERE / f"study_page.{end}") for end in ("py", "template")]
    made_of = json.dumps([study, state, errors, older, seconds, keys, code], sort_keys=True, default=str)
    stamp = hashlib.sha256(made_of.encode()).hexdigest()
    if index.exists() and stamp in index.read_text(encoding="utf-8"):
        return index
    for old in [*folder.glob("*.html"), *folder.glob("trajectories-*.js")]:
        old.unlink()
    needed = {need for stage in stages for need in stage.needs}
    rows = []
    for stage in stages:
        report, results = stage.folder / "report.html", stage.folder / "results.json"
        linked = report.exists() and state[stage.name] in ("done", "failed")
        if linked:
            text = report.read_text(encoding="utf-8")
            write_text(
                folder / f"{stage.name}.html", text.replace("trajectories.html#", f"trajectories.html?{stage.name}#")
            )
        rows.append(
            {
                "stage": stage,
                "title": _title(stage.notebook),
                "state": state[stage.name],
                "older": stage.name in older,
                "error": errors.get(stage.name, (0, ""))[1],
                "link": f"{stage.name}.html" if linked else None,
                "seconds": seconds.get(stage.name),
                "results": json.loads(results.read_text()) if results.exists() and state[stage.name] == "done" else {},
                "last": stage.name not in needed,
            }
        )
    story = _story(stages, state)
    filled = [s for s in stages if list(s.folder.glob("eval/*.jsonl")) or (s.folder / "rollouts.jsonl").exists()]
    if filled and (story or any("trajectories.html?" in page.read_text("utf-8") for page in folder.glob("*.html"))):
        with contextlib.suppress(InputError):  # a stage that broke left a row half-made
            views = _views(stages)
            named = dict.fromkeys([s.run for s in filled] + [run for view in views.values() for run in view])
            viewer.write_trajectories_of_runs(folder / "trajectories.html", list(named), filled[0].folder.parent, views)
    page = _JINJA.get_template("study_page.template").render(
        stamp=stamp,
        trajectories=(folder / "trajectories.html").exists(),
        study=study,
        rows=rows,
        story=story,
        plotly=Markup(plotly_js()) if story else "",
        total=sum(row["seconds"] or 0 for row in rows),
        finished=datetime.now().astimezone().isoformat(timespec="seconds"),
        git=git_revision(),
        versions=versions(),
        machine=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )
    write_text(folder / "stages.json", json.dumps({stage.name: str(stage.folder) for stage in stages}, indent=1) + "\n")
    return write_text(index, page)


def _views(stages: "Sequence[Stage]") -> dict[str, dict[str, str]]:
    """What the report of each stage calls the method of each of its runs."""
    views = {}
    for stage in stages:
        runs = stage.parameters.get("runs", [stage.run])
        if runs and isinstance(runs, list):
            with contextlib.suppress(InputError):  # some have not begun
                found = analysis.load.methods(runs, stage.folder.parent)
                views[stage.name] = dict(zip(found["run"], found["method"], strict=True))
    return views


# ---- the story


def _story(stages: "Sequence[Stage]", state: Mapping[str, str]) -> dict[str, Any] | None:
    """What the template tells of the runs that the last comparing stage names; None if there is nothing to compare."""
    comparing = [stage for stage in stages if isinstance(stage.parameters.get("runs"), list)]
    if not comparing:
        return None
    stage, own = comparing[-1], {s.run: state[s.name] for s in stages}
    runs, root = [r for r in stage.parameters["runs"] if own.get(r, "done") == "done"], stage.folder.parent
    asked = {p.name: p.default for p in parameters_of(read_notebook(stage.notebook))} | stage.parameters
    try:
        rows = analysis.load.evaluations(runs, root).drop(columns=["messages", "response", "tokens"], errors="ignore")
        methods = analysis.load.methods(list(dict.fromkeys(rows["run"])), root)
        if not runs or methods["method"].nunique() < 2:
            return None
        rollouts = analysis.load.rollouts(runs, root).drop(columns=["messages", "response", "tokens"], errors="ignore")
    except InputError:  # rows of another kind
        return None
    trained = methods[methods["parameters"].map(lambda p: p.get("method", "none") != "none")]
    learnt = sorted({str(p.get("suite")) for p in trained["parameters"]})
    rows = analysis.comparison.domains(rows, asked.get("in_domain") or asked.get("suites") or learnt)
    wanted = asked.get("against")
    against = str(wanted if wanted in set(rows["method"]) else rows["method"].iloc[0])
    scores, pairs = analysis.comparison.accuracy(rows), analysis.comparison.paired(rows, against)
    sure = {(p.suite, p.method): p.difference for p in pairs.itertuples() if p.p_holm < 0.05}
    suites = rows.drop_duplicates("suite").groupby("domain", sort=False)["suite"].agg(list)
    counts = analysis.comparison.shares(rows, by=["method"]).pivot(index="method", columns="outcome", values="share")
    drawn = _figures(rows, rollouts, scores, methods, against, stage)
    ours = pd.concat([rows[["method", "outcome"]], rollouts[["method", "outcome"]]])
    return {
        "stage": stage,
        "setting": _setting(methods, trained, rollouts, root),
        "suites": suites.to_dict(),
        "tasks": scores.groupby("suite", sort=False)["tasks"].max().to_dict(),
        "against": against,
        "several": bool((scores["runs"] > 1).any()),
        "scores": {(s.method, s.suite): s for s in scores.itertuples()},
        "sure": sure,
        "figures": drawn,
        "outcomes": counts[[o for o in analysis.outcomes.OUTCOMES if o in counts]].loc[
            list(dict.fromkeys(methods["method"]))
        ],
        "infrastructure": ours[ours["outcome"] == "infrastructure failure"]
        .groupby("method", sort=False)
        .size()
        .to_dict(),
        "rows": len(ours),
    }


def _setting(methods: pd.DataFrame, trained: pd.DataFrame, rollouts: pd.DataFrame, root: Path) -> dict[str, Any]:
    """Data, student, and a row a method: budget, rate, seeds, time, and whatever else differs between the trained."""
    given = [p for p in trained["parameters"]]
    # What the run before one was trained with (before_…) is in its budget and its name.
    other = sorted({key for p in given for key in p if not key.startswith("before_")} - _ASIDE)
    told = {key: list(dict.fromkeys(_said(p.get(key)) for p in given)) for key in other}
    differ = [key for key in other if len(told[key]) > 1]
    sampled = rollouts.groupby("method")["n_tokens"].sum()
    lines = []
    for method, group in methods.groupby("method", sort=False):
        own, learns = group["parameters"].iloc[0], group["run"].isin(trained["run"]).all()
        lines.append(
            {
                "method": method,
                "seeds": ", ".join(str(seed) for seed in group["seed"]),
                "budget": _budget(group["run"].iloc[0], root) if learns else None,
                "rate": f"{own.get('learning_rate', 0):g}" if learns else None,
                "differ": [_said(own.get(key)) if learns else None for key in differ],
                "tokens": int(sampled.get(method, 0) / len(group)) or None,
                "seconds": group["seconds"].mean(),
            }
        )
    every = methods["parameters"]
    return {
        "lines": lines,
        "differ": differ,
        "same": {key: told[key][0] for key in other if key not in differ},
        "students": list(dict.fromkeys(_said(p.get("student")) for p in every)),
        "splits": list(dict.fromkeys(_said(p.get("eval_split", "eval")) for p in every)),
        "data": [_card(Path(data)) for data in dict.fromkeys(str(p.get("data")) for p in every)],
    }


def _budget(run: str, root: Path) -> str:
    """Optimizer steps x trajectories a step; of a run that went on from another one's model, that one's first."""
    own = Run.open(run, root).params
    size = f"{own.get('steps')} × {own.get('groups', 0) * own.get('group_size', 0)}"
    before = Path(str(own.get("student"))).parent
    if (before / "run.json").exists() and "groups" in Run.open(before).params:
        return f"{_budget(before.name, before.parent)}, then {size}"
    return size


def _card(data: Path) -> tuple[str, dict[str, int]]:
    """A data set's name, and how many tasks to train on it holds of each suite."""
    try:
        parts = json.loads((data / "tasks.card.json").read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError):
        parts = {}
    return data.name, {k.removesuffix("/train"): v["tasks"] for k, v in parts.items() if k.endswith("/train")}


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return Path(value).parent.name if isinstance(value, str) and value.endswith("/model") else str(value)


def _figures(
    rows: pd.DataFrame,
    rollouts: pd.DataFrame,
    scores: pd.DataFrame,
    methods: pd.DataFrame,
    against: str,
    stage: "Stage",
) -> list[dict[str, str]]:
    """The key figures, each with what it shows and how it is read. Accuracy is by domain: the table has the suites."""
    if methods["method"].str.contains(" learning_rate=").any():
        inside = rows.loc[rows["domain"] == "in domain", "suite"].unique()
        drawn = [
            (
                figures.comparison.tuning(analysis.comparison.tuning(rows, methods, inside)),
                "Accuracy in domain, by method and learning rate.",
            )
        ]
    else:
        even = analysis.comparison.comparable(rows)
        left = [m for m in dict.fromkeys(rows["method"]) if m not in set(even["method"])]
        common = sorted(even["suite"].unique())
        which = f"Over {', '.join(common)}" + (f"; without {', '.join(left)}." if left else ".")
        drawn = [
            (
                figures.comparison.accuracy(analysis.comparison.accuracy(even, by=["domain", "method"]), by="domain"),
                which,
            ),
            (
                figures.comparison.forest(analysis.comparison.paired_domains(rows, against), by="domain"),
                "The same tasks, answered by both. Intervals: other tasks, and other seeds where there are several.",
            ),
            (
                figures.comparison.similarity(scores, analysis.tool_use.tool_jsd(rows)),
                "Further left: a mix of tools more like the teacher's (Jensen-Shannon divergence).",
            ),
            (
                figures.training.figure(analysis.training.curves(rollouts)),
                "From the rollouts of training. Rewards are each in their own currency.",
            ),
        ]
    shown = []
    for n, (figure, how) in enumerate(drawn, 1):
        plain = json.loads(figure.to_json())
        drawing = _viewed(figure_html(plain, f"plot-{n}"), stage)
        shown.append({"id": f"figure-{n}", "title": figure_title(plain), "html": Markup(drawing), "how": how})
    return shown


# ---- the page


def _title(notebook: Path) -> str:
    text = "\n".join(c.source for c in read_notebook(notebook).cells if c.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return heading.group(1) if heading else notebook.stem


def _behind(stage: "Stage", entry: Mapping[str, Any]) -> str:
    """The address of the trajectories that a result was computed from; empty if it names none."""
    if entry["rows"] == "runs":
        place = dict(re.findall(r"(suite|method) == '([^']*)'", entry["query"].partition(" where ")[2]))
        return _link(stage, **place)
    rows = re.fullmatch(r"(?:\.\./([^/]+)/)?(eval/.+|rollouts)\.jsonl", str(entry["rows"] or ""))
    return analysis.text.link(file=f"{rows[1] or stage.run}/{rows[2]}.jsonl") if rows else ""


def _link(stage: "Stage", **filters: str) -> str:
    """The address of evaluated trajectories, under the names that a stage gives to methods."""
    return _viewed(analysis.text.link(**filters), stage)


def _viewed(text: str, stage: "Stage") -> str:
    """Links to trajectories, turned to the study's page of them, under the names of a stage."""
    return text.replace("trajectories.html#", f"trajectories.html?{stage.name}#")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


_JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_JINJA.filters.update(number=_number, format_duration=format_duration, percent=analysis.text.percent)
_JINJA.globals.update(behind=_behind, link=_link, colour=figures.base.colour, meanings=analysis.outcomes.OUTCOMES)
