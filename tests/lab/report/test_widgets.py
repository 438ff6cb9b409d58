"""Trajectories are shown as text, whatever they hold; the browser filters; the playground reacts to an edit."""

import re
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


def found(widget: w.Widget, kind: type) -> list:
    own = [widget] if isinstance(widget, kind) else []
    return own + [hit for child in getattr(widget, "children", ()) for hit in found(child, kind)]


SPANS = ("details", "summary", "span", "hr")


def hostile(kind: str = "box") -> dict:
    row = synthetic.row(kind, Random(0), 1)
    bad = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e\u2066"
    row["question"] = row["answer"] = row["task_id"] = row["suite"] = bad
    row["messages"][0]["tool_calls"][0]["function"] = {"name": bad, "arguments": {bad: bad}}
    row["messages"][1]["content"] = row["messages"][2]["content"] = bad
    row["teacher_calls"] = [{"name": bad, "arguments": {"a": bad}}]
    return row | {
        "where": f"r/eval/{bad}.jsonl:1",
        "tokens": [bad, bad],
        "logprobs": [-0.5, None],
        "method": bad,
        "outcome": bad,
        "reward": bad,
        "total": 0.5,
        "terms": {bad: 0.5},
        "weights": {},
        "reason": bad,
    }


def test_hostile_text_is_shown_and_does_nothing() -> None:
    html = widgets.transcript_html(hostile())
    tags = set(re.findall(r"<(/?\w+)", html))
    assert tags <= {f"{end}{tag}" for end in ("", "/") for tag in ("article", "div", "pre", "small", "a", *SPANS)}
    assert "&lt;script&gt;" in html and "\\u202e" in html
    assert not {"\x1b", "\u202e", "\u2066"} & set(html)


def test_a_two_megabyte_line_is_cut() -> None:
    row = synthetic.row("right", Random(0), 1)
    row["messages"][-1]["content"] = "x" * 2_000_000
    html = widgets.transcript_html(row)
    assert len(html) < 40_000 and "1,980,000 more characters" in html


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_every_kind_of_row_is_rendered(kind: str) -> None:
    row = synthetic.row(kind, Random(0), 1)
    html = widgets.transcript_html(row)
    assert f"gold answer: {row['answer']}" in html and f"stop: {row['stop']}" in html
    bare = {k: v for k, v in row.items() if k not in ("teacher_calls", "question")}
    assert row["teacher_tools"][0] in widgets.transcript_html(bare)


def test_a_row_without_a_score_is_shown() -> None:
    for total in (None, float("nan")):
        row = synthetic.row("right", Random(0), 1) | {"reward": "exact", "total": total, "terms": {"correct": 0.0}}
        assert "exact: not scored" in widgets.transcript_html(row)


def test_examples_show_each_failure(rows: pd.DataFrame) -> None:
    html = widgets.examples(rows).data
    for outcome in set(rows["outcome"]) - {"correct"}:
        assert f"<h3>{outcome}" in html
    assert "Nothing failed" in widgets.examples(rows[rows["outcome"] == "correct"]).data
    assert "No such" in widgets.transcripts(rows.head(0)).data


def test_browser_filters(rows: pd.DataFrame) -> None:
    browser = widgets.trajectory_browser(rows)
    menus = {menu.description: menu for menu in found(browser, w.Dropdown)}
    count, page, number = found(browser, w.Label)[0], found(browser, w.HTML)[0], found(browser, w.BoundedIntText)[0]
    assert count.value.startswith(f"of {len(rows)} ")
    menus["outcome"].value, menus["method"].value = "malformed call", "base"
    wanted = rows[(rows["outcome"] == "malformed call") & (rows["method"] == "base")]
    assert count.value.startswith(f"of {len(wanted)} ") and number.max == max(1, len(wanted))
    assert "malformed call" in page.value and wanted["task_id"].iloc[0] in page.value
    menus["tool"].value = "guess"
    assert "No trajectory fits" in page.value
    menus["outcome"].value = "invented tool"
    wanted = rows[(rows["outcome"] == "invented tool") & (rows["method"] == "base")]
    assert len(wanted) and count.value.startswith(f"of {len(wanted)} ") and "guess(" in page.value


def test_playground_reacts_to_an_edit() -> None:
    row = synthetic.row("right", Random(0), 1)
    play = widgets.playground(row)
    editor, table = found(play, w.Textarea)[0], found(play, w.HTML)[-1]
    before = table.value
    assert "right answer" in before
    assert before.count("width:120px") == len(REWARDS) and not found(
        play, w.Output
    )  # paid in full, and no widget that batch fears
    editor.value = row["response"].replace(f"{{{row['answer']}}}", "{1}").replace("add", "<b>add")
    assert table.value != before and "wrong answer" in table.value and "<b>" not in table.value
    found(play, w.Button)[0].click()
    assert table.value == before


def test_rescored_reads_the_edited_text() -> None:
    row = synthetic.row("right", Random(0), 1)
    cut = widgets.rescored(row, row["response"].removesuffix("<|im_end|>")).set_index("reward")
    assert cut.loc["exact", "total"] == 0 < widgets.rescored(row).set_index("reward").loc["exact", "total"]
