"""Intervals, tests and divergences against published values and values computed by hand."""

import numpy as np
import pandas as pd
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


def test_two_way_clustering_by_hand() -> None:
    """Two tasks; of two runs one scores 0.1, against none: variance of tasks 0, of runs 1/400; t = 1 at 1 degree."""
    result = analysis.stats.two_way_clustered(np.array([[0.1, 0.0], [0.1, 0.0]]), np.zeros((2, 1)), seeds=2)
    assert result["difference"] == 0.05 and np.isclose(result["high"], 0.05 + 12.7062 * 0.05)
    assert np.isclose(result["se"], 0.05) and np.isnan(result["p"])  # two seeds
    wide = analysis.stats.two_way_clustered(np.array([[1.0, 0.0], [1.0, 0.0]]), np.zeros((2, 1)), seeds=2)
    assert (wide["low"], wide["high"]) == (-1, 1)


def test_degrees_of_freedom_are_those_of_the_seeds() -> None:
    """Four seeds of 0.1, 0.2, 0.3, 0.4 on five tasks alike: t = 0.25 / 0.0645 = 3.873 at 3 degrees, p = 0.0305."""
    four = np.tile([0.1, 0.2, 0.3, 0.4], (5, 1))
    result = analysis.stats.two_way_clustered(four, np.zeros((5, 1)), seeds=4)
    assert np.isclose(result["p"], 0.0305, atol=1e-4) and np.isclose(result["high"] - 0.25, 3.1824 * 0.06455, atol=1e-4)
    many = np.tile([0.1, 0.2, 0.3, 0.4] * 2, (9, 1))
    unequal = analysis.stats.two_way_clustered(many, np.zeros((9, 4)))  # of the method with fewer: 4
    assert np.isclose(unequal["high"] - 0.25, 3.1824 * unequal["se"], atol=1e-4)


def test_tasks_of_one_tool_count_as_one_draw() -> None:
    """Clusters of equal size: the same as averaging by tool first. Of other sizes: the mean over tasks stays."""
    rng = np.random.default_rng(0)
    values = rng.random((12, 5))
    labels = [i % 3 for i in range(12)]
    clustered = analysis.stats.two_way_clustered(values, np.zeros((12, 1)), labels, 5)
    averaged = np.array([values[[i % 3 == j for i in range(12)]].mean(0) for j in range(3)])
    assert clustered == pytest.approx(analysis.stats.two_way_clustered(averaged, np.zeros((3, 1)), seeds=5))
    uneven = analysis.stats.two_way_clustered(values, np.zeros((12, 1)), [0] * 7 + [1] * 3 + [2] * 2, 5)
    assert uneven["difference"] == pytest.approx(values.mean())


def test_a_suite_with_few_sets_of_tools_is_no_sample_of_tools() -> None:
    suites, tools = (
        ["unseen"] * 12 + ["retrieval"] * 3,
        [[f"t{i % 6}", f"t{i % 6}"] for i in range(12)] + [["search"]] * 3,
    )
    clusters = analysis.stats.tool_clusters(suites, tools, [str(i) for i in range(15)])
    assert len(set(clusters[:12])) == 6 and clusters[12:] == [
        ("retrieval", "12"),
        ("retrieval", "13"),
        ("retrieval", "14"),
    ]


def test_tasks_without_variance_have_wide_intervals() -> None:
    unseen = 1 - 0.025 ** (1 / 3)
    same = analysis.stats.two_way_clustered(np.ones((3, 4)), np.ones((3, 4)))
    assert (same["low"], same["high"], same["p"]) == pytest.approx((-unseen, unseen, 1))
    all_fixed = analysis.stats.two_way_clustered(np.ones((3, 4)), np.zeros((3, 1)), seeds=4)
    assert (all_fixed["low"], all_fixed["high"], all_fixed["p"]) == pytest.approx((1 - unseen, 1, 0.25))
    one = analysis.stats.two_way_clustered(np.ones((1, 2)), np.zeros((1, 1)))
    assert (one["difference"], one["high"]) == (1, 1) and one["low"] == pytest.approx(0.025)


def test_holm() -> None:
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
    same = synthetic.evaluated_rows({"base": [True] * 6}).assign(agreement=1.0)
    assert analysis.tool_use.tool_jsd(same).iloc[0].tolist() == ["calculator", "base", 0, 1, 6]
    other = synthetic.evaluated_rows({"base": [True] * 6}, tools=["invented"]).assign(agreement=0.0)
    assert analysis.tool_use.tool_jsd(other).iloc[0]["jsd"] == 1
    rows = pd.concat([other, same.assign(method="sft", run="sft")])
    row = analysis.tool_use.jsd_differences(rows).iloc[0]
    assert row["difference"] == -1 and np.isnan(row["low"])  # every resample is the same


def test_values_of_one_cluster_are_one_draw() -> None:
    values = np.array([0.0, 1, 1, 0, 1])
    assert np.isclose(analysis.stats.clustered_variance(values, ()), values.var(ddof=1) / 5)
    assert np.isclose(analysis.stats.clustered_variance(values, list("abcde")), values.var(ddof=1) / 5)
    # Deviations from 0.6 add up to 0.2 in a and -0.2 in b: variance 0.08, times 2 clusters, over 5 values squared.
    assert np.isclose(analysis.stats.clustered_variance(values, list("aabba")), 2 * 0.08 / 25)
    assert np.isnan(analysis.stats.clustered_variance(values, ["a"] * 5))


def test_which_seeds_are_compared() -> None:
    assert analysis.stats.pairing(("a", "b"), [[1, 2, 3], [4, 3, 2]]) == ([True, True], [[2, 3], [2, 3]], True, 2)
    assert analysis.stats.pairing(("a", "b"), [[0, 1, 2], [2, 3]]) == ([True, True], [[0, 1, 2], [2, 3]], False, 2)
    assert analysis.stats.pairing(("a", "base"), [[0, 1], [0, 1, 2]]) == ([True, False], [[0, 1], [0, 1, 2]], False, 2)
    assert analysis.stats.pairing(("base", "base data=x"), [[0, 1], [0, 1]]).fewer == 1
