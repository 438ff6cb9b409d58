"""Coverage and type I error of every estimator that a comparison uses, by simulation (seeded; bounds stated)."""

import numpy as np
import pandas as pd
import pytest
from scipy import special

from mentorlib.lab import analysis
from mentorlib.lab.analysis.stats import holm, tool_clusters, two_way_clustered, wilson

DATA_SETS = 400
# The tool of each of 80 tasks, as uneven as in calculator, where two of 41 sets of tools hold half of the tasks.
UNEVEN = np.repeat(range(14), [28, 15, 8, 6, 5, 4, 3, 3, 2, 2, 1, 1, 1, 1])
# Of 400 null data sets a test at 0.05 rejects up to 31 (0.078) in 99% of simulations, one at 0.0167 up to 13.
BOUND, HOLM_BOUND, COVERED = 0.078, 0.034, 0.925


def answers(rng: np.random.Generator, logits: np.ndarray, seeds: np.ndarray, tools: np.ndarray | int = 0) -> np.ndarray:
    """Right or wrong, tasks x seeds, of a method: task difficulty, what each seed learned, and what each tool did."""
    return (rng.random((len(logits), len(seeds))) < 1 / (1 + np.exp(-logits - seeds - tools))).astype(float)


def compare(rng: np.random.Generator, design: str, seeds: int, spread: float, gain: float = 0.0) -> dict[str, float]:
    """One data set of 80 tasks; the second method is better by ``gain`` in probability."""
    tasks = rng.logistic(size=(80, 1))
    ours, theirs = rng.normal(0, spread, (2, seeds))
    if design == "base":  # not trained: one run
        return two_way_clustered(answers(rng, tasks, ours), answers(rng, tasks, np.zeros(1)), seeds=seeds)
    if design == "other seeds":
        return two_way_clustered(answers(rng, tasks, ours), answers(rng, tasks, theirs))
    common, tools, clusters = rng.normal(0, 0.5, seeds), (0, 0), []
    if design.endswith("14 tools"):  # each method learned other tools
        tool = UNEVEN if design.startswith("uneven") else np.arange(80) % 14
        tools = tuple(rng.normal(0, 1.0, (2, 14, 1))[:, tool])
        clusters = tool_clusters(["unseen"] * 80, [[str(t)] for t in tool], [str(i) for i in range(80)])
    first, second = answers(rng, tasks, common + ours, tools[0]), answers(rng, tasks, common + theirs, tools[1])
    second = np.where(rng.random(second.shape) < gain, 1 - first, second) if gain else second
    return two_way_clustered(first - second, np.zeros((80, 1)), clusters, seeds)


@pytest.mark.parametrize("design", ["other seeds", "same seeds", "14 tools", "uneven 14 tools", "base"])
@pytest.mark.parametrize("seeds", [2, 4, 8])
@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_type_i_error_and_coverage(design: str, seeds: int, spread: float) -> None:
    """Two methods that are equally good: the interval covers 0, and p is below a level no more often than the level."""
    rng = np.random.default_rng(1)
    results = pd.DataFrame([compare(rng, design, seeds, spread) for _ in range(DATA_SETS)])
    assert results["low"].le(0).mul(results["high"].ge(0)).mean() >= COVERED
    if seeds < 4:
        assert results["p"].isna().all()
        return
    assert results["p"].lt(0.05).mean() <= BOUND and results["p"].lt(0.05 / 3).mean() <= HOLM_BOUND
    assert results["low"].gt(0).add(results["high"].lt(0)).astype(bool).equals(results["p"].lt(0.05))


def test_tasks_of_few_tools_are_not_independent() -> None:
    """What the clusters are for: without them the same data reject several times as often as the level."""
    rng = np.random.default_rng(1)
    rejected = {True: 0, False: 0}
    for _ in range(DATA_SETS):
        tool = np.arange(80) % 14
        learned = rng.normal(0, 1.5, (2, 14, 1))[:, tool]
        tasks = rng.logistic(size=(80, 1))
        pair = [answers(rng, tasks, rng.normal(0, 0.1, 8), tools) for tools in learned]
        for clustered in rejected:
            clusters = list(tool) if clustered else []
            result = two_way_clustered(pair[0] - pair[1], np.zeros((80, 1)), clusters, seeds=8)
            rejected[clustered] += result["p"] < 0.05
    assert rejected[True] / DATA_SETS <= BOUND and rejected[False] / DATA_SETS > 0.12


