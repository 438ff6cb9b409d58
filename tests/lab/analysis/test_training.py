"""Learning curves and speed, from rollouts made up so that the answer is known."""

import math

import pandas as pd
import pytest

from mentorlib.lab import analysis, figures


def rollouts(right: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """Ten rollouts a step in two groups; (method, run) -> share right at each step."""
    rows = [
        {"method": method, "run": run, "step": step, "group": i // 5, "correct": i < round(10 * share)}
        | {"total": float(i < round(10 * share)), "n_calls": 2, "n_tokens": 20}
        for (method, run), shares in right.items()
        for step, share in enumerate(shares, 1)
        for i in range(10)
    ]
    return pd.DataFrame(rows)


ROWS = rollouts(
    {
        ("grpo-exact", "a"): [0.1, 0.5, 0.9, 0.9],
        ("grpo-exact", "b"): [0.3, 0.7, 0.9, 0.9],
        ("grpo-sparse", "c"): [0.1, 0.1, 0.2, 0.2],
    }
)


def test_curves_pool_seeds_and_show_their_spread() -> None:
    curves = analysis.training.training_curves(ROWS).set_index(["method", "step"])
    second = curves.loc[("grpo-exact", 2)]
    assert second["n"] == 20 and second["runs"] == 2 and second["accuracy"] == pytest.approx(0.6)
    assert (second["seed_low"], second["seed_high"]) == pytest.approx((0.5, 0.7))
    assert curves.loc[("grpo-exact", 3), "zero_variance"] == pytest.approx(
        0.5
    )  # nine of ten: the first group is all right
    assert curves.loc[("grpo-sparse", 1), "seed_high"] == curves.loc[("grpo-sparse", 1), "seed_low"]


def test_speed_is_the_area_and_the_rollouts_to_a_level() -> None:
    speed = analysis.training.learning_speed(ROWS).set_index("method")
    assert speed.loc["grpo-exact", "area"] == pytest.approx((0.6 + 0.7) / 2)
    half = 12.7062 * 0.05  # t at one degree of freedom, times the standard error of 0.6 and 0.7
    assert speed.loc["grpo-exact", ["low", "high"]].tolist() == pytest.approx([0.65 - half, 0.65 + half], abs=1e-4)
    assert speed.loc["grpo-exact", "rollouts_to_level"] == 40  # three steps average 0.7 at the fourth, in both runs
    assert math.isnan(speed.loc["grpo-sparse", "rollouts_to_level"]) and speed.loc["grpo-sparse", "runs_at_level"] == 0
    assert math.isnan(speed.loc["grpo-sparse", "low"])  # one run has no variance between seeds


def test_a_group_without_two_rewards_has_no_variance() -> None:
    rows = ROWS[ROWS["run"] == "a"].reset_index(drop=True)
    second = rows.index[(rows["step"] == 3) & (rows["group"] == 1)]  # four of five right; the first group is all right
    for judged in (0, 1):
        left = rows.assign(total=rows["total"].astype(object).where(~rows.index.isin(second[judged:]), None))
        curves = analysis.training.training_curves(left).set_index(["method", "step"])
        assert curves.loc[("grpo-exact", 3), "zero_variance"] == 1.0


def test_a_step_of_infrastructure_failures_has_no_accuracy() -> None:
    failed = ROWS.assign(
        correct=ROWS["correct"].astype(object).where(~((ROWS["run"] == "c") & (ROWS["step"] == 4)), None)
    )
    curves = analysis.training.training_curves(failed).set_index(["method", "step"])
    assert math.isnan(curves.loc[("grpo-sparse", 4), "accuracy"]) and curves.loc[("grpo-exact", 4), "accuracy"] == 0.9
    nothing = analysis.training.training_curves(ROWS.assign(correct=None))
    assert nothing["accuracy"].isna().all() and figures.training.training_curves(nothing).data


def test_a_level_is_reached_by_three_steps_and_never_by_the_end_of_a_shorter_run() -> None:
    lucky = rollouts({("m", "a"): [0.9, 0.2, 0.2, 0.2], ("m", "b"): [0.2, 0.2, 0.2]})
    assert analysis.training.learning_speed(lucky).iloc[0]["runs_at_level"] == 0
    short = rollouts({("m", "a"): [0.6, 0.6, 0.8], ("n", "b"): [0.2] * 6})
    assert analysis.training.learning_speed(short).set_index("method").loc["m", "runs_at_level"] == 0


def test_nothing_stored_is_an_empty_table() -> None:
    none = ROWS.head(0)
    assert analysis.training.training_curves(none).empty and analysis.training.learning_speed(none).empty
    assert (
        "No training curves"
        in figures.training.training_curves(analysis.training.training_curves(none)).layout.title.text
    )


def test_the_figure_has_a_band_where_there_are_seeds() -> None:
    figure = figures.training.training_curves(analysis.training.training_curves(ROWS))
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert [trace.name for trace in bands] == ["grpo-exact"] and len(bands[0].x) == 8
    assert "in training: grpo-exact " in figure.layout.title.text.replace("</b><br><b>", " ")


def test_first_and_last_quarter() -> None:
    assert analysis.training.early_and_late(pd.Series([0.0, 0.2, 0.5, 0.5, 0.5, 0.5, 0.8, 1.0])) == (0.1, 0.9)
    assert analysis.training.early_and_late(pd.Series([0.3])) == (0.3, 0.3)


def test_carry_over_has_the_means_of_each_domain_and_of_the_runs() -> None:
    made = [
        {"method": "sft", "run": f"sft-{seed}", "step": step, "suite": suite, "task_id": str(i), "correct": i < right}
        for seed in (0, 1)
        for step, inside, longer, unseen in ((2, 2, 1, 3), (4, 4, 2 + seed, 4))
        for suite, right in (("calculator", inside), ("longer", longer), ("unseen", unseen))
        for i in range(4)
    ]
    rows = analysis.comparison.add_domain(pd.DataFrame(made), ["calculator"])
    table = analysis.training.carry_over(rows).set_index(["run", "step"])
    assert table.loc[("sft-1", 4), ["inside", "outside", "tasks"]].tolist() == [1.0, (0.75 + 1) / 2, 12]
    assert table.loc[("", 4), "outside"] == pytest.approx((0.75 + 0.875) / 2) and len(table) == 6
    assert analysis.training.carry_over(rows.iloc[:0]).empty
