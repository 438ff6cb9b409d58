"""Claim: scoring a transcript under all five released rewards is at least 50 times as fast as the release on calculator
transcripts, and 5 times on the golden file, with the same scores.

Peer: the release's graders (FOLDER: the reward_score folder of github.com/choics2623/MENTOR-RL; nothing of it is kept
here), without pylatexenc and so without mathruler, as the golden scores were made. Both start cold: this library with a
new helper process and empty caches at each repetition, the release with what it and sympy cached in the last one.

    python benchmarks/rewards.py [--peer FOLDER]
"""

import argparse
import contextlib
import importlib
import io
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mentorlib.core import END, Call, Reference, Trajectory
from mentorlib.data.suites import generate
from mentorlib.rewards import answers, grader, official
from mentorlib.rewards.reward import OFFICIAL, REWARDS

REPO = Path(__file__).resolve().parents[1]
GOLDEN = REPO.parent / "shared" / "golden" / "official_rewards.jsonl"
PEERS = {
    "sparse": "mentor_sparse",
    "exact": "mentor",
    "partial": "mentor_ablation2",
    "none": "mentor_ablation3",
    "f1": "mentor_ablation4",
}
REPETITIONS = 5
Row = dict[str, Any]
Scores = list[dict[str, float]]


def calculator_rows(tasks: int = 200, group: int = 10, seed: int = 0) -> list[Row]:
    """A GRPO step's transcripts: groups of ten, their faults about as often as among the quick study's rollouts."""
    rng = random.Random(seed)
    rows = []
    for task, reference in generate("calculator", tasks, seed=seed):
        for _ in range(group):
            fault = rng.choices(
                ["", "wrong", "other tool", "twice", "invented", "no answer", "malformed", "cut", "dressed"],
                [46, 30, 8, 4, 3, 5, 2, 1, 1],
            )[0]
            calls = [{"name": call.name, "arguments": call.arguments} for call in reference.calls]
            answer = task.answer
            if fault in ("wrong", "other tool", "invented"):
                answer = f"{float(answer) + rng.choice([-10, -2, -1, 0.5, 1, 9]):g}"
                calls[-1]["name"] = {"other tool": "power", "invented": "average"}.get(fault, calls[-1]["name"])
            if fault == "twice":
                calls.append(calls[-1])
            if fault == "dressed":
                answer = rng.choice(["${}$", "{}.0", "{}\\text{{ apples}}", "x={}"]).format(answer)
            text = ""
            for call in calls:
                body = json.dumps(call)
                if fault == "malformed":
                    body = body[: rng.randint(1, len(body) - 1)]
                text += (
                    f"<tool_call>\n{body}\n</tool_call>{END}\n<|im_start|>user\n<tool_response>\n{rng.randint(0, 99)}"
                )
                text += f"\n</tool_response>{END}\n<|im_start|>assistant\n"
            text += "I do not know." if fault == "no answer" else f"The answer is \\boxed{{{answer}}}."
            text = text[: rng.randint(1, len(text))] if fault == "cut" else text + END
            rows.append({"response": text, "answer": task.answer, "teacher_tools": reference.tools})
    return rows


def score_rows(rows: list[Row]) -> Scores:
    scores = []
    for row in rows:
        trajectory = Trajectory.from_response(row["response"])
        reference = Reference("", [], [Call(name, {}) for name in row["teacher_tools"]], row["answer"])
        scores.append(
            {name: reward(trajectory, reference, answer=row["answer"]).total for name, reward in OFFICIAL.items()}
        )
    return scores


def clear_caches() -> None:
    """Empty caches and a new helper process, already started (the peer's imports are not timed either)."""
    answers._official.cache_clear()
    answers._slow.cache_clear()
    official._read_response.cache_clear()
    grader.helper.stop()
    answers.judge("$x+1$", "$1+x$")


