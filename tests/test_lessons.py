"""What the notebooks say they found, on the made-up runs."""

from pathlib import Path

import pandas as pd

from mentorlib import analysis, lessons, rescoring


def test_lessons(root: Path, rows: pd.DataFrame, rollouts: pd.DataFrame) -> None:
    domains = analysis.accuracy(analysis.domains(rows, ["calculator"]), by=["domain", "method"])
    pairs, jsd = analysis.paired(rows), analysis.tool_jsd(rows)
    said = lessons.compare(domains, pairs, jsd, analysis.methods(root=root))
    assert "Best in domain: `grpo-exact`" in said and "Seeds a trained method: 1." in said and "luck" in said
    several = pd.concat(
        [analysis.methods(root=root), analysis.methods(root=root).assign(seed=1).query("method != 'base'")]
    )
    said = lessons.compare(domains, pairs, jsd, several)
    assert "Seeds a trained method: 2." in said and "luck" not in said
    assert "fails most by" in lessons.errors(rows, pairs)
    scored = rescoring.rescore(rollouts)
    parted = rescoring.partings(rescoring.rescore(rollouts, "official"), scored)
    assert "Fewest dead groups" in lessons.rewards(rollouts, parted, rescoring.counterfactual(scored))
    level = analysis.accuracy(analysis.domains(rows.assign(correct=False), ["calculator"]), by=["domain", "method"])
    assert "All methods are alike in domain: 0.0%." in lessons.compare(level, pairs, jsd, several)
    swaps = rescoring.counterfactual(scored).assign(dead=0.25)
    assert "All rewards leave as many groups dead: 25%." in lessons.rewards(rollouts, parted, swaps)
    nothing = rescoring.counterfactual(rescoring.rescore(rows.head(5)))
    assert "No groups are stored" in lessons.rewards(rows.head(5), parted.head(0), nothing)
