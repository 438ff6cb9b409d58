"""From stored rows to the numbers of the notebooks: DataFrames in, DataFrames out, no model and no figure.

``evaluations`` and ``rollouts`` read run folders; every other function takes what they return. Columns that
they add to the stored row (see ``mentorlib.runs``): ``run``, ``method`` (base, sft, grpo-<reward>), ``seed``,
``where`` (file and line of the row), ``outcome`` (see OUTCOMES), ``n_calls``, ``n_invented`` (calls of tools that
the task does not offer), ``precision``, ``recall``, ``f1`` (the set of tools called, invented ones too, against the
teacher's).
All intervals are 95%; all randomness is seeded, so the same rows give the same numbers.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes a second more to import

from .core import Call, InputError
from .rewards import call_key
from .runs import Run, read_rows, uncollected

OUTCOMES = {
    "correct": "the final answer is the gold answer",
    "right tools, wrong answer": "the right value was in hand, or the teacher's calls were made, but not answered",
    "wrong argument": "the teacher's tools, called with something else than the teacher did",
    "wrong tool": "the tools used are not the teacher's: one missing, one too many, or another",
    "tool error ignored": "the answer was given on top of a tool's error message",
    "invented tool": "a tool was called that the task does not offer",
    "malformed call": "a tool call that is not JSON, or is not closed",
    "gave up": "the last turn holds neither a call nor an answer",
    "ran out": "the turns or the tokens were used up",
    "ours": "the sandbox failed, or the answer could not be judged: no fault of the policy, left out of accuracy",
}
_KEYS = ("task_id", "suite", "answer", "teacher_tools", "tools", "response", "messages", "calls", "stop", "correct")
_ADDED = ["run", "method", "seed", "where", "outcome", "n_calls", "n_invented", "precision", "recall", "f1"]
_NOT_TRAINING = (  # may differ within a method
    *("run", "root", "seed", "eval_suites", "n_eval", "save_steps"),
    *("launcher", "processes", "accelerate_config", "report_to"),
)
_TRAINING = ["step", "group", "reward", "total", "terms", "weights", "reason", "advantage"]


# ---- reading run folders


def evaluations(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All rows of ``eval/*.jsonl`` of several runs, one DataFrame row a trajectory.

    ``runs`` are folder names under ``root``; none means every run there that holds rows. Raises InputError if a
    folder, a file's JSON or a needed key is missing, or if no run was evaluated.
    """
    frame = _read(runs, root, "eval/*.jsonl")
    if frame.empty:
        raise InputError(f"{root}: none of these runs was evaluated (no eval/*.jsonl); run notebook 02_train first")
    return frame


