"""What a teacher did, counted: chains, tools, overlaps, and the titles that say it."""

from mentorlib.data.suites import generate
from mentorlib.lab import analysis, figures


def test_chain_lengths_and_their_figure() -> None:
    pairs = generate("calculator", 40, split="train") + generate("longer", 20, split="eval")
    table = analysis.dataset.chain_lengths(pairs)
    assert table["n"].sum() == 60 and table["calls"].sum() == sum(len(r.calls) for _, r in pairs)
    assert table.groupby(["suite", "split"])["share"].sum().round(9).eq(1).all()
    fig = figures.dataset.chain_lengths(table)
    assert "longer" in fig.layout.title.text and "training on" in fig.layout.title.text.replace("<br>", " ")
    assert [t.name for t in fig.data] == [c for c in analysis.dataset.CHAINS if c in set(table["chain"])]
    assert "No chains" in figures.dataset.chain_lengths(analysis.dataset.chain_lengths([])).layout.title.text


def test_tools_that_only_evaluation_calls_are_counted() -> None:
    trained, unseen = generate("calculator", 60, split="train"), generate("unseen", 30, split="eval")
    table = analysis.dataset.tool_calls(trained + unseen)
    names = {call.name for _, r in unseen for call in r.calls}
    assert (
        table.loc[sorted(names), "unseen/eval"].sum() == 30 and not table.loc[sorted(names), "calculator/train"].any()
    )
    title = figures.dataset.tool_calls(table).layout.title.text
    assert title.startswith(f"<b>{len(names)} of the {len(names)} tools")
    alone = figures.dataset.tool_calls(analysis.dataset.tool_calls(trained)).layout.title.text.replace(
        "</b><br><b>", " "
    )
    assert f"{len(analysis.dataset.tool_calls(trained))} tools are called, all in training" in alone
    few = generate("calculator", 2, split="eval")
    used = len({call.name for _, r in few for call in r.calls})
    title = figures.dataset.tool_calls(analysis.dataset.tool_calls(trained + few)).layout.title.text.replace(
        "</b><br><b>", " "
    )
    assert f"Training calls each of the {used} tools" in title and used < len(analysis.dataset.tool_calls(trained))
    assert (
        "No tool"
        in figures.dataset.tool_calls(
            analysis.dataset.tool_calls(generate("no_tool", 3, split="eval"))
        ).layout.title.text
    )


def test_overlaps_show_a_question() -> None:
    pairs = generate("calculator", 3, split="eval")
    parts = {
        "calculator": {"tasks": 3, "overlap": 1, "first": [pairs[2][0].id]},
        "longer": {"tasks": 2, "overlap": 0, "first": []},
    }
    table = analysis.dataset.overlaps({"contamination": {"parts": parts}}, pairs)
    assert list(table["share"]) == ["33.3%", "0.0%"]
    assert list(table["such as"]) == [pairs[2][0].question, ""]
