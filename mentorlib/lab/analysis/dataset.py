"""What a teacher did: how long its chains of calls are, which tools they call, what training gives away."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ...task import Pair
from .text import percent

MOST = 8  # calls; longer chains are counted as one kind
CHAINS = ["no call", "1 call", *(f"{n} calls" for n in range(2, MOST)), f"{MOST} or more"]


def chains(pairs: Iterable[Pair]) -> pd.DataFrame:
    """How many calls the references take: a row a suite, split and length. Out: suite, split, chain, calls, n, share.

    ``chain`` is one of CHAINS, ``calls`` the calls in all of these n references, ``share`` of the suite's split.
    """
    made = [(t.suite, t.split, CHAINS[min(len(r.calls), MOST)], len(r.calls)) for t, r in pairs]
    frame = pd.DataFrame(made, columns=["suite", "split", "chain", "calls"])
    table = frame.groupby(["suite", "split", "chain"], sort=False)["calls"].agg(["sum", "size"]).reset_index()
    table = table.rename(columns={"sum": "calls", "size": "n"})
    return table.assign(share=table["n"] / table.groupby(["suite", "split"])["n"].transform("sum"))


def calls(pairs: Iterable[Pair]) -> pd.DataFrame:
    """How often each tool is called: a row a tool, a column a suite and split ("longer/eval"), the commonest first."""
    counts: dict[str, Counter[str]] = {}
    for task, reference in pairs:
        counts.setdefault(f"{task.suite}/{task.split}", Counter()).update(call.name for call in reference.calls)
    table = pd.DataFrame(counts).fillna(0).astype(int)
    return table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def overlaps(card: Mapping[str, Any], pairs: Iterable[Pair]) -> pd.DataFrame:
    """The check of ``datasets.save_tasks`` for contamination, as a table for readers. In: its card, and the pairs.

    Out, a row a suite that is evaluated: suite, tasks, overlap (how many), share (as text), such as (the first).
    """
    questions = {task.id: task.question for task, _ in pairs}
    return pd.DataFrame(
        [
            {"suite": suite, "tasks": part["tasks"], "overlap": part["overlap"]}
            | {"share": percent(part["overlap"] / part["tasks"], 1)}
            | {"such as": questions[part["first"][0]] if part["first"] else ""}
            for suite, part in card["contamination"]["parts"].items()
        ]
    )
