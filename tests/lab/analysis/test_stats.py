"""Intervals, tests and divergences against published values and values computed by hand."""

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from mentorlib.lab import analysis


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17(8), table I: 81/263 and 0/20
    assert np.allclose(analysis.stats.wilson(81, 263), (0.2553, 0.3662), atol=1e-4)
    assert np.allclose(analysis.stats.wilson(0, 20), (0, 0.1611), atol=1e-4)
    assert analysis.stats.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("runs", [2, 5])
@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_the_type_i_error_rate_is_near_its_level(runs: int, spread: float) -> None:
    """Two methods of the same skill on tasks of any difficulty; seeds that differ by ``spread`` in the logit."""
    rng = np.random.default_rng(2)

    def method(logits: np.ndarray) -> np.ndarray:
        return (rng.random((150, runs)) < 1 / (1 + np.exp(-logits - rng.normal(0, spread, runs)))).astype(float)

    p = []
    for _ in range(200):
        logits = rng.logistic(size=(150, 1))
        p.append(analysis.stats.two_way_clustered(method(logits), method(logits))["p"])
    assert np.mean(np.array(p) < 0.05) < 0.08 and np.mean(np.array(p) < 0.004) < 0.035


def test_two_way_clustering_by_hand() -> None:
    """Two tasks; of two runs one scores 0.1, against none: variance of tasks 0, of runs 1/400; t = 1 at 1 degree."""
    result = analysis.stats.two_way_clustered(np.array([[0.1, 0.0], [0.1, 0.0]]), np.zeros((2, 1)))
    assert result["difference"] == result["low_tasks"] == result["high_tasks"] == 0.05
    assert np.isclose(result["high_runs"], 0.05 + 12.7062 * 0.05) and np.isclose(result["high"], result["high_runs"])
    assert np.isclose(result["p"], 0.5)
    wide = analysis.stats.two_way_clustered(np.array([[1.0, 0.0], [1.0, 0.0]]), np.zeros((2, 1)))
    assert (wide["low"], wide["high"], wide["low_runs"], wide["high_runs"]) == (-1, 1, -1, 1)


def test_tasks_without_variance_have_wide_intervals() -> None:
    unseen = 1 - 0.025 ** (1 / 3)
    same = analysis.stats.two_way_clustered(np.ones((3, 2)), np.ones((3, 2)))
    assert (same["low"], same["high"], same["p"]) == pytest.approx((-unseen, unseen, 1))
    all_fixed = analysis.stats.two_way_clustered(np.ones((3, 2)), np.zeros((3, 1)))
    assert (all_fixed["low"], all_fixed["high"], all_fixed["p"]) == pytest.approx((1 - unseen, 1, 0.25))
    one = analysis.stats.two_way_clustered(np.ones((1, 2)), np.zeros((1, 1)))
    assert (one["difference"], one["high"], one["p"]) == (1, 1, 1) and one["low"] == pytest.approx(0.025)
    assert analysis.comparison.paired(synthetic.evaluated_rows({"base": [False], "sft": [True]}))["p"].tolist() == [1.0]


def test_mcnemar_and_holm() -> None:
    assert analysis.stats.mcnemar(0, 0) == analysis.stats.mcnemar(5, 5) == 1.0
    assert np.isclose(analysis.stats.mcnemar(10, 0), 2 / 2**10)
    assert np.allclose(analysis.stats.holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    assert len(analysis.stats.holm(np.array([]))) == 0


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_jsd_is_a_symmetric_bounded_divergence(p: list[int], q: list[int]) -> None:
    a, b = np.array(p, float), np.array(q, float)
    result = analysis.stats.jsd(a, b)
    if not a.sum() or not b.sum():
        assert np.isnan(result)
    else:
        assert 0 <= result <= 1 and np.isclose(result, analysis.stats.jsd(b, a))
        assert np.isclose(analysis.stats.jsd(a, 3 * a), 0)


def test_jsd_by_hand() -> None:
    assert analysis.stats.jsd(np.array([1, 0]), np.array([0, 1])) == 1
    assert np.isclose(analysis.stats.jsd(np.array([1.0, 0]), np.array([1.0, 1])), 0.311278)  # h(3/4) - 1/2
    same = analysis.tool_use.tool_jsd(synthetic.evaluated_rows({"base": [True] * 6})).iloc[0]
    assert (same["jsd"], same["low"], same["high"], same["floor"], same["tasks"]) == (0, 0, 0, 0, 6)
    other = analysis.tool_use.tool_jsd(synthetic.evaluated_rows({"base": [True] * 6}, tools=["invented"])).iloc[0]
    assert other["jsd"] == 1
