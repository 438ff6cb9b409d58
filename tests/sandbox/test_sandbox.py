"""The sandbox: inputs and results, containment, recovery, and whose fault a failure is."""

import contextlib
import errno
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mentorlib.core import Execution, InputError
from mentorlib.data.suites import SUITES, generate
from mentorlib.data.tools import calculator, lists, text, units
from mentorlib.sandbox import confinement, layers, pool, process, worker
from mentorlib.sandbox.doctor import self_test
from mentorlib.sandbox.layers import REMEDIES, available_layers
from mentorlib.sandbox.pool import Job, Sandbox
from mentorlib.sandbox.toolbox import call_many

ROOT = Path(__file__).resolve().parents[2]
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

def poison_the_worker():
    import sys
    sys.modules["__main__"].execute = lambda *a: b'{"value": 42, "stdout": "", "error": null}'
    return 1

def say_more():
    import os
    for fd in range(3, 9):
        try:
            os.write(fd, bytes(20))
        except OSError:
            pass
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
    timed_out = [run("loop") for _ in range(3)]
    assert {(t.error, t.fault) for t in timed_out} == {("timed out after 1 s", "model")}
    assert min(t.seconds for t in timed_out) < 2  # by the clock, of which the other test process has a part
    assert run("fill").error == "MemoryError" and run("add", a=2, b=3).value == 5
    assert "exit" in run("leave", status=3).error or "status 3" in run("leave", status=3).error
    assert run("leave", status=0).fault == "model"
    if "bubblewrap" not in sandbox.layers:  # which passes on a process killed by us as one that left with 137
        assert run("leave", status=137).fault == "model"
    assert "not permitted" in run("fork").error
    assert run("poison").value == 1
    assert run("poison_the_worker").fault is None or not isolate
    assert run("say_more").fault == "model"
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
def test_results_and_code_that_are_refused(sandbox: Sandbox, code: str, says: str) -> None:
    got = sandbox.run(Job(code))
    assert got.value is None and got.fault == "model" and says in str(got.error), got
    assert len(str(got.error).splitlines()) == 1


def test_output_is_kept_and_capped(sandbox: Sandbox) -> None:
    got = sandbox.run(Job("import sys\nprint('out')\nprint('err', file=sys.stderr)\nresult = 1"))
    assert got.stdout == "out\nerr\n"
    assert len(sandbox.run(Job("print('x' * 10**6)\nresult = 1")).stdout) == 10_000
    assert sandbox.run(Job("print('kept')\n1 / 0")).stdout == "kept\n"


@pytest.mark.parametrize("chosen", REMEDIES)
def test_each_layer_confines(chosen: str) -> None:
    if not available_layers()[chosen]:
        pytest.skip(f"no {chosen}: {REMEDIES[chosen]}")
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


