"""Figures: titles state what the data say, text from data cannot become markup, no data gives a figure that says so."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import synthetic

from mentorlib.lab import analysis, figures

RIVALS = [["grpo-exact", "grpo-sparse"]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, go.Figure]:
    """Every figure, from made-up runs."""
    root = tmp_path_factory.mktemp("runs")
    synthetic.make_runs(Path(root))
    rows, rollouts = analysis.load.evaluations(root=root), analysis.load.rollouts(root=root)
    scored, official = analysis.reward_effects.rescore(rollouts), analysis.reward_effects.rescore(rollouts, "official")
    accuracy = analysis.comparison.accuracy(rows)
    return {
        "training_curves": figures.training.training_curves(analysis.training.training_curves(rollouts)),
        "accuracy": figures.comparison.accuracy(accuracy),
        "forest": figures.comparison.forest(analysis.comparison.paired(rows)),
        "jsd_forest": figures.comparison.forest(analysis.tool_use.jsd_differences(rows), measure="JSD"),
        "planned": figures.comparison.planned(
            analysis.comparison.planned(
                analysis.comparison.add_domain(rows, ["calculator"]), [["grpo-exact", "sft"], ["grpo-exact", "base"]]
            )
        ),
        "similarity": figures.comparison.similarity(accuracy, analysis.tool_use.tool_jsd(rows)),
        "identical_by_step": figures.treatment.identical_by_step(
            analysis.treatment.identical_by_step(rollouts, RIVALS),
            analysis.treatment.pairs(rollouts, analysis.comparison.add_domain(rows, ["calculator"]), RIVALS, groups=6),
        ),
        "pass_at_k": figures.skills.pass_at_k(
            analysis.skills.pass_at_k(analysis.comparison.add_domain(pd.concat([rows] * 2), ["calculator"]))
        ),
        "by_calls": figures.skills.by_calls(analysis.skills.by_calls(rows)),
        "carry_over": figures.training.carry_over(
            analysis.training.carry_over(
                analysis.comparison.add_domain(pd.concat([rows.assign(step=i) for i in (2, 4)]), ["calculator"])
            )
        ),
        "outcomes": figures.outcomes.outcome_shares(analysis.outcomes.outcome_shares(rows)),
        "stops": figures.outcomes.stop_shares(analysis.outcomes.stop_shares(rows)),
        "mean_rewards": figures.reward_effects.mean_rewards(scored),
        "version_differences": figures.reward_effects.version_differences(
            analysis.reward_effects.version_differences(official, scored), len(rollouts)
        ),
        "counterfactual": figures.reward_effects.counterfactual(analysis.reward_effects.counterfactual(scored)),
        "decomposition": figures.reward_effects.decomposition(analysis.reward_effects.decomposition(rollouts)),
        "reward_terms": figures.reward_effects.reward_terms(scored[scored["row"] == scored["row"].iloc[0]]),
    }


def title(figure: go.Figure) -> str:
    return figure.layout.title.text.replace("<b>", "").replace("</b>", "").replace("<br>", " ")


def test_titles_state_the_finding(drawn: dict[str, go.Figure]) -> None:
    assert title(drawn["accuracy"]) == "Accuracy by suite of 5 methods; 1 seed of at least 4, so no verdict"
    assert title(drawn["similarity"]).startswith("grpo-exact calls tools most like the teacher")
    for name, figure in drawn.items():
        assert any(c.isdigit() for c in title(figure)), name


def test_every_figure_reads_on_a_phone(drawn: dict[str, go.Figure]) -> None:
    for name, figure in drawn.items():
        assert figure.layout.width is None and figure.layout.height > 150, name
        assert all(len(line) <= figures.base.TITLE + 7 for line in figure.layout.title.text.split("<br>")), name
        named = [a.title.text for a in figure.select_xaxes() if a.title.text]
        assert named or figure.layout.annotations[-1].yshift == -24, f"{name}: no axis title"
        columns = (figure.layout.meta or {}).get("columns", 1)  # those below each other on a phone: each its own axes
        assert columns == 1 or len(list(figure.select_yaxes())) <= len(figure.layout.annotations), name


def test_a_method_has_one_colour(drawn: dict[str, go.Figure]) -> None:
    for name in ("accuracy", "forest", "training_curves", "similarity"):
        for trace in drawn[name].data:
            if trace.name in figures.base.METHODS:
                tint = trace.line.color if name == "training_curves" else (trace.error_x.color or trace.marker.color)
                assert tint == figures.base.METHODS[trace.name], (name, trace.name)
    assert len(set(figures.base.METHODS.values())) == len(figures.base.METHODS)
    assert figures.base.colour("grpo-exact data=gsm8k") == figures.base.METHODS["grpo-exact"]


def test_two_methods_of_a_figure_never_share_a_colour() -> None:
    custom = [f"grpo-custom{i}" for i in range(30)]
    labels = [*figures.base.METHODS, *custom, "grpo-exact data=gsm8k", "grpo-exact data=math"]
    colours = figures.base.method_colours(labels)
    assert len(set(colours.values())) == len(labels) and "#4D4D4D" not in colours.values()
    assert {name: colours[name] for name in figures.base.METHODS} == figures.base.METHODS
    alone = figures.base.colour("grpo-custom0")
    assert figures.base.method_colours(["base", "grpo-custom0"])["grpo-custom0"] == alone  # the same in every figure


HOSTILE = '<a href="javascript:alert(1)">x</a> <img src=x onerror=alert(2)> $\\href{x}{y}$ \x1b[31m \u202e'


def test_titles_compare_what_can_be_compared() -> None:
    jsd = [("a", "calculator", 0.01), ("b", "calculator", 0.005), ("b", "unseen", 0.6)]
    made = [{"method": m, "suite": s, "low": 0.0, "high": 1.0} for m, s, _ in jsd]
    scores = pd.DataFrame([row | {"accuracy": 0.5, "n": 9} for row in made])
    distances = pd.DataFrame([row | {"jsd": d, "agreement": 0.5} for row, (*_, d) in zip(made, jsd, strict=True)])
    assert figures.comparison.similarity(scores, distances).layout.title.text.startswith("<b>b calls tools most like")
    other = {"method": "c", "suite": "gsm8k", "low": 0.0, "high": 1.0}  # which is compared with none, and hinders none
    more = [pd.concat([f, pd.DataFrame([other | {k: 0.0 for k in f if k not in other}])]) for f in (scores, distances)]
    assert figures.comparison.similarity(*more).layout.title.text.startswith("<b>b calls tools most like")
    apart = figures.comparison.similarity(scores.iloc[[0, 2]], distances.iloc[[0, 2]]).layout.title.text
    assert "calls tools most like" not in apart
    ended = [("a", "calculator", "answered"), ("b", "calculator", "answered"), ("b", "unseen", "gave_up")]
    stops = pd.DataFrame([{"method": m, "suite": s, "stop": x, "n": 9, "share": 1.0} for m, s, x in ended])
    assert title(figures.outcomes.stop_shares(stops)) == "Ending in an answer: 100% of the trajectories of each method"
    paid = [(0, "correct", 1.0), (1, "gave up", 0.0), (2, "wrong tool", 0.1), (3, "infrastructure failure", 4.0)]
    scored = pd.DataFrame(
        [{"row": i, "reward": r, "outcome": o, "total": t} for i, o, t in paid for r in ("exact", "f1")]
    )
    assert not any("infrastructure failure" in name for name in figures.reward_effects.mean_rewards(scored).data[0].x)


def test_a_tie_has_no_winner() -> None:
    shares = pd.Series({"a": 0.9061, "b": 0.9058, "c": 0.4})
    assert analysis.text.leaders(shares, 3) == "a and b" and analysis.text.leaders(shares, 4) == "a"
    assert analysis.text.listed(["a", "b", "c"]) == "a, b and c" and analysis.text.listed(list("abcd")) == "4 of them"
    curve = {"step": [0, 1], "rollouts": [8, 16], "reward": 0.5, "zero_variance": 0.1, "runs": 5}
    curves = [
        pd.DataFrame(
            curve
            | {
                "method": m,
                "accuracy": [0.3, last],
                "smooth": [0.4, last],
                "seed_low": last - 0.02,
                "seed_high": last + 0.02,
            }
        )
        for m, last in (("a", 0.906), ("b", 0.906), ("c", 0.8))
    ]
    said, ends = "Gaining most in training: {} of rollouts correct", " (first and last quarter of the steps)"
    both = title(figures.training.training_curves(pd.concat(curves)))
    assert both == said.format("a 30% → 91% and b 30% → 91%") + ends
    clear = title(figures.training.training_curves(pd.concat([curves[0], curves[2]])))
    assert clear == said.format("a 30% → 91%") + ends
    alone = title(figures.training.training_curves(curves[0]))
    assert alone == "Rollouts correct in training: 30% → 91%" + ends


def test_no_two_methods_share_colour_and_symbol() -> None:
    marks = figures.base.method_marks([*figures.base.METHODS, "grpo-mine", "grpo-exact data=gsm8k"])
    assert len({(mark["color"], mark["symbol"]) for mark in marks.values()}) == len(marks)
    assert marks["sft"] == figures.base.method_marks(["sft"])["sft"]  # the same in every figure


def test_text_from_data_is_escaped() -> None:
    assert figures.base.plotly_text("<b>$a & b\x1b\u202e") == "&lt;b&gt;&#36;a &amp; b\\u001b\\u202e"
    one = {"suite": HOSTILE, "method": HOSTILE, "accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 9, "unjudged": 0}
    one |= {"runs": 2, "sd_runs": 0.1}  # several runs: the hover says more
    shares = pd.DataFrame([{"suite": HOSTILE, "method": HOSTILE, "outcome": HOSTILE, "n": 3, "share": 1.0}])
    scored = pd.DataFrame(
        [
            {
                "row": 0,
                "reward": HOSTILE,
                "total": 1.0,
                "terms": {HOSTILE: 1.0},
                "weights": {},
                "reason": HOSTILE,
                "outcome": "correct",
            }
        ]
    )
    for figure in (
        figures.comparison.accuracy(pd.DataFrame([one])),
        figures.outcomes.outcome_shares(shares),
        figures.outcomes.stop_shares(shares.rename(columns={"outcome": "stop"})),
        figures.reward_effects.reward_terms(scored),
        figures.reward_effects.mean_rewards(scored),
    ):
        for text in strings(figure.to_plotly_json()):
            markup = set(re.findall(r"<[^>]*>?", text)) - {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
            assert not markup and not set("$\x1b\u202e") & set(text), text
        assert "onerror" in figure.to_json()


def strings(value: Any) -> Iterator[str]:
    """Every string of a figure that plotly may render (groups of the legend are keys only)."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("legendgroup", "template"):
                yield from strings(item)
    elif isinstance(value, list | tuple) or hasattr(value, "tolist"):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize(
    "draw",
    [
        lambda none: figures.training.training_curves(none),
        lambda none: figures.comparison.accuracy(none),
        lambda none: figures.treatment.identical_by_step(none, none),
        lambda none: figures.skills.pass_at_k(none),
        lambda none: figures.skills.by_calls(none),
        lambda none: figures.training.carry_over(pd.DataFrame(columns=["inside", "outside"])),
        lambda none: figures.comparison.forest(none),
        lambda none: figures.comparison.planned(none),
        lambda none: figures.comparison.similarity(
            pd.DataFrame(columns=["suite", "method", "accuracy"]), pd.DataFrame(columns=["suite", "method", "jsd"])
        ),
        lambda none: figures.outcomes.outcome_shares(none),
        lambda none: figures.outcomes.stop_shares(none),
        lambda none: figures.reward_effects.mean_rewards(none),
        lambda none: figures.reward_effects.version_differences(none, 7),
        lambda none: figures.reward_effects.counterfactual(pd.DataFrame(columns=["reward", "trained"])),
        lambda none: figures.reward_effects.decomposition(none),
        lambda none: figures.reward_effects.reward_terms(none),
    ],
)
def test_no_data_gives_a_figure_that_says_so(draw: Callable[[pd.DataFrame], go.Figure]) -> None:
    figure = draw(pd.DataFrame())
    assert not figure.data and len(figure.layout.annotations) == 1


