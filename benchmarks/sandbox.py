"""Claim: 16 callers get the results of declared tools five times faster from the sandbox than from MENTOR's server.

Peer: the release's FastAPI server (scripts/serving/sandbox.py, a bare exec as root) over loopback, when given:
``python benchmarks/sandbox.py --peer CHECKOUT [--peer-python PYTHON]``, an interpreter with fastapi and uvicorn. Also
the same calls in this process (what no isolation costs) and in a Python process each. All of them load the tools'
source afresh for each call, take turns in one run, and must give the same results.
"""

import argparse
import contextlib
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.sandbox.pool import Sandbox
from mentorlib.sandbox.toolbox import call_many

ROUNDS = 7
CALLS = 1_600  # of each contender a round; subprocesses get fewer
CALLERS = 16
WORKERS = 8  # fewer leave callers waiting for each other; more only take memory

Ask = Callable[[str], Any]  # a call's JSON -> its result
CODE = compile(CALCULATOR.source, "<tools>", "exec")
ONE = "import json, sys\nsource, name, arguments = json.load(sys.stdin)\nspace = {}\nexec(source, space)\n"
ONE += "json.dump(space[name](**arguments), sys.stdout)"


def draw_calls(rng: random.Random, n: int) -> list[str]:
    """Calls that succeed, as a policy would write them."""
    calls = []
    for _ in range(n):
        schema = rng.choice(CALCULATOR.schemas)["function"]
        names = schema["parameters"]["properties"]
        arguments: dict[str, Any] = {k: rng.randint(1, 30) if k == "b" else rng.uniform(1, 99) for k in names}
        if schema["name"] == "sum_numbers":
            arguments = {"numbers": [rng.randint(1, 99) for _ in range(4)]}
        if schema["name"] == "round_number":
            arguments["digits"] = 2
        calls.append(json.dumps({"name": schema["name"], "arguments": arguments}))
    return calls


def in_process(raw: str) -> Any:
    call = json.loads(raw)
    space: dict[str, Any] = {}
    exec(CODE, space)
    return space[call["name"]](**call["arguments"])


def subprocess_each(raw: str) -> Any:
    call = json.loads(raw)
    job = json.dumps([CALCULATOR.source, call["name"], call["arguments"]])
    out = subprocess.run([sys.executable, "-I", "-S", "-c", ONE], input=job, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


@contextlib.contextmanager
def official(checkout: str, python: str) -> Iterator[Callable[[], Ask]]:
    """The release's server on a free loopback port; gives what makes a caller, each with its own connection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Its own main listens to the whole network, which a bare exec should not.
    code = f"import sandbox, uvicorn; uvicorn.run(sandbox.app, host='127.0.0.1', port={port})"
    folder = Path(checkout) / "scripts" / "serving"
    server = subprocess.Popen([python, "-c", code], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def caller() -> Ask:
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask(raw: str) -> Any:
            call = json.loads(raw)
            text = f"{call['name']}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})"
            body = json.dumps({"env": CALCULATOR.source, "call": text})
            connection.request("POST", "/execute", body, {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())["result"]

        return ask

    try:
        while server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        else:
            sys.exit(f"the server in {folder} does not start with {python}: has it fastapi and uvicorn?")
        yield caller
    finally:
        server.kill()
        server.wait()


def measured(make: Callable[[], Ask], calls: list[str], callers: int) -> tuple[float, list[float], list[Any]]:
    """Ask from so many threads: seconds in all, seconds of each call, results in order."""
    seconds, results = [0.0] * len(calls), [None] * len(calls)
    gate = threading.Barrier(callers + 1)

    def work(first: int) -> None:
        ask = make()
        ask(calls[0])  # connected and warm
        gate.wait()
        for i in range(first, len(calls), callers):
            began = time.perf_counter()
            results[i] = ask(calls[i])
            seconds[i] = time.perf_counter() - began

    threads = [threading.Thread(target=work, args=(n,)) for n in range(callers)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, seconds, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="CHECKOUT", help="a checkout of MENTOR's release")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON")
    options = parser.parse_args()
    rng = random.Random(0)
    start_up: dict[str, float] = {}

    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        sandbox = stack.enter_context(Sandbox(workers=WORKERS))
        CALCULATOR.call(draw_calls(rng, 1)[0], sandbox)
        start_up["mentorlib"] = time.perf_counter() - began

        def through_sandbox() -> Ask:
            return lambda raw: CALCULATOR.call(raw, sandbox).value

        contenders: dict[str, tuple[Callable[[], Ask], int, int]] = {  # make a caller, callers, calls
            "mentorlib, 1 caller": (through_sandbox, 1, CALLS),
            "mentorlib, 16 callers": (through_sandbox, CALLERS, CALLS),
            "in process, 1 caller": (lambda: in_process, 1, CALLS),
            "a process each, 1 caller": (lambda: subprocess_each, 1, 20),
        }
        if options.peer:
            began = time.perf_counter()
            server = stack.enter_context(official(options.peer, options.peer_python))
            server()(draw_calls(rng, 1)[0])
            start_up["official"] = time.perf_counter() - began
            contenders["official, 1 caller"] = (server, 1, CALLS // 4)
            contenders["official, 16 callers"] = (server, CALLERS, CALLS // 4)
        rates: dict[str, list[float]] = {name: [] for name in [*contenders, "mentorlib, batches of 16"]}
        latencies: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            calls = draw_calls(rng, CALLS)
            expected = [in_process(raw) for raw in calls]
            for name, (make, callers, n) in contenders.items():
                seconds, each, results = measured(make, calls[:n], callers)
                assert results == expected[:n], f"{name}: not the same work"
                rates[name].append(n / seconds)
                latencies[name] += each
            began = time.perf_counter()
            batches = [calls[i : i + CALLERS] for i in range(0, CALLS, CALLERS)]
            got = [e.value for batch in batches for e in call_many([(CALCULATOR, raw) for raw in batch], sandbox)]
            rates["mentorlib, batches of 16"].append(CALLS / (time.perf_counter() - began))
            assert got == expected, "not the same work"

    print(f"{'':<26} {'calls/s':>8} {'low':>8} {'high':>8} {'p50 ms':>8} {'p99 ms':>8}")
    figures: dict[str, Any] = {}
    for name, rate in rates.items():
        cuts = statistics.quantiles(latencies[name], n=100) if name in latencies else None
        p50, p99 = (round(cuts[49] * 1e3, 3), round(cuts[98] * 1e3, 3)) if cuts else (None, None)
        figures[name] = {"calls_per_s": round(statistics.median(rate)), "p50_ms": p50, "p99_ms": p99}
        print(f"{name:<26} {statistics.median(rate):>8,.0f} {min(rate):>8,.0f} {max(rate):>8,.0f}", end="")
        print(f" {p50:>8} {p99:>8}" if cuts else "")
    print(f"start-up to the first result: {', '.join(f'{k} {v:.2f} s' for k, v in start_up.items())}")
    print(f"layers: {', '.join(sandbox.layers)}")
    ratio = None
    if options.peer:
        pairs = zip(rates["mentorlib, 16 callers"], rates["official, 16 callers"], strict=True)
        ratios = sorted(rate / peer for rate, peer in pairs)
        ratio = round(statistics.median(ratios), 2)
        figures |= {"low": round(ratios[0], 2), "high": round(ratios[-1], 2)}
    figures["start_up_s"] = {k: round(v, 3) for k, v in start_up.items()}
    print(json.dumps({"name": "sandbox", "ratio": ratio, **figures}))


if __name__ == "__main__":
    main()
