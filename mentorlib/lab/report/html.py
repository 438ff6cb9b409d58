"""An executed notebook as one HTML page that opens offline."""

import copy
import html
import json
import re
from collections.abc import Mapping
from typing import Any

import nbformat

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
body .jp-RenderedHTMLCommon a:any-link, body .jp-OutputArea a:any-link { color: #0060a8; text-decoration: underline; }
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
  /* Inverted as a whole, with hues kept, so that figures, tables and transcripts keep their colours. */
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
{%- block input_group -%}
{%- if cell.source -%}<details class="code"><summary>code</summary>{{ super() }}</details>{%- endif -%}
{%- endblock -%}
"""


def notebook_title(node: nbformat.NotebookNode) -> str:
    """The first heading of a notebook; empty if it has none."""
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return heading.group(1) if heading else ""


def to_html(node: nbformat.NotebookNode) -> str:
    """One HTML page of an executed notebook: code folded, figures live, nothing loaded from elsewhere.

    nbconvert's lab template with plotly inlined once, if there is a figure. Widget outputs are left out: they need a
    kernel, and follow a static figure of the same data. ``node.metadata.mentorlib`` (see ``run_notebook``) gives the
    facts at the top.
    """
    from nbconvert import HTMLExporter

    node = copy.deepcopy(node)
    node.metadata.pop("widgets", None)
    node.metadata["title"] = notebook_title(node) or node.metadata.get("mentorlib", {}).get("notebook", "Report")
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
    # Outputs may scroll, so the keyboard must reach them.
    return page.replace(
        '<div class="jp-RenderedHTMLCommon jp-RenderedHTML',
        '<div tabindex="0" class="jp-RenderedHTMLCommon jp-RenderedHTML',
    )


# A figure is drawn again for another width, as plotly misplaces legends when it resizes. 640 by 860 pixels and a title
# fit on a page of A4 or Letter; taller figures are drawn larger and printed at two thirds. A click on a mark follows
# only links to trajectories.html, which the library wrote.
_FIGURE = """
function drawFigure(id, data, layout) {
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
  addEventListener("DOMContentLoaded", () => draw(false));  // later content may narrow the column
}
"""


def plotly_js() -> str:
    """plotly's script (5 MB), to be put into a page once, and the function that `figure_html` calls."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs() + _FIGURE


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
        f'<script>drawFigure("{id_}", ...{arguments});</script></div>'
    )
