"""Claim: a study's stages, two at a time with a thread each, are done sooner than one at a time with two threads.

Peer: the same study with ``workers`` 1. Data and four short trainings with evaluation, all run anew each time, with
kernels and imports; the recorded results of both must be the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def study(steps: int, tasks: int) -> dict[str, object]:
    """Four methods on one data set, as studies/quick.yaml has them, but shorter."""
    notebook = str(REPOSITORY / "notebooks" / "02_train.ipynb")
    common = {"data": "$data/", "steps": steps, "n_eval": tasks, "micro_batch": 16}
    methods = {"sft": {"method": "sft"}, **{r: {"method": "grpo", "reward": r} for r in ("sparse", "strict", "exact")}}
    data = {"n_train": 200, "n_eval": tasks, "sources": []}
    first = {"name": "data", "notebook": str(REPOSITORY / "notebooks" / "01_build_data.ipynb"), "parameters": data}
    stages = [{"name": n, "notebook": notebook, "parameters": common | p} for n, p in methods.items()]
    return {"question": "which is sooner?", "stages": [first, *stages]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tasks", type=int, default=40)
    arguments = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for i in range(arguments.rounds):
        results = {}
        for workers in seconds:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "bench.yaml").write_text(yaml.safe_dump(study(arguments.steps, arguments.tasks)))
                command = [sys.executable, "-m", "mentorlib", "study", "bench.yaml", "--workers", str(workers)]
                began = time.perf_counter()
                subprocess.run(
                    command,
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                seconds[workers].append(time.perf_counter() - began)
                results[workers] = {
                    p.parent.name: {k: r["value"] for k, r in json.loads(p.read_text()).items()}
                    for p in sorted(Path(folder, "runs").glob("*/results.json"))
                }
            print(f"{i + 1:>3} {workers} at a time {seconds[workers][-1]:>8.1f} s", flush=True)
        assert results[1] == results[2] and len(results[1]) == 5, "not the same work"
    ratios = sorted(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    spread = {"low": round(ratios[0], 2), "high": round(ratios[-1], 2)}
    walls = {f"seconds_{workers}": round(statistics.median(x), 1) for workers, x in seconds.items()}
    print(json.dumps({"name": "study", "ratio": round(statistics.median(ratios), 2), **spread, **walls}))


if __name__ == "__main__":
    main()
