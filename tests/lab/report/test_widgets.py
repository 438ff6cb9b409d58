"""Trajectories are shown as text, whatever they hold; a number opens its rows; the playground reacts to an edit."""

from pathlib import Path
from random import Random

import ipywidgets as w
import pandas as pd
import pytest
import synthetic

from mentorlib.lab import analysis
from mentorlib.lab.report import widgets
from mentorlib.rewards.reward import REWARDS


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("runs")
    synthetic.make_runs(Path(root), tasks=15)
    return analysis.load.evaluations(root=root)


def find(widget: w.Widget, kind: type) -> list:
    own = [widget] if isinstance(widget, kind) else []
    return own + [hit for child in getattr(widget, "children", ()) for hit in find(child, kind)]


def test_examples_show_each_failure(rows: pd.DataFrame) -> None:
    html = widgets.examples(rows).data
    for outcome in set(rows["outcome"]) - {"correct"}:
        assert f"<strong>{outcome}</strong>" in html
    assert html.count("✗") + html.count("?</span>") == len(set(rows["outcome"]) - {"correct"})  # each verdict once
    assert "Nothing failed" in widgets.examples(rows[rows["outcome"] == "correct"]).data
    assert "No such" in widgets.transcripts(rows.head(0)).data


def test_tables_sort_by_a_click_on_a_name_and_are_saved_under_their_own_name() -> None:
    itables = pytest.importorskip("itables")
    widgets.init_notebook()
    html = itables.to_html_datatable(pd.DataFrame({"n": ["42,656", "–"]}))
    assert "text_in_header" not in html and "-table-$" in html and "headerStructure" in html


def test_a_number_opens_its_trajectories(rows: pd.DataFrame) -> None:
    counts = rows.groupby(["outcome", "method"], sort=False).size().unstack(fill_value=0)
    table = widgets.linked_table(counts, rows="outcome", columns="method", trajectories=rows, phase="evaluation")
    html = table._repr_mimebundle_()["text/html"]
    assert "trajectories.html#?outcome=gave%20up&amp;method=base&amp;phase=evaluation" in html
    buttons = {button.tooltip: button for button in find(table.widget, w.Button)}
    assert len(buttons) == int((counts > 0).to_numpy().sum())
    buttons["read: gave up, base"].click()
    wanted = rows[(rows["outcome"] == "gave up") & (rows["method"] == "base")]
    count, page = find(table.widget, w.Label)[-1], find(table.widget, w.HTML)[0]
    assert count.value == f"of {len(wanted)} that fit: gave up, base" and wanted["task_id"].iloc[0] in page.value
    lists = rows.head(3).assign(exploit=[["a", "b"], ["b"], []])
    several = widgets.linked_table(
        pd.DataFrame({"base": [1, 2]}, index=["a", "b"]), rows="exploit", columns="method", trajectories=lists
    )
    buttons = {button.tooltip: button for button in find(several.widget, w.Button)}
    buttons["read: b, base"].click()
    assert find(several.widget, w.BoundedIntText)[0].max == 2


def test_one_task_side_by_side(rows: pd.DataFrame) -> None:
    compared = widgets.side_by_side(rows)
    suite, task = find(compared.widget, w.Dropdown)
    page = find(compared.widget, w.HTML)[0]
    assert page.value == compared.static == compared._repr_mimebundle_()["text/html"]
    same = rows[(rows["suite"] == suite.value) & (rows["task_id"] == task.value)]
    assert same["correct"].nunique() == 2  # the methods differ on the first one
    assert page.value.count("<section>") == len(same) and page.value.count(">gold answer<") == 1
    for method in same["method"]:
        assert f"</span> {method} · " in page.value
    suite.value, task.value = "longer", "longer-3"
    assert "longer-3" in page.value and "longer-3" not in compared.static
    assert "No such" in widgets.side_by_side(rows.head(0)).static


def test_playground_reacts_to_an_edit() -> None:
    row = synthetic.row("right", Random(0), 1)
    live = widgets.playground(row)
    play = live.widget
    editor, table = find(play, w.Textarea)[0], find(play, w.HTML)[-1]
    before = table.value
    assert "right answer" in before
    shown = live._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown and "application/vnd.plotly.v1+json" in shown
    assert before.count("width:80px") == len(REWARDS) and not find(
        play, w.Output
    )  # the maximum under every reward, and no widget that hangs in batch
    editor.value = row["response"].replace(f"{{{row['answer']}}}", "{1}").replace("add", "<b>add")
    assert table.value != before and "wrong answer" in table.value and "<b>" not in table.value
    find(play, w.Button)[0].click()
    assert table.value == before


def test_a_response_in_another_format_is_not_edited() -> None:
    row = synthetic.row("right", Random(0), 1)
    play = widgets.playground(row | {"response": "[TOOL_CALLS] add</s>"}).widget
    editor, table = find(play, w.Textarea)[0], find(play, w.HTML)[-1]
    assert editor.disabled and "right answer" in table.value and table.value.count("width:80px") == len(REWARDS)


def test_rescored_reads_the_edited_text() -> None:
    row = synthetic.row("right", Random(0), 1)
    cut = widgets.score_response(row, row["response"].removesuffix("<|im_end|>")).set_index("reward")
    assert cut.loc["exact", "total"] == 0 < widgets.score_response(row).set_index("reward").loc["exact", "total"]