def test_every_other_system_call_is_refused(sandbox: Sandbox) -> None:
    column = confinement.MACHINES[platform.machine()][1]
    allowed = {n[column] for n in [*confinement.ALWAYS_ALLOWED.values(), *confinement.FILE_CALLS.values()]}
    answers = {n[column]: code for n, code in (
        (confinement.OPENAT, errno.EACCES if {"landlock", "bubblewrap"} & set(sandbox.layers) else errno.EPERM),
        (confinement.IOCTL, errno.ENOTTY), (confinement.CLONE3, errno.ENOSYS))}  # fmt: skip
    code = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        result = {{}}
        for n in set(range(600)) - {allowed} - {{335, 336}}:  # uretprobe and uprobe pass by every filter: SIGILL
            for number in (n, n | 0x40000000):  # the second: x32, the same calls by another name
                assert libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6) == -1
                if ctypes.get_errno() != {errno.EPERM}:
                    result[number] = ctypes.get_errno()
    """
    got = sandbox.run(Job(textwrap.dedent(code)))
    assert got.error is None and got.value == {str(n): e for n, e in answers.items() if e != errno.EPERM}


@pytest.mark.skipif(os.getuid() != 0 or (os.cpu_count() or 1) < 2, reason="it takes a core from others, as root may")
@pytest.mark.parametrize("isolate", [False, True])
def test_one_long_wait_for_a_core_is_not_the_calls_time(isolate: bool) -> None:
    """Linux counts a wait when it is over: a process with real-time priority has the core for 0.95 of each second."""
    source = "import time\ndef work():\n  return sum(range(200_000))\ndef sleep():\n  time.sleep(60)\n"
    mine, core = sorted(os.sched_getaffinity(0))[:2]
    with Sandbox(workers=1, time_limit=0.3, layers=[]) as box, contextlib.ExitStack() as others:
        assert box.run(Job(source, "work", isolate=isolate)).fault is None
        (worker,) = box.processes
        others.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(worker.pid, {core})
        os.sched_setaffinity(0, {mine})
        for _ in range(3):  # they begin anew for each, so that it finds the core taken
            burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            os.sched_setaffinity(burner.pid, {core})
            os.sched_setscheduler(burner.pid, os.SCHED_FIFO, os.sched_param(1))
            time.sleep(0.1)
            try:
                got = box.run(Job(source, "work", isolate=isolate))
            finally:
                burner.kill()
                burner.wait()
            assert got.fault is None, got
        assert box.run(Job(source, "sleep", isolate=isolate)).fault == "model"


@pytest.mark.parametrize("isolate", [False, True])
def test_waiting_for_a_core_is_not_the_calls_time(isolate: bool) -> None:
    source = (
        "import time\n"
        "def work():\n  end = time.process_time() + 0.5\n  while time.process_time() < end: pass\n  return 1\n"
        "def loop():\n  while True: pass\ndef sleep():\n  time.sleep(60)\n"
    )
    core = min(os.sched_getaffinity(0))
    with Sandbox(workers=1, time_limit=0.7, layers=[]) as box, contextlib.ExitStack() as others:
        assert box.run(Job(source, "work", isolate=isolate)).value == 1
        (worker,) = box.processes
        assert worker.schedule >= 0, "this kernel keeps no /proc/PID/schedstat: a call's time is the clock's"
        os.sched_setaffinity(worker.pid, {core})
        for _ in range(3):
            burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            others.callback(burner.wait)
            others.callback(burner.kill)
            os.sched_setaffinity(burner.pid, {core})
        honest = box.run(Job(source, "work", isolate=isolate))
        assert honest.value == 1 and honest.seconds > 0.7  # by the clock it was over its limit
        slept = box.run(Job(source, "sleep", isolate=isolate))
        assert slept.fault == "model" and slept.seconds < 5
        assert box.run(Job("def one(): return 1", "one", isolate=isolate)).value == 1
        (worker,) = box.processes  # the sleep may have cost the one above
        os.sched_setaffinity(worker.pid, {core})
        assert box.run(Job(source, "loop", isolate=isolate)).error == "timed out after 0.7 s"


def test_no_core_for_long_is_an_infrastructure_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        process.WorkerProcess, "cpu_times", lambda self: (0.0, 2 * time.monotonic())
    )  # as if it never ran
    monkeypatch.setattr(process, "PATIENCE", 2)
    with Sandbox(workers=1, time_limit=0.2) as box:
        for isolate in (False, True):
            got = box.run(Job(TOOLS, "loop", isolate=isolate))
            assert got.fault == "sandbox" and got.error == "the sandbox failed: this machine is too busy"
            assert box.run(Job(TOOLS, "add", {"a": 1, "b": 2}, isolate)).value == 3


def test_closing_ends_running_jobs_as_infrastructure_failures() -> None:
    box = Sandbox(workers=1, time_limit=60)
    got: list[Execution] = []
    jobs = [Job(TOOLS, "loop"), Job("while True: pass"), Job(TOOLS, "add", {"a": 1, "b": 2})]
    thread = threading.Thread(target=lambda: got.extend(box.run_many(jobs)))
    thread.start()
    while sum(worker.calls for worker in list(box.processes)) < 2:
        time.sleep(0.01)
    box.close()
    thread.join(20)
    assert [execution.fault for execution in got] == ["sandbox"] * 3
    assert not box.processes


MUTANTS = [  # layer, what its worker forgets to do
    ("seccomp", "    apply_seccomp(program)\n", ""),
    ("seccomp", "0x00050000 | errno_", "0x7FFF0000"),
    ("landlock", "check(LIBC.syscall(446, ruleset, 0)", "check(0"),
    ("memory", '("AS", memory), ', ""),
    ("seccomp", "prctl(38, 1, 0", "prctl(39, 0, 0"),  # no_new_privs: the kernel then takes no filter
    ("capabilities", "CAPSET[column], struct", "ALWAYS_ALLOWED['getpid'][column], struct"),
]


@pytest.mark.parametrize(("layer", "done", "forgotten"), MUTANTS)
def test_the_self_test_finds_a_layer_that_does_not_hold(
    layer: str, done: str, forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not available_layers().get(layer, True) or (layer == "capabilities" and os.getuid() != 0):
        pytest.skip(f"no {layer} on this machine")
    source = Path(layers.CONFINEMENT).read_text()
    assert source.count(done) == 1
    for file in (layers.WORKER, layers.VALUES):
        shutil.copy(file, tmp_path)
    (tmp_path / "confinement.py").write_text(source.replace(done, forgotten))
    assert {verdict for _, verdict, _ in self_test()} <= {"pass", "missing"}
    for name in ("worker", "confinement", "values"):
        monkeypatch.setattr(layers, name.upper(), str(tmp_path / f"{name}.py"))
    assert (layer, "FAIL") in [(name, verdict) for name, verdict, _ in self_test()]


def test_on_other_systems_the_error_gives_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, subprocess, ctypes, json, tempfile, sysconfig, concurrent.futures\n"
        "sys.platform = 'win32'\nsys.modules['resource'] = None\n"  # what Windows lacks
        "from mentorlib.sandbox.doctor import self_test\nfrom mentorlib.sandbox.pool import Sandbox\n"
        "print(self_test())\nSandbox()"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "('sandbox', 'FAIL', 'no tool can run here: it needs Linux" in out.stdout
    assert "InputError: the sandbox needs Linux: use a Linux machine, or a container" in out.stderr


def test_a_layer_that_is_missing_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "available_layers", lambda: {"seccomp": True, "landlock": False, "bubblewrap": False})
    with pytest.raises(InputError, match="lacks the layer bubblewrap: install bubblewrap"):
        Sandbox(layers=["bubblewrap"])
    assert Sandbox().layers == ["seccomp"]
    monkeypatch.setattr(pool, "available_layers", lambda: dict.fromkeys(REMEDIES, False))
    with pytest.raises(InputError, match="lacks the layer seccomp"):
        Sandbox()
    with pytest.raises(InputError, match="unknown layer 'gvisor'"):
        Sandbox(layers=["gvisor"])


def test_a_batch_keeps_its_order_and_survives_bad_calls(sandbox: Sandbox) -> None:
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


def test_an_infrastructure_failure_is_retried_and_told_from_the_models() -> None:
    with Sandbox(workers=1, time_limit=3) as box:

        def kill_soon(times: int) -> None:
            killed: set[int] = set()
            while len(killed) < times:
                for worker in list(box.processes):
                    if worker.ready and worker.calls and worker.process.pid not in killed:
                        killed.add(worker.process.pid)
                        time.sleep(0.05)
                        os.kill(worker.process.pid, signal.SIGKILL)
                time.sleep(0.01)

        for times, fault in ((1, None), (2, "sandbox")):
            for worker in list(box.processes):
                worker.calls = 0
            killer = threading.Thread(target=kill_soon, args=(times,))
            killer.start()
            got = box.run(Job("import time\ndef f():\n    time.sleep(0.5)\n    return 1", "f"))
            killer.join()
            assert got.fault == fault and got.value == (1 if fault is None else None)


def test_nothing_of_the_caller_is_in_a_worker_and_no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENTOR_SECRET", "CANARY")
    before = len(os.listdir("/proc/self/fd"))
    with Sandbox() as box:
        seen = box.run(Job("import os, sys\nresult = [dict(os.environ), sys.argv[0], os.getcwd()]")).value
        assert "CANARY" not in json.dumps(seen) and seen[2] == "/"
        box.run_many([Job(TOOLS, "add", {"a": 1, "b": 2})] * 10)
        pids = [worker.process.pid for worker in box.processes]
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(InputError, match="closed"):
        box.run(Job("result = 1"))


def test_workers_die_with_their_caller(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\nfrom mentorlib.sandbox.pool import Job, Sandbox\nbox = Sandbox(time_limit=60)\n"
        "t = threading.Thread(target=box.run, args=(Job('result = 1'),)); t.start(); t.join()\n"  # its thread ends
        "assert box.run(Job('result = 1')).value == 1\n"
        "job = Job('def f():\\n  while True: pass', 'f')\n"
        "threading.Thread(target=box.run, args=(job,), daemon=True).start()\n"
        "import time; time.sleep(0.5)\n"
        "print(*(w.process.pid for w in box.processes), flush=True)\nos.kill(os.getpid(), 9)\n"
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
    monkeypatch.setattr(process, "RECYCLE", 10)
    with Sandbox(workers=1) as box:
        pids = set()
        for _ in range(25):
            assert box.run(Job(TOOLS, "add", {"a": 1, "b": 2})).value == 3
            pids |= {worker.process.pid for worker in box.processes}
    assert len(pids) == 3  # 10 calls, 10 calls, 5 calls


# --- the same inside and outside -----------------------------------------------------------------------------------


def _draw_value(rng: random.Random, schema: dict[str, Any]) -> Any:
    """A value that fits the schema, small and large, whole and not."""
    if schema["type"] == "array":
        return [_draw_value(rng, schema["items"]) for _ in range(rng.randint(0, 6))]
    if schema["type"] == "string":
        return "".join(rng.choice('abc xyz É\U0001f600\n"\\0') for _ in range(rng.randint(0, 20)))
    whole = [
        lambda: rng.randint(-12, 12),
        lambda: rng.randint(-(10**6), 10**6),
        lambda: rng.randint(-(10**40), 10**40),
        lambda: rng.choice((0, 1, -1, 2**53 + 1, 2**63)),
    ]
    broken = [
        lambda: rng.uniform(-100, 100),
        lambda: round(rng.uniform(-1000, 1000), rng.randint(0, 3)) + 0.005,  # where rounding is hard
        lambda: rng.uniform(-1, 1) * 10.0 ** rng.randint(-300, 300),
        lambda: rng.choice((0.0, -0.0, 0.1, 0.5, 2.5, 2.675, 1e16, 5e-324)),
    ]
    return rng.choice(whole if schema["type"] == "integer" or rng.random() < 0.5 else broken)()


def _outside(function: Any, arguments: dict[str, Any]) -> Any:
    """The result in this process by the sandbox's rules, or the kind of error."""
    try:
        value = function(**arguments)
    except Exception as e:
        return type(e).__name__
    if isinstance(value, complex):
        return "ValueError"  # the root of a negative number is not JSON
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return "ValueError"
    return value if len(text) <= worker.MAX_VALUE else "ValueError"


