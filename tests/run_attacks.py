"""Run folders of attack cases against the sandbox: ``python tests/run_attacks.py FOLDER… [--layers seccomp,landlock]``.

A case is a JSON object: a hostile program or call, and what must not happen. A file holds one, or a list of them:
``id``; ``kind`` code (``code``: the program, or its lines) or call (``raw``: the call's JSON); ``status`` error, ok
(then ``value`` is the result) or any; and what else ``judge`` reads. ``{canary}`` stands for a folder whose
secret.txt must not be read and which must not change, ``@PORT@`` for a port that must not be reached. The rule for
all: an answer within 3 s, no secret in it, nothing changed, nothing left running, and the next calls right. Prints
what failed and, last, ``contained N of M``; exits with 1 unless all are contained.

It starts itself again inside a PID namespace of its own with a memory limit, which needs root or user namespaces
(exits with 2 and runs nothing without); ``--nobody`` then gives up root before anything runs.
"""

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mentorlib.core import Execution
from mentorlib.sandbox.pool import Job, Sandbox
from mentorlib.sandbox.toolbox import Toolbox

SOURCE = """
import json
import math
import re


def add(a: int, b: int) -> int:
    return a + b


def subtract(a: float, b: float) -> float:
    return a - b


def divide(a: float, b: float) -> float:
    return a / b


def power(base: int, exp: int) -> int:
    return base**exp


def factorial(n: int) -> int:
    return math.factorial(n)


def mean(xs: list[float]) -> float:
    return sum(xs) / len(xs)


def sqrt(x: float) -> float:
    return math.sqrt(x)


def repeat(s: str, n: int) -> str:
    return s * n


def echo(s: str) -> str:
    return s


def match(pattern: str, text: str) -> bool:
    return re.match(pattern, text) is not None


def to_json(xs: list[float]) -> str:
    return json.dumps({"xs": xs})


def count_to(n: int) -> int:
    return sum(range(n))
"""
MEMORY = 3e9  # bytes that all processes together may take before all is stopped
NUMBERS = {"type": "array", "items": {"type": "number"}}
TOOLS: dict[str, dict[str, Any]] = {
    "add": {"a": "integer", "b": "integer"},
    "subtract": {"a": "number", "b": "number"},
    "divide": {"a": "number", "b": "number"},
    "power": {"base": "integer", "exp": "integer"},
    "factorial": {"n": "integer"},
    "mean": {"xs": NUMBERS},
    "sqrt": {"x": "number"},
    "repeat": {"s": "string", "n": "integer"},
    "echo": {"s": "string"},
    "match": {"pattern": "string", "text": "string"},
    "to_json": {"xs": NUMBERS},
    "count_to": {"n": "integer"},
}