@pytest.mark.parametrize("seeds", [4, 8])
def test_the_interval_of_a_true_difference_covers_it(seeds: int) -> None:
    """Seeds vary in probability, so that the true difference is known: 10 points."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(DATA_SETS):
        tasks, common = rng.uniform(0.2, 0.7, (80, 1)), rng.uniform(-0.1, 0.1, seeds)
        ours, theirs = rng.uniform(-0.1, 0.1, (2, seeds))
        first = (rng.random((80, seeds)) < tasks + 0.1 + common + ours).astype(float)
        second = (rng.random((80, seeds)) < tasks + common + theirs).astype(float)
        result = two_way_clustered(first - second, np.zeros((80, 1)), seeds=seeds)
        covered += result["low"] <= 0.1 <= result["high"]
    assert covered / DATA_SETS >= COVERED


def test_a_family_of_three_contrasts_keeps_its_level() -> None:
    """exact against three methods that are equally good, so that the three p-values are dependent."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(DATA_SETS):
        tasks = rng.logistic(size=(80, 1))
        exact, *others = (answers(rng, tasks, rng.normal(0, 0.5, 5)) for _ in range(4))
        p = [two_way_clustered(exact - other, np.zeros((80, 1)), seeds=5)["p"] for other in others]
        wrong += bool((holm(np.array(p)) < 0.05).any())
    assert wrong / DATA_SETS <= BOUND


@pytest.mark.parametrize("seeds", [4, 8])
def test_the_detectable_difference_is_found_in_four_of_five_studies(seeds: int) -> None:
    """With normal differences and three contrasts, of which one is true, at Holm's first step."""
    rng = np.random.default_rng(9)
    rows = pd.DataFrame({"suite": "s", "method": "a", "task_id": range(60), "domain": "out of domain"})
    rows = pd.concat([rows.assign(method=name, seed=seed) for name in "abcd" for seed in range(seeds)])
    rows = rows.assign(run=rows["method"] + rows["seed"].astype(str), correct=rng.random(len(rows)) < 0.5)
    rows = rows.assign(teacher_tools=[["add"]] * len(rows))
    contrasts = [("a", "b"), ("a", "c"), ("a", "d")]
    planned = analysis.comparison.planned(rows, contrasts)
    error = (planned["high"] - planned["low"]) / 2 / special.stdtrit(seeds - 1, 0.975)
    size = (planned["detectable"] / error).to_numpy()  # in standard errors
    t = (rng.normal(size=(20_000, 1)) + size) / np.sqrt(rng.chisquare(seeds - 1, (20_000, 1)) / (seeds - 1))
    found = (2 * special.stdtr(seeds - 1, -t) < 0.05 / 3).mean(axis=0)
    assert found == pytest.approx([0.8] * 3, abs=0.02)


def test_wilson_covers_the_share() -> None:
    rng = np.random.default_rng(4)
    for share in (0.05, 0.5, 0.9):
        right = rng.binomial(80, share, DATA_SETS)
        assert np.mean([low <= share <= high for low, high in (wilson(k, 80) for k in right)]) >= COVERED