def test_twenty_thousand_calls_give_the_same_inside_and_outside() -> None:
    rng = random.Random(0)
    pairs = [pair for name in SUITES if name != "renamed" for pair in generate(name, 40)]
    boxes = list({tuple(t.toolbox.names): t.toolbox for t, _ in pairs}.values())
    functions = {f.__name__: f for home in (calculator, lists, text, units) for f in home.TOOLS}
    assert {name for box in boxes for name in box.names} == {*functions, "search"}
    spaces: list[dict[str, Any]] = [{"__name__": "tool"} for _ in boxes]
    for box, space in zip(boxes, spaces, strict=True):
        exec(box.source, space)  # trusted source; search has its documents there
    calls, expected = [], []
    while len(calls) < 20_000:
        number = rng.randrange(len(boxes))
        box = boxes[number]
        schema = rng.choice(box.schemas)["function"]
        arguments = {k: _draw_value(rng, v) for k, v in schema["parameters"]["properties"].items()}
        if schema["name"] == "power":  # else most of them only time out
            arguments["b"] = rng.choice((0, 1, 2, 3, 7, 60, -1, -2, 0.5, 1.5, -0.5, 400))
        if schema["name"] == "round_number":
            arguments["digits"] = rng.randint(-4, 8)
        if schema["name"] == "repeat_text":
            arguments["times"] = rng.choice((-1, 0, 1, 3, 100, 20_000))
        calls.append((box, json.dumps({"name": schema["name"], "arguments": arguments})))
        function = functions.get(schema["name"]) or spaces[number][schema["name"]]
        expected.append(_outside(function, json.loads(calls[-1][1])["arguments"]))
    with Sandbox(time_limit=5) as sandbox:
        got = call_many(calls, sandbox)
    failed = 0
    for (_, raw), execution, value in zip(calls, got, expected, strict=True):
        if execution.error is not None:
            failed += 1
            assert execution.error.split(":")[0] == value, (raw, execution, value)
        else:
            assert repr(execution.value) == repr(value), raw  # repr: types, -0.0 and every digit
    assert 100 < failed < 5_000  # enough of both were tried