def released(folder: Path) -> Callable[[list[Row]], Scores]:
    sys.modules["pylatexenc"] = None  # type: ignore[assignment]
    sys.path.insert(0, str(folder.resolve().parent))  # as a package: its math_verify.py would hide the library
    modules = {name: importlib.import_module(f"{folder.resolve().name}.{file}") for name, file in PEERS.items()}
    assert not any(module.MATHRULER_AVAILABLE for module in modules.values())
    tokenizer = SimpleNamespace(eos_token=END)

    def peer_scores(rows: list[Row]) -> Scores:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            return [
                {
                    name: module.compute_score_with_format(
                        tokenizer, row["response"], row["answer"], row["teacher_tools"]
                    )[0]
                    for name, module in modules.items()
                }
                for row in rows
            ]

    peer_scores([{"response": f"\\boxed{{$x+1$}}{END}", "answer": "1+x", "teacher_tools": ["add"]}])
    return peer_scores


def timed(score: Callable[[list[Row]], Scores], rows: list[Row]) -> tuple[float, Scores]:
    began = time.perf_counter()
    scores = score(rows)
    return time.perf_counter() - began, scores


def differing(one: Scores, other: Scores) -> int:
    return sum(abs(a[name] - b[name]) > 1e-6 for a, b in zip(one, other, strict=True) for name in a)


def compare(rows: list[Row], peer: Callable[[list[Row]], Scores] | None) -> dict[str, Any]:
    """This library and the peer in turn. Rates are transcripts a second (median); low and high are the ratio's."""
    rates: list[float] = []
    peers: list[float] = []
    disagreements = 0
    for _ in range(REPETITIONS):
        clear_caches()
        seconds, scores = timed(score_rows, rows)
        rates.append(len(rows) / seconds)
        if peer:
            seconds, expected = timed(peer, rows)
            peers.append(len(rows) / seconds)
            disagreements += differing(scores, expected)
        if "scores" in rows[0]:
            disagreements += differing(scores, [row["scores"] for row in rows])
    ratios = sorted(a / b for a, b in zip(rates, peers, strict=False))
    figures: dict[str, Any] = {"transcripts": len(rows), "per_second": round(statistics.median(rates))}
    if peer:
        figures |= {"peer_per_second": round(statistics.median(peers)), "ratio": round(statistics.median(ratios), 1)}
        figures |= {"low": round(ratios[0], 1), "high": round(ratios[-1], 1)}
    return figures | {"disagreements": disagreements}


def fuzz(outputs: int = 10_000) -> dict[str, Any]:
    """Milliseconds an output of tests/fuzzed.py takes, read and scored under every reward in both versions."""
    sys.path.append(str(REPO / "tests"))
    from fuzzed import GOLDS, fuzzed_output

    clear_caches()
    rng, reference = random.Random(7), Reference("", [], [Call("add", {"a": 2, "b": 3})], "")
    times = []
    for _ in range(outputs):
        text, gold = fuzzed_output(rng), rng.choice(GOLDS)
        began = time.perf_counter()
        trajectory = Trajectory.from_response(text)
        for reward in (*REWARDS.values(), *OFFICIAL.values()):
            reward(trajectory, reference, answer=gold)
        times.append(1000 * (time.perf_counter() - began))
    cuts = statistics.quantiles(times, n=100)
    return {"outputs": outputs, "median_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 1)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="the release's reward_score folder")
    folder = parser.parse_args().peer
    logging.disable(logging.CRITICAL)  # math-verify logs what it cannot read
    peer = released(folder) if folder else None
    results = {"calculator": compare(calculator_rows(), peer)}
    if GOLDEN.exists():
        results["golden"] = compare([json.loads(line) for line in GOLDEN.read_text().splitlines()], peer)
    else:
        print(f"no golden file ({GOLDEN.name}): left out")
    columns = ("transcripts", "per_second", "peer_per_second", "ratio", "low", "high", "disagreements")
    print(f"{'':<10}", *(f"{column:>15}" for column in columns))
    for name, figures in results.items():
        print(f"{name:<10}", *(f"{figures.get(column, '-'):>15}" for column in columns))
    results["fuzzed"] = fuzz()
    print("{outputs} fuzzed outputs, all rewards: median {median_ms} ms, p99 {p99_ms} ms".format(**results["fuzzed"]))
    print(json.dumps({"name": "rewards", "ratio": results["calculator"].get("ratio"), **results}))


if __name__ == "__main__":
    main()