def test_no_failure_and_one_method(tmp_path: Path) -> None:
    synthetic.make_runs(tmp_path, tasks=4, methods=("base",))
    rows = analysis.load.evaluations(root=tmp_path)
    assert "only one method" in title(figures.comparison.forest(analysis.comparison.paired(rows)))
    right = rows[rows["outcome"] == "correct"]
    assert title(figures.outcomes.outcome_shares(analysis.outcomes.outcome_shares(right))).startswith("Nothing failed")


def test_a_method_leads_only_if_intervals_do_not_overlap() -> None:
    columns = ["suite", "method", "accuracy", "low", "high", "n", "unjudged"]
    rows = [("a", "base", 0.2, 0.1, 0.3, 9, 0), ("a", "sft", 0.8, 0.7, 0.9, 9, 0), ("b", "base", 0.5, 0.4, 0.6, 9, 0)]
    table = pd.DataFrame([*rows, ("b", "sft", 0.5, 0.4, 0.6, 9, 0)], columns=columns)
    table = table.assign(runs=4, sd_runs=0.01)
    assert title(figures.comparison.accuracy(table)) == "sft stands clear of all others on 1 of 2 suites"
    assert title(figures.comparison.accuracy(table[table["method"] == "base"])) == "base is right on 20% (a) to 50% (b)"
    assert title(figures.comparison.accuracy(table[table["suite"] == "b"])).startswith(
        "Neither base nor sft stands clear"
    )


