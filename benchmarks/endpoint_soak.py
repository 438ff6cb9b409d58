"""Claim: with one request in five broken and two kill -9, no reply is lost, requested twice or different.

There is no peer. ``transformers serve`` serves the nano student; a proxy in front of it answers a fifth of
the requests with a fault (429, 500, connection reset, cut body, reply past the timeout, invalid JSON) and counts by
request. The conversations (greedy) are run once without faults, and once with faults by a process that is killed twice
and started again. Exits with 1 unless the trajectories are equal, every request was answered exactly once except those
in flight at a kill (delivered to the client, which was killed before it had written them), and the log holds each
once. ``server_errors``: errors in the server's own log, for requests that it answered with HTTP 500 by itself.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from faults import NANO, Proxy, transformers_serve

from mentorlib import Endpoint, Run, Sandbox
from mentorlib.data.suites import generate
from mentorlib.runs.progress import progress_printer

CONCURRENCY = 8


def work(url: str, root: str, name: str, tasks: int, timeout: float) -> None:
    """Run the conversations and write the trajectories."""
    chosen = [task for task, _ in generate("calculator", tasks, split="eval")]
    run = Run(name, root)
    endpoint = Endpoint(url, str(NANO), run, concurrency=CONCURRENCY, timeout=timeout, patience=9 * timeout)
    with Sandbox() as sandbox:
        done = endpoint(chosen, sandbox, temperature=0.0, progress=progress_printer(name, every=20))
    run.write_rows("trajectories.jsonl", [vars(t) for t in done])
    run.write_json("usage.json", endpoint.usage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.2, help="of requests that meet a fault")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a reply may take; more on a busy machine")
    parser.add_argument("--work", nargs=3, metavar=("URL", "ROOT", "NAME"), help="be the process that is killed")
    arguments = parser.parse_args()
    if arguments.work:
        return work(*arguments.work, tasks=arguments.tasks, timeout=arguments.timeout)

    with tempfile.TemporaryDirectory() as root, transformers_serve(Path(root) / "server.log") as url:

        def start(url: str, name: str) -> "subprocess.Popen[bytes]":
            words = ["--tasks", str(arguments.tasks), "--timeout", str(arguments.timeout), "--work", url, root, name]
            return subprocess.Popen([sys.executable, __file__, *words])

        def replies(name: str) -> int:
            log = Path(root) / name / "replies.jsonl"
            return log.read_bytes().count(b"\n") if log.exists() else 0

        began = time.perf_counter()
        assert start(f"{url}/v1", "clean").wait() == 0
        clean_s = time.perf_counter() - began
        wanted = replies("clean")
        proxy = Proxy(url, arguments.share, slow=1.2 * arguments.timeout)
        began, at_kill = time.perf_counter(), []
        for share in (1 / 3, 2 / 3):
            process = start(proxy.url, "faulty")
            while replies("faulty") < share * wanted and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            at_kill.append(replies("faulty"))
        assert start(proxy.url, "faulty").wait() == 0
        faulty_s = time.perf_counter() - began
        again = proxy.delivered.total()
        assert start(proxy.url, "faulty").wait() == 0  # everything is in the log
        again = proxy.delivered.total() - again

        clean, faulty = (Run.open(name, root) for name in ("clean", "faulty"))
        a, b = (run.read_rows("trajectories.jsonl") for run in (clean, faulty))
        logged = Counter(row["key"] for row in faulty.read_rows("replies.jsonl"))
        retries = sum(len(row["failures"]) for row in faulty.read_rows("replies.jsonl"))
        twice = sum(n - 1 for n in proxy.delivered.values())
        figures = {
            "tasks": arguments.tasks,
            "requests": wanted,
            "equal_trajectories": sum(x == y for x, y in zip(a, b, strict=True)),
            "stops": dict(Counter(row["stop"] for row in b)),
            "faults": dict(proxy.injected),
            "retries": retries,
            "kills_after": at_kill,
            "lost": wanted - len(proxy.delivered),
            "answered_twice": twice,  # in flight at a kill
            "answered_in_another_rerun": again,  # 0 unless the server itself fails on a request
            "server_errors": dict(Counter(re.findall(r"^\w*Error: .*", (Path(root) / "server.log").read_text(), re.M))),
            "log_rows": logged.total(),
            "log_keys": len(logged),
            "clean_s": round(clean_s, 1),
            "faulty_s": round(faulty_s, 1),
        }
    for name, value in figures.items():
        print(f"{name:>24} {value}")
    right = (
        a == b
        and wanted == logged.total() == len(logged) == len(proxy.delivered)
        and twice <= 2 * CONCURRENCY
        and again == 0
    )
    print(json.dumps({"name": "endpoint_soak", "ratio": None, "right": right, **figures}))
    sys.exit(not right)


if __name__ == "__main__":
    main()
