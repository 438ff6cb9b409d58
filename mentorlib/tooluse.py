"""The student's tool use against the teacher's, call by call: paths, confusions, transitions, arguments from nowhere.

Everything is read from stored rows, without a model: DataFrames and the figures of them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .analysis import counted, link, percent, shared, wilson
from .figures import dots, dress, empty, stack, text

PATHS = {
    "teacher's calls, right": "#004B73",
    "teacher's tools otherwise, right": "#0072B2",
    "other tools, right": "#56B4E9",
    "no call, right": "#BFE3F7",
    "teacher's calls, wrong": "#5E2C00",
    "teacher's tools otherwise, wrong": "#B34A00",
    "other tools, wrong": "#E69F00",
    "no call, wrong": "#F7DFA6",
    "ours": "#000000",
}
END, NONE, ELSE = "(end)", "(no call)", "(other)"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
# Whole numbers that need no source, and those that a word in the question brings with it.
CONSTANTS = (0, 1, 2, 10, 100)
WORDS = {
    **{
        word: (n,)
        for n, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty".split()
        )
    },
    **{
        word: (n,)
        for n, word in zip(range(30, 100, 10), "thirty forty fifty sixty seventy eighty ninety".split(), strict=True)
    },
    **{"half": (2, 0.5), "double": (2,), "twice": (2,), "pair": (2,), "couple": (2,), "triple": (3,), "thrice": (3,)},
    **{"third": (3, 1 / 3), "quarter": (4, 0.25), "dozen": (12,), "thousand": (1000,), "million": (1_000_000,)},
    **{"second": (60,), "minute": (60,), "hour": (24, 60), "day": (7, 24, 30, 365), "week": (7, 52)},
    **{"month": (12, 30), "year": (12, 52, 365), "percent": (100,), "square": (2, 4), "decimal": (10, 100)},
}


# ---- from the teacher's tools to the outcome


def path(row: Mapping[str, Any]) -> str:
    """Which of PATHS a row took: were the teacher's tools used, was each called as the teacher did, was it right?

    "teacher's calls" are the same calls with the same arguments in any order; "teacher's tools otherwise" the same
    set of tools with other arguments, or more or fewer calls.
    """
    if row["outcome"] == "ours":
        return "ours"
    end = "right" if row["outcome"] == "correct" else "wrong"
    calls = row["calls"]
    if not calls:
        return f"no call, {end}" if row["teacher_tools"] else f"teacher's calls, {end}"
    if {call["name"] for call in calls} != set(row["teacher_tools"]):
        return f"other tools, {end}"
    theirs = row.get("teacher_calls")
    same = isinstance(theirs, list) and counted(calls) == counted(theirs)
    return f"teacher's {'calls' if same else 'tools otherwise'}, {end}"


def paths(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows took each path, by suite and method. Out: suite, method, path, n, share."""
    taken = rows.assign(path=[path(row) for row in rows.to_dict("records")])
    counts = taken.groupby(["suite", "method", "path"], sort=False).size().rename("n").reset_index()
    return counts.assign(share=counts["n"] / counts.groupby(["suite", "method"])["n"].transform("sum"))


def figure_paths(table: pd.DataFrame) -> go.Figure:
    """From the teacher's tools to the outcome, by suite and method, of ``paths``: blue is right, orange wrong."""
    if table.empty:
        return empty("No paths: there are no rows", "run notebook 02_train first")
    counts = table.groupby("path")["n"].sum().reindex(list(PATHS), fill_value=0)
    right = counts[[name for name in PATHS if name.endswith("right")]]
    wrong = counts[[name for name in PATHS if name.endswith("wrong")]]
    title = f"All {right.sum():,} judged rows are right"
    if wrong.sum():
        title = (
            f"Of wrong answers, {percent(wrong['other tools, wrong'] / wrong.sum())} used other tools than the "
            f"teacher; of right ones, {percent(right['other tools, right'] / max(1, right.sum()))}"
        )
    return stack(table, "path", PATHS, title)


# ---- which tool, where the teacher calls which