def test_a_correlation_is_given_only_if_both_sides_vary() -> None:
    scores = pd.DataFrame({"suite": list("aabb"), "method": ["base", "sft"] * 2, "low": 0.0, "high": 1.0})
    scores = scores.assign(accuracy=[0.2, 0.4, 0.7, 0.9])  # the suite that is further from the teacher is the easier
    distances = scores[["suite", "method"]].assign(jsd=[0.2, 0.1, 0.9, 0.8], agreement=0.5)
    assert "correlation with accuracy within suites -1.00" in title(figures.comparison.similarity(scores, distances))
    assert "correlation" not in title(figures.comparison.similarity(scores.assign(accuracy=0.5), distances))


def test_methods_of_the_same_similarity_have_no_winner() -> None:
    rows = [
        {"method": m, "suite": "s", "jsd": 0.1, "agreement": 0.5, "accuracy": a} for m, a in (("a", 0.4), ("b", 0.6))
    ]
    both = pd.DataFrame(rows).assign(low=0.0, high=1.0)
    assert "most like" not in title(
        figures.comparison.similarity(both.drop(columns="jsd"), both[["method", "suite", "jsd"]])
    )


def wcag(page: list[float], mark: list[float]) -> float:
    """The contrast of two sRGB colours (0..1), as WCAG defines it."""
    light = [
        sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip(WEIGHTS, x, strict=True))
        for x in (page, mark)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


