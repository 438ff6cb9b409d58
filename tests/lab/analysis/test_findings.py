"""What the notebooks say they found, on the made-up runs."""

from pathlib import Path

import pandas as pd

from mentorlib.lab import analysis


def test_lessons(root: Path, rows: pd.DataFrame, rollouts: pd.DataFrame) -> None:
    domains = analysis.comparison.accuracy(analysis.comparison.domains(rows, ["calculator"]), by=["domain", "method"])
    pairs, jsd = analysis.comparison.paired(rows), analysis.tool_use.tool_jsd(rows)
    said = analysis.findings.compare(domains, pairs, jsd, analysis.load.methods(root=root))
    assert "Best in domain: `grpo-exact`" in said and "Seeds a trained method: 1." in said and "luck" in said
    several = pd.concat(
        [analysis.load.methods(root=root), analysis.load.methods(root=root).assign(seed=1).query("method != 'base'")]
    )
    said = analysis.findings.compare(domains, pairs, jsd, several)
    assert "Seeds a trained method: 2." in said and "luck" not in said
    assert "fails most by" in analysis.findings.errors(rows, pairs)
    scored = analysis.reward_effects.rescore(rollouts)
    parted = analysis.reward_effects.version_differences(analysis.reward_effects.rescore(rollouts, "official"), scored)
    assert "Fewest dead groups" in analysis.findings.rewards(
        rollouts, parted, analysis.reward_effects.counterfactual(scored)
    )
    level = analysis.comparison.accuracy(
        analysis.comparison.domains(rows.assign(correct=False), ["calculator"]), by=["domain", "method"]
    )
    assert "All methods are alike in domain: 0.0%." in analysis.findings.compare(level, pairs, jsd, several)
    swaps = analysis.reward_effects.counterfactual(scored).assign(dead=0.25)
    assert "All rewards leave as many groups dead: 25%." in analysis.findings.rewards(rollouts, parted, swaps)
    nothing = analysis.reward_effects.counterfactual(analysis.reward_effects.rescore(rows.head(5)))
    assert "No groups are stored" in analysis.findings.rewards(rows.head(5), parted.head(0), nothing)
