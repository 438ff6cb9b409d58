"""The sandbox: what goes in and comes out, what is contained, what survives, and whose fault it was."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mentorlib import sandbox as module
from mentorlib.core import InputError
from mentorlib.sandbox import Job, Sandbox, layers

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT.parent / "shared" / "attacks" / "cases"
TOOLS = """
import json
import math
count = 0

def add(a, b):
    return a + b

def counted():
    global count
    count += 1
    return count

def loop():
    while True:
        pass

def fill():
    return "x" * 10**10

def leave(status):
    import os
    os._exit(status)

def poison():
    import builtins
    builtins.sum = lambda *a: 42
    math.sqrt = lambda x: 42
    json.JSONEncoder.encode = lambda *a: "42"
    return 1

def honest():
    return [sum([1, 2]), math.sqrt(9), json.dumps([1])]

def fork():
    import os
    return os.fork()
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


@pytest.mark.parametrize("isolate", [False, True])
def test_a_function_and_its_failures(sandbox: Sandbox, isolate: bool) -> None:
    def run(name: str, **arguments: object):  # type: ignore[no-untyped-def]
        return sandbox.run(Job(TOOLS, name, arguments, isolate))

    assert run("add", a=1, b=2.5).value == 3.5
    assert [run("counted").value for _ in range(3)] == [1, 1, 1]  # the source is loaded afresh
    assert run("add", a=1).error.startswith("TypeError: add() missing 1 required positional argument")
    assert run("nothing").error == "NameError: the source defines no function 'nothing'"
    timed_out = run("loop")
    assert timed_out.error == "timed out after 1 s" and timed_out.fault == "model" and timed_out.seconds < 2
    assert run("fill").error == "MemoryError" and run("add", a=2, b=3).value == 5
    assert "exit" in run("leave", status=3).error or "status 3" in run("leave", status=3).error
    assert run("leave", status=0).fault == "model"
    assert "not permitted" in run("fork").error
    assert run("poison").value == 1
    assert all(run("honest").value == [3, 3.0, "[1]"] for _ in range(4))
    assert sandbox.run(Job("def f(:", "f", isolate=isolate)).error.startswith("SyntaxError")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("result = 0", 0),
        ("result = False", False),
        ("result = []", []),
        ("result = None", None),
        ("result = ''", ""),
        ("result = {'a': (1, 2.5, None), 2: True}", {"a": [1, 2.5, None], "2": True}),
        ("result = 10**4299", 10**4299),
        ("result = -0.0", 0.0),
        ("import enum\nclass E(enum.IntEnum):\n    a = 3\nresult = E.a", 3),
        ("if __name__ == '__main__':\n    result = 'é\\u2028'", "é\u2028"),
    ],
)
def test_results(sandbox: Sandbox, code: str, value: object) -> None:
    got = sandbox.run(Job(code))
    assert got.error is None and got.value == value and type(got.value) is type(value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1", "did not set `result`"),
        ("result = float('nan')", "nan, which is not a finite number"),
        ("result = [1e999]", "inf"),
        ("result = 10**5000", "more than 4300 digits"),
        ("result = {1, 2}", "of type set"),
        ("result = {(1, 2): 3}", "key of type tuple"),
        ("result = 'x' * 200_000", "too large"),
        ("result = []\nresult.append(result)", "nested deeper"),
        ("result = '\\ud800'", "surrogates not allowed"),
        ("\n\nraise ValueError('a\\nb')", "ValueError: a b (line 3)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("import os\nos.kill(os.getppid(), 9)", "not permitted"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("import os\nos.write(3, b'1234')\nresult = 1", "broke the channel"),
        ("import os\nb = b'{\"value\": NaN, \"error\": null, \"stdout\": \"\"}'\n"
         "os.write(3, len(b).to_bytes(4, 'little') + b)\nos._exit(0)", "cannot be read"),
        ("import os\nb = b'[' * 100_000\nos.write(3, len(b).to_bytes(4, 'little') + b)\nos._exit(0)", "cannot be read"),
        ("import os\nwhile True:\n    os.write(3, bytes(10_000))", "flooded"),
    ],
)  # fmt: skip
def test_what_does_not_pass(sandbox: Sandbox, code: str, says: str) -> None:
    got = sandbox.run(Job(code))
    assert got.value is None and got.fault == "model" and says in str(got.error), got
    assert len(str(got.error).splitlines()) == 1


def test_output_is_kept_and_capped(sandbox: Sandbox) -> None:
    got = sandbox.run(Job("import sys\nprint('out')\nprint('err', file=sys.stderr)\nresult = 1"))
    assert got.stdout == "out\nerr\n"
    assert len(sandbox.run(Job("print('x' * 10**6)\nresult = 1")).stdout) == 10_000
    assert sandbox.run(Job("print('kept')\n1 / 0")).stdout == "kept\n"


