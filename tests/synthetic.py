"""Made-up run folders for the tests of analysis, figures, widgets and their notebooks: no model."""

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd

TOOLS = ["add", "subtract", "multiply", "divide", "sum_numbers"]
OPS = {"add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b}
HOSTILE = "<script>alert(1)</script> \x1b[31mred \u202edne [x](javascript:alert(2)) $x$"
# How often each method ends: right, wrong box, other tool, wrong argument, invented, malformed, error, none, cut
SKILL = {
    "base": [30, 8, 12, 14, 6, 10, 6, 8, 6],
    "sft": [55, 6, 8, 12, 6, 4, 4, 2, 3],
    "grpo-sparse": [60, 8, 12, 8, 3, 3, 3, 2, 1],
    "grpo-strict": [58, 6, 6, 14, 2, 4, 4, 4, 2],
    "grpo-exact": [70, 6, 5, 8, 1, 3, 3, 3, 1],
}
KINDS = ["right", "box", "tool", "argument", "invented", "malformed", "error", "gave_up", "cut"]


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def row(kind: str, rng: random.Random, task: int, suite: str = "calculator", sample: int = 0) -> dict[str, Any]:
    """One stored row that ends in the way ``kind`` names (one of KINDS)."""
    maker = random.Random(f"{suite}{task}")
    name = maker.choice(list(OPS))
    a, b = maker.randint(2, 40), maker.randint(2, 40)
    gold = OPS[name](a, b)
    call, result, text, stop = _call(name, {"a": a, "b": b}), str(gold), f"The answer is \\boxed{{{gold}}}.", "answered"
    if kind == "box":
        text = f"The answer is \\boxed{{{gold + 1}}}. {HOSTILE}"
    if kind == "tool":
        other = rng.choice([t for t in OPS if t != name])
        call, result = _call(other, {"a": a, "b": b}), str(OPS[other](a, b) + 1000)
        text = f"The answer is \\boxed{{{result}}}."
    if kind == "argument":
        call, result = _call(name, {"a": a + 7, "b": b + 1}), str(OPS[name](a + 7, b + 1) + 1000)
        text = f"The answer is \\boxed{{{result}}}."
    if kind == "invented":
        call, result, text = (
            _call("guess", {"x": a}),
            "error: there is no tool named guess",
            "The answer is \\boxed{7000}.",
        )
    if kind == "error":
        call, result, text = _call(name, {"a": a}), "error: b is missing", "The answer is \\boxed{7000}."
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "name": call["name"], "content": result},
        {"role": "assistant", "content": text},
    ]
    if kind == "gave_up":
        messages[-1]["content"], stop = "I do not know.", "gave_up"
    if kind == "malformed":
        messages, stop = (
            [{"role": "assistant", "content": '<tool_call>\n{"name": "add", "argu\n</tool_call>'}],
            "malformed",
        )
    if kind == "cut":
        messages, stop = [{"role": "assistant", "content": "Let me see see see"}], "length"
    calls = [c["function"] for m in messages for c in m.get("tool_calls", [])]
    parts = []
    for m in messages:
        body = m["content"]
        for c in m.get("tool_calls", []):
            body += "<tool_call>\n" + json.dumps(c["function"]) + "\n</tool_call>"
        parts.append(
            f"<|im_start|>user\n<tool_response>\n{body}\n</tool_response>"
            if m["role"] == "tool"
            else f"<|im_start|>assistant\n{body}"
        )
    response = "<|im_end|>\n".join(parts).removeprefix("<|im_start|>assistant\n") + (
        "" if kind == "cut" else "<|im_end|>"
    )
    return {
        "task_id": f"{suite}-{task}",
        "suite": suite,
        "split": "eval",
        "question": f"Ann has {a} & {b} <pears>. {name}?",
        "answer": str(gold),
        "teacher_tools": [name],
        "teacher_calls": [_call(name, {"a": a, "b": b})],
        "teacher_results": [str(gold)],
        "tools": TOOLS,
        "response": response,
        "messages": messages,
        "calls": calls,
        "stop": stop,
        "n_tokens": len(response) // 4,
        "correct": kind == "right",
        "sample": sample,
    }


def make_runs(
    root: Path, tasks: int = 40, steps: int = 6, methods: tuple[str, ...] = tuple(SKILL), seed: int = 0
) -> list[str]:
    """Write one run folder a method under ``root``; returns their names. base and sft have no rollouts.jsonl."""
    for method in methods:
        rng = random.Random(f"{method}{seed}")
        path = root / method
        (path / "eval").mkdir(parents=True)
        kind, _, reward = method.partition("-")
        parameters = {"method": "none" if kind == "base" else kind, "reward": reward or "exact", "seed": seed}
        parameters["learning_rate"] = 1e-4
        (path / "run.json").write_text(
            json.dumps(
                {"name": method, "parameters": parameters, "status": "done"}
                | {"created": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:40+00:00"}
            )
        )
        for suite, harder in (("calculator", 0), ("longer", 25), ("unseen", 60)):
            weights = [SKILL[method][0], *(w + harder / 8 for w in SKILL[method][1:])]
            rows = [row(k, rng, i, suite) for i, k in enumerate(rng.choices(KINDS, weights, k=tasks))]
            (path / "eval" / f"{suite}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if kind != "grpo":
            continue
        lines = []
        for step in range(steps):
            for group in range(3):
                weights = [SKILL[method][0] * (step + 1) / steps, *SKILL[method][1:]]
                for i, k in enumerate(rng.choices(KINDS, weights, k=4)):
                    r = row(k, rng, group + 3 * step, sample=i) | {
                        "step": step,
                        "group": group + 3 * step,
                        "split": "train",
                    }
                    good, used = (
                        float(r["correct"]),
                        float(set(c["name"] for c in r["calls"]) == set(r["teacher_tools"])),
                    )
                    terms, w = {"correct": good, "tools": used}, {"correct": 0.7, "tools": 0.3}
                    total = 0.7 * good + 0.3 * used
                    lines.append(r | {"reward": reward, "terms": terms, "weights": w, "total": total, "reason": k})
        for group in {line["group"] for line in lines}:
            members = [line for line in lines if line["group"] == group]
            totals = [m["total"] for m in members]
            mean = sum(totals) / len(totals)
            std = (sum((t - mean) ** 2 for t in totals) / (len(totals) - 1)) ** 0.5
            for m in members:
                m["advantage"] = (m["total"] - mean) / (std + 1e-4)
        (path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(methods)


def evaluated_rows(
    correct: dict[str, list[bool | None]], suite: str = "calculator", tools: list[str] | None = None
) -> pd.DataFrame:
    """Rows of ``evaluations`` with the given verdicts by method: one task a position."""
    return pd.DataFrame(
        [
            {
                "run": m,
                "method": m,
                "seed": 0,
                "suite": suite,
                "task_id": str(i),
                "correct": c,
                "stop": "infrastructure" if c is None else "answered",
                "teacher_tools": ["add"],
            }
            | {"calls": [{"name": t, "arguments": {}} for t in tools or ["add"]]}
            for m, verdicts in correct.items()
            for i, c in enumerate(verdicts)
        ]
    )