WEIGHTS = (0.2126, 0.7152, 0.0722)
HUES = [[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]]  # CSS's hue-rotate(180deg)


def inverted(colour: list[float]) -> list[float]:
    """A colour of a report in the dark, as report.template turns it: invert(.9) hue-rotate(180deg)."""
    turned = [0.9 - 0.8 * c for c in colour]
    return [min(1.0, max(0.0, sum(w * c for w, c in zip(row, turned, strict=True)))) for row in HUES]


def test_colours_are_seen_on_white_and_in_the_dark() -> None:
    white = [1.0, 1.0, 1.0]
    for palette in (figures.base.OUTCOME_COLOURS, figures.base.STOP_COLOURS, figures.base.TERMS):
        assert len(set(palette.values())) == len(palette)
        for name, code in palette.items():
            tint = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            assert min(wcag(white, tint), wcag(inverted(white), inverted(tint))) > 2, name
    black, strongest = [0.0] * 3, figures.base.HEATMAP["colorscale"][1][1]
    cell = [int(strongest[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert min(wcag(black, cell), wcag(inverted(black), inverted(cell))) > 4.5


def test_an_axis_has_one_title(drawn: dict[str, go.Figure]) -> None:
    kinds = pd.DataFrame({"method": ["a", "b"], "reward": "exact", "kind": "call", "tokens": 0.7, "share": [0.8, 0.9]})
    credit = figures.token_credit.advantage_by_token_kind(kinds.assign(gradient=None, n=9))
    chains = [{"suite": s, "split": "train", "chain": "1 call", "calls": 3, "n": 3, "share": 1.0} for s in "ab"]
    for figure in (credit, figures.dataset.chain_lengths(pd.DataFrame(chains)), drawn["outcomes"]):
        below = [note.text for note in figure.layout.annotations if note.yshift == -24]
        assert len(below) == 1 and not any(axis.title.text for axis in figure.select_xaxes()), title(figure)
    assert credit.layout.annotations[-1].text.startswith("share of |advantage| by token")


def test_a_contrast_has_the_colour_of_what_it_is_against(drawn: dict[str, go.Figure]) -> None:
    for trace, against in zip(drawn["planned"].data, ("sft", "base"), strict=True):
        assert trace.error_x.color == figures.base.METHODS[against]


def test_terms_have_one_colour_and_a_bar(drawn: dict[str, go.Figure]) -> None:
    known = figures.base.TERMS
    for name in ("reward_terms", "decomposition"):
        for trace in drawn[name].data:
            if trace.type == "bar":
                assert trace.marker.color == known[trace.name] and any(trace.x), (name, trace.name)
    row = {"row": 0, "reason": "", "terms": {"correct": 0.0, "tools": 1.0}, "weights": {"correct": 0.7, "tools": 0.3}}
    scored = pd.DataFrame([row | {"reward": "exact", "total": 0.55}, row | {"reward": "toolrl", "total": -2.0}])
    figure = figures.reward_effects.reward_terms(scored)
    assert [trace.name for trace in figure.data] == ["tools", "total"]
    assert list(figure.data[-1].x) == [0.5, -0.5] and list(figure.data[-1].y) == [
        "exact: 0.55 of 1.1",
        "toolrl: -2.00 of 4",
    ]
    assert title(figure) == "The same response gets from -50% (toolrl) to 50% (exact) of a reward's maximum"


def test_titles_speak_of_what_the_figure_shows() -> None:
    rows = [("a", "add", "add", 90), ("a", "add", "sum", 10), ("b", "add", "sum", 30), ("b", "add", "add", 10)]
    rows += [("b", f"tool{i}", f"tool{i}", 50) for i in range(6)] + [("b", "rare", "other", 39)]
    steps = pd.DataFrame(rows, columns=["method", "teacher", "student", "n"]).assign(step=1)
    sums = pd.DataFrame([("a", "sum", "sum", 99)], columns=["method", "teacher", "student", "n"]).assign(step=1)
    said = title(figures.tool_use.confusion(pd.concat([steps, sums])))
    assert said.startswith("Commonest confusion: b calls sum where the teacher calls add, 75% of the time")
    moves = [("teacher", "rare", "add", 1, 1.0), ("a", "rare", "rare", 20, 1.0)]  # the largest gap is not shown
    moves += [(m, "add", f"tool{i}", 90, s) for i in range(6) for m, s in (("teacher", 0.15), ("a", 0.1))]
    moves += [(m, "add", "add", 90, s) for m, s in (("teacher", 0.1), ("a", 0.4))]
    figure = figures.tool_use.transitions(pd.DataFrame(moves, columns=["method", "start", "next", "n", "share"]))
    assert "rare" not in title(figure) and "rare" not in figure.data[0].y
    assert {axis.title.text for axis in figure.select_xaxes()} == {"next call"}
    assert {axis.title.text for axis in figure.select_yaxes()} == {"after"}


def test_few_rows_are_no_point_of_accuracy_by_calls() -> None:
    made = [("a", 1, 0.9, 50), ("a", 2, 0.5, 20), ("b", 1, 0.8, 50), ("b", 2, 0.4, 10), ("b", 3, 0.2, 12)]
    table = pd.DataFrame([*made, ("a", 11, 0.0, 2)], columns=["method", "calls", "accuracy", "n"])
    figure = figures.skills.by_calls(table.assign(low=0.0, high=1.0))
    assert title(figure) == "Accuracy where the teacher made 2 calls: 40% (b) to 50% (a)"
    assert max(max(trace.x) for trace in figure.data) < 4
    assert figure.layout.annotations[-1].text == "calls of the teacher"
    none = figures.skills.by_calls(table.assign(low=0.0, high=1.0, calls=table["calls"] - 1))
    assert none.layout.annotations[-1].text == "calls of the teacher (0: no tool fits)"
    assert not figures.skills.by_calls(table.assign(n=9)).data


def test_the_commonest_failure_is_counted_on_suites_in_common() -> None:
    made = [("a", "s", "gave up", 2), ("a", "s", "wrong tool", 1), ("b", "s", "gave up", 1), ("b", "s", "correct", 3)]
    shares = pd.DataFrame([*made, ("a", "t", "wrong tool", 9)], columns=["method", "suite", "outcome", "n"])
    figure = figures.outcomes.outcome_shares(shares.assign(share=0.5))
    assert title(figure) == "The commonest failure: gave up, 75% of all failures on the suites in common"
    figure = figures.outcomes.outcome_shares(shares.head(4).assign(share=0.5))
    assert title(figure) == "The commonest failure: gave up, 75% of all failures"


def test_only_accuracy_has_fixed_and_broken_tasks() -> None:
    pair = {"suite": "s", "method": "a", "against": "b", "difference": 0.1, "low": 0.0, "high": 0.2, "seeds": 1}
    pairs = pd.DataFrame([pair | {"tasks": 9, "fixed": 2, "broke": 1}])
    assert "fixed 2, broke 1" in figures.comparison.forest(pairs).data[0].hovertext[0]
    assert "fixed" not in figures.comparison.forest(pairs, measure="agreement").data[0].hovertext[0]