@pytest.mark.parametrize("chosen", [name for name, there in layers().items() if there])
def test_each_layer_confines(chosen: str) -> None:
    attempts = [
        "open('/etc/passwd')",
        "open('/dev/null', 'w')",
        "import os\nos.fork()",
        "import os\nos.execv('/bin/true', ['true'])",
        "import _socket\n_socket.socket()",
        "import os\nos.kill(os.getpid(), 0)",
        "import os\nos.chmod('/tmp', 0o777)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    ]
    with Sandbox(layers=[chosen]) as box:
        assert chosen in box.layers and "seccomp" in box.layers
        for code in attempts:
            for job in (
                Job(code + "\nresult = 1"),
                Job(f"def f():\n    {code.replace(chr(10), chr(10) + '    ')}", "f"),
            ):
                got = box.run(job)
                # with seccomp alone no extension module can be loaded either
                assert got.error and any(
                    e in got.error for e in ("Error: [Errno", "ModuleNotFound", "raise maximum")
                ), got


def test_a_layer_that_is_missing_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_available", lambda: {"seccomp": True, "landlock": False, "bubblewrap": False})
    with pytest.raises(InputError, match="lacks the layer bubblewrap: install bubblewrap"):
        Sandbox(layers=["bubblewrap"])
    assert Sandbox().layers == ["seccomp"]
    monkeypatch.setattr(module, "_available", lambda: dict.fromkeys(module.HINTS, False))
    with pytest.raises(InputError, match="lacks the layer seccomp"):
        Sandbox()
    with pytest.raises(InputError, match="unknown layer 'gvisor'"):
        Sandbox(layers=["gvisor"])


def test_a_batch_keeps_its_order_and_goes_on_around_bad_calls(sandbox: Sandbox) -> None:
    jobs = [Job(TOOLS, "add", {"a": i, "b": 1}, isolate=i % 7 == 0) for i in range(200)]
    jobs[10], jobs[11], jobs[150] = Job(TOOLS, "loop"), Job("while True: pass"), Job(TOOLS, "leave", {"status": 1})
    got = sandbox.run_many(jobs)
    assert [e.value for i, e in enumerate(got) if i not in (10, 11, 150)] == [
        i + 1 for i in range(200) if i not in (10, 11, 150)
    ]
    assert got[10].fault == got[11].fault == got[150].fault == "model"
    assert sandbox.run_many([]) == []


def test_many_threads_share_it(sandbox: Sandbox) -> None:
    wrong: list[object] = []

    def ask(n: int) -> None:
        for i in range(40):
            got = sandbox.run(Job(TOOLS, "add", {"a": n, "b": i}, isolate=i % 20 == 0))
            if got.value != n + i:
                wrong.append(got)

    threads = [threading.Thread(target=ask, args=(n * 1000,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_failure_of_ours_is_tried_again_and_told_apart() -> None:
    with Sandbox(workers=1, time_limit=3) as box:

        def kill_soon(times: int) -> None:
            killed: set[int] = set()
            while len(killed) < times:
                for worker in list(box._all):
                    if worker.ready and worker.calls and worker.process.pid not in killed:
                        killed.add(worker.process.pid)
                        time.sleep(0.05)
                        os.kill(worker.process.pid, signal.SIGKILL)
                time.sleep(0.01)

        for times, fault in ((1, None), (2, "sandbox")):
            for worker in list(box._all):
                worker.calls = 0
            killer = threading.Thread(target=kill_soon, args=(times,))
            killer.start()
            got = box.run(Job("import time\ndef f():\n    time.sleep(0.5)\n    return 1", "f"))
            killer.join()
            assert got.fault == fault and got.value == (1 if fault is None else None)


def test_nothing_of_ours_is_in_it_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOR_SECRET", "CANARY")
    before = len(os.listdir("/proc/self/fd"))
    with Sandbox() as box:
        seen = box.run(Job("import os, sys\nresult = [dict(os.environ), sys.argv[0], os.getcwd()]")).value
        assert "CANARY" not in json.dumps(seen) and seen[2] == "/"
        box.run_many([Job(TOOLS, "add", {"a": 1, "b": 2})] * 10)
        pids = [worker.process.pid for worker in box._all]
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(RuntimeError, match="closed"):
        box.run(Job("result = 1"))


def test_workers_die_with_their_caller(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\nfrom mentorlib.sandbox import Job, Sandbox\nbox = Sandbox(time_limit=60)\n"
        "t = threading.Thread(target=box.run, args=(Job('result = 1'),)); t.start(); t.join()\n"  # its thread ends
        "assert box.run(Job('result = 1')).value == 1\n"
        "job = Job('def f():\\n  while True: pass', 'f')\n"
        "threading.Thread(target=box.run, args=(job,), daemon=True).start()\n"
        "import time; time.sleep(0.5)\n"
        "print(*(w.process.pid for w in box._all), flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    pids = [int(pid) for pid in out.stdout.split()]
    assert len(pids) == 2, out.stderr
    deadline = time.monotonic() + 3
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_workers_are_recycled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECYCLE", 10)
    with Sandbox(workers=1) as box:
        pids = set()
        for _ in range(25):
            assert box.run(Job(TOOLS, "add", {"a": 1, "b": 2})).value == 3
            pids |= {worker.process.pid for worker in box._all}
    assert len(pids) == 3  # 10 calls, 10 calls, 5 calls


def _attacks(*options: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "run_attacks.py"), str(CASES), *options]
    out = subprocess.run(command, capture_output=True, text=True)
    total = len(list(CASES.glob("*.json")))
    assert out.stdout.splitlines()[-1:] == [f"contained {total} of {total}"], out.stdout + out.stderr


needs_root = pytest.mark.skipif(os.getuid() != 0 or not CASES.exists(), reason="needs root and ../shared/attacks")


@needs_root
def test_every_attack_is_contained() -> None:
    _attacks()


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("chosen", [name for name, there in layers().items() if there])
def test_every_attack_is_contained_by_each_layer(chosen: str) -> None:
    _attacks("--layers", chosen)