def toolbox() -> Toolbox:
    """The tools that the call cases assume."""
    schemas = []
    for name, arguments in TOOLS.items():
        properties = {k: {"type": v} if isinstance(v, str) else v for k, v in arguments.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        schemas.append({"type": "function", "function": {"name": name, "description": "", "parameters": parameters}})
    return Toolbox.from_source("attacks", SOURCE, schemas, isolate=False)


class Watch(threading.Thread):
    """Samples every process of the namespace: their number, threads and memory, as the highest seen since reset."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.reset()

    def reset(self) -> None:
        self.processes = self.threads = self.memory = 0

    @staticmethod
    def sample() -> tuple[int, int, int]:
        processes = threads = memory = 0
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                lines = Path(f"/proc/{entry}/status").read_text().splitlines()
            except OSError:
                continue
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if status.get("State", "Z").startswith("Z"):
                continue
            processes += 1
            threads += int(status.get("Threads", "0"))
            memory += int(status.get("VmRSS", "0 kB").split()[0]) * 1024
        return processes, threads, memory

    def run(self) -> None:
        while True:
            processes, threads, memory = self.sample()
            self.processes = max(self.processes, processes)
            self.threads = max(self.threads, threads)
            self.memory = max(self.memory, memory)
            if memory > MEMORY:
                print(f"stopped: {memory / 1e9:.1f} GB of memory in use", flush=True)
                os._exit(1)  # this is the first process of the namespace: all others end with it
            time.sleep(0.03)


class Port:
    """A loopback port, TCP and UDP, and an abstract Unix socket of its name; ``hits`` counts whatever arrives."""

    def __init__(self) -> None:
        self.hits = 0
        tcp, udp, unix = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
        tcp.bind(("127.0.0.1", 0))
        self.number = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", self.number))
        unix.bind(f"\0mentor_canary_{self.number}")
        tcp.listen()
        unix.listen()
        for listener in (tcp, udp, unix):
            threading.Thread(target=self.listen, args=(listener,), daemon=True).start()

    def listen(self, listener: socket.socket) -> None:
        while True:
            listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()
            self.hits += 1


def judge(
    case: dict[str, Any], canary: Path, port: Port, sandbox: Sandbox, tools: Toolbox, watch: Watch
) -> tuple[list[str], Execution]:
    """Run one case and say what it broke."""
    broken: list[str] = []
    hits, before = port.hits, watch.sample()[0]
    watch.reset()
    text = case.get("code") or case.get("raw") or ""
    text = ("\n".join(text) if isinstance(text, list) else text).replace("{canary}", str(canary))
    text = text.replace("@PORT@", str(port.number))
    start = time.monotonic()
    execution = sandbox.run(Job(text)) if case["kind"] == "code" else tools.call(text, sandbox)
    seconds = time.monotonic() - start

    if seconds > (0.9 if case.get("ok_fast") else 3.0):
        broken.append(f"took {seconds:.2f} s")
    if execution.fault == "sandbox":
        broken.append(f"counted as an infrastructure failure: {execution.error}")
    if case["status"] == "error" and execution.error is None:
        broken.append(f"was accepted: {execution.value!r:.80}")
    if case["status"] == "ok":
        value = case["value"].replace("{canary}", str(canary)) if isinstance(case["value"], str) else case["value"]
        if execution.error is not None or execution.value != value:
            broken.append(f"gave {execution.error or execution.value!r:.80}")
    try:
        reply = json.dumps([execution.value, execution.stdout, execution.error], allow_nan=False) + execution.text
        reply.encode()
    except ValueError as e:
        broken.append(f"the reply is not JSON: {e}")
        reply = ""
    if len(reply) > case.get("max_out", 2_000_000):
        broken.append(f"the reply is {len(reply)} long")
    if execution.error is not None and len(execution.error.splitlines()) != 1:
        broken.append("the error is not one line")
    for secret in ["CANARY-FILE-", "CANARY-ENV-", *case.get("forbid", [])]:
        if secret in reply:
            broken.append(f"leaked {secret}")
    for name, arguments, value in [
        *case.get("follow", []),
        ["add", {"a": 2, "b": 3}, 5],
        ["add", {"a": 20, "b": 3}, 23],
    ]:
        after = tools.call(json.dumps({"name": name, "arguments": arguments}), sandbox)
        expected = value if value is not None else json.dumps(arguments) if name == "to_json" else None
        if after.error is not None or (expected is not None and after.value != expected):
            broken.append(f"{name} afterwards gave {after.error or after.value!r:.80}")
    if port.hits != hits:
        broken.append("reached the port")
    try:
        touched = (canary / "precious.txt").read_text() != "precious" or list(canary.glob("pwned*"))
    except OSError:
        touched = True
    if touched:
        broken.append("touched files")
    if watch.processes - before > case.get("max_procs", 20) or watch.threads - before > case.get("max_threads", 100):
        broken.append(f"{watch.processes} processes, {watch.threads} threads")
    if watch.memory > 1.5e9:
        broken.append(f"took {watch.memory / 1e9:.1f} GB")
    return broken, execution


def inside(options: argparse.Namespace) -> int:
    """Run all cases: the part that runs in the new namespace."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # of this process, and of whatever escapes
    os.environ["MENTOR_SECRET"] = f"CANARY-ENV-{os.urandom(8).hex()}"
    cases = []
    for file in [file for folder in options.folder for file in sorted(folder.glob("*.json"))]:
        loaded = json.loads(file.read_text())
        cases += loaded if isinstance(loaded, list) else [loaded]
    cases.sort(key=lambda case: "late" not in case)  # what could come late has the time of all others to do so
    tools, port, watch = toolbox(), Port(), Watch()
    watch.start()
    broken_by_case: dict[str, list[str]] = {}
    late: list[tuple[str, Path]] = []
    last_late = time.monotonic()
    layers = options.layers.split(",") if options.layers else None
    with tempfile.TemporaryDirectory() as folder, Sandbox(2, options.limit, layers=layers) as sandbox:
        print(f"layers: {', '.join(sandbox.layers)}; user {os.getuid()}")
        for case in cases:
            canary = Path(folder) / case["id"]
            canary.mkdir()
            canary.chmod(0o777)
            (canary / "secret.txt").write_text(f"CANARY-FILE-{os.urandom(8).hex()}")
            (canary / "precious.txt").write_text("precious")
            broken_by_case[case["id"]], execution = judge(case, canary, port, sandbox, tools, watch)
            if options.verbose:
                print(f"{case['id']}: {execution.text[:110]!r} {execution.seconds:.3f} s")
            # Idle workers may stay: up to two of each kind, which bubblewrap starts as three processes each.
            allowed = 4 * (3 if "bubblewrap" in sandbox.layers else 1)
            deadline = time.monotonic() + 1
            while watch.sample()[0] > allowed and time.monotonic() < deadline:
                time.sleep(0.02)
            if watch.sample()[0] > allowed:
                broken_by_case[case["id"]].append("left a process behind")
            if "late" in case:
                late.append((case["id"], canary / case["late"]))
                last_late = time.monotonic()
        if late:
            time.sleep(max(0.0, last_late + 4 - time.monotonic()))
        for name, path in late:
            if path.exists():
                broken_by_case[name].append(f"{path.name} appeared later")
        sandbox.close()
        deadline = time.monotonic() + 2  # bubblewrap's inner processes die a moment after it
        while watch.sample()[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        if watch.sample()[0]:
            print("processes are left after the sandbox was closed")
    for name, broken in broken_by_case.items():
        if broken:
            print(f"{name}: {'; '.join(broken)}")
    contained = sum(not broken for broken in broken_by_case.values())
    print(f"contained {contained} of {len(cases)}")
    return 0 if cases and contained == len(cases) else 1


def main() -> int:
    """Start again in a PID namespace, then run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--layers", help="comma-separated: require just these (seccomp is always on)")
    parser.add_argument("--nobody", action="store_true", help="run as an unprivileged user (needs root to become it)")
    parser.add_argument("--limit", type=float, default=1.0, help="seconds that a case may take (default: 1)")
    parser.add_argument("--verbose", action="store_true", help="print every case's answer")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return inside(options)
    unshare = shutil.which("unshare")
    if not unshare:
        print("run_attacks: `unshare` is missing (apt install util-linux)", file=sys.stderr)
        return 2
    command = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.getuid() != 0:
        command.insert(1, "--map-root-user")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        print(f"run_attacks: this machine gives no PID namespace: {tried.stderr.strip()}", file=sys.stderr)
        return 2
    if options.nobody:
        command += ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    return subprocess.run([*command, sys.executable, *sys.argv, "--inside"]).returncode


if __name__ == "__main__":
    sys.exit(main())