def confusion(rows: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Which tool the student calls where the teacher calls X, step by step: the i-th call against the i-th call.

    Out: ``by``, step (from 1), teacher, student (a tool, or "(no call)" where one had ended), n. Steps beyond the
    teacher's last have teacher "(no call)". Counting by position is strict: one call left out shifts what follows.
    """
    tally: Counter[tuple[Any, ...]] = Counter()
    for row in rows.to_dict("records"):
        student, teacher = [call["name"] for call in row["calls"]], list(row["teacher_tools"])
        for i in range(max(len(student), len(teacher))):
            pair = tuple(names[i] if i < len(names) else NONE for names in (teacher, student))
            tally[(*(row[key] for key in by), i + 1, *pair)] += 1
    return pd.DataFrame([[*key, n] for key, n in tally.items()], columns=[*by, "step", "teacher", "student", "n"])


def transitions(rows: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Which call follows which, for the teacher (method "teacher", on each task once) and the students.

    Out: ``by``, start (a tool, or "(start)"), next (a tool, or "(end)"), n, share (of what follows ``start``).
    """
    tally: Counter[tuple[Any, ...]] = Counter()
    known: set[tuple[Any, Any]] = set()
    for row in rows.to_dict("records"):
        chains = [(tuple(row[key] for key in by), [call["name"] for call in row["calls"]])]
        if (row["suite"], row["task_id"]) not in known:
            known.add((row["suite"], row["task_id"]))
            chains.append((tuple("teacher" if key == "method" else row[key] for key in by), list(row["teacher_tools"])))
        for key, names in chains:
            for pair in zip(["(start)", *names], [*names, END], strict=True):
                tally[(*key, *pair)] += 1
    found = pd.DataFrame([[*key, n] for key, n in tally.items()], columns=[*by, "start", "next", "n"])
    return found.assign(share=found["n"] / found.groupby([*by, "start"])["n"].transform("sum"))


def _tools(counts: pd.Series, most: int) -> list[str]:
    """The commonest tools, by name; the rest is ELSE."""
    names = counts[[name not in (NONE, END, "(start)") for name in counts.index]]
    return [str(name) for name in names.sort_values(ascending=False, kind="stable").head(most).index]


def figure_confusion(table: pd.DataFrame, most: int = 6) -> go.Figure:
    """Heatmaps of ``confusion`` by method: rows are the teacher's tool, columns the student's, cells shares."""
    if table.empty:
        return empty("No calls to compare: neither teacher nor student called a tool", "give runs with rows")
    wrong = table[(table["teacher"] != table["student"]) & (table["teacher"] != NONE) & (table["student"] != NONE)]
    title = "Student and teacher call the same tool at every step"
    if len(wrong):
        pairs = wrong.groupby(["teacher", "student"])["n"].sum()
        one, other = pairs.idxmax()
        whole = table.loc[table["teacher"] == one, "n"].sum()
        title = (
            f"Commonest confusion: {other} where the teacher calls {one}, {percent(pairs.max() / whole)} of the time"
        )
    names = _tools(table.groupby("teacher")["n"].sum(), most)
    down, across = [*names, ELSE, NONE], [*names, ELSE, NONE]
    return _heatmaps(table, "teacher", "student", down, across, title, "the student's tool at that step")


def figure_transitions(table: pd.DataFrame, most: int = 6) -> go.Figure:
    """Heatmaps of ``transitions``, the teacher's first: rows are a call, columns what follows it, cells shares."""
    if table.empty:
        return empty("No transitions: no tool was called", "give runs with rows")
    students = table[table["method"] != "teacher"]
    teacher = table[table["method"] == "teacher"].set_index(["start", "next"])["share"]
    title = "What follows what: the teacher and the students"
    if len(students):
        often = students[students.groupby(["method", "start"])["n"].transform("sum") >= 20]
        gaps = []  # also where one of the two never goes on so
        for (method, start), own in often.groupby(["method", "start"], sort=False):
            if start in teacher.index.get_level_values("start"):
                pair = pd.concat([own.set_index("next")["share"], teacher[start]], axis=1, keys=["own", "teacher"])
                gaps.append(pair.fillna(0).assign(method=method, start=start))
        if gaps:
            common = pd.concat(gaps).reset_index(names="next")
            one = common.loc[(common["own"] - common["teacher"]).abs().idxmax()]
            said = "ends" if one["next"] == END else f"calls {one['next']}"
            after = "at the start" if one["start"] == "(start)" else f"after {one['start']}"
            title = (
                f"Furthest from the teacher: {after}, {one['method']} {said} {percent(one['own'])} of the time, "
                f"the teacher {percent(one['teacher'])}"
            )
    names = _tools(table.groupby("next")["n"].sum(), most)
    ordered = pd.concat([table[table["method"] == "teacher"], students])
    return _heatmaps(ordered, "start", "next", ["(start)", *names, ELSE], [*names, ELSE, END], title, "the next call")


def _heatmaps(
    table: pd.DataFrame, y: str, x: str, down: list[str], across: list[str], title: str, axis: str
) -> go.Figure:
    """One heatmap a method, below each other so that a phone can read them; names not in the lists become ELSE."""
    methods = list(dict.fromkeys(table["method"]))
    folded = table.assign(
        **{y: table[y].where(table[y].isin(down), ELSE), x: table[x].where(table[x].isin(across), ELSE)}
    )
    down = [name for name in down if name in set(folded[y])]
    across = [name for name in across if name in set(folded[x])]
    tall = 46 + 24 * len(down)
    fig = make_subplots(
        rows=len(methods),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=34 / (tall * len(methods)) if len(methods) > 1 else 0,
        subplot_titles=[text(name) for name in methods],
    )
    for i, method in enumerate(methods, 1):
        own = folded[folded["method"] == method]
        counts = own.pivot_table(index=y, columns=x, values="n", aggfunc="sum").reindex(index=down, columns=across)
        shares = counts.div(counts.sum(axis=1), axis=0)
        fig.add_heatmap(
            z=shares.to_numpy(float),
            x=[text(name) for name in across],
            y=[text(name) for name in down],
            customdata=counts.fillna(0).to_numpy(int),
            text=shares.map(lambda v: "" if v != v or v < 0.005 else f"{100 * v:.0f}").to_numpy(),
            texttemplate="%{text}",
            textfont={"size": 11},
            zmin=0,
            zmax=1,
            colorscale=[[0, "#F2F6F9"], [0.5, "#56B4E9"], [1, "#00436B"]],
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate=f"{text(method)}: %{{y}} → %{{x}}, %{{z:.0%}} (%{{customdata}} times)<extra></extra>",
            row=i,
            col=1,
        )
        fig.update_yaxes(autorange="reversed", row=i, col=1)
    fig.update_xaxes(tickangle=-45, showgrid=False)
    fig.update_yaxes(showgrid=False)
    fig.update_xaxes(title_text=f"{axis}<br>(percent of the row)", row=len(methods), col=1)
    return dress(fig, title, 110 + tall * len(methods))


def figure_jsd(distances: pd.DataFrame) -> go.Figure:
    """The JSD of tools called to the teacher's with its interval, of ``analysis.tool_jsd``; ticks: its floor."""
    known = distances.dropna(subset=["jsd"])
    if known.empty:
        return empty("No divergence: no tool was called in these rows", "the JSD needs calls of both")
    inside = int((known["jsd"] <= known["floor"]).sum())
    far = known.loc[known["jsd"].idxmax()]
    title = (
        f"{inside} of {len(known)} are nearer the teacher than it is to itself on other tasks; furthest: "
        f"{far['method']} on {far['suite']}, {far['jsd']:.2f} bits"
    )
    hover = [
        f"{text(r.method)} on {text(r.suite)}: {r.jsd:.3f} bits [{r.low:.3f}, {r.high:.3f}], floor {r.floor:.3f}, "
        f"{r.tasks} tasks"
        for r in known.itertuples()
    ]
    fig, height = dots(known, "suite", "jsd", hover)
    places = [y for trace in fig.data for y in trace.y]
    order = [i for method in dict.fromkeys(known["method"]) for i in known.index[known["method"] == method]]
    fig.add_scatter(
        x=known.loc[order, "floor"],
        y=places,
        mode="markers",
        name="the teacher on other tasks",
        hovertext=["the teacher against itself on other tasks"] * len(places),
        hoverinfo="text",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": "#333333"}},
    )
    fig.update_xaxes(title_text="JSD to the teacher's tools (bits)<br>(95% interval; tick: the teacher on other tasks)")
    fig.update_xaxes(rangemode="tozero", zeroline=False)
    return dress(fig, title, height)


# ---- arguments from nowhere


def ungrounded(row: Mapping[str, Any]) -> list[tuple[int, str, str, Any]]:
    """Arguments that come from nowhere: (call, from 0; tool; argument; value) of a stored row.

    A number has a source if it, its negative or, where the question speaks of percent, a hundredth of it stands in the
    question or in the result of an earlier turn (to a millionth), if a word of the question brings it (WORDS: "twice"
    2, "hour" 60), or if it is one of CONSTANTS. A text has one if all its words stand there, plural or not. true,
    false, null and the empty text need none. Calls of one turn do not see each other's results.
    """
    question = str(row.get("question") or "")
    heard, found, at = [question], [], 0
    words = set(re.findall(r"[a-z]+", question.lower()))
    extra = [n for word in words | {w.removesuffix("s") for w in words} for n in WORDS.get(word, ())]
    share = "percent" in words or "%" in question
    known = [float(n) for n in (*CONSTANTS, *extra, *_numbers(question, share))]
    for message in row["messages"]:
        if message["role"] == "tool":
            said = str(message.get("content") or "")[:20_000]
            heard.append(said)
            known += _numbers(said, False)
        calls = message.get("tool_calls") or () if message["role"] == "assistant" else ()
        for call in calls:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
                found += [(at, name, key, leaf) for leaf in _leaves(value) if not _sourced(leaf, known, heard)]
            at += 1
    return found


def _numbers(said: str, share: bool) -> list[float]:
    values = []
    for match in _NUMBER.findall(said)[:1000]:
        try:
            value = abs(float(match.replace(",", "")))
        except ValueError:
            continue
        if math.isfinite(value):
            values += [value, value / 100] if share else [value]
    return values


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value[:1000]:
            yield from _leaves(item)
    else:
        yield value


def _sourced(leaf: Any, known: list[float], heard: list[str]) -> bool:
    if leaf is None or isinstance(leaf, bool) or leaf == "":
        return True
    if isinstance(leaf, int | float):
        try:
            value = abs(float(leaf))
        except OverflowError:
            return False
        near = 1e-9 + 1e-6 * value
        return math.isfinite(value) and any(abs(one - value) <= near for one in known)
    said = "\n".join(heard).lower()
    words = re.findall(r"\w+", str(leaf).lower())
    return str(leaf).lower() in said or (bool(words) and all(word.removesuffix("s") in said for word in words))


def nowhere(rows: pd.DataFrame) -> pd.DataFrame:
    """Calls whose arguments come from nowhere, by suite and method. In: rows of ``evaluations``.

    Out: suite, method, calls, n (calls with an argument from nowhere), share, low, high (95% Wilson; calls of one row
    are not independent, so it is somewhat narrow), rows (trajectories with such a call), alarms (the share among calls
    of rows whose calls are the teacher's, which are right: how often the rule cries wolf; NaN without such rows).
    """
    each = [(len({call for call, *_ in ungrounded(row)}), len(row["calls"])) for row in rows.to_dict("records")]
    marked = rows.assign(n=[n for n, _ in each], made=[made for _, made in each])
    marked = marked.assign(same=[path(row).startswith("teacher's calls") for row in rows.to_dict("records")])
    found = []
    for (suite, method), own in marked.groupby(["suite", "method"], sort=False):
        n, calls, right = int(own["n"].sum()), int(own["made"].sum()), own[own["same"]]
        low, high = wilson(n, calls)
        made = right["made"].sum()
        found.append(
            {"suite": suite, "method": method, "calls": calls, "n": n, "share": n / calls if calls else np.nan}
            | {"low": low, "high": high, "rows": int((own["n"] > 0).sum())}
            | {"alarms": right["n"].sum() / made if made else np.nan}
        )
    return pd.DataFrame(found, columns=["suite", "method", "calls", "n", "share", "low", "high", "rows", "alarms"])


def figure_nowhere(table: pd.DataFrame) -> go.Figure:
    """Calls with an argument from nowhere, by suite and method, of ``nowhere``."""
    known = table.dropna(subset=["share"])
    if known.empty:
        return empty("No calls, so no arguments from nowhere", "give runs that called tools")
    totals = shared(known).groupby("method", sort=False)[["n", "calls"]].sum()
    shares = totals["n"] / totals["calls"]
    title = "Arguments from nowhere"
    if len(shares) > 1 or known["method"].nunique() == 1:
        title += f": {percent(shares.min(), 1)} of {shares.idxmin()}'s calls"
    if len(shares) > 1:
        title += f" to {percent(shares.max(), 1)} of {shares.idxmax()}'s"
    hover = [
        f"{text(r.method)} on {text(r.suite)}: {r.n} of {r.calls} calls, in {r.rows} trajectories; "
        f"among right calls {percent(r.alarms, 1)}"
        for r in known.itertuples()
    ]
    fig, height = dots(known, "suite", "share", hover)
    for trace in fig.data:
        method = next(m for m in dict.fromkeys(known["method"]) if text(m) == trace.name)
        own = known[known["method"] == method]
        trace.customdata = [link(suite=suite, method=method, flag="from nowhere") for suite in own["suite"]]
    fig.update_xaxes(
        title_text="calls with an argument that is in no source<br>(with 95% interval)",
        tickformat=".0%",
        rangemode="tozero",
    )
    return dress(fig, title, height)