@pytest.mark.parametrize(("tool", "lowest"), [(np.arange(80) % 14, 0.9), (UNEVEN, 0.87)], ids=["even", "uneven"])
def test_accuracy_with_few_tools_covers_the_accuracy_over_tools(tool: np.ndarray, lowest: float) -> None:
    """14 tools, each of which a student knows (95% right) or does not (15%): the truth is 55%."""
    rng, covered, alone = np.random.default_rng(5), 0, 0
    for _ in range(DATA_SETS // 2):
        right = rng.random(80) < np.where(rng.random(14) < 0.5, 0.95, 0.15)[tool]
        frame = pd.DataFrame({"suite": "unseen", "method": "sft", "run": "sft", "task_id": range(80), "correct": right})
        row = analysis.comparison.accuracy(frame.assign(teacher_tools=[[str(t)] for t in tool])).iloc[0]
        covered += row["low"] <= 0.55 <= row["high"]
        low, high = wilson(float(right.sum()), 80)
        alone += low <= 0.55 <= high
    assert covered / (DATA_SETS // 2) >= lowest and alone / (DATA_SETS // 2) < 0.8


def called(rng: np.random.Generator, method: str, faithful: np.ndarray, tasks: int = 40) -> pd.DataFrame:
    """Rows of a method whose seeds call the teacher's tool with these probabilities, and any of eight otherwise."""
    teacher = np.arange(tasks) % 8
    rows = [
        {"suite": "s", "method": method, "run": f"{method}-{k}", "seed": k, "task_id": str(i), "correct": True}
        | {"teacher_tools": [f"tool{teacher[i]}"]}
        | {"calls": [{"name": f"tool{teacher[i] if rng.random() < p else rng.integers(8)}", "arguments": {}}]}
        for k, p in enumerate(faithful)
        for i in range(tasks)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seeds", [1, 5])
def test_differences_of_jsd_keep_their_level(seeds: int) -> None:
    rng, apart, n = np.random.default_rng(6), 0, 120
    for _ in range(n):
        pair = [called(rng, name, rng.uniform(0.3, 0.5, seeds)) for name in ("grpo-exact", "sft")]
        row = analysis.tool_use.jsd_differences(pd.concat(pair), "sft", draws=100).iloc[0]
        apart += row["low"] > 0 or row["high"] < 0
    assert apart / n <= 0.1  # 12 of 120: at 0.05, exceeded in 1% of simulations


def test_a_swap_of_every_tool_in_a_fifth_of_the_tasks_is_seen() -> None:
    """The counts of tools nearly stay, so that JSD is near 0; task by task a fifth of the calls differ."""
    rng = np.random.default_rng(7)
    same, swapped = (called(rng, name, np.ones(4), 200) for name in ("sft", "grpo-exact"))
    fifth = set(rng.permutation(200)[:40].astype(str))
    swapped["calls"] = [
        [{"name": f"tool{(int(task) + 1) % 8}"}] if task in fifth else calls
        for task, calls in zip(swapped["task_id"], swapped["calls"], strict=True)
    ]
    rows = pd.concat([same, swapped], ignore_index=True)
    stored = {"stop": "answered", "tools": [], "messages": []}
    derived = [analysis.outcomes.derived_columns(row | stored) for row in rows.to_dict("records")]
    rows = rows.assign(agreement=[row["agreement"] for row in derived], stop="answered")
    table = analysis.tool_use.tool_jsd(rows).set_index("method")
    assert table["jsd"].max() < 0.01 and table.loc["grpo-exact", "agreement"] == 0.8
    row = analysis.comparison.paired(rows, "sft", measure="agreement").iloc[0]
    assert row["difference"] == pytest.approx(-0.2) and row["high"] < 0


def test_the_interval_of_pass_at_k_covers_it() -> None:
    """Tasks of 14 tools that differ in difficulty; the truth is the mean over tools."""
    rng, n = np.random.default_rng(8), 100
    truth = float(np.mean(1 - (1 - rng.beta(1, 2, 200_000)) ** 2))
    skill = rng.beta(1, 2, (n, 14))
    places = pd.MultiIndex.from_product([range(n), range(56), range(2)], names=["method", "task_id", "sample"])
    rows = places.to_frame(index=False).assign(domain="out", suite="unseen")
    tool = rows["task_id"] % 14
    rows = rows.assign(run=rows["method"], teacher_tools=[[str(t)] for t in tool])
    rows["correct"] = rng.random(len(rows)) < skill[rows["method"], tool]
    table = analysis.skills.pass_at_k(rows).query("k == 2")
    covered = table["low"].le(truth) & table["high"].ge(truth)
    assert covered.mean() >= 0.88  # 0.95, less three standard errors of a hundred draws
