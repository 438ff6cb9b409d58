"""Claim: on two cores, two processes of one thread finish a study sooner than one process of two threads.

Peer: one process with two threads. Both evaluate the nano student greedily on the same held-out calculator tasks, as
most of a study's stages do; both must give the same answers. A study's ``workers`` are such processes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from mentorlib import Sandbox, TorchEngine, load_model
from mentorlib.data.suites import generate
from mentorlib.rollout.evaluation import evaluate


def work(threads: int, tasks: int, halves: list[int]) -> None:
    """Evaluate halves of the tasks for each line on stdin, and print which answers are right."""
    torch.set_num_threads(threads)
    engine = TorchEngine(*load_model("nano"))
    pairs = generate("calculator", 2 * tasks, split="eval")
    with Sandbox() as sandbox:
        evaluate(engine, pairs[:8], sandbox)
        print("ready", flush=True)
        for _ in sys.stdin:
            right = [r["correct"] for half in halves for r in evaluate(engine, pairs[half::2], sandbox)]
            print(json.dumps(right), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=150, help="tasks of each half")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=2, metavar=("THREADS", "HALVES"), help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.work:
        threads, halves = arguments.work
        return work(int(threads), arguments.tasks, [int(h) for h in halves])

    def process(threads: int, halves: str) -> "subprocess.Popen[str]":
        command = [sys.executable, __file__, "--tasks", str(arguments.tasks), "--work", str(threads), halves]
        started = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while started.stdout and started.stdout.readline() != "ready\n":
            pass
        return started

    teams = {"two processes": [process(1, "0"), process(1, "1")], "one process": [process(2, "01")]}
    speeds: dict[str, list[float]] = {name: [] for name in teams}
    for i in range(arguments.rounds):
        answers = {}
        for name, team in teams.items():
            began = time.perf_counter()
            for member in team:
                print("go", file=member.stdin, flush=True)
            answers[name] = [right for member in team for right in json.loads(member.stdout.readline())]  # type: ignore[union-attr]
            speeds[name].append(2 * arguments.tasks / (time.perf_counter() - began))
            print(f"{i + 1:>3} {name:>14} {speeds[name][-1]:>8.1f} tasks/s", flush=True)
        assert answers["two processes"] == answers["one process"], "not the same work"
    for team in teams.values():
        for member in team:
            member.communicate()
    ratios = sorted(a / b for a, b in zip(*speeds.values(), strict=True))
    figures = {name.replace(" ", "_") + "_tasks_per_s": round(statistics.median(x), 1) for name, x in speeds.items()}
    spread = {"low": round(ratios[0], 2), "high": round(ratios[-1], 2)}
    print(json.dumps({"name": "evaluation", "ratio": round(statistics.median(ratios), 2), **spread, **figures}))


if __name__ == "__main__":
    main()