def rollouts(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All training rollouts (``rollouts.jsonl``) of several runs, one DataFrame row a trajectory.

    Runs that sampled nothing in training (base, sft) add no rows; the columns are there even if none did.
    """
    return _read(runs, root, "rollouts.jsonl")


def trajectories(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All stored rows of several runs: ``evaluations``, then ``rollouts``. InputError if there are none."""
    kept = [own for pattern in ("eval/*.jsonl", "rollouts.jsonl") if len(own := _read(runs, root, pattern))]
    if not kept:
        raise InputError(f"{root}: no trajectories in these runs (eval/*.jsonl, rollouts.jsonl)")
    return pd.concat(kept, ignore_index=True)


def thin(rows: pd.DataFrame, groups: int) -> pd.DataFrame:
    """At most ``groups`` whole groups of ``rollouts``, evenly spread over the steps of each run, to bound the work.

    Rows of ``evaluations`` have no groups: each counts as one.
    """
    kept = []
    for _, own in rows.groupby("run", sort=False):
        keys = own["step"].astype(str) + "/" + own["group"].astype(str) if "group" in own else own["where"]
        names = list(dict.fromkeys(keys))
        share = max(1, groups // rows["run"].nunique())
        chosen = {names[i] for i in np.linspace(0, len(names) - 1, min(share, len(names))).round().astype(int)}
        kept.append(own[keys.isin(chosen)])
    return pd.concat(kept) if kept else rows


def methods(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """The runs and what they are: columns run, method, seed, parameters (dict), status, seconds (NaN if unknown).

    The method is ``base``, ``sft`` or ``grpo-<reward>``; a run that began with the model that another run trained is
    ``sft+grpo-<reward>`` and so on. Runs of one method that differ in more than their seed get the differing
    parameters in their label, so that they are never pooled as if they were seeds.
    """
    root = Path(root)
    names = list(runs) or sorted(
        p.parent.name
        for p in root.glob("*/run.json")
        if list(p.parent.glob("eval/*.jsonl")) or (p.parent / "rollouts.jsonl").exists()
    )
    if not names:
        raise InputError(
            f"{root}: no run folder with rows here: run `make study`, or 01_build_data and 02_train, or give others"
        )
    found = []
    for name in names:
        info = Run.open(name, root).info
        parameters = info.get("parameters") if isinstance(info, dict) else None
        if not isinstance(parameters, dict):
            raise InputError(f"{root / name}/run.json: no parameters in it; delete the folder and run it again")
        tries = [info.get("created"), *(again.get("time") for again in info.get("reopened", []))]
        started, ended = (pd.Timestamp(at) if at else pd.NaT for at in (tries[-1], info.get("finished")))
        method, parameters = _method(parameters), dict(parameters)
        student = Path(str(parameters.get("student")))
        before = student.parent if student.parent.exists() else root / student.parent.name
        if student.name == "model" and (before / "run.json").exists():  # another run's: what that run was counts
            earlier = Run.open(before.name, before.parent).info["parameters"]
            if earlier.get("method", "none") != "none":
                method = f"{_method(earlier)}+{method}"
                parameters["student"] = earlier.get("student")
                parameters |= {f"before_{k}": v for k, v in earlier.items() if k not in _NOT_TRAINING}
        found.append(
            {
                "run": name,
                "method": method,
                "seed": parameters.get("seed", 0),
                "parameters": parameters,
                "status": info.get("status", ""),
                "seconds": (ended - started).total_seconds(),
            }
        )
    frame = pd.DataFrame(found)
    if not runs:
        frame = frame.sort_values(
            "method", key=lambda m: m.map({"base": "0", "sft": "1"}).fillna(m), kind="stable", ignore_index=True
        )
    for _, group in frame.groupby("method"):
        own = {i: {k: v for k, v in frame.at[i, "parameters"].items() if k not in _NOT_TRAINING} for i in group.index}
        whole = {i: json.dumps(p, sort_keys=True, default=str) for i, p in own.items()}
        keys = sorted({k for p in own.values() for k in p}, key=lambda k: (k not in ("suite", "data", "student"), k))
        for key in keys:
            if all(whole[i] == whole[j] for i in own for j in own if frame.at[i, "method"] == frame.at[j, "method"]):
                break
            if len({json.dumps(p.get(key), sort_keys=True, default=str) for p in own.values()}) > 1:
                for i in group.index:
                    frame.at[i, "method"] += f" {key}={_short(own[i].get(key))}"
    return frame


def _method(parameters: Mapping[str, Any]) -> str:
    kind = parameters.get("method", "none")
    return {"none": "base", "grpo": f"grpo-{parameters.get('reward')}"}.get(kind, str(kind))


def _short(value: Any) -> str:
    return str(value).rstrip("/").removesuffix("/model").rsplit("/", 1)[-1].removesuffix(".parquet")


@uncollected()
def _read(runs: Sequence[str], root: str | Path, pattern: str) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for run in methods(runs, root).itertuples():
        for path in sorted((Path(root) / str(run.run)).glob(pattern)):
            for number, row in enumerate(read_rows(path), 1):
                where = f"{path.relative_to(root).as_posix()}:{number}"
                missing = [key for key in _KEYS if key not in row]
                if missing:
                    raise InputError(f"{root}/{where}: no key {missing[0]!r}; the row is not one that mentorlib wrote")
                rows.append(
                    row | {"run": run.run, "method": run.method, "seed": run.seed, "where": where} | _derive(row)
                )
    columns = [*_KEYS, *_ADDED, "sample", "n_tokens", *(_TRAINING if pattern == "rollouts.jsonl" else [])]
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*dict.fromkeys([*columns, *frame.columns])])


def domains(rows: pd.DataFrame, in_domain: Sequence[str]) -> pd.DataFrame:
    """Add ``domain``, "in domain" or "out of domain" by the row's suite, and put the rows of the former first."""
    inside = rows["suite"].isin(in_domain)
    named = rows.assign(domain=np.where(inside, "in domain", "out of domain"))
    return pd.concat([named[inside], named[~inside]])


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows on which means over suites compare methods: all were asked the same. In: rows of ``domains``.

    Left out are methods that lack a suite in domain, and suites that one of the other methods lacks.
    """
    asked = rows.groupby("method", sort=False)["suite"].agg(set)
    inside = set(rows.loc[rows["domain"] == "in domain", "suite"])
    whole = [method for method, own in asked.items() if inside <= own] or list(asked.index)
    return shared(rows[rows["method"].isin(whole)])


def shared(table: pd.DataFrame) -> pd.DataFrame:
    """The part of a table (method and suite a row) on which methods can be compared: each has the same suites there.

    Those are the methods with the suite that most have, and the suites that all of these have.
    """
    suites = table.groupby("method")["suite"].agg(set)
    common = table[["method", "suite"]].drop_duplicates()["suite"].mode().iloc[0]
    suites = suites[[common in own for own in suites]]
    return table[table["method"].isin(suites.index) & table["suite"].isin(set.intersection(*suites))]


def _derive(row: Mapping[str, Any]) -> dict[str, Any]:
    offered, teacher = set(row["tools"]), set(row["teacher_tools"])
    names = [call["name"] for call in row["calls"]]
    used = set(names)
    hits = len(used & teacher)
    precision = hits / len(used) if used else math.nan if teacher else 1.0
    recall = hits / len(teacher) if teacher else math.nan if used else 1.0
    f1 = 2 * hits / (len(used) + len(teacher)) if used or teacher else 1.0
    return {
        "outcome": outcome(row),
        "n_calls": len(names),
        "n_invented": sum(name not in offered for name in names),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def outcome(row: Mapping[str, Any]) -> str:
    """Name what became of a stored row: the first of these rules that fits gives one of OUTCOMES.

    ours; correct; invented tool; malformed call; ran out; gave up; then for a wrong answer: tool error ignored (the
    last tool result is an error); right tools, wrong answer (the last tool gave the gold value, or the calls are the
    teacher's); wrong tool (another set of tools than the teacher's); wrong argument (what is left).
    """
    if row["stop"] == "infrastructure" or row["correct"] is None or row["correct"] != row["correct"]:
        return "ours"
    if row["correct"]:
        return "correct"
    if any(call["name"] not in row["tools"] for call in row["calls"]):
        return "invented tool"
    if row["stop"] == "malformed":
        return "malformed call"
    if row["stop"] in ("turn_limit", "length"):
        return "ran out"
    if row["stop"] == "gave_up":
        return "gave up"
    if any("<tool_call>" in str(m.get("content")) for m in row["messages"] if m["role"] == "assistant"):
        return "malformed call"
    results = [str(m.get("content")).strip() for m in row["messages"] if m["role"] == "tool"]
    if results and results[-1].startswith("error:"):
        return "tool error ignored"
    calls, teacher_calls = counted(row["calls"]), counted(row.get("teacher_calls") or ())
    if (results and _same(results[-1], row["answer"])) or (calls and calls == teacher_calls):
        return "right tools, wrong answer"
    return "wrong argument" if {c["name"] for c in row["calls"]} == set(row["teacher_tools"]) else "wrong tool"


def counted(calls: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Stored calls as a bag: which call, arguments and all, was made how often (8 and 8.0 are one argument)."""
    return Counter(call_key(Call(c["name"], c["arguments"])) for c in calls)


def _same(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(str(b).replace(",", "")), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return a == str(b).strip()


# ---- accuracy and differences


def wilson(k: float, n: float) -> tuple[float, float]:
    """The Wilson score interval (95%) of a share k/n; (0, 1) for n = 0. Source: Wilson 1927, JASA 22(158)."""
    if n <= 0:
        return 0.0, 1.0
    z, p = 1.959964, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def accuracy(rows: pd.DataFrame, by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """Accuracy with a 95% Wilson interval. In: rows of ``evaluations``.

    Out: ``by``, accuracy, low, high, n, tasks, unjudged, runs, sd_runs (standard deviation of accuracy between runs,
    NaN with one), word_f1 (its mean where answers are graded by words, accuracy being exact match; else NaN). Rows that
    are ours (correct is None) are left out and counted in ``unjudged``. Where a task has several rows (samples, seeds),
    n in the interval is the effective sample size from the variance between tasks (Kish's design effect), so that ten
    samples of a task do not count as ten tasks. The interval covers the choice of tasks, not the luck of a training
    seed.
    """

    def one(group: pd.DataFrame) -> pd.Series:
        judged = group.dropna(subset=["correct"])
        right, n = judged["correct"].astype(float), len(judged)
        p = right.mean() if n else math.nan
        means = right.groupby([judged["suite"], judged["task_id"]]).mean()
        effective = float(len(means))
        if len(means) < n and len(means) > 1 and means.var() > 0:
            effective = min(float(n), max(effective, p * (1 - p) / (means.var() / len(means))))
        low, high = wilson(p * effective, effective) if n else (math.nan, math.nan)
        return pd.Series(
            {"accuracy": p, "low": low, "high": high, "n": n, "tasks": len(means), "unjudged": len(group) - n}
            | {"runs": judged["run"].nunique(), "sd_runs": right.groupby(judged["run"]).mean().std()}
            | {"word_f1": judged["word_f1"].astype(float).mean() if "word_f1" in judged else math.nan}
        )

    return _by(rows, by, one, ["accuracy", "low", "high", "n", "tasks", "unjudged", "runs", "sd_runs", "word_f1"])


def paired(rows: pd.DataFrame, against: str = "base", by: str = "suite") -> pd.DataFrame:
    """What each method changes against one method on the same tasks.

    In: rows of ``evaluations``. Out, a row for each value of ``by`` and other method: difference (mean over runs and
    tasks of the difference in accuracy, in points of 0..1), low, high (95%, for other tasks and, where a method has
    several runs, other seeds; see ``crossed``), low_tasks, high_tasks (for other tasks alone), low_runs, high_runs
    (for other seeds alone; NaN with one run of each), runs, tasks, fixed, broke (tasks solved by only the one; solved =
    more than half of the task's rows are right), p, p_holm (Holm-Bonferroni over the whole table). With one run of each
    p is McNemar's exact two-sided test on fixed against broke, with more that of ``crossed``: seed by seed where both
    methods are GRPO with the same seeds, since such runs sample the same tasks in the same order. A method with one run
    adds no spread of seeds: right for base, which is not trained; for another the interval leaves out the luck of
    training. Raises InputError if there are rows and none is of ``against``.
    """
    if len(rows) and against not in set(rows["method"]):
        raise InputError(
            f"against={against!r}: no such method here; the methods are: {', '.join(sorted(set(rows['method'])))}"
        )
    found = []
    judged = rows.dropna(subset=["correct"]).astype({"correct": float})
    seed_of = dict(zip(judged["run"], judged["seed"], strict=True))
    for value, group in judged.groupby(by, sort=False):
        tables = {
            method: own.pivot_table(
                index=["suite", "task_id"], columns="run", values="correct", aggfunc="mean"
            ).dropna()
            for method, own in group.groupby("method", sort=False)
        }
        if against not in tables:
            continue
        for method in (m for m in tables if m != against):
            index = tables[method].index.intersection(tables[against].index)
            if not len(index):
                continue
            one, other = (
                tables[name].loc[index].rename(columns=seed_of).sort_index(axis=1) for name in (method, against)
            )
            ours, theirs = one.to_numpy(), other.to_numpy()  # tasks x runs, by seed
            matched = list(one) == list(other) and one.columns.is_unique and ours.shape[1] > 1
            matched = matched and all(name.startswith("grpo-") for name in (method, against))
            before, after = theirs.mean(1) > 0.5, ours.mean(1) > 0.5
            fixed, broke = int((~before & after).sum()), int((before & ~after).sum())
            gains = crossed(ours - theirs, np.zeros((len(index), 1))) if matched else crossed(ours, theirs)
            row = {by: value, "method": method, "against": against, **gains}
            row |= {"runs": ours.shape[1], "tasks": len(index), "fixed": fixed, "broke": broke}
            if max(ours.shape[1], theirs.shape[1]) == 1:
                row["p"] = mcnemar(fixed, broke)
            found.append(row)
    columns = [by, "method", "against", "difference", "low", "high", "low_tasks", "high_tasks", "low_runs", "high_runs"]
    frame = pd.DataFrame(found, columns=[*columns, "runs", "tasks", "fixed", "broke", "p"])
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)))


