"""What a data set of references holds: how many calls each takes, which tools, overlaps between the splits."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ...task import Pair
from .text import percent

LONGEST = 8  # calls; references with more are counted together
CHAINS = ["no call", "1 call", *(f"{n} calls" for n in range(2, LONGEST)), f"{LONGEST} or more"]


def chain_lengths(pairs: Iterable[Pair]) -> pd.DataFrame:
    """How many calls the references take. Out, a row a suite, split and length: suite, split, chain, calls, n, share.

    ``chain`` is one of CHAINS, ``calls`` the calls in all of these n references, ``share`` of the suite's split.
    """
    rows = [(t.suite, t.split, CHAINS[min(len(r.calls), LONGEST)], len(r.calls)) for t, r in pairs]
    frame = pd.DataFrame(rows, columns=["suite", "split", "chain", "calls"])
    table = frame.groupby(["suite", "split", "chain"], sort=False)["calls"].agg(calls="sum", n="size").reset_index()
    return table.assign(share=table["n"] / table.groupby(["suite", "split"])["n"].transform("sum"))


def tool_calls(pairs: Iterable[Pair]) -> pd.DataFrame:
    """How often each tool is called: a row a tool, a column a suite and split ("longer/eval"), the commonest first."""
    counts: dict[str, Counter[str]] = {}
    for task, reference in pairs:
        counts.setdefault(f"{task.suite}/{task.split}", Counter()).update(call.name for call in reference.calls)
    table = pd.DataFrame(counts).fillna(0).astype(int)
    return table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def overlaps(card: Mapping[str, Any], pairs: Iterable[Pair]) -> pd.DataFrame:
    """The contamination check of a data set's card as a table. In: the card, and the pairs.

    Out, a row an evaluated suite: suite, tasks, overlap (how many tasks), share (as text), such as (the first one's
    question).
    """
    questions = {task.id: task.question for task, _ in pairs}
    return pd.DataFrame(
        {"suite": suite, "tasks": part["tasks"], "overlap": part["overlap"]}
        | {"share": percent(part["overlap"] / part["tasks"], 1)}
        | {"such as": questions[part["first"][0]] if part["first"] else ""}
        for suite, part in card["contamination"]["parts"].items()
    )
