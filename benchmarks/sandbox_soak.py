"""Claim: 100,000 calls, one in fifty hostile, leave no process, descriptor or memory behind, and no answer is wrong.

There is no peer: the official server never answers again after the first hostile call that loops. Honest calls are
drawn from the calculator suite's tools and compared with the same function in this process; the hostile ones loop,
sleep, fill memory, recurse, crash, leave, flood, forge replies, and poison modules, half of them in the workers that
honest calls use. After a tenth of the calls (warm-up) everything is sampled each hundredth; memory is that of this
process and of its workers together. Exits with 1 unless all is flat.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.data.tools import calculator
from mentorlib.sandbox.pool import Job, Sandbox

FUNCTIONS = {f.__name__: f for f in calculator.TOOLS}
PAGE = os.sysconf("SC_PAGE_SIZE")
HOSTILE = """
import builtins, json, math, os, struct, sys, time

def loop():
    while True:
        pass
def sleep(): time.sleep(60)
def memory():
    kept = []
    while True:
        kept.append(bytearray(1 << 24))
def recursion(): return recursion()
def crash():
    import ctypes
    ctypes.string_at(0)
def leave(): os._exit(0)
def leave_politely(): sys.exit(1)
def flood():
    for _ in range(1000):
        print("x" * 10_000)
def big(): return ["x" * 1000] * 1000
def endless():
    x = []
    x.append(x)
    return x
def nan(): return float("nan")
def forge():
    reply = bytes(8) + b'r{"value": 41, "stdout": "", "error": null}'
    for fd in range(3, 12):
        try:
            os.write(fd, struct.pack("=I", len(reply)) + reply)
        except OSError:
            pass
def shut(): os.closerange(0, 64)
def poison():
    builtins.sum = math.floor = json.dumps = lambda *a: 42
    math.sqrt = abs
    return 1
def low(): sys.setrecursionlimit(40)
def processes(): return os.fork()
def refuse():
    class E(BaseException):
        def __str__(self): raise self
    raise E
"""
ATTACKS = [line.split("(")[0].removeprefix("def ") for line in HOSTILE.split("\n") if line.startswith("def ")]


def draw(rng: random.Random) -> tuple[str, dict[str, object]]:
    """An honest call: a tool's name and arguments."""
    name = rng.choice(list(FUNCTIONS))
    if name == "sum_numbers":
        return name, {"numbers": [rng.uniform(-9, 9) for _ in range(rng.randint(1, 5))]}
    if name == "round_number":
        return name, {"x": rng.uniform(0, 99), "digits": rng.randint(0, 3)}
    parameters = next(s["function"]["parameters"] for s in CALCULATOR.schemas if s["function"]["name"] == name)
    return name, {key: rng.randint(1, 60) for key in parameters["properties"]}


def sample() -> dict[str, float]:
    """Descriptors of this process, processes below it, and memory in MiB of it and of them."""
    pids, memory = [os.getpid()], []
    for pid in pids:
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
            memory.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20)
        except OSError:
            continue  # it ended just now
    descriptors = len(os.listdir("/proc/self/fd"))
    return {"descriptors": descriptors, "processes": len(pids) - 1, "own": memory[0], "workers": sum(memory[1:])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    calls = parser.parse_args().calls
    rng = random.Random(0)
    samples: list[dict[str, float]] = []
    wrong = hostile = accepted = failures = 0
    began = time.perf_counter()
    with Sandbox(workers=2, time_limit=0.2) as sandbox:
        for start in range(0, calls, 100):
            jobs, expected = [], []
            for i in range(100):
                if i % 50 == 49:
                    jobs.append(Job(HOSTILE, rng.choice(ATTACKS), {}, isolate=rng.random() < 0.5))
                    expected.append(None)
                else:
                    name, arguments = draw(rng)
                    jobs.append(Job(CALCULATOR.source, name, arguments, isolate=rng.random() < 0.05))
                    expected.append(FUNCTIONS[name](**arguments))
            order = rng.sample(range(100), 100)
            for i, got in zip(order, sandbox.run_many([jobs[i] for i in order]), strict=True):
                failures += got.fault == "sandbox"
                if expected[i] is None:
                    hostile += 1
                    accepted += got.error is None
                elif got.fault == "sandbox":
                    continue  # counted; training drops it
                elif repr(got.value) != repr(expected[i]):
                    wrong += 1
                    print(f"wrong: {jobs[i].name}({jobs[i].arguments}) gave {got}, not {expected[i]}")
            if start >= calls // 10 and start % max(100, calls // 100) == 0:
                samples.append(sample())
        processes = int(max(s["processes"] for s in samples))
    seconds = time.perf_counter() - began
    after = sample()
    quarter = max(1, len(samples) // 4)
    print(f"{'':<12} {'first quarter':>13} {'last quarter':>13} {'highest':>8}")
    means = {}
    for key in samples[0]:
        means[key] = [sum(s[key] for s in part) / quarter for part in (samples[:quarter], samples[-quarter:])]
        print(f"{key:<12} {means[key][0]:>13.1f} {means[key][1]:>13.1f} {max(s[key] for s in samples):>8.1f}")
    grown = {key: last - first for key, (first, last) in means.items()}
    # Idle workers: two of each kind, in bubblewrap three processes each; some are on their way out or in.
    flat = grown["own"] < 3 and grown["workers"] < 30 and grown["descriptors"] < 3
    flat = flat and after["processes"] == 0 and processes <= 16 * (3 if "bubblewrap" in sandbox.layers else 1)
    figures = {
        "calls": calls,
        "hostile": hostile,
        "hostile_answered": accepted,  # some only print much, or poison what dies with them
        "wrong": wrong,
        "infrastructure_failures": failures,
        "calls_per_s": round(calls / seconds),
        "own_mib_grown": round(grown["own"], 2),
        "processes_left": int(after["processes"]),
        "flat": flat,
        "layers": sandbox.layers,
    }
    print(json.dumps({"name": "sandbox_soak", "ratio": None, **figures}))
    return 0 if flat and not wrong and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