# --- hostile jobs among honest ones, and the attacks ----------------------------------------------------------------


def test_a_short_soak() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "sandbox_soak.py"), "--calls", "4000"]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    assert json.loads(out.stdout.splitlines()[-1])["wrong"] == 0


FOLDERS = [folder for folder in (ROOT / "tests" / "attacks", CASES) if folder.exists()]


def _attacks(*options: str, python: str = sys.executable) -> None:
    """Run all cases in a PID namespace with a memory limit. Where the machine gives none, warns and skips."""
    command = [python, str(ROOT / "tests" / "run_attacks.py"), *map(str, FOLDERS), *options]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode == 2:
        warnings.warn(f"the attacks were NOT run: {out.stderr.strip()}", stacklevel=2)
        pytest.skip(out.stderr.strip())
    files = [json.loads(file.read_text()) for folder in FOLDERS for file in folder.glob("*.json")]
    total = sum(len(file) if isinstance(file, list) else 1 for file in files)
    assert out.stdout.splitlines()[-1:] == [f"contained {total} of {total}"], out.stdout + out.stderr


@pytest.mark.slow
def test_every_attack_is_contained() -> None:
    _attacks("--limit", "0.5")  # longer than any attack takes that ends by itself; what loops costs all of it


@pytest.mark.slow
@pytest.mark.parametrize("chosen", REMEDIES)
def test_every_attack_is_contained_by_each_layer(chosen: str) -> None:
    if not available_layers()[chosen]:
        warnings.warn(f"the attacks were NOT run with {chosen}: {REMEDIES[chosen]}", stacklevel=1)
        pytest.skip(f"no {chosen}: {REMEDIES[chosen]}")
    _attacks("--layers", chosen, "--limit", "0.3")


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="the tests run as an unprivileged user anyway")
def test_every_attack_is_contained_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    # An interpreter that others than root may run. Besides the standard library, the caller's side needs jsonschema.
    monkeypatch.setenv("PYTHONPATH", str(Path(jsonschema.__file__).parents[1]))
    check = "import jsonschema, sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
        tried = subprocess.run([*as_nobody, f"{python} -c '{check}'"])
        if tried.returncode == 0:
            return _attacks("--nobody", "--limit", "0.3", python=python)
    warnings.warn("the attacks were NOT run without root: no Python that nobody may run", stacklevel=1)
    pytest.skip("no Python that nobody may run")
