"""Run a notebook with strict parameters and leave an HTML report that opens offline.

papermill executes; this file adds what it lacks: parameters are checked against the annotations of the notebook's
parameters cell before a kernel starts, what a cell prints appears while it runs, and ``notebook.ipynb`` and
``report.html`` are written to the run's folder, also when a cell fails.
"""

import ast
import contextlib
import copy
import difflib
import html
import io
import json
import logging
import os
import re
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import yaml
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from .core import InputError
from .runs import Run, check_address, check_name, git_revision, versions, write_text


class NotebookFailed(RuntimeError):
    """A cell failed. The message is one line; ``report`` is the HTML of what ran until then."""

    def __init__(self, message: str, report: Path):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``steps: int = 200  # optimizer steps``."""

    name: str
    type: str  # as written; of an unannotated line, the type of its default
    default: Any
    help: str


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Execute a notebook in the current directory and give the path of its HTML report.

    Args:
        notebook: the .ipynb file; it is not changed.
        parameters: values for its parameters cell; see `check_parameters`.
        output: folder for notebook.ipynb, report.html and, if that links to it, trajectories.html; by default the run's
            folder (``<root>/<run>``; root is a parameter too, or "runs") if the notebook has a parameter ``run``, else
            ``reports/<notebook's name>``.
        say: is given each line that a cell prints, while it runs; by default print.

    InputError for parameters that do not fit, before a kernel starts, and for one that a cell raises; what an earlier
    execution left in the folder is then untouched, unless the run had already begun. NotebookFailed when a cell raises
    anything else or the kernel dies: notebook and report then show how far it came, and the run's status is "failed".
    """
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
    fresh = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    record = Path(root) / values["run"] if "run" in values else output  # --output may be elsewhere
    began = _modified(record / "run.json")
    running = output / "running.ipynb"

    start, error, failure = time.monotonic(), None, None
    try:
        _execute(node, running, given, say or (lambda line: print(line, flush=True)))
    except BaseException as caught:
        failure = caught
        error = _describe(caught)
    refused = getattr(failure, "ename", None) == "InputError"
    if refused and _modified(record / "run.json") == began:
        running.unlink(missing_ok=True)
        if fresh:
            with contextlib.suppress(OSError):
                output.rmdir()
        raise InputError(failure.evalue) from None  # type: ignore[union-attr]
    if failure is not None and (record / "run.json").exists() and Run.open(record).status == "running":
        Run.open(record).finish("failed")

    executed = nbformat.read(running, as_version=4) if running.exists() else node
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
    write_text(output / "notebook.ipynb", nbformat.writes(executed))
    running.unlink(missing_ok=True)
    page = to_html(executed)
    if "trajectories.html#" in page:  # the report's numbers link to the trajectories behind them
        from . import viewer

        with contextlib.suppress(InputError):  # a run that broke before it had rows
            runs = values.get("runs") or ([] if "runs" in values else [values.get("run", "")])
            viewer.write_runs(output / "trajectories.html", runs, root)
    report = write_text(output / "report.html", page)
    if refused:
        raise InputError(failure.evalue) from None  # type: ignore[union-attr]
    if isinstance(failure, Exception):
        raise NotebookFailed(f"{notebook.name}: {error}; see {report}", report) from None
    if failure is not None:
        raise failure
    return report


def read_notebook(notebook: str | Path) -> nbformat.NotebookNode:
    """Read an .ipynb file; InputError if it is missing (naming the nearest) or is no notebook."""
    notebook = Path(notebook)
    if not notebook.is_file():
        found = sorted(str(p) for p in {*notebook.parent.glob("*.ipynb"), *Path("notebooks").glob("*.ipynb")})
        near = difflib.get_close_matches(str(notebook), found, 1, 0.3)
        raise InputError(f"{notebook}: no such notebook" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        node = nbformat.read(notebook, as_version=4)
        nbformat.validate(node)
    except Exception as error:  # nbformat raises several kinds, none of them with a common base
        raise InputError(f"{notebook}: not a notebook ({str(error).splitlines()[0]:.120})") from None
    return node


def parameters_of(node: nbformat.NotebookNode, notebook: str | Path = "notebook") -> list[Parameter]:
    """The parameters of a notebook: the assignments in its cell tagged "parameters"; none when there is no such cell.

    Read from the syntax tree: papermill's own inspection matches lines by a pattern that misses ``int | None`` and
    defaults that span lines.
    """
    cell = next((c for c in node.cells if "parameters" in c.metadata.get("tags", ())), None)
    source = cell.source if cell else ""
    try:
        lines = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        raise InputError(f"{notebook}: the parameters cell is not Python") from None
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = []
    for line in lines:
        target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
        if not isinstance(line, ast.AnnAssign | ast.Assign) or not isinstance(target, ast.Name) or line.value is None:
            raise InputError(
                f"{notebook}: write each parameter as `name: type = value  # help`, not {ast.unparse(line)}"
            )
        try:
            default = ast.literal_eval(line.value)
        except ValueError:
            raise InputError(
                f"{notebook}: the default of {target.id} is not a literal: {ast.unparse(line.value)}"
            ) from None
        annotation = line.annotation if isinstance(line, ast.AnnAssign) else None
        written = ast.unparse(annotation) if annotation else "Any" if default is None else type(default).__name__
        found.append(Parameter(target.id, written, default, comments.get(line.end_lineno or 0, "")))
    return found


def check_parameters(notebook: str | Path, given: Mapping[str, Any], text: bool = False) -> dict[str, Any]:
    """Check values against a notebook's parameters and give them back typed.

    Types are int, float (an int will do), str, bool, None, Any, list[…], dict[…, …] and ``X | Y``; a bool is no int.
    With ``text``, the values are strings from a command line, read as YAML where that gives the type
    (``lr=1e-6``, ``suites=[a, b]``, ``reward=null``) and as they stand where the type is str.
    InputError names the parameter, what it takes, and for an unknown one the nearest that exists.
    """
    known = {p.name: p for p in parameters_of(read_notebook(notebook), notebook)}
    checked = {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise InputError(f"{notebook}: no parameter {name!r}; {hint}")
        parameter = known[name]
        candidates = [value]
        if text:
            with contextlib.suppress(yaml.YAMLError):
                candidates = [load_yaml(value), value]
        fitting = [c for c in candidates if _fits(c, ast.parse(parameter.type, mode="eval").body, parameter)]
        if not fitting:
            about = f" ({parameter.help})" if parameter.help else ""
            shown = value if text else repr(value)
            raise InputError(
                f"{notebook}: parameter {name} takes {parameter.type}{about}, not {shown:.80}; "
                f"for example {name}={parameter.default!r}"
            )
        check_address(fitting[0])
        checked[name] = fitting[0]
    return checked


def load_yaml(text: str) -> Any:
    """YAML in which ``1e-6`` is a number, as in YAML 1.2 and in Python. Raises yaml.YAMLError."""
    return yaml.load(text, _Yaml)  # a SafeLoader


class _Yaml(yaml.SafeLoader):
    pass


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _fits(value: Any, type_: ast.expr, parameter: Parameter) -> bool:
    match type_:
        case ast.Name("Any"):
            return True
        case ast.Name("int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name("float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name("str"):
            return isinstance(value, str)
        case ast.Name("bool"):
            return isinstance(value, bool)
        case ast.Constant(None):
            return value is None
        case ast.Name("list"):
            return isinstance(value, list)
        case ast.Name("dict"):
            return isinstance(value, dict)
        case ast.Subscript(ast.Name("list"), item):
            return isinstance(value, list) and all(_fits(v, item, parameter) for v in value)
        case ast.Subscript(ast.Name("dict"), ast.Tuple([key, item])):
            return isinstance(value, dict) and all(
                _fits(k, key, parameter) and _fits(v, item, parameter) for k, v in value.items()
            )
        case ast.BinOp(left, ast.BitOr(), right):
            return _fits(value, left, parameter) or _fits(value, right, parameter)
    raise InputError(
        f"parameter {parameter.name} has the type {parameter.type}; "
        "use int, float, str, bool, None, list[…], dict[…, …] or |"
    )


class _ThisPython(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever kernels are installed under the name python3.

    It is reached by sockets in ``folder``, not by TCP: nobody else on the machine can talk to it, and kernels that
    start at the same moment cannot pick the same port.
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
    """Pass whole lines on as they come; of a bar redrawn in place, its last state."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.rest = say, ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.say(line.rstrip("\r").rpartition("\r")[2])

    def flush(self) -> None:
        pass