def paired_domains(rows: pd.DataFrame, against: str = "base") -> pd.DataFrame:
    """``paired`` by domain, over the suites that all have (``comparable``). In: rows of ``domains``.

    Empty where ``against`` is not among the methods that can be compared so.
    """
    even = comparable(rows)
    return paired(even if against in set(even["method"]) else even.iloc[:0], against, by="domain")


def crossed(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The difference in mean of two arrays (tasks x runs) over the same tasks: difference, its intervals and p.

    Tasks and runs are crossed, so that their variances add up, less what both count: the rest that neither explains
    (two-way clustering: Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2)), and never below either alone.
    Intervals and p are Student's t with Welch and Satterthwaite's degrees of freedom. A bootstrap of so few runs is
    far too sure of itself: of true nulls with two seeds that differ it refuses one in four at p < 0.05, this one in
    twenty (``tests/test_analysis.py``). Where all tasks agree, or there is one, spreads say nothing: the interval is
    then as wide as what none of n showed may be frequent (Clopper and Pearson's bound), and p is that of n coins.
    """
    n = len(ours)
    gains = ours.mean(1) - theirs.mean(1)
    by_task = (gains.var(ddof=1) / n if n > 1 else math.nan, n - 1)  # variance, degrees of freedom
    by_run, rest = [], 0.0
    for values in (ours, theirs):
        k = values.shape[1]
        if k > 1:
            by_run.append((values.mean(0).var(ddof=1) / k, k - 1))
            if n > 1:
                left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
                rest += (left**2).sum() / ((k - 1) * (n - 1)) / values.size
    runs = sum(variance for variance, _ in by_run)
    both = max(by_task[0] + runs - rest, by_task[0], runs)

    def spread(variance: float, parts: list[tuple[float, int]]) -> tuple[float, float]:
        """Half of the interval, and the degrees of freedom."""
        if not variance:
            return 0.0, math.inf
        freedom = variance**2 / sum(v * v / df for v, df in parts)
        return float(special.stdtrit(freedom, 0.975) * math.sqrt(variance)), freedom

    middle = float(gains.mean())
    of_tasks = spread(by_task[0], [by_task])[0] if n > 1 else math.nan
    of_runs = spread(runs, by_run)[0] if by_run else math.nan
    if n > 1 and both:
        width, freedom = spread(both, [by_task, *by_run])
        low, high = max(-1.0, middle - width), min(1.0, middle + width)
        p = float(2 * special.stdtr(freedom, -abs(middle) / math.sqrt(both)))
    else:
        unseen = 1 - 0.025 ** (1 / n)
        low, high = max(-1.0, middle - unseen), min(1.0, middle + unseen)
        p = mcnemar(n, 0) if middle else 1.0
    return {
        "difference": middle,
        "low": low,
        "high": high,
        "low_tasks": middle - of_tasks,
        "high_tasks": middle + of_tasks,
        "low_runs": max(-1.0, middle - of_runs),
        "high_runs": min(1.0, middle + of_runs),
        "p": p,
    }


def tuning(rows: pd.DataFrame, runs: pd.DataFrame, suites: Sequence[str]) -> pd.DataFrame:
    """Which learning rate each method should have. In: rows of ``evaluations`` (of the validation split), ``methods``.

    Out, a row for each method (without the rate in its label) and learning_rate: accuracy over ``suites``, low, high
    (Wilson), n, chosen (the method's most accurate; of equals the lowest rate). A method with one rate had no choice:
    it is left out. Raises InputError if none of these suites was evaluated, or no method has two rates.
    """
    own = rows[rows["suite"].isin(suites)]
    if own.empty:
        raise InputError(
            f"suites={list(suites)}: not evaluated here; there are {', '.join(sorted(set(rows['suite'])))}"
        )
    rates = runs.set_index("run")["parameters"].map(lambda p: float(p.get("learning_rate", math.nan)))
    plain = own["method"].str.replace(r" learning_rate=\S+", "", regex=True)
    table = accuracy(own.assign(method=plain, learning_rate=own["run"].map(rates)), by=["method", "learning_rate"])
    table = table[table.groupby("method")["learning_rate"].transform("nunique") > 1]
    if table.empty:
        raise InputError(
            "no method was trained at two rates: studies/tune.yaml makes such runs; name yours as runs=[…]"
        )
    table = table.sort_values(["accuracy", "learning_rate"], ascending=[False, True])
    table = table.assign(chosen=~table.duplicated("method")).sort_index()
    return table[["method", "learning_rate", "accuracy", "low", "high", "n", "chosen"]]


def _rng(seed: int, *place: Any) -> np.random.Generator:
    """Chance of its own for each place in a table, so that an interval does not hang on what else is in the table."""
    return np.random.default_rng([seed, zlib.crc32(json.dumps(place, default=str).encode())])


def mcnemar(fixed: int, broke: int) -> float:
    """McNemar's exact two-sided p: how often a fair coin splits fixed + broke tosses at least as unevenly."""
    return min(1.0, float(2 * special.bdtr(min(fixed, broke), fixed + broke, 0.5)))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm-Bonferroni adjusted p-values, in the order given."""
    order = np.argsort(p)
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))) if len(p) else p
    out = np.empty(len(p))
    out[order] = adjusted
    return out


def shares(rows: pd.DataFrame, column: str = "outcome", by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """How a column (``outcome`` or ``stop``) is spread. Out: ``by``, the column, n, share (within ``by``)."""
    counts = rows.groupby([*by, column], sort=False).size().rename("n").reset_index()
    return counts.assign(share=counts["n"] / counts.groupby(list(by))["n"].transform("sum"))


def cost(rows: pd.DataFrame, training: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """What each method costs. In: ``evaluations``, ``rollouts`` and ``methods`` of the same runs.

    Out, a row a method: calls, tokens (sampled, per evaluated task), rollouts, rollout_tokens (sampled in training,
    all runs), seconds (wall clock of each run, as last begun; NaN if they do not tell).
    """
    out = rows.groupby("method", sort=False).agg(calls=("n_calls", "mean"), tokens=("n_tokens", "mean"))
    trained = training.groupby("method").agg(rollouts=("task_id", "size"), rollout_tokens=("n_tokens", "sum"))
    seconds = runs.groupby("method")["seconds"].sum(min_count=1)
    filled = (
        out.join(trained).fillna({"rollouts": 0, "rollout_tokens": 0}).astype({"rollouts": int, "rollout_tokens": int})
    )
    return filled.join(seconds).reset_index()


def _by(rows: pd.DataFrame, by: Sequence[str], one: Any, columns: Sequence[str]) -> pd.DataFrame:
    found = [
        dict(zip(by, key, strict=True)) | one(group).to_dict() for key, group in rows.groupby(list(by), sort=False)
    ]
    places = {column: {v: i for i, v in enumerate(dict.fromkeys(rows[column]))} for column in by}
    found.sort(key=lambda row: [places[column][row[column]] for column in by])
    counts = {c: int for c in ("n", "tasks", "unjudged") if c in columns}
    return pd.DataFrame(found, columns=[*by, *columns]).astype(counts)


# ---- tool use against the teacher's


def tool_use(rows: pd.DataFrame, by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """How close the tools come to the teacher's. In: rows of ``evaluations``.

    Out: ``by``, precision, recall, f1 (means over rows, of the sets of tools called, invented ones too, and of the
    teacher's; a row that called none has no precision), invented (share of all calls that name a tool the task does not
    offer), calls, teacher_calls (per row), n (rows).
    """

    def one(group: pd.DataFrame) -> pd.Series:
        means = group[["precision", "recall", "f1"]].mean().to_dict()
        calls = group["n_calls"].sum()
        return pd.Series(
            means
            | {"invented": group["n_invented"].sum() / calls if calls else 0.0, "calls": group["n_calls"].mean()}
            | {"teacher_calls": group["teacher_tools"].map(len).mean(), "n": len(group)}
        )

    return _by(rows, by, one, ["precision", "recall", "f1", "invented", "calls", "teacher_calls", "n"])


def other_ways(rows: pd.DataFrame) -> pd.DataFrame:
    """How often a right answer took another way than the teacher: where none does, rewards that look at the way agree.

    In: stored rows. Out, a row a method: n (right answers whose teacher's calls are known), tools and calls (shares of
    them with another set of tools, and with other calls, arguments and order counted).
    """

    def keys(calls: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
        return [call_key(Call(c["name"], c["arguments"])) for c in calls]

    rows = rows if "teacher_calls" in rows else rows.assign(teacher_calls=None)
    known = rows["teacher_calls"].map(lambda calls: isinstance(calls, list) and bool(calls))
    right = rows[rows["correct"].eq(True) & known]
    pairs = list(zip(right["calls"], right["teacher_calls"], strict=True))
    others = right.assign(
        tools=[{c["name"] for c in ours} != {c["name"] for c in gold} for ours, gold in pairs],
        calls=[keys(ours) != keys(gold) for ours, gold in pairs],
    )
    found = others.groupby("method", sort=False)
    return found.agg(n=("tools", "size"), tools=("tools", "mean"), calls=("calls", "mean")).reset_index()


def jsd(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits (log base 2), 0 = alike .. 1 = nothing shared; over the last axis.

    Takes counts or probabilities (normalised here), broadcast; NaN where one of them has no mass.
    Source: Lin 1991, IEEE Trans. Inf. Theory 37(1); the divergence, not its square root.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
        m = (p + q) / 2

        def kl(a: np.ndarray) -> np.ndarray:
            return np.where(a > 0, a * np.log2(np.where(a > 0, a / m, 1.0)), np.where(np.isnan(a), np.nan, 0.0)).sum(-1)

        return np.clip((kl(p) + kl(q)) / 2, 0.0, 1.0)


def tool_jsd(
    rows: pd.DataFrame, by: Sequence[str] = ("suite", "method"), draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """How far the tools called are distributed from the teacher's on the same tasks (MENTOR's similarity).

    In: rows of ``evaluations``. Out: ``by``, jsd (bits, 0..1), low, high (percentile bootstrap over tasks; a JSD of
    resampled counts is biased upwards, so the interval may lie above the estimate), floor, tasks. ``floor`` is the
    teacher against itself on other tasks: the mean JSD between two draws of as many tasks. It is a scale to read the
    others by, not a test: student and teacher worked on the same tasks, so that a small difference may still be one of
    habit. Invented tools count as tools that the teacher never uses.
    """

    def one(group: pd.DataFrame) -> pd.Series:
        rng = _rng(seed, *(group[column].iloc[0] for column in by))
        tasks = group.groupby(["suite", "task_id"])
        student = [Counter(c["name"] for calls in g["calls"] for c in calls) for _, g in tasks]
        teacher = [Counter(name for name in g["teacher_tools"].iloc[0]) for _, g in tasks]
        names = sorted({name for counter in [*student, *teacher] for name in counter})
        s, t = (
            np.array([[c[name] for name in names] for c in side], float).reshape(len(side), -1)
            for side in (student, teacher)
        )
        n = len(s)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
        drawn = jsd(weights @ s, weights @ t)
        floor = jsd(weights @ t, rng.multinomial(n, np.full(n, 1 / n), size=draws) @ t)
        low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (math.nan, math.nan)
        found = float(jsd(s.sum(0), t.sum(0)))
        return pd.Series(
            {"jsd": found, "low": low, "high": high}
            | {"floor": float(np.nanmean(floor)) if np.isfinite(floor).any() else math.nan, "tasks": n}
        )

    return _by(rows, by, one, ["jsd", "low", "high", "floor", "tasks"])


# ---- for reading


def percent(value: float, digits: int = 0) -> str:
    """0.625 -> "62%" (the notebooks' way to write a share); a dash for NaN."""
    return "–" if value != value else f"{100 * value:.{digits}f}%"


def table(frame: pd.DataFrame, value: str = "accuracy", index: str = "method", columns: str = "suite") -> pd.DataFrame:
    """A long frame with value, low and high as a wide one of strings such as "62% [55, 69]", in order of appearance.

    Where there is a ``word_f1`` it follows: "62% [55, 69], F1 0.71".
    """
    words = frame.get("word_f1", pd.Series(math.nan, index=frame.index))
    texts = frame.assign(
        text=[
            (f"{percent(v)} [{100 * a:.0f}, {100 * b:.0f}]" if v == v else "–") + (f", F1 {f1:.2f}" if f1 == f1 else "")
            for v, a, b, f1 in zip(frame[value], frame["low"], frame["high"], words, strict=True)
        ]
    )
    wide = texts.pivot(index=index, columns=columns, values="text").fillna("–")
    return wide.loc[list(dict.fromkeys(frame[index])), list(dict.fromkeys(frame[columns]))]


def link(where: str = "", **filters: Any) -> str:
    """The address of one trajectory (a row's ``where``), or of those that fit filters, on the page beside a report.

    Filters are what the page has menus for: run, suite, method, phase (evaluation or training), outcome, tool, exploit
    and step. See ``viewer``.
    """
    asked = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in filters.items())
    return f"trajectories.html#{quote(where, safe='/:') if where else '?' + asked}"
