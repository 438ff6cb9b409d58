"""An executed notebook as one HTML page that opens offline."""

import copy
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"

CONTENTS = "<!-- contents -->"  # where the links to a page's sections go
LINKS = "<!-- links -->"  # where a study puts those to its other pages
# What runs.progress prints of work that is done: "evaluate longer 150/150  tokens 9,000  12s", "loading big: 4s".
_PROGRESS = re.compile(r"\S.* (\d+)/\1  (.*  )?(\d+m)?\d+s|loading [^:]+: (\d+m)?\d+s")
_TEMPLATE = Path(__file__).with_name("report.template")


def notebook_title(node: nbformat.NotebookNode) -> str:
    """The first heading of a notebook; empty if it has none."""
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return heading.group(1) if heading else ""


def report_title(facts: Mapping[str, Any]) -> str:
    """Facts of an execution from ``metadata.mentorlib``: its run, and method, reward and suite or the runs it read."""
    given = facts.get("parameters", {})
    run = str(given.get("run") or Path(str(facts.get("notebook", "report"))).stem)
    method, runs = given.get("method"), given.get("runs")
    if method == "none":
        return f"{run}: the student as it is"
    if method:
        reward = f" with reward {given['reward']}" if method == "grpo" and "reward" in given else ""
        return f"{run}: {method}{reward}" + (f" on {given['suite']}" if "suite" in given else "")
    if isinstance(runs, list) and runs:
        return f"{run}: {', '.join(map(str, runs)) if len(runs) < 8 else f'{len(runs)} runs'}"
    return run


def to_html(node: nbformat.NotebookNode) -> str:
    """One HTML page of an executed notebook: code folded, figures live, nothing loaded from elsewhere.

    nbconvert's lab template with plotly inlined once, if there is a figure. Widget outputs are left out: they need a
    kernel; one with a static form (see ``widgets.WithStatic``) has that. ``node.metadata.mentorlib`` (see
    ``run_notebook``) gives the facts at the top.
    """
    from nbconvert import HTMLExporter

    node = copy.deepcopy(node)
    node.metadata.pop("widgets", None)
    facts = node.metadata.get("mentorlib") or {}
    title = " · ".join(filter(None, [report_title(facts) if facts else "", notebook_title(node)])) or "Report"
    node.metadata["title"] = title
    figures = 0
    for cell in node.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in map(_static, cell.outputs) if o]
        for output in cell.outputs:
            figure = output.get("data", {}).get(PLOTLY)
            if figure is not None:
                figures += 1
                output.data = nbformat.NotebookNode({"text/html": figure_html(figure, f"figure-{figures}")})
                output.metadata = nbformat.NotebookNode()
    about = report_title(facts) if facts else ""
    resources: dict[str, Any] = {"language_code": "en", "metadata": {"name": title}, "about": about}
    if figures:
        resources["plotly"] = plotly_js()
    exporter = HTMLExporter(template_name="lab", raw_template=_TEMPLATE.read_text(encoding="utf-8"))
    page = exporter.from_notebook_node(node, resources=resources)[0]
    page = page.replace(CONTENTS, _contents(page), 1)
    # Outputs may scroll, so the keyboard must reach them.
    return page.replace(
        '<div class="jp-RenderedHTMLCommon jp-RenderedHTML',
        '<div tabindex="0" class="jp-RenderedHTMLCommon jp-RenderedHTML',
    )


def _contents(page: str) -> str:
    """Links to a page's sections; nothing for fewer than three."""
    sections = re.findall(r'<h2 id="([^"]+)">(.*?)(?:<a class="anchor-link"|</h2>)', page)
    links = " · ".join(f'<a href="#{name}">{text}</a>' for name, text in sections)
    return f'<nav class="report-links" aria-label="Contents">{links}</nav>' if len(sections) > 2 else ""


def _static(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output as a page without a kernel shows it; None for a widget, and for lines of progress that have ended."""
    if WIDGET in output.get("data", {}):
        del output.data[WIDGET]
        if not {"text/html", PLOTLY} & set(output.data):
            return None
    if output.output_type == "stream" and output.name == "stdout":
        lines = [line for line in output.text.split("\n") if not _PROGRESS.fullmatch(line.rstrip())]
        output.text = "\n".join(lines)
        return output if output.text.strip() else None
    return output


# A figure is drawn again for another width, as plotly misplaces legends when it resizes; where it is narrow, its panels
# (figures.base.panels) go below each other. 640 by 860 pixels and a title fit on a page of A4 or Letter; taller figures
# are drawn larger and printed at two thirds. A click on a mark follows only links to trajectories.html, which the
# library wrote.
_FIGURE = """
function belowEachOther(layout, columns, tall, gap) {
  layout = structuredClone(layout);
  const axes = Object.keys(layout).filter(key => key.startsWith("yaxis")).map(key => key.slice(1));
  const rows = Math.ceil(axes.length / columns), before = rows * tall + (rows - 1) * gap;
  const after = axes.length * tall + (axes.length - 1) * gap;
  axes.forEach((axis, n) => {
    const top = 1 - n * (tall + gap) / after;
    Object.assign(layout["x" + axis], {domain: [0, 1], showticklabels: true});
    Object.assign(layout["y" + axis], {domain: [Math.max(0, top - tall / after), top], showticklabels: true});
    Object.assign(layout.annotations[n], {x: 0, y: top});
  });
  if (layout.legend) layout.legend.y *= before / after;
  layout.height += after - before;
  return layout;
}
function drawFigure(id, data, layout) {
  const draw = paper => {
    const {columns = 1, tall: panel, gap} = layout.meta || {};
    const shown = columns > 1 && innerWidth < 700 && !paper ? belowEachOther(layout, columns, panel, gap) : layout;
    const tall = paper && shown.height > 860, size = paper ? {width: 640} : {};
    if (tall) Object.assign(size, {width: 960, height: Math.min(shown.height, 1290), font: {size: 10}});
    const height = size.height || shown.height;
    const place = document.querySelector(`#${id} > .plotly-graph-div`);
    Object.assign(place.style, {height: height + "px", zoom: tall ? 2 / 3 : 1});
    Plotly.newPlot(place, data, {...shown, ...size}, {displayModeBar: false}).then(d =>
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
  addEventListener("DOMContentLoaded", () => draw(false));  // later content may narrow the column
}
"""


def plotly_js() -> str:
    """plotly's script (5 MB), and in a second one the function that `figure_html` calls; to be put into a page once."""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>\n<script>{_FIGURE}</script>"


def figure_title(figure: Mapping[str, Any]) -> str:
    """The title in a plotly figure's JSON, as plain text."""
    title = str(((figure.get("layout") or {}).get("title") or {}).get("text") or "figure")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", title)).split())


def figure_html(figure: Mapping[str, Any], id_: str) -> str:
    """A plotly figure's JSON as HTML for a page that holds ``plotly_js``: as wide as there is room, its title as text.

    plotly cannot break a title at the page's width; a browser can. A figure that did not go through
    ``figures.base.style_figure`` keeps its title where it is.
    """
    layout = dict(figure.get("layout") or {})
    height = layout.get("height")
    if not isinstance(height, int | float):  # none, or a text in a figure of others, and it is written into the page
        height = 450
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
        f'<div id="{id_}" class="plot" role="figure" aria-label="{label}">{above}'
        f'<div class="plotly-graph-div" style="height:{height}px;width:100%"></div>'
        f'<script>drawFigure("{id_}", ...{arguments});</script></div>'
    )