def _execute(
    node: nbformat.NotebookNode, running: Path, parameters: dict[str, Any], say: Callable[[str], None]
) -> None:
    import papermill  # half a second to import

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that its pattern cannot read
    lines = _Lines(say)
    with tempfile.TemporaryDirectory(prefix="mentor-") as folder:
        papermill.execute_notebook(
            copy.deepcopy(node),
            str(running),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=lines,
            cwd=os.getcwd(),
            kernel_manager_class=type("ThisPython", (_ThisPython,), {"folder": folder}),
        )
    if lines.rest:
        say(lines.rest)


def _describe(error: BaseException) -> str:
    if hasattr(error, "ename"):  # papermill's PapermillExecutionError: a cell raised
        return f"cell {error.exec_count}: {error.ename}: {(error.evalue.splitlines() or [''])[0]:.300}"  # type: ignore[attr-defined]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.300}"


def _modified(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


# --- HTML ---

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"

_TEMPLATE = """
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{% if resources.plotly %}<script>{{ resources.plotly }}</script>{% endif %}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
:root { color-scheme: light dark; }
body.jp-Notebook { overflow: visible; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
body .jp-RenderedHTMLCommon a, body .jp-OutputArea a { color: #0060a8; text-decoration: underline; }
:focus-visible { outline: 2px solid #0060a8; outline-offset: 1px; }
body .jp-InputPrompt, body .jp-OutputPrompt { display: none; }
details.code { margin: .2rem 0; }
details.code > summary, .report-facts summary { cursor: pointer; color: #5b6472; font: 12px system-ui, sans-serif; }
.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stdout"] { max-height: 16rem; overflow: auto; }
.jp-OutputArea-output { overflow-x: auto; }
.report-facts { font: 13px/1.5 system-ui, sans-serif; color: #3c4450; }
.report-facts { border-bottom: 1px solid #d9dde3; padding: 0 0 .6rem; }
.report-facts td { padding: 0 1rem 0 0; text-align: left; vertical-align: top; }
.report-failed { background: #fdecea; border-left: 4px solid #b3261e; padding: .6rem 1rem; margin: .6rem 0; }
body .jp-OutputArea-output pre { white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; }
body td.prose { min-width: 24em; text-align: left; }
@media (max-width: 600px) { main { padding: .6rem .8rem 3rem; } body .jp-Cell { padding: 4px 0; } }
@media screen and (prefers-color-scheme: dark) {
  /* Turned over as a whole, with hues kept, so that figures, tables and transcripts keep their colours. */
  html { background: #fff; filter: invert(.9) hue-rotate(180deg); }
}
@media print {
  @page { margin: 1.5cm; }
  main { max-width: none; padding: 0; }
  details.code, .dt-search { display: none; } .plot, article, tr { break-inside: avoid; }
  body .jp-OutputArea-output { overflow: visible; max-height: none; }
  h1, h2, h3 { break-after: avoid; } body .dt-column-order { display: none; }
  /* Tables are as wide as the sheet, whatever DataTables measured on the screen. */
  body table.dataTable { width: 100% !important; } body table.dataTable col { width: auto !important; }
  body td, body th { font-size: 8pt !important; white-space: normal !important; padding: .2em .4em !important; }
  body td.prose { min-width: 0; }
}
</style>
{%- endblock -%}
{%- block body_header -%}
{{ super() }}
{%- set facts = nb.metadata.get('mentorlib') -%}
{%- if facts -%}
<div class="report-facts">
{% if facts.error %}<p class="report-failed"><strong>This notebook failed.</strong> {{ facts.error | e }}</p>{% endif %}
<div>{{ facts.notebook | e }} · {{ facts.finished | e }} · {{ facts.seconds }} s
{%- if facts.git %} · code {{ facts.git[:12] | e }}{{ ' (changed since)' if facts.git.endswith('dirty') }}{% endif %}
</div>
<details><summary>parameters and versions</summary>
<table>{% for name, value in facts.parameters.items() %}
<tr><td>{{ name | e }}</td><td>{{ value | e }}{{ '' if name in facts.given else ' (default)' }}</td></tr>{% endfor %}
</table><p>{% for name, version in facts.versions.items() %}{{ name | e }} {{ version | e }}{{ ', ' if not loop.last }}
{%- endfor %}</p></details>
</div>
{%- endif -%}
{%- endblock -%}
{%- block stream_stderr -%}<details class="code"><summary>warnings</summary>{{ super() }}</details>{%- endblock -%}
{%- block input_group -%}<details class="code"><summary>code</summary>{{ super() }}</details>{%- endblock -%}
"""


def to_html(node: nbformat.NotebookNode) -> str:
    """One HTML page of an executed notebook: code folded, figures live, nothing loaded from elsewhere.

    nbconvert's lab template; plotly is inlined once, and only when there is a figure. Widget outputs are left out: they
    need a kernel, and follow a static figure of the same data.
    """
    from nbconvert import HTMLExporter

    node = copy.deepcopy(node)
    node.metadata.pop("widgets", None)
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    facts = node.metadata.get("mentorlib", {})
    node.metadata["title"] = heading.group(1) if heading else facts.get("notebook", "Report")
    figures = 0
    for cell in node.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        for output in cell.outputs:
            figure = output.get("data", {}).get(PLOTLY)
            if figure is not None:
                figures += 1
                output.data = nbformat.NotebookNode({"text/html": figure_html(figure, f"figure-{figures}")})
                output.metadata = nbformat.NotebookNode()
    resources: dict[str, Any] = {"language_code": "en", "metadata": {"name": node.metadata["title"]}}
    if figures:
        resources["plotly"] = plotly_js()
    exporter = HTMLExporter(template_name="lab", raw_template=_TEMPLATE)
    page = exporter.from_notebook_node(node, resources=resources)[0]
    # What scrolls is reached by keyboard.
    return page.replace(
        '<div class="jp-RenderedHTMLCommon jp-RenderedHTML',
        '<div tabindex="0" class="jp-RenderedHTMLCommon jp-RenderedHTML',
    )


# Drawn anew for another width, as plotly misplaces legends when it resizes. 640 by 860 pixels and a title fit on a page
# of A4 or Letter; taller figures are drawn closer, and at two thirds. A mark that stands for trajectories opens them;
# only addresses that we made are followed.
_FIGURE = """
function figure(id, data, layout) {
  const draw = paper => {
    const tall = paper && layout.height > 860, size = paper ? {width: 640} : {};
    if (tall) Object.assign(size, {width: 960, height: Math.min(layout.height, 1290), font: {size: 10}});
    const height = size.height || layout.height;
    Object.assign(document.getElementById(id).style, {height: height + "px", zoom: tall ? 2 / 3 : 1});
    Plotly.newPlot(id, data, {...layout, ...size}, {displayModeBar: false}).then(d =>
      d.on("plotly_click", event => {
        const to = event.points[0].customdata;
        if (typeof to === "string" && /^trajectories[.]html[?#]/.test(to)) location.href = to;
      }));
  };
  let wide = innerWidth, late;
  addEventListener("resize", () => {
    clearTimeout(late);
    if (wide !== (wide = innerWidth)) late = setTimeout(draw, 100, false);
  });
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw(false));
  addEventListener("DOMContentLoaded", () => draw(false));  // what comes later in the page narrows the column
}
"""


def plotly_js() -> str:
    """plotly's own script (5 MB), to be put into a page once, and what `figure_html` calls."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs() + _FIGURE


def figure_title(figure: Mapping[str, Any]) -> str:
    """The title in a plotly figure's JSON, as plain text."""
    title = str(((figure.get("layout") or {}).get("title") or {}).get("text") or "figure")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", title)).split())


def figure_html(figure: Mapping[str, Any], id_: str) -> str:
    """A plotly figure's JSON as HTML for a page that holds ``plotly_js``: as wide as there is room, its title as text.

    plotly cannot break a title at the page's width; a browser can. A figure that did not go through ``figures.dress``
    keeps its title where it is.
    """
    layout = dict(figure.get("layout") or {})
    height = layout.get("height") or 450
    room = (layout.get("meta") or {}).get("title_room", 0)
    if room:
        del layout["title"]
        layout["margin"] = layout["margin"] | {"t": layout["margin"]["t"] - room}
        height -= room
    layout["height"] = height
    arguments = json.dumps([figure.get("data", []), layout]).replace("<", "\\u003c")
    label = html.escape(figure_title(figure))
    font = "bold 15px/1.3 'Open Sans', verdana, arial, sans-serif"
    above = f'<p style="margin: .8rem 0 0 12px; font: {font}">{label}</p>' if room else ""
    return (
        f'<div class="plot" role="figure" aria-label="{label}">{above}'
        f'<div id="{id_}" class="plotly-graph-div" style="height:{height}px;width:100%"></div>'
        f'<script>figure("{id_}", ...{arguments});</script></div>'
    )
