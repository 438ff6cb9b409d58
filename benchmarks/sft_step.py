"""Claim: SFT on references that offer the same tools takes at least three times as many steps a second as TRL's own.

Peer: SFTTrainer with its padding collator. Both train the same model on the same references in the same order, in turns
from the same weights; the losses must agree. What bounds it: arithmetic, so the ratio is that of the tokens computed.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mentorlib import Run, load_model
from mentorlib.data.sources import read_sources
from mentorlib.trainer import sft

TRAINING = "../shared/data/wordproblems/mawps_fold0_train.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/models/SmolLM2-135M-Instruct", help="a folder (make models) or nano")
    parser.add_argument("--batch", type=int, default=16, help="references a step")
    parser.add_argument("--micro", type=int, default=4, help="references a backward pass of the peer")
    parser.add_argument("--steps", type=int, default=2, help="a turn; the first step warms up")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.model != "nano" and not Path(options.model).exists():
        print(f"no {options.model}: run make models, or give --model nano")
        return
    pairs, _, _ = read_sources([f"mawps:{TRAINING}"])
    ours, seconds, losses = sft.packed_batch, {"mentorlib": [], "stock": []}, {"mentorlib": [], "stock": []}
    for _ in range(options.rounds):
        for name in seconds:
            model, tokenizer = load_model(options.model)
            began = [time.perf_counter()]
            with tempfile.TemporaryDirectory() as folder:
                run = Run("bench", root=folder)
                sft.packed_batch = ours if name == "mentorlib" else None  # None: TRL's padding collator
                sft.train_sft(
                    run,
                    model,
                    tokenizer,
                    pairs[: 8 * options.batch],
                    steps=options.steps,
                    batch_size=options.batch,
                    micro_batch=0 if name == "mentorlib" else options.micro,
                    progress=lambda _, __, metrics, began=began: (
                        None if "inside" in metrics else began.append(time.perf_counter())
                    ),
                )
                losses[name] = [row["loss"] for row in run.read_rows("metrics.jsonl")]
            step = statistics.median([b - a for a, b in itertools.pairwise(began)][1:])
            seconds[name].append(step)
            print(f"{name:>9}: {step:.2f} s a step of {options.batch}, losses {losses[name]}", flush=True)
    assert all(abs(a - b) < 1e-3 for a, b in zip(*losses.values(), strict=True)), losses
    ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
    print(
        json.dumps(
            {
                "name": "sft_step",
                "model": options.model,
                "ratio": round(statistics.median(ratios), 2),
                "low": round(ratios[0], 2),
                "high": round(ratios[-1], 2),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
