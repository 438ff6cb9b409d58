"""The sentences that notebooks 03 and 04 begin with say what the tables say, and nothing where there is none."""

import re
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from mentorlib.lab import analysis, figures
from mentorlib.lab.analysis.text import percent


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    synthetic.make_runs(root, tasks=12, steps=3)
    return root


def test_where_methods_fail(root: Path) -> None:
    rows = analysis.load.evaluations(root=root)
    pairs, overlap = analysis.comparison.paired(rows), analysis.tool_use.tool_overlap(rows)
    right, commonest, tasks, invented = analysis.findings.error_findings(rows, pairs, overlap)
    assert f"sft {percent(rows.loc[rows['method'] == 'sft', 'correct'].mean())}" in right and "3 suites" in right
    failed = rows.loc[rows["outcome"] != "correct", "outcome"].value_counts()
    assert f"{failed.index[0]}, {percent(failed.max() / failed.sum())} of all failures." in commonest
    sums = pairs[pairs["method"] == "sft"][["fixed", "broke"]].sum()
    assert f"Against base, task by task: sft fixed {sums['fixed']:.0f} and broke {sums['broke']:.0f}" in tasks
    assert invented.startswith("Tools that the task does not offer")
    correct = rows[rows["outcome"] == "correct"]
    (only,) = analysis.findings.error_findings(correct, pairs.head(0), overlap.head(0))
    assert only.count("100%") == 5


def test_what_rewards_did(root: Path) -> None:
    rollouts = analysis.load.rollouts(root=root)
    scored = analysis.reward_effects.rescore(rollouts)
    official = analysis.reward_effects.rescore(rollouts, "official")
    counterfactual = analysis.reward_effects.counterfactual(scored)
    tables = [
        analysis.reward_effects.version_difference_share(official, scored),
        counterfactual,
        analysis.reward_effects.decomposition(rollouts),
        analysis.tool_use.off_reference(rollouts),
        analysis.exploits.exploit_summary(analysis.exploits.exploit_rates(rollouts)),
    ]
    flips, _, term, release, exploit = analysis.findings.reward_findings(*tables)
    others = counterfactual[counterfactual["reward"] != counterfactual["trained"]]
    assert f"{percent(others['sign_flips'].max(), 1)} of the advantages" in flips
    assert term.startswith("In grpo-") and f"these {len(rollouts)} trajectories" in release
    assert analysis.findings.commonest_exploit(tables[-1]) in exploit
    titles = [
        figures.reward_effects.counterfactual(counterfactual).layout.title.text,
        figures.reward_effects.decomposition(tables[2]).layout.title.text,
    ]
    for title, sentence in zip(titles, (flips, term), strict=True):  # one number a report
        assert sentence.startswith(re.sub("<br>", " ", re.sub("</?b>", "", title)))
    assert analysis.findings.reward_findings(*(table.head(0) for table in tables)) == [
        "No training rollouts: only GRPO runs keep the groups that these numbers need."
    ]
    assert isinstance(tables[0], pd.DataFrame)
