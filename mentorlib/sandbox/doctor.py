"""Tries each layer of confinement on this machine: python -m mentorlib doctor."""

import sys
import tempfile
from pathlib import Path

from ..core import InputError
from . import worker
from .layers import REMEDIES, available_layers
from .pool import Job, Sandbox

_SETUP = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)

def tried(act):
    try:
        done = act()
        return errno.errorcode[ctypes.get_errno()] if done == -1 else "done"
    except OSError as e:
        return errno.errorcode[e.errno]

def fork():
    return os.fork() or os._exit(0)

"""
_PROBES: dict[str, tuple[str, dict[str, str], str]] = {  # by layer: code, its right result, what that shows
    "seccomp": (
        "{'fork': tried(fork), 'socket': tried(lambda: libc.socket(1, 1, 0)), 'kill': tried(lambda: os.kill(1, 0)),"
        " 'open': tried(lambda: os.open('/', 0)), 'prctl': tried(lambda: libc.prctl(3, 0, 0, 0, 0))}",
        dict.fromkeys(("fork", "socket", "kill", "open", "prctl"), "EPERM"),
        "no process, socket, signal or file",
    ),
    "landlock": (
        "{\"the caller's file\": tried(lambda: os.open(FILE, 0)), 'the root folder': tried(lambda: os.open('/', 0)),"
        ' "Python\'s library": tried(lambda: os.open(os.__file__, 0))}',
        {"the caller's file": "EACCES", "the root folder": "EACCES", "Python's library": "done"},
        "no file but Python's library",
    ),
    "bubblewrap": (
        "{\"the caller's file\": tried(lambda: os.open(FILE, 0)), '/proc': tried(lambda: os.open('/proc', 0)),"
        ' "Python\'s library": tried(lambda: os.open(os.__file__, 0))}',
        {"the caller's file": "ENOENT", "/proc": "ENOENT", "Python's library": "done"},
        "no other file or process exists",
    ),
}


def self_test() -> list[tuple[str, str, str]]:
    """Try what each layer must deny: rows of (layer, ``pass``, ``FAIL`` or ``missing``, explanation).

    The resource limits are among them. Seccomp and the limits are required; landlock and bubblewrap may be missing.
    """
    if sys.platform != "linux":
        return [("sandbox", "FAIL", "no tool can run here: it needs Linux; use a Linux machine, or a container")]
    report = []
    for layer, available in available_layers().items():
        code, expected, words = _PROBES[layer]
        if not available:
            report.append((layer, "FAIL" if layer == "seccomp" else "missing", REMEDIES[layer]))
            continue
        try:
            with tempfile.NamedTemporaryFile() as file, Sandbox(1, 5.0, layers=[layer]) as box:
                got = box.run(Job(f"{_SETUP}FILE = {file.name!r}\nresult = {code}"))
            wrong = {k: v for k, v in (got.value or {"the probe": got.error}).items() if expected.get(k) != v}
        except InputError as e:
            wrong = {"the start": str(e)}
        report.append((layer, "FAIL" if wrong else "pass", ", ".join(f"{k}: {v}" for k, v in wrong.items()) or words))
    return report + (_limits() if report[0][1] == "pass" else [])


def _limits() -> list[tuple[str, str, str]]:
    """Test what every worker gives up or is limited in: privileges, memory, time, output."""
    with Sandbox(1, 0.3, layers=[]) as box:
        memory = box.run(Job(f"result = len(bytearray({box.memory_mb} << 20))"))
        loop, sleep = box.run(Job("while True: pass")), box.run(Job("import time\ntime.sleep(60)"))
        flood = box.run(Job("print('x' * 10**6)\nresult = 1"))
        status = Path(f"/proc/{next(iter(box.processes)).pid}/status").read_text().split("\n")
    held = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    tests = [
        ("no_new_privs", held.get("NoNewPrivs") == "1", "no program gives privileges back"),
        ("capabilities", int(held.get("CapEff", "1"), 16) == 0, "none is left, also as root"),
        ("memory", str(memory.error).startswith("MemoryError"), f"ends at {box.memory_mb} MiB"),
        ("time", all("timed out" in str(e.error) for e in (loop, sleep)), "ends a loop and a sleep"),
        ("output", len(flood.stdout) == worker.MAX_STDOUT, f"is cut at {worker.MAX_STDOUT:,} characters"),
    ]
    return [(name, "pass" if ok else "FAIL", words) for name, ok, words in tests]
